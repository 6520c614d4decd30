"""Evidence: what grows, weighed and sampled while its birthplaces are still known, then who holds it."""

from __future__ import annotations

from itertools import compress
from math import sqrt
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from memguard.findings import Chain, Swelling, TypeGrowth
from memguard.leaks.bounds import bound_of
from memguard.leaks.census import Slices
from memguard.leaks.chains import shortest
from memguard.leaks.names import type_name
from memguard.leaks.retained import weigh
from memguard.leaks.swelling import newest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memguard.findings import Census
    from memguard.leaks.swelling import Grown

    Sites = Callable[[object], Sequence[str]]

__all__ = ["Growing", "Sampled", "Weighed", "growing_types", "sample_types", "swellings", "typical", "weigh_grown"]

# Chains are searched for so many containers, and for so many types that no container explains.
_CONTAINERS: Final = 12
_TYPES: Final = 4
_SAMPLES: Final = 6
# What a container spends on an item itself.
_SLOT_BYTES: Final = 8
# Fewer than that in a window is work under way.
_GROWN_AT_LEAST: Final = 6
# Each half of the window brings a part of the growth: less than a fifth in either is a step, or one that ends.
_STEADY_RATIO: Final = 0.2
# A population that comes and goes by chance varies by the root of its size; three looks alone would not tell.
_SIGMAS: Final = 3.0
# Of which a program always makes and drops many, and which name no cause.
_PARTS: Final = frozenset({
    "list", "dict", "tuple", "set", "cell", "function", "method", "frame", "builtin_function_or_method", "frozenset",
    "weakref.ReferenceType", "_weakref.ReferenceType", "weakref", "getset_descriptor", "property", "coroutine",
    "list_iterator", "traceback", "type",
})  # fmt: skip


class Weighed(NamedTuple):
    """A container that grew, with what its newest items weigh, are, and were made at."""

    grown: Grown
    bytes_each: int
    holds: str
    sites: tuple[str, ...]
    types: frozenset[str]


class Sampled(NamedTuple):
    """Some instances of a type, and where those were made that were made lately."""

    type: str
    some: list[Any]
    sites: tuple[str, ...]


class Growing(NamedTuple):
    """A type that grows and that no container explains: samples were weighed, and their holder looked for."""

    growth: TypeGrowth
    bytes_each: int
    chain: Chain
    sites: tuple[str, ...]
    bound: str


class _Bound:
    """Looks at a chain for what bounds its holder, which has so many items."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.words: str = ""

    def see(self, path: list[Any]) -> None:
        self.words = bound_of(path, self._length)


def steady(first: int, middle: int, last: int) -> bool:
    """Whether growth came in both halves, neither of which is a small part of it."""
    grown = last - first
    halves = (middle - first, last - middle)
    return grown >= _GROWN_AT_LEAST and min(halves) >= _STEADY_RATIO * grown


def typical(before: Census, middle: Census, after: Census) -> tuple[TypeGrowth, ...]:
    """The types that grew in both halves of the window, the most grown first."""
    if not (before.complete and middle.complete and after.complete):
        return ()
    rows = [
        TypeGrowth(type=name, before=before.counts.get(name, 0), after=count)
        for name, count in after.counts.items()
        if steady(before.counts.get(name, 0), middle.counts.get(name, 0), count)
        and count - before.counts.get(name, 0) > _SIGMAS * sqrt(before.counts.get(name, 0))
    ]
    return tuple(sorted(rows, key=lambda row: (-row.grown, row.type)))


def weigh_grown(grown: Sequence[Grown], *, sites_of: Sites) -> list[Weighed]:
    """The containers that grew steadily, weighed by samples, the heaviest growth first."""
    found = list[Weighed]()
    for one in grown:
        if not steady(*one.ends):
            continue
        samples = newest(one.container)
        weight = weigh(samples)
        born = [site for sample in samples for site in sites_of(sample)]
        if one.is_buffer:
            born += sites_of(one.container)
        holds = type_name(type(samples[0])) if samples else ("bytes" if one.is_buffer else "?")
        each = 1 if one.is_buffer else weight.each + _SLOT_BYTES
        found.append(Weighed(one, each, holds, tuple(dict.fromkeys(born)), weight.types))
        samples.clear()
    found.sort(key=lambda one: -one.grown.grown * one.bytes_each)
    return found


def swellings(weighed: list[Weighed], *, redact: bool, chain_s: float) -> tuple[Swelling, ...]:
    """Who holds the heaviest of them."""
    found = list[Swelling]()
    # All of ours, since what grows is often held by something else that grows.
    skip = [weighed, *weighed, *(one.grown for one in weighed)]
    for one in weighed[:_CONTAINERS]:
        container, ends = one.grown.container, one.grown.ends
        bound = _Bound(ends[-1])
        chain = shortest([container], budget_s=chain_s, redact_keys=redact, skip=skip, see=bound.see)
        found.append(
            Swelling(
                type=type_name(type(container)),
                items=ends,
                holds=one.holds,
                bytes_each=one.bytes_each,
                chain=chain,
                site=one.sites[0] if one.sites else "",
                bound=bound.words,
            )
        )
    return tuple(found)


def sample_types(
    before: Census, middle: Census, explained: frozenset[str], *, sites_of: Sites, budget_s: float
) -> list[Sampled]:
    """Some of each type that has grown until the middle and that no container explains: the first and the last met."""
    rows = [
        (count - before.counts.get(name, 0), name)
        for name, count in middle.counts.items()
        if count - before.counts.get(name, 0) >= _GROWN_AT_LEAST // 2 and name not in explained and name not in _PARTS
    ]
    names = [name for _, name in sorted(rows, reverse=True)[: 2 * _TYPES]]
    if not names or not (before.complete and middle.complete):
        return []
    samples = _samples(set(names), budget_s=budget_s)
    return [
        Sampled(name, some, tuple(dict.fromkeys(site for one in some for site in sites_of(one))))
        for name, some in samples.items()
    ]


def growing_types(
    types: Sequence[TypeGrowth], sampled: list[Sampled], *, redact: bool, chain_s: float
) -> tuple[Growing, ...]:
    """Of the sampled types those that grew on, and who holds them."""
    found = list[Growing]()
    growths = {row.type: row for row in types}
    ranked = sorted(sampled, key=lambda one: -growths[one.type].grown if one.type in growths else 0)
    # All of ours, as above: the samples of one type hold those of another.
    skip = [sampled, ranked, *sampled, *(one.some for one in sampled)]
    for one in ranked:
        if one.type in growths and one.some and len(found) < _TYPES:
            growth, bound = growths[one.type], _Bound(growths[one.type].after)
            if growth.before > growth.grown:  # most of them are old, and held by somebody else perhaps
                del one.some[: _SAMPLES // 2]
            chain = shortest(one.some, budget_s=chain_s, redact_keys=redact, skip=skip, see=bound.see)
            found.append(Growing(growth, weigh(one.some).each, chain, one.sites, bound.words))
        one.some.clear()
    return tuple(found)


def _samples(wanted: set[str], *, budget_s: float) -> dict[str, list[Any]]:
    """Some instances of each type: the first and the last that are met."""
    found: dict[str, list[Any]] = {name: [] for name in wanted}
    kinds: dict[int, str] = {}
    for chunk in Slices(budget_s=budget_s):
        for kind in {id(type(one)): type(one) for one in chunk}.values():
            name = type_name(kind)
            if name in wanted:
                kinds[id(kind)] = name
        for one in compress(chunk, map(kinds.__contains__, map(id, map(type, chunk)))):
            row = found[kinds[id(type(one))]]
            row.append(one)
            if len(row) > _SAMPLES:
                del row[_SAMPLES // 2]
    return found
