"""Looks: what the blocks of one length show of growth.

Growth is real when Mann-Kendall says so, over blocks under like load, corrected for neighbours that resemble each
other, and when it is no part of the load. It bends when it slows down with its age, or when that cannot be ruled out.
"""

from __future__ import annotations

from array import array
from math import erfc, log, sqrt

from memguard._core.loads import busier, covered, ease, like_groups, rates
from memguard._core.shapes import knee, noise, period, spiked, step_at
from memguard._core.trend import drift, hamed_rao, lag_one, mean, median, pair_slopes, typical_step
from memguard.units import MIB
from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    Shape = Literal["flat", "step", "spike", "periodic", "growing", "wandering"]

__all__ = ["Blocks", "Look", "look"]

# Below so many blocks since it began nothing is said about a growth.
_LEAST = 16
# Mann-Kendall's p below 0.0005: a judge asks some thousand times a day, though hardly ever independently.
_Z_TREND = 3.3
# The same for the growth beside the load.
_SURE = 4.0
# Each half's slope is bounded so that both hold with 90 %.
_Z_SLOPE = 1.64
# The exponent of the slope over the age of the growth: 0 for a leak, -0.5 for a square root, -1 for a logarithm.
_BENT = -0.12
_FAR = float("inf")
# Growth below this is in the allocator's steps: an arena is 1 MiB.
_LEAST_BYTES = 2 * MIB
_LEAST_RATIO = 0.01
# And growth has to stand out from block to block noise.
_LEAST_NOISE = 6.0
# A few steps are no growth: none from one block to the next but one may hold more of it.
_JUMP_RATIO = 0.25
# Of all pairs that lie a third of the time apart, so many have to be under like load: a day's are one in ten.
_COVERED = 0.03
# A second of the processor counts as so many requests, where none are counted.
_REQUESTS_PER_S = 50.0
# Load may have risen by so much between the halves when a growth per second is called steady.
_RISEN = 1.1
# So many of the blocks are under one load where there is no other to speak of.
_ONE_LOAD = 0.9
# Before a growth it was flat when it grew at less than this share of the later slope.
_FLAT_RATIO = 0.25
# What wanders within so much of itself is flat to those who ask.
_LEVEL_RATIO = 0.05
# The better part of a rise, or of a way.
_MOSTLY = 0.6


@value
class Blocks:
    """Blocks of one length, oldest first; ``rest`` is the floor of what no registered holder accounts for.

    ``requests`` and ``cpu_s`` are counted since ever at the block's end, ``open`` is the mean of requests under way.
    ``began_…`` is where the first evidence stood. Arrays: objects would pin a service's memory.
    """

    length_s: float
    at: Sequence[float]
    floor: Sequence[float]
    rest: Sequence[float]
    requests: Sequence[float]
    cpu_s: Sequence[float]
    open: Sequence[float]
    began_at: float
    began_requests: float
    began_cpu_s: float


@value
class Look:
    """What one scale shows, over its whole span or since ``since_at``, where a growth began in it (``fresh``).

    ``grows`` says that growth is real, ``bends`` that it may slow down, ``bent`` that it surely does, ``compared`` that
    enough of it was looked at under like load, ``counted`` that load is known. ``p`` is Mann-Kendall's. Bytes are
    those of no registered holder, ``raw_…`` those of all, ``held_…`` those of holders, ``late_…`` the second half's.
    """

    length_s: float
    at: Sequence[float]
    rest: Sequence[float]
    load: Sequence[float]
    open: Sequence[float]
    shape: Shape
    since_at: float
    fresh: bool
    grows: bool
    bends: bool
    bent: bool
    compared: bool
    counted: bool
    p: float
    grown_bytes: float
    raw_grown_bytes: float
    held_grown_bytes: float
    bytes_per_s: float
    raw_bytes_per_s: float
    late_raw_bytes_per_s: float
    bytes_per_request: float | None
    period_s: float

    @property
    def span_s(self) -> float:
        """How much time its blocks cover."""
        return self.at[-1] - self.at[0]

    @property
    def grown_s(self) -> float:
        """For how long it has grown, as far as this scale sees."""
        return self.at[-1] - self.since_at


def look(blocks: Blocks) -> Look | None:
    """What blocks of one length show; None when they are too few."""
    if len(blocks.at) < _LEAST:
        return None
    least = max(_LEAST_BYTES, _LEAST_RATIO * median(blocks.floor))
    first = _onset(blocks, least)
    quarter = (len(blocks.at) - first) // 4
    risen = median(blocks.rest[-quarter:]) - median(blocks.rest[first : first + quarter])
    rises = risen > least / 2.0  # seldom: the rest costs ten times as much
    return (_growing(blocks, least, first) if rises else None) or _still(blocks, risen, least, first)


def _growing(blocks: Blocks, least: float, first: int) -> Look | None:
    """What a scale shows on which something grows from a place on; None when that may be chance."""
    at, rest, floor, open_ = blocks.at[first:], blocks.rest[first:], blocks.floor[first:], blocks.open[first:]
    counts, began = _work(blocks)
    work, load = counts[first:], array("d", rates(blocks.at, counts))
    counted, lately = work[-1] > work[0], load[first:]
    eased = ease([at, work] if counted else [at], [lately, open_], rest)
    stretch, spread = _stretch(eased.left), noise(eased.values)
    shares = _shares(blocks, counts, load)[first:]
    like = like_groups(shares)
    # What a line leaves is nearly the same from block to block where there is no noise, or where a growing table is
    # moved now and then. Under one load steps may tell then what values cannot.
    calm = max(map(len, like)) >= _ONE_LOAD * len(at)
    walk_z = drift(at, eased.values).z if calm else 0.0
    if eased.sure < _SURE * sqrt(stretch) and walk_z < _SURE:
        return None
    slopes, lasts_s = pair_slopes(at, eased.values, groups=like, stretch=stretch), at[-1] - at[0]
    grown = slopes.middle * lasts_s
    if max(slopes.z, walk_z) < _Z_TREND or grown < max(least, _LEAST_NOISE * spread):
        return None
    # Seen against time, and against work done: a leak is steady in one of them.
    half = len(at) // 2
    bends = [_bend(at, eased.values, at[0] if first else blocks.began_at, stretch, calm=calm)]
    if counted:
        if mean(lately[half:]) > _RISEN * mean(lately[:half]):
            bends = []  # what bends with each request looks straight while requests come faster
        bends.append(_bend(work, eased.values, work[0] if first else began, stretch, calm=calm))
    ahead = [value - slopes.middle * when for when, value in zip(at, eased.values, strict=True)]
    jump = max(b - a for a, b in zip(ahead, ahead[2:], strict=False)) - 2.0 * spread
    raw, asked = pair_slopes(at, floor).middle, blocks.requests[-1] - blocks.requests[first]
    return Look(
        length_s=blocks.length_s,
        at=blocks.at,
        rest=blocks.rest,
        load=load,
        open=blocks.open,
        shape="step" if step_at(blocks.at, blocks.rest) else "growing",
        since_at=at[0],
        fresh=first > 0,
        grows=jump < _JUMP_RATIO * grown,
        bends=max(low for low, _ in bends) < _BENT,
        bent=max(high for _, high in bends) < _BENT,
        compared=covered(like, len(at)) >= _COVERED and grown > busier(shares) * rest[0],
        counted=counted,
        p=slopes.p if slopes.z >= walk_z else erfc(walk_z / sqrt(2.0)),
        grown_bytes=grown,
        raw_grown_bytes=raw * lasts_s,
        held_grown_bytes=(floor[-1] - rest[-1]) - (floor[0] - rest[0]),
        bytes_per_s=slopes.middle,
        raw_bytes_per_s=raw,
        late_raw_bytes_per_s=pair_slopes(at[half:], floor[half:]).middle,
        bytes_per_request=grown / asked if asked > 0.0 else None,
        period_s=0.0,
    )


def _shares(blocks: Blocks, counts: Sequence[float], load: Sequence[float]) -> list[tuple[float, float]]:
    """How much was done in each block, in requests or in something like them, and how much was under way."""
    each = blocks.length_s * (1.0 if counts is blocks.requests else _REQUESTS_PER_S)
    return [(rate * each, of) for rate, of in zip(load, blocks.open, strict=True)]


def _still(blocks: Blocks, risen: float, least: float, first: int) -> Look:
    """What a scale shows on which nothing grows."""
    at, floor, rest = blocks.at, blocks.floor, blocks.rest
    work, _ = _work(blocks)
    quarter = (len(at) - first) // 4
    raw = median(floor[-quarter:]) - median(floor[first : first + quarter])
    span_s, asked = 0.75 * (at[-1] - at[first]), blocks.requests[-1] - blocks.requests[first]
    shape, again = _shape(rest, at, least)
    return Look(
        length_s=blocks.length_s,
        at=at,
        rest=rest,
        load=array("d", rates(at, work)),
        open=blocks.open,
        shape=shape,
        since_at=at[first],
        fresh=first > 0,
        grows=False,
        bends=True,
        bent=False,
        compared=True,
        counted=work[-1] > work[first],
        p=1.0,
        grown_bytes=risen / 0.75,
        raw_grown_bytes=raw / 0.75,
        held_grown_bytes=(raw - risen) / 0.75,
        bytes_per_s=risen / span_s,
        raw_bytes_per_s=raw / span_s,
        late_raw_bytes_per_s=0.0,
        bytes_per_request=risen / 0.75 / asked if asked > 0.0 else None,
        period_s=again * blocks.length_s,
    )


def _work(blocks: Blocks) -> tuple[Sequence[float], float]:
    """What counts as work, and where it stood when evidence began: requests, or else the processor's time."""
    if blocks.requests[-1] - blocks.requests[0] >= len(blocks.at):
        return blocks.requests, blocks.began_requests
    return blocks.cpu_s, blocks.began_cpu_s


def _onset(blocks: Blocks, least: float) -> int:
    """The place where a growth began after it had been flat (or falling); 0 when it has grown all along.

    Only the age of a growth tells a straight one from one that bends, so it is never made younger without proof.
    """
    at, rest = blocks.at, blocks.rest
    place = knee(at, rest)
    if not place or len(at) - place < _LEAST:
        return 0
    stretch = max(
        _stretch(ease([part], [], row).left) for part, row in ((at[:place], rest[:place]), (at[place:], rest[place:]))
    )
    after = pair_slopes(at[place:], rest[place:], stretch=stretch).bounds(_Z_SLOPE)[0]
    before = pair_slopes(at[:place], rest[:place], stretch=stretch)
    if after <= 0.0 or after * (at[-1] - at[place]) < least / 2.0:
        return 0
    return place if before.bounds(_Z_SLOPE)[1] < _FLAT_RATIO * after else 0


def _stretch(left: Sequence[float]) -> float:
    """By how much more the sum of signs varies than that of independent values."""
    near = lag_one(left)
    return max(1.0, hamed_rao(left), (1.0 + near) / (1.0 - near))


def _bend(x: Sequence[float], y: Sequence[float], began: float, stretch: float, *, calm: bool) -> tuple[float, float]:
    """The exponent of the slope over the age of the growth, at least and at most; below 0 it bends."""
    half = len(x) // 2
    early, late = (median(x[:half]) - began, median(x[half:]) - began)
    if not 0.0 < early < late:
        return -_FAR, _FAR
    (low, high), (later_low, later_high) = (
        _bounds(part, row, stretch, calm=calm) for part, row in ((x[:half], y[:half]), (x[half:], y[half:]))
    )
    scale = log(late / early)
    return _log_ratio(later_low, high) / scale, _log_ratio(later_high, low) / scale


def _bounds(x: Sequence[float], y: Sequence[float], stretch: float, *, calm: bool) -> tuple[float, float]:
    """Between what the slope lies: by the pairs, or where that says more under one load, by the steps."""
    found = pair_slopes(x, y, stretch=stretch).bounds(_Z_SLOPE)
    if not calm:
        return found
    steps = [one.bounds(_Z_SLOPE) for one in (drift(x, y), typical_step(x, y)) if one is not None]
    return min((found, *steps), key=lambda ends: ends[1] - ends[0])


def _log_ratio(late: float, early: float) -> float:
    """The logarithm of a ratio of slopes; without end where one of them does not rise."""
    if late <= 0.0 or early == _FAR:
        return -_FAR
    return _FAR if early <= 0.0 or late == _FAR else log(late / early)


def _shape(rest: Sequence[float], at: Sequence[float], least: float) -> tuple[Shape, int]:
    """What a row looks like in which nothing grows; after how many blocks it repeats itself, if it does."""
    level = max(least, _LEVEL_RATIO * median(rest))
    if max(rest) - min(rest) < level:
        return "flat", 0
    if spiked(rest, level):
        return "spike", 0
    if step_at(at, rest):
        return "step", 0
    if _levels_off(rest):
        return "growing", 0
    again = period(rest)
    return "periodic" if again else "wandering", again


def _levels_off(rest: Sequence[float]) -> bool:
    """Whether it went from low to high, and most of the way in the first half."""
    part = len(rest) // 4
    half = len(rest) // 2
    first, middle, last = median(rest[:part]), median(rest[half - part // 2 : half + part // 2]), median(rest[-part:])
    rise = last - first
    return rise > _MOSTLY * (max(rest) - min(rest)) and middle - first > _MOSTLY * rise
