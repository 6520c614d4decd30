"""Acting on agents, states and collections: each order is carried out, measured, taken down and told."""

import gc
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from memguard.agents.pools import Pool
from memguard.agents.states import States
from memguard.ext.fastapi import outcomes
from memguard.ext.fastapi.asking import Asked, Asker, aside, mb
from memguard.ext.fastapi.control import Control
from memguard.ext.fastapi.problems import Problem
from memguard.model import Relief
from memguard.units import MIB
from memguard.values import replace

__all__ = ["add_acts"]

Mode = Literal["light", "normal", "full", "aggressive"]

_GENERATIONS: dict[Mode, int] = {"light": 0, "normal": 1, "full": 2, "aggressive": 2}
_IGNORED = 50


class NewCap(BaseModel):
    """How many agents a pool may have."""

    max_size: int = Field(ge=0, le=1_000_000, strict=True)
    pool: str | None = Field(default=None, max_length=200, description="which one; all without")


class GcOrder(BaseModel):
    """How hard to collect: "light" and "normal" the young, "full" all, "aggressive" retires orphans before."""

    mode: Mode = "full"


class NewSettings(BaseModel):
    """What an operator may set; anything else is ignored, and said to be."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    belief_compression: StrictBool | None = None
    belief_size_limit_mb: float | None = Field(default=None, gt=0, le=1_048_576, strict=True, allow_inf_nan=False)


def add_acts(router: APIRouter) -> None:
    """Add these routes."""
    router.post("/system/gc", summary="Collect garbage now")(collect)
    router.post("/agents/gc", summary="Collect garbage now")(collect)
    router.post("/system/agents/pool", summary="Change the cap of pools")(resize)
    router.post("/system/agents/cleanup", summary="Retire agents that are nobody's")(cleanup)
    router.put("/system/config", summary="Change how states are kept")(configure)
    router.post("/system/agents/beliefs/compact", summary="Make states smaller that are over their limit")(compact)


async def collect(control: Asked, asker: Asker, order: Annotated[GcOrder | None, Body()] = None) -> outcomes.GcRun:
    """A collection, and the hand-back of what is free after a full one; both measured."""
    return await aside(lambda: _collect(control, asker, (order or GcOrder()).mode))


async def resize(control: Asked, asker: Asker, order: NewCap) -> outcomes.PoolResize:
    """Idle agents above the cap are retired at once, running ones as they are released."""
    return await aside(lambda: _resize(control, asker, order))


async def cleanup(control: Asked, asker: Asker) -> outcomes.Cleanup:
    """Orphans: their owners have ended, and nobody runs them."""
    return await aside(lambda: _cleanup(control, asker))


async def configure(control: Asked, asker: Asker, order: NewSettings) -> outcomes.Settings:
    """All of it or, when one value is wrong, nothing."""
    return await aside(lambda: _configure(control, asker, order))


async def compact(control: Asked, asker: Asker) -> outcomes.Compaction:
    """States over their limit are packed, or shortened by the function that the application gave."""
    return await aside(lambda: _compact(control, asker))


def _collect(control: Control, asker: Asker, mode: Mode) -> outcomes.GcRun:
    guard, generation = control.guard, _GENERATIONS[mode]
    retired = [name for pool in guard.pools for name in pool.retire_orphans()] if mode == "aggressive" else []
    before = _found()
    relief = guard.collect(generation)
    objects = _found() - before
    trim = guard.trim() if generation == 2 else None  # noqa: PLR2004 - the oldest
    bought = relief.bought_bytes + (0 if trim is None else trim.bought_bytes)
    what = f"collected garbage ({mode})"
    control.audit(asker, what, f"{objects} objects, pause {relief.cost_s * 1000:.0f} ms", bought_bytes=bought)
    return outcomes.GcRun(
        mode=mode,
        generation=generation,
        before_mb=mb(relief.before_bytes),
        after_mb=mb((trim or relief).after_bytes),
        freed_mb=mb(bought),
        objects=objects,
        pause_s=round(relief.cost_s, 6),
        trim_freed_mb=None if trim is None else mb(trim.bought_bytes),
        retired=retired,
    )


def _found() -> int:
    return sum(each["collected"] for each in gc.get_stats())


def _resize(control: Control, asker: Asker, order: NewCap) -> outcomes.PoolResize:
    rows = []
    for pool in _pools(control, order.pool):
        before = pool.max_size
        done = pool.resize(order.max_size)
        rows.append(
            outcomes.Resized(
                name=pool.name,
                max_size=done.max_size,
                before=before,
                retired=list(done.retired),
                running_above=done.running_above,
                kept=list(done.kept),
            )
        )
    retired, above = sum(len(row.retired) for row in rows), sum(row.running_above for row in rows)
    names = ", ".join(row.name for row in rows)
    what = f"set the cap of {names} to {order.max_size}"
    control.audit(asker, what, f"{retired} agents retired, {above} run on above it")
    return outcomes.PoolResize(max_size=order.max_size, retired=retired, running_above=above, pools=rows)


def _pools(control: Control, name: str | None) -> list[Pool[object]]:
    known = list(control.guard.pools)
    found = [pool for pool in known if name in {None, pool.name}]
    if not found:
        names = ", ".join(pool.name for pool in known) or "none: guard.pool('agents') makes one"
        raise Problem(404, f"there is no {'pool' if name is None else f'pool {name!r}'}; there are: {names}")
    return found


def _cleanup(control: Control, asker: Asker) -> outcomes.Cleanup:
    retired, left = list[str](), list[str]()

    def work() -> None:
        for pool in control.guard.pools:
            retired.extend(pool.retire_orphans())
            left.extend(row.id for row in pool.orphans())

    relief = _measured(control, "agents cleanup", work)
    text = f"{len(retired)} orphans retired" + (f", {len(left)} could not be saved" if left else "")
    control.audit(asker, "retired orphaned agents", text, bought_bytes=relief.bought_bytes)
    return outcomes.Cleanup(
        retired=retired,
        count=len(retired),
        kept=left,
        before_mb=mb(relief.before_bytes),
        after_mb=mb(relief.after_bytes),
        bought_mb=mb(relief.bought_bytes),
    )


def _configure(control: Control, asker: Asker, order: NewSettings) -> outcomes.Settings:
    guard = control.guard
    applied: dict[str, object] = {}
    rules: dict[str, bool | int] = {}
    if order.belief_compression is not None:
        rules["state_compact"] = applied["belief_compression"] = order.belief_compression
    if order.belief_size_limit_mb is not None:
        applied["belief_size_limit_mb"] = order.belief_size_limit_mb
        rules["state_max_bytes"] = max(1, int(order.belief_size_limit_mb * MIB))
    if rules:
        guard.rules = replace(guard.rules, **rules)  # for those that are made later
    for states in guard.state_maps:
        if "state_compact" in rules:
            states.compacts = bool(rules["state_compact"])
        if "state_max_bytes" in rules:
            states.max_bytes_each = rules["state_max_bytes"]
    ignored = sorted(order.model_extra or {})[:_IGNORED]
    if applied:
        control.audit(asker, "changed settings", ", ".join(f"{name}={value}" for name, value in applied.items()))
    return outcomes.Settings(applied=applied, ignored=ignored, states=[states.name for states in guard.state_maps])


def _compact(control: Control, asker: Asker) -> outcomes.Compaction:
    rows = list[outcomes.Cache]()
    before, after = [0], [0]

    def one(states: States[object]) -> None:
        held, error = states.bytes, ""
        try:
            states.compact()
        except Exception as failure:  # noqa: BLE001 - a compact callable may be anybody's; the others are made smaller
            error = f"{type(failure).__name__}"
        rows.append(
            outcomes.Cache(name=states.name, entries=None, before_mb=mb(held), after_mb=mb(states.bytes), error=error)
        )
        before[0] += held
        after[0] += states.bytes

    def work() -> None:
        for states in control.guard.state_maps:
            one(states)

    relief = _measured(control, "beliefs compact", work)
    freed = before[0] - after[0]
    text = f"{len(rows)} mappings of states, {mb(freed):.1f} MiB as accounted"
    control.audit(asker, "compacted states", text, bought_bytes=relief.bought_bytes)
    return outcomes.Compaction(
        states=rows,
        before_bytes=before[0],
        after_bytes=after[0],
        before_mb=mb(before[0]),
        after_mb=mb(after[0]),
        freed_mb=mb(freed),
        bought_mb=mb(relief.bought_bytes),
        took_s=round(relief.cost_s, 6),
    )


def _measured(control: Control, name: str, work: Callable[[], None]) -> Relief:
    relief = control.guard.measure(name, work)
    if relief.error:
        raise Problem(503, f"{name} could not be done: {relief.error}")
    return relief
