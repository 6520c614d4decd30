"""Features: off from a level on, back with the ladder, never flapping; a hand on the switch wins."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import Any

import pytest

from memguard.errors import AdmissionRefused, FeatureOff
from memguard.features import Features
from memguard.guard import Guard
from memguard.model import Event, Level, Snapshot
from memguard.roster import Roster
from memguard.testing import FakeClock, FakeMemory
from memguard.units import MIB


class Scene:
    """Features, and a level that a test may set."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.events: list[Event] = []
        self.features = Features(clock=self.clock, tell=self.events.append, **options)

    def show(self, level: Level) -> None:
        snapshot = Snapshot(at=self.clock(), reading=None, limit=None, pressure=0.0, level=level, forecast=None)
        self.features.show(snapshot)


@pytest.fixture
def scene() -> Scene:
    """At OK."""
    return Scene()


def test_off_from_its_level_on(scene: Scene) -> None:
    """Each goes off at its own level and comes back below it."""
    early = scene.features.feature("embeddings", off_at=Level.ELEVATED)
    late = scene.features.feature("search", off_at="critical")
    seen = []
    for level in (Level.OK, Level.ELEVATED, Level.WARNING, Level.CRITICAL, Level.EMERGENCY, Level.WARNING, Level.OK):
        scene.show(level)
        seen.append((bool(early), bool(late)))
    on, off = True, False
    assert seen == [(on, on), (off, on), (off, on), (off, off), (off, off), (off, on), (on, on)]


def test_one_that_is_named_late_starts_as_the_level_wants(scene: Scene) -> None:
    """A feature made under pressure is off from the start."""
    scene.show(Level.CRITICAL)
    assert not scene.features.feature("embeddings")


def test_the_same_name_is_the_same_feature(scene: Scene) -> None:
    """Two modules that name it share it; two levels for one name are an error."""
    assert scene.features.feature("a") is scene.features.feature("a")
    with pytest.raises(ValueError, match="goes off at WARNING since it was first named, not at CRITICAL"):
        scene.features.feature("a", off_at=Level.CRITICAL)


def test_it_does_not_flap() -> None:
    """Usage that swings around the rung every 100 ms for a minute changes it at most once per dwell of 2 s."""
    clock = FakeClock()
    memory = FakeMemory(clock, base_bytes="100MiB")
    guard = Guard(limit="500MiB", probe=memory, clock=clock, roster=Roster())
    features = Features(clock=clock)
    feature = features.feature("embeddings")
    for number in range(600):
        memory.live_bytes = (310 if number % 2 else 290) * MIB
        clock.advance(0.1)
        guard.tick()
        features.show(guard.snapshot)
    assert not feature
    assert feature.row().changes == 1
    memory.live_bytes = 0
    for _ in range(40):
        clock.advance(0.1)
        guard.tick()
        features.show(guard.snapshot)
    assert feature
    assert feature.row().changes == 2


def test_by_hand(scene: Scene) -> None:
    """force() holds whatever the level says, until None hands it back."""
    feature = scene.features.feature("embeddings")
    feature.force(False)
    assert not feature
    scene.show(Level.CRITICAL)
    feature.force(True)
    assert feature
    assert feature.forced is True
    feature.force(None)
    assert not feature
    scene.show(Level.OK)
    assert feature
    with pytest.raises(TypeError, match="True, False or None"):
        feature.force("off")  # type: ignore[arg-type]


def test_changes_are_counted_and_told(scene: Scene) -> None:
    """How often, for how long off, since when; each change is one event with its reason."""
    feature = scene.features.feature("embeddings")
    scene.show(Level.WARNING)
    scene.clock.advance(5.0)
    scene.show(Level.OK)
    scene.clock.advance(1.0)
    feature.force(False)
    scene.clock.advance(2.0)
    row = feature.row()
    assert (row.on, row.changes, row.off_s, row.forced) == (False, 3, 7.0, False)
    assert row.at == scene.clock() - 2.0
    assert [event.text for event in scene.events] == [
        "feature 'embeddings' is off at WARNING",
        "feature 'embeddings' is on at OK, after 5.0 s",
        "feature 'embeddings' is off by hand",
    ]
    assert scene.features.rows() == (feature.row(),)


def test_observing_leaves_it_on() -> None:
    """Mode "observe" changes nothing; a hand still does."""
    scene = Scene(act=False)
    feature = scene.features.feature("embeddings")
    scene.show(Level.EMERGENCY)
    assert feature
    feature.force(False)
    assert not feature


def test_decorating_with_a_fallback(scene: Scene) -> None:
    """While it is off the fallback answers, called with the same arguments, or as it is; results pass through."""
    feature = scene.features.feature("embeddings")

    @feature(fallback=lambda text, *, size=2: "keyword " * size)
    def embed(text: str, *, size: int = 2) -> str:
        """Doc."""
        return "dense " * size

    @feature(fallback=None)
    def rerank(text: str) -> str | None:
        return text

    assert (embed("x", size=1), rerank("x"), embed.__doc__) == ("dense ", "x", "Doc.")
    scene.show(Level.WARNING)
    assert (embed("x", size=1), rerank("x")) == ("keyword ", None)
    assert feature.row().skipped == 2


def test_decorating_async(scene: Scene) -> None:
    """An async function may fall back to an async one, a plain one, or a value."""
    feature = scene.features.feature("embeddings")

    async def cheap(text: str) -> str:
        return "cheap " + text

    def make(fallback: object) -> Any:
        @feature(fallback=fallback)
        async def embed(text: str) -> str:
            return "dense " + text

        return embed

    functions = [make(cheap), make(lambda text: "plain " + text), make("value")]
    assert [asyncio.run(function("x")) for function in functions] == ["dense x"] * 3
    scene.show(Level.WARNING)
    assert [asyncio.run(function("x")) for function in functions] == ["cheap x", "plain x", "value"]


def test_decorating_without_a_fallback(scene: Scene) -> None:
    """A call while it is off is refused as work is: 503 with a hint; it survives pickling."""
    feature = scene.features.feature("embeddings")

    @feature
    def embed() -> str:
        return "dense"

    assert embed() == "dense"
    scene.show(Level.CRITICAL)
    with pytest.raises(FeatureOff, match="'embeddings' is off from WARNING on, and memory is at CRITICAL") as refused:
        embed()
    assert isinstance(refused.value, AdmissionRefused)
    assert refused.value.problem()["status"] == 503
    assert pickle.loads(pickle.dumps(refused.value)).feature == "embeddings"  # noqa: S301 - our own


def test_bad_input(scene: Scene) -> None:
    """Names and levels that cannot be meant are named, with the mend."""
    feature = scene.features.feature("a")
    for call, words in (
        (lambda: scene.features.feature(" "), "needs a name"),
        (lambda: scene.features.feature(7), "needs a name"),  # type: ignore[arg-type]
        (lambda: scene.features.feature("b", off_at="high"), "choose one of ELEVATED, WARNING, CRITICAL, EMERGENCY"),
        (lambda: scene.features.feature("b", off_at=2), "is no level"),  # type: ignore[arg-type]
        (lambda: scene.features.feature("b", off_at=Level.OK), "off for ever"),
        (lambda: feature(7), "decorates functions"),  # type: ignore[call-overload]
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            call()
    assert [row.name for row in scene.features.rows()] == ["a"]


def test_a_sink_may_come_back_in(scene: Scene) -> None:
    """Whoever is told of a change may switch it at once."""
    feature = scene.features.feature("embeddings")
    scene.features.tell = lambda event: feature.force(True) if not event.attributes["on"] else None
    scene.show(Level.WARNING)
    assert feature


def test_switching_from_many_threads(scene: Scene) -> None:
    """Changes from several threads add up: as many as there were, on and off in turn."""
    feature = scene.features.feature("embeddings")

    def work() -> None:
        for number in range(2000):
            feature.force(number % 2 == 0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [event.attributes["on"] for event in scene.events]
    assert feature.row().changes == len(told)
    assert feature.row().on is feature.forced
    assert abs(told.count(True) - told.count(False)) <= 1
