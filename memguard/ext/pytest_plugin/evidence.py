"""What grows while a test is repeated under tracing: how much, who holds it, which line made it."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

from memguard.ext.pytest_plugin.excused import Caches, is_bounded
from memguard.ext.pytest_plugin.looks import settle, young
from memguard.leaks.examiner import Options, examine
from memguard.units import format_bytes

if TYPE_CHECKING:
    from memguard.ext.pytest_plugin.looks import PureCaches
    from memguard.ext.pytest_plugin.repeating import Runs
    from memguard.findings import LeakReport, Site, Suspect

__all__ = ["Evidence", "gather"]

# The examiner traces in four tenths of its window, and marks each.
_MARKS: Final = 10
# In the first traced part what is replaced by each run takes its place; the others of a leak are equal.
_EVEN: Final = 0.3
_SHOWN: Final = 4
# A line or a holder of less than this share is not why the test failed.
_WORTH: Final = 0.03
# Half of what lies in caches with a bound, as far as that was measured: the other half is how they are weighed.
_MOSTLY: Final = 0.5
# What grows in fewer repeats than this share came once.
_EACH_TIME: Final = 0.9


# What those make that run tests is their own book-keeping, not the test's.
_RUNNERS: Final = ("_pytest/", "pluggy/", "pytest_", "xdist/", "coverage/", "memguard/ext/pytest_plugin/")
# Of so little, and nobody to hold it, one cannot be sure.
_LITTLE_BYTES: Final = 512


class Evidence(NamedTuple):
    """What tracing found.

    ``bytes`` is what Python's allocators hold more after each repeat, ``unbounded`` what of that lies in no cache with
    a bound, both 0 when it is not steady.
    """

    bytes: int
    unbounded: int
    repeats: int
    holders: tuple[str, ...]
    types: tuple[str, ...]
    lines: tuple[str, ...]


def gather(runs: Runs, caches: PureCaches, *, each: int, quick: bool) -> Evidence:
    """Repeat the test under the examiner, ``each`` times in each tenth of its window.

    Raises:
        NotRepeatable: the test did not pass again.
    """
    first, bounds = runs.count, Caches()
    passed = 0.0

    def wait(share: float) -> None:
        nonlocal passed
        passed += share
        with young(quick=quick):
            while runs.count - first < round(passed * each * _MARKS):
                runs.again()
            settle(caches, full=True)

    report = examine(wait, options=Options(requests=lambda: runs.count - first))
    # The examiner says how many requests its window had; it begins after a part that is not judged.
    counted = report.requests or each * _MARKS
    steady = [site for site in report.trace.sites if _adds(site) and not site.where.startswith(_RUNNERS)]
    grown = sum(_adds(site) for site in steady) // each
    swollen = sum(one.grown_bytes for one in report.swellings if not is_bounded(one)) // counted
    bounded = sum(one.grown_bytes for one in report.swellings if is_bounded(one)) // counted
    bounded += bounds.grown_bytes() // (runs.count - first)
    grown = max(grown, swollen + bounded)
    unbounded = max(grown - bounded, swollen)
    if bounded > _MOSTLY * grown:
        unbounded = swollen
    holders = _holders(report, grown * counted, counted)
    if not holders and grown < _LITTLE_BYTES:
        unbounded = 0
    return Evidence(
        bytes=grown,
        unbounded=unbounded,
        repeats=runs.count - first,
        holders=holders,
        types=_types(report, counted),
        lines=_lines(steady, each),
    )


def _adds(site: Site) -> int:
    """What each part of the window adds at a line, if all do; else 0."""
    levels = [site.bytes - old for old in site.ages_bytes] + [site.bytes]
    steps = [later - sooner for sooner, later in pairwise(levels)]
    if not steps or min(steps) <= 0 or min(steps) < _EVEN * max(steps):
        return 0
    return round(median(steps))


def _each(grown: int, repeats: int) -> str:
    return f"{grown / repeats:.2g}" if grown % repeats else str(grown // repeats)


def _types(report: LeakReport, repeats: int) -> tuple[str, ...]:
    rows = [one for one in report.types if one.grown >= _EACH_TIME * repeats]
    return tuple(f"+{_each(one.grown, repeats)} {one.type} a repeat" for one in rows[:_SHOWN])


def _holders(report: LeakReport, grown_bytes: int, repeats: int) -> tuple[str, ...]:
    rows = [
        _holder(one, repeats)
        for one in report.suspects
        if one.kind in {"holder", "type", "threads", "tasks", "cycles"}
        and one.grown >= _EACH_TIME * repeats
        and one.grown_bytes >= _WORTH * grown_bytes
    ]
    return tuple(rows[:_SHOWN])


def _holder(one: Suspect, repeats: int) -> str:
    made = f"; made at {one.site}" if one.site else ""
    more = f"+{_each(one.grown, repeats)} a repeat, {format_bytes(one.grown_bytes // repeats)}{made}"
    if one.chain is None:
        return f"{one.name} ({one.kind}): {more}"
    if one.kind == "type":
        held = f"held as {one.chain}" if one.chain.found else f"holder not found: {one.chain.note}"
        return f"{one.name}: {more}; {held}"
    return f"{one.chain}: {more}"


def _lines(sites: list[Site], each: int) -> tuple[str, ...]:
    """The lines whose allocations stay, the most bytes first."""
    rows = sorted(((_adds(site) / each, site) for site in sites), key=lambda row: -row[0])
    least = _WORTH * sum(size for size, _ in rows)
    return tuple(
        f"{site.where}: {format_bytes(round(size))} a repeat ({' < '.join(site.frames)})"
        for size, site in rows[:_SHOWN]
        if size >= least
    )
