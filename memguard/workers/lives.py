"""Lives: which process wrote something, and whether it is still there. A process id alone is used again."""

from __future__ import annotations

import os

from memguard.values import value

__all__ = ["Life", "alive", "own_life", "started_ticks"]

# Fields of /proc/<pid>/stat after the command, proc(5): the state comes first, the start is the 22nd of all.
_STATE, _STARTED = 0, 19
_ENDED = (b"Z", b"X", b"x")


@value
class Life:
    """One process, for as long as it lives.

    ``started_ticks`` is its start since the machine's boot (100 a second on Linux; 0 where that cannot be told),
    ``space`` the inode of its pid namespace: elsewhere its number means nothing.
    """

    pid: int
    started_ticks: int
    space: int


def own_life() -> Life:
    """This process's."""
    pid = os.getpid()
    try:
        space = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - pathlib costs more than the read, here and below
    except OSError:
        space = 0
    return Life(pid=pid, started_ticks=started_ticks(pid) or 0, space=space & 0xFFFFFFFF)


def started_ticks(pid: int) -> int | None:
    """When a process began, in ticks since boot; None when it has ended (a zombie has, too), 0 when nobody can tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return _portable(pid)
    except OSError:
        return 0
    fields = stat[stat.rfind(b")") + 2 :].split()
    if len(fields) <= _STARTED:
        return 0
    return None if fields[_STATE] in _ENDED else int(fields[_STARTED])


def _portable(pid: int) -> int | None:
    """Whether there is such a process where there is no /proc."""
    if os.path.exists("/proc/self/stat"):  # noqa: PTH110
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return 0
    return 0


def alive(life: Life, own: Life) -> bool | None:
    """Whether a process still lives, as ``own`` sees it; None where that cannot be told: in another pid namespace."""
    if life.space != own.space:
        return None
    ticks = started_ticks(life.pid)
    return ticks is not None and ticks in {0, life.started_ticks}
