"""Maintenance: what is done on a schedule while all is well: expire, clean, census, and what the service asks for."""

from __future__ import annotations

import sys
from random import random

from memguard._core.chores import Load, calm, done, due, first, seen
from memguard.attempts import measured
from memguard.errors import MemguardError
from memguard.model import Event
from memguard.reclaimers.errands import Errand, Pace
from memguard.units import MIB, format_bytes, format_seconds
from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from memguard._core.chores import Chore
    from memguard.findings import Census
    from memguard.ports import Clock, Reclaimer
    from memguard.roster import Roster

__all__ = ["BUILTIN", "Done", "Maintenance", "Upkeep"]

BUILTIN = ("expire", "clean", "census")
"""The chores that the rule ``maintain`` knows."""

# A chore of ours ends after so long; the rest is for the next time.
_WITHIN_S = 5.0
# Somebody's own that takes longer is told of once, and nothing else is maintained until it comes back.
_OVERDUE_S = 60.0
# Less is not worth a trim of the heap (0.25 to 0.5 ms per MB, an arena's lock), nor an event.
_TRIM_BYTES = 4 * MIB
_TOLD_BYTES = 1 * MIB
# As for an examination that nobody asked for: larger heaps would stand still for half a second.
_BLOCKS_AT_MOST = 6_000_000
_BLOCK_BYTES = 24
_CENSUS_S = 1.0


@value
class Done:
    """What a chore did: words ("" for nothing), whether they are worth an event, how many bytes it let go (None: ?)."""

    words: str = ""
    tell: bool = False
    freed_bytes: int | None = 0


class Maintenance:
    """Asks what is due about once a second and has it done on a short-lived thread, one at a time.

    ``inline`` does it in the caller's thread, for simulations.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        meter: Callable[[], Callable[[], int]],
        tell: Callable[[Event], None],
        inline: bool = False,
        dice: Callable[[], float] = random,
    ) -> None:
        self._clock = clock
        self._meter = meter
        self._tell = tell
        self._inline = inline
        self._dice = dice
        self._works: dict[str, Callable[[Pace], Done]] = {}
        self._chores: dict[str, Chore] = {}
        self._load = Load()
        self._errand = Errand("memguard-upkeep")
        self._pace = Pace()
        self._began: tuple[str, float] | None = None

    @property
    def chores(self) -> tuple[Chore, ...]:
        """Every chore as it stands."""
        return tuple(self._chores.values())

    def add(self, name: str, every_s: float, work: Callable[[Pace], Done], *, calm: bool = True) -> None:
        """Do this from now on, so often; under a name that is there it takes that one's place."""
        self._works[name] = work
        self._chores[name] = first(name, every_s, self._clock(), self._dice(), calm=calm)

    def drop(self, name: str, work: Callable[[Pace], Done]) -> None:
        """Do it no more, unless another has taken its name."""
        if self._works.get(name) is work:
            del self._works[name], self._chores[name]

    def has(self, name: str, work: Callable[[Pace], Done]) -> bool:
        """Whether it is still done."""
        return self._works.get(name) is work

    def look(self, at: float, *, running: int, pressing: bool) -> None:
        """Begin what is due; while memory is short nothing begins, and what is under way ends soon."""
        self._load = seen(self._load, at, running)
        if self._errand.busy:
            if pressing:
                self._pace.stop()
            self._watch_over(at)
            return
        self._began = None
        chore = None if pressing else due(self.chores, at, calm=calm(self._load, running))
        if chore is None:
            return
        name = chore.name
        self._pace = Pace(within_s=_WITHIN_S, rest=not self._inline)
        if self._inline:
            self._do(name, self._pace)
            return
        self._began = (name, at)
        self._errand.start(lambda: self._do(name, self._pace))

    def _watch_over(self, at: float) -> None:
        if self._began is not None and at - self._began[1] > _OVERDUE_S:
            name, self._began = self._began[0], None
            self._say("maintenance.failed", name, f"{name} has not come back after {format_seconds(_OVERDUE_S)}")

    def _do(self, name: str, pace: Pace) -> None:
        """Carry one chore out between two readings."""
        work, found = self._works.get(name), Done()
        if work is None:
            return

        def carry_out() -> int | None:
            nonlocal found
            found = work(pace)
            return found.freed_bytes

        relief = measured(carry_out, name=name, wanted_bytes=0, look=self._meter(), clock=self._clock)
        # What others took or gave meanwhile is in the readings, too: no more is bought than was let go.
        most = relief.bought_bytes if found.freed_bytes is None else found.freed_bytes
        bought = max(0, min(relief.bought_bytes, most))
        words = relief.error or found.words
        before = self._chores.get(name)
        if before is None or self._works.get(name) is not work:
            return
        self._chores[name] = after = done(
            before, self._clock(), self._dice(), cost_s=relief.cost_s, bought_bytes=bought, failed=bool(relief.error),
            words=words,
        )  # fmt: skip
        if relief.error and after.failures == 1:
            self._say("maintenance.failed", name, f"{name}: {words}; it is tried again, each time later")
        elif not relief.error and (found.tell or before.failures):
            back = f", {format_bytes(bought)} came back" if bought else ""
            took = format_seconds(relief.cost_s)
            self._say(
                "maintenance.done", name, f"{name}: {words}{back}, in {took}", bought_bytes=bought, cost_s=relief.cost_s
            )

    def _say(self, event: str, name: str, text: str, **numbers: float) -> None:
        self._tell(Event(at=self._clock(), name=event, text=text, attributes={"name": name, **numbers}))

    def stop(self) -> None:
        """The guard stops: what is under way ends at its next step."""
        self._pace.stop()

    def forget(self) -> None:
        """In a forked child: its own dice, so that it does not do all of it in its siblings' second."""
        self._errand, self._began, self._load = Errand("memguard-upkeep"), None, Load()
        now = self._clock()
        self._chores = {
            name: first(name, chore.every_s, now, self._dice(), calm=chore.calm) for name, chore in self._chores.items()
        }


class Upkeep:
    """The chores that the rule ``maintain`` names."""

    def __init__(self, roster: Roster, *, trim: Reclaimer, room_bytes: Callable[[], int | None]) -> None:
        self._roster = roster
        self._trim = trim
        self._room_bytes = room_bytes
        self._census: Census | None = None

    def expire(self, pace: Pace) -> Done:
        """Drop what is too old in every cache that knows; then let the heap give back what that freed.

        Raises:
            Exception: what a cache raised, once all were asked.
        """
        entries = freed = 0
        error: Exception | None = None
        for cache in self._caches():
            if not pace.step():
                break
            before = _size(cache)
            try:
                gone = cache.expire()
            except Exception as failure:  # noqa: BLE001 - somebody's cache; the others are asked all the same
                error = failure
                continue
            entries += gone if isinstance(gone, int) else 0
            freed += max(0, before - _size(cache))
        if freed >= _TRIM_BYTES and not pace.stopped:
            self._trim.reclaim(0)
        if error is not None and not entries:
            raise error
        words = f"{entries} entries were too old, some {format_bytes(freed)}" if entries else ""
        return Done(words=words, tell=freed >= _TOLD_BYTES, freed_bytes=freed)

    def _caches(self) -> Iterator[Any]:
        """Every registered cache that knows what is too old: on the market, or with a level of its own.

        Not one without a lock, whose users would not expect another thread while all is well.
        """
        for _, reclaimer in self._roster.entries():
            for cache in getattr(reclaimer, "shelves", (reclaimer,)):
                if callable(getattr(cache, "expire", None)) and getattr(cache, "locked", True):
                    yield cache

    def clean(self, pace: Pace) -> Done:
        """Take every registered directory down to its early sign, so that it meets its quota later, or never."""
        group = vars(self._roster).get("_directories")
        files = freed = 0
        for directory in () if group is None else group.members:
            if not pace.step():
                break
            if (directory.held_bytes or 0) > directory.early_bytes:
                cleanup = directory.clean(down_to_bytes=directory.early_bytes, pace=pace)
                files += len(cleanup.removed)
                freed += cleanup.freed_bytes if directory.in_memory else 0
        return Done(words=f"{files} files of directories were removed" if files else "", freed_bytes=freed)

    def census(self, _: Pace) -> Done:
        """Count what is alive by type, and say what grew most since the last time.

        Raises:
            MemguardError: there is no room for it.
        """
        from memguard.leaks.census import growth, take  # noqa: PLC0415 - only where it is wanted

        blocks, room = sys.getallocatedblocks(), self._room_bytes()
        if blocks > _BLOCKS_AT_MOST:
            raise MemguardError(f"{blocks / 1e6:.0f} million blocks are alive: threads would stand still for too long")
        if room is not None and room < _BLOCK_BYTES * blocks:
            raise MemguardError(f"only {format_bytes(max(0, room))} are left until the limit")
        before, self._census = self._census, take(budget_s=_CENSUS_S)
        words = f"{self._census.objects} objects"
        if before is not None:
            rows = [f"{row.type} +{row.grown} (to {row.after})" for row in growth(before, self._census)[:3]]
            words += f", most of it grown: {', '.join(rows)}" if rows else ", no type grew"
        return Done(words=words + (f"; not seen: {self._census.unseen}" if self._census.unseen else ""), tell=True)


def _size(cache: Any) -> int:  # noqa: ANN401 - somebody's
    try:
        size = cache.size()
    except Exception:  # noqa: BLE001 - as above
        return 0
    return size if isinstance(size, int) else 0
