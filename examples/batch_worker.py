"""A batch worker: takes an item when it fits, knows what each kind of work costs, and never dies of a large one.

Run as a program it works 40 files off, four at a time.
"""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import memguard
from memguard.units import format_bytes

WORKERS = 4
# json.loads makes 6 to 13 times a file's size.
AMPLIFICATION = 10
LARGE_BYTES = 10_000_000

guard = memguard.Guard()


def work(path: Path) -> int:
    """Parse a file and add something up, once there is room for it."""
    wanted = AMPLIFICATION * path.stat().st_size
    size = "large" if wanted > LARGE_BYTES else "small"
    with guard.admit(wanted, kind="item", label=path.name, wait_s=30), guard.operation(size):
        rows = json.loads(path.read_text())
        return sum(row["amount"] for row in rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.json") for number in range(40)]
        for number, path in enumerate(paths):
            rows = 20_000 if number % 10 == 0 else 500
            path.write_text(json.dumps([{"id": row, "amount": row % 7, "note": "x" * 50} for row in range(rows)]))
        with guard, ThreadPoolExecutor(WORKERS) as pool:
            sums = list(pool.map(work, paths))
            relief = guard.trim()
        for row in guard.operations.stats():
            print(f"{row.type}: {row.count} items, 95 % within {row.duration_p95_s:.3f} s")
        print(f"{len(sums)} items, sum {sum(sums)}; the last trim bought {format_bytes(relief.bought_bytes)}")


if __name__ == "__main__":
    main()
