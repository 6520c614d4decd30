"""The watch: reads, feeds the machine, carries out what it decides, swaps the snapshot. It owns no thread."""

from __future__ import annotations

from collections import deque

from memguard._core.forecast import time_to_limit_s
from memguard._core.machine import advance
from memguard._core.state import State
from memguard._core.stimuli import (
    Asked,
    Attempt,
    Due,
    Failed,
    HandOver,
    Overdue,
    Refused,
    Relieved,
    Starved,
    Surveyed,
)
from memguard.attempts import measured
from memguard.model import Event, Incident, Level, Reading, Snapshot
from memguard.survey import Survey
from memguard.threads import Bell
from memguard.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memguard._core.record import Record
    from memguard._core.state import Decision
    from memguard._core.stimuli import Step, Stimulus
    from memguard.admission import Gate
    from memguard.attempts import Attempts
    from memguard.fuse.rolling import Fuse
    from memguard.model import GcStats, Holder, Relief, Vitals
    from memguard.ports import Clock, GcDecider, Reclaimer
    from memguard.roster import Roster
    from memguard.rules import Rules
    from memguard.sight import Sight
    from memguard.team import Team

__all__ = ["COLLECT", "Watch"]

COLLECT = "collect"
"""The name of the reclaimer that runs a collection; GC policies speak of it."""

TRIM = "trim"
"""The name of the reclaimer that hands freed memory back to the kernel."""

# Waking so much later than planned is told: pure Python delays a thread by 7 to 20 ms, a saturated loop by 40.
_STARVED_S = 0.1
# Attempts that end at once (inline) are followed by others in the same tick, up to so many.
_ROUNDS = 64
# Between two questions to the GC policies while all is well; under pressure they are asked on every tick.
_POLICY_S = 0.25
_INCIDENTS_KEPT = 32
# Refusals are told at once, and then summed up: a closed gate refuses hundreds a second.
_REFUSALS_S = 1.0
# Texts that are told once; one with a number in it could be new each time.
_TOLD_AT_MOST = 100
# A reclaimer that took longer last time gets a thread of its own, so that looking goes on meanwhile.
_PROMPT_S = 0.05


class Watch:
    """One loop's worth of state. ``tick`` is called by one thread at a time; ``snapshot`` is read by all."""

    def __init__(  # noqa: PLR0913 - the wiring, named piece by piece
        self,
        *,
        rules: Rules,
        roster: Roster,
        builtin: Sequence[Reclaimer],
        sight: Sight,
        gate: Gate,
        attempts: Attempts,
        clock: Clock,
        tell: Callable[[Event], None],
        gc_stats: Callable[[], GcStats],
        freed: Callable[[int], None],
        fuse: Fuse | None = None,
    ) -> None:
        self._rules = rules
        self._survey = Survey(roster=roster, builtin=builtin, fault=self._fault)
        self._sight = sight
        self._gate = gate
        self._attempts = attempts
        self._clock = clock
        self._tell = tell
        self._gc_stats = gc_stats
        self._freed = freed
        self._fuse = fuse
        self._inbox: deque[Stimulus] = deque()
        self._askers: deque[Bell] = deque()
        self._state = State()
        self._sleep_s = rules.pace_max_s
        self._wake_at: float | None = None
        self._slow_at = self._find_at = self._policy_at = self._refused_at = self._trip_at = 0.0
        self._anew, self._refusals_told = False, 0
        self._vitals: Vitals | None = None
        self._holders: tuple[Holder, ...] = ()
        self.policies: tuple[GcDecider, ...] = ()
        self.shown: tuple[Callable[[Snapshot], None], ...] = ()
        self.heard: tuple[Callable[[Relief], object], ...] = (self._survey.claimed,)
        self.tended: Callable[[float, Sequence[Holder]], None] | None = None
        self.handing: Callable[[HandOver], object] = lambda _: None
        self.incidents: deque[Incident] = deque(maxlen=_INCIDENTS_KEPT)
        self.record: Record | None = None
        self._told: set[str] = set()
        self.team: Team | None = None
        self.snapshot: Snapshot
        self._show(self._blank())

    def _blank(self) -> Snapshot:
        return Snapshot(at=self._clock(), reading=None, limit=None, pressure=0.0, level=Level.OK, forecast=None)

    def glance(self) -> None:
        """Read once and judge nothing, so that work which asks at once is weighed against what is used already."""
        try:
            look = self._sight.look(self._clock())
        except Exception:  # noqa: BLE001 - the first tick meets it again, and tells
            return
        blank, limit = self._blank(), self._sight.binding
        reading = Reading(at=blank.at, used_bytes=look.used_bytes, source=look.source)
        pressure = 0.0 if limit is None else look.used_bytes / limit.bytes
        self._show(replace(blank, reading=reading, limit=limit, pressure=pressure))

    def reset(self) -> None:
        """Forget what was judged: after a stop nothing is refused on the word of an old reading."""
        if self._state.incident is not None:
            self.incidents.append(replace(self._state.incident, verdict="not over: the guard was stopped"))
        self._state = State(patience=self._state.patience)
        self._wake_at = None
        self._slow_at = self._find_at = self._policy_at = self._refused_at = self._trip_at = 0.0
        self._inbox.clear()
        while self._askers:
            self._askers.popleft().ring()
        self._show(self._blank())

    def ask(self, asked: Asked) -> Bell:
        """Hand in a relief by hand; the bell rings when it is done."""
        done = Bell()
        self._askers.append(done)
        self._inbox.append(asked)
        return done

    @property
    def last_incident(self) -> Incident:
        """The incident under way, or else the last one; an empty one before the first."""
        last = self.incidents[-1] if self.incidents else None
        return self._state.incident or last or Incident(opened_at=self._clock(), verdict="nothing was done")

    def relieve(self, asked: Asked) -> Incident:
        """Work a relief by hand off, here and now; attempts have to be inline."""
        self.tick()
        self.ask(asked)
        for _ in range(_ROUNDS):
            self.tick()
            if not self.busy:
                break
        return self.last_incident

    def post(self, stimulus: Stimulus) -> None:
        """Hand a stimulus in from any thread; the next tick takes it."""
        self._inbox.append(stimulus)

    @property
    def busy(self) -> bool:
        """Whether a relief that was asked for by hand is under way."""
        state = self._state
        return bool(self._inbox) or state.ask is not None or state.step is not None or state.account is not None

    def tick(self) -> float:
        """Look once, decide, act; how many seconds to sleep now."""
        if self._fuse is not None:
            self._fuse.lift()  # first of all: what follows may need memory
        now = self._clock()
        if self._wake_at is not None and now - self._wake_at > _STARVED_S:
            self._feed(Starved(at=now, gap_s=now - self._wake_at, running=self._gate.labels()))
        if now >= self._slow_at:
            self._slow(now)
        self._look(now)
        gate = self._gate
        if (gate.short_bytes or gate.refusals != self._refusals_told) and now >= self._refused_at:
            told, self._refusals_told, self._refused_at = self._refusals_told, gate.refusals, now + _REFUSALS_S
            short_bytes, gate.short_bytes = gate.short_bytes, 0
            self._feed(Refused(at=now, count=self._refusals_told - told, short_bytes=short_bytes))
        while self._inbox:
            self._feed(self._inbox.popleft())
        self._finish_attempts()
        if self.policies and (now >= self._policy_at or self._state.stand.level):
            self._ask_policies(now)
        self._publish()
        if self._fuse is not None:
            self._roll(self._fuse, now)
        while self._askers and not self.busy:
            self._askers.popleft().ring()
        sleep_s = min(self._sleep_s, self._gate.pace_s)
        self._wake_at = self._clock() + sleep_s
        return sleep_s

    def _roll(self, fuse: Fuse, now: float) -> None:
        """Set the fuse to what fits now; after a trip, see first that what the failed work held comes back."""
        if fuse.tripped and now >= self._trip_at:
            self._trip_at = now + _POLICY_S
            fuse.tell_trip()
            self._feed(Due(at=now, name=COLLECT, generation=2))
            self._finish_attempts()
            trim = self._survey.find(TRIM)
            if trim is not None and self._state.step is None:
                meter, clock = self._sight.meter(), self._clock
                self.relieved(measured(lambda: trim.reclaim(0), name=TRIM, wanted_bytes=0, look=meter, clock=clock))
            limit_bytes = self._state.limit_bytes
            if limit_bytes is not None and self._state.ask is None:
                # Caches yield to work, down to where no rung sheds: or the same work would be refused for ever.
                target_bytes = int(self._rules.leave_ratio(Level.ELEVATED) * limit_bytes)
                self._feed(Asked(at=now, target_bytes=target_bytes, reason="work met the fuse"))
        fuse.roll()

    def rung(self) -> None:
        """Somebody woke the watch before its time: that is no starvation."""
        self._wake_at = None

    def _look(self, now: float) -> None:
        self._gate.mark()
        try:
            look = self._sight.look(now)
        except Exception as error:  # noqa: BLE001 - a probe may be anybody's
            self._anew = True  # a descriptor may be gone: open them again at the next slow look
            self._feed(Failed(at=now, error=f"{type(error).__name__}: {error}"))
            return
        state = self._state
        grown = look.used_bytes - state.used_bytes if look.source == state.growth.source else 0
        self._gate.seen(grown if self.team is None else self.team.grown(grown))
        self._feed(look)

    def _feed(self, first: Stimulus) -> None:
        """Advance the machine by a stimulus and by the surveys it asks for."""
        stimulus: Stimulus | None = first
        while stimulus is not None:
            before = self._state
            decision = advance(before, stimulus, self._rules)
            self._state, self._sleep_s = decision.state, decision.sleep_s
            if before.incident is not None or decision.state.incident is not None or decision.closed is not None:
                self._take_down(before, stimulus, decision)
            for event in decision.events:
                self._tell(event)
            stimulus = None
            for action in decision.actions:
                if isinstance(action, Attempt):
                    self._begin(action.step)
                elif isinstance(action, HandOver):
                    self.handing(action)
                elif self.team is None or self.team.may(self._state, self._survey):
                    stimulus = Surveyed(at=self._clock(), offers=self._survey.offers(self._state.at))

    def _take_down(self, before: State, stimulus: Stimulus, decision: Decision) -> None:
        if before.incident is None or self.record is None:
            from memguard._core.record import Record  # noqa: PLC0415 - memory that a calm service need not pay for

            self.record = Record(state=before)
        self.record.add(stimulus)
        if decision.closed is not None:
            self.incidents.append(decision.closed)

    def _begin(self, step: Step) -> None:
        reclaimer = self._survey.find(step.name)
        prompt = getattr(reclaimer, "prompt", False) and self._state.patience_of(step.name).cost_s < _PROMPT_S
        self._publish()  # requests see the level before the attempt, however long it takes
        generation, run = step.generation, getattr(reclaimer, "run", None)
        if reclaimer is None:
            self._attempts.begin(step, lambda: 0)  # it signed off since the survey: an attempt that buys nothing
        elif generation is not None and run is not None:
            self._attempts.begin(step, lambda: run(generation), prompt=prompt)
        else:
            self._attempts.begin(
                step,
                lambda: reclaimer.reclaim(step.wanted_bytes),
                prompt=prompt,
                refilled=lambda: getattr(reclaimer, "refilled_bytes", None),
            )

    def _finish_attempts(self) -> None:
        step = self._attempts.overdue(self._clock())
        if step is None and self._state.step is not None and self._attempts.step is None and not self._attempts.ended:
            step = self._state.step  # nobody carries it out: lost in a fault
        if step is not None:
            self._feed(Overdue(at=self._clock(), name=step.name))
        for _ in range(_ROUNDS):
            if not self._attempts.ended:
                break
            self.relieved(self._attempts.ended.popleft())

    def relieved(self, relief: Relief) -> None:
        """Take in a measured relief."""
        if relief.name == COLLECT and not relief.error:
            self._freed(relief.bought_bytes)
        for hear in self.heard:
            hear(relief)
        self._feed(Relieved(at=relief.at, relief=relief))

    def enforce(self, policies: tuple[GcDecider, ...]) -> None:
        """Bring these GC policies into force and end those that were."""
        old, self.policies = self.policies, policies
        for edge, changed, others in (("stop", old, policies), ("start", policies, old)):
            for policy in changed:
                if policy not in others and hasattr(policy, edge):
                    self._bracket(policy, edge)

    def _bracket(self, policy: GcDecider, edge: str) -> None:
        try:
            getattr(policy, edge)()
        except Exception as error:  # noqa: BLE001 - a policy may be anybody's, and the others have to be stopped too
            text = f"GC policy {policy!r} failed to {edge}: {type(error).__name__}: {error}"
            self._tell(Event(at=self._clock(), name="guard.fault", text=text))

    def _ask_policies(self, now: float) -> None:
        self._policy_at = now + _POLICY_S
        stats = self._gc_stats()
        for policy in self.policies:
            try:
                generation = policy.due(self.snapshot, stats)
            except Exception as error:  # noqa: BLE001 - a policy may be anybody's
                self._fault(now, f"GC policy {policy!r} failed: {type(error).__name__}: {error}")
                continue
            if generation is not None:
                self._feed(Due(at=now, name=COLLECT, generation=generation))
                self._finish_attempts()

    def _slow(self, now: float) -> None:
        self._slow_at = now + self._rules.slow_s
        try:
            search = now >= self._find_at or self._anew
            if search:
                self._find_at = now + self._rules.limit_refresh_s
                self._sight.find(now, anew=self._anew)
                self._anew = False
            self._sight.refresh(now)
            # A dozen files, which cost more than the ticks of a second: while all is well, only as often as a search.
            if search or self._state.stand.level:
                self._vitals = self._sight.vitals(now)
        except Exception as error:  # noqa: BLE001 - a limit source may be anybody's; what was known still holds
            self._fault(now, f"the slow look failed: {type(error).__name__}: {error}")
        self._survey.tend(self._state)
        if self._fuse is not None:
            self._fuse.tend()
        if self._state.step is None and self._state.account is None and (over := self._survey.over_budget(now)):
            self._feed(Surveyed(at=now, offers=over))
        self._holders = self.holders()
        if self.tended is not None:
            try:
                self.tended(now, self._holders)
            except Exception as error:  # noqa: BLE001 - a trend is worth no look
                self._fault(now, f"judging growth failed: {type(error).__name__}: {error}")

    def holders(self) -> tuple[Holder, ...]:
        """Everybody who could give memory back, with what their reliefs really bought."""
        return self._survey.holders(self._state)

    def _publish(self) -> None:
        state, limit = self._state, self._sight.binding
        snapshot = Snapshot(
            at=state.at,
            reading=self._reading(state),
            limit=limit,
            pressure=state.pressure,
            level=state.stand.level,
            forecast=time_to_limit_s(state.growth, state.limit_bytes),
            blind=state.blind,
            holders=self._holders,
            running=self._gate.running,
            promised_bytes=self._gate.promised_bytes,
            refusals=self._gate.refusals,
            incident=state.incident,
            vitals=self._vitals,
        )
        self._show(snapshot)

    def _show(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._gate.show(snapshot)
        for show in self.shown:
            show(snapshot)
        if self._gate.fault:
            self._fault(snapshot.at, self._gate.fault)

    def _reading(self, state: State) -> Reading | None:
        if not state.growth.source:
            return None  # nothing has been read yet
        at = state.at if state.sight_at is None else state.sight_at
        return Reading(at=at, used_bytes=state.used_bytes, source=state.growth.source)

    def _fault(self, at: float, text: str) -> None:
        """Tell of a failure inside the guard, once in these words."""
        if text not in self._told and len(self._told) < _TOLD_AT_MOST:
            self._told.add(text)
            self._tell(Event(at=at, name="guard.fault", text=text))
