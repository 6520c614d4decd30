"""The report: the answer in its first sentence, then the evidence, what was not checked, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from memguard.findings import LeakReport
from memguard.leaks.page import page
from memguard.units import format_bytes, format_seconds
from memguard.values import replace

if TYPE_CHECKING:
    from memguard.findings import Census, Suspect, Trace, Verdict
    from memguard.leaks.suspects import Evidence

__all__ = ["Gathered", "compose"]

_SUSPECTS: Final = 5
_TYPES: Final = 8
_SITES: Final = 5
_NAMED: Final = 8
# A census of everything would be most of a report.
_CENSUS: Final = 100
_DOUBT: Final = 0.05


class Gathered(NamedTuple):
    """All that an examination brought, before it is put into words."""

    at: float
    evidence: Evidence
    suspects: tuple[Suspect, ...]
    verdict: Verdict | None
    census: Census
    curve: tuple[tuple[float, int], ...]
    cost_s: float
    hold_s: float
    lengths_complete: bool
    redacted: bool


def compose(gathered: Gathered) -> LeakReport:
    """The report of an examination, with its text and its page."""
    evidence = gathered.evidence
    report = LeakReport(
        at=gathered.at,
        seconds=evidence.seconds,
        requests=evidence.requests,
        summary=_summary(gathered),
        verdict=gathered.verdict,
        suspects=gathered.suspects,
        types=evidence.types[:_CENSUS],
        swellings=evidence.swellings,
        trace=evidence.trace,
        native=evidence.native,
        named=evidence.named,
        unchecked=_unchecked(gathered),
        curve=gathered.curve,
        census=replace(gathered.census, counts=dict(list(gathered.census.counts.items())[:_CENSUS])),
        cost_s=gathered.cost_s,
        hold_s=gathered.hold_s,
        lost=evidence.lost,
    )
    report = replace(report, text=_text(report))
    return replace(report, html=page(report))


def _summary(gathered: Gathered) -> str:
    """The answer in one sentence."""
    suspects = [one for one in gathered.suspects if one.certainty != "possible"]
    evidence = gathered.evidence
    span = format_seconds(evidence.seconds)
    if suspects:
        first = suspects[0]
        more = f" (and {len(suspects) - 1} more)" if len(suspects) > 1 else ""
        return f"{first.words}{more}."
    filling = [one for one in evidence.swellings if one.bound]
    if filling:
        one = filling[0]
        return f"What grows has a bound: {one.chain.path} holds {one.items[-1]} items and is {one.bound}."
    if gathered.suspects:
        first = gathered.suspects[0]
        return f"Nothing surely leaks; what comes nearest: {first.words}."
    count = "" if evidence.requests is None else f" and {evidence.requests} requests"
    if evidence.trace.refused:
        why = f"lines were not traced, because {evidence.trace.refused}"
        return f"Nothing grew steadily in {span}{count}: no container, no type, no thread; {why}."
    return f"Nothing grew steadily in {span}{count}: no container, no type, no line, no thread."


def _unchecked(gathered: Gathered) -> tuple[str, ...]:
    """What this report cannot speak of."""
    evidence, rows = gathered.evidence, []
    trace = evidence.trace
    if trace.refused:
        rows.append(f"lines of code: allocations were not traced, because {trace.refused}")
    elif trace.note:
        rows.append(f"lines of code after {trace.seconds:.1f} s of tracing: {trace.note}")
    if gathered.census.unseen:
        rows.append(f"types: {gathered.census.unseen}")
    if not gathered.lengths_complete:
        rows.append("containers: not all were looked at, the time for it was over")
    lost = [one for one in evidence.swellings if not one.chain.found]
    lost_types = [one for one in evidence.growing if not one.chain.found]
    rows += [f"who holds a {one.type} that grows: {one.chain.note}" for one in lost[:3]]
    rows += [f"who holds {one.growth.type}: {one.chain.note}" for one in lost_types[:3]]
    if evidence.requests is None:
        rows.append("growth per request: nobody counts requests (guard.admit, the middleware or guard.operation do)")
    rows.append("what grows more slowly than was looked at: a longer window sees more")
    return tuple(rows)


def _text(report: LeakReport) -> str:
    lines = [report.summary, ""]
    if report.verdict is not None and report.verdict.kind != "unknown":
        lines += [f"Trend: {report.verdict.words}", ""]
    lines += _block("Suspects", [_suspect(one) for one in report.suspects[:_SUSPECTS]])
    bounded = [
        f"{one.chain.path}: {one.items[0]} to {one.items[-1]} items; {one.bound}"
        for one in report.swellings
        if one.bound
    ]
    lines += _block("Grows, but has a bound", bounded[:_SUSPECTS])
    lines += _block(
        "Types of which more are alive",
        [f"{one.grown:+d} {one.type} ({one.after} now)" for one in report.types[:_TYPES]],
    )
    lines += _block("Lines whose allocations stay", _sites(report.trace))
    lines += _block("Also", [one.words for one in report.named[:_NAMED]])
    shares = [one.words for one in (report.native, report.lost) if one is not None]
    lines += _block("Python and native", shares)
    lines += _block("Not checked", list(report.unchecked))
    lines += _block("Cost", [_cost(report)])
    return "\n".join(lines).rstrip() + "\n"


def _block(title: str, rows: list[str]) -> list[str]:
    return [f"{title}:", *(f"  - {row}" for row in rows), ""] if rows else []


def _suspect(one: Suspect) -> str:
    return f"[{one.certainty}] {one.words}" + (
        f"\n    held as: {one.chain}" if one.chain is not None and one.chain.found else ""
    )


def _sites(trace: Trace) -> list[str]:
    rows = []
    for site in trace.sites[:_SITES]:
        if site.bytes:
            doubt = "stays" if site.p < _DOUBT else "may stay"
            calls = " < ".join(site.frames)
            made = f"{format_bytes(site.bytes)} in {site.blocks} blocks made at {site.where}"
            rows.append(f"{made} {doubt} (p={site.p:.2g}): {calls}")
    return rows


def _cost(report: LeakReport) -> str:
    trace = report.trace
    text = (
        f"{format_seconds(report.cost_s)} of processor time over {format_seconds(report.seconds)}; the longest stretch "
        f"without other threads was {format_seconds(report.hold_s)} (a full collection, the list of all objects and a "
        "search for referrers cannot be sliced)"
    )
    if trace.refused:
        return text
    ratio = trace.slowdown_ratio
    slower = "how much slower it ran is not known" if ratio is None else f"it ran about {ratio:.0%} slower"
    return (
        f"{text}; traced {trace.frames} calls deep for {format_seconds(trace.seconds)}: {slower} meanwhile, the tracer "
        f"held {format_bytes(trace.peak_bytes)}"
    )
