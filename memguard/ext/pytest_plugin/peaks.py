"""How high memory stood while a test ran: the kernel's own high-water mark, or Python's where there is none."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

from memguard.ext.pytest_plugin.finding import Finding
from memguard.ext.pytest_plugin.repeating import NotRepeatable
from memguard.units import KIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.ext.pytest_plugin.repeating import Reports, Runs

__all__ = ["Peak"]


class Peak:
    """The peak of one test's runs."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._how = ""

    def first(self, limit_bytes: int) -> tuple[Reports, Finding | None]:
        """The run that is reported; if it peaks too high, once more, for the first run imports and fills caches."""
        reports: Reports = []
        peak = self._measure(lambda: reports.extend(self._runs.first()))
        if peak > limit_bytes and all(report.passed for report in reports):
            try:
                peak = min(peak, self._measure(self._runs.again))
            except NotRepeatable:
                self._how += ", once: it cannot be repeated"
        if peak <= limit_bytes:
            return reports, None
        return reports, Finding(
            test=self._runs.item.nodeid, kind="peak", bytes=peak, blocks=0, allowed_bytes=limit_bytes, how=self._how
        )

    def _measure(self, run: Callable[[], object]) -> int:
        """How much higher than at its begin memory stood in one run."""
        gc.collect()
        _trim()
        if _reset_mark():
            self._how = "resident memory; the lower of two runs"
            before = _status("VmRSS")
            run()
            return max(0, _status("VmHWM") - before)
        self._how = "what Python allocates; the kernel keeps no mark here; the lower of two runs"
        mine = not tracemalloc.is_tracing()
        if mine:
            tracemalloc.start(1)
        try:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            run()
            return max(0, tracemalloc.get_traced_memory()[1] - before)
        finally:
            if mine:
                tracemalloc.stop()


def _trim() -> None:
    """What was freed before must not hide what is taken now."""
    import ctypes  # noqa: PLC0415 - as in looks

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # musl, macOS
        return


def _reset_mark() -> bool:
    """Set the high-water mark to what is resident now (proc(5), clear_refs)."""
    try:
        with open("/proc/self/clear_refs", "wb") as file:  # noqa: PTH123 - a file of the kernel
            file.write(b"5")
    except OSError:
        return False
    return True


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - as above
        return next(int(line.split()[1]) * KIB for line in file if line.startswith(f"{field}:"))
