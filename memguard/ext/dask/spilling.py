"""Spilling: a worker's results as a holder of the guard's, for limits that Dask does not see."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from memguard.model import Level

if TYPE_CHECKING:
    from distributed import Worker

    from memguard.kinds import Cost

__all__ = ["Results", "fast_bytes"]

# Below a guard's patience with an attempt (attempt_s, 5 s), so that one that takes longer is measured yet.
_PATIENCE_S: Final = 4.0


def fast_bytes(worker: Worker) -> int | None:
    """What a worker's results take in memory, as Dask accounts it; None where it does not tell."""
    data: Any = worker.data
    found = getattr(getattr(data, "fast", None), "total_weight", None)
    return None if found is None else int(found)


class Results:
    """Dask's results as a ``Reclaimer``: asks Dask to write the oldest to disk, by its own ``evict``.

    From CRITICAL on only: below that Dask goes by its own fractions of its own limit. When a limit binds that Dask does
    not know (the container's), nobody else would ask.
    """

    name = "dask results"
    cost: Cost = "dear"
    at: Level = Level.CRITICAL
    settles = False
    stalls = False

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @staticmethod
    def spills(worker: Worker) -> bool:
        """Whether a worker's mapping can spill (distributed's ``ManualEvictProto``)."""
        data: Any = worker.data
        return hasattr(data, "fast") and hasattr(data, "evict")

    def size(self) -> int | None:
        """Bytes in memory, as Dask accounts them."""
        return fast_bytes(self._worker)

    def reclaim(self, wanted_bytes: int, /) -> int | None:
        """Have so many bytes written to disk, on the worker's loop; how many Dask says that were."""
        spilled: list[int] = []
        loop: asyncio.AbstractEventLoop = self._worker.loop.asyncio_loop  # type: ignore[attr-defined]
        if loop.is_closed():
            return 0
        future = asyncio.run_coroutine_threadsafe(self._spill(wanted_bytes, spilled), loop)
        try:
            future.result(_PATIENCE_S)
        except TimeoutError:
            future.cancel()
        return sum(spilled)

    async def _spill(self, wanted_bytes: int, spilled: list[int]) -> None:
        data: Any = self._worker.data
        while data.fast and sum(spilled) < wanted_bytes:
            weight = data.evict()
            if weight < 0:  # not picklable, or the disk is full: Dask has logged it
                return
            spilled.append(weight)
            await asyncio.sleep(0)

    def __repr__(self) -> str:
        return f"<Results of {self._worker.name!r}>"
