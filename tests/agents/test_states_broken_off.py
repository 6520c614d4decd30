"""Whatever line an interruption hits, no state is lost: the n-th line fails, for every n (or every few)."""

from __future__ import annotations

import linecache
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import memguard.agents
from memguard.agents.states import States

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

# MEMGUARD_SOAK=1 breaks off at each single line.
SOAK = bool(os.environ.get("MEMGUARD_SOAK"))
ROOM = str(Path(memguard.agents.__file__).parent)


class BrokenOff(BaseException):
    """As KeyboardInterrupt, which would end the tests too."""


def talk(number: int) -> dict[str, Any]:
    """A conversation; packing it pays."""
    return {"id": number, "lines": [f"line {n} of talk {number}" for n in range(40)]}


def made() -> States[Any]:
    """Six states: on disk, packed, and objects."""
    states: States[Any] = States("broken", max_bytes_each="64KiB", max_bytes="1MiB")
    for number in range(6):
        states[f"t{number}"] = talk(number)
    states.pack(1)
    states.pack(1)
    states._upkeep.spill_cold(1)
    assert {row.stored for row in states.rows()} == {"live", "packed", "spilled"}
    return states


def broken_at(count: int, work: Callable[[], object]) -> bool:
    """Do something that fails at so many lines of our room; whether it came to its end before."""
    left = count

    def each(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if event == "line":
            # CPython takes no interrupt between a block's last line and the call that ends it.
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
            if not line.startswith("with self._lock"):
                left -= 1
                if left == 0:
                    sys.settrace(None)
                    raise BrokenOff
        return each

    def enter(frame: FrameType, *_: object) -> Any:
        caller = frame.f_back
        dying = "__del__" in {frame.f_code.co_name, caller.f_code.co_name if caller else ""}
        return each if frame.f_code.co_filename.startswith(ROOM) and not dying else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        work()
    except BrokenOff:
        return False
    finally:
        sys.settrace(before)
    return True


def lease(states: States[Any]) -> None:
    """Change a packed one under a lease."""
    with states.lease("t1") as state:
        state["x"] = 1


def put(states: States[Any]) -> None:
    """Put over one that is on disk."""
    states["t0"] = talk(100)


def put_new(states: States[Any]) -> None:
    """Put another."""
    states["new"] = talk(100)


def limit(states: States[Any]) -> None:
    """Leave little room."""
    states.max_bytes = "12KiB"


GONE: Any = None
# What is done, every how many lines it is broken off, and what may be there instead of what was.
CASES: dict[str, tuple[Callable[[States[Any]], object], int, dict[str, Any]]] = {
    "put": (put, 1, {"t0": talk(100)}),
    "put new": (put_new, 1, {"new": talk(100)}),
    "get live": (lambda states: states["t5"], 1, {}),
    "get packed": (lambda states: states["t1"], 2, {}),
    "get spilled": (lambda states: states["t0"], 3, {}),
    "delete packed": (lambda states: states.__delitem__("t1"), 2, {"t1": GONE}),
    "delete spilled": (lambda states: states.__delitem__("t0"), 2, {"t0": GONE}),
    "pop": (lambda states: states.pop("t1"), 3, {"t1": GONE}),
    "lease": (lease, 3, {"t1": {**talk(1), "x": 1}}),
    "pack": (lambda states: states.pack(1), 5, {}),
    "pack all": (lambda states: states.pack(), 17, {}),
    "spill": (lambda states: states.spill(), 17, {}),
    "move": (lambda states: states.move(), 17, {}),
    "limit": (limit, 17, {}),
}


@pytest.mark.parametrize(("work", "stride", "changes"), CASES.values(), ids=CASES)
def test_broken_off_anywhere(work: Callable[[States[Any]], object], stride: int, changes: dict[str, Any]) -> None:
    """A change that is broken off has happened or has not; everything else is as it was, and works on."""
    count, ended = 1, False
    while not ended:
        states = made()
        ended = broken_at(count, lambda: work(states))  # noqa: B023 - called at once
        for _ in range(2):
            for key in ("new", *(f"t{number}" for number in range(6))):
                was = GONE if key == "new" else talk(int(key[1:]))
                assert states.get(key) in (was, changes.get(key, was)), f"{key} after line {count}"
            assert len(states) == len(list(states)) == len(set(states)) >= 5
            states.pack()
            states.spill()
        if ended:
            assert not states._keeping.pins
        assert not states._keeping._busy
        accounted = states._keeping.live_bytes
        states._keeping.recount()
        assert accounted == states._keeping.live_bytes
        states.close()
        count += 1 if SOAK else stride
    assert count > 3
