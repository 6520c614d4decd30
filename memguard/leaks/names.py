"""Names of types, keys and members, read through C descriptors: nothing that an object or its class defines is run.

A hostile ``__class__``, ``__repr__``, ``__eq__``, ``__hash__`` or ``__getattr__`` (on the object, its class or its
metaclass) is never called. Texts are exact ``str``, short, and never the contents of an object.
"""

from __future__ import annotations

from types import GetSetDescriptorType, MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "attribute",
    "class_dict",
    "instance_dict",
    "key_text",
    "module_dict",
    "mro",
    "plain_text",
    "slots_of",
    "type_name",
]

_QUALNAME: Final[Any] = type.__dict__["__qualname__"].__get__
_MODULE: Final[Any] = type.__dict__["__module__"].__get__
_MRO: Final[Any] = type.__dict__["__mro__"].__get__
_DICT: Final[Any] = type.__dict__["__dict__"].__get__
_MODULE_DICT: Final[Any] = type.__dict__["__dict__"].__get__(ModuleType)["__dict__"].__get__
_MEMBER: Final[Any] = type(type.__dict__["__basicsize__"])
# Longer keys say no more about the place, and more about the contents.
_LONGEST: Final = 40
# By id: a class may define what its own hash and equality are.
_PLAIN: Final = frozenset({id(int), id(bool), id(type(None))})


def plain_text(text: object, longest: int = 200) -> str:
    """An exact, printable and short ``str`` of what should be one; "?" of anything else."""
    if not issubclass(type(text), str):
        return "?"
    exact = str.__str__(text)
    if len(exact) > longest:
        exact = exact[: longest - 1] + "…"
    return exact if exact.isprintable() else "".join(mark if mark.isprintable() else "·" for mark in exact)


def type_name(kind: type) -> str:
    """A class as ``module.qualname``; builtins without their module."""
    name = plain_text(_QUALNAME(kind))
    try:
        home = plain_text(_MODULE(kind))
    except AttributeError:  # a class that was made without a module
        return name
    return name if home == "builtins" else f"{home}.{name}"


def mro(kind: type) -> tuple[type, ...]:
    """A class and its bases, in order."""
    bases: tuple[type, ...] = _MRO(kind)
    return bases


def class_dict(kind: type) -> Mapping[str, Any]:
    """A class's own namespace, as it is."""
    found: Mapping[str, Any] = _DICT(kind)
    return found if type(found) is MappingProxyType else {}


def module_dict(module: object) -> dict[str, Any] | None:
    """A module's namespace; None when it is no module."""
    if not issubclass(type(module), ModuleType):
        return None
    found: dict[str, Any] | None = _MODULE_DICT(module)
    return found


def instance_dict(thing: object) -> dict[Any, Any] | None:
    """An instance's own attributes; None without. CPython makes the dict on demand: for a few objects only."""
    for base in mro(type(thing)):
        descriptor: Any = class_dict(base).get("__dict__")
        if type(descriptor) is GetSetDescriptorType or type(descriptor) is _MEMBER:
            try:
                found = descriptor.__get__(thing)
            except Exception:  # noqa: BLE001 - an object that is only half there
                return None
            return found if issubclass(type(found), dict) else None
    return None


def attribute(thing: object, name: str) -> Any:  # noqa: ANN401 - whatever it is
    """An instance's own attribute; None without. The namespace may be of a class that lies, too."""
    names = instance_dict(thing)
    return None if names is None else dict.get(names, name)


def slots_of(thing: object) -> dict[str, object]:
    """What the slots and C members of an instance hold, by name; those that refer to something."""
    found: dict[str, object] = {}
    for base in mro(type(thing)):
        for name, descriptor in class_dict(base).items():
            if type(descriptor) is _MEMBER or (type(descriptor) is GetSetDescriptorType and name in _GETSETS):
                try:
                    found.setdefault(plain_text(name), descriptor.__get__(thing))
                except Exception:  # noqa: BLE001, S112 - an empty slot
                    continue
    return found


# Computed attributes of builtin types that hand out what the object holds; others may do anything.
_GETSETS: Final = frozenset({
    "__traceback__", "__context__", "__cause__", "args", "__closure__", "__defaults__", "__kwdefaults__", "__self__",
    "__func__", "__wrapped__", "f_back", "tb_frame", "tb_next", "cell_contents", "func", "keywords", "__callback__",
})  # fmt: skip


def key_text(key: object, *, redact: bool = False) -> str:
    """A mapping's key for people: text and numbers as they are, others by their type; "…" when redacted."""
    if redact:
        return "…"
    kind = type(key)
    if kind is str:
        return repr(plain_text(key, _LONGEST))
    if id(kind) in _PLAIN:
        return plain_text(repr(key), _LONGEST)
    return f"<{type_name(kind)}>"
