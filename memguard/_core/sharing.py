"""Sharing: what memory grew by is split among those that were running, each by its weight.

Processor sharing with weights (Kleinrock, 1967): between two changes each that runs gets its weight's part. One running
sum serves all, so a change costs the same however many run. Work inside other work is part of it: while it runs the
outer one only waits, and what the inner one grew by counts in both.
"""

from __future__ import annotations

__all__ = ["Part", "Sharing"]


class Part:
    """One that takes part, with a weight: since when (``at``) and inside of which other.

    ``own_bytes`` and ``own_s`` are what it has got by itself, and for how long it has run by itself, without the time
    in which it waited for those inside of it; ``inner_bytes`` is what these got, ``inner`` how many of them run.
    """

    __slots__ = (
        "at",
        "inner",
        "inner_bytes",
        "outer",
        "own_bytes",
        "own_s",
        "since",
        "since_beside_s",
        "since_grown",
        "weight",
    )

    def __init__(self) -> None:
        self.at: float = 0.0
        self.weight: float = 1.0
        self.outer: Part | None = None
        self.inner: int = 0
        self.inner_bytes: float = 0.0
        self.own_bytes: float = 0.0
        self.own_s: float = 0.0
        self.since: float = 0.0
        self.since_grown: float = 0.0
        self.since_beside_s: float = 0.0


class Sharing:
    """Those that run, and the sums. Not thread-safe: its owner holds a lock.

    What the outermost got, ``nobodys_bytes`` and ``passing_bytes`` add up to what memory grew by in all; the last is
    for those who passed without being read.
    """

    __slots__ = (
        "_active", "_crowded_s", "_grown", "_mixed_s", "_roots", "_used", "_weight", "at", "nobodys_bytes",
        "passing_bytes", "running",
    )  # fmt: skip

    def __init__(self, at: float) -> None:
        self.running: dict[Part, None] = {}
        self.at: float = at
        self.nobodys_bytes: float = 0.0
        self.passing_bytes: float = 0.0
        # Since ever: growth per weight of those active, seconds in which several were active, or outermost.
        self._grown = self._mixed_s = self._crowded_s = 0.0
        self._active = self._roots = 0
        self._weight = 0.0
        self._used: int | None = None

    def pass_time(self, at: float, used_bytes: int | None, passing_s: float = 0.0) -> None:
        """Share out what memory grew by since the last call; None when it could not be read.

        ``passing_s`` is for how long others passed meanwhile, added up; each of them has the weight 1.
        """
        active, lasted_s = self._active, at - self.at
        if used_bytes is not None:
            if self._used is not None:
                grown: float = used_bytes - self._used
                if passing_s > 0.0:
                    passed = grown * passing_s / (passing_s + self._weight * lasted_s)
                    self.passing_bytes += passed
                    grown -= passed
                if active:
                    self._grown += grown / self._weight
                else:
                    self.nobodys_bytes += grown
            self._used = used_bytes
        beside_s = min(passing_s, lasted_s)
        self._mixed_s += lasted_s if active > 1 else beside_s
        self._crowded_s += lasted_s if self._roots > 1 else beside_s
        self.at = at

    def begin(self, part: Part, outer: Part | None, weight: float = 1.0) -> None:
        """Let one run from now on, inside of another if that one runs."""
        if outer is not None and outer in self.running:
            part.outer = outer
            part.since_beside_s = self._mixed_s
            if not outer.inner:
                self._pause(outer)
            outer.inner += 1
        else:
            part.since_beside_s = self._crowded_s
            self._roots += 1
        part.weight = weight
        part.at = self.at
        self._resume(part)
        self.running[part] = None

    def _resume(self, part: Part) -> None:
        part.since, part.since_grown = self.at, self._grown
        self._active += 1
        self._weight += part.weight

    def _pause(self, part: Part) -> None:
        part.own_bytes += part.weight * (self._grown - part.since_grown)
        part.own_s += self.at - part.since
        self._active -= 1
        # Sums of floats drift: nobody weighs nothing.
        self._weight = self._weight - part.weight if self._active else 0.0

    def end(self, part: Part) -> tuple[float, float]:
        """Take one out that runs: the bytes it got with those inside, and for how many seconds others ran beside it."""
        del self.running[part]
        outer = part.outer
        if part.inner:
            self._roots += part.inner  # those that outlive it stand for themselves
        else:
            self._pause(part)
        got = part.own_bytes + part.inner_bytes
        if outer is not None and outer in self.running:
            outer.inner_bytes += got
            outer.inner -= 1
            if not outer.inner:
                self._resume(outer)
        else:
            self._roots -= 1
        part.outer = None
        return got, self._beside_s(part, outer)

    def _beside_s(self, part: Part, outer: Part | None) -> float:
        return (self._crowded_s if outer is None else self._mixed_s) - part.since_beside_s

    def under_way(self) -> list[tuple[Part, float, float]]:
        """Everybody who runs, oldest first: the bytes got so far with those inside, and seconds beside others."""
        found = list[tuple[Part, float, float]]()
        inside: dict[Part, float] = {}
        for part in reversed(self.running):  # inner ones before their outer ones
            got = inside.pop(part, 0.0) + part.inner_bytes + part.own_bytes
            got += 0.0 if part.inner else part.weight * (self._grown - part.since_grown)
            if part.outer is not None:
                inside[part.outer] = inside.get(part.outer, 0.0) + got
            found.append((part, got, self._beside_s(part, part.outer)))
        found.reverse()
        return found
