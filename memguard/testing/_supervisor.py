"""The stand-in for a kernel limit: polls the resident memory of process trees and kills at the limit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Supervisor", "supervisor_unavailable"]

_PROC = Path("/proc")
# A process that fills memory at 2 GB/s gets 10 MB further between two looks.
_POLL_S = 0.005
# New children are looked for less often: a scan of all processes costs about 10 us each.
_SCAN_S = 0.05


@value
class _Process:
    """One living process: its parent, resident bytes, and when it began (to notice a pid used anew)."""

    pid: int
    parent: int
    rss_bytes: int
    began: str


def supervisor_unavailable() -> str | None:
    """Why no supervisor can watch here; None when it can."""
    if (_PROC / "self/stat").exists() or shutil.which("ps"):
        return None
    return "and a supervisor would need /proc or the program 'ps'"


class Supervisor:
    """Enforces a limit on process trees from outside, every few milliseconds.

    As the kernel does, it kills the largest process. Shared pages count once per process.
    """

    kind = "supervisor (polls resident memory every 5 ms and kills at the limit)"

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._roots: list[int] = []
        self._known: dict[int, _Process] = {}
        self._doomed: set[int] = set()
        self._killed = 0
        self._peak_bytes = 0
        self._usage_bytes = 0
        self._scanned_at = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memguard-supervisor", daemon=True)
        self._thread.start()

    def command(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def started(self, pid: int) -> None:
        with self._lock:
            self._roots.append(pid)
            self._scanned_at = 0.0

    def killed(self) -> int:
        return self._killed

    def peak_bytes(self) -> int:
        return self._peak_bytes

    def usage_bytes(self) -> int:
        return self._usage_bytes

    def working_bytes(self) -> int:
        return self._usage_bytes

    def resize(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes

    def pids(self) -> list[int]:
        with self._lock:
            self._find()
            return list(self._known)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._usage_bytes = 0

    def _run(self) -> None:
        while not self._stop.wait(_POLL_S):
            with self._lock:
                self._look()

    def _look(self) -> None:
        if time.monotonic() - self._scanned_at >= _SCAN_S or not _PROC.joinpath("self").exists():
            self._find()
        else:
            fresh = {pid: now for pid in self._known if (now := _one(pid))}
            self._known = {pid: now for pid, now in fresh.items() if now.began == self._known[pid].began}
        self._usage_bytes = sum(process.rss_bytes for process in self._known.values())
        self._peak_bytes = max(self._peak_bytes, self._usage_bytes)
        standing = [process for process in self._known.values() if process.pid not in self._doomed]
        if sum(process.rss_bytes for process in standing) > self._limit_bytes:
            victim = max(standing, key=lambda process: process.rss_bytes)
            self._doomed.add(victim.pid)
            with suppress(ProcessLookupError):
                os.kill(victim.pid, signal.SIGKILL)
                self._killed += 1

    def _find(self) -> None:
        """All descendants of the started processes, and those known before whose parent has gone."""
        if not self._roots:
            return
        self._scanned_at = time.monotonic()
        everyone = _all()
        found = {
            pid: everyone[pid]
            for pid, before in self._known.items()
            if pid in everyone and everyone[pid].began == before.began
        }
        found.update({pid: everyone[pid] for pid in self._roots if pid in everyone})
        size = -1
        while len(found) > size:
            size = len(found)
            found.update({pid: process for pid, process in everyone.items() if process.parent in found})
        self._roots = [pid for pid in self._roots if pid in found]
        self._known = found


def _one(pid: int) -> _Process | None:
    """A process as /proc/<pid>/stat tells (proc_pid_stat(5): fields 3 state, 4 ppid, 22 starttime, 24 rss)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    rss_bytes = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return _Process(pid=pid, parent=int(fields[1]), rss_bytes=rss_bytes, began=fields[19])


def _all() -> dict[int, _Process]:
    """Every living process that can be seen."""
    if (_PROC / "self/stat").exists():
        pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
        return {pid: found for pid in pids if (found := _one(pid)) is not None}
    words = ["ps", "-axo", "pid=,ppid=,rss=,stat=,lstart="]
    table = subprocess.run(words, capture_output=True, text=True, check=False).stdout  # noqa: S603 - fixed words
    everyone = {}
    for line in table.splitlines():
        number, parent, rss_kib, state, began = line.split(None, 4)
        if not state.startswith("Z"):
            pid, rss_bytes = int(number), int(rss_kib) * 1024
            everyone[pid] = _Process(pid=pid, parent=int(parent), rss_bytes=rss_bytes, began=began)
    return everyone
