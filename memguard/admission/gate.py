"""The gate: work is admitted while its memory fits, and refused before the limit and not after.

A request decides from the last snapshot and the ledger of promises; it never looks itself.
"""

from __future__ import annotations

from collections import deque

from memguard._core.ledger import Ledger
from memguard.admission.refusing import refused
from memguard.admission.tickets import BudgetTicket, Ticket
from memguard.model import Level
from memguard.threads import new_lock, on_event_loop
from memguard.units import parse_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard._core.costs import Route
    from memguard._core.shares import Shares
    from memguard.admission.lessons import Lessons
    from memguard.admission.tickets import Peers, Purse
    from memguard.admission.waiting import WaitingRoom
    from memguard.errors import AdmissionRefused
    from memguard.kinds import Priority
    from memguard.model import Snapshot
    from memguard.ports import Clock
    from memguard.rules import Rules

__all__ = ["Gate"]

# Python 3.11 finds an enum's member by a call of its own, four times the price of the comparison.
_WARNING = Level.WARNING
# Who ran while the guard could not is looked for among so many that ended last.
_CLOSED_KEPT = 16
# So many requests may begin between two looks: with less room than that, each is asked for its bytes.
_BURST = 64
# Learned promises are estimates: with them the ceiling is lower by this share of the limit.
_SLIP_RATIO = 0.01
# A promise that can't be given back in so long is given back at the next look.
_SETTLE_S = 0.05
# So many blurred looks are passed over before one is taken all the same.
_BLURRED = 4
# While memory moves and a route is not known yet, looks come at least so often: a request may last no longer.
_CURIOUS_S = 0.02
_NEVER_S = 86400.0
# Promises are looked through for such as have lapsed so often.
_LAPSE_S = 1.0


class Gate:
    """Admits or refuses by level and by bytes: used + promised + wanted must stay under a rung.

    Which rung is a matter of priority: sheddable work WARNING, normal work CRITICAL, critical work EMERGENCY. The first
    two are refused altogether at their rung; critical work only when its bytes do not fit.
    """

    def __init__(self, *, rules: Rules, clock: Clock) -> None:
        self._rules = rules
        self._act = rules.mode == "act"
        self._bounds: dict[Priority, tuple[float, Level | None, float]] = {
            "critical": (rules.emergency_ratio, None, 0.0),
            "normal": (rules.critical_ratio, Level.CRITICAL, rules.leave_ratio(Level.CRITICAL)),
            "sheddable": (rules.warning_ratio, Level.WARNING, rules.leave_ratio(Level.WARNING)),
        }
        self.clock = clock
        self.open: dict[Ticket, None] = {}
        self.closed: deque[tuple[str, ...]] = deque(maxlen=_CLOSED_KEPT)
        self._ledger = Ledger()
        self._lock = new_lock()
        self._marked: list[Ticket] | None = None
        self._unsettled: deque[Ticket] = deque()
        self._room: WaitingRoom | None = None
        self._shares: Shares | None = None
        self._lapse_at, self._blurred = 0.0, 0
        self.lessons: Lessons | None = None
        """What has been learned of routes; None until somebody wants to know."""
        self.short_bytes: int = 0  # by how much room was short at the most, since the watch took note
        self.refusals: int = 0
        self.completed: int = 0
        """How many tickets were closed; one may be missing where threads met."""
        self._snapshot: Snapshot
        self.narrow: bool = False
        """Whether work without stated bytes has to pass ``enter`` too: from WARNING on, or when room is short."""
        self.leaving: str = ""
        """While a fresh process takes over: "closing", answers end their connections, then "refusing", no new work."""
        self.fault: str = ""
        """What went wrong in the guard's own part of the work, for the guard to tell."""
        self.pace_s: float = _NEVER_S
        """The longest sleep between looks that learning asks for."""
        self.peers: Peers | None = None
        """Other workers under the same limit, whose promises count here, too."""
        self.on_refusal: Callable[[str, AdmissionRefused], object] | None = None
        """Is told of each refusal in the request's own context, to mark its span; must not raise."""

    def learn(self) -> Lessons:
        """Learn what routes hold from now on, and predict by it; the lessons. Twice is fine."""
        if self.lessons is None:
            from memguard._core.shares import Shares  # noqa: PLC0415 - memory that a guard alone need not pay for
            from memguard.admission.lessons import Lessons  # noqa: PLC0415 - as above

            self._shares = Shares()
            self.lessons = Lessons()
        return self.lessons

    # --- the guard's thread ---------------------------------------------------------------------------------------

    def show(self, snapshot: Snapshot) -> None:
        """Decide by this snapshot from now on; those who wait try again."""
        self._snapshot = snapshot
        for _ in range(len(self._unsettled)):
            self.settle(self._unsettled.popleft())
        lessons = self.lessons
        burst = _BURST * lessons.dearest_bytes if lessons is not None else 0.0
        self.narrow = bool(self.leaving) or (self._act and (snapshot.level >= _WARNING or self._short(snapshot, burst)))
        if self._ledger.total_bytes and snapshot.at >= self._lapse_at:
            self._lapse(snapshot.at)
        if lessons is not None and self._marked is not None:
            open_, self._marked = self._marked, None
            self._learn(lessons, snapshot, open_)
        if self._room is not None and len(self._room):
            self._room.wake()

    def _learn(self, lessons: Lessons, snapshot: Snapshot, open_: list[Ticket]) -> None:
        try:
            if not lessons.look(snapshot if self.peers is None else self.peers.own_view(snapshot), open_):
                return
        except Exception as error:  # noqa: BLE001 - what is known still holds, and the gate has to work
            lessons.forget()
            self.fault = f"learning what requests hold failed: {type(error).__name__}: {error}"
        self.pace_s = _CURIOUS_S if lessons.curious else _NEVER_S
        with self._lock:
            taken, lessons.taken = lessons.taken, []
            for ticket in taken:
                self._ledger.taken(ticket)
            # Growth that routes explain was theirs; the rest was promised to work that nothing is known about.
            self._ledger.seen(int(lessons.unexplained_bytes))
            if self._shares is not None:
                for route in lessons.present:
                    self._shares.ask(route, snapshot.at)

    def mark(self) -> None:
        """Note who is open: a reading comes next."""
        self.closed.clear()
        self._marked = list(self.open) if self.lessons is not None else None

    def _short(self, snapshot: Snapshot, wanted: float) -> bool:
        if not wanted or snapshot.limit is None or snapshot.reading is None:
            return False
        ceiling = (self._rules.critical_ratio - _SLIP_RATIO) * snapshot.limit.bytes
        promised = self._ledger.total_bytes + (0 if self.peers is None else self.peers.promised_elsewhere)
        return snapshot.reading.used_bytes + promised + wanted > ceiling

    def seen(self, growth_bytes: int) -> None:
        """Growth that a new reading showed: promises that it explains are counted there from now on.

        Once it is learned who takes what, the lessons say it.
        """
        if self.lessons is None:
            if growth_bytes > 0 and self._ledger.total_bytes:
                with self._lock:
                    self._ledger.seen(growth_bytes)
            return
        # Reading lets other threads run: who came or went meanwhile may be in it or not.
        self._blurred = 0 if self._marked == list(self.open) else self._blurred + 1
        if 0 < self._blurred <= _BLURRED:
            self._marked = None

    def _lapse(self, at: float) -> None:
        """Give back what readings have not shown in time: a body that never came, a cost that was overrated."""
        self._lapse_at = at + _LAPSE_S
        with self._lock:
            lapsed = self._ledger.lapse(at - self._rules.promise_s)
        for ticket in lapsed:
            if isinstance(ticket, Ticket):
                ticket.lapse()

    # --- asking ---------------------------------------------------------------------------------------------------

    @property
    def promised_bytes(self) -> int:
        """Bytes promised to open tickets and not yet seen in readings."""
        return self._ledger.total_bytes

    @property
    def running(self) -> int:
        """How many tickets are open."""
        return len(self.open)

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return 0 if self._room is None else len(self._room)

    def labels(self, *, most: int = 5) -> tuple[str, ...]:
        """What has run since the last look, longest running first: for "the guard could not run; running then: …"."""
        labels = [" ".join(label) for label in tuple(self.closed)]
        labels += [ticket.label or ticket.kind for ticket in tuple(self.open)]
        return tuple(dict.fromkeys(labels))[:most]

    # --- a request's thread ---------------------------------------------------------------------------------------

    def admit(  # noqa: PLR0913 - as Guard.admit, which it carries out
        self,
        bytes_: str | int | None,
        kind: str,
        label: str,
        wait_s: float,
        priority: Priority = "normal",
        *,
        budget: Purse | None = None,
    ) -> Ticket:
        """A ticket now, or within ``wait_s`` seconds.

        On an event loop's thread a wait can't block: the ticket comes back unopened and ``async with`` waits.

        Raises:
            AdmissionRefused: it does not fit, and did not within ``wait_s``.
            ValueError: a negative amount, or no such priority.
        """
        wanted = parse_bytes(bytes_) if isinstance(bytes_, str) else bytes_
        if wanted is not None and wanted < 0:
            raise ValueError(f"admission of {wanted} bytes: it must be 0 or more")
        if priority not in self._bounds:
            raise ValueError(f"priority={priority!r} is none: choose one of {', '.join(self._bounds)}")
        what = (self, wanted, kind, label, priority)
        ticket = Ticket(*what) if budget is None else BudgetTicket(*what, budget)
        if wanted is None and not self.narrow and budget is None:  # most work: the short way
            self.open[ticket] = None
            return ticket
        if self.enter(ticket):
            return ticket
        if wait_s > 0.0 and on_event_loop():
            ticket.later(wait_s)
        elif wait_s <= 0.0 or not self._waiting_room().wait(ticket, owner=self._owner(ticket), wait_s=wait_s):
            raise self.refusal(ticket)
        return ticket

    async def wait_async(self, ticket: Ticket, wait_s: float) -> None:
        """Wait for a ticket on an event loop, without blocking it.

        Raises:
            AdmissionRefused: there was no room within ``wait_s``, or there would not have been.
        """
        if not await self._waiting_room().wait_async(ticket, owner=self._owner(ticket), wait_s=wait_s):
            raise self.refusal(ticket)

    def _waiting_room(self) -> WaitingRoom:
        with self._lock:
            if self._room is None:
                from memguard.admission.waiting import WaitingRoom  # noqa: PLC0415 - not all work waits

                self._room = WaitingRoom(clock=self.clock, enter=self.enter)
            return self._room

    def _owner(self, ticket: Ticket) -> Route | str:
        """In whose name bytes are promised: a route's, or that of a kind of work."""
        if self.lessons is None:
            return ticket.label or ticket.kind
        return self.lessons.costs.route(ticket.label or ticket.kind, self._snapshot.at)

    def enter(self, ticket: Ticket) -> bool:
        """Open a ticket if it fits now; whether it did. One of unknown size is given its route's."""
        if (budget := ticket.budget) is None:
            return self._enter(ticket)
        if ticket.bytes is None and self.lessons is not None:
            route = self.lessons.costs.route(ticket.label or ticket.kind, self._snapshot.at)
            ticket.bytes = route.predict(ticket.body_bytes)
        if not budget.take(ticket, ticket.bytes or 0, anyway=not self._act):
            return False
        if not (entered := self._enter(ticket)):
            budget.give(ticket)
        return entered

    def _enter(self, ticket: Ticket) -> bool:
        snapshot, wanted, lessons = self._snapshot, ticket.bytes, self.lessons
        if self.leaving == "refusing" or (self._act and self._shut(snapshot, ticket.priority)):
            return False
        label = ticket.label or ticket.kind
        owner: Route | str = label
        if lessons is not None:
            owner = lessons.costs.route(label, snapshot.at)
            if wanted is None:
                wanted = ticket.bytes = owner.predict(ticket.body_bytes)
        if wanted:
            with self._lock:
                if self._act and not self._fits(snapshot, ticket, wanted, owner):
                    return False
                self._ledger.promise(ticket, wanted, owner=owner, at=snapshot.at)
        self.open[ticket] = None
        return True

    def charge(self, ticket: Ticket, more_bytes: int) -> bool:
        """Promise more bytes to an open ticket if they fit; whether they did. Its level alone stops nobody."""
        snapshot, owner = self._snapshot, self._owner(ticket)
        with self._lock:
            if self._act and not self._fits(snapshot, ticket, more_bytes, owner):
                return False
            self._ledger.charge(ticket, more_bytes, owner=owner, at=snapshot.at)
            ticket.bytes = (ticket.bytes or 0) + more_bytes
            if ticket.outcome is not None:  # closed meanwhile, when it had no bytes to settle
                self._ledger.close(ticket)
        return True

    def _shut(self, snapshot: Snapshot, priority: Priority) -> bool:
        """Whether nobody of this priority is admitted: at its level or above, until pressure is below its release.

        Not until the level falls: it is held for a while, and refusing meanwhile would shed work that fits.
        """
        _, level, reopen_ratio = self._bounds[priority]
        return level is not None and snapshot.level >= level and (snapshot.blind or snapshot.pressure >= reopen_ratio)

    def _fits(self, snapshot: Snapshot, ticket: Ticket, wanted: int, owner: Route | str) -> bool:
        peers, own_bytes = self.peers, self._ledger.total_bytes
        if peers is None:
            return self._fits_beside(0, snapshot, ticket, wanted, owner)
        # Said first, then looked: of two workers that admit at the same moment one at least sees the other.
        peers.promise(own_bytes + wanted)
        if self._fits_beside(peers.promised_elsewhere, snapshot, ticket, wanted, owner):
            return True
        peers.promise(own_bytes)
        return False

    def _fits_beside(self, elsewhere: int, snapshot: Snapshot, ticket: Ticket, wanted: int, owner: Route | str) -> bool:
        limit, reading, ledger = snapshot.limit, snapshot.reading, self._ledger
        if limit is None or reading is None:
            return True
        ceiling = self._bounds[ticket.priority][0] * limit.bytes - elsewhere
        promised, lessons, shares = ledger.total_bytes + wanted, self.lessons, self._shares
        if lessons is None or shares is None or isinstance(owner, str):
            return self._roomy(ceiling - reading.used_bytes - promised, wanted, ceiling)
        # What the heap has in store takes nothing new; an estimate of the rest may err, and must not trip the level.
        grows = promised - lessons.store.bytes
        free = ceiling - reading.used_bytes - (grows + _SLIP_RATIO * limit.bytes if grows > 0.0 else 0.0)
        if not self._roomy(free, wanted, ceiling):
            return False
        others = ledger.stakes.get(owner, 0) - ledger.stake_of(ticket)
        return shares.allow(
            owner,
            free_bytes=free,
            room_bytes=free + sum(ledger.stakes.values()) + wanted,
            stake_bytes=others + ledger.stake_of(ticket) + wanted,
            guess=others > 0 and owner.guesses(ticket.body_bytes),
            at=snapshot.at,
        )

    def _roomy(self, free: float, wanted: int, ceiling: float) -> bool:
        """Whether so much is left free; what could fit, but does not now, is noted."""
        if free < 0.0 and wanted <= ceiling:
            self.short_bytes = max(self.short_bytes, int(-free) + 1)
        return free >= 0.0

    def refusal(self, ticket: Ticket, *, wanted_bytes: int | None = None) -> AdmissionRefused:
        """Count a refusal and say why, with numbers; ``wanted_bytes`` when it is not what the ticket was for."""
        with self._lock:  # two at once must not count as one
            self.refusals += 1
        peers, snapshot = self.peers, self._snapshot
        refusal = refused(
            ticket,
            snapshot,
            wanted=ticket.bytes if wanted_bytes is None else wanted_bytes,
            own_bytes=self._ledger.total_bytes,
            peers_bytes=0 if peers is None else peers.promised_elsewhere,
            ceiling_ratio=self._bounds[ticket.priority][0],
            shut=self._shut(snapshot, ticket.priority),
            leaving=self.leaving == "refusing",
            retry_s=self._rules.dwell_s,
        )
        if self.on_refusal is not None:
            self.on_refusal(ticket.label or ticket.kind, refusal)
        return refusal

    def settle(self, ticket: Ticket) -> None:
        """Give a ticket's promise back (called when it closes, or needs no more memory)."""
        # A collection inside the lock may close a dropped request's ticket, on the very thread that holds it.
        if self._lock.acquire(True, _SETTLE_S):  # noqa: FBT003 - positional in C
            self._ledger.close(ticket)
            if self.peers is not None:
                self.peers.promise(self._ledger.total_bytes)
            self._lock.release()
        else:
            self._unsettled.append(ticket)
        self.wake()

    def wake(self) -> None:
        """Let those who wait try again."""
        if self._room is not None and len(self._room):
            self._room.wake()

    def forget(self) -> None:
        """In a forked child: the parent's tickets are not ours, and its locks may be held for ever."""
        self._lock = new_lock()
        self._ledger = Ledger()
        self.open.clear()
        self._unsettled.clear()
        self._room = self._marked = None
        if self.lessons is not None:
            self.lessons.forget()
