"""A clock that moves only when it is told to."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """A ``Clock`` in seconds for tests: time passes by ``advance`` alone.

    ``elapsed_s`` is the time that has really passed; ``jump`` moves what the clock *shows*, as a broken clock or a
    suspended machine does.

    >>> clock = FakeClock(100.0)
    >>> clock.advance(2.5)
    >>> clock(), clock.elapsed_s
    (102.5, 2.5)
    """

    __slots__ = ("_shown_at_0", "elapsed_s")

    def __init__(self, at: float = 1000.0) -> None:
        self._shown_at_0 = float(at)
        self.elapsed_s: float = 0.0

    def __call__(self) -> float:
        """The time shown."""
        return self._shown_at_0 + self.elapsed_s

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass.

        Raises:
            ValueError: time that would run backwards; ``jump`` does that.
        """
        if seconds < 0.0:
            raise ValueError(f"time does not pass by {seconds} s: to set the clock back, jump({seconds})")
        self.elapsed_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the clock forwards or backwards by so many seconds; no time passes."""
        self._shown_at_0 += seconds

    def __repr__(self) -> str:
        return f"<FakeClock at {self()} after {self.elapsed_s} s>"
