"""Shares: how much of the room one route may promise away while others ask too."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Shares"]

# A route that asked, or was seen, in so many seconds is there.
_ACTIVE_S = 10.0
# What routes above their even share leave free for those below it.
_RESERVED = 8
_OWNERS_AT_MOST = 64


class Shares:
    """Who asks for memory of late. Not thread-safe: its owner holds a lock.

    Two tiers instead of a division: a route may take more than its even share of the room, but then an eighth of the
    room stays free for routes that have less. One route alone may take it all.
    """

    __slots__ = ("_asked",)

    def __init__(self) -> None:
        self._asked: dict[Hashable, float] = {}

    def ask(self, owner: Hashable, at: float) -> None:
        """This owner is there."""
        asked = self._asked
        if owner not in asked and len(asked) >= _OWNERS_AT_MOST:
            self._prune(at)
            if len(asked) >= _OWNERS_AT_MOST:
                return
        asked[owner] = at

    def allow(  # noqa: PLR0913 - what a share depends on
        self, owner: Hashable, *, free_bytes: float, room_bytes: float, stake_bytes: int, guess: bool, at: float
    ) -> bool:
        """Whether this owner may have so much of the room staked, when so much is left free then.

        ``guess`` says that what its work takes is a guess, and that other work of its is open: together they may have
        half of the room, for a guess may be wrong by half. One alone may have it all: or nothing would be learned.
        """
        self.ask(owner, at)
        if guess and stake_bytes > room_bytes / 2.0:
            return False
        return free_bytes >= self._reserve_bytes(owner, stake_bytes, room_bytes, at)

    def _reserve_bytes(self, owner: Hashable, stake_bytes: int, room_bytes: float, at: float) -> float:
        """What this owner has to leave free with such a stake."""
        asked = self._asked
        if len(asked) == 1 or (asked and stake_bytes * len(asked) <= room_bytes):
            return 0.0
        self._prune(at)
        others = len(asked) - (owner in asked)
        if not others or stake_bytes * (others + 1) <= room_bytes:
            return 0.0
        return room_bytes / _RESERVED

    def _prune(self, at: float) -> None:
        for owner in [owner for owner, asked_at in self._asked.items() if at - asked_at > _ACTIVE_S]:
            del self._asked[owner]
