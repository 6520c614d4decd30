"""The gate: work is admitted while its memory fits, and refused before the limit and not after.

First cut: the caller says how many bytes the work needs, or nothing. A request decides from the last snapshot and
the ledger of promises; it never looks itself.
"""

from __future__ import annotations

import sys
from collections import deque
from contextlib import suppress

from memguard._core.ledger import Ledger
from memguard.errors import AdmissionRefused
from memguard.model import Level
from memguard.threads import Bell, new_lock
from memguard.units import format_bytes, format_seconds, parse_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from memguard.kinds import Outcome
    from memguard.model import Snapshot
    from memguard.ports import Clock
    from memguard.rules import Rules

__all__ = ["Gate", "Ticket"]

# Python 3.11 finds an enum's member by a call of its own, four times the price of the comparison.
_CRITICAL = Level.CRITICAL
# Who ran while the guard could not is looked for among so many that ended last.
_CLOSED_KEPT = 16


class Ticket:
    """Permission for work of a stated size; a context manager, sync and async.

    Leaving the block closes it: "done", "failed" after an exception, "abandoned" after a cancellation.
    """

    __slots__ = ("_gate", "_wait_s", "bytes", "kind", "label", "outcome")

    def __init__(self, gate: Gate, bytes_: int | None, kind: str, label: str) -> None:
        self._gate = gate
        self._wait_s = 0.0
        self.bytes: int | None = bytes_
        self.kind: str = kind
        self.label: str = label
        self.outcome: Outcome | None = None

    def close(self, outcome: Outcome = "done") -> None:
        """Give the promise back; only the first close counts."""
        if self.outcome is None:
            self.outcome = outcome
            gate = self._gate
            gate.open.pop(self, None)
            gate.closed.append((gate.clock(), self.label or self.kind))
            if self.bytes:
                gate.settle(self)

    def __enter__(self) -> Self:
        if self._wait_s:
            raise self._gate.refusal(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif kind is GeneratorExit or kind.__name__ in {"CancelledError", "Cancelled"}:
            self.close("abandoned")
        else:
            self.close("failed")

    async def __aenter__(self) -> Self:
        if self._wait_s:
            wait_s, self._wait_s = self._wait_s, 0.0
            await self._gate.wait_async(self, wait_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<Ticket {self.label or self.kind} {self.outcome or 'open'}>"


class Gate:
    """Admits or refuses by level and by bytes: used + promised + wanted must stay under the CRITICAL rung."""

    def __init__(self, *, rules: Rules, clock: Clock) -> None:
        self._rules = rules
        self._act = rules.mode == "act"
        self._reopen_ratio = rules.leave_ratio(_CRITICAL)
        self.clock = clock
        self.open: dict[Ticket, None] = {}
        self.closed: deque[tuple[float, str]] = deque(maxlen=_CLOSED_KEPT)
        self._ledger = Ledger()
        self._lock = new_lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self.refusals: int = 0
        self._snapshot: Snapshot
        self.narrow: bool = False
        """Whether work without stated bytes has to pass ``enter`` too: at CRITICAL and above."""

    def show(self, snapshot: Snapshot) -> None:
        """Decide by this snapshot from now on; those who wait try again."""
        self._snapshot = snapshot
        self.narrow = self._act and snapshot.level >= _CRITICAL
        if self._waiting:
            self.wake()

    @property
    def promised_bytes(self) -> int:
        """Bytes promised to open tickets and not yet seen in readings."""
        return self._ledger.total_bytes

    @property
    def running(self) -> int:
        """How many tickets are open."""
        return len(self.open)

    def labels(self, *, since: float, most: int = 5) -> tuple[str, ...]:
        """What has run since an instant, longest running first: for "the guard could not run; running then: …"."""
        labels = [label for closed_at, label in tuple(self.closed) if closed_at >= since]
        labels += [ticket.label or ticket.kind for ticket in tuple(self.open)]
        return tuple(dict.fromkeys(labels))[:most]

    def admit(self, bytes_: str | int | None, kind: str, label: str, wait_s: float) -> Ticket:
        """A ticket now, or within ``wait_s`` seconds.

        On an event loop's thread a wait can't block: the ticket comes back unopened and ``async with`` waits.

        Raises:
            AdmissionRefused: it does not fit, and did not within ``wait_s``.
        """
        wanted = parse_bytes(bytes_) if isinstance(bytes_, str) else bytes_
        if wanted is not None and wanted < 0:
            raise ValueError(f"admission of {wanted} bytes: it must be 0 or more")
        ticket = Ticket(self, wanted, kind, label)
        if wanted is None and not self.narrow:  # most work: the short way
            self.open[ticket] = None
            return ticket
        if self.enter(ticket):
            return ticket
        if wait_s > 0.0 and _on_event_loop():
            ticket._wait_s = wait_s  # noqa: SLF001 - one room, one mechanism
            return ticket
        deadline = self.clock() + wait_s
        while (left_s := deadline - self.clock()) > 0.0:
            bell = Bell()
            self._waiting.append(bell.ring)
            bell.wait(left_s)
            if self.enter(ticket):
                return ticket
        raise self.refusal(ticket)

    async def wait_async(self, ticket: Ticket, wait_s: float) -> None:
        """Wait for a ticket on an event loop, without blocking it."""
        import asyncio  # noqa: PLC0415 - 11 MB that a service without asyncio need not pay

        loop = asyncio.get_running_loop()
        deadline = self.clock() + wait_s
        while (left_s := deadline - self.clock()) > 0.0:
            woken = asyncio.Event()
            self._waiting.append(lambda woken=woken: _call(loop.call_soon_threadsafe, woken.set))  # type: ignore[misc]
            with suppress(TimeoutError):  # room that came without a ring counts too
                async with asyncio.timeout(left_s):  # wait_for of 3.11 swallows a cancellation that meets the ring
                    await woken.wait()
            if self.enter(ticket):
                return
        raise self.refusal(ticket)

    def enter(self, ticket: Ticket) -> bool:
        """Open a ticket if it fits now; whether it did."""
        snapshot, wanted = self._snapshot, ticket.bytes
        if self._act and self._shut(snapshot):
            return False
        if wanted:
            with self._lock:
                if self._act and not self._fits(snapshot, wanted):
                    return False
                self._ledger.promise(ticket, wanted)
        self.open[ticket] = None
        return True

    def _shut(self, snapshot: Snapshot) -> bool:
        """Whether nobody is admitted: at CRITICAL or above, until pressure has come down below the release level.

        Not until the level falls: it is held for a while, and refusing meanwhile would shed work that fits.
        """
        return snapshot.level >= _CRITICAL and (snapshot.blind or snapshot.pressure >= self._reopen_ratio)

    def _fits(self, snapshot: Snapshot, wanted: int) -> bool:
        if snapshot.limit is None or snapshot.reading is None:
            return True
        ceiling = self._rules.critical_ratio * snapshot.limit.bytes
        return snapshot.reading.used_bytes + self._ledger.total_bytes + wanted <= ceiling

    def refusal(self, ticket: Ticket) -> AdmissionRefused:
        """Count a refusal and say why, with numbers."""
        with self._lock:  # two at once must not count as one
            self.refusals += 1
        snapshot, wanted = self._snapshot, ticket.bytes
        retry_s = self._rules.dwell_s
        what = "admission" if wanted is None else f"admission of {format_bytes(wanted)}"
        limit = format_bytes(snapshot.limit.bytes) if snapshot.limit else "no limit"
        used = format_bytes(snapshot.reading.used_bytes) if snapshot.reading else "unknown"
        promised = format_bytes(self._ledger.total_bytes)
        reason = (
            f"{what} refused: {used} of {limit} used ({snapshot.level.name.lower()}), {promised} already promised; "
            f"retry in about {format_seconds(retry_s)}"
        )
        if wanted and snapshot.limit and wanted > self._rules.critical_ratio * snapshot.limit.bytes:
            reason = f"{what} refused: it can never fit under the limit of {limit}; split the work"
        return AdmissionRefused(reason, retry_after_s=retry_s, level=snapshot.level.name, wanted_bytes=wanted)

    def settle(self, ticket: Ticket) -> None:
        """Give a closed ticket's promise back (called by it)."""
        with self._lock:
            self._ledger.close(ticket)
        self.wake()

    def seen(self, growth_bytes: int) -> None:
        """Growth that a new reading showed: promises that it explains are counted there from now on."""
        if growth_bytes > 0 and self._ledger.total_bytes:
            with self._lock:
                self._ledger.seen(growth_bytes)

    def wake(self) -> None:
        """Let those who wait try again."""
        for _ in range(len(self._waiting)):
            try:
                self._waiting.popleft()()
            except IndexError:  # another thread woke the rest
                return

    def forget(self) -> None:
        """In a forked child: the parent's tickets are not ours, and its locks may be held for ever."""
        self._lock = new_lock()
        self._ledger = Ledger()
        self.open.clear()
        self._waiting.clear()


def _call(function: Callable[[Callable[[], None]], object], argument: Callable[[], None]) -> None:
    try:
        function(argument)
    except RuntimeError:  # the waiter's loop is closed
        return


def _on_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - documented for libraries
