"""The view: every guarded process of a node, as it last said to the others; and of every node, asked by Ray's tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from memguard.ext.ray.workers import get_guard
from memguard.model import Level
from memguard.threads import Bell
from memguard.units import format_bytes
from memguard.values import value

if TYPE_CHECKING:
    from memguard.kinds import WorkerState
    from memguard.workers.rows import Worker

__all__ = ["NodeView", "ProcessView", "cluster", "node"]

# A guard that has just started finds the others at its first look.
_MEET_S: Final = 2.0
_LOOK_S: Final = 0.02


@value
class ProcessView:
    """One guarded process of a node.

    ``name`` is its title, which Ray sets to what it does ("ray::Agent.work"). ``used_bytes`` is its resident memory:
    objects of Ray's store that it has touched count in it, and in every other process that has. The rest as in
    ``memguard.workers.rows.Worker``.
    """

    pid: int
    name: str
    level: Level
    state: WorkerState
    used_bytes: int
    yield_bytes: int
    promised_bytes: int
    running: int
    refusals: int


@value
class NodeView:
    """One node: how it stands against the limit that binds, and its guarded processes, the largest first.

    ``used_bytes`` is what that limit counts, with whatever else runs there: the object store, raylet, strangers.
    ``error`` says why a node did not answer, "" when it did.
    """

    node_id: str
    address: str = ""
    level: Level = Level.OK
    used_bytes: int = 0
    limit_bytes: int | None = None
    limit_source: str = ""
    forecast_s: float | None = None
    processes: tuple[ProcessView, ...] = ()
    error: str = ""

    @property
    def pressure(self) -> float:
        """Used ÷ limit; 0.0 where nothing limits."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0

    @property
    def text(self) -> str:
        """For people: a line for the node, and one a process."""
        if self.error:
            return f"{self.node_id[:8]} {self.address}: {self.error}"
        limit = "no limit" if self.limit_bytes is None else f"{format_bytes(self.limit_bytes)} ({self.limit_source})"
        lines = [f"{self.node_id[:8]} {self.address}: {self.level.name}, {format_bytes(self.used_bytes)} of {limit}"]
        lines += [
            f"  {row.pid} {row.name}: {row.level.name}, {row.state}, {format_bytes(row.used_bytes)}, "
            f"{format_bytes(row.yield_bytes)} to shed, {row.running} running, {row.refusals} refused"
            for row in self.processes
        ]
        return "\n".join(lines)


def node() -> NodeView:
    """This node, as this process's guard sees it; one is started if there is none."""
    guard = get_guard()
    for _ in range(int(_MEET_S / _LOOK_S)):
        snapshot = guard.snapshot
        if snapshot.reading is not None and (guard.workers or guard.rules.workers == "off"):
            break
        Bell().wait(_LOOK_S)
    snapshot, rows = guard.snapshot, sorted(guard.workers, key=lambda row: -row.used_bytes)
    reading, limit = snapshot.reading, snapshot.limit
    context: Any = ray.get_runtime_context() if ray.is_initialized() else None
    return NodeView(
        node_id="" if context is None else context.get_node_id(),
        address="" if context is None else ray.util.get_node_ip_address(),
        level=max([snapshot.level, *(row.level for row in rows)]),
        used_bytes=0 if reading is None else reading.used_bytes,
        limit_bytes=None if limit is None else limit.bytes,
        limit_source="" if limit is None else limit.source,
        forecast_s=snapshot.forecast,
        processes=tuple(_seen(row) for row in rows),
    )


def cluster(*, timeout_s: float = 30.0) -> tuple[NodeView, ...]:
    """Every node that lives, the fullest first: each is asked by a task of Ray's that needs no CPU.

    A node that does not answer in time is listed with an ``error``.
    """
    ask = ray.remote(num_cpus=0, max_retries=1)(node)
    asked: dict[Any, dict[str, Any]] = {}
    for found in ray.nodes():
        if found["Alive"]:
            here = NodeAffinitySchedulingStrategy(found["NodeID"], soft=False)
            asked[ask.options(scheduling_strategy=here).remote()] = found
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
    views = [_answer(ref, asked[ref]) for ref in done]
    for ref in late:
        ray.cancel(ref)
        views.append(_silent(asked[ref], f"did not answer within {timeout_s:g} s"))
    return tuple(sorted(views, key=lambda view: -view.pressure))


def _answer(ref: Any, found: dict[str, Any]) -> NodeView:  # noqa: ANN401 - Ray's
    try:
        view: NodeView = ray.get(ref)
    except Exception as error:  # noqa: BLE001 - one node's trouble is no reason not to show the others
        return _silent(found, f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
    return view


def _silent(found: dict[str, Any], why: str) -> NodeView:
    return NodeView(node_id=found["NodeID"], address=found["NodeManagerAddress"], error=why)


def _seen(row: Worker) -> ProcessView:
    return ProcessView(
        pid=row.pid,
        name=_title(row.pid),
        level=row.level,
        state=row.state,
        used_bytes=row.used_bytes,
        yield_bytes=row.yield_bytes,
        promised_bytes=row.promised_bytes,
        running=row.running,
        refusals=row.refusals,
    )


def _title(pid: int) -> str:
    """What a process calls itself; "" when it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - as in lives
            return file.read(300).replace(b"\0", b" ").decode("utf-8", "replace").strip()[:100]
    except OSError:
        return ""
