"""The native share: resident memory that grows and that Python's allocators do not explain, and where it lies."""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from memguard.findings import Native
from memguard.leaks.names import module_dict, plain_text
from memguard.mallinfo import malloc_bytes
from memguard.units import KIB, MIB, format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Books", "foreign_modules", "keep_books", "resident_bytes", "share"]

# pymalloc serves up to 512 bytes; over all programs that were looked at, a block in use has 44 to 110.
_BLOCK_BYTES: Final = 64
# glibc gives each thread arena a heap of 64 MiB of addresses, so aligned (HEAP_MAX_SIZE).
_ARENA_BYTES: Final = 64 * MIB
# Growth of less than that is the noise of resident memory: arenas, first use, the examination itself.
_NOISE_BYTES: Final = 2 * MIB
# Called native when Python explains less than half, and at least so much of it is not explained.
_NATIVE_RATIO: Final = 0.5
_MODULES_TOLD: Final = 12


class Books(NamedTuple):
    """The memory of the process at one instant, by who accounts for it; bytes.

    ``blocks`` counts Python's small blocks, ``malloc_bytes`` is what the C heap has handed out, ``malloc_free_bytes``
    what it keeps; ``kinds`` are resident bytes by kind of mapping.
    """

    rss_bytes: int
    blocks: int
    malloc_bytes: int
    malloc_free_bytes: int
    threads: int
    kinds: Mapping[str, int]


def keep_books() -> Books:
    """Read everything; 5 to 30 ms, by the number and the size of mappings."""
    handed_out, free = malloc_bytes() or (0, 0)
    kinds, rss = _mappings()
    return Books(
        rss_bytes=rss,
        blocks=sys.getallocatedblocks(),
        malloc_bytes=handed_out,
        malloc_free_bytes=free,
        threads=_threads(),
        kinds=kinds,
    )


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - only how many
    except OSError:
        return 0


def _mappings() -> tuple[dict[str, int], int]:
    """Resident bytes by kind of mapping, and all."""
    kinds: dict[str, int] = {}
    try:
        with open("/proc/self/smaps", "rb") as file:  # noqa: PTH123 - a file of the kernel
            kind = ""
            for line in file:
                if line.startswith(b"Rss:"):
                    kinds[kind] = kinds.get(kind, 0) + int(line.split()[1]) * KIB
                elif line[:1] in b"0123456789abcdef":
                    kind = _kind(line)
    except (OSError, ValueError):
        return {}, resident_bytes()
    return kinds, sum(kinds.values())


def _kind(line: bytes) -> str:
    """What a mapping is for, from its line in smaps(5)."""
    parts = line.split(None, 5)
    path = parts[5].strip() if len(parts) > 5 else b""  # noqa: PLR2004 - the sixth field, if any
    if path == b"[heap]":
        return "C heap"
    if path.startswith(b"[stack"):
        return "stacks"
    if path.startswith(b"/"):
        return "shared memory" if path.startswith((b"/dev/shm", b"/memfd", b"/SYSV")) else "files"
    if path and not path.startswith(b"[anon"):
        return "other"
    start = int(parts[0].split(b"-")[0], 16)
    return "thread arenas" if start % _ARENA_BYTES == 0 else "anonymous"


def resident_bytes() -> int:
    """The resident memory of this process; 0 where the kernel does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - as above
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def share(
    before: Books, after: Books, *, rss_bytes: int | None = None, traced_bytes: int | None, held_bytes: int = 0
) -> Native:
    """How much of the growth between two looks Python explains.

    ``rss_bytes`` is the growth to be explained (None: between the looks, with whatever looking itself has taken).
    ``traced_bytes`` is the growth that tracemalloc saw over the same time (None: it did not run); without it Python's
    small blocks are counted and ``held_bytes``, what growing containers were seen to hold, is added.
    """
    rss = after.rss_bytes - before.rss_bytes if rss_bytes is None else rss_bytes
    blocks = after.blocks - before.blocks
    python = traced_bytes if traced_bytes is not None else max(blocks * _BLOCK_BYTES, held_bytes)
    free = max(0, after.malloc_free_bytes - before.malloc_free_bytes)
    native = rss - max(0, python) - free
    is_native = rss > _NOISE_BYTES and native > max(_NOISE_BYTES, _NATIVE_RATIO * rss)
    parts = {
        kind: after.kinds.get(kind, 0) - before.kinds.get(kind, 0) for kind in sorted({*before.kinds, *after.kinds})
    }
    parts = {kind: grown for kind, grown in parts.items() if grown}
    parts["C heap, in use"] = after.malloc_bytes - before.malloc_bytes
    parts["C heap, free (fragmentation)"] = after.malloc_free_bytes - before.malloc_free_bytes
    modules = foreign_modules()
    how = "" if traced_bytes is not None else " (estimated: it was not traced)"
    words = f"RSS {_signed(rss)}, Python {_signed(python)}{how}"
    if is_native:
        words += f": {format_bytes(native)} are native; {_where(parts, after.threads - before.threads)}"
        loaded = (
            f"extension modules loaded: {', '.join(modules)}" if modules else "no extension module of others is loaded"
        )
        words += f"; {loaded}"
    elif abs(rss) <= _NOISE_BYTES:
        words = f"resident memory hardly moved: {words}"
    elif rss > _NOISE_BYTES and free > _NATIVE_RATIO * rss:
        words += f": {format_bytes(free)} lie free in the C heap, which is fragmentation and no leak"
    return Native(
        rss_bytes=rss,
        python_bytes=python,
        native_bytes=native,
        parts=parts,
        modules=modules,
        words=words,
        is_native=is_native,
    )


def _where(parts: Mapping[str, int], threads: int) -> str:
    """In which kind of mapping most of it lies, in words."""
    kinds = {kind: grown for kind, grown in parts.items() if not kind.startswith("C heap,")}
    if not kinds:
        return "where it lies is not known here"
    kind, grown = max(kinds.items(), key=lambda row: row[1])
    meant = {
        "C heap": "the C heap (malloc)",
        "anonymous": "anonymous mappings (large malloc blocks, mmap)",
        "thread arenas": "the C heaps of threads",
        "shared memory": "shared memory",
        "files": "mapped files",
    }.get(kind, kind)
    more = f", and {threads} threads more run" if threads > 0 else ""
    return f"{format_bytes(grown)} of it in {meant}{more}"


def _signed(count: int) -> str:
    return f"{'+' if count >= 0 else ''}{format_bytes(count)}"


def foreign_modules() -> tuple[str, ...]:
    """Extension modules that are loaded and are no part of Python, by their top-level name."""
    own = tuple(path for path in map(sysconfig.get_path, ("stdlib", "platstdlib")) if path)
    found = set[str]()
    for name, module in list(sys.modules.items()):
        names: dict[str, Any] = module_dict(module) or {}
        home = names.get("__file__")
        if type(home) is str and home.endswith((".so", ".pyd")):
            if home.startswith(own) and "site-packages" not in home and "dist-packages" not in home:
                continue
            found.add(plain_text(name).split(".")[0])
    return tuple(sorted(found)[:_MODULES_TOLD])
