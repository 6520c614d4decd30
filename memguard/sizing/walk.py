"""A walk over what an object keeps alive: exact while that is cheap, then by samples.

Objects are taken a level at a time; nothing is recursive but the samples, each with a share of the budget.

Where a level is too wide and holds plain data, it is surveyed by columns (columns.py). Of all else random groups are
followed to the bottom, one after another, and stand for all; the spread between the groups gives the error (random
groups: Wolter, Introduction to Variance Estimation, ch. 2).
What is referred to more than once cannot be scaled up so: the ids of those met are kept, and from how often the same
ones were met again follows how many there are.
"""

from __future__ import annotations

from itertools import islice
from math import ceil, inf, sqrt
from typing import TYPE_CHECKING, Any, Final, cast

from memguard.sizing.columns import Survey
from memguard.sizing.dice import Deck, distinct, drawn, picked, prime, restart
from memguard.sizing.foreign import Elements
from memguard.sizing.scales import ALONE, BLOCKS, EXACT_SIZED, LEAVES, LEVEL, Scales, is_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["measure"]

# Random groups, and how many standard deviations hold 95 % by Student's t, for so many groups. More groups would know
# the error better and the size worse: each pays for its levels.
_GROUPS: Final = 6
_TWO_SIGMA: Final = (inf, inf, 12.7, 4.30, 3.18, 2.78, 2.57)
# Units of the first group: they tell what a unit costs.
_PILOT: Final = 8
# A group is at most so many times as large as what went before: what is even can stop early.
_GROWTH: Final = 16
# Groups that differ by less than this agree; but in fewer units than so many a rare large one is missed too often.
_EVEN_RATIO: Final = 0.005
_ENOUGH: Final = 600
# A level of at most this part of what is left of the budget is taken whole.
_WHOLE: Final = 3
# References picked up at once, to choose from: 10 ns each.
_POOL: Final = 8192
# Wide containers of one level that are sampled one by one.
_WIDES: Final = 6
_WIDE: Final = 256
_INDEXED: Final = frozenset[Any]({list, tuple})
_SLICED: Final = frozenset[Any]({list, tuple, Elements})
_TABLE: Final = frozenset[Any]({dict})
# Up to this factor a sample of shared objects is taken for all of them.
_NEARLY: Final = 1.02
# ... of a few, which groups could not tell more about.
_FAIRLY: Final = 1.5
# Elements of a wide container that tell whether all are plain.
_PEEK: Final = 32
_PLAIN: Final = frozenset[type]({*EXACT_SIZED, *LEAVES, bool, type(None)})
# The error is about two sigma.
_SIGMAS: Final = 2**2
# Rounds in which shared objects lead to others that are shared.
_ROUNDS: Final = 4


def measure(roots: list[Any], budget: int) -> tuple[int, int]:
    """Bytes of some objects with all they keep alive, and how far that may be off; visits about ``budget`` objects."""
    walk = _Walk(budget)
    walk.seen.update(map(id, roots))
    size, inner = walk.plain(roots)
    if inner:
        size += walk.follow(inner)
    for _ in range(_ROUNDS):
        if not walk.met:
            break
        walk.left = max(walk.left, budget // _ROUNDS)
        size += walk.settle()
    error = max(size, 1.0) if walk.cut else sqrt(walk.error2)
    return round(size), ceil(error)


class _Walk(Scales):
    """One walk. ``error2`` is the error's square; ``cut`` says that the budget ended before the object did."""

    __slots__ = ("cut", "error2", "shaken", "thinned")

    def __init__(self, budget: int) -> None:
        super().__init__(budget)
        self.error2 = 0.0
        self.cut = self.thinned = self.shaken = False

    def follow(self, containers: list[Any]) -> float:
        """Bytes below containers: level by level, and by samples from where it gets too wide."""
        total = 0.0
        while containers:
            widths = self.widths(containers)
            if sum(widths) > self.left // _WHOLE:
                if self.left <= 0:
                    self.cut = True
                    return total
                return total + self._sample(containers, widths)
            flat, keys, _, _ = self.spread(containers, inf)
            size, containers = self.weigh(flat)
            total += size
            if keys:
                size, below = self.weigh(keys)
                total += size
                containers += below
        return total

    def _sample(self, containers: list[Any], widths: list[int]) -> float:
        """What lies below a level that is too wide."""
        broad = max(_WIDE, self.left // _WHOLE)
        wide = [one for one, width in zip(containers, widths, strict=True) if width > broad]
        if wide and len(wide) <= _WIDES:
            narrow = [one for one, width in zip(containers, widths, strict=True) if width <= broad]
            del containers
            total = self.follow(narrow)
            for number, one in enumerate(wide):
                total += self._wide(one, self.left // (len(wide) - number))
            return total
        kinds = set(map(type, containers))
        if max(widths) <= _POOL // 2 and all(kind in EXACT_SIZED or self.trait(kind).plain for kind in kinds):
            found = self._surveyed(lambda survey: survey.containers(containers), self.left)
            if found is not None:
                return found
        self._shake()
        self.sampling = True
        if max(widths) > _POOL // 2:
            total = self._split(containers, len(containers), self.left, weighed=True)
        else:
            some = picked(containers, ceil(len(containers) / max(1.0, sum(widths) / _POOL)))
            flat, keys, _, keys_bytes = self.spread(some, inf)
            flat += keys
            del keys
            each = len(containers) / len(some)
            del containers
            total = keys_bytes * each + self._split(flat, len(flat) * each, self.left)
        self.sampling = False
        return total

    def _wide(self, one: Any, share: int) -> float:  # noqa: ANN401
        """What the elements of a wide container weigh, with all below them."""
        pool, population = self._pool(one)
        kinds = set(map(type, pool[:: len(pool) // _PEEK + 1]))
        if kinds and (_PLAIN.issuperset(kinds) or all(kind in _PLAIN or self.trait(kind).plain for kind in kinds)):
            if pool is one:
                found = self._surveyed(lambda survey: survey.elements([], population, Deck(one)), share)
            else:
                half = len(pool) // 2 if self._base(one) in _TABLE else len(pool)  # of a dict: keys, then values
                samples = [Deck(pool[begin : begin + half]).draw(share) for begin in range(0, len(pool), half)]
                del pool  # its elements would count as referred to once more
                each = population / len(samples)

                def fill(survey: Survey) -> None:
                    while samples:
                        survey.elements(samples.pop(), each)

                found = self._surveyed(fill, share)
            if found is not None:
                return found
            pool, population = self._pool(one)
        return self._split(pool, population, share, whole=pool is one)

    def _surveyed(self, fill: Callable[[Survey], object], share: int) -> float | None:
        """What a survey tells of plain data; None where it finds things shared that it cannot tell the number of."""
        known = self.met, self.times, self.refs
        self.met, self.times, self.refs = {}, {}, {}
        left, self.left = self.left, share
        survey = Survey(self)
        fill(survey)
        total, error2 = survey.close()
        met, times, refs = self.met, self.times, self.refs
        self.met, self.times, self.refs = known
        if survey.doubtful(met, times):
            self.left = left
            return None
        self.left += left - share
        for rank, found in met.items():
            self.met.setdefault(rank, {}).update(found)
            self.times[rank] = self.times.get(rank, 0) + times[rank]
            self.refs[rank] = self.refs.get(rank, 0.0) + refs[rank]
        del met
        self.error2 += _SIGMAS * error2
        self.cut |= survey.cut
        while survey.left_over:
            units, population = survey.left_over.pop()
            total += self._split(units, population, self.left / (1 + len(survey.left_over)))
        return total

    def _base(self, one: Any) -> Any:  # noqa: ANN401
        """The builtin container underneath."""
        kind = cast("Any", type)(one)
        return kind if kind in EXACT_SIZED or kind is Elements else self.traits[kind].sized

    def _pool(self, one: Any) -> tuple[Any, float]:  # noqa: ANN401
        """Referents of a wide container to choose from, and how many it has."""
        base = self._base(one)
        count: int = base.__len__(one)
        if type(one) in _INDEXED:
            return one, count
        if base in _SLICED:
            step = 1 if count <= _POOL else prime(count // _POOL + 2)
            return base.__getitem__(one, slice(step // 2, None, step)), count
        pool: list[Any] = []
        try:
            if base not in _TABLE:
                pool += islice(base.__iter__(one), _POOL)
                return pool, count
            for view in (cast("Any", dict).keys(one), cast("Any", dict).values(one)):
                pool += islice(view, _POOL // 2)
                if count > _POOL // 2:  # the oldest and the newest
                    pool += islice(reversed(view), min(_POOL // 2, count - _POOL // 2))
        except RuntimeError:  # another thread changed it
            self.cut = True
            return [], 0
        return pool, 2 * count

    def _split(
        self, pool: Sequence[Any], population: float, share: float, *, whole: bool = False, weighed: bool = False
    ) -> float:
        """What a population weighs with all below it, by random groups of a pool of it.

        ``whole``: the pool is the container itself. ``weighed``: the units count already, only what is below does not.
        """
        self._shake()
        held = ALONE if whole else ALONE + 1  # a list of our own is one more that holds them
        refs, self.refs = self.refs, {}
        left, levels = self.left, self.levels
        self.sampling, self.thinned = True, False
        groups, used = list[tuple[float, int]](), set[int]()
        count = max(1, min(_PILOT, len(pool) // _GROUPS))
        while len(used) < len(pool) and len(groups) < _GROUPS:
            new = drawn(len(pool), count, used)
            try:
                size, inner = 0.0, [pool[at] for at in new]
            except IndexError:  # another thread made it shorter
                self.cut = True
                break
            used |= new
            self.left -= len(new)
            if not weighed:
                size, inner = self.weigh(inner, held)
            groups.append((size + self._dive(inner, 2 * share / _GROUPS), len(new)))
            spent, fixed = left - self.left, LEVEL * (self.levels - levels)
            if spent >= share or _agree(groups):
                break
            each = max(1.0, (spent - fixed) / len(used))
            planned = ((share - spent) / max(1, _GROUPS - len(groups)) - fixed / len(groups)) / each
            count = max(1, min(int(planned), _GROWTH * len(used)))
        units = sum(count for _, count in groups)
        for rank, times in self.refs.items():
            refs[rank] = refs.get(rank, 0.0) + times * population / units
        self.refs, self.sampling = refs, False
        return self._mean(groups, population) * population if units else 0.0

    def _shake(self) -> None:
        """Start the dice anew, once in a walk that needs them: 5 us."""
        if not self.shaken:
            self.shaken = True
            restart()

    def _mean(self, groups: list[tuple[float, int]], population: float) -> float:
        """The mean of a unit over random groups (bytes, units), whose spread goes to the error."""
        units = sum(count for _, count in groups)
        mean = sum(size for size, _ in groups) / units
        covered = 0.0 if self.thinned else units / population
        if covered >= 1.0:
            return mean
        if len(groups) == 1:
            self.cut = True
            return mean
        spread = sum(count * (size / count - mean) ** 2 for size, count in groups) / (len(groups) - 1)
        self.error2 += (_TWO_SIGMA[len(groups)] * population) ** 2 * (1 - covered) * spread / units
        return mean

    def _dive(self, containers: list[Any], share: float) -> float:
        """Bytes below containers of a sample, thinned out level by level to what the share allows."""
        total, before = 0.0, self.weight
        while containers:
            if share < -LEVEL * _PILOT or self.left < -LEVEL * _PILOT:
                self.cut = True
                break
            count, most = len(containers), max(_PILOT, int(share / 2))
            if count > most:
                self.thinned = True
                containers = picked(containers, most)
                self.weight *= count / len(containers)
            widths = self.widths(containers)
            if max(widths) > _POOL // 2:
                self.thinned = True
                share /= 2
                total += self._deep([one for one, width in zip(containers, widths, strict=True) if width > most], share)
                containers = [one for one, width in zip(containers, widths, strict=True) if width <= most]
                continue
            flat, keys, step, keys_bytes = self.spread(containers, most)
            flat += keys
            del keys
            self.thinned |= step > 1.0
            total += self.weight * keys_bytes
            self.weight *= step
            size, containers = self.weigh(flat)
            total += self.weight * size
            share -= len(flat) + LEVEL
        total /= before
        self.weight = before
        return total

    def _deep(self, wide: list[Any], share: float) -> float:
        """Weighted bytes below wide containers that came up in a sample: a few of each of a few of them."""
        before, total = self.weight, 0.0
        some = picked(wide, _PILOT)
        for one in some:
            pool, population = self._pool(one)
            flat = picked(pool, max(_PILOT, int(share) // len(some)))
            if flat:
                held = ALONE if pool is one else ALONE + 1
                self.weight = before * len(wide) / len(some) * population / len(flat)
                size, inner = self.weigh(flat, held)
                total += self.weight * (size + self._dive(inner, share / len(some) / 2))
        self.weight = before
        return total

    def settle(self) -> float:
        """Bytes of the shared objects that samples met, and of what lies below them."""
        met, self.met = self.met, {}
        refs, self.refs = self.refs, {}
        times, self.times = self.times, {}
        total = 0.0
        for rank, known in met.items():
            for key in self.seen.intersection(known):
                del known[key]
            if not known:
                continue
            self.seen.update(known)
            again = max(0, times[rank] - len(known))
            there = distinct(len(known), times[rank], refs[rank], 1 << rank)
            scale, often = there / len(known), refs[rank] / there
            if rank == BLOCKS:
                size, inner = float(sum(known.values())), list[Any]()
            else:
                size, inner = self.plain([thing for thing in known.values() if not is_nothing(thing)])
            known.clear()
            size *= scale
            if scale < (_FAIRLY if len(inner) <= _PILOT else _NEARLY):
                size += scale * self.follow(inner)
            elif inner:
                size += self._split(inner, scale * len(inner), self.left, weighed=True)
            if again and scale >= _NEARLY:
                # How often the same ones came up again is a count: its square root is its error.
                self.error2 += (2 * size * (1 - 1 / often)) ** 2 / again
            total += size
        return total


def _agree(groups: list[tuple[float, int]]) -> bool:
    """Whether more groups would tell nothing: many units, and groups that agree."""
    if len(groups) < _GROUPS // 2 or sum(count for _, count in groups) < _ENOUGH:
        return False
    means = [size / count for size, count in groups]
    return max(means) - min(means) <= _EVEN_RATIO * max(means)
