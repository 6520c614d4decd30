"""A team: this worker among others under one limit. What it tells them, whose turn it is, what they have promised."""

from __future__ import annotations

import os

from memguard._core.planner import goal_bytes
from memguard._core.turns import NOT_WAITING, relieved, turn
from memguard.model import Event, Level
from memguard.probes.procfs import TreeProbe
from memguard.units import format_bytes
from memguard.values import replace
from memguard.workers.ledger import SharedLedger, ledger_path, sweep
from memguard.workers.rows import STATES
from memguard.workers.slots import Said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memguard._core.state import State
    from memguard._core.stimuli import Offer
    from memguard.admission import Gate
    from memguard.kinds import WorkerState
    from memguard.model import Holder, Snapshot
    from memguard.rules import Rules
    from memguard.survey import Survey
    from memguard.workers.rows import Worker

__all__ = ["Team"]

# Limits whose usage is the same number for all who share them; the others each process has for itself.
_SHARED = frozenset({"cgroup", "host"})
_CHEAP = frozenset({"free", "cheap"})
# Others come and die; seeing that takes some 15 µs for each.
_LOOK_S = 1.0
# With WARNING near, what is said about oneself must be fresh: who goes first is decided by it. Asking takes 0.1 ms.
_FRESH_S = 0.1
# While another's turn is waited for, holders are asked how much they have so often.
_ASK_S = 0.02
# Nearer to the limit than this, at the fastest growth seen of late, nobody waits for another: at CRITICAL as long as a
# relief takes, below it less, for there is a rung to come.
_NEAR_S = {Level.WARNING: 0.05, Level.CRITICAL: 0.1}
_WAIT_S = 0.5
# Waiting comes again with every few MiB that somebody grows by; it is told so often at most.
_TELL_S = 10.0


class Team:
    """This worker's seat at the ledger of a group; all of it in the guard's thread, except what the gate asks.

    ``busy`` says whether an attempt is under way, ``holders`` asks what could be shed, ``weighs`` whether this
    process's memory is part of what is read.

    Raises:
        OSError, ValueError, WorkersUnavailable: as ``SharedLedger``.
    """

    def __init__(  # noqa: PLR0913 - the wiring, named piece by piece
        self,
        group: str,
        *,
        rules: Rules,
        gate: Gate,
        busy: Callable[[], bool],
        holders: Callable[[], Sequence[Holder]],
        weighs: bool,
        tell: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        self.group: str = group
        self._rules = rules
        self.whose: tuple[int, int] = os.getpid(), os.geteuid()
        self._gate = gate
        self._busy = busy
        self._ask_holders = holders
        self._tell = tell
        self._clock = clock
        self._path = ledger_path(group)
        now = clock()
        sweep(os.path.dirname(self._path))  # noqa: PTH120 - as in folder
        self._ledger = SharedLedger(self._path, now=now)
        can = weighs and os.path.exists("/proc/self/statm")  # noqa: PTH110
        self._statm = TreeProbe(children=lambda: 0) if can else None
        self.state: WorkerState = "serving"
        self._waiting = NOT_WAITING
        self._look_at = self._ask_at = self._fresh_at = 0.0
        self._pressed = False
        self._holders: Sequence[Holder] = ()
        self._yield_bytes = self._used_bytes = self._grown_bytes = 0
        self._last: Snapshot | None = None
        self._tell_at: dict[str, float] = {}
        others = len(self._ledger.others())
        text = f"worker {self._ledger.slot} of group {group!r}: {others} other{'s' * (others != 1)} so far"
        self._event("workers.joined", text, slot=self._ledger.slot, others=others)

    # --- each tick ------------------------------------------------------------------------------------------------

    def note(self, snapshot: Snapshot) -> None:
        """Tell the others how this worker stands, and see about once a second who they are."""
        if snapshot.reading is None:
            return
        self._last = snapshot
        if not self._pressed and not self._busy():
            self._waiting = relieved(self._waiting)
        self._pressed = False
        self._weigh()
        if snapshot.level >= Level.ELEVATED and not self._fresh_at - _FRESH_S <= snapshot.at < self._fresh_at:
            self._fresh_at = snapshot.at + _FRESH_S
            self._yield_bytes = _held_cheaply(self._ask_holders())
        elif snapshot.holders is not self._holders:
            self._holders = snapshot.holders
            self._yield_bytes = _held_cheaply(snapshot.holders)
        self._publish(snapshot)
        if snapshot.at >= self._look_at:
            self._look_at = snapshot.at + _LOOK_S
            self._see(snapshot)

    def _publish(self, snapshot: Snapshot) -> None:
        acts = self._rules.mode == "act"
        said = Said(
            level=int(snapshot.level),
            state=STATES.index(self.state),
            shedding=self._busy(),
            running=snapshot.running,
            beat_at=snapshot.at,
            used_bytes=self._used_bytes,
            yield_bytes=self._yield_bytes if acts else 0,
            refusals=snapshot.refusals,
        )
        self._ledger.publish(said)
        self._ledger.promise(self._gate.promised_bytes)

    def _see(self, snapshot: Snapshot) -> None:
        if self._ledger.gone:  # whoever came since knows nothing of us
            self._ledger.forget()
            self._ledger = SharedLedger(self._path, now=snapshot.at)
            self._publish(snapshot)
        others = self._ledger.look(snapshot.at)
        shared = snapshot.limit is not None and snapshot.limit.usage in _SHARED
        self._gate.peers = self if others and shared else None

    def _weigh(self) -> None:
        """Read this process's resident memory, and by how much it has grown since the last time."""
        if self._statm is not None:
            used = self._statm.read()
        else:
            vitals = None if self._last is None else self._last.vitals
            used = self._used_bytes if vitals is None or vitals.rss_bytes is None else vitals.rss_bytes
        self._grown_bytes += used - self._used_bytes if self._used_bytes else 0
        self._used_bytes = used

    # --- under pressure -------------------------------------------------------------------------------------------

    def may(self, state: State, survey: Survey) -> bool:
        """Whether this worker sheds now; it is never kept from what was asked for by hand, or has been begun.

        Before WARNING calls for anything nobody has anything to lose.
        """
        at, goal = state.at, goal_bytes(state, Level.WARNING, self._rules)
        if state.ask is not None or state.step is not None or state.account is not None:
            return True
        if self._last is None or self._gate.peers is None or goal is None or state.used_bytes <= goal:
            return True
        self._pressed = True
        if at < self._ask_at <= at + _ASK_S:
            return False
        self._yield_bytes = self._cheap(state, survey.offers(at))
        self._publish(replace(self._last, at=at, level=state.stand.level))
        decided = turn(
            self._ledger.own(),
            self._ledger.others(),
            self._waiting,
            at=at,
            patience_s=self._patience_s(state),
            least_bytes=self._rules.ask_min_bytes,
        )
        if decided.waits_for is not None and self._waiting.began_at is None:
            self._say(decided.waits_for, "workers.waited", "leaves it to worker {pid} to shed first: it could {bytes}")
        if decided.passed is not None:
            self._say(decided.passed, "workers.passed", "worker {pid} could shed {bytes} and has not: goes ahead of it")
        self._waiting = decided.waiting
        self._ask_at = 0.0 if decided.go else at + _ASK_S
        return decided.go

    def _cheap(self, state: State, offers: Iterable[Offer]) -> int:
        """What could be shed now without much harm, with what has proved useless of late left out."""
        least = self._rules.ask_min_bytes
        return sum(
            offer.size_bytes
            for offer in offers
            if offer.cost in _CHEAP
            and offer.size_bytes
            and not offer.settles
            and offer.at <= Level.WARNING
            and not state.patience_of(offer.name).blocks(state.at, offer.size_bytes, least)
        )

    def _patience_s(self, state: State) -> float:
        """How long the limit leaves time to wait for others: none close to it."""
        near_s = _NEAR_S.get(state.stand.level)
        if near_s is None or state.blind or state.limit_bytes is None:
            return 0.0
        headroom = max(0, state.limit_bytes - state.used_bytes)
        return 0.0 if headroom < state.growth.burst * near_s else _WAIT_S

    # --- for the gate ---------------------------------------------------------------------------------------------

    def promise(self, total_bytes: int) -> None:
        """Let the others know how much is promised here, at once; from any thread."""
        self._ledger.promise(total_bytes)

    @property
    def promised_elsewhere(self) -> int:
        """Bytes that the others have promised; from any thread."""
        return self._ledger.promised_elsewhere

    def grown(self, growth_bytes: int) -> int:
        """By how much this worker has grown since it was last asked; the limit's usage grows by the others', too."""
        if self._gate.peers is None or self._statm is None:
            self._grown_bytes = 0
            return growth_bytes
        self._weigh()
        grown, self._grown_bytes = self._grown_bytes, 0
        return grown

    def own_view(self, snapshot: Snapshot) -> Snapshot:
        """The same with this worker's own memory as the reading: what its requests hold is learned from that."""
        reading = snapshot.reading
        if reading is None or self._statm is None:
            return snapshot
        own = replace(reading, used_bytes=self._used_bytes, source=self._statm.source)
        return replace(snapshot, reading=own)

    # --- looking and leaving --------------------------------------------------------------------------------------

    def rows(self) -> tuple[Worker, ...]:
        """Every worker of the group, this one first; from any thread."""
        try:
            return (self._ledger.own(), *self._ledger.others())
        except ValueError:  # closed meanwhile
            return ()

    def mark(self, state: WorkerState) -> None:
        """Say from the next look on that this worker is leaving, or serves again."""
        self.state = state

    def leave(self) -> None:
        """Give the seat back."""
        self._gate.peers = None
        self._ledger.close(now=self._clock())
        self._end()

    def forget(self) -> None:
        """In a forked child: the seat is the parent's."""
        self._gate.peers = None
        self._ledger.forget()
        self._end()

    def _end(self) -> None:
        if self._statm is not None:
            self._statm.close()

    def _say(self, slot: int, name: str, words: str) -> None:
        other = next((other for other in self._ledger.others() if other.slot == slot), None)
        now = self._clock()
        if other is None or now < self._tell_at.get(name, 0.0) <= now + _TELL_S:
            return
        self._tell_at[name] = now + _TELL_S
        self._event(name, words.format(pid=other.pid, bytes=format_bytes(other.yield_bytes)), pid=other.pid)

    def _event(self, name: str, text: str, **attributes: str | float) -> None:
        self._tell(Event(at=self._clock(), name=name, text=text, attributes=attributes))


def _held_cheaply(holders: Iterable[Holder]) -> int:
    """As ``Team._cheap``, from the rows of the last slow look; the parts that follow a whole are in it already."""
    total, whole = 0, "/"
    for holder in holders:
        if holder.name.startswith(whole):
            continue
        whole = f"{holder.name}/"
        if holder.cost in _CHEAP and holder.at <= Level.WARNING and not holder.blocked_s:
            total += holder.size_bytes or 0
    return total
