"""Several guards under one limit: one sheds at a time, promises add up, whoever hangs holds up nobody for long."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from memguard.errors import AdmissionRefused, RulesError
from memguard.ext.fastapi import protect
from memguard.guard import Guard
from memguard.model import Event, Level, Limit
from memguard.roster import Roster
from memguard.rules import Rules
from memguard.sinks.prometheus import PrometheusSink
from memguard.testing import FakeClock, FakeMemory
from memguard.testing.memory import FakeCollect, FakeTrim
from memguard.units import MIB
from memguard.workers import lease as leases
from memguard.workers import ledger as ledgers
from memguard.workers.folder import WorkersUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memguard.admission import Ticket

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks beside other tests' threads
SHARED = Limit(bytes=500 * MIB, kind="kill", source="the group's limit", usage="cgroup")
APART = Limit(bytes=500 * MIB, kind="policy", source="my own limit", usage="tree")


class _FakeGuard(Guard):
    """A guard whose own reclaimers work on the fake memory."""

    def __init__(self, memory: FakeMemory, /, **settings: Any) -> None:
        self.memory = memory
        super().__init__(**settings)

    def _settlers(self) -> tuple[FakeTrim, FakeCollect]:
        return FakeTrim(self.memory), FakeCollect(self.memory)


class Group:
    """Guards in one process, each as if it were a worker, over one memory that all read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.memory = FakeMemory(self.clock, base_bytes="100MiB")
        self.guards: list[Guard] = []
        self.held: dict[Guard, int] = {}
        self.events: list[Event] = []
        self.kept: list[object] = []

    def join(self, held_mib: int = 0, *, limit: Limit = SHARED, **settings: Any) -> Guard:
        guard = _FakeGuard(
            self.memory,
            limit=limit,
            probe=self.memory,
            clock=self.clock,
            roster=Roster(),
            **{"workers": "app", "sinks": [self.events.append], **settings},
        )
        self.guards.append(guard)
        self.held[guard] = 0
        self.fill(guard, held_mib)

        def shed(wanted_bytes: int) -> int:
            gone = min(wanted_bytes, self.held[guard])
            self.fill(guard, -gone / MIB)
            return gone

        guard.reclaimer("cache", shed, size=lambda: self.held[guard])
        self.kept.append(shed)  # a reclaimer's function is held weakly
        return guard

    def fill(self, guard: Guard, mib: float) -> None:
        self.held[guard] += int(mib * MIB)
        self.memory.grow(mib * MIB)

    def look(self, *guards: Guard, seconds: float = 0.25) -> None:
        self.clock.advance(seconds)
        for guard in guards or self.guards:
            guard.tick()

    def held_mib(self) -> list[int]:
        return [self.held[guard] // MIB for guard in self.guards]

    def told(self, name: str) -> list[str]:
        return [event.text for event in self.events if event.name == name]


@pytest.fixture(name="group")
def _group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    for module in (ledgers, leases):
        monkeypatch.setattr(module, "private_folder", lambda: str(tmp_path))
    group = Group(tmp_path)
    yield group
    for guard in group.guards:
        guard.stop()
    assert list(tmp_path.iterdir()) == []


def test_workers_show_each_other(group: Group) -> None:
    """Each lists itself first and then the others, with what they could shed."""
    one, two = group.join(50), group.join(30)
    group.look()
    group.look(seconds=1.1)
    group.look()
    mine, other = one.workers
    assert (mine.own, other.own) == (True, False)
    assert mine.pid == other.pid == os.getpid()
    assert (mine.yield_bytes, other.yield_bytes) == (50 * MIB, 30 * MIB)
    assert [row.slot for row in two.workers] == [other.slot, mine.slot]
    two.stop()
    group.look(one, seconds=1.1)
    assert len(one.workers) == 1


def test_every_worker_is_explained(group: Group) -> None:
    """explain() has a line for each, its own first; a guard that is alone says nothing of workers."""
    one = group.join(50)
    group.join(30)
    group.look()
    group.look(seconds=1.1)
    group.look()
    rows = one.explain().partition("workers:\n")[2].splitlines()[:2]
    assert rows[0] == f"{os.getpid()} (this one): OK, serving, {rows[0].split(', ')[2]}, 50.0 MiB to shed, 0 B promised"
    assert "30.0 MiB to shed" in rows[1]
    assert "workers:" not in Guard(limit="1GiB", roster=Roster(), workers="off").explain()


def test_every_worker_is_in_the_api(group: Group) -> None:
    """Whichever worker answers, operators see all of them."""
    one = group.join(50)
    group.join(30)
    app = protect(FastAPI(), one)
    group.look()
    group.look(seconds=1.1)
    group.look()
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 40000))
    rows = client.get("/api/v1/monitoring/memory").json()["workers"]
    assert [(row["own"], row["yield_mb"], row["state"]) for row in rows] == [
        (True, 50, "serving"),
        (False, 30, "serving"),
    ]


def test_every_worker_is_in_the_metrics(group: Group) -> None:
    """Whichever worker is scraped tells of all, by slot: what each holds, could shed and has promised."""
    sink = PrometheusSink()
    group.join(50)
    other = group.join(30, sinks=[sink])
    group.look()
    group.look(seconds=1.1)
    ticket = other.admit("20MiB")
    lines = [line for line in sink.text().splitlines() if line.startswith("memguard_worker_memory")]
    assert f'memguard_worker_memory_sheddable_bytes{{worker_slot="1"}} {50 * MIB}' in lines
    assert f'memguard_worker_memory_promised_bytes{{worker_slot="2"}} {20 * MIB}' in lines
    assert len(lines) == 6
    ticket.close()


def test_only_the_greedy_one_sheds(group: Group) -> None:
    """All see the same pressure; the one that could shed most does, and the innocent lose nothing."""
    for _ in range(3):
        group.join(50)
    greedy = group.join(50)
    group.look()
    group.look(seconds=1.1)
    for _ in range(60):
        group.fill(greedy, 10)
        group.look(seconds=0.1)
    assert group.held_mib()[:3] == [50, 50, 50]
    assert 100 <= group.held_mib()[3] <= 180
    assert group.memory.used_bytes <= 0.9 * SHARED.bytes
    assert group.told("workers.waited")
    assert not group.told("workers.passed")


def test_without_a_shared_limit_each_is_for_itself(group: Group) -> None:
    """Where each has a limit of its own, nobody waits, and nobody's promises count elsewhere."""
    one, two = group.join(200, limit=APART), group.join(150, limit=APART)
    group.look()
    group.look(seconds=1.1)
    assert len(one.workers) == 2
    two.admit("30MiB")
    one.admit("1MiB")
    assert one.gate.peers is None
    assert not group.told("workers.waited")


def test_one_that_hangs_is_passed_over(group: Group) -> None:
    """The largest does not look any more: the next one sheds within two seconds, and says so."""
    small, large = group.join(50), group.join(200)
    group.look()
    group.look(seconds=1.1)
    group.fill(large, 70)
    began = group.clock()
    for _ in range(100):
        group.look(small, seconds=0.05)
        if group.held_mib()[0] < 50:
            break
    assert 0.3 < group.clock() - began <= 2.0
    assert group.told("workers.passed") or group.told("workers.waited")


def test_one_that_beats_and_sheds_nothing_is_passed_over(group: Group) -> None:
    """A worker that could shed and does not (its rungs are others) is not waited for again and again."""
    small, large = group.join(50), group.join(200, warning_ratio=0.985, critical_ratio=0.99, emergency_ratio=0.995)
    group.look()
    group.look(seconds=1.1)
    group.fill(large, 70)
    for _ in range(40):
        group.look(seconds=0.05)
    assert group.held_mib()[1] == 270
    assert group.held_mib()[0] < 50
    assert "worker" in group.told("workers.passed")[0]
    assert small.level >= Level.ELEVATED


def test_at_emergency_everybody_sheds(group: Group) -> None:
    """In the last moments nobody waits for anybody."""
    small, large = group.join(50), group.join(200)
    group.look()
    group.look(seconds=1.1)
    group.fill(large, 130)
    for _ in range(4):
        group.look(small, seconds=0.02)
    assert group.held_mib()[0] < 50


def test_by_hand_is_never_kept_waiting(group: Group) -> None:
    """A relief that a person asks for is done by the worker that is asked."""
    small, _ = group.join(50), group.join(200)
    group.look()
    group.look(seconds=1.1)
    small.relieve(320 * MIB)
    assert group.held_mib() == [20, 200]
    assert not group.told("workers.waited")


def test_one_that_drains_goes_first(group: Group) -> None:
    """A worker that is leaving loses its cache anyhow: it is taken before a larger one's."""
    small, large = group.join(60), group.join(200)
    small.mark_worker("draining")
    group.look()
    group.look(seconds=1.1)
    assert [row.state for row in large.workers] == ["serving", "draining"]
    group.fill(large, 45)
    for _ in range(4):
        group.look(large, small, seconds=0.05)
    assert group.held_mib()[0] < 60
    assert group.held_mib()[1] == 245
    with pytest.raises(ValueError, match="choose 'serving'"):
        small.mark_worker("gone")  # type: ignore[arg-type]


def test_promises_of_others_count(group: Group) -> None:
    """The budget is one: what another has promised is not promised again, at once and without a look in between."""
    one, two = group.join(), group.join()
    group.look()
    group.look(seconds=1.1)
    ticket = two.admit("300MiB")
    with pytest.raises(AdmissionRefused, match=r"300.0 MiB already promised \(300.0 MiB of it by other workers\)"):
        one.admit("60MiB")
    one.admit("50MiB").close()
    ticket.close()
    one.admit("350MiB").close()


def test_two_that_ask_at_once_do_not_both_get_the_last_room(group: Group) -> None:
    """However two workers' admissions fall together, what fits once is admitted once at most."""
    one, two = group.join(), group.join()
    group.look()
    group.look(seconds=1.1)
    both = threading.Barrier(2)
    admitted: list[Ticket] = []

    def ask(guard: Guard) -> None:
        both.wait(30.0)
        with suppress(AdmissionRefused):
            admitted.append(guard.admit("200MiB"))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            threads = [threading.Thread(target=ask, args=(guard,)) for guard in (one, two)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30.0)
            assert len(admitted) <= 1
            while admitted:
                admitted.pop().close()
    finally:
        sys.setswitchinterval(interval)
    one.admit("350MiB").close()


def test_strangers_are_reacted_to(group: Group) -> None:
    """What a sidecar takes counts, though nobody knows it: whoever could shed most makes room for it."""
    group.join(50)
    group.join(120)
    group.look()
    group.look(seconds=1.1)
    for _ in range(20):
        group.memory.grow(8 * MIB)
        group.look(seconds=0.1)
    assert group.held_mib()[0] == 50
    assert group.held_mib()[1] < 120
    assert group.memory.used_bytes < 0.9 * SHARED.bytes


def test_a_refusal_leaves_no_promise_behind(group: Group) -> None:
    """What was said before it was looked whether it fits is taken back."""
    one, two = group.join(), group.join()
    group.look()
    group.look(seconds=1.1)
    with pytest.raises(AdmissionRefused):
        one.admit("351MiB")
    two.admit("350MiB").close()


def test_promises_of_the_dead_do_not_count(group: Group) -> None:
    """A worker that left, or has not beaten for half a minute, binds nothing."""
    one, two = group.join(), group.join()
    group.look()
    group.look(seconds=1.1)
    two.admit("300MiB")
    for _ in range(32):
        group.look(one, seconds=1.0)
    one.admit("350MiB").close()
    two.admit("20MiB")
    two.stop()
    group.look(one, seconds=1.1)
    one.admit("350MiB").close()


def test_an_observer_is_not_waited_for(group: Group) -> None:
    """A guard that only observes sheds nothing, and offers nothing."""
    small, observer = group.join(50), group.join(250, mode="observe")
    group.look()
    group.look(seconds=1.1)
    group.fill(observer, 20)
    group.look(seconds=0.05)
    assert group.held_mib()[0] < 50
    assert small.workers[1].yield_bytes == 0


def test_a_removed_file_parts_nobody_for_long(group: Group) -> None:
    """A cleaner that empties the folder: the workers meet again in a new file."""
    one, two = group.join(50), group.join(30)
    group.look()
    for path in group.folder.iterdir():
        path.unlink()
    for _ in range(6):
        group.look(seconds=1.1)
    assert len(one.workers) == len(two.workers) == 2


def test_what_fails_is_told_and_the_guard_goes_on(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder to share, or a ledger that breaks: said once, the worker acts alone, and joins when it can."""

    def refuse() -> str:
        raise WorkersUnavailable("workers have no folder to share: none")

    monkeypatch.setattr(ledgers, "private_folder", refuse)
    one = group.join(250)
    for _ in range(5):
        group.look(seconds=1.1)
    assert len(group.told("workers.alone")) == 1
    assert one.workers == ()
    group.fill(one, 60)
    for _ in range(3):
        group.look(seconds=0.05)
    assert group.held_mib()[0] < 310, "it guards all the same"
    monkeypatch.setattr(ledgers, "private_folder", lambda: str(group.folder))
    group.look(seconds=1.1)
    assert len(one.workers) == 1
    team = one._team
    assert team is not None
    monkeypatch.setattr(team._ledger, "publish", lambda _: 1 / 0)
    group.look()
    assert len(group.told("workers.alone")) == 2
    assert one.workers == ()
    group.look(seconds=6.0)
    assert len(one.workers) == 1


def test_a_fork_without_a_thread_has_a_seat_of_its_own(group: Group) -> None:
    """A guard that is ticked by its host and forked does not write into its parent's slot."""
    guard = group.join(50)
    group.look()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            for _ in range(3):
                group.look(seconds=1.1)
            os.write(writer, bytes([row.slot for row in guard.workers]))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    assert os.waitpid(pid, 0)[1] == 0
    assert list(os.read(reader, 9)) == [2, 1]
    os.close(reader)
    assert guard.workers[0].slot == 1
    assert guard.workers[0].pid == os.getpid()


def test_off_is_off(group: Group) -> None:
    """With workers="off" no file is made."""
    guard = group.join(workers="off")
    group.look(seconds=1.1)
    assert guard.workers == ()
    assert list(group.folder.iterdir()) == []


def test_on_needs_a_limit_that_is_shared(group: Group) -> None:
    """workers="on" without a control group's limit says what to do instead."""
    guard = group.join(limit=APART, workers="on")
    group.look(seconds=1.1)
    assert guard.workers == ()
    assert "give the workers a name" in group.told("workers.alone")[0]


def test_the_group_has_a_name(group: Group) -> None:
    """The rule's, else the control group's, else the parent's."""
    assert group.join().worker_group == "app"
    beside = Limit(bytes=1 << 40, kind="kill", source="x", usage="cgroup", path=str(group.folder), version=1)
    named = group.join(workers="off", limit=beside).worker_group
    found = group.folder.stat()
    assert named == f"cgroup-{found.st_dev:x}-{found.st_ino:x}"
    assert group.join(workers="off", limit=APART).worker_group.startswith("parent-")


def test_the_lease_is_the_groups(group: Group) -> None:
    """Guards of one group have one lease for each purpose."""
    one, two = group.join(), group.join()
    assert one.lease().path == two.lease().path
    assert one.lease("compact").path != two.lease().path


@pytest.mark.parametrize(
    ("written", "meant"),
    [("auto", "auto"), (True, "on"), ("yes", "on"), (False, "off"), ("0", "off"), (" api-1 ", "api-1"), ("OFF", "off")],
)
def test_the_rule_as_people_write_it(written: str | bool, meant: str) -> None:
    """Words, booleans and names."""
    assert Rules(workers=written).workers == meant  # type: ignore[arg-type]
    assert Rules.resolve({"MEMGUARD_WORKERS": str(written)}).workers == meant


@pytest.mark.parametrize("written", ["", "a b", "../up", "x" * 65, "-x"])
def test_no_group(written: str) -> None:
    """What is no name is refused with the mend."""
    with pytest.raises(RulesError, match="write 'auto', 'on', 'off'"):
        Rules(workers=written)
