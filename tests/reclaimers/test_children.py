"""Children under a quota: the right ones are watched, asked and killed, and nobody else ever is."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from memguard.model import Event, Level
from memguard.ports import Reclaimer
from memguard.reclaimers import processes
from memguard.reclaimers.children import Child, limit_child, watch_child
from memguard.reclaimers.processes import Process, family, identify, processes_now, send
from memguard.roster import Roster
from memguard.units import MIB
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT = "print('ready', flush=True); sys.stdin.read()"
HOLD = f"hold = bytearray(b'x') * ({40 * MIB}); {WAIT}"
DEAF = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}"
# The middle one ends at once, and leaves its child to whoever adopts it.
ORPHAN = """
middle = "import os, sys; print(os.spawnl(os.P_NOWAIT, '/bin/sh', 'sh', '-c', 'exec sleep 60 >&- 2>&-'))"
print(subprocess.run([sys.executable, "-c", middle], capture_output=True, text=True).stdout.strip(), flush=True)
sys.stdin.read()
"""
FAMILY = f"""
child = subprocess.Popen([sys.executable, "-c", "import sys; x = bytearray(b'x') * {30 * MIB}; sys.stdin.read()"])
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python programs that have said something, and ends them after the test."""
    with contextlib.ExitStack() as stack:

        def begin(code: str, **options: Any) -> subprocess.Popen[str]:
            prelude = "import os, signal, subprocess, sys, time\n"
            popen = subprocess.Popen(
                [sys.executable, "-c", prelude + textwrap.dedent(code)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options,
            )  # fmt: skip
            stack.callback(_end, popen)
            assert popen.stdout is not None
            popen.said = popen.stdout.readline().strip()  # type: ignore[attr-defined]
            return popen

        yield begin


def _end(popen: subprocess.Popen[str]) -> None:
    popen.kill()
    with contextlib.suppress(OSError, ValueError):
        popen.communicate(timeout=10)


def alive(pid: int) -> bool:
    """Whether a process of that number runs."""
    seen = identify(pid)
    return seen is not None and not seen.ended


# --- who it is --------------------------------------------------------------------------------------------------------


def test_every_kind_of_process_is_taken(start: Callable[..., subprocess.Popen[str]]) -> None:
    """A Popen, a psutil process, its number, and multiprocessing's."""
    popen = start(WAIT)
    for process in (popen, psutil.Process(popen.pid), popen.pid):
        child = Child(process, max_bytes=MIB)
        assert isinstance(child, Reclaimer)
        assert child.root.pid == popen.pid
        assert (child.name, child.cost, child.at) == (f"child {popen.pid}", "last", Level.EMERGENCY)
    context = multiprocessing.get_context("spawn")
    gate = context.Event()
    worker = context.Process(target=gate.wait)
    with pytest.raises(TypeError, match=r"is no running process: start\(\) it first"):
        Child(worker, max_bytes=MIB)
    worker.start()
    assert Child(worker, max_bytes=MIB).root.pid == worker.pid
    gate.set()
    worker.join()
    with pytest.raises(ValueError, match="has ended already"):
        Child(worker, max_bytes=MIB)


def test_an_asyncio_subprocess_is_taken() -> None:
    """It is watched and ended, and its exit status stays the loop's to fetch."""

    async def main() -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import sys; sys.stdin.read()", stdin=asyncio.subprocess.PIPE
        )
        child = Child(process, max_bytes=MIB)
        assert await asyncio.to_thread(child.terminate)
        code = await process.wait()
        with pytest.raises(ValueError, match="has ended already"):
            Child(process, max_bytes=MIB)
        return code

    assert asyncio.run(main()) == -signal.SIGTERM


@pytest.mark.parametrize("process", [None, "123", 1.5, True, object()])
def test_what_is_no_process_is_refused(process: object) -> None:
    """In words that say what to give."""
    with pytest.raises(TypeError, match="is no running process: give a Popen"):
        Child(process, max_bytes=MIB)


@pytest.mark.parametrize(
    "pid",
    [0, -1, 1, pytest.param(os.getpid(), id="own"), pytest.param(os.getppid(), id="parent"), 2**22 + 1],
)
def test_only_children_may_be_registered(pid: int) -> None:
    """Never this process, one above it, or nobody's number."""
    with pytest.raises(ValueError, match=r"only children|has ended already"):
        Child(pid, max_bytes=MIB)


def test_strangers_are_refused(start: Callable[..., subprocess.Popen[str]]) -> None:
    """A process that was left to somebody else is nobody's child of ours."""
    orphan = int(start(ORPHAN).said)  # type: ignore[attr-defined]
    try:
        with pytest.raises(ValueError, match="is no child of this process"):
            Child(orphan, max_bytes=MIB)
    finally:
        os.kill(orphan, signal.SIGKILL)


@pytest.mark.parametrize("options", [{"max_bytes": 0}, {"grace_s": -1.0}, {"name": " "}, {"at": "high"}])
def test_options_that_cannot_be_meant(start: Callable[..., subprocess.Popen[str]], options: dict[str, Any]) -> None:
    """Each is refused with its name."""
    with pytest.raises((ValueError, TypeError), match=r"max_bytes|grace_s|name|level"):
        Child(start(WAIT), **{"max_bytes": MIB, **options})


def test_a_number_given_anew_is_not_the_same_process(start: Callable[..., subprocess.Popen[str]]) -> None:
    """A process that has got the number of a child since is neither watched nor signalled."""
    popen = start(WAIT)
    child = Child(popen, max_bytes=MIB)
    stranger = child.root
    child.root = Process(pid=stranger.pid, started=stranger.started - 1, parent=1, group=1, session=1, ended=False)
    child._known = {child.root.pid: child.root}
    assert child.look() == ()
    assert not send(child.root, signal.SIGKILL)
    child.terminate()
    assert popen.poll() is None


def test_without_pidfds_the_start_time_decides(
    start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an old kernel, too, only the very process is signalled."""

    def missing(pid: int) -> int:
        raise OSError(38, "no such call")

    monkeypatch.setattr(os, "pidfd_open", missing)
    popen = start(WAIT)
    seen = identify(popen.pid)
    assert seen is not None
    changed = Process(pid=seen.pid, started=seen.started + 1, parent=1, group=1, session=1, ended=False)
    assert not send(changed, signal.SIGKILL)
    assert popen.poll() is None
    assert send(seen, signal.SIGTERM)
    assert popen.wait(10) == -signal.SIGTERM
    assert not send(seen, signal.SIGTERM)


# --- the tree ---------------------------------------------------------------------------------------------------------


def test_the_whole_tree_counts(start: Callable[..., subprocess.Popen[str]]) -> None:
    """What a grandchild holds is the child's."""
    popen = start(FAMILY)
    child = Child(popen, max_bytes=1000 * MIB)
    assert child.size() is None
    inner = int(popen.said)  # type: ignore[attr-defined]
    wait_for(lambda: child.look() and (child.held_bytes or 0) > 30 * MIB)
    assert set(child.pids) == {popen.pid, inner}
    assert child.size() == child.held_bytes
    assert child.terminate()
    assert not alive(inner)
    assert popen.wait(10) == -signal.SIGTERM


def test_shared_pages_count_once(start: Callable[..., subprocess.Popen[str]]) -> None:
    """Four forks of a process of 40 MiB hold little more than 40 MiB together, measured when it matters."""
    popen = start(f"""
        hold = bytearray(b"x") * {40 * MIB}
        for _ in range(4):
            if os.fork() == 0:
                time.sleep(60)
        print("ready", flush=True)
        time.sleep(60)
    """)
    child = Child(popen, max_bytes=100 * MIB)
    child.look()
    assert len(child.pids) == 5
    assert child.held_bytes is not None
    assert 40 * MIB < child.held_bytes < 80 * MIB
    assert child.terminate()


def test_orphans_that_were_seen_stay(start: Callable[..., subprocess.Popen[str]]) -> None:
    """A descendant whose parent has ended still counts, is listed and told once, and ends with the tree."""
    popen = start("""
        inner = subprocess.Popen([sys.executable, "-c", '''if 1:
            import subprocess, sys
            deep = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
            print(deep.pid, flush=True)
            sys.stdin.read()
        '''], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        print(inner.stdout.readline().strip(), flush=True)
        sys.stdin.readline()
        inner.communicate()
        print("orphaned", flush=True)
        sys.stdin.read()
    """)
    told: list[Event] = []
    child = Child(popen, max_bytes=1000 * MIB, tell=told.append)
    orphan = int(popen.said)  # type: ignore[attr-defined]
    assert orphan in child.look()
    assert popen.stdin is not None
    assert popen.stdout is not None
    popen.stdin.write("\n")
    popen.stdin.flush()
    popen.stdout.readline()
    child._look_after()
    child._look_after()
    assert child.orphans == (orphan,)
    assert [event.name for event in told] == ["child.orphans"]
    assert str(orphan) in told[0].text
    assert child.terminate()
    assert not alive(orphan)


def test_orphans_of_a_session_are_found(start: Callable[..., subprocess.Popen[str]]) -> None:
    """A child with a session of its own keeps even those whom nobody saw before their parents ended."""
    popen = start(ORPHAN, start_new_session=True)
    orphan = int(popen.said)  # type: ignore[attr-defined]
    child = Child(popen, max_bytes=1000 * MIB)
    assert set(child.look()) == {popen.pid, orphan}
    _end(popen)
    assert set(child.look()) == {orphan}
    assert child.terminate()
    assert not alive(orphan)


def test_a_family_never_holds_us() -> None:
    """Whatever a table of processes says, this process and those above it do not belong to a child."""
    table = dict(processes_now())
    mine = table[os.getpid()]
    child = Process(pid=2**22 + 7, started=mine.started + 1, parent=mine.pid, group=0, session=0, ended=False)
    table[child.pid] = child
    above = table[mine.parent]
    led = Process(pid=mine.pid, started=child.started, parent=above.pid, group=child.pid, session=0, ended=False)
    assert set(family(child, (led, above), {**table, mine.pid: led})) == {child.pid}


def test_zombies_are_seen_and_only_our_own_fetched(start: Callable[..., subprocess.Popen[str]]) -> None:
    """The exit status of a Popen stays its owner's; the child's own zombies are left to it."""
    popen = start("""
        inner = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, inner.pid, os.WEXITED | os.WNOWAIT)
        print(inner.pid, flush=True)
        sys.stdin.read()
    """)
    child = Child(popen, max_bytes=1000 * MIB)
    child.look()
    assert child.zombies == (int(popen.said),)  # type: ignore[attr-defined]
    popen.kill()
    os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
    child.look()
    assert popen.returncode == -signal.SIGKILL
    plain = start(WAIT)
    child = Child(plain.pid, max_bytes=1000 * MIB)
    plain.kill()
    os.waitid(os.P_PID, plain.pid, os.WEXITED | os.WNOWAIT)
    assert child.look() == ()
    assert plain.wait(10) == -signal.SIGKILL


# --- ending -----------------------------------------------------------------------------------------------------------


def test_too_large_for_too_long(start: Callable[..., subprocess.Popen[str]]) -> None:
    """A spike is only told; a child that stays above its quota is told to end, and leaves the roster."""
    popen, at, told = start(HOLD), [0.0], list[Event]()
    child = Child(popen, max_bytes=20 * MIB, tell=told.append, clock=lambda: at[0])
    roster = Roster()
    handle = watch_child(roster, child)
    child._look_after()
    assert [event.name for event in told] == ["child.over"]
    child.max_bytes = 1000 * MIB
    at[0] = 2.0
    child._look_after()
    child.max_bytes = 20 * MIB
    at[0] = 4.0
    child._look_after()
    at[0] = 6.9
    child._look_after()
    assert popen.poll() is None
    at[0] = 7.0
    child._look_after()
    assert popen.wait(10) == -signal.SIGTERM
    assert [event.name for event in told] == ["child.over", "child.over", "child.killed"]
    assert "SIGTERM" in told[-1].text
    assert handle.closed
    assert child.ended
    assert roster.entries() == ()


def test_who_does_not_end_is_killed(start: Callable[..., subprocess.Popen[str]]) -> None:
    """After the grace, SIGKILL."""
    popen, told = start(DEAF), list[Event]()
    child = Child(popen, max_bytes=MIB, grace_s=0.2, tell=told.append)
    assert child.terminate("asked")
    assert popen.wait(10) == -signal.SIGKILL
    assert "SIGKILL" in told[-1].text


def test_only_telling(start: Callable[..., subprocess.Popen[str]]) -> None:
    """With end=False it is only told of, once."""
    popen, at, told = start(HOLD), [0.0], list[Event]()
    child = Child(popen, max_bytes=MIB, end=False, tell=told.append, clock=lambda: at[0])
    for at[0] in (0.0, 10.0, 20.0):
        child._look_after()
    assert popen.poll() is None
    assert [event.name for event in told] == ["child.over"]


def test_a_last_resort(start: Callable[..., subprocess.Popen[str]]) -> None:
    """Asked for memory it ends the tree whole and claims what that held; asked for none it does nothing."""
    popen = start(HOLD)
    child = Child(popen, max_bytes=1000 * MIB)
    assert child.reclaim(0) == 0
    claimed = child.reclaim(1)
    assert 40 * MIB < claimed < 60 * MIB
    assert popen.wait(10) == -signal.SIGTERM
    assert (child.size(), child.reclaim(1)) == (0, 0)


def test_not_for_others(start: Callable[..., subprocess.Popen[str]]) -> None:
    """One that is not sheddable is never ended because the service needs memory."""
    popen = start(HOLD)
    child = Child(popen, max_bytes=1000 * MIB, sheddable=False)
    child.look()
    assert (child.size(), child.reclaim(1)) == (0, 0)
    assert popen.poll() is None


def test_a_fork_of_ours_leaves_its_siblings_alone(
    start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a forked worker the parent's children are nobody's to end."""
    popen = start(HOLD)
    child = Child(popen, max_bytes=MIB)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 12345)
        child.tend()
        assert (child.size(), child.reclaim(1), child.terminate()) == (0, 0, False)
    assert popen.poll() is None


def test_one_that_ends_by_itself_signs_off(start: Callable[..., subprocess.Popen[str]]) -> None:
    """tend() works on a thread, notices the end, and closes the handle without a word of killing."""
    popen, told = start(WAIT), list[Event]()
    roster = Roster()
    handle = watch_child(roster, Child(popen, max_bytes=1000 * MIB, tell=told.append))
    popen.communicate()

    def tended() -> bool:
        for _, reclaimer in roster.entries():
            reclaimer.tend()  # type: ignore[attr-defined]
        return handle.closed

    wait_for(tended)
    assert told == []


def test_closing_a_handle_ends_nobody(start: Callable[..., subprocess.Popen[str]]) -> None:
    """To close is to stop watching."""
    popen = start(WAIT)
    handle = watch_child(Roster(), Child(popen, max_bytes=MIB))
    handle.close()
    assert popen.poll() is None


def test_what_has_no_smaps_counts_as_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's process, or one that has ended, gives what can be read."""
    assert processes.proportional_bytes(2**22 + 1) == 0
    assert processes.resident_bytes(2**22 + 1) == 0
    assert 0 < processes.private_bytes(os.getpid()) < processes.resident_bytes(os.getpid())
    assert identify(2**22 + 1) is None


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_limit_from_outside(start: Callable[..., subprocess.Popen[str]]) -> None:
    """limit_child() makes an allocation in the running child fail, tells the old limits, and leaves the hard ones."""
    popen = start("""
        print("ready", flush=True)
        for line in sys.stdin:
            try:
                size = len(bytearray(300 << 20))
            except MemoryError:
                size = 0
            print(size, flush=True)
    """)

    def ask() -> int:
        assert popen.stdin is not None
        assert popen.stdout is not None
        popen.stdin.write("\n")
        popen.stdin.flush()
        return int(popen.stdout.readline())

    assert ask() == 300 << 20
    before = limit_child(popen, data_bytes="200MiB")
    assert ask() == 0
    assert resource.prlimit(popen.pid, resource.RLIMIT_DATA) == (200 * MIB, before["RLIMIT_DATA"][1])
    for name, limits in before.items():
        resource.prlimit(popen.pid, getattr(resource, name), limits)
    assert ask() == 300 << 20
    limit_child(popen, address_bytes="300MiB")
    assert ask() == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [({}, "give data_bytes"), ({"data_bytes": 4096}, "less than the .* that it has mapped"),
     ({"data_bytes": "much"}, "amount of memory"), ({"address_bytes": "1000MiB"}, "above its hard limit")],
)  # fmt: skip
def test_limits_that_cannot_be_meant(
    start: Callable[..., subprocess.Popen[str]], options: dict[str, Any], error: str
) -> None:
    """Each is refused, and nothing is set."""
    popen = start(WAIT)
    resource.prlimit(popen.pid, resource.RLIMIT_AS, (900 * MIB, 900 * MIB))
    before = resource.prlimit(popen.pid, resource.RLIMIT_DATA)
    with pytest.raises(ValueError, match=error):
        limit_child(popen, **options)
    assert resource.prlimit(popen.pid, resource.RLIMIT_DATA) == before
