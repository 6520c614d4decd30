"""The past as operators ask for it: rows without invented gaps, and a slope with its confidence."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from tests.control.asking import API, ask, fake_guard, protected


def _get(app: Any, path: str) -> Any:
    answer = asyncio.run(ask(app, "GET", f"{API}/monitoring/{path}"))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_growth_is_found() -> None:
    """A service that grows by 120 MiB an hour: the slope, its interval, how sure, and rows in order."""
    guard, memory, clock = fake_guard()
    app = protected(guard=guard)
    guard.remember()
    for _ in range(360):
        memory.grow((120 << 20) / 360)
        clock.advance(10.0)
        guard.tick()
    found = _get(app, "metrics/memory/trend?duration=1h")
    assert found["growth_mb_per_h"] == pytest.approx(120, rel=0.03)
    assert found["growth_low_mb_per_h"] <= found["growth_mb_per_h"] <= found["growth_high_mb_per_h"]
    assert found["growth_confidence"] > 0.99
    assert "MiB/h" in found["words"]
    rows = _get(app, "metrics/memory?duration=1h&interval=5m")["metrics"]
    assert 12 <= len(rows) <= 13
    assert [row["timestamp"] for row in rows] == sorted(row["timestamp"] for row in rows)
    steps = [after["value"] - before["value"] for before, after in pairwise(rows[1:])]
    assert all(step == pytest.approx(10, abs=5) for step in steps)
    assert all(row["min_mb"] <= row["memory_mb"] <= row["max_mb"] for row in rows)


def test_a_gap_stays_a_gap() -> None:
    """For a time in which nothing was read there is no row."""
    guard, _, clock = fake_guard()
    app = protected(guard=guard)
    guard.remember()
    for seconds in (1.0, 1.0, 600.0, 1.0):
        clock.advance(seconds)
        guard.tick()
    rows = _get(app, "metrics/memory?duration=1h&interval=1m")["metrics"]
    assert 2 <= len(rows) <= 4


def test_without_a_past_nothing_is_made_up() -> None:
    """A guard that has read nothing has no rows and no slope."""
    guard, _, _ = fake_guard()
    app = protected(guard=guard)
    assert _get(app, "metrics/memory?duration=24h")["metrics"] == []
    found = _get(app, "metrics/memory/trend")
    assert found["verdict"] == "unknown"
    assert found["growth_mb_per_h"] is None
