"""Services as numbers, for judging growth: thirteen that do not leak and nine that do, each seeded, no two alike.

Every load is drawn anew for each seed: sizes, rates, rhythms and noise over one to two orders of magnitude. A
collector's sawtooth, requests that hold memory while they run and white noise lie on all of them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from memguard.growth import Growth
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from memguard.findings import Verdict

    Numbers = NDArray[np.float64]
    Random = np.random.Generator

__all__ = ["CONTROLS", "LEAKS", "Load", "judged", "load"]

HOUR = 3600.0
DAY = 24 * HOUR
# Readings of a simulated service: a guard takes one a second, and a block has four.
STEP_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a guard would read, one entry per reading; ``leaks_at`` is when the leak begins."""

    at: Numbers
    used: Numbers
    held: Numbers
    requests: Numbers
    open: Numbers
    cpu_s: Numbers
    limit_bytes: float | None
    leaks_at: float = 0.0


class _Service:
    """A service's common part, to which each load adds its own."""

    def __init__(self, random: Random, hours: float, *, rate: Numbers | None = None, most_each: float = 6.3) -> None:
        self.random = random
        self.leaks_at: float = 0.0
        self.at: Numbers = np.arange(0.0, hours * HOUR, STEP_S)
        count = len(self.at)
        rate = np.full(count, 10 ** random.uniform(-0.5, 2)) if rate is None else rate
        self.requests: Numbers = np.cumsum(random.poisson(rate * STEP_S)).astype(float)
        self.open: Numbers = random.poisson(rate * 10 ** random.uniform(-2, 0)).astype(float)
        self.cpu_s: Numbers = np.zeros(count)
        self.held: Numbers = np.zeros(count)
        collector = (self.at / random.uniform(5, 300) + random.uniform()) % 1
        self.used: Numbers = (
            random.uniform(50, 400) * MIB
            + self.open * 10 ** random.uniform(3.5, most_each)
            + random.normal(size=count) * random.uniform(0.02, 1.0) * MIB
            + collector * random.uniform(0, 8) * MIB
        )

    def mib(self, low: float, high: float) -> float:
        return float(self.random.uniform(low, high)) * MIB

    def log(self, low: float, high: float) -> float:
        """Between two powers of ten, each order as likely."""
        return float(10 ** self.random.uniform(low, high))

    def leak(self, low: float, high: float, *, by_request: bool = False) -> None:
        """So many MiB an hour, as powers of ten."""
        share = self.requests / self.requests[-1] * self.at[-1] if by_request else self.at
        self.used += self.log(low, high) * MIB / HOUR * share


def _wandering(random: Random, count: int, memory_s: float) -> Numbers:
    """An AR(1) series of variance 1."""
    ratio = np.exp(-STEP_S / memory_s)
    shocks, found, value = random.normal(size=count) * np.sqrt(1 - ratio * ratio), np.empty(count), 0.0
    for place, shock in enumerate(shocks.tolist()):
        found[place] = value = ratio * value + shock
    return found


# --- no leaks ---------------------------------------------------------------------------------------------------------


def _flat(random: Random) -> _Service:
    return _Service(random, 24)


def _ar_noise(random: Random) -> _Service:
    service = _Service(random, 24)
    service.used += _wandering(random, len(service.at), service.log(1, 4)) * service.mib(1, 15)
    return service


def _distinct(keys: int, skew: float, asked: Numbers) -> Numbers:
    """How many keys of a Zipf-like popularity have been met after so many requests."""
    popularity = 1 / np.arange(1, keys + 1) ** skew
    popularity /= popularity.sum()
    ends = np.unique(np.logspace(0, np.log10(keys), 300).astype(int))
    begins = np.concatenate([[0], ends[:-1]])
    means = np.array([popularity[begin:end].mean() for begin, end in zip(begins, ends, strict=True)])
    knots = np.concatenate([[0.0], np.logspace(0, np.log10(max(10.0, asked[-1])), 80)])
    met = [float(((ends - begins) * (1 - np.exp(-means * knot))).sum()) for knot in knots]
    return np.asarray(np.interp(asked, knots, met))


def _filling(random: Random) -> _Service:
    """A bounded cache that nobody registered, 20 to 200 MiB."""
    service = _Service(random, 24)
    keys = int(service.log(3.5, 6))
    most = keys * service.log(-1.5, 0)
    met = _distinct(keys, float(random.uniform(0.6, 1.2)), service.requests)
    service.used += np.minimum(met, most) / most * service.mib(20, 200)
    return service


def _registered(random: Random) -> _Service:
    """A registered cache that fills by what was never met before, and takes up to a quarter more than it says."""
    service = _Service(random, 24)
    most = service.mib(20, 300)
    service.held = np.minimum(service.requests / service.requests[-1] * random.uniform(1.1, 20) * most, most)
    service.used += service.held * random.uniform(1.0, 1.25)
    return service


def _slow_fill(random: Random) -> _Service:
    service = _Service(random, 24)
    service.used += service.mib(3, 40) * np.log1p(service.at / service.log(1, 3.3))
    return service


def _warm_up(random: Random) -> _Service:
    service = _Service(random, 8)
    service.used += service.mib(20, 200) * -np.expm1(-service.at / service.log(1.5, 3.3))
    return service


def _step(random: Random) -> _Service:
    service = _Service(random, 12)
    for _ in range(random.integers(1, 4)):
        begin, lasts_s = random.uniform(0, 11 * HOUR), service.log(0, 2.5)
        service.used += service.mib(5, 120) * np.clip((service.at - begin) / lasts_s, 0, 1)
    return service


def _ratchet(random: Random) -> _Service:
    """The highest peak so far pins what it touched."""
    service = _Service(random, 24)
    peaks = np.maximum.accumulate(random.exponential(size=len(service.at) // 40 + 1)) * service.mib(3, 25)
    service.used += np.repeat(peaks, 40)[: len(service.at)]
    return service


def _sawtooth(random: Random) -> _Service:
    """Teeth of 1 to 40 minutes, uneven."""
    service = _Service(random, 24)
    period_s = service.log(1.8, 3.4)
    falls = np.concatenate([[0.0], np.cumsum(random.uniform(0.7, 1.3, size=int(DAY / period_s * 1.6) + 3) * period_s)])
    begins = falls[np.searchsorted(falls, service.at, side="right") - 1]
    service.used += service.mib(5, 100) * (service.at - begins) / period_s
    return service


def _daily(random: Random, hours: float) -> tuple[_Service, Numbers]:
    """A service whose load has a day, and that day from about 0 to 2."""
    at: Numbers = np.arange(0.0, hours * HOUR, STEP_S)
    first, second = random.uniform(0, 2 * np.pi, size=2)
    day = (
        1
        + random.uniform(0.2, 0.9) * np.sin(2 * np.pi * at / DAY + first)
        + 0.15 * np.sin(4 * np.pi * at / DAY + second)
    )
    rate = 10 ** random.uniform(0, 2) * np.maximum(0.02, day) * np.exp(_wandering(random, len(at), 600.0) * 0.08)
    service = _Service(random, hours, rate=rate, most_each=5.0)
    service.cpu_s = np.cumsum(rate / rate.mean() * STEP_S * 0.3)
    return service, day


def _diurnal(random: Random) -> _Service:
    """10 to 120 MiB follow the load, at once or up to half an hour later; a third tells requests, a third nothing."""
    service, day = _daily(random, 52)
    lag_s = float(random.choice([0, 60, 600, 1800]))
    service.used += service.mib(10, 120) * np.interp(service.at - lag_s, service.at, day)
    told = random.integers(0, 3)
    if told > 0:
        service.requests, service.open = np.zeros(len(service.at)), np.zeros(len(service.at))
    if told > 1:
        service.cpu_s = np.zeros(len(service.at))
    return service


def _bursts(random: Random) -> _Service:
    count = int(DAY / STEP_S)
    busy = np.zeros(count)
    for _ in range(random.integers(5, 60)):
        begin = random.integers(0, count)
        busy[begin : begin + int(10 ** random.uniform(0.3, 2.3))] = random.uniform(1, 10)
    service = _Service(random, 24, rate=10 ** random.uniform(0, 1.5) * (1 + busy))
    service.used += busy * service.mib(1, 20)
    return service


def _jobs(random: Random) -> _Service:
    """A job every 1 to 8 hours that grows for some minutes and lets go."""
    service = _Service(random, 24)
    every_s, lasts_s = random.uniform(1, 8) * HOUR, random.uniform(3, 40) * 60
    since = (service.at + random.uniform(0, every_s)) % every_s
    service.used += (
        np.clip(since / (lasts_s * random.uniform(0.1, 0.9)), 0, 1) * (since < lasts_s) * service.mib(10, 200)
    )
    return service


def _swap(random: Random) -> _Service:
    """Caches that are dropped and filled anew a few times a day."""
    service = _Service(random, 24)
    cuts = [0.0, *np.sort(random.uniform(0, DAY, size=random.integers(1, 6))), DAY]
    for begin, end in pairwise(cuts):
        here = (service.at >= begin) & (service.at < end)
        service.used[here] += service.mib(10, 150) * -np.expm1(-(service.at[here] - begin) / service.log(1.8, 3.8))
    return service


# --- leaks ------------------------------------------------------------------------------------------------------------


def _leak_per_request(random: Random) -> _Service:
    service = _Service(random, 24)
    service.leak(0.3, 2, by_request=True)
    return service


def _leak_per_time(random: Random) -> _Service:
    service = _Service(random, 24)
    service.leak(0.3, 2)
    return service


def _leak_and_day(random: Random) -> _Service:
    service, day = _daily(random, 96)
    service.used += service.mib(10, 60) * day
    service.leak(0.3, 1.5, by_request=True)
    return service


def _leak_and_cache(random: Random) -> _Service:
    service = _Service(random, 24)
    service.used += service.mib(20, 150) * -np.expm1(-service.at / service.log(2.3, 3.6))
    service.leak(0.5, 2, by_request=True)
    return service


def _leak_and_registered(random: Random) -> _Service:
    service = _registered(random)
    service.leak(0.5, 2, by_request=True)
    return service


def _leak_and_sawtooth(random: Random) -> _Service:
    service = _sawtooth(random)
    service.leak(0.7, 2)
    return service


def _leak_and_noise(random: Random) -> _Service:
    service = _ar_noise(random)
    service.leak(1, 2)
    return service


def _leak_later(random: Random) -> _Service:
    """A leak that begins after 5 to 30 hours."""
    service = _Service(random, 40)
    service.leaks_at = float(random.uniform(5, 30)) * HOUR
    service.used += service.log(0.5, 2) * MIB / HOUR * np.maximum(0.0, service.at - service.leaks_at)
    return service


def _leak_of_unknown_load(random: Random) -> _Service:
    service = _Service(random, 60)
    service.requests, service.open = np.zeros(len(service.at)), np.zeros(len(service.at))
    service.leak(0.3, 2)
    return service


CONTROLS: dict[str, Callable[[Random], _Service]] = {
    "flat": _flat,
    "AR noise": _ar_noise,
    "filling cache": _filling,
    "filling registered cache": _registered,
    "slow logarithmic fill": _slow_fill,
    "warm-up": _warm_up,
    "step": _step,
    "fragmentation ratchet": _ratchet,
    "sawtooth": _sawtooth,
    "diurnal load": _diurnal,
    "request bursts": _bursts,
    "periodic jobs": _jobs,
    "cache swap": _swap,
}
"""Services that do not leak."""

LEAKS: dict[str, Callable[[Random], _Service]] = {
    "per request": _leak_per_request,
    "per time": _leak_per_time,
    "with a diurnal load": _leak_and_day,
    "with a cache that fills": _leak_and_cache,
    "with a registered cache": _leak_and_registered,
    "under a sawtooth": _leak_and_sawtooth,
    "in AR noise": _leak_and_noise,
    "that begins later": _leak_later,
    "where no load is known": _leak_of_unknown_load,
}
"""Services that leak."""


def load(name: str, seed: int) -> Load:
    """One service of that name; a quarter of those that do not leak have no limit."""
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    leaks = name in LEAKS
    service = (LEAKS[name] if leaks else CONTROLS[name])(random)
    limited, room = random.integers(0, 4) > 0, float(random.uniform(1.1, 2.5))
    peak = float(service.used.max())
    limit_bytes = 1.05 * peak if leaks else peak * room if limited else None
    return Load(
        at=service.at, used=np.maximum(service.used, MIB), held=service.held, requests=service.requests,
        open=service.open, cpu_s=service.cpu_s, limit_bytes=limit_bytes, leaks_at=service.leaks_at,
    )  # fmt: skip


def judged(run: Load, *, every_s: float, patience_s: float = HOUR) -> Iterator[tuple[float, Verdict]]:
    """The verdicts of a run, about so many seconds apart and never in step with anything."""
    growth, due_at, random = Growth(), every_s, np.random.default_rng(1)
    columns = (run.at, run.used, run.held, run.requests, run.open, run.cpu_s)
    for at, used, held, requests, open_, cpu_s in zip(*(column.tolist() for column in columns), strict=True):
        growth.note(at, used_bytes=used, held_bytes=held, requests=requests, cpu_s=cpu_s, open=open_)
        if at >= due_at:
            due_at = at + every_s * random.uniform(0.5, 1.5)
            while growth.examine(patience_s=patience_s):
                pass
            yield at, growth.verdict(limit_bytes=run.limit_bytes, patience_s=patience_s)
