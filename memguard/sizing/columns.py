"""Weighing plain data by columns: what lies at one place of many containers, each looked at as often as it varies.

Lists of records hold values of a kind at each place (a key; the elements of the list below that key). A few of each
place tell its mean and its spread. Containers are then followed for many records: they are found cheaply, and how many
there are is most of what varies. Leaves are weighed where they vary enough to matter: as many as make the error of
all together small for the least work (Neyman's allocation in several stages: Cochran, Sampling Techniques, ch. 5, 11).
"""

from __future__ import annotations

from collections import deque
from gc import get_referents
from itertools import chain, compress
from operator import itemgetter, truediv
from sys import getrefcount, getsizeof
from typing import TYPE_CHECKING, Any, Final, cast

from memguard.sizing.dice import OFTEN, Deck, mixed
from memguard.sizing.foreign import shallow, values_bytes
from memguard.sizing.places import NONE, Column, Place, Stratum, joined
from memguard.sizing.scales import ALONE, EXACT_SIZED, HEADER, LEAVES, LEVEL, SIZED, Scales

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Survey"]

# Units that a place is judged by: their names and types are taken for all there are.
_PILOT: Final = 32
# Half as many where there are more places than these: they lie deep, and each tells little.
_FEW: Final = 24
# Strings may have any length: of fewer than so many, one in a hundred that is large is missed too often.
_ENOUGH: Final = 512
# ... unless none is longer than names and words are, in bytes.
_SHORT: Final = 112
# Of the budget, what goes to finding the containers below one level; half as dear as to weigh them.
_LEVEL_SHARE: Final = 10
# Containers that are at every unit vary little by how many there are: one of so many units is enough.
_EVEN_SHARE: Final = 3
# Past the budget, what was found is still opened, but only so many of each.
_LEAST: Final = 8
# Elements of containers that are picked up at once, to choose from: 10 ns each.
_POOL: Final = 8192
# Dicts that tell what keys weigh: mostly the same again, and then there are no others (OFTEN).
_KEYS_OF: Final = 5
# Keys that so many hold are the same few everywhere: each holder counts its part of them.
_CROWD: Final = 256
_KINDS: Final = 4  # types of instances that are told apart at one place
# More names than these in all, or than so many times those of one dict: no records but tables, whose values are alike.
_NAMES: Final = 48
_NAMES_RATIO: Final = 4
# The standard error at which a size is good enough, as a part of it: half of what is promised (5 %), so two sigma.
_GOOD_RATIO: Final = 0.025
# What is shared and came up less often than this is no number to scale.
_AGAIN: Final = 3
# Rounds of looking closer at what varies: the second knows better how much it does.
_ROUNDS: Final = 2
# What the second is spared for: a tenth more error than was aimed at, squared.
_NEARLY: Final = 1.2
# Different places at most: beyond, what lies below is sampled as a whole.
_PLACES: Final = 160

_LONG: Final = frozenset({str, bytes})
_STR: Final = frozenset({str})
_SEQS: Final = frozenset[Any]({list, tuple, set, frozenset})
_VALUES: Final = cast("Any", dict).values


class Survey:
    """One survey of containers with all below them: ``bytes``, the square of their standard error, and what is left.

    ``left_over`` are objects that are no plain data, and for how many of them they stand: they are not counted.
    """

    def __init__(self, walk: Scales) -> None:
        self._walk = walk
        self._budget = walk.left
        self._todo: deque[Stratum] = deque()
        self._strata: list[Stratum] = []
        self._places: list[Place] = []
        self.left_over: list[tuple[list[Any], float]] = []
        self.cut: bool = False
        self._columns: list[Column] = []
        self._keys_bytes = 0.0
        self._pilot = _PILOT
        walk.sampling = True

    @property
    def _most(self) -> int:
        return 2 * self._walk.left // _LEVEL_SHARE

    def containers(self, units: list[Any]) -> None:
        """Count what lies below builtin containers; their own bytes count already."""
        kinds = set(map(type, units))
        for group in (kinds & _SEQS, *({kind} for kind in kinds - _SEQS)):
            if group:
                some = units if len(group) == len(kinds) else [one for one in units if type(one) in group]
                self._open(Stratum(mixed(some), len(some)), own=False)

    def elements(self, units: list[Any], population: float, deck: Deck | None = None) -> None:
        """Count elements of one wide container, in an order whose beginning is a sample; ``deck`` gives more of them.

        Nothing else may hold them but that container.
        """
        stratum = Stratum([], population)
        self._strata.append(stratum)
        place = Place(units, population)
        place.deck = deck
        self._place(stratum, place)

    def close(self) -> tuple[float, float]:
        """Bytes, and the square of their standard error."""
        self._deepen()
        self._lengths()
        for rounds in range(_ROUNDS, -1, -1):
            self._deepen()
            total, error2, open_ = self._sums()
            wanted = (_GOOD_RATIO * total) ** 2 * (1.0 if rounds == _ROUNDS else _NEARLY)
            if not rounds or self._walk.left <= 0 or error2 <= wanted or not self._closer(open_, error2, wanted):
                break
        self._walk.sampling = False
        refs = self._walk.refs
        for place in self._places:
            if place.below:
                place.below = ()  # or they hold each other
            if place.key is None:
                place.units, place.deck = NONE, None  # what is left over would count as referred to once more
            for rank, times in (place.refs or {}).items():
                refs[rank] = refs.get(rank, 0.0) + times * place.population / place.done
        return total, error2

    def _sums(self) -> tuple[float, float, list[tuple[Place, float, float]]]:
        """Bytes, the square of their error, and the places it comes from: what varies there, and what that leaves."""
        total, error2 = self._keys_bytes, 0.0
        open_ = list[tuple[Place, float, float]]()
        for place in self._places:
            if place.bytes:
                total += place.population * place.bytes / place.done
                spread, leaves = place.spread()
                if leaves:
                    error2 += leaves
                    open_.append((place, spread, leaves))
        for stratum in self._strata:
            if stratum.followed < stratum.population:
                error2 += stratum.error2()
        return total, error2, open_

    def doubtful(self, met: dict[int, dict[int, Any]], times: dict[int, int]) -> bool:
        """Whether much is shared that hardly came up twice, or instances of one type differ in what they have.

        Who shares lies together, and samples of ours do not.
        """
        if any(column.uneven for column in self._columns):
            return True
        shared = {rank for place in self._places if place.refs and place.done < place.population for rank in place.refs}
        return any(times[rank] > _LEAST and _AGAIN * len(met[rank]) > times[rank] for rank in shared)

    # --- closer ---------------------------------------------------------------------------------------------------

    def _lengths(self) -> None:
        """More of what pilots may mislead about: strings of any length, and things that are shared."""
        met, times = self._walk.met, self._walk.times
        places = [
            place
            for place in self._places
            if place.long or (place.refs and any(times[rank] < OFTEN * len(met[rank]) for rank in place.refs))
        ]
        if places:
            enough = min(_ENOUGH, self._walk.left // 2 // len(places))
            for place in places:
                self._more(place, enough)

    def _closer(self, open_: list[tuple[Place, float, float]], error2: float, wanted: float) -> bool:
        """Look at as many more of each place as make the error good, or as the budget allows; whether there are any."""
        fixed = error2 - sum([leaves for _, _, leaves in open_])
        rate = sum([spread for _, spread, _ in open_]) / max(wanted - fixed, wanted / 4)
        more = list[tuple[Place, int]]()
        for place, spread, _ in open_:
            count = int(place.population / (1 + place.population / (spread * rate))) + 1
            if count > place.done and (place.more or self._fetch(place, count)):
                more.append((place, count - place.done))
        afford = min(1.0, self._walk.left / max(1, sum([count for _, count in more])))
        for place, count in more:
            self._more(place, place.done + int(count * afford))
        return bool(more)

    def _fetch(self, place: Place, count: int) -> bool:
        """Find more units of a place, where all that lies at their own place are such."""
        source = place.source
        if source is None or not source.more or len(place.units) != source.done:
            return False
        self._follow(source, count)
        return True

    def _more(self, place: Place, most: int) -> None:
        if most > place.done:
            self._take(place, most)
            if place.inner:
                self._descend(place)

    # --- down -----------------------------------------------------------------------------------------------------

    def _deepen(self) -> None:
        while self._todo:
            stratum = self._todo.popleft()
            if len(self._places) > _PLACES or self._walk.left < -self._budget // 2:
                self.left_over.append((stratum.units, stratum.population))
            else:
                self._open(stratum)

    def _open(self, stratum: Stratum, *, own: bool = True) -> None:
        self._strata.append(stratum)
        self._walk.left -= LEVEL // 4
        self._pilot = max(_LEAST, min(_PILOT if len(self._places) < _FEW else _PILOT // 2, self._walk.left // _PILOT))
        units, population, kind = stratum.units, stratum.population, type(stratum.units[0])
        try:
            if kind not in EXACT_SIZED:
                self._open_things(stratum, kind)
            elif max(widths := list(map(len, units[:_PILOT] if kind is dict else units))) > _POOL // 2:
                self.left_over.append((units, population))
                return
            elif kind is not dict:
                self._open_flat(stratum, chain.from_iterable, widths)
            elif not self._open_records(stratum):
                self._open_flat(stratum, lambda some: chain.from_iterable(map(_VALUES, some)), list(map(len, units)))
                keys = mixed(list(chain.from_iterable(units[: stratum.followed])))
                self._place(stratum, Place(keys, population * len(keys) / stratum.followed))
        except RuntimeError:  # another thread changed one
            self.cut = True
        if own:
            place = Place(units, population, ..., stratum.source)
            stratum.places.append(place)
            self._places.append(place)
            self._take(place, self._pilot)

    def _open_records(self, stratum: Stratum) -> bool:
        """Dicts: a place for each name. False when they are no records."""
        units = stratum.units
        shapes = list(map(tuple, units[: self._pilot]))
        keys = list(chain.from_iterable(shapes))
        if not _STR.issuperset(map(type, keys)):
            return False
        names = dict.fromkeys(keys)
        if len(names) > min(_NAMES, _NAMES_RATIO * len(keys) / len(shapes)):
            return False
        stratum.shapes = shapes
        places = [Place(units, stratum.population, name, stratum.source) for name in names]
        for place in places:
            self._take(place, self._pilot)
        stratum.places += places
        self._places += places
        opened = [place for place in places if place.inner]
        varying = [place for place in opened if place.found < place.done or place.seqs]
        most = self._most * _EVEN_SHARE // max(1, (_EVEN_SHARE - 1) * len(varying) + len(opened))
        stratum.followed = min(len(units), max(self._pilot, most))
        for place in opened:
            self._follow(place, stratum.followed if place in varying or not varying else most // _EVEN_SHARE)
        keys = list(chain.from_iterable(units[-_KEYS_OF:]))
        each = stratum.population / min(_KEYS_OF, len(units))
        counts = list(map(getrefcount, keys))
        if keys and min(counts) > _CROWD:
            self._keys_bytes += each * sum(map(truediv, map(str.__sizeof__, keys), counts))
        elif keys:
            self._place(stratum, Place(keys, each * len(keys)))
        return True

    def _open_things(self, stratum: Stratum, kind: type) -> None:
        """Instances of one type: a place for each of what one refers to, in the order in which the type tells it."""
        units = stratum.units
        own = [one is kind for one in get_referents(units[0])]  # what a type says of itself is nobody's
        some = units[: self._pilot]
        if len(own) > _POOL // 2:
            self.left_over.append((units, stratum.population))
            return
        if len(own) > _NAMES or len(get_referents(*some)) != len(own) * len(some):
            self._open_flat(stratum, lambda some: get_referents(*some), [len(get_referents(one)) for one in units])
            return
        for column, nothing in enumerate(own):
            if not nothing:
                place = Place([], stratum.population)
                place.deck = Column(units, column, len(own))
                self._columns.append(place.deck)
                self._place(stratum, place)

    def _open_flat(
        self, stratum: Stratum, flatten: Callable[[Iterable[Any]], Iterable[Any]], widths: list[int]
    ) -> None:
        """Sequences, or dicts that are tables: one place for all elements."""
        units = stratum.units
        stratum.followed = max(1, min(len(units), len(units) * _POOL // max(1, sum(widths))))
        stratum.shapes = widths[: stratum.followed]
        flat = list(flatten(units[: stratum.followed]))
        place = Place([], stratum.population * len(flat) / stratum.followed)
        place.deck, place.ours = Deck(flat, len(flat) // stratum.followed), 1
        del flat
        self._place(stratum, place)

    def _place(self, stratum: Stratum, place: Place) -> None:
        stratum.places.append(place)
        self._places.append(place)
        self._take(place, self._pilot)
        if place.inner:  # their number is known: more are fetched where what is below varies
            self._follow(place, min(self._most, _ENOUGH + _PILOT))

    def _follow(self, place: Place, most: int) -> None:
        if most > place.done:
            before = place.done
            self._take(place, most)
            self._walk.left += (place.done - before) // 2  # half as dear as to weigh them
        self._descend(place)

    # --- looking --------------------------------------------------------------------------------------------------

    def _take(self, place: Place, most: int) -> None:
        """Look at more units of a place."""
        if place.deck is not None and most > len(place.units):
            place.units += place.deck.draw(most - len(place.units))
        part = place.units[place.done : most] if most < len(place.units) or place.done else place.units[:]
        if not part:
            return
        place.done += len(part)
        self._walk.left -= len(part)
        if place.key is ...:
            place.add(_own_bytes(part))
            return
        held = ALONE
        if place.key is None:
            held, values = ALONE + 1 + place.ours, part
        else:
            values = self._looked_up(part, place.key)
        del part
        place.found += len(values)
        self._sort(place, values, held)

    def _looked_up(self, dicts: list[Any], name: object) -> list[Any]:
        """What dicts hold at a name, which is a str: only a key with the hash of that very str could be asked."""
        try:
            return list(map(itemgetter(name), dicts))
        except KeyError:
            try:
                return [one[name] for one in dicts if name in one]
            except Exception:  # noqa: BLE001, S110 - such a key, or another thread took it out
                pass
        except Exception:  # noqa: BLE001 - such a key
            self.cut = True
        return []

    def _sort(self, place: Place, values: list[Any], held: int) -> None:
        walk = self._walk
        counts = list(map(getrefcount, values))
        if counts.count(held) < len(counts):
            more = list(map(held.__lt__, counts))
            refs, walk.refs = walk.refs, place.refs or {}
            walk.shared(list(compress(values, more)), list(compress(counts, more)), held)
            place.refs, walk.refs = walk.refs, refs
            values = list(compress(values, map(held.__ge__, counts)))
        if not values:
            return
        types = list(map(type, values))
        alike = types.count(types[0]) == len(types)  # mostly; a set is twice as dear
        for kind in types[:1] if alike else set(types):
            some = values if alike else [value for value in values if type(value) is kind]
            leaf = LEAVES.get(kind)
            if leaf is not None:
                sizes = list(map(leaf, some))
                place.long = place.long or (kind in _LONG and max(sizes) > _SHORT)
                place.add(sizes)
            elif kind is dict:
                place.dicts = joined(place.dicts, some)
            elif kind in EXACT_SIZED:
                place.seqs = joined(place.seqs, some)
            elif walk.trait(kind).plain and (kind in place.things or len(place.things) < _KINDS):
                place.things = {**place.things, kind: joined(place.things.get(kind, NONE), some)}
            elif walk.trait(kind).counts:
                place.odd = joined(place.odd, some)

    def _descend(self, place: Place) -> None:
        """Let what was found at a place be opened: it stands for what lies at that place everywhere."""
        each = place.population / place.done
        for kind, some in ((dict, place.dicts), (list, place.seqs), *place.things.items()):
            if some and kind not in place.opened:
                place.opened = (*place.opened, kind)
                stratum = Stratum(some, each * len(some), place)
                place.below = (*place.below, stratum)
                self._todo.append(stratum)
        if place.odd and object not in place.opened:
            place.opened = (*place.opened, object)
            self.left_over.append((place.odd, each * len(place.odd)))


def _own_bytes(units: list[Any]) -> list[int]:
    """What the containers themselves take; all are dicts, or none is."""
    kinds = set(map(type, units))
    kind = kinds.pop()
    if kinds:
        return list(map(getsizeof, units))
    if kind not in EXACT_SIZED:
        array_bytes = values_bytes(units) // len(units)
        return [shallow(one) + array_bytes for one in units]
    return list(map(HEADER.__add__, map(SIZED[kind], units)))
