"""Whose turn it is to shed: who could give up most goes first, the others wait for a bounded time."""

from __future__ import annotations

from dataclasses import dataclass

from memguard._core.turns import NOT_WAITING, Turn, Waiting, turn

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    slot: int
    yield_bytes: int
    beat_at: float
    state: str = "serving"
    shedding: bool = False


def ask(
    at: float, own_mib: int, *others: tuple[int, int], waiting: Waiting = NOT_WAITING, patience_s: float = 0.5
) -> Turn:
    """A question by slot 9, to others given as (slot, MiB)."""
    peers = [Peer(slot=slot, yield_bytes=mib * MIB, beat_at=at) for slot, mib in others]
    own = Peer(slot=9, yield_bytes=own_mib * MIB, beat_at=at)
    return turn(own, peers, waiting, at=at, patience_s=patience_s, least_bytes=MIB)


def test_who_could_shed_most_goes() -> None:
    """The one with the largest cheap yield goes at once; the others wait for it."""
    assert ask(1.0, 200, (1, 60), (2, 100)).go
    waits = ask(1.0, 60, (1, 200), (2, 100))
    assert not waits.go
    assert waits.waits_for == 1


def test_who_has_nothing_waits_for_those_who_have() -> None:
    """One that could only give up what is dear leaves it to others that have caches."""
    assert not ask(1.0, 0, (1, 5)).go
    assert ask(1.0, 0, (1, 0), (2, 0)).go


def test_of_equals_the_first_to_have_come_goes() -> None:
    """Two that could shed the same do not wait for each other."""
    assert not ask(1.0, 50, (1, 50)).go
    assert ask(1.0, 50, (10, 50)).go


def test_who_leaves_goes_first() -> None:
    """A worker that drains loses its caches anyhow: it sheds before one that could shed more."""
    own = Peer(slot=9, yield_bytes=300 * MIB, beat_at=1.0)
    leaving = Peer(slot=1, yield_bytes=5 * MIB, beat_at=1.0, state="draining")
    assert turn(own, [leaving], NOT_WAITING, at=1.0, patience_s=0.5, least_bytes=MIB).waits_for == 1


def wait(
    own_mib: int,
    *others: tuple[int, int],
    waiting: Waiting = NOT_WAITING,
    at: float = 1.0,
    until: float,
    step_s: float = 0.05,
) -> Turn:
    """Ask again and again until an instant; the first turn that goes, or the last answer."""
    while True:
        answer = ask(at, own_mib, *others, waiting=waiting)
        if answer.go or at >= until:
            return answer
        waiting, at = answer.waiting, at + step_s


def test_one_that_does_not_get_on_is_passed_over() -> None:
    """After half a second without progress the next one goes ahead, and says of whom."""
    waits = wait(60, (1, 200), until=1.4)
    assert not waits.go
    goes = wait(60, (1, 200), waiting=waits.waiting, at=1.46, until=1.6)
    assert goes.go
    assert goes.passed == 1
    assert ask(1.65, 60, (1, 200), waiting=goes.waiting).go, "not waited for again at once"


def test_on_a_machine_that_lets_nobody_run_waiting_is_longer() -> None:
    """Who looks every 0.3 s only gives the other five looks, for it runs as rarely."""
    assert not wait(60, (1, 200), until=2.1, step_s=0.3).go
    assert wait(60, (1, 200), until=3.0, step_s=0.3).go


def test_one_that_gets_on_is_waited_for_longer() -> None:
    """As long as the other's yield falls, waiting goes on, up to 1.5 s."""
    waiting, left = NOT_WAITING, 200
    for look in range(15):
        waits = ask(1.0 + look / 10, 60, (1, left), waiting=waiting)
        assert not waits.go
        waiting, left = waits.waiting, left - 4
    assert ask(2.55, 60, (1, left), waiting=waiting).go


def test_one_that_is_at_it_is_waited_for() -> None:
    """A relief may take longer than half a second: as long as it is under way, that is getting on."""
    own, waiting = Peer(slot=9, yield_bytes=60 * MIB, beat_at=1.0), NOT_WAITING
    for look in range(15):
        at = 1.0 + look / 10
        busy = Peer(slot=1, yield_bytes=200 * MIB, beat_at=at, shedding=True)
        waits = turn(own, [busy], waiting, at=at, patience_s=0.5, least_bytes=MIB)
        assert not waits.go
        waiting = waits.waiting


def test_the_next_in_line_is_waited_for_in_turn() -> None:
    """When the first does not get on, the second goes, and the third waits for the second."""
    waits = wait(10, (1, 200), (2, 100), until=1.45)
    waits = ask(1.55, 10, (1, 200), (2, 100), waiting=waits.waiting)
    assert not waits.go
    assert (waits.waits_for, waits.passed) == (2, 1)


def test_a_new_occasion_is_waited_for_anew() -> None:
    """Time between two occasions does not count as waiting."""
    waits = ask(1.0, 60, (1, 200))
    assert not ask(100.0, 60, (1, 200), waiting=waits.waiting).go


def test_a_clock_that_jumps_back_latches_nothing() -> None:
    """An instant before what is remembered begins anew instead of waiting, or going, for ever."""
    goes = wait(60, (1, 200), at=100.0, until=101.0)
    assert goes.go
    assert not ask(5.0, 60, (1, 200), waiting=goes.waiting).go
