"""The demonstration in a short form: the bare service is killed, the guarded one is not, and the picture is drawn."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from memguard.demo.drawing import picture
from memguard.demo.run import main, verdict
from memguard.demo.schedule import body_of, make_schedule, read_schedule, sample_text, write_schedule
from memguard.demo.show import Progress, curves, reliefs, table
from memguard.demo.trial import Sample, Trial
from memguard.errors import MissingExtra
from memguard.testing import _supervisor
from memguard.testing import cage as cages
from memguard.testing._supervisor import supervisor_unavailable
from memguard.testing.cage import Enforcer, cage_unavailable
from memguard.units import MIB

if TYPE_CHECKING:
    from memguard.demo.schedule import Request

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["kernel", "supervisor"])
def by(request: pytest.FixtureRequest) -> Enforcer:
    """Whoever can enforce a limit on this machine, each in turn."""
    reason = cage_unavailable() if request.param == "kernel" else supervisor_unavailable()
    if reason is not None:
        pytest.skip(f"no cage by the {request.param}: {reason}")
    return cast("Enforcer", request.param)


def _parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - our own picture


def test_the_short_form_shows_what_it_promises(by: Enforcer, tmp_path: Path) -> None:
    """Bare killed, guarded alive, exit status 0, and all of it on record."""
    command = [sys.executable, "-m", "memguard", "demo", "--seconds", "12", "--limit", "256MiB", "--by", by]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env=environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert f"killed by the {by} at second" in done.stdout
    assert "alive after" in done.stdout
    assert _parsed((tmp_path / "demo.svg").read_text()).tag.endswith("svg")
    planned = len((tmp_path / "demo/schedule.jsonl").read_text().splitlines())
    ended = [json.loads(line)["ended"] for line in (tmp_path / "demo/guarded.jsonl").read_text().splitlines()]
    assert len(ended) == planned
    assert ended.count("served") > 0.9 * planned


def test_a_terminated_demo_leaves_nothing(by: Enforcer, tmp_path: Path) -> None:
    """SIGTERM in the middle ends the service and the load, and removes the group."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "memguard", "demo", "--seconds", "30", "--by", by, "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert demo.stdout is not None
    with demo.stdout:
        while not demo.stdout.readline().startswith(b"bare "):
            assert demo.poll() is None
        made = _processes_of(demo.pid)
        assert len(made) == 2
        demo.terminate()
        assert demo.wait(30) == 128 + signal.SIGTERM
    assert not [pid for pid in made if Path(f"/proc/{pid}").exists()]
    parents = [parent for parent in (cages._parent_v1(), cages._parent_v2()) if isinstance(parent, Path)]
    assert not [group for parent in parents for group in parent.glob(f"memguard-demo-*-{demo.pid}-*")]


def _processes_of(parent: int) -> list[int]:
    return [pid for pid, process in _supervisor._all().items() if process.parent == parent]


def test_without_its_libraries_the_demo_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No FastAPI: the error names the extra, and nothing is left on disk."""
    monkeypatch.setattr("memguard.demo.run.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="the demo needs"):
        main(["--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--limit", "512 MB"], ["--limit", "64MiB"], ["--seconds", "1"], ["--seconds", "many"]]
)
def test_options_that_cannot_be_meant_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option ends with status 2 and its name, before anything is started."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


# --- the load ----------------------------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_load(tmp_path: Path) -> None:
    """Both runs see the same requests: a schedule depends on its seed alone, and survives its file."""
    first = make_schedule(seconds=10, seed=7)
    assert first == make_schedule(seconds=10, seed=7)
    assert first != make_schedule(seconds=10, seed=8)
    write_schedule(first, tmp_path / "schedule.jsonl")
    assert read_schedule(tmp_path / "schedule.jsonl") == first


def test_the_load_calms_down_at_its_end() -> None:
    """In the calm at the end fewer new requests come, and every session ends."""
    requests = make_schedule(seconds=20, seed=1)
    assert [request.due_s for request in requests] == sorted(request.due_s for request in requests)
    assert requests[-1].due_s < 20
    work = [request.due_s for request in requests if request.kind != "finish"]
    full, calm = sum(due_s < 17 for due_s in work) / 17, sum(due_s >= 17 for due_s in work) / 3
    assert calm < 0.5 * full
    heard = {request.path.split("/")[2] for request in requests if request.kind == "observe"}
    assert {request.path.split("/")[2] for request in requests if request.kind == "finish"} == heard


def test_bodies_are_json_of_the_size_asked_for() -> None:
    """Bodies are real JSON with what the service reads, as long as planned, and the same each time."""
    text = sample_text(0)
    requests = [request for request in make_schedule(seconds=20, seed=3) if request.method == "POST"]
    seen = {(request.kind, request.body_bytes): request for request in requests}
    assert len(seen) == 8

    def check(request: Request) -> None:
        body = body_of(request, text)
        assert body == body_of(request, text)
        assert request.body_bytes <= len(body) <= request.body_bytes + 16_384
        table = json.loads(body)
        assert all("content" in said for said in table.get("messages", ()))
        assert all("score" in record for record in table.get("records", ()))

    for request in seen.values():
        check(request)


# --- what is shown -----------------------------------------------------------------------------------------------


def _trial(**changes: object) -> Trial:
    trial = Trial(
        kind="bare",
        by_kernel=True,
        cage_kind="kernel (cgroup v1)",
        limit_bytes=512 * MIB,
        planned=100,
        died_at_s=12.5,
        status=-9,
        killed=1,
        peak_bytes=512 * MIB,
        samples=tuple(Sample(at_s=at / 2, used_bytes=at * 20 * MIB) for at in range(26)),
        counts={"served": 40, "lost": 10},
        latencies_s=tuple((at / 2, at / 1000) for at in range(1, 41)),
        status_at_end=None,
        stats={},
    )
    return replace(trial, **changes)  # type: ignore[arg-type]


def _guarded(**changes: object) -> Trial:
    return replace(
        _trial(
            kind="guarded",
            died_at_s=None,
            status=None,
            killed=0,
            peak_bytes=430 * MIB,
            counts={"served": 97, "refused": 3},
            status_at_end=200,
            stats={
                "level": "OK",
                "refusals": 3,
                "retired": 9,
                "rungs": {"WARNING": 0.8, "CRITICAL": 0.9},
                "holders": [
                    {"name": "answers", "attempts": 5, "bought_bytes": 90 * MIB},
                    {"name": "trim", "attempts": 0, "bought_bytes": 0},
                ],
                "incidents": [{"reliefs": [["answers", MIB, MIB, 0.002, ""]]}],
            },
        ),
        **changes,  # type: ignore[arg-type]
    )


def test_the_verdict_needs_both_ends() -> None:
    """It failed when the guarded service was killed or gone, or the bare one was not killed at the limit."""
    assert verdict(_trial(), _guarded()) == []
    assert verdict(_trial(died_at_s=None, killed=0), _guarded()) == ["the bare service was not killed at the limit"]
    assert len(verdict(_trial(killed=0, status=1), _guarded())) == 1
    assert verdict(_trial(), _guarded(died_at_s=3.0, killed=1)) == ["the guarded service was killed at the limit"]
    assert verdict(_trial(), _guarded(died_at_s=3.0, status=1)) == ["the guarded service ended by itself, status 1"]


def test_the_table_tells_both_sides() -> None:
    """The table holds the death, the peaks, what was served and refused, latencies and the end."""
    shown = table(_trial(), _guarded())
    for expected in (
        "killed by the kernel at second 12.5, after 40 requests",
        "alive after 12.5 s",
        "512.0 MiB (100% of the limit)",
        "430.0 MiB (84% of the limit)",
        "40 of 100",
        "97 of 100",
        "p50 / p99 until 12 s  13 ms / 24 ms",
        "p50 / p99 overall     21 ms / 40 ms",
    ):
        assert expected in shown
    (never,) = [line.split() for line in shown.splitlines() if line.startswith("never answered")]
    assert never[-2:] == ["60", "0"]


def test_who_stood_in_for_the_kernel_is_said() -> None:
    """A kill by the supervisor is not called one by the kernel."""
    assert "killed by the supervisor" in table(_trial(by_kernel=False), _guarded())


def test_reliefs_name_who_was_asked_and_what_that_bought() -> None:
    """Only holders that were asked are listed, with what came back and the time it took."""
    shown = reliefs(_guarded())
    assert "5 attempts bought 90.0 MiB, 2.0 ms each" in shown
    assert "trim" not in shown
    assert "3 refusal(s)" in shown
    assert "none were needed" in reliefs(_guarded(stats={}))


def test_curves_show_both_services_the_limit_and_the_rungs() -> None:
    """Both marks, the death at the limit, and a line for each rung; nothing outside the frame."""
    shown = curves(_trial(), _guarded())
    frame = [line for line in shown.splitlines() if "│" in line]
    assert "✖" in frame[0]
    assert frame[0].endswith("limit")
    assert any(line.endswith("CRITICAL") for line in frame)
    assert "○" in shown
    assert "●" in shown
    assert len({line.rindex("│") for line in frame}) == 1


def test_the_picture_is_sound_svg() -> None:
    """The picture is well-formed, holds both curves with all their points, and marks the death."""
    bare, guarded = _trial(), _guarded()
    root = _parsed(picture(bare, guarded))
    curves_drawn = {
        line.get("class"): len((line.get("points") or "").split()) for line in root.iter() if "polyline" in line.tag
    }
    assert curves_drawn == {"bare": len(bare.samples), "guarded": len(guarded.samples)}
    words = [text.text for text in root.iter() if text.tag.endswith("text")]
    assert {"killed", "limit", "warning", "critical"} <= set(words)


def test_progress_is_two_lines_in_place_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the two lines are redrawn in place; elsewhere plain lines without control codes."""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    screen, paper = Screen(), io.StringIO()
    for stream in (screen, paper):
        progress = Progress(limit_bytes=512 * MIB, stream=stream)
        progress.ended(_trial())
        progress.ended(_guarded())
    assert screen.getvalue().count("\x1b[2A") == 1
    assert screen.getvalue().count("\n") == 4
    assert paper.getvalue().splitlines() == [
        "bare     killed by the kernel at second 12.5, after 40 requests",
        "guarded  alive after 12.5 s",
    ]
