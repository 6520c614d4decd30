"""The view: what every worker's guard last said with its heartbeat, beside Dask's own account of its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memguard.model import Holder, Level
from memguard.units import format_bytes
from memguard.values import fields, value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from distributed import Client, Scheduler

    from memguard.ext.dask.pausing import Hold
    from memguard.guard import Guard

__all__ = ["ClusterView", "WorkerView", "cluster", "metrics_of", "rows"]

# A heartbeat is for figures: the largest holders, and no more.
_HOLDERS: Final = 8


@value
class WorkerView:
    """One worker: what its guard knew at its last heartbeat, and what Dask accounts.

    ``level`` is None where no guard runs; ``status`` is Dask's ("running", "paused", "closing_gracefully").
    ``managed_bytes`` are results in memory, ``unmanaged_bytes`` the rest of the process, ``spilled_bytes`` results on
    disk. ``pauses`` and ``paused_s`` count what the guard asked for, not what Dask did by itself.
    """

    address: str
    name: str
    status: str
    process_bytes: int
    managed_bytes: int
    unmanaged_bytes: int
    spilled_bytes: int
    level: Level | None = None
    used_bytes: int = 0
    limit_bytes: int | None = None
    limit_source: str = ""
    forecast_s: float | None = None
    pauses: int = 0
    paused_s: float = 0.0
    incidents: int = 0
    holders: tuple[Holder, ...] = ()

    @property
    def pressure(self) -> float:
        """Used ÷ limit; 0.0 where nothing limits, or nobody guards."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0


@value
class ClusterView:
    """Every worker of a cluster, the worst first."""

    workers: tuple[WorkerView, ...] = ()

    @property
    def level(self) -> Level:
        """The worst level of any worker; OK where none is guarded."""
        return max((worker.level for worker in self.workers if worker.level is not None), default=Level.OK)

    @property
    def used_bytes(self) -> int:
        """Memory of all workers' processes, as Dask reads it."""
        return sum(worker.process_bytes for worker in self.workers)

    @property
    def unguarded(self) -> tuple[str, ...]:
        """The addresses of workers without a guard."""
        return tuple(worker.address for worker in self.workers if worker.level is None)

    @property
    def text(self) -> str:
        """For people: a line a worker."""
        lines = [f"{len(self.workers)} workers, {format_bytes(self.used_bytes)} used, worst level {self.level.name}"]
        return "\n".join(lines + [_line(worker) for worker in self.workers])


def _line(worker: WorkerView) -> str:
    dask = (
        f"{format_bytes(worker.managed_bytes)} results, {format_bytes(worker.spilled_bytes)} of them on disk, "
        f"{format_bytes(worker.unmanaged_bytes)} unmanaged"
    )
    if worker.level is None:
        return f"{worker.name} ({worker.address}): {worker.status}, not guarded; {dask}"
    limit = "no limit" if worker.limit_bytes is None else f"{format_bytes(worker.limit_bytes)} ({worker.limit_source})"
    held = ", ".join(
        f"{holder.name} {format_bytes(holder.size_bytes)}" for holder in worker.holders if holder.size_bytes
    )
    return (
        f"{worker.name} ({worker.address}): {worker.status}, {worker.level.name}, {format_bytes(worker.used_bytes)} of "
        f"{limit}; {dask}{'; ' if held else ''}{held}"
    )


def metrics_of(guard: Guard, *, hold: Hold) -> dict[str, Any]:
    """What a worker's heartbeat carries: plain figures, some 500 bytes."""
    snapshot = guard.snapshot
    limit = snapshot.limit
    largest = sorted(snapshot.holders, key=lambda holder: -(holder.size_bytes or 0))[:_HOLDERS]
    return {
        "level": snapshot.level.name,
        "used_bytes": 0 if snapshot.reading is None else snapshot.reading.used_bytes,
        "limit_bytes": None if limit is None else limit.bytes,
        "limit_source": "" if limit is None else limit.source,
        "forecast_s": snapshot.forecast,
        "pauses": hold.count,
        "paused_s": round(hold.held_s, 3),
        "incidents": len(guard.incidents) + (snapshot.incident is not None),
        "holders": [
            [holder.name, holder.cost, holder.at.name, holder.size_bytes, holder.attempts, holder.bought_bytes]
            for holder in largest
        ],
    }


def rows(dask_scheduler: Scheduler) -> list[dict[str, Any]]:
    """What the scheduler knows of every worker, as plain figures; runs on the scheduler."""
    return [
        {
            "address": worker.address,
            "name": str(worker.name),
            "status": worker.status.name,
            "process_bytes": worker.memory.process,
            "managed_bytes": worker.memory.managed,
            "unmanaged_bytes": worker.memory.unmanaged,
            "spilled_bytes": worker.memory.spilled,
            **worker.metrics.get("memguard", {}),
        }
        for worker in dask_scheduler.workers.values()
    ]


def seen(found: Iterable[Mapping[str, Any]]) -> ClusterView:
    """The view that such rows are."""
    known = {field.name for field in fields(WorkerView)}  # a worker may have another version of us
    workers = (
        WorkerView(
            **{
                **{name: figure for name, figure in row.items() if name in known},
                "level": Level[row["level"]] if "level" in row else None,
                "holders": tuple(map(_holder, row.get("holders", ()))),
            }
        )
        for row in found
    )
    return ClusterView(workers=tuple(sorted(workers, key=lambda worker: (-worker.pressure, worker.name))))


def _holder(row: Any) -> Holder:  # noqa: ANN401 - a list of msgpack's
    name, cost, at, size_bytes, attempts, bought_bytes = row
    return Holder(
        name=name, cost=cost, at=Level[at], size_bytes=size_bytes, share=None, attempts=attempts,
        bought_bytes=bought_bytes,
    )  # fmt: skip


def cluster(client: Client) -> Any:  # noqa: ANN401 - see the docstring
    """The cluster as its workers' guards see it, a ``ClusterView``; awaitable where the client is asynchronous.

    From the heartbeats that the scheduler has, a second old at most in small clusters: no worker is asked. Where the
    scheduler may run no functions of clients, ``GuardScheduler`` answers.
    """
    door: Any = client
    return door.sync(_cluster, client)


async def _cluster(client: Any) -> ClusterView:  # noqa: ANN401 - what is used of it has no types
    try:
        found = await client._run_on_scheduler(rows)  # noqa: SLF001 - its own door waits for this very loop
    except ValueError:  # "explicitly disallowed"
        found = await client.scheduler.memguard_cluster()
        if found is None:  # nobody there answers to that
            raise
    return seen(found)
