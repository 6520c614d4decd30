"""Priorities, shares and promises that lapse: who is refused first, and who can't be starved."""

from __future__ import annotations

from typing import Any

import pytest

from memguard import AdmissionRefused, Guard, Roster
from memguard.admission import Ticket
from memguard.testing import FakeClock, FakeMemory
from memguard.units import MIB


class Scene:
    """A guard over fake memory with a limit of 1000 MiB; what is used is said by each test."""

    def __init__(self, used_mib: int, **settings: Any) -> None:
        self.clock = FakeClock()
        self.memory = FakeMemory(self.clock, base_bytes=used_mib * MIB)
        self.guard = Guard(limit="1000MiB", probe=self.memory, clock=self.clock, roster=Roster(), **settings)
        self.look()

    def look(self, seconds: float = 0.05) -> None:
        self.clock.advance(seconds)
        self.guard.tick()

    def admits(self, wanted: str | None, priority: Any) -> bool:
        try:
            self.guard.admit(wanted, priority=priority).close()
        except AdmissionRefused:
            return False
        return True


@pytest.mark.parametrize(
    ("used_mib", "sheddable", "normal", "critical"),
    [(500, True, True, True), (820, False, True, True), (910, False, False, True), (960, False, False, True)],
)
def test_by_level(used_mib: int, sheddable: bool, normal: bool, critical: bool) -> None:
    """Sheddable work goes at WARNING, normal work at CRITICAL, critical work of unknown size never."""
    scene = Scene(used_mib)
    assert scene.admits(None, "sheddable") is sheddable
    assert scene.admits(None, "normal") is normal
    assert scene.admits(None, "critical") is critical


def test_by_bytes() -> None:
    """Each priority's bytes have to stay under its own rung: 800, 900 and 950 of 1000 MiB."""
    scene = Scene(500)
    for priority, room in (("sheddable", 300), ("normal", 400), ("critical", 450)):
        assert scene.admits(f"{room}MiB", priority)
        assert not scene.admits(f"{room + 1}MiB", priority)


def test_critical_work_that_cannot_fit_is_refused() -> None:
    """Priority makes no memory."""
    scene = Scene(940)
    assert scene.admits("10MiB", "critical")
    assert not scene.admits("11MiB", "critical")


def test_no_such_priority() -> None:
    """A word that is none is the caller's mistake, and says which there are."""
    with pytest.raises(ValueError, match="priority='urgent' is none: choose one of critical, normal, sheddable"):
        Scene(100).guard.admit(priority="urgent")  # type: ignore[arg-type]


def test_observing_refuses_no_priority() -> None:
    """In mode 'observe' even sheddable work is admitted."""
    assert Scene(990, mode="observe").admits(None, "sheddable")


def test_a_heavy_route_leaves_room_for_a_light_one() -> None:
    """It may take more than its half, but the last eighth of the room stays free for who has less."""
    scene = Scene(100)
    scene.guard.gate.learn()
    heavy, light = [], []
    light.append(scene.guard.admit("1MiB", label="GET /light"))
    while True:
        try:
            heavy.append(scene.guard.admit("20MiB", label="POST /heavy"))
        except AdmissionRefused:
            break
    assert 600 <= 20 * len(heavy) <= 700
    with pytest.raises(AdmissionRefused, match="the rest is kept for other routes"):
        scene.guard.admit("20MiB", label="POST /heavy")
    light += [scene.guard.admit("1MiB", label="GET /light") for _ in range(80)]
    for ticket in (*heavy, *light):
        ticket.close()


def test_alone_a_heavy_route_takes_all() -> None:
    """With nobody else there, nothing is kept free but the error of the estimate."""
    scene = Scene(100)
    scene.guard.gate.learn()
    for _ in range(39):
        scene.guard.admit("20MiB", label="POST /heavy")
    with pytest.raises(AdmissionRefused):
        scene.guard.admit("20MiB", label="POST /heavy")


def test_a_promise_that_is_never_seen_lapses() -> None:
    """A body that is announced and never sent holds its promise for 30 s, not for ever."""
    scene = Scene(100)
    ticket = scene.guard.admit("600MiB")
    scene.look(29.0)
    assert scene.guard.snapshot.promised_bytes == 600 * MIB
    scene.look(2.0)
    scene.look()
    assert scene.guard.snapshot.promised_bytes == 0
    scene.guard.admit("600MiB").close()
    ticket.close()
    assert scene.guard.gate.promised_bytes == 0


def test_more_can_be_charged_while_it_fits() -> None:
    """A ticket grows with its work; what does not fit is refused and leaves the promise as it was."""
    scene = Scene(100)
    ticket = scene.guard.admit("100MiB")
    gate = scene.guard.gate
    assert gate.charge(ticket, 700 * MIB)
    assert not gate.charge(ticket, 1 * MIB)
    assert gate.promised_bytes == 800 * MIB
    ticket.close()
    assert gate.promised_bytes == 0
    gate.charge(ticket, 5 * MIB)  # it has ended meanwhile
    assert gate.promised_bytes == 0


def test_a_ticket_closed_inside_the_gates_own_lock_is_settled_at_the_next_look() -> None:
    """A collection may close a dropped request's ticket on the thread that holds the lock: nothing hangs or leaks."""
    scene = Scene(100)
    ticket = scene.guard.admit("100MiB")
    with scene.guard.gate._lock:
        ticket.close()
    assert scene.guard.gate.promised_bytes == 100 * MIB
    scene.look()
    assert scene.guard.gate.promised_bytes == 0


def test_room_that_a_burst_could_use_up_narrows_the_gate() -> None:
    """With a dear route about and little room left, requests of unknown size are asked for their bytes at OK too."""
    scene = Scene(650)
    lessons = scene.guard.gate.learn()
    assert not scene.guard.gate.narrow
    flat = lessons.costs.route("GET /dear", 1.0).flat
    for _ in range(10):
        flat.requests += 1
        flat.moved(10.0 * MIB, 1.0, sure=True)
    lessons.costs.route("GET /dear", scene.guard.snapshot.at)
    for _ in range(30):
        scene.look()
    assert scene.guard.gate.narrow
    admitted = 0
    while scene.guard.gate.enter(Ticket(scene.guard.gate, None, "request", "GET /dear")):
        admitted += 1
    assert admitted == 24  # 10 MiB each, up to 89 %
