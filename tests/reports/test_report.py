"""Reports: what happened, out of what was told; each answer rests on a number."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from memguard.__main__ import main
from memguard.model import Level
from memguard.reports import report_of, stories_of, stories_of_lines
from memguard.reports.measures import Attempts, Measures, Part, measured
from memguard.reports.outside import outside
from memguard.rules import Rules
from memguard.testing import simulate
from memguard.units import MIB
from tests.reports.conftest import RULES, spike

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.reports.conftest import Told


def test_the_answer_is_in_the_first_sentence(told: Told) -> None:
    """How fast, how far, what was bought, how long: the guard's own numbers."""
    incident = told.run.incidents[-1]
    report = report_of(told.story)
    assert report.summary.startswith("Memory rose suddenly and reached")
    assert incident.peak_level.name in report.summary
    assert f"{incident.attempts} reliefs bought" in report.summary
    assert report.measures.peak_bytes == incident.peak_bytes
    assert report.measures.bought_bytes == incident.bought_bytes
    assert report.measures.lasted_s == pytest.approx(incident.lasted_s)
    assert report.measures.blind_s == incident.blind_s > 0


def test_every_relief_is_accounted(told: Told) -> None:
    """By name: how often, asked, bought and its time, as they were measured."""
    reliefs = told.run.incidents[-1].reliefs
    rows = {row.name: row for row in report_of(told.story).measures.attempts}
    assert set(rows) == {relief.name for relief in reliefs}
    for name, row in rows.items():
        own = [relief for relief in reliefs if relief.name == name]
        assert (row.count, row.wanted_bytes) == (len(own), sum(relief.wanted_bytes for relief in own))
        assert row.bought_bytes == sum(relief.bought_bytes for relief in own)
        assert row.cost_s == pytest.approx(sum(relief.cost_s for relief in own))


def test_the_tree_is_answered(told: Told) -> None:
    """Each question of the runbook's tree has an answer, and advice comes with its number."""
    report = report_of(told.story)
    answers = {one.question: one.answer for one in report.answers}
    assert answers["Gradual or sudden?"].startswith("sudden")
    assert answers["Which step helped?"] == "answers"
    assert answers["Which limit?"].startswith("512.0 MiB")
    assert set(answers) >= {"Which part grew?", "What ran then?", "Does it leak?", "Who of those registered grew?"}
    assert any("could not run for" in why for _, why in report.advice)


def test_the_timeline_is_in_order(told: Told) -> None:
    """From the first sign to the end, with the instants at which it happened."""
    rows = report_of(told.story).timeline
    assert [row.at_s for row in rows] == sorted(row.at_s for row in rows)
    events = [row.event for row in rows]
    assert events.index("incident.opened") < events.index("incident.closed")
    changes = [event for event in told.run.events if event.name == "level.changed"]
    assert events.count("level.changed") == len(changes)


class _Page(HTMLParser):
    """Notes what a page would load, and whether tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "circle", "line", "rect", "polyline"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"circle", "line", "rect", "polyline"}:
            assert self.open.pop() == tag


def test_the_page_loads_nothing(told: Told) -> None:
    """One page, whole in itself: no script, no link, nothing from anywhere; it has the curve and every table."""
    page = _Page()
    page.feed(report_of(told.story).html())
    assert page.open == []
    assert not [tag for tag, known in page.tags if tag in {"script", "link", "img", "iframe"} or "src" in known]
    assert not [known for _, known in page.tags if "href" in known]
    assert [tag for tag, _ in page.tags].count("polyline") == 1
    assert [tag for tag, _ in page.tags].count("table") >= 2


def test_names_are_no_markup(told: Told) -> None:
    """What a holder or a route is called is text in the page and in Markdown."""
    story = told.story
    evil = "<img src=x onerror=alert(1)> | **x**"
    relief = {**story.told["incident"]["reliefs"][0], "name": evil}
    kept = {**story.told, "incident": {**story.told["incident"], "reliefs": [relief, relief]}}
    report = report_of(replace(story, told=kept))
    assert "<img" not in report.html()
    assert "<img" not in report.markdown().replace("\\<", "")
    table = report.markdown().partition("## Reliefs")[2].splitlines()
    assert "\\<img" in table[4]
    assert table[4].replace("\\|", "").count("|") == 6


def test_json_has_it_all(told: Told) -> None:
    """For tools: plain values, the same numbers."""
    report = report_of(told.story)
    shown = json.loads(report.to_json())
    assert shown["summary"] == report.summary
    assert shown["measures"]["peak_level"] == report.measures.peak_level.name
    assert shown["rules"]["warning_ratio"] == 0.8
    assert [row["change"] for row in shown["advice"]] == [change for change, _ in report.advice]


def test_an_incident_without_an_end(told: Told) -> None:
    """A log that ends in the middle is told as what it is: the process may have died, and 137 is explained so."""
    lines = [line for line in told.path.read_text().splitlines() if '"incident.closed"' not in line]
    (story,) = stories_of_lines([line for line in lines if '"incident_record"' not in line], "a log")
    report = report_of(story)
    assert report.closed_unix_s is None
    assert "the process died" in report.summary
    assert any("never told" in means for _, means in report.outside)
    assert any("cannot be replayed" in row for row in report.unknown)


def test_one_file_of_two_processes(told: Told) -> None:
    """Lines of several processes, mixed in one file, are told apart."""
    mine = told.path.read_text().splitlines()
    pid = json.loads(mine[0])["pid"]
    other = [line.replace(f'"pid": {pid}', f'"pid": {pid + 1}') for line in mine]
    mixed = [line for pair in zip(mine, other, strict=True) for line in pair]
    stories = stories_of_lines(mixed, "a log")
    assert [story.source for story in stories].count(str(pid)) == len(stories) / 2 >= 1
    assert {report_of(story).summary for story in stories} == {report_of(told.story).summary}


# --- advice -----------------------------------------------------------------------------------------------------------


def _numbers(**known: Any) -> Measures:
    return Measures(
        **{
            "rules": Rules(), "limit_bytes": 1000 * MIB, "limit_source": "cgroup", "limit_kind": "kill",
            "used_source": "cgroup", "lasted_s": 10.0, "opened_bytes": 700 * MIB, "calm_bytes": 500 * MIB,
            "calm_s": -60.0, "peak_bytes": 850 * MIB, "peak_s": 2.0, "peak_level": Level.WARNING, "rate": 50.0 * MIB,
            "reached": {Level.OK: 0.0, Level.ELEVATED: 0.0, Level.WARNING: 1.0}, "parts": (), "holders": (),
            "attempts": (), "refusals": 0, "refused_at": (), "blind_s": 0.0, "starved_s": 0.0, "starved_by": "",
            "oom_kills": 0, "events": {}, **known,
        }
    )  # fmt: skip


def _attempt(**known: Any) -> Attempts:
    return Attempts(
        **{
            "name": "pages", "count": 2, "wanted_bytes": 100 * MIB, "bought_bytes": 90 * MIB, "cost_s": 0.2,
            "after_s": 1.0, **known,
        }
    )  # fmt: skip


_CLIMB = {Level.OK: 0.0, Level.ELEVATED: 0.0, Level.WARNING: 1.0, Level.CRITICAL: 1.2}


@pytest.mark.parametrize(
    ("numbers", "change"),
    [
        (_numbers(), None),
        (_numbers(reached=_CLIMB, attempts=(_attempt(after_s=1.5),)), "warning_ratio 0.8 → 0.78"),
        (_numbers(reached=_CLIMB, attempts=(_attempt(after_s=1.0),)), None),
        (_numbers(reached=_CLIMB, attempts=(_attempt(after_s=9.0),)), "slow the growth down"),
        (_numbers(attempts=(_attempt(bought_bytes=MIB),)), "register 'pages'"),
        (_numbers(attempts=(_attempt(bought_bytes=MIB, name="trim"),)), None),
        (_numbers(attempts=(_attempt(bought_bytes=0, name="collect"),)), "collect_ratio 0.75 upwards"),
        (_numbers(refusals=5, peak_bytes=905 * MIB, peak_level=Level.CRITICAL), "critical_ratio 0.9 → 0.92"),
        (_numbers(refusals=0, peak_bytes=905 * MIB, peak_level=Level.CRITICAL), None),
        (_numbers(refusals=5, peak_bytes=960 * MIB, reached={**_CLIMB, Level.EMERGENCY: 2.0}), "raise the limit"),
        (_numbers(events={"relief.exhausted": 1}), "register who holds the rest"),
        (_numbers(attempts=(_attempt(errors=("OSError: gone",)),)), "mend 'pages'"),
        (_numbers(events={"relief.overdue": 2}), "have it give back in smaller steps"),
        (
            _numbers(events={"relief.overdue": 2}, attempts=(_attempt(cost_s=20.0),)),
            "have it give back in smaller steps, or attempt_s 5 → 15",
        ),
        (_numbers(events={"relief.fragmented": 1}), "fewer arenas"),
        (_numbers(events={"leak.report": 1}), "mend what the leak's report names"),
        (_numbers(events={"handover.futile": 1}), "raise the limit or start fewer workers"),
        (_numbers(starved_s=1.0), "lower the rungs"),
        (_numbers(events={"guard.blind": 1}, blind_s=3.0), "find out why readings fail"),
        (_numbers(limit_bytes=None), "set max_bytes"),
        (_numbers(limit_kind="host"), "set max_bytes"),
        (_numbers(lasted_s=7200.0, peak_level=Level.ELEVATED), "elevated_ratio 0.7 upwards"),
    ],
)
def test_advice_rests_on_what_was_measured(numbers: Measures, change: str | None) -> None:
    """Each change is asked for by one measurement, and by nothing else."""
    from memguard.reports.advice import advice

    found = advice(numbers)
    if change is None:
        assert found == ()
    else:
        assert any(words.startswith(change) for words, _ in found), found
        for words, why in found:
            assert why, words


@pytest.mark.parametrize(
    ("numbers", "open_end", "says"),
    [
        (_numbers(), False, "Not in this incident"),
        (_numbers(peak_bytes=990 * MIB), True, "a kill for memory is likely"),
        (_numbers(), True, "look for other causes"),
        (_numbers(oom_kills=2), False, "killed 2 process(es)"),
    ],
)
def test_a_kill_is_explained_by_what_was_seen(numbers: Measures, open_end: bool, says: str) -> None:
    """Exit code 137 and gunicorn's guess are judged by the kernel's count, the end, and how full memory was."""
    rows = dict(outside(numbers, open_end=open_end))
    assert says in rows['exit code 137, "Killed", OOMKilled']
    assert says in rows["Worker (pid:…) was sent SIGKILL! Perhaps out of memory?"]
    assert any("ephemeral-storage" in message for message in rows)


def test_page_cache_is_never_what_grew() -> None:
    """Only what counts as used can be the part that grew, however much of the rest came."""
    parts = (
        Part(name="page cache", before_bytes=0, peak_bytes=500 * MIB, counts=False),
        Part(name="child processes", before_bytes=0, peak_bytes=100 * MIB),
        Part(name="Python's heap", before_bytes=0, peak_bytes=90 * MIB),
    )
    grown = _numbers(parts=parts).grown
    assert grown is not None
    assert grown.name == "child processes"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_last_one_by_default(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    """`memguard report FILE` prints the last incident in Markdown; --list names all, --incident chooses."""
    assert main(["report", str(told.path)]) == 0
    assert report_of(told.story).summary.split(";", maxsplit=1)[0] in capsys.readouterr().out
    assert main(["report", str(told.path), "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(stories_of(told.path))
    assert main(["report", str(told.path), "--incident", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"]
    assert main(["report", str(told.path), "--incident", "99"]) == 2
    assert "no number 99" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "begins"), [("r.html", "<!doctype html>"), ("r.json", "{"), ("r.md", "# Incident")])
def test_out_writes_what_its_name_says(
    told: Told, tmp_path: Path, name: str, begins: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """--out takes the kind from the name, and says the answer on the terminal."""
    assert main(["report", str(told.path), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_text().startswith(begins)
    assert "reached" in capsys.readouterr().out


def _cut(lines: list[str]) -> list[str]:
    return [*lines[:-1], lines[-1][:40]]


@pytest.mark.parametrize(
    ("spoil", "status", "says"),
    [
        (lambda lines: [], 2, "is empty"),
        (lambda lines: ["hello"], 2, "no line is an event"),
        (lambda lines: [lines[0], "{", *lines[1:]], 2, "line 2"),
        (_cut, 0, "reached"),
        (lambda lines: [line for line in lines if "incident" not in line], 1, "no incident in it"),
        (lambda lines: [line.replace('"record": "', '"record": "!') for line in lines], 2, "record is damaged"),
    ],
)
def test_spoilt_files(  # noqa: PLR0917 - as above
    told: Told,
    tmp_path: Path,
    spoil: Callable[[list[str]], list[str]],
    status: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An empty file, another one, a damaged line: said with the place; a last line that was cut costs only itself."""
    path = tmp_path / "spoilt.jsonl"
    path.write_text("".join(f"{line}\n" for line in spoil(told.path.read_text().splitlines())))
    assert main(["report", str(path)]) == status
    out, err = capsys.readouterr()
    assert says in (err if status == 2 else out)


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there, a folder, an output that cannot be written: status 2 and a sentence."""
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_out_that_cannot_be_written(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, with the name and the reason."""
    assert main(["report", str(told.path), "--out", str(tmp_path / "no" / "r.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_levels_are_found_in_the_lines(told: Told) -> None:
    """When each level was first reached is what the run says."""
    numbers = measured(told.story)
    opened = told.run.incidents[-1].opened_at
    begin = told.run.changes[0][0]
    assert opened > 0
    for at, level in told.run.changes:
        if level > Level.OK:
            assert numbers.reached[level] <= at - begin + 0.001


def test_out_of_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A SQLite store gives the same report, as far as its tables go: the peak, reliefs, refusals, what ran."""
    from memguard.sinks.sql import SqlSink

    store = SqlSink(tmp_path / "memguard.db", service="svc")
    run = simulate(spike, duration_s=60, rules=RULES, sinks=(store,))
    store.flush()
    store.close()
    (story,) = stories_of(tmp_path / "memguard.db")
    numbers = report_of(story).measures
    incident = run.incidents[-1]
    assert numbers.peak_bytes == incident.peak_bytes
    assert {one.name for one in numbers.attempts} == {relief.name for relief in incident.reliefs}
    assert numbers.rules == RULES
    assert main(["report", str(tmp_path / "memguard.db")]) == 0
    assert incident.peak_level.name in capsys.readouterr().out


def test_replay_out_of_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The store keeps the record too, as the JSONL sink does, and says what to do where it was told not to."""
    from memguard.sinks.sql import SqlSink

    for name, records in (("with.db", True), ("without.db", False)):
        store = SqlSink(tmp_path / name, service="svc", records=records)
        run = simulate(spike, duration_s=60, rules=RULES, sinks=(store,))
        store.flush()
        store.close()
    (story,) = stories_of(tmp_path / "with.db")
    assert story.record is not None
    assert run.record is not None
    assert story.record.stimuli == run.record.stimuli
    assert main(["replay", str(tmp_path / "with.db"), "--rules", "warning_ratio=0.76", "collect_ratio=0.72"]) == 0
    assert "WARNING" in capsys.readouterr().out
    assert main(["replay", str(tmp_path / "without.db"), "--rules", "warning_ratio=0.76", "collect_ratio=0.72"]) == 2
    assert "there is no record" in capsys.readouterr().err
    (bare,) = stories_of(tmp_path / "without.db")
    assert (bare.record, bool(report_of(bare).measures.attempts)) == (None, True)


def test_another_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A SQLite file that is no store of ours is refused in a sentence."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
        connection.commit()
    assert main(["report", str(tmp_path / "other.db")]) == 2
    assert "cannot be read as a store of memguard" in capsys.readouterr().err
