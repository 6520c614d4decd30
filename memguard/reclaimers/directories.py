"""Directories of files that can be made again, held to a quota: the least recently used files go first."""

from __future__ import annotations

import fnmatch
import os
import re
import sys
import time
import weakref
from array import array
from typing import TYPE_CHECKING, Final

from memguard import roster as rosters
from memguard.model import Event, Level
from memguard.reclaimers.callback import check_labels
from memguard.reclaimers.cleaning import Cleaning, Cleanup
from memguard.reclaimers.errands import Errand, Pace
from memguard.units import MIB, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memguard.kinds import Cost
    from memguard.reclaimers.walking import Census
    from memguard.roster import Handle, Roster

__all__ = ["Directories", "Directory", "directories_of"]

# What operators clean by hand: 100 MB each, 200 MB together; the early sign at 50 MB.
_MAX_BYTES: Final = 100 * MIB
_TOTAL_BYTES: Final = 200 * MIB
_EARLY_RATIO: Final = 0.5
# A cleaning goes down to this share of what was exceeded, or the next file would cause the next one.
_TARGET_RATIO: Final = 0.8
# Between two looks: so long, and so many times as long as the last one worked (0.2 % of a core).
_EVERY_S: Final = 10.0
_EVERY_TIMES: Final = 500.0
# What somebody has just made he is about to use: between writing a file and renaming it nobody has it open.
_MIN_AGE_S: Final = 10.0
# A reclaim comes back in this time, of the 5 s after which the guard goes on without it.
_RECLAIM_S: Final = 2.0
# Never removed unless asked for: others tell by them who is running, and databases lose what they had promised.
_EXCLUDED: Final = ("*.lock", "*.pid", "*-wal", "*-shm", "*-journal", ".nfs*")
# The system's own: nothing in the first is a cache, and the second are everybody's.
_SYSTEM: Final = ("/bin", "/boot", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")
_SHARED: Final = re.compile(r"/|/(dev|home|mnt|opt|root|run|srv|tmp|var)|/dev/shm|/var/(cache|lib|log|tmp)")


class Directory:
    """A directory under a quota; on a file system in memory also a reclaimer.

    To register one is to say that its files can be made again. The files least recently used go first, when all of
    them together take more than ``max_bytes``, or all registered directories more than their total; never one outside
    the directory as it was named, behind a link, on another mount, younger than ``min_age_s`` or open in any process.
    ``include`` and ``exclude`` are shell patterns for the name, or for the path below the directory; what they keep
    from going counts all the same. A link that names the directory itself is resolved once, here.

    On a tmpfs files are memory: it then gives them back when the guard asks, from level ``at`` on. On a disk it never
    claims to hold memory and only looks after its quota. ``act=False`` tells what it would do and removes nothing.

    Raises:
        ValueError: it holds the running program, or a number is out of range.
        TypeError: ``include`` or ``exclude`` is one text instead of several.
    """

    settles: bool = False
    stalls: bool = False

    def __init__(  # noqa: PLR0913 - the quota of a directory; all but the path have a default
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        max_bytes: int = _MAX_BYTES,
        early_bytes: int | None = None,
        include: Iterable[str] = ("*",),
        exclude: Iterable[str] = _EXCLUDED,
        min_age_s: float = _MIN_AGE_S,
        cost: Cost = "dear",
        at: Level = Level.WARNING,
        act: bool = True,
        tell: Callable[[Event], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path: str = _named(path)
        self.name: str = self.path if name is None else name
        check_labels(self.name, cost, at)
        if max_bytes <= 0 or min_age_s < 0 or (early_bytes is not None and early_bytes < 0):
            raise ValueError(
                f"directory {self.path}: max_bytes={max_bytes} must be above 0, "
                f"early_bytes={early_bytes} and min_age_s={min_age_s} at least 0"
            )
        self.max_bytes: int = max_bytes
        self.early_bytes: int = int(_EARLY_RATIO * max_bytes) if early_bytes is None else early_bytes
        self.min_age_s: float = min_age_s
        self.cost: Cost = cost
        self.at: Level = at
        self._may_go = _picker(self.path, include, exclude)
        self._act = act
        self._tell = tell
        self._clock = clock
        self._errand = Errand("memguard-clean")
        self._pace = Pace()
        self._due_at = float("-inf")
        self._said: set[str] = set()
        self.closed: bool = False
        self.group: Directories | None = None
        self.held_bytes: int | None = None
        """Bytes that its files took at the last look; None before the first."""
        self.in_memory: bool = False
        """Whether its files take memory, as far as the last look knows."""
        self.order: str = ""
        """By what "last used" is told on this mount, in words."""
        self.ages: array[float] = array("d")
        """Last use and bytes, in turn, of what may go, oldest first."""

    # --- the reclaimer ------------------------------------------------------------------------------------------

    def size(self) -> int | None:
        """Bytes of memory: its files' on a tmpfs, 0 on a disk, None before the first look."""
        return self.held_bytes if self.in_memory or self.held_bytes is None else 0

    def reclaim(self, wanted_bytes: int, /) -> int:
        """Remove the least recently used files of a directory in memory until so many bytes are gone."""
        if wanted_bytes <= 0 or self.closed or not self._act:
            return 0
        if self.held_bytes is None:
            self.plan()
        if not self.in_memory:
            return 0
        return self._clean(Pace(within_s=_RECLAIM_S), lambda _, freed_bytes: wanted_bytes - freed_bytes).freed_bytes

    def tend(self) -> None:
        """Look after the quota, on a thread of its own, when it is time."""
        now = self._clock()
        if now >= self._due_at and not self.closed and self._errand.start(self._look_after):
            self._due_at = now + _EVERY_S

    def close(self) -> None:
        """Leave it alone from now on."""
        self.closed = True
        self._pace.stop()

    # --- the quota ----------------------------------------------------------------------------------------------

    def plan(self) -> Cleanup:
        """What a cleaning to the quotas would remove now, oldest first; removes nothing."""
        return self._clean(Pace(), self._over_bytes, dry_run=True)

    def clean(self, *, down_to_bytes: int | None = None, pace: Pace | None = None) -> Cleanup:
        """Look now, and clean if a quota is exceeded; with ``down_to_bytes``, if it holds more than that."""
        over: Callable[[Census, int], int] = self._over_bytes
        if down_to_bytes is not None:
            over = lambda census, _: census.bytes - down_to_bytes  # noqa: E731 - one of two
        cleanup = self._clean(pace or Pace(), over, dry_run=not self._act)
        if down_to_bytes is not None and not self.closed:
            self._report(cleanup)
        return cleanup

    def _look_after(self) -> None:
        self._pace = pace = Pace(rest=True)
        cleanup = self._clean(pace, self._over_bytes, dry_run=not self._act)
        self._due_at = self._clock() + max(_EVERY_S, _EVERY_TIMES * pace.worked_s)
        if not self.closed:
            self._report(cleanup)

    def _clean(self, pace: Pace, over_bytes: Callable[[Census, int], int], *, dry_run: bool = False) -> Cleanup:
        cleaning = Cleaning(
            self.path, pace=pace, may_go=self._may_go, min_age_s=self.min_age_s, over_bytes=over_bytes, dry_run=dry_run
        )
        known_bytes = self.held_bytes
        cleanup = cleaning.run()
        self.in_memory, self.order = cleaning.mount.in_memory, cleaning.mount.order
        self._learn(cleaning.census)
        if not cleaning.census.complete and known_bytes is not None:
            self.held_bytes = max(cleaning.census.bytes, known_bytes - cleanup.freed_bytes)
        return cleanup

    def _learn(self, census: Census) -> None:
        self.held_bytes = census.bytes
        self.ages = array("d", (number for found in census.oldest for number in (found.used_at, found.bytes)))

    def _over_bytes(self, census: Census, freed_bytes: int) -> int:  # noqa: ARG002 - a relief goes by it
        self._learn(census)
        own = census.bytes - int(_TARGET_RATIO * self.max_bytes) if census.bytes > self.max_bytes else 0
        return max(own, 0 if self.group is None else self.group.share_bytes(self))

    # --- telling ------------------------------------------------------------------------------------------------

    def _report(self, cleanup: Cleanup) -> None:
        held, most = self.held_bytes or 0, format_bytes(self.max_bytes)
        self._once("directory.early", self.early_bytes < held, f"holds {format_bytes(held)} of {most}", cleanup)
        if cleanup.removed:
            does = "would remove" if cleanup.dry_run else "removed"
            freed = f"{len(cleanup.removed)} files, {format_bytes(cleanup.freed_bytes)}"
            self._say(
                "directory.cleaned",
                f"{does} {freed} of {format_bytes(cleanup.held_bytes)}, the oldest by {self.order}",
                cleanup,
            )
        left = ", ".join(f"{count} {why}" for why, count in sorted(cleanup.left.items())) or "nothing else may go"
        self._once("directory.over", held > self.max_bytes, f"holds {format_bytes(held)} of {most}: {left}", cleanup)
        for note in cleanup.notes:
            self._once("directory.note", True, note, cleanup)  # noqa: FBT003 - it is so

    def _once(self, event: str, holds: bool, text: str, cleanup: Cleanup) -> None:  # noqa: FBT001
        """Say it when it begins to hold."""
        key = text if event == "directory.note" else event
        if holds and key not in self._said:
            self._said.add(key)
            self._say(event, text, cleanup)
        elif not holds:
            self._said.discard(key)

    def _say(self, event: str, text: str, cleanup: Cleanup) -> None:
        if self._tell is not None:
            where = f"directory {self.path}{' (in memory)' if self.in_memory else ''}"
            numbers: dict[str, str | int] = {
                "held_bytes": self.held_bytes or 0,
                "freed_bytes": cleanup.freed_bytes,
                "name": self.name,
            }
            self._tell(Event(at=self._clock(), name=event, text=f"{where}: {text}", attributes=numbers))

    def __repr__(self) -> str:
        return f"<Directory {self.path} {self.held_bytes} of {self.max_bytes} bytes>"


class Directories:
    """All registered directories of a roster: together they hold ``total_bytes`` at most, the oldest files go first."""

    def __init__(self, roster: Roster) -> None:
        self._roster = weakref.ref(roster)
        self._members: tuple[weakref.ref[Directory], ...] = ()
        self.total_bytes: int = _TOTAL_BYTES

    def join(self, directory: Directory) -> Handle:
        """Sign it up; closing the handle leaves the files alone from then on.

        Raises:
            ValueError: another registered directory is inside this one, or around it.
        """
        roster = self._roster()
        for other in self.members:
            inner, outer = sorted((other.path, directory.path), key=len, reverse=True)
            if inner == outer or inner.startswith(outer + "/"):
                raise ValueError(
                    f"directory {directory.path} cannot be registered beside {other.path}: their files would count "
                    "twice; register the outer one alone"
                )
        if roster is None:
            raise ValueError(f"directory {directory.path}: its roster is gone")
        handle = roster.add(directory)
        directory.group = self
        self._members = (*(known for known in self._members if known() is not None), weakref.ref(directory))

        def close() -> None:
            directory.close()
            handle.close()

        return rosters.Handle(handle.name, close=close, alive=lambda: not handle.closed)

    @property
    def members(self) -> tuple[Directory, ...]:
        """Those that are registered."""
        seen = (member() for member in self._members)
        return tuple(member for member in seen if member is not None and not member.closed)

    @property
    def held_bytes(self) -> int:
        """Bytes of all of them together, as of their last looks."""
        return sum(member.held_bytes or 0 for member in self.members)

    def share_bytes(self, directory: Directory) -> int:
        """How much of what is too much for all this one has to give: its part of the files used least recently."""
        held = self.held_bytes
        if held <= self.total_bytes:
            return 0
        over, share = held - _TARGET_RATIO * self.total_bytes, 0.0
        ages = [
            (*pair, member) for member in self.members for pair in zip(member.ages[::2], member.ages[1::2], strict=True)
        ]
        for _, count, member in sorted(ages, key=lambda row: row[0]):
            if over <= 0:
                break
            over -= count
            share += count if member is directory else 0.0
        return int(share)


def directories_of(roster: Roster | None = None) -> Directories:
    """The roster's directories, under one total; the same for all threads."""
    roster = rosters.DEFAULT if roster is None else roster
    # One step in C: of several first callers one wins, without a lock that a fork could leave held.
    group: Directories = vars(roster).setdefault("_directories", Directories(roster))
    return group


def _named(path: str | os.PathLike[str]) -> str:
    """The directory that is meant, without links; never one that holds what is running."""
    text = os.path.expanduser(os.fsdecode(path))  # noqa: PTH111 - one flavour of path in this room
    if not text.strip() or "\0" in text:
        raise ValueError(f"directory {path!r} is no path: write it like '/var/cache/app'")
    real = os.path.realpath(text)
    if os.path.lexists(real) and not os.path.isdir(real):  # noqa: PTH112 - one flavour of path in this room
        raise ValueError(f"directory {text!r} is no directory: name the directory that holds the files")
    if _SHARED.fullmatch(real) or any((real + "/").startswith(system + "/") for system in _SYSTEM):
        raise ValueError(f"directory {text!r} holds what others need: name the cache directory itself")
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    homes = {"the home directory": os.path.expanduser("~"), "the working directory": os.getcwd()}  # noqa: PTH109, PTH111
    homes |= {"the program": os.path.dirname(program) if program else sys.prefix}  # noqa: PTH120 - as above
    homes |= {"Python": sys.prefix, "Python itself": sys.base_prefix, "memguard": os.path.dirname(__file__)}  # noqa: PTH120
    for what, where in homes.items():
        if (os.path.realpath(where) + "/").startswith(real.rstrip("/") + "/"):
            raise ValueError(f"directory {text!r} holds {what} ({where}): name the cache directory itself")
    return real


def _picker(path: str, include: Iterable[str], exclude: Iterable[str]) -> Callable[[str], bool]:
    """Says of a path below the directory whether it may go."""
    for what, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):
            raise TypeError(f"directory {path}: {what}={patterns!r} is one text: write it as ({patterns!r},)")
    wanted, unwanted = (
        re.compile("|".join([r"(?!)", *map(fnmatch.translate, patterns)])) for patterns in (include, exclude)
    )

    def may_go(below: str) -> bool:
        name = below.rpartition("/")[2]
        if unwanted.match(name) or unwanted.match(below):
            return False
        return bool(wanted.match(name) or wanted.match(below))

    return may_go
