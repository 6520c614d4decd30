"""Inheritance: what a process leaves to the one that follows it: a file with every state, which that one reopens.

The file lies in a directory that is this user's alone (0700), itself 0600. It gets its name once it is whole, loses it
when the successor opens it, and is removed by whoever looks when nobody has come for it in ten minutes. Pickles are
read from nowhere else.
"""

from __future__ import annotations

import os
import secrets
import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from memguard.agents.figures import Obstacle
from memguard.agents.spill import Spill
from memguard.agents.volume import NoSpill

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.agents.packing import Packing

__all__ = ["bequeath", "inherit", "sweep"]

_WHOLE, _PART = ".states", ".part"
# A server starts a new worker within seconds, a platform's back-off takes up to five minutes.
_KEPT_S: Final = 600.0
# What SQLite itself needs of the quota.
_ROOM_RATIO: Final = 0.9


def bequeath(states: Packing, folder: str, group: str, *, within_s: float) -> tuple[int, int, list[str]]:
    """Leave a copy of every state; how many, their bytes on disk, and the keys of those that could not be copied.

    Raises:
        NoSpill: a full or failing disk; nothing is left then.
    """
    quota_bytes = 0 if states.spill is None else states.spill.quota_bytes
    keys = states.keys()
    if not quota_bytes or not keys:
        return 0, 0, []
    until, now = time.monotonic() + within_s, states.clock()
    path = os.path.join(folder, f"{_stem(group, states.name)}.{os.getpid()}-{secrets.token_hex(4)}")  # noqa: PTH118
    heir = Spill(folder, quota_bytes, path=path + _PART)
    rows, failed = list[tuple[bytes, int, int, float, int]](), list[str]()
    try:
        for key in keys:
            copied = Obstacle("disk", "no time or no room") if time.monotonic() > until else states.copy(key)
            if isinstance(copied, Obstacle) or heir.bytes + len(copied[0]) > _ROOM_RATIO * quota_bytes:
                failed.append(key)
                continue
            blob, size, used = copied
            name = key.encode("utf-8", "surrogatepass")
            rows.append((name, heir.write(blob), size, max(0.0, now - used), len(blob)))
        if rows:
            heir.sign(rows)
            os.rename(path + _PART, path + _WHOLE)  # noqa: PTH104
    except BaseException:
        with suppress(OSError):
            os.unlink(path + _PART)  # noqa: PTH108
        raise
    finally:
        left_bytes = heir.bytes
        heir.close()
    return len(rows), left_bytes, failed


def inherit(states: Packing, folder: str, group: str) -> tuple[int, int, list[str]]:
    """Reopen what was left for these states; how many, their bytes on disk, and what could not be read, in words.

    A state that is here already stays as it is.
    """
    spill, errors, count, length = states.spill, list[str](), 0, 0
    if spill is None:
        return 0, 0, errors
    sweep(folder)
    for path in _files(folder, _stem(group, states.name)):
        try:
            rows = spill.adopt(path)
        except FileNotFoundError:  # another worker was faster
            continue
        except NoSpill as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                errors.append(str(error))
            continue
        now = states.clock()
        for name, serial, size, idle_s, blob_bytes in rows:
            key = name.decode("utf-8", "surrogatepass")
            if states.arrive_spilled(key, serial, size=size, used=now - idle_s, length=blob_bytes):
                count, length = count + 1, length + blob_bytes
            else:
                spill.drop(serial, blob_bytes)
    return count, length, errors


def sweep(folder: str) -> None:
    """Remove what nobody has come for."""
    oldest = time.time() - _KEPT_S
    for path in _files(folder, ""):
        with suppress(OSError):
            if os.lstat(path).st_mtime < oldest:
                os.unlink(path)  # noqa: PTH108


def _files(folder: str, stem: str) -> Iterator[str]:
    """What was left, the newest first; without a stem what is only in part, too."""
    ends = (_WHOLE,) if stem else (_WHOLE, _PART)
    with suppress(OSError):
        found = [entry for entry in os.scandir(folder) if entry.name.startswith(stem) and entry.name.endswith(ends)]
        for entry in sorted(found, key=_age):
            yield entry.path


def _age(entry: os.DirEntry[str]) -> float:
    try:
        return -entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0


def _stem(group: str, name: str) -> str:
    return f"{group}.{zlib.crc32(name.encode('utf-8', 'surrogatepass')):08x}"
