"""Limits of states: each, in all, and what the user's own function and a full disk make of them."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from memguard import sizeof
from memguard.agents import volume as volumes
from memguard.agents.states import States
from memguard.errors import StateTooLarge
from memguard.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KIB, MIB = 1 << 10, 1 << 20


def talk(number: int = 0, turns: int = 200) -> list[str]:
    """A conversation; packing it pays."""
    return [f"line {n} of talk {number}, which is a line like any other" for n in range(turns)]


def noise(size: int) -> np.ndarray[Any, Any]:
    """What no codec shrinks."""
    return np.random.default_rng(1).random(size // 8)


def last_ten(state: list[str]) -> list[str]:
    """What users write."""
    return state[-10:]


# --- one state ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_small_enough_is_refused() -> None:
    """An array above the limit that no codec shrinks: a clear error with numbers and the mend; nothing else changed."""
    states: States[Any] = States("beliefs", max_bytes_each="100KiB")
    states["a"] = 1
    for key in ("a", "b"):
        with pytest.raises(
            StateTooLarge, match=r"'. ?' of 'beliefs'|of 'beliefs' has 19\d.\d KiB.*100.0 KiB.*compact="
        ) as info:
            states[key] = noise(200_000)
        assert (info.value.state, info.value.limit_bytes) == (key, 100 * KIB)
        assert info.value.size_bytes > 190_000
    assert dict(states) == {"a": 1}


def test_without_compacting_the_limit_is_the_limit() -> None:
    """With ``compact=False`` what is too large is refused though it would shrink, and nothing is ever packed."""
    states: States[Any] = States(max_bytes_each="10KiB", compact=False, spill=False)
    with pytest.raises(StateTooLarge, match="compact=False"):
        states["a"] = talk()
    states["b"] = talk(turns=50)
    assert states.pack() == 0
    assert states.spill() == 0
    assert states.figures().live == 1


def test_what_shrinks_is_packed_as_soon_as_its_owner_lets_go() -> None:
    """A state above its limit that packs below it is taken; it stays its owner's object, then is packed."""
    clock = FakeClock()
    states: States[Any] = States(max_bytes_each="10KiB", clock=clock)
    mine = talk()
    assert sizeof(mine) > 10 * KIB
    states["a"] = mine
    states["b"] = 1
    assert states["a"] is mine
    mine.append("more")
    del mine
    clock.advance(2)
    states["b"] = 2
    assert {row.id: row.stored for row in states.rows()} == {"a": "packed", "b": "live"}
    assert states["a"] == [*talk(), "more"]
    states["b"] = 3
    assert {row.id: row.stored for row in states.rows()} == {"a": "packed", "b": "live"}


def test_the_users_function_shortens_at_once() -> None:
    """A put above the limit keeps what the function makes of it; below the limit it is not called."""
    states: States[list[str]] = States(max_bytes_each="10KiB", compact=last_ten)
    whole = talk()
    states["long"] = whole
    states["short"] = talk(turns=50)
    assert states["long"] == talk()[-10:]
    assert states["short"] == talk(turns=50)
    assert len(whole) == 200


def test_growing_in_place_is_shortened_too() -> None:
    """A state that grew by turns is shortened when nobody refers to it, not under its owner."""
    clock = FakeClock()
    states: States[list[str]] = States(max_bytes_each="10KiB", compact=last_ten, clock=clock)
    states["a"] = []
    for turn in range(400):
        clock.advance(1)
        with states.lease("a") as lines:
            lines.append(f"line {turn} of a talk that goes on and on and on")
            assert len(lines) == 1 or lines[-2].startswith(f"line {turn - 1} ")
        del lines
        assert sizeof(states["a"]) < 12 * KIB
    assert states["a"][-1].startswith("line 399")
    assert len(states["a"]) > 10


def test_pressure_does_not_call_it() -> None:
    """Below the limit nothing is shortened, however much memory is asked for."""
    states: States[list[str]] = States(compact=last_ten)
    states["a"] = talk()
    states.pack()
    states.spill()
    states.move()
    assert states["a"] == talk()


def raises(_: list[str]) -> list[str]:
    """Fails."""
    raise ZeroDivisionError("oops")


def grows(state: list[str]) -> list[str]:
    """Makes it larger."""
    return [*state, *state]


def spoils(state: list[str]) -> None:
    """In place, as list.sort does."""
    del state[:-10]


def spoils_and_raises(state: list[str]) -> list[str]:
    """Empties what it is given, and fails."""
    state.clear()
    raise ZeroDivisionError("oops")


def same_again(state: list[str]) -> list[str]:
    """Does nothing."""
    return state


async def waits(state: list[str]) -> list[str]:
    """Would shorten it, if somebody awaited that."""
    return state[-10:]


def yields(state: list[str]) -> Iterator[str]:
    """Would shorten it, if somebody iterated."""
    yield from state[-10:]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (raises, "ZeroDivisionError: oops"),
        (grows, "compact() made"),
        (spoils, "returned None"),
        (spoils_and_raises, "ZeroDivisionError: oops"),
        (same_again, "compact() made"),
        (waits, "returned a coroutine"),
        (yields, "returned a generator"),
    ],
)
def test_a_function_that_is_no_good(function: Callable[[Any], Any], words: str) -> None:
    """One that raises, makes it larger, or changes what it is given: the original is kept whole, and it is reported."""
    told: list[Any] = []
    states: States[Any] = States("talks", max_bytes_each="10KiB", compact=function, tell=told.append)
    states["a"] = talk()
    assert states["a"] == talk()
    assert words in states.reports[0].text
    assert (states.reports[0].state, states.reports[0].kind) == ("a", "compact")
    assert words in told[0].text
    states["b"] = 1
    assert states.figures().packed == 1, "the codec makes it small enough"
    assert states["a"] == talk()
    with pytest.raises(StateTooLarge):
        states["c"] = list(noise(400_000))
    assert "c" not in states


def test_a_function_in_place_that_returns_it() -> None:
    """Changing the copy and returning it is a fine way of making it smaller; the caller's own object is as it was."""

    def shorten(state: list[str]) -> list[str]:
        del state[:-10]
        return state

    states: States[list[str]] = States(max_bytes_each="10KiB", compact=shorten)
    whole = talk()
    states["a"] = whole
    assert states["a"] == talk()[-10:]
    assert whole == talk()


def test_what_cannot_be_copied_is_not_shortened() -> None:
    """A state that cannot be pickled is not given to the function; too large as it is, it is refused."""
    states: States[Any] = States(max_bytes_each="10KiB", compact=last_ten)
    with pytest.raises(StateTooLarge, match="cannot be pickled"):
        states["a"] = [*talk(), lambda: 0]
    assert "copy" in states.reports[0].text


def test_one_that_grew_beyond_help() -> None:
    """A state that grew in place and cannot be made small enough is kept, and reported."""
    clock = FakeClock()
    states: States[Any] = States(max_bytes_each="50KiB", clock=clock)
    states["a"] = {"noise": noise(1000)}
    with states.lease("a") as state:
        state["noise"] = noise(100_000)
        state["lines"] = talk(turns=2000)
    del state
    clock.advance(2)
    states["b"] = 1
    assert states.reports[-1].kind == "too large"
    assert states["a"]["noise"].nbytes == 100_000
    assert states["a"]["lines"] == talk(turns=2000)


def test_lowering_a_limit() -> None:
    """A limit may be lowered at any time; ``compact()`` then makes smaller what is over it, and says by how much."""
    states: States[list[str]] = States(compact=last_ten)
    for number in range(10):
        states[str(number)] = talk(number)
    assert states.compact() == 0
    states.max_bytes_each = "10KiB"
    freed = states.compact()
    assert freed > 10 * 9 * KIB
    assert [states[str(number)] for number in range(10)] == [talk(number)[-10:] for number in range(10)]
    states.max_bytes_each = None
    states["long"] = talk()
    assert len(states["long"]) == 200


def test_switching_compacting_off() -> None:
    """``compacts = False`` stops packing and shortening while running; True brings both back."""
    states: States[list[str]] = States(max_bytes_each="10KiB", compact=last_ten, spill=False)
    states.compacts = False
    with pytest.raises(StateTooLarge):
        states["a"] = talk()
    states["a"] = talk(turns=50)
    assert (states.pack(), states.rungs[0].size()) == (0, 0)
    states.compacts = True
    states["b"] = talk()
    assert len(states["b"]) == 10
    assert states.pack() > 0


@pytest.mark.parametrize("floats", ["float32", "float16"])
def test_floats_lose_digits_only_when_asked(floats: Any) -> None:
    """By default a belief comes back bit for bit; with ``floats`` it is half or a quarter as large, and close."""
    exact: States[Any] = States()
    narrow: States[Any] = States(floats=floats)
    for states in (exact, narrow):
        states["belief"] = {"A": [noise(80_000), noise(800)]}
        states.pack()
        states.spill()
    assert exact["belief"]["A"][0].tobytes() == noise(80_000).tobytes()
    assert narrow.figures().spilled_bytes < exact.figures().spilled_bytes + 80_000 * (
        0.55 if floats == "float32" else 0.3
    )
    assert narrow["belief"]["A"][0].dtype == np.float64
    assert np.allclose(narrow["belief"]["A"][0], noise(80_000), atol=1e-3)


# --- all of them ----------------------------------------------------------------------------------------------------


def test_least_recently_used_goes_first() -> None:
    """Above the limit in all the coldest are packed; reading is use, looking whether it is there is not."""
    clock = FakeClock()
    states: States[Any] = States(max_bytes="200KiB", clock=clock)
    for number in range(8):
        states[str(number)] = talk(number)
        clock.advance(1)
    for key in ("0", "2"):
        assert states[key]
        clock.advance(1)
    assert "1" in states
    while states.figures().packed < 3:
        states[f"more {clock()}"] = talk()
        clock.advance(1)
    assert sorted(row.id for row in states.rows() if row.stored == "packed")[:3] == ["1", "3", "4"]
    assert states.bytes <= 200 * KIB


def test_what_does_not_fit_in_memory_goes_to_disk() -> None:
    """Far more than the limit in all: packed first, then spilled, and everything comes out equal."""
    states: States[Any] = States(max_bytes="100KiB")
    for number in range(400):
        states[str(number)] = talk(number)
        assert states.bytes <= 100 * KIB
    figures = states.figures()
    assert min(figures.live, figures.packed, figures.spilled) > 0
    for number in range(400):
        assert states[str(number)] == talk(number)
        assert states.bytes <= 120 * KIB


def test_no_room_at_all() -> None:
    """What is in use, or cannot be packed, cannot make room: the put is refused, and all that was there stays."""
    clock = FakeClock()
    states: States[Any] = States("talks", max_bytes="70KiB", spill=False, clock=clock)
    mine = [talk(number) for number in range(3)]
    for number, state in enumerate(mine):
        states[str(number)] = state
    with pytest.raises(
        StateTooLarge, match=r"'new'.*'talks' holds .* of max_bytes=70.0 KiB.*in use.*raise max_bytes"
    ) as info:
        states["new"] = talk(9)
    assert (info.value.state, info.value.limit_bytes) == ("new", 70 * KIB)
    assert [states[str(number)] for number in range(3)] == mine
    del state, mine
    gc.collect()
    states["new"] = talk(9)
    assert len(states) == 4


def test_one_larger_than_all_may_be() -> None:
    """A state larger than the limit in all is refused without packing the others in vain."""
    states: States[Any] = States(max_bytes="50KiB")
    states["a"] = talk()
    with pytest.raises(StateTooLarge):
        states["b"] = noise(100_000)
    assert states.figures().live == 1


def test_replacing_counts_what_leaves() -> None:
    """Putting over a state needs room for the difference alone, wherever the old one is."""
    states: States[Any] = States(max_bytes="30KiB", spill=False)
    for _ in range(5):
        states["a"] = talk()
        states.pack()
    for _ in range(5):
        states["a"] = talk()
    assert len(states) == 1


def test_lowering_the_limit_in_all() -> None:
    """It takes effect at once."""
    states: States[Any] = States()
    for number in range(20):
        states[str(number)] = talk(number)
    states.max_bytes = "50KiB"
    assert states.bytes <= 50 * KIB
    assert all(states[str(number)] == talk(number) for number in range(20))


# --- the disk -------------------------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written: states stay in memory, it is reported, not offered for a while, and tried again later."""
    told: list[Any] = []
    clock = FakeClock()
    states: States[Any] = States("talks", tell=told.append, clock=clock)
    for number in range(10):
        states[str(number)] = talk(number)
    states.pack(1)
    writes = []

    def full(*_: object) -> None:
        writes.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(volumes.Volume, "write", full)
        assert states.spill() == 0
        assert states.spill() == 0
        assert states.rungs[1].size() == 0
    assert len(writes) == 1
    assert "No space left" in told[0].text
    assert states.figures().spilled == 0
    assert all(states[str(number)] == talk(number) for number in range(10))
    clock.advance(6)
    assert states.spill() > 0
    assert states.figures().spilled == 10


def test_a_failure_keeps_nothing_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that failed leaves no error behind that holds what callers had in hand, though nobody collects garbage."""
    clock = FakeClock()
    states: States[Any] = States(clock=clock)
    states["a"] = talk(1)
    states["b"] = talk(2)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def use() -> None:
        mine = states["a"]
        states.spill()
        assert len(mine) == 200

    gc.disable()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(volumes.Volume, "write", full)
            use()
        clock.advance(10)
        states.spill()
        assert states.figures().spilled == 2
    finally:
        gc.enable()


def test_a_quota_that_is_used_up() -> None:
    """What the quota does not take stays in memory, and the guard is offered no more than it takes."""
    states: States[Any] = States("talks", spill_max_bytes="20KiB")
    for number in range(100):
        states[str(number)] = talk(number)
    states.pack()
    offered = states.rungs[1].size()
    assert offered is not None
    assert offered <= 20 * KIB
    states.spill()
    figures = states.figures()
    assert 0 < figures.spilled_bytes <= 20 * KIB
    assert figures.packed > 0
    assert states.reports[-1].kind == "disk"
    assert all(states[str(number)] == talk(number) for number in range(100))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="RLIMIT_FSIZE")
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """A real limit of the system on file sizes (RLIMIT_FSIZE): told, nothing lost."""
    program = textwrap.dedent(f"""
        import resource, random
        from memguard.agents.states import States
        states = States(spill={str(tmp_path)!r})
        data = [random.Random(n).randbytes(100_000) for n in range(20)]
        for n in range(20):
            states[str(n)] = [bytearray(data[n])]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        states.spill()
        figures = states.figures()
        assert figures.spilled and figures.live, figures
        assert states.reports[-1].kind == "disk", states.reports
        assert all(states[str(n)] == [data[n]] for n in range(20))
        print(states.reports[-1].text)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "full" in done.stdout or "I/O" in done.stdout


def test_everything_ends_with_the_process(tmp_path: Path) -> None:
    """A process that ends, by itself or in the middle of a put, leaves no file behind."""
    program = textwrap.dedent(f"""
        import os, sys
        from memguard.agents.states import States
        states = States(spill={str(tmp_path)!r})
        for n in range(50):
            states[str(n)] = ["text " * 1000, n]
        states.spill()
        assert states.figures().spilled == 50
        if sys.argv[1] == "killed": os.kill(os.getpid(), 9)
    """)
    for end, status in (("exit", 0), ("killed", -9)):
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", program, end],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (status, "")
        assert list(tmp_path.iterdir()) == []
