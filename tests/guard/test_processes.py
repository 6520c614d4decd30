"""Forked and spawned children, exits without a stop, and gevent: each in a process of its own, warnings as errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PRELUDE = """
import logging, os, sys, threading, time
from memguard.guard import Guard
from memguard.roster import Roster

logging.getLogger("memguard").addHandler(logging.NullHandler())  # on standard error only what should not be there

def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""
# From 3.12 on Python warns of any fork while threads run, which a forking server with a guard does on purpose.
_FORKING = "ignore:This process:DeprecationWarning"


def run(script: str, *options: str, seconds: float = 60.0) -> str:
    """Run a script in a fresh interpreter where every warning is an error; its output."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-W", _FORKING, *options, "-c", _PRELUDE + dedent(script)],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return done.stdout


def test_a_forked_child_is_guarded_anew() -> None:
    """The child's guard runs when the parent's ran, with its own thread, and reads the child's own memory."""
    out = run("""
        guard = Guard(limit="2GiB", roster=Roster()).start()
        wait_for(lambda: guard.snapshot.reading)
        ballast = None
        pid = os.fork()
        if pid == 0:
            try:
                assert guard.running
                wait_for(lambda: guard.snapshot.reading)
                ballast = bytearray(os.urandom(1)) * (150 << 20)
                wait_for(lambda: abs(guard.snapshot.reading.used_bytes - rss()) < (40 << 20) and rss() > (150 << 20))
                guard.stop()
                assert not guard.running
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert guard.running
        wait_for(lambda: guard.snapshot.reading.used_bytes < (150 << 20) + rss())
        guard.stop()
        print("done")
    """)
    assert out == "done\n"


def test_a_fork_of_a_stopped_guard_runs_nothing() -> None:
    """A guard that did not run in the parent does not run in the child, and can be started there."""
    run("""
        guard = Guard(limit="2GiB", roster=Roster())
        pid = os.fork()
        if pid == 0:
            ok = not guard.running and threading.active_count() == 1
            guard.start()
            wait_for(lambda: guard.snapshot.reading)
            guard.stop()
            os._exit(0 if ok else 1)
        assert os.waitpid(pid, 0)[1] == 0
    """)


def test_a_child_may_fork_again_and_again() -> None:
    """Guards in children of children; twenty forks in a row while the guard ticks as fast as it can."""
    run("""
        guard = Guard(limit="2GiB", roster=Roster(), pace_max_s=0.003).start()
        for number in range(20):
            pid = os.fork()
            if pid == 0:
                wait_for(lambda: guard.snapshot.reading)
                inner = os.fork()
                if inner == 0:
                    wait_for(lambda: guard.snapshot.reading)
                    os._exit(7)
                os._exit(0 if os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) == 7 else 1)
            assert os.waitpid(pid, 0)[1] == 0, number
        guard.stop()
    """)


def test_a_childs_sinks_get_the_childs_events() -> None:
    """What the parent has yet to tell is not told twice, and the child's telling works."""
    run("""
        seen = []
        sink = lambda event: seen.append((os.getpid(), event.name))
        guard = Guard(limit="2GiB", roster=Roster(), sinks=[sink]).start()
        wait_for(lambda: seen)
        pid = os.fork()
        if pid == 0:
            wait_for(lambda: (os.getpid(), "guard.started") in seen)
            guard.stop()
            os._exit(0 if (os.getpid(), "guard.stopped") in seen else 1)
        assert os.waitpid(pid, 0)[1] == 0
        guard.stop()
    """)


def test_an_attempt_of_the_parent_does_not_bind_the_child() -> None:
    """What the parent was just trying is tried anew in the child, at once."""
    run("""
        from memguard.testing import BlockingReclaimer, FakeClock, FakeMemory
        memory = FakeMemory(FakeClock())
        memory.grow(430 << 20)
        roster = Roster()
        blocking = BlockingReclaimer("blocking", size_bytes=100 << 20)
        roster.add(blocking)
        guard = Guard(limit="512MiB", probe=memory, roster=roster, attempt_s=60.0).start()
        wait_for(lambda: blocking.entered)
        pid = os.fork()
        if pid == 0:
            blocking.release()
            try:
                wait_for(lambda: blocking.attempts >= 2, seconds=4.0)
            except AssertionError:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        blocking.release()
        guard.stop()
    """)


def test_promises_of_the_parent_do_not_bind_the_child() -> None:
    """A forked child starts with no promise and no open ticket, and closing an inherited ticket harms nothing."""
    run("""
        guard = Guard(limit="2GiB", roster=Roster()).start()
        wait_for(lambda: guard.snapshot.reading)
        ticket = guard.admit("500MiB")
        pid = os.fork()
        if pid == 0:
            wait_for(lambda: guard.snapshot.reading)
            free = guard.snapshot.promised_bytes == 0 and guard.snapshot.running == 0
            ticket.close()
            os._exit(0 if free else 1)
        assert os.waitpid(pid, 0)[1] == 0
        ticket.close()
        guard.stop()
    """)


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing(tmp_path: Path, method: str) -> None:
    """Under every start method a child can have a guard of its own."""
    script = tmp_path / "work.py"
    script.write_text(
        _PRELUDE
        + dedent("""
        import multiprocessing

        def work(queue):
            with Guard(limit="2GiB", roster=Roster()) as guard:
                wait_for(lambda: guard.snapshot.reading)
                queue.put(guard.level.name)

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            with Guard(limit="2GiB", roster=Roster()):
                queue = context.Queue()
                process = context.Process(target=work, args=(queue,))
                process.start()
                assert queue.get(timeout=30) == "OK"
                process.join(30)
                assert process.exitcode == 0
        """)
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", _FORKING, str(script), method],
        capture_output=True, text=True, timeout=90, check=False, env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "raise SystemExit"])
def test_exit_without_stop(ending: str) -> None:
    """The interpreter ends at once, without a word, and the sinks have been told of the end."""
    out = run(f"""
        guard = Guard(limit="2GiB", roster=Roster(), sinks=[lambda event: print(event.name, flush=True)]).start()
        wait_for(lambda: guard.snapshot.reading)
        {ending}
    """)
    assert out.splitlines()[-1] == "guard.stopped"


def test_exit_while_a_reclaimer_and_a_sink_block() -> None:
    """Daemons are left behind; the exit takes seconds, not for ever."""
    run(
        """
        from memguard.testing import BlockingReclaimer, BlockingSink, FakeClock, FakeMemory
        memory = FakeMemory(FakeClock())
        memory.grow(450 << 20)
        roster = Roster()
        blocking = BlockingReclaimer("blocking", size_bytes=100 << 20)
        roster.add(blocking)
        guard = Guard(limit="512MiB", probe=memory, roster=roster, sinks=[BlockingSink()]).start()
        wait_for(lambda: blocking.entered)
        """,
        seconds=30.0,
    )


def test_gevent() -> None:
    """With everything patched the guard runs on a real thread: it looks while a greenlet computes without a pause."""
    pytest.importorskip("gevent")
    script = """
        guard = Guard(limit="2GiB", roster=Roster(), pace_max_s=0.01)
        with guard:
            time.sleep(0.2)
            before = guard.snapshot
            until = time.perf_counter() + 0.5
            while time.perf_counter() < until:
                sum(range(1000))
            ticks = guard.snapshot.at - before.at
            assert ticks > 0.3, ticks
            with guard.admit("1MiB", wait_s=0.1):
                pass
        assert not guard.running
        print("done")
    """
    patched = "import gevent.monkey\ngevent.monkey.patch_all()\n" + _PRELUDE + dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", patched], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
