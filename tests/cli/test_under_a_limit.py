"""The commands under a real limit of the kernel, and beside real guards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from memguard.testing.cage import Cage, cage_unavailable
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

_why = cage_unavailable()
pytestmark = [pytest.mark.real, pytest.mark.skipif(bool(_why), reason=str(_why))]

LIMIT = 160 << 20
MEMGUARD = [sys.executable, "-m", "memguard"]
# Holds so many MiB under a guard and says when the others may look.
GUARDED = """
import sys, memguard
held = [bytearray(1 << 20) for _ in range(int(sys.argv[1]))]
with memguard.Guard(workers="memguard-cli-test"):
    print("guarded", flush=True)
    sys.stdin.read()
"""
EATER = "import sys; held = bytearray(int(sys.argv[1]) << 20); print('full', flush=True); sys.stdin.read()"


@pytest.fixture
def cage() -> Iterator[Cage]:
    """A group of the kernel's with little memory."""
    with Cage(LIMIT, name="cli", by="kernel") as made:
        yield made


def _environ(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.getcwd(), **more}  # noqa: PTH109 - text


def test_the_doctor_finds_this_limit(cage: Cage) -> None:
    """Inside a group the doctor names its limit, what is used, and the policy that lies above it."""
    command = [*MEMGUARD, "doctor", "--json"]
    child = cage.popen(command, stdout=subprocess.PIPE, env=_environ(API_MAX_MEMORY_MB="4000"))
    told: dict[str, Any] = json.loads(child.communicate(timeout=60)[0])
    assert child.returncode == 1
    assert told["facts"]["limit_bytes"] == LIMIT
    assert 0 < told["facts"]["used_bytes"] < LIMIT
    assert "policy-above-limit" in [one["name"] for one in told["findings"]]


def test_the_supervisor_watches_the_group(cage: Cage) -> None:
    """Without --max the limit of the group is watched, and nobody is ended."""
    pipe = subprocess.PIPE
    command = [*MEMGUARD, "run", "--json", "--", sys.executable, "-c", EATER, "124"]
    child = cage.popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=_environ())
    assert child.stderr is not None
    first = json.loads(child.stderr.readline())
    assert (first["event"], first["limit_bytes"]) == ("level", LIMIT)
    assert 0.7 * LIMIT < first["used_bytes"] < LIMIT
    out, _ = child.communicate("", timeout=60)
    assert (child.returncode, out) == (0, "full\n")
    assert cage.killed == 0


def test_top_sees_the_guards_of_a_group(cage: Cage) -> None:
    """Two guarded processes show up with their pids, what they hold and the limit, and go when they end."""
    pipe = subprocess.PIPE
    children = [
        cage.popen([sys.executable, "-c", GUARDED, size], stdin=pipe, stdout=pipe, text=True, env=_environ())
        for size in ("20", "40")
    ]
    pids = [child.pid for child in children]

    def look() -> dict[int, dict[str, Any]]:
        done = subprocess.run(
            [*MEMGUARD, "top", "--once", "--json"],
            capture_output=True,
            text=True,
            env=_environ(),
            check=False,
            timeout=60,
        )
        return {one["pid"]: one for one in json.loads(done.stdout)["guards"]}

    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "guarded\n"
        wait_for(lambda: set(pids) <= set(look()))
        seen = look()
        assert [seen[pid]["where"] for pid in pids] == ["memguard-cli-test"] * 2
        assert [seen[pid]["limit_bytes"] for pid in pids] == [LIMIT] * 2
        assert seen[pids[1]]["used_bytes"] - seen[pids[0]]["used_bytes"] > 10 << 20
    finally:
        for child in children:
            child.communicate("")
    assert not set(pids) & set(look())
