"""Small /proc and /sys trees for the doctor: a good container, and what makes it bad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memguard.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GOOD: Final[Mapping[str, str]] = {
    "proc/meminfo": (
        f"MemTotal: {16 * GIB // 1024} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
        f"CommitLimit: {8 * GIB // 1024} kB\nCommitted_AS: {7 * GIB // 1024} kB\n"
    ),
    "proc/self/mountinfo": (
        "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n"
        "31 23 0:27 / /dev/shm rw,nosuid - tmpfs shm rw,size=65536k\n"
        "32 23 0:28 / / rw,relatime - overlay overlay rw\n"
    ),
    "proc/self/cgroup": "0::/\n",
    "proc/self/maps": "7f00-7f01 r-xp 0000 08:01 42    /usr/lib/x86_64-linux-gnu/libc.so.6\n",
    "proc/self/status": "Name:\tpython3\nVmRSS:\t  40000 kB\nThreads:\t9\n",
    "proc/sys/vm/overcommit_memory": "0\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/devices/system/cpu/online": "0-3\n",
    "sys/fs/cgroup/memory.max": f"{512 * MIB}\n",
    "sys/fs/cgroup/memory.high": "max\n",
    "sys/fs/cgroup/memory.current": f"{120 * MIB}\n",
    "sys/fs/cgroup/memory.stat": f"anon {80 * MIB}\ninactive_file {30 * MIB}\nactive_file {10 * MIB}\n",
    "sys/fs/cgroup/memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
}


def plant(root: Path, changes: Mapping[str, str | None] | None = None) -> str:
    """Write the good tree with some files changed (None: left out); the tree's root."""
    for path, text in {**GOOD, **(changes or {})}.items():
        if text is not None:
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return str(root)
