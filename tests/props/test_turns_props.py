"""Whose turn it is to shed: somebody's at every moment, one's at first, and nobody waits for long."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from memguard._core.turns import NOT_WAITING, Turn, turn

MIB = 1 << 20
# What the longest waiting may last: so long, and so many looks.
LONGEST_S, LOOKS = 1.5, 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    slot: int
    yield_bytes: int
    state: str = "serving"
    shedding: bool = False
    beat_at: float = 0.0


peers = st.lists(
    st.builds(
        Peer,
        slot=st.integers(1, 9),
        yield_bytes=st.integers(0, 400).map(lambda count: count * MIB // 2),
        state=st.sampled_from(["serving", "draining", "handing over"]),
        shedding=st.booleans(),
        beat_at=st.floats(0.0, 100.0),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda peer: peer.slot,
)


def ask(own: Peer, others: list[Peer], *, at: float = 50.0) -> Turn:
    """A first question, with time to wait."""
    return turn(own, others, NOT_WAITING, at=at, patience_s=0.5, least_bytes=MIB)


@given(peers)
def test_somebody_goes_at_every_moment(everybody: list[Peer]) -> None:
    """Where all see the same and begin to wait, at least one goes: there is no deadlock."""
    goes = [ask(own, [other for other in everybody if other is not own]).go for own in everybody]
    assert any(goes)


@given(peers)
def test_the_first_to_go_is_alone_where_all_are_heard(everybody: list[Peer]) -> None:
    """Of workers that all beat and all have something to shed, exactly one goes at first."""
    heard = [
        Peer(slot=peer.slot, yield_bytes=peer.yield_bytes + MIB, state=peer.state, beat_at=50.0) for peer in everybody
    ]
    decisions = {own.slot: ask(own, [other for other in heard if other is not own]) for own in heard}
    assert sum(decided.go for decided in decisions.values()) == 1
    first = next(slot for slot, decided in decisions.items() if decided.go)
    assert {decided.waits_for for decided in decisions.values()} <= {first, None}


@given(
    st.lists(st.tuples(st.floats(0.0, 0.9), peers, st.floats(0.01, 10.0)), min_size=1, max_size=40),
    st.integers(0, 400),
)
def test_nobody_waits_for_long(story: list[tuple[float, list[Peer], float]], own_mib: int) -> None:
    """Whatever the others say or do, a worker that asks again and again goes within 1.5 s, or 15 questions."""
    at, waiting, since, looks = 10.0, NOT_WAITING, None, 0
    own = Peer(slot=99, yield_bytes=own_mib * MIB)
    for step_s, others, patience_s in story:
        at += step_s
        beating = [
            Peer(slot=other.slot, yield_bytes=other.yield_bytes, state=other.state, shedding=other.shedding, beat_at=at)
            for other in others
        ]
        decided = turn(own, beating, waiting, at=at, patience_s=patience_s, least_bytes=MIB)
        waiting = decided.waiting
        if decided.go:
            since = None
            continue
        since, looks = (at, 0) if since is None else (since, looks + 1)
        assert at - since < LONGEST_S or looks < LOOKS


@given(peers, st.floats(0.0, 100.0))
def test_there_is_no_waiting_without_time(others: list[Peer], at: float) -> None:
    """Close to the limit everybody sheds."""
    assert turn(Peer(slot=99, yield_bytes=0), others, NOT_WAITING, at=at, patience_s=0.0, least_bytes=MIB).go


@given(peers)
def test_the_silent_are_not_waited_for(others: list[Peer]) -> None:
    """A worker that has not said anything for a second is stopped or hangs: others go ahead."""
    silent = [Peer(slot=peer.slot, yield_bytes=peer.yield_bytes, beat_at=48.9) for peer in others]
    assert ask(Peer(slot=99, yield_bytes=0), silent).go
