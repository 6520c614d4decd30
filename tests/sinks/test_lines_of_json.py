"""JSON lines in a file, and JSON log records."""

from __future__ import annotations

import io
import json
import logging
import os
from typing import TYPE_CHECKING

import pytest

import memguard
from memguard.model import Event
from memguard.sinks.json_log import JsonFormatter
from memguard.sinks.jsonl import JsonlSink
from memguard.sinks.log import LogSink
from tests.sinks.stores import watched

if TYPE_CHECKING:
    from pathlib import Path


def test_one_line_an_event(tmp_path: Path) -> None:
    """Each event of a guard is one line of JSON with timestamp, name, text and attributes."""
    path = tmp_path / "events.jsonl"
    guard, _, _ = watched(JsonlSink(path))
    guard.tell("store.note", "Zeile\nzwei ∞", count=3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[-1]["event"] == "store.note"
    assert lines[-1]["text"] == "Zeile\nzwei ∞"
    assert lines[-1]["attributes"] == {"count": 3}
    assert lines[-1]["timestamp"].endswith("Z")
    assert lines[-1]["pid"] == os.getpid()


def test_a_file_has_a_greatest_size(tmp_path: Path) -> None:
    """At its size the file becomes NAME.1, once; all lines stay whole."""
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path, max_bytes=4096)
    for number in range(100):
        sink(Event(at=0.0, name="store.note", text="x" * 100, attributes={"number": number}))
    files = sorted(tmp_path.iterdir())
    assert [each.name for each in files] == ["events.jsonl", "events.jsonl.1"]
    assert all(each.stat().st_size <= 4096 + 400 for each in files)
    numbers = [
        json.loads(line)["attributes"]["number"] for each in reversed(files) for line in each.read_text().splitlines()
    ]
    assert numbers == list(range(numbers[0], 100))


def test_a_size_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    """Below 4 KiB there is no file to speak of."""
    with pytest.raises(ValueError, match="holds no line"):
        JsonlSink(tmp_path / "x", max_bytes=100)


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """It raises, and the teller counts it and tells the others."""
    with pytest.raises(OSError, match="No such file"):
        JsonlSink(tmp_path / "no" / "x")(Event(at=0.0, name="store.note", text="x"))


def _logger(stream: io.StringIO, formatter: logging.Formatter | None) -> tuple[logging.Logger, logging.Handler]:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger("memguard")
    logger.addHandler(handler)
    return logger, handler


def test_records_as_json_by_a_formatter() -> None:
    """Any handler writes JSON: our records with event and numbers, others too, errors with their trace."""
    stream = io.StringIO()
    logger, handler = _logger(stream, JsonFormatter())
    try:
        LogSink()(Event(at=0.0, name="store.failed", text="gone", attributes={"lost": 3}))
        logger.error("it %s", "failed", exc_info=RuntimeError("no"))
    finally:
        logger.removeHandler(handler)
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (first["level"], first["event"], first["attributes"]) == ("error", "store.failed", {"lost": 3})
    assert first["message"] == "store.failed: gone"
    assert second["message"] == "it failed"
    assert "RuntimeError: no" in second["exception"]


def test_messages_as_json_by_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """MEMGUARD_LOG_JSON=1: each message itself is one line of JSON, whatever the handlers are."""
    monkeypatch.setenv("MEMGUARD_LOG_JSON", "1")
    stream = io.StringIO()
    logger, handler = _logger(stream, None)
    try:
        guard, _, _ = watched()
        guard.tell("store.failed", "gone", lost=3)
    finally:
        logger.removeHandler(handler)
    (line,) = [json.loads(each) for each in stream.getvalue().splitlines()]
    assert (line["event"], line["text"], line["attributes"]) == ("store.failed", "gone", {"lost": 3})
    assert memguard.Rules.resolve({"MEMGUARD_LOG_JSON": "1"}).log_json is True
