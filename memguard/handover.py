"""Hand-over: not ready, drained within a deadline, saved, and ended in the way that makes the server start anew."""

from __future__ import annotations

import logging
import os
import sys
import time
import zlib

from memguard._core.recycling import next_wait_s, recent
from memguard._core.stimuli import HandOver, Stayed, Weighed
from memguard.errors import MemguardError
from memguard.model import Event
from memguard.servers import find_way
from memguard.threads import Bell, start_thread
from memguard.units import format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Protocol

    from memguard._core.stimuli import Stimulus
    from memguard.admission import Gate
    from memguard.kinds import WorkerState
    from memguard.ports import Clock
    from memguard.rules import Rules
    from memguard.servers import Way
    from memguard.workers.lineage import Past

    class Turn(Protocol):
        """A lease: at most one of a group has it."""

        def take(self, now: float, /) -> bool: ...

        def release(self) -> None: ...

    class Memory(Protocol):
        """What a group remembers of its hand-overs."""

        def past(self, now: float, /) -> Past: ...

        def note(self, now: float, /, *, wait_s: float, count: float) -> None: ...


__all__ = ["Handover", "group_of"]

_POLL_S = 0.05
# A connection that the kernel has handed over is known to the server after a turn or two of its loop.
_ACCEPTED_S = 0.25
# Where only the server can close the door, clients on kept connections are told for so long that these end.
_TOLD_S = 1.0
# Another worker has its turn: ask again, soon.
_AGAIN_S = 5.0
# Something is wrong with the files of the group: ask again, not so soon.
_BROKEN_S = 60.0
_log = logging.getLogger("memguard")


class Handover:
    """One process's hand-over: weighs it, and carries it out on a thread of its own, once."""

    def __init__(  # noqa: PLR0913 - the wiring
        self,
        *,
        rules: Rules,
        gate: Gate,
        clock: Clock,
        tell: Callable[[Event], None],
        post: Callable[[Stimulus], None],
        saves: Callable[[], Iterable[Callable[[], Any]]],
        stop: Callable[[], None],
        lease: Callable[[], Turn],
        mark: Callable[[WorkerState], None] = lambda _: None,
        way: Way | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._rules = rules
        self._gate = gate
        self._clock = clock
        self._tell = tell
        self._post = post
        self._saves = saves
        self._stop = stop
        self._way = way
        self._lease = lease
        self._mark = mark
        self._memory = memory
        self._past: Past = (None, 0.0, 0.0)
        self._bell = Bell()
        self.leaving: bool = False

    @property
    def way(self) -> Way:
        """How this process would be left; found when it is first asked for."""
        if self._way is None:
            self._way = find_way(self._rules)
        return self._way

    @property
    def words(self) -> str:
        """The same in words, as of now: a server that has not begun yet is not seen."""
        way = find_way(self._rules) if self._way is None else self._way
        return f"never: {way.hindrance}" if way.hindrance else way.words

    # --- weighing, on the guard's thread --------------------------------------------------------------------------

    def weigh(  # noqa: PLR0913 - what is known of this process
        self,
        *,
        at: float,
        born_at: float,
        own_bytes: int,
        fresh_bytes: int,
        others_bytes: tuple[int, ...] = (),
        leak_s: float | None = None,
    ) -> None:
        """Hand in what a hand-over would mean now."""
        hindrance = self.way.hindrance
        if not hindrance:
            try:
                self._past = self._remembered().past(at)
            except (OSError, MemguardError) as error:
                hindrance = f"hand-overs cannot be remembered, and could become a loop: {error}"
        since_s, wait_s, count = self._past
        found = Weighed(
            at=at,
            age_s=at - born_at,
            own_bytes=own_bytes,
            fresh_bytes=fresh_bytes,
            startup_s=max(0.0, _process_age_s() - (self._clock() - born_at)),
            others_bytes=others_bytes,
            since_s=since_s,
            wait_s=wait_s,
            count=count,
            leak_s=leak_s,
            hindrance=hindrance,
        )
        self._post(found)

    def _remembered(self) -> Memory:
        if self._memory is None:
            from memguard.workers.lineage import Lineage  # noqa: PLC0415 - files, which a test may do without

            self._memory = Lineage(group_of(self.way))
        return self._memory

    # --- beginning ------------------------------------------------------------------------------------------------

    def by_hand(self, reason: str) -> None:
        """Begin because somebody asked.

        Raises:
            MemguardError: nobody would start a new worker, the guard only observes, or there is no thread for it.
        """
        if self._rules.mode == "observe":
            raise MemguardError("no hand-over in mode 'observe'")
        if self.way.hindrance:
            raise MemguardError(f"no hand-over: {self.way.hindrance}")
        if not self.begin(HandOver(reason=reason, urgent=True, gain_bytes=0)):
            raise MemguardError("no hand-over: another one of this process is under way, or there is no thread for it")

    def begin(self, handover: HandOver) -> bool:
        """Begin to leave, on a thread of its own; whether it began. Fine when it has begun already."""
        if self.leaving:
            return False
        self.leaving = True
        try:
            start_thread(lambda: self._run(handover), "memguard-handover")
        except RuntimeError:
            self._call_off(_AGAIN_S, "handover.failed", "no thread to be had for a hand-over: tried again soon")
            return False
        return True

    def _call_off(self, wait_s: float, name: str, text: str) -> None:
        self.way.resume()
        self.leaving = False
        self._say(name, text)
        now = self._clock()
        self._post(Stayed(at=now, until=now + wait_s))

    def _run(self, handover: HandOver) -> None:
        try:
            decided_at = self._clock()
            self.way.halt()
            now, lease = self._clock(), self._lease()
            if not lease.take(now):
                self._call_off(_AGAIN_S, "handover.waits", "another worker hands over now: its turn first")
                return
            since_s, wait_s, count = self._remembered().past(now)
            if since_s is not None and since_s < now - decided_at:
                lease.release()
                self._call_off(_AGAIN_S, "handover.waits", "another worker handed over meanwhile: weighed anew")
                return
            wait_s, count = next_wait_s(wait_s, since_s, self._rules), 1.0 + recent(count, since_s, self._rules)
            self._remembered().note(now, wait_s=wait_s, count=count)
        except Exception as error:  # noqa: BLE001 - whatever the file system says, nothing has happened yet
            self._call_off(_BROKEN_S, "handover.failed", f"no hand-over: {type(error).__name__}: {error}")
            return
        gain = f", some {format_bytes(handover.gain_bytes)} to be freed" if handover.gain_bytes > 0 else ""
        self._mark("handing over")
        self._say("handover.begun", f"{handover.reason}; {self.way.words}{gain}", urgent=handover.urgent)
        for step in (self._drain, self._save, self._stop, self.way.leave):
            try:
                step()
            except BaseException as error:  # noqa: BLE001 - the door is closed: there is only one way on
                self._say("handover.failed", f"{step.__name__.strip('_')}: {type(error).__name__}: {error}")
        self._end()

    # --- leaving --------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Let what is under way finish, for at most the drain time."""
        way, gate, rules = self.way, self._gate, self._rules
        began = self._clock()
        if not way.shared:
            self._bell.wait(rules.handover_notice_s)  # served as ever, while balancers notice that we are not ready
            gate.leaving = "refusing"
        elif not way.tells_close:
            gate.leaving = "closing"
        gate.narrow = gate.narrow or bool(gate.leaving)
        if not way.drains:
            self._bell.wait(_TOLD_S)
            self._say("handover.drained", "what is under way is left to the server, which finishes it", cut=0)
            return
        way.close_door()
        self._bell.wait(_ACCEPTED_S)
        deadline = self._clock() + rules.handover_drain_s
        while way.connections() and self._clock() < deadline:
            self._bell.wait(_POLL_S)
        gate.leaving, gate.narrow = "refusing", True  # who asks now is no request: an agent's loop, a timer
        while gate.running and self._clock() < deadline:
            self._bell.wait(_POLL_S)
        cut = gate.running + way.connections()
        took = format_seconds(self._clock() - began)
        text = f"drained in {took}" if not cut else f"{cut} pieces of work are cut off after {took}"
        self._say("handover.drained", text, cut=cut)

    def _save(self) -> None:
        """Call the hooks, all together for at most the drain time."""
        done = Bell()

        def work() -> None:
            for save in self._saves():
                try:
                    self._called(save)
                except BaseException as error:  # noqa: BLE001 - it is somebody's, and the others have their turn
                    name = getattr(save, "__qualname__", repr(save))
                    self._say("handover.failed", f"hook {name}: {type(error).__name__}: {error}")
            done.ring()

        if not tuple(self._saves()):
            return
        start_thread(work, "memguard-save")
        if not done.wait(self._rules.handover_drain_s):
            self._say("handover.failed", f"hooks took longer than {format_seconds(self._rules.handover_drain_s)}")

    def _called(self, save: Callable[[], Any]) -> None:
        answer = save()
        if hasattr(answer, "__await__"):
            import asyncio  # noqa: PLC0415 - only where there are coroutines

            async def awaited() -> None:
                await answer

            loop = self.way.loop
            if loop is not None and loop.is_running():
                asyncio.run_coroutine_threadsafe(awaited(), loop).result(self._rules.handover_drain_s)
            else:
                asyncio.run(awaited())

    def _end(self) -> None:
        """The server has been asked; when it does not end in time, end it."""
        if self.way.patient:
            return
        self._bell.wait(self._rules.handover_drain_s)
        _log.error("the server has not ended %s after it was asked to: ended now", self._rules.handover_drain_s)
        sys.stderr.flush()
        os._exit(self.way.last_code)

    def _say(self, name: str, text: str, **attributes: str | float | bool) -> None:
        self._tell(Event(at=self._clock(), name=name, text=text, attributes=attributes))


def group_of(way: Way) -> str:
    """What the workers that follow each other have in common: their server's process, or how they were started."""
    if way.group:
        return way.group
    if way.shared:
        from memguard.workers.lives import started_ticks  # noqa: PLC0415 - as above

        parent = os.getppid()
        return f"server-{parent}-{started_ticks(parent) or 0}"
    said = "\0".join((os.getcwd(), sys.executable, *sys.argv))  # noqa: PTH109 - pathlib is not loaded for this
    return f"process-{zlib.crc32(said.encode('utf-8', 'surrogateescape')):08x}"


def _process_age_s() -> float:
    """How long this process has lived; 0 where that cannot be told."""
    from memguard.workers.lives import started_ticks  # noqa: PLC0415 - as above

    ticks = started_ticks(os.getpid())
    if not ticks or not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
