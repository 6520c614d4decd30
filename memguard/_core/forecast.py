"""How fast memory grows, when it would reach the limit, and how long the guard may sleep until then."""

from __future__ import annotations

from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.rules import Rules

__all__ = ["Growth", "observe", "pace_s", "rebase", "time_to_limit_s"]

# The fastest growth seen is forgotten by half in this time: bursts come in trains a few seconds apart.
_BURST_HALF_LIFE_S = 2.0
# Growth for the forecast is averaged over about 30 s, a half-life of 30 ln 2: long enough to see past one request.
# As a power, since the module math and its library take 0.1 MiB.
_TREND_HALF_LIFE_S = 20.8
# A forecast beyond this says nothing about today.
_FAR_S = 7 * 86400.0
# Over shorter intervals one arena (1 MiB) looks like hundreds of MB/s: keep the older anchor until this has passed.
_SHORTEST_S = 0.005


@value(kw_only=False)
class Growth:
    """The last look and two rates in bytes per second: the decaying maximum and the average."""

    at: float = 0.0
    used_bytes: int = 0
    source: str = ""
    burst: float = 0.0
    trend: float = 0.0


def observe(growth: Growth, at: float, used_bytes: int, source: str, *, relieving: bool = False) -> Growth:
    """Growth after one more look. While a relief runs, falling usage is its doing and no trend."""
    elapsed = at - growth.at
    if source != growth.source:  # another measure binds now: its bytes can't be compared
        return Growth(at, used_bytes, source, growth.burst, growth.trend)
    if elapsed < _SHORTEST_S:
        return growth
    rate = (used_bytes - growth.used_bytes) / elapsed
    burst = growth.burst * 0.5 ** (elapsed / _BURST_HALF_LIFE_S)
    if relieving and rate < 0.0:
        rate = growth.trend
    weight = 1.0 - 0.5 ** (elapsed / _TREND_HALF_LIFE_S)
    trend = growth.trend + weight * (rate - growth.trend)
    return Growth(at, used_bytes, source, rate if rate > burst else burst, trend)


def rebase(growth: Growth, at: float, used_bytes: int) -> Growth:
    """Growth that starts anew from this many bytes, keeping its rates: what a relief bought is no trend."""
    return Growth(at, used_bytes, growth.source, growth.burst, growth.trend)


def time_to_limit_s(growth: Growth, limit_bytes: int | None) -> float | None:
    """Seconds until the limit at the present average rate; None when that is not in sight."""
    if limit_bytes is None or growth.trend <= 0.0:
        return None
    seconds = max(0.0, (limit_bytes - growth.used_bytes) / growth.trend)
    return seconds if seconds < _FAR_S else None


def pace_s(growth: Growth, used_bytes: int, limit_bytes: int | None, rules: Rules) -> float:
    """How long to sleep: half the time in which the headroom could be gone, between the rules' bounds."""
    if limit_bytes is None:
        return rules.pace_max_s
    rate = max(growth.burst, float(rules.pace_floor_bytes_per_s))
    sleep_s = (limit_bytes - used_bytes) / rate / 2.0
    return min(rules.pace_max_s, max(rules.pace_min_s, sleep_s))
