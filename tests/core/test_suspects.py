"""Verdicts: scripted services of which the answer is known."""

from __future__ import annotations

import random
from math import exp, log1p, pi, sin
from typing import TYPE_CHECKING

import pytest

from memguard._core.looks import Blocks, look
from memguard._core.suspects import judge
from memguard.growth import Growth
from memguard.units import MIB, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.findings import Verdict

    Script = Callable[[float], float]

HOUR = 3600.0
BASE = 200.0 * MIB
PATIENCE_S = HOUR


def verdict(
    used: Callable[[float], float],
    *,
    hours: float,
    held: Callable[[float], float] = lambda at: 0.0,
    rate: Callable[[float], float] | float = 20.0,
    limit_bytes: float | None = 512.0 * MIB,
    noise_bytes: float = 0.2 * MIB,
    step_s: float = 10.0,
    patience_s: float = PATIENCE_S,
) -> Verdict:
    """The verdict at the end of so many hours, over ``used`` (bytes by second) with a little noise."""
    chance, growth, requests = random.Random(7), Growth(), 0.0
    for number in range(1, int(hours * HOUR / step_s)):
        at = number * step_s
        requests += (rate if isinstance(rate, float) else rate(at)) * step_s
        growth.note(at, used_bytes=used(at) + chance.gauss(0, noise_bytes), held_bytes=held(at), requests=int(requests))
    while growth.examine(patience_s=patience_s):
        pass
    return growth.verdict(limit_bytes=limit_bytes, patience_s=patience_s)


def test_a_leak_per_request() -> None:
    """40 MiB an hour for three hours: leak-like, with its rate per second and per request, and when it ends."""
    found = verdict(lambda at: BASE + 40 * MIB * at / HOUR, hours=3)
    assert found.kind == "leak-like"
    assert found.bytes_per_s == pytest.approx(40 * MIB / HOUR, rel=0.05)
    assert found.bytes_per_request == pytest.approx(40 * MIB / HOUR / 20, rel=0.05)
    assert found.seconds_to_limit == pytest.approx((512 - 320) / 40 * HOUR, rel=0.1)
    assert found.seen_s == pytest.approx(3 * HOUR, abs=60)
    assert found.since_at is not None
    assert found.since_at < HOUR
    assert 0.8 < found.confidence <= 0.99
    assert found.words.startswith(f"Leak-like: {format_bytes(found.bytes_per_s * HOUR)} an hour")


@pytest.mark.parametrize("noise_bytes", [4096.0, 0.1 * MIB])
def test_a_leak_into_a_table_that_doubles(noise_bytes: float) -> None:
    """25 MiB an hour into a dict, which is moved when it doubles: leak-like after two hours, with hardly any noise."""

    def used(at: float) -> float:
        entries, slots = 20.0 * at, 1 << 13
        while slots * 2 / 3 < entries:
            slots *= 2
        return BASE + 300.0 * entries + 40.0 * slots

    assert verdict(used, hours=2.5, noise_bytes=noise_bytes).kind == "leak-like"


def test_a_fill_without_noise_bends() -> None:
    """A smooth curve is no proof of a straight one: a cache that fills, and a logarithm, with hardly any noise."""
    for hours in (1.5, 3, 6):
        found = verdict(lambda at: BASE + 150 * MIB * (1 - exp(-at / 7200)), hours=hours, noise_bytes=4096.0)
        assert found.kind != "leak-like", f"after {hours} h"
        found = verdict(lambda at: BASE + 30 * MIB * log1p(at / 600), hours=hours, noise_bytes=4096.0)
        assert found.kind != "leak-like", f"after {hours} h"


def test_longer_is_surer() -> None:
    """The same leak is surer after five hours than after two."""
    early, late = (verdict(lambda at: BASE + 40 * MIB * at / HOUR, hours=hours) for hours in (2, 5))
    assert early.kind == late.kind == "leak-like"
    assert early.confidence < late.confidence


def test_too_early_is_said() -> None:
    """After 20 minutes a straight growth may be a cache: unknown, and the words say how long is needed."""
    found = verdict(lambda at: BASE + 60 * MIB * at / HOUR, hours=0.4)
    assert found.kind == "unknown"
    assert "may be a cache until" in found.words
    assert found.bytes_per_s > 0.0
    assert found.seconds_to_limit is not None


def test_no_hurry_where_the_limit_is_far() -> None:
    """2 MiB an hour under a limit that is weeks away is watched for a day, and then told."""
    used: Script = lambda at: BASE + 2 * MIB * at / HOUR  # noqa: E731 - a script
    assert verdict(used, hours=12, limit_bytes=2048.0 * MIB, step_s=30.0).kind == "unknown"
    assert verdict(used, hours=30, limit_bytes=2048.0 * MIB, step_s=30.0).kind == "leak-like"


def test_hurry_where_it_is_near() -> None:
    """What took half of the room in 35 minutes is told before the patience is over."""
    found = verdict(lambda at: BASE + 300 * MIB * max(0.0, at / HOUR - 1.0), hours=1.6)
    assert found.kind == "leak-like"
    assert found.seconds_to_limit is not None
    assert found.seconds_to_limit < 0.5 * HOUR


def test_without_a_limit() -> None:
    """A leak is one without a limit, too; nothing is said of when it ends."""
    found = verdict(lambda at: BASE + 40 * MIB * at / HOUR, hours=3, limit_bytes=None)
    assert (found.kind, found.seconds_to_limit) == ("leak-like", None)


def test_flat() -> None:
    """Nothing but noise is flat."""
    found = verdict(lambda at: BASE, hours=5)
    assert found.kind == "flat"
    assert abs(found.bytes_per_s) * HOUR < MIB
    assert found.since_at is None


@pytest.mark.parametrize("minutes", [5, 20, 60])
def test_a_cache_that_fills(minutes: float) -> None:
    """What bends is filling while it grows, and never leak-like; when it is full it is flat."""
    used: Script = lambda at: BASE + 150 * MIB * (1 - exp(-at / (60 * minutes)))  # noqa: E731 - a script
    for share in (0.5, 1, 2, 4):
        assert verdict(used, hours=max(0.5, minutes / 60 * share)).kind in {"filling", "unknown", "flat"}
    assert verdict(used, hours=minutes / 60 * 2.5).kind == "filling"
    assert verdict(used, hours=minutes / 60 * 7 + 3).kind == "flat"


def test_a_slow_fill_is_no_leak_however_long() -> None:
    """A logarithm grows for ever and bends for ever."""
    for hours in (2, 6, 20):
        found = verdict(lambda at: BASE + 15 * MIB * log1p(at / 60), hours=hours, step_s=30.0)
        assert found.kind in {"filling", "flat"}, f"after {hours} h"


def test_a_registered_holder_is_subtracted() -> None:
    """A registered cache that fills straight is filling; a leak of the same size beside a full one is a leak."""
    grown: Script = lambda at: 40 * MIB * at / HOUR  # noqa: E731 - a script
    filling = verdict(lambda at: BASE + grown(at), hours=3, held=grown)
    assert filling.kind in {"filling", "flat"}
    assert abs(filling.bytes_per_s) * HOUR < MIB
    beside = verdict(lambda at: BASE + grown(at), hours=3, held=lambda at: 100.0 * MIB)
    assert beside.kind == "leak-like"


def test_a_holder_that_takes_more_than_it_says() -> None:
    """Growth in step with a registered cache, a fifth above what it accounts for, is the cache's: filling."""
    grown: Script = lambda at: 40 * MIB * at / HOUR  # noqa: E731 - a script
    assert verdict(lambda at: BASE + 1.2 * grown(at), hours=3, held=grown).kind == "filling"


def test_a_leak_that_pushes_caches_out() -> None:
    """At the rung memory stands still, because caches give way to the leak: leak-like all the same."""
    held: Script = lambda at: 250 * MIB - 40 * MIB * at / HOUR  # noqa: E731 - a script
    found = verdict(lambda at: 420.0 * MIB, hours=4, held=held, noise_bytes=0.5 * MIB)
    assert found.kind == "leak-like"
    calm = verdict(lambda at: 300.0 * MIB, hours=4, held=held, noise_bytes=0.5 * MIB, limit_bytes=1024.0 * MIB)
    assert calm.kind != "leak-like"


def test_a_morning_is_no_leak() -> None:
    """Memory that follows the load is no leak, in the morning, at night, or over days."""
    day: Script = lambda at: 1 + 0.8 * sin(2 * pi * at / 86400)  # noqa: E731 - a script
    for hours in (3, 6, 12, 20, 30, 54):
        found = verdict(lambda at: BASE + 100 * MIB * day(at), hours=hours, rate=lambda at: 30 * day(at), step_s=30.0)
        assert found.kind != "leak-like", f"after {hours} h: {found.words}"


def test_a_leak_under_a_day() -> None:
    """With a leak on top of the day it is found, per request."""
    day: Script = lambda at: 1 + 0.8 * sin(2 * pi * at / 86400)  # noqa: E731 - a script
    found = verdict(
        lambda at: BASE + 50 * MIB * day(at) + 3 * MIB * at / HOUR,
        hours=60, rate=lambda at: 30 * day(at), step_s=30.0, noise_bytes=MIB,
    )  # fmt: skip
    assert found.kind == "leak-like"
    assert found.bytes_per_s == pytest.approx(3 * MIB / HOUR, rel=0.25)


def test_without_any_load_a_day_is_awaited() -> None:
    """Where nothing tells of the load, a growth that leaves room is no leak before a day has been seen."""
    used: Script = lambda at: BASE + 5 * MIB * at / HOUR  # noqa: E731 - a script
    young = verdict(used, hours=10, rate=0.0, step_s=30.0, limit_bytes=None)
    assert (young.kind, young.bytes_per_request) == ("unknown", None)
    assert "a day has not been seen" in young.words
    assert verdict(used, hours=30, rate=0.0, step_s=30.0, limit_bytes=None).kind == "leak-like"


def test_a_step() -> None:
    """From one level to another and no further."""
    found = verdict(lambda at: BASE + (60 * MIB if at > HOUR else 0), hours=2)
    assert found.kind == "step"
    assert verdict(lambda at: BASE - (60 * MIB if at > HOUR else 0), hours=2).kind == "step"


def test_a_spike() -> None:
    """Up and back."""
    found = verdict(lambda at: BASE + (90 * MIB if 0.9 * HOUR < at < HOUR else 0), hours=2)
    assert found.kind == "spike"


def test_a_rhythm() -> None:
    """Up and down every quarter of an hour."""
    found = verdict(lambda at: BASE + 60 * MIB * (1 + sin(2 * pi * at / 900)), hours=2.2)
    assert found.kind == "periodic"
    assert float(found.words.split("every ")[1].split(" min")[0]) == pytest.approx(15, abs=2)


def test_what_was_there_before_is_no_leak() -> None:
    """A job that grows for 40 minutes looks like a leak once at most: the second time it has been seen."""
    job: Script = lambda at: 200 * MIB * min(1.0, at % (6 * HOUR) / 2400) * (at % (6 * HOUR) < 3000)  # noqa: E731 - a script
    assert verdict(lambda at: BASE + job(at), hours=18.62).kind != "leak-like"


def test_falling_is_no_leak() -> None:
    """Memory that is given back little by little is nothing to suspect."""
    found = verdict(lambda at: 2 * BASE - 30 * MIB * at / HOUR, hours=4)
    assert found.kind in {"flat", "unknown"}
    assert found.bytes_per_s <= 0.0


def test_nothing_seen() -> None:
    """No looks, no blocks, too few blocks: unknown, without a rate."""
    found = judge([], seen_s=0.0, used_bytes=0.0, limit_bytes=None, patience_s=1.0)
    assert (found.kind, found.confidence, found.bytes_per_s) == ("unknown", 0.0, 0.0)
    few = [1.0] * 15
    assert look(
        Blocks(
            length_s=4.0, at=few, floor=few, rest=few, requests=few, cpu_s=few, open=few,
            began_at=0.0, began_requests=0.0, began_cpu_s=0.0,
        )
    ) is None  # fmt: skip
