"""Verdicts on simulated services: none is suspected that does not leak, and leaks are found.

Two runs of each here; ``benchmarks/trend.py`` plays two hundred, and so does this file where
``MEMGUARD_GROWTH_RUNS=200`` is set.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.sim.growth_loads import CONTROLS, LEAKS, judged, load

RUNS = int(os.environ.get("MEMGUARD_GROWTH_RUNS", "2"))
EVERY_S = 3600.0


@pytest.mark.parametrize("name", CONTROLS)
def test_no_control_is_called_a_leak(name: str) -> None:
    """At no time of any run: at most 1 % of runs where many are played, none of a few."""
    alarms = {}
    for seed in range(RUNS):
        words = [
            verdict.words for _, verdict in judged(load(name, seed), every_s=EVERY_S) if verdict.kind == "leak-like"
        ]
        if words:
            alarms[seed] = words[0]
    assert len(alarms) <= 0.01 * RUNS, alarms


@pytest.mark.parametrize("name", LEAKS)
def test_leaks_are_found(name: str) -> None:
    """Each kind of leak is found before its run ends, and not before it began."""
    for seed in range(max(1, RUNS // 2)):
        run = load(name, seed)
        found = next((at for at, verdict in judged(run, every_s=EVERY_S) if verdict.kind == "leak-like"), None)
        assert found is not None, seed
        assert found > run.leaks_at, seed


def test_loads_are_what_they_say() -> None:
    """Seeds differ and repeat; requests never fall; only leaks end higher than they began, all noise apart."""
    for name in (*CONTROLS, *LEAKS):
        one, again, other = load(name, 1), load(name, 1), load(name, 2)
        assert np.array_equal(one.used, again.used)
        assert not np.array_equal(one.used[:100], other.used[:100])
        assert np.all(np.diff(one.requests) >= 0)
        assert np.all(one.used > 0)
        assert one.limit_bytes is None or one.used.max() < one.limit_bytes
    for name in LEAKS:
        run = load(name, 1)
        part = len(run.at) // 10
        assert np.min((run.used - run.held)[-part:]) > np.min((run.used - run.held)[:part])
