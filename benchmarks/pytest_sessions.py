"""Sessions of pytest as twins: the same tests bare and with --memguard, their times by test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).resolve().parent
# A package that would keep what tests make: an optional dependency of a library's tests must not decide.
_WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys({names!r})); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
)


class Session(NamedTuple):
    """One session: seconds of processor time by test, its last lines, its status."""

    seconds: Mapping[str, float]
    output: str
    status: int


def run(
    folder: Path, *arguments: str, guarded: bool, paths: Sequence[Path] = (), without: Sequence[str] = ()
) -> Session:
    """Run the tests of a folder in a process of their own, with no plugin but those that are named."""
    with tempfile.TemporaryDirectory() as scratch:
        times = Path(scratch) / "times.json"
        words = ["-p", "memguard.ext.pytest_plugin", "-p", "pytest_timer", "-p", "no:cacheprovider", "-q", *arguments]
        environ = {
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_TIMES": str(times),
            "PYTHONPATH": os.pathsep.join(map(str, [*paths, HERE, HERE.parent])),
        }
        done = subprocess.run(
            [sys.executable, "-c", _WITHOUT.format(names=list(without)), *words, *(["--memguard"] if guarded else [])],
            cwd=folder, env=environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = json.loads(times.read_text(encoding="utf-8")) if times.exists() else {}
        return Session(seconds, done.stdout[-8000:] + done.stderr[-2000:], done.returncode)
