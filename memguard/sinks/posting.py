"""Posting: one HTTP request that ends in a bounded time, whatever the other side does."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from memguard.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["httpx_client", "post"]

Sent = tuple[int, str, str | None]
"""Status, Location, Retry-After."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: who is asked decides."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401 - the parent's signature
        """No request to go on with."""
        return


class _Watched:
    """Opens connections and remembers them, so that they can be cut: a timeout bounds each read and not all of them."""

    def __init__(self) -> None:
        self._connections: list[http.client.HTTPConnection] = []
        self.cut = False

    def __call__(self, kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
        """A maker of such connections."""

        def make(*args: Any, **kwargs: Any) -> http.client.HTTPConnection:  # noqa: ANN401 - http.client's
            connection = kind(*args, **kwargs)
            self._connections.append(connection)
            return connection

        return make

    def end(self) -> None:
        """Cut them."""
        self.cut = True
        for connection in self._connections:
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)


def _opener(watched: _Watched) -> urllib.request.OpenerDirector:
    class Plain(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            made: Any = watched(http.client.HTTPConnection)
            return self.do_open(made, request)

    class Secure(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            made: Any = watched(http.client.HTTPSConnection)
            return self.do_open(made, request)  # without a context of ours: the default one checks certificates

    return urllib.request.build_opener(_Stay, Plain, Secure)


def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Sent:
    """Post once: status, Location, Retry-After.

    Raises:
        OSError: no answer in time, or none at all.
    """
    watched = _Watched()
    request = urllib.request.Request(url, data=body, headers=dict(headers), method="POST")  # noqa: S310 - the caller checks
    timer = threading.Timer(timeout_s, watched.end)
    timer.daemon = True
    timer.start()
    try:
        with _opener(watched).open(request, timeout=timeout_s) as answer:
            if watched.cut:  # the connection's end looks like the end of the headers
                raise TimeoutError
            return answer.status, answer.headers.get("Location", ""), answer.headers.get("Retry-After")
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.headers.get("Location", ""), answer.headers.get("Retry-After")
    except http.client.HTTPException as error:
        if watched.cut:
            raise TimeoutError(f"no answer within {timeout_s:g} s") from None
        raise OSError(f"no answer that is HTTP: {type(error).__name__}: {error}") from None
    except OSError as error:
        if watched.cut:
            raise TimeoutError(f"no answer within {timeout_s:g} s") from None
        reason = getattr(error, "reason", error)
        raise reason if isinstance(reason, OSError) else OSError(str(reason)) from None
    finally:
        timer.cancel()


def httpx_client() -> Callable[[str, bytes, Mapping[str, str], float], Sent]:
    """The same by httpx.

    Raises:
        MissingExtra: httpx is not installed.
    """
    try:
        import httpx  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtra("a webhook by httpx", "webhook") from None
    client = httpx.Client(follow_redirects=False)

    def send(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Sent:
        try:
            answer = client.post(url, content=body, headers=dict(headers), timeout=timeout_s)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OSError(f"{type(error).__name__}: {error}") from None
        return answer.status_code, answer.headers.get("Location", ""), answer.headers.get("Retry-After")

    return send
