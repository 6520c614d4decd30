"""A test run again: setup, call and teardown with fresh function-scoped fixtures; wider ones stay as they are."""

from __future__ import annotations

import copy
import time
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import get_reraise_exceptions, runtestprotocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["NotRepeatable", "Runs"]

Reports = list[pytest.TestReport]


class NotRepeatable(Exception):
    """A test that passed did not pass again; the text says how."""


class Runs:
    """The runs of one test: ``first``, any number of ``again``, and ``close`` at the end."""

    def __init__(self, item: pytest.Function) -> None:
        self.item = item
        self.seconds: float = 0.0
        self.count: int = 0
        # A neighbour that comes next: everything above the test is kept for it.
        self._neighbour = copy.copy(item)
        # Hypothesis refuses to run one test with several instances.
        hypothesis = getattr(item.obj, "is_hypothesis_test", False)
        self._own_instance = type(item.parent) is pytest.Class and not hypothesis

    def first(self) -> Reports:
        """The run that is reported; reports are not sent yet."""
        return self._run()

    def again(self) -> None:
        """One more run, of which nothing is reported.

        Raises:
            NotRepeatable: it did not pass.
        """
        item = self.item
        if self._own_instance:  # as for each test of a class, a new one
            item.__dict__.pop("_instance", None)
            item.__dict__.pop("_obj", None)
        with self._left_as_it_was(), warnings.catch_warnings(record=True), _muted(item.session):
            reports = self._run()
        bad = next((report for report in reports if not report.passed and not _as_expected(report)), None)
        if bad is not None:
            raise NotRepeatable(f"its {bad.when} {bad.outcome}{_place(bad)}")
        if reports[1].skipped and not hasattr(reports[1], "wasxfail"):
            raise NotRepeatable("it was skipped")

    def _run(self) -> Reports:
        began = time.perf_counter()
        try:
            return runtestprotocol(self.item, log=False, nextitem=self._neighbour)
        finally:
            self.seconds = time.perf_counter() - began
            self.count += 1

    @contextmanager
    def _left_as_it_was(self) -> Iterator[None]:
        """What pytest itself adds with each run is taken back; it would be taken for a leak."""
        item = self.item
        rows: list[list[Any]] = [item._report_sections, item.user_properties, item.own_markers]  # noqa: SLF001
        for finalizers, _ in item.session._setupstate.stack.values():  # noqa: SLF001
            rows += filter(None, map(_own_finalizers, finalizers))
        lengths = [len(row) for row in rows]
        try:
            yield
        finally:
            for row, length in zip(rows, lengths, strict=True):
                del row[length:]

    def close(self, nextitem: pytest.Item | None, reports: Reports) -> None:
        """Tear down what the next test does not need; if that fails, the report of the teardown says so."""
        session = self.item.session
        state = session._setupstate  # noqa: SLF001
        if session.shouldfail or session.shouldstop:
            nextitem = None
        kept = [] if nextitem is None else nextitem.listchain()
        stack = list(state.stack)
        if stack == kept[: len(stack)]:
            return
        call = pytest.CallInfo.from_call(
            lambda: self._tear_down(nextitem), when="teardown", reraise=get_reraise_exceptions(self.item.config)
        )
        report = self.item.ihook.pytest_runtest_makereport(item=self.item, call=call)
        if report.failed and reports[-1].passed:
            reports[-1] = report

    def _tear_down(self, nextitem: pytest.Item | None) -> None:
        item = self.item
        capture: Any = item.config.pluginmanager.getplugin("capturemanager")
        with nullcontext() if capture is None else capture.item_capture("teardown", item):
            item.session._setupstate.teardown_exact(nextitem)  # noqa: SLF001


def _as_expected(report: pytest.TestReport) -> bool:
    return hasattr(report, "wasxfail")


def _own_finalizers(finalizer: object) -> list[Any] | None:
    """Of a wider fixture that is set up: what it will call first, one more for each fixture that used it."""
    fixture = getattr(getattr(finalizer, "func", None), "__self__", None)
    found: list[Any] | None = getattr(fixture, "_finalizers", None)
    return found


def _place(report: pytest.TestReport) -> str:
    """Where it failed; not with what, for the text of an assertion shows contents."""
    crash: Any = getattr(report.longrepr, "reprcrash", None)
    return f" at {Path(crash.path).name}:{crash.lineno}" if crash is not None else ""


class _MutedHooks:
    """A session's hooks without those that would tell of a run."""

    def __init__(self, hooks: Any) -> None:  # noqa: ANN401 - pluggy's relay
        self._hooks = hooks

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return _say_nothing if name in _TELLING else getattr(self._hooks, name)


_TELLING = frozenset({"pytest_runtest_logreport", "pytest_exception_interact"})


def _say_nothing(**_: object) -> None:
    """Nobody is told of subtests and failures of a repeat."""


@contextmanager
def _muted(session: Any) -> Iterator[None]:  # noqa: ANN401 - its hooks are put aside
    hooks_of: Callable[[Any], Any] = session.gethookproxy
    session.gethookproxy = lambda path: _MutedHooks(hooks_of(path))
    try:
        yield
    finally:
        del session.gethookproxy
