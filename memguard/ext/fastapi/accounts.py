"""Accounts: who holds what is used, as rows that add up to it, the unknown rest named."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from memguard.agents.rungs import PackRung, Rung
from memguard.agents.shedding import Shedder
from memguard.caching.market import Market
from memguard.reclaimers.caches import ClearCache, EvictCache
from memguard.reclaimers.children import Child
from memguard.reclaimers.directories import Directory
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.guard import Guard

__all__ = ["Own", "Share", "consumers", "own_memory"]

# pymalloc serves up to 512 bytes; over all programs that were looked at, a block in use has 44 to 110.
_BLOCK_BYTES = 64
_STATUS = re.compile(rb"^(RssAnon|RssFile|RssShmem|Threads):\s+(\d+)", re.MULTILINE)


@value
class Share:
    """Somebody's part of what is used; ``estimated`` when it is told from the rest by an estimate."""

    name: str
    kind: str
    bytes: int
    reclaimable_bytes: int = 0
    estimated: bool = False


@value
class Own:
    """This process's resident bytes: anonymous memory, files and libraries, shared memory; how many threads."""

    anonymous_bytes: int
    file_bytes: int
    shared_bytes: int
    threads: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.anonymous_bytes + self.file_bytes + self.shared_bytes

    @property
    def python_bytes(self) -> int:
        """About what Python's own allocator has in use."""
        return min(self.anonymous_bytes, sys.getallocatedblocks() * _BLOCK_BYTES)


def own_memory() -> Own | None:
    """What this process holds, read now in some 20 µs; None where the kernel does not tell."""
    try:
        with open("/proc/self/status", "rb", buffering=0) as file:  # noqa: PTH123 - a file of the kernel
            found = {name: int(count) for name, count in _STATUS.findall(file.read(8192))}
        return Own(
            anonymous_bytes=found[b"RssAnon"] * 1024,
            file_bytes=found[b"RssFile"] * 1024,
            shared_bytes=found[b"RssShmem"] * 1024,
            threads=found.get(b"Threads", 0),
        )
    except (OSError, KeyError):
        return None


def _python_part(own: Own, rest_bytes: int) -> int:
    """Small objects' part of the rest: holders are taken to hold of each sort what there is of it."""
    return rest_bytes * own.python_bytes // own.anonymous_bytes if own.anonymous_bytes else 0


def consumers(guard: Guard) -> tuple[int, list[Share]]:
    """What is used, and who holds it, the largest first; the rows add up to it."""
    snapshot = guard.snapshot
    own = own_memory()
    known = list(_holders(guard))
    held = sum(share.bytes for share in known if share.kind not in {"children", "directory"})
    vitals, reading = snapshot.vitals, snapshot.reading
    children = _children_bytes(known, None if vitals is None else vitals.children_bytes)
    rows = [*known, *children]
    used = reading.used_bytes if reading is not None else (0 if own is None else own.bytes)
    left = used - sum(share.bytes for share in rows)
    if own is not None:
        rest = max(0, own.anonymous_bytes - held)
        python = _python_part(own, rest)
        # What the measure does not count is taken off where it most likely is: files first.
        for name, kind, count in (
            ("other Python objects", "python heap", python),
            ("native code and large objects", "native", rest - python),
            ("libraries and mapped files", "native", own.file_bytes),
            ("shared memory", "native", own.shared_bytes),
        ):
            part = max(0, min(count, left))
            left -= part
            if part:
                rows.append(Share(name=name, kind=kind, bytes=part, estimated=True))
    if left > 0:
        rows.append(Share(name="outside of this process", kind="unknown", bytes=left, estimated=True))
    elif left < 0:
        rows.append(Share(name="accounted but not resident", kind="correction", bytes=left, estimated=True))
    return used, sorted(rows, key=lambda share: -share.bytes)


def _children_bytes(known: list[Share], seen_bytes: int | None) -> Iterator[Share]:
    """Descendants that nobody has registered."""
    rest = (seen_bytes or 0) - sum(share.bytes for share in known if share.kind == "children")
    if rest > 0:
        yield Share(name="child processes", kind="children", bytes=rest)


def _holders(guard: Guard) -> Iterator[Share]:
    """Who is registered, with all that he holds and what of it can be had."""
    for states in guard.state_maps:
        figures = states.figures()
        yield Share(
            name=states.name,
            kind="states",
            bytes=figures.bytes,
            reclaimable_bytes=min(figures.live_bytes, figures.bytes),
        )
    known = {states.name for states in guard.state_maps}
    for name, reclaimer in guard.roster.entries():
        if name in known or (isinstance(reclaimer, Rung) and not isinstance(reclaimer, PackRung)):
            continue
        try:
            yield from _held(name, reclaimer, guard)
        except Exception:  # noqa: BLE001, S112 - a holder may be anybody's; the guard tells of it itself
            continue


def _held(name: str, reclaimer: Any, guard: Guard) -> Iterator[Share]:  # noqa: ANN401 - any reclaimer
    if isinstance(reclaimer, Market):
        for part in reclaimer.parts():
            yield _whole(part.name, "cache", part.bytes)
    elif isinstance(reclaimer, Shedder):
        held_bytes = reclaimer.bytes
        yield Share(name=name, kind="pool", bytes=held_bytes, reclaimable_bytes=min(held_bytes, reclaimer.size()))
    elif isinstance(reclaimer, PackRung):
        yield _whole(name, "states", sum(part.bytes or 0 for part in reclaimer.parts()))
    elif isinstance(reclaimer, (EvictCache, ClearCache)):
        yield _whole(name, "cache", reclaimer.size())
    elif isinstance(reclaimer, Child):
        yield _whole(name, "children", reclaimer.held_bytes)
    elif isinstance(reclaimer, Directory):
        limit = guard.snapshot.limit
        if limit is not None and limit.usage == "cgroup":  # files on a tmpfs are their group's, and no process's
            yield _whole(name, "directory", reclaimer.size())
    else:
        yield _whole(name, "registered", reclaimer.size())


def _whole(name: str, kind: str, size: int | None) -> Share:
    count = size if isinstance(size, int) and size > 0 else 0
    return Share(name=name, kind=kind, bytes=count, reclaimable_bytes=count)
