"""The fixture ``memory_limit``: the body of a test, in a child process, under a limit that really kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from memguard.errors import CageUnavailable
from memguard.testing.cage import Cage
from memguard.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from memguard.testing.cage import Enforcer

__all__ = ["MemoryLimit", "RanElsewhere", "Reporter"]

_RESULT: Final = "MEMGUARD_TEST_RESULT"
_TEST: Final = "MEMGUARD_TEST_LIMITED"
_TIMEOUT_S: Final = 300.0
_TAIL: Final = 4_000
_ENFORCERS: Final = ("kernel", "supervisor", "auto")


class RanElsewhere(BaseException):
    """The rest of a body is not for this process: a child has run it, and it passed."""


class MemoryLimit:
    """Call it first in a test: the body then runs in a process of its own, which is killed above the limit.

    Only the lines before the call run here too, and the fixtures, of which the child makes its own. The limit holds for
    the whole child, with the interpreter, pytest and what the test imports (30 to 60 MiB).
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def __call__(self, limit: int | str, *, by: Enforcer = "kernel", timeout_s: float = _TIMEOUT_S) -> None:
        """Go on in a child; ``by`` as for ``memguard.testing.cage.Cage``.

        Raises:
            pytest.UsageError: the limit is no amount of memory.
        """
        node: Any = self._request.node
        limit_bytes = _limit(f"{node.nodeid}: memory_limit", limit, by)
        if os.environ.get(_TEST) == node.nodeid:
            return  # this is the child
        try:
            with tempfile.TemporaryDirectory() as folder, Cage(limit_bytes, name="pytest", by=by) as cage:
                result = Path(folder) / "result.json"
                status, output = _run(cage, node, result, timeout_s)
                killed, peak_bytes, kind = cage.killed, cage.peak_bytes, cage.kind
                rows = json.loads(result.read_text(encoding="utf-8")) if result.exists() else []
        except CageUnavailable as error:
            pytest.skip(f"memory_limit({limit!r}): {error}")
        _conclude(f"under {format_bytes(limit_bytes)} by {kind}", status, output, killed, peak_bytes, rows)


def _limit(where: str, limit: int | str, by: str) -> int:
    try:
        limit_bytes = parse_bytes(limit)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{where}({limit!r}): {error}") from None
    if not limit_bytes:
        raise pytest.UsageError(f"{where}({limit!r}): nothing runs in 0 bytes: write a limit like '256MiB'")
    if by not in _ENFORCERS:
        raise pytest.UsageError(f"{where}(by={by!r}): it is one of {', '.join(_ENFORCERS)}")
    return limit_bytes


def _run(cage: Cage, node: Any, result: Path, timeout_s: float) -> tuple[int | None, str]:  # noqa: ANN401
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_XDIST_", "COV_CORE_"))}
    environ.pop("PYTEST_CURRENT_TEST", None)
    environ |= {_RESULT: str(result), _TEST: node.nodeid}
    child = cage.popen(
        [sys.executable, "-m", "pytest", *_arguments(node)],
        env=environ,
        cwd=node.config.invocation_params.dir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
        return None, output.decode(errors="replace")[-_TAIL:]
    return child.returncode, output.decode(errors="replace")[-_TAIL:]


def _arguments(node: Any) -> list[str]:  # noqa: ANN401 - the same test, the same plugins, one process
    config = node.config
    words = ["-q", "--no-header", "-p", "no:cacheprovider", f"--rootdir={config.rootpath}"]
    if config.inipath is not None:
        words += ["-c", str(config.inipath)]
    for plugin in config.option.plugins:
        words += ["-p", plugin]
    if "memguard" not in config.option.plugins and not _is_installed():
        words += ["-p", "memguard.ext.pytest_plugin"] if "memguard.ext.pytest_plugin" not in words else []
    words += [f"--import-mode={config.option.importmode}"]
    words += ["-n0"] if config.pluginmanager.hasplugin("xdist") else []
    words += ["--no-cov"] if config.pluginmanager.hasplugin("pytest_cov") else []
    _, _, inner = node.nodeid.partition("::")
    return [*words, f"{node.path}::{inner}"]


def _is_installed() -> bool:
    return "PYTEST_DISABLE_PLUGIN_AUTOLOAD" not in os.environ


def _conclude(  # noqa: PLR0913, PLR0917 - one verdict from all that is known of the child
    where: str, status: int | None, output: str, killed: int, peak_bytes: int, rows: list[dict[str, str]]
) -> None:
    worst = next((row for row in rows if row["outcome"] != "passed"), None)
    if killed:
        pytest.fail(
            f"{where}: the test was killed at the limit; it peaked at {format_bytes(peak_bytes)}", pytrace=False
        )
    if worst is not None and worst["outcome"] == "skipped":
        pytest.skip(worst["text"])
    if worst is not None:
        pytest.fail(f"{where}, its {worst['when']} failed:\n{worst['text']}", pytrace=False)
    if status is None:
        pytest.fail(f"{where}: it was not done in time\n{output}", pytrace=False)
    if status != 0 or not rows:
        pytest.fail(f"{where}: the child ended with status {status}\n{output}", pytrace=False)
    raise RanElsewhere


class Reporter:
    """In the child: writes what became of the test."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._rows: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what each phase came to."""
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        self._rows.append({"when": str(report.when), "outcome": report.outcome, "text": text})
        self._path.write_text(json.dumps(self._rows), encoding="utf-8")
