"""Instances: how a method's cache knows whose results are whose, and keeps nobody alive.

Instances count by identity: they need not be hashable, equal ones do not share, and what is cached for one goes when
it dies. So they have to be weakly referable. Values that are not (named tuples, numbers, slotted frozen dataclasses)
count by equality, as arguments do.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from types import FunctionType

    from memguard.caching.entry import Entry
    from memguard.caching.store import Store

__all__ = ["MADE_BY_STATEMENT", "Binding", "Instances", "Owner", "Value"]

MADE_BY_STATEMENT: Final = 1 << 9
"""Py_TPFLAGS_HEAPTYPE: the flag of classes made by a class statement. No other holds a function of ours."""

# Wrappers around wrappers that are followed to find ours; objects that answer to any attribute would go on for ever.
_DEEPEST = 16
# Classes remembered as not using the function as their method.
_STRANGERS = 512


class Owner(weakref.ref[Any]):
    """An instance in the keys of a store, compared by identity; ``table`` holds its entries by the rest of the key."""

    __slots__ = ("ident", "table")

    ident: int
    table: dict[Any, Entry]

    if not TYPE_CHECKING:
        __eq__ = object.__eq__
        __ne__ = object.__ne__
        __hash__ = object.__hash__


class Value:
    """A value in the place of an owner: an instance that cannot be weakly referenced and has a hash of its own.

    It is looked up the slow way, and needed only where a class of values has subclasses that can be.
    """

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value: object = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)


def _is_value(kind: Any) -> bool:  # noqa: ANN401 - a type
    return not kind.__weakrefoffset__ and kind.__hash__ is not None and kind.__hash__ is not object.__hash__


class _Table(dict[Any, Any]):
    """A store's table that keeps each owner's table in step; keys are (owner, rest) or (mark, (owner, rest)).

    ``late(key)`` is called for an entry that comes when its owner is dead.
    """

    __slots__ = ("late",)

    def __init__(self, late: Callable[[Any], object]) -> None:
        super().__init__()
        self.late = late

    @staticmethod
    def _part(key: Any) -> tuple[Owner | None, Hashable]:  # noqa: ANN401
        match key:
            case (Owner() as owner, rest):
                return owner, rest
            case (mark, (Owner() as owner, rest)):
                return owner, (mark, rest)
        return None, None  # a value's, or of a call that was under way when the function was found to be a method

    def _enter(self, key: Any, entry: Entry) -> None:  # noqa: ANN401
        owner, rest = self._part(key)
        if owner is not None:
            owner.table[rest] = entry
            if owner() is None:
                self.late(key)

    def __setitem__(self, key: Any, entry: Entry) -> None:  # noqa: ANN401
        super().__setitem__(key, entry)
        self._enter(key, entry)

    def setdefault(self, key: Any, entry: Any = None) -> Any:  # noqa: ANN401
        found = super().setdefault(key, entry)
        if found is entry:
            self._enter(key, entry)
        return found

    def update(self, pairs: Any = (), /, **more: Any) -> None:  # noqa: ANN401
        for key, entry in dict(pairs, **more).items():
            self[key] = entry

    def __delitem__(self, key: Any) -> None:  # noqa: ANN401
        super().__delitem__(key)
        self._drop(key)

    def pop(self, key: Any, *default: Any) -> Any:  # noqa: ANN401
        before = len(self)
        found = super().pop(key, *default)
        if len(self) != before:
            self._drop(key)
        return found

    def popitem(self) -> tuple[Any, Any]:
        key, entry = super().popitem()
        self._drop(key)
        return key, entry

    def clear(self) -> None:
        keys = list(self)
        super().clear()
        for owner, _ in map(self._part, keys):
            if owner is not None:
                owner.table.clear()

    def _drop(self, key: Any) -> None:  # noqa: ANN401
        owner, rest = self._part(key)
        if owner is None:
            return
        try:
            owner.table.pop(rest, None)
        except Exception:  # noqa: BLE001 - a key that raises now: its owner's entries are then found the slow way
            owner.table.clear()


class Instances:
    """Every instance that has entries in a store: ``tables`` by ``id``, until the instance dies."""

    __slots__ = ("__weakref__", "_owners", "_store", "_table", "tables")

    def __init__(self, store: Store) -> None:
        self._store = store
        known = weakref.ref(store)  # which will hold the table

        def late(key: Hashable) -> None:
            if (store := known()) is not None:
                store.pop(key)

        self._table = _Table(late)
        self._owners: dict[int, Owner] = {}
        self.tables: dict[int, dict[Any, Entry]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def adopted(self) -> bool:
        """Whether the store's table keeps those of the owners in step."""
        return self._store.table is self._table

    def adopt(self) -> None:
        """Give the store a table that does so; as one change of the store's."""
        self._store._change(self._swap)  # noqa: SLF001 - one step of its own

    def _swap(self) -> None:
        before = self._store.table
        if before is not self._table:
            self._table.update(before)
            self._store.table = self._table
            before.clear()

    def owner_of(self, instance: object) -> Owner | Value:
        """The instance's owner, the same one as long as it lives.

        Raises:
            TypeError: the instance cannot be weakly referenced.
        """
        ident = id(instance)
        owner = self._owners.get(ident)
        if owner is not None and owner() is instance:
            return owner
        try:
            fresh = Owner(instance, self._gone)
        except TypeError:
            if _is_value(type(instance)):
                return Value(instance)
            kind = type(instance).__qualname__
            raise TypeError(
                f"cached method {self._store.name}: {kind} objects cannot be weakly referenced, so their end would go "
                f"unnoticed: add '__weakref__' to the __slots__ of {kind} (a dataclass: weakref_slot=True), or give "
                f"cached(key=...)"
            ) from None
        fresh.ident, fresh.table = ident, {}
        if owner is not None:  # the id of one that is just being taken down
            self._owners.pop(ident, None)
        owner = self._owners.setdefault(ident, fresh)  # another thread may have been first
        self.tables[ident] = owner.table
        return owner

    def _gone(self, owner: Owner) -> None:
        # At once and by single steps of C: the id may be another's as soon as this returns, whoever holds the lock.
        if self._owners.get(owner.ident) is owner:
            self.tables.pop(owner.ident, None)
            self._owners.pop(owner.ident, None)
        for entry in list(owner.table.values()):
            with suppress(Exception):  # a key that raises now
                self._store.pop(entry.key)


class Binding:
    """Tells whether a function is called as a method: whether a class of its first argument holds it."""

    __slots__ = ("_module", "_name", "_owner", "_strangers", "_wrapper")

    def __init__(self, wrapper: FunctionType) -> None:
        self._wrapper = weakref.ref(wrapper)
        self._module = wrapper.__module__
        self._owner, _, self._name = wrapper.__qualname__.rpartition(".")
        self._strangers: dict[int, weakref.ref[type]] = {}

    def as_method(self, first: object) -> bool:
        """Whether the function is a method of that first argument, which then is ``self``."""
        kind = type(first)
        if not kind.__flags__ & MADE_BY_STATEMENT:
            return False
        known = self._strangers.get(id(kind))
        if known is not None and known() is kind:
            return False
        made = [one for one in kind.__mro__ if one.__flags__ & MADE_BY_STATEMENT]
        if not _is_value(kind) and any(map(self._held_by, made)):
            return True
        if len(self._strangers) >= _STRANGERS:
            self._strangers.clear()
        self._strangers[id(kind)] = weakref.ref(kind)
        return False

    def _held_by(self, kind: type) -> bool:
        if kind.__qualname__ == self._owner and kind.__module__ == self._module:  # even under a decorator that hides it
            named = vars(kind).get(self._name)
            if named is not None and not isinstance(named, (staticmethod, classmethod)):
                return True
        return any(self._under(one) for one in tuple(vars(kind).values()))

    def _under(self, held: Any) -> bool:  # noqa: ANN401 - whatever a class holds
        wrapper = self._wrapper()
        for _ in range(_DEEPEST):
            if held is wrapper:
                return True
            if isinstance(held, property):
                held = held.fget
            elif held is None or isinstance(held, (staticmethod, classmethod, type)):
                return False
            else:
                links: Mapping[str, Any] = getattr(held, "__dict__", {})
                held = links.get("__wrapped__") or links.get("func")
        return False
