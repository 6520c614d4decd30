"""States: what agents, conversations and sessions know, in a mapping that can be held smaller."""

from __future__ import annotations

import time
import weakref
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, overload

from memguard.agents import codecs
from memguard.agents.amounts import disk_of, limit_of
from memguard.agents.figures import Figures
from memguard.agents.leases import Lease
from memguard.agents.listing import rows_of
from memguard.agents.packing import Packing
from memguard.agents.reports import Reports
from memguard.agents.rungs import rungs_of
from memguard.agents.upkeep import Upkeep
from memguard.model import Event
from memguard.units import format_bytes

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from typing import Self

    from memguard.agents.codecs import Codec, Floats
    from memguard.agents.figures import Report, StateRow
    from memguard.agents.rungs import Rung
    from memguard.ports import Clock
    from memguard.roster import Handle, Roster

__all__ = ["States"]

T = TypeVar("T")
D = TypeVar("D")

_ABSENT: Final[Any] = object()


class States(MutableMapping[str, T]):
    """A mapping from names to states that never loses one, and can hold them smaller.

    A state is an object while it is used. When memory is asked for, or a limit is passed, states that were not used for
    longest are packed (pickled and compressed, in memory), then spilled (to a private file on disk); the next access
    loads them again, equal to what they were. A state stays an object as long as anybody else refers to it or to
    anything mutable in it, while it is leased, and when it cannot be pickled or what loads back is not equal to it.

    Args:
        name: what the guard calls it.
        max_bytes_each: the most that one state may take ("10MiB"); a larger one is made smaller by ``compact``, and
            refused when that is not enough. None: no limit.
        max_bytes: the most that all of them may take in memory; None: the guard's pressure alone.
        compact: True: packing is allowed. A function: it is given a copy of a state that is over ``max_bytes_each`` and
            returns a smaller one (the last messages, …); packing is allowed too. False: neither.
        codec: what packs: ``"zlib"``, or ``"zstd"`` with the extra of that name.
        floats: ``"float32"`` or ``"float16"`` keep float arrays of numpy with fewer digits, for good, once they are
            packed or spilled; ``"exact"`` loses nothing.
        spill: True: to the system's temporary directory, or /var/tmp where that is memory; a path: there; False: never.
        spill_max_bytes: the most that the files on disk may take.
        handover: whether the guard leaves them to the process that follows when this one hands over.
        tell: is called with an ``Event`` when a state cannot be made smaller or loaded, at most once a minute by kind.
        clock: monotonic seconds.

    Safe between threads; nothing waits for packing. In a forked child all states are there as they were.

    Raises:
        TypeError, ValueError: a setting that cannot be meant.
        MissingExtra: ``codec="zstd"`` without its package.
    """

    def __init__(  # noqa: PLR0913 - options, all with a default
        self,
        name: str = "states",
        *,
        max_bytes_each: int | str | None = "10MiB",
        max_bytes: int | str | None = None,
        compact: bool | Callable[[T], T] = True,
        codec: Codec = "zlib",
        floats: Floats = "exact",
        spill: bool | str | os.PathLike[str] = True,
        spill_max_bytes: int | str = "256MiB",
        handover: bool = False,
        tell: Callable[[Event], object] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        if not name.strip():
            raise ValueError("states need a name that is not blank, for events and reports: write name='beliefs'")
        if not isinstance(cast("object", compact), bool) and not callable(compact):
            raise TypeError(f"compact={compact!r} is neither True, False nor a function that makes a state smaller")
        codecs.check_codec(codec, floats)
        disk = disk_of(spill, spill_max_bytes)
        if handover and disk is None:
            raise ValueError(f"states {name!r}: handover=True needs a disk, so spill=True or a path")
        self.handover: bool = handover
        self._tell = tell
        self._clock = clock
        self._keeping = Packing(name, codec=codec, floats=floats, spill=disk, clock=clock)
        self._upkeep = Upkeep(
            self._keeping,
            max_bytes_each=limit_of("max_bytes_each", max_bytes_each),
            max_bytes=limit_of("max_bytes", max_bytes),
            packs=bool(compact),
            compact=compact if callable(compact) else None,
            reports=Reports(name, clock=clock, tell=tell),
        )
        self._gauge = self._upkeep.gauge
        self._handles: tuple[Handle, ...] = ()
        if disk is not None:
            weakref.finalize(self, disk.close)

    # --- looking ----------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> T:
        entry = self._keeping.live.get(key)
        value: T
        if entry is None:
            value = self._upkeep.fetch(key)
        else:
            entry.used = now = self._clock()
            value = entry.value
            if now >= self._gauge.due:
                del entry
                self._upkeep.look_at_read(key)
        return value

    @overload
    def get(self, key: str, /) -> T | None: ...
    @overload
    def get(self, key: str, /, default: T | D) -> T | D: ...
    def get(self, key: str, /, default: Any = None) -> Any:
        """The state, or the default where there is none.

        Raises:
            StateUnreadable: there is one, and it cannot be loaded now.
        """
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key: object) -> bool:
        return key in self._keeping

    def __iter__(self) -> Iterator[str]:
        return iter(self._keeping.keys())

    def __len__(self) -> int:
        return len(self._keeping)

    # --- changing ---------------------------------------------------------------------------------------------------

    def __setitem__(self, key: str, value: T) -> None:
        self._put(key, value, over=True)

    def _put(self, key: str, value: T, *, over: bool) -> bool:
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"states go by text, not by {key!r}: write str(key)")
        if type(key) is not str:
            key = str.__str__(key)
        upkeep = self._upkeep
        kept, size, packs = upkeep.fit(key, value)
        if not upkeep.keep(key, kept, size, over=over):
            return False
        upkeep.over.pop(key, None)
        if packs:
            upkeep.over[key] = None
        upkeep.settle(sparing=key)
        return True

    def __delitem__(self, key: str) -> None:
        if not self._keeping.remove(key):
            raise KeyError(key)
        self._upkeep.over.pop(key, None)

    @overload
    def pop(self, key: str, /) -> T: ...
    @overload
    def pop(self, key: str, /, default: T | D) -> T | D: ...
    def pop(self, key: str, /, default: Any = _ABSENT) -> Any:
        """Take a state out; the default when there is none.

        Raises:
            KeyError: there is none, and no default.
        """
        while True:
            try:
                value = self[key]
            except KeyError:
                if default is _ABSENT:
                    raise
                return default
            if self._keeping.remove(key, only=value):
                self._upkeep.over.pop(key, None)
                return value

    def popitem(self) -> tuple[str, T]:
        """Take any state out.

        Raises:
            KeyError: there is none.
        """
        for key in self:
            value = self.pop(key, _ABSENT)
            if value is not _ABSENT:
                return key, value
        raise KeyError(f"{type(self).__name__} {self.name!r} is empty")

    def setdefault(self, key: str, default: Any = None, /) -> Any:  # noqa: ANN401 - as in MutableMapping
        """The state; the default is kept where there is none. All threads get the same."""
        while True:
            try:
                return self[key]
            except KeyError:
                self._put(key, default, over=False)

    def clear(self) -> None:
        """Forget all."""
        for key in self:
            self._keeping.remove(key)
        self._upkeep.over.clear()

    def lease(self, key: str) -> Lease[T]:
        """Hold a state as an object for the length of a ``with`` block, which is given it; changes to it are kept.

        A leased state is neither packed nor spilled, and replaced by nobody but who puts another.

        Raises:
            KeyError: on entering: there is none.
            StateUnreadable: on entering: it cannot be loaded now.
        """
        return Lease(self._upkeep, key)

    # --- limits -----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What the guard calls them."""
        return self._keeping.name

    @property
    def max_bytes_each(self) -> int | None:
        """The most that one state may take; None: no limit. When lowered, larger ones are made smaller in time."""
        return self._upkeep.max_bytes_each

    @max_bytes_each.setter
    def max_bytes_each(self, limit: int | str | None) -> None:
        self._upkeep.max_bytes_each = limit_of("max_bytes_each", limit)
        self._upkeep.look_for_large()

    @property
    def max_bytes(self) -> int | None:
        """The most that all of them may take in memory; None: the guard's pressure alone."""
        return self._upkeep.max_bytes

    @max_bytes.setter
    def max_bytes(self, limit: int | str | None) -> None:
        self._upkeep.max_bytes = limit_of("max_bytes", limit)
        self._upkeep.settle()

    @property
    def compacts(self) -> bool:
        """Whether states may be packed, and shortened by the function that was given; may be changed at any time."""
        return self._upkeep.packs

    @compacts.setter
    def compacts(self, wanted: bool) -> None:
        self._upkeep.packs = bool(wanted)

    # --- giving back ------------------------------------------------------------------------------------------------

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The ways in which memory is given back, as reclaimers: packing, spilling, moving."""
        return rungs_of(self._upkeep)

    def enlist(self, roster: Roster) -> Self:
        """Let the guard of this roster ask for memory; themselves, for chaining."""
        self.close()
        self._handles = tuple(roster.add(rung, held=self) for rung in self.rungs)
        return self

    def close(self) -> None:
        """Leave the guard; the states stay, and so do their limits. Twice is fine."""
        handles, self._handles = self._handles, ()
        for handle in handles:
            handle.close()

    def compact(self) -> int:
        """Measure every object and make those smaller that are over their limit; the bytes that frees, as accounted."""
        self._upkeep.look_for_large()
        return sum(self._upkeep.shrink(key) for key in tuple(self._upkeep.over))

    def pack(self, wanted_bytes: int = 1 << 62) -> int:
        """Pack objects, the coldest first, until so many bytes are freed; how many were, as accounted."""
        return self._upkeep.pack_cold(wanted_bytes)

    def spill(self, wanted_bytes: int = 1 << 62) -> int:
        """Bring the coldest states to the disk until so many bytes of memory are freed; how many were, as accounted."""
        return self._upkeep.spill_cold(wanted_bytes)

    def move(self) -> int:
        """Pack everything at once, so that what is loaded again lies side by side; the bytes that may come back."""
        return self._upkeep.move()

    # --- the process that follows -----------------------------------------------------------------------------------

    def leave(self, private: Callable[[str], str], group: str, *, within_s: float) -> None:
        """Leave a copy of all to the next process of this group, in a private directory below the one for spilling.

        Raises:
            NoSpill: a full or failing disk; nothing is left then.
        """
        from memguard.agents.inheritance import bequeath  # noqa: PLC0415 - once in a life, as below

        folder = private(self._disk_folder())
        count, length, failed = bequeath(self._keeping, folder, group, within_s=within_s)
        if count or failed:
            lost = f"; {len(failed)} could not be copied, as {failed[0]!r}" if failed else ""
            self._say("state.left", f"{count} states, {format_bytes(length)}, left to the process that follows{lost}")

    def reopen(self, private: Callable[[str], str], group: str) -> None:
        """Take over what the process before left, if it left anything; each is loaded when it is asked for."""
        from memguard.agents.inheritance import inherit  # noqa: PLC0415

        count, length, errors = inherit(self._keeping, private(self._disk_folder()), group)
        if count:
            self._say("state.reopened", f"{count} states, {format_bytes(length)}, of the process before")
        for error in errors:
            self._say("state.unreadable", f"what the process before left cannot be reopened: {error}")

    def _disk_folder(self) -> str:
        spill = self._keeping.spill
        assert spill is not None  # noqa: S101 - handover=True needs one
        return spill.folder()

    def _say(self, event: str, text: str) -> None:
        if self._tell is not None:
            told = Event(at=self._clock(), name=event, text=f"{self.name}: {text}", attributes={"name": self.name})
            self._tell(told)

    # --- figures ----------------------------------------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """Bytes that all of them take in memory: objects as last measured, blobs, and what is known of each."""
        return self._keeping.held_bytes

    @property
    def reports(self) -> tuple[Report, ...]:
        """The last 64 times that a state could not be made smaller or loaded, oldest first."""
        return tuple(self._upkeep.reports.last)

    def figures(self) -> Figures:
        """All of them, added up."""
        keeping, attic, spill = self._keeping, self._keeping.attic, self._keeping.spill
        return Figures(
            live=len(keeping) - len(attic),
            packed=len(attic) - attic.on_disk,
            spilled=attic.on_disk,
            leased=len(keeping.pins),
            bytes=keeping.held_bytes,
            live_bytes=keeping.live_bytes,
            packed_bytes=attic.blobs_bytes,
            spilled_bytes=0 if spill is None else spill.bytes,
            rest_bytes=attic.objects_bytes,
            refused=dict(self._upkeep.reports.counts),
        )

    def rows(self) -> list[StateRow]:
        """Each state: its bytes, where it is, for how long unused. Walks all of them."""
        return rows_of(self._keeping)

    def __repr__(self) -> str:
        count = len(self)
        return f"<{type(self).__name__} {self.name!r}: {count} state{'s' * (count != 1)}, {format_bytes(self.bytes)}>"

    def __reduce__(self) -> Any:  # noqa: ANN401 - as in object
        raise TypeError(f"states {self.name!r} cannot be copied or pickled as a whole: take dict(states)")
