"""The report as one page of HTML, in the look of the leak report."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from memguard.leaks.page import bullets, curve, document, section, table
from memguard.model import Level
from memguard.reports.words import attempts_rows, moments_rows, part_rows, work_rows
from memguard.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memguard.reports.report import IncidentReport

__all__ = ["page"]

_RELIEFS = (("who", ""), ("times", "key"), ("asked", "number"), ("bought", "number"), ("cost", "number"))
_PARTS = (("part", ""), ("before", "number"), ("peak", "number"), ("grown", "number"))
_WORK = (("what", ""), ("ended", "number"), ("memory", "number"), ("largest", "key"), ("longest", "number"))
_MOMENTS = (("after", "number"), ("told", ""), ("event", "key"))


def page(report: IncidentReport) -> str:
    """The page, whole in itself."""
    numbers = report.measures
    advised = _pairs((change, f"{why}.", "") for change, why in report.advice)
    parts = [
        section("Used memory", _drawing(report)),
        section("Answers", _pairs((one.question, one.answer, one.evidence) for one in report.answers)),
        section("What to change", advised or "<p>Nothing that was measured says so.</p>"),
        section("Reliefs", table(_RELIEFS, attempts_rows(report))),
        section("Where it grew", table(_PARTS, part_rows(report))),
        section("What ran and ended", table(_WORK, work_rows(report))),
        section("Timeline", table(_MOMENTS, [(after, text, event) for after, event, text in moments_rows(report)])),
        section("What others may have said", _pairs((*pair, "") for pair in report.outside)),
        section("Not known", bullets(report.unknown)),
    ]
    ended = "not over" if numbers.lasted_s is None else f"level {numbers.peak_level.name} at the worst"
    under = f"Incident of {report.opened}, process {report.source}, {ended}"
    return document(report.summary, under, parts, alarming=numbers.peak_level >= Level.CRITICAL)


def _pairs(rows: Iterable[tuple[str, str, str]]) -> str:
    """What is meant, under it what is said of it, and what that rests on."""
    under = '<br><span class="pale">{}</span>'
    return "".join(
        f"<p><b>{escape(head)}</b><br>{escape(text)}{under.format(escape(rests)) if rests else ''}</p>"
        for head, text, rests in rows
    )


def _drawing(report: IncidentReport) -> str:
    numbers = report.measures
    marks = []
    if numbers.limit_bytes is not None:
        rules, limit = numbers.rules, numbers.limit_bytes
        marks = [
            (f"{name} {format_bytes(ratio * limit)}", int(ratio * limit))
            for name, ratio in (("limit", 1.0), ("critical", rules.critical_ratio), ("elevated", rules.elevated_ratio))
        ]
    end = max((at for at, _ in report.curve), default=0.0) if numbers.lasted_s is None else numbers.lasted_s
    return curve(report.curve, "Used memory before, in and after the incident", marks=marks, span=(0.0, end))
