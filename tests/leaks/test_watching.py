"""Watched objects: those that go are not mentioned, those that stay are told with their holder."""

from __future__ import annotations

import gc
import sys
import weakref
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from memguard.leaks import watching
from memguard.leaks.watching import Watchlist
from memguard.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.model import Event


class Session:
    """It should go when its user has gone."""


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that is there for this test."""
    module = ModuleType("watched_app")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module
    vars(module).clear()


class Stage:
    """A watchlist with a clock that is wound by hand."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.told: list[Event] = []
        self.list = Watchlist(tell=self.told.append, clock=self.clock, inline=True)

    def watch(self, thing: object, label: str = "session 1", grace_s: float = 10.0) -> Any:
        return self.list.add(thing, label, grace_s=grace_s, now=self.clock())

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.list.look(self.clock())


def test_what_stays_is_told_with_its_holder(app: Any) -> None:
    """After the grace period and a collection the event names the object, its type and who holds it."""
    stage = Stage()
    app.sessions = {"a": Session()}
    row = stage.watch(app.sessions["a"])
    stage.later(5.0)
    assert stage.told == []
    stage.later(6.0)
    assert [event.name for event in stage.told] == ["leak.kept"]
    assert "session 1" in stage.told[0].text
    assert "watched_app.sessions['a']" in stage.told[0].text
    assert row.chain.path == "watched_app.sessions['a']"
    assert len(stage.list) == 0


def test_what_goes_is_not_mentioned() -> None:
    """An object that went in time costs no collection."""
    stage = Stage()
    session = Session()
    row = stage.watch(session)
    del session
    before = gc.get_stats()[2]["collections"]
    stage.later(11.0)
    assert stage.told == []
    assert row.gone
    assert gc.get_stats()[2]["collections"] == before


def test_a_cycle_is_collected_first() -> None:
    """What only a cycle holds is collected, and no leak."""
    stage = Stage()
    session = Session()
    session.me = session  # type: ignore[attr-defined]
    stage.watch(session)
    del session
    gc.disable()
    try:
        stage.later(11.0)
    finally:
        gc.enable()
    assert stage.told == []


def test_a_weak_reference(app: Any) -> None:
    """A weak reference is as good as the object."""
    stage = Stage()
    app.kept = Session()
    stage.watch(weakref.ref(app.kept))
    stage.later(11.0)
    assert "watched_app.kept" in stage.told[0].text


@pytest.mark.parametrize("thing", [[], {}, 5, "text"])
def test_what_cannot_be_watched(thing: object) -> None:
    """What cannot be referred to weakly is refused with its type and what to do."""
    with pytest.raises(TypeError, match=f"a {type(thing).__name__} cannot be referred to weakly.*watch the object"):
        Stage().watch(thing)


def test_a_label_that_is_no_text() -> None:
    """The label names the object in reports."""
    with pytest.raises(TypeError, match="label=5 must be text"):
        Stage().watch(Session(), 5)  # type: ignore[arg-type]


def test_closed_ones_are_not_told(app: Any) -> None:
    """Who changes his mind closes the watch."""
    stage = Stage()
    app.kept = Session()
    stage.watch(app.kept).close()
    stage.later(11.0)
    assert stage.told == []


def test_many_of_one_label(app: Any) -> None:
    """Of a hundred that stay the first few say it."""
    stage = Stage()
    app.kept = [Session() for _ in range(100)]
    for session in app.kept:
        stage.watch(session)
    stage.later(11.0)
    assert 1 <= len(stage.told) <= 3


def test_the_list_is_bounded(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that watches everything does not leak through it."""
    monkeypatch.setattr(watching, "_AT_MOST", 50)
    stage = Stage()
    app.kept = [Session() for _ in range(200)]
    for session in app.kept:
        stage.watch(session)
    assert len(stage.list) == 50
    assert stage.list.given_up == 150


def test_collections_are_rare(app: Any) -> None:
    """However many are due, a collection for them comes at most every ten seconds."""
    stage = Stage()
    app.kept = [Session() for _ in range(20)]
    before = gc.get_stats()[2]["collections"]
    for number in range(20):
        stage.watch(app.kept[number], f"session {number}", grace_s=number * 0.5)
    for _ in range(40):
        stage.later(0.5)
    assert gc.get_stats()[2]["collections"] - before <= 4
    assert len(stage.told) == 20


def test_an_examiner_that_fails(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the search is told, and the next look works again."""

    def fail(_thing: object) -> None:
        raise MemoryError

    stage = Stage()
    app.kept = Session()
    stage.watch(app.kept)
    monkeypatch.setattr(watching, "find", fail)
    stage.later(11.0)
    assert [event.name for event in stage.told] == ["leak.unexamined"]
    monkeypatch.undo()
    stage.watch(app.__dict__["kept"], "again")
    stage.later(21.0)
    assert stage.told[-1].name == "leak.kept"


def test_hostile_objects_are_not_asked(app: Any, hostile: Any) -> None:
    """Watching runs no code of the object's class."""
    stage = Stage()
    app.kept = object.__new__(hostile.Raising)
    hostile.CALLS.clear()
    stage.watch(app.kept)
    stage.later(11.0)
    calls = list(hostile.CALLS)
    assert calls == []
    assert "watched_app.kept" in stage.told[0].text
