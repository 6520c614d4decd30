"""The control API under raw sockets: headers that hide something, and clients that never read."""

from __future__ import annotations

import re
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

LOOK, ACT, STREAM = "/api/v1/monitoring/memory", "/api/v1/system/gc", "/api/v1/monitoring/stream"


def _say(base: str, text: str) -> bytes:
    """Write exactly this; what comes back first."""
    port = int(base.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(text.replace("\n", "\r\n").encode())
        return line.recv(65536)


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-For : 10.0.0.9", "X-Forwarded-For: 10.0.0.9", "x-FORWARDED-for:10.0.0.9",
        "X_Forwarded_For: 1.2.3.4",
        "Host: evil.example", "Connection: close, X-Forwarded-For", "Via: 1.1 a", "Forwarded: for=127.0.0.1",
        "Sec-Fetch-Site: cross-site", "Origin: null", "Content-Length: 4\nTransfer-Encoding: chunked",
        "Content-Length: 0\nContent-Length: 5",
    ],
)  # fmt: skip
def test_nothing_is_smuggled(base: str, header: str) -> None:
    """A header that says "forwarded", however it is written, or that reads two ways, is never an order from here."""
    answer = _say(base, f"POST {ACT} HTTP/1.1\nHost: localhost\n{header}\n\n")
    assert not answer.startswith(b"HTTP/1.1 200"), answer[:200]


def test_old_and_odd_lines(base: str) -> None:
    """HTTP/1.0 is a proxy's; a path that is written in another way is not let in beside the door."""
    assert not _say(base, f"GET {LOOK} HTTP/1.0\nHost: localhost\n\n").startswith(b"HTTP/1.1 200")
    for path in (
        "/api/v1/system//gc",
        "/api/v1/./system/gc",
        "/api/v1/system/gc/",
        "/API/v1/system/gc",
        "//api/v1/system/gc",
    ):
        answer = _say(base, f"POST {path} HTTP/1.1\nHost: evil.example\nX-Forwarded-For: 1.2.3.4\n\n")
        assert b"freed_mb" not in answer, path
    encoded = _say(base, "POST /api/v1/%73ystem/gc HTTP/1.1\nHost: evil.example\n\n")
    assert encoded.startswith(b"HTTP/1.1 403"), "the same path, and judged as such"


def test_clients_that_never_read(base: str) -> None:
    """Forty pages that never read a byte take no growing memory, and others are answered as before."""
    pid = httpx.get(f"{base}{LOOK}").json()["process"]["pid"]
    port = int(base.rsplit(":", 1)[1])

    def rss_kb() -> int:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        assert found is not None
        return int(found[1])

    with ExitStack() as lines:
        for _ in range(40):
            line = lines.enter_context(socket.socket())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            line.connect(("127.0.0.1", port))
            line.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 50)
        time.sleep(1.5)
        before = rss_kb()
        time.sleep(3.0)
        assert rss_kb() - before < 4096
        assert httpx.get(f"{base}{LOOK}").status_code == 200
        assert httpx.get(f"{base}{STREAM}").status_code == 429
