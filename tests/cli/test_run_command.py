"""``memguard run -- COMMAND``: its own status and signals, its levels told, its limit kept, nobody else hurt."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from memguard.cli.tree import Tree
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="process trees are read from /proc")

# Holds so many MiB, says that it does, and waits to be told.
EATER = """
import signal, sys
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = bytes(1) * (int(sys.argv[1]) << 20)
held = [bytearray(1 << 20) for _ in range(int(sys.argv[1]))]
print("full", flush=True)
sys.stdin.readline() if "read" in sys.argv else signal.pause()
"""


def _start(*arguments: str, **options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "memguard", "run", *arguments]
    environ = {**os.environ, "PYTHONPATH": os.getcwd(), **options}  # noqa: PTH109 - text
    pipe = subprocess.PIPE
    # Tests that run in the background of a shell ignore SIGINT, and so would all that they start.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environ, preexec_fn=heed)  # noqa: PLW1509


def _done(*arguments: str, text: str = "", **options: str) -> tuple[int, str, str]:
    child = _start(*arguments, **options)
    out, err = child.communicate(text, timeout=60)
    return child.returncode, out, err


def _events(err: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in err.splitlines()]


def test_a_command_is_left_as_it_is() -> None:
    """Its arguments, input, output and status are its own; nothing is added, and what looks like ours is not."""
    program = "import sys; print(sys.argv[1:], sys.stdin.read()); sys.exit(7)"
    status, out, err = _done("--", sys.executable, "-c", program, "--version", "--", "--max", "1", text="hello")
    assert (status, out, err) == (7, "['--version', '--', '--max', '1'] hello\n", "")


def test_no_shell_is_in_between() -> None:
    """What a shell would read as its own arrives as it was written."""
    status, out, _ = _done("--", sys.executable, "-c", "import sys; print(sys.argv[1])", "$HOME; echo `id` *")
    assert (status, out) == (0, "$HOME; echo `id` *\n")


def test_a_command_that_dies_of_a_signal() -> None:
    """128 and the signal's number, as a shell tells it."""
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert _done("--", sys.executable, "-c", program)[0] == 128 + signal.SIGKILL


@pytest.mark.parametrize(("command", "status"), [("no-such-command-anywhere", 127), ("/", 126)])
def test_a_command_that_cannot_be_started(command: str, status: int) -> None:
    """127 for none, 126 for one that cannot be run, with a word on why."""
    code, out, err = _done("--", command)
    assert (code, out) == (status, "")
    assert err.startswith("memguard run: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_signals_reach_the_command(number: signal.Signals) -> None:
    """What is sent to the supervisor is sent on, and how the command takes it decides."""
    program = f"""
import os, signal, sys
def take(number, frame):  # print() may be under way
    os.write(1, b"took %d\\n" % number); sys.exit(9)
signal.signal({int(number)}, take)
print("ready", flush=True)
while True: signal.pause()
"""
    child = _start("--", sys.executable, "-c", program)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (9, f"took {int(number)}\n", "")


def test_levels_are_told_once() -> None:
    """A crossing is one line on stderr when it happens; a command that ends above OK gets a summary."""
    settings = {"MEMGUARD_ELEVATED_RATIO": "0.02", "MEMGUARD_LEAVE_GAP_RATIO": "0.01"}
    child = _start("--max", "2GiB", "--json", "--", sys.executable, "-c", EATER, "60", "read", **settings)
    assert child.stderr is not None
    first = json.loads(child.stderr.readline())
    assert (first["event"], first["level"], first["limit_bytes"]) == ("level", "ELEVATED", 2 << 30)
    out, err = child.communicate("\n", timeout=60)
    assert (child.returncode, out) == (0, "full\n")
    rest = [(one["event"], one.get("level")) for one in _events(err)]
    assert rest in ([("ended", None)], [("level", "OK")])


def test_above_its_limit_it_is_asked_to_end() -> None:
    """Above --max comes SIGTERM; a command that ends then is reported with 137."""
    status, out, err = _done("--max", "48MiB", "--json", "--", sys.executable, "-c", EATER, "46")
    assert status == 137, err
    assert out in {"full\n", ""}
    told = [one["event"] for one in _events(err) if one["event"] != "level"]
    assert told[0] == "asked"
    assert told[-1] == "ended"


def test_a_deaf_one_is_killed_with_its_children(tmp_path: Path) -> None:
    """After the grace SIGKILL ends the command and what it started, in other sessions too, and nobody else."""
    program = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {EATER!r}, "70", "deaf"], start_new_session=True)
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
exec({EATER!r})
"""
    bystander = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        arguments = ["--max", "80MiB", "--grace", "0.2", "--json", "--", sys.executable, "-c", program, "1", "deaf"]
        status, _, err = _done(*arguments)
        assert status == 137, err
        told = [one["event"] for one in _events(err) if one["event"] != "level"]
        assert told == ["asked", "killed", "ended"]
        pid = int((tmp_path / "pid").read_text())
        wait_for(lambda: not _runs(pid))
        assert bystander.poll() is None
    finally:
        bystander.communicate()


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def test_orphans_stay_in_the_tree() -> None:
    """What a command leaves behind counts on, and is ended with it when it was ended for its memory."""
    program = f"""
import os, subprocess, sys
middle = [sys.executable, "-c", "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True)"]
subprocess.run([*middle, sys.executable, "-c", {EATER!r}, "70"], check=True)
exec({EATER!r})
"""
    status, out, err = _done("--max", "64MiB", "--grace", "5", "--json", "--", sys.executable, "-c", program, "1")
    assert status == 137, err
    pid = int(out.splitlines()[0])
    wait_for(lambda: not _runs(pid))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name what to run"),
        (("--",), "followed by no command"),
        (("--diagnose", "--", "true"), "are for MODULE:FUNCTION"),
        (("--max", "1GiB", "app:main"), "are for commands"),
        (("--max", "lots", "--", "true"), "not an amount of memory"),
        (("python", "server.py"), "a command goes after --"),
    ],
)
def test_calls_that_make_no_sense(arguments: tuple[str, ...], words: str) -> None:
    """A wrong call starts nothing, ends with 2 and says what to write."""
    status, out, err = _done(*arguments)
    assert (status, out) == (2, "")
    assert words in " ".join(err.split())


def test_a_setting_that_cannot_be_meant() -> None:
    """A wrong limit in the environment is said before anything starts."""
    status, out, err = _done("--", sys.executable, "-c", "print('ran')", API_MAX_MEMORY_MB="much")
    assert (status, out) == (2, "")
    assert "API_MAX_MEMORY_MB" in err


def test_a_maximum_above_the_limit_is_told() -> None:
    """A --max that can never be reached is said once, and the command runs all the same."""
    arguments = ["--max", "900GiB", "--json", "--", sys.executable, "-c", "print('ran')"]
    status, out, err = _done(*arguments, API_MAX_MEMORY_MB="16")
    assert (status, out) == (0, "ran\n")
    assert [(one["event"], one["limit_bytes"]) for one in _events(err)] == [("note", 16 << 20)]


def test_a_terminals_signals_reach_the_whole_command() -> None:
    """An interrupt goes to all that the command started, as a terminal would send it."""
    inner = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); print('in', flush=True); signal.pause()"
    program = f"""
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {inner!r}])
print("inner ended with", child.wait(), flush=True)
"""
    child = _start("--", sys.executable, "-c", program)
    assert child.stdout is not None
    assert child.stdout.readline() == "in\n"
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert out == "inner ended with -2\n"
    assert child.returncode == 0


def test_shared_pages_count_once(tmp_path: Path) -> None:
    """Between its marks a tree's size is the proportional one, and never outside of what is private and resident."""
    statm = "1000 {} {} 1 0 1 0"
    for pid, children, pss in (("self", "8 9", 0), ("8", "", 2000), ("9", "", 2400)):
        task = tmp_path / "proc" / pid / "task" / "1"
        task.mkdir(parents=True)
        (task / "children").write_text(children)
        (tmp_path / "proc" / pid / "statm").write_text(statm.format(900, 600))
        (tmp_path / "proc" / pid / "smaps_rollup").write_text(
            f"0-1 [rollup]\nRss: 1 kB\nPss:  {pss} kB\nPss_Anon: 0 kB\n"
        )
    page = os.sysconf("SC_PAGE_SIZE")
    tree = Tree(root=str(tmp_path))
    assert tree.pids() == (8, 9)
    assert tree.used_bytes(exact_between=(0, 1 << 40)) == 4400 << 10
    assert tree.used_bytes(exact_between=(1 << 30, 1 << 31)) == 1800 * page
    assert tree.used_bytes(exact_between=(0, 1)) == 600 * page
