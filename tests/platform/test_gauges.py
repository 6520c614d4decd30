"""Probes and gauges over small trees: what is counted, what is not, and what happens when files go wrong."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from memguard.model import Limit, Vitals
from memguard.probes import children as children_room
from memguard.probes.cgroup import CgroupProbe
from memguard.probes.children import ChildrenProbe
from memguard.probes.files import KeptFile
from memguard.probes.gauges import close_gauges, open_gauges, refresh_gauges
from memguard.probes.limits import find_limits
from memguard.probes.portable import PortableProbe
from memguard.probes.procfs import HostProbe, MappedProbe, TreeProbe
from memguard.probes.vitals import VitalsReader
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
GROUP = "/sys/fs/cgroup/web"
STAT_V2 = (
    "anon 5\nfile 999\ninactive_anon 7\nactive_anon 11\ninactive_file {0}\nactive_file {1}\nunevictable 13\nshmem 400\n"
)

pytestmark = pytest.mark.skipif(not hasattr(os, "pread"), reason="there is no pread here, so psutil reads")


def _plant(root: Path, files: Mapping[str, str]) -> str:
    for path, text in files.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(root)


def _group_v2(root: Path, usage: int = 1000, inactive: int = 100, active: int = 200) -> str:
    return _plant(
        root, {f"{GROUP}/memory.current": f"{usage}\n", f"{GROUP}/memory.stat": STAT_V2.format(inactive, active)}
    )


def _limit(**given: Any) -> Limit:
    return Limit(
        **{"bytes": 2000, "kind": "kill", "source": "test", "usage": "cgroup", "path": GROUP, "version": 2, **given}
    )


def test_page_cache_never_counts_and_shared_memory_does(tmp_path: Path) -> None:
    """Used is usage less both file lists: shmem and the anonymous lists stay in."""
    assert CgroupProbe(GROUP, version=2, root=_group_v2(tmp_path)).read() == 1000 - 100 - 200


def test_v1_takes_the_totals_of_the_subtree(tmp_path: Path) -> None:
    """On v1 the total_ fields count child groups, as usage does; the group's own fields would not."""
    root = _plant(tmp_path, {
        f"{GROUP}/memory.usage_in_bytes": "1000\n",
        f"{GROUP}/memory.stat": "inactive_file 1\nactive_file 2\ntotal_inactive_file 300\ntotal_active_file 400\n",
    })  # fmt: skip
    assert CgroupProbe(GROUP, version=1, root=root).read() == 300


def test_used_is_never_negative(tmp_path: Path) -> None:
    """Usage and memory.stat are read one after the other; page cache above usage gives 0."""
    assert CgroupProbe(GROUP, version=2, root=_group_v2(tmp_path, usage=50)).read() == 0


def test_page_cache_is_read_anew_only_above_the_rung(tmp_path: Path) -> None:
    """Below the rung the last look's page cache serves; from the rung on each reading is exact."""
    root = _group_v2(tmp_path)
    probe = CgroupProbe(GROUP, version=2, exact_above_bytes=1500, root=root)
    assert probe.read() == 1000
    probe.refresh()
    assert probe.read() == 700
    _group_v2(tmp_path, usage=1400, inactive=900)
    assert probe.read() == 1100
    _group_v2(tmp_path, usage=1500, inactive=900)
    assert probe.read() == 400
    _group_v2(tmp_path, usage=1500, inactive=0, active=0)
    assert probe.read() == 1500
    probe.close()


@pytest.mark.parametrize(
    "stat", ["", "anon 5\n", "inactive_file 5\n", "inactive_file lots\nactive_file 5\n", "inactive_file "]
)
def test_a_memory_stat_without_the_fields_is_an_error(tmp_path: Path, stat: str) -> None:
    """Page cache that nobody tells is not taken for 0."""
    root = _plant(tmp_path, {f"{GROUP}/memory.current": "1000\n", f"{GROUP}/memory.stat": stat})
    with pytest.raises(ValueError, match=r"memory\.stat|int"):
        CgroupProbe(GROUP, version=2, root=root).read()


@pytest.mark.parametrize("text", ["", "max\n", "words\n"])
def test_a_usage_that_is_no_number_is_an_error(tmp_path: Path, text: str) -> None:
    """A usage file with anything but a number raises ValueError."""
    root = _group_v2(tmp_path)
    _plant(tmp_path, {f"{GROUP}/memory.current": text})
    with pytest.raises(ValueError, match="int"):
        CgroupProbe(GROUP, version=2, root=root).read()


@pytest.mark.parametrize("text", ["", "\n", "12", "a b c d e f g\n"])
def test_a_malformed_statm_is_an_error(tmp_path: Path, text: str) -> None:
    """Too few fields or words raise ValueError, in every probe of statm."""
    root = _plant(tmp_path, {"/proc/self/statm": text})
    for probe in (TreeProbe(root=root, children=int), MappedProbe("data", root=root)):
        with pytest.raises(ValueError, match=r"statm|int"):
            probe.read()


def test_statm_fields(tmp_path: Path) -> None:
    """Resident, mapped and private pages come from fields 2, 1 and 6."""
    root = _plant(tmp_path, {"/proc/self/statm": "600 500 400 300 0 200 0\n"})
    assert TreeProbe(root=root, children=int).read() == 500 * PAGE
    assert MappedProbe("address-space", root=root).read() == 600 * PAGE
    assert MappedProbe("data", root=root).read() == 200 * PAGE


def test_children_count_since_the_last_refresh(tmp_path: Path) -> None:
    """The tree's reading adds what the children held when they were last looked at."""
    root = _plant(tmp_path, {"/proc/self/statm": "600 500 400 300 0 200 0\n"})
    held = [7]
    probe = TreeProbe(root=root, children=lambda: held[0])
    assert probe.read() == 500 * PAGE
    probe.refresh()
    held[0] = 9
    assert probe.read() == 500 * PAGE + 7


def test_host_usage_leaves_page_cache_out(tmp_path: Path) -> None:
    """The machine's usage is MemTotal less MemAvailable, which already knows what cache can be dropped."""
    text = "MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:     700 kB\nBuffers: 5 kB\n"
    assert HostProbe(root=_plant(tmp_path, {"/proc/meminfo": text})).read() == 300 * 1024


def test_host_without_available_is_an_error(tmp_path: Path) -> None:
    """A kernel before 3.14 tells no MemAvailable: no guess is made from MemFree."""
    root = _plant(tmp_path, {"/proc/meminfo": "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 5 kB\nCached: 5 kB\n"})
    with pytest.raises(ValueError, match="MemAvailable"):
        HostProbe(root=root).read()


def _family(root: Path) -> str:
    """Process 10 (this one, threads 10 and 11) with children 20 and 30; 20 has 40; 99 is somebody else's."""
    kids = {(10, 10): "20 ", (10, 11): "30 ", (20, 20): "40 ", (30, 30): "", (40, 40): ""}
    files = {f"/proc/{pid}/task/{thread}/children": text for (pid, thread), text in kids.items()}
    files |= {f"/proc/{pid}/task/{thread}/stat": "" for pid, thread in kids}
    parents = {10: 1, 20: 10, 30: 10, 40: 20, 99: 1}
    files |= {f"/proc/{pid}/stat": f"{pid} (a ) S 10 (b) S {parent} 1 1\n" for pid, parent in parents.items()}
    files |= {f"/proc/{pid}/statm": f"9 {pid} 4 0 0 0 0\n" for pid in parents}
    _plant(root, files)
    (root / "proc/self").symlink_to("10")
    return str(root)


def test_descendants_of_every_thread_and_depth(tmp_path: Path) -> None:
    """Children of all threads count, and their children, each without its shared pages; strangers do not."""
    probe = ChildrenProbe(root=_family(tmp_path))
    assert sorted(probe.pids()) == [20, 30, 40]
    assert probe.read() == (20 + 30 + 40 - 3 * 4) * PAGE


def test_without_children_files_all_processes_are_scanned(tmp_path: Path) -> None:
    """A kernel without CONFIG_PROC_CHILDREN: the parents in /proc/*/stat tell the same tree."""
    root = _family(tmp_path)
    for file in tmp_path.glob("proc/[0-9]*/task/*/children"):
        file.unlink()
    assert sorted(ChildrenProbe(root=root).pids()) == [20, 30, 40]


@pytest.mark.parametrize("gone", ["20/statm", "20/task/20/children", "20/task/20/stat"])
def test_a_child_that_vanishes_meanwhile_counts_nothing(tmp_path: Path, gone: str) -> None:
    """A process may end between any two reads: no error, and the others still count."""
    root = _family(tmp_path)
    (tmp_path / "proc" / gone).unlink()
    assert ChildrenProbe(root=root).read() >= (30 - 4) * PAGE


def test_children_that_cannot_be_found_are_an_error(tmp_path: Path) -> None:
    """Without any process to look at, the probe says so instead of telling 0."""
    (tmp_path / "proc").mkdir()
    with pytest.raises(OSError, match="process id"):
        ChildrenProbe(root=str(tmp_path)).read()


def test_without_any_child_nothing_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the kernel says has no child costs one call."""
    monkeypatch.setattr(children_room, "_has_children", lambda: False)
    monkeypatch.setattr(ChildrenProbe, "_walk", lambda _: pytest.fail("walked"))
    assert ChildrenProbe().read() == 0


def test_each_limit_gets_the_probe_of_its_measure(tmp_path: Path) -> None:
    """Gauges keep the limits' order; each usage has its own probe."""
    root = _group_v2(tmp_path)
    _plant(tmp_path, {"/proc/self/statm": "600 500 400 300 0 200 0\n"})
    _plant(tmp_path, {"/proc/meminfo": "MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable: 2 kB\n"})
    _plant(tmp_path, {"/proc/self/task/5/children": "", "/proc/self/task/5/stat": ""})
    kinds = ("cgroup", "tree", "address-space", "data", "host")
    gauges = open_gauges([_limit(usage=kind) for kind in kinds], elevated_ratio=0.7, root=root)
    assert [gauge.limit.usage for gauge in gauges] == list(kinds)
    assert [gauge.probe.read() for gauge in gauges] == [700, 500 * PAGE, 600 * PAGE, 200 * PAGE, 7 * 1024]
    close_gauges(gauges)
    close_gauges(gauges)


def test_limits_of_one_level_share_a_probe(tmp_path: Path) -> None:
    """memory.max and memory.high are compared with one usage, exact from the lower of their rungs on."""
    limits = [_limit(), _limit(kind="throttle", bytes=1000)]
    gauges = open_gauges(limits, elevated_ratio=0.7, root=_group_v2(tmp_path, usage=600, inactive=0, active=0))
    assert gauges[0].probe is gauges[1].probe
    _group_v2(tmp_path, usage=700)
    assert gauges[0].probe.read() == 400
    close_gauges(gauges)


@pytest.mark.parametrize(
    "broken",
    [{"path": "/nowhere"}, {"path": None}, {"version": None}, {"version": 3}, {"usage": "host"}, {"path": "/sys"}],
)
def test_what_cannot_be_read_is_left_out_and_told(tmp_path: Path, broken: dict[str, Any]) -> None:
    """A limit whose probe fails is told with its error, and the other limits are watched all the same."""
    root = _group_v2(tmp_path)
    _plant(tmp_path, {"/proc/self/statm": "1 1 1 1 1 1 1\n"})
    (tmp_path / "sys/memory.current").mkdir()
    (tmp_path / "sys/memory.stat").mkdir()
    told: list[tuple[Limit, Exception]] = []
    bad, good = _limit(**broken), _limit()
    gauges = open_gauges([bad, good], elevated_ratio=0.7, root=root, failed=lambda *what: told.append(what))
    assert [gauge.limit for gauge in gauges] == [good]
    assert [limit for limit, _ in told] == [bad]
    assert isinstance(told[0][1], (OSError, ValueError))
    assert open_gauges([bad], elevated_ratio=0.7, root=root) == ()
    close_gauges(gauges)


def test_a_refresh_that_fails_is_told_in_words(tmp_path: Path) -> None:
    """A group that lost its memory.stat fields is told by refresh, which raises nothing."""
    gauges = open_gauges([_limit()], elevated_ratio=0.7, root=_group_v2(tmp_path))
    assert refresh_gauges(gauges) == ()
    _plant(tmp_path, {f"{GROUP}/memory.stat": "anon 1\n"})
    (failure,) = refresh_gauges(gauges)
    assert "cannot be refreshed" in failure
    assert GROUP in failure
    close_gauges(gauges)


def test_without_proc_psutil_reads(tmp_path: Path) -> None:
    """Where there is no /proc, tree and host are read through psutil, and private mappings are told as unreadable."""
    told: list[str] = []
    limits = [_limit(usage=usage) for usage in ("tree", "host", "data")]
    gauges = open_gauges(
        limits, elevated_ratio=0.7, root=str(tmp_path), failed=lambda limit, _: told.append(limit.usage)
    )
    assert all(isinstance(gauge.probe, PortableProbe) for gauge in gauges)
    assert [gauge.limit.usage for gauge in gauges] == ["tree", "host"]
    assert told == ["data"]
    close_gauges(gauges)


def test_psutil_and_statm_agree() -> None:
    """The portable probe and /proc tell the same resident memory, but for what the test itself allocates."""
    tree, portable = TreeProbe(children=int), PortableProbe("tree")
    assert abs(tree.read() - portable.read()) < 8 * MIB


def test_psutil_and_meminfo_agree() -> None:
    """Both probes of the machine leave page cache out; other processes move the number a little."""
    assert abs(HostProbe().read() - PortableProbe("host").read()) < psutil.virtual_memory().total // 20


def test_the_psutil_probe_turns_its_errors_into_os_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """No psutil exception leaves the probe."""

    def fail(*_: object, **__: object) -> None:
        raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(psutil.Process, "memory_info", fail)
    monkeypatch.setattr(psutil.Process, "children", fail)
    probe = PortableProbe("tree")
    with pytest.raises(OSError, match="psutil"):
        probe.read()
    with pytest.raises(OSError, match="psutil"):
        probe.refresh()


def test_a_descriptor_taken_by_somebody_else_is_noticed(tmp_path: Path) -> None:
    """After a foreign close of all descriptors, refresh raises, and close leaves the new owner's file alone."""
    root = _plant(tmp_path, {"/one": "1", "/two": "2"})
    kept = KeptFile(root, "/one")
    number = kept._fd
    os.close(number)
    other = os.open(tmp_path / "two", os.O_RDONLY)
    assert other == number
    with pytest.raises(OSError, match="taken by another file"):
        kept.check()
    kept.close()
    assert os.pread(other, 1, 0) == b"2"
    os.close(other)


def test_closing_leaves_somebody_elses_descriptor_alone(tmp_path: Path) -> None:
    """The same when close comes first: the number now belongs to another file, which stays open."""
    root = _plant(tmp_path, {"/one": "1", "/two": "2"})
    kept = KeptFile(root, "/one")
    os.close(kept._fd)
    other = os.open(tmp_path / "two", os.O_RDONLY)
    kept.close()
    assert os.pread(other, 1, 0) == b"2"
    os.close(other)


def test_the_last_reference_gives_the_descriptor_back(tmp_path: Path) -> None:
    """A probe that is simply dropped leaks no descriptor."""
    kept = KeptFile(_plant(tmp_path, {"/one": "1"}), "/one")
    number = kept._fd
    del kept
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_where_proc_is_missing_the_machine_is_asked_through_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc/meminfo the real machine's size still becomes the host limit."""
    monkeypatch.setattr(
        "memguard.probes.limits.read_file", lambda *_: (_ for _ in ()).throw(FileNotFoundError("/proc"))
    )
    (limit,) = find_limits(environ={}).limits
    assert (limit.kind, limit.bytes) == ("host", psutil.virtual_memory().total)


VITALS = {
    "/proc/self/statm": "1 1 1 1 1 1 1\n",
    "/proc/self/status": "Name:\tVmRSS: 3 kB\nVmHWM:\t     900 kB\nVmRSS:\t     800 kB\n",
    "/proc/meminfo": "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable: 5000 kB\nSwapTotal: 100 kB\nSwapFree: 40 kB\n",
    "/proc/pressure/memory": "some avg10=12.50 avg60=0.00 avg300=0.00 total=3\nfull avg10=1.00 avg60=0.00 total=2\n",
}


def test_vitals_of_a_v2_group(tmp_path: Path) -> None:
    """Page cache, stalls and kills come from the tightest limit's group, the rest from process and machine."""
    _group_v2(tmp_path)
    _plant(tmp_path, VITALS)
    _plant(tmp_path, {
        f"{GROUP}/memory.pressure": "some avg10=50.00 avg60=0.00\nfull avg10=25.00 avg60=0.00\n",
        f"{GROUP}/memory.events": "max 4\noom 2\noom_kill 3\noom_group_kill 0\n",
    })  # fmt: skip
    limits = [_limit(bytes=9, usage="tree", path=None), _limit(), _limit(path="/wider", bytes=3000)]
    assert VitalsReader(limits, root=str(tmp_path)).read(at=5.0, children_bytes=7) == Vitals(
        at=5.0, rss_bytes=800 * 1024, children_bytes=7, page_cache_bytes=300, available_bytes=5000 * 1024,
        swap_used_bytes=60 * 1024, swap_total_bytes=100 * 1024, peak_bytes=900 * 1024, psi_some_ratio=0.5,
        psi_full_ratio=0.25, oom_kills=3,
    )  # fmt: skip


def test_v1_kills_are_summed_over_the_groups_below(tmp_path: Path) -> None:
    """v1 counts a kill in the victim's own group, so the limit's group alone would show 0."""
    _plant(tmp_path, VITALS)
    _plant(tmp_path, {
        f"{GROUP}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
        f"{GROUP}/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        f"{GROUP}/a/b/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
        f"{GROUP}/memory.stat": "total_inactive_file 1\ntotal_active_file 2\n",
    })  # fmt: skip
    seen = VitalsReader(group=GROUP, group_version=1, root=str(tmp_path)).read(at=0.0)
    assert (seen.oom_kills, seen.page_cache_bytes, seen.psi_some_ratio) == (5, 3, 0.125)


@pytest.mark.parametrize("version", [None, 1, 2])
def test_vitals_that_nobody_tells_are_none(tmp_path: Path, version: int | None) -> None:
    """With nothing readable every vital is None, and nothing raises."""
    _plant(tmp_path, {"/proc/self/statm": "1 1 1 1 1 1 1\n"})
    (tmp_path / "proc/meminfo").mkdir()
    group = None if version is None else GROUP
    assert VitalsReader(group=group, group_version=version, root=str(tmp_path)).read(at=1.0) == Vitals(at=1.0)


def test_vitals_without_proc_come_through_psutil(tmp_path: Path) -> None:
    """On macOS and Windows: resident memory, available memory and swap."""
    seen = VitalsReader(root=str(tmp_path)).read(at=1.0)
    assert seen.rss_bytes is not None
    assert seen.rss_bytes > MIB
    assert seen.available_bytes is not None
    assert seen.swap_total_bytes is not None
    assert seen.oom_kills is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads the real /proc")
def test_vitals_of_this_machine() -> None:
    """On a real Linux the process's own vitals are there and make sense."""
    seen = VitalsReader().read(at=1.0)
    assert seen.rss_bytes is not None
    assert seen.peak_bytes is not None
    assert seen.available_bytes is not None
    assert MIB < seen.rss_bytes <= seen.peak_bytes + 8 * MIB
    assert seen.available_bytes > MIB
