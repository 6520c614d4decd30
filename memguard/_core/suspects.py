"""Suspects: what the looks at all scales say together, as a verdict in words.

Leak-like is a growth that is real, does not bend, is no part of the load, of a registered holder or of a rhythm seen
before, and has gone on for long enough: an unregistered cache that fills with what it never met before looks the same
until it is full. Anything less is filling, or unknown with the reason.
"""

from __future__ import annotations

from bisect import bisect_left
from math import exp

from memguard._core.trend import median, pair_slopes
from memguard.findings import Verdict
from memguard.units import format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard._core.looks import Look, Shape
    from memguard.kinds import VerdictKind

__all__ = ["judge"]

# Growth is watched for the rules' patience when it took so much of what was left as it began; for half as long when
# that was half, unless it began with the service, which fills its caches then; a slower one hurries nobody: for a day.
_URGENT_RATIO, _URGENT = 0.5, 0.5
_SOON_RATIO, _UNHURRIED = 0.15, 24.0
# Where no load is known a morning cannot be told from a leak, unless it takes so much.
_BLIND_RATIO = 0.6
# Where no load is known a day has to be seen first.
_DAY_S = 26 * 3600.0
_HOUR_S = 3600.0
_HELD = "registered holders fill"
# Growth beside holders that fill: what they hold takes more than they account for.
_BESIDE_RATIO = 0.3
# All memory has to grow by so much of it, or holders gave way.
_RAW_RATIO = 0.5
# From here on the guard sheds caches: memory that leaks need not grow.
_SHEDDING_RATIO = 0.7
# Older blocks count where they were under no more load than this many times the present one.
_MORE_LOAD = 1.25
_QUARTER = 4
# A look at fewer blocks proves nothing against another.
_ENOUGH = 24
# Blocks so much longer have to agree.
_LONGER = 4
# A scale that describes what is going on covers at most so much time.
_LATELY_S = 3 * 3600.0


def judge(
    looks: Sequence[Look],
    *,
    seen_s: float,
    used_bytes: float,
    limit_bytes: float | None,
    patience_s: float,
) -> Verdict:
    """The verdict over looks at all scales, finest first, with ``seen_s`` seconds of evidence.

    ``patience_s`` is how long a growth has to last where the limit is far.
    """
    # Without a limit growth is judged as if twice as much as now were allowed.
    left = max(0.0, (2.0 * used_bytes if limit_bytes is None else limit_bytes) - used_bytes)
    shedding = limit_bytes is not None and used_bytes >= _SHEDDING_RATIO * limit_bytes
    waiting: Verdict | None = None
    for found in reversed(looks):
        if found.grows and not found.bends and _agreed(found, looks):
            why = _doubt(found, looks, shedding=shedding) or _early(found, seen_s, left, patience_s)
            to_limit = None if limit_bytes is None or found.raw_bytes_per_s <= 0.0 else left / found.raw_bytes_per_s
            if not why:
                return _leak(found, seen_s, to_limit, patience_s)
            waiting = waiting or _waiting(found, seen_s, to_limit, why)
    return waiting or _calm(looks, seen_s)


def _doubt(found: Look, looks: Sequence[Look], *, shedding: bool) -> str:
    """Why a growth that does not bend may be none of its own; "" when nothing speaks against it."""
    if not found.compared:
        return "the load has changed all along"
    if found.grown_bytes < _BESIDE_RATIO * found.held_grown_bytes:
        return _HELD
    raw = found.raw_grown_bytes >= _RAW_RATIO * found.grown_bytes and found.late_raw_bytes_per_s > 0.0
    if not raw and not shedding:
        return "memory as a whole does not grow"
    if not _deeper(found, looks):
        return "longer blocks do not show it"
    if _seen_before(found, looks):
        return "it has held as much before"
    return ""


def _agreed(found: Look, looks: Sequence[Look]) -> bool:
    """Whether the next longer scale sees a growth that need not bend either; the next shorter, where there is none.

    Of many windows on a slow fill one is straight by chance. Where the begin of the growth is seen, its age is known.
    """
    place = looks.index(found)
    longer = looks[place + 1 : place + 2]
    known = longer and len(longer[0].at) >= _ENOUGH
    other = longer[0] if known else looks[max(0, place - 1)]
    return found.fresh or (other.grows and not other.bent)


def _deeper(found: Look, looks: Sequence[Look]) -> bool:
    """Whether the floors of longer blocks rise with it: those of short ones may beat with a collector's rhythm."""
    for coarse in looks:
        if coarse.length_s == _LONGER * found.length_s:
            since = bisect_left(coarse.at, found.since_at + coarse.length_s)
            slopes = pair_slopes(coarse.at[since:], coarse.rest[since:])
            return slopes.middle > _RAW_RATIO * found.bytes_per_s
    return not found.fresh


def _seen_before(found: Look, looks: Sequence[Look]) -> bool:
    """Whether older blocks under no more load held as much as the last ones: then it comes and goes."""
    quarter = max(1, len(found.rest) // _QUARTER)
    level, load, open_ = (median(column[-quarter:]) for column in (found.rest, found.load, found.open))
    for coarse in looks:
        if coarse.length_s < found.length_s:
            continue
        for at, rest, rate, of in zip(coarse.at, coarse.rest, coarse.load, coarse.open, strict=True):
            like = rate <= _MORE_LOAD * load and of <= _MORE_LOAD * open_ + 1.0
            if at < found.since_at and like and rest >= level - found.grown_bytes / 2.0:
                return True
    return False


def _early(found: Look, seen_s: float, left: float, patience_s: float) -> str:
    """Why it is too early to call a growth leak-like; "" when it is not."""
    known = found.counted or seen_s >= _DAY_S
    taken = found.grown_bytes / (left + found.grown_bytes)
    if not known and taken < _BLIND_RATIO:
        return "no load is known, and a day has not been seen yet"
    if taken >= _URGENT_RATIO:
        needs_s = patience_s * (_URGENT if known and found.fresh else 1.0)
    else:
        needs_s = patience_s * (1.0 if taken >= _SOON_RATIO else _UNHURRIED)
    if found.grown_s < needs_s:
        return f"that may be a cache until it has lasted for {format_seconds(needs_s)}"
    return ""


def _leak(found: Look, seen_s: float, to_limit: float | None, patience_s: float) -> Verdict:
    # As long again without a bend leaves half the doubt.
    confidence = (1.0 - found.p) * (1.0 - 0.5 * exp(-found.grown_s / max(1.0, patience_s)))
    each = "" if found.bytes_per_request is None else f" ({format_bytes(found.bytes_per_request)} a request)"
    until = "" if to_limit is None else f"; the limit is {format_seconds(to_limit)} away"
    words = f"Leak-like: {_speed(found)}{each} for {format_seconds(found.grown_s)} without slowing down{until}."
    return _verdict("leak-like", confidence, found, seen_s, words, to_limit=to_limit)


def _waiting(found: Look, seen_s: float, to_limit: float | None, why: str) -> Verdict:
    if why == _HELD:
        words = f"Filling: {_speed(found)} for {format_seconds(found.grown_s)}, while {why}."
        return _verdict("filling", 0.8, found, seen_s, words)
    words = f"Unknown: {_speed(found)} for {format_seconds(found.grown_s)} without slowing down, but {why}."
    return _verdict("unknown", 0.5, found, seen_s, words, to_limit=to_limit)


def _calm(looks: Sequence[Look], seen_s: float) -> Verdict:
    """What goes on where nothing is suspected: lately, or else all along."""
    if not looks:
        return _verdict("unknown", 0.0, None, seen_s, "Unknown: too little has been seen yet.")
    shown = ([found for found in looks if found.span_s <= _LATELY_S] or looks[:1])[-1]
    if shown.shape == "flat" and looks[-1].shape in {"growing", "periodic", "step"}:
        shown = looks[-1]
    over = format_seconds(shown.span_s)
    described: dict[Shape, tuple[VerdictKind, float, str]] = {
        "growing": ("filling", 0.8, f"Filling: {_speed(shown)} over {over}, and slowing down as far as can be told."),
        "step": ("step", 0.8, f"Step: memory went to another level within the last {over} and stayed there."),
        "spike": ("spike", 0.8, f"Spike: memory left its level for a short while within the last {over}."),
        "periodic": (
            "periodic",
            0.8,
            f"Periodic: memory comes and goes every {format_seconds(_period_s(shown, looks))}.",
        ),
        "flat": ("flat", 0.9, f"Flat: no growth to speak of over {over}."),
        "wandering": ("unknown", 0.3, f"Unknown: memory went up and down over {over}, to no end."),
    }
    kind, confidence, words = described[shown.shape]
    return _verdict(kind, confidence, shown, seen_s, words)


def _period_s(shown: Look, looks: Sequence[Look]) -> float:
    """The period, by the finest blocks that see some of them: in long ones it is a whole number of few."""
    finer = (look.period_s for look in looks if look.period_s and look.span_s >= shown.span_s / _LONGER)
    return next(finer, shown.period_s)


def _speed(found: Look) -> str:
    return f"{format_bytes(found.bytes_per_s * _HOUR_S)} an hour"


def _verdict(  # noqa: PLR0913 - the parts of one value
    kind: VerdictKind,
    confidence: float,
    found: Look | None,
    seen_s: float,
    words: str,
    *,
    to_limit: float | None = None,
) -> Verdict:
    return Verdict(
        kind=kind,
        confidence=min(0.99, max(0.0, confidence)),
        bytes_per_s=0.0 if found is None else found.bytes_per_s,
        bytes_per_request=None if found is None else found.bytes_per_request,
        since_at=found.since_at if found is not None and kind in {"leak-like", "filling", "step"} else None,
        seconds_to_limit=to_limit,
        seen_s=seen_s,
        words=words,
    )
