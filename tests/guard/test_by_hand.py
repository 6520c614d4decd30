"""What a person does by hand: relieve, collect, trim, explain."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest

from memguard.errors import MemguardError, RulesError
from memguard.guard import Guard
from memguard.model import Level
from memguard.roster import Roster
from memguard.testing import FakeClock, FakeHolder, FakeMemory, RecordingSink
from memguard.units import MIB
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


class Scene:
    """A guard over fake memory with a cache of 300 MiB: 400 of 512 MiB are used."""

    def __init__(self, **settings: Any) -> None:
        self.memory = FakeMemory(FakeClock(), base_bytes="100MiB")
        self.answers = FakeHolder(self.memory, "answers", held_bytes="300MiB")
        self.memory.holders.append(self.answers)
        self.sink = RecordingSink()
        settings = {"limit": "512MiB", "pace_max_s": 0.02, **settings}
        self.guard = Guard(probe=self.memory, roster=Roster(), sinks=(self.sink,), **settings)
        self.guard.roster.add(self.answers)


@pytest.fixture(params=["started", "stopped"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """The same promises hold whether the guard runs or not."""
    made = Scene(elevated_ratio=0.85, collect_ratio=0.87, warning_ratio=0.89)  # calm, so that only the person acts
    if request.param == "started":
        made.guard.start()
    yield made
    made.guard.stop()


@pytest.mark.parametrize(
    ("target", "most_mib"),
    [
        ("300MiB", 300),
        (250 * MIB, 250),
        (0.5, 256),
        (Level.ELEVATED, 0.8 * 512),
        (Level.CRITICAL, 0.85 * 512),
        (None, 0.8 * 512),
        (1.0, 512),
    ],
)
def test_relieve_down_to_a_target(scene: Scene, target: Any, most_mib: float) -> None:
    """Bytes, text, a share of the limit, a level or nothing: memory ends below, and not far below."""
    before = scene.memory.used_bytes
    incident = scene.guard.relieve(target, reason="before a deploy")
    used = scene.memory.used_bytes
    assert used <= most_mib * MIB
    assert used >= min(before, most_mib * MIB) - 0.06 * 512 * MIB
    assert incident.reason == "before a deploy"
    assert incident.closed_at is not None
    assert incident.bought_bytes == before - used
    assert incident.verdict
    assert scene.guard.level is Level.OK


def test_relieve_to_what_cannot_be(scene: Scene) -> None:
    """Everybody gives what he has; the incident says what that was, and the call returns."""
    incident = scene.guard.relieve(1 * MIB)
    assert scene.memory.used_bytes == 100 * MIB
    assert incident.bought_bytes == 300 * MIB
    assert incident.closed_at is not None


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("lots", "cannot be meant"),
        ("50%", "is a share"),
        (-1, "negative"),
        (1.5, "no share of the limit"),
        (-0.1, "no share of the limit"),
    ],
)
def test_targets_that_cannot_be_meant(scene: Scene, target: Any, why: str) -> None:
    """The error names the target and the mend, and nothing is shed."""
    with pytest.raises(RulesError, match=why):
        scene.guard.relieve(target)
    assert scene.answers.asked == []


def test_relative_targets_need_a_limit() -> None:
    """Without a limit a level or a share says nothing; bytes do."""
    scene = Scene(limit=None)
    with pytest.raises(RulesError, match="needs a limit"):
        scene.guard.relieve(0.5)
    scene.guard.relieve("200MiB")
    assert scene.memory.used_bytes <= 200 * MIB


def test_relieve_in_the_guards_own_thread() -> None:
    """It would wait for itself: an error says so."""
    failures: list[Exception] = []

    class Asking(FakeMemory):
        def read(self) -> int:
            if threading.current_thread().name == "memguard" and not failures:
                try:
                    guard.relieve("1MiB")
                except MemguardError as error:
                    failures.append(error)
            return super().read()

    guard = Guard(limit="512MiB", probe=Asking(FakeClock()), roster=Roster())
    with guard:
        wait_for(lambda: failures)
    assert "own thread" in str(failures[0])


def test_relieve_from_two_threads(scene: Scene) -> None:
    """Both return, and memory is below the lower target."""
    incidents: list[Any] = []
    threads = [
        threading.Thread(target=lambda target=target: incidents.append(scene.guard.relieve(target)))
        for target in ("350MiB", "200MiB")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert len(incidents) == 2
    assert scene.memory.used_bytes <= 350 * MIB


def test_a_stop_ends_a_relief_by_hand() -> None:
    """Whoever waits for a relief is let go when the guard is stopped."""
    scene = Scene()
    gate = threading.Event()
    scene.guard.reclaimer("slow", lambda wanted_bytes: gate.wait(20.0) and None, cost="free")
    done = threading.Event()
    scene.guard.start()

    def relieve() -> None:
        scene.guard.relieve("150MiB")
        done.set()

    thread = threading.Thread(target=relieve)
    thread.start()
    wait_for(lambda: scene.guard.snapshot.incident is not None)
    gate.set()
    scene.guard.stop()
    wait_for(done.is_set)
    thread.join()


def test_observing_relieves_nothing() -> None:
    """In mode 'observe' the plan is told, the call returns, and nobody is asked."""
    scene = Scene(mode="observe")
    scene.guard.relieve("150MiB")
    assert scene.answers.asked == []
    scene.guard.tick()
    scene.guard.stop()
    assert "relief.planned" in scene.sink.names


def test_an_own_loop_goes_on_after_a_relief_by_hand() -> None:
    """A host that ticks by itself keeps its level and snapshot over a relief."""
    scene = Scene()
    scene.guard.tick()
    assert scene.guard.level is Level.ELEVATED
    scene.guard.relieve("390MiB")
    assert scene.guard.snapshot.reading is not None
    assert scene.guard.level is Level.ELEVATED
    scene.guard.stop()


def test_afterwards_a_stopped_guard_refuses_nobody() -> None:
    """A relief by hand with a guard that does not run leaves no level behind."""
    scene = Scene()
    scene.memory.grow(100 * MIB)
    scene.answers.gives_ratio = 0.0
    scene.guard.relieve("150MiB")
    assert scene.guard.level is Level.OK
    scene.guard.admit("1MiB").close()


def test_collect_and_trim_are_measured(scene: Scene) -> None:
    """They run here and now, and say what they bought and how long they took."""

    class Knot:
        def __init__(self) -> None:
            self.me = self

    Knot()
    relief = scene.guard.collect()
    assert relief.name == "collect"
    assert relief.error == ""
    assert (relief.claimed_bytes or 0) > 0
    assert relief.cost_s > 0.0
    trimmed = scene.guard.trim()
    assert trimmed.name == "trim"
    assert trimmed.bought_bytes == 0


@pytest.mark.parametrize("generation", [-1, 3])
def test_generations_that_are_none(generation: int) -> None:
    """The relief carries the error."""
    relief = Scene().guard.collect(generation)
    assert "no gc generation" in relief.error


def test_collect_really_collects(scene: Scene) -> None:
    """Generation 2 by default."""
    before = gc.get_stats()[2]["collections"]
    scene.guard.collect()
    assert gc.get_stats()[2]["collections"] == before + 1


def test_explain() -> None:
    """The limit and its source, every rule with its value, origin and reason, and who holds what."""
    scene = Scene(dwell_s=3.0)
    text = scene.guard.explain()
    assert "512.0 MiB (policy) from the keyword limit of Guard()" in text
    assert "dwell_s = 3.0  [keyword]" in text
    assert "critical_ratio = 0.9  [default]" in text
    for name in scene.guard.rules.__dataclass_fields__:
        assert name == "origins" or f"{name} = " in text
    assert "answers: 300.0 MiB, cost cheap, from WARNING; 0 attempts bought 0 B" in text
    assert "trim: " in text
    assert "collect: " in text


def test_explain_without_a_limit() -> None:
    """It says that the guard only observes, and the mend."""
    assert "none: the guard observes only; set API_MAX_MEMORY_MB" in Scene(limit=None).guard.explain()


def test_holders_are_listed(scene: Scene) -> None:
    """Name, bytes, share, and what their reliefs really bought."""
    scene.guard.relieve("300MiB")
    holders = {holder.name: holder for holder in scene.guard.holders()}
    assert set(holders) >= {"trim", "collect", "answers"}
    answers = holders["answers"]
    assert answers.size_bytes == scene.answers.size()
    assert answers.attempts >= 1
    assert answers.bought_bytes == 300 * MIB - (answers.size_bytes or 0)
