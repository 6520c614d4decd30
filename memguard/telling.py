"""Telling: events go to sinks through a bounded queue and a thread of their own; nobody waits for a sink."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from memguard.model import Event
from memguard.threads import Bell, Running, new_lock, start_thread
from memguard.units import format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard.ports import Sink

__all__ = ["Teller"]

# Events waiting for slow sinks: some 100 bytes each.
_QUEUE = 1024
# The thread leaves after so long without an event; the next event starts another.
_IDLE_S = 30.0


class Teller:
    """Delivers events to sinks, in order; drops the oldest when sinks can't keep up, and says so.

    Events wait in the queue until ``start``. ``inline`` delivers in the caller's thread instead, for simulations.
    A sink that raises is told of again next time; its failures are counted and told to the others.
    """

    def __init__(self, sinks: Sequence[Sink], *, inline: bool = False) -> None:
        self.sinks: tuple[Sink, ...] = tuple(sinks)
        self._queue: deque[Event] = deque(maxlen=_QUEUE)
        self._bell = Bell()
        self._turn = new_lock()
        self._thread: Running | None = None
        self._started = False
        self._dropped_told = 0
        self.inline = inline
        self.dropped: int = 0
        self.failures: dict[str, int] = {}

    def tell(self, event: Event) -> None:
        """Queue one event; costs a microsecond and never blocks."""
        if not self.sinks:
            return
        if event.name == "relief.fragmented" and not self.inline:  # a simulation's heap is not this process's
            event = _with_heap(event)
        if len(self._queue) == _QUEUE:
            self.dropped += 1
        self._queue.append(event)
        if self.inline:
            self._deliver()
        elif self._started:
            self._wake()

    def _wake(self) -> None:
        if self._thread is None:
            bell = self._bell
            try:
                self._thread = start_thread(lambda: self._run(bell), "memguard-tell")
            except RuntimeError:  # no thread to be had now: the event waits for the next one
                return
        self._bell.ring()

    def _run(self, bell: Bell) -> None:
        # Another bell hangs there after a stop: this thread delivers what is left, and a later one waits its turn.
        while bell.wait(_IDLE_S) and self._bell is bell:
            self._deliver()
        if self._bell is bell:
            self._thread = None
        self._deliver()

    def _deliver(self) -> None:
        if not self._turn.acquire(blocking=not self.inline):
            return  # told by a sink that is just being told: its turn comes
        try:
            while self._queue:
                event = self._queue.popleft()
                self._pass_on(event)
                lost = self.dropped - self._dropped_told
                if lost:
                    self._dropped_told += lost
                    text = f"{lost} events were dropped: the sinks are slower than what happens"
                    self._pass_on(Event(at=event.at, name="events.dropped", text=text, attributes={"count": lost}))
        finally:
            self._turn.release()

    def _pass_on(self, event: Event) -> None:
        for sink in self.sinks:
            try:
                sink(event)
            except BaseException as error:  # noqa: BLE001 - a sink may fail in any way, SystemExit included
                self._blame(sink, event, error)

    def _blame(self, culprit: Sink, event: Event, error: BaseException) -> None:
        name = str(getattr(culprit, "name", "") or getattr(culprit, "__qualname__", type(culprit).__qualname__))
        self.failures[name] = self.failures.get(name, 0) + 1
        if self.failures[name] > 1:  # told once; counted always
            return
        text = f"sink {name} failed on {event.name}: {type(error).__name__}: {error}"
        notice = Event(at=event.at, name="sink.failed", text=text, attributes={"sink": name})
        for sink in self.sinks:
            if sink is not culprit:
                try:
                    sink(notice)
                except BaseException:  # noqa: BLE001, S112 - it will be blamed for its own failures in turn
                    continue

    def start(self) -> None:
        """Deliver from now on, beginning with what has waited; twice is fine."""
        if not self._started:
            self._started = True
            if self._queue:
                self._wake()

    def stop(self, timeout_s: float) -> None:
        """Deliver what is queued, waiting at most so long for slow sinks."""
        if not self._started:
            return
        if self._queue:
            self._wake()
        self._started = False
        bell, thread, self._bell, self._thread = self._bell, self._thread, Bell(), None
        bell.ring()
        if thread is not None:
            thread.join(timeout_s)

    def forget(self) -> None:
        """In a forked child: the thread is gone, and what was queued is the parent's to tell."""
        self._bell, self._turn, self._thread, self._started = Bell(), new_lock(), None, False
        self._queue.clear()


def _with_heap(event: Event) -> Event:
    """The same, with what the C allocator has mapped and does not use: the number that explains it."""
    from memguard.probes.heap import mapped_free_bytes  # noqa: PLC0415 - ctypes, for a rare event

    free_bytes = mapped_free_bytes()
    if free_bytes is None:
        return event
    text = f"{event.text}, {format_bytes(free_bytes)} mapped by malloc but free"
    return replace(event, text=text, attributes={**event.attributes, "mapped_free_bytes": free_bytes})
