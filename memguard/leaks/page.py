"""The report as one page of HTML: the curve and the chains as drawings; nothing is loaded from anywhere, no script.

Incidents' pages (``memguard.reports.page``) share ``document``, ``section``, ``bullets``, ``table``, ``curve``.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from memguard.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memguard.findings import Chain, LeakReport

__all__ = ["bullets", "curve", "document", "page", "section", "table"]

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --pale: #5f6b7a; --line: #d5dbe3; --back: #ffffff; --box: #f3f6f9;
  --mark: #b3261e; --calm: #1a6e3c; --curve: #2458c5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --pale: #98a4b3; --line: #39424e; --back: #14181d;
  --box: #1d232b; --mark: #ff8a80; --calm: #7fd8a4; --curve: #8ab0ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.35rem; line-height: 1.35; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 2.2rem 0 .5rem; }
.leak { border-left: .35rem solid var(--mark); padding-left: .9rem; }
.calm { border-left: .35rem solid var(--calm); padding-left: .9rem; }
p.pale, td.pale, .pale { color: var(--pale); font-size: .875rem; }
svg { display: block; width: 100%; height: auto; background: var(--box); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; }
th { text-align: left; font-weight: 600; color: var(--pale); }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
td.number, th.number { width: 1%; min-width: 4rem; text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
td.key, th.key { width: 1%; white-space: nowrap; color: var(--pale); }
@media (max-width: 40rem) { td.pale, th.pale, td.key, th.key, text.minor { display: none; }
  svg text { font-size: 22px; }
  th, td { padding-right: .4rem; } td.number, th.number { min-width: 0; } }
.chain { display: flex; flex-wrap: wrap; align-items: stretch; gap: .4rem; margin: .5rem 0 1.5rem; }
.step { background: var(--box); border: 1px solid var(--line); border-radius: .4rem; padding: .35rem .6rem;
  font-size: .875rem; overflow-wrap: anywhere; }
.step b { display: block; font-family: ui-monospace, monospace; font-weight: 600; }
.step span { color: var(--pale); font-size: .75rem; }
.step.last { border-color: var(--mark); }
.arrow { align-self: center; color: var(--pale); }
.answer { display: grid; grid-template-columns: 4.5rem 1fr; margin: .75rem 0 0; overflow-wrap: anywhere; }
.tag { color: var(--pale); font-size: .8rem; line-height: 1.9; }
ul { padding-left: 1.2rem; margin: .25rem 0; } li { margin: .2rem 0; overflow-wrap: anywhere; }
""".strip()
_WIDTH, _HEIGHT = 960, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 104, 16, 16, 36
_ROWS: Final = 12
# Dots of more points would hide the line.
_DOTS: Final = 60
_SUSPECTS: Final = 5


def page(report: LeakReport) -> str:
    """The page, whole in itself."""
    parts = [
        section("Resident memory", curve(report.curve)),
        section("Who holds it", _suspects(report)),
        section("Types of which more are alive", _types(report)),
        section("Lines whose allocations stay", _sites(report)),
        section(
            "Grows, but has a bound", bullets(f"{one.chain.path}: {one.bound}" for one in report.swellings if one.bound)
        ),
        section("Also", bullets(one.words for one in report.named[:_ROWS])),
        section("Python and native", bullets([one.words for one in (report.native, report.lost) if one is not None])),
        section("Not checked", bullets(report.unchecked)),
        section("What it cost", f"<p>{escape(_cost(report))}</p>"),
    ]
    return document(report.summary, _window(report), parts, alarming=report.leaks)


def document(summary: str, under: str, parts: Iterable[str], *, alarming: bool) -> str:
    """A page with the answer on top: ``summary``, a line under it, then sections; empty ones are left out."""
    head = f'<header class="{"leak" if alarming else "calm"}"><h1>{escape(summary)}</h1>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(summary[:80])}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, [head, f'<p class="pale">{escape(under)}</p></header>', *parts]))
        + "\n</body></html>\n"
    )


def section(title: str, inner: str) -> str:
    """A section with its heading; "" when there is nothing in it."""
    return f"<section><h2>{escape(title)}</h2>{inner}</section>" if inner else ""


def _window(report: LeakReport) -> str:
    work = "requests were not counted" if report.requests is None else f"{report.requests} requests"
    trend = "" if report.verdict is None or report.verdict.kind == "unknown" else f" · trend: {report.verdict.words}"
    return f"Window of {format_seconds(report.seconds)}, {work}{trend}"


def _cost(report: LeakReport) -> str:
    traced = "not traced" if report.trace.refused else f"traced for {format_seconds(report.trace.seconds)}"
    slower = report.trace.slowdown_ratio
    much = "" if slower is None or report.trace.refused else f", the service about {slower:.0%} slower meanwhile"
    return (
        f"{format_seconds(report.cost_s)} of processor time; the longest stretch without other threads was "
        f"{format_seconds(report.hold_s)}; {traced}{much}."
    )


def bullets(rows: Iterable[str]) -> str:
    """A list of texts."""
    items = "".join(f"<li>{escape(row)}</li>" for row in rows)
    return f"<ul>{items}</ul>" if items else ""


def table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """A table; each head has a class for its column."""
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{css}">{escape(cell)}</td>' for (_, css), cell in zip(heads, row, strict=True))
        + "</tr>"
        for row in rows
    )
    head = "".join(f'<th class="{css}">{escape(name)}</th>' for name, css in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""


def _types(report: LeakReport) -> str:
    heads = (("more", "number"), ("now", "number"), ("type", ""))
    return table(heads, ((f"+{one.grown}", str(one.after), one.type) for one in report.types[:_ROWS]))


def _sites(report: LeakReport) -> str:
    heads = (("stays", "number"), ("blocks", "number"), ("p", "number"), ("line", ""), ("called from", "pale"))
    rows = (
        (format_bytes(one.bytes), str(one.blocks), f"{one.p:.2g}", one.where, " < ".join(one.frames[1:]))
        for one in report.trace.sites[:_ROWS]
    )
    return table(heads, rows)


def _suspects(report: LeakReport) -> str:
    rows = []
    for one in report.suspects[:_SUSPECTS]:
        rows.append(
            f'<p class="answer"><span class="tag">{escape(one.certainty)}</span><span>{escape(one.words)}</span></p>'
        )
        if one.chain is not None and one.chain.found:
            rows.append(_chain(one.chain))
    return "".join(rows)


def _chain(chain: Chain) -> str:
    """A chain as boxes: the root, then each step with its name and its type."""
    boxes = [f'<div class="step"><b>{escape(chain.root)}</b><span>{escape(chain.kind)}</span></div>']
    for place, link in enumerate(chain.links):
        items = "" if link.items is None else f", {link.items} items"
        css = "step last" if place == len(chain.links) - 1 else "step"
        boxes.append(f'<div class="{css}"><b>{escape(link.name)}</b><span>{escape(link.type + items)}</span></div>')
    return '<div class="chain">' + '<div class="arrow">→</div>'.join(boxes) + "</div>"


# --- the curve --------------------------------------------------------------------------------------------------------


def curve(
    points: Sequence[tuple[float, int]],
    label: str = "Resident memory over the window",
    *,
    marks: Sequence[tuple[str, int]] = (),
    span: tuple[float, float] | None = None,
) -> str:
    """Readings over seconds as a drawing; "" of fewer than two. ``marks`` are named lines, ``span`` is shaded."""
    if len(points) < 2 or points[-1][0] <= points[0][0]:  # noqa: PLR2004 - a line has two ends
        return ""
    sizes = [size for _, size in points] + [size for _, size in marks]
    low, high = min(sizes), max(sizes)
    margin = max(1, (high - low) // 8)
    low, high = max(0, low - margin), high + margin
    begin, lasts = points[0][0], points[-1][0] - points[0][0]
    left = _RIGHT if marks else _LEFT  # their names stand at the lines

    def place(at: float, size: float) -> str:
        across = left + (at - begin) / lasts * (_WIDTH - left - _RIGHT)
        down = _HEIGHT - _BOTTOM - (size - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{down:.1f}"

    line = " ".join(place(at, size) for at, size in points)
    dots = "".join(
        '<circle cx="{}" cy="{}" r="3.5" fill="var(--curve)"/>'.format(*place(*one).split(",")) for one in points
    )
    shade = "" if span is None else _shade(place(span[0], low), place(span[1], low))
    grid = "".join(_grid_line(low + (high - low) * share, place) for share in (() if marks else (0.15, 0.5, 0.85)))
    named = "".join(_mark(name, size, place) for name, size in marks)
    last = f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 9}" text-anchor="end">{_instant(points[-1][0])}</text>'
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}" '
        'font-size="12" font-family="system-ui, sans-serif" fill="var(--pale)">'
        f'{shade}{grid}{named}<text x="{left}" y="{_HEIGHT - 9}">{_instant(begin)}</text>{last}'
        f'<polyline points="{line}" fill="none" stroke="var(--curve)" stroke-width="2.5" stroke-linejoin="round"/>'
        f"{dots if len(points) <= _DOTS else ''}</svg>"
    )


def _instant(seconds: float) -> str:
    return f"{'-' if seconds < 0 else ''}{format_seconds(abs(seconds))}"


def _shade(begin: str, end: str) -> str:
    left, right = (float(corner.split(",")[0]) for corner in (begin, end))
    left = max(left, float(_RIGHT))
    return (
        f'<rect x="{left:.1f}" y="{_TOP}" width="{max(1.0, right - left):.1f}" height="{_HEIGHT - _TOP - _BOTTOM}" '
        'fill="var(--mark)" opacity="0.10"/>'
    )


def _mark(name: str, size: float, place: Callable[[float, float], str]) -> str:
    """A named line; where all cannot be read, only the limit's name is."""
    down = place(0.0, size).split(",")[1]
    css = "" if name.startswith("limit") else ' class="minor"'
    return (
        f'<line x1="{_RIGHT}" x2="{_WIDTH - _RIGHT}" y1="{down}" y2="{down}" stroke="var(--mark)" opacity="0.6" '
        f'stroke-dasharray="4 4"/><text{css} x="{_RIGHT + 6}" y="{down}" dy="-5">{escape(name)}</text>'
    )


def _grid_line(size: float, place: Callable[[float, float], str]) -> str:
    down = place(0.0, size).split(",")[1]
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down}" y2="{down}" stroke="var(--line)"/>'
        f'<text x="{_LEFT - 8}" y="{down}" dy="4" text-anchor="end">{format_bytes(size)}</text>'
    )
