"""Holding: how a service tells its guard who holds memory, and what may be done about it."""

from __future__ import annotations

from weakref import WeakValueDictionary

from memguard.model import Event, Level

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable
    from typing import Any

    from memguard.agents.codecs import Codec, Floats
    from memguard.agents.states import States
    from memguard.kinds import Cost
    from memguard.ports import Clock
    from memguard.roster import Handle, Roster
    from memguard.rules import Rules
    from memguard.telling import Teller

__all__ = ["Holding"]

# Adapters are imported where they are needed: a guard with nothing registered does not pay for them in memory.


class Holding:
    """The part of a guard where holders sign up; what it returns are handles with ``close()``."""

    roster: Roster
    rules: Rules
    _teller: Teller
    _clock: Clock

    if TYPE_CHECKING:

        @property
        def running(self) -> bool:
            """As the guard has it."""
            ...

    def _bound_caches(self, *, on: bool) -> None:
        """Let the rules' limits of caches hold, or no longer."""
        rules = self.rules
        if rules.mode == "act" and (rules.cache_max_bytes is not None or rules.cache_maxsize is not None):
            from memguard.caching.market import market_of  # noqa: PLC0415

            market = market_of(self.roster)
            market.budget_bytes = rules.cache_max_bytes if on else None
            market.maxsize = rules.cache_maxsize if on else None

    def cache(  # noqa: PLR0913 - each says one thing about the cache, all but the name have a default
        self,
        obj: object,
        *,
        name: str,
        cost: Cost | None = None,
        at: Level | None = None,
        lock: object = None,
        weight: float = 1.0,
        min_bytes: str | int = 0,
        entry_cost_s: float | None = None,
        currsize_is_bytes: bool = False,
    ) -> Handle:
        """Register a cache that somebody else made: a mapping, a cachetools cache or function, an lru_cache function.

        To register is to say that its entries can be made again: they are dropped without asking. What gives up entry
        by entry goes on the market of all caches, unless a ``cost`` or a level (``at``) of its own is given; what can
        only be emptied is asked last. The object is held weakly where Python allows it (a plain dict is not). ``lock``
        is the one that the application holds while it uses the cache. ``weight`` multiplies the price of an entry,
        ``min_bytes`` are never taken, ``entry_cost_s`` is how many seconds making one entry takes,
        ``currsize_is_bytes`` says that a cachetools cache's ``getsizeof`` gives bytes.
        ``docs/existing-caches.md`` lists what is known of other libraries' caches.

        Raises:
            TypeError: it cannot be shrunk, or the lock is none for threads; the text says what to do.
            ValueError: the name is blank, or a number is out of range.
        """
        from memguard.ports import Shelf  # noqa: PLC0415
        from memguard.reclaimers.caches import adapter_for  # noqa: PLC0415
        from memguard.units import parse_bytes  # noqa: PLC0415

        adapter, held = adapter_for(
            obj,
            name=name,
            cost=cost,
            at=at,
            lock=lock,  # type: ignore[arg-type]
            weight=weight,
            min_bytes=parse_bytes(min_bytes),
            entry_cost_s=entry_cost_s,
            currsize_is_bytes=currsize_is_bytes,
        )
        if cost is None and at is None and isinstance(adapter, Shelf):
            from memguard.caching.market import market_of  # noqa: PLC0415

            return market_of(self.roster).join(adapter, held=held)
        return self.roster.add(adapter, held=held)

    def states(  # noqa: PLR0913 - options, all with a default
        self,
        name: str = "states",
        *,
        max_bytes_each: str | int | None = "auto",
        max_bytes: str | int | None = None,
        compact: bool | Callable[[Any], Any] | None = None,
        codec: Codec = "zlib",
        floats: Floats = "exact",
        spill: bool | str | os.PathLike[str] = True,
        spill_max_bytes: str | int = "256MiB",
        handover: bool = False,
    ) -> States[Any]:
        """A mapping for belief states, conversations and sessions that never loses one and can be held smaller.

        "auto" means the rule ``state_max_bytes``, ``compact=None`` the rule ``state_compact``; see ``States``. With
        ``handover`` a clean hand-over leaves them to the process that follows, which has them from its start on.

        Raises:
            ValueError: a setting that cannot be meant.
            MissingExtra: ``codec="zstd"`` without its package.
        """
        from memguard.agents.states import States  # noqa: PLC0415

        made: States[Any] = States(
            name,
            max_bytes_each=self.rules.state_max_bytes if max_bytes_each == "auto" else max_bytes_each,
            max_bytes=max_bytes,
            compact=self.rules.state_compact if compact is None else compact,
            codec=codec,
            floats=floats,
            spill=spill,
            spill_max_bytes=spill_max_bytes,
            handover=handover,
            tell=self._teller.tell,
            clock=self._clock,
        )
        if handover and self.running:
            self._reopen(made)
        kept: WeakValueDictionary[int, States[Any]] = vars(self).setdefault("_states", WeakValueDictionary())
        kept[id(made)] = made
        return made.enlist(self.roster)

    @property
    def state_maps(self) -> tuple[States[Any], ...]:
        """Every mapping of states that this guard has made and that is still there."""
        return tuple(vars(self).get("_states", {}).values())

    def _bequests(self) -> tuple[Callable[[], None], ...]:
        """What leaves states to the process that follows, for those that are to be left."""
        return tuple(self._bequest(states) for states in self.state_maps if states.handover)

    def _bequest(self, states: States[Any]) -> Callable[[], None]:
        def leave_states() -> None:  # others have hooks, too: half of the time
            states.leave(_private, self._lineage(), within_s=self.rules.handover_drain_s / 2.0)

        return leave_states

    def _inherit(self) -> None:
        """This process begins: take over what the one before left."""
        for states in self.state_maps:
            if states.handover:
                self._reopen(states)

    def _reopen(self, states: States[Any]) -> None:
        try:
            states.reopen(_private, self._lineage())
        except Exception as error:  # noqa: BLE001 - a service starts without them
            text = f"{states.name}: what the process before left cannot be looked for: {type(error).__name__}: {error}"
            self._teller.tell(Event(at=self._clock(), name="state.unreadable", text=text))

    def _lineage(self) -> str:
        """The group of those that follow each other, as for a hand-over."""
        from memguard.handover import group_of  # noqa: PLC0415
        from memguard.servers import find_way  # noqa: PLC0415

        return group_of(vars(self).get("_way") or find_way(self.rules))

    def directory(  # noqa: PLR0913 - options, all with a default
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: str | int = "100MiB",
        name: str | None = None,
        early_bytes: str | int | None = None,
        include: Iterable[str] = ("*",),
        exclude: Iterable[str] | None = None,
        min_age_s: str | float = 10.0,
        cost: Cost = "dear",
        at: Level = Level.WARNING,
    ) -> Handle:
        """Keep a directory of files that can be made again below a quota, the least recently used go first.

        All directories together are kept below 200 MiB. On a file system in memory it also gives memory back.
        With ``mode="observe"`` it only tells what it would remove. See ``memguard.reclaimers.directories.Directory``.

        Raises:
            ValueError: it holds the running program, lies in another registered one, or a number is out of range.
            TypeError: ``include`` or ``exclude`` is one text instead of several.
        """
        from memguard.reclaimers.directories import Directory, directories_of  # noqa: PLC0415
        from memguard.units import parse_bytes, parse_seconds  # noqa: PLC0415

        more = {} if exclude is None else {"exclude": exclude}
        directory = Directory(
            path,
            name=name,
            max_bytes=parse_bytes(max_bytes),
            early_bytes=None if early_bytes is None else parse_bytes(early_bytes),
            include=include,
            min_age_s=parse_seconds(min_age_s),
            cost=cost,
            at=at,
            act=self.rules.mode == "act",
            tell=self._teller.tell,
            clock=self._clock,
            **more,
        )
        return directories_of(self.roster).join(directory)

    def child(  # noqa: PLR0913 - options, all but the process and its size have a default
        self,
        process: object,
        *,
        max_bytes: str | int,
        name: str | None = None,
        over_s: str | float = 3.0,
        grace_s: str | float = 3.0,
        end: bool = True,
        sheddable: bool = True,
    ) -> Handle:
        """Watch a child process and its tree: above ``max_bytes`` it is ended, and as the last resort of all.

        With ``mode="observe"`` it only tells. See ``memguard.reclaimers.children.Child``.

        Raises:
            ValueError: it has ended, is no descendant of this process, or a number is out of range.
            TypeError: it is no process.
        """
        from memguard.reclaimers.children import Child, watch_child  # noqa: PLC0415
        from memguard.units import parse_bytes, parse_seconds  # noqa: PLC0415

        acts = self.rules.mode == "act"
        child = Child(
            process,
            max_bytes=parse_bytes(max_bytes),
            name=name,
            over_s=parse_seconds(over_s),
            grace_s=parse_seconds(grace_s),
            end=end and acts,
            sheddable=sheddable and acts,
            tell=self._teller.tell,
            clock=self._clock,
        )
        return watch_child(self.roster, child)

    def reclaimer(
        self,
        name: str,
        reclaim: Callable[[int], int | None],
        *,
        size: Callable[[], int | None] | None = None,
        cost: Cost = "cheap",
        at: Level = Level.WARNING,
    ) -> Handle:
        """Register a function that tries to give back as many bytes as it is asked for.

        It runs on a thread of its own, may say how many it released, and is measured whatever it says.
        """
        from memguard.reclaimers.callback import Callback  # noqa: PLC0415

        callback = Callback(name, reclaim, size=size, cost=cost, at=at)
        return self.roster.add(callback, held=callback.held)


def _private(folder: str) -> str:
    """A directory below this one that is this user's alone."""
    from memguard.workers.folder import private_folder  # noqa: PLC0415 - as in Holding

    return private_folder((folder,))
