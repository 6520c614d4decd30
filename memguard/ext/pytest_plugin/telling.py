"""What a session tells of memory: a few lines at its end, and the report that was asked for."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from memguard.ext.pytest_plugin.finding import Finding

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

__all__ = ["Told", "note"]

# The attribute of a test's report that goes from a worker to its controller with it.
_NOTE: Final = "memguard"
_SHOWN: Final = 10


def note(
    report: pytest.TestReport, *, finding: Finding | None = None, unrepeatable: str = "", passed_over: bool = False
) -> None:
    """Write into a test's report what was found."""
    row = {
        "finding": None if finding is None else finding.to_dict(),
        "unrepeatable": unrepeatable,
        "passed_over": passed_over,
    }
    setattr(report, _NOTE, row)


class Told:
    """A plugin of its own, for sessions that ask by option: gathers notes, writes the report at the end."""

    def __init__(self, config: pytest.Config) -> None:
        """Look whether the report can be written.

        Raises:
            pytest.UsageError: it cannot.
        """
        self._screens = bool(config.getoption("memguard"))
        wanted: str | None = config.getoption("memguard_report")
        self._path = None if wanted is None else config.invocation_params.dir / wanted
        self._looked = 0
        self._found: list[Finding] = []
        self._unrepeatable: dict[str, str] = {}
        self._passed_over: list[str] = []
        if self._path is not None:
            try:
                _open(self._path, "a").close()
            except OSError as error:
                raise pytest.UsageError(
                    f"--memguard-report={wanted}: it cannot be written ({error.strerror}); name a file in a folder "
                    "that exists and is yours"
                ) from None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the note of one test."""
        row: dict[str, Any] | None = getattr(report, _NOTE, None)
        if row is None:
            return
        self._looked += 1
        if row["finding"]:
            self._found.append(Finding.from_dict(row["finding"]))
        if row["unrepeatable"]:
            self._unrepeatable[report.nodeid] = row["unrepeatable"]
        if row["passed_over"]:
            self._passed_over.append(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say how much was looked at, and what could not be."""
        writer = terminalreporter
        if self._screens or self._found:
            writer.section("memguard")
            writer.write_line(f"{self._looked} tests looked at, {len(self._found)} failed for their memory")
        if self._unrepeatable:
            writer.write_line(
                f"{len(self._unrepeatable)} left much behind and could not be repeated to see whether they leak:"
            )
            for test, why in list(self._unrepeatable.items())[:_SHOWN]:
                writer.write_line(f"  {test}: {why}")
        if self._passed_over:
            writer.write_line(
                f"{len(self._passed_over)} left a little more than usual and were not repeated: in a session of many "
                "tests that may take a seventh of their time; run those files alone to have all looked at"
            )
        if self._path is not None:
            writer.write_line(f"memguard's report: {self._path}")

    def pytest_sessionfinish(self) -> None:
        """Write the report."""
        if self._path is not None:
            kinds = {".json": self._json, ".html": self._html}
            with _open(self._path, "w") as file:
                file.write(kinds.get(self._path.suffix.lower(), self._text)())

    def _json(self) -> str:
        rows = {
            "looked_at": self._looked,
            "findings": [one.to_dict() for one in self._found],
            "not_repeatable": self._unrepeatable,
            "not_repeated": self._passed_over,
        }
        return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"

    def _text(self) -> str:
        lines = [f"{self._looked} tests looked at, {len(self._found)} failed for their memory", ""]
        for one in self._found:
            lines += [one.test, one.text, ""]
        lines += [f"not repeatable: {test}: {why}" for test, why in self._unrepeatable.items()]
        return "\n".join(lines).rstrip() + "\n"

    def _html(self) -> str:
        return (
            "<!doctype html>\n<meta charset='utf-8'>\n<title>memguard: tests and memory</title>\n"
            "<style>body{font-family:sans-serif;margin:2em}pre{white-space:pre-wrap}</style>\n"
            f"<h1>Tests and memory</h1>\n<pre>{html.escape(self._text())}</pre>\n"
        )


def _open(path: Path, mode: str) -> TextIO:
    return path.open(mode, encoding="utf-8")  # type: ignore[return-value]
