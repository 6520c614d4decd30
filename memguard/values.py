"""Values: frozen, slotted, keyword-only classes, as dataclasses are, without what `dataclasses` brings along.

docs/decisions/0016-values.md has the reason. To the rest of the world they are dataclasses: `dataclasses.fields`,
`replace`, `asdict` and `is_dataclass` take them, and so do type checkers, `copy`, `pickle` and pydantic.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, TypeVar, overload

    from typing_extensions import dataclass_transform

    T = TypeVar("T")
else:
    # Only type checkers want to know.
    dataclass_transform = lambda **_: lambda made: made  # noqa: E731
    overload = lambda made: made  # noqa: E731


__all__ = ["Field", "field", "fields", "is_value", "replace", "value"]

_MISSING: Any = type("Missing", (), {"__slots__": (), "__repr__": lambda _: "<required>"})()


class Field:
    """One field of a value: its name, how it begins, and where it counts."""

    __slots__ = ("compare", "default", "factory", "metadata", "name", "repr")

    def __init__(
        self,
        default: Any,  # noqa: ANN401 - a field's default is of the field's type
        factory: Callable[[], Any] | None,
        metadata: Mapping[str, Any],
        *,
        compare: bool,
        repr: bool,  # noqa: A002 - as dataclasses spell it
    ) -> None:
        self.name: str = ""
        self.default: Any = default
        self.factory: Callable[[], Any] | None = factory
        self.metadata: Mapping[str, Any] = metadata
        self.compare: bool = compare
        self.repr: bool = repr


def field(
    *,
    default: Any = _MISSING,  # noqa: ANN401 - as above
    default_factory: Callable[[], Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    compare: bool = True,
    repr: bool = True,  # noqa: A002 - as above
) -> Any:  # noqa: ANN401 - it stands for a value of any type
    """A field that needs more than a default; the names mean what they mean for dataclasses."""
    return Field(default, default_factory, metadata or {}, compare=compare, repr=repr)


@overload
def value(cls: type[T], /) -> type[T]: ...  # noqa: D103 - below
@overload
def value(*, frozen: bool = True, kw_only: bool = True) -> Callable[[type[T]], type[T]]: ...  # noqa: D103, F811 - too
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def value(cls: Any = None, /, *, frozen: bool = True, kw_only: bool = True) -> Any:  # noqa: ANN401, F811 - see above
    """Make a class of annotated fields a value: slotted, compared and shown by its fields.

    ``frozen=False`` lets fields be assigned, and takes the hash away; ``kw_only=False`` lets them be given by position.
    Values are not inherited from, and use no bare ``super()``, for slots need a class made anew.
    """
    if cls is None:
        return lambda made: _made(made, frozen=frozen, kw_only=kw_only)
    return _made(cls, frozen=frozen, kw_only=kw_only)


def fields(subject: Any, /) -> tuple[Field, ...]:  # noqa: ANN401 - a value or its class
    """The fields of a value or of its class, in the order written."""
    found: tuple[Field, ...] = subject.__value_fields__
    return found


def is_value(subject: object, /) -> bool:
    """Whether that is an instance of a value's class."""
    return hasattr(type(subject), "__value_fields__")


def replace(subject: T, /, **changes: Any) -> T:  # noqa: ANN401 - as dataclasses.replace
    """The same value with some fields changed; its checks run again.

    Raises:
        TypeError: there is no such field.
    """
    cls: Any = type(subject)
    for name in cls.__slots__:
        if name not in changes:
            changes[name] = getattr(subject, name)
    made: T = cls(**changes)
    return made


def _made(cls: type, *, frozen: bool, kw_only: bool) -> type:
    space = dict(cls.__dict__)
    space.pop("__dict__", None)
    space.pop("__weakref__", None)
    found: list[Field] = []
    for name, written in cls.__annotations__.items():
        if str(written).startswith("ClassVar"):
            continue
        given = space.pop(name, _MISSING)
        one = given if isinstance(given, Field) else Field(given, None, {}, compare=True, repr=True)
        one.name = name
        found.append(one)
    names = tuple(one.name for one in found)
    space |= {
        "__slots__": names,
        "__value_fields__": tuple(found),
        "__match_args__": () if kw_only else names,
        "__eq__": _eq,
        "__hash__": _hash if frozen else None,
        "__replace__": replace,
        "__getstate__": _getstate,
        "__setstate__": _setstate,
        "__dataclass_fields__": _AsDataclass("__dataclass_fields__", kw_only=kw_only),
        "__dataclass_params__": _AsDataclass("__dataclass_params__", kw_only=kw_only),
    }
    space.setdefault("__repr__", _repr)
    if frozen:
        space |= {"__setattr__": _setattr, "__delattr__": _delattr}
    made = type(cls)(cls.__name__, cls.__bases__, space)
    made.__qualname__ = cls.__qualname__
    made.__init__ = _init(made, found, kw_only=kw_only, checks="__post_init__" in space)  # type: ignore[misc]
    return made


def _init(cls: type, found: list[Field], *, kw_only: bool, checks: bool) -> Callable[..., None]:
    """Written out and compiled, for it runs on every tick: slots are set by their descriptors."""
    known: dict[str, Any] = {"_missing": _MISSING, "__name__": cls.__module__}
    heads, lines = ["self"], []
    if kw_only and found:
        heads.append("*")
    for one in found:
        name, asked = one.name, one.name
        known[f"_set_{name}"] = cls.__dict__[name].__set__
        if one.factory is not None:
            known[f"_make_{name}"] = one.factory
            heads.append(f"{name}=_missing")
            asked = f"_make_{name}() if {name} is _missing else {name}"
        elif one.default is not _MISSING:
            known[f"_default_{name}"] = one.default
            heads.append(f"{name}=_default_{name}")
        else:
            heads.append(name)
        lines.append(f"    _set_{name}(self, {asked})\n")
    if checks:
        lines.append("    self.__post_init__()\n")
    exec(f"def __init__({', '.join(heads)}):\n{''.join(lines) or '    pass'}", known)  # noqa: S102 - from our own classes
    made: Callable[..., None] = known.pop("__init__")
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__annotations__ = cls.__annotations__
    return made


def _compared(subject: Any) -> Iterator[Any]:  # noqa: ANN401 - a value
    return (getattr(subject, one.name) for one in subject.__value_fields__ if one.compare)


def _eq(self: Any, other: Any) -> Any:  # noqa: ANN401 - methods of any value, until the end of the file
    if type(other) is not type(self):
        return NotImplemented
    return self is other or tuple(_compared(self)) == tuple(_compared(other))


def _hash(self: Any) -> int:  # noqa: ANN401
    return hash(tuple(_compared(self)))


def _repr(self: Any) -> str:  # noqa: ANN401
    shown = (f"{one.name}={getattr(self, one.name)!r}" for one in self.__value_fields__ if one.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _setattr(self: Any, name: str, _: object) -> None:  # noqa: ANN401
    from dataclasses import FrozenInstanceError  # noqa: PLC0415 - rare, and heavy: see the first lines

    raise FrozenInstanceError(f"cannot assign to {name!r} of a {type(self).__name__}: use replace(value, {name}=…)")


def _delattr(self: Any, name: str) -> None:  # noqa: ANN401
    from dataclasses import FrozenInstanceError  # noqa: PLC0415 - as above

    raise FrozenInstanceError(f"cannot delete {name!r} of a {type(self).__name__}")


def _getstate(self: Any) -> list[Any]:  # noqa: ANN401
    return [getattr(self, name) for name in self.__slots__]


def _setstate(self: Any, state: list[Any]) -> None:  # noqa: ANN401
    for name, kept in zip(self.__slots__, state, strict=True):
        object.__setattr__(self, name, kept)


class _AsDataclass:
    """What `dataclasses` looks for in a class, made when somebody asks."""

    __slots__ = ("kw_only", "name")

    def __init__(self, name: str, *, kw_only: bool) -> None:
        self.name, self.kw_only = name, kw_only

    def __get__(self, _: object, owner: type) -> Any:  # noqa: ANN401 - as dataclasses have it
        import dataclasses  # noqa: PLC0415 - as above

        space: dict[str, Any] = {"__annotations__": owner.__annotations__, "__module__": owner.__module__}
        for one in fields(owner):
            start: dict[str, Any] = {} if one.default is _MISSING else {"default": one.default}
            if one.factory is not None:
                start["default_factory"] = one.factory
            space[one.name] = dataclasses.field(compare=one.compare, repr=one.repr, metadata=one.metadata, **start)
        frozen = owner.__dict__.get("__setattr__") is _setattr
        twin: Any = dataclasses.dataclass(frozen=frozen, kw_only=self.kw_only)(type(owner.__name__, (), space))
        for name in ("__dataclass_fields__", "__dataclass_params__"):
            setattr(owner, name, getattr(twin, name))
        return getattr(owner, self.name)
