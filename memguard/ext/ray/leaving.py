"""Leaving: how a Ray actor makes room for a fresh one. Ray starts it anew, and makes the calls again that it had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from memguard.servers import Way

if TYPE_CHECKING:
    from memguard.guard import Guard

__all__ = ["ActorWay", "actor_id", "restarts", "task_way"]


def task_way() -> Way:
    """The way of a worker that holds no actor of ours: Ray itself ends workers of tasks, if it is told to."""
    way = Way("a Ray worker")
    way.hindrance = (
        "a Ray worker that runs tasks is not handed over: @ray.remote(max_calls=…) has Ray replace it after so many "
        "calls; actors hand over when their class has GuardedActor among its bases"
    )
    return way


class ActorWay(Way):
    """An actor: calls that come are held, those that run finish, and Ray restarts it (``max_restarts``).

    Not by ``ray.actor.exit_actor()``: Ray takes that for a wish and does not restart the actor.
    """

    shared = True
    drains = True
    tells_close = True
    last_code = 1

    def __init__(self, guard: Guard) -> None:
        super().__init__("a Ray actor: Ray restarts it, and makes the calls again that were not begun")
        own = actor_id() or ""
        self._actor: Any = ray.get_runtime_context().current_actor
        self._guard = guard
        self.group: str = f"ray-actor-{own}"
        self._restarts = restarts(own)
        self._retries: int = getattr(self._actor, "_ray_max_task_retries", 0) or 0

    @property
    def hindrance(self) -> str:  # type: ignore[override]
        """Why no fresh actor would follow, or what would be lost."""
        most, past = (-1, 0) if self._restarts is None else self._restarts
        if 0 <= most <= past:
            return "Ray would not restart this actor: @ray.remote(max_restarts=-1, max_task_retries=-1)"
        if self._guard.rules.handover == "on":
            return ""
        if self._restarts is None:
            return "it cannot be seen whether Ray would restart this actor (max_restarts); if so, say handover='on'"
        if not self._retries:
            return (
                "calls that wait for this actor would fail: @ray.remote(max_task_retries=-1), or handover='on' if "
                "their callers see to that"
            )
        if not self._guard.handover_hooks and not any(states.handover for states in self._guard.state_maps):
            return (
                "what this actor knows would be lost: self.keep(…), guard.states(…, handover=True) or "
                "guard.on_handover(…); or handover='on' if nothing has to survive"
            )
        return ""

    def leave(self) -> None:
        """Have Ray end this process and restart the actor."""
        ray.kill(self._actor, no_restart=False)


def actor_id() -> str | None:
    """Ray's id of the actor that this process is, the same after a restart; None: it is none."""
    if not ray.is_initialized():
        return None
    found: str | None = ray.get_runtime_context().get_actor_id()
    return found


def restarts(actor: str) -> tuple[int, int] | None:
    """How often Ray restarts an actor at most (-1: always), and has done so; None where it does not tell.

    Its table of actors has no public door but the dashboard's, which need not run.
    """
    try:
        from ray._private.state import state  # noqa: PLC0415 - it may move
        from ray.core.generated.gcs_pb2 import ActorTableData  # noqa: PLC0415 - as above

        table: Any = state
        accessor: Any = table._connect_and_get_accessor()  # noqa: SLF001 - see above
        found: Any = ActorTableData.FromString(accessor.get_actor_info(ray.ActorID.from_hex(actor)))
        return int(found.max_restarts), int(found.num_restarts)
    except Exception:  # noqa: BLE001 - whatever another release makes of it
        return None
