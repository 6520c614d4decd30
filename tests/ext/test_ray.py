"""What of the Ray room needs no Ray that runs: limits, runtime environments, calls, what actors keep."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("ray", reason="needs the extra 'ray'")

from memguard import AdmissionRefused, Guard, Level, MemguardError, Roster, RulesError
from memguard.ext.ray import GuardedActor, NeverFits, RayMetrics, admitted, gauges, leaving, runtime_env, workers
from memguard.ext.ray.calls import is_admitted
from memguard.ext.ray.keeping import Kept
from memguard.ext.ray.monitor import NodeLimits, monitor_limit
from memguard.handover import group_of
from memguard.model import Limit
from memguard.testing import FakeClock, FakeMemory
from memguard.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

CONTAINER = Limit(
    bytes=GIB, kind="kill", source="the container", usage="cgroup", path="/sys/fs/cgroup/memory", version=1
)


def _guard(*, used: str = "100MiB", **rules: Any) -> Guard:
    # On the machine's own clock: calls wait by it.
    guard = Guard(limit="1GiB", probe=FakeMemory(FakeClock(), base_bytes=used), roster=Roster(), **rules)
    guard.tick()
    return guard


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    """A guard with room, which the worker is thought to have."""
    made = _guard()
    monkeypatch.setattr(workers, "get_guard", lambda: made)
    return made


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Guard:
    """One at EMERGENCY."""
    made = _guard(used="1000MiB")
    monkeypatch.setattr(workers, "get_guard", lambda: made)
    return made


# --- Ray's own monitor ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "limit_bytes"),
    [
        ({}, int(0.95 * GIB)),
        ({"RAY_memory_usage_threshold": "0.8"}, int(0.8 * GIB)),
        ({"RAY_memory_usage_threshold": "0.5", "RAY_min_memory_free_bytes": str(100 * MIB)}, GIB - 100 * MIB),
        ({"RAY_memory_usage_threshold": "0.95", "RAY_min_memory_free_bytes": str(500 * MIB)}, int(0.95 * GIB)),
        ({"RAY_memory_usage_threshold": "a lot"}, int(0.95 * GIB)),
    ],
)
def test_the_monitor_is_a_limit_below_the_containers(environ: dict[str, str], limit_bytes: int) -> None:
    """Above which share Ray kills is a limit of the group that Ray reads; a wrong setting counts as Ray's default."""
    found, notes = monitor_limit([CONTAINER], environ, total_bytes=64 * GIB)
    assert found is not None
    assert (found.bytes, found.kind, found.usage, found.path) == (limit_bytes, "kill", "cgroup", CONTAINER.path)
    assert "Ray's memory monitor" in found.source
    assert bool(notes) == ("a lot" in environ.values())


def test_the_monitor_without_a_container_watches_the_machine() -> None:
    """A limit of a group that Ray does not read is not what its monitor goes by; switched off it is no limit."""
    inner = Limit(bytes=GIB, kind="kill", source="a slice", usage="cgroup", path="/sys/fs/cgroup/a.slice", version=2)
    found, _ = monitor_limit([inner], {}, total_bytes=64 * GIB)
    assert found is not None
    assert (found.bytes, found.usage, found.path) == (int(0.95 * 64 * GIB), "host", None)
    assert monitor_limit([inner], {"RAY_memory_monitor_refresh_ms": "0"}, total_bytes=64 * GIB) == (None, [])


def test_explain_names_the_monitor() -> None:
    """A guard of a worker says in explain() that Ray kills above that limit."""
    worker = Guard(limit=NodeLimits(Guard(limit=None).rules), roster=Roster())
    assert "Ray's memory monitor, which kills workers above 95% of" in worker.explain()


# --- runtime environments ---------------------------------------------------------------------------------------------


def test_a_runtime_environment_brings_the_hook_and_the_rules() -> None:
    """The hook goes by its path, rules as variables, and what the job had stays."""
    base = {"env_vars": {"TOKENIZERS_PARALLELISM": "false"}, "pip": ["orjson"]}
    made = runtime_env(base, warning_ratio="78%", blind_level=Level.ELEVATED, fuse=True)
    assert made["worker_process_setup_hook"] == "memguard.ext.ray.workers.setup"
    assert made["pip"] == ["orjson"]
    assert made["env_vars"] == {
        "TOKENIZERS_PARALLELISM": "false",
        "MEMGUARD_WARNING_RATIO": "78%",
        "MEMGUARD_BLIND_LEVEL": "ELEVATED",
        "MEMGUARD_FUSE": "True",
    }
    assert "MEMGUARD_FUSE" not in base["env_vars"]
    assert runtime_env() == {"worker_process_setup_hook": "memguard.ext.ray.workers.setup"}


def test_a_wrong_rule_is_found_where_the_job_is_made() -> None:
    """Not in every worker: an unknown rule, a value that cannot hold, one that is set twice."""
    with pytest.raises(RulesError, match="warning_rato"):
        runtime_env(warning_rato=0.5)
    with pytest.raises(RulesError, match="critical_ratio"):
        runtime_env(critical_ratio=0.5)
    with pytest.raises(MemguardError, match="keep one"):
        runtime_env({"env_vars": {"MEMGUARD_MODE": "observe"}}, mode="act")


def test_a_hook_that_was_there_is_called_after_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is a function or the path of one; and a worker whose guard fails still gets it."""
    called: list[str] = []
    monkeypatch.setattr(workers, "setup", lambda: called.append("ours"))
    runtime_env({"worker_process_setup_hook": lambda: called.append("theirs")})["worker_process_setup_hook"]()
    assert called == ["ours", "theirs"]
    runtime_env({"worker_process_setup_hook": "gc.enable"})["worker_process_setup_hook"]()
    assert called == ["ours", "theirs", "ours"]


def test_a_hook_never_raises(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong in a worker is said in its log: a hook that raised would end worker after worker."""
    monkeypatch.setenv("MEMGUARD_WARNING_RATIO", "a lot")
    workers.setup()
    assert "runs without a guard" in caplog.text
    assert "MEMGUARD_WARNING_RATIO" in caplog.text


# --- calls ------------------------------------------------------------------------------------------------------------


@admitted(bytes="64MiB")
def double(number: int) -> int:
    """Twice as much."""
    return 2 * number


def test_a_call_is_admitted_and_is_an_operation(guard: Guard) -> None:
    """It passes the gate, its promise is given back, and it is an operation of the function's name."""
    assert double(21) == 42
    assert guard.gate.running == guard.gate.promised_bytes == 0
    assert [(row.type, row.status) for row in guard.operations.ended()] == [("double", "done")]


def test_a_call_that_does_not_fit_is_refused(full: Guard) -> None:
    """After it has waited; the refusal survives the way to the caller, so that Ray can make the call again."""

    @admitted(wait_s=0.02)
    def work() -> None: ...

    with pytest.raises(AdmissionRefused) as caught:
        work()
    assert pickle.loads(pickle.dumps(caught.value)).retry_after_s > 0  # noqa: S301 - our own
    assert full.gate.refusals == 1


def test_a_call_that_can_never_fit_is_none_to_be_made_again(guard: Guard) -> None:
    """Its error is no AdmissionRefused, which Ray is told to try again, for ever perhaps."""

    @admitted(bytes=lambda size: size, wait_s=5)
    def work(size: int) -> int:
        return size

    assert work(1000) == 1000
    with pytest.raises(NeverFits, match="can never fit") as caught:
        work(2 * GIB)
    assert not isinstance(caught.value, AdmissionRefused)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - our own


def test_what_a_call_calls_is_part_of_it(guard: Guard) -> None:
    """One ticket for all, or a call could wait for room that it holds itself."""

    @admitted(bytes="600MiB", wait_s=0)
    def outer() -> int:
        assert guard.gate.running == 1
        return double(2)

    assert outer() == 4
    assert [row.type for row in guard.operations.ended()] == ["outer"]


def test_a_failed_call_closes_its_ticket(guard: Guard) -> None:
    """As failed, and its error is the caller's."""

    @admitted
    def work() -> None:
        raise KeyError("a7")

    with pytest.raises(KeyError, match="a7"):
        work()
    assert guard.gate.running == 0
    assert [row.status for row in guard.operations.ended()] == ["failed"]


def test_coroutines_and_generators_are_admitted(guard: Guard) -> None:
    """For as long as they run, and closed when they are left in the middle."""

    @admitted(bytes="1MiB")
    async def waits() -> int:
        await asyncio.sleep(0)
        return guard.gate.running

    @admitted
    async def streams() -> AsyncIterator[int]:
        yield guard.gate.running
        yield 0

    @admitted
    def yields() -> Iterator[int]:
        yield guard.gate.running
        yield 0

    async def main() -> list[int]:
        items = streams()
        first = await anext(items)
        await items.aclose()  # type: ignore[attr-defined]
        return [await waits(), first]

    assert asyncio.run(main()) == [1, 1]
    made = yields()
    assert next(made) == 1
    made.close()  # type: ignore[attr-defined]
    assert guard.gate.running == 0
    found = {row.type: row.status for row in guard.operations.ended()}
    assert found == {"waits": "done", "streams": "abandoned", "yields": "abandoned"}


def test_a_coroutine_waits_without_stopping_its_loop(full: Guard) -> None:
    """While it waits for room others run; then it is refused."""

    @admitted(wait_s=0.05)
    async def work() -> None: ...

    async def main() -> list[object]:
        ticks: list[object] = []

        async def other() -> None:
            ticks.append("ran")

        found = await asyncio.gather(work(), other(), return_exceptions=True)
        return [type(found[0]), *ticks]

    assert asyncio.run(main()) == [AdmissionRefused, "ran"]


def test_a_call_that_meets_a_hand_over_is_held(guard: Guard) -> None:
    """It neither begins nor fails while the process leaves; when that is called off it is made."""
    leaving = threading.Event()
    leaving.set()
    type(guard).leaving, before = property(lambda self: leaving.is_set()), type(guard).leaving  # type: ignore[assignment, method-assign]
    try:
        made: list[int] = []
        thread = threading.Thread(target=lambda: made.append(double(1)))
        thread.start()
        thread.join(0.2)
        assert made == []
        assert guard.gate.running == 0
        leaving.clear()
        thread.join(30)
        assert made == [2]
    finally:
        type(guard).leaving = before  # type: ignore[method-assign]


def test_what_is_no_function_is_not_decorated() -> None:
    """Nor what Ray has made already: the decorator goes below @ray.remote."""
    import ray

    with pytest.raises(TypeError, match="decorates functions"):
        admitted(Agent)
    with pytest.raises(TypeError, match="below @ray"):
        admitted(ray.remote(lambda: 1))


def test_a_memory_error_under_a_fuse_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that Ray makes the call again, as the fuse means it."""
    fused = _guard()
    object.__setattr__(fused.rules, "fuse", True)
    monkeypatch.setattr(workers, "get_guard", lambda: fused)

    @admitted
    def work() -> None:
        raise MemoryError

    with pytest.raises(AdmissionRefused, match="more memory than is left"):
        work()


# --- actors -----------------------------------------------------------------------------------------------------------


class Inherited:
    """What a class of the application has anyway."""

    def inherited(self) -> int:
        """A method of a base that knows nothing of guards."""
        return 1


class Agent(GuardedActor, Inherited):
    """An actor class, used here without Ray."""

    memguard_exempt = ("ping",)
    memguard_wait_s = 0.02

    def __init__(self, name: str = "a") -> None:
        self.name = name

    def work(self) -> str:
        """One that is admitted."""
        return self._inner()

    async def awork(self) -> str:
        """One that is admitted on a loop."""
        return self.name

    @admitted(bytes="2GiB")
    def huge(self) -> None:
        """One that says what it needs."""

    def ping(self) -> str:
        """One that is always served."""
        return "pong"

    def _inner(self) -> str:
        return self.name

    @staticmethod
    def static() -> int:
        """One that Ray calls as it is."""
        return 3


class Keeper(Agent):
    """One whose method has the name of one of ours."""

    def keep(self, *_: Any, **__: Any) -> str:  # type: ignore[override]
        """Its own."""
        return "kept"


def test_an_actors_public_methods_are_admitted(guard: Guard) -> None:
    """Its own and inherited ones, each an operation by class and name; not its constructor, not private ones."""
    agent = Agent("b")
    assert (agent.work(), agent.inherited(), agent.static(), asyncio.run(agent.awork())) == ("b", 1, 3, "b")
    assert sorted(row.type for row in guard.operations.ended()) == ["Agent.awork", "Agent.inherited", "Agent.work"]
    with pytest.raises(NeverFits):
        agent.huge()
    assert Keeper().keep() == "kept"
    assert "Keeper.keep" in {row.type for row in guard.operations.ended()}


def test_a_full_actor_still_answers_who_looks_after_it(full: Guard) -> None:
    """Exempt methods are served, all else is refused."""
    agent = Agent()
    assert agent.ping() == "pong"
    with pytest.raises(AdmissionRefused):
        agent.work()


def test_what_ray_makes_of_a_class_is_not_admitted() -> None:
    """To ask for an actor is no call of it: the driver needs no guard."""
    import ray

    made = ray.remote(Agent)
    assert not any(is_admitted(getattr(made, name)) for name in ("remote", "options", "bind"))


def test_exempt_methods_are_several() -> None:
    """One text would exempt letters."""
    with pytest.raises(TypeError, match=r"\('ping',\)"):
        type("Wrong", (GuardedActor,), {"memguard_exempt": "ping"})


@pytest.mark.parametrize(
    ("restarts", "retries", "hook", "rule", "words"),
    [
        ((0, 0), 0, True, "on", "max_restarts=-1"),
        ((3, 3), -1, True, "auto", "max_restarts=-1"),
        (None, -1, True, "auto", "handover='on'"),
        ((-1, 9), 0, True, "auto", "max_task_retries=-1"),
        ((-1, 9), -1, False, "auto", "self.keep"),
        ((3, 2), -1, True, "auto", ""),
        ((3, 2), 0, False, "on", ""),
        (None, 0, False, "on", ""),
    ],
)
def test_an_actor_says_why_it_does_not_hand_over(
    monkeypatch: pytest.MonkeyPatch, *, restarts: Any, retries: int, hook: bool, rule: str, words: str
) -> None:
    """Where nobody would follow, where calls would fail, where what it knows would go; each with the mend."""

    class Handle:
        _ray_max_task_retries = retries

    class Context:
        current_actor = Handle()

    monkeypatch.setattr(leaving, "actor_id", lambda: "ab12")
    monkeypatch.setattr(leaving, "restarts", lambda _: restarts)
    monkeypatch.setattr("ray.get_runtime_context", Context)
    watched = _guard(handover=rule)
    way = leaving.ActorWay(watched)
    watched.leave_by(way)
    if hook:
        watched.on_handover(lambda: None)
    assert words in way.hindrance
    assert bool(way.hindrance) == bool(words)
    assert group_of(way) == "ray-actor-ab12"
    last = watched.explain().partition("7. hand over:")[2]
    assert (f"never: {way.hindrance}" if words else "Ray restarts it") in last


def test_states_that_are_left_are_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an actor whose states say so by themselves nothing more is asked; tasks' workers are not handed over."""

    class Context:
        class current_actor:  # noqa: N801 - a handle
            _ray_max_task_retries = -1

    monkeypatch.setattr(leaving, "actor_id", lambda: "ab12")
    monkeypatch.setattr(leaving, "restarts", lambda _: (-1, 0))
    monkeypatch.setattr("ray.get_runtime_context", Context)
    watched = _guard()
    way = leaving.ActorWay(watched)
    kept = watched.states("beliefs", handover=True)
    assert way.hindrance == ""
    kept.close()
    assert "max_calls" in leaving.task_way().hindrance


# --- what actors keep -------------------------------------------------------------------------------------------------


def test_what_is_kept_comes_back(tmp_path: Path, guard: Guard) -> None:
    """Saved at a hand-over entry by entry, found by the successor, and nobody else's to read."""
    beliefs = guard.states("beliefs")
    beliefs.update({f"a{number}": {"knows": [number] * 100} for number in range(20)})
    known = dict(beliefs)
    kept = Kept(beliefs, name="beliefs", owner="actor-1", folder=tmp_path)
    assert kept.load() == 0
    kept.hand_over()
    assert len(beliefs) == 0
    successor: dict[str, Any] = {"own": 1}
    again = Kept(successor, name="beliefs", owner="actor-1", folder=tmp_path)
    assert again.load() == 20
    assert successor == {"own": 1, **known}
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600]
    assert again.save() == 21
    assert len(successor) == 21


def test_an_entry_that_cannot_be_pickled_costs_no_other(tmp_path: Path) -> None:
    """The others are saved, and the error names it."""
    kept = Kept({"a": 1, "lock": threading.Lock(), "b": 2}, name="s", owner="o", folder=tmp_path)
    with pytest.raises(MemguardError, match=r"1 entries are not in .*, 2 are: 'lock': TypeError"):
        kept.save()
    found: dict[str, Any] = {}
    assert Kept(found, name="s", owner="o", folder=tmp_path).load() == 2
    assert found == {"a": 1, "b": 2}


def test_a_file_that_was_cut_or_is_open_to_others_is_not_loaded(tmp_path: Path) -> None:
    """It is left as it is, with words; a save that fails leaves the one before."""
    kept = Kept({"a": 1}, name="s", owner="o", folder=tmp_path)
    kept.save()
    whole = kept.path.read_bytes()
    for broken in (whole[:-1], whole[:30], b"", b"nonsense"):
        kept.path.write_bytes(broken)
        with pytest.raises(MemguardError, match="cannot be loaded"):
            kept.load()
        assert kept.path.read_bytes() == broken
    kept.path.write_bytes(whole)
    kept.path.chmod(0o622)
    with pytest.raises(MemguardError, match="not this user's alone"):
        kept.load()
    with pytest.raises(ValueError, match="no such folder"):
        Kept({}, name="s", owner="o", folder=tmp_path / "missing")
    with pytest.raises(ValueError, match="letters"):
        Kept({}, name="../s", owner="o", folder=tmp_path)


def test_keep_outside_of_an_actor_wants_a_key(tmp_path: Path, guard: Guard) -> None:
    """An actor's id is what it shares with its successor; without one somebody has to say."""
    agent = Agent()
    with pytest.raises(ValueError, match="key='a7'"):
        agent.keep("s", {}, folder=tmp_path)
    agent.keep("s", {"a": 1}, folder=tmp_path, key="a7")
    assert agent.memguard_save() == 1
    assert Agent().keep("s", {}, folder=tmp_path, key="a7") == {"a": 1}
    assert len(guard.handover_hooks) == 2


# --- metrics ----------------------------------------------------------------------------------------------------------


class Metric:
    """Ray's, taking notes."""

    notes: list[tuple[str, float, dict[str, str]]] = []  # noqa: RUF012 - of one test

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.keys = name, tag_keys
        assert description

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert sorted(tags) == sorted(self.keys)
        self.notes.append((self.name, value, tags))

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.set(value, tags)


def test_rays_metrics_get_the_guards_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gauges by the last snapshot, counters by what has come since; nothing while Ray is not there."""
    for kind in ("Gauge", "Counter"):
        monkeypatch.setattr(gauges, kind, Metric)
    monkeypatch.setattr(Metric, "notes", [])
    clock, sink = FakeClock(), RayMetrics()
    memory = FakeMemory(clock, base_bytes="1000MiB")
    watched = Guard(limit="1GiB", probe=memory, clock=clock, roster=Roster(), sinks=(sink,))
    watched.tick()
    sink.flush()
    assert Metric.notes == []
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    for refused in (True, True, False):
        if refused:
            with pytest.raises(AdmissionRefused):
                watched.admit("1MiB")
        clock.advance(6)
        watched.tick()
        sink.flush()
    values = [(name, value) for name, value, _ in Metric.notes]
    assert ("memguard_memory_usage_bytes", 1000.0 * MIB) in values
    assert ("memguard_memory_limit_bytes", float(GIB)) in values
    assert ("memguard_memory_level", 4.0) in values
    assert sum(value for name, value in values if name == "memguard_admission_refused") == 2.0
    assert {tags["worker_slot"] for *_, tags in Metric.notes} == {"0"}
