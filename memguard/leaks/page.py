"""The report as one page of HTML: the curve and the chains as drawings; nothing is loaded from anywhere, no script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from memguard.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memguard.findings import Chain, LeakReport

__all__ = ["page"]

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
@media (max-width: 40rem) { td.pale, th.pale { display: none; } }
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
_WIDTH, _HEIGHT = 960, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 16, 16, 30
_ROWS: Final = 12
_SUSPECTS: Final = 5


def page(report: LeakReport) -> str:
    """The page, whole in itself."""
    kind = "leak" if report.leaks else "calm"
    parts = [
        f'<header class="{kind}"><h1>{escape(report.summary)}</h1>',
        f'<p class="pale">{escape(_window(report))}</p></header>',
        _section("Resident memory", _curve(report.curve)),
        _section("Who holds it", _suspects(report)),
        _section("Types of which more are alive", _types(report)),
        _section("Lines whose allocations stay", _sites(report)),
        _section(
            "Grows, but has a bound", _list(f"{one.chain.path}: {one.bound}" for one in report.swellings if one.bound)
        ),
        _section("Also", _list(one.words for one in report.named[:_ROWS])),
        _section("Python and native", "" if report.native is None else _list([report.native.words])),
        _section("Not checked", _list(report.unchecked)),
        _section("What it cost", f"<p>{escape(_cost(report))}</p>"),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.summary[:80])}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _section(title: str, inner: str) -> str:
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


def _list(rows: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(row)}</li>" for row in rows)
    return f"<ul>{items}</ul>" if items else ""


def _table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
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
    return _table(heads, ((f"+{one.grown}", str(one.after), one.type) for one in report.types[:_ROWS]))


def _sites(report: LeakReport) -> str:
    heads = (("stays", "number"), ("blocks", "number"), ("p", "number"), ("line", ""), ("called from", "pale"))
    rows = (
        (format_bytes(one.bytes), str(one.blocks), f"{one.p:.2g}", one.where, " < ".join(one.frames[1:]))
        for one in report.trace.sites[:_ROWS]
    )
    return _table(heads, rows)


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


def _curve(points: Sequence[tuple[float, int]]) -> str:
    """Readings over seconds as a drawing; "" of fewer than two."""
    if len(points) < 2 or points[-1][0] <= points[0][0]:  # noqa: PLR2004 - a line has two ends
        return ""
    low, high = min(size for _, size in points), max(size for _, size in points)
    margin = max(1, (high - low) // 8)
    low, high = max(0, low - margin), high + margin
    begin, span = points[0][0], points[-1][0] - points[0][0]

    def place(at: float, size: float) -> str:
        across = _LEFT + (at - begin) / span * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - (size - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{down:.1f}"

    line = " ".join(place(at, size) for at, size in points)
    dots = "".join(
        '<circle cx="{}" cy="{}" r="3.5" fill="var(--curve)"/>'.format(*place(*one).split(",")) for one in points
    )
    grid = "".join(_grid_line(low + (high - low) * share, place) for share in (0.15, 0.5, 0.85))
    last = f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 9}" text-anchor="end">{format_seconds(points[-1][0])}</text>'
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Resident memory over the window" '
        'font-size="12" font-family="system-ui, sans-serif" fill="var(--pale)">'
        f'{grid}<text x="{_LEFT}" y="{_HEIGHT - 9}">{format_seconds(begin)}</text>{last}'
        f'<polyline points="{line}" fill="none" stroke="var(--curve)" stroke-width="2.5" stroke-linejoin="round"/>'
        f"{dots}</svg>"
    )


def _grid_line(size: float, place: Callable[[float, float], str]) -> str:
    down = place(0.0, size).split(",")[1]
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down}" y2="{down}" stroke="var(--line)"/>'
        f'<text x="{_LEFT - 8}" y="{down}" dy="4" text-anchor="end">{format_bytes(size)}</text>'
    )
