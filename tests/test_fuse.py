"""The fuse: where it stands, when it is armed, and that everything is put back."""

from __future__ import annotations

import _thread
import contextlib
import gc
import os
import resource
import subprocess
import sys
import time
import weakref
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.errors import AdmissionRefused, RulesError
from memguard.fuse import reckoning, rolling
from memguard.fuse.letting_go import out_of_memory, release
from memguard.fuse.reckoning import Reckoning, fuse_bytes
from memguard.fuse.rolling import DEADLY, Fuse
from memguard.guard import Guard
from memguard.probes.limits import find_limits
from memguard.roster import Roster
from memguard.rules import Rules
from memguard.testing import FakeClock, FakeHolder, FakeMemory
from memguard.units import GIB, MIB
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.model import Event

ROOT = Path(__file__).resolve().parents[1]
DATA = resource.RLIMIT_DATA
# So far away that this process never meets it.
FAR_BYTES = 64 * GIB


@pytest.fixture(autouse=True)
def put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No deadly module is loaded as far as the fuse knows, and every test leaves the limit as it found it."""
    before = resource.getrlimit(DATA)
    monkeypatch.setattr(rolling, "DEADLY", ("memguard_deadly",))
    yield
    after = resource.getrlimit(DATA)
    resource.setrlimit(DATA, before)
    assert after == before


class World:
    """A fuse with a room that the test sets, and what it told."""

    def __init__(self, **options: Any) -> None:
        self.room: Any = FAR_BYTES
        self.told: list[Event] = []
        self.fuse = Fuse(room=self.look, tell=self.told.append, clock=lambda: 0.0, **options)

    def look(self) -> int | None:
        if isinstance(self.room, Exception):
            raise self.room
        room: int | None = self.room
        return room

    def names(self) -> list[str]:
        return [event.name for event in self.told]


@pytest.fixture
def world() -> Iterator[World]:
    """A fuse that is put out after the test."""
    made = World()
    yield made
    made.fuse.disarm()


def soft() -> int:
    """The soft RLIMIT_DATA of this process now."""
    return resource.getrlimit(DATA)[0]


# --- where it stands --------------------------------------------------------------------------------------------------

AMOUNT = st.integers(0, 1 << 44)


@given(fits=AMOUNT, cpus=st.integers(1, 512))
def test_all_that_is_mapped_fits(fits: int, cpus: int) -> None:
    """If everything that it allows became resident, at least 12 MiB would be left, and more with more processors."""
    allowed = fuse_bytes(fits_bytes=fits, stacks_bytes=0, cpus=cpus)
    assert fits - allowed >= max(8 * MIB, cpus * MIB // 4) + 4 * MIB + fits // 256


def test_stacks_are_no_gap() -> None:
    """Forty thread stacks that nobody fills do not use the room up."""
    bare = fuse_bytes(fits_bytes=400 * MIB, stacks_bytes=0, cpus=2)
    assert fuse_bytes(fits_bytes=400 * MIB, stacks_bytes=280 * MIB, cpus=2) == bare + 280 * MIB


class Machine:
    """A process under a limit of 1 GiB whose threads may come between two reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.resident, self.others, self.at, self.threads = 100 * MIB, 50 * MIB, 0.0, 0
        self.between: list[tuple[int, int]] = []  # what resident memory becomes before and after the room is read
        self.reckoning = Reckoning(room=self.room, clock=lambda: self.at)
        monkeypatch.setattr(self.reckoning, "look", lambda: (GIB, self.resident))
        monkeypatch.setattr(time, "perf_counter", lambda: self.at)
        monkeypatch.setattr(reckoning, "_stack_bytes", lambda: 7 * MIB)
        monkeypatch.setattr(_thread, "_count", lambda: self.threads)

    def room(self) -> int:
        before, after = self.between.pop(0) if self.between else (self.resident, self.resident)
        self.at += 0.01 if (before, after) != (self.resident, self.resident) else 0.0
        self.resident = before
        room = GIB - self.others - self.resident
        self.resident = after
        return room

    def place(self) -> int:
        """Where it belongs if nobody came between."""
        return fuse_bytes(fits_bytes=GIB - self.others, stacks_bytes=0, cpus=os.cpu_count() or 1)


def test_own_growth_does_not_move_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process itself gains and loses changes nothing; what others take does, at once."""
    machine = Machine(monkeypatch)
    assert machine.reckoning.begin() == machine.place()
    for machine.resident in (500 * MIB, 20 * MIB, 900 * MIB):
        assert machine.reckoning.next() == machine.place()
    machine.others = 200 * MIB
    assert machine.reckoning.next() == machine.place()


def test_interrupted_readings_never_raise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that goes between two reads looks like room that is not there; such a reading is not believed."""
    machine = Machine(monkeypatch)
    machine.reckoning.begin()
    machine.between = [(50 * MIB, 50 * MIB), (10 * MIB, 300 * MIB), (5 * MIB, 300 * MIB)]
    for _ in range(3):
        assert machine.reckoning.next() == machine.place()


def test_interrupted_readings_lower_it_when_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even read in the best light there is less room: others took it."""
    machine = Machine(monkeypatch)
    machine.reckoning.begin()
    machine.others = 300 * MIB
    machine.between = [(120 * MIB, 110 * MIB)]
    lowered = machine.reckoning.next()
    assert lowered is not None
    assert abs(lowered - machine.place()) < 30 * MIB


def test_many_interrupted_readings_that_agree_raise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose threads always compete gets the room back that a child has left."""
    machine = Machine(monkeypatch)
    first = machine.reckoning.begin()
    assert first is not None
    machine.others = 10 * MIB
    machine.between = [(MIB * (100 + number % 2), MIB * (100 + (number + 1) % 2)) for number in range(16)]
    places = [machine.reckoning.next() or 0 for _ in range(16)]
    assert set(places[:15]) == {first}
    assert first < places[15] <= machine.place()


def test_only_threads_that_stay_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack of a thread that may end soon is not reckoned with."""
    machine = Machine(monkeypatch)
    machine.threads = 40
    machine.reckoning.begin()
    assert machine.reckoning.next() == machine.place()
    for machine.at in (5.1, 10.3, 15.5):
        settled = machine.reckoning.next()
    assert settled == machine.place() + 40 * 7 * MIB
    machine.threads = 10
    assert machine.reckoning.next() == machine.place() + 10 * 7 * MIB
    machine.threads = 40
    machine.at = 16.0
    assert machine.reckoning.next() == machine.place() + 10 * 7 * MIB


# --- arming -----------------------------------------------------------------------------------------------------------


def test_armed_rolled_lifted_and_put_back(world: World) -> None:
    """It sets the soft limit only, follows the room, gives way by 4 MiB for a tick, and leaves no trace."""
    before = resource.getrlimit(DATA)
    assert not world.fuse.armed
    world.fuse.lift()
    world.fuse.roll()
    assert resource.getrlimit(DATA) == before
    assert world.fuse.arm()
    assert world.fuse.arm()
    first = soft()
    assert resource.getrlimit(DATA)[1] == before[1]
    assert abs(first - (world.fuse.limit_bytes or 0)) < 4096
    assert FAR_BYTES * 0.99 < first < FAR_BYTES * 1.01
    world.fuse.lift()
    assert 0 <= soft() - first - 4 * MIB <= 4096
    world.room = FAR_BYTES // 2
    world.fuse.roll()
    assert soft() < FAR_BYTES * 0.51
    world.fuse.disarm()
    world.fuse.disarm()
    world.fuse.lift()
    world.fuse.roll()
    assert resource.getrlimit(DATA) == before
    assert world.names() == ["fuse.armed"]


def test_it_can_be_armed_again(world: World) -> None:
    """After a stop it starts anew."""
    for _ in range(3):
        assert world.fuse.arm()
        world.fuse.disarm()


def test_a_module_that_cannot_bear_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside pydantic-core and the like it is not armed unless told twice, and the reason is told once."""
    assert {"pydantic_core", "orjson"} <= set(DEADLY)
    monkeypatch.setitem(sys.modules, "memguard_deadly", sys)
    assert not world.fuse.arm()
    assert not world.fuse.arm()
    assert world.names() == ["fuse.refused"]
    assert "memguard_deadly would end the process" in world.told[0].text
    assert "fuse='force'" in world.told[0].text
    forced = World(force=True)
    assert forced.fuse.arm()
    forced.fuse.tend()
    assert forced.fuse.armed
    forced.fuse.disarm()


def test_a_module_that_comes_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is loaded while it is armed puts it out, and that is told."""
    world.fuse.arm()
    world.fuse.tend()
    assert world.fuse.armed
    monkeypatch.setitem(sys.modules, "memguard_deadly", sys)
    world.fuse.tend()
    assert not world.fuse.armed
    assert world.names() == ["fuse.armed", "fuse.refused"]
    world.fuse.tend()
    assert len(world.told) == 2


@pytest.mark.parametrize(
    ("room", "why"),
    [(None, "nothing limits this process"), (OSError("gone"), "does not tell enough"), (ValueError("?"), "not tell")],
)
def test_without_a_limit_there_is_none(world: World, room: object, why: str) -> None:
    """Where nothing limits or nothing can be read it stays off."""
    world.room = room
    assert not world.fuse.arm()
    assert why in world.told[0].text


def test_somebody_s_own_limit_is_respected(world: World) -> None:
    """A limit that was set by hand is left alone, before and after."""
    before = resource.getrlimit(DATA)
    resource.setrlimit(DATA, (FAR_BYTES, before[1]))
    assert not world.fuse.arm()
    assert "RLIMIT_DATA is set already, to 64.00 GiB" in world.told[0].text
    resource.setrlimit(DATA, before)
    assert world.fuse.arm()
    resource.setrlimit(DATA, (2 * FAR_BYTES, before[1]))
    world.fuse.disarm()
    assert soft() == 2 * FAR_BYTES
    resource.setrlimit(DATA, before)


def test_a_kernel_that_does_not_enforce_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried before it is believed in."""
    import mmap

    class Gives:
        def __init__(self, *arguments: object, **options: object) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(mmap, "mmap", Gives)
    assert not world.fuse.arm()
    assert "does not enforce" in world.told[0].text


def test_a_parent_s_fuse_is_no_limit_of_ours(world: World) -> None:
    """An inherited fuse is neither found as a limit nor put back."""
    before = resource.getrlimit(DATA)
    resource.setrlimit(DATA, (FAR_BYTES + 4096 * 77 + 1, before[1]))
    assert not [limit for limit in find_limits(environ={}).limits if limit.usage == "data"]
    assert world.fuse.arm()
    world.fuse.disarm()
    assert resource.getrlimit(DATA) == before
    resource.setrlimit(DATA, (FAR_BYTES, before[1]))
    assert [limit.bytes for limit in find_limits(environ={}).limits if limit.usage == "data"] == [FAR_BYTES]
    resource.setrlimit(DATA, before)


def test_readings_that_fail_keep_the_last(world: World) -> None:
    """Own growth does not matter to it, so the last place is the best guess; without a limit it ends."""
    world.fuse.arm()
    first = soft()
    world.fuse.lift()
    world.room = OSError("gone")
    world.fuse.roll()
    assert soft() == first
    world.room = None
    world.fuse.roll()
    assert not world.fuse.armed
    assert "nothing limits this process any more" in world.told[-1].text


# --- trips ------------------------------------------------------------------------------------------------------------


class Big:
    """Something that a failed request held."""


def _fail(seen: list[weakref.ref[Big]], depth: int = 3) -> None:
    held = Big()
    seen.append(weakref.ref(held))
    if depth:
        try:
            _fail(seen, depth - 1)
        except MemoryError as error:
            raise RuntimeError("while answering") from error
    raise MemoryError


def test_release_lets_go_of_frames() -> None:
    """What the frames of an error and of its causes held dies at once; the error still says where it came from."""
    seen: list[weakref.ref[Big]] = []
    gc.disable()
    try:
        _fail(seen)
    except RuntimeError as error:
        assert all(held() for held in seen)
        release(error)
        assert not any(held() for held in seen)
        assert error.__traceback__ is not None
        assert isinstance(error.__cause__, MemoryError)
    finally:
        gc.enable()


def test_release_of_running_frames_and_circles() -> None:
    """Frames that run are left, and errors that are each other's cause come to an end."""
    mine, seen = Big(), list[weakref.ref[Big]]()
    try:
        _fail(seen, depth=0)
    except MemoryError as error:
        other = ValueError()
        error.__cause__, other.__cause__ = other, error
        release(error)
        error.__cause__ = other.__cause__ = None
    assert isinstance(mine, Big)
    assert not seen[0]()


def test_what_hides_a_memory_error_is_seen_through() -> None:
    """As a cause, a context or one of a group; other errors are other errors."""
    seen: list[weakref.ref[Big]] = []
    try:
        _fail(seen)
    except RuntimeError as error:
        group = ExceptionGroup("tasks", [KeyError("x"), error])
    assert out_of_memory(group)
    assert not out_of_memory(ExceptionGroup("tasks", [KeyError("x")]))
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("can't start new thread"))
    assert not out_of_memory(RuntimeError("no"))
    release(group)
    assert not any(held() for held in seen)


def test_nothing_is_set_after_it_was_put_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was just about to roll it when it was put out leaves the old limit."""
    before = resource.getrlimit(DATA)
    world.fuse.arm()

    def late() -> int:
        world.fuse.disarm()
        return 0

    monkeypatch.setattr(world.fuse._reckoning, "next", late)
    world.fuse.roll()
    assert resource.getrlimit(DATA) == before
    assert not world.fuse.armed


def test_a_trip_gives_way_and_is_told_once(world: World) -> None:
    """note() lifts at once, counts, and has it told when there is room for words."""
    world.fuse.arm()
    first = soft()
    world.fuse.note(MemoryError())
    world.fuse.note()
    assert 0 <= soft() - first - 4 * MIB <= 4096
    assert (world.fuse.trips, world.fuse.tripped) == (2, True)
    world.fuse.tell_trip()
    assert not world.fuse.tripped
    assert world.told[-1].attributes == {"trips": 2}


# --- children ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A child that inherits whatever limits this process has now."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as popen:
        yield popen
        popen.communicate()


def test_children_lose_what_they_inherited(world: World) -> None:
    """A child of an armed process has its limit lifted at the next slow look; its own fuse or limit is left."""
    before = resource.getrlimit(DATA)
    world.fuse.arm()
    with child() as inherits, child() as fused, child() as limited:
        assert resource.prlimit(inherits.pid, DATA)[0] & 1
        own = FAR_BYTES | (fused.pid & 0x7FF) << 1 | 1
        resource.prlimit(fused.pid, DATA, (own, before[1]))
        resource.prlimit(limited.pid, DATA, (FAR_BYTES, before[1]))
        world.fuse.tend()
        assert resource.prlimit(inherits.pid, DATA) == before
        assert resource.prlimit(fused.pid, DATA)[0] == own
        assert resource.prlimit(limited.pid, DATA)[0] == FAR_BYTES


# --- with a guard -----------------------------------------------------------------------------------------------------


class Recorder:
    """Stands for a fuse and notes what is asked of it."""

    def __init__(self, watch: Any) -> None:
        self.calls: list[str] = []
        self.tripped = False
        self._watch = watch
        self._look = watch._look
        watch._look = self._looked

    def _looked(self, now: float) -> None:
        self.calls.append("look")
        self._look(now)

    def lift(self) -> None:
        self.calls.append("lift")

    def roll(self) -> None:
        self.calls.append("roll")

    def tend(self) -> None:
        self.calls.append("tend")

    def tell_trip(self) -> None:
        self.tripped = False
        self.calls.append("tell")


def test_a_tick_lifts_first_and_rolls_last() -> None:
    """Whatever a tick needs memory for comes between."""
    memory = FakeMemory(FakeClock())
    guard = Guard(limit="1GiB", probe=memory, clock=memory.clock, roster=Roster())
    recorder = guard._watch._fuse = Recorder(guard._watch)  # type: ignore[assignment]
    guard.tick()
    memory.clock.advance(0.1)
    guard.tick()
    assert recorder.calls == ["lift", "tend", "look", "roll", "lift", "look", "roll"]


def test_after_a_trip_caches_yield() -> None:
    """Work that met the fuse has a collection and a trim follow, and caches yield down to where no rung sheds."""
    memory = FakeMemory(FakeClock())
    held = FakeHolder(memory, "answers")
    memory.grow(676 * MIB, into=held)
    told: list[Event] = []
    guard = Guard(limit="1GiB", probe=memory, clock=memory.clock, roster=Roster(), sinks=[told.append])
    recorder = guard._watch._fuse = Recorder(guard._watch)  # type: ignore[assignment]
    guard.roster.add(held)
    guard.tick()
    assert held.size() == 676 * MIB
    recorder.tripped = True
    memory.clock.advance(0.1)
    guard.tick()
    names = [event.name for event in told]
    assert "gc.due" in names
    assert guard.snapshot.reading is not None
    memory.clock.advance(0.1)
    guard.tick()
    assert guard.snapshot.reading.used_bytes <= 0.65 * GIB
    assert "work met the fuse" in next(event.text for event in told if event.name == "incident.opened")


def test_a_guard_arms_and_puts_back() -> None:
    """start() arms it, stop() puts the limit back, and again."""
    before = resource.getrlimit(DATA)
    guard = Guard(limit="64GiB", roster=Roster(), fuse=True)
    assert resource.getrlimit(DATA) == before
    for _ in range(2):
        with guard:
            assert soft() & 1
        assert resource.getrlimit(DATA) == before


@pytest.mark.parametrize("options", [{}, {"fuse": False}, {"fuse": True, "mode": "observe"}])
def test_no_fuse_unless_asked_for(options: dict[str, Any]) -> None:
    """Without the rule, and when only observing, nothing is set."""
    before = resource.getrlimit(DATA)
    with Guard(limit="64GiB", roster=Roster(), **options) as guard:
        assert guard._fuse is None
        assert resource.getrlimit(DATA) == before


def test_no_fuse_over_somebody_s_own_probe() -> None:
    """What a caller's probe measures need not be this process."""
    memory = FakeMemory(FakeClock())
    assert Guard(limit="1GiB", probe=memory, roster=Roster(), fuse=True)._fuse is None


def test_a_start_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no thread is to be had the limit is put back."""
    from memguard import guard as guards

    def no_thread(work: object, name: str) -> None:
        raise RuntimeError("can't start new thread")

    before = resource.getrlimit(DATA)
    guard = Guard(limit="64GiB", roster=Roster(), fuse=True)
    monkeypatch.setattr(guards, "start_thread", no_thread)
    with pytest.raises(RuntimeError):
        guard.start()
    assert resource.getrlimit(DATA) == before


def test_memory_errors_become_refusals() -> None:
    """With a fuse or without, memory_error() gives what to answer and lets go of what was held."""
    seen: list[weakref.ref[Big]] = []
    for options in ({}, {"fuse": True}):
        with Guard(limit="64GiB", roster=Roster(), **options) as guard:  # type: ignore[arg-type]
            try:
                _fail(seen, depth=0)
            except MemoryError as error:
                refused = guard.memory_error(error)
                assert not seen[-1]()
            assert isinstance(refused, AdmissionRefused)
            assert refused.problem()["status"] == 503
            assert "needed more memory than is left" in refused.reason
            assert guard.memory_error().retry_after_s == guard.rules.dwell_s
            if guard._fuse is not None:
                assert guard._fuse.trips == 2
                wait_for(lambda: not guard._fuse.tripped)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "meant"), [(True, True), ("yes", True), ("0", False), ("force", "force"), (" FORCE ", "force")]
)
def test_the_rule(value: object, meant: object) -> None:
    """On, off, or told twice; also from the environment."""
    assert Rules(fuse=value).fuse == meant  # type: ignore[arg-type]
    assert Rules.resolve({"MEMGUARD_FUSE": str(value)}).fuse == meant
    with pytest.raises(RulesError, match=r"fuse='maybe' .*write 'true', 'false' or 'force'"):
        Rules(fuse="maybe")  # type: ignore[arg-type]


def _run(script: str, *, first: str = "") -> str:
    """What a script prints; ``first`` comes before any import of ours."""
    prelude = """
        import os, resource, sys, time
        from memguard.guard import Guard
        from memguard.roster import Roster
        DATA = resource.RLIMIT_DATA
        before = resource.getrlimit(DATA)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", first + dedent(prelude) + dedent(script)],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_fork_is_cleaned() -> None:
    """In a forked child the parent's fuse is gone and the child's own guard has armed its own."""
    out = _run("""
        guard = Guard(limit="8GiB", roster=Roster(), fuse=True).start()
        mine = resource.getrlimit(DATA)[0]
        pid = os.fork()
        if pid == 0:
            theirs = resource.getrlimit(DATA)[0]
            good = theirs & 1 and (theirs >> 1) & 0x7FF == os.getpid() & 0x7FF
            guard.stop()
            os._exit(0 if good and resource.getrlimit(DATA) == before else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        guard.stop()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if resource.getrlimit(DATA) == before else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print("clean")
    """)
    assert out == "clean\n"


def test_an_exit_without_a_stop_puts_it_back() -> None:
    """What runs at exit after the guard sees the old limit."""
    first = "import atexit; atexit.register(lambda: print(resource.getrlimit(DATA) == before, flush=True))"
    out = _run(
        'Guard(limit="8GiB", roster=Roster(), fuse=True).start(); print(resource.getrlimit(DATA)[0] > 0)', first=first
    )
    assert out.split() == ["True", "True"]


def test_a_program_without_a_fuse_does_not_load_it() -> None:
    """It costs nothing where it is not asked for."""
    out = _run("""
        with Guard(limit="8GiB", roster=Roster()):
            time.sleep(0.05)
        print("memguard.fuse.rolling" in sys.modules)
    """)
    assert out == "False\n"


def test_threads_start_at_the_brink() -> None:
    """Where nothing more can be mapped a thread starts or fails at once; else its starter might wait for ever."""
    out = _run("""
        import threading
        gate = threading.Event()
        early = [threading.Thread(target=gate.wait) for _ in range(5)]
        [thread.start() for thread in early]
        gate.set()
        [thread.join() for thread in early]  # their stacks stay in the C library's cache
        base = int(open("/proc/self/statm").read().split()[1]) * 4096
        with Guard(limit=base + (60 << 20), roster=Roster(), fuse=True) as guard:
            kept, done, many, refused = [], [], [], 0
            threads = [
                threading.Thread(target=done.append if number < 100 else gate.wait, args=(number,))
                for number in range(120)
            ]
            for size in (8 << 20, 1 << 20, 64 << 10):
                try:
                    while True:
                        kept.append(bytearray(size))
                except MemoryError:
                    pass
            for number, thread in enumerate(threads):
                gate.clear()
                try:
                    thread.start()
                except (RuntimeError, MemoryError):
                    refused += 1
                    continue
                many.append(thread)
                if number < 100:
                    thread.join()
            gate.set()
            [thread.join() for thread in many]
            print(len(done) > 0, refused > 0, len(many) + refused, guard._fuse.armed)
        print(threading.Thread.start.__qualname__, threading.Thread.start.__module__)
    """)
    assert out == "True True 120 True\nThread.start threading\n"


def test_a_wrapper_around_ours_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thread.start is put back, unless somebody has wrapped it since: then ours does nothing any more."""
    import threading

    original = threading.Thread.start
    world.fuse.arm()
    ours = threading.Thread.start
    assert ours is not original
    world.fuse.disarm()
    assert threading.Thread.start is original
    world.fuse.arm()
    ours = threading.Thread.start

    def theirs(thread: threading.Thread) -> None:
        ours(thread)

    monkeypatch.setattr(threading.Thread, "start", theirs)
    world.fuse.disarm()
    assert threading.Thread.start is theirs
    before = resource.getrlimit(DATA)
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    assert resource.getrlimit(DATA) == before
    monkeypatch.setattr(threading.Thread, "start", original)


def test_what_would_not_fit_raises_at_once() -> None:
    """A block that is larger than what is left raises, smaller ones do not, and the interpreter is as before."""
    out = _run("""
        base = int(open("/proc/self/statm").read().split()[1]) * 4096
        with Guard(limit=base + (200 << 20), roster=Roster(), fuse=True) as guard:
            assert guard._fuse.armed
            results = []
            for size in (100, 400, 100, 4000, 150):
                try:
                    results.append(len(bytearray(size << 20)) >> 20)
                except MemoryError as error:
                    guard.memory_error(error)
                    results.append(0)
            text = str({str(number): [number] * 3 for number in range(10_000)})
            print(results, len(text) > 10_000, guard._fuse.trips)
    """)
    assert out == "[100, 0, 100, 0, 150] True 2\n"
