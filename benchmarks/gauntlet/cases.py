"""The gauntlet's hostile loads: what is asked, and what happens around the service meanwhile."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client import Asked

from memguard.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CASES", "Case"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One load; ``around`` names what the harness does besides, ``trouble`` which part of memguard fails."""

    name: str
    words: str
    load: Callable[[], list[Asked]]
    limit_bytes: int = 256 * MIB
    workers: int = 1
    around: str = ""
    trouble: str = ""
    peers: bool = True
    calm: bool = False
    """Nothing may be shed or refused: the pressure is none."""
    floor_bytes: int = 0
    """The limit that holds in the end, where it changes."""
    around_s: float = 2.0
    """When what happens around begins, in seconds."""
    survivable: bool = True


def _light(seconds: float, rate: float = 10.0) -> list[Asked]:
    return [Asked(number / rate, "/small", light=True) for number in range(int(seconds * rate))]


def _mixed(*parts: list[Asked]) -> list[Asked]:
    return sorted((asked for part in parts for asked in part), key=lambda asked: asked.due_s)


def _answers(seconds: float, rate: float, kib: int, keys: int = 1_000_000) -> list[Asked]:
    draw = random.Random(1)
    return [Asked(number / rate, f"/answers/{draw.randrange(keys)}?kib={kib}") for number in range(int(seconds * rate))]


def _holding(seconds: float, rate: float, kib: int, held_s: float) -> list[Asked]:
    path = f"/hold?kib={kib}&hold_s={held_s}"
    return [Asked(number / rate, path, held_bytes=kib * KIB, held_s=held_s) for number in range(int(seconds * rate))]


def cache() -> list[Asked]:
    """30 MiB a second of answers that stay."""
    return _mixed(_answers(10, 60, 512), _light(10))


def burst() -> list[Asked]:
    """All at once: 300 requests that hold 2 MiB for a second."""
    at_once = [Asked(2.0 + asked.due_s, *asked[1:]) for asked in _holding(1, 300, 2048, 1.0)]
    return _mixed(at_once, _light(8))


def bodies() -> list[Asked]:
    """Documents of 6 MiB, six at a time, while light requests go on."""
    record = {"id": 1, "name": "agent", "score": 0.5, "tags": ["a", "b"]}
    body = json.dumps({"records": [record] * (6 * MIB // (len(json.dumps(record)) + 2))}).encode()
    return _mixed([Asked(1.0 + 1.5 * turn, "/documents", body) for turn in range(8) for _ in range(6)], _light(13))


def stampede() -> list[Asked]:
    """60 agents a second that hold 1 MiB for 6 s: 360 MiB are wanted."""
    return _mixed(_holding(12, 60, 1024, 6.0), _light(12))


def sockets() -> list[Asked]:
    """60 websockets a second that hold 1 MiB for 5 s."""
    opened = [Asked(number / 60, "/socket?kib=1024", held_bytes=MIB, held_s=5.0, socket=True) for number in range(480)]
    return _mixed(opened, _light(8))


def scattered() -> list[Asked]:
    """Every request makes 20,000 small objects, of which a tenth stays."""
    return _mixed([Asked(number / 20, f"/scatter/{number}?count=20000") for number in range(340)], _light(17))


def lumps() -> list[Asked]:
    """C calls that take 50 to 110 MB at once, beside a cache that grows by 15 MiB a second."""
    draw = random.Random(2)
    calls = [Asked(1 + 0.7 * number, f"/lump?mb={draw.randint(50, 110)}") for number in range(13)]
    return _mixed(calls, _answers(10, 30, 512), _light(10))


def leak() -> list[Asked]:
    """2 MB a second that nothing can give back."""
    leaking = [Asked(number / 40, "/leak?kib=50&hold_s=0.03") for number in range(100 * 40)]
    return _mixed(leaking, _light(100))


def small() -> list[Asked]:
    """A cache that fits, asked again and again."""
    return _mixed(_answers(12, 40, 64, keys=300), _light(12))


def hogs() -> list[Asked]:
    """The growing cache, while six threads compute and never wait."""
    return _mixed(cache(), [Asked(3.0, "/hog?rounds=6000000") for _ in range(6)])


def states() -> list[Asked]:
    """States of 256 KiB that cannot be compressed: 40 a second, read again at random."""
    draw = random.Random(3)
    made = [Asked(number / 40, f"/states/{number}?kib=256", held_bytes=256 * KIB, held_s=99.0) for number in range(400)]
    again = [Asked(5 + number / 20, f"/states/{draw.randrange(60)}?kib=256") for number in range(100)]
    return _mixed(made, again)


CASES: tuple[Case, ...] = (
    Case(name="growing cache", words="answers stay: 30 MiB/s", load=cache),
    Case(name="burst", words="300 requests of 2 MiB for 1 s, at once", load=burst),
    Case(name="large bodies", words="6 documents of 6 MiB at a time, every 1.5 s", load=bodies),
    Case(name="agent stampede", words="60/s hold 1 MiB for 6 s", load=stampede),
    Case(name="websocket flood", words="60/s hold 1 MiB for 5 s", load=sockets),
    Case(name="fragmenting", words="20,000 small objects a request, a tenth stays", load=scattered),
    Case(name="lumpy C calls", words="50 to 110 MB in one call, beside a growing cache", load=lumps),
    Case(
        name="limit lowered", words="from 384 to 224 MiB after 3 s", load=cache, limit_bytes=384 * MIB, around="lower",
        around_s=3.0, floor_bytes=224 * MIB,
    ),
    Case(
        name="limit lowered to what is used", words="from 384 to 200 MiB when 200 are used", load=cache, peers=False,
        limit_bytes=384 * MIB, around="lower", around_s=4.5, floor_bytes=200 * MIB, survivable=False,
    ),
    Case(
        name="several workers", words="3 workers, one limit, growing caches", load=cache, limit_bytes=384 * MIB,
        workers=3,
    ),
    Case(name="slow leak", words="2 MB/s leak, 2 workers, 100 s", load=leak, limit_bytes=256 * MIB, workers=2),
    Case(
        name="page-cache flood", words="a neighbour in the group writes 800 MB", load=small, around="pages",
        peers=False, calm=True,
    ),
    Case(name="clock jumps", words="the guard's clock jumps +1 h, then -2 h", load=cache, trouble="clock", peers=False),
    Case(name="guard starved", words="6 threads compute, the cache grows", load=hogs, peers=False),
    Case(
        name="disk full", words="states with spill and history on a full disk", load=states, trouble="disk",
        limit_bytes=132 * MIB,
        peers=False,
    ),
    Case(name="store down", words="history in a PostgreSQL that is not there", load=cache, trouble="store",
        peers=False),
)  # fmt: skip
