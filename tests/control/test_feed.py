"""The page's feed: what it says, who shares it, and what a client that never reads costs."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

from memguard.ext.fastapi import feed as feeds
from memguard.ext.fastapi.access import Caller
from memguard.ext.fastapi.control import CALLER, CONTROL, Control
from memguard.ext.fastapi.page import sheet
from tests.control.asking import API, ask, fake_guard, protected

if TYPE_CHECKING:
    import pytest

STREAM = f"{API}/monitoring/stream"


def _control(app: Any) -> Control:
    found: Control = app.state.memguard_control
    return found


class Line:
    """A page's connection: takes so many frames, then nothing more; leaves when told to."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.sent: list[Any] = []
        self.gone = asyncio.Event()
        self.stuck = asyncio.Event()

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if sum("body" in each for each in self.sent) > self.takes:
            self.stuck.set()
            await asyncio.Event().wait()

    @property
    def frames(self) -> list[Any]:
        text = b"".join(each.get("body", b"") for each in self.sent).decode()
        return [json.loads(part.split("data: ")[1]) for part in text.split("\n\n") if "data: " in part]


def _serve(feed: feeds.Feed, control: Control, line: Line) -> asyncio.Task[None]:
    scope: Any = {"type": "http", CONTROL: control, CALLER: Caller(who="a test", acts=False)}
    return asyncio.ensure_future(feed(scope, line.receive, line.send))


def test_a_frame_says_all() -> None:
    """Memory, holders, pools, admission, reliefs, the verdict and what was done, in a few KiB."""
    guard, _, _ = fake_guard()
    pool: Any = guard.pool("agents")
    pool["a"] = object()
    control = _control(protected(guard=guard))
    found = feeds.frame(control)
    assert found["memory"]["limit_mb"] == 1024
    assert found["pools"][0]["size"] == 1
    assert {"consumers", "reliefs", "done", "verdict", "incident", "acts", "ready", "sockets"} <= set(found)
    assert len(json.dumps(found)) < 8192


def test_pages_share_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty pages cost as many frames as one, and each hears from the first moment on."""
    monkeypatch.setattr(feeds, "_PERIOD_S", 0.05)
    control = _control(protected())

    async def run() -> tuple[int, list[int]]:
        feed = feeds.Feed()
        lines = [Line(takes=4) for _ in range(20)]
        tasks = [_serve(feed, control, line) for line in lines]
        await asyncio.gather(*(line.stuck.wait() for line in lines))
        for line in lines:
            line.gone.set()
        await asyncio.gather(*tasks)
        assert feed.clients == 0
        return feed.made, [len(line.frames) for line in lines]

    made, heard = asyncio.run(run())
    assert all(count == 5 for count in heard)
    assert made <= 12, "twenty times as many would be 100"


def test_who_never_reads_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a client does not read, nothing is queued for it; after a while its place is given away."""
    monkeypatch.setattr(feeds, "_PERIOD_S", 0.005)
    monkeypatch.setattr(feeds, "_STUCK_S", 0.8)
    control = _control(protected())

    async def run() -> int:
        feed = feeds.Feed()
        stuck, reading = Line(takes=0), Line(takes=1000)
        task, other = _serve(feed, control, stuck), _serve(feed, control, reading)
        await stuck.stuck.wait()
        tracemalloc.start()
        try:
            while len(reading.frames) < 20:  # noqa: ASYNC110 - as time passes
                await asyncio.sleep(0.02)
            before, seen = tracemalloc.get_traced_memory()[0], len(stuck.sent)
            made = feed.made
            while feed.made < made + 40:
                reading.sent.clear()
                await asyncio.sleep(0.02)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert len(stuck.sent) == seen
        await asyncio.wait_for(task, 5)
        assert feed.clients == 1
        reading.gone.set()
        await other
        return grown

    assert asyncio.run(run()) < 100_000


def test_pages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One page too many is told so, and the others stay."""
    monkeypatch.setattr(feeds, "_CLIENTS", 3)
    control = _control(protected())

    async def run() -> list[Any]:
        feed = feeds.Feed()
        lines = [Line(takes=1000) for _ in range(3)]
        tasks = [_serve(feed, control, line) for line in lines]
        await asyncio.sleep(0)
        late = Line(takes=1000)
        await _serve(feed, control, late)
        assert feed.clients == 3
        for line in lines:
            line.gone.set()
        await asyncio.gather(*tasks)
        return late.sent

    sent = asyncio.run(run())
    assert sent[0]["status"] == 429
    assert b"application/problem+json" in dict(sent[0]["headers"])[b"content-type"]


def test_the_feed_is_judged_too() -> None:
    """From afar there is no feed without a token."""
    assert asyncio.run(ask(protected(), "GET", STREAM, address="10.0.0.9")).status_code == 403


def test_the_page_is_small_and_alone() -> None:
    """Under 120 KB gzipped; nothing is loaded from anywhere; only its own script runs."""
    made = sheet(page="/memguard", prefix="/api/v1")
    assert len(made.gzipped) < 120_000
    text = made.plain.decode()
    assert "<script src" not in text
    assert '<link rel="stylesheet"' not in text
    assert "{{" not in text.replace("{{}", "")
    policy = made.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "frame-ancestors 'none'" in policy


def test_the_page_is_for_everybody_and_holds_nothing() -> None:
    """It is served from afar, plain and gzipped, and says nothing before it has asked."""
    app = protected()
    answer = asyncio.run(ask(app, "GET", "/memguard", address="10.0.0.9"))
    assert answer.status_code == 200
    assert answer.headers["content-encoding"] == "gzip"
    plain = asyncio.run(ask(app, "GET", "/memguard", headers={"accept-encoding": "identity"}))
    assert "content-encoding" not in plain.headers
    assert plain.text == answer.text
    assert "1024" not in answer.text.split("<script>", maxsplit=1)[0]
