"""The shared ledger: workers find each other in a file, come and die at any moment."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memguard.workers import ledger as ledgers
from memguard.workers import lives, slots
from memguard.workers.folder import WorkersUnavailable, locked, private_folder
from memguard.workers.lease import Lease
from memguard.workers.ledger import SLOTS, SharedLedger, ledger_path, sweep
from memguard.workers.lives import Life
from memguard.workers.slots import Said

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks beside other tests' threads
GHOST = Life(pid=4_000_000, started_ticks=1, space=lives.own_life().space)
FOREIGN = Life(pid=7, started_ticks=1, space=1)


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> str:
    return ledger_path("app", folder=str(tmp_path))


@pytest.fixture(name="pair")
def _pair(path: str) -> Iterator[tuple[SharedLedger, SharedLedger]]:
    one, two = SharedLedger(path, now=1.0), SharedLedger(path, now=1.0)
    one.look(1.0)
    yield one, two
    one.close(now=2.0)
    two.close(now=2.0)


def _plant(ledger: SharedLedger, slot: int, life: Life, said: Said | None = None) -> None:
    """Somebody else's slot in the same file."""
    seed = slots.claim(ledger._map, slot * slots.SLOT_BYTES, life)
    if said is not None:
        slots.say(ledger._map, slot * slots.SLOT_BYTES, seed, said)
    ledger._map[8:12] = max(slot, ledger._highest()).to_bytes(4, "little")


def test_workers_read_each_other(pair: tuple[SharedLedger, SharedLedger]) -> None:
    """What one says, all read; its promises too, at once."""
    one, two = pair
    two.publish(Said(level=2, state=1, running=3, beat_at=1.5, used_bytes=100, yield_bytes=40, refusals=7))
    two.promise(11)
    (row,) = one.others()
    assert (row.slot, row.pid, row.own) == (two.slot, os.getpid(), False)
    assert (row.level.name, row.state, row.running, row.refusals) == ("WARNING", "draining", 3, 7)
    assert (row.used_bytes, row.yield_bytes, row.promised_bytes, row.beat_at) == (100, 40, 11, 1.5)
    two.publish(Said(beat_at=2.0))
    one.look(2.0)
    assert one.promised_elsewhere == 11
    two.promise(-3)
    assert one.promised_elsewhere == 0
    assert one.own().own


def test_the_last_one_removes_the_file(path: str) -> None:
    """Slots are given back, and nothing is left."""
    one, two = SharedLedger(path, now=1.0), SharedLedger(path, now=1.0)
    one.close(now=1.0)
    one.close(now=1.0)
    assert Path(path).exists()
    two.look(1.0)
    assert two.others() == ()
    two.close(now=1.0)
    assert not Path(path).exists()


def test_the_dead_make_room(path: str) -> None:
    """The slot of a worker that was killed is used again, the lowest first."""
    keeper = SharedLedger(path, now=1.0)
    _plant(keeper, 2, GHOST, Said(used_bytes=5, beat_at=0.5))
    keeper.look(1.0)
    assert keeper.others() == ()
    later = SharedLedger(path, now=1.0)
    assert later.slot == 2
    for ledger in (later, keeper):
        ledger.close(now=1.0)


def test_another_process_under_the_same_number_is_another(path: str) -> None:
    """A process id that is used again does not keep a dead worker's slot: its start differs."""
    keeper = SharedLedger(path, now=1.0)
    own = lives.own_life()
    _plant(keeper, 2, Life(pid=own.pid, started_ticks=own.started_ticks - 1, space=own.space))
    assert keeper.look(1.0) == 0
    keeper.close(now=1.0)


def test_in_another_namespace_only_the_beat_tells(path: str) -> None:
    """A worker that cannot be looked up counts as alive while it beats, and its row says so."""
    keeper = SharedLedger(path, now=1000.0)
    _plant(keeper, 2, FOREIGN, Said(beat_at=995.0))
    assert keeper.look(1000.0) == 1
    assert [row.known for row in keeper.others()] == [False]
    assert keeper.look(1200.0) == 0
    keeper.close(now=1200.0)


def test_a_torn_row_is_what_was_read_before(pair: tuple[SharedLedger, SharedLedger]) -> None:
    """A row whose writer was stopped in the middle is its last whole one; one that never was whole is left out."""
    one, two = pair
    two.publish(Said(used_bytes=5))
    assert [row.used_bytes for row in one.others()] == [5]
    at = two.slot * slots.SLOT_BYTES + 40
    two._map[at : at + 4] = b"\xff\x00\xff\x00"
    assert [row.used_bytes for row in one.others()] == [5]
    one.look(1.0)
    one._last.clear()
    assert one.others() == ()
    two.publish(Said(used_bytes=6))
    assert [row.used_bytes for row in one.others()] == [6]


def test_promises_of_the_silent_lapse(path: str) -> None:
    """A worker that hangs for half a minute keeps its slot, and its promises no longer bind the others."""
    keeper = SharedLedger(path, now=100.0)
    other = SharedLedger(path, now=100.0)
    other.publish(Said(beat_at=100.0))
    other.promise(50)
    keeper.look(100.0)
    assert keeper.promised_elsewhere == 50
    keeper.look(131.0)
    assert keeper.promised_elsewhere == 0
    assert len(keeper.others()) == 1
    for ledger in (other, keeper):
        ledger.close(now=131.0)


def test_a_full_ledger_says_so(path: str) -> None:
    """The 256th worker is told that there is no slot."""
    keeper = SharedLedger(path, now=1.0)
    for slot in range(2, SLOTS + 1):
        _plant(keeper, slot, lives.own_life())
    with pytest.raises(WorkersUnavailable, match="255 workers"):
        SharedLedger(path, now=1.0)
    for slot in range(2, SLOTS + 1):
        slots.clear(keeper._map, slot * slots.SLOT_BYTES)
    keeper.close(now=1.0)


def test_a_seat_is_given_back_without_the_lock(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has become another user may not open the file any more; its slot is free all the same."""
    one, two = SharedLedger(path, now=1.0), SharedLedger(path, now=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        two.close(now=1.0)
    assert one.look(1.0) == 0
    one.close(now=1.0)


def test_a_removed_file_is_noticed(path: str) -> None:
    """A cleaner that empties /dev/shm parts the workers: they see it, and meet again in a new file."""
    one = SharedLedger(path, now=1.0)
    assert not one.gone
    Path(path).unlink()
    assert one.gone
    two = SharedLedger(path, now=1.0)
    assert one.gone
    assert not two.gone
    one.close(now=1.0)
    assert Path(path).exists(), "it is not one's to remove"
    two.close(now=1.0)


def test_a_closed_ledger_promises_nothing(path: str) -> None:
    """A request that asks while the guard stops meets no error."""
    ledger = SharedLedger(path, now=1.0)
    ledger.close(now=1.0)
    ledger.promise(5)
    assert ledger.promised_elsewhere == 0


@pytest.mark.parametrize("content", [b"x" * 100, b"not ours" + bytes(16376), b"x" * 16384])
def test_something_else_is_left_alone(path: str, content: bytes) -> None:
    """A file that is no ledger is neither used nor changed."""
    Path(path).write_bytes(content)
    Path(path).chmod(0o600)
    with pytest.raises(WorkersUnavailable, match="no ledger of ours: remove it"):
        SharedLedger(path, now=1.0)
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("size", [0, 1, 4096, 16383])
def test_a_half_made_file_is_finished(path: str, size: int) -> None:
    """Whoever was killed while it made the file has not spoilt it for the others."""
    Path(path).write_bytes(bytes(size))
    Path(path).chmod(0o600)
    ledger = SharedLedger(path, now=1.0)
    assert ledger.slot == 1
    ledger.close(now=1.0)


def test_a_file_open_to_others_is_refused(path: str) -> None:
    """Whoever may write into the file could lie to all workers."""
    SharedLedger(path, now=1.0).forget()
    Path(path).chmod(0o666)
    with pytest.raises(WorkersUnavailable, match="open to others"):
        SharedLedger(path, now=1.0)


def test_a_link_is_not_followed(path: str, tmp_path: Path) -> None:
    """A link in the file's place leads nowhere."""
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    target.chmod(0o600)
    Path(path).symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        SharedLedger(path, now=1.0)
    assert target.read_bytes() == b"precious"


def test_the_file_is_private_and_whole(path: str) -> None:
    """Nobody else may open it, and its pages are there: a full file system fails at the start, and kills nobody."""
    ledger = SharedLedger(path, now=1.0)
    found = Path(path).stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_blocks * 512 >= found.st_size == 16384
    ledger.close(now=1.0)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "a" * 101, "ä"])
def test_a_group_needs_a_name(name: str, tmp_path: Path) -> None:
    """What could leave the folder is no name."""
    with pytest.raises(ValueError, match="no name for workers"):
        ledger_path(name, folder=str(tmp_path))


# --- the folder ------------------------------------------------------------------------------------------------------


def test_the_folder_is_private(tmp_path: Path) -> None:
    """It is made with mode 0700, in the first place that will do."""
    found = private_folder([str(tmp_path / "missing"), str(tmp_path)])
    assert Path(found).parent == tmp_path
    assert stat.S_IMODE(Path(found).stat().st_mode) == 0o700
    assert private_folder([str(tmp_path)]) == found


def test_a_planted_folder_is_not_used(tmp_path: Path) -> None:
    """A link, a file or a folder open to others under our name is passed over, and the reasons are told."""
    name = f"memguard-{os.geteuid()}"
    link, loose, plain, good = (tmp_path / kind for kind in ("link", "loose", "plain", "good"))
    for base in (link, loose, plain, good):
        base.mkdir()
    (link / name).symlink_to(good)
    (loose / name).mkdir()
    (loose / name).chmod(0o777)
    (plain / name).write_text("x")
    bases = [str(base) for base in (link, loose, plain)]
    with pytest.raises(WorkersUnavailable, match=r"a link.*open to others.*a link"):
        private_folder(bases)
    assert private_folder([*bases, str(good)]) == str(good / name)


def test_somebody_elses_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder under our name that belongs to another user is passed over."""
    (tmp_path / "memguard-12345").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if tmp_path.stat().st_uid == 12345:
        pytest.skip("this is user 12345")
    with pytest.raises(WorkersUnavailable, match="belongs to user"):
        private_folder([str(tmp_path)])


def test_a_held_lock_is_not_waited_for_long(tmp_path: Path) -> None:
    """A worker that is stopped while it holds the lock does not stop the others."""
    path = str(tmp_path / "file")
    with locked(path), pytest.raises(BlockingIOError), locked(path, wait_s=0.01):
        pass
    with locked(path, wait_s=0.0):
        pass


def test_what_the_dead_leave_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of groups that were killed as a whole go; those with somebody alive, of others or new ones stay."""
    monkeypatch.setattr(ledgers, "_LEFT_OVER_S", -1.0)
    paths = {name: ledger_path(name, folder=str(tmp_path)) for name in ("dead", "alive", "other", "foreign")}
    dead, alive, foreign = (SharedLedger(paths[name], now=1.0) for name in ("dead", "alive", "foreign"))
    _plant(dead, 1, GHOST)
    _plant(foreign, 1, FOREIGN)
    dead.forget()
    foreign.forget()
    Path(paths["other"]).write_bytes(b"x" * 16384)
    Path(paths["other"]).chmod(0o600)
    assert sweep(str(tmp_path)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alive.workers1", "foreign.workers1", "other.workers1"]
    lost, kept = (Lease(tmp_path / f"{name}.recycle.lease") for name in ("lost", "kept"))
    assert lost.take(1.0)
    assert kept.take(1.0)
    Path(lost.path).write_bytes(b"\0" * 28)
    assert sweep(str(tmp_path)) == 1
    assert kept.holder(1.0) == os.getpid()
    assert not Path(lost.path).exists()
    monkeypatch.setattr(ledgers, "_LEFT_OVER_S", 60.0)
    _plant(alive, 1, GHOST)
    assert sweep(str(tmp_path)) == 0, "one that was just made may be somebody's who is just coming"
    alive.forget()


# --- lives ------------------------------------------------------------------------------------------------------------


def test_a_zombie_is_dead() -> None:
    """A killed worker that its parent has not waited for yet has ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    life = Life(pid=pid, started_ticks=lives.started_ticks(pid) or 0, space=lives.own_life().space)
    assert lives.alive(life, lives.own_life()) is True
    os.close(writer)
    deadline = time.monotonic() + 30.0
    while lives.alive(life, lives.own_life()) and time.monotonic() < deadline:
        os.sched_yield()
    assert lives.alive(life, lives.own_life()) is False
    os.waitpid(pid, 0)
    assert lives.alive(life, lives.own_life()) is False
