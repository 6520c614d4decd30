"""Directories under a quota: the oldest files go, and nothing else ever does."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memguard.model import Event, Level
from memguard.ports import Reclaimer
from memguard.reclaimers import cleaning, removing, walking
from memguard.reclaimers.directories import Directories, Directory, directories_of
from memguard.reclaimers.errands import Errand, Pace
from memguard.roster import Roster
from memguard.units import KIB, MIB
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE_BYTES = 64 * KIB
ROOT = Path(__file__).resolve().parents[2]
SHM = Path("/dev/shm")  # noqa: S108 - a tmpfs nearly everywhere


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty cache directory with a neighbour that is nobody's business."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_bytes(b"p" * FILE_BYTES)
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def fill(root: Path, count: int, *, first_age_s: float = 1000.0, name: str = "file") -> list[Path]:
    """So many files of 64 KiB, a second apart in age, the oldest first."""
    paths = []
    for number in range(count):
        path = root / f"{name}{number}"
        path.write_bytes(os.urandom(FILE_BYTES))
        age(path, first_age_s - number)
        paths.append(path)
    return paths


def age(path: Path, seconds: float, *, follow_symlinks: bool = True) -> None:
    """Make a file look unused for so long."""
    stamp = time.time() - seconds
    os.utime(path, (stamp, stamp), follow_symlinks=follow_symlinks)


def quota(root: Path, files: float = 10, **options: Any) -> Directory:
    """A directory that may hold so many files of 64 KiB."""
    return Directory(root, max_bytes=int(files * FILE_BYTES), **{"min_age_s": 0.0, **options})


def left(paths: list[Path]) -> list[int]:
    """Which of them are still there."""
    return [number for number, path in enumerate(paths) if path.exists()]


# --- quotas ---------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_go_first(root: Path) -> None:
    """Above the quota the oldest files go, down to four fifths of it."""
    paths = fill(root, 12)
    cleanup = quota(root).clean()
    assert left(paths) == list(range(4, 12))
    assert (cleanup.files, cleanup.held_bytes, cleanup.freed_bytes) == (12, 12 * FILE_BYTES, 4 * FILE_BYTES)
    assert [removal.path for removal in cleanup.removed] == [str(path) for path in paths[:4]]


def test_reading_makes_a_file_young(root: Path) -> None:
    """By access: a file that was read goes after one that was only written later."""
    paths = fill(root, 12)
    os.utime(paths[0], (time.time(), paths[0].stat().st_mtime))
    quota(root).clean()
    assert left(paths) == [0, 5, 6, 7, 8, 9, 10, 11]


def test_under_the_quota_nothing_goes(root: Path) -> None:
    """A directory at its quota is left alone."""
    paths = fill(root, 10)
    directory = quota(root)
    assert directory.clean().removed == ()
    assert len(left(paths)) == 10
    assert directory.held_bytes == 10 * FILE_BYTES


def test_a_dry_run_lists_what_would_go(root: Path) -> None:
    """plan() names the very files that clean() then removes, and removes none."""
    paths = fill(root, 12)
    planned = quota(root).plan()
    assert planned.dry_run
    assert len(left(paths)) == 12
    assert planned.removed == quota(root).clean().removed


def test_an_observing_directory_removes_nothing(root: Path) -> None:
    """With act=False neither the quota nor the guard makes it remove anything, and it says what it would do."""
    paths = fill(root, 12)
    told: list[Event] = []
    directory = quota(root, act=False, tell=told.append)
    directory._look_after()
    directory.in_memory = True
    assert directory.reclaim(MIB) == 0
    assert len(left(paths)) == 12
    assert "would remove 4 files" in next(event.text for event in told if event.name == "directory.cleaned")


def test_all_directories_share_a_total(root: Path, tmp_path: Path) -> None:
    """Above the common total the oldest files of all of them go, whichever directory they lie in."""
    (tmp_path / "second").mkdir()
    old, young = fill(root, 6, first_age_s=5000.0), fill(tmp_path / "second", 6)
    directories = [quota(root), quota(tmp_path / "second")]
    roster = Roster()
    group = Directories(roster)
    group.total_bytes = 10 * FILE_BYTES
    handles = [group.join(directory) for directory in directories]
    for directory in directories:
        directory.clean()
    for directory in directories:
        directory.clean()
    assert group.held_bytes == 8 * FILE_BYTES
    assert (left(old), left(young)) == ([4, 5], [0, 1, 2, 3, 4, 5])
    handles[0].close()
    assert group.members == (directories[1],)
    assert [name for name, _ in roster.entries()] == [str(tmp_path / "second")]


def test_more_files_than_one_census_shows(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many oldest files are remembered at a time; a cleaning takes as many censuses as it needs."""
    monkeypatch.setattr(walking, "_OLDEST", 3)
    paths = fill(root, 20)
    quota(root).clean()
    assert left(paths) == list(range(12, 20))


def test_subdirectories_count_and_stay(root: Path) -> None:
    """Files at any depth belong to it; emptied folders stay, for somebody may be about to write there."""
    deep = root / "a" / "b"
    deep.mkdir(parents=True)
    paths = fill(deep, 12)
    quota(root).clean()
    assert left(paths) == list(range(4, 12))
    deepest = root
    for _ in range(walking._DEEPEST + 2):
        deepest /= "d"
    deepest.mkdir(parents=True)
    fill(deepest, 1)
    cleanup = quota(root).clean()
    assert cleanup.files == 8
    assert cleanup.notes == ("1 folders or files could not be looked at",)


def test_sparse_files_count_what_they_take(root: Path) -> None:
    """A file of a gigabyte with nothing in it takes nothing."""
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    directory = quota(root)
    directory.clean()
    assert directory.held_bytes is not None
    assert directory.held_bytes < FILE_BYTES


# --- what never goes --------------------------------------------------------------------------------------------------


def test_young_files_stay(root: Path) -> None:
    """Within min_age_s nothing goes, however far above the quota; a stamp from the future does not make one old."""
    paths = fill(root, 6, first_age_s=5.0)
    age(paths[0], -(10**8))
    cleanup = quota(root, files=1, min_age_s=60.0).clean()
    assert len(left(paths)) == 6
    assert cleanup.left == {"young": 6}


def test_a_stamp_from_the_future_ages_all_the_same(root: Path) -> None:
    """A file dated next century does not stay for ever: the kernel's own change time counts then."""
    paths = fill(root, 3)
    age(paths[0], -(10**8))
    quota(root, files=1).clean()
    assert left(paths) == []


def test_patterns(root: Path) -> None:
    """What is excluded or not included stays, and counts."""
    paths = [*fill(root, 6, name="a"), *fill(root, 6, name="b")]
    directory = quota(root, files=1, include=("a*",), exclude=("*3", "*.lock"))
    directory.clean()
    assert left(paths) == [3, *range(6, 12)]
    assert directory.held_bytes == 7 * FILE_BYTES


def test_locks_and_journals_stay(root: Path) -> None:
    """By default no lock file goes, nor a database without its journal or a journal without its database."""
    fill(root, 1, name="x.lock"), fill(root, 1, name="plain")
    for name in ("db", "db-wal", "run.lock", "service.pid", "plain"):
        (root / name).write_bytes(b"x" * FILE_BYTES)
        age(root / name, 100.0)
    cleanup = quota(root, files=0.5).clean()
    assert {path.name for path in root.iterdir()} == {"db", "db-wal", "run.lock", "service.pid"}
    assert cleanup.left == {"in use": 1}


def test_links_are_neither_followed_nor_removed(root: Path, tmp_path: Path) -> None:
    """Symbolic links to files and folders outside lead nowhere; neither they nor their targets go or count."""
    (root / "file link").symlink_to(tmp_path / "outside" / "precious")
    (root / "folder link").symlink_to(tmp_path / "outside")
    for name in ("file link", "folder link"):
        age(root / name, 10**6, follow_symlinks=False)
    fill(root, 3)
    directory = quota(root, files=1)
    directory.clean()
    assert sorted(path.name for path in root.iterdir()) == ["file link", "folder link"]
    assert (tmp_path / "outside" / "precious").exists()
    assert directory.held_bytes == 0


def test_pipes_and_sockets_stay(root: Path) -> None:
    """Only regular files are files."""
    os.mkfifo(root / "pipe")
    age(root / "pipe", 1000.0)
    quota(root, files=0.001).clean()
    assert (root / "pipe").exists()


def test_a_root_that_became_a_link_is_left_alone(root: Path, tmp_path: Path) -> None:
    """When the directory, or one above it, is replaced by a link, nothing is removed behind it, and that is said."""
    (root / "inner").mkdir()
    fill(root / "inner", 2)
    told: list[Event] = []
    directory = Directory(root / "inner", max_bytes=1, min_age_s=0.0, tell=told.append)
    root.rename(tmp_path / "moved")
    root.symlink_to(tmp_path / "moved")
    directory._look_after()
    assert len(list((tmp_path / "moved" / "inner").iterdir())) == 2
    assert [event.name for event in told] == ["directory.note"]
    assert "has become a link" in told[0].text


def test_a_link_that_names_the_directory_is_resolved_once(root: Path, tmp_path: Path) -> None:
    """A root given as a link means where it led when it was registered."""
    (tmp_path / "name").symlink_to(root)
    directory = quota(tmp_path / "name", files=1)
    paths = fill(root, 3)
    (tmp_path / "name").unlink()
    (tmp_path / "name").symlink_to(tmp_path / "outside")
    directory.clean()
    assert left(paths) == []
    assert (tmp_path / "outside" / "precious").exists()


def test_a_directory_may_come_later_and_go(root: Path) -> None:
    """One that is not there holds nothing; it is looked after once it is there, also under a new inode."""
    directory = quota(root / "later", files=1)
    assert directory.clean().notes == ()
    assert directory.held_bytes == 0
    for _ in range(2):
        (root / "later").mkdir()
        paths = fill(root / "later", 3)
        directory.clean()
        assert left(paths) == []
        (root / "later").rmdir()
        directory.clean()
        assert directory.held_bytes == 0


# --- files in use -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["lease", "no lease"])
def leases(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel's leases, and on a file system without."""
    if request.param == "no lease":
        monkeypatch.setattr(removing, "_SETLEASE", None)


@pytest.mark.usefixtures("leases")
def test_an_open_file_stays(root: Path) -> None:
    """A file that this process has open is left, and goes once it is closed."""
    paths = fill(root, 3)
    with paths[1].open("rb"):
        cleanup = quota(root, files=1).clean()
        assert left(paths) == [1]
        assert cleanup.left == {"open": 1}
    quota(root, files=0.5).clean()
    assert left(paths) == []


@pytest.mark.usefixtures("leases")
def test_a_file_that_another_process_has_open_stays(root: Path) -> None:
    """It is asked of the kernel or found in /proc, whoever has it open."""
    paths = fill(root, 3)
    code = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, paths[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        quota(root, files=1).clean()
        assert left(paths) == [0]
        other.communicate()


def test_a_mapped_file_stays(root: Path) -> None:
    """A file that is mapped and closed is in use as well."""
    paths = fill(root, 2)
    with paths[0].open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    age(paths[0], 2000.0)
    quota(root, files=1).clean()
    assert left(paths) == [0]
    mapped.close()


def test_a_locked_file_stays_where_nothing_else_is_known(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without leases and without sight of other processes a lock still tells of a user, and the doubt is noted."""
    monkeypatch.setattr(removing, "_SETLEASE", None)
    monkeypatch.setattr(os, "listdir", lambda path: [])
    paths = fill(root, 3)
    with paths[0].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        cleanup = quota(root, files=1).clean()
    assert left(paths) == [0]
    assert cleanup.notes == ("whether files are open could not be known of all processes: only by their locks",)


def test_who_opens_a_file_that_is_just_going_waits_a_moment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a file under our lease neither kills us by its signal nor hangs."""
    paths = fill(root, 1)
    opened: list[str] = []
    unlink = os.unlink

    def opener() -> None:
        with paths[0].open("rb"):
            opened.append("yes")

    def slow_unlink(name: str, **options: Any) -> None:
        thread.start()
        threading.Event().wait(0.05)
        assert not opened
        unlink(name, **options)

    thread = threading.Thread(target=opener)
    monkeypatch.setattr(os, "unlink", slow_unlink)
    quota(root, files=0.5).clean()
    thread.join(5.0)
    assert opened == ["yes"]
    assert left(paths) == []


# --- races ------------------------------------------------------------------------------------------------------------


def _meanwhile(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], None]) -> None:
    """Let something happen between the census and the first removal."""
    census = walking.take_census

    def then(*arguments: Any, **options: Any) -> Any:
        seen = census(*arguments, **options)
        happen()
        return seen

    monkeypatch.setattr(cleaning, "take_census", then)


def test_a_file_replaced_by_a_link_is_left(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link in the place of a file that was seen is not followed, not removed, and its target lives."""
    paths = fill(root, 1)

    def replace() -> None:
        paths[0].unlink()
        paths[0].symlink_to(tmp_path / "outside" / "precious")

    _meanwhile(monkeypatch, replace)
    cleanup = quota(root, files=0.5).clean()
    assert cleanup.left == {"changed": 1}
    assert paths[0].is_symlink()
    assert (tmp_path / "outside" / "precious").exists()


def test_a_folder_replaced_by_a_link_is_left(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link in the place of a folder does not lead outside, not even to a file of the same name."""
    (root / "folder").mkdir()
    fill(root / "folder", 1, name="precious")
    (root / "folder" / "precious0").rename(root / "folder" / "precious")

    def replace() -> None:
        (root / "folder").rename(tmp_path / "away")
        (root / "folder").symlink_to(tmp_path / "outside")

    _meanwhile(monkeypatch, replace)
    cleanup = quota(root, files=0.5).clean()
    assert cleanup.left == {"changed": 1}
    assert (tmp_path / "outside" / "precious").exists()
    assert (tmp_path / "away" / "precious").exists()


@pytest.mark.parametrize("what", ["rewritten", "replaced", "read"])
def test_a_file_used_meanwhile_is_left(root: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Written, replaced or (where the mount tells) read since the census: it is no longer the oldest."""
    paths = fill(root, 1)

    def use() -> None:
        if what == "read":
            os.utime(paths[0], (time.time(), paths[0].stat().st_mtime))
        elif what == "rewritten":
            paths[0].write_bytes(b"new" * FILE_BYTES)
        else:
            (root / "new").write_bytes(b"new" * FILE_BYTES)
            (root / "new").rename(paths[0])

    _meanwhile(monkeypatch, use)
    quota(root, files=0.5).clean()
    assert left(paths) == [0]


def test_a_file_that_vanishes_is_no_failure(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others remove meanwhile is not missed."""
    paths = fill(root, 3)
    _meanwhile(monkeypatch, lambda: paths[0].unlink(missing_ok=True))
    assert "failed" not in quota(root, files=1).clean().left
    assert left(paths) == []


def test_two_cleaners_of_one_directory(root: Path) -> None:
    """Several processes may look after the same directory: no error, and never below the target."""
    paths = fill(root, 300)
    done: list[object] = []
    directories = [quota(root, files=100) for _ in range(4)]

    def clean(directory: Directory) -> None:
        done.append(directory.clean().left.get("failed", 0))

    threads = [threading.Thread(target=clean, args=(directory,)) for directory in directories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert done == [0, 0, 0, 0]
    assert 0 < len(left(paths)) <= 80


def test_no_descriptor_is_left_behind(root: Path) -> None:
    """After cleanings that end well, early or in vain, this process has as many descriptors as before."""
    (root / "a" / "b").mkdir(parents=True)
    fill(root / "a" / "b", 12)
    before = len(list(Path("/proc/self/fd").iterdir()))
    quota(root).clean()
    pace = Pace(within_s=0.0)
    quota(root)._clean(pace, lambda *_: 1 << 40)
    quota(root / "nowhere").clean()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- hard links -------------------------------------------------------------------------------------------------------


def test_hard_links_count_once_and_go_together(root: Path) -> None:
    """A file with three names takes its bytes once, and gives them back when the last name goes."""
    paths = fill(root, 2)
    names = [root / "second", root / "third"]
    for name in names:
        os.link(paths[0], name)
    age(paths[0], 2000.0)
    directory = quota(root, files=1.5)
    cleanup = directory.clean()
    assert cleanup.held_bytes == 2 * FILE_BYTES
    assert cleanup.freed_bytes == FILE_BYTES
    assert left([paths[0], *names, paths[1]]) == [3]


def test_a_file_with_a_name_outside_is_left(root: Path, tmp_path: Path) -> None:
    """Removing a name frees nothing while another keeps the file: it stays, and that is said."""
    paths = fill(root, 1)
    os.link(paths[0], tmp_path / "outside" / "kept")
    cleanup = quota(root, files=0.5).clean()
    assert left(paths) == [0]
    assert cleanup.left == {"linked": 1}


# --- memory or disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory on a tmpfs."""
    if not SHM.is_dir():
        pytest.skip("no /dev/shm here")
    with tempfile.TemporaryDirectory(dir=SHM, prefix="memguard-test-") as name:
        directory = Directory(name)
        directory.plan()
        if not directory.in_memory:
            pytest.skip(f"{SHM} is no tmpfs here")
        yield Path(name)


def test_on_a_tmpfs_it_gives_memory_back(in_memory: Path) -> None:
    """Files in memory are memory: it has a size, and gives its oldest files when asked, just enough of them."""
    paths = fill(in_memory, 10)
    directory = quota(in_memory, files=100)
    assert isinstance(directory, Reclaimer)
    assert (directory.cost, directory.at, directory.size()) == ("dear", Level.WARNING, None)
    directory.plan()
    assert directory.size() == 10 * FILE_BYTES
    assert directory.reclaim(0) == 0
    assert directory.reclaim(3 * FILE_BYTES - 1) == 3 * FILE_BYTES
    assert left(paths) == list(range(3, 10))
    assert directory.size() == 7 * FILE_BYTES
    assert directory.reclaim(1 << 40) == 7 * FILE_BYTES
    assert (directory.reclaim(1 << 40), directory.size()) == (0, 0)


def test_a_reclaim_needs_no_look_before(in_memory: Path) -> None:
    """Asked before its first look it looks."""
    fill(in_memory, 2)
    assert quota(in_memory, files=100).reclaim(1) == FILE_BYTES


def test_on_a_disk_it_never_claims_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files on a disk are no memory: size 0, nothing reclaimed, nothing removed for it."""
    monkeypatch.setattr(walking, "_IN_MEMORY", frozenset())
    paths = fill(root, 3)
    directory = quota(root, files=100)
    assert directory.reclaim(MIB) == 0
    assert directory.size() == 0
    assert len(left(paths)) == 3


def test_the_mount_tells_what_last_use_means(root: Path) -> None:
    """Where reading leaves no trace or only a daily one, it says so."""
    seen = {
        options: walking.Mounted(number=1, kind="ext4", options=frozenset({options})).order
        for options in ("noatime", "relatime", "rw")
    }
    assert "reading leaves no trace" in seen["noatime"]
    assert "to the day" in seen["relatime"]
    assert seen["rw"] == "last access or change"
    directory = quota(root)
    directory.plan()
    assert directory.order in seen.values()


def test_without_access_times_the_last_change_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a noatime mount a file's access time means nothing."""
    plain = walking.Mounted(number=1, kind="ext4", options=frozenset({"noatime"}))
    monkeypatch.setattr(cleaning, "mounted", lambda fd: plain)
    paths = fill(root, 12)
    os.utime(paths[0], (time.time(), paths[0].stat().st_mtime))
    quota(root).clean()
    assert left(paths) == list(range(4, 12))


# --- telling ----------------------------------------------------------------------------------------------------------


def test_events_are_told_once(root: Path) -> None:
    """The early sign, a cleaning, and a quota that cannot be kept, each when it begins."""
    told: list[Event] = []
    directory = quota(root, tell=told.append)
    steps = []
    for files in (3, 7, 8, 12):
        fill(root, files)
        directory._look_after()
        steps.append([event.name for event in told])
        told.clear()
    assert steps == [[], ["directory.early"], [], ["directory.cleaned"]]
    with (root / "huge").open("wb") as file:
        file.write(b"x" * 11 * FILE_BYTES)
        file.flush()
        age(root / "huge", 10**5)
        directory._look_after()
        directory._look_after()
    over = [event for event in told if event.name == "directory.over"]
    assert len(over) == 1
    assert "1 open" in over[0].text
    assert over[0].attributes["name"] == str(root)


def test_tending_works_on_a_thread_of_its_own(root: Path) -> None:
    """tend() does not clean in the caller's thread, cleans soon, and looks again only after a while."""
    paths = fill(root, 12)
    at = [0.0]
    cleaners: list[int] = []
    directory = quota(root, clock=lambda: at[0], tell=lambda _: cleaners.append(threading.get_ident()))
    directory.tend()
    wait_for(lambda: left(paths) == list(range(4, 12)))
    wait_for(lambda: not directory._errand.busy)
    assert cleaners
    assert threading.get_ident() not in cleaners
    fill(root, 12)
    at[0] = 9.0
    directory.tend()
    assert not directory._errand.busy
    at[0] = 1000.0
    directory.tend()
    wait_for(lambda: left(paths) == list(range(4, 12)))
    directory.close()


def test_a_closed_directory_is_left_alone(root: Path) -> None:
    """After close() nothing is removed any more, also by a cleaning under way."""
    paths = fill(root, 12)
    directory = quota(root)
    directory.close()
    directory.tend()
    assert directory.reclaim(MIB) == 0
    assert not directory._errand.busy
    assert len(left(paths)) == 12


def test_a_relief_comes_back_in_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A census that is cut short does not make the directory look smaller than it is known to be."""
    fill(root, 12)
    directory = quota(root, files=100)
    directory.plan()
    directory._clean(Pace(within_s=0.0), lambda *_: 1 << 40)
    assert directory.held_bytes == 12 * FILE_BYTES


def test_pace_rests_between_slices() -> None:
    """Work with rests takes the processor a fifth of the time, and time that is up ends it."""
    pace = Pace(rest=True)
    began = time.perf_counter()
    while time.perf_counter() - began < 0.1:
        assert pace.step()
    assert 0.0 < pace.worked_s < 0.06
    assert not Pace(within_s=0.0).step()
    pace.stop()
    assert not pace.step()


def test_an_errand_tells_its_failure_next_time() -> None:
    """One at a time; what one raised is raised to whoever starts the next."""
    errand = Errand("test")
    ready = threading.Event()
    assert errand.start(lambda: ready.wait(10.0))
    assert not errand.start(ready.set)
    ready.set()
    wait_for(lambda: not errand.busy)
    assert errand.start(lambda: 1 / 0)
    wait_for(lambda: not errand.busy)
    with pytest.raises(ZeroDivisionError):
        errand.start(ready.set)
    assert errand.start(ready.set)
    wait_for(lambda: not errand.busy)


@pytest.mark.real
def test_other_mounts_inside_are_passed_by(root: Path) -> None:
    """What is mounted inside, also from the same file system, is neither counted nor cleaned."""
    (root / "bind").mkdir()
    (root / "shm").mkdir()
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from memguard.reclaimers.directories import Directory
cleanup = Directory({str(root)!r}, max_bytes=1, min_age_s=0.0).clean()
print(cleanup.files, *cleanup.notes)
"""
    mounts = f"mount --bind {root.parent}/outside {root}/bind && mount -t tmpfs none {root}/shm && touch {root}/shm/x"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mounts} && cd / && exec "$0" -c "$1"', sys.executable, code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode != 0 and "Error" not in done.stderr:
        pytest.skip(f"no mount namespace to be had: {done.stderr.strip()}")
    assert done.stdout.strip() == "0 2 other mounts inside were passed by", done.stderr
    assert (root.parent / "outside" / "precious").exists()


# --- what cannot be meant ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/usr", "/etc/ssl", "/var/log", "~", ".", "..", "", " ", "a\0b"])
def test_dangerous_names_are_refused(path: str) -> None:
    """Nobody registers the root, a home, the program's or Python's own folder by mistake."""
    with pytest.raises(ValueError, match=r"holds .*name the cache directory itself|is no path"):
        Directory(path)


def test_a_home_is_what_people_mean_by_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path like ~/cache is below the home directory, not below a folder of that name."""
    (root / "cache").mkdir()
    monkeypatch.setenv("HOME", str(root))
    assert Directory("~/cache").path == str((root / "cache").resolve())


def test_a_file_is_no_directory(root: Path) -> None:
    """The text names what was given and what to give."""
    (root / "file").write_bytes(b"x")
    with pytest.raises(ValueError, match="is no directory: name the directory that holds the files"):
        Directory(root / "file")


@pytest.mark.parametrize(
    ("options", "error"),
    [({"max_bytes": 0}, ValueError), ({"min_age_s": -1.0}, ValueError), ({"include": "*.tmp"}, TypeError),
     ({"name": " "}, ValueError), ({"at": "high"}, TypeError)],
)  # fmt: skip
def test_options_that_cannot_be_meant(root: Path, options: dict[str, Any], error: type[Exception]) -> None:
    """Each is refused with its name."""
    with pytest.raises(error, match=r"max_bytes|min_age_s|include|name|level"):
        Directory(root, **options)


def test_nested_directories_are_refused(root: Path) -> None:
    """One inside another would count twice; a neighbour with the same beginning is no nesting."""
    (root / "in").mkdir()
    roster = Roster()
    group = directories_of(roster)
    assert group is directories_of(roster)
    handle = group.join(quota(root))
    with pytest.raises(ValueError, match="register the outer one alone"):
        group.join(quota(root / "in"))
    (root.parent / "cache2").mkdir()
    group.join(quota(root.parent / "cache2"))
    handle.close()
    group.join(quota(root / "in"))
