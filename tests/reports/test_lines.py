"""The lines that a sink writes for a report: what is seen where levels turn, and the record at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import memguard
from memguard.model import Event
from memguard.reports import stories_of
from memguard.sinks.jsonl import JsonlSink
from memguard.sinks.seeing import SEEN_AT
from memguard.testing import simulate
from tests.reports.conftest import RULES, spike
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.reports.conftest import Told


def test_it_is_seen_where_levels_turn(told: Told) -> None:
    """Each line at which a level or an incident turns says who used how much; the others stay small."""
    lines = [json.loads(line) for line in told.path.read_text().splitlines()]
    for line in lines:
        assert ("seen" in line) == (line["event"] in SEEN_AT)
    seen = [line["seen"] for line in lines if line["event"] == "level.changed"]
    assert seen
    for one in seen:
        assert one["limit_bytes"] == 512 << 20
        assert one["python_bytes"] + one["native_bytes"] == one["rss_bytes"]
        assert one["holders"]["answers"] > 0


def test_one_record_after_each_end(told: Told) -> None:
    """A record follows each incident's end, whole on one line, and is small."""
    lines = told.path.read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events.count("incident_record") == events.count("incident.closed") == len(told.run.incidents)
    for place, name in enumerate(events):
        if name == "incident.closed":
            assert events[place + 1] == "incident_record"
            assert len(lines[place + 1]) < 64 * 1024


def test_no_room_for_a_record(tmp_path: Path) -> None:
    """A file that may not grow keeps the report's numbers, and says that there is no record."""
    path = tmp_path / "small.jsonl"
    simulate(spike, duration_s=60, rules=RULES, sinks=(JsonlSink(path, max_bytes="12KiB"),))
    kept = [*path.parent.glob("small.jsonl*")]
    lines = [json.loads(line) for file in kept for line in file.read_text().splitlines()]
    (record,) = [line for line in lines if line["event"] == "incident_record"]
    assert "record" not in record
    assert "raise the sink's max_bytes" in record["note"]
    assert record["incident"]["peak_level"] == "WARNING"


def test_a_sink_without_a_guard_writes(tmp_path: Path) -> None:
    """Events that somebody else tells are written as before."""
    path = tmp_path / "alone.jsonl"
    JsonlSink(path)(Event(at=1.0, name="incident.closed", text="over"))
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["event"] == "incident.closed"
    assert "seen" not in json.loads(line)


def test_a_guard_that_cannot_be_seen(tmp_path: Path) -> None:
    """What fails while looking is told in its place, and the event is written."""

    class Blind:
        def now(self) -> float:
            return 2.0

    guard, path = Blind(), tmp_path / "blind.jsonl"
    sink = JsonlSink(path)
    sink.attach(guard)  # type: ignore[arg-type]
    sink(Event(at=1.0, name="level.changed", text="up"))
    assert "AttributeError" in json.loads(path.read_text())["seen"]["error"]


def test_of_a_guard_that_runs(tmp_path: Path) -> None:
    """A started guard's incident, told by its own thread, is reported and replayed by the file alone."""
    from memguard.reports.measures import measured
    from memguard.reports.other_rules import decisions

    used, path = [100], tmp_path / "memguard.jsonl"

    class Probe:
        source = "a list"

        def read(self) -> int:
            return used[0]

        def close(self) -> None:
            """Nothing is open."""

    roster = memguard.Roster()
    rules = memguard.Rules(dwell_s=0.05, pace_max_s=0.02)
    with memguard.Guard(rules, limit=1000, probe=Probe(), roster=roster, sinks=(JsonlSink(path),)) as guard:
        used[0] = 850
        wait_for(lambda: guard.level >= memguard.Level.WARNING)
        used[0] = 100
        wait_for(lambda: len(guard.incidents) == 1)
        record = guard.record
    (story,) = stories_of(path)
    assert record is not None
    assert story.record is not None
    assert story.record.stimuli == record.stimuli
    last = decisions(story.record, measured(story).rules)[-1]
    assert last.closed == guard.incidents[0]
