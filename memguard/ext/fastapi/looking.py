"""Looking: how memory stands, who holds it, what collections and websockets do."""

import gc
import os
import threading
from typing import Any

from fastapi import APIRouter, Response

from memguard.ext.fastapi import answers
from memguard.ext.fastapi.accounts import consumers, own_memory
from memguard.ext.fastapi.asking import Asked, Limit, mb
from memguard.ext.fastapi.control import Control
from memguard.model import Level

__all__ = ["add_looks", "memory_now", "top_now"]


def add_looks(router: APIRouter) -> None:
    """Add these routes."""
    router.get("/monitoring/memory", summary="How memory stands")(memory)
    router.get("/monitoring/memory/top", summary="Who holds it, the largest first")(top)
    text: dict[str, Any] = {
        "response_class": Response,
        "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    }
    router.get("/monitoring/metrics", summary="All metrics in the Prometheus format", **text)(exposition)
    router.get("/monitoring/gc", summary="What Python's garbage collector does")(collector)
    router.get("/monitoring/websocket/stats", summary="Open websockets and what waits to be sent")(websockets)
    router.get("/websocket/stats", include_in_schema=False)(websockets)
    router.get("/monitoring/explain", summary="Limits, rules and holders, in words", **text)(explain)


async def memory(control: Asked) -> answers.Memory:
    """Limit and source, what is used and by whom, how near the end is; as of the guard's last look."""
    return memory_now(control)


async def top(control: Asked, limit: Limit = 100) -> answers.Consumers:
    """Who holds what is used; the rows add up to it, and what nobody has registered is named as such."""
    return top_now(control, limit)


async def exposition(control: Asked) -> Response:
    """Every line about memory contains "memory"."""
    from memguard.sinks.prometheus import CONTENT_TYPE  # noqa: PLC0415 - where its name lives

    return Response(control.guard.exposition.text(), media_type=CONTENT_TYPE)


async def collector(control: Asked) -> answers.Gc:
    """How often, how long, and what it freed."""
    return _gc_now(control)


async def websockets(control: Asked) -> answers.Sockets:
    """By path, the one with most open sockets first."""
    rows = [
        answers.Socket(**{name: getattr(line, name) for name in answers.Socket.model_fields})
        for line in control.sockets.lines()
    ]
    return answers.Sockets(
        open=sum(row.open for row in rows), queued_bytes=sum(row.queued_bytes for row in rows), paths=rows
    )


async def explain(control: Asked) -> Response:
    """What ``guard.explain()`` says."""
    return Response(control.guard.explain(), media_type="text/plain; charset=utf-8")


def memory_now(control: Control) -> answers.Memory:
    """How memory stands."""
    guard = control.guard
    snapshot, rules = guard.snapshot, guard.rules
    reading, limit, vitals = snapshot.reading, snapshot.limit, snapshot.vitals
    own = own_memory()
    used = None if reading is None else reading.used_bytes
    native = None if own is None else sum(share.bytes for share in consumers(guard)[1] if share.kind == "native")
    rss = own.bytes if own is not None else getattr(vitals, "rss_bytes", None)
    children = getattr(vitals, "children_bytes", None)
    by_working_set = reading is not None and "working set" in reading.source
    return answers.Memory(
        level=snapshot.level.name,
        pressure=round(snapshot.pressure, 4),
        running=guard.running,
        blind=snapshot.blind,
        limit_mb=mb(None if limit is None else limit.bytes),
        limit_bytes=None if limit is None else limit.bytes,
        limit_source=None if limit is None else limit.source,
        limit_kind=None if limit is None else limit.kind,
        used_mb=mb(used),
        used_bytes=used,
        used_source=None if reading is None else reading.source,
        working_set_mb=mb(used if by_working_set else None if rss is None else rss + (children or 0)),
        available_mb=mb(getattr(vitals, "available_bytes", None)),
        headroom_mb=mb(None if limit is None or used is None else limit.bytes - used),
        swap_used_mb=mb(getattr(vitals, "swap_used_bytes", None)),
        swap_total_mb=mb(getattr(vitals, "swap_total_bytes", None)),
        page_cache_mb=mb(getattr(vitals, "page_cache_bytes", None)),
        forecast_s=None if snapshot.forecast is None else round(snapshot.forecast, 1),
        native_share=None if native is None or not rss else round(native / rss, 4),
        native_mb=mb(native),
        holders=[
            answers.Holder(
                name=holder.name,
                size_mb=mb(holder.size_bytes),
                share=None if holder.share is None else round(holder.share, 4),
                cost=holder.cost,
                bought_mb=mb(holder.bought_bytes),
                attempts=holder.attempts,
            )
            for holder in guard.holders()
        ],
        gc=_gc_now(control),
        process=answers.Process(
            pid=os.getpid(),
            rss_mb=mb(rss),
            peak_mb=mb(getattr(vitals, "peak_bytes", None)),
            threads=own.threads if own is not None else threading.active_count(),
        ),
        children=answers.Children(memory_mb=mb(children)),
        workers=[
            answers.Worker(
                pid=row.pid,
                own=row.own,
                level=row.level.name,
                state=row.state,
                used_mb=mb(row.used_bytes),
                yield_mb=mb(row.yield_bytes),
                promised_mb=mb(row.promised_bytes),
                running=row.running,
                refused=row.refusals,
            )
            for row in guard.workers
        ],
        running_requests=snapshot.running,
        waiting_requests=guard.waiting,
        served_requests=guard.gate.completed,
        refused_requests=guard.gate.refusals,
        promised_mb=mb(snapshot.promised_bytes),
        alerts=[f"{alert.severity} {alert.text}" for alert in guard.alerts],
        verdict=guard.verdict().words,
        rungs={
            Level.ELEVATED.name: rules.elevated_ratio,
            Level.WARNING.name: rules.warning_ratio,
            Level.CRITICAL.name: rules.critical_ratio,
            Level.EMERGENCY.name: rules.emergency_ratio,
        },
        mode=rules.mode,
    )


def _gc_now(control: Control) -> answers.Gc:
    stats = control.guard.gc_stats
    counts, thresholds = gc.get_count(), gc.get_threshold()
    return answers.Gc(
        enabled=gc.isenabled(),
        collections=stats.collections,
        full_collections=stats.full_collections,
        collected_objects=stats.collected_objects,
        uncollectable_objects=stats.uncollectable_objects,
        pause_total_s=round(stats.pause_total_s, 6),
        pause_max_s=round(stats.pause_max_s, 6),
        duty_ratio=round(stats.duty_ratio, 6),
        last_full_freed_mb=mb(stats.last_freed_bytes),
        counts=list(counts),
        thresholds=list(thresholds),
        frozen_objects=gc.get_freeze_count(),
    )


def top_now(control: Control, limit: int) -> answers.Consumers:
    """Who holds what is used; the small ones beyond the limit together."""
    used, shares = consumers(control.guard)
    whole = max(1, used)
    rows = [
        answers.Consumer(
            name=share.name,
            kind=share.kind,
            memory_mb=mb(share.bytes),
            share=round(share.bytes / whole, 4),
            reclaimable_mb=mb(share.reclaimable_bytes),
            estimated=share.estimated,
        )
        for share in shares
    ]
    if len(rows) > limit:
        rest = rows[limit - 1 :]
        rows = rows[: limit - 1]
        rows.append(
            answers.Consumer(
                name=f"{len(rest)} others",
                kind="rest",
                memory_mb=round(sum(row.memory_mb for row in rest), 3),
                share=round(sum(row.share for row in rest), 4),
                reclaimable_mb=round(sum(row.reclaimable_mb for row in rest), 3),
                estimated=any(row.estimated for row in rest),
            )
        )
        rows.sort(key=lambda row: -row.memory_mb)
    return answers.Consumers(used_mb=mb(used), consumers=rows)
