"""Fakes, a simulator and a replay, for tests of what a guard would do; shipped, because users have such tests too.

``Cage``, a limit that really kills, is in ``memguard.testing.cage``.
"""

from __future__ import annotations

from memguard.testing.clock import FakeClock
from memguard.testing.faults import (
    BlockingReclaimer,
    BlockingSink,
    FlakyProbe,
    FlakyReclaimer,
    LyingReclaimer,
    RaisingReclaimer,
    RaisingSink,
    RecordingSink,
    SlowReclaimer,
    UselessReclaimer,
)
from memguard.testing.memory import FakeHolder, FakeMemory
from memguard.testing.replay import load_record, replay, save_record
from memguard.testing.simulate import Run, World, simulate

__all__ = [
    "BlockingReclaimer",
    "BlockingSink",
    "FakeClock",
    "FakeHolder",
    "FakeMemory",
    "FlakyProbe",
    "FlakyReclaimer",
    "LyingReclaimer",
    "RaisingReclaimer",
    "RaisingSink",
    "RecordingSink",
    "Run",
    "SlowReclaimer",
    "UselessReclaimer",
    "World",
    "load_record",
    "replay",
    "save_record",
    "simulate",
]
