"""The lineage: when one of a group of workers last handed over, and how long the next has to wait.

It outlives every worker of the group, so that a fresh one does not begin to count anew.
"""

from __future__ import annotations

import os
import struct
import zlib

from memguard.workers.folder import locked, private_folder

__all__ = ["Lineage", "Past"]

# When (monotonic seconds), the wait after it, how many of late, and a check over them.
_RECORD = struct.Struct("<dddI")
_CHECKED = _RECORD.size - 4
_DAY_S = 86400.0

Past = tuple[float | None, float, float]
"""Seconds since the last hand-over (None: none is known), how long the next has to wait, how many of late."""


class Lineage:
    """What a group of workers remembers of its hand-overs; ``group`` as for a lease.

    Raises:
        WorkersUnavailable: there is no folder that workers could share.
    """

    def __init__(self, group: str) -> None:
        self.path: str = os.path.join(private_folder(), f"{group}.lineage")  # noqa: PTH118 - as in folder

    def past(self, now: float) -> Past:
        """What is known at this instant (monotonic seconds).

        Raises:
            OSError, WorkersUnavailable: the file cannot be read, or is not ours alone.
        """
        with locked(self.path) as fd:
            raw = os.pread(fd, _RECORD.size, 0)
        if len(raw) < _RECORD.size:
            return None, 0.0, 0.0
        at, wait_s, count, check = _RECORD.unpack(raw)
        # An instant ahead is from before the machine was started anew; a wrong check, a writer that was killed.
        if zlib.crc32(raw[:_CHECKED]) != check or at > now:
            return None, 0.0, 0.0
        return now - at, wait_s, count

    def note(self, now: float, *, wait_s: float, count: float) -> None:
        """One hands over now; the next has to wait so long.

        Raises:
            OSError, WorkersUnavailable: as ``past``.
        """
        rest = _RECORD.pack(now, wait_s, count, 0)[:_CHECKED]
        with locked(self.path) as fd:
            os.pwrite(fd, rest + zlib.crc32(rest).to_bytes(4, "little"), 0)
