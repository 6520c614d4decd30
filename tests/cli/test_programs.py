"""``memguard run -- COMMAND``: a Python program gets a guard inside, and runs as Python alone would run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from contextlib import closing
from socket import create_server
from typing import TYPE_CHECKING

import pytest

from memguard.cli import programs
from memguard.cli.programs import entered
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

WITHIN = ("-m", "memguard.cli.within")
PYTHON = sys.executable


def _run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    words = [PYTHON, "-m", "memguard", "run", *command]
    environ = {**os.environ, "PYTHONPATH": os.getcwd(), **environ}  # noqa: PTH109 - text
    return subprocess.run(words, capture_output=True, text=True, env=environ, timeout=60, check=False)


# --- which commands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "options", "program"),
    [
        (["app.py", "-v", "--", "x"], [], ["app.py", "-v", "--", "x"]),
        (["-uB", "-W", "error", "-Xdev", "app.py"], ["-u", "-B", "-W", "error", "-X", "dev"], ["app.py"]),
        (["-m", "http.server", "-b", "::1"], [], ["-m", "http.server", "-b", "::1"]),
        (["-umhttp.server"], ["-u"], ["-m", "http.server"]),
        (["-c", "print(1)", "-c"], [], ["-c", "print(1)", "-c"]),
        (["-cprint(1)"], [], ["-c", "print(1)"]),
        (["--check-hash-based-pycs", "never", "app.py"], ["--check-hash-based-pycs", "never"], ["app.py"]),
    ],
)
def test_an_interpreters_options_stay_its_own(words: list[str], options: list[str], program: list[str]) -> None:
    """What Python reads before its program stays before it, what comes after is the program's."""
    found = entered([PYTHON, *words])
    assert found.command == (PYTHON, *options, *WITHIN, *program)
    assert found.inside


@pytest.mark.parametrize(
    "command",
    [
        [PYTHON], [PYTHON, "-"], [PYTHON, "--version"], [PYTHON, "-V"], [PYTHON, "-i", "app.py"], [PYTHON, "-m"],
        ["sh", "-c", "python app.py"], ["no-such-command-anywhere"], ["/"],
    ],
)  # fmt: skip
def test_what_is_no_program_is_left_alone(command: list[str]) -> None:
    """A prompt, a shell, nothing: watched from outside, without a word."""
    found = entered(command)
    assert (found.command, found.inside, found.why_not) == (tuple(command), False, "")


@pytest.mark.parametrize(
    ("head", "inside"),
    [
        (f"#!{PYTHON}\n", True),
        (f"#!{PYTHON} -u\n", True),
        ("#!/usr/bin/env python3\n", True),
        (f"#!/bin/sh\n'''exec' \"{PYTHON}\" \"$0\" \"$@\"\n' '''\n", True),
        ("#!/bin/sh\necho no\n", False),
        ("", False),
    ],
)
def test_scripts_by_their_first_line(head: str, inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn, uvicorn and the like are scripts for Python, however pip has written their first line."""
    monkeypatch.setattr(programs, "_has_memguard", lambda *_: True)
    script = tmp_path / "serve"
    script.write_text(f"{head}import sys\n")
    script.chmod(0o755)
    found = entered([str(script), "-w", "4"])
    assert found.inside is inside
    if inside:
        at = found.command.index("-m")
        assert found.command[at:] == (*WITHIN, str(script), "-w", "4")


# --- as Python alone --------------------------------------------------------------------------------------------------

_SHOW = """
import json, sys, threading
me = sys.modules["__main__"]
print(json.dumps({
    "argv": sys.argv, "name": __name__, "file": globals().get("__file__"), "path": sys.path[0],
    "own": vars(me) is globals(), "flags": [sys.flags.dont_write_bytecode, sys.flags.no_user_site],
    "guarded": "memguard" in [thread.name for thread in threading.enumerate()],
}))
sys.exit(9)
"""


@pytest.mark.parametrize("kind", ["file", "module", "code", "folder"])
def test_a_program_sees_what_it_would_see_alone(kind: str, tmp_path: Path) -> None:
    """Its arguments, path, name and status are those that Python itself would give it; and there is a guard."""
    package = tmp_path / "shown"
    package.mkdir()
    (package / "__main__.py").write_text(_SHOW)
    (tmp_path / "show.py").write_text(_SHOW)
    words = {"file": ["show.py"], "module": ["-m", "shown"], "code": ["-c", _SHOW], "folder": ["shown"]}[kind]
    command, environ = [PYTHON, "-B", *words, "-x", "--json"], {**os.environ, "PYTHONPATH": os.getcwd()}  # noqa: PTH109
    alone, inside = (
        subprocess.run(one, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
        for one in (command, [PYTHON, "-m", "memguard", "run", "--", *command])
    )
    assert (alone.returncode, inside.returncode, inside.stderr) == (9, 9, "")
    bare, guarded = json.loads(alone.stdout), json.loads(inside.stdout)
    assert (bare.pop("guarded"), guarded.pop("guarded")) == (False, True)
    if kind == "folder":  # runpy makes it absolute
        bare["argv"][0] = str(tmp_path / "shown")
    assert guarded == bare


def test_a_guard_of_its_own_wins(tmp_path: Path) -> None:
    """A program that knows us has its own guard: ours makes way instead of having it refused."""
    (tmp_path / "own.py").write_text(
        "import memguard\nwith memguard.Guard(limit='1GiB') as guard: print(guard.running, guard.limits[-1].source)\n"
    )
    done = _run("--", PYTHON, str(tmp_path / "own.py"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("True ")


def test_without_memguard_it_is_watched_from_outside(tmp_path: Path) -> None:
    """An interpreter that cannot import us runs the program all the same, and one line says so."""
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {PYTHON} -I -S "$@"\n')
    python.chmod(0o755)
    done = _run("--json", "--", str(python), "-c", "print('ran')")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["note"]
    assert "watched from outside only" in _run("--", str(python), "-c", "").stderr


def test_max_is_the_guards_limit_too() -> None:
    """With --max the guard inside knows where the supervisor would end it, unless the operator says otherwise."""
    program = "import os; print(os.environ.get('MEMGUARD_MAX_BYTES'))"
    assert _run("--max", "300MiB", "--", PYTHON, "-c", program).stdout == f"{300 << 20}\n"
    assert _run("--max", "300MiB", "--", PYTHON, "-c", program, MEMGUARD_MAX_BYTES="200MiB").stdout == "200MiB\n"
    assert _run("--max", "300MiB", "--outside", "--", PYTHON, "-c", program).stdout == "None\n"


def test_children_that_are_started_anew_are_guarded(tmp_path: Path) -> None:
    """Multiprocessing's spawn: each child has a guard, and finds what the program defined."""
    (tmp_path / "pool.py").write_text(
        """
import multiprocessing, threading

def names(_):
    return [thread.name for thread in threading.enumerate()]

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(names, [0])[0])
"""
    )
    done = _run("--", PYTHON, str(tmp_path / "pool.py"))
    assert done.returncode == 0, done.stderr
    assert "'memguard'" in done.stdout


# --- servers ----------------------------------------------------------------------------------------------------------

_APP = """
import json, os, threading

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event.endswith("shutdown"):
                return
    names = [thread.name for thread in threading.enumerate()]
    body = json.dumps([os.getpid(), "memguard" in names]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.real
@pytest.mark.parametrize(
    "server",
    [
        ["uvicorn", "app:app", "--workers=2", "--log-level=error", "--timeout-worker-healthcheck=60", "--port"],
        ["gunicorn", "-w", "2", "-k", "asgi", "--log-level", "warning", "app:app", "-b"],
    ],
    ids=["uvicorn", "gunicorn"],
)
def test_each_worker_of_a_server_has_a_guard(server: list[str], tmp_path: Path) -> None:
    """A server that does not know us: two workers, each with a guard, and SIGTERM ends all of it."""
    (tmp_path / "app.py").write_text(_APP)
    with closing(create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    script = shutil.which(server[0], path=os.path.dirname(PYTHON))  # noqa: PTH120
    assert script is not None
    where = str(port) if server[0] == "uvicorn" else f"127.0.0.1:{port}"
    words = [PYTHON, "-m", "memguard", "run", "--", script, *server[1:], where]
    environ = {**os.environ, "PYTHONPATH": os.getcwd()}  # noqa: PTH109
    child = subprocess.Popen(words, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True)
    seen = dict[int, bool]()

    def ask() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                seen.update([json.load(answer)])
        except OSError:
            assert child.poll() is None
        return len(seen) == 2

    try:
        wait_for(ask, 60.0)
        assert set(seen.values()) == {True}
    finally:
        child.terminate()
        _, err = child.communicate(timeout=60)
    assert not re.search("Traceback", err), err
