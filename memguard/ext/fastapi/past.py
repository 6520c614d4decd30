"""The past: readings as a table, and where they are going."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from memguard._core.trend import pair_slopes
from memguard.ext.fastapi import answers
from memguard.ext.fastapi.asking import Asked, aside, duration
from memguard.ext.fastapi.problems import Problem
from memguard.findings import Verdict
from memguard.history import Point
from memguard.kinds import VerdictKind
from memguard.units import MIB, format_seconds

__all__ = ["add_past"]

# 90 days by the hour are 2160; more rows than that are a mistake.
_POINTS = 20_000
# All pairs of so many points: 20 ms.
_SLOPED = 300
_Z_95 = 1.959963984540054
_WORDS: dict[VerdictKind, Literal["flat", "filling", "leak-like", "spike", "unknown"]] = {
    "flat": "flat", "periodic": "flat", "filling": "filling", "leak-like": "leak-like", "step": "spike",
    "spike": "spike", "unknown": "unknown",
}  # fmt: skip

Duration = Annotated[str, Query(max_length=100, description="how far back: '90s', '30m', '24h', '7d', or seconds")]
Interval = Annotated[str | None, Query(max_length=100, description="the length of a step: '5m'; about 300 without")]


def add_past(router: APIRouter) -> None:
    """Add these routes."""
    router.get("/monitoring/metrics/memory", summary="Readings of the past")(metrics)
    router.get("/monitoring/metrics/memory/trend", summary="Where memory is going, and how sure that is")(trend)


async def metrics(control: Asked, duration: Duration = "1h", interval: Interval = None) -> answers.Metrics:
    """Oldest first; ``value`` and ``memory_mb`` are the mean of a step in MiB."""
    duration_s = _seconds("duration", duration)
    interval_s = None if interval is None else _seconds("interval", interval)
    points = await _read(control, duration_s, interval_s)
    return answers.Metrics(
        metric="system.memory.used",
        unit="MiB",
        duration_s=duration_s,
        interval_s=points[0].span_s if points else interval_s,
        metrics=[answers.Point.model_validate(point.row()) for point in points],
    )


async def trend(control: Asked, duration: Duration = "1h") -> answers.Trend:
    """The slope of what was used over the duration, and the guard's own verdict, which knows holders and requests."""
    duration_s = _seconds("duration", duration)
    points = await _read(control, duration_s, None)
    return await aside(lambda: _trend(points, control.guard.verdict(), duration_s, control.guard.snapshot.forecast))


_seconds = duration


async def _read(control: Asked, duration_s: float, interval_s: float | None) -> tuple[Point, ...]:
    if control.guard.store is None:  # from memory, in a millisecond or two
        return _points(control, duration_s, interval_s)
    return await aside(lambda: _points(control, duration_s, interval_s))


def _points(control: Asked, duration_s: float, interval_s: float | None) -> tuple[Point, ...]:
    if interval_s is not None and duration_s / interval_s > _POINTS:
        raise Problem(
            422,
            f"query.interval: {format_seconds(interval_s)} makes more than {_POINTS} rows of "
            f"{format_seconds(duration_s)}: ask for longer steps",
        )
    try:
        return control.guard.history(duration_s, interval_s)
    except ValueError as error:
        raise Problem(422, f"query.interval: {error}") from None


def _trend(points: tuple[Point, ...], verdict: Verdict, duration_s: float, forecast_s: float | None) -> answers.Trend:
    """Theil and Sen's slope with Mann and Kendall's test; both over at most 300 points."""
    kept = points[:: max(1, -(-len(points) // _SLOPED))]
    slopes = pair_slopes([point.unix_s / 3600 for point in kept], [point.mean_bytes / MIB for point in kept])
    known = len(kept) > 2  # noqa: PLR2004 - of two points any slope is exact
    low, high = slopes.bounds(_Z_95) if known else (None, None)
    ahead_s = verdict.seconds_to_limit if verdict.seconds_to_limit is not None else forecast_s
    slope = f"{slopes.middle:+.1f} MiB/h over {format_seconds(duration_s)}" if known else "too few points for a slope"
    return answers.Trend(
        verdict=_WORDS[verdict.kind],
        kind=verdict.kind,
        confidence=round(verdict.confidence, 3),
        growth_mb_per_h=round(slopes.middle, 3) if known else None,
        growth_low_mb_per_h=_finite(low),
        growth_high_mb_per_h=_finite(high),
        growth_confidence=round(1.0 - slopes.p, 4) if known else None,
        seconds_to_limit=None if ahead_s is None else round(ahead_s, 1),
        points=len(points),
        duration_s=duration_s,
        seen_s=round(verdict.seen_s, 1),
        words=f"{verdict.words} ({slope})",
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or abs(value) == float("inf") else round(value, 3)
