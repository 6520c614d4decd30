"""The crowd: agents, what they believe, what became of them, and what runs."""

from datetime import UTC, datetime
from time import time
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends, Query

from memguard.ext.fastapi import answers
from memguard.ext.fastapi.asking import Asked, Page, aside, duration, mb, page_of
from memguard.ext.fastapi.control import Control
from memguard.units import KIB

if TYPE_CHECKING:
    from memguard.agents.figures import StateRow
    from memguard.agents.rows import AgentRow

__all__ = ["add_crowd"]

# So many states or agents are walked in a millisecond or two: less than a thread's turn takes in a busy process.
_FEW = 500

Paged = Annotated[Page, Depends()]
Status = Literal["running", "done", "failed", "abandoned"]


def add_crowd(router: APIRouter) -> None:
    """Add these routes."""
    router.get("/monitoring/metrics/agent_memory", summary="What each agent holds")(agent_memory)
    router.get("/monitoring/agents/memory", summary="What each agent holds and believes")(agents)
    router.get("/monitoring/agents/beliefs", summary="What each state takes, and how it is kept")(beliefs)
    router.get("/monitoring/agents/lifecycle", summary="What became of agents")(lifecycle)
    router.get("/agents/lifecycle", include_in_schema=False)(lifecycle)
    router.get("/monitoring/agents/pool", summary="How full the pools are")(pool)
    router.get("/agents/pool", include_in_schema=False)(pool)
    router.get("/monitoring/operations", summary="What runs and what ran")(operations)


async def agent_memory(control: Asked, page: Paged) -> answers.AgentMetrics:
    """The heaviest first; ``critical`` agents are at work and never retired."""
    if sum(map(len, control.guard.pools)) <= _FEW:
        return _agent_memory(control, page)
    return await aside(lambda: _agent_memory(control, page))


async def agents(control: Asked, page: Paged) -> answers.Agents:
    """The heaviest first; a belief is the state, of any mapping, that has the agent's id."""
    if sum(map(len, (*control.guard.state_maps, *control.guard.pools))) <= _FEW:
        return _agents(control, page)
    return await aside(lambda: _agents(control, page))


async def beliefs(control: Asked, page: Paged) -> answers.Beliefs:
    """The largest first; looks at every state."""
    if sum(map(len, control.guard.state_maps)) <= _FEW:
        return _beliefs(control, page)
    return await aside(lambda: _beliefs(control, page))


async def lifecycle(control: Asked) -> answers.Lifecycle:
    """Since the start."""
    if sum(map(len, control.guard.pools)) <= _FEW:
        return _lifecycle(control)
    return await aside(lambda: _lifecycle(control))


async def pool(control: Asked) -> answers.Pools:
    """Size, cap, how long the oldest has been idle."""
    if sum(map(len, control.guard.pools)) <= _FEW:
        return _pools(control)
    return await aside(lambda: _pools(control))


async def operations(
    control: Asked,
    page: Paged,
    status: Annotated[Status | None, Query(description="only these; all without")] = None,
    duration_gt: Annotated[str, Query(max_length=100, description="only those that took longer: 300, '5m'")] = "0",
    type: Annotated[str | None, Query(max_length=200, description="only of this type")] = None,  # noqa: A002
) -> answers.Operations:
    """Those that run, and the last 256 that ended; requests are called "GET /users/{id}".

    Of frequent requests memory is read for a sample, 10 a second of a kind, and for all that last a second.
    """
    longer_s = duration("duration_gt", duration_gt, zero=True)
    known, guard = control.guard.operations, control.guard
    running = known.running() if status in {None, "running"} else ()
    ended = () if status == "running" else (row for row in known.ended() if status in {None, row.status})
    rows = [row for row in (*running, *ended) if row.duration_s > longer_s and type in {None, row.type}]
    offset_s = time() - guard.now()
    found = [
        answers.Operation(
            id=row.id,
            type=row.type,
            status=row.status,
            started_at=datetime.fromtimestamp(row.at + offset_s, UTC).isoformat().replace("+00:00", "Z"),
            duration_s=round(row.duration_s, 6),
            memory_delta_mb=mb(row.memory_delta_bytes),
            shared=row.shared,
            memory_sampled=row.sampled,
        )
        for row in page_of(rows, page)
    ]
    return answers.Operations(operations=found, total=len(rows))


def _agent_memory(control: Control, page: Page) -> answers.AgentMetrics:
    rows = sorted((row for pool in control.guard.pools for row in pool.agents()), key=lambda row: -row.bytes)
    found = [
        answers.Agent(id=row.id, memory_mb=mb(row.bytes), critical=row.state in {"running", "building"})
        for row in page_of(rows, page)
    ]
    return answers.AgentMetrics(agents=found, total=len(rows))


def _lifecycle(control: Control) -> answers.Lifecycle:
    rows = []
    for pool in control.guard.pools:
        stats = pool.stats()
        counts = {name: getattr(stats, name) for name in answers.LifecycleRow.model_fields if hasattr(stats, name)}
        rows.append(answers.LifecycleRow(pool=stats.name, alive=stats.size + stats.retiring, **counts))
    names = [name for name in answers.LifecycleRow.model_fields if name != "pool"]
    return answers.Lifecycle(pools=rows, **{name: sum(getattr(row, name) for row in rows) for name in names})


def _pools(control: Control) -> answers.Pools:
    """All pools as they stand."""
    rows = []
    for pool in control.guard.pools:
        stats = pool.stats()
        rows.append(
            answers.PoolRow(
                name=stats.name,
                size=stats.size,
                max_size=stats.max_size,
                running=stats.running,
                idle=stats.idle,
                waiting=stats.waiting,
                orphans=stats.orphans,
                oldest_idle_s=round(stats.oldest_idle_s, 3),
                memory_mb=mb(stats.bytes),
                cost_mb=mb(stats.cost_bytes),
                fits=stats.fits,
            )
        )
    return answers.Pools(
        size=sum(row.size for row in rows),
        max_size=sum(row.max_size for row in rows),
        oldest_idle_s=max((row.oldest_idle_s for row in rows), default=0.0),
        pools=rows,
    )


def _agents(control: Control, page: Page) -> answers.Agents:
    rows: list[tuple[str, AgentRow]] = [(pool.name, row) for pool in control.guard.pools for row in pool.agents()]
    rows.sort(key=lambda pair: -pair[1].bytes)
    sizes: dict[str, int] = {}
    for states in control.guard.state_maps:
        for state in states.rows():
            sizes[state.id] = sizes.get(state.id, 0) + state.bytes
    found = [
        answers.AgentMemory(
            id=row.id,
            pool=name,
            memory_mb=mb(row.bytes),
            belief_size_kb=round(sizes.get(row.id, 0) / KIB, 3),
            state=row.state,
            idle_s=round(row.idle_s, 3),
            orphan=row.orphan,
        )
        for name, row in page_of(rows, page)
    ]
    return answers.Agents(agents=found, total=len(rows))


def _beliefs(control: Control, page: Page) -> answers.Beliefs:
    rows: list[tuple[str, StateRow]] = []
    maps = []
    for states in control.guard.state_maps:
        rows += [(states.name, row) for row in states.rows()]
        figures, each = states.figures(), states.max_bytes_each
        maps.append(
            answers.StateMap(
                name=states.name,
                live=figures.live,
                packed=figures.packed,
                spilled=figures.spilled,
                memory_mb=mb(figures.bytes),
                packed_mb=mb(figures.packed_bytes),
                spilled_mb=mb(figures.spilled_bytes),
                ratio=round(figures.ratio, 3),
                max_mb_each=mb(each),
                compression=states.compacts,
            )
        )
    rows.sort(key=lambda pair: -pair[1].bytes)
    found = [
        answers.Belief(
            id=row.id,
            states=name,
            belief_size_kb=round(row.bytes / KIB, 3),
            stored_as=row.stored,
            stored_kb=round(row.stored_bytes / KIB, 3),
            ratio=round(row.bytes / row.stored_bytes, 3) if row.stored_bytes else 1.0,
            idle_s=round(row.idle_s, 3),
            leased=row.leased,
        )
        for name, row in page_of(rows, page)
    ]
    return answers.Beliefs(beliefs=found, total=len(rows), states=maps)
