"""What every test runs under: fixed Hypothesis runs in CI; `real` tests, none skipped where all must run."""

from __future__ import annotations

import copyreg
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# CI repeats the same examples on every run; at a desk new ones are tried. A shared machine stalls for seconds, so
# Hypothesis keeps no time.
_slow = [HealthCheck.too_slow]
settings.register_profile("memguard-ci", derandomize=True, deadline=None, database=None, suppress_health_check=_slow)
settings.register_profile("memguard", deadline=None, suppress_health_check=_slow)
settings.load_profile("memguard-ci" if os.environ.get("CI") else "memguard")

_HERE = Path(__file__).parent
# These walk the whole heap, some of them ten times a test.
_WALKERS = _HERE / "leaks"
_REQUIRED = "MEMGUARD_REAL_REQUIRED"


def _required() -> bool:
    return os.environ.get(_REQUIRED, "") not in {"", "0"}


def _real_runs(config: pytest.Config) -> int:
    # The reporter's reports: under xdist nothing runs in this process.
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    outcomes = ("passed", "failed", "xfailed", "xpassed")
    reports = [report for outcome in outcomes for report in reporter.stats.get(outcome, ())]
    return sum(getattr(report, "when", "") == "call" and "real" in report.keywords for report in reports)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped `real` test is a failure where all of them are required."""
    report = yield
    if item.get_closest_marker("real") is None:
        return report
    if report.skipped and not hasattr(report, "wasxfail") and _required():
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} is marked real and {_REQUIRED} is set, but it was skipped: {why}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module of tests/real that skips itself as a whole counts the same."""
    report = yield
    if report.skipped and "real" in collector.path.parts and _required():
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped as a whole, but {_REQUIRED} is set: {why}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """No `real` test at all is no better than all of them skipped, unless that is what was asked for."""
    if session.config.option.markexpr == "not real" or hasattr(session.config, "workerinput"):
        return
    if _required() and exitstatus == pytest.ExitCode.OK and not _real_runs(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which of the suite's two heaps is meant."""
    text = "only what walks the whole heap, in a process that holds little else (small), or only the others (large)"
    parser.addoption("--heap", choices=("small", "large"), help=text)


def _is_elsewhere(path: Path, heap: str | None) -> bool:
    return heap is not None and path.is_relative_to(_WALKERS) != (heap == "small")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What belongs into the other heap is not even imported."""
    return (collection_path != _HERE and _is_elsewhere(collection_path, config.getoption("heap"))) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A `real` test that fails is tried once more, and the summary says so: it shares its machine with strangers."""
    # A file that was named on the command line is collected whatever its heap.
    elsewhere = [item for item in items if _is_elsewhere(item.path, config.getoption("heap"))]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if not _is_elsewhere(item.path, config.getoption("heap"))]
    for item in items:
        if item.get_closest_marker("real") is not None:
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many `real` tests ran where they are required."""
    if _required() and terminalreporter.config.option.markexpr != "not real":
        ran = _real_runs(terminalreporter.config)
        terminalreporter.write_line(f"tests marked real that ran: {ran}" + ("" if ran else " (at least one must)"))


@pytest.fixture
def plain_copies() -> Iterator[None]:
    """Exceptions copy and pickle as Python has it: distributed, once imported, has tblib do it for all of a process."""
    ours = {kind: how for kind, how in copyreg.dispatch_table.items() if not issubclass(kind, BaseException)}
    theirs = dict(copyreg.dispatch_table)
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(ours)
    yield
    copyreg.dispatch_table.update(theirs)
