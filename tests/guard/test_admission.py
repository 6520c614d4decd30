"""Admission: refused by level and by bytes, promises, waiting, outcomes."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from memguard.errors import AdmissionRefused
from memguard.guard import Guard
from memguard.roster import Roster
from memguard.testing import FakeClock, FakeMemory
from memguard.units import MIB
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


class Scene:
    """A guard over fake memory, looked at by hand: 100 of 500 MiB are used, so 350 fit under CRITICAL."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.memory = FakeMemory(self.clock, base_bytes="100MiB")
        self.guard = Guard(limit="500MiB", probe=self.memory, clock=self.clock, roster=Roster(), **settings)
        self.look()

    def look(self) -> None:
        self.clock.advance(0.25)
        self.guard.tick()


@pytest.fixture
def scene() -> Scene:
    """100 of 500 MiB used."""
    return Scene()


@pytest.fixture
def running() -> Iterator[tuple[Guard, FakeMemory]]:
    """A guard that runs, at CRITICAL."""
    memory = FakeMemory(FakeClock(), base_bytes="470MiB")
    with Guard(limit="500MiB", probe=memory, roster=Roster(), pace_max_s=0.01, dwell_s=0.05) as guard:
        wait_for(lambda: guard.level >= 3)
        yield guard, memory


def test_by_bytes(scene: Scene) -> None:
    """What fits under the CRITICAL rung is admitted, one MiB more is not, and the text has the numbers."""
    scene.guard.admit("350MiB").close()
    with pytest.raises(AdmissionRefused) as refused:
        scene.guard.admit("351MiB")
    assert "admission of 351.0 MiB refused: 100.0 MiB of 500.0 MiB used (ok), 0 B already promised" in str(
        refused.value
    )
    assert refused.value.retry_after_s == scene.guard.rules.dwell_s
    assert refused.value.wanted_bytes == 351 * MIB
    assert refused.value.problem()["status"] == 503


def test_the_gate_follows_the_pressure(scene: Scene) -> None:
    """Shut above CRITICAL and inside the gap below it; open again under 85 %, though the level is still held."""
    scene.memory.grow(360 * MIB)
    scene.look()
    with pytest.raises(AdmissionRefused):
        scene.guard.admit()
    scene.memory.grow(-30 * MIB)
    scene.look()
    with pytest.raises(AdmissionRefused):
        scene.guard.admit()
    scene.memory.grow(-10 * MIB)
    scene.look()
    assert scene.guard.level.name == "CRITICAL"
    scene.guard.admit().close()


def test_a_blind_guard_that_should_refuse_refuses() -> None:
    """The last reading says nothing while the guard is blind."""
    scene = Scene(blind_level="CRITICAL")
    scene.memory.broken = OSError("gone")
    for _ in range(12):
        scene.look()
    assert scene.guard.snapshot.blind
    with pytest.raises(AdmissionRefused):
        scene.guard.admit()


def test_promises_count_until_closed(scene: Scene) -> None:
    """Two that fit alone do not fit together; closing the first makes room."""
    first = scene.guard.admit("200MiB")
    with pytest.raises(AdmissionRefused, match=r"200\.0 MiB already promised"):
        scene.guard.admit("200MiB")
    scene.look()
    assert (scene.guard.snapshot.promised_bytes, scene.guard.snapshot.running) == (200 * MIB, 1)
    first.close()
    scene.guard.admit("200MiB").close()
    scene.look()
    assert (scene.guard.snapshot.promised_bytes, scene.guard.snapshot.running) == (0, 0)


def test_promised_bytes_are_counted_once(scene: Scene) -> None:
    """Memory that an admitted request has taken counts in the reading, and no more in the promise."""
    ticket = scene.guard.admit("200MiB")
    scene.memory.grow(150 * MIB)
    scene.look()
    assert scene.guard.snapshot.promised_bytes == 50 * MIB
    scene.guard.admit("150MiB").close()
    with pytest.raises(AdmissionRefused):
        scene.guard.admit("151MiB")
    ticket.close()


def test_at_critical_nothing_is_admitted() -> None:
    """Neither known nor unknown amounts, nor 0."""
    scene = Scene()
    scene.memory.grow(360 * MIB)
    scene.look()
    for wanted in ("1MiB", None, 0):
        with pytest.raises(AdmissionRefused, match="critical") as refused:
            scene.guard.admit(wanted)
        assert refused.value.level == "CRITICAL"
    scene.look()
    assert scene.guard.snapshot.refusals == 3
    assert scene.guard.snapshot.incident is not None
    assert scene.guard.snapshot.incident.refusals == 3


def test_what_can_never_fit_says_so(scene: Scene) -> None:
    """Retrying would be in vain: split the work."""
    with pytest.raises(AdmissionRefused, match=r"can never fit under the limit of 500\.0 MiB; split the work"):
        scene.guard.admit("451MiB")


def test_observing_refuses_nobody() -> None:
    """In mode 'observe' everything is admitted."""
    scene = Scene(mode="observe")
    scene.memory.grow(390 * MIB)
    scene.look()
    scene.guard.admit("400MiB").close()
    scene.guard.admit().close()


def test_before_the_first_look_and_without_a_limit() -> None:
    """Nothing is known, so nothing is refused."""
    Guard(limit="2GiB", roster=Roster()).admit("1GiB").close()
    guard = Guard(limit=None, roster=Roster())
    guard.tick()
    guard.admit("1GiB").close()
    guard.stop()


@pytest.mark.parametrize("wanted", ["much", "512 MB", "10%", "1G", -1])
def test_amounts_that_cannot_be_meant(scene: Scene, wanted: Any) -> None:
    """They are the caller's mistake, not a refusal."""
    with pytest.raises(ValueError, match=r"write|negative|0 or more"):
        scene.guard.admit(wanted)
    assert scene.guard.snapshot.running == 0


def test_outcomes(scene: Scene) -> None:
    """Done, failed after an exception, abandoned after a cancellation; only the first close counts."""
    with scene.guard.admit("1MiB") as ticket:
        assert ticket.outcome is None
    assert ticket.outcome == "done"
    ticket.close("failed")
    assert ticket.outcome == "done"
    with pytest.raises(KeyError), scene.guard.admit("1MiB") as failed:
        raise KeyError
    assert failed.outcome == "failed"
    with pytest.raises(asyncio.CancelledError), scene.guard.admit("1MiB") as cancelled:
        raise asyncio.CancelledError
    assert cancelled.outcome == "abandoned"
    with scene.guard.admit("1MiB", label="POST /x") as own:
        own.close("abandoned")
    assert repr(own) == "<Ticket POST /x abandoned>"
    assert scene.guard.snapshot.promised_bytes == 0


def test_refusals_are_counted_across_threads(scene: Scene) -> None:
    """None is lost, and the count never falls."""
    seen: list[int] = []

    def refuse() -> None:
        for _ in range(200):
            with pytest.raises(AdmissionRefused):
                scene.guard.admit("400MiB")
            seen.append(scene.guard.gate.refusals)

    threads = [threading.Thread(target=refuse) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scene.look()
    assert scene.guard.snapshot.refusals == 800


def test_waiting_for_room(running: tuple[Guard, FakeMemory]) -> None:
    """A thread waits until pressure falls, and is then admitted; another whose time is over is refused."""
    guard, memory = running
    admitted = threading.Event()

    def work() -> None:
        with guard.admit("1MiB", wait_s=20.0):
            admitted.set()

    thread = threading.Thread(target=work)
    thread.start()
    began = time.monotonic()
    with pytest.raises(AdmissionRefused):
        guard.admit("1MiB", wait_s=0.05)
    assert time.monotonic() - began >= 0.05
    assert not admitted.is_set()
    memory.base_bytes = 100 * MIB
    wait_for(admitted.is_set)
    thread.join()


def test_waiting_on_an_event_loop(running: tuple[Guard, FakeMemory]) -> None:
    """`async with` waits without blocking the loop; a cancelled wait gives nothing away."""
    guard, memory = running

    async def main() -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        busy = asyncio.create_task(others())

        async def work() -> str:
            async with guard.admit("1MiB", wait_s=20.0):
                return "in"

        cancelled = asyncio.create_task(work())
        waiting = asyncio.create_task(work())
        with pytest.raises(AdmissionRefused):
            async with guard.admit("1MiB", wait_s=0.05):
                pass
        assert turns > 5
        cancelled.cancel()
        memory.base_bytes = 100 * MIB
        assert await asyncio.wait_for(waiting, 20.0) == "in"
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        busy.cancel()

    asyncio.run(main())
    wait_for(lambda: guard.snapshot.running == 0 and guard.snapshot.promised_bytes == 0)


def test_a_cancellation_that_meets_the_ring_is_not_lost(running: tuple[Guard, FakeMemory]) -> None:
    """Woken and cancelled in the same turn of the loop, a waiter is cancelled."""
    guard, _ = running

    async def main() -> None:
        async def work() -> None:
            async with guard.admit("1MiB", wait_s=20.0):
                pass

        for turns in range(6):
            task = asyncio.create_task(work())
            for _ in range(3):
                await asyncio.sleep(0)
            guard.gate.wake()
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=5.0)
            assert done
            assert task.cancelled()

    asyncio.run(main())


def test_on_an_event_loop_a_plain_with_cannot_wait(running: tuple[Guard, FakeMemory]) -> None:
    """It is refused at once instead of blocking the loop."""
    guard, _ = running

    async def main() -> None:
        with pytest.raises(AdmissionRefused), guard.admit("1MiB", wait_s=20.0):
            pass

    asyncio.run(main())


def test_waiting_for_ever_is_allowed(running: tuple[Guard, FakeMemory]) -> None:
    """wait_s=inf waits as long as it takes."""
    guard, memory = running
    admitted = threading.Event()

    def work() -> None:
        with guard.admit("1MiB", wait_s=float("inf")):
            admitted.set()

    thread = threading.Thread(target=work)
    thread.start()
    memory.base_bytes = 100 * MIB
    wait_for(admitted.is_set)
    thread.join()


def test_a_refusal_can_be_sent_to_another_process(scene: Scene) -> None:
    """It survives pickling with its numbers."""
    with pytest.raises(AdmissionRefused) as refused:
        scene.guard.admit("400MiB")
    again = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - our own bytes
    assert (str(again), again.retry_after_s, again.wanted_bytes) == (str(refused.value), 2.0, 400 * MIB)
