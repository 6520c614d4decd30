"""The census counts by type and touches nobody."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from memguard.leaks import census

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


class Sample:
    """Something to count."""


_NAME = f"{__name__}.Sample"


def test_it_counts_what_is_alive() -> None:
    """As many more are counted as were made, by their qualified name."""
    before = census.take()
    kept = [Sample() for _ in range(321)]
    after = census.take()
    assert after.complete
    assert after.counts[_NAME] == before.counts.get(_NAME, 0) + len(kept)
    assert census.growth(before, after)[0].grown >= len(kept)
    assert next(row for row in census.growth(before, after) if row.type == _NAME).grown == len(kept)


def test_only_some_types() -> None:
    """Asked for some types, it tells of no others; one that nobody has is left out."""
    kept = [Sample()]
    counts = census.take(types=[_NAME, "nobody.Has"]).counts
    assert set(counts) == {_NAME}
    assert len(kept) == 1


def test_builtins_stand_without_their_module() -> None:
    """A list is a list."""
    assert census.take().counts["list"] > 0


def test_a_budget_that_ends_first_is_told() -> None:
    """Without time it counts little, says so, and nothing is concluded from it."""
    cut = census.take(budget_s=0.0)
    assert not cut.complete
    assert "budget" not in cut.counts
    assert "were over" in cut.unseen
    assert census.growth(cut, census.take()) == ()
    assert census.growth(census.take(), cut) == ()


def test_frozen_objects_are_told_of() -> None:
    """What gc.freeze set aside is not counted, and that is said."""
    gc.freeze()
    try:
        taken = census.take()
    finally:
        gc.unfreeze()
    assert taken.complete
    assert "frozen objects" in taken.unseen


def test_the_collector_is_left_as_it_was() -> None:
    """No collection is run and nothing is switched."""
    before = gc.isenabled(), gc.get_threshold(), gc.get_stats()[2]["collections"]
    gc.disable()
    try:
        census.take()
        assert not gc.isenabled()
        assert gc.get_stats()[2]["collections"] == before[2]
    finally:
        gc.enable()
    assert (gc.isenabled(), gc.get_threshold()) == before[:2]


def test_nothing_lives_longer_because_of_it() -> None:
    """After a census no object has one reference more than before."""
    import sys

    sample = Sample()
    before = sys.getrefcount(sample)
    census.take()
    assert sys.getrefcount(sample) == before


def test_slices_let_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two slices it waits, without holding anything."""
    waits: list[float] = []

    class Counting:
        def wait(self, timeout_s: float) -> bool:
            waits.append(timeout_s)
            return False

    monkeypatch.setattr(census, "Bell", Counting)
    kept = [Sample() for _ in range(1_000)]
    slices: Iterator[list[object]] = iter(census.Slices(budget_s=10.0, slice_=100))
    assert sum(len(chunk) for chunk in slices) > len(kept)
    assert len(waits) > 10
