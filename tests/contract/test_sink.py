"""What every sink promises, and what the teller promises sinks."""

from __future__ import annotations

import io
import json
import logging
import time
from typing import TYPE_CHECKING

import pytest

from memguard.model import Event
from memguard.ports import Sink
from memguard.sinks.log import LogSink
from memguard.telemetry import EVENTS
from memguard.telling import Teller
from memguard.testing import BlockingSink, RaisingSink, RecordingSink
from tests.waiting import stays, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


def _event(name: str = "guard.started", number: int = 0) -> Event:
    return Event(at=float(number), name=name, text=f"event {number}", attributes={"number": number})


class SinkPromises:
    """The promises of ``ports.Sink``; a subclass says in ``make`` how to get one."""

    def make(self) -> Sink:
        raise NotImplementedError

    def test_it_has_the_shape(self) -> None:
        """It is a Sink by shape."""
        assert isinstance(self.make(), Sink)

    @pytest.mark.parametrize("name", sorted(EVENTS))
    def test_it_takes_every_event(self, name: str) -> None:
        """Each event of the table is taken without an error."""
        self.make()(_event(name))


class TestLog(SinkPromises):
    def make(self) -> Sink:
        return LogSink()


class TestRecording(SinkPromises):
    def make(self) -> Sink:
        return RecordingSink()


class TestBlockingReleased(SinkPromises):
    def make(self) -> Sink:
        sink = BlockingSink()
        sink.release()
        return sink


def test_the_log_is_as_loud_as_the_table_says(caplog: pytest.LogCaptureFixture) -> None:
    """Severity and words arrive in the log, attributes beside them."""
    with caplog.at_level(logging.INFO, logger="memguard"):
        for name in EVENTS:
            LogSink()(_event(name))
    assert [record.levelname.lower() for record in caplog.records] == [row.severity for row in EVENTS.values()]
    assert "event 0" in caplog.text
    assert caplog.records[0].memguard["number"] == 0  # type: ignore[attr-defined]


@pytest.fixture
def tellers() -> Iterator[list[Teller]]:
    """Tellers that are stopped after the test."""
    made: list[Teller] = []
    yield made
    for teller in made:
        teller.stop(5.0)


def _started(tellers: list[Teller], *sinks: Sink) -> Teller:
    teller = Teller(sinks)
    tellers.append(teller)
    teller.start()
    return teller


def test_before_the_start_events_wait(tellers: list[Teller]) -> None:
    """Creating a teller starts nothing; what was told before comes first."""
    sink = RecordingSink()
    teller = Teller((sink,))
    tellers.append(teller)
    teller.tell(_event(number=1))
    assert teller._thread is None
    assert sink.events == []
    teller.start()
    teller.tell(_event(number=2))
    wait_for(lambda: len(sink.events) == 2)
    assert [event.at for event in sink.events] == [1.0, 2.0]


def test_order_is_kept(tellers: list[Teller]) -> None:
    """A thousand events arrive as told."""
    sink = RecordingSink()
    teller = _started(tellers, sink)
    for number in range(1000):
        teller.tell(_event(number=number))
    teller.stop(10.0)
    assert [event.at for event in sink.events] == [float(number) for number in range(1000)]


@pytest.mark.parametrize("error", [RuntimeError, OSError, MemoryError, SystemExit, KeyboardInterrupt])
def test_one_that_raises_harms_nobody(tellers: list[Teller], error: type[Exception]) -> None:
    """The others get everything, hear once of the failure, and the failures are counted."""
    bad, good = RaisingSink(error=lambda: error("no")), RecordingSink()
    teller = _started(tellers, bad, good)
    for number in range(5):
        teller.tell(_event(number=number))
    teller.stop(10.0)
    assert good.names.count("sink.failed") == 1
    assert good.names.count("guard.started") == 5
    assert len(bad.events) == 5
    assert teller.failures == {"RaisingSink": 5}


def test_one_that_blocks_is_never_waited_for(tellers: list[Teller]) -> None:
    """Telling goes on at once; the oldest events are dropped, and it is said how many, once."""
    sink = BlockingSink()
    teller = _started(tellers, sink)
    began = time.monotonic()
    for number in range(3000):
        teller.tell(_event(number=number))
    assert time.monotonic() - began < 5.0
    sink.release()
    wait_for(lambda: not teller._queue)
    teller.tell(_event(number=9999))
    teller.stop(10.0)
    told = [event for event in sink.events if event.name == "events.dropped"]
    assert sum(int(event.attributes["count"]) for event in told) == teller.dropped > 1900
    assert len(told) == 1
    assert sink.events[-1].at == 9999.0
    assert len(sink.events) == 3001 - teller.dropped + 1


def test_a_stop_does_notwait_for_ever(tellers: list[Teller]) -> None:
    """A blocked sink holds a stop for the time allowed; started anew, no two threads call a sink at once."""
    sink = BlockingSink()
    teller = _started(tellers, sink)
    teller.tell(_event(number=1))
    wait_for(lambda: sink.events)
    began = time.monotonic()
    teller.stop(0.05)
    assert time.monotonic() - began < 5.0
    teller.start()
    teller.tell(_event(number=2))
    assert stays(lambda: len(sink.events) == 1)
    sink.release()
    wait_for(lambda: len(sink.events) == 2)


def test_in_a_forked_child_nothing_is_told_twice(tellers: list[Teller]) -> None:
    """What was queued is the parent's to tell; the child's own events are told."""
    sink = RecordingSink()
    teller = Teller((sink,))
    tellers.append(teller)
    teller.tell(_event(number=1))
    teller.forget()
    teller.start()
    teller.tell(_event(number=2))
    wait_for(lambda: sink.events)
    assert [event.at for event in sink.events] == [2.0]


def test_inline_tells_at_once_and_bears_reentry() -> None:
    """In a simulation a sink is called in tell itself, and may tell something on its own."""
    told: list[str] = []

    def sink(event: Event, /) -> None:
        told.append(event.name)
        if event.name == "guard.started":
            teller.tell(_event("guard.stopped"))

    teller = Teller((sink,), inline=True)
    teller.tell(_event("guard.started"))
    assert told == ["guard.started", "guard.stopped"]


def test_events_can_be_written_as_json() -> None:
    """Attributes hold only what JSON can."""
    stream = io.StringIO()
    json.dump(dict(_event().attributes), stream)
    assert stream.getvalue() == '{"number": 0}'
