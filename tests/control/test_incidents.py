"""Incidents over the control API: the list, and the report of one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

from memguard.units import MIB
from tests.control.asking import API, ask, fake_guard, protected

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.testing import FakeClock, FakeMemory

REPORT = f"{API}/monitoring/incidents/report"


def _rise(memory: FakeMemory, clock: FakeClock, tick: Callable[[], float]) -> None:
    """To CRITICAL and back to OK."""
    for step in (650 * MIB, 200 * MIB, -800 * MIB):
        memory.grow(step)
        for _ in range(60):
            clock.advance(tick())


@pytest.fixture
def served() -> Any:
    """An application that runs, after an incident."""
    guard, memory, clock = fake_guard()  # its clock stands still: the test ticks
    guard.start = lambda: guard  # type: ignore[method-assign]
    guard.stop = lambda: None  # type: ignore[method-assign]
    app = protected(guard=guard)
    with TestClient(app, base_url="http://localhost:8000", client=("127.0.0.1", 4000)) as line:
        _rise(memory, clock, guard.tick)
        assert len(guard.incidents) == 1
        yield line


def test_incidents_are_listed(served: TestClient) -> None:
    """Each in a sentence, with its numbers."""
    answer = served.get(f"{API}/monitoring/incidents").json()
    (row,) = answer["incidents"]
    assert answer["total"] == 1
    assert (row["number"], row["peak_level"], row["limit_mb"]) == (1, "CRITICAL", 1024.0)
    assert row["peak_mb"] == 950.0
    assert row["opened_at"].endswith("Z")
    assert row["closed_at"] is not None
    assert "CRITICAL" in row["summary"]


def test_its_report(served: TestClient) -> None:
    """In JSON, as a page that may load nothing, in Markdown; the same answer in all."""
    answer = served.get(REPORT).json()
    assert answer["measures"]["peak_level"] == "CRITICAL"
    page = served.get(f"{REPORT}?format=html&number=1")
    assert page.headers["content-type"].startswith("text/html")
    assert "sandbox" in page.headers["content-security-policy"]
    assert "<!doctype html>" in page.text
    words = served.get(f"{REPORT}?format=markdown")
    assert words.headers["content-type"].startswith("text/markdown")
    assert words.text.startswith("# Incident of ")
    assert "reached CRITICAL" in answer["summary"] in page.text


@pytest.mark.parametrize(
    ("query", "status"), [("number=5", 404), ("number=0", 404), ("number=x", 422), ("format=pdf", 422)]
)
def test_questions_that_cannot_be_meant(served: TestClient, query: str, status: int) -> None:
    """No such incident is 404, no number and no such kind 422: problem objects that say which."""
    answer = served.get(f"{REPORT}?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert query.partition("=")[0] in answer.json()["detail"]


def test_none_yet() -> None:
    """Before the first there is an empty list, and 404 with words."""
    app = protected()
    assert asyncio.run(ask(app, "GET", f"{API}/monitoring/incidents")).json() == {"incidents": [], "total": 0}
    answer = asyncio.run(ask(app, "GET", REPORT))
    assert (answer.status_code, answer.json()["detail"]) == (404, "there was no incident since this service began")


def test_a_report_is_no_strangers_business() -> None:
    """As for every look: not without a token from afar."""
    assert asyncio.run(ask(protected(), "GET", REPORT, address="10.0.0.9")).status_code == 403
