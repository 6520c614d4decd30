"""Objects that run amok when anything of theirs is called: an examiner must not."""

from __future__ import annotations

from typing import Any, NoReturn

CALLS: list[str] = []
"""Every method of theirs that was called."""


def _amok(name: str) -> Any:
    def method(*args: object, **options: object) -> NoReturn:
        CALLS.append(name)
        raise RuntimeError(name)

    return method


class Meta(type):
    """A class of classes that must not be asked either."""

    __hash__ = _amok("Meta.__hash__")
    __eq__ = _amok("Meta.__eq__")
    __repr__ = _amok("Meta.__repr__")
    __instancecheck__ = _amok("Meta.__instancecheck__")
    __subclasscheck__ = _amok("Meta.__subclasscheck__")


class Raising:
    """Every special method raises."""

    __repr__ = __str__ = _amok("__repr__")
    __eq__ = _amok("__eq__")
    __hash__ = _amok("__hash__")
    __len__ = _amok("__len__")
    __bool__ = _amok("__bool__")
    __iter__ = _amok("__iter__")
    __sizeof__ = _amok("__sizeof__")
    __getattr__ = _amok("__getattr__")
    __dir__ = _amok("__dir__")

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        CALLS.append("__class__")
        raise RuntimeError("__class__")

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        CALLS.append("__dict__")
        raise RuntimeError("__dict__")


class Lying:
    """It says that it is something else."""

    def __getattribute__(self, name: str) -> Any:
        CALLS.append(f"__getattribute__ {name}")
        return 7

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        CALLS.append("__class__")
        return dict


class Sly(dict[Any, Any]):
    """A dict that lies about itself."""

    __len__ = _amok("Sly.__len__")
    __iter__ = _amok("Sly.__iter__")
    items = _amok("Sly.items")
    keys = _amok("Sly.keys")
    values = _amok("Sly.values")
    __getitem__ = _amok("Sly.__getitem__")


class Text(str):
    """A text that is not to be shown."""

    __slots__ = ()
    __str__ = __repr__ = __format__ = _amok("Text")


def hostile_class() -> Any:
    """A new class whose class runs amok, and whose names are hostile texts."""
    made = type.__call__(Meta, "Amok", (), {})
    type.__setattr__(made, "__qualname__", Text("Amok"))
    return made


def _make(kind: Any) -> Any:
    return object.__new__(kind)


def zoo() -> list[Any]:
    """One of each."""
    return [_make(Raising), _make(Lying), Sly(a=1), _make(hostile_class()), Text("secret")]
