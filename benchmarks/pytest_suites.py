"""False alarms of `pytest --memguard` on other people's tests, and its cost there.

The source distributions of three libraries are unpacked, and their own tests run bare and with --memguard, in turn,
each in a process of its own, without other plugins. An alarm is a test that fails only with it. Cost: processor time of
the whole protocol of those tests that took over 10 ms bare (their sum, and the median of their ratios); of each test
the median over the rounds, since hypothesis makes up other examples each time.

pympler is kept away: two tests of attrs use it when it is there, and it keeps a record of each class that it has ever
sized. That is a leak, and found as one (`--with-pympler` shows it); it says nothing of attrs.

    python benchmarks/pytest_suites.py --run [--rounds 3] [--folder WHERE] [--with-pympler]

Not run by `make bench` without --run: it downloads three packages, and takes minutes.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest_sessions
import report

SUITES = {"cachetools": "8.0.1", "attrs": "26.1.0", "more-itertools": "11.2.1"}
LONG_S, BAR = 0.010, 1.3


def unpacked(name: str, version: str, folder: Path) -> Path:
    """The source distribution of a library, unpacked."""
    stem = f"{name.replace('-', '_')}-{version}"
    if not (folder / stem).is_dir():
        words = ["download", "-q", "--no-deps", "--no-binary", name, f"{name}=={version}", "-d", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True)
        archive = next(folder.glob(f"{name.replace('-', '?')}-{version}.tar.gz"))
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
    return next(folder.glob(f"{name.replace('-', '?')}-{version}"))


def failed(session: pytest_sessions.Session) -> set[str]:
    return set(re.findall(r"^(?:FAILED|ERROR) (\S+)", session.output, re.MULTILINE))


def row(name: str, version: str, folder: Path, without: list[str], rounds: int) -> tuple[dict[str, str], bool]:
    """One library: its alarms and its cost."""
    source = unpacked(name, version, folder)
    paths = [source / "src", source]
    times: tuple[dict[str, list[float]], ...] = (defaultdict(list), defaultdict(list))
    fails: tuple[set[str], ...] = (set(), set())
    for place in range(rounds):
        for guarded in (False, True) if place % 2 else (True, False):
            session = pytest_sessions.run(source, "tests", guarded=guarded, paths=paths, without=without)
            fails[guarded].update(failed(session))
            for test, seconds in session.seconds.items():
                times[guarded][test].append(seconds)
            print(session.output[-800:] if guarded else "", flush=True)
    bare, guarded = ({test: statistics.median(row) for test, row in some.items()} for some in times)
    alarms = fails[True] - fails[False]
    long = [test for test, seconds in bare.items() if seconds > LONG_S and test in guarded]
    whole = sum(guarded[test] for test in long) / sum(bare[test] for test in long)
    return {
        "suite": f"{name} {version}",
        "tests": str(len(guarded)),
        "alarms": ", ".join(sorted(alarms)) or "0",
        "fail bare": str(len(fails[False])),
        "over 10 ms": str(len(long)),
        "together": f"{whole:.2f} × ({'met' if whole <= BAR else 'MISSED'})",
        "median": f"{statistics.median(guarded[test] / bare[test] for test in long):.2f} ×",
        "all tests": f"{sum(guarded.values()) / sum(bare.values()):.2f} ×",
    }, bool(alarms)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--with-pympler", action="store_true")
    arguments = parser.parse_args()
    if not arguments.run:
        print("nothing was run: --run downloads three libraries and runs their tests, which takes minutes")
        return 0
    without = [] if arguments.with_pympler else ["pympler", "pympler.asizeof"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        found = [row(name, version, folder, without, arguments.rounds) for name, version in SUITES.items()]
    report.publish(
        "pytest_suites",
        title="pytest --memguard on the tests of three libraries",
        rows=[one for one, _ in found],
        method=[(__doc__ or "").partition("\n\n")[2].partition("\n\n    python")[0]],
    )
    return int(any(alarmed for _, alarmed in found))


if __name__ == "__main__":
    raise SystemExit(main())
