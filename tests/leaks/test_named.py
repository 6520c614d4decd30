"""What leaks by name is counted and compared."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from typing import TYPE_CHECKING

from memguard.findings import Census
from memguard.leaks.named import compare, late_cycles, take_inventory

if TYPE_CHECKING:
    from pathlib import Path


def test_threads_by_what_they_run() -> None:
    """Threads are told by their target."""
    end = threading.Event()

    def wait_for_end() -> None:
        end.wait()

    before = take_inventory(budget_s=5.0)
    threads = [threading.Thread(target=wait_for_end) for _ in range(4)]
    for thread in threads:
        thread.start()
    found = compare(before, take_inventory(budget_s=5.0))
    end.set()
    for thread in threads:
        thread.join()
    row = next(row for row in found if row.kind == "thread")
    assert row.name.endswith("wait_for_end")
    assert (row.count, row.grown) == (4, 4)
    assert "never end" in row.words


def test_tasks_by_their_coroutine() -> None:
    """Tasks that are not finished are told by their coroutine; finished ones are not."""

    async def poll() -> None:
        await asyncio.sleep(60)

    async def main() -> tuple[str, int]:
        before = take_inventory(budget_s=5.0)
        tasks = [asyncio.create_task(poll()) for _ in range(5)]
        done = asyncio.create_task(asyncio.sleep(0))
        await done
        row = next(row for row in compare(before, take_inventory(budget_s=5.0)) if row.kind == "task")
        for task in tasks:
            task.cancel()
        return row.name, row.grown

    name, grown = asyncio.run(main())
    assert name.endswith("poll")
    assert grown == 5


@functools.cache
def _cached(number: int) -> int:
    return number


class Page:
    """It caches on self."""

    @functools.cache  # noqa: B019 - what is looked for
    def render(self) -> str:
        """A text."""
        return ""


def test_unbounded_function_caches() -> None:
    """functools.cache is told by its function, and apart on methods."""
    before = take_inventory(budget_s=5.0)
    for number in range(7):
        _cached(number)
        Page().render()
    found = {row.kind: row for row in compare(before, take_inventory(budget_s=5.0))}
    _cached.cache_clear()
    Page.render.cache_clear()
    assert found["unbounded cache"].name.endswith("_cached")
    assert found["unbounded cache"].grown == 7
    assert found["unbounded cache on methods"].name.endswith("Page.render")


def test_open_files(tmp_path: Path) -> None:
    """Files that stay open are counted."""
    before = take_inventory(budget_s=5.0)
    files = [(tmp_path / f"{number}").open("w") for number in range(6)]
    found = compare(before, take_inventory(budget_s=5.0))
    for file in files:
        file.close()
    assert next(row for row in found if row.kind == "open").grown == 6


def test_hooks() -> None:
    """Callbacks of the collector that pile up are told by the list."""
    before = take_inventory(budget_s=5.0)
    hooks = [lambda _phase, _found, number=number: None for number in range(4)]
    gc.callbacks.extend(hooks)
    found = compare(before, take_inventory(budget_s=5.0))
    for hook in hooks:
        gc.callbacks.remove(hook)
    assert ("hooks", "the callbacks of gc", 4) in {(row.kind, row.name, row.grown) for row in found}


def _census(**counts: int) -> Census:
    return Census(at=0.0, counts=counts, objects=sum(counts.values()), complete=True, cost_s=0.0, hold_s=0.0)


def test_late_cycles() -> None:
    """What a full collection freed is told by type, when it is much."""
    found = late_cycles(_census(Node=30_000, dict=50_000), _census(Node=10_000, dict=45_000), enabled=True)
    assert found[0].name == "Node"
    assert "25000 objects lay in cycles" in found[0].words
    assert late_cycles(_census(Node=300), _census(Node=10), enabled=True) == ()
    assert "the collector is off" in late_cycles(_census(Node=300), _census(Node=10), enabled=False)[0].words
