"""Access: who may look, who may act. Everything is judged from the connection's scope, before anything is read."""

from __future__ import annotations

import hmac
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from memguard.ext.fastapi.pacing import Bucket
from memguard.ext.fastapi.problems import Problem
from memguard.values import value

if TYPE_CHECKING:
    from memguard.ext.asgi.wire import Scope

__all__ = ["Access", "Caller", "Headers", "is_local"]

# What proxies, load balancers and meshes add. Whatever begins with the second is one of theirs, too.
_FORWARDED = frozenset(
    {
        "forwarded", "via", "x-real-ip", "x-client-ip", "client-ip", "true-client-ip", "x-cluster-client-ip",
        "x-originating-ip", "x-remote-ip", "x-remote-addr", "x-host", "x-scheme", "x-proxyuser-ip", "proxy-connection",
        "x-request-start", "x-arr-ssl", "x-arr-log-id", "wl-proxy-client-ip", "max-forwards", "front-end-https",
        "x-url-scheme", "x-forwarded", "x-original-host", "x-original-url", "x-rewrite-url",
    }
)  # fmt: skip
_FORWARDED_PREFIXES = (
    "x-forwarded-", "x_forwarded_", "x-original-forwarded-", "x-envoy-", "x-appengine-", "cf-", "fastly-", "x-amz-cf-",
    "x-amzn-", "x-azure-", "x-goog-", "x-vercel-", "fly-", "x-traefik-",
)  # fmt: skip
# The only connection options that a direct client has. Others are a way to make a proxy drop the headers it added.
_CONNECTION = frozenset({"", "keep-alive", "close", "te", "upgrade"})
# Guessing a token: twenty at once, then one a second, of all clients together.
_GUESS_S, _GUESSES = 1.0, 20
_OFF = (
    "acting is off: give protect() a token=… and send it as 'Authorization: Bearer …', or allow direct clients of this "
    "machine with protect(…, local_actions=True) or MEMGUARD_LOCAL_ACTIONS=1"
)
_CHALLENGE = {"www-authenticate": 'Bearer realm="memguard"'}


@value
class Caller:
    """Who asks: ``who`` in words, ``acts`` whether he may change anything."""

    who: str
    acts: bool


class Headers:
    """A request's headers by lower-case name; one that comes twice keeps all its values."""

    def __init__(self, scope: Scope) -> None:
        self._values: dict[str, list[str]] = {}
        for name, sent in scope["headers"]:
            self._values.setdefault(name.decode("latin-1").lower(), []).append(sent.decode("latin-1").strip())

    def all(self, name: str) -> list[str]:
        """Every value of one name."""
        return self._values.get(name, [])

    def one(self, name: str) -> str | None:
        """The only value of one name; None without, or of several."""
        values = self.all(name)
        return values[0] if len(values) == 1 else None

    def names(self) -> list[str]:
        """All names."""
        return list(self._values)


def is_local(scope: Scope, headers: Headers) -> bool:
    """Whether a request comes straight from a client on this machine.

    Its address is the loopback's, its Host header names the loopback (a page of another site whose name was pointed
    here has its own), nothing says that it was forwarded, and it speaks HTTP/1.1 or newer: a proxy that adds no header
    at all usually speaks 1.0 (nginx before 1.29).
    """
    client = scope.get("client")
    if not client or not _is_loopback(str(client[0])) or scope.get("http_version") == "1.0":
        return False
    host = headers.one("host")
    if host is None or not _names_loopback(host):
        return False
    if any(name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES) for name in headers.names()):
        return False
    options = ",".join(headers.all("connection")).lower().split(",")
    return all(option.strip() in _CONNECTION for option in options)


def _is_loopback(address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


def _names_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


class Access:
    """The rule: looking is open to direct clients of this machine or with a token; acting as the application says.

    ``judged`` says that a dependency of the application's own decides, in place of both.
    """

    def __init__(self, *, token: str | None, local_actions: bool, judged: bool) -> None:
        self._token = None if token is None else token.encode()
        self._local_actions = local_actions
        self._judged = judged
        self._guesses = Bucket(every_s=_GUESS_S, burst=_GUESSES)

    @property
    def can_act(self) -> bool:
        """Whether anybody may act at all."""
        return self._token is not None or self._local_actions or self._judged

    def judge(self, scope: Scope, *, acting: bool) -> Caller:
        """Who this is.

        Raises:
            Problem: 401, 403 or 429, with what to do.
        """
        headers = Headers(scope)
        if acting:
            _refuse_other_sites(headers)
            _refuse_other_bodies(headers)
        address = str((scope.get("client") or ("a socket",))[0])
        if self._judged:
            return Caller(who=address, acts=True)
        if self._shows_token(headers):
            return Caller(who=f"a token's holder at {address}", acts=True)
        local = is_local(scope, headers)
        if not acting:
            if not local:
                raise self._unknown("looking is open to direct clients of this machine, and to those who have a token")
            _refuse_other_sites(headers)
            return Caller(who=f"{address} (local)", acts=self._local_actions)
        if local and self._local_actions:
            return Caller(who=f"{address} (local)", acts=True)
        if self._token is not None:
            raise self._unknown("acting needs the token: send it as 'Authorization: Bearer …'")
        raise Problem(403, _OFF)

    def _unknown(self, detail: str) -> Problem:
        if self._token is None:
            return Problem(403, f"{detail}; no token is set: give protect() one, or ask on the machine itself")
        return Problem(401, detail, headers=_CHALLENGE)

    def _shows_token(self, headers: Headers) -> bool:
        """Whether the right token was sent; one that is wrong is refused, wherever it comes from."""
        sent = headers.all("authorization")
        if self._token is None or not sent:
            return False  # without a token of ours the header is the application's own affair
        scheme, _, given = sent[0].partition(" ")
        right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
        if len(sent) == 1 and scheme.lower() == "bearer" and right:
            return True
        wait_s = self._guesses.take()
        if wait_s:
            raise Problem.later(wait_s, "too many wrong tokens: wait before the next")
        raise Problem(401, "that is not the token: send it as 'Authorization: Bearer …'", headers=_CHALLENGE)


def _refuse_other_sites(headers: Headers) -> None:
    """Browsers say where a request comes from; another site's pages neither look nor act here.

    Raises:
        Problem: 403.
    """
    site = headers.one("sec-fetch-site") if headers.all("sec-fetch-site") else "unknown"
    if site in {"same-origin", "none"}:
        return
    origins = headers.all("origin")
    if site == "unknown" and not origins:  # no browser
        return
    if site == "unknown" and len(origins) == 1 and _authority(origins[0]) == (headers.one("host") or "").lower():
        return
    raise Problem(403, "this request comes from another site's page: open the page of this service itself")


def _authority(origin: str) -> str | None:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in {"http", "https"} else None


def _refuse_other_bodies(headers: Headers) -> None:
    """A form, which any page can send anywhere, is no order.

    Raises:
        Problem: 415.
    """
    length = headers.all("content-length")
    if not headers.all("transfer-encoding") and all(value in {"", "0"} for value in length):
        return
    kind = (headers.one("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "a body must be JSON: send it with 'Content-Type: application/json'")
