"""The pytest plugin's `memory_limit` under a limit of the kernel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from memguard.testing.cage import cage_unavailable
from tests.ext.pytest_plugin.sessions import session

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(cage_unavailable() is not None, reason=f"no memory cgroup: {cage_unavailable()}"),
]

_TESTS = """
import pytest

@pytest.mark.parametrize("size", [10, 1000])
def test_size(memory_limit, size):
    memory_limit("200MiB")
    assert len(bytearray(size * 2**20)) > 0

def test_fails(memory_limit, tmp_path):
    memory_limit("200MiB")
    (tmp_path / "a").write_text("b")
    assert 1 == 2

def test_is_skipped(memory_limit):
    memory_limit("200MiB")
    pytest.skip("not on a small machine")

def test_parent_does_not_go_on(memory_limit, monkeypatch):
    monkeypatch.setenv("PLACE", "somewhere")
    memory_limit("200MiB")
    import os
    assert "MEMGUARD_TEST_LIMITED" in os.environ

def test_wrong(memory_limit):
    memory_limit("200M")
"""


def test_body_runs_under_the_limit(tmp_path: Path) -> None:
    """It passes, fails, is skipped or killed in the child, and the test here says so; a wrong limit says why."""
    (tmp_path / "test_it.py").write_text(_TESTS, encoding="utf-8")
    done = session(tmp_path, "-vv", "-rA")
    found = dict(re.findall(r"^test_it.py::(\S+) ([A-Z]+)", done.stdout, re.MULTILINE))
    assert found == {
        "test_size[10]": "PASSED",
        "test_size[1000]": "FAILED",
        "test_fails": "FAILED",
        "test_is_skipped": "SKIPPED",
        "test_parent_does_not_go_on": "PASSED",
        "test_wrong": "FAILED",
    }, done.stdout
    assert re.search(r"under 200.0 MiB by kernel \(cgroup v[12]\): the test was killed at the limit", done.stdout)
    assert "assert 1 == 2" in done.stdout
    assert "not on a small machine" in done.stdout
    assert "memory_limit('200M'): '200M' is ambiguous" in done.stdout
