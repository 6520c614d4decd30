"""The guard: what a service creates. It wires the world to the machine, and owns the thread and its life."""

from __future__ import annotations

import os
import time
import weakref
from contextlib import suppress

from memguard import beat, lifetime
from memguard import roster as rosters
from memguard._core.stimuli import Asked, Relieved
from memguard.admission import Gate
from memguard.attempts import Attempts, measured
from memguard.cooperating import Cooperating
from memguard.errors import AlreadyGuarding, MemguardError
from memguard.examining import Examining
from memguard.fusing import Fusing
from memguard.handing import Handing
from memguard.holding import Holding
from memguard.judging import Judging
from memguard.maintaining import Maintaining
from memguard.model import Event, Level
from memguard.reclaimers.collect import Collect, GcWatch
from memguard.reclaimers.gc_pressure import default_policies
from memguard.reclaimers.trim import Trim
from memguard.recording import Recording
from memguard.rules import Rules
from memguard.sight import Sight, limits_from
from memguard.sinks.log import LogSink
from memguard.telling import Teller
from memguard.threads import Bell, Running, new_lock, start_thread
from memguard.watch import COLLECT, Watch
from memguard.working import Working

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from memguard._core.record import Record
    from memguard.model import Holder, Incident, Limit, Relief, Snapshot
    from memguard.ports import Clock, GcDecider, LimitSource, Probe, Sink
    from memguard.roster import Handle, Roster

__all__ = ["Guard"]

# A stop waits so long for the guard's threads and slow sinks; they are daemons and may be left behind.
_STOP_S = 2.0
# After a fault inside a tick, which should not happen, the next one waits a little.
_FAULT_S = 0.25
# A relief by hand is given this long; the incident that is returned then is still open.
_ASK_S = 60.0


class Guard(Holding, Working, Fusing, Judging, Cooperating, Handing, Recording, Examining, Maintaining):
    """Keeps this process and its children inside their memory limit.

    Creating one finds the limit, reads the environment and starts nothing. ``start()`` (or ``with guard:``) runs the
    background thread; ``stop()`` puts back everything that was changed. After a fork the child's guard starts anew
    when the parent's ran.

    Args:
        rules: the configuration; environment variables and ``overrides`` win over it.
        limit: ``"auto"``, an amount ("512MiB" or bytes), a ``Limit``, a limit source, or None to only observe.
        sinks: callables that are told every ``Event``, beside the log (logger ``memguard``).
        roster: whose holders are shed; by default the process's own, where decorators sign up.
        probe: reads used bytes instead of what fits the limit.
        clock: monotonic seconds; by default the system's.
        overrides: fields of ``Rules``.

    Raises:
        RulesError: a setting that cannot hold, with its name, value, source and the mend.
    """

    def __init__(  # noqa: PLR0913 - the front door; every argument has a default
        self,
        rules: Rules | None = None,
        *,
        limit: str | int | Limit | LimitSource | None = "auto",
        sinks: Sequence[Sink] = (),
        roster: Roster | None = None,
        probe: Probe | None = None,
        clock: Clock | None = None,
        **overrides: object,
    ) -> None:
        self.rules: Rules = Rules.resolve(os.environ, overrides, base=rules)
        self.roster: Roster = rosters.DEFAULT if roster is None else roster
        self._clock = time.monotonic if clock is None else beat.forward_only(clock)
        self._teller = Teller((LogSink(json=self.rules.log_json), *sinks), inline=clock is not None)
        self._gc_watch = GcWatch(clock=self._clock)
        self.gate: Gate = Gate(rules=self.rules, clock=self._clock)
        source = limits_from(limit, self.rules, probed=probe is not None)
        self._sight = Sight(rules=self.rules, source=source, probe=probe, tell=self._teller.tell)
        self._bell = Bell()
        notify = lambda: self._bell.ring()  # noqa: E731, PLW0108 - each start brings a new bell
        self._attempts = Attempts(meter=self._sight.meter, clock=self._clock, inline=clock is not None, notify=notify)
        self._trim, self._collect = self._settlers()
        self._fuse = self._fused(own_probe=probe is not None)
        self._watch = Watch(
            rules=self.rules,
            roster=self.roster,
            builtin=(self._trim, self._collect),
            sight=self._sight,
            gate=self.gate,
            attempts=self._attempts,
            clock=self._clock,
            tell=self._teller.tell,
            gc_stats=self._gc_watch.stats,
            freed=self._gc_watch.note_freed,
            fuse=self._fuse,
        )
        self._watch.tended = self._keep_evidence
        self._watch.shown = (self._alarm, self._mingle, self._maintain)
        self._introduce(sinks)
        self._expect_suspicion()
        self._expect_pressure()
        self._policies: tuple[GcDecider, ...] = ()
        self._thread: Running | None = None
        self._stopping = False
        self._lock, self._hand_lock = new_lock(), new_lock()
        self._sight.find(self._clock())

    def _settlers(self) -> tuple[Trim, Collect]:
        return Trim(), Collect()

    gives_way: bool = False
    """Whether another guard that starts on the same roster stops this one instead of being refused."""

    # --- life ---------------------------------------------------------------------------------------------------

    def start(self) -> Guard:
        """Start the background thread; the guard itself, for chaining.

        Raises:
            AlreadyGuarding: it runs already, or another guard works through the same roster.
        """
        with self._lock:
            if self._thread is not None:
                raise AlreadyGuarding(
                    "this guard runs already, or is just being stopped: start() once, or use one `with guard:` block"
                )
            owner = self.roster.owner() if self.roster.owner is not None else None
            if isinstance(owner, Guard) and owner is not self and owner.gives_way:
                owner.stop()
            elif owner is not None and owner is not self:
                raise AlreadyGuarding(
                    "another guard works through the same roster: stop() it first, or give each its own "
                    "(Guard(roster=memguard.Roster()))"
                )
            self.roster.owner = weakref.ref(self)
            try:
                self._begin()
            except BaseException:  # no thread to be had, a GC policy that raises
                self._put_back()
                self._teller.stop(_STOP_S)
                self._watch.reset()
                raise
        return self

    def _begin(self) -> None:
        self._bell = bell = Bell()
        self._attempts.inline = self._teller.inline = False
        self._teller.start()
        self._sight.find(self._clock(), anew=True)
        self._watch.glance()
        self._gc_watch.start()
        self._watch.enforce(self._policies or default_policies(self.rules))
        self._bound_caches(on=True)
        self._inherit()
        lifetime.enrol(self)
        self._tell("guard.started", f"guarding with mode {self.rules.mode!r}")
        self._thread = start_thread(lambda: self._run(bell), "memguard")
        if self._fuse is not None:  # after our threads: one that cannot get memory never says that it has started
            self._fuse.arm()
        bell.ring()  # not before: whoever it calls may ask for the thread

    def _run(self, bell: Bell) -> None:
        sleep_s = _STOP_S
        while True:
            if bell.wait(sleep_s):
                self._watch.rung()
            if self._bell is not bell:  # stopped, perhaps started anew since
                break
            try:
                beat.NOW = self._clock() if self._clock is time.monotonic else beat.NEVER
                sleep_s = self._watch.tick()
            except BaseException as error:  # noqa: BLE001 - whatever happens, the thread goes on
                sleep_s, beat.NOW = _FAULT_S, beat.NEVER
                with suppress(MemoryError):  # not even room for the words
                    self._tell("guard.fault", f"a tick failed: {type(error).__name__}: {error}")
        beat.NOW = beat.NEVER  # another guard's next look sets it again
        if self._thread is None:  # it was stopped from inside a tick
            self._watch.reset()

    def tick(self) -> float:
        """Look, decide and act once, now, in this thread; how many seconds until the next look is due.

        For hosts that bring their own loop, and for simulations. A started guard does this by itself.
        """
        self._teller.start()
        return self._watch.tick()

    def stop(self) -> None:
        """Stop the thread and put back everything that was changed; twice is fine, its own threads may call it."""
        with self._lock:
            thread, bell = self._thread, self._bell
            if self._stopping:  # somebody else is at it
                return
            self._stopping = True
            self._bell = Bell()
        bell.ring()
        try:
            if thread is not None:
                ended = thread.join(_STOP_S)
                self._attempts.stop(_STOP_S if ended else 0.0)
                self._put_back()
                self._tell("guard.stopped", "the guard has stopped")
            self._part()
            self._teller.stop(_STOP_S)
            self._sight.close()
            self._watch.reset()
        finally:
            self._thread, self._stopping = None, False

    def _put_back(self) -> None:
        if self._fuse is not None:
            self._fuse.disarm()
        self._watch.enforce(())
        self._stop_examining()
        self._stop_maintaining()
        self._gc_watch.stop()
        self._bound_caches(on=False)
        lifetime.leave(self)
        if self.roster.owner is not None and self.roster.owner() is self:
            self.roster.owner = None

    def after_fork(self) -> None:
        """In the child: threads are gone, locks may be held for ever, /proc/self is the parent's."""
        if self._fuse is not None:
            self._fuse.forget()
        beat.NOW = beat.NEVER
        self._lock, self._hand_lock = new_lock(), new_lock()
        self._thread, self._stopping = None, False
        self._teller.forget()
        self.roster.forget()
        self.gate.forget()
        self._forget_work()
        self._forget_evidence()
        self._forget_examinations()
        self._forget_records()
        self._forget_handing()
        self._forget_maintaining()
        self._part(forked=True)
        self._attempts.forget()
        self._watch.reset()
        self._begin()

    @property
    def running(self) -> bool:
        """Whether the background thread runs."""
        return self._thread is not None and not self._stopping

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.stop()

    # --- looking ------------------------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """What the guard knew at its last look; never blocks, never reads anything."""
        return self._watch.snapshot

    @property
    def level(self) -> Level:
        """The present level."""
        return self._watch.snapshot.level

    @property
    def pressure(self) -> float:
        """The present pressure: used ÷ limit, which may exceed 1."""
        return self._watch.snapshot.pressure

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Every limit that is watched, each with its source."""
        return self._sight.limits

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """The last 32 incidents that are over, oldest first."""
        return tuple(self._watch.incidents)

    @property
    def record(self) -> Record | None:
        """The last or present incident as it can be replayed."""
        return self._watch.record

    def holders(self) -> tuple[Holder, ...]:
        """Who could give memory back: bytes, share, and what their reliefs really bought."""
        return self._watch.holders()

    def explain(self) -> str:
        """The limits and where they came from, every rule and where its value came from, who holds what."""
        from memguard.explaining import explained  # noqa: PLC0415 - as in cache()

        budgets = vars(self).get("_budgets")
        way = self._handovers().words
        return explained(
            self.limits, self._sight.notes, self.rules, self.holders(), budgets, handover=way, workers=self.workers,
            chores=self.maintenance, now=self._clock(),
        )  # fmt: skip

    # --- holders ------------------------------------------------------------------------------------------------

    def gc_policy(self, policy: GcDecider) -> Handle:
        """Let this policy decide when collections are due, beside others registered so; the defaults leave."""
        self._policies = (*self._policies, policy)

        def close() -> None:
            self._policies = tuple(known for known in self._policies if known is not policy)
            if self.running:
                self._watch.enforce(self._policies or default_policies(self.rules))

        if self.running:
            self._watch.enforce(self._policies)
        return rosters.Handle(repr(policy), close=close, alive=lambda: policy in self._policies)

    # --- acting -------------------------------------------------------------------------------------------------

    def relieve(self, target: Level | float | str | None = None, *, reason: str = "asked") -> Incident:
        """Run the ladder now, by hand, until memory is down to ``target``; the incident, with every relief measured.

        ``target`` is a ``Level`` (down to where it is left), a share of the limit (0.0 to 1.0), bytes (an int or text),
        or None for the release level of the lowest rung.

        Raises:
            RulesError: a target that can't be meant, or one relative to a limit when nothing limits.
            MemguardError: called from the guard's own thread, which would wait for itself.
        """
        asked = Asked(at=self._clock(), target_bytes=self._sight.target_bytes(target, self._clock()), reason=reason)
        thread = self._thread
        if thread is None:
            return self._relieve_inline(asked)
        if thread.own:
            raise MemguardError("relieve() cannot be called on the guard's own thread: call it from any other")
        done = self._watch.ask(asked)
        self._bell.ring()
        done.wait(_ASK_S)
        return self._watch.last_incident

    def _relieve_inline(self, asked: Asked) -> Incident:
        if not self._hand_lock.acquire(timeout=_ASK_S):
            raise MemguardError("another relieve() is under way: wait for it, or start() the guard")
        own_loop, inline = self.snapshot.reading is not None, self._attempts.inline
        self._attempts.inline = True
        try:
            return self._watch.relieve(asked)
        finally:
            self._attempts.inline = inline
            if not own_loop:
                self._watch.reset()
            self._hand_lock.release()

    def collect(self, generation: int = 2) -> Relief:
        """Run a garbage collection now, in this thread, and measure what it bought."""
        return self._by_hand(COLLECT, lambda: self._collect.run(generation))

    def trim(self) -> Relief:
        """Return freed memory to the kernel now, in this thread, and measure what that bought."""
        return self._by_hand(self._trim.name, lambda: self._trim.reclaim(0))

    def measure(self, name: str, work: Callable[[], int | None]) -> Relief:
        """Do something now, in this thread, and measure what memory that gave back; what it raised is in ``error``."""
        self._sight.find(self._clock())
        return measured(work, name=name, wanted_bytes=0, look=self._sight.meter(), clock=self._clock)

    def _by_hand(self, name: str, work: Callable[[], int | None]) -> Relief:
        relief = self.measure(name, work)
        if self._thread is not None:
            self._watch.post(Relieved(at=relief.at, relief=relief))
        return relief

    def _tell(self, name: str, text: str) -> None:
        self._teller.tell(Event(at=self._clock(), name=name, text=text))

    def __repr__(self) -> str:
        state = self.snapshot
        return f"<Guard {'running' if self.running else 'stopped'} {state.level.name} pressure={state.pressure:.2f}>"
