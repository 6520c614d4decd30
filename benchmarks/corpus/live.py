"""One case of the corpus in real time: a guard of its own thread, little room, and what it tells by itself.

Nothing is ticked, compressed or asked here: requests are served at a steady pace, the guard suspects, examines and
tells its sinks, all within the room that is left. Only its patience is shorter, and the first minute of a service is.

    python benchmarks/corpus/live.py hiredis_map [--room 64MiB] [--rate 150] [--patience 2min] [--for 10min]

Run with the leaking release installed (``.venv-corpus``, see ``run.py``).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from table import NAMES, load

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from trial import resident_bytes

from memguard import Guard, Roster
from memguard.units import format_bytes, parse_bytes, parse_seconds

DONE = frozenset({"leak.report", "leak.unexamined"})


def main() -> int:
    """Serve until the guard has told what leaks, or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=NAMES)
    parser.add_argument("--room", default="64MiB")
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--patience", default="2min")
    parser.add_argument("--for", dest="seconds", default="10min")
    arguments = parser.parse_args()
    case = load(arguments.case)
    request = case.module.service()
    for _ in range(20):
        request()
    began, told = time.monotonic(), set[str]()

    def tell(event: object) -> None:
        name, text = event.name, event.text  # type: ignore[attr-defined]
        if name.startswith("leak."):
            told.add(name)
            print(f"{time.monotonic() - began:6.1f} s  {name}: {text}", flush=True)
            if name == "leak.report":
                print(event.attributes["report"], flush=True)  # type: ignore[attr-defined]

    limit = resident_bytes() + parse_bytes(arguments.room)
    with Guard(limit=limit, roster=Roster(), sinks=[tell], leak_patience_s=arguments.patience) as guard:
        ends_at = began + parse_seconds(arguments.seconds)
        due = began
        while not told & DONE and time.monotonic() < ends_at:
            with guard.admit():
                request()
            due += 1.0 / arguments.rate
            time.sleep(max(0.0, due - time.monotonic()))
        room = limit - resident_bytes()
        print(
            f"{format_bytes(room)} were left of {arguments.room}; first: {guard.reports and guard.reports[-1].summary}"
        )
    return int("leak.report" not in told)


if __name__ == "__main__":
    raise SystemExit(main())
