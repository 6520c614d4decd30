"""Queueing: who is next, and who had better go now. Pure: instants are handed in.

First in, first out while the line is short; once it has not been empty for a while, last in, first out: then those
who came last can still be served in time, and those who waited long would be too late anyway. Whoever is sure to miss
its deadline is turned away at once, while it can still go elsewhere. (Nichols and Jacobson, "Controlling Queue
Delay", 2012; Maurer, "Fail at Scale", 2015.)
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Iterable
    from typing import Any

__all__ = ["Line", "Waiter"]

# A line that has not been empty for so long stands: serving it in order makes everybody late.
_STANDING_S = 1.0
# A rate of service says something after so many were served.
_SERVED_TRUSTED = 4
# Each place is a connection with its buffers, some 10 KB.
_LENGTH = 1000
# How many are turned away at one look: the rest at the next.
_DROPS = 32

RANKS = ("critical", "normal", "sheddable")


class Waiter:
    """One who waits: with which ticket, in whose name, since when and until when; ``ring`` wakes it."""

    __slots__ = ("admitted", "deadline", "gone", "owner", "rank", "ring", "since", "ticket")

    def __init__(  # noqa: PLR0913 - what a place in line consists of
        self,
        ticket: Any,  # noqa: ANN401 - nothing is asked of it here
        *,
        rank: int,
        owner: Hashable,
        since: float,
        deadline: float,
        ring: Callable[[], None],
    ) -> None:
        self.ticket = ticket
        self.rank = rank
        self.owner = owner
        self.since = since
        self.deadline = deadline
        self.ring = ring
        self.admitted: bool | None = None
        self.gone = False


class Line:
    """All who wait, by priority, then in turns by owner, then by time. Not thread-safe: its owner holds a lock."""

    def __init__(self, *, length: int = _LENGTH) -> None:
        self._length = length
        self._ranks: tuple[dict[Hashable, dict[Waiter, None]], ...] = tuple({} for _ in RANKS)
        self._count = 0
        self._busy_since = 0.0
        self._served = 0

    def __len__(self) -> int:
        return self._count

    def join(self, waiter: Waiter) -> bool:
        """Stand in line; False when it is full, or would not be served in time."""
        if self._count >= self._length or self._wait_s(waiter, waiter.since, ahead=self._ahead(waiter)) is None:
            return False
        if not self._count:
            self._busy_since, self._served = waiter.since, 0
        self._ranks[waiter.rank].setdefault(waiter.owner, {})[waiter] = None
        self._count += 1
        return True

    def leave(self, waiter: Waiter) -> bool:
        """Step out; whether it stood in line."""
        owners = self._ranks[waiter.rank]
        own = owners.get(waiter.owner, {})
        if waiter not in own:
            return False
        del own[waiter]
        if not own:
            del owners[waiter.owner]
        self._count -= 1
        return True

    def standing(self, at: float) -> bool:
        """Whether the line has not been empty for so long that it is served from its end."""
        return self._count > 0 and at - self._busy_since > _STANDING_S

    def next(self, at: float, but: Container[tuple[int, Hashable]] = ()) -> Waiter | None:
        """Who is next, leaving out owners that can't be served now, as (rank, owner)."""
        for rank, owners in enumerate(self._ranks):
            for owner, own in owners.items():
                if (rank, owner) not in but:
                    return next(reversed(own)) if self.standing(at) else next(iter(own))
        return None

    def served(self, waiter: Waiter) -> None:
        """It got in; its owner's others are behind all other owners of their rank now."""
        if self.leave(waiter):
            self._served += 1
            owners = self._ranks[waiter.rank]
            own = owners.pop(waiter.owner, None)
            if own:
                owners[waiter.owner] = own

    def hopeless(self, at: float) -> list[Waiter]:
        """Take out those whose deadline has passed or will have before their turn comes."""
        found: list[Waiter] = []
        standing = self.standing(at)
        for owners in self._ranks:
            for own in owners.values():
                last: Iterable[Waiter] = own if standing else reversed(own)
                ahead = len(own) * len(owners)
                for waiter in last:
                    ahead -= len(owners)
                    if len(found) >= _DROPS or self._wait_s(waiter, at, ahead=ahead) is not None:
                        break
                    found.append(waiter)
        for waiter in found:
            self.leave(waiter)
        return found

    def _ahead(self, waiter: Waiter) -> int:
        if self.standing(waiter.since):
            return 0
        ahead = sum(len(own) for owners in self._ranks[: waiter.rank] for own in owners.values())
        owners = self._ranks[waiter.rank]
        own = len(owners.get(waiter.owner, ()))
        return ahead + sum(min(own, len(others)) for owner, others in owners.items() if owner != waiter.owner) + own

    def _wait_s(self, waiter: Waiter, at: float, *, ahead: int) -> float | None:
        """How long it will wait yet, as far as can be told (0: it can't); None when that is too long."""
        left_s = waiter.deadline - at
        if left_s <= 0.0:
            return None
        lasted_s = at - self._busy_since
        if self._served < _SERVED_TRUSTED or lasted_s <= 0.0 or not self._count:
            return 0.0
        wait_s = ahead * lasted_s / self._served
        return None if wait_s > left_s else wait_s
