"""The webhook: what it sends, whom it trusts, and that nobody waits for it."""

from __future__ import annotations

import json
import ssl
import time
from typing import TYPE_CHECKING

import pytest

from memguard.model import Event
from memguard.sinks import webhook
from memguard.sinks.webhook import Answer, WebhookError, WebhookSink, httpx_post, signature
from memguard.telling import Teller
from memguard.testing import RecordingSink
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from http.server import BaseHTTPRequestHandler

    from tests.sinks.conftest import Receiver

RAISED = Event(
    at=100.0,
    name="alert.raised",
    text="SEV-1 memory: 500.0 MiB of 512.0 MiB used (98%, emergency)",
    attributes={"alert": "memory", "severity": "SEV-1", "cause": "growing", "done": "3 attempts", "used_bytes": 1},
)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(webhook, "_FIRST_S", 0.001)
    monkeypatch.setattr(webhook, "_LONGEST_S", 0.01)


def test_one_message_an_alert(receiver: Receiver) -> None:
    """A POST of JSON with severity, numbers, cause, deeds, link, service and a key for its delivery."""
    sink = WebhookSink(receiver.url, service="chat", link="https://chat.example/memguard", headers={"X-Team": "ml"})
    sink(RAISED)
    ((path, headers, body),) = receiver.requests
    assert path == "/hook?key=secret"
    assert headers["content-type"] == "application/json"
    assert headers["x-team"] == "ml"
    assert len(headers["memguard-delivery"]) == 36
    sent = json.loads(body)
    assert (sent["alert"], sent["severity"], sent["cause"], sent["done"]) == (
        "memory",
        "SEV-1",
        "growing",
        "3 attempts",
    )
    assert sent["text"].startswith("[chat] SEV-1 memory: 500.0 MiB")
    assert sent["numbers"] == {"used_bytes": 1}
    assert sent["link"] == "https://chat.example/memguard"
    assert sent["timestamp"].endswith("Z")
    assert sink.sent == 1


def test_other_events_are_not_sent(receiver: Receiver) -> None:
    """Only alerts by default; others when they are asked for."""
    WebhookSink(receiver.url)(Event(at=0.0, name="guard.started", text="x"))
    assert receiver.requests == []
    WebhookSink(receiver.url, events={"guard.started"})(Event(at=0.0, name="guard.started", text="x"))
    assert len(receiver.requests) == 1


def test_the_signature_can_be_checked(receiver: Receiver) -> None:
    """The header is HMAC-SHA256 over time and body; another secret or body does not match."""
    WebhookSink(receiver.url, secret=b"s3cret")(RAISED)
    _, headers, body = receiver.requests[0]
    at = int(headers["memguard-signature"].split(",")[0].removeprefix("t="))
    assert abs(at - time.time()) < 60
    assert headers["memguard-signature"] == signature(b"s3cret", body, at=at)
    assert headers["memguard-signature"] != signature(b"other", body, at=at)
    assert headers["memguard-signature"] != signature(b"s3cret", body + b" ", at=at)


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_what_may_pass_is_tried_again(receiver: Receiver, status: int) -> None:
    """Two failures and a success are one delivery, under one key, with the very same body."""
    answers = iter([status, status, 200])
    receiver.answer = lambda _: (next(answers), {})
    WebhookSink(receiver.url)(RAISED)
    assert len(receiver.requests) == 3
    assert len({headers["memguard-delivery"] for _, headers, _ in receiver.requests}) == 1
    assert len({body for _, _, body in receiver.requests}) == 1


def test_it_gives_up_and_says_so(receiver: Receiver) -> None:
    """A server that is always broken is tried so often and no more; the error names status and host, no secret."""
    receiver.answer = lambda _: (500, {})
    sink = WebhookSink(receiver.url, tries=3)
    with pytest.raises(WebhookError, match=r"took no alert in 3 tries: it answered 500") as caught:
        sink(RAISED)
    assert len(receiver.requests) == 3
    assert "secret" not in str(caught.value)
    assert sink.lost == 1


def test_a_refusal_is_not_repeated(receiver: Receiver) -> None:
    """404 means a wrong address: one try."""
    receiver.answer = lambda _: (404, {})
    with pytest.raises(WebhookError, match="answered 404"):
        WebhookSink(receiver.url)(RAISED)
    assert len(receiver.requests) == 1


def test_nobody_there() -> None:
    """A refused connection is an error in words."""
    with pytest.raises(WebhookError, match=r"2 tries: ConnectionRefusedError"):
        WebhookSink("http://127.0.0.1:9/x", tries=2)(RAISED)


def _hang(receiver: Receiver, _: BaseHTTPRequestHandler) -> None:
    receiver.over.wait(30.0)


def _drip(receiver: Receiver, handling: BaseHTTPRequestHandler) -> None:
    try:
        handling.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(300):
            handling.wfile.write(b"X-A: b\r\n")
            handling.wfile.flush()
            receiver.over.wait(0.1)
    except OSError:
        pass


@pytest.mark.parametrize("way", [_hang, _drip])
def test_one_that_hangs_is_left(receiver: Receiver, way: Callable[[Receiver, BaseHTTPRequestHandler], None]) -> None:
    """A server that never answers, or one byte at a time, holds the sink for the timeout alone."""
    receiver.answer = lambda handling: way(receiver, handling)
    began = time.monotonic()
    with pytest.raises(WebhookError, match="1 try: TimeoutError"):
        WebhookSink(receiver.url, tries=1, timeout_s=0.3)(RAISED)
    assert time.monotonic() - began < 5.0


def test_what_is_no_http(receiver: Receiver) -> None:
    """Rubbish instead of HTTP is an error like any other."""

    def rubbish(handling: BaseHTTPRequestHandler) -> None:
        handling.wfile.write(b"\x00\x01 hello\r\n\r\n")

    receiver.answer = rubbish
    with pytest.raises(WebhookError, match="no answer that is HTTP"):
        WebhookSink(receiver.url, tries=1)(RAISED)


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost:{port}/x",
        "http://127.0.0.1:1/x",
        "//169.254.169.254/latest",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
    ],
)
def test_redirects_to_others_are_refused(receiver: Receiver, location: str) -> None:
    """Another host, another port, the loopback, another scheme: refused, and nothing is sent there."""
    receiver.answer = lambda _: (307, {"Location": location.format(port=receiver.port)})
    with pytest.raises(WebhookError, match="redirects to another host"):
        WebhookSink(receiver.url)(RAISED)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_on_the_same_host_are_followed(receiver: Receiver, status: int) -> None:
    """The body goes along, whatever kind of redirect it is."""
    receiver.answer = lambda handling: (204, {}) if handling.path == "/new" else (status, {"Location": "/new"})
    WebhookSink(receiver.url)(RAISED)
    assert [path for path, _, _ in receiver.requests] == ["/hook?key=secret", "/new"]
    assert receiver.requests[0][2] == receiver.requests[1][2]


def test_redirects_in_circles_end(receiver: Receiver) -> None:
    """After three it is enough."""
    receiver.answer = lambda _: (302, {"Location": "/hook"})
    with pytest.raises(WebhookError, match="in circles"):
        WebhookSink(receiver.url)(RAISED)
    assert len(receiver.requests) == 4


def test_from_https_back_to_http_is_refused() -> None:
    """A redirect may not take the encryption away."""
    seen: list[str] = []

    def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        seen.append(url)
        return Answer(307, "http://alerts.example/hook")

    with pytest.raises(WebhookError, match="another host"):
        WebhookSink("https://alerts.example/hook", post=post)(RAISED)
    assert seen == ["https://alerts.example/hook"]


def test_certificates_are_checked(receiver: Receiver, tmp_path: object) -> None:
    """A server without a certificate that is trusted gets nothing."""
    with pytest.raises(WebhookError, match=r"SSL|ssl"):
        WebhookSink(receiver.url.replace("http://", "https://"), tries=1)(RAISED)
    assert receiver.requests == []
    assert ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED


def test_retry_after_is_heeded_within_bounds(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    """A server may ask for a longer wait, a minute at most."""
    monkeypatch.setattr(webhook, "_LONGEST_S", 60.0)
    answers = iter([(503, {"Retry-After": "86400"}), (503, {"Retry-After": "tomorrow"}), (200, {})])
    receiver.answer = lambda _: next(answers)
    sink = WebhookSink(receiver.url)
    waits: list[float] = []

    class Waits:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return False

    monkeypatch.setattr(sink, "_hurry", Waits())
    sink(RAISED)
    assert 48.0 <= waits[0] <= 72.0
    assert len(receiver.requests) == 3


@pytest.mark.parametrize("url", ["ftp://x/y", "alerts.example/hook", "https://", "javascript:alert(1)"])
def test_addresses_that_are_none(url: str) -> None:
    """An address that cannot be meant fails at once, not at the first alert."""
    with pytest.raises(ValueError, match="is no address"):
        WebhookSink(url)


def test_others_do_not_wait_for_it(receiver: Receiver) -> None:
    """While a webhook hangs the log hears everything, and a stop is quick."""
    receiver.answer = lambda handling: _hang(receiver, handling)
    log = RecordingSink()
    hook = WebhookSink(receiver.url, timeout_s=20.0)
    teller = Teller((hook, log))
    teller.start()
    for _ in range(50):
        teller.tell(RAISED)
    wait_for(lambda: len(log.events) == 50)
    began = time.monotonic()
    teller.stop(0.2)
    assert time.monotonic() - began < 3.0
    receiver.over.set()
    wait_for(lambda: hook.sent + hook.lost == 50)  # one that failed at the stop speaks for those that waited
    assert len(receiver.requests) <= 2


def test_a_stop_does_not_wait_for_tries(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert that waits to be tried again is given up when the guard stops, and that is told."""
    monkeypatch.setattr(webhook, "_FIRST_S", 60.0)
    monkeypatch.setattr(webhook, "_LONGEST_S", 60.0)
    receiver.answer = lambda _: (500, {})
    log = RecordingSink()
    teller = Teller((WebhookSink(receiver.url), log))
    teller.start()
    teller.tell(RAISED)
    wait_for(lambda: receiver.requests)
    began = time.monotonic()
    teller.stop(5.0)
    assert time.monotonic() - began < 4.0
    assert teller.failures == {"webhook": 1}


def test_by_httpx(receiver: Receiver) -> None:
    """The same by httpx, redirects unfollowed."""
    WebhookSink(receiver.url, post=httpx_post())(RAISED)
    receiver.answer = lambda _: (302, {"Location": "http://localhost:1/"})
    with pytest.raises(WebhookError, match="another host"):
        WebhookSink(receiver.url, post=httpx_post())(RAISED)
    assert len(receiver.requests) == 2
