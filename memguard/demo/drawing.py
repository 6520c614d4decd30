"""The demonstration's two memory curves as an SVG picture, written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memguard.units import MIB

if TYPE_CHECKING:
    from memguard.demo.trial import Trial

__all__ = ["picture"]

_WIDE, _HIGH = 860, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 96, 48, 44
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #444 } .title { font-size: 15px; fill: #111 }
  .axis { stroke: #999; fill: none } .rung { stroke: #c9a227; stroke-dasharray: 3 4 } .limit { stroke: #b00020 }
  .bare { stroke: #b00020; fill: none; stroke-width: 2 } .guarded { stroke: #14764a; fill: none; stroke-width: 2 }
  .died { fill: #b00020; font-size: 13px }
"""


def picture(bare: Trial, guarded: Trial) -> str:
    """An SVG document: both curves, the limit, the rungs, and where the bare service died."""
    limit, end_s = bare.limit_bytes, max(bare.lasted_s, guarded.lasted_s, 1.0)

    def across(at_s: float) -> float:
        return round(_LEFT + (_WIDE - _LEFT - _RIGHT) * at_s / end_s, 1)

    def up(used: float) -> float:
        # A little room above the limit: a supervisor sees usage beyond it.
        return round(_HIGH - _BOTTOM - (_HIGH - _TOP - _BOTTOM) * min(used / limit, 1.05) / 1.05, 1)

    def line(style: str, used: float, label: str) -> list[str]:
        return [
            f'<line class="{style}" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{up(used)}" y2="{up(used)}"/>',
            f'<text x="{_WIDE - _RIGHT + 6}" y="{up(used) + 4}">{label}</text>',
        ]

    def curve(trial: Trial) -> str:
        points = " ".join(f"{across(sample.at_s)},{up(sample.used_bytes)}" for sample in trial.samples)
        return f'<polyline class="{trial.kind}" points="{points}"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" width="{_WIDE}" height="{_HIGH}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDE}" height="{_HIGH}" fill="#fff"/>',
        f'<text class="title" x="{_LEFT}" y="24">One service, one load, {limit // MIB} MiB: bare and guarded</text>',
        *line("limit", limit, "limit"),
    ]
    for name, ratio in guarded.stats.get("rungs", {}).items():
        parts += line("rung", ratio * limit, name.lower())
    for quarter in range(5):
        used, at_s = limit * quarter / 4, end_s * quarter / 4
        parts.append(f'<text x="{_LEFT - 8}" y="{up(used) + 4}" text-anchor="end">{used / MIB:.0f} MiB</text>')
        parts.append(f'<text x="{across(at_s)}" y="{_HIGH - _BOTTOM + 18}" text-anchor="middle">{at_s:.0f} s</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{_HIGH - _BOTTOM}H{_WIDE - _RIGHT}"/>')
    parts += [curve(bare), curve(guarded)]
    if bare.died_at_s is not None and bare.samples:
        at, height = across(bare.died_at_s), up(limit)
        parts.append(f'<text class="died" x="{at}" y="{height - 6}" text-anchor="middle">killed</text>')
        parts.append(f'<path class="bare" d="M{at - 5} {height - 5}l10 10m0 -10l-10 10"/>')
    parts.append(
        f'<text x="{_LEFT}" y="{_HIGH - 8}">red: bare, green: guarded; memory without droppable page cache</text>'
    )
    return "\n".join([*parts, "</svg>", ""])
