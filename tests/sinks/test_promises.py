"""Every sink keeps the promises of the port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memguard.sinks.jsonl import JsonlSink
from memguard.sinks.log import LogSink
from memguard.sinks.otel import OtelSink
from memguard.sinks.prometheus import PrometheusSink
from memguard.sinks.sql import SqlSink
from memguard.sinks.webhook import Answer, WebhookSink
from memguard.telemetry import EVENTS
from tests.contract.test_sink import SinkPromises

if TYPE_CHECKING:
    from pathlib import Path

    from memguard.ports import Sink


class TestLogAsJson(SinkPromises):
    def make(self) -> Sink:
        return LogSink(json=True)


class TestPrometheus(SinkPromises):
    def make(self) -> Sink:
        return PrometheusSink()


class TestOtel(SinkPromises):
    def make(self) -> Sink:
        return OtelSink()


class TestWebhook(SinkPromises):
    def make(self) -> Sink:
        return WebhookSink("https://alerts.example/", events=EVENTS, post=lambda *_: Answer(200))


class TestJsonl(SinkPromises):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "events.jsonl"

    def make(self) -> Sink:
        return JsonlSink(self.path)


class TestSql(SinkPromises):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "memory.db"

    def make(self) -> Sink:
        return SqlSink(self.path)
