"""States through a hand-over of a real server: the successor has them, and nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import closing
from socket import create_server
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real

_APP = """
import os
from fastapi import FastAPI
import memguard
from memguard.ext.fastapi import protect

guard = memguard.Guard(limit="1GiB")
talks = guard.states("talks", handover=True, spill=os.environ["PLACE"])
app = FastAPI()
protect(app, guard)

@app.get("/put/{key}")
def put(key: str):
    talks[key] = {"by": os.getpid()}

@app.get("/all")
def all():
    return {"pid": os.getpid(), "talks": dict(talks)}

@app.get("/leave")
def leave():
    guard.hand_over()
    return {"pid": os.getpid(), "talks": dict(talks)}
"""


def test_the_successor_has_them(tmp_path: Path) -> None:
    """Of two uvicorn workers one hands over: the fresh one has its states, the other keeps its own, no file is left."""
    (tmp_path / "app.py").write_text(_APP)
    place = tmp_path / "place"
    place.mkdir()
    with closing(create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    words = [sys.executable, "-m", "uvicorn", "app:app", "--workers", "2", "--port", str(port), "--log-level", "error"]
    words += ["--timeout-worker-healthcheck", "60"]  # a loaded machine is no reason to kill a worker
    environ = {**os.environ, "PYTHONPATH": os.getcwd(), "PLACE": str(place)}  # noqa: PTH109 - text
    child = subprocess.Popen(words, cwd=tmp_path, env=environ)
    seen = dict[int, dict[str, Any]]()

    def get(path: str) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
                found: dict[str, Any] | None = json.load(answer)
        except OSError:
            assert child.poll() is None
            return None
        if found is not None:
            seen[found["pid"]] = found["talks"]
        return found

    def both_have_some() -> bool:
        get("put/a")
        get("all")
        return len(seen) == 2 and all(seen.values())

    try:
        wait_for(both_have_some, 60.0)
        gone = get("leave")
        assert gone is not None
        wait_for(lambda: get("all") and len(seen) == 3, 60.0)
        (fresh,) = [pid for pid in seen if pid not in list(seen)[:2]]
        assert seen[fresh] == gone["talks"]
        assert all(state["by"] == gone["pid"] for state in seen[fresh].values())
        assert [path for path in place.rglob("*") if path.is_file()] == []
    finally:
        child.terminate()
        child.wait(30)
