"""The folder that workers share: private to the user, in memory where there is such a file system.

Others may write into /dev/shm and /tmp too: what is not ours, or a link, or open to others is not used.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager, suppress

from memguard.errors import MemguardError
from memguard.threads import Bell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

__all__ = ["WorkersUnavailable", "locked", "private_folder"]

# Whoever holds the lock does so for some 100 µs; one that is stopped meanwhile must not stop the others.
_LOCK_S = 0.5
_AGAIN_S = 0.002
_PRIVATE, _OTHERS = 0o700, 0o077


class WorkersUnavailable(MemguardError):
    """Workers cannot find each other: there is no folder that they could share, or no room in it."""


def private_folder(bases: Sequence[str] | None = None) -> str:
    """The folder, made when it is not there: in /dev/shm, else in XDG_RUNTIME_DIR, TMPDIR or /tmp.

    Raises:
        WorkersUnavailable: none of them will do; the text says why of each.
    """
    if bases is None:
        environ = os.environ
        named = ("/dev/shm", environ.get("XDG_RUNTIME_DIR"), environ.get("TMPDIR"), "/tmp")  # noqa: S108 - checked below
        bases = [base for base in named if base]
    reasons = list[str]()
    for base in bases:
        path = os.path.join(base, f"memguard-{os.geteuid()}")  # noqa: PTH118 - pathlib is not loaded for this
        try:
            with suppress(FileExistsError):
                os.mkdir(path, _PRIVATE)  # noqa: PTH102
            found = os.lstat(path)
        except OSError as error:
            reasons.append(f"{base}: {error.strerror}")
            continue
        wrong = _wrong(found, directory=True)
        if not wrong and os.access(path, os.W_OK | os.X_OK):
            return path
        reasons.append(f"{path} {wrong or 'cannot be written'}")
    raise WorkersUnavailable(f"workers have no folder to share: {'; '.join(reasons)}")


def _wrong(found: os.stat_result, *, directory: bool) -> str:
    """Why a file or a folder may not be trusted; "" when it may."""
    if not (stat.S_ISDIR(found.st_mode) if directory else stat.S_ISREG(found.st_mode)):
        return "is no folder of ours (a link?)" if directory else "is no plain file"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}"
    if found.st_mode & _OTHERS:
        return f"is open to others (mode {stat.S_IMODE(found.st_mode):04o}): remove it, or chmod it"
    return ""


@contextmanager
def locked(path: str, *, wait_s: float = _LOCK_S) -> Generator[int, None, None]:
    """A file of ours, made when it is not there, under an exclusive lock that ends with the block or the process.

    Raises:
        OSError: it cannot be opened, is a link, or somebody has held the lock for too long (``BlockingIOError``).
        WorkersUnavailable: it is not ours alone.
    """
    fd = _opened(path, wait_s)
    try:
        yield fd
    finally:
        # Not left to the close: a child that was forked meanwhile has the descriptor, too.
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _opened(path: str, wait_s: float) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd, path, os.fstat(fd), wait_s)
        except BaseException:
            os.close(fd)
            raise
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # its last owner removed it while we waited: make it anew


def _lock(fd: int, path: str, found: os.stat_result, wait_s: float) -> None:
    wrong = _wrong(found, directory=False)
    if wrong:
        raise WorkersUnavailable(f"{path} {wrong}")
    never = Bell()
    for _ in range(int(wait_s / _AGAIN_S)):
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        never.wait(_AGAIN_S)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
