"""Judging: the part of a guard that keeps evidence of growth and says what the trend is."""

from __future__ import annotations

import time

from memguard.model import Event, Level

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memguard.admission import Gate
    from memguard.findings import Verdict
    from memguard.growth import Growth
    from memguard.model import Holder, Snapshot
    from memguard.ports import Clock
    from memguard.rules import Rules
    from memguard.telling import Teller

__all__ = ["Judging"]

# The first minute is a service's start, and a guard that lives no longer does not pay for the evidence in memory.
_START_S = 60.0
# Different measures (a group's, this tree's) cannot be compared; each that binds has evidence of its own.
_MEASURES = 4
# Out of leak-like for so long, a suspicion is over; a doubt in between is none.
_CLEARED_S = 3600.0


class Judging:
    """Keeps evidence about once a second, looks at some of it, and tells when the verdict turns leak-like or back.

    All of it in the guard's thread: a reading takes some 4 µs, a look at one scale 0.3 to 4 ms, 0.03 % of a core
    together.
    """

    rules: Rules
    gate: Gate
    _clock: Clock
    _teller: Teller
    _growths: dict[str, Growth] | None = None
    _evidence_at: float | None = None
    _verdict: Verdict | None = None
    _suspected_at: float | None = None
    suspected: tuple[Callable[[Verdict], None], ...] = ()
    """Called in the guard's thread when a suspicion begins; must cost microseconds."""

    if TYPE_CHECKING:

        @property
        def snapshot(self) -> Snapshot:
            """As the guard has it."""
            ...

    def verdict(self) -> Verdict:
        """What the trend of memory says: flat, filling, leak-like, step, spike, periodic or unknown; see ``Verdict``.

        As of the guard's last look at the evidence, which it begins to keep a minute after its start; costs nothing.
        """
        found = self._verdict
        if found is None:
            from memguard.findings import Verdict  # noqa: PLC0415 - as in holding

            words = "Unknown: too little has been seen yet; a started guard needs two minutes at least."
            return Verdict(
                kind="unknown", confidence=0.0, bytes_per_s=0.0, bytes_per_request=None, since_at=None,
                seconds_to_limit=None, seen_s=0.0, words=words,
            )  # fmt: skip
        return found

    def _keep_evidence(self, now: float, holders: Iterable[Holder]) -> None:
        """Take the last reading in, and look at one scale that has enough new ones; about once a second."""
        if self._evidence_at is None:
            self._evidence_at = now + _START_S
        snapshot = self.snapshot
        reading = snapshot.reading
        if now < self._evidence_at or reading is None or snapshot.blind:
            return
        growth = self._growth_of(reading.source)
        requests, open_ = self._work_done()
        growth.note(
            reading.at,
            used_bytes=reading.used_bytes,
            held_bytes=_held_bytes(holders),
            requests=requests,
            cpu_s=time.process_time() if self._clock is time.monotonic else 0.0,
            open=open_,
        )
        # In the last moments before a limit looking around comes first.
        if snapshot.level < Level.CRITICAL and growth.examine(patience_s=self.rules.leak_patience_s):
            limit_bytes = None if snapshot.limit is None else snapshot.limit.bytes
            self._conclude(now, growth.verdict(limit_bytes=limit_bytes, patience_s=self.rules.leak_patience_s))

    def _growth_of(self, source: str) -> Growth:
        if self._growths is None or len(self._growths) > _MEASURES:
            self._growths = {}
        found = self._growths.get(source)
        if found is None:
            from memguard.growth import Growth  # noqa: PLC0415 - not in the first minute

            found = self._growths[source] = Growth()
        return found

    def _work_done(self) -> tuple[int, int]:
        """How many requests have completed and how many are under way; operations where no request is admitted."""
        operations = vars(self).get("_operations")
        if self.gate.completed or operations is None:
            return self.gate.completed, self.gate.running
        return operations.completed, len(operations)

    def _conclude(self, now: float, verdict: Verdict) -> None:
        leaks, known = verdict.kind == "leak-like", self._verdict is not None and self._verdict.kind == "leak-like"
        self._verdict = verdict
        if leaks and known:  # twice in a row
            began, self._suspected_at = self._suspected_at, now
            if began is None:
                self._tell_verdict(now, "leak.suspected", verdict)
                for call in self.suspected:
                    call(verdict)
        elif not leaks and self._suspected_at is not None and now - self._suspected_at > _CLEARED_S:
            self._suspected_at = None
            self._tell_verdict(now, "leak.cleared", verdict)

    def _tell_verdict(self, now: float, name: str, verdict: Verdict) -> None:
        attributes: dict[str, str | int | float | bool] = {
            "kind": verdict.kind,
            "confidence": round(verdict.confidence, 3),
            "bytes_per_s": verdict.bytes_per_s,
            "seen_s": verdict.seen_s,
        }
        if verdict.bytes_per_request is not None:
            attributes["bytes_per_request"] = verdict.bytes_per_request
        if verdict.seconds_to_limit is not None:
            attributes["seconds_to_limit"] = verdict.seconds_to_limit
        self._teller.tell(Event(at=now, name=name, text=verdict.words, attributes=attributes))

    def _forget_evidence(self) -> None:
        """In a forked child: the parent's memory is not ours."""
        self._growths = self._evidence_at = self._verdict = self._suspected_at = None


def _held_bytes(holders: Iterable[Holder]) -> int:
    """What holders account for; the parts that follow a whole ("caches/answers" after "caches") are in it already."""
    total, whole = 0, "/"
    for holder in holders:
        if not holder.name.startswith(whole):
            whole = f"{holder.name}/"
            total += holder.size_bytes or 0
    return total
