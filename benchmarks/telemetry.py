"""Telemetry: what remembering, exporting and storing cost the guard's thread, an operation, and a scrape.

CPU time of the thread that pays, medians of the stated rounds, each beside the same without it, interleaved in one run.
"tick" is ``guard.tick()`` at level OK, as in benchmarks/cost.py; "operation" an empty ``with guard.operation(…)``.
"scrape" is ``guard.exposition.text()`` from a thread of its own kind, small (a fresh guard) and large (50 holders, 20
pools, 50 types of operation, some 1000 lines). "store" is one write of a batch to SQLite on disk, per row. "hung" tells
1000 events while a sink does not come back.

    python benchmarks/telemetry.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report

import memguard
from memguard.model import Event
from memguard.sinks.otel import OtelSink
from memguard.sinks.prometheus import PrometheusSink
from memguard.sinks.sql import Row, SqlSink
from memguard.telling import Teller

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memguard.ports import Sink

SCRAPE_BAR_MS = 2.0
TABLE = list[dict[str, str]]()


def row(what: str, bare: str, value: str, bar: str = "–") -> None:
    """Print a line and keep it."""
    TABLE.append({"what": what, "without": bare, "with": value, "bar": bar})
    print("  ".join(TABLE[-1].values()), flush=True)


def made(*sinks: Sink) -> memguard.Guard:
    """A guard that is ticked by hand."""
    return memguard.Guard(limit="8GiB", roster=memguard.Roster(), sinks=sinks)


def micros(work: Callable[[], object], times: int) -> float:
    """CPU microseconds of this thread for one call."""
    began = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - began) / times * 1e6


def twins(works: Sequence[Callable[[], object]], rounds: int, times: int) -> list[float]:
    """Medians of each, taken in turn."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, into in zip(works, taken, strict=True):
            into.append(micros(work, times))
    return [statistics.median(each) for each in taken]


def ticks(rounds: int) -> None:
    """Remembering, on the guard's thread."""
    bare, remembering = made(), made()
    remembering.remember()
    without, with_ = twins([bare.tick, remembering.tick], rounds, 2000)
    row("tick, remembering", f"{without:.1f} µs", f"{with_:.1f} µs ({with_ - without:+.1f})")


def operations(rounds: int) -> None:
    """What exporters add to each operation."""

    def one(guard: memguard.Guard) -> Callable[[], None]:
        def work() -> None:
            with guard.operation("agent.run"):
                pass

        return work

    sql = SqlSink(Path(tempfile.gettempdir()) / "memguard-benchmark-unused.db")
    sinks: dict[str, Sink] = {"Prometheus": PrometheusSink(), "OpenTelemetry's API": OtelSink(), "a store": sql}
    guards = [made(), *(made(sink) for sink in sinks.values())]
    without, *others = twins([one(guard) for guard in guards], rounds, 2000)
    for name, with_ in zip(sinks, others, strict=True):
        row(f"operation, {name}", f"{without:.1f} µs", f"{with_:.1f} µs ({with_ / without:.2f}×)")


def scrapes(rounds: int) -> None:
    """The Prometheus text."""
    small, large = made(PrometheusSink()), made(PrometheusSink())
    pools: list[Any] = [large.pool(f"pool {number}") for number in range(20)]
    handles = [large.reclaimer(f"holder {number}", lambda _: 0, size=lambda: 1 << 20) for number in range(50)]
    for number in range(50):
        with large.operation(f"type {number}"):
            pass
    for guard in (small, large):
        guard.remember()
        guard.tick()
    for name, guard in (("small", small), ("large", large)):
        (took,) = twins([guard.exposition.text], rounds, 50)
        lines = guard.exposition.text().count("\n")
        bar = f"≤ {SCRAPE_BAR_MS:g} ms ({'met' if took / 1e3 <= SCRAPE_BAR_MS else 'MISSED'})"
        row(f"scrape, {name}, {lines} lines", "–", f"{took / 1e3:.2f} ms", bar)
    assert len(pools) + len(handles) == 70  # noqa: S101 - they have to live until here


def stores(rounds: int) -> None:
    """Writing to SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        sink = SqlSink(Path(folder) / "memory.db")
        values = {"metric_name": "system.memory.used", "timestamp": datetime.now(UTC), "value": 1.0}
        for size in (20, 2000):
            batch = [Row("metrics", values)] * size
            (took,) = twins([lambda batch=batch: sink._tables.write(batch)], rounds, 10)  # type: ignore[misc] # noqa: SLF001 - below what waits
            row(f"store, {size} rows a write", "–", f"{took / 1e3:.2f} ms, {took / size:.1f} µs a row")
        sink.close()


def hung(rounds: int) -> None:
    """Telling while a sink hangs."""
    go = threading.Event()

    class Hung:
        slow = True

        def __call__(self, _: Event, /) -> None:
            go.wait()

    tellers = [Teller((lambda _: None,)), Teller((lambda _: None, Hung()))]
    for teller in tellers:
        teller.start()
    event = Event(at=0.0, name="store.note", text="x")
    tells = [lambda teller=teller: teller.tell(event) for teller in tellers]
    without, with_ = twins(tells, rounds, 1000)
    row("tell, a sink hung", f"{without:.1f} µs", f"{with_:.1f} µs")
    go.set()
    for teller in tellers:
        teller.stop(5.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    for part in (ticks, operations, scrapes, stores, hung):
        part(rounds)
    assert __doc__ is not None  # noqa: S101 - it is there
    report.publish("telemetry", title="What telemetry costs", rows=TABLE, method=__doc__.split("\n\n")[1].splitlines())
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
