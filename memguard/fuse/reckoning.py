"""Where a fuse belongs: reckoned from readings that other threads may come between."""

from __future__ import annotations

import _thread
import os
import time

from memguard.probes.files import KeptFile
from memguard.units import MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

__all__ = ["SLACK_BYTES", "Reckoning", "fuse_bytes"]

# Resident memory is known to within this (kernels count it per processor), and a quarter of a MiB for each processor.
_DRIFT_BYTES: Final = 8 * MIB
_DRIFT_PER_CPU_BYTES: Final = MIB // 4
SLACK_BYTES: Final = 4 * MIB
"""The guard's own room: a tick, and the answer to a request that was refused, may map so much more."""
# A page of page tables for each 512 pages of data, and as much again for what else the kernel keeps about them.
_TABLES: Final = 256
# Three reads take some 25 us; when they took longer another thread ran meanwhile (a read lets the GIL go).
_CLEAN_S: Final = 0.0005
# So many interrupted readings in a row that all agree on more are believed.
_AGREE: Final = 16
# Tries at a first reading that nobody interrupts.
_TRIES: Final = 8
# Threads that have been there for one to two such times keep their stacks, as those of a server's pool do.
_SETTLED_S: Final = 5.0
# What a thread is reckoned to use of its stack; Python's frames do not lie there.
_STACK_USED_BYTES: Final = MIB
# glibc's when RLIMIT_STACK is unlimited (x86-64).
_STACK_BYTES: Final = 2 * MIB
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STATM_BYTES: Final = 128


def fuse_bytes(*, fits_bytes: int, stacks_bytes: int, cpus: int) -> int:
    """Up to how many mapped bytes RLIMIT_DATA should allow, so that if all of them became resident nobody is killed.

    ``fits_bytes`` is what is resident now and how far the nearest limit is, together; ``stacks_bytes`` are parts of
    thread stacks, mapped and never used. The kernel kills for resident pages and refuses mapped ones. What is mapped
    and not resident (freed heap) fills without asking, so it has to fit too, and what is mapped now does not matter.
    Own growth moves bytes from one part of the sum to the other: the fuse stays right while nobody looks.

    The margin is the drift of the kernel's counters, the guard's own room, and page tables.

    >>> mib = 1 << 20
    >>> fuse_bytes(fits_bytes=500 * mib, stacks_bytes=0, cpus=2) // mib
    486
    """
    drift_bytes = max(_DRIFT_BYTES, cpus * _DRIFT_PER_CPU_BYTES)
    return fits_bytes - drift_bytes - SLACK_BYTES - max(0, fits_bytes) // _TABLES + stacks_bytes


class Reckoning:
    """Follows what fits: resident anonymous memory plus the distance to the nearest limit.

    The two can't be read at one instant, and where threads compete much may come and go between. A reading that
    nobody interrupted is taken as it is. One that was interrupted only lowers the sum, and that by the least it can
    mean; it is raised when many in a row agree. ``data_bytes`` is what was mapped at the last reading.

    ``room`` reads how many bytes the nearest limit is away (None: nothing limits).
    """

    def __init__(self, *, room: Callable[[], int | None], clock: Callable[[], float]) -> None:
        self._room = room
        self._clock = clock
        self._cpus = os.cpu_count() or 1
        self._statm: KeptFile | None = None
        self._stack_bytes = 0
        self._fits_bytes = 0
        self._agreed: list[int] = []
        self._least = self._least_before = 0
        self._settle_at = float("-inf")
        self.data_bytes: int = 0

    def begin(self) -> int | None:
        """Open what is read, and read; where the fuse belongs, None where nothing limits.

        Raises:
            OSError, ValueError, IndexError: the system does not tell.
        """
        self._statm = KeptFile("/", "/proc/self/statm")
        self._stack_bytes = _stack_bytes()
        self._least = self._least_before = 0
        self._settle_at, lowest = float("-inf"), None
        for _ in range(_TRIES):
            sample = self._sample()
            if sample is None:
                return None
            low, _, clean = sample
            lowest = low if lowest is None or clean else min(lowest, low)
            if clean:
                break
        self._fits_bytes = lowest or 0
        return self._place()

    def end(self) -> None:
        """Give the descriptor back; twice is fine."""
        if self._statm is not None:
            self._statm.close()
            self._statm = None

    def next(self) -> int | None:
        """Where the fuse belongs now; None where nothing limits any more.

        Raises:
            OSError, ValueError, IndexError: the system does not tell.
        """
        sample = self._sample()
        if sample is None:
            return None
        low, high, clean = sample
        if clean:
            self._fits_bytes = low
        elif low > self._fits_bytes:
            self._agreed.append(low)
            if len(self._agreed) < _AGREE:
                return self._place()
            self._fits_bytes = min(self._agreed)
        else:
            self._fits_bytes = min(self._fits_bytes, high)
        self._agreed.clear()
        return self._place()

    def _sample(self) -> tuple[int, int, bool] | None:
        """The least and the most that one reading can mean, and whether nobody came between."""
        began = time.perf_counter()
        _, first = self.look()
        room_bytes = self._room()
        self.data_bytes, second = self.look()
        if room_bytes is None:
            return None
        clean = time.perf_counter() - began < _CLEAN_S
        return min(first, second) + room_bytes, max(first, second) + room_bytes, clean

    def look(self) -> tuple[int, int]:
        """Mapped private writable memory, and resident anonymous memory.

        Raises:
            OSError, ValueError, IndexError: the system does not tell.
        """
        if self._statm is None:
            raise OSError("not begun")
        fields = self._statm.read(_STATM_BYTES).split(b" ")
        return int(fields[5]) * _PAGE_BYTES, (int(fields[1]) - int(fields[2])) * _PAGE_BYTES

    def _place(self) -> int:
        return fuse_bytes(
            fits_bytes=self._fits_bytes, stacks_bytes=self._settled() * self._stack_bytes, cpus=self._cpus
        )

    def _settled(self) -> int:
        """How many of Python's threads have been there for a while; the stack of one that ends is mapped no more."""
        now = self._clock()
        alive: int = _thread._count()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        if now >= self._settle_at:
            self._settle_at, self._least_before, self._least = now + _SETTLED_S, self._least, alive
        self._least = min(self._least, alive)
        return min(self._least, self._least_before)


def _stack_bytes() -> int:
    """What a thread's stack maps and, as a rule, never uses; 0 where that is not known (not glibc)."""
    import resource  # noqa: PLC0415 - Unix only

    if "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()):
        return 0
    soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
    size: int = _thread.stack_size() or (_STACK_BYTES if soft == resource.RLIM_INFINITY else soft)
    return max(0, size - _STACK_USED_BYTES)
