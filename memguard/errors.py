"""Every exception that memguard raises on purpose, one family."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "AdmissionRefused",
    "AlreadyGuarding",
    "CageUnavailable",
    "LimitNotFound",
    "MemguardError",
    "MissingExtra",
    "RulesError",
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
    ``wanted_bytes`` what was asked for (None when the caller could not say).
    """

    def __init__(self, reason: str, *, retry_after_s: float, level: str, wanted_bytes: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.level = level
        self.wanted_bytes = wanted_bytes

    def __reduce__(self) -> tuple[Callable[..., AdmissionRefused], tuple[object, ...]]:
        return _refused_again, (type(self), self.reason, self.retry_after_s, self.level, self.wanted_bytes)

    def problem(self) -> dict[str, object]:
        """The refusal as an RFC 9457 problem object, ready for ``application/problem+json``."""
        return {
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "detail": self.reason,
            "level": self.level,
            "retry_after_s": round(self.retry_after_s, 3),
        }


def _refused_again(
    kind: type[AdmissionRefused], reason: str, retry_after_s: float, level: str, wanted_bytes: int | None
) -> AdmissionRefused:
    """A refusal that came from another process: pickle knows no keywords."""
    return kind(reason, retry_after_s=retry_after_s, level=level, wanted_bytes=wanted_bytes)
