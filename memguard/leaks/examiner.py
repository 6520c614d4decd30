"""The examiner: a window with looks at its begin, middle and end, then the analysis; bounded, its cost told."""

from __future__ import annotations

import gc
import sys
import time
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from memguard.leaks import census as censuses
from memguard.leaks.gathering import growing_types, sample_types, swellings, typical, weigh_grown
from memguard.leaks.lost import lost_between, take_stock
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

    from memguard.findings import Census, LeakReport, Lost, Trace, Verdict
    from memguard.leaks.named import Inventory
    from memguard.leaks.native import Books

    T = TypeVar("T")

__all__ = ["Options", "examine"]

# The first fifth is not judged: first-call effects (imports, caches, interning) pass in it, and it tells how busy the
# process is without tracing.
_FIRST, _MIDDLE, _LAST = 0.2, 0.6, 1.0
_MARKS: Final = 4
# Of growth that lasts, the first half brings so much.
_STEADY_RATIO: Final = 0.3
# Buffers of arrays and nodes of an OrderedDict are blocks that the collector does not see, one for each item of their
# holder; items are counted over twice the time.
_EXPLAINED_RATIO: Final = 0.6
# Tracing takes the last two fifths, after the look in the middle, which would be slow with it; and so long at most.
_TRACED_S: Final = 30.0
# What one step may take; they are ten.
_STEP_S: Final = 5.0
_CHAIN_S: Final = 1.0
# A service that nobody asked to be slowed down is traced no longer once it runs so much slower, or has so much of a
# core in use that it can spare nothing: then a first moment, cut in four like the whole, is all that is seen.
_SLOWER_RATIO: Final = 0.2
_BUSY_RATIO: Final = 0.8
# An idle process tells nothing of being slower.
_IDLE_RATIO: Final = 0.01
_FULL_RATIO: Final = 0.9
# That moment, as a part of the first mark's time; each quarter of it is at most three times as long, for few requests.
_PROBE: Final = 0.1
_PROBE_TIMES: Final = 3
_ENOUGH: Final = 10
# What the tracer holds for each block that stays: its record of 48 bytes, in a table that is half full.
_TRACED_BLOCK_BYTES: Final = 100
# A shorter window shows nothing: with less room than it takes, tracing ends before it does.
_SHORTEST: Final = 0.08
# With little room it is looked so often, within a part, whether the tracer holds what it may.
_SLICES: Final = 8


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
        self._passed = self._calm_s = self._busy = self._traced_s = self._traced_work = 0.0

    def run(self, wait: Callable[[float], object]) -> LeakReport:
        import tracemalloc  # noqa: F401, PLC0415 - what looking needs is there before anything is counted

        keep_books()
        options = self.options
        self._note()
        self._pass(wait, _FIRST)
        books = self._first()
        self._rss_grown = 0
        began, requests, blocks = options.clock(), self._work, sys.getallocatedblocks()
        self._pass(wait, _MIDDLE - _FIRST)
        self._blocks_grown = sys.getallocatedblocks() - blocks
        self._take_inventory()
        self._step(self._lengths.again)
        self._count()
        self._stock, self._stocked = self._step(lambda: take_stock(budget_s=_STEP_S)), self._done()
        whole = self._window(self._blocks_grown)
        if whole < _LAST - _MIDDLE:
            self._pass(wait, _LAST - _MIDDLE - whole)
        self._trace(wait, whole / _MARKS)
        done = None if options.requests is None else self._work - requests
        return self._conclude(books, seconds=options.clock() - began, requests=done)

    def _trace(self, wait: Callable[[float], object], whole: float) -> None:
        """The parts in which it is traced, each so long; not to the end where that would do harm."""
        if self.options.trace:
            self._step(self.tracer.begin)
        self._traced_from, self._marked = self._work, self._done()
        for place in range(_MARKS):
            part = whole
            if not place and not self.options.patient and self.tracer.on:
                part = max(0.0, whole - self._probe(wait, whole))
            slices = _SLICES if self.tracer.tight and self.tracer.on else 1
            for _ in range(slices):
                self._pass(wait, part / slices)
                if slices > 1 and self.tracer.full:
                    self._mark()
            self._mark()
            self._spare_the_service()
            if not place and self.tracer.on:
                self.tracer.merge()
            self._runners.append(count_runners())
            if place < _MARKS - 1:
                self._step(self._lengths.after)

    def _probe(self, wait: Callable[[float], object], part: float) -> float:
        """The first moment: what tracing costs this service, and what it shows if that is too much; how long it was."""
        each, passed = part * _PROBE / _MARKS, 0.0
        for _ in range(_MARKS):
            for _ in range(_PROBE_TIMES):
                self._pass(wait, each)
                passed += each
                if self.options.requests is None or self._done() - self._marked >= _ENOUGH:
                    break
            self._mark()
        if self._busy > _BUSY_RATIO:
            self.tracer.give_up(
                f"it was kept short: the process uses {self._busy:.0%} of a core already, and tracing makes allocation "
                "5 to 8 times slower"
            )
        self._spare_the_service()
        return passed

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
        traced = self.tracer.on
        wait(part)
        self._passed += part
        spent_s = time.process_time() - cpu
        self._rss_grown += resident_bytes() - rss
        self._note()
        elapsed_s = time.monotonic() - wall
        done = elapsed_s if self.options.requests is None else float(self._work - work)
        if traced:
            self._traced_s += spent_s
            self._traced_work += done
        elif done > 0.0:
            self._calm_s, self._busy = spent_s / done, spent_s / elapsed_s if elapsed_s > 0.0 else 0.0

    def _note(self) -> None:
        requests = self.options.requests
        self._work = 0 if requests is None else requests()
        self._curve.append((self.options.clock() - self._began_at, resident_bytes()))

    def _window(self, blocks: int) -> float:
        """How much of the whole to trace, at its end; with little room, and many blocks to come, not for long.

        ``blocks`` is by how many the process grew between the first and the middle look.
        """
        options, whole = self.options, _LAST - _MIDDLE
        if options.seconds:
            whole = min(whole, _TRACED_S / options.seconds)
        if options.trace:
            room = options.room_bytes
            if room is not None:
                room -= max(0, resident_bytes() - self._curve[0][1])
            self.tracer = Tracer(frames=options.frames, room_bytes=room)
            expected_bytes = max(1, blocks) / (_MIDDLE - _FIRST) * _TRACED_BLOCK_BYTES
            whole = max(min(whole, _SHORTEST), min(whole, self.tracer.allowed_bytes / expected_bytes))
        return whole

    def _mark(self) -> None:
        """End one part of the tracer's window; one without work says nothing."""
        done, self._marked = self._done() - self._marked, self._done()
        if done > 0.0:
            self._step(lambda: self.tracer.mark(done))

    def _done(self) -> float:
        """How much work has been done: requests, or the share of the window where nobody counts them."""
        return self._passed if self.options.requests is None else float(self._work)

    def _spare_the_service(self) -> None:
        """End tracing that nobody asked for when it costs too much."""
        slower = self._slower()
        if not self.options.patient and slower is not None and slower > _SLOWER_RATIO:
            self.tracer.give_up(f"it was ended early: the service ran {slower:.0%} slower")

    def _slower(self) -> float | None:
        """How much more processor time work took than before tracing; None where that cannot be told."""
        if not self._traced_work or not self._calm_s or self._busy < _IDLE_RATIO:
            return None
        each_s = self._traced_s / self._traced_work
        if self.options.requests is None and each_s > _FULL_RATIO:
            return None  # a core that is full already shows no more work, only later
        return max(0.0, each_s / self._calm_s - 1.0)

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
        lost, hold_s = self._lost()
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
        most = max([*(one.grown for one in swollen), *(one.growth.grown for one in growing)], default=0)
        if lost is not None and most > _EXPLAINED_RATIO * lost.blocks:
            lost = None
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
            lost=lost,
            traced_ratio=self.tracer.work / max(self._done() - self._stocked, 1e-9),
            named=(*named, *late_cycles(dirty, clean, enabled=gc.isenabled())),
            places=frozenset(chain.from_iterable(made)),
            requests=requests,
            seconds=seconds,
        )
        ways = [*(one.chain for one in swollen), *(one.chain for one in growing)]
        holds = (self._hold_s, self._lengths.hold_s, self.tracer.hold_s, pause_s, hold_s)
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

    def _lost(self) -> tuple[Lost | None, float]:
        """What came in the second half and nobody holds, unless it came once; how long others had to wait for that.

        Only after a collection, which empties the interpreter's free lists: those hold blocks, too.
        """
        stock = self._step(lambda: take_stock(budget_s=_STEP_S, of=self._stock.of))
        found = lost_between(self._stock, stock)
        if found is not None and self._blocks_grown < _STEADY_RATIO * found.blocks:
            found = None
        return found, max(stock.hold_s, self._stock.hold_s)

    def _traced_in_all(self, trace: Trace, seconds: float, requests: int | None) -> int | None:
        """What tracing saw grow, reckoned up to the whole window; None where it saw too little."""
        if trace.refused or trace.note or trace.shared:
            return None
        whole, part = (seconds, trace.seconds) if requests is None else (requests, self._work - self._traced_from)
        return int(trace.traced_bytes * whole / part) if part > 0 else None
