"""Small kernel files: read whole, or kept open and read again in about a microsecond.

Every path is absolute as the process sees it; ``root`` is put in front of it ("/" for the real machine), so
that fixture trees can stand in for /proc and /sys.
"""

from __future__ import annotations

import errno
import os

__all__ = ["KeptFile", "below", "printable", "read_file", "read_number"]

# The kernel writes 64-bit numbers; int() refuses to read a few thousand digits.
_MOST_DIGITS = 20


def below(root: str, path: str) -> str:
    """The real path of an absolute path under ``root``.

    >>> below("/fixtures/docker", "/proc/meminfo")
    '/fixtures/docker/proc/meminfo'
    """
    return root.rstrip("/") + path


def printable(text: str) -> str:
    """Text that any terminal or log can print: cgroup names are bytes and need not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_file(root: str, path: str) -> bytes:
    """The whole of a small file.

    Raises:
        OSError: it is not there or cannot be read; also for a path with a NUL byte.
    """
    try:
        with open(below(root, path), "rb", buffering=0) as file:  # noqa: PTH123 - pathlib costs more than the read
            return file.read()
    except ValueError as error:
        raise OSError(errno.ENOENT, str(error)) from None


def read_number(root: str, path: str) -> int | None:
    """The whole number that a file holds, None when it says ``max``.

    Raises:
        OSError: it is not there or cannot be read.
        ValueError: it holds something else.
    """
    text = read_file(root, path).strip()
    if text == b"max":
        return None
    # int() alone would also take "1_000" and "-1".
    if not text.isdigit():
        raise ValueError(f"holds {text[:40]!r}, not a number of bytes" if text else "is empty")
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"holds a number of {len(text)} digits")
    return int(text)


class KeptFile:
    """A file kept open and read from its start each time.

    The kernel makes the content anew for every read. A descriptor under /proc/self stays with the process
    that opened it: after a fork the child must open its own.
    """

    __slots__ = ("_fd", "_identity", "path")

    def __init__(self, root: str, path: str) -> None:
        self._fd = -1
        self.path: str = path
        self._fd = os.open(below(root, path), os.O_RDONLY | os.O_CLOEXEC)
        self._identity = self._stat()

    def _stat(self) -> tuple[int, int]:
        stat = os.fstat(self._fd)
        return stat.st_dev, stat.st_ino

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes from the start of the file; OSError when closed or gone."""
        return os.pread(self._fd, size, 0)

    def check(self) -> None:
        """Raise OSError when the descriptor is no longer ours.

        Daemons close every descriptor they find; the number then belongs to whatever is opened next.
        """
        if self._fd >= 0 and self._stat() != self._identity:
            self._fd = -1
            raise OSError(errno.EBADF, "its descriptor was closed and taken by another file", self.path)

    def close(self) -> None:
        """Give the descriptor back; a second time is fine, and a descriptor that became somebody else's is left."""
        try:
            self.check()
        except OSError:
            self._fd = -1
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()
