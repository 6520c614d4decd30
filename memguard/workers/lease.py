"""The lease: of all workers that share it, at most one has it; it ends when its holder gives it back or dies."""

from __future__ import annotations

import os
import re
import struct
import zlib

from memguard.workers.folder import locked, private_folder
from memguard.workers.lives import Life, alive, own_life

__all__ = ["LEASE_SUFFIX", "Lease", "let_go"]

LEASE_SUFFIX = ".lease"

# pid, pid namespace, start, until when (seconds), and a check over them.
_RECORD = struct.Struct("<IIQdI")
_CHECKED = _RECORD.size - 4
# A worker drains for a minute or two; one that holds on for longer hangs, and the others must go on.
_LONGEST_S = 600.0
_DAY_S = 86400.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Lease:
    """One thing that only one worker may do at a time, like being recycled.

    ``where`` is the name of a group of workers, or the path of a file in a folder that nobody else can write to.
    The same group has a lease for each ``purpose``. It is no lock: nobody waits for it.

    Args:
        where: a group's name, or a path (anything with a separator in it).
        purpose: what it is about.
        longest_s: it can be taken from a holder that lives so long after it took it, in seconds.

    Raises:
        ValueError: a name that is none.
        WorkersUnavailable: there is no folder that workers could share.
    """

    def __init__(
        self, where: str | os.PathLike[str], *, purpose: str = "recycle", longest_s: float = _LONGEST_S
    ) -> None:
        text = os.fspath(where)
        if os.sep in text:
            self.path: str = text
        elif _NAME.fullmatch(text) is None or _NAME.fullmatch(purpose) is None:
            raise ValueError(f"lease {text!r} for {purpose!r}: write letters, digits, '.', '_' and '-', or a path")
        else:
            self.path = os.path.join(private_folder(), f"{text}.{purpose}{LEASE_SUFFIX}")  # noqa: PTH118 - as in folder
        self._longest_s = longest_s

    def take(self, now: float) -> bool:
        """Take it, if nobody has it at this instant (monotonic seconds); whether this process has it now.

        Taking it again holds it for longer. False also while another is just taking it.

        Raises:
            OSError: the file cannot be written.
            WorkersUnavailable: the file is not ours alone.
        """
        own = own_life()
        try:
            with locked(self.path) as fd:
                held = _read(fd)
                if held is not None and held[0] != own and self._holds(held, own, now):
                    return False
                _write(fd, own, now + self._longest_s)
                return True
        except BlockingIOError:
            return False

    def release(self) -> None:
        """Give it back; fine when it is somebody else's, or nobody's."""
        own = own_life()
        with locked(self.path) as fd:
            held = _read(fd)
            if held is not None and held[0] == own:
                os.unlink(self.path)  # noqa: PTH108 - pathlib is not loaded for this

    def holder(self, now: float) -> int | None:
        """The process that has it, by its number; None when nobody does.

        Raises:
            OSError, WorkersUnavailable: as ``take``.
        """
        with locked(self.path) as fd:
            held = _read(fd)
        if held is None or not self._holds(held, own_life(), now):
            return None
        return held[0].pid

    def _holds(self, held: tuple[Life, float], own: Life, now: float) -> bool:
        life, until = held
        # An instant far ahead is from before the machine was started anew.
        return now < until <= now + _DAY_S and alive(life, own) is not False

    def __repr__(self) -> str:
        return f"<Lease {self.path}>"


def let_go(fd: int) -> bool:
    """Whether nobody alive has the lease in this file."""
    held = _read(fd)
    return held is None or alive(held[0], own_life()) is False


def _read(fd: int) -> tuple[Life, float] | None:
    raw = os.pread(fd, _RECORD.size, 0)
    if len(raw) < _RECORD.size:
        return None
    pid, space, ticks, until, check = _RECORD.unpack(raw)
    if zlib.crc32(raw[:_CHECKED]) != check:  # its writer was killed meanwhile
        return None
    return Life(pid=pid, started_ticks=ticks, space=space), until


def _write(fd: int, life: Life, until: float) -> None:
    rest = _RECORD.pack(life.pid, life.space, life.started_ticks, until, 0)[:_CHECKED]
    os.pwrite(fd, rest + zlib.crc32(rest).to_bytes(4, "little"), 0)
