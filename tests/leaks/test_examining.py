"""The guard's side: diagnose, dump, watch, and the examination that the trend asks for."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import tracemalloc
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from memguard import examining
from memguard.errors import MemguardError
from memguard.findings import Verdict
from memguard.guard import Guard
from memguard.roster import Roster
from memguard.testing import FakeClock, FakeMemory, RecordingSink
from memguard.threads import Bell
from memguard.units import MIB
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memguard.agents.pools import Pool
    from memguard.model import Event


class Thing:
    """Of which some are kept."""


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that is there for this test."""
    module = ModuleType("guarded_app")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.kept = []  # type: ignore[attr-defined]
    yield module
    vars(module).clear()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a thread or tracing behind."""
    yield
    wait_for(lambda: not [one for one in threading.enumerate() if one.name.startswith("memguard")])
    assert not tracemalloc.is_tracing()


def _guard(**settings: Any) -> Guard:
    return Guard(roster=Roster(), limit=settings.pop("limit", "8GiB"), **settings)


def _verdict() -> Verdict:
    return Verdict(
        kind="leak-like", confidence=0.9, bytes_per_s=1e4, bytes_per_request=None, since_at=None,
        seconds_to_limit=9e3, seen_s=7200.0, words="Leak-like: grows by 10 KB/s.",
    )  # fmt: skip


def test_diagnose_work(app: Any) -> None:
    """Given the work, it needs no time to pass; the guard need not run."""
    guard = _guard()
    report = guard.diagnose(work=lambda: app.kept.append(Thing()), repeats=200)
    assert report.suspects[0].name == "guarded_app.kept"
    assert report.requests == 160
    assert "grows by 1 a request" in report.summary
    assert guard.reports == (report,)


def test_diagnose_over_time(app: Any) -> None:
    """Over a window of time the guard's own count of requests is the measure."""
    guard, waits = _guard(), list[float]()

    def until(seconds: float) -> None:
        waits.append(seconds)
        for _ in range(round(seconds * 100)):
            with guard.admit("1KiB"):
                app.kept.append(Thing())

    with guard, guard.admit("1KiB"):
        pass
    report = guard.diagnose(seconds=2, until=until)
    assert sum(waits) == pytest.approx(2.0)
    assert report.requests is not None
    assert report.suspects[0].name == "guarded_app.kept"
    assert "grows by 1 a request" in report.summary


def test_one_at_a_time(app: Any) -> None:
    """A second diagnosis meanwhile is refused, and the first goes on."""
    guard, refused = _guard(), list[str]()

    def work() -> None:
        if not refused:
            with pytest.raises(MemguardError, match="another diagnosis") as caught:
                guard.diagnose(work=work, repeats=5)
            refused.append(str(caught.value))

    assert guard.diagnose(work=work, repeats=20).summary
    assert refused


@pytest.mark.parametrize(
    ("options", "words"),
    [({"seconds": "soon"}, "not a duration"), ({"work": Thing, "repeats": 0}, "repeats=0"), ({"seconds": -1}, "-1")],
)
def test_what_cannot_be_meant(options: dict[str, Any], words: str) -> None:
    """A wrong time or number is refused by its value, before anything is done."""
    with pytest.raises(ValueError, match=words):
        _guard().diagnose(**options)


def test_an_error_in_the_work_is_the_callers() -> None:
    """What the work raises comes out, and the next diagnosis works."""

    def work() -> None:
        raise KeyError("mine")

    guard = _guard()
    with pytest.raises(KeyError, match="mine"):
        guard.diagnose(work=work)
    assert guard.diagnose(work=Thing, repeats=10).summary


@pytest.mark.parametrize(("ending", "begins"), [("json", "{"), ("html", "<!doctype html>"), ("txt", ""), ("", "{")])
def test_dump(ending: str, begins: str, tmp_path: Path) -> None:
    """A dump is written whole, in the form that its name asks for, for its owner alone."""
    path = tmp_path / (f"dump.{ending}" if ending else "dump")
    report = _guard().dump(path, seconds=0)
    text = path.read_text()
    assert text.startswith(begins)
    if begins == "{":
        assert json.loads(text)["summary"] == report.summary
    assert report.summary.split(":")[0][:20] in text
    assert path.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_dump_that_cannot_be_written(tmp_path: Path) -> None:
    """A path that cannot be written is refused before the examination, with the path and what to do."""
    guard = _guard()
    before = gc.get_stats()[2]["collections"]
    for path in (tmp_path / "nowhere" / "dump.json", tmp_path):
        with pytest.raises(MemguardError, match=r"cannot be written to .*; (name|it is|add)|directory") as caught:
            guard.dump(path, seconds=0)
        assert str(path) in str(caught.value)
    assert gc.get_stats()[2]["collections"] == before


def test_watch_through_a_running_guard(app: Any) -> None:
    """A running guard looks after what is watched, and tells who holds it."""
    sink = RecordingSink()
    with _guard(sinks=(sink,)) as guard:
        app.kept.append(Thing())
        guard.watch(app.kept[0], "thing 1", grace_s=0)
        wait_for(lambda: [event for event in sink.events if event.name == "leak.kept"])
    event = next(event for event in sink.events if event.name == "leak.kept")
    assert "guarded_app.kept[0]" in event.text


def test_a_suspicion_is_examined_once(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leak-like verdict has the process examined, once, on a thread of its own; the sinks get the report."""
    monkeypatch.setattr(examining, "_WINDOW_S", 0.5)
    sink = RecordingSink()
    with _guard(sinks=(sink,)) as guard:
        end = threading.Event()

        def load() -> None:
            while not end.wait(0.001):
                app.kept.append(Thing())

        thread = threading.Thread(target=load)
        thread.start()
        for call in guard.suspected:
            call(_verdict())
            call(_verdict())
        wait_for(lambda: [event for event in sink.events if event.name == "leak.report"], seconds=60.0)
        end.set()
        thread.join()
    events = [event for event in sink.events if event.name.startswith("leak.")]
    assert [event.name for event in events] == ["leak.report"]
    assert "guarded_app.kept" in events[0].text
    assert str(events[0].attributes["report"]).startswith(events[0].text)
    assert guard.reports[-1].verdict is not None


def test_the_back_off_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next examination waits an hour, then two, at most a day."""
    started: list[str] = []
    monkeypatch.setattr(examining, "start_thread", lambda _work, name: started.append(name))
    guard, clock = _guard(), FakeClock()
    monkeypatch.setattr(guard, "_clock", clock)
    for minutes, count in ((0, 1), (59, 1), (2, 2), (119, 2), (2, 3)):
        clock.advance(minutes * 60.0)
        guard._examine_soon(_verdict())
        assert len(started) == count
    for _ in range(10):
        clock.advance(86400.0)
        guard._examine_soon(_verdict())
    assert len(started) == 13


@pytest.mark.parametrize("settings", [{"leak_examine": False}, {"mode": "observe"}])
def test_it_can_be_switched_off(settings: dict[str, Any]) -> None:
    """A rule switches it off; a guard that only observes does not do it either."""
    assert _guard(**settings).suspected == ()
    assert len(_guard().suspected) == 1


def test_a_simulation_is_not_examined() -> None:
    """A guard with a clock of its own is a simulation: this process's heap is not its business."""
    clock = FakeClock()
    assert Guard(clock=clock, probe=FakeMemory(clock), limit="1GiB", roster=Roster()).suspected == ()


def test_stopping_ends_an_examination() -> None:
    """A guard that stops takes its examiner with it; what it switched on is off again."""
    sink = RecordingSink()
    with _guard(sinks=(sink,)) as guard:
        for call in guard.suspected:
            call(_verdict())
    wait_for(lambda: not [one for one in threading.enumerate() if one.name == "memguard-examine"])
    assert [event for event in sink.events if event.name == "leak.report"] == []


def test_without_room_nothing_is_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the brink the report waits, and that is told."""
    told: list[Event] = []
    guard = _guard()
    monkeypatch.setattr(guard, "_room_bytes", lambda: MIB)
    monkeypatch.setattr(guard._teller, "tell", told.append)
    guard._examine_alone(_verdict(), Bell())
    assert [event.name for event in told] == ["leak.unexamined"]
    assert "1.0 MiB" in told[0].text


def test_a_very_large_heap_waits_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every thread would stand still for long, only a person may ask for it."""
    told: list[Event] = []
    guard = _guard()
    monkeypatch.setattr(examining, "_BLOCKS_AT_MOST", 1000)
    monkeypatch.setattr(guard._teller, "tell", told.append)
    guard._examine_alone(_verdict(), Bell())
    assert "call diagnose()" in told[0].text
    assert guard.diagnose(work=Thing, repeats=10).summary


def test_a_heap_that_does_not_fit_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A diagnosis that would break the limit by itself is refused with the numbers."""
    guard = _guard()
    monkeypatch.setattr(guard, "_room_bytes", lambda: 100)
    with pytest.raises(MemguardError, match=r"may need .* and 100 B are left"):
        guard.diagnose(work=Thing, repeats=10)


def test_a_failed_examination_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in it becomes an event."""
    told: list[Event] = []
    guard = _guard()

    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(guard, "_examine", fail)
    monkeypatch.setattr(guard._teller, "tell", told.append)
    guard._examine_alone(_verdict(), Bell())
    assert [(event.name, "no room" in event.text) for event in told] == [("leak.unexamined", True)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_may_diagnose_too(app: Any) -> None:
    """In a child forked in the middle of a diagnosis another one can be made."""
    left = list[int]()
    with _guard() as guard:

        def work() -> None:
            if not left:
                child = os.fork()
                if not child:
                    found = guard.diagnose(work=Thing, repeats=10)
                    os._exit(0 if found.summary else 1)
                left.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

        guard.diagnose(work=work, repeats=20)
    assert left == [0]


def test_retired_agents(app: Any) -> None:
    """A pool's retired agents are watched by its hook, in one line."""
    sink = RecordingSink()
    with _guard(sinks=(sink,)) as guard:
        pool: Pool[Thing] = guard.pool(
            "agents", on_retire=lambda id_, agent: guard.watch(agent, f"agent {id_}", grace_s=0)
        )
        agent = pool["a7"] = Thing()
        app.kept.append(agent)
        del agent
        pool.retire("a7")
        wait_for(lambda: [event for event in sink.events if event.name == "leak.kept"])
        pool.close()
    event = next(event for event in sink.events if event.name == "leak.kept")
    assert event.text.startswith("agent a7 ")
    assert "guarded_app.kept[0]" in event.text


def test_a_plain_guard_does_not_pay_for_it() -> None:
    """A started guard has nothing of the examiner in memory."""
    import subprocess

    code = (
        "import sys, memguard\n"
        "with memguard.Guard(limit='4GiB', roster=memguard.Roster()): pass\n"
        "print([name for name in sys.modules if name.startswith('memguard.leaks') or name == 'tracemalloc'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
