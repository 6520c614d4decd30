"""Problems: what the control API answers when it cannot do what was asked (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memguard.ext.asgi.wire import Send

__all__ = ["Problem", "send_problem"]


class Problem(Exception):
    """An answer that is no success: a status, what is wrong, and what to do.

    ``more`` are members of its own ("errors", "retry_after_s"), ``headers`` go on the answer.
    """

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: object) -> None:
        super().__init__(detail)
        self.status: int = status
        self.detail: str = detail
        self.headers: dict[str, str] = dict(headers or {})
        self.more: dict[str, object] = dict(more)

    @property
    def members(self) -> dict[str, object]:
        """The problem object."""
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, **self.more}

    @classmethod
    def later(cls, wait_s: float, detail: str) -> Problem:
        """Too often: 429, and when to come again."""
        seconds = max(1, round(wait_s + 0.5))
        return cls(429, detail, headers={"retry-after": str(seconds)}, retry_after_s=seconds)

    @classmethod
    def scarce(cls) -> Problem:
        """No memory is left even for this."""
        return cls(503, "there is no memory for this answer now: ask again soon", headers={"retry-after": "2"})


async def send_problem(problem: Problem, send: Send, *, close: bool = False) -> None:
    """Answer with a problem; ``close`` ends the connection too, for a body that nobody will read."""
    body = json.dumps(problem.members).encode()
    headers = {
        "content-type": "application/problem+json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **problem.headers,
        **({"connection": "close"} if close else {}),
    }
    raw: list[Any] = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
