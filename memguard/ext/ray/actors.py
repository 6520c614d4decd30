"""Actors: a base class that puts the gate before an actor's calls, shows what it holds, and lets it hand over."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from memguard.ext.ray import workers
from memguard.ext.ray.calls import WAIT_S, Terms, guarded, is_admitted
from memguard.ext.ray.keeping import Kept
from memguard.ext.ray.leaving import ActorWay, actor_id, restarts
from memguard.units import parse_seconds
from memguard.values import field, value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping
    from typing import Self

    from memguard._core.tally import OperationStats
    from memguard.agents.figures import Figures
    from memguard.agents.rows import PoolStats
    from memguard.guard import Guard
    from memguard.model import Holder, Level

    M = TypeVar("M", bound=MutableMapping[str, Any])

__all__ = ["ActorView", "GuardedActor"]


@value
class ActorView:
    """What one actor holds and does, as its guard knows it.

    ``restarts`` is how often Ray has started it anew (None: it does not tell), ``handover`` how it would be left, or
    why not.
    """

    actor_id: str
    pid: int
    level: Level
    used_bytes: int
    limit_bytes: int | None
    rss_bytes: int | None
    restarts: int | None = None
    leaving: bool = False
    handover: str = ""
    states: Mapping[str, Figures] = field(default_factory=dict)
    pools: tuple[PoolStats, ...] = ()
    operations: tuple[OperationStats, ...] = ()
    holders: tuple[Holder, ...] = ()


class GuardedActor:
    """A base for actor classes: ``@ray.remote`` above ``class Agent(GuardedActor)``.

    Every public method is admitted as by ``@admitted``, except those in ``memguard_exempt`` and those that carry the
    decorator themselves; the constructor is not, for Ray gives up an actor whose constructor raises. ``self.guard`` is
    the guard of the actor's process, which is the actor's alone: its states, pools and operations are per actor.
    With ``max_restarts`` and ``max_task_retries`` the actor hands over when nothing else helps, see ``keep``.
    """

    memguard_exempt: ClassVar[Iterable[str]] = ("ping", "health", "check_health")
    """Methods that are always served."""

    memguard_wait_s: ClassVar[float | str] = WAIT_S
    """How long a call waits for room before it is refused."""

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401 - other bases' own
        super().__init_subclass__(**options)
        if cls.__module__.partition(".")[0] == "ray":  # what Ray derives has Ray's own public methods
            return
        exempt = cls.memguard_exempt
        if isinstance(exempt, str):
            raise TypeError(f"{cls.__name__}.memguard_exempt={exempt!r} is one method: write it as ({exempt!r},)")
        wait_s = parse_seconds(cls.memguard_wait_s)
        for name in dir(cls):
            method = inspect.getattr_static(cls, name)
            ours = name.startswith("_") or method is vars(GuardedActor).get(name) or name in exempt
            if inspect.isfunction(method) and not ours and not is_admitted(method):
                setattr(cls, name, guarded(method, Terms(type=f"{cls.__name__}.{name}", wait_s=wait_s)))

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401, D102 - as above; Ray makes actors by it
        new = super().__new__
        made: Self = new(cls) if new is object.__new__ else new(cls, *args, **kwargs)
        if actor_id() is not None:
            guard = workers.get_guard()
            guard.leave_by(ActorWay(guard))
        return made

    @property
    def guard(self) -> Guard:
        """The guard of this process."""
        return workers.get_guard()

    def keep(self, name: str, mapping: M, *, folder: str | os.PathLike[str], key: str | None = None) -> M:
        """Have what a mapping holds (a dict, ``guard.states(…)``) survive a hand-over; the mapping itself.

        Call it in the constructor. What the predecessor saved is put in at once. ``folder`` must be one that the node
        shares on which Ray restarts the actor: a path of this node only where there is but one. ``key`` is what actor
        and successor have in common, by default Ray's id of the actor. Keys and values are pickled.

        Raises:
            ValueError: no such folder, a name that cannot be a file's, or no key outside of an actor.
            MemguardError: what was saved cannot be loaded; the file stays as it is.
        """
        owner = key or actor_id()
        if owner is None:
            raise ValueError(
                f"keep({name!r}): this is no Ray actor, so name what it shares with its successor: key='a7'"
            )
        kept = Kept(mapping, name=name, owner=owner, folder=folder)
        kept.load()
        vars(self).setdefault("_memguard_kept", []).append(kept)
        workers.get_guard().on_handover(kept.hand_over)
        return mapping

    # --- for callers, by .remote() ------------------------------------------------------------------------------------

    def memguard_save(self) -> int:
        """Save now what is kept, as a hand-over would; how many entries."""
        return sum(kept.save() for kept in vars(self).get("_memguard_kept", ()))

    def memguard_hand_over(self, reason: str = "asked") -> None:
        """Begin to make room for a fresh actor; returns at once.

        Raises:
            MemguardError: nobody would start it, or something would be lost: what, and the mend.
        """
        workers.get_guard().hand_over(reason=reason)

    def memguard_view(self) -> ActorView:
        """What this actor holds and does."""
        guard, past = workers.get_guard(), restarts(actor_id() or "")
        snapshot = guard.snapshot
        reading, limit, vitals = snapshot.reading, snapshot.limit, snapshot.vitals
        return ActorView(
            actor_id=actor_id() or "",
            pid=os.getpid(),
            level=snapshot.level,
            used_bytes=0 if reading is None else reading.used_bytes,
            limit_bytes=None if limit is None else limit.bytes,
            rss_bytes=None if vitals is None else vitals.rss_bytes,
            restarts=None if past is None else past[1],
            leaving=guard.leaving,
            handover=guard.explain().partition("7. hand over: ")[2].partition("\n")[0],
            states={states.name: states.figures() for states in guard.state_maps},
            pools=tuple(pool.stats() for pool in guard.pools),
            operations=guard.operations.stats(),
            holders=guard.holders(),
        )
