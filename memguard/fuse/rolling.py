"""The fuse itself: armed, rolled, lifted, put back."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress

from memguard.fuse.letting_go import release
from memguard.fuse.reckoning import SLACK_BYTES, Reckoning
from memguard.fuse.starts import StartWatch
from memguard.model import Event
from memguard.probes.children import ChildrenProbe
from memguard.threads import new_lock
from memguard.units import MIB, format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import ModuleType
    from typing import Final

__all__ = ["DEADLY", "Fuse"]

DEADLY: Final = (
    "pydantic_core", "orjson", "polars", "tokenizers", "tiktoken", "safetensors", "cryptography.hazmat.bindings._rust",
    "rpds", "jiter", "ormsgpack", "watchfiles._rust_notify", "granian",
)  # fmt: skip
"""Modules that end the process when memory is refused: pydantic-core aborts and orjson crashes, as measured; the
others are written in Rust as well, whose allocation does not fail politely."""

# When others took the room, so that more is mapped than is allowed, a tick and a thread's first steps have this much.
_STEP_BYTES: Final = MIB
# A turn takes microseconds.
_TURN_S: Final = 0.1
# The kernel compares whole pages, so the bits below are free: odd means a fuse, the next eleven whose.
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MARK_PIDS: Final = 0x7FF


class Fuse:
    """A soft RLIMIT_DATA that follows what still fits.

    ``room`` reads how many bytes the nearest limit is away (None: nothing limits; OSError, ValueError: it cannot be
    read). Everything but ``note`` is called by one thread at a time. ``lift`` and ``note`` allocate nothing that the
    interpreter does not have at hand. ``limit_bytes`` is where it stands, None while it is not armed; ``trips`` counts
    the MemoryErrors that it was told of.
    """

    def __init__(
        self,
        *,
        room: Callable[[], int | None],
        tell: Callable[[Event], None],
        clock: Callable[[], float],
        force: bool = False,
    ) -> None:
        self._reckoning = Reckoning(room=room, clock=clock)
        self._tell = tell
        self._clock = clock
        self._force = force
        self._children = ChildrenProbe()
        self._starts = StartWatch(self._start_edge)
        self._starting = self._brink_bytes = 0
        self._resource: ModuleType | None = None
        self._before = (-1, -1)
        self._lifted = (-1, -1)
        self._told: set[str] = set()
        # Held for a system call or two: whoever sets the limit must not do so after it was put back.
        self._turn = new_lock()
        self.limit_bytes: int | None = None
        self.tripped: bool = False
        self.trips: int = 0

    @property
    def armed(self) -> bool:
        """Whether it is in force."""
        return self.limit_bytes is not None

    # --- arming -------------------------------------------------------------------------------------------------

    def arm(self) -> bool:
        """Put it in force unless something speaks against it, which is told; whether it is."""
        if self.armed:
            return True
        place = self._first_place()
        if isinstance(place, str):
            self._reckoning.end()
            self._say("fuse.refused", f"the fuse is not armed: {place}")
            return False
        self._starts.begin()
        self._set(place, arm=True)
        self._say("fuse.armed", f"RLIMIT_DATA follows what fits, now {format_bytes(place)}", limit_bytes=place)
        return True

    def _first_place(self) -> int | str:
        """Where it belongs, or what speaks against it."""
        deadly = _loaded()
        if deadly and not self._force:
            return (
                f"{', '.join(deadly)} would end the process at a refused allocation instead of raising; "
                "say fuse='force' if losing the process then is no worse than a kill"
            )
        try:
            import resource  # noqa: PLC0415 - Unix only

            place = self._reckoning.begin()
        except (ImportError, OSError, ValueError, IndexError) as error:
            return f"this system does not tell enough ({error})"
        if place is None:
            return "nothing limits this process"
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if _marked(soft):  # inherited from a parent's fuse
            soft = hard
        if soft != resource.RLIM_INFINITY:
            return f"RLIMIT_DATA is set already, to {format_bytes(soft)}: lift it (ulimit -d unlimited)"
        self._resource, self._before = resource, (soft, hard)
        return place if self._enforced(resource) else "this kernel does not enforce RLIMIT_DATA"

    def _enforced(self, resource: ModuleType) -> bool:
        """Try it: a mapping of half as much again as is allowed has to fail."""
        import mmap  # noqa: PLC0415 - for this once

        wanted = _mark(self._reckoning.data_bytes + 64 * MIB), self._before[1]
        try:
            resource.setrlimit(resource.RLIMIT_DATA, wanted)
            mmap.mmap(-1, 96 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        except OSError:
            return True
        finally:
            self._restore()
        return False

    def disarm(self) -> None:
        """Put back the limit that was there before; twice is fine."""
        with self._turned():
            if self.limit_bytes is not None:
                self.limit_bytes = None
                self._restore()
                self._starts.end()
        self._reckoning.end()

    def forget(self) -> None:
        """In a forked child: the parent's fuse is not the child's."""
        self._turn, self._starting, self.tripped = new_lock(), 0, False
        self.disarm()

    def _restore(self) -> None:
        resource = self._resource
        # Somebody else may have set another one meanwhile: that is his.
        if resource is not None and _marked(resource.getrlimit(resource.RLIMIT_DATA)[0]):
            resource.setrlimit(resource.RLIMIT_DATA, self._before)

    # --- rolling ------------------------------------------------------------------------------------------------

    def lift(self) -> None:
        """Give way by a little, so that whoever looks after the memory has some; allocates nothing."""
        if self._turn.acquire(blocking=False):  # else somebody is just setting it
            try:
                if self.limit_bytes is not None and self._resource is not None:
                    self._resource.setrlimit(self._resource.RLIMIT_DATA, self._lifted)
            finally:
                self._turn.release()

    def roll(self) -> None:
        """Set it anew from what is read now; where that fails, the last one holds."""
        if self.limit_bytes is None:
            return
        try:
            place = self._reckoning.next()
        except (OSError, ValueError, IndexError):
            place = self.limit_bytes
        if place is not None:
            self._set(place)
            return
        self.disarm()
        self._say("fuse.refused", "the fuse is out: nothing limits this process any more")

    def _set(self, place: int, *, arm: bool = False) -> None:
        with self._turned():
            if arm or self.limit_bytes is not None:
                self.limit_bytes = place
                self._apply(place)

    @contextmanager
    def _turned(self) -> Generator[None]:
        """One at a time; but a signal's handler that came in between its own thread's turn must not wait for ever."""
        got = self._turn.acquire(timeout=_TURN_S)
        try:
            yield
        finally:
            if got:
                self._turn.release()

    def _apply(self, place: int) -> None:
        """Set it: there, or above while a thread is starting."""
        resource, hard = self._resource, self._before[1]
        data_bytes = self._reckoning.data_bytes
        # Once for as long as it lasts: what is mapped meanwhile must not be a reason to map more.
        self._brink_bytes = 0 if data_bytes <= place else self._brink_bytes or data_bytes + _STEP_BYTES
        self._lifted = _mark(max(place + SLACK_BYTES, self._brink_bytes)), hard
        if resource is not None:
            resource.setrlimit(resource.RLIMIT_DATA, self._lifted if self._starting else (_mark(place), hard))

    def _start_edge(self, step: int) -> None:
        """A thread is about to be started, or has started."""
        with self._turned():
            self._starting = max(0, self._starting + step)
            if self.limit_bytes is not None:
                with suppress(OSError, ValueError, IndexError):
                    self._reckoning.data_bytes = self._reckoning.look()[0]
                self._apply(self.limit_bytes)

    # --- trips --------------------------------------------------------------------------------------------------

    def note(self, error: BaseException | None = None) -> None:
        """A piece of work met a MemoryError: make a little room at once, let go of what its frames hold.

        From any thread.
        """
        self.lift()
        self.trips += 1
        self.tripped = True
        if error is not None:
            release(error)

    def tell_trip(self) -> None:
        """Tell of a trip, where there is room for words."""
        self.tripped = False
        limit = format_bytes(self.limit_bytes or 0)
        self._say("fuse.tripped", f"work was refused memory at {limit} mapped ({self.trips} so far)", trips=self.trips)

    # --- looking after it ---------------------------------------------------------------------------------------

    def tend(self) -> None:
        """At a slow pace: children lose the limit that they inherited; a module that cannot bear the fuse ends it."""
        if not self.armed:
            return
        deadly = _loaded()
        if deadly and not self._force:
            self.disarm()
            self._say("fuse.refused", f"the fuse is out: {', '.join(deadly)} was loaded; say fuse='force' to keep it")
            return
        resource, own = self._resource, _mark(0)
        if resource is None:
            return
        for pid in self._children.pids():
            with suppress(OSError):  # it has ended, or belongs to somebody else
                soft, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
                if _marked(soft) and soft & (_MARK_PIDS << 1 | 1) == own:
                    resource.prlimit(pid, resource.RLIMIT_DATA, (hard, hard))

    def _say(self, event: str, text: str, **numbers: int) -> None:
        if event != "fuse.refused" or text not in self._told:
            self._told.add(text if event == "fuse.refused" else "")
            self._tell(Event(at=self._clock(), name=event, text=text, attributes=numbers))

    def __repr__(self) -> str:
        return f"<Fuse {'not armed' if self.limit_bytes is None else format_bytes(self.limit_bytes)}>"


def _loaded() -> tuple[str, ...]:
    """Which of the modules that cannot bear a refused allocation are loaded."""
    modules = sys.modules
    return tuple(name for name in DEADLY if name in modules)


def _mark(count: int) -> int:
    """A limit in whole pages with a mark in the bits below."""
    return (max(0, count) // _PAGE_BYTES) * _PAGE_BYTES | (os.getpid() & _MARK_PIDS) << 1 | 1


def _marked(count: int) -> bool:
    """Whether a limit is some fuse's: nobody else writes odd ones."""
    return count > 0 and bool(count & 1)
