"""Conversations kept by a checkpoint saver of langgraph, as a reclaimer: whole threads, never one that runs."""

from __future__ import annotations

import gc
import sys
import time
import uuid
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from memguard.reclaimers.entries import Estimate, is_a

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memguard.kinds import Cost
    from memguard.model import Level

__all__ = ["Conversations"]

# A thread that was written to so lately may be between two steps, whatever its checkpoint says.
_QUIET_S: Final = 10.0
# Channels that make langgraph run a node while they hold something.
_TRIGGERS: Final = ("branch:to:", "join:", "__start__", "__pregel_tasks")
# Threads, blobs and writes looked at for the size.
_PEEK: Final = 8
_CHECKPOINTS: Final = 64
# Where delete_thread does no more than to walk over all tables once for each thread; a subclass's is called.
_OWN: Final = "langgraph.checkpoint.memory"
# uuid6 counts steps of 100 ns from 1582.
_UUID6: Final = 6
_GREGORIAN: Final = 0x01B21DD213814000


class Conversations:
    """The threads of an ``InMemorySaver`` as a reclaimer: the least recently written go first, each as a whole.

    A thread is left alone while it may run: a langgraph loop over this saver lives that works on it, its newest
    checkpoint has a step to do or writes that wait (an interrupt, a failed step), it was written to within 10
    seconds, or its newest checkpoint cannot be read. What goes is gone: there is nothing to make it again from.
    """

    settles: bool = False
    stalls: bool = False

    def __init__(self, name: str, get: Callable[[], Any], *, cost: Cost, at: Level) -> None:
        self.name = name
        self.cost: Cost = cost
        self.at = at
        self._get = get
        self._estimates = (Estimate(), Estimate(), Estimate())

    def size(self) -> int | None:
        """Estimated bytes of all threads, running ones included; 0 once the saver is gone."""
        saver = self._get()
        if saver is None:
            return 0
        sizes = [
            estimate.total(len(table), lambda table=table, flat=flat: [flat(item) for item in _few(table)])  # type: ignore[misc]
            for estimate, (table, flat) in zip(self._estimates, _tables(saver), strict=True)
        ]
        known = [size for size in sizes if size is not None]
        return sum(known) if known else None

    def holds(self, obj: object) -> bool:
        """Whether this is the object it was made for."""
        return self._get() is obj

    def reclaim(self, wanted_bytes: int, /) -> int:
        """Delete threads at rest until their bytes reach what is wanted; claims their sum."""
        saver = self._get()
        if saver is None or wanted_bytes <= 0:
            return 0
        freed_bytes, parts = 0, None
        running = _running(saver)
        for thread_id in _oldest_first(saver):
            if freed_bytes >= wanted_bytes:
                break
            if thread_id in running or not _at_rest(saver, thread_id):
                continue
            parts = _parts(saver) if parts is None else parts
            freed_bytes += _delete(saver, thread_id, parts.pop(thread_id, []))
        return freed_bytes

    def __repr__(self) -> str:
        return f"<Conversations {self.name!r} {self.cost} at {self.at.name}>"


def _tables(saver: Any) -> Iterator[tuple[Any, Callable[[Any], object]]]:  # noqa: ANN401
    yield saver.storage, _flat_thread
    yield saver.writes, _flat_writes
    yield saver.blobs, _flat_blob


def _few(table: Any) -> Sequence[Any]:  # noqa: ANN401
    for _ in range(3):
        try:
            return [*islice(table.items(), _PEEK), *islice(reversed(table.items()), _PEEK)]
        except RuntimeError:  # changed size meanwhile
            continue
    return ()


def _flat_thread(item: Any) -> list[Any]:  # noqa: ANN401
    """A thread's checkpoints as one list of what they consist of; the first 64 stand for the others."""
    thread_id, spaces = item
    rows = [(key, *row[0], *row[1]) for ids in list(spaces.values()) for key, row in islice(ids.items(), _CHECKPOINTS)]
    count = sum(len(ids) for ids in list(spaces.values()))
    return [thread_id, *(rows * max(1, count // max(1, len(rows))))]


def _flat_writes(item: Any) -> list[Any]:  # noqa: ANN401
    key, writes = item
    return [*key, *((*inner, *row[:2], *row[2]) for inner, row in list(writes.items()))]


def _flat_blob(item: Any) -> list[Any]:  # noqa: ANN401
    key, blob = item
    return [*key, *blob]


def _weigh(flat: list[Any]) -> int:
    """Bytes of a flat list and of its text, bytes and rows: a tenth of the time of a sampled walk, for each of many."""
    rows = (part for row in flat if type(row) is tuple for part in row)
    return sys.getsizeof(flat) + sum(map(sys.getsizeof, flat)) + sum(map(sys.getsizeof, rows))


def _oldest_first(saver: Any) -> list[Any]:  # noqa: ANN401
    """Thread ids by their newest checkpoint, whose id is a time."""
    newest = {
        thread_id: max((max(ids, default="") for ids in list(spaces.values())), default="")
        for thread_id, spaces in list(saver.storage.items())
    }
    return sorted(newest, key=lambda thread_id: newest[thread_id])


def _at_rest(saver: Any, thread_id: Any) -> bool:  # noqa: ANN401
    try:
        return all(
            _space_at_rest(saver, thread_id, space, ids)
            for space, ids in list(saver.storage.get(thread_id, {}).items())
            if ids
        )
    except Exception:  # noqa: BLE001 - a checkpoint that cannot be read may be anything
        return False


def _space_at_rest(saver: Any, thread_id: Any, space: Any, ids: Any) -> bool:  # noqa: ANN401
    newest = max(ids)
    if _age_s(newest) < _QUIET_S or saver.writes.get((thread_id, space, newest)):
        return False
    checkpoint = saver.serde.loads_typed(ids[newest][0])
    versions, seen = checkpoint["channel_versions"], checkpoint["versions_seen"]
    for channel, version in versions.items():
        if not channel.startswith(_TRIGGERS):
            continue
        blob = saver.blobs.get((thread_id, space, channel, version))
        if blob is None or blob[0] == "empty":
            continue
        if not any(known.get(channel) == version for known in seen.values()):
            return False
    return True


def _age_s(checkpoint_id: str) -> float:
    """Seconds since a checkpoint was made; infinity when its id does not tell."""
    try:
        made = uuid.UUID(checkpoint_id)
    except ValueError:
        return float("inf")
    if made.version != _UUID6:
        return float("inf")
    ticks = (made.int >> 80 << 12) | (made.int >> 64 & 0xFFF)
    return time.time() - (ticks - _GREGORIAN) / 1e7


def _running(saver: Any) -> set[object]:  # noqa: ANN401
    """Threads that a living langgraph loop over this saver works on: runs whose checkpoint is saved at their end only.

    A walk over the heap, 27 ms a million objects, a sixth of a full collection; nothing else tells.
    """
    found = set[object]()
    for holder in gc.get_referrers(saver):
        parts: Any = holder if is_a(holder, dict) else None
        if parts is None and type(holder).__module__.startswith("langgraph."):
            parts = {key: getattr(holder, key, None) for key in ("config", "checkpoint_config")}
        for key in ("config", "checkpoint_config"):
            config: Any = None if parts is None else parts.get(key)
            if is_a(config, dict) and is_a(config.get("configurable"), dict):
                found.add(config["configurable"].get("thread_id"))
    return found


def _parts(saver: Any) -> dict[Any, list[tuple[Any, Any]]]:  # noqa: ANN401
    """Where each thread's blobs and writes are, by one walk: ``delete_thread`` walks over all for each thread."""
    parts: dict[Any, list[tuple[Any, Any]]] = {}
    for table in (saver.blobs, saver.writes):
        for key in list(table):
            parts.setdefault(key[0], []).append((table, key))
    return parts


def _delete(saver: Any, thread_id: Any, parts: Iterable[tuple[Any, Any]]) -> int:  # noqa: ANN401
    """Delete one thread; its bytes."""
    spaces = saver.storage.get(thread_id)
    freed_bytes = 0 if spaces is None else _weigh(_flat_thread((thread_id, spaces)))
    for table, key in parts:
        value = table.pop(key, None)
        if value is not None:
            freed_bytes += _weigh(_flat_blob((key, value)) if table is saver.blobs else _flat_writes((key, value)))
    if type(saver).delete_thread.__module__ == _OWN:
        saver.storage.pop(thread_id, None)
    else:
        saver.delete_thread(thread_id)
    return freed_bytes
