"""Telling: events go to sinks through a bounded queue and a thread of their own; nobody waits for a sink."""

from __future__ import annotations

import time
from collections import deque

from memguard.model import Event
from memguard.threads import Bell, Running, new_lock, start_thread
from memguard.units import format_bytes
from memguard.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memguard.ports import Sink

__all__ = ["Teller"]

# Events waiting for slow sinks: some 100 bytes each.
_QUEUE = 1024
# The thread leaves after so long without an event; the next event starts another.
_IDLE_S = 30.0
# A sink that gathers before it writes is asked so often to write.
_FLUSH_S = 1.0


class Teller:
    """Delivers events to sinks, in order; drops the oldest when sinks can't keep up, and says so.

    Events wait in the queue until ``start``. ``inline`` delivers in the caller's thread instead, for simulations.
    A sink that raises is told of again next time; its failures are counted and told to the others. A ``slow`` sink has
    a line of its own, a teller with one sink and one thread, so that no other waits for it.
    """

    def __init__(self, sinks: Sequence[Sink], *, inline: bool = False, line_of: Teller | None = None) -> None:
        self._line_of = line_of
        self._lines: tuple[Teller, ...] = ()
        self._queue: deque[Event] = deque(maxlen=_QUEUE)
        self._bell = Bell()
        self._turn, self._starting = new_lock(), new_lock()
        self._thread: Running | None = None
        self._started = False
        self._dropped = self._dropped_told = 0
        self.inline = inline
        self.failures: dict[str, int] = {} if line_of is None else line_of.failures
        self.sinks = tuple(sinks)

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """Who is told."""
        return (*self._sinks, *(sink for line in self._lines for sink in line.sinks))

    @sinks.setter
    def sinks(self, sinks: Sequence[Sink]) -> None:
        apart = [self._line_of is None and bool(getattr(sink, "slow", False)) for sink in sinks]
        self._sinks = tuple(sink for sink, slow in zip(sinks, apart, strict=True) if not slow)
        self._flushes = [flush for sink in self._sinks if (flush := getattr(sink, "flush", None)) is not None]
        old = self._lines
        self._lines = tuple(
            next((line for line in old if line.sinks[0] is sink), None) or Teller((sink,), line_of=self)
            for sink, slow in zip(sinks, apart, strict=True)
            if slow
        )
        for line in old:
            if line not in self._lines:
                line.stop(0.0)
        if self._started:
            for line in self._lines:
                line.start()

    @property
    def dropped(self) -> int:
        """How many events were dropped because a sink was too slow."""
        return self._dropped + sum(line.dropped for line in self._lines)

    def tell(self, event: Event) -> None:
        """Queue one event; costs a microsecond and never blocks."""
        if not self._sinks and not self._lines:
            return
        # A simulation's heap is not this process's; a line is told what was looked up already.
        if event.name == "relief.fragmented" and not self.inline and self._line_of is None:
            event = _with_heap(event)
        for line in self._lines:
            line.inline = self.inline
            line.tell(event)
        if not self._sinks:
            return
        if len(self._queue) == _QUEUE:
            self._dropped += 1
        self._queue.append(event)
        if self.inline:
            self._deliver()
        elif self._started:
            self._wake()

    def _wake(self) -> None:
        if self._thread is None and self._starting.acquire(False):  # noqa: FBT003 - positional in C
            try:  # two threads may tell at once, and one bell wakes one thread
                if self._thread is None:
                    bell = self._bell
                    self._thread = start_thread(lambda: self._run(bell), "memguard-tell")
            except RuntimeError:  # no thread to be had now: the event waits for the next one
                return
            finally:
                self._starting.release()
        self._bell.ring()

    def _run(self, bell: Bell) -> None:
        # Another bell hangs there after a stop: this thread delivers what is left, and a later one waits its turn.
        while (bell.wait(_FLUSH_S if self._flushes else _IDLE_S) or self._flushes) and self._bell is bell:
            self._deliver()
        if self._bell is bell:
            self._thread = None
        self._deliver(last=self._bell is not bell)

    def _deliver(self, *, last: bool = False) -> None:
        if not self._turn.acquire(blocking=not self.inline):
            return  # told by a sink that is just being told: its turn comes
        try:
            while self._queue:
                event = self._queue.popleft()
                self._pass_on(event)
                lost = self._dropped - self._dropped_told
                if lost:
                    self._dropped_told += lost
                    text = f"{lost} events were dropped: the sinks are slower than what happens"
                    self._pass_on(Event(at=event.at, name="events.dropped", text=text, attributes={"count": lost}))
            for flush in self._flushes:
                self._call(flush)
            if last and not self._started:
                self._close()
        finally:
            self._turn.release()

    def _call(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - as in _pass_on
            sink: Sink = getattr(work, "__self__", work)  # type: ignore[arg-type]
            self._blame(sink, getattr(work, "__name__", "flush"), 0.0, error)

    def _close(self) -> None:
        for sink in self._sinks:
            close = getattr(sink, "close", None)
            if close is not None:
                self._call(close)

    def _pass_on(self, event: Event) -> None:
        for sink in self._sinks:
            try:
                sink(event)
            except BaseException as error:  # noqa: BLE001 - a sink may fail in any way, SystemExit included
                self._blame(sink, event.name, event.at, error)

    def _blame(self, culprit: Sink, doing: str, at: float, error: BaseException) -> None:
        name = str(getattr(culprit, "name", "") or getattr(culprit, "__qualname__", type(culprit).__qualname__))
        self.failures[name] = self.failures.get(name, 0) + 1
        if self.failures[name] > 1:  # told once; counted always
            return
        text = f"sink {name} failed on {doing}: {type(error).__name__}: {error}"
        notice = Event(at=at, name="sink.failed", text=text, attributes={"sink": name})
        if self._line_of is not None:
            self._line_of.tell(notice)
            return
        for line in self._lines:
            line.tell(notice)
        for sink in self._sinks:
            if sink is not culprit:
                try:
                    sink(notice)
                except BaseException:  # noqa: BLE001, S112 - it will be blamed for its own failures in turn
                    continue

    def start(self) -> None:
        """Deliver from now on, beginning with what has waited; twice is fine."""
        if not self._started:
            self._started = True
            if self.inline and self._queue:
                self._deliver()
            elif not self.inline and (self._queue or self._flushes):
                self._wake()
            for line in self._lines:
                line.inline = self.inline
                line.start()

    def stop(self, timeout_s: float) -> None:
        """Deliver what is queued, waiting at most so long for slow sinks; sinks with a ``close`` are closed."""
        if not self._started:
            return
        threads = [line._end() for line in self._lines] + [self._end()]  # noqa: SLF001 - tellers, too
        for thread in threads:
            if thread is not None:
                began = time.monotonic()
                thread.join(timeout_s)
                timeout_s = max(0.0, timeout_s - (time.monotonic() - began))

    def _end(self) -> Running | None:
        """Have the thread deliver what is queued, close and leave; the thread."""
        hurry = getattr(self._sinks[0], "hurry", None) if self._line_of is not None else None
        if hurry is not None:
            hurry()
        if self.inline:
            self._started = False
            self._deliver(last=True)
            return None
        if self._queue or any(hasattr(sink, "close") for sink in self._sinks):
            self._wake()
        self._started = False
        bell, thread, self._bell, self._thread = self._bell, self._thread, Bell(), None
        bell.ring()
        return thread

    def forget(self) -> None:
        """In a forked child: the thread is gone, and what was queued is the parent's to tell."""
        self._bell, self._turn, self._starting = Bell(), new_lock(), new_lock()
        self._thread, self._started = None, False
        self._queue.clear()
        for line in self._lines:
            line.forget()
        for sink in self._sinks:
            forget = getattr(sink, "forget", None)
            if forget is not None:
                self._call(forget)


def _with_heap(event: Event) -> Event:
    """The same, with what the C allocator has mapped and does not use: the number that explains it."""
    from memguard.mallinfo import malloc_bytes  # noqa: PLC0415 - ctypes, for a rare event

    found = malloc_bytes()
    if found is None:
        return event
    _, free_bytes = found
    text = f"{event.text}, {format_bytes(free_bytes)} mapped by malloc but free"
    return replace(event, text=text, attributes={**event.attributes, "mapped_free_bytes": free_bytes})
