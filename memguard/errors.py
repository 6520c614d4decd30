"""Every exception that memguard raises on purpose, one family."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "AdmissionRefused",
    "AlreadyGuarding",
    "CageUnavailable",
    "FeatureOff",
    "LimitNotFound",
    "MemguardError",
    "MissingExtra",
    "PoolFull",
    "RulesError",
    "StateTooLarge",
    "StateUnreadable",
]


class MemguardError(Exception):
    """Any error that memguard raises on purpose."""


class RulesError(MemguardError, ValueError):
    """A setting that cannot be meant: the text names the setting, the value, its source and the mend."""


class LimitNotFound(MemguardError, LookupError):
    """No memory limit could be found where one was demanded."""


class AlreadyGuarding(MemguardError, RuntimeError):
    """A guard was started twice, or a second guard over the same roster."""


class CageUnavailable(MemguardError, RuntimeError):
    """A test cage cannot stand here, or was used outside its ``with`` block; the text says why."""


class MissingExtra(MemguardError, ImportError):
    """A feature needs a package that is not installed; the text ends with the install command."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional package: pip install 'pymemguard[{extra}]'")
        self.feature = feature
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.feature, self.extra)


class AdmissionRefused(MemguardError):
    """Work was refused because its memory would not fit now.

    ``retry_after_s`` is a hint in seconds, ``level`` the name of the level at the time ("CRITICAL"),
    ``wanted_bytes`` what was asked for (None when the caller could not say), ``never`` whether it would not fit even
    with everything else gone.
    """

    never: bool = False

    def __init__(self, reason: str, *, retry_after_s: float, level: str, wanted_bytes: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.level = level
        self.wanted_bytes = wanted_bytes

    def __reduce__(self) -> tuple[Callable[..., AdmissionRefused], tuple[object, ...], dict[str, object]]:
        known = type(self), self.reason, self.retry_after_s, self.level, self.wanted_bytes
        return _refused_again, known, dict(vars(self))

    def problem(self) -> dict[str, object]:
        """The refusal as an RFC 9457 problem object, ready for ``application/problem+json``."""
        return self._problem(self.retry_after_s)

    def answer(self, spread: float) -> tuple[dict[str, object], int | None]:
        """What a host answers: the problem object, and the ``Retry-After`` in seconds (None: it can never fit).

        Waits are 1 s at least and stretched by ``spread``, a random share from 0 to 1 of the host's, or all who were
        refused would come at once.
        """
        if self.never:
            return self.problem(), None
        wait_s = max(1.0, self.retry_after_s) * (1.0 + spread)
        return self._problem(wait_s), int(wait_s)

    def _problem(self, retry_after_s: float) -> dict[str, object]:
        title, status = ("Content Too Large", 413) if self.never else ("Service Unavailable", 503)
        problem = {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": self.reason,
            "level": self.level,
        }
        return problem if self.never else {**problem, "retry_after_s": round(retry_after_s, 3)}


def _refused_again(
    kind: type[AdmissionRefused], reason: str, retry_after_s: float, level: str, wanted_bytes: int | None
) -> AdmissionRefused:
    """A refusal that came from another process: pickle knows no keywords."""
    return kind(reason, retry_after_s=retry_after_s, level=level, wanted_bytes=wanted_bytes)


class PoolFull(AdmissionRefused):
    """A pool has no place for one more agent, or no memory for it; ``pool`` is the pool's name."""

    pool: str = ""


class FeatureOff(AdmissionRefused):
    """A function was called while its feature is off and it has no fallback; ``feature`` is the feature's name."""

    feature: str = ""


class StateTooLarge(MemguardError, ValueError):
    """A state does not fit, however small it is made; nothing was kept of it, and nothing of the others was dropped.

    ``state`` is its key, ``size_bytes`` what it takes as an object, ``limit_bytes`` what it may. The text ends with the
    mend.
    """

    def __init__(self, reason: str, *, state: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.state = state
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __reduce__(self) -> tuple[Callable[..., StateTooLarge], tuple[object, ...]]:
        return _too_large_again, (type(self), self.reason, self.state, self.size_bytes, self.limit_bytes)


def _too_large_again(
    kind: type[StateTooLarge], reason: str, state: str, size_bytes: int, limit_bytes: int
) -> StateTooLarge:
    return kind(reason, state=state, size_bytes=size_bytes, limit_bytes=limit_bytes)


class StateUnreadable(MemguardError, RuntimeError):
    """The bytes of a packed or spilled state cannot be turned into an object now; they are kept.

    No ``KeyError``: ``get(key, default)`` must not answer that there is none. ``state`` is the key.
    """

    def __init__(self, reason: str, *, state: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.state = state

    def __reduce__(self) -> tuple[Callable[..., StateUnreadable], tuple[object, ...]]:
        return _unreadable_again, (type(self), self.reason, self.state)


def _unreadable_again(kind: type[StateUnreadable], reason: str, state: str) -> StateUnreadable:
    return kind(reason, state=state)
