"""The corpus runner's own logic: cases say what is right, answers are judged by it, and bars by the answers."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

CORPUS = Path(__file__).parents[2] / "benchmarks" / "corpus"
NAMES = sorted(path.stem for path in (CORPUS / "cases").glob("*.py"))


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of the corpus as its scripts do."""
    monkeypatch.setattr(sys, "path", [str(CORPUS), str(CORPUS.parent), *sys.path])
    before = dict(sys.modules)

    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield module
    for name in set(sys.modules) - set(before):
        if name in {"table", "run", "trial", "report"}:
            del sys.modules[name]


def _suspect(**more: str) -> dict[str, str]:
    return {"kind": "holder", "name": "", "site": "", "words": "", "chain": ""} | more


def _found(verdict: str, *suspects: dict[str, str], ever: int = 0) -> dict[str, Any]:
    return {"verdict": verdict, "ever": ever, "suspects": list(suspects), "seconds": 1.0, "cost_s": 0.1, "tick_s": 0.1}


def test_there_are_enough_cases_of_enough_kinds(corpus: Any) -> None:
    """Twelve cases at least, and Python's own, cycles, threads, lost references and native ones among them."""
    cases = [corpus("table").load(name) for name in NAMES]
    assert len(cases) >= 12
    kinds = {case.kind for case in cases}
    assert {"python", "cache", "cycle", "thread", "refcount", "native"} <= kinds <= corpus("table").KINDS


@pytest.mark.parametrize("name", NAMES)
def test_a_case_says_what_it_has_to(corpus: Any, name: str) -> None:
    """Two pinned releases, a line of fact without a link, what is right; nothing is imported before it is asked."""
    case = corpus("table").load(name)
    assert case.name == name
    assert re.fullmatch(r"[\w.]+", case.leaks)
    assert re.fullmatch(r"[\w.]+", case.fixed)
    assert case.leaks != case.fixed
    assert case.bytes > 0
    assert case.right
    assert "\n" not in case.fact
    assert "http" not in case.fact
    assert all("==" in one for one in case.installed_with)
    tops = ast.parse((CORPUS / "cases" / f"{name}.py").read_text(encoding="utf-8")).body
    imported = [ast.unparse(one) for one in tops if isinstance(one, ast.Import | ast.ImportFrom)]
    assert imported == ["from __future__ import annotations", "from typing import TYPE_CHECKING"]


def test_no_such_case(corpus: Any) -> None:
    """A name that is none is told which there are."""
    with pytest.raises(SystemExit, match="no case 'nothing': there are aiohttp_"):
        corpus("table").load("nothing")


def test_the_marked_lines_are_right(corpus: Any) -> None:
    """What a case marks in itself is right by file and line, and no other line is."""
    case = corpus("table").load("multidict_init")
    lines = (CORPUS / "cases" / "multidict_init.py").read_text(encoding="utf-8").splitlines()
    marked = next(number for number, line in enumerate(lines, 1) if line.endswith("# RIGHT"))
    assert case.named_by(_suspect(kind="site", site=f"cases/multidict_init.py:{marked}"))
    assert not case.named_by(_suspect(kind="site", site="cases/multidict_init.py:1"))
    assert not case.named_by(_suspect(kind="site", site=f"cases/multidict_init.py:{marked}0"))
    assert not case.named_by(None)


def test_native_is_called_native_and_nothing_else_is(corpus: Any) -> None:
    """A native leak has to be called one; one of Python's must not be, whatever the words say."""
    native, python = (corpus("table").load(name) for name in ("greenlet_switch", "sentry_spans"))
    assert native.named_by(_suspect(kind="native", name="native memory"))
    assert not native.named_by(_suspect(kind="site", name="native memory"))
    assert python.named_by(_suspect(name="sentry_sdk.scope.global_event_processors"))
    assert not python.named_by(_suspect(kind="native", words="global_event_processors"))


def test_a_case_is_judged(corpus: Any) -> None:
    """Only the first answer counts, and one leak-like look spoils a clean release."""
    case = corpus("table").load("sentry_spans")
    good, bad = _suspect(name="sentry_sdk.scope.global_event_processors"), _suspect(name="app.other")
    assert all(case.judged(_found("leak-like", good, bad), _found("flat")).values())
    met = case.judged(_found("filling", bad, good), _found("flat", ever=1))
    assert met == {"leak-like": False, "right": False, "native": True, "clean": False}
    assert not case.judged(_found("leak-like"), _found("flat"))["right"]


def test_bars_are_summed_up(corpus: Any) -> None:
    """Four fifths have to be right, all else all; and a trial that failed counts as missed."""
    run = corpus("run")
    met = {"leak-like": True, "right": True, "native": True, "clean": True}
    bars = run.summed_up([met] * 12 + [met | {"right": False}] * 3, ["python"] * 13 + ["native"] * 2)
    assert {bar["met"] for bar in bars} == {"met"}
    assert [bar["found"] for bar in bars] == ["15", "15 of 15", "12 of 15", "2 of 2", "15 of 15"]
    missed = run.summed_up([met] * 11 + [met | {"right": False, "leak-like": False}] * 4, ["native"] * 15)
    assert [bar["met"] for bar in missed] == ["met", "MISSED", "MISSED", "met", "met"]
    few = run.summed_up([met] * 3, ["python"] * 3)
    assert few[0]["met"] == "MISSED"


def test_a_row_tells_what_was_named(corpus: Any) -> None:
    """The row has both releases, the first answer with its line, and says when that is wrong."""
    run, case = corpus("run"), corpus("table").load("sentry_spans")
    row = run.row_of(case, _found("leak-like", _suspect(name="app.other", site="app.py:3")), _found("flat"))
    assert row["case"] == "**sentry_spans** sentry-sdk 2.60.0 → 2.61.0"
    assert row["first named"] == "holder: `app.other`, made at `app.py:3` (WRONG)"
    assert row["fixed"] == "flat (clean)"
    failed = {"verdict": "none", "ever": 0, "suspects": [], "error": "gone", "seconds": 2.0}
    assert run.row_of(case, failed, failed)["first named"] == "nothing (WRONG)"
    assert run.row_of(case, failed, failed)["fixed"] == "none (NOT CLEAN)"


def test_a_trial_that_dies_is_told(corpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that ends with an error is no verdict, and its last words are kept."""
    run, case = corpus("run"), corpus("table").load("sentry_spans")
    monkeypatch.setattr(run, "environment", lambda *_: Path(sys.executable))

    def die(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, output="", stderr="no such module")

    monkeypatch.setattr(run.subprocess, "run", die)
    found = run.tried(case, case.leaks)
    assert found["verdict"] == "none"
    assert "no such module" in found["error"]
    assert not case.judged(found, found)["leak-like"]
    assert not case.judged(found, found)["clean"]
