"""Words: the report in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memguard.reports.report import stamp
from memguard.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memguard.reports.report import IncidentReport

__all__ = ["attempts_rows", "markdown", "moments_rows", "part_rows", "work_rows"]


def markdown(report: IncidentReport) -> str:
    """The report, for a ticket or a wiki."""
    ended = "" if report.closed_unix_s is None else f" to {stamp(report.closed_unix_s)}"
    blocks = [
        f"# Incident of {report.opened}",
        f"**{_safe(report.summary)}**",
        f"{report.opened}{ended} · process {report.source}",
        _section(
            "Answers",
            [
                f"- **{one.question}** {_safe(one.answer)}{f' ({_safe(one.evidence)})' if one.evidence else ''}"
                for one in report.answers
            ],
        ),
        _section("What to change", [f"- **{_safe(change)}**: {_safe(why)}." for change, why in report.advice])
        or "## What to change\n\nNothing that was measured says so.",
        _table("Reliefs", ("who", "times", "asked", "bought", "cost"), attempts_rows(report)),
        _table("Where it grew", ("part", "before", "at the peak", "grown"), part_rows(report)),
        _table(
            "What ran and ended",
            ("what", "how many", "grew memory by", "the largest", "the longest"),
            work_rows(report),
        ),
        _table("Timeline", ("after", "what", "told"), moments_rows(report)),
        _section(
            "What others may have said", [f"- **{_safe(what)}**: {_safe(means)}" for what, means in report.outside]
        ),
        _section("Not known", [f"- {_safe(row)}" for row in report.unknown]),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def attempts_rows(report: IncidentReport) -> list[tuple[str, ...]]:
    """Reliefs by name."""
    return [
        (
            one.name + (f" ({'; '.join(one.errors)})" if one.errors else ""),
            str(one.count),
            format_bytes(one.wanted_bytes),
            format_bytes(one.bought_bytes),
            "?" if one.cost_s is None else format_seconds(one.cost_s),
        )
        for one in report.measures.attempts
    ]


def part_rows(report: IncidentReport) -> list[tuple[str, ...]]:
    """Parts and holders, before and at the peak."""
    return [
        (part.name, format_bytes(part.before_bytes), format_bytes(part.peak_bytes), format_bytes(part.grown_bytes))
        for part in (*report.measures.parts, *report.measures.holders)
    ]


def work_rows(report: IncidentReport) -> list[tuple[str, ...]]:
    """Operations that ended during it."""
    return [
        (
            one.type,
            str(one.count),
            format_bytes(one.delta_bytes),
            format_bytes(one.largest_bytes),
            format_seconds(one.longest_s),
        )
        for one in report.work
    ]


def moments_rows(report: IncidentReport) -> list[tuple[str, ...]]:
    """The timeline."""
    return [
        (f"{'-' if one.at_s < 0 else '+'}{format_seconds(abs(one.at_s))}", one.event, one.text)
        for one in report.timeline
    ]


def _section(title: str, rows: Iterable[str]) -> str:
    text = "\n".join(rows)
    return f"## {title}\n\n{text}" if text else ""


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += ["| " + " | ".join(_safe(cell) for cell in row) + " |" for row in rows]
    return f"## {title}\n\n" + "\n".join(lines)


def _safe(text: str) -> str:
    """Text in which nothing is taken for Markdown or HTML: names come from whoever registered them."""
    for letter in "\\`*_|<>[]":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split())
