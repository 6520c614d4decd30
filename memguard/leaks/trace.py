"""Tracing on suspicion: a bounded window of ``tracemalloc``, and what of that window's births stays alive.

Tracing makes allocation 5 to 8 times slower with one frame, so it runs for seconds, never in advance, and is refused
where memory or processor time is short. Only what is born inside the window is traced, so that looking at all traces
(1.3 us each, the GIL held) stays short; two whole snapshots are never compared.

Cohorts: the window is cut into parts. Tracing began at a known instant, so what is alive after k parts is at most k
old, and under a steady load the next part's growth is what outlived k parts: a leak's curve goes on as it began, a
cache's bends when the first entries are replaced, garbage never rises (``memguard.leaks.ages``).
"""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memguard.findings import Site, Trace
from memguard.leaks.ages import holm, outlived
from memguard.leaks.names import plain_text
from memguard.leaks.referents import referents
from memguard.threads import new_lock
from memguard.units import MIB, format_bytes

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Tracer"]

_Frames = tuple[tuple[str, int], ...]
# What the tracer may hold itself, at 50 to 100 bytes a traced block: above it the window ends early.
_TRACER_BYTES: Final = 32 * MIB
# A look at the traces takes some three times what the tracer holds; with it that is half of what is left.
_ROOM_PARTS: Final = 8
# Ten thousand blocks or more; with less one would not see what stays.
_TRACER_LEAST_BYTES: Final = MIB
# One part of a window may go beyond what is allowed by so much before it is seen: then there is no last look.
_BEYOND: Final = 1.5
# A program's own traces are looked at too when it has tracing on; above this one look holds the GIL for half a second.
_SHARED_BYTES: Final = 24 * MIB
_SITES_KEPT: Final = 50
_FRAMES_AT_MOST: Final = 5
# The collector's header, and in 3.11 two words more for an instance's attributes.
_PRE_HEADER: Final = 32
# Of what an object refers to, so many are asked for their place of birth.
_NEAR: Final = 8
_STDLIB: Final = tuple(
    f"{path}{os.sep}" for path in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")} if path
)
_SITE_PACKAGES: Final = ("site-packages", "dist-packages")
# This room's own allocations are left out; those of memguard's other rooms are made for whoever called them.
_OURS: Final = f"{Path(__file__).parent}{os.sep}"
_PACKAGE: Final = f"{Path(__file__).parent.parent}{os.sep}"
_lock = new_lock()
_running = 0
_forks_watched = False


class Tracer:
    """One window of tracing; a context manager that never leaves tracing on that it has started.

    Where little room is left it may hold little: a short window of few requests still shows a leak's line.

    Args:
        frames: how many calls are kept of each allocation, 1 to 5.
        room_bytes: what is left until the limit (None: unlimited).

    Raises:
        ValueError: fewer than 1 or more than 5 frames.
    """

    def __init__(self, *, frames: int = 3, room_bytes: int | None = None) -> None:
        if not 1 <= frames <= _FRAMES_AT_MOST:
            raise ValueError(f"frames={frames} must be 1 to 5: more make allocation 20 to 130 times slower")
        self.frames: int = frames
        self.allowed_bytes: int = _TRACER_BYTES
        """What the tracer may hold: at most an eighth of the room, since a look at it takes three times as much."""
        if room_bytes is not None:
            self.allowed_bytes = min(_TRACER_BYTES, max(0, room_bytes) // _ROOM_PARTS)
        self._room_bytes = room_bytes
        self._began: float | None = None
        self._open = False
        self._seconds = 0.0
        self._start: dict[_Frames, tuple[int, int]] = {}
        self._marks: list[dict[_Frames, tuple[int, int]]] = []
        self._weights: list[float] = []
        self._peak_bytes = 0
        self.refused: str = ""
        self.shared: bool = False
        self.note: str = ""
        self.hold_s: float = 0.0

    def begin(self) -> bool:
        """Start tracing; False, with the reason in ``refused``, where that would do harm."""
        import tracemalloc  # noqa: PLC0415 - most services never need it

        global _running  # noqa: PLW0603 - tracing is the process's own
        with _lock:
            self.shared = tracemalloc.is_tracing() and not _running
            self.refused = self._refusal(tracemalloc.get_tracemalloc_memory() if self.shared else 0)
            if self.refused:
                return False
            if not tracemalloc.is_tracing():
                tracemalloc.start(self.frames)
            self.frames = tracemalloc.get_traceback_limit()
            if not self.shared:
                _running += 1
                _watch_forks()
            self._began = time.perf_counter()
            self._open = True
        self._start = self._look()
        return True

    def _refusal(self, known_bytes: int) -> str:
        room = self._room_bytes
        if known_bytes > _SHARED_BYTES:
            return (
                f"the program's own tracemalloc holds {format_bytes(known_bytes)} of traces: one look at them would "
                "stop every thread for half a second or more"
            )
        if self.shared:
            return ""  # it is paid for already
        if room is not None and self.allowed_bytes < _TRACER_LEAST_BYTES:
            needed = format_bytes(_TRACER_LEAST_BYTES * _ROOM_PARTS)
            return f"only {format_bytes(room)} are left until the limit, tracing needs {needed}"
        return ""

    @property
    def on(self) -> bool:
        """Whether this window is open."""
        return self._began is not None and not self.note

    @property
    def work(self) -> float:
        """What was done in the parts that have ended: the sum of their weights."""
        return sum(self._weights)

    @property
    def tight(self) -> bool:
        """Whether it may hold less than it would take: then it is to be looked at more often than at marks."""
        return self.allowed_bytes < _TRACER_BYTES

    @property
    def full(self) -> bool:
        """Whether it holds what it may; costs nothing."""
        import tracemalloc  # noqa: PLC0415

        return self.on and tracemalloc.get_tracemalloc_memory() > self._most_bytes

    @property
    def _most_bytes(self) -> int:
        return self.allowed_bytes + (_SHARED_BYTES if self.shared else 0)

    def give_up(self, why: str) -> None:
        """End the window early, with the reason; what was seen until now stays."""
        if self.on:
            self.note = why
            self._close()

    def merge(self) -> None:
        """Take the parts until now as one."""
        del self._marks[:-1]
        self._weights = [sum(self._weights)] * len(self._marks)

    def mark(self, weight: float = 1.0) -> bool:
        """End one part of the window; ``weight`` is the work done in it. False when the window is over early."""
        if not self.on:
            return False
        import tracemalloc  # noqa: PLC0415

        if not tracemalloc.is_tracing():
            self.note = "somebody stopped tracemalloc meanwhile"
            return False
        own_bytes = tracemalloc.get_tracemalloc_memory()
        self._peak_bytes = max(self._peak_bytes, own_bytes)
        if own_bytes <= _BEYOND * self._most_bytes:
            self._marks.append(self._look())
            self._weights.append(weight)
        if own_bytes > self._most_bytes:
            why = ", all that it may with so little room" if self.tight else ""
            self.give_up(f"it was ended early: the tracer itself held {format_bytes(own_bytes)}{why}")
            return False
        return True

    def end(self, *, slowdown_ratio: float | None = None) -> Trace:
        """Stop tracing, unless others have it on, and say what stays; calling it again says the same of nothing."""
        if self._began is None:
            return Trace(sites=(), seconds=0.0, frames=self.frames, refused=self.refused or "it was not begun")
        seconds = self._close()
        self._began = None
        sites = self._sites()
        traced = sum(size for size, _ in self._marks[-1].values()) if self._marks else 0
        self._start, self._marks = {}, []
        return Trace(
            sites=sites[:_SITES_KEPT],
            seconds=seconds,
            frames=self.frames,
            shared=self.shared,
            peak_bytes=self._peak_bytes,
            slowdown_ratio=slowdown_ratio,
            traced_bytes=traced,
            note=self.note,
        )

    def _close(self) -> float:
        """Stop tracing, once; how long it ran."""
        if self._open:
            self._open = False
            self._seconds = time.perf_counter() - (self._began or 0.0)
            if not self.shared:
                _stop()
        return self._seconds

    def site_of(self, thing: object) -> str:
        """Where a block that was born in the window was allocated, as "file:line"; "" when it was not."""
        return next(iter(self.sites_of(thing)), "")

    def sites_of(self, thing: object) -> tuple[str, ...]:
        """The same, followed by where what it refers to directly was allocated; each place once."""
        if not self._open:
            return ()
        births = map(_birth, (thing, *islice(referents(thing), _NEAR)))
        return tuple(dict.fromkeys(_shown(_own(frames)) for frames in births if frames is not None))

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def _look(self) -> dict[_Frames, tuple[int, int]]:
        """Bytes and blocks that are alive, by where they were allocated."""
        import _tracemalloc  # noqa: PLC0415

        cpu = time.thread_time()
        traces: Any = _tracemalloc._get_traces()  # noqa: SLF001 - a Snapshot of the same takes 20 times as long
        self.hold_s = max(self.hold_s, time.thread_time() - cpu)
        by_id: dict[int, list[Any]] = {}
        for _, size, frames, *_ in traces:
            row = by_id.get(id(frames))
            if row is None:
                by_id[id(frames)] = [frames, size, 1]
            else:
                row[1] += size
                row[2] += 1
        return {frames: (size, blocks) for frames, size, blocks in by_id.values() if not _is_ours(frames)}

    def _sites(self) -> tuple[Site, ...]:
        """Every place whose births stay, what stays longest first."""
        places: dict[tuple[str, int], list[_Frames]] = {}
        for frames in self._marks[-1] if self._marks else ():
            places.setdefault(_own(frames), []).append(frames)
        rows = []
        for place, traces in places.items():
            curve = [self._sum(traces, mark) for mark in self._marks]
            size, blocks = curve[-1]
            if size > 0 and blocks > 0:
                widest = max(traces, key=lambda frames: self._marks[-1][frames])
                ages = tuple(max(0, size - young) for young, _ in curve[:-1])
                p = outlived([count for _, count in curve], [young for young, _ in curve], self._weights)
                rows.append((place, widest, size, blocks, ages, p))
        corrected = holm([row[-1] for row in rows])
        found = [
            Site(
                where=_shown(place),
                frames=tuple(_shown(frame) for frame in widest if not frame[0].startswith(_OURS)),
                bytes=size,
                blocks=blocks,
                ages_bytes=ages,
                p=p,
            )
            for (place, widest, size, blocks, ages, _), p in zip(rows, corrected, strict=True)
        ]
        return tuple(sorted(found, key=lambda site: (-(site.ages_bytes or (site.bytes,))[0], site.where)))

    def _sum(self, traces: list[_Frames], mark: dict[_Frames, tuple[int, int]]) -> tuple[int, int]:
        size = blocks = 0
        for frames in traces:
            for seen, sign in ((mark, 1), (self._start, -1)):
                more_bytes, more_blocks = seen.get(frames, (0, 0))
                size, blocks = size + sign * more_bytes, blocks + sign * more_blocks
        return size, blocks


def _birth(thing: object) -> _Frames | None:
    import _tracemalloc  # noqa: PLC0415

    found: Any = _tracemalloc._get_object_traceback(thing)  # noqa: SLF001 - the public one builds objects of it
    if found is None and sys.version_info < (3, 12) and gc.is_tracked(thing):
        found = _birth_at(id(thing) - _PRE_HEADER)
    return None if found is None or _is_ours(found) else found


def _birth_at(address: int) -> Any:  # noqa: ANN401 - a traceback as C has it
    """Before 3.12 CPython's own lookup forgets the two words before an instance that has a dict."""
    import ctypes  # noqa: PLC0415 - a started guard does without it

    lookup = ctypes.pythonapi._PyTraceMalloc_GetTraceback  # noqa: SLF001 - a C function
    lookup.restype, lookup.argtypes = ctypes.py_object, (ctypes.c_uint, ctypes.c_void_p)
    return lookup(0, address)


def _stop() -> None:
    import tracemalloc  # noqa: PLC0415

    global _running  # noqa: PLW0603 - see begin
    with _lock:
        _running = max(0, _running - 1)
        if not _running:
            tracemalloc.stop()


def _watch_forks() -> None:
    """A child forked in the middle of a window must not go on tracing for ever."""
    global _forks_watched  # noqa: PLW0603 - hooks cannot be taken back: one is enough
    if not _forks_watched and hasattr(os, "register_at_fork"):
        _forks_watched = True
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    global _lock, _running  # noqa: PLW0603 - the lock may be held by a thread that is not here
    _lock = new_lock()
    if _running:
        import tracemalloc  # noqa: PLC0415

        _running = 0
        tracemalloc.stop()


def _is_ours(frames: _Frames) -> bool:
    innermost = next((path for path, _ in frames if not path.startswith(_STDLIB)), "")
    return innermost.startswith(_OURS) or frames[0][0].startswith("<frozen importlib")


def _own(frames: _Frames) -> tuple[str, int]:
    """The innermost call outside of the standard library and of memguard: whose line it is."""
    for frame in frames:
        path = frame[0]
        if path[:1] == "<" or path.startswith(_PACKAGE):
            continue
        if not path.startswith(_STDLIB) or any(name in path for name in _SITE_PACKAGES):
            return frame
    return frames[0]


def _shown(frame: tuple[str, int]) -> str:
    """A place as people read it: below the directory that Python imports it from."""
    path, line = frame
    bases = [f"{base}{os.sep}" for base in sys.path if type(base) is str and base]
    inside = max((base for base in bases if path.startswith(base)), key=len, default="")
    return f"{plain_text(path[len(inside) :])}:{line}"
