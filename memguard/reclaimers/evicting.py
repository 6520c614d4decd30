"""A holder that gives up entry by entry: one pass after the other, in slices, under its own lock."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from memguard.reclaimers.dropping import PLAIN, ByCall, Dropper
from memguard.reclaimers.entries import Estimate, currsize_of, length_of, peek_mapping
from memguard.turns import bury

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from memguard.kinds import Cost
    from memguard.model import Level
    from memguard.reclaimers.adapters import Row
    from memguard.reclaimers.dropping import Drops
    from memguard.reclaimers.worth import Worth

__all__ = ["EvictCache", "ShelfCache", "Source", "locked"]

# A holder's lock may be held by the very thread that waits for this relief: never wait for good.
_LOCK_S: Final = 1.0
# Entries measured of each slice; they stand for the others. As many are dropped first when sizes are unknown.
_MEASURED: Final = 16
# What an entry is taken for while none was seen, so that the market can compare at all.
_UNSEEN_BYTES: Final = 1024


@contextmanager
def locked(lock: Any, name: str) -> Generator[None]:  # noqa: ANN401 - a Lock, or anything like it
    """Hold a holder's lock, if it has one.

    Raises:
        TimeoutError: it was busy for a second.
    """
    if lock is None:
        yield
    elif lock.acquire(timeout=_LOCK_S):
        try:
            yield
        finally:
            lock.release()
    else:
        raise TimeoutError(f"the lock of {name!r} was busy for {_LOCK_S:.0f} s")


class Source:
    """A holder seen through its row: how much there is, and passes of evictions."""

    def __init__(
        self, row: Row, get: Callable[[], Any], get_lock: Callable[[], Any], *, currsize_is_bytes: bool
    ) -> None:
        self.row = row
        self.get = get
        self.get_lock = get_lock
        self.currsize_is_bytes = currsize_is_bytes
        self._estimate = Estimate()
        self._began = 0.0

    @property
    def mean(self) -> float | None:
        """Bytes of an entry; None while none was seen."""
        return self._estimate.mean

    def table(self) -> Any:  # noqa: ANN401
        """The mapping, None once the holder is gone."""
        holder = self.get()
        return None if holder is None or self.row.table is None else self.row.table(holder)

    def length(self) -> int:
        """How many entries there are."""
        table = self.table()
        return 0 if table is None else length_of(table)

    def size(self) -> int | None:
        """Accounted bytes."""
        table = self.table()
        if table is None:
            return 0
        if self.currsize_is_bytes:
            return currsize_of(table)
        return self._estimate.total(length_of(table), lambda: self._peek(table))

    def hits(self) -> int | None:
        """All hits so far, None where they are not counted, or nobody can tell now."""
        holder, hits = self.get(), self.row.hits
        return None if holder is None or hits is None else hits(holder)

    def pass_over(self, holder: Any) -> Drops:  # noqa: ANN401
        """A pass of evictions."""
        row = self.row
        return ByCall(holder, row.take, row.stale) if row.take is not None else Dropper(self.table())

    def drop(self, take: Callable[[], list[object]], name: str) -> tuple[int, int]:
        """How many entries one slice took out, and their bytes; they die here, outside of the lock, a few at a time.

        Raises:
            TimeoutError: the lock was busy for a second.
        """
        with locked(self.get_lock(), name):
            before = currsize_of(self.table()) if self.currsize_is_bytes else 0
            dropped = take()
            shrunk = before - currsize_of(self.table()) if self.currsize_is_bytes else 0
        if not dropped:
            return 0, 0
        sizes = [self.row.weigh(entry) for entry in dropped[:: max(1, len(dropped) // _MEASURED)]]
        self._estimate.learn(sizes)
        count, dropped_bytes = len(dropped), sum(sizes) * len(dropped) // len(sizes)
        self._began = bury(dropped, dropped_bytes / count, self._began)
        return count, max(0, shrunk) if self.currsize_is_bytes else dropped_bytes

    def _peek(self, table: Any) -> Sequence[object]:  # noqa: ANN401
        """Weigh a few entries as the row does; the estimate has nothing left to weigh."""
        self._estimate.learn([self.row.weigh(entry) for entry in peek_mapping(table) or ()])
        return ()


class EvictCache:
    """A holder that gives up entry by entry, as a reclaimer; see ``adapter_for``."""

    settles: bool = False
    stalls: bool = False

    def __init__(self, name: str, source: Source, *, cost: Cost, at: Level, min_bytes: int = 0) -> None:
        self.name = name
        self.cost: Cost = cost
        self.at = at
        self._source = source
        self._min_bytes = min_bytes

    @property
    def prompt(self) -> bool:
        """Whether shrinking waits for nobody: a plain dict without a lock."""
        source = self._source
        return source.row.take is None and type(source.table()) in PLAIN and source.get_lock() is None

    @property
    def locked(self) -> bool:
        """Whether it is changed under a lock that its users hold too; else only pressure is worth changing it."""
        return self._source.row.take is not None or self._source.get_lock() is not None

    def size(self) -> int | None:
        """Accounted bytes: the length times the sampled bytes of an entry, or ``currsize``; takes no lock.

        Entries of a mapping that is neither a dict nor a cachetools cache cannot be seen without disturbing its
        order: its size is None until the first evictions have told. 0 once the holder is gone.
        """
        return self._source.size()

    def holds(self, obj: object) -> bool:
        """Whether this is the object it was made for."""
        return self._source.get() is obj

    @property
    def holder(self) -> object | None:
        """What it was made for; None once that is gone."""
        found: object | None = self._source.get()
        return found

    def length(self) -> int:
        """How many entries there are."""
        return self._source.length()

    def expire(self) -> int:
        """Drop what has expired, where the cache knows; how many entries went.

        Raises:
            TimeoutError: the lock was busy for a second.
        """
        source = self._source
        holder = source.get()
        return 0 if holder is None else source.drop(source.pass_over(holder).expired, self.name)[0]

    def reclaim(self, wanted_bytes: int, /) -> int:
        """Drop entries until the accounted bytes of the dropped ones reach what is wanted; claims their sum.

        It works in slices, gives the lock up between them, lets the dropped die outside of it, and never drops more
        entries than there were at first. Entries that cannot be dropped are passed over.

        Raises:
            TimeoutError: the lock was busy for a second, before anything was dropped.
            Exception: what the holder raised, when nothing could be dropped.
        """
        return self._evict(wanted_bytes, 1.0)[0]

    def _evict(self, wanted_bytes: int, position: float) -> tuple[int, float]:
        """Evict up to a position of the cache (1.0: all of it); bytes, and which share of the entries went."""
        source = self._source
        holder = source.get()
        if holder is None or wanted_bytes <= 0:
            return 0, 0.0
        size, before = source.size(), source.length()
        if self._min_bytes and size is not None:
            wanted_bytes = min(wanted_bytes, size - self._min_bytes)
        left = int(before * position + 0.5)
        if wanted_bytes <= 0 or before <= 0:
            return 0, 0.0
        drops = source.pass_over(holder)
        gone, freed_bytes = source.drop(drops.expired, self.name)
        while left > gone and freed_bytes < wanted_bytes:
            mean = source.mean
            need = _MEASURED if not mean else int((wanted_bytes - freed_bytes) / mean) + 1
            take = min(need, left - gone)
            try:
                dropped, dropped_bytes = source.drop(lambda take=take: drops.drop(take), self.name)  # type: ignore[misc]
            except TimeoutError:
                if not freed_bytes:
                    raise
                break
            if not dropped:
                break
            gone += dropped
            freed_bytes += dropped_bytes
        if not gone and drops.error is not None:
            raise drops.error
        return freed_bytes, gone / before

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.cost} at {self.at.name}>"


class ShelfCache(EvictCache):
    """A holder that gives up entry by entry, as a reclaimer and as a shelf of the market; see ``adapter_for``."""

    def __init__(  # noqa: PLR0913 - filled in by adapter_for alone
        self, name: str, source: Source, *, cost: Cost, at: Level, worth: Worth, min_bytes: int = 0
    ) -> None:
        super().__init__(name, source, cost=cost, at=at, min_bytes=min_bytes)
        self._worth = worth

    def sample(self, count: int, /) -> Sequence[tuple[float, int]]:
        """(price per byte, bytes) of so many entries, from the oldest on, evenly spread over what may go."""
        self.tend()
        length, mean = self._source.length(), self._mean()
        spare = self._spare_ratio()
        if length <= 0 or spare <= 0.0:
            return []
        count = min(count, length)
        return [
            (self._worth.price(spare * (number + 0.5) / count, length=length, entry_bytes=mean), int(mean) or 1)
            for number in range(count)
        ]

    def shrink(self, wanted_bytes: int, below: float, /) -> int:
        """Drop what has expired, then the oldest entries as far as they are priced at or below; their bytes.

        Raises:
            TimeoutError: as ``reclaim``.
        """
        position = self._worth.position(below, length=self._source.length(), entry_bytes=self._mean())
        freed_bytes, share = self._evict(wanted_bytes, position)
        self._worth.shrunk(share)
        return freed_bytes

    def tend(self) -> None:
        """Read how often it was hit, once a second."""
        if self._worth.due:
            self._worth.look(self._source.length(), self._source.hits())

    def _mean(self) -> float:
        size, length = self._source.size(), self._source.length()
        return size / length if size and length else self._source.mean or _UNSEEN_BYTES

    def _spare_ratio(self) -> float:
        """The share of the cache that may go."""
        size = self._source.size()
        if not self._min_bytes or size is None:
            return 1.0
        return 1.0 - self._min_bytes / size if size > self._min_bytes else 0.0
