"""The webhook: alerts as JSON to an address of the operator's, tried again while it fails, never waited for."""

from __future__ import annotations

import email.utils
import hashlib
import hmac
import json
import os
import random
import socket
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from memguard.errors import MemguardError
from memguard.threads import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from memguard.model import Event
    from memguard.sinks.meters import Watched

__all__ = ["Answer", "WebhookError", "WebhookSink", "signature", "urllib_post"]

_ALERTS = frozenset({"alert.raised", "alert.eased", "alert.resolved"})
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPS = 3
# Waits between tries double from one second on; a server that asks for more gets at most a minute.
_FIRST_S = 1.0
_LONGEST_S = 60.0
_TOO_MANY = 429
_SERVER = 500


class WebhookError(MemguardError, OSError):
    """A webhook did not take an alert; the text says what it answered, and to whom it was sent."""


class Answer(NamedTuple):
    """What a server answered: status, where it sends us (""), and when to come again (None)."""

    status: int
    location: str = ""
    retry_after: str | None = None


class WebhookSink:
    """Posts what it is told to one address, as JSON: level, numbers, cause, what was done, link.

    One that answers 2xx has taken it. A timeout, a broken connection, 429 and 5xx are tried again, ``tries`` in all,
    each within ``timeout_s``; what is told meanwhile waits in a bounded queue. Redirects are followed to the same host
    alone. Certificates are checked.

    Args:
        url: where to.
        secret: signs each body with HMAC-SHA256 in the header ``Memguard-Signature``; see ``signature``.
        events: names of the events that are sent.
        link: where people find more; sent along.
        service: the service's name; by default ``OTEL_SERVICE_NAME``, or else the host's.
        headers: sent along ({"Authorization": "Bearer …"}).
        timeout_s: longest time of one try, from the connection to the answer.
        tries: how often in all.
        post: sends one request; by default urllib does, ``httpx_post()`` is there for those who have httpx.

    Raises:
        ValueError: an address that is neither http nor https, or names no host.
    """

    name = "webhook"
    slow = True

    def __init__(  # noqa: PLR0913 - options, all but the address with a default
        self,
        url: str,
        *,
        secret: str | bytes | None = None,
        events: Container[str] = _ALERTS,
        link: str | None = None,
        service: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
        tries: int = 5,
        post: Callable[[str, bytes, Mapping[str, str], float], Answer] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"webhook {url!r} is no address: write it like 'https://alerts.example/hook'")
        if tries < 1 or not timeout_s > 0.0:
            raise ValueError(f"webhook: tries={tries} must be 1 or more, timeout_s={timeout_s} above 0")
        self._url = url
        self._secret = secret.encode() if isinstance(secret, str) else secret
        self._events = events
        self._link = link
        self._service = service or os.environ.get("OTEL_SERVICE_NAME") or socket.gethostname()
        self._headers = dict(headers or {})
        self._timeout_s = timeout_s
        self._tries = tries
        self._post = urllib_post if post is None else post
        self._hurry = Bell()
        self._ending = self._gave_up = False
        self._clock: Callable[[], float] = time.monotonic
        self.sent: int = 0
        self.lost: int = 0

    def attach(self, guard: Watched) -> None:
        """Take instants from this guard's clock."""
        self._clock = guard.now

    def forget(self) -> None:
        """In a forked child: nobody waits."""
        self._hurry, self._ending, self._gave_up = Bell(), False, False

    def hurry(self) -> None:
        """The guard stops: what waits to be tried again is tried at once, and only once."""
        self._ending = True
        self._hurry.ring()

    def close(self) -> None:
        """The last event is through; another start begins anew."""
        self._hurry, self._ending, self._gave_up = Bell(), False, False

    def __call__(self, event: Event, /) -> None:
        """Send one event, if it is one of those that are sent.

        Raises:
            WebhookError: nobody took it.
        """
        if event.name not in self._events:
            return
        body = json.dumps(self.payload(event), default=str).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "memguard",
            "Memguard-Delivery": str(uuid.uuid4()),  # the same for every try: a receiver can tell repeats
            **self._headers,
        }
        try:
            self._deliver(body, headers)
        except WebhookError:
            self.lost += 1
            self._gave_up = self._ending
            raise
        self.sent += 1

    def payload(self, event: Event) -> dict[str, object]:
        """What is sent for an event: the event's attributes among who, when and where."""
        known: dict[str, Any] = dict(event.attributes)
        name = known.pop("alert", event.name)
        wall_s = time.time() - (self._clock() - event.at)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_s))
        return {
            "event": event.name,
            "status": "resolved" if event.name == "alert.resolved" else "firing",
            "alert": name,
            "severity": known.pop("severity", None),
            "text": f"[{self._service}] {event.text}",
            "service": self._service,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "timestamp": f"{stamp}.{int(wall_s % 1 * 1000):03d}Z",
            # One alert of a service on a host, whichever of its processes tells of it.
            "dedup_key": f"{self._service}/{socket.gethostname()}/{name}",
            "cause": known.pop("cause", ""),
            "done": known.pop("done", ""),
            "link": self._link,
            "numbers": known,
        }

    def _deliver(self, body: bytes, headers: Mapping[str, str]) -> None:
        if self._gave_up:  # at a stop each of those that wait would take the same time for nothing
            raise WebhookError(f"webhook {self._shown} took no alert before the guard stopped")
        why, wait_s, tried = "", _FIRST_S, 0
        while tried < self._tries:
            if tried and (self._ending or self._hurry.wait(wait_s * random.uniform(0.8, 1.2))):  # noqa: S311 - jitter
                break
            if tried:
                wait_s = min(wait_s * 2.0, _LONGEST_S)
            tried += 1
            try:
                answer = self._follow(body, self._signed(body, headers))
            except WebhookError:
                raise
            except OSError as error:
                why = f"{type(error).__name__}: {error}"
                continue
            if self._taken(answer):
                return
            why = f"it answered {answer.status}"
            wait_s = max(wait_s, min(_seconds(answer.retry_after), _LONGEST_S))
        tries = "1 try" if tried == 1 else f"{tried} tries"
        raise WebhookError(f"webhook {self._shown} took no alert in {tries}: {why}")

    def _signed(self, body: bytes, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers of one try: the time in a signature is that try's."""
        if self._secret is None:
            return headers
        return {**headers, "Memguard-Signature": signature(self._secret, body, at=int(time.time()))}

    def _taken(self, answer: Answer) -> bool:
        """Whether the alert was taken; False when another try may help."""
        if answer.status // 100 == 2:  # noqa: PLR2004 - the class of success
            return True
        if answer.status == _TOO_MANY or answer.status >= _SERVER:
            return False
        raise WebhookError(
            f"webhook {self._shown} refused the alert: it answered {answer.status}; look at its address and headers"
        )

    @property
    def _shown(self) -> str:
        """The address without what may be secret in it: path, query, user."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")

    def _follow(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post, and post again where the same host sends us."""
        url = self._url
        for _ in range(_HOPS + 1):
            answer = self._post(url, body, headers, self._timeout_s)
            if answer.status not in _REDIRECTS:
                return answer
            there = urljoin(url, answer.location)
            if not _same_host(url, there):
                host = urlsplit(there).hostname
                raise WebhookError(
                    f"webhook {self._shown} redirects to another host, {host!r}, which is refused: name that address "
                    "itself if it is right"
                )
            url = there
        raise WebhookError(f"webhook {self._shown} redirects in circles: {_HOPS} redirects were followed")


def _same_host(one: str, other: str) -> bool:
    """Whether an address leads to the same host and port; from http to https is fine, back is not."""
    a, b = urlsplit(one), urlsplit(other)
    if b.scheme not in _PORTS or a.hostname != b.hostname:
        return False
    if a.scheme == "http" and b.scheme == "https":
        return True
    return a.scheme == b.scheme and (a.port or _PORTS[a.scheme]) == (b.port or _PORTS[b.scheme])


def _seconds(retry_after: str | None) -> float:
    """Retry-After as seconds: a number, or a date."""
    if not retry_after:
        return 0.0
    if retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def signature(secret: bytes, body: bytes, *, at: int) -> str:
    """The header's value: ``t=<seconds since 1970>,v1=<hex HMAC-SHA256 of "<t>.<body>">``.

    >>> signature(b"s3cret", b"{}", at=1700000000)[:24]
    't=1700000000,v1=97926816'
    """
    digest = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def urllib_post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
    """Post by the standard library, with the environment's proxies; redirects are answered, not followed.

    Raises:
        OSError: no answer in time, or none at all.
    """
    from memguard.sinks.posting import post  # noqa: PLC0415 - 8 MB of http and TLS, for the first alert

    return Answer(*post(url, body, headers, timeout_s))


def httpx_post() -> Callable[[str, bytes, Mapping[str, str], float], Answer]:
    """Post by httpx, with its pool of connections.

    Raises:
        MissingExtra: httpx is not installed.
    """
    from memguard.sinks.posting import httpx_client  # noqa: PLC0415 - as above

    post = httpx_client()
    return lambda url, body, headers, timeout_s: Answer(*post(url, body, headers, timeout_s))
