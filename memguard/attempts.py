"""Attempts: a reclaimer is called on a thread of its own and measured from outside; looking goes on meanwhile."""

from __future__ import annotations

from collections import deque

from memguard.model import Relief
from memguard.threads import Bell, start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard._core.stimuli import Step
    from memguard.ports import Clock

__all__ = ["Attempts", "measured"]

# Abandoned attempts that may still be running before no more are started: each holds a thread.
_LOST_AT_MOST = 8


def measured(  # noqa: PLR0913 - an attempt, and its two readings
    work: Callable[[], int | None],
    *,
    name: str,
    wanted_bytes: int,
    look: Callable[[], int],
    clock: Clock,
    refilled: Callable[[], int | None] | None = None,
) -> Relief:
    """Carry ``work`` out between two readings of the same probe; whatever it raises ends up in the relief.

    Without a reading on both sides ``before_bytes`` and ``after_bytes`` are 0: nobody is judged by that. A reading that
    fails is tried once more, and without one before there is no attempt.
    """
    error = ""
    claimed = again = None
    began_at = clock()
    try:
        before = _look(look)
    except Exception as failure:  # noqa: BLE001 - a probe may be anybody's
        return Relief(
            name=name, at=began_at, wanted_bytes=wanted_bytes, claimed_bytes=None, before_bytes=0, after_bytes=0,
            cost_s=0.0, error=f"not tried, since memory can't be read: {failure}",
        )  # fmt: skip
    try:
        claimed = _count(work())
        again = None if refilled is None else _count(refilled())
    except BaseException as failure:  # noqa: BLE001 - a reclaimer may fail in any way, SystemExit included
        error = f"{type(failure).__name__}: {failure}"
    try:
        after = _look(look)
    except Exception as failure:  # noqa: BLE001 - as above
        before = after = 0
        error = error or f"not measured: {failure}"
    ended_at = clock()
    return Relief(
        name=name, at=ended_at, wanted_bytes=wanted_bytes, claimed_bytes=claimed, before_bytes=before,
        after_bytes=after, cost_s=max(0.0, ended_at - began_at), error=error, refilled_bytes=again,
    )  # fmt: skip


def _look(look: Callable[[], int]) -> int:
    try:
        return look()
    except Exception:  # noqa: BLE001 - as above
        return look()


def _count(claim: object) -> int | None:
    """A claim as a count of bytes; whatever else a reclaimer returned says nothing."""
    if isinstance(claim, int) and not isinstance(claim, bool) and claim >= 0:
        return claim
    return None


def _still_running() -> None:
    raise RuntimeError("not tried: an earlier attempt, given up as overdue, is still running")


class _Hand:
    """One thread that carries out one attempt after another; ``busy`` names whose attempt it is, "" when idle."""

    def __init__(self, done: Callable[[_Hand, Relief], None]) -> None:
        self._bell = Bell()
        self._done = done
        self._work: Callable[[], Relief] | None = None
        self.dismissed = False
        self.busy = ""
        self.thread = start_thread(self._run, "memguard-relieve")

    def take(self, name: str, work: Callable[[], Relief]) -> None:
        self.busy, self._work = name, work
        self._bell.ring()

    def dismiss(self) -> None:
        self.dismissed = True
        self._bell.ring()

    def _run(self) -> None:
        while not self.dismissed:
            self._bell.wait(3600.0)
            work, self._work = self._work, None
            if work is not None:
                relief = work()
                self.busy = ""
                self._done(self, relief)


class Attempts:
    """Carries out one step at a time. ``inline`` does it in the caller's thread (simulations, asked-for reliefs).

    ``ended`` holds measured reliefs in the order they came back, late ones of abandoned attempts included.
    """

    def __init__(
        self, *, meter: Callable[[], Callable[[], int]], clock: Clock, inline: bool, notify: Callable[[], None]
    ) -> None:
        self._meter = meter
        self._clock = clock
        self._notify = notify
        self._hand: _Hand | None = None
        self._lost: list[_Hand] = []
        self.inline = inline
        self.ended: deque[Relief] = deque()
        self.step: Step | None = None

    def begin(
        self,
        step: Step,
        work: Callable[[], int | None],
        *,
        prompt: bool = False,
        refilled: Callable[[], int | None] | None = None,
    ) -> None:
        """Start an attempt; its relief appears in ``ended`` and the notifier is called.

        A ``prompt`` one is carried out at once, in the caller's thread: handing over costs a turn for the GIL.
        Nobody is asked again while an attempt of his that was given up is still running.
        """
        look = self._meter()  # the same measure before and after, even if another binds meanwhile

        def carry_out() -> Relief:
            return measured(
                work, name=step.name, wanted_bytes=step.wanted_bytes, look=look, clock=self._clock, refilled=refilled
            )

        self._give_up()
        self._lost = [hand for hand in self._lost if hand.busy]
        if len(self._lost) >= _LOST_AT_MOST or any(hand.busy == step.name for hand in self._lost):
            work, prompt = _still_running, True
        self.step = step
        if not self.inline and not prompt and (hand := self._ready()) is not None:
            hand.take(step.name, carry_out)
            return
        try:
            self.ended.append(carry_out())
        finally:
            self.step = None

    def _ready(self) -> _Hand | None:
        try:
            self._hand = self._hand or _Hand(self._returned)
        except RuntimeError:  # no thread to be had: better late looks than no relief
            return None
        return self._hand

    def _returned(self, hand: _Hand, relief: Relief) -> None:
        self.ended.append(relief)
        if hand is self._hand:
            self.step = None
        self._notify()

    def overdue(self, at: float) -> Step | None:
        """Give up on the attempt under way when its time is over, and name it; the thread is left to finish."""
        step, hand = self.step, self._hand
        if step is None or hand is None or not hand.busy or at < step.until:
            return None
        self._give_up()
        return step

    def _give_up(self) -> None:
        """Leave a hand that is still at work to itself."""
        hand, self.step = self._hand, None
        if hand is not None and hand.busy:
            self._hand = None
            self._lost.append(hand)
            hand.dismiss()

    def stop(self, timeout_s: float) -> None:
        """Dismiss the thread and wait for it, at most so long."""
        hand, self._hand, self.step = self._hand, None, None
        if hand is not None:
            hand.dismiss()
            hand.thread.join(timeout_s)
            self._lost.append(hand)
        self.ended.clear()

    def forget(self) -> None:
        """In a forked child: the threads are gone, and so is what they were doing."""
        self._hand, self.step, self._lost = None, None, []
        self.ended.clear()
