"""Ports that misbehave, one way each: what a guard has to live with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memguard.model import Level
from memguard.threads import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from memguard.kinds import Cost
    from memguard.model import Event
    from memguard.ports import Probe, Reclaimer
    from memguard.testing.clock import FakeClock

__all__ = [
    "BlockingReclaimer",
    "BlockingSink",
    "FlakyProbe",
    "FlakyReclaimer",
    "LyingReclaimer",
    "RaisingReclaimer",
    "RaisingSink",
    "RecordingSink",
    "SlowReclaimer",
    "UselessReclaimer",
]


class _Faults:
    """Counts calls and raises at some of them: every n-th, those whose numbers (from 1) are named, or all."""

    def __init__(self, every: int | None, calls: Container[int], error: Callable[[], Exception]) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every={every} must be at least 1 (1: each call fails)")
        self._every = every
        self._calls = calls
        self._error = error
        self.count = 0

    def strike(self) -> None:
        """Count one call, and fail if it is its turn."""
        self.count += 1
        if self.count in self._calls or (self._every is not None and self.count % self._every == 0):
            raise self._error()


class FlakyProbe:
    """A probe whose readings fail now and then: every n-th, or those whose numbers (from 1) are in ``calls``."""

    def __init__(
        self,
        probe: Probe,
        *,
        every: int | None = None,
        calls: Container[int] = (),
        error: Callable[[], Exception] = lambda: OSError("a reading fails, as scripted"),
    ) -> None:
        self._probe = probe
        self._faults = _Faults(every, calls, error)

    @property
    def source(self) -> str:
        """The measure of the probe behind it."""
        return self._probe.source

    @property
    def calls(self) -> int:
        """How often it was read."""
        return self._faults.count

    def read(self) -> int:
        """Read, or fail."""
        self._faults.strike()
        return self._probe.read()

    def close(self) -> None:
        """Close the probe behind it."""
        self._probe.close()


class _Holder:
    """What every faulty reclaimer here is by default."""

    settles: bool = False
    stalls: bool = False

    def __init__(
        self, name: str, *, size_bytes: int | None = None, cost: Cost = "cheap", at: Level = Level.WARNING
    ) -> None:
        self.name = name
        self.cost: Cost = cost
        self.at = at
        self.size_bytes = size_bytes
        self.attempts = 0

    def size(self) -> int | None:
        """What it says it holds."""
        return self.size_bytes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} after {self.attempts} attempts>"


class UselessReclaimer(_Holder):
    """A reclaimer that gives nothing back and claims nothing."""

    def reclaim(self, wanted_bytes: int, /) -> int | None:  # noqa: ARG002 - whatever is wanted
        """Do nothing."""
        self.attempts += 1
        return None


class LyingReclaimer(_Holder):
    """A reclaimer that claims to have given back whatever was wanted, and gave nothing."""

    def reclaim(self, wanted_bytes: int, /) -> int | None:
        """Lie."""
        self.attempts += 1
        return wanted_bytes


class RaisingReclaimer(_Holder):
    """A reclaimer that raises at every attempt."""

    def __init__(
        self,
        name: str,
        *,
        size_bytes: int | None = None,
        error: Callable[[], BaseException] = lambda: RuntimeError("an attempt fails, as scripted"),
    ) -> None:
        super().__init__(name, size_bytes=size_bytes)
        self._error = error

    def reclaim(self, wanted_bytes: int, /) -> int | None:  # noqa: ARG002 - whatever is wanted
        """Raise."""
        self.attempts += 1
        raise self._error()


class BlockingReclaimer(_Holder):
    """A reclaimer that does not come back until ``release()``; ``entered`` counts who is inside."""

    def __init__(self, name: str, *, size_bytes: int | None = None, give_up_s: float = 60.0) -> None:
        super().__init__(name, size_bytes=size_bytes)
        self._bell = Bell()
        self._give_up_s = give_up_s
        self.entered: int = 0

    def reclaim(self, wanted_bytes: int, /) -> int | None:  # noqa: ARG002 - whatever is wanted
        """Block."""
        self.attempts += 1
        self.entered += 1
        try:
            if self._bell.wait(self._give_up_s):
                self._bell.ring()  # for whoever is inside too
        finally:
            self.entered -= 1
        return None

    def release(self) -> None:
        """Let everybody out, and block nobody any more."""
        self._bell.ring()


class SlowReclaimer:
    """A reclaimer that takes so many seconds of a fake clock longer than the one behind it."""

    def __init__(self, reclaimer: Reclaimer, *, clock: FakeClock, seconds: float) -> None:
        self._inner = reclaimer
        self._clock = clock
        self.seconds = seconds
        self.name: str = reclaimer.name
        self.cost: Cost = reclaimer.cost
        self.at: Level = reclaimer.at
        self.settles: bool = reclaimer.settles
        self.stalls: bool = reclaimer.stalls

    def size(self) -> int | None:
        """What the one behind it says."""
        return self._inner.size()

    def reclaim(self, wanted_bytes: int, /) -> int | None:
        """Let time pass, then ask the one behind it."""
        self._clock.advance(self.seconds)
        return self._inner.reclaim(wanted_bytes)


class FlakyReclaimer:
    """A reclaimer whose calls (``size`` and ``reclaim`` counted apart) fail now and then, as in ``FlakyProbe``."""

    def __init__(
        self,
        reclaimer: Reclaimer,
        *,
        every: int | None = None,
        sizes: Container[int] = (),
        reclaims: Container[int] = (),
        error: Callable[[], Exception] = lambda: RuntimeError("a call fails, as scripted"),
    ) -> None:
        self._inner = reclaimer
        self._sizes = _Faults(every, sizes, error)
        self._reclaims = _Faults(every, reclaims, error)
        self.name: str = reclaimer.name
        self.cost: Cost = reclaimer.cost
        self.at: Level = reclaimer.at
        self.settles: bool = reclaimer.settles
        self.stalls: bool = reclaimer.stalls

    @property
    def calls(self) -> tuple[int, int]:
        """How often ``size`` and ``reclaim`` were called."""
        return self._sizes.count, self._reclaims.count

    def size(self) -> int | None:
        """Say what the one behind it says, or fail."""
        self._sizes.strike()
        return self._inner.size()

    def reclaim(self, wanted_bytes: int, /) -> int | None:
        """Ask the one behind it, or fail."""
        self._reclaims.strike()
        return self._inner.reclaim(wanted_bytes)


class RecordingSink:
    """A sink that keeps every event it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        """Keep it."""
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        """The events' names, oldest first."""
        return [event.name for event in self.events]


class RaisingSink(RecordingSink):
    """A sink that keeps an event and then raises: always, every n-th time, or at calls whose numbers are named."""

    def __init__(
        self,
        *,
        every: int | None = 1,
        calls: Container[int] = (),
        error: Callable[[], Exception] = lambda: RuntimeError("a sink fails, as scripted"),
    ) -> None:
        super().__init__()
        self._faults = _Faults(every, calls, error)

    def __call__(self, event: Event, /) -> None:
        """Keep it, and fail."""
        super().__call__(event)
        self._faults.strike()


class BlockingSink(RecordingSink):
    """A sink that does not come back until ``release()``."""

    def __init__(self, *, give_up_s: float = 60.0) -> None:
        super().__init__()
        self._bell = Bell()
        self._give_up_s = give_up_s

    def __call__(self, event: Event, /) -> None:
        """Keep it, and block."""
        super().__call__(event)
        if self._bell.wait(self._give_up_s):
            self._bell.ring()

    def release(self) -> None:
        """Let everybody out, and block nobody any more."""
        self._bell.ring()
