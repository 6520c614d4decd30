"""Stimuli of all kinds, sensible and not, for Hypothesis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from memguard._core.stimuli import (
    Asked,
    Due,
    Failed,
    Looked,
    Offer,
    Overdue,
    Refused,
    Relieved,
    Starved,
    Stimulus,
    Surveyed,
)
from memguard.model import Level, Relief
from memguard.rules import Rules
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("answers", "sessions", "liar", "trim", "collect")
LIMIT = 1000 * MIB

used = st.integers(0, 1300).map(lambda mib: mib * MIB)
limits = st.sampled_from([None, 1, 500 * MIB, LIMIT, LIMIT, LIMIT])
names = st.sampled_from(NAMES)
offers = st.builds(
    Offer,
    name=names,
    cost=st.sampled_from(["free", "cheap", "dear", "last"]),
    at=st.sampled_from(Level),
    size_bytes=st.one_of(st.none(), used),
    settles=st.booleans(),
    stalls=st.booleans(),
)
reliefs = st.builds(
    Relief,
    name=names,
    at=st.just(0.0),
    wanted_bytes=used,
    claimed_bytes=st.one_of(st.none(), used),
    before_bytes=used,
    after_bytes=used,
    cost_s=st.floats(0.0, 30.0),
    error=st.sampled_from(["", "", "it broke"]),
)
_makers: tuple[st.SearchStrategy[Callable[[float], Stimulus]], ...] = (
    st.builds(lambda used_bytes, limit, source: lambda at: Looked(at, used_bytes, limit, source), used, limits, names),
    st.just(lambda at: Failed(at=at, error="EIO")),
    st.builds(lambda gap_s: lambda at: Starved(at=at, gap_s=gap_s, running=("x",)), st.floats(0, 1e5)),
    st.builds(lambda count: lambda at: Refused(at=at, count=count), st.integers(1, 9)),
    st.builds(lambda found: lambda at: Surveyed(at=at, offers=tuple(found)), st.lists(offers, max_size=5)),
    st.builds(lambda relief: lambda at: Relieved(at=at, relief=relief), reliefs),
    st.builds(lambda name: lambda at: Overdue(at=at, name=name), names),
    st.builds(lambda target: lambda at: Asked(at=at, target_bytes=target, reason="x"), used),
    st.builds(lambda generation: lambda at: Due(at=at, name="collect", generation=generation), st.integers(0, 2)),
)


def stimuli(*, most: int = 60) -> st.SearchStrategy[list[Stimulus]]:
    """Any stimuli in any order, at instants that mostly rise, stand still or now and then run back."""
    steps = st.lists(st.tuples(st.one_of(*_makers), st.floats(-5.0, 20.0, allow_nan=False)), max_size=most)

    def timed(pairs: list[tuple[Callable[[float], Stimulus], float]]) -> list[Stimulus]:
        at, told = 100.0, []
        for make, step_s in pairs:
            at += step_s
            told.append(make(at))
        return told

    return steps.map(timed)


rules = st.builds(
    Rules,
    mode=st.sampled_from(["act", "act", "observe"]),
    dwell_s=st.floats(0.1, 10.0),
    relax_s=st.sampled_from([0.0, 1.0, 60.0]),
    blind_after_s=st.floats(0.1, 10.0),
    blind_level=st.sampled_from(Level),
    leave_gap_ratio=st.floats(0.01, 0.2),
)
