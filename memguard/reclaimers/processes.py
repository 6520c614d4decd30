"""Processes as /proc shows them: who they are beyond their reusable number, who descends from whom, what they hold."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = [
    "Process",
    "family",
    "identify",
    "private_bytes",
    "processes_now",
    "proportional_bytes",
    "resident_bytes",
    "send",
]

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# proc(5), /proc/pid/stat: after the command in brackets come state, parent, group, session; the start is the 20th.
_STATE, _PARENT, _GROUP, _SESSION, _STARTED = 0, 1, 2, 3, 19
_ENDED: Final = frozenset({"Z", "X"})


@value
class Process:
    """A process as it was seen: ``pid`` and ``started`` (clock ticks since boot) together are never given twice.

    ``parent``, ``group`` and ``session`` are process numbers; ``ended`` says that only its exit status is left.
    """

    pid: int
    started: int
    parent: int
    group: int
    session: int
    ended: bool

    def is_same(self, other: Process | None) -> bool:
        """Whether it is the same process, whatever has changed about it."""
        return other is not None and (self.pid, self.started) == (other.pid, other.started)


def identify(pid: int) -> Process | None:
    """The process of that number now; None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - a kernel file
            text = file.read()
        # The command in brackets may hold blanks and brackets itself.
        fields = text[text.rindex(b")") + 2 :].split(b" ")
        return Process(
            pid=pid,
            started=int(fields[_STARTED]),
            parent=int(fields[_PARENT]),
            group=int(fields[_GROUP]),
            session=int(fields[_SESSION]),
            ended=fields[_STATE].decode() in _ENDED,
        )
    except (OSError, ValueError, IndexError):
        return None


def processes_now() -> Mapping[int, Process]:
    """Every visible process; about 10 us each."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - pathlib is dearer
    return {pid: seen for pid in pids if (seen := identify(pid)) is not None}


def family(root: Process, known: Iterable[Process], table: Mapping[int, Process]) -> dict[int, Process]:
    """A process and its descendants, those included whose parents have ended.

    They are found by their parents, by having been seen before (``known``), and by the session or group that the root
    leads. This process and its own ancestors never belong.
    """
    never = ancestors(table)
    seeds = [table[seen.pid] for seen in (root, *known) if seen.is_same(table.get(seen.pid))]
    # While a group or session lives its number is not given to a new process; it is the root's own then.
    seeds += [
        seen for seen in table.values() if root.pid in {seen.group, seen.session} and seen.started >= root.started
    ]
    found = {seen.pid: seen for seen in seeds if seen.pid not in never}
    children: dict[int, list[Process]] = {}
    for seen in table.values():
        children.setdefault(seen.parent, []).append(seen)
    queue = list(found)
    for pid in queue:
        for child in children.get(pid, ()):
            if child.pid not in found and child.pid not in never:
                found[child.pid] = child
                queue.append(child.pid)
    return found


def ancestors(table: Mapping[int, Process]) -> Collection[int]:
    """This process, its parent, and so on."""
    line = [os.getpid()]
    while (seen := table.get(line[-1])) is not None and seen.parent > 0 and seen.parent not in line:
        line.append(seen.parent)
    return line


def resident_bytes(pid: int) -> int:
    """Resident memory, shared pages included; 0 when it has ended."""
    return _statm(pid)[1] * _PAGE_BYTES


def private_bytes(pid: int) -> int:
    """Resident memory without file and shared pages; pages that a fork shares with its parent count in both."""
    fields = _statm(pid)
    return (fields[1] - fields[2]) * _PAGE_BYTES


def _statm(pid: int) -> tuple[int, ...]:
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:  # noqa: PTH123 - a kernel file
            return tuple(map(int, file.read().split()))
    except (OSError, ValueError):
        return (0,) * 7


def proportional_bytes(pid: int) -> int:
    """Resident memory with every shared page divided among those who share it (PSS): sums count nothing twice.

    About 1 ms per 100 MB and 21 ms at 4 GB. Where it may not be read (other users' processes), the private bytes.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as file:  # noqa: PTH123 - a kernel file
            for line in file.read().split(b"\n"):
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return private_bytes(pid)


def send(process: Process, number: int) -> bool:
    """Send a signal to this very process, never to one that has got its number since; whether it was sent.

    Raises:
        PermissionError: it belongs to somebody else.
    """
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except OSError:  # a kernel before 5.3, or no descriptor to be had: look and send at once
        if not process.is_same(identify(process.pid)):
            return False
        return _kill(process.pid, number)
    try:
        # The descriptor is of whoever had the number when it was opened; only then does a look at it prove anything.
        if not process.is_same(identify(process.pid)):
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def _kill(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
