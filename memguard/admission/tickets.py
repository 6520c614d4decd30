"""Tickets: permission for work of a stated, predicted or unknown size."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Protocol, Self

    from memguard.admission.gate import Gate
    from memguard.kinds import Outcome, Priority
    from memguard.model import Snapshot

    class Peers(Protocol):
        """What the other workers under the same limit are to the gate."""

        @property
        def promised_elsewhere(self) -> int:
            """Bytes that they have promised and not seen yet."""
            ...

        def promise(self, total_bytes: int) -> None:
            """Let them know how much is promised here in all."""
            ...

        def own_view(self, snapshot: Snapshot) -> Snapshot:
            """A snapshot with this worker's own memory as the reading."""
            ...

    class Purse(Protocol):
        """What a budget is to the gate."""

        max_bytes: int

        def take(self, work: object, wanted_bytes: int, *, anyway: bool) -> bool:
            """Promise bytes to work if they fit, or anyway; whether that was done."""
            ...

        def give(self, work: object) -> None:
            """Take back what was promised."""
            ...

        def tight(self) -> str:
            """How it stands, in words."""
            ...


__all__ = ["Ticket"]


class Ticket:
    """Permission for work of a stated size; a context manager, sync and async.

    Leaving the block closes it: "done", "failed" after an exception, "abandoned" after a cancellation. ``bytes`` is
    what was stated or predicted, None when nothing is known; ``body_bytes`` how long a request's body is.
    """

    __slots__ = ("__weakref__", "_gate", "_label", "_wait_s", "bytes", "kind", "outcome", "priority")

    budget: Purse | None = None
    """The part of the limit that its bytes are taken from; None: from the whole."""

    def __init__(self, gate: Gate, bytes_: int | None, kind: str, label: str, priority: Priority = "normal") -> None:
        self._gate = gate
        self._wait_s = 0.0
        self.bytes: int | None = bytes_
        self.kind: str = kind
        self._label = label
        self.priority: Priority = priority
        self.outcome: Outcome | None = None

    @property
    def label(self) -> str:
        """The work's name, "" when it has none."""
        return self._label

    def later(self, wait_s: float) -> None:
        """It is not open yet: entering the block waits for room, so long at most."""
        self._wait_s = wait_s

    @property
    def body_bytes(self) -> int:
        """How long the body of a request is, as far as is known."""
        return 0

    @property
    def read_bytes(self) -> int:
        """How much of the body has come so far."""
        return 0

    @property
    def template(self) -> str | None:
        """The route's template ("POST /users/{id}"), once a framework has found it."""
        return None

    def lapse(self) -> None:
        """What was promised and never seen was given back: the work did not take it in time."""

    def close(self, outcome: Outcome = "done") -> None:
        """Give the promise back; only the first close counts."""
        if self.outcome is None:
            self.outcome = outcome
            gate = self._gate
            gate.open.pop(self, None)
            if self.budget is not None:
                self.budget.give(self)
            gate.closed.append((self._label or self.kind,))
            gate.completed += 1
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


class BudgetTicket(Ticket):
    """A ticket whose bytes are taken from a budget too."""

    __slots__ = ("budget",)

    def __init__(  # noqa: PLR0913, PLR0917 - as a ticket
        self, gate: Gate, bytes_: int | None, kind: str, label: str, priority: Priority, budget: Purse
    ) -> None:
        super().__init__(gate, bytes_, kind, label, priority)
        self.budget: Purse | None = budget
