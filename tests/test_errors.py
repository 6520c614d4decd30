"""One family of exceptions, which carry what their catcher needs."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from memguard import errors
from memguard.errors import AdmissionRefused, MemguardError, MissingExtra

_CLASSES = [getattr(errors, name) for name in errors.__all__]
_REFUSED = AdmissionRefused(
    "admission of 64.0 MiB refused: 1.91 of 2.00 GiB used",
    retry_after_s=2.0156,
    level="CRITICAL",
    wanted_bytes=64 << 20,
)


@pytest.mark.parametrize("kind", _CLASSES)
def test_one_family(kind: type[Exception]) -> None:
    """`except MemguardError` catches everything that memguard raises on purpose."""
    assert issubclass(kind, MemguardError)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        ("RulesError", ValueError),
        ("LimitNotFound", LookupError),
        ("AlreadyGuarding", RuntimeError),
        ("MissingExtra", ImportError),
    ],
)
def test_builtin_relatives(kind: str, builtin: type[Exception]) -> None:
    """Code that knows only Python's own exceptions catches ours by their nature."""
    assert issubclass(getattr(errors, kind), builtin)


def test_missing_extra_ends_with_the_command() -> None:
    """The text names the feature and ends with the command that mends it."""
    error = MissingExtra("the FastAPI adapter", "fastapi")
    assert str(error) == "the FastAPI adapter needs an optional package: pip install 'pymemguard[fastapi]'"
    assert (error.feature, error.extra) == ("the FastAPI adapter", "fastapi")


def test_refusal_as_problem() -> None:
    """A refusal becomes an RFC 9457 object: JSON, status 503, the words, and when to come back."""
    assert json.loads(json.dumps(_REFUSED.problem())) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "admission of 64.0 MiB refused: 1.91 of 2.00 GiB used",
        "level": "CRITICAL",
        "retry_after_s": 2.016,
    }


@pytest.mark.parametrize("copier", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301 - our own
@pytest.mark.parametrize("error", [_REFUSED, MissingExtra("the demo", "demo"), errors.RulesError("rule x=1: no")])
def test_errors_travel(error: MemguardError, copier: object) -> None:
    """An error that crosses to another process arrives whole."""
    assert callable(copier)
    back = copier(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)
