"""How a test that asks is run: once to be reported, then as often as its verdict needs, then the reports are sent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import pytest

from memguard.ext.pytest_plugin.asking import LeakFree, leak_free_of, peak_bytes_of
from memguard.ext.pytest_plugin.blocks import Blocks
from memguard.ext.pytest_plugin.checking import Known, left_behind
from memguard.ext.pytest_plugin.looks import look
from memguard.ext.pytest_plugin.repeating import NotRepeatable, Runs
from memguard.ext.pytest_plugin.telling import note

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.ext.pytest_plugin.finding import Finding
    from memguard.ext.pytest_plugin.repeating import Reports

__all__ = ["run"]


def run(item: pytest.Function, nextitem: pytest.Item | None) -> bool | None:
    """Run one test as asked; None leaves it to the others."""
    try:
        wish, peak_bytes = leak_free_of(item), peak_bytes_of(item)
    except pytest.UsageError as error:  # on a worker of xdist, which cannot end the session
        return _refuse(item, str(error))
    watched = wish is not None or peak_bytes is not None or "leak_check" in item.fixturenames
    if not watched and _is_rerun(item):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    runs, blocks = Runs(item), Blocks()
    item.stash[Blocks.KEY] = blocks
    reports = _run(runs, blocks, wish, peak_bytes)
    runs.close(nextitem, reports)
    del item.stash[Blocks.KEY]
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _refuse(item: pytest.Function, text: str) -> bool:
    """Report a test whose markers cannot be meant; it is not run."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    report = item.ihook.pytest_runtest_makereport(item=item, call=_failing(text, "setup"))
    item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _failing(text: str, when: Literal["setup", "call"]) -> pytest.CallInfo[Any]:
    def tell() -> None:
        raise pytest.fail.Exception(text, pytrace=False)

    return pytest.CallInfo.from_call(tell, when=when)


def _is_rerun(item: pytest.Function) -> bool:
    """Whether pytest-rerunfailures runs it: two cannot."""
    if not item.config.pluginmanager.hasplugin("rerunfailures"):
        return False
    return bool(item.get_closest_marker("flaky") or item.config.getoption("reruns", None))


def _run(runs: Runs, blocks: Blocks, wish: LeakFree | None, peak_bytes: int | None) -> Reports:
    found: Finding | None
    item, known = runs.item, Known.of(runs.item)
    if peak_bytes is not None:
        from memguard.ext.pytest_plugin.peaks import Peak  # noqa: PLC0415 - only where it is asked for

        peak = Peak(runs)
        reports, found = peak.first(peak_bytes)
    else:
        sent, before = known.purse.sent, look()
        reports, found = runs.first(), None
        sent = known.purse.sent - sent
    if not _passed(reports):
        return reports
    inside = None
    asked = wish is not None or blocks.wish is not None
    if wish is None and blocks.wish is not None:
        wish, inside = blocks.wish, blocks.inside
    after = None
    if wish is None and peak_bytes is None:
        after = known.suspects(before, seconds=runs.seconds, sent=sent)
        wish = None if after is None else LeakFree(screened=True)
    try:
        if found is None and wish is not None:
            found = _looked_at(runs, wish, known, inside)
    except NotRepeatable as error:
        if asked:
            text = (
                f"it passed once and cannot be repeated, so nobody can say what it leaves behind: {error}; a test with "
                "leak_free or leak_check must pass any number of times in one process"
            )
            _fail(item, reports, text)
        else:
            note(reports[1], unrepeatable=str(error))
        return reports
    if found is None and wish is not None and wish.screened and after is not None:
        known.acquit(before, after)
    if found is not None:
        _fail(item, reports, found.text)
    note(reports[1], finding=found, passed_over=known.passed_over)
    return reports


def _looked_at(runs: Runs, wish: LeakFree, known: Known, inside: Callable[[], bool] | None) -> Finding | None:
    """The verdict on a test; what nobody asked for is paid for."""
    seconds, began = runs.seconds, time.perf_counter()
    try:
        return left_behind(runs, wish, inside=inside)
    finally:
        if wish.screened:
            known.purse.spend(time.perf_counter() - began, seconds)


def _passed(reports: Reports) -> bool:
    """Whether it ran and passed, also where that was not expected."""
    if len(reports) != len(("setup", "call", "teardown")):
        return False
    setup, call, teardown = reports
    surprise = call.failed and isinstance(call.longrepr, str) and call.longrepr.startswith("[XPASS(strict)]")
    return setup.passed and (call.passed or surprise) and teardown.passed


def _fail(item: pytest.Function, reports: Reports, text: str) -> None:
    """Put a failure in the place of the report of the call; an xfail marker applies to it."""
    call = _failing(f"{item.nodeid}: {text}", "call")
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
    report.duration, report.start, report.stop = reports[1].duration, reports[1].start, reports[1].stop
    report.sections = reports[1].sections
    reports[1] = report
