"""Weighing objects in bulk, by loops that run in C, and finding what they lead to; no attribute of any is used."""

from __future__ import annotations

from gc import get_referents
from itertools import chain, compress
from sys import getrefcount, getsizeof
from typing import TYPE_CHECKING, Any, Final, cast

from memguard.sizing.dice import picked
from memguard.sizing.foreign import Elements, Trait, shallow, trait_of, values_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["ALONE", "BLOCKS", "EXACT_SIZED", "HEADER", "LEAVES", "LEVEL", "SIZED", "Scales", "is_nothing"]

ALONE: Final = next(map(getrefcount, [object()])) + 1
"""What getrefcount, called by map, says of an object that one container and one list of ours hold."""

BLOCKS: Final = 30
"""The rank of blocks outside of Python's heap, of which nobody knows how many objects refer to them."""

LEVEL: Final = 40
"""What a level costs beside its objects, in objects: some 5 us."""

# CPython 3.12 and later: reference counts from here on mean for ever (PEP 683).
_IMMORTAL: Final = 1 << 29
# Keys of dicts are mostly the same ones again: in samples, those of every eighth dict tell.
_KEYS_STEP: Final = 8
# Up to so many types, a pass for each is cheaper than one for all.
_KINDS: Final = 4
# Referents of an object whose type tells no length.
_GUESS: Final = 6

_DICT: Final = frozenset({dict})
_SEQS: Final = frozenset({list, tuple, set, frozenset})
EXACT_SIZED: Final = _DICT | _SEQS
"""The builtin containers, of which no subclass can say otherwise."""

HEADER: Final = getsizeof([]) - [].__sizeof__()
"""What the garbage collector adds to a container, in bytes."""

SIZED: Final[dict[type, Callable[[Any], int]]] = {
    dict: dict.__sizeof__,
    list: list.__sizeof__,
    tuple: tuple.__sizeof__,
    set: set.__sizeof__,
    frozenset: frozenset.__sizeof__,
}
"""What a builtin container takes, without the header; several times faster than getsizeof."""

LEAVES: Final[dict[type, Callable[[Any], int]]] = {
    str: str.__sizeof__,
    float: float.__sizeof__,
    int: int.__sizeof__,
    bytes: bytes.__sizeof__,
}
"""What plain values take that lead to nothing."""

# Of a dict underneath what a subclass makes of it.
_KEYS: Final = cast("Any", dict).keys
_VALUES: Final = cast("Any", dict).values


class Scales:
    """What was counted on one walk.

    ``left`` of the budget, after so many ``levels``. ``seen`` are the ids of shared objects that count already;
    ``met`` those that were met in samples, by the order of magnitude of their reference counts, and ``times`` how
    often; ``refs`` how many references of that magnitude there are in all as far as samples tell, each object looked
    at standing for ``weight``. ``owned`` are ids of dicts that instances hold.
    """

    __slots__ = ("left", "levels", "met", "owned", "refs", "sampling", "seen", "times", "traits", "weight")

    def __init__(self, budget: int) -> None:
        self.left: int = budget
        self.levels: int = 0
        self.sampling: bool = False
        self.weight: float = 1.0
        self.seen: set[int] = set()
        self.owned: set[int] = set()
        self.met: dict[int, dict[int, Any]] = {}
        self.times: dict[int, int] = {}
        self.refs: dict[int, float] = {}
        self.traits: dict[type, Trait] = {}

    # --- bytes ----------------------------------------------------------------------------------------------------

    def weigh(self, flat: Sequence[Any], held: int = ALONE) -> tuple[float, list[Any]]:
        """Bytes of referents, without what is shared and counts already; and those that lead to others.

        ``held`` is what getrefcount says of one that nobody else holds.
        """
        self.left -= len(flat)
        counts = list(map(getrefcount, flat))
        if not counts or max(counts) <= held:
            return self.plain(flat)
        if min(counts) > held:
            return self.shared(flat, counts, held)
        more = [count > held for count in counts]
        size, below = self.shared(list(compress(flat, more)), list(compress(counts, more)), held)
        alone, inner = self.plain([thing for thing, more_hold in zip(flat, more, strict=True) if not more_hold])
        return alone + size, inner + below

    def shared(self, flat: Sequence[Any], counts: Sequence[int], held: int) -> tuple[float, list[Any]]:
        """The same of referents that all have such reference counts, more than ``held``; in samples they are met."""
        if self.sampling:
            self._meet(flat, counts, held)
            return 0.0, []
        self.left -= len(flat)
        if max(counts) >= _IMMORTAL:
            flat = list(compress(flat, map(_IMMORTAL.__gt__, counts)))
        seen, fresh = self.seen, list[Any]()
        for key, thing in dict(zip(map(id, flat), flat, strict=True)).items():
            if key not in seen and not is_nothing(thing):
                seen.add(key)
                fresh.append(thing)
        return self.plain(fresh)

    def _meet(self, flat: Sequence[Any], counts: Sequence[int], held: int) -> None:
        """Remember what came up in a sample, by the magnitude of its reference count."""
        self.left -= len(flat)
        kinds = set(counts)
        ranks = {count: (count - held + 1).bit_length() for count in kinds if count < _IMMORTAL}
        for rank in set(ranks.values()):
            things = flat
            if len(kinds) > 1:
                things = list(compress(flat, [ranks.get(count) == rank for count in counts]))
            self._met(rank, dict(zip(map(id, things), things, strict=True)), len(things))

    def _met(self, rank: int, found: dict[int, Any], times: int) -> None:
        self.met.setdefault(rank, {}).update(found)
        self.times[rank] = self.times.get(rank, 0) + times
        self.refs[rank] = self.refs.get(rank, 0.0) + self.weight * times

    def plain(self, flat: Sequence[Any]) -> tuple[float, list[Any]]:
        """Bytes of objects, each of which counts, and those that lead to others."""
        if not flat:
            return 0.0, []
        size, inner = 0.0, list[Any]()
        kinds = set(map(type, flat))
        for kind, some in ((kind, flat) for kind in kinds) if len(kinds) == 1 else _by_type(flat, kinds):
            leaf = LEAVES.get(kind)
            if leaf is not None:
                size += sum(map(leaf, some))
            elif kind in EXACT_SIZED:
                size += sum(map(SIZED[kind], some)) + HEADER * len(some)
                inner += filter(None, some)
            elif kind is Elements:
                inner += some
            else:
                more, below = self._other(kind, some)
                size += more
                inner += below
        return size, inner

    def trait(self, kind: type) -> Trait:
        """How instances of a type are measured."""
        trait = self.traits.get(kind)
        if trait is None:
            trait = self.traits[kind] = trait_of(kind)
        return trait

    def _other(self, kind: type, some: Sequence[Any]) -> tuple[float, Sequence[Any]]:
        trait = self.trait(kind)
        if not trait.counts:
            return 0.0, ()
        if trait.read is not None:
            return self._read(trait, some)
        try:
            size = sum(map(getsizeof, some))
        except Exception:  # noqa: BLE001 - a __sizeof__ that raises or lies: one by one
            size = sum(map(shallow, some))
        if not trait.inner:
            return size, ()
        return size if trait.sized is not None else size + values_bytes(some), some

    def _read(self, trait: Trait, some: Sequence[Any]) -> tuple[float, Sequence[Any]]:
        size, behind = 0.0, list[Any]()
        self.left -= _GUESS * len(some)
        for thing in some:
            try:
                own, blocks, others = cast("Any", trait.read)(thing)
            except Exception:  # noqa: BLE001 - a library that is not as we know it
                size += shallow(thing)
                continue
            size += own
            behind += others
            for address, length in blocks:
                if ~address in self.seen:
                    continue
                if self.sampling:
                    self._met(BLOCKS, {~address: length}, 1)
                else:
                    self.seen.add(~address)
                    size += length
        others = None  # it would count as a reference
        if not behind:
            return size, ()
        more, below = self.weigh(behind)
        return size + more, below

    # --- referents ------------------------------------------------------------------------------------------------

    def widths(self, containers: Sequence[Any]) -> list[int]:
        """How many referents each container has, as far as its type tells; of a dict the values."""
        if EXACT_SIZED.issuperset(map(type, containers)):
            return list(map(len, containers))
        return [self._width(one) for one in containers]

    def _width(self, one: object) -> int:
        kind = type(one)
        if kind in EXACT_SIZED or kind is Elements:
            return len(cast("Any", one))
        sized: Any = self.traits[kind].sized
        return _GUESS if sized is None else sized.__len__(one) + _GUESS

    def spread(self, containers: list[Any], most: float) -> tuple[list[Any], list[Any], float, float]:
        """Referents, keys apart, for how many each stands, and the bytes of keys, where a few stood for all of them."""
        self.left -= LEVEL
        self.levels += 1
        dicts, flat, keys, keys_bytes = containers, list[Any](), list[Any](), 0.0
        if not _DICT.issuperset(map(type, containers)):
            dicts = list[Any](filter(_is_dict, containers))
            flat = get_referents(*[one for one in containers if type(one) in _SEQS])
            flat += self._others([one for one in containers if type(one) not in EXACT_SIZED])
        if dicts:
            try:
                flat += list(chain.from_iterable(map(_VALUES, dicts)))
                keys_bytes, keys = self._keys(dicts)
            except RuntimeError:  # another thread changed one
                flat += get_referents(*dicts)
        if len(flat) + len(keys) <= most:
            return flat, keys, 1.0, keys_bytes
        flat += keys
        some = picked(flat, int(most))
        return some, [], len(flat) / len(some), keys_bytes

    def _others(self, others: Sequence[Any]) -> list[Any]:
        flat: list[Any] = []
        real = [one for one in others if type(one) is not Elements]
        for one in others:
            if type(one) is Elements:
                flat += one[:]
            elif self.traits[type(one)].sized is dict:
                try:
                    keys = list(_KEYS(one))
                except RuntimeError:  # another thread changed it
                    continue
                if {str}.issuperset(map(type, keys)):  # keys of other kinds are among the referents
                    flat += keys
        found = get_referents(*real)
        self.owned.update(map(id, filter(_is_dict, found)))
        return flat + found

    def _keys(self, dicts: list[Any]) -> tuple[float, list[Any]]:
        """Keys, or their bytes where those of a few dicts stand for all."""
        own = list[Any]()
        if self.owned:
            # The names of attributes: the code that uses them holds them too.
            own = list(chain.from_iterable([one for one in dicts if id(one) in self.owned]))
            own = list(compress(own, map(ALONE.__ge__, list(map(getrefcount, own)))))
            dicts = [one for one in dicts if id(one) not in self.owned]
        step = min(_KEYS_STEP, 1 + len(dicts) // 2) if self.sampling else 1
        some = dicts[::step]
        keys = list(chain.from_iterable(some))
        if step == 1:
            return 0.0, own + keys
        if not {str}.issuperset(map(type, keys)):
            return 0.0, own + list(chain.from_iterable(dicts))
        before, scale = self.weight, len(dicts) / len(some)
        self.weight *= scale
        size, _ = self.weigh(keys)
        self.weight = before
        return scale * size, own


def _is_dict(thing: object) -> bool:
    return type(thing) is dict


def is_nothing(thing: object) -> bool:
    """Whether the interpreter keeps it anyway: small integers, single characters, the empty tuple."""
    kind, value = type(thing), cast("Any", thing)
    if kind is int:
        return -6 < value < 257  # type: ignore[no-any-return]  # noqa: PLR2004
    if kind is str or kind is bytes:
        return len(value) < 2  # noqa: PLR2004
    return kind is tuple and not value


def _by_type(flat: Sequence[Any], kinds: set[type]) -> Iterable[tuple[type, list[Any]]]:
    if len(kinds) <= _KINDS:
        return [(kind, [thing for thing in flat if type(thing) is kind]) for kind in kinds]
    found: dict[type, list[Any]] = {kind: [] for kind in kinds}
    for thing in flat:
        found[type(thing)].append(thing)
    return found.items()
