"""The examiner: a window with looks at its begin, middle and end, then the analysis; bounded, its cost told."""

from __future__ import annotations

import gc
import time
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from memguard.leaks import census as censuses
from memguard.leaks.gathering import growing_types, sample_types, swellings, typical, weigh_grown
from memguard.leaks.named import compare, count_runners, late_cycles, take_inventory
from memguard.leaks.native import keep_books, resident_bytes, share
from memguard.leaks.report import Gathered, compose
from memguard.leaks.suspects import Evidence, rank
from memguard.leaks.swelling import Lengths
from memguard.leaks.trace import Tracer
from memguard.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from memguard.findings import Census, LeakReport, Trace, Verdict
    from memguard.leaks.named import Inventory
    from memguard.leaks.native import Books

    T = TypeVar("T")

__all__ = ["Options", "examine"]

# The first fifth is not judged: first-call effects (imports, caches, interning) pass in it, and it tells how busy the
# process is without tracing.
_FIRST, _MIDDLE, _LAST = 0.2, 0.6, 1.0
_MARKS: Final = 4
# Tracing takes the last two fifths, after the look in the middle, which would be slow with it; and so long at most.
_TRACED_S: Final = 30.0
# What one step may take; they are ten.
_STEP_S: Final = 5.0
_CHAIN_S: Final = 1.0
# A service that nobody asked to be slowed down is traced no longer once it runs so much slower.
_SLOWER_RATIO: Final = 0.2
# An idle process tells nothing of being slower.
_IDLE_RATIO: Final = 0.01
_FULL_RATIO: Final = 0.9
# After this part of the first mark's time it is looked whether tracing costs too much.
_PROBE: Final = 0.1


class Options(NamedTuple):
    """How to examine.

    ``room_bytes`` is what is left until the limit (None: nothing limits), ``seconds`` how long the window will last
    (None: as long as its work takes), ``trace`` whether to trace allocations, ``patient`` that a slower service is
    accepted meanwhile, ``redact_keys`` that keys of mappings are not shown; ``requests`` counts completed requests.
    """

    room_bytes: int | None = None
    seconds: float | None = None
    trace: bool = True
    frames: int = 3
    patient: bool = True
    redact_keys: bool = False
    requests: Callable[[], int] | None = None
    verdict: Verdict | None = None
    clock: Callable[[], float] = time.monotonic


def examine(wait: Callable[[float], object], *, options: Options | None = None) -> LeakReport:
    """Examine while ``wait(share)`` lets this share of the window pass, or does so much work: what grew, who holds it.

    Two full collections are run. Nothing else is changed, and tracing is left as it was, however ``wait`` ends.
    """
    examination = _Examination(options or Options())
    try:
        return examination.run(wait)
    finally:
        examination.tracer.end()


class _Examination:
    """One examination under way."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tracer = Tracer(frames=options.frames)
        self._lengths = Lengths(budget_s=_STEP_S)
        self._began_at = options.clock()
        self._cpu_s = self._hold_s = 0.0
        self._censuses: list[Census] = []
        self._inventories: list[Inventory] = []
        self._runners = list[int]()
        self._curve = list[tuple[float, int]]()
        self._work = self._rss_grown = 0
        self._calm: float | None = None
        self._traced = list[float]()

    def run(self, wait: Callable[[float], object]) -> LeakReport:
        import tracemalloc  # noqa: F401, PLC0415 - what looking needs is there before anything is counted

        keep_books()
        options = self.options
        self._note()
        marks = self._marks()
        books: Books | None = None
        passed, began, requests = 0.0, options.clock(), 0
        probe = round(marks[0] + _PROBE * (marks[1] - marks[0]), 6)
        for stop in sorted({_FIRST, _MIDDLE, _LAST, *marks, probe}):
            self._pass(wait, stop - passed)
            passed = stop
            if stop == _FIRST:
                books = self._first()
                self._rss_grown = 0
                began, requests = options.clock(), self._work
            if stop == _MIDDLE:
                self._take_inventory()
                self._step(self._lengths.again)
                self._count()
            if stop == marks[0]:
                self._begin_tracing()
            elif stop in marks:
                self._mark()
                self._runners.append(count_runners())
                if stop != _LAST:
                    self._step(self._lengths.after)
            self._spare_the_service()
        assert books is not None  # noqa: S101 - the schedule begins with the first look
        done = None if options.requests is None else self._work - requests
        return self._conclude(books, seconds=options.clock() - began, requests=done)

    def _marks(self) -> tuple[float, ...]:
        """When tracing begins, and where its window is cut, as shares of the whole."""
        seconds = self.options.seconds
        begin = _MIDDLE if not seconds else max(_MIDDLE, _LAST - _TRACED_S / seconds)
        step = (_LAST - begin) / _MARKS
        return tuple(_LAST if place == _MARKS else round(begin + place * step, 6) for place in range(_MARKS + 1))

    # --- looks --------------------------------------------------------------------------------------------------------

    def _first(self) -> Books:
        """What there is when the part that is not judged is over."""
        self._step(gc.collect)
        self._count()
        self._take_inventory()
        self._step(self._lengths.first)
        return self._step(keep_books)

    def _pass(self, wait: Callable[[float], object], part: float) -> None:
        """Let time pass; how much processor time a request took meanwhile."""
        cpu, wall, work, rss = time.process_time(), time.monotonic(), self._work, resident_bytes()
        wait(part)
        spent_s = time.process_time() - cpu
        self._rss_grown += resident_bytes() - rss
        self._note()
        elapsed_s = time.monotonic() - wall
        busy = spent_s / elapsed_s if elapsed_s > 0 else 0.0
        each = busy if self.options.requests is None else spent_s / max(1, self._work - work)
        if self._calm is None or not self.tracer.on:
            self._calm, self._busy = each, busy
        else:
            self._traced.append(each)

    def _note(self) -> None:
        requests = self.options.requests
        self._work = 0 if requests is None else requests()
        self._curve.append((self.options.clock() - self._began_at, resident_bytes()))

    def _begin_tracing(self) -> None:
        options = self.options
        if options.trace:
            busy = None if options.patient else self._busy
            self.tracer = Tracer(frames=options.frames, room_bytes=options.room_bytes, busy_ratio=busy)
            self._step(self.tracer.begin)
        self._marked = self._traced_from = self._work

    def _mark(self) -> None:
        if self.tracer.on:
            done, self._marked = self._work - self._marked, self._work
            self._step(lambda: self.tracer.mark(1.0 if self.options.requests is None else float(done)))

    def _spare_the_service(self) -> None:
        """End tracing that nobody asked for when it costs too much."""
        slower = self._slower()
        if not self.options.patient and slower is not None and slower > _SLOWER_RATIO:
            self.tracer.give_up(f"it was ended early: the service ran {slower:.0%} slower")

    def _slower(self) -> float | None:
        """How much more processor time work took than before tracing; None where that cannot be told."""
        if not self._traced or not self._calm or self._busy < _IDLE_RATIO:
            return None
        if self.options.requests is None and max(self._traced) > _FULL_RATIO:
            return None  # a core that is full already shows no more work, only later
        return max(0.0, sum(self._traced) / len(self._traced) / self._calm - 1.0)

    def _count(self) -> None:
        self._censuses.append(self._step(lambda: censuses.take(budget_s=_STEP_S, clock=self.options.clock)))
        self._hold_s = max(self._hold_s, self._censuses[-1].hold_s)

    def _take_inventory(self) -> None:
        self._inventories.append(self._step(lambda: take_inventory(budget_s=_STEP_S)))

    def _step(self, work: Callable[[], T]) -> T:
        cpu = time.thread_time()
        try:
            return work()
        finally:
            self._cpu_s += time.thread_time() - cpu

    # --- the end ------------------------------------------------------------------------------------------------------

    def _conclude(self, books: Books, *, seconds: float, requests: int | None) -> LeakReport:
        options, first, middle = self.options, self._censuses[0], self._censuses[1]
        # What needs to know where things were made comes first, so that tracing ends soon.
        grown = self._step(self._lengths.last)
        weighed = self._step(lambda: weigh_grown(grown, sites_of=self.tracer.sites_of))
        grown.clear()
        covers = frozenset[str]().union(*(one.types for one in weighed))
        sampled = self._step(
            lambda: sample_types(first, middle, covers, sites_of=self.tracer.sites_of, budget_s=_STEP_S)
        )
        slower = self._slower()
        trace = self._step(lambda: self.tracer.end(slowdown_ratio=slower))
        if not options.trace:
            trace = replace(trace, refused="it was not asked for")
        self._count()
        cpu = time.thread_time()
        gc.collect()
        pause_s = time.thread_time() - cpu
        self._cpu_s += pause_s
        after = self._step(keep_books)
        self._count()
        dirty, clean = self._censuses[2:]
        self._take_inventory()
        before, between, now = self._inventories
        named = compare(before, now, between, runners=self._runners)
        types = typical(first, middle, clean)
        made = [*(one.sites for one in weighed), *(one.sites for one in sampled)]
        swollen = self._step(lambda: swellings(weighed, redact=options.redact_keys, chain_s=_CHAIN_S))
        weighed.clear()
        growing = self._step(lambda: growing_types(types, sampled, redact=options.redact_keys, chain_s=_CHAIN_S))
        sampled.clear()
        held = sum(one.grown_bytes for one in swollen)
        native = share(
            books,
            after,
            rss_bytes=self._rss_grown - trace.peak_bytes,  # what looking takes between the parts is not the service's
            traced_bytes=self._traced_in_all(trace, seconds, requests),
            held_bytes=held,
        )
        evidence = Evidence(
            swellings=swollen,
            types=types,
            growing=growing,
            trace=trace,
            native=native,
            named=(*named, *late_cycles(dirty, clean, enabled=gc.isenabled())),
            places=frozenset(chain.from_iterable(made)),
            requests=requests,
            seconds=seconds,
        )
        ways = [*(one.chain for one in swollen), *(one.chain for one in growing)]
        holds = (self._hold_s, self._lengths.hold_s, self.tracer.hold_s, pause_s)
        return compose(
            Gathered(
                at=self._began_at,
                evidence=evidence,
                suspects=rank(evidence),
                verdict=options.verdict,
                census=clean,
                curve=tuple(self._curve),
                cost_s=self._cpu_s,
                hold_s=max(*holds, *(way.hold_s for way in ways)),
                lengths_complete=self._lengths.complete,
                redacted=options.redact_keys,
            )
        )

    def _traced_in_all(self, trace: Trace, seconds: float, requests: int | None) -> int | None:
        """What tracing saw grow, reckoned up to the whole window; None where it saw too little."""
        if trace.refused or trace.note or trace.shared:
            return None
        whole, part = (seconds, trace.seconds) if requests is None else (requests, self._work - self._traced_from)
        return int(trace.traced_bytes * whole / part) if part > 0 else None
