"""What we have learned about each reclaimer: how fast it pays, and for how long to leave it alone."""

from __future__ import annotations

from memguard.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.rules import Rules

__all__ = ["Duty", "Patience"]

# Weight of the newest attempt in the learned rate: a holder's content changes between attempts.
_LEARN = 0.3


@value
class Patience:
    """The record of one reclaimer.

    ``rate`` is bytes bought per second of its own time (None: never tried), ``failures`` counts useless attempts
    in a row, ``size_at_failure`` what it held at the last of them, ``used_at_failure`` what was used then in all, if it
    had released memory that did not come back, ``cost_s`` how long its last attempt took.
    """

    attempts: int = 0
    bought_bytes: int = 0
    failures: int = 0
    blocked_until: float = 0.0
    size_at_failure: int | None = None
    used_at_failure: int | None = None
    rate: float | None = None
    cost_s: float = 0.0

    def blocks(self, at: float, size_bytes: int | None, min_bytes: int) -> bool:
        """Whether it is left alone at this instant: not if it has grown well since it failed."""
        if at >= self.blocked_until:
            return False
        if size_bytes is None or self.size_at_failure is None:
            return True
        return size_bytes < 2 * self.size_at_failure + min_bytes

    def learned(self, bought_bytes: int, cost_s: float, *, own: bool = True) -> Patience:
        """After a measured attempt; what it bought by settling another's account (not ``own``) is the other's."""
        rate = max(0, bought_bytes) / max(cost_s, 1e-6)
        return replace(
            self,
            attempts=self.attempts + 1,
            cost_s=cost_s,
            bought_bytes=self.bought_bytes + (bought_bytes if own else 0),
            rate=rate if self.rate is None else self.rate + _LEARN * (rate - self.rate),
        )

    def credited(self, bytes_: int) -> Patience:
        """After somebody else returned to the kernel what this one had released."""
        return replace(self, bought_bytes=self.bought_bytes + bytes_)

    def failed(self, at: float, size_bytes: int | None, rules: Rules, *, used_bytes: int | None = None) -> Patience:
        """After a useless attempt: the wait doubles each time (binary exponential backoff)."""
        wait_s = min(rules.backoff_max_s, rules.backoff_first_s * 2.0 ** min(self.failures, 30))
        return replace(
            self,
            failures=self.failures + 1,
            blocked_until=at + wait_s,
            size_at_failure=size_bytes,
            used_at_failure=used_bytes,
        )

    def paid(self) -> Patience:
        """After an attempt that was worth it."""
        return (
            self
            if not self.failures
            else replace(self, failures=0, blocked_until=0.0, size_at_failure=None, used_at_failure=None)
        )


@value(kw_only=False)
class Duty:
    """How much stop-the-world time may be spent now: a token bucket in seconds (it may go into debt)."""

    tokens_s: float
    at: float

    def filled(self, at: float, rules: Rules) -> Duty:
        """The bucket at a later instant: ``gc_duty_ratio`` of wall time flows in, up to ``gc_burst_s``."""
        gained = max(0.0, at - self.at) * rules.gc_duty_ratio
        return Duty(min(rules.gc_burst_s, self.tokens_s + gained), max(at, self.at))

    def spent(self, cost_s: float) -> Duty:
        """The bucket after a stop of so many seconds."""
        return Duty(self.tokens_s - cost_s, self.at)
