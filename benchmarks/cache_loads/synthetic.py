"""Synthetic loads with fixed seeds; the caches of a load differ in the cost of recomputing by up to 100 times."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from cache_loads.load import Load, Request, interleave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LOADS"]

# Requests a second: what a worker of an API with a cache in front of everything sees.
RATE = 500.0


class Values:
    """The values of one cache: bytes and cost of each key, log-normal, drawn once."""

    def __init__(self, rng: random.Random, *, bytes_: float, sigma: float, cost_s: float, spread: float = 0.5) -> None:
        self._rng, self._mu, self._sigma = rng, math.log(bytes_), sigma
        self._cost_s, self._spread = cost_s, spread
        self._known: dict[int, tuple[int, float]] = {}

    def __getitem__(self, key: int) -> tuple[int, float]:
        if key not in self._known:
            size = min(4_000_000, max(64, int(self._rng.lognormvariate(self._mu, self._sigma))))
            self._known[key] = size, self._cost_s * self._rng.lognormvariate(0.0, self._spread)
        return self._known[key]


def zipf(rng: random.Random, keys: int, alpha: float) -> Iterator[int]:
    """Keys by Zipf's law, for ever."""
    cumulative = interleave([1.0 / rank**alpha for rank in range(1, keys + 1)])
    while True:
        yield from rng.choices(range(keys), cum_weights=cumulative, k=4096)


def scan(first: int = 1_000_000) -> Iterator[int]:
    """Keys that never come again."""
    while True:
        yield first
        first += 1


def loop(keys: int) -> Iterator[int]:
    """The same keys, round and round: longer than any cache."""
    while True:
        yield from range(keys)


def shifting(rng: random.Random, keys: int, alpha: float, *, every: int, by: int) -> Iterator[int]:
    """Zipf, whose ranks move on by ``by`` keys every ``every`` requests."""
    ranks, offset = zipf(rng, keys, alpha), 0
    while True:
        for _ in range(every):
            yield (next(ranks) + offset) % keys
        offset += by


def sessions(rng: random.Random, *, alive: int, length: float) -> Iterator[int]:
    """Keys that are asked for some ``length`` times within a while and then never again."""
    open_keys, new = list(range(alive)), alive
    while True:
        at = rng.randrange(alive)
        yield open_keys[at]
        if rng.random() < 1.0 / length:
            open_keys[at], new = new, new + 1


def mix(  # noqa: PLR0913 - a load in words
    name: str,
    rng: random.Random,
    streams: dict[str, tuple[float, Iterator[int], Values]],
    *,
    count: int,
    budget_bytes: int,
    share: Callable[[float], list[float]] | None = None,
) -> Load:
    """Streams of keys, mixed at random by weight; ``share`` gives the weights at an instant instead."""
    caches = list(streams.values())
    steady, cumulative = [weight for weight, _, _ in caches], interleave([weight for weight, _, _ in caches])
    requests: list[Request] = []
    now = 0.0
    for at in range(count):
        if share is not None and at % 256 == 0:
            cumulative = interleave([w * s for w, s in zip(steady, share(now), strict=True)])
        now += rng.expovariate(RATE if share is None else RATE * cumulative[-1] / sum(steady))
        cache = rng.choices(range(len(caches)), cum_weights=cumulative)[0]
        key = next(caches[cache][1])
        requests.append((now, cache, key, *caches[cache][2][key]))
    return Load(name=name, caches=tuple(streams), requests=requests, budget_bytes=budget_bytes)


def _zipf(count: int, seed: int) -> Load:
    rng = random.Random(1 + seed)
    streams = {
        "answers": (1.0, zipf(rng, 20_000, 0.9), Values(rng, bytes_=2000, sigma=0.5, cost_s=0.100)),
        "vectors": (1.0, zipf(rng, 20_000, 0.7), Values(rng, bytes_=6000, sigma=0.2, cost_s=0.010)),
        "rows": (2.0, zipf(rng, 40_000, 1.0), Values(rng, bytes_=600, sigma=0.8, cost_s=0.001)),
    }
    return mix("zipf", rng, streams, count=count, budget_bytes=20 << 20)


def _scan(count: int, seed: int) -> Load:
    rng = random.Random(2 + seed)
    streams = {
        "answers": (2.0, zipf(rng, 20_000, 0.9), Values(rng, bytes_=2000, sigma=0.5, cost_s=0.020)),
        "report": (1.0, scan(), Values(rng, bytes_=3000, sigma=0.5, cost_s=0.020)),
        "rows": (2.0, zipf(rng, 20_000, 1.0), Values(rng, bytes_=800, sigma=0.8, cost_s=0.002)),
        "rounds": (0.5, loop(8000), Values(rng, bytes_=2000, sigma=0.5, cost_s=0.010)),
    }
    return mix("scan", rng, streams, count=count, budget_bytes=12 << 20)


def _shift(count: int, seed: int) -> Load:
    rng = random.Random(3 + seed)
    streams = {
        "news": (
            2.0, shifting(rng, 30_000, 1.0, every=8000, by=700), Values(rng, bytes_=2000, sigma=0.5, cost_s=0.050)
        ),
        "users": (
            1.0, shifting(rng, 20_000, 0.8, every=20_000, by=9000), Values(rng, bytes_=1500, sigma=0.5, cost_s=0.005)
        ),
        "rows": (1.0, zipf(rng, 20_000, 0.9), Values(rng, bytes_=800, sigma=0.5, cost_s=0.010)),
    }  # fmt: skip
    return mix("shift", rng, streams, count=count, budget_bytes=8 << 20)


def _diurnal(count: int, seed: int) -> Load:
    rng = random.Random(4 + seed)
    streams = {
        "day": (1.0, zipf(rng, 20_000, 0.9), Values(rng, bytes_=2000, sigma=0.5, cost_s=0.030)),
        "night": (1.0, zipf(rng, 20_000, 0.9), Values(rng, bytes_=2000, sigma=0.5, cost_s=0.030)),
        "always": (0.5, zipf(rng, 10_000, 0.8), Values(rng, bytes_=1000, sigma=0.5, cost_s=0.003)),
    }
    day_s = count / RATE / 4

    def share(now: float) -> list[float]:
        wave = math.sin(2 * math.pi * now / day_s)
        return [max(0.02, wave), max(0.02, -wave) * 0.5, 1.0]

    return mix("diurnal", rng, streams, count=count, budget_bytes=10 << 20, share=share)


def _mixture(count: int, seed: int) -> Load:
    rng = random.Random(5 + seed)
    streams = {
        "pages": (1.0, zipf(rng, 10_000, 0.8), Values(rng, bytes_=4000, sigma=1.5, cost_s=0.002, spread=1.0)),
        "models": (0.2, zipf(rng, 500, 0.7), Values(rng, bytes_=200_000, sigma=1.0, cost_s=0.200, spread=1.0)),
        "tokens": (2.0, zipf(rng, 40_000, 1.0), Values(rng, bytes_=400, sigma=1.2, cost_s=0.002, spread=1.0)),
        "answers": (1.0, zipf(rng, 10_000, 0.9), Values(rng, bytes_=3000, sigma=1.5, cost_s=0.200, spread=1.0)),
    }
    return mix("mixture", rng, streams, count=count, budget_bytes=24 << 20)


def _hot_small(count: int, seed: int) -> Load:
    rng = random.Random(6 + seed)
    streams = {
        "hot": (1.0, zipf(rng, 400, 0.6), Values(rng, bytes_=1000, sigma=0.3, cost_s=0.005)),
        "scan": (4.0, scan(), Values(rng, bytes_=4000, sigma=0.5, cost_s=0.050)),
        "answers": (1.0, zipf(rng, 10_000, 0.8), Values(rng, bytes_=2000, sigma=0.5, cost_s=0.050)),
    }
    return mix("hot beside scan", rng, streams, count=count, budget_bytes=5 << 20)


def _sessions(count: int, seed: int) -> Load:
    rng = random.Random(7 + seed)
    streams = {
        "chats": (2.0, sessions(rng, alive=1500, length=12), Values(rng, bytes_=4000, sigma=0.8, cost_s=0.050)),
        "users": (1.0, sessions(rng, alive=4000, length=30), Values(rng, bytes_=1000, sigma=0.5, cost_s=0.005)),
        "prompts": (1.0, zipf(rng, 10_000, 0.9), Values(rng, bytes_=2000, sigma=0.5, cost_s=0.020)),
    }
    return mix("sessions", rng, streams, count=count, budget_bytes=6 << 20)


LOADS: dict[str, Callable[[int, int], Load]] = {
    "zipf": _zipf,
    "scan": _scan,
    "shift": _shift,
    "diurnal": _diurnal,
    "mixture": _mixture,
    "hot": _hot_small,
    "sessions": _sessions,
}
