"""The allocator as a reclaimer: freed memory that the allocator keeps goes back to the kernel."""

from __future__ import annotations

import sys

from memguard.model import Level
from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from memguard.kinds import Cost

__all__ = ["Trim"]

# mallopt parameters of glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_ARENA_MAX: Final = -8
# glibc's own first trim threshold; a top above it is handed back on free().
_TRIM_THRESHOLD_BYTES: Final = 128 << 10
# Above 64 KiB free() looks at the arena's top (FASTBIN_CONSOLIDATION_THRESHOLD); below 128 KiB it is never an mmap.
_POKE_BYTES: Final = 96 << 10
# glibc makes at most 8 arenas per core on 64-bit machines, then shares them in turn; twice as many threads at once
# take every arena. 256 threads are the most we start.
_ARENAS_PER_CORE: Final = 8
_POKES_MAX: Final = 256
# jemalloc 5: MALLCTL_ARENAS_ALL.
_JEMALLOC_PURGE: Final = b"arena.4096.purge"
_JEMALLOC_DECAY: Final = b"arena.4096.decay"
_JEMALLOC_FLUSH: Final = b"thread.tcache.flush"


@value(kw_only=False)
class _Allocator:
    """An allocator's name in words, and its call (True or None: it may have released, False: it did not)."""

    name: str
    trim: Callable[[], bool | None] | None


class Trim:
    """An allocator trim: hands freed pages that the allocator kept back to the kernel.

    Without it a service whose caches are emptied often stays as large as before: 150 k blocks of 2 KB cleared, 332
    to 323 MB; after ``malloc_trim(0)``, 16 MB. The allocator in use is found once, at the first need: jemalloc,
    mimalloc, tcmalloc, glibc, in this order; one that is loaded while ``malloc`` is still glibc's is passed over. musl
    has no such call. The calls go through ctypes and release the GIL, but glibc holds an arena's lock while it works
    on it (0.07 ms per MB looked at, 0.25 to 0.5 ms per MB released): never call it on a request's path. An Arrow
    memory pool is released too when pyarrow is loaded; pyarrow is never imported for it.

    What it cannot get back: pages on which one small object survives (mimalloc 2.0: nothing at all then), and, with
    glibc, the *tops* of the arenas of other threads. Those are small until the service has freed a block of many MB
    once, which raises glibc's own thresholds; then they are nearly everything that the threads had (of 192 MB freed
    by 8 threads, none came back).
    Two opt-ins, because both change the process for good:

    - ``thread_tops=True`` sets M_TRIM_THRESHOLD to 128 KiB at the first need (glibc stops adjusting its thresholds),
      then lets 16 short threads per core each allocate and free 96 KiB at every trim, so that every arena is looked
      at: 192 to 11 MB in the case above. The threads need 8 MB of address space each while they run (mind
      RLIMIT_DATA); on machines of more than 16 cores it may miss arenas.
    - ``max_arenas=2`` sets M_ARENA_MAX at once: fewer tops to keep (192 to 40 MB), more waiting between threads that
      allocate. It is for the start of a process: arenas that exist stay.

    Raises:
        ValueError: ``max_arenas`` is below 1.
    """

    name: str = "trim"
    cost: Cost = "free"
    at: Level = Level.ELEVATED
    settles: bool = True
    stalls: bool = False
    prompt: bool = True

    def __init__(self, *, thread_tops: bool = False, max_arenas: int | None = None) -> None:
        if max_arenas is not None and max_arenas < 1:
            raise ValueError(f"max_arenas={max_arenas} must be at least 1 (None: leave glibc's own, 8 per core)")
        self._thread_tops = thread_tops
        self._found: _Allocator | None = None
        if max_arenas is not None and (lib := _process()) is not None and _has(lib, "mallopt"):
            lib.mallopt(_M_ARENA_MAX, max_arenas)

    @property
    def allocator(self) -> str:
        """The allocator in use, in words: ``"glibc"``, ``"jemalloc"`` …, or why nothing can be called."""
        return self._find().name

    @property
    def works(self) -> bool:
        """Whether this allocator has a call that gives memory back."""
        return self._find().trim is not None

    def size(self) -> int | None:
        """None: mallinfo2 over-estimates up to 33 times and costs as much as a trim."""
        return None

    def reclaim(self, wanted_bytes: int, /) -> int | None:  # noqa: ARG002 - a trim has no dose
        """Trim, however much is wanted. Claims 0 when the allocator says that it had nothing, else makes no claim."""
        trim = self._find().trim
        arrow = sys.modules.get("pyarrow")
        try:
            # First, because a pool may hand its blocks to the allocator that is trimmed next.
            released = arrow is not None and _release_arrow(arrow)
        finally:
            trimmed = False if trim is None else trim()
        return 0 if trimmed is False and not released else None

    def _find(self) -> _Allocator:
        if self._found is None:
            self._found = find_allocator(_process(), thread_tops=self._thread_tops)
        return self._found

    def __repr__(self) -> str:
        return "<Trim>" if self._found is None else f"<Trim {self._found.name}>"


def _release_arrow(arrow: Any) -> bool:  # noqa: ANN401 - a module that may be half imported
    pool = getattr(arrow, "default_memory_pool", None)
    if pool is None:
        return False
    pool().release_unused()
    return True


def _process() -> Any:  # noqa: ANN401 - ctypes types what it loads as Any
    """The symbols of this process (its executable and every global library); None where there is no such thing."""
    try:
        import ctypes  # noqa: PLC0415 - 4 ms that an idle guard does not need

        return ctypes.CDLL(None)
    except (ImportError, OSError, TypeError):  # no libffi; Windows wants a name
        return None


def _has(lib: Any, symbol: str) -> bool:  # noqa: ANN401
    try:
        return getattr(lib, symbol, None) is not None
    except (AttributeError, ValueError):
        return False


def find_allocator(lib: Any, *, thread_tops: bool = False) -> _Allocator:  # noqa: ANN401
    """The allocator whose ``malloc`` this process uses, from the symbols it shows."""
    if lib is None:
        return _Allocator("none found (this system shows no symbols)", None)
    for name, symbol, make in (
        ("jemalloc", "mallctl", _jemalloc),
        ("mimalloc", "mi_collect", _mimalloc),
        ("tcmalloc", "MallocExtension_ReleaseFreeMemory", _tcmalloc),
    ):
        if _has(lib, symbol) and _in_use(lib, symbol):
            return _Allocator(name, make(lib))
    if _has(lib, "malloc_trim"):
        return _Allocator("glibc", _glibc(lib, thread_tops=thread_tops))
    if sys.platform == "linux":
        return _Allocator("none found (musl has no trim)", None)
    return _Allocator(f"none found (nothing known for {sys.platform})", None)


def _in_use(lib: Any, symbol: str) -> bool:  # noqa: ANN401
    """Whether ``malloc`` is not the C library's own while a library shows this symbol.

    A library may bring an allocator along that nobody else uses. ``malloc`` need not lie in the allocator's file: an
    executable at a fixed address shows its own stub.
    """
    if not (_has(lib, "dladdr") and _has(lib, "malloc_trim")):
        return True
    import ctypes  # noqa: PLC0415

    class Place(ctypes.Structure):
        """Dl_info of dlfcn.h."""

        _fields_ = (
            ("file", ctypes.c_char_p),
            ("base", ctypes.c_void_p),
            ("symbol", ctypes.c_char_p),
            ("address", ctypes.c_void_p),
        )

    def base(name: str) -> int | None:
        place = Place()
        found = lib.dladdr(ctypes.cast(getattr(lib, name), ctypes.c_void_p), ctypes.byref(place))
        return place.base if found else None

    owner = base("malloc")
    return owner == base(symbol) or owner != base("malloc_trim")


def _jemalloc(lib: Any) -> Callable[[], bool | None]:  # noqa: ANN401
    import ctypes  # noqa: PLC0415

    mallctl = lib.mallctl
    mallctl.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

    def trim() -> bool | None:
        mallctl(_JEMALLOC_FLUSH, None, None, None, 0)  # of this thread only; others flush theirs as they go
        # Decay gives back what has aged, where purge is not known.
        if mallctl(_JEMALLOC_PURGE, None, None, None, 0) and mallctl(_JEMALLOC_DECAY, None, None, None, 0):
            return False
        return None

    return trim


def _mimalloc(lib: Any) -> Callable[[], bool | None]:  # noqa: ANN401
    import ctypes  # noqa: PLC0415

    collect = lib.mi_collect
    collect.argtypes, collect.restype = (ctypes.c_bool,), None
    return lambda: collect(True)  # noqa: FBT003 - C has no keywords; true: also what is not yet due


def _tcmalloc(lib: Any) -> Callable[[], bool | None]:  # noqa: ANN401
    release = lib.MallocExtension_ReleaseFreeMemory
    release.argtypes, release.restype = (), None

    def trim() -> None:
        release()

    return trim


def _glibc(lib: Any, *, thread_tops: bool) -> Callable[[], bool | None]:  # noqa: ANN401
    import ctypes  # noqa: PLC0415

    malloc_trim = lib.malloc_trim
    malloc_trim.argtypes, malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
    if not thread_tops:
        return lambda: bool(malloc_trim(0))
    lib.malloc.argtypes, lib.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
    lib.free.argtypes, lib.free.restype = (ctypes.c_void_p,), None
    lib.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)

    def trim() -> bool | None:
        _poke_arenas(lib)
        malloc_trim(0)
        return None

    return trim


def _poke_arenas(lib: Any) -> None:  # noqa: ANN401
    """Let every arena free one block: short threads, all alive at once, take the arenas in turn."""
    import os  # noqa: PLC0415
    import threading  # noqa: PLC0415

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    everyone_in = threading.Event()

    def poke() -> None:
        block = lib.malloc(_POKE_BYTES)
        # Until all have an arena: the arena of a thread that ended would be the next one's.
        everyone_in.wait()
        lib.free(block)

    threads: list[threading.Thread] = []
    try:
        for _ in range(min(_POKES_MAX, 2 * _ARENAS_PER_CORE * cores)):
            thread = threading.Thread(target=poke, name="memguard-poke", daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:  # no more threads to be had: those that run will do
        pass
    finally:
        everyone_in.set()
        for thread in threads:
            thread.join()
