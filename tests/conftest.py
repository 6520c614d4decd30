"""What every test runs under: fixed Hypothesis runs in CI; `real` tests, none skipped where all must run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator

# CI repeats the same examples on every run; at a desk new ones are tried. A shared machine stalls for seconds, so
# Hypothesis keeps no time.
_slow = [HealthCheck.too_slow]
settings.register_profile("memguard-ci", derandomize=True, deadline=None, database=None, suppress_health_check=_slow)
settings.register_profile("memguard", deadline=None, suppress_health_check=_slow)
settings.load_profile("memguard-ci" if os.environ.get("CI") else "memguard")

_REQUIRED = "MEMGUARD_REAL_REQUIRED"
_real_runs = pytest.StashKey[int]()


def _required() -> bool:
    return os.environ.get(_REQUIRED, "") not in {"", "0"}


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
    elif report.when == "call":
        item.config.stash[_real_runs] = item.config.stash.get(_real_runs, 0) + 1
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
    if session.config.option.markexpr == "not real":
        return
    if _required() and exitstatus == pytest.ExitCode.OK and not session.config.stash.get(_real_runs, 0):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A `real` test that fails is tried once more, and the summary says so: it shares its machine with strangers."""
    for item in items:
        if item.get_closest_marker("real") is not None:
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many `real` tests ran where they are required."""
    if _required() and terminalreporter.config.option.markexpr != "not real":
        ran = terminalreporter.config.stash.get(_real_runs, 0)
        terminalreporter.write_line(f"tests marked real that ran: {ran}" + ("" if ran else " (at least one must)"))
