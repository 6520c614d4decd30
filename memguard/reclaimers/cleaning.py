"""One cleaning of a directory: as many censuses and removals as it takes, and what came of them."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from memguard.reclaimers.removing import OpenFiles, remove
from memguard.reclaimers.walking import Census, Mounted, mounted, open_directory, take_census
from memguard.values import field, value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memguard.reclaimers.errands import Pace
    from memguard.reclaimers.walking import Found

__all__ = ["Cleaning", "Cleanup", "Removal"]

# One cleaning takes so many censuses at most: each shows the 8192 oldest files.
_ROUNDS: Final = 16


@value
class Removal:
    """A file that went, or would go: its path, its allocated bytes, and when it was last used (wall clock)."""

    path: str
    bytes: int
    used_at: float


@value
class Cleanup:
    """What one cleaning removed, or (``dry_run``) would remove, and what it left and why.

    ``held_bytes`` and ``files`` are what there was before; ``left`` counts the files it came to and left, by reason:
    "open", "young", "linked" (names outside keep them), "in use" (a database with a journal), "changed" (used
    meanwhile), "failed". ``notes`` say what could not be known or reached.
    """

    path: str
    held_bytes: int
    files: int
    removed: tuple[Removal, ...] = ()
    left: Mapping[str, int] = field(default_factory=dict[str, int])
    notes: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def freed_bytes(self) -> int:
        """Bytes of the files that went."""
        return sum(removal.bytes for removal in self.removed)


class Cleaning:
    """One cleaning under way; ``over_bytes`` says after each census how many bytes have to go yet.

    ``census`` and ``mount`` tell how things stood last, ``gone`` that there is no such directory.
    """

    def __init__(  # noqa: PLR0913 - one directory's part of it, named piece by piece
        self,
        path: str,
        *,
        pace: Pace,
        may_go: Callable[[str], bool],
        min_age_s: float,
        over_bytes: Callable[[Census, int], int],
        dry_run: bool,
    ) -> None:
        self._path = path
        self._pace = pace
        self._may_go = may_go
        self._min_age_s = min_age_s
        self._over_bytes = over_bytes
        self._dry_run = dry_run
        self._open_files = OpenFiles()
        self._removed: list[Removal] = []
        self._freed_bytes = 0
        self._left: Counter[str] = Counter()
        self.census: Census = Census()
        self.mount: Mounted = Mounted(number=-1, kind="", options=frozenset())

    def run(self) -> Cleanup:
        """Do it; what cannot be done ends up in the notes."""
        try:
            root = open_directory(self._path)
        except FileNotFoundError:
            return Cleanup(path=self._path, held_bytes=0, files=0, dry_run=self._dry_run)
        except OSError as error:
            note = f"not looked at: it is no directory, or a part of its path has become a link ({error.strerror})"
            return Cleanup(path=self._path, held_bytes=0, files=0, notes=(note,), dry_run=self._dry_run)
        try:
            self.mount = mounted(root)
            held_bytes, files = self._rounds(root)
        finally:
            os.close(root)
        return Cleanup(
            path=self._path, held_bytes=held_bytes, files=files, removed=tuple(self._removed), left=dict(self._left),
            notes=tuple(self._notes()), dry_run=self._dry_run,
        )  # fmt: skip

    def _rounds(self, root: int) -> tuple[int, int]:
        """Censuses and removals until enough is gone; the bytes and files that there were at first."""
        first = None
        for _ in range(_ROUNDS):
            self.census = census = take_census(
                root, may_go=self._may_go, step=self._pace.step, by_access="noatime" not in self.mount.options,
                now=time.time(),
            )  # fmt: skip
            first = first or (census.bytes, census.files)
            before = self._freed_bytes
            over = self._over_bytes(census, before)
            if over > 0 and not self._pace.stopped:
                self._remove(root, census, over)
            freed = self._freed_bytes - before
            census.bytes -= 0 if self._dry_run else freed
            if not freed or freed >= over or not census.more or self._dry_run:
                break
        return first or (0, 0)

    def _remove(self, root: int, census: Census, over_bytes: int) -> None:
        self._left.clear()
        youngest = time.time() - self._min_age_s
        kept: list[Found] = []
        for number, found in enumerate(census.oldest):
            if over_bytes <= 0 or not self._pace.step():
                kept += census.oldest[number:]
                break
            why = "young" if found.used_at > youngest else self._try(root, found)
            if why:
                self._left[why] += 1
                kept.append(found)
                continue
            over_bytes -= found.bytes
            self._freed_bytes += found.bytes
            path = f"{self._path}/{found.paths[0]}"
            self._removed.append(Removal(path=path, bytes=found.bytes, used_at=found.used_at))
        if not self._dry_run:
            census.oldest = kept

    def _try(self, root: int, found: Found) -> str:
        return remove(root, found, self._open_files, dry_run=self._dry_run)

    def _notes(self) -> list[str]:
        notes: list[str] = []
        if not self.census.complete:
            notes.append("time was up before all of it was seen")
        if self.census.unread:
            notes.append(f"{self.census.unread} folders or files could not be looked at")
        if self.census.mounts:
            notes.append(f"{self.census.mounts} other mounts inside were passed by")
        if not self._open_files.complete:
            notes.append("whether files are open could not be known of all processes: only by their locks")
        return notes
