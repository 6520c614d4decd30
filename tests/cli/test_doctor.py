"""The doctor finds what is planted, says nothing of what is good, and tells by its status which it was."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memguard.cli import checks, doctor
from memguard.cli.checks import Finding, check_surroundings
from memguard.cli.leaky import LEAKY, known_leaks
from memguard.cli.surroundings import allocator_of, look_around
from memguard.cli.workforce import find_workforce
from memguard.errors import MemguardError
from memguard.units import GIB, MIB
from tests.cli.trees import GOOD, plant

if TYPE_CHECKING:
    from collections.abc import Mapping


V1 = "4:memory:/\n"
V1_MOUNT = "30 23 0:26 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
LIMITS = "Max address space         {}     unlimited     bytes\nMax data size             {}     unlimited   bytes\n"
NO_V2 = dict.fromkeys([path for path in GOOD if path.startswith("sys/fs/cgroup/")])
V1_TREE: Mapping[str, str | None] = {
    **NO_V2,
    "proc/self/mountinfo": V1_MOUNT,
    "proc/self/cgroup": V1,
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{512 * MIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{120 * MIB}\n",
    "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\ntotal_active_file 0\n",
    "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
}

BAD: dict[str, tuple[Mapping[str, str | None], dict[str, str]]] = {
    "limit-invisible": ({"sys/fs/cgroup/memory.max": "max\n"}, {}),
    "policy-above-limit": ({}, {"API_MAX_MEMORY_MB": "2048"}),
    "gc-threshold-above-limit": ({}, {"API_GC_THRESHOLD_MB": "900"}),
    "throttled": ({"sys/fs/cgroup/memory.high": f"{400 * MIB}\n"}, {}),
    "rlimit-as": ({"proc/self/limits": LIMITS.format(4 * GIB, "unlimited")}, {}),
    "rlimit-data": ({"proc/self/limits": LIMITS.format("unlimited", 1 * GIB)}, {}),
    "huge-pages": ({"sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n"}, {}),
    "arenas": ({"sys/devices/system/cpu/online": "0-63\n"}, {}),
    "files-in-memory": (
        {"proc/self/mountinfo": GOOD["proc/self/mountinfo"] + "40 23 0:30 / /tmp rw - tmpfs tmpfs rw\n"},
        {},
    ),
    "workers-too-many": ({}, {"WEB_CONCURRENCY": "12"}),
    "workers-unreadable": ({}, {"WEB_CONCURRENCY": "auto"}),
    "debugging": ({}, {"PYTHONTRACEMALLOC": "25"}),
    "overcommit-strict": ({"proc/sys/vm/overcommit_memory": "2\n"}, {}),
    "swap-full": (
        {"proc/meminfo": GOOD["proc/meminfo"].replace("SwapTotal: 0", "SwapTotal: 1000").replace("Free: 0", "Free: 9")},
        {},
    ),
    "killed-before": ({"sys/fs/cgroup/memory.events": "oom_kill 3\n"}, {}),
    "nearly-full": ({"sys/fs/cgroup/memory.current": f"{510 * MIB}\n"}, {}),
    "kill-off": ({**V1_TREE, "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 1\nunder_oom 0\n"}, {}),
    "musl": ({"proc/self/maps": "7f00-7f01 r-xp 0 08:01 4  /lib/ld-musl-x86_64.so.1\n"}, {}),
    "preload-missing": ({}, {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}),
    "setting-wrong": ({}, {"MEMORY_ALERT_THRESHOLD": "hot"}),
    "setting-misspelt": ({}, {"API_MAX_MEMORY": "400"}),
    "no-limit": (
        {"proc/self/mountinfo": "32 23 0:28 / / rw - overlay overlay rw\n", "proc/self/cgroup": None, **NO_V2},
        {},
    ),
    "limit-above-machine": ({"sys/fs/cgroup/memory.max": f"{64 * GIB}\n"}, {}),
}

GOOD_ONES: dict[str, tuple[Mapping[str, str | None], dict[str, str]]] = {
    "docker, two workers": ({}, {"WEB_CONCURRENCY": "2", "PATH": "/usr/bin", "PYTHONUNBUFFERED": "1"}),
    "cgroup v1, gunicorn": (V1_TREE, {"GUNICORN_CMD_ARGS": "--workers=3 --bind 0.0.0.0:8000", "MALLOC_ARENA_MAX": "2"}),
    "a pod whose limit is told, jemalloc, many CPUs": (
        {
            "sys/fs/cgroup/memory.max": "max\n",
            "sys/devices/system/cpu/online": "0-63\n",
            "proc/self/maps": "a r-xp 0 0 4 /usr/lib/libjemalloc.so.2\nb r-xp 0 0 5 /usr/lib/libc.so.6\n",
            "usr/lib/libjemalloc.so.2": "",
        },
        {"API_MAX_MEMORY_MB": "1800", "LD_PRELOAD": "/usr/lib/libjemalloc.so.2", "PYTHONMALLOC": "pymalloc"},
    ),
}


def _look(capsys: pytest.CaptureFixture[str], root: str, environ: dict[str, str], *more: str) -> tuple[int, Any]:
    status = doctor.main(["--json", *more], root=root, environ=environ)
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", BAD)
def test_what_is_planted_is_found(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each bad set-up gives its finding and no other, with what, why and the mend, and status 1."""
    changes, environ = BAD[name]
    status, told = _look(capsys, plant(tmp_path, changes), environ)
    names = [one["name"] for one in told["findings"]]
    assert names == [name]
    assert all(one["what"] and one["why"] and one["mend"] for one in told["findings"])
    assert status == told["status"] == 1


@pytest.mark.parametrize("name", GOOD_ONES)
def test_of_what_is_good_nothing_is_said(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good set-up has no finding, and the status says so."""
    changes, environ = GOOD_ONES[name]
    status, told = _look(capsys, plant(tmp_path, changes), environ)
    assert told["findings"] == []
    assert status == told["status"] == 0


def test_every_planted_thing_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad things do not hide one another: ten at once are ten findings, the severe ones first."""
    wanted = {
        "policy-above-limit", "throttled", "rlimit-as", "huge-pages", "arenas", "workers-too-many", "debugging",
        "overcommit-strict", "swap-full", "preload-missing",
    }  # fmt: skip
    changes = {path: text for name in wanted for path, text in BAD[name][0].items()}
    environ = {key: value for name in wanted for key, value in BAD[name][1].items()}
    status, told = _look(capsys, plant(tmp_path, changes), environ)
    assert {one["name"] for one in told["findings"]} == wanted
    ranks = [("severe", "warning", "note").index(one["severity"]) for one in told["findings"]]
    assert ranks == sorted(ranks)
    assert status == 1


def test_a_finding_can_be_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--ignore leaves a finding out, of the status too."""
    root = plant(tmp_path, BAD["huge-pages"][0])
    assert _look(capsys, root, {}, "--ignore", "huge-pages") == (
        0,
        {**_look(capsys, root, {})[1], "findings": [], "status": 0},
    )


def test_text_is_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As text nothing is wider than 80 columns, the limit comes first, and nothing goes to stderr."""
    changes = {path: text for planted, _ in BAD.values() for path, text in planted.items() if text is not None}
    assert doctor.main(["--workers", "12"], root=plant(tmp_path, changes), environ={"API_MAX_MEMORY_MB": "9000"}) == 1
    told = capsys.readouterr()
    assert told.err == ""
    assert max(map(len, told.out.splitlines())) <= 80
    assert told.out.startswith("limit ")
    assert "mend" in told.out


def test_a_good_one_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to mend is said in so many words."""
    assert doctor.main([], root=plant(tmp_path), environ={}) == 0
    assert capsys.readouterr().out.rstrip().endswith("nothing to mend")


def test_another_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--pid reads that process's environment, command line, threads and allocator, not ours."""
    changes = {path.replace("proc/self", "proc/77"): text for path, text in GOOD.items()}
    changes["proc/77/environ"] = "WEB_CONCURRENCY=2\0MALLOC_ARENA_MAX=2\0"
    changes["proc/77/cmdline"] = "gunicorn\0-w\0009\0app:main\0"
    status, told = _look(capsys, plant(tmp_path, changes), {"PYTHONTRACEMALLOC": "25"}, "--pid", "77")
    assert [one["name"] for one in told["findings"]] == ["workers-too-many"]
    assert told["facts"]["workers"] == 9
    assert told["facts"]["threads"] == 9
    assert status == 1


def test_a_process_that_is_not_there(tmp_path: Path) -> None:
    """--pid of nobody is an error in words, which the command line turns into status 2."""
    with pytest.raises(MemguardError, match="process 78 cannot be looked at"):
        doctor.main(["--pid", "78"], root=plant(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [["--workers", "0"], ["app", "--app", "other"], ["app", "--pid", "1"], ["--timeout", "soon"], ["--nope"]],
)
def test_calls_that_make_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong call ends with 2 and says what was wrong."""
    with pytest.raises(SystemExit) as ended:
        doctor.main(arguments)
    assert ended.value.code == 2
    assert "memguard doctor: error:" in capsys.readouterr().err


def test_nothing_readable_is_no_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a machine without /proc and /sys the doctor still ends in an orderly way."""
    status, told = _look(capsys, str(tmp_path), {})
    assert [one["name"] for one in told["findings"]] == ["no-limit"]
    assert status == 1


@pytest.mark.parametrize(
    ("maps", "name"),
    [
        (b"/usr/lib/libjemalloc.so.2\n/lib/libc.so.6\n", "jemalloc"),
        (b"/lib/libc.so.6\n/usr/lib/libmimalloc-secure.so.2.1\n", "mimalloc"),
        (b"/usr/lib/libtcmalloc_minimal.so.4\n", "tcmalloc"),
        (b"/lib/libc.musl-x86_64.so.1\n", "musl"),
        (b"/lib/x86_64-linux-gnu/libc-2.31.so\n", "glibc"),
        (b"/usr/lib/libcrypto.so.3\n", None),
    ],
)
def test_allocators_by_what_is_mapped(maps: bytes, name: str | None) -> None:
    """The allocator is told by the libraries that a process has mapped, a preloaded one before the C library's."""
    assert allocator_of(maps) == name


@pytest.mark.parametrize(
    ("environ", "command", "count"),
    [
        ({}, (), 1),
        ({"WEB_CONCURRENCY": "3"}, (), 3),
        ({"WEB_CONCURRENCY": "3", "GUNICORN_CMD_ARGS": "-w 5 --bind :80"}, (), 5),
        ({"GUNICORN_CMD_ARGS": "--workers=7"}, (), 7),
        ({"WEB_CONCURRENCY": "3"}, ("uvicorn", "app:main", "--workers", "4"), 4),
        ({}, ("gunicorn", "-w6", "app"), 6),
        ({"UVICORN_WORKERS": "2"}, (), 2),
    ],
)
def test_how_many_workers(environ: dict[str, str], command: tuple[str, ...], count: int) -> None:
    """The command line goes before gunicorn's variable, and that before WEB_CONCURRENCY."""
    assert find_workforce(environ, command=command).count == count


@pytest.mark.parametrize("value", ["0", "-2", "two", "2.5", "1e3"])
def test_numbers_of_workers_that_are_none(value: str) -> None:
    """What is no number of workers is told, not guessed."""
    assert value in find_workforce({"WEB_CONCURRENCY": value}).wrong
    assert "GUNICORN_CMD_ARGS" in find_workforce({"GUNICORN_CMD_ARGS": "'open"}).wrong


@pytest.mark.parametrize("leak", LEAKY, ids=lambda leak: f"{leak.package}-{leak.fixed}")
def test_leaky_versions(leak: Any) -> None:
    """The version before the mend is found, under any spelling of its name; the mended one and newer are not."""
    known = {told.fixed for told, _ in known_leaks({leak.package.replace("-", "_").upper(): leak.since or "0.0.1"})}
    assert leak.fixed in known
    assert leak not in [told for told, _ in known_leaks({leak.package: leak.fixed})]
    assert known_leaks({leak.package: "999.1"}) == ()
    assert leak in [told for told, _ in known_leaks({leak.package: leak.fixed + "rc1"})]
    assert known_leaks({leak.package: "unknown"}) == ()


def test_a_leaky_package_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed version that is known to leak is a finding with the command that mends it."""
    monkeypatch.setattr(doctor, "installed_packages", lambda: {"aiohttp": "3.10.9", "orjson": "3.10.0"})
    status, told = _look(capsys, plant(tmp_path), {})
    assert [(one["name"], one["mend"]) for one in told["findings"]] == [
        ("leaky-package", "pip install 'aiohttp>=3.10.11'")
    ]
    assert status == 1


def test_a_temporary_directory_elsewhere(tmp_path: Path) -> None:
    """TMPDIR is looked at too, and a mount's blanks are read as the kernel writes them."""
    mounts = GOOD["proc/self/mountinfo"] + "41 23 0:31 / /scratch\\040space rw - tmpfs tmpfs rw,size=2g\n"
    environ = {"TMPDIR": "/scratch space/x"}
    around = look_around(environ=environ, root=plant(tmp_path, {"proc/self/mountinfo": mounts}))
    assert [(one.point, one.max_bytes) for one in around.tmpfs] == [("/dev/shm", 64 * MIB), ("/scratch space", 2 * GIB)]  # noqa: S108


def test_findings_are_values() -> None:
    """A finding cannot be changed once it is made."""
    one = Finding(severity="note", name="n", what="w", why="y", mend="m")
    with pytest.raises(AttributeError):
        one.name = "other"  # type: ignore[misc]


def test_every_oddity_of_a_limit_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Of all the trees with odd limits each note becomes a finding, unless the operator has told the limit himself."""
    trees = Path(__file__).parents[1] / "platform" / "trees"
    for tree in sorted(trees.iterdir()):
        around = look_around(environ={}, root=str(tree))
        told = [one.what.lower() for one in check_surroundings(around)]
        assert all(note.lower() in told for note in around.limits.notes), tree.name


def test_every_finding_is_in_the_manual() -> None:
    """The page on the command line names each finding that the sources can make, and no other."""
    sources = [file.read_text() for file in Path(doctor.__file__).parent.glob("*.py")]
    names = {name for text in sources for name in re.findall(r'severity="[a-z]+",\s+name="([a-z-]+)"', text)}
    names |= {row[2] for row in checks._NOTES}
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    table = page[page.index("| finding |") : page.index("The number of workers")]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
    assert told == names


@settings(max_examples=60)
@given(
    contents=st.lists(
        st.binary(max_size=120) | st.text("0123456789 kB:/.=,-\n", max_size=80).map(str.encode),
        min_size=len(GOOD),
        max_size=len(GOOD),
    )
)
def test_no_content_makes_it_raise(contents: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the kernel's files hold, the doctor ends with 0 or 1 and words that print."""
    root = tmp_path_factory.mktemp("fuzz")
    for (path, good), content in zip(GOOD.items(), contents, strict=True):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(good.encode()[: len(content) // 2] + content)
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        assert doctor.main(["--json"], root=str(root), environ={"TMPDIR": "/tmp/x"}) in {0, 1}  # noqa: S108 - no file
        assert doctor.main([], root=str(root), environ={}) in {0, 1}
    told.getvalue().encode("utf-8")
    shutil.rmtree(root)
