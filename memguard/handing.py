"""Handing: the part of a guard that makes room for a fresh worker when nothing else helps."""

from __future__ import annotations

import time

from memguard.errors import MemguardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from memguard.admission import Gate
    from memguard.findings import Verdict
    from memguard.handover import Handover
    from memguard.kinds import WorkerState
    from memguard.model import Snapshot
    from memguard.ports import Clock
    from memguard.rules import Rules
    from memguard.servers import Way
    from memguard.telling import Teller
    from memguard.watch import Watch
    from memguard.workers.lease import Lease
    from memguard.workers.rows import Worker

    Save = TypeVar("Save", bound=Callable[[], Any])

__all__ = ["Handing"]

# What a process holds in its first seconds is what a fresh one will hold.
_FRESH_S = 10.0
# Weighing reads two small files; a hand-over takes seconds anyway.
_WEIGH_S = 1.0


class Handing:
    """Hands this worker over to a fresh one, when the rules say so or by hand; see ``docs/handover.md``."""

    rules: Rules
    gate: Gate
    _clock: Clock
    _teller: Teller
    _watch: Watch
    _verdict: Verdict | None
    _suspected_at: float | None
    _born_at: float | None = None
    _fresh_bytes: int = 0
    _weigh_at: float = 0.0
    _handover: Handover | None = None
    _way: Way | None = None
    _saves: tuple[Callable[[], Any], ...] = ()

    if TYPE_CHECKING:

        @property
        def snapshot(self) -> Snapshot:
            """As the guard has it."""
            ...

        @property
        def workers(self) -> tuple[Worker, ...]:
            """As the guard has them."""
            ...

        def lease(self, purpose: str = ...) -> Lease:
            """As the guard has it."""
            ...

        def mark_worker(self, state: WorkerState) -> None:
            """As the guard has it."""
            ...

        def stop(self) -> None:
            """As the guard has it."""
            ...

        def _bequests(self) -> tuple[Callable[[], None], ...]: ...

    @property
    def leaving(self) -> bool:
        """Whether this process hands over to a fresh one: it is not ready for new work, and finishes what it has."""
        return self._handover is not None and self._handover.leaving

    def on_handover(self, save: Save) -> Save:
        """Call ``save`` before this process ends to make room for a fresh one; returned, to be used as a decorator.

        A plain or a coroutine function without arguments. It is called once what was under way has finished; what it
        raises is told, and the others are called all the same.

        Raises:
            TypeError: it cannot be called.
        """
        if not callable(save):
            raise TypeError(f"on_handover({save!r}): it has to be a function without arguments")
        self._saves = (*self._saves, save)
        return save

    def hand_over(self, *, reason: str = "asked") -> None:
        """Make room for a fresh worker now, by hand: returns at once, the process ends when its work has finished.

        Nothing but the turn of other workers can speak against it; ``explain()`` says which way it will be.

        Raises:
            MemguardError: nobody would start a new worker, as far as can be told, or the guard only observes.
        """
        self._handovers().by_hand(reason)

    def leave_by(self, way: Way) -> None:
        """Hand over in this way, not in the one that is found: for hosts that know how their processes are replaced.

        Raises:
            MemguardError: this process is leaving already.
        """
        if self.leaving:
            raise MemguardError("this process hands over already: say how before it begins")
        self._way = way
        vars(self).pop("_handover", None)

    @property
    def handover_hooks(self) -> tuple[Callable[[], Any], ...]:
        """What is called before this process ends to make room for a fresh one."""
        return self._saves

    def _handovers(self) -> Handover:
        if self._handover is None:
            from memguard.handover import Handover  # noqa: PLC0415 - as in holding: most never need it

            made = Handover(
                rules=self.rules,
                gate=self.gate,
                clock=self._clock,
                tell=self._teller.tell,
                post=self._watch.post,
                saves=lambda: (*self._saves, *self._bequests()),
                lease=lambda: self.lease("handover"),
                mark=lambda state: self.mark_worker(state),  # noqa: PLW0108 - as below
                stop=lambda: self.stop(),  # noqa: PLW0108 - no circle through a bound method
                way=self._way,
            )
            kept: Handover = vars(self).setdefault("_handover", made)
            return kept
        return self._handover

    def _expect_pressure(self) -> None:
        """Weigh a hand-over when pressure stays; on another clock this process is not what is guarded."""
        if self._clock is time.monotonic:
            self._watch.shown = (*self._watch.shown, self._weigh)
            self._watch.handing = lambda handover: self._handovers().begin(handover)

    def _weigh(self, snapshot: Snapshot) -> None:
        """On the guard's thread, after each look."""
        if self._born_at is None:
            if snapshot.reading is None:
                return
            self._born_at = snapshot.at
        rss_bytes = None if snapshot.vitals is None else snapshot.vitals.rss_bytes
        if rss_bytes is None:
            return
        if not self._fresh_bytes or snapshot.at < self._born_at + min(_FRESH_S, self.rules.handover_life_s / 2.0):
            self._fresh_bytes = max(self._fresh_bytes, rss_bytes)
        leak_s = self._leak_s()
        if (snapshot.level < 2 and leak_s is None) or snapshot.at < self._weigh_at:  # noqa: PLR2004 - as in the gate
            return
        self._weigh_at = snapshot.at + _WEIGH_S
        if self.rules.handover == "off" or snapshot.limit is None or self.leaving:
            return
        others = [row for row in self.workers if not row.own]
        if all(row.state != "handing over" for row in others):  # else its turn first, and then all looks different
            self._handovers().weigh(
                at=snapshot.at,
                born_at=self._born_at,
                own_bytes=rss_bytes,
                fresh_bytes=self._fresh_bytes,
                others_bytes=tuple(row.used_bytes for row in others),
                leak_s=leak_s,
            )

    def _leak_s(self) -> float | None:
        """When a growth that looks like a leak reaches the limit, if that is soon enough to hand over."""
        verdict = self._verdict
        if self._suspected_at is None or verdict is None or verdict.kind != "leak-like":
            return None
        left_s = verdict.seconds_to_limit
        return left_s if left_s is not None and left_s <= self.rules.handover_window_s else None

    def _forget_handing(self) -> None:
        """In a forked child: it is a worker of its own, and its parent's farewell is not its own."""
        self.gate.leaving = ""
        self._way = self._born_at = None
        vars(self).pop("_handover", None)  # not None: that would be kept instead of a new one
        self._fresh_bytes, self._weigh_at = 0, 0.0
