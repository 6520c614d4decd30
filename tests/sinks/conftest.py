"""A small HTTP server that answers as a test wants."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Receiver:
    """Takes requests down and answers by ``answer``: (status, headers), or whatever it does to the connection."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str]] | None] = lambda _: (204, {})
        self.over = threading.Event()
        receiver = self

        class Handling(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                receiver.requests.append(
                    (self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                )
                answer = receiver.answer(self)
                if answer is not None:
                    self.send_response(answer[0])
                    for name, value in answer[1].items():
                        self.send_header(name, value)
                    self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handling)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.port: int = self._server.server_address[1]
        self.url: str = f"http://127.0.0.1:{self.port}/hook?key=secret"

    def close(self) -> None:
        """Stop serving, and let go who hangs."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server on a free port of the loopback."""
    made = Receiver()
    yield made
    made.close()
