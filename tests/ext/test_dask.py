"""Dask's plugins without a cluster: rungs between Dask's fractions, one pause of two owners, turns, tasks, the view."""

from __future__ import annotations

import asyncio
import pickle
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from distributed import Status, Worker
from distributed.worker_memory import WorkerMemoryManager
from hypothesis import given
from hypothesis import strategies as st

from memguard import Guard, Level, MemguardError, Rules, RulesError
from memguard.ext.dask import Fractions, GuardScheduler, GuardWorkers, WorkerView, get_guard, rungs
from memguard.ext.dask.pausing import Hold
from memguard.ext.dask.recycling import Recycling, Turns, reason
from memguard.ext.dask.spilling import Results
from memguard.ext.dask.view import seen
from memguard.roster import DEFAULT
from memguard.testing import FakeClock
from memguard.units import GIB, MIB
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

share = st.floats(0.05, 1.0) | st.none()


class FakeWorker:
    """As much of a worker as the plugins touch, with Dask's own memory manager, which reads ``used_bytes``."""

    def __init__(self, name: str = "w-0", *, memory_limit: Any = GIB, nanny: str | None = "tcp://nanny") -> None:
        self.name = name
        self.address = f"tcp://{name}"
        self.nanny = nanny
        self.status = Status.running
        self.used_bytes = 100 * MIB
        self.monitor = SimpleNamespace(get_process_memory=lambda: self.used_bytes)
        self.periodic_callbacks: dict[str, Any] = {}
        self.stream_handlers: dict[str, Callable[..., Any]] = {}
        self.metrics: dict[str, Callable[[Any], Any]] = {}
        self.local_directory = ""
        self.state = SimpleNamespace(executing=set(), long_running=set(), nthreads=4)
        self.told: list[dict[str, Any]] = []
        self.closed: dict[str, Any] = {}
        self.memory_manager = WorkerMemoryManager(
            cast("Worker", self), nthreads=1, memory_limit=memory_limit, data=cast("Any", dict)
        )
        self.data: Any = self.memory_manager.data

    def log_event(self, topic: str, message: dict[str, Any]) -> None:
        assert topic == "memguard"
        self.told.append(message)

    async def close(self, **how: Any) -> None:
        self.closed = how

    def dask_looks(self) -> None:
        """What Dask's monitor does ten times a second."""
        self.memory_manager._maybe_pause_or_unpause(cast("Worker", self), self.used_bytes)


def worker(**known: Any) -> Any:
    """One, for whatever takes a real one."""
    return FakeWorker(**known)


# --- rungs --------------------------------------------------------------------------------------------------------


def test_rungs_stand_between_dasks_fractions() -> None:
    """Caches go before Dask spills, tasks stop where Dask stops them, the last resort comes before the nanny."""
    rules = rungs(Fractions())
    assert rules.warning_ratio == pytest.approx(0.65)
    assert rules.leave_ratio(Level.WARNING) == pytest.approx(0.60)
    assert rules.critical_ratio == 0.80
    assert 0.80 < rules.emergency_ratio < 0.95
    assert rules.origins["critical_ratio"] == "Dask's distributed.worker.memory.pause"


@given(target=share, spill=share, pause=share, terminate=share)
def test_any_fractions_make_rules_that_hold(
    target: float | None, spill: float | None, pause: float | None, terminate: float | None
) -> None:
    """Whatever Dask is configured to, there are rungs in order, and WARNING is below spilling and pausing."""
    rules = rungs(Fractions(target=target, spill=spill, pause=pause, terminate=terminate))
    assert rules.warning_ratio < rules.critical_ratio < rules.emergency_ratio <= 1.0
    assert rules.warning_ratio < (spill or 1.0)
    assert rules.critical_ratio <= (pause or 1.0) + 1e-4, "rungs are rounded"


def test_fractions_that_are_off_are_none() -> None:
    """``False`` in Dask's configuration is no fraction of 0."""
    manager = SimpleNamespace(memory_target_fraction=0.5, memory_spill_fraction=False, memory_pause_fraction=None)
    found = Fractions.of(manager)
    assert (found.target, found.spill, found.pause, found.terminate) == (0.5, None, None, 0.95)


# --- the plugin, on the client's side -------------------------------------------------------------------------------


def test_a_wrong_setting_fails_where_it_is_written() -> None:
    """The client hears of it, before any worker does."""
    with pytest.raises(RulesError, match="critical_ratio"):
        GuardWorkers(critical_ratio=0.5)
    with pytest.raises(RulesError, match="handover_life"):
        GuardScheduler(handover_life_s=0)
    with pytest.raises(RulesError, match="no_such"):
        GuardWorkers(no_such=1)
    # What holds between Dask's fractions holds for both plugins, whatever a plain guard would say.
    for plugin in (GuardWorkers, GuardScheduler):
        plugin(warning_ratio=0.66)


def test_plugins_travel() -> None:
    """They can be pickled, with rules from anywhere."""
    for rules in (None, Rules(), Rules.from_mapping({"warning_threshold": 78})):
        for plugin in (GuardWorkers(rules, alert_ratio=0.9), GuardScheduler(rules)):
            again = pickle.loads(pickle.dumps(plugin))  # noqa: S301 - our own
            assert again.name == "memguard"


# --- pausing ------------------------------------------------------------------------------------------------------


def test_dask_does_not_resume_what_we_hold() -> None:
    """A limit that Dask does not see keeps the worker paused, however often Dask's monitor looks; both then agree."""
    held = worker()
    hold = Hold(held)
    hold.look(Level.CRITICAL)
    for _ in range(3):
        held.dask_looks()  # 100 MiB of 1 GiB: fine with Dask
        assert held.status == Status.paused
    hold.look(Level.WARNING)
    assert held.memory_manager.memory_pause_fraction == 0.80
    assert held.status == Status.paused, "it is Dask's monitor that resumes"
    held.dask_looks()
    assert held.status == Status.running


def test_we_do_not_resume_what_dask_holds() -> None:
    """Let go by us, a worker stays paused while Dask's own measure says so."""
    held = worker()
    hold = Hold(held)
    hold.look(Level.CRITICAL)
    held.used_bytes = 900 * MIB
    hold.look(Level.OK)
    held.dask_looks()
    assert held.status == Status.paused
    held.used_bytes = 700 * MIB
    held.dask_looks()
    assert held.status == Status.running


def test_without_dasks_pause_we_resume_ourselves() -> None:
    """Where Dask's monitor does not pause, nobody else would let the worker go on."""
    for held in (worker(memory_limit=0), worker()):
        held.memory_manager.memory_pause_fraction = False
        hold = Hold(held)
        hold.look(Level.EMERGENCY)
        assert held.status == Status.paused
        hold.look(Level.OK)
        assert held.status == Status.running
        assert held.memory_manager.memory_pause_fraction is False


def test_a_worker_that_leaves_is_left_alone() -> None:
    """Neither paused nor resumed: its status is no longer about memory."""
    for status in (Status.closing_gracefully, Status.closing, Status.init):
        held = worker()
        hold = Hold(held)
        held.status = status
        hold.look(Level.EMERGENCY)
        assert (held.status, hold.since) == (status, None)
        held.status = Status.running
        hold.look(Level.CRITICAL)
        held.status = status
        hold.release()
        hold.release()
        assert held.status == status


def test_the_hold_counts_and_lends() -> None:
    """Lent, a held worker runs without threads for tasks, and is held again; the time held is counted."""
    clock = FakeClock()
    held = worker()
    hold = Hold(held, clock=clock)
    hold.lend(5.0)
    assert held.state.nthreads == 4, "it takes results anyway"
    hold.look(Level.CRITICAL)
    hold.lend(5.0)
    hold.lend(5.0)
    for level in (Level.EMERGENCY, Level.OK):
        hold.look(level)
        held.dask_looks()
        assert (held.status, held.state.nthreads) == (Status.running, 0)
    clock.advance(6.0)
    hold.look(Level.CRITICAL)
    assert (held.status, held.state.nthreads) == (Status.paused, 4)
    hold.lend(5.0)
    hold.lend(0.0)
    hold.look(Level.CRITICAL)
    assert held.status == Status.paused
    hold.lend(5.0)
    hold.release()
    held.dask_looks()
    assert (held.status, held.state.nthreads) == (Status.running, 4)
    assert (hold.count, hold.since) == (1, None)
    assert hold.held_s == pytest.approx(6.0)


# --- spilling -----------------------------------------------------------------------------------------------------


class _Fast(list[int]):
    @property
    def total_weight(self) -> int:
        return sum(self)


class _Spillable:
    """Results as distributed's ManualEvictProto has them."""

    def __init__(self, *weights: int) -> None:
        self.fast = _Fast(weights)
        self.threads: set[int] = set()

    def evict(self) -> int:
        self.threads.add(threading.get_ident())
        return self.fast.pop(0)


def test_results_are_spilled_on_the_workers_loop() -> None:
    """As many as wanted, by Dask's own evict, in the only thread that may; a failure ends it and counts for nothing."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        held = worker()
        held.loop = SimpleNamespace(asyncio_loop=loop)
        held.data = _Spillable(30, 30, 30, 30)
        results = Results(held)
        assert results.size() == 120
        assert results.reclaim(50) == 60
        assert held.data.threads == {thread.ident}
        held.data = _Spillable(30, -1, 30)
        assert Results(held).reclaim(500) == 30
        assert Results(held).reclaim(500) == 30
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert results.reclaim(50) == 0
    assert not Results.spills(worker())


# --- recycling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "leaves"),
    [
        ({}, True),
        ({"held_s": 10.0}, False),
        ({"age_s": 10.0}, False),
        ({"results_bytes": 700 * MIB}, False),
        ({"fresh_bytes": 800 * MIB}, False),
        ({"rules": Rules(handover="off")}, False),
        ({"rules": Rules(mode="observe")}, False),
    ],
)
def test_when_a_worker_leaves(changed: dict[str, Any], leaves: bool) -> None:
    """Only one that has long been paused, is not new, and holds what is neither results nor its start."""
    known: dict[str, Any] = {
        "held_s": 40.0, "age_s": 100.0, "used_bytes": 850 * MIB, "fresh_bytes": 100 * MIB, "results_bytes": 50 * MIB,
        "limit_bytes": GIB, "rules": Rules(),
    }  # fmt: skip
    assert bool(reason(**{**known, **changed})) is leaves


def test_turns_are_one_at_a_time_and_no_loop() -> None:
    """One leaves at once; a name's next turn comes after a minute, then two, then four, up to a day."""
    turns = Turns(Rules())
    assert turns.ask(address="a", name="0", present={"a": "0", "b": "1"}, now=0.0)[0]
    assert not turns.ask(address="b", name="1", present={"a": "0", "b": "1"}, now=30.0)[0], "it has not left yet"
    assert not turns.ask(address="b", name="1", present={"b": "1"}, now=31.0)[0], "the fresh one is not there yet"
    assert turns.ask(address="b", name="1", present={"b": "1", "c": "0"}, now=32.0)[0]
    now, waits, went = 0.0, list[float](), 0.0
    for number in range(14):
        present = {f"a{number}": "0", "d": "1"}
        go, wait_s, _ = turns.ask(address=f"a{number}", name="0", present=present, now=now)
        while not go:
            now += wait_s
            go, wait_s, _ = turns.ask(address=f"a{number}", name="0", present=present, now=now)
        waits.append(now - went)
        went = now
    assert [round(wait) for wait in waits[:4]] == [60, 120, 240, 480]
    assert max(waits) == pytest.approx(86400.0)


def test_who_stayed_has_not_had_its_turn() -> None:
    """A worker that could not leave may ask again at once; its first turn still counts, its second does not."""
    turns = Turns(Rules())
    present = {"a": "0", "b": "1"}
    for now in (0.0, 5.0, 10.0):
        assert turns.ask(address="a", name="0", present=present, now=now)[0]
    assert turns.ask(address="a2", name="0", present={"a2": "0"}, now=75.0)[0]
    turns.take_back()
    turns.take_back()
    assert turns.ask(address="a2", name="0", present={"a2": "0"}, now=76.0)[0]
    go, wait_s, why = turns.ask(address="a3", name="0", present={"a3": "0"}, now=77.0)
    assert (go, round(wait_s)) == (False, 119)
    assert "next of 0" in why


def test_turns_forget_names_that_are_long_gone() -> None:
    """An adaptive cluster has ever new names."""
    turns = Turns(Rules())
    for number in range(1500):
        name = str(number)
        assert turns.ask(address=name, name=name, present={name: name}, now=number * 100.0)[0]
    assert len(turns._last) == 1000


class _Scheduler:
    def __init__(self, answer: Any, *, takes: bool = True) -> None:
        self.answer = answer
        self.takes = takes
        self.asked: list[str] = []

    async def memguard_turn(self, *, address: str, worker_name: str) -> Any:
        self.asked.append(worker_name)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def retire_workers(self, *, workers: list[str], close_workers: bool, remove: bool, stimulus_id: str) -> Any:
        assert remove
        assert not close_workers
        return dict.fromkeys(workers) if self.takes else {}


@pytest.mark.parametrize(
    ("scheduler", "events"),
    [
        (_Scheduler({"go": True, "wait_s": 0.0, "why": ""}), ["begun"]),
        (_Scheduler({"go": True, "wait_s": 0.0, "why": ""}, takes=False), ["begun", "futile"] * 3),
        (_Scheduler({"go": False, "wait_s": 9.0, "why": "another's turn"}), ["waits"]),
        (_Scheduler(None), ["futile"]),
        (_Scheduler(OSError("it is gone")), ["failed"]),
    ],
)
def test_a_worker_leaves_by_dasks_own_retirement(scheduler: _Scheduler, events: list[str]) -> None:
    """With a turn and somebody to take its results it closes and its nanny stays; else it stays, and says why, once."""
    clock, leaving = FakeClock(), worker()
    hold = Hold(leaving, clock=clock)
    told = list[str]()
    work = list[Any]()
    leaving.scheduler = scheduler
    leaving.loop = SimpleNamespace(add_callback=lambda call, *given: work.append(call(*given)))
    recycling = Recycling(leaving, rules=Rules(), hold=hold, tell=lambda name, _: told.append(name), clock=clock)
    snapshot: Any = SimpleNamespace(limit=SimpleNamespace(bytes=GIB), level=Level.CRITICAL)
    clock.advance(100.0)
    hold.look(Level.CRITICAL)
    leaving.used_bytes = 900 * MIB
    recycling.look(snapshot)
    clock.advance(31.0)
    leaving.state.executing.add("a task")
    recycling.look(snapshot)
    assert not work, "nothing is cut off"
    leaving.state.executing.clear()
    for _ in range(3):
        recycling.look(snapshot)
        while work:
            asyncio.run(work.pop())
        clock.advance(70.0)
    goes = events == ["begun"]
    assert told == [f"handover.{event}" for event in events]
    assert leaving.closed == ({"nanny": False, "reason": "memguard-recycle"} if goes else {})
    assert len(scheduler.asked) == (1 if goes else 3)
    assert recycling.leaving is goes


# --- a worker's guard -----------------------------------------------------------------------------------------------


def _guarded(*workers: Any, plugin: GuardWorkers | None = None, then: Callable[[Guard], None]) -> None:
    """Set the plugin up in each worker, as Dask does, look, and tear it down."""

    async def live() -> None:
        plugins = [pickle.loads(pickle.dumps(plugin or GuardWorkers())) for _ in workers]  # noqa: S301 - our own
        for each, own in zip(workers, plugins, strict=True):
            own.setup(each)
            each.plugin = own
        try:
            then(get_guard())
        finally:
            for each, own in zip(workers, plugins, strict=True):
                await own.teardown(each)

    asyncio.run(live())


def test_one_guard_for_a_process() -> None:
    """Two workers of a process share a guard, whose limit is the smaller ``memory_limit``; the last one stops it."""
    one, two = worker(name="w-1", memory_limit=2 * GIB), worker(name="w-2", memory_limit=GIB)

    def look(guard: Guard) -> None:
        assert guard.running
        assert guard.rules.critical_ratio == 0.80
        limits = {limit.source: limit.bytes for limit in guard.limits}
        wait_for(lambda: guard.snapshot.reading is not None)
        assert min(limits.values()) <= 2 * GIB
        assert one.metrics["memguard"](one)["level"] == guard.level.name
        assert "handover_life_s" in guard.explain()

    _guarded(one, two, then=look)
    with pytest.raises(MemguardError, match="register_plugin"):
        get_guard()
    for each in (one, two):
        assert not each.metrics
        assert "memguard" not in each.periodic_callbacks
    assert DEFAULT.owner is None


def test_the_workers_limit_is_a_policy_with_its_name() -> None:
    """A worker's ``memory_limit`` is watched beside what the machine sets, and says whose it is."""
    one = worker(name="w-7", memory_limit=512 * MIB)

    def look(guard: Guard) -> None:
        (own,) = [limit for limit in guard.limits if limit.kind == "policy"]
        assert (own.bytes, own.source) == (512 * MIB, "policy limit from Dask's memory_limit (worker w-7)")

    _guarded(one, then=look)


def test_the_operators_lower_limit_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """API_MAX_MEMORY_MB in a worker's environment holds where it is below Dask's limit."""
    monkeypatch.setenv("API_MAX_MEMORY_MB", "300")
    one = worker(memory_limit=512 * MIB)

    def look(guard: Guard) -> None:
        (own,) = [limit for limit in guard.limits if limit.kind == "policy"]
        assert own.bytes == 300 * MIB
        assert "API_MAX_MEMORY_MB" in own.source

    _guarded(one, then=look)


def test_an_applications_own_guard_is_used_and_not_stopped() -> None:
    """With ``processes=False`` the application may have one already; two would measure each other's reliefs."""
    with Guard(limit="1TiB") as own:

        def look(guard: Guard) -> None:
            assert guard is own

        _guarded(worker(), then=look)
        assert own.running


def test_each_task_is_an_operation() -> None:
    """By its key's prefix, from its start to its end, with how it ended."""
    one = worker()

    def look(guard: Guard) -> None:
        moves = [
            (("score-1a2b", 0), "ready", "executing"),
            (("score-1a2b", 0), "executing", "long-running"),
            ("load-77", "ready", "executing"),
            ("load-77", "executing", "error"),
            ("gone-1", "ready", "executing"),
            ("gone-1", "executing", "cancelled"),
            ("gone-1", "cancelled", "released"),
            ("quick-1", "waiting", "ready"),
        ]
        for key, start, finish in moves:
            one.plugin.transition(key, start, finish, stimulus_id="a test")
        assert [row.type for row in guard.operations.running()] == ["score"]
        one.plugin.transition(("score-1a2b", 0), "long-running", "memory")
        ended = {row.type: row.status for row in guard.operations.ended()}
        assert ended == {"score": "done", "load": "failed", "gone": "abandoned"}

    _guarded(one, then=look)


def test_what_only_observes_pauses_nobody() -> None:
    """``mode="observe"`` tells and does nothing, to a worker neither."""
    one = worker(memory_limit=MIB)

    def look(guard: Guard) -> None:
        wait_for(lambda: guard.level >= Level.CRITICAL)
        one.plugin._desk._look()
        assert one.status == Status.running

    _guarded(one, plugin=GuardWorkers(mode="observe"), then=look)


def test_a_critical_worker_is_paused_and_says_so() -> None:
    """By the level alone, in Dask's own status; the topic hears of the level, and the end puts everything back."""
    one = worker(memory_limit=MIB)

    def look(guard: Guard) -> None:
        wait_for(lambda: guard.level >= Level.CRITICAL)
        one.plugin._desk._look()
        assert one.status == Status.paused
        assert one.metrics["memguard"](one)["pauses"] == 1
        wait_for(lambda: any(message["name"] == "level.changed" for message in one.told))

    _guarded(one, then=look)
    assert one.memory_manager.memory_pause_fraction == 0.80


# --- the view -----------------------------------------------------------------------------------------------------


def test_the_view_has_the_worst_first_and_names_the_unguarded() -> None:
    """Rows of the scheduler as values, readable for people; a worker without a guard is no OK."""
    dask = {"status": "running", "process_bytes": 900, "managed_bytes": 300, "unmanaged_bytes": 600, "spilled_bytes": 0}
    said = {
        "level": "CRITICAL", "used_bytes": 900 * MIB, "limit_bytes": GIB, "limit_source": "memory_limit",
        "forecast_s": None, "pauses": 2, "of_another_version": 1, "paused_s": 1.5, "incidents": 1,
        "holders": [["embeddings", "cheap", "WARNING", 300 * MIB, 3, 500 * MIB]],
    }  # fmt: skip
    view = seen([{"address": "b", "name": "1", **dask}, {"address": "a", "name": "0", **dask, **said}])
    assert [each.name for each in view.workers] == ["0", "1"]
    assert (view.level, view.unguarded, view.used_bytes) == (Level.CRITICAL, ("b",), 1800)
    first: WorkerView = view.workers[0]
    assert first.pressure == pytest.approx(900 / 1024)
    assert first.holders[0].bought_bytes == 500 * MIB
    assert "CRITICAL, 900.0 MiB of 1.00 GiB (memory_limit)" in view.text
    assert "not guarded" in view.text
    assert seen([]).level is Level.OK
