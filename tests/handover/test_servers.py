"""Which server this process works for: told by the objects it has made, and never guessed."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from memguard import servers
from memguard.rules import Rules


class Worker:
    """As gunicorn's workers look."""

    def __init__(self, pid: int, workers: int = 2) -> None:
        self.pid, self.ppid = pid, os.getppid()
        self.cfg = SimpleNamespace(workers=workers, reuse_port=False)


@pytest.fixture
def gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gunicorn that is loaded."""
    module = ModuleType("gunicorn.workers.base")
    module.Worker = Worker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gunicorn.workers.base", module)
    monkeypatch.delitem(sys.modules, "uvicorn.server", raising=False)


@pytest.mark.usefixtures("gunicorn")
def test_a_worker_is_not_its_elder_sibling() -> None:
    """A worker that was forked later has its elders' objects, too: its own is found."""
    family = [Worker(os.getpid() + 1), Worker(os.getpid(), workers=3)]
    assert "gunicorn -w 3" in servers.find_way(Rules()).words
    family.pop()  # its own
    assert "gunicorn" not in servers.find_way(Rules()).words


def test_a_main_process_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard in gunicorn's arbiter never ends it: its workers hand over; their copies of it are not it."""

    class Arbiter:
        pid = os.getpid()

    module = ModuleType("gunicorn.arbiter")
    module.Arbiter = Arbiter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", module)
    base = ModuleType("gunicorn.workers.base")
    base.Worker = Worker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gunicorn.workers.base", base)
    monkeypatch.delitem(sys.modules, "uvicorn.server", raising=False)
    arbiter = Arbiter()
    assert "main process stays" in servers.find_way(Rules(handover="on")).hindrance
    arbiter.pid = os.getppid()
    assert not servers.find_way(Rules(handover="on")).hindrance


def test_kubernetes_restarts_its_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the container's first process it is known who follows; beside it, and under systemd, it is not."""
    for find in ("_gunicorn", "_uvicorn", "_hypercorn", "_granian"):
        monkeypatch.setattr(servers, find, lambda _: None)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not servers.find_way(Rules()).hindrance
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    monkeypatch.setenv("INVOCATION_ID", "x")
    assert "whether systemd would start it again" in servers.find_way(Rules()).hindrance


def test_the_exit_code_is_the_rules_after_all_farewells() -> None:
    """Whatever the main thread ends with, the code says that a new start is wanted, and atexit hooks have run."""
    program = (
        "import atexit, os, sys; atexit.register(lambda: print('bye'))\n"
        "from memguard.rules import Rules; from memguard.servers import find_way\n"
        "way = find_way(Rules(handover='on', handover_exit_code=76))\n"
        "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "way.leave()\n"
        "import time; time.sleep(30)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (76, "bye\n"), done.stderr


def test_a_started_guard_does_not_load_it() -> None:
    """Nothing of a hand-over is loaded before one may be due."""
    program = (
        "import sys, memguard\n"
        "with memguard.Guard(limit='4GiB') as guard: guard.tick\n"
        "print([name for name in sys.modules if name.endswith(('.handover', '.servers', '.recycling', '.lineage'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[]\n", done.stderr
