"""Replay: a recorded incident, decided again as it was, and under other rules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from memguard.__main__ import main
from memguard.model import Level
from memguard.reports.measures import measured
from memguard.reports.other_rules import compare, decisions
from memguard.rules import Rules
from memguard.testing import load_record, save_record
from tests.reports.conftest import RULES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.reports.conftest import Told


def test_round_trip(told: Told) -> None:
    """An incident that the sink wrote is read back, rules and all, and replays to the very same decisions."""
    story, run = told.story, told.run
    assert story.record is not None
    assert run.record is not None
    assert measured(story).rules == RULES
    assert story.record.stimuli == run.record.stimuli
    again = decisions(story.record, measured(story).rules)
    assert again == decisions(run.record, RULES)
    assert again[-1].closed == run.incidents[-1]


def test_the_same_rules_decide_alike(told: Told) -> None:
    """Against themselves rules show no difference."""
    record = told.story.record
    assert record is not None
    difference = compare(record, RULES, RULES)
    assert difference.same
    assert difference.recorded == difference.other
    assert difference.recorded.peak_level == told.run.incidents[-1].peak_level.name


def test_lower_rungs_act_earlier(told: Told) -> None:
    """A lower rung is reached earlier, reliefs are asked for earlier, and the first difference is named."""
    record = told.story.record
    assert record is not None
    found = compare(record, RULES, Rules(pace_min_s=0.1, warning_ratio=0.72, collect_ratio=0.71))
    assert not found.same
    first = [next(at for at, name in one.levels if name == "WARNING") for one in (found.recorded, found.other)]
    assert first[1] <= first[0]
    assert found.other.seconds["WARNING"] > found.recorded.seconds["WARNING"]
    assert found.first_s is not None
    assert "recorded: " in found.first


def test_a_rung_out_of_reach(told: Told) -> None:
    """Rules whose rungs are above the peak ask for nothing and refuse nobody."""
    record = told.story.record
    assert record is not None
    above = Rules(
        elevated_ratio=0.995, collect_ratio=0.996, warning_ratio=0.997, critical_ratio=0.998, emergency_ratio=1
    )
    found = compare(record, RULES, above)
    assert Level[found.other.peak_level] < Level[found.recorded.peak_level]
    assert len(found.other.asked) < len(found.recorded.asked)
    assert found.other.closed_s <= found.recorded.closed_s


def test_the_command(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    """`memguard replay FILE --rules …` shows both side by side; --json for tools."""
    rules = ["warning_ratio=72%", "collect_ratio=0.71"]
    assert main(["replay", str(told.path), "--rules", *rules]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["as", "recorded", *rules]
    assert "First difference: after" in out
    assert main(["replay", str(told.path), "--json", "--rules", *rules]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["same"] is False
    assert shown["recorded"]["peak_level"] == told.run.incidents[-1].peak_level.name


def test_a_saved_record(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What save_record wrote is replayed too; a report of it is refused with the mend."""
    path = tmp_path / "incident.jsonl"
    assert told.run.record is not None
    save_record(told.run.record, path)
    assert main(["replay", str(path), "--rules", "warning_ratio=0.78"]) == 0
    assert "First difference" in capsys.readouterr().out
    assert main(["report", str(path)]) == 2
    assert "memguard replay" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("warnng_ratio=0.7", "did you mean warning_ratio"),
        ("warning_ratio", "write NAME=VALUE"),
        ("warning_ratio=high", "'high'"),
        ("warning_ratio=0.95", "must be above"),
        ("=1", "write NAME=VALUE"),
    ],
)
def test_rules_that_cannot_be_meant(told: Told, rule: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name, no value, one that cannot hold: status 2, the name and the mend."""
    assert main(["replay", str(told.path), "--rules", rule]) == 2
    assert says in capsys.readouterr().err


def test_another_version(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A record of a later version is refused, with both versions."""
    path = tmp_path / "incident.jsonl"
    assert told.run.record is not None
    save_record(told.run.record, path)
    path.write_text(path.read_text().replace('"version": 1', '"version": 7', 1))
    assert main(["replay", str(path), "--rules", "warning_ratio=0.7"]) == 2
    assert "its version is 7, not 1" in capsys.readouterr().err


def test_a_record_that_was_cut(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A record is whole or refused, with the line."""
    path = tmp_path / "incident.jsonl"
    assert told.run.record is not None
    save_record(told.run.record, path)
    text = path.read_text()
    path.write_text(text[:-20])
    assert main(["replay", str(path), "--rules", "warning_ratio=0.7"]) == 2
    assert f"line {len(text.splitlines())}: no JSON" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no JSON"):
        load_record(path)


def test_no_record_in_it(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log whose incident has no end has no record, and says so."""
    lines = [line for line in told.path.read_text().splitlines() if '"incident_record"' not in line]
    path = tmp_path / "memguard.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    assert main(["replay", str(path), "--rules", "warning_ratio=0.7"]) == 2
    assert "there is no record of the incident" in capsys.readouterr().err
