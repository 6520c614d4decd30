"""False alarms of `pytest --memguard` on other people's tests, and its cost there.

The source distributions of three libraries are unpacked, and their own tests run twice: bare and with --memguard, each
in a process of its own, without other plugins. An alarm is a test that fails only in the second. Cost: processor time
of the whole protocol of those tests that took over 10 ms bare (their sum, and the median of their ratios).

pympler is kept away: two tests of attrs use it when it is there, and it keeps a record of each class that it has ever
sized. That is a leak, and found as one (`--with-pympler` shows it); it says nothing of attrs.

    python benchmarks/pytest_suites.py --run [--folder WHERE] [--with-pympler]

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
from pathlib import Path

import pytest_sessions
import report

SUITES = {"cachetools": "8.0.1", "attrs": "26.1.0", "more-itertools": "11.2.1"}
LONG_S = 0.010


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


def row(name: str, version: str, folder: Path, without: list[str]) -> tuple[dict[str, str], bool]:
    """One library: its alarms and its cost."""
    source = unpacked(name, version, folder)
    paths = [source / "src", source]
    bare, guarded = (
        pytest_sessions.run(source, "tests", guarded=guarded, paths=paths, without=without) for guarded in (False, True)
    )
    alarms = failed(guarded) - failed(bare)
    print(guarded.output[-1500:], flush=True)
    long = [test for test, seconds in bare.seconds.items() if seconds > LONG_S and test in guarded.seconds]
    whole = sum(guarded.seconds[test] for test in long) / sum(bare.seconds[test] for test in long)
    median = statistics.median(guarded.seconds[test] / bare.seconds[test] for test in long)
    return {
        "suite": f"{name} {version}",
        "tests": str(len(guarded.seconds)),
        "alarms": ", ".join(sorted(alarms)) or "0",
        "fail bare": str(len(failed(bare))),
        "over 10 ms": str(len(long)),
        "together": f"{whole:.2f} ×",
        "median": f"{median:.2f} ×",
        "all tests": f"{sum(guarded.seconds.values()) / sum(bare.seconds.values()):.2f} ×",
    }, bool(alarms)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--with-pympler", action="store_true")
    arguments = parser.parse_args()
    if not arguments.run:
        print("nothing was run: --run downloads three libraries and runs their tests, which takes minutes")
        return 0
    without = [] if arguments.with_pympler else ["pympler", "pympler.asizeof"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        found = [row(name, version, folder, without) for name, version in SUITES.items()]
    report.publish(
        "pytest_suites",
        title="pytest --memguard on the tests of three libraries",
        rows=[one for one, _ in found],
        method=[(__doc__ or "").partition("\n\n")[2].partition("\n\n    python")[0]],
    )
    return int(any(alarmed for _, alarmed in found))


if __name__ == "__main__":
    raise SystemExit(main())
