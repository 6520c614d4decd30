"""A line loses nobody, serves nobody twice, and never goes past a higher priority."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memguard._core.queueing import Line, Waiter

steps = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "serve", "leave", "drop"]),
        st.integers(0, 2),
        st.sampled_from("abc"),
        st.floats(0.0, 2.0),
        st.floats(0.0, 3.0),
    ),
    max_size=60,
)


@given(steps)
def test_everybody_comes_out_once(story: list[tuple[str, int, str, float, float]]) -> None:
    """Whoever joins is served, leaves or is turned away: exactly one of them, and the line knows its length."""
    line, inside, at = Line(length=20), [], 0.0
    for what, rank, owner, wait_s, passes_s in story:
        at += passes_s / 10.0
        if what == "join":
            waiter = Waiter(None, rank=rank, owner=owner, since=at, deadline=at + wait_s, ring=lambda: None)
            if line.join(waiter):
                inside.append(waiter)
        elif what == "serve":
            served = line.next(at)
            assert (served is None) is (not inside)
            if served is not None:
                assert served.rank == min(waiter.rank for waiter in inside)
                line.served(served)
                inside.remove(served)
        elif what == "leave" and inside:
            assert line.leave(inside.pop(rank % len(inside)))
        elif what == "drop":
            for waiter in line.hopeless(at):
                inside.remove(waiter)
        assert len(line) == len(inside)
    while (left := line.next(at)) is not None:
        line.served(left)
        inside.remove(left)
    assert inside == []
