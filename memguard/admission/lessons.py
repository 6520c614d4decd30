"""Lessons: at each look of the guard it is learned what requests hold. Nothing of it runs on a request's way."""

from __future__ import annotations

from time import thread_time

from memguard._core.costs import Costs
from memguard._core.credit import Credit
from memguard._core.heap import Store
from memguard.units import KIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from memguard._core.costs import Estimate, Route
    from memguard.admission.tickets import Ticket
    from memguard.model import Snapshot

__all__ = ["Lessons"]

# Looks come every 2 ms under pressure; requests do not change so fast.
_AGAIN_S = 0.01
# Learning may take a hundredth of the guard's wall time.
_DUTY = 0.01
# Readings further apart are not compared: the guard was stopped, or could not run.
_GAP_S = 2.0
# A request of a route that takes its memory early has taken it after so long, whatever the sums say: they add up the
# error of the estimate.
_EARLY_S = 1.0
# Of more open tickets, those that came last are looked at.
_TICKETS_AT_MOST = 1024
# Memory moves while it has changed by so much within so long.
_MOVED_BYTES = 512 * KIB
_MOVED_S = 1.0
# The dearest route is looked up so often, among those seen in the last minute.
_DEAREST_S = 1.0
_RECENT_S = 60.0
# A peak less than a tenth of the mean says that the heap had room, not that the request was cheap.
_NOTHING = 0.1


class _Seen:
    """An open ticket as the looks saw it."""

    __slots__ = (
        "alone", "at", "counted", "estimate", "floor_bytes", "label", "peak_bytes", "read_bytes", "route", "routed",
        "units",
    )  # fmt: skip

    def __init__(self, at: float, label: str, route: Route, floor_bytes: int | None) -> None:
        self.at = at
        self.label = label
        self.route = route
        self.read_bytes = -1
        self.estimate, self.units = route.flat, 0.0
        self.floor_bytes = floor_bytes or 0
        self.peak_bytes = 0
        self.alone = floor_bytes is not None
        self.routed = self.counted = False

    def load(self, read_bytes: int) -> float:
        """Note how much of its body has come; bytes that it is taken to hold now."""
        before, self.read_bytes = self.estimate, read_bytes
        self.estimate, self.units = self.route.load(read_bytes)
        if not self.counted or self.estimate is not before:
            self.counted = True
            self.estimate.requests += 1
        return self.expected

    @property
    def expected(self) -> float:
        """Bytes that it is taken to hold."""
        return self.estimate.mean_bytes * self.units


class Lessons:
    """Learns bytes per route from readings; predictions may be asked for from any thread."""

    def __init__(self) -> None:
        self.costs: Costs = Costs()
        self.credit: Credit = Credit()
        self.store: Store = Store()
        self._seen: dict[Ticket, _Seen] = {}
        self._due_at = 0.0
        self._at = self._bought = 0.0
        self._used = 0
        self._source: str = ""
        self._idle_bytes: int | None = None
        self._dearest_at = 0.0
        self._moved_at, self._moved_bytes = 0.0, 0
        self.curious: bool = False
        """Whether looks at a quicker pace would teach something: memory moves, and a route is not known yet."""
        self.present: frozenset[Route] = frozenset()
        """Routes that had requests open at the last look."""
        self.taken: list[Hashable] = []
        """Tickets that have taken what they were expected to, since somebody asked."""
        self.unexplained_bytes: float = 0.0
        """Growth up to the last look that no request's expectation explains."""
        self.dearest_bytes: float = 0.0
        """The most that a request without a large body holds, over the routes of the last minute."""

    def look(self, snapshot: Snapshot, open_: Sequence[Ticket]) -> bool:
        """Learn from one snapshot and the tickets that are open at it; whether it was time to."""
        reading = snapshot.reading
        if reading is None or snapshot.blind or snapshot.at < self._due_at:
            return False
        began = thread_time()
        at, used = snapshot.at, reading.used_bytes
        grown, lasted_s = used - self._used, at - self._at
        if reading.source != self._source or lasted_s > _GAP_S:
            self.credit.reset()
            grown = 0
        self._source, self._at, self._used = reading.source, at, used
        bought = snapshot.incident.bought_bytes if snapshot.incident is not None else 0
        if bought > self._bought:
            self.credit.shift(self._bought - bought)
        self._bought = bought
        if open_ or self._seen:
            self._take(at, used, open_[-_TICKETS_AT_MOST:])
        else:
            self.present = frozenset()
            self.credit.look(at, used, {})
        taken, self.unexplained_bytes = self.store.look(grown, lasted_s)
        self.taken += taken
        self._idle_bytes = None if open_ else used
        if abs(used - self._moved_bytes) > _MOVED_BYTES:
            self._moved_at, self._moved_bytes = at, used
        unknown = any(known.estimate.fresh for known in self._seen.values())
        self.curious = unknown and at - self._moved_at < _MOVED_S
        if at >= self._dearest_at:
            self._dearest_at = at + _DEAREST_S
            late = at - _RECENT_S
            flats = [route.flat for route in self.costs.routes() if route.seen_at >= late]
            self.dearest_bytes = max((flat.unit_bytes for flat in flats if flat.trusted), default=0.0)
        self._due_at = at + max(_AGAIN_S, (thread_time() - began) / _DUTY)
        return True

    def _take(self, at: float, used: int, open_: Sequence[Ticket]) -> None:
        seen, store = self._seen, self.store
        floor = self._idle_bytes if len(open_) == 1 else None
        for ticket in [ticket for ticket in seen if ticket.outcome is not None]:
            known = seen.pop(ticket)
            store.gone(ticket, known.expected)
            self._ended(ticket, known, at)
        for ticket in open_:
            if ticket not in seen:
                label = ticket.label or ticket.kind
                seen[ticket] = _Seen(at, label, self.costs.route(label, at), floor)
        loads: dict[tuple[Estimate | None, bool], float] = {}
        alone = len(open_) == 1
        for ticket, known in seen.items():
            if not known.routed:
                self._routed(ticket, known, at)
            if ticket.read_bytes != known.read_bytes:
                held = known.expected
                store.expect(ticket, known.load(ticket.read_bytes) - held)
            estimate = known.estimate
            life_s = estimate.life_s
            key = (estimate, life_s is not None and at - known.at > life_s / 2.0)
            loads[key] = loads.get(key, 0.0) + known.units
            if estimate.early and estimate.trusted and at - known.at > _EARLY_S and ticket in store.pending:
                del store.pending[ticket]
                self.taken.append(ticket)
            known.alone = known.alone and alone
            known.peak_bytes = max(known.peak_bytes, used)
        self.present = frozenset(known.route for known in seen.values())
        self.credit.look(at, used, loads)
        spread = self.credit.spread
        for estimate in {known.estimate for known in seen.values()}:
            estimate.moved(self.credit.explained(estimate), spread, sure=self.credit.sure(estimate))
            estimate.early = self.credit.early(estimate)

    def _routed(self, ticket: Ticket, known: _Seen, at: float) -> None:
        """Once the framework has found the route, it is known what the path belongs to."""
        template = ticket.template
        if template is not None:
            known.routed = True
            self.costs.template(known.label, template, at)

    def _ended(self, ticket: Ticket, known: _Seen, at: float) -> None:
        if not known.routed:
            self._routed(ticket, known, at)
        estimate = known.estimate
        estimate.ended(at - known.at)
        expected = known.expected
        if known.alone and expected > 0.0:
            peak = (known.peak_bytes - known.floor_bytes) / expected
            if peak > _NOTHING or self.store.bytes < expected:
                estimate.alone(peak)

    def forget(self) -> None:
        """In a forked child: the parent's tickets are not ours; what was learned still holds."""
        self._seen.clear()
        self.store = Store()
        self.taken, self.unexplained_bytes = [], 0.0
        self.credit.reset()
