"""Examining: the part of a guard that says what leaks, on demand and when the trend looks like a leak."""

from __future__ import annotations

import os
import sys
import time

from memguard.errors import MemguardError
from memguard.model import Event
from memguard.threads import Bell, new_lock, start_thread
from memguard.units import MIB, format_bytes, parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _thread
    from collections.abc import Callable

    from memguard.admission import Gate
    from memguard.findings import LeakReport, Verdict
    from memguard.leaks.scopes import Scopes
    from memguard.leaks.watching import Watched, Watchlist
    from memguard.model import Snapshot
    from memguard.ports import Clock
    from memguard.rules import Rules
    from memguard.sight import Sight
    from memguard.telling import Teller
    from memguard.threads import Running
    from memguard.watch import Watch

__all__ = ["Examining"]

# As in holding: a guard that never examines anything does not pay for it in memory.

# After an examination that the trend asked for, the next one waits; doubled each time, up to a day.
_BACKOFF_S = 3600.0
_BACKOFF_MAX_S = 86400.0
# What an examination that nobody asked for leaves alone: less room than this, and heaps of so many of Python's blocks
# (a full collection of some 3 million objects stops every thread for half a second).
_ROOM_BYTES = 16 * MIB
_BLOCKS_AT_MOST = 6_000_000
# A list of all objects, which grows by copying, for each block of Python's: not every block is an object in it.
_BLOCK_BYTES = 24
_REPORTS_KEPT = 4
# Scopes that end are watched from then on: a guard that lives no longer does not pay for it in memory.
_START_S = 60.0
# How long an examination that nobody asked for lasts: as long as tracing may slow a service down.
_WINDOW_S = 30.0


class _StoppedError(Exception):
    """The guard was stopped in the middle of an examination."""


class Examining:
    """Diagnoses, dumps, watches objects that should be gone, and examines by itself when it is asked for."""

    rules: Rules
    gate: Gate
    suspected: tuple[Callable[[Verdict], None], ...]
    _clock: Clock
    _sight: Sight
    _teller: Teller
    _thread: Running | None
    _watch: Watch
    _reports: tuple[LeakReport, ...] = ()
    _examine_at: float | None = None
    _examine_wait_s: float = _BACKOFF_S
    _examine_stop: Bell | None = None
    _around_at: float | None = None

    if TYPE_CHECKING:

        def verdict(self) -> Verdict:
            """As the guard has it."""
            ...

        def _work_done(self) -> tuple[int, int]: ...

        def _tell(self, name: str, text: str) -> None: ...

    @property
    def reports(self) -> tuple[LeakReport, ...]:
        """The last four examinations, oldest first."""
        return self._reports

    def diagnose(  # noqa: PLR0913 - options, all with a default
        self,
        *,
        seconds: str | float = 30.0,
        work: Callable[[], object] | None = None,
        repeats: int = 500,
        trace: bool = True,
        redact_keys: bool = False,
        until: Callable[[float], object] | None = None,
    ) -> LeakReport:
        """What leaks: watches the process for so long, in the caller's thread, and says what grew and who holds it.

        With ``work`` it does that ``repeats`` times instead of waiting: ``work=lambda: client.get("/")``. The service
        goes on meanwhile; ``trace`` makes its allocations several times slower for up to 30 s, and is refused where
        memory is short. Two full collections are run. ``redact_keys`` leaves keys of mappings out. ``until`` sleeps
        instead of us: an ``Event().wait`` that ends the window early. From an event loop
        call ``await asyncio.to_thread(guard.diagnose, seconds=30)``.

        Raises:
            MemguardError: another diagnosis is under way, or this is the guard's own thread.
            ValueError: a time or a number of repeats that cannot be meant.
        """
        span_s = parse_seconds(seconds)
        if work is not None and repeats < 1:
            raise ValueError(f"repeats={repeats} is no number of times to work: write 1 or more, better 500")
        if self._thread is not None and self._thread.own:
            raise MemguardError("diagnose() cannot be called on the guard's own thread: call it from any other")
        if work is None:
            sleep = until or Bell().wait
            return self._examine(lambda share: sleep(share * span_s), span_s, trace=trace, redact=redact_keys)
        done = 0

        def do(share: float) -> None:
            nonlocal done
            for _ in range(max(1, round(share * repeats))):
                work()
                done += 1

        return self._examine(do, None, trace=trace, redact=redact_keys, requests=lambda: done)

    def dump(
        self, path: str | os.PathLike[str], *, seconds: str | float = 10.0, redact_keys: bool = False
    ) -> LeakReport:
        """Diagnose, and write the report to a file: a page for ``.html``, words for ``.txt``, else JSON.

        The file is there whole or not at all. Types, names and sizes, never the contents of an object.

        Raises:
            MemguardError: it cannot be written there, which is noticed before the examination; or as in diagnose.
        """
        from memguard.leaks.files import writable, write  # noqa: PLC0415

        target = os.fspath(path)
        writable(target)
        report = self.diagnose(seconds=seconds, redact_keys=redact_keys)
        write(target, report)
        return report

    def watch(self, thing: object, label: str, *, grace_s: str | float = 10.0) -> Watched:
        """Say of an object, or a weak reference to one, that it should be gone soon.

        When it is still there ``grace_s`` seconds later and after a full collection, the event ``leak.kept`` tells who
        holds it. The object is not kept alive. Needs a guard that runs.

        Raises:
            TypeError: it cannot be referred to weakly (a list, a dict, a number), or the label is no text.
        """
        return self._watchlist().add(thing, label, grace_s=parse_seconds(grace_s), now=self._clock())

    def _watchlist(self) -> Watchlist:
        found: Watchlist | None = vars(self).get("_watched")
        if found is None:
            from memguard.leaks.watching import Watchlist  # noqa: PLC0415

            made = Watchlist(tell=self._teller.tell, clock=self._clock)
            kept: Watchlist = vars(self).setdefault("_watched", made)
            if kept is made:
                self._watch.shown = (*self._watch.shown, lambda snapshot: made.look(snapshot.at))
            return kept
        return found

    # --- scopes that have ended ---------------------------------------------------------------------------------------

    def _left(self, thing: object, kind: str) -> None:
        """Something should be gone now, as said by a part of the guard's own."""
        scopes: Scopes | None = vars(self).get("_scopes")
        if scopes is not None:
            scopes.left(thing, kind)

    def _look_around(self, snapshot: Snapshot) -> None:
        """On the guard's thread: watch a sample of what ends, from a minute after the first look on."""
        scopes: Scopes | None = vars(self).get("_scopes")
        if scopes is not None:
            scopes.look(snapshot.at)
        elif self._around_at is None:
            self._around_at = snapshot.at + _START_S
        elif snapshot.at >= self._around_at and (
            self.gate.open or not vars(self).keys().isdisjoint(("_pools", "_operations"))
        ):
            from memguard.leaks.scopes import Scopes, finished, tickets  # noqa: PLC0415

            sources = [
                tickets(self.gate.open, kind="websocket"),
                tickets(self.gate.open, but="websocket"),
                finished(lambda: vars(self).get("_operations")),
            ]
            vars(self)["_scopes"] = Scopes(sources, tell=self._teller.tell, clock=self._clock)

    # --- one examination --------------------------------------------------------------------------------------------

    def _examine(  # noqa: PLR0913 - keywords of one call
        self,
        wait: Callable[[float], object],
        seconds: float | None,
        *,
        trace: bool,
        redact: bool,
        patient: bool = True,
        requests: Callable[[], int] | None = None,
    ) -> LeakReport:
        from memguard.leaks.examiner import Options, examine  # noqa: PLC0415

        room = self._room_bytes()
        needed = sys.getallocatedblocks() * _BLOCK_BYTES
        if room is not None and room < needed:
            raise MemguardError(
                f"a diagnosis of this heap may need {format_bytes(needed)} and {format_bytes(room)} are left until the "
                "limit: relieve() first, or diagnose earlier"
            )
        turn: _thread.LockType = vars(self).setdefault("_examine_turn", new_lock())
        if not turn.acquire(blocking=False):
            raise MemguardError("another diagnosis of this process is under way: wait for its report")
        try:
            counted = requests is not None or self._work_done()[0] > 0
            options = Options(
                room_bytes=room,
                seconds=seconds,
                trace=trace,
                patient=patient,
                redact_keys=redact,
                requests=(requests or (lambda: self._work_done()[0])) if counted else None,
                verdict=self.verdict(),
                clock=self._clock,
            )
            report = examine(wait, options=options)
        finally:
            turn.release()
        self._reports = (*self._reports, report)[-_REPORTS_KEPT:]
        return report

    def _room_bytes(self) -> int | None:
        try:
            self._sight.find(self._clock())
            return self._sight.room_bytes()
        except (OSError, ValueError):  # nobody knows: then nothing that needs room
            return 0

    # --- when the trend looks like a leak ---------------------------------------------------------------------------

    def _expect_suspicion(self) -> None:
        """Examine by itself when the verdict turns leak-like, if the rules allow it."""
        if self.rules.leak_examine and self.rules.mode == "act" and self._clock is time.monotonic:
            self.suspected = (*self.suspected, self._examine_soon)
            self._watch.shown = (*self._watch.shown, self._look_around)

    def _examine_soon(self, verdict: Verdict) -> None:
        """On the guard's thread: start an examination on a thread of its own, unless there was one lately."""
        now = self._clock()
        if self._examine_at is not None and now < self._examine_at:
            return
        self._examine_at = now + self._examine_wait_s
        self._examine_wait_s = min(2 * self._examine_wait_s, _BACKOFF_MAX_S)
        self._examine_stop = stop = Bell()
        try:
            start_thread(lambda: self._examine_alone(verdict, stop), "memguard-examine")
        except RuntimeError:  # no thread to be had: the next suspicion tries again
            self._examine_at = None

    def _examine_alone(self, verdict: Verdict, stop: Bell) -> None:

        def wait(share: float) -> None:
            if stop.wait(share * _WINDOW_S):
                stop.ring()
                raise _StoppedError

        try:
            why = self._why_not()
            if why:
                self._tell("leak.unexamined", f"not examined: {why}. {verdict.words}")
                return
            report = self._examine(wait, _WINDOW_S, trace=True, redact=False, patient=False)
            self._tell_report(report)
        except _StoppedError:
            return
        except BaseException as error:  # noqa: BLE001 - nothing escapes from a guard's thread
            self._tell("leak.unexamined", f"the examination failed: {type(error).__name__}: {error}")

    def _why_not(self) -> str:
        """Why an examination that nobody asked for would do harm; "" when it would not."""
        room, blocks = self._room_bytes(), sys.getallocatedblocks()
        if room is not None and room < _ROOM_BYTES:
            return f"only {format_bytes(room)} are left"
        if blocks > _BLOCKS_AT_MOST:
            return (
                f"{blocks / 1e6:.0f} million blocks are alive, and every thread would stand still for half a second or "
                "longer; call diagnose() when that may be"
            )
        return ""

    def _tell_report(self, report: LeakReport) -> None:
        attributes: dict[str, str | int | float | bool] = {
            "leaks": report.leaks,
            "suspects": len(report.suspects),
            "seconds": round(report.seconds, 3),
            "cost_s": round(report.cost_s, 3),
            "hold_s": round(report.hold_s, 3),
            "report": report.text,
        }
        for first in report.suspects[:1]:
            attributes |= {"name": first.name, "site": first.site, "grown_bytes": first.grown_bytes}
        self._teller.tell(Event(at=self._clock(), name="leak.report", text=report.summary, attributes=attributes))

    def _stop_examining(self) -> None:
        """The guard stops: an examination under way ends at its next look, and what it switched on is off again."""
        if self._examine_stop is not None:
            self._examine_stop.ring()

    def _forget_examinations(self) -> None:
        """In a forked child: the examiner's thread and its locks are the parent's, its objects are ours too."""
        vars(self).pop("_examine_turn", None)
        self._examine_stop = self._examine_at = None
        for name in ("_watched", "_scopes"):
            if name in vars(self):
                vars(self)[name].forget()
