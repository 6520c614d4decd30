"""What the demonstration shows: two lines of progress, a table side by side, and the curves in the terminal."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from memguard.units import MIB, format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memguard.demo.trial import Course, Kind, Trial

__all__ = ["Progress", "curves", "reliefs", "table"]

_BAR = 24
_COLUMNS = 72
_ROWS = 16
# Not on a terminal: a line now and then instead of one that changes.
_PLAIN_S = 5.0
_DRAW_S = 0.1


class Progress:
    """Two lines that tell how both trials go: redrawn in place on a terminal, else a plain line every 5 s."""

    def __init__(self, *, limit_bytes: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty() and os.environ.get("TERM", "") != "dumb"
        self._limit_bytes = limit_bytes
        self._lines: dict[Kind, str] = {"bare": "bare     …", "guarded": "guarded  waits for its turn"}
        self._drawn = False
        self._next_at = 0.0

    def __call__(self, course: Course) -> None:
        """Show how a trial goes; cheap enough to be called at every look."""
        now, dead = time.monotonic(), course.died_at_s is not None
        if now < self._next_at and not dead:
            return
        self._next_at = now + (_DRAW_S if self._live else _PLAIN_S)
        self._put(course.kind, self._course(course))

    def ended(self, trial: Trial) -> None:
        """Show how a trial ended."""
        self._put(trial.kind, f"{trial.kind:<8} {_fate(trial)}")

    def _put(self, kind: Kind, line: str) -> None:
        self._lines[kind] = line
        if not self._live:
            print(line, file=self._stream, flush=True)
            return
        up = "\x1b[2A" if self._drawn else ""
        text = "".join(f"\r\x1b[K{line}\n" for line in self._lines.values())
        print(up + text, end="", file=self._stream, flush=True)
        self._drawn = True

    def _course(self, course: Course) -> str:
        used = course.samples[-1].used_bytes if course.samples else 0
        filled = min(_BAR, _BAR * used // self._limit_bytes)
        counts = course.counts
        level = f" {course.stats['level']}" if "level" in course.stats else ""
        return (
            f"{course.kind:<8} {course.at_s:5.1f} s ▕{'█' * filled}{'░' * (_BAR - filled)}▏ "
            f"{used // MIB} of {self._limit_bytes // MIB} MiB{level}, "
            f"served {counts.get('served', 0)}, refused {counts.get('refused', 0)}"
        )


def _fate(trial: Trial) -> str:
    if trial.died_at_s is None:
        return f"alive after {trial.lasted_s:.1f} s"
    if trial.killed:
        by = "the kernel" if trial.by_kernel else "the supervisor"
        return f"killed by {by} at second {trial.died_at_s:.1f}, after {_answered(trial)} requests"
    return f"ended by itself at second {trial.died_at_s:.1f} (status {trial.status})"


def _answered(trial: Trial) -> int:
    return sum(trial.counts.get(ended, 0) for ended in ("served", "refused", "failed"))


def _milliseconds(latency_s: float | None) -> str:
    return "-" if latency_s is None else f"{latency_s * 1e3:.0f} ms"


def table(bare: Trial, guarded: Trial) -> str:
    """Both trials side by side."""
    rows = [("", "bare", "guarded")]
    both_until_s = min(bare.lasted_s, guarded.lasted_s)
    cells = [_column(bare, both_until_s), _column(guarded, both_until_s)]
    rows += [(name, cells[0][name], cells[1][name]) for name in cells[0]]
    width = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(cell.ljust(width[column]) for column, cell in enumerate(row)).rstrip() for row in rows]
    lines.insert(1, "  ".join("─" * size for size in width))
    return "\n".join(lines)


def _latencies(trial: Trial, due_before_s: float) -> str:
    shares = (trial.latency_s(share, due_before_s=due_before_s) for share in (0.5, 0.99))
    return " / ".join(_milliseconds(latency_s) for latency_s in shares)


def _column(trial: Trial, both_until_s: float) -> dict[str, str]:
    """One trial's cells; latencies are compared over the time in which both were alive."""
    answered = _answered(trial)
    return {
        "outcome": _fate(trial),
        "kills at the limit": str(trial.killed),
        "peak memory": f"{format_bytes(trial.peak_bytes)} ({trial.peak_bytes / trial.limit_bytes:.0%} of the limit)",
        "served": f"{trial.counts.get('served', 0)} of {trial.planned}",
        "refused (503)": str(trial.counts.get("refused", 0)),
        "failed (other)": str(trial.counts.get("failed", 0)),
        "never answered": str(trial.planned - answered),
        f"p50 / p99 until {both_until_s:.0f} s": _latencies(trial, both_until_s),
        "p50 / p99 overall": _latencies(trial, float("inf")),
        "level at the end": trial.stats.get("level", "-"),
        "a request then": str(trial.status_at_end) if trial.status_at_end else "no answer",
    }


def reliefs(guarded: Trial) -> str:
    """What each holder was asked, and what that really bought."""
    spent: dict[str, list[float]] = {}
    for incident in guarded.stats.get("incidents", ()):
        for name, _, _, cost_s, _ in incident["reliefs"]:
            spent.setdefault(name, []).append(cost_s)
    lines = ["reliefs, measured before and after:"]
    for holder in guarded.stats.get("holders", ()):
        if holder["attempts"]:
            costs = sorted(spent.get(holder["name"], ()))
            typical = f", {format_seconds(costs[len(costs) // 2])} each" if costs else ""
            bought = format_bytes(holder["bought_bytes"])
            lines.append(f"  {holder['name']:<12} {holder['attempts']:>4} attempts bought {bought}{typical}")
    if len(lines) == 1:
        lines.append("  none were needed")
    if any(line.split()[0] in {"trim", "collect"} for line in lines[1:]):
        lines.append("  (what trim and collect return counts there, and for the holder that had released it)")
    refused, incidents = guarded.stats.get("refusals", 0), len(guarded.stats.get("incidents", ()))
    lines.append(f"  {incidents} incident(s), {refused} refusal(s); agents retired: {guarded.stats.get('retired', 0)}")
    return "\n".join(lines)


def curves(bare: Trial, guarded: Trial) -> str:
    """Both memory curves over time, with the limit and the rungs of the ladder."""
    limit, end_s = bare.limit_bytes, max(bare.lasted_s, guarded.lasted_s, 1.0)
    grid = [[" "] * _COLUMNS for _ in range(_ROWS + 1)]
    marks = {_row(ratio * limit, limit): name for name, ratio in guarded.stats.get("rungs", {}).items()}
    for row in marks:
        grid[row] = list("┈" * _COLUMNS)
    grid[0] = list("━" * _COLUMNS)
    for trial, mark in ((guarded, "●"), (bare, "○")):
        for column, used in _columns(trial, end_s):
            grid[_row(used, limit)][column] = mark
    if bare.died_at_s is not None:
        grid[0][_place(bare.died_at_s, end_s)] = "✖"
    lines = []
    for number, dots in enumerate(grid):
        label = f"{limit // MIB} MiB" if number == 0 else f"{limit * (_ROWS - number) // _ROWS // MIB}"
        note = "limit" if number == 0 else marks.get(number, "")
        lines.append(f"{label:>8} │{''.join(dots)}│ {note}".rstrip())
    lines.append(f"{'':>8} └{'─' * _COLUMNS}┘")
    lines.append(f"{'':>9}0 s{f'{end_s:.0f} s':>{_COLUMNS - 2}}")
    lines.append(f"{'':>9}○ bare   ● guarded   ✖ killed")
    return "\n".join(lines)


def _row(used: float, limit: int) -> int:
    return max(0, min(_ROWS, _ROWS - round(_ROWS * used / limit)))


def _place(at_s: float, end_s: float) -> int:
    return min(_COLUMNS - 1, int(_COLUMNS * at_s / end_s))


def _columns(trial: Trial, end_s: float) -> Iterable[tuple[int, int]]:
    """The highest usage in each column that was sampled."""
    highest: dict[int, int] = {}
    for sample in trial.samples:
        column = _place(sample.at_s, end_s)
        highest[column] = max(highest.get(column, 0), sample.used_bytes)
    return highest.items()
