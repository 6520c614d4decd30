"""Maintaining: the part of a guard that does what is due on a schedule, while memory is not short."""

from __future__ import annotations

import time

from memguard.model import Event, Level

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard._core.chores import Chore
    from memguard.maintenance import Done, Maintenance
    from memguard.model import Snapshot
    from memguard.ports import Clock, Reclaimer
    from memguard.reclaimers.errands import Pace
    from memguard.roster import Handle, Roster
    from memguard.rules import Rules
    from memguard.sight import Sight
    from memguard.telling import Teller
    from memguard.watch import Watch

__all__ = ["Maintaining"]

# What is due is looked for so often, and not before the service has started.
_LOOK_S = 1.0
_START_S = 30.0


class Maintaining:
    """Does chores on a schedule; a guard with nobody to maintain does not pay for them in memory."""

    rules: Rules
    roster: Roster
    _clock: Clock
    _sight: Sight
    _teller: Teller
    _watch: Watch
    _trim: Reclaimer
    _maintain_at: float | None = None
    _maintenance: Maintenance | None = None

    if TYPE_CHECKING:

        def _work_done(self) -> tuple[int, int]: ...

    def maintain(
        self, name: str, work: Callable[[], object], *, every: str | float = "10m", calm: bool = True
    ) -> Handle:
        """Do ``work`` every so often, while memory is not short; with ``calm``, when little runs.

        It runs on a thread of its own, one chore at a time, is measured, and rests longer when it costs more than 1 %
        of the time or raises. A text that it returns is told (``maintenance.done``). Needs a guard that runs.

        Raises:
            ValueError: a blank name, or no duration above 0.
            TypeError: it cannot be called.
        """
        from memguard.roster import Handle  # noqa: PLC0415 - as in holding, and below
        from memguard.units import parse_seconds  # noqa: PLC0415

        every_s = parse_seconds(every)
        if not name.strip() or every_s <= 0.0:
            raise ValueError(f"maintain({name!r}, every={every!r}): it needs a name and a duration above 0")
        if not callable(work):
            raise TypeError(f"maintain({name!r}): {work!r} has to be a function without arguments")
        from memguard.maintenance import Done  # noqa: PLC0415

        def carry_out(_: Pace) -> Done:
            said = work()
            if hasattr(said, "__await__"):
                getattr(said, "close", bool)()
                raise TypeError(f"{work!r} is a coroutine function: hand in a plain one that has its loop run it")
            told = isinstance(said, str)
            return Done(words=str(said) if told else "done", tell=told, freed_bytes=None)

        upkeep = self._upkeep()
        upkeep.add(name, every_s, carry_out, calm=calm)
        return Handle(name, close=lambda: upkeep.drop(name, carry_out), alive=lambda: upkeep.has(name, carry_out))

    @property
    def maintenance(self) -> tuple[Chore, ...]:
        """Every chore: how often, when next (``due_at``), what it did last, what all of it bought."""
        return () if self._maintenance is None else self._maintenance.chores

    def _upkeep(self) -> Maintenance:
        if self._maintenance is None:
            from memguard.maintenance import BUILTIN, Maintenance, Upkeep  # noqa: PLC0415
            from memguard.settings import schedule  # noqa: PLC0415

            inline = self._clock is not time.monotonic
            made = Maintenance(clock=self._clock, meter=self._sight.meter, tell=self._teller.tell, inline=inline)
            own = Upkeep(self.roster, trim=self._trim, room_bytes=self._sight.room_bytes)
            works = dict(zip(BUILTIN, (own.expire, own.clean, own.census), strict=True))
            for name, every_s in schedule(self.rules.maintain).items():
                if not (inline and name == "census"):  # it looks at this process, which is not the simulated one
                    made.add(name, every_s, works[name])
            kept: Maintenance = vars(self).setdefault("_maintenance", made)
            return kept
        return self._maintenance

    def _maintain(self, snapshot: Snapshot) -> None:
        """On the guard's thread, after each look; a tick goes on whatever comes of it, and this part of it ends."""
        try:
            self._look_for_chores(snapshot)
        except Exception as error:  # noqa: BLE001 - as above
            self._watch.shown = tuple(show for show in self._watch.shown if show != self._maintain)
            text = f"nothing is maintained any more: {type(error).__name__}: {error}"
            self._teller.tell(Event(at=snapshot.at, name="guard.fault", text=text))

    def _look_for_chores(self, snapshot: Snapshot) -> None:
        if self._maintain_at is None:
            self._maintain_at = snapshot.at + _START_S
        if snapshot.at < self._maintain_at or snapshot.reading is None:
            return
        self._maintain_at = snapshot.at + _LOOK_S
        if self._maintenance is None:
            wanted = self.rules.maintain
            if self.rules.mode == "observe" or wanted == "off" or (not len(self.roster) and "census" not in wanted):
                return
            self._upkeep()
        maintenance = self._maintenance
        if maintenance is not None and self.rules.mode == "act":
            pressing = snapshot.level >= Level.WARNING or snapshot.blind or self._watch.busy
            maintenance.look(snapshot.at, running=self._work_done()[1], pressing=pressing)

    def _stop_maintaining(self) -> None:
        self._maintain_at = None
        if self._maintenance is not None:
            self._maintenance.stop()

    def _forget_maintaining(self) -> None:
        """In a forked child: the thread is the parent's."""
        self._maintain_at = None
        if self._maintenance is not None:
            self._maintenance.forget()
