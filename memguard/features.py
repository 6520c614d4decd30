"""Features: parts of a service that switch themselves off under memory pressure, and back on."""

from __future__ import annotations

import functools
from _thread import RLock
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, overload

from memguard.errors import FeatureOff
from memguard.model import Event, Level
from memguard.units import format_seconds
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.model import Snapshot
    from memguard.ports import Clock

__all__ = ["Feature", "FeatureRow", "Features"]

F = TypeVar("F", bound="Callable[..., Any]")

_NONE: Final = object()


@value
class FeatureRow:
    """One feature as it stands: whether it is on, since when (``at``), how often it changed.

    ``forced`` is what a person decided (None: the level decides). ``off_s`` is for how long it has been off in all,
    ``skipped`` how many calls of decorated functions did not run for it.
    """

    name: str
    on: bool
    off_at: Level
    forced: bool | None
    at: float
    changes: int
    off_s: float
    skipped: int


class Feature:
    """Part of a service that is off from a level on: truthy while it is on, and a decorator.

    It comes back when the guard's level falls below ``off_at``; the ladder's hysteresis and dwell keep it from
    flapping. Asking costs 40 ns and never blocks.

    >>> feature = Features(clock=lambda: 0.0).feature("embeddings")
    >>> "dense" if feature else "keywords"
    'dense'
    """

    __slots__ = ("_all", "_at", "_changes", "_forced", "_off_s", "_on", "_skipped", "name", "off_at")

    def __init__(self, features: Features, name: str, off_at: Level) -> None:
        self._all = features
        self._forced: bool | None = None
        self._on = True
        self._at = features.clock()
        self._changes = 0
        self._off_s = 0.0
        self._skipped = 0
        self.name: str = name
        self.off_at: Level = off_at

    def __bool__(self) -> bool:
        return self._on

    @property
    def forced(self) -> bool | None:
        """What a person decided; None while the level decides."""
        return self._forced

    def force(self, on: bool | None) -> None:  # noqa: FBT001 - force(True) reads as what it does
        """Keep it on or off whatever the pressure, until ``force(None)`` leaves it to the level again."""
        if on is not None and not isinstance(cast("object", on), bool):
            raise TypeError(f"feature {self.name!r}: force({on!r}) cannot be meant: write True, False or None")
        self._forced = on
        self.judge(self._all.level)

    def judge(self, level: Level) -> None:
        """Be on or off as the level and a person's word want it (called when either changes)."""
        with self._all.lock:
            on = level < self.off_at if self._forced is None else self._forced
            if on is self._on:
                return
            now = self._all.clock()
            lasted_s, self._at = max(0.0, now - self._at), now
            self._off_s += lasted_s if on else 0.0
            self._changes += 1
            self._on = on
        why = "by hand" if self._forced is not None else f"at {level.name}"
        text = f"feature {self.name!r} is {'on' if on else 'off'} {why}"
        if on:
            text += f", after {format_seconds(lasted_s)}"
        told: dict[str, str | bool] = {
            "name": self.name,
            "on": on,
            "level": level.name,
            "forced": self._forced is not None,
        }
        self._all.tell(Event(at=now, name="feature.changed", text=text, attributes=told))

    def row(self) -> FeatureRow:
        """How it stands now."""
        off_s = self._off_s + (0.0 if self._on else max(0.0, self._all.clock() - self._at))
        return FeatureRow(
            name=self.name, on=self._on, off_at=self.off_at, forced=self._forced, at=self._at,
            changes=self._changes, off_s=off_s, skipped=self._skipped,
        )  # fmt: skip

    @overload
    def __call__(self, function: F, /, *, fallback: object = ...) -> F: ...

    @overload
    def __call__(self, function: None = None, /, *, fallback: object = ...) -> Callable[[F], F]: ...

    def __call__(self, function: Any = None, /, *, fallback: object = _NONE) -> Any:
        """Decorate a function, ``async`` or not: while the feature is off the fallback answers in its place.

        ``fallback`` is called with the same arguments (and awaited where that is due); what cannot be called is the
        answer itself. Without one, ``FeatureOff`` is raised: an ``AdmissionRefused``, which hosts answer with 503.
        """
        if function is None:

            def decorate(decorated: Callable[..., Any]) -> Callable[..., Any]:
                return self(decorated, fallback=fallback)

            return decorate
        if not callable(function):
            raise TypeError(f"feature {self.name!r} decorates functions, not {function!r}")
        from inspect import isawaitable, iscoroutinefunction  # noqa: PLC0415 - 5 ms that only a decorator needs

        def instead(args: tuple[object, ...], kwargs: dict[str, object]) -> object:
            self._skipped += 1
            if fallback is _NONE:
                raise self._refusal()
            return fallback(*args, **kwargs) if callable(fallback) else fallback

        if iscoroutinefunction(function):

            @functools.wraps(function)
            async def waits(*args: object, **kwargs: object) -> object:
                if self._on:
                    return await function(*args, **kwargs)
                answer = instead(args, kwargs)
                return await answer if isawaitable(answer) else answer

            return waits

        @functools.wraps(function)
        def runs(*args: object, **kwargs: object) -> object:
            return function(*args, **kwargs) if self._on else instead(args, kwargs)

        return runs

    def _refusal(self) -> FeatureOff:
        level = self._all.level
        why = "by hand" if self._forced is not None else f"from {self.off_at.name} on, and memory is at {level.name}"
        retry_s = self._all.retry_after_s
        text = f"feature {self.name!r} is off {why}; retry in about {format_seconds(retry_s)}, or give it a fallback"
        refused = FeatureOff(text, retry_after_s=retry_s, level=level.name)
        refused.feature = self.name
        return refused

    def __repr__(self) -> str:
        forced = "" if self._forced is None else ", by hand"
        return f"<Feature {self.name!r} {'on' if self._on else 'off'}, off at {self.off_at.name}{forced}>"


class Features:
    """All features of a guard; ``show`` is called with each of its snapshots.

    Args:
        clock: monotonic seconds.
        tell: is told each change, as an event.
        act: False leaves all features on (mode "observe").
        retry_after_s: the hint in refusals.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        tell: Callable[[Event], None] = lambda _event: None,
        act: bool = True,
        retry_after_s: float = 2.0,
    ) -> None:
        self.clock: Clock = clock
        self.tell: Callable[[Event], None] = tell
        self.retry_after_s: float = retry_after_s
        self.level: Level = Level.OK
        self.lock: RLock = RLock()  # a sink or a signal handler may come back in
        self._act = act
        self._features: dict[str, Feature] = {}

    def feature(self, name: str, *, off_at: Level | str = Level.WARNING) -> Feature:
        """The feature of that name, made at the first call.

        Raises:
            TypeError: the name is no text, or ``off_at`` no level.
            ValueError: a blank name, ``off_at=OK``, or another ``off_at`` than the first time.
        """
        if not isinstance(cast("object", name), str) or not name.strip():
            error = ValueError if isinstance(cast("object", name), str) else TypeError
            raise error(f"a feature needs a name, not {name!r}: write feature('embeddings')")
        wanted = _level(name, off_at)
        found = self._features.get(name)
        if found is None:
            made = Feature(self, name, wanted)
            found = self._features.setdefault(name, made)
            if found is made:
                found.judge(self.level)
        if found.off_at is not wanted:
            raise ValueError(
                f"feature {name!r} goes off at {found.off_at.name} since it was first named, not at {wanted.name}: "
                "keep one level, or take another name"
            )
        return found

    def show(self, snapshot: Snapshot) -> None:
        """Judge all features by a new snapshot; costs next to nothing while its level is the old one."""
        level = snapshot.level
        if level is self.level or not self._act:
            return
        self.level = level
        for feature in tuple(self._features.values()):
            feature.judge(level)

    def forget(self) -> None:
        """In a forked child: the lock may be held by a thread that no longer exists."""
        self.lock = RLock()

    def rows(self) -> tuple[FeatureRow, ...]:
        """Every feature as it stands, oldest first."""
        return tuple(feature.row() for feature in tuple(self._features.values()))


def _level(name: str, off_at: object) -> Level:
    if isinstance(off_at, str) and off_at.upper() in Level.__members__:
        off_at = Level[off_at.upper()]
    if not isinstance(off_at, Level):
        names = ", ".join(level.name for level in Level if level)
        raise TypeError(f"feature {name!r}: off_at={off_at!r} is no level: choose one of {names}")
    if off_at is Level.OK:
        raise ValueError(f"feature {name!r}: off_at=OK would keep it off for ever: choose ELEVATED or higher")
    return off_at
