"""Keeping: what an actor knows goes into a file when it hands over, and its successor finds it there."""

from __future__ import annotations

import os
import pickle
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memguard.errors import MemguardError

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

__all__ = ["Kept"]

_MAGIC: Final = b"memguard kept 1\n"
_OTHERS: Final = 0o022
# So many failures are told in words.
_TOLD: Final = 5


class Kept:
    """One mapping and its file. Entries are written one after the other: memory is what is short when that happens.

    Raises:
        ValueError: a name that cannot be a file's, or no such folder.
    """

    def __init__(
        self, mapping: MutableMapping[str, Any], *, name: str, owner: str, folder: str | os.PathLike[str]
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError(f"keep({name!r}): write letters, digits, '.', '_' and '-'")
        self.folder: Path = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"keep({name!r}, folder={str(folder)!r}): there is no such folder on this node; make it")
        self.mapping: MutableMapping[str, Any] = mapping
        self.path: Path = self.folder / f"{owner}.{name}.kept"

    def load(self) -> int:
        """Put in what the predecessor saved, beside what is there; how many entries that were.

        Raises:
            MemguardError: the file is not whole, or others may write to it. It is left as it is.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return 0
        with file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.geteuid() or found.st_mode & _OTHERS or not stat.S_ISREG(found.st_mode):
                raise MemguardError(f"{self.path} is not this user's alone: loading it could run anybody's code")
            count = 0
            for key, entry in self._entries(file):
                self.mapping[key] = entry
                count += 1
        return count

    def _entries(self, file: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - an open file
        try:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ValueError("it is none of ours")  # noqa: TRY301 - told below, as the others are
            while (pair := pickle.load(file)) is not None:  # noqa: S301 - this user's own, see load
                yield pair
        except Exception as error:
            raise MemguardError(f"{self.path} cannot be loaded: {type(error).__name__}: {error}; it is kept") from error

    def save(self, *, last: bool = False) -> int:
        """Write all entries, in place of what was there, at once; how many.

        The ``last`` time each is let go of as soon as it is written: to load packed ones takes memory.

        Raises:
            OSError: the file cannot be written; what was there before stays.
            MemguardError: these entries could not be pickled; the others are saved.
        """
        fresh = self.path.with_suffix(f".{os.getpid()}.new")
        count, failures = 0, dict[str, Exception]()
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0), 0o600)
            with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor of our own making
                file.write(_MAGIC)
                for key in tuple(self.mapping):
                    entry = self._pickled(key, failures, last=last)
                    file.write(entry)
                    count += bool(entry)
                file.write(pickle.dumps(None))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        if failures:
            said = "; ".join(
                f"{key!r}: {type(error).__name__}: {error}" for key, error in list(failures.items())[:_TOLD]
            )
            raise MemguardError(f"{len(failures)} entries are not in {self.path}, {count} are: {said}")
        return count

    def _pickled(self, key: str, failures: dict[str, Exception], *, last: bool) -> bytes:
        try:
            return pickle.dumps((key, self.mapping.pop(key) if last else self.mapping[key]), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001 - anybody's __reduce__, and the others are to be saved
            if not isinstance(error, KeyError) or key in self.mapping:  # else it is gone meanwhile
                failures[key] = error
            return b""

    def hand_over(self) -> None:
        """Save for the successor."""
        self.save(last=True)
