"""Growth is split fairly, and nothing of it is lost or counted twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard._core.sharing import Part, Sharing

_MOVES = st.lists(
    st.tuples(
        st.sampled_from(["begin", "inside", "end", "look"]), st.integers(0, 9), st.integers(0, 3), st.integers(-9, 9)
    ),
    max_size=60,
)


def test_weights() -> None:
    """Of what comes while several run, each gets its weight's part; alone, one gets all."""
    sharing, light, heavy = Sharing(0.0), Part(), Part()
    sharing.pass_time(0.0, 0)
    sharing.begin(light, None, 1.0)
    sharing.begin(heavy, None, 3.0)
    sharing.pass_time(1.0, 40)
    assert sharing.end(heavy) == (30.0, 1.0)
    sharing.pass_time(2.0, 45)
    assert sharing.end(light) == (15.0, 1.0)
    assert (light.own_s, heavy.own_s) == (2.0, 1.0)


def test_inside_an_ended_one() -> None:
    """Who begins inside of one that has ended stands for himself."""
    sharing, outer, inner = Sharing(0.0), Part(), Part()
    sharing.pass_time(0.0, 0)
    sharing.begin(outer, None)
    sharing.end(outer)
    sharing.begin(inner, outer)
    sharing.pass_time(1.0, 10)
    assert sharing.end(inner) == (10.0, 0.0)


@given(_MOVES)
def test_it_adds_up(moves: list[tuple[str, int, int, int]]) -> None:
    """Whatever begins and ends in whatever order: what outermost parts got and what was nobody's is what there was."""
    sharing, running, grown, got, used, at = Sharing(0.0), list[Part](), 0, 0.0, 100, 0.0
    sharing.pass_time(at, used)
    for move, which, seconds, bytes_ in moves:
        used, grown, at = used + bytes_, grown + bytes_, at + seconds
        sharing.pass_time(at, used)
        chosen = running[which % len(running)] if running else None
        if move == "begin" or (move == "inside" and chosen is not None):
            part = Part()
            sharing.begin(part, chosen if move == "inside" else None, 0.02 + which)
            running.append(part)
        elif move == "end" and chosen is not None:
            running.remove(chosen)
            outermost = chosen.outer is None or chosen.outer not in sharing.running
            amount, beside_s = sharing.end(chosen)
            assert 0.0 <= beside_s <= at - chosen.at
            got += amount if outermost else 0.0
    for part, amount, _ in sharing.under_way():
        got += amount if part.outer is None or part.outer not in sharing.running else 0.0
    assert got + sharing.nobodys_bytes == pytest.approx(grown)
    for part in running:
        sharing.end(part)
    assert (sharing._active, sharing._roots, sharing._weight) == (0, 0, 0.0)
