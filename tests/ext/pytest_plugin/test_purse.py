"""What looking twice may cost: a part of the time of the tests, in sessions of many."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from memguard.ext.pytest_plugin.purse import Purse
from tests.ext.pytest_plugin.sessions import session

if TYPE_CHECKING:
    from pathlib import Path


def test_few_tests_are_all_looked_at() -> None:
    """In a small session nothing is too dear."""
    purse = Purse(tests=50)
    purse.spend(100.0, 100.0)
    assert purse.affords(100.0)


def test_a_purse_fills_with_the_tests() -> None:
    """In a large session seven tests pay for one repeat, and who overspends waits."""
    purse = Purse(tests=51)
    assert not purse.affords(1.0)
    for _ in range(7):
        purse.earn(1.0)
    assert purse.affords(1.0)
    purse.spend(2.5, 1.0)
    for _ in range(10):
        purse.earn(1.0)
    assert not purse.affords(1.0)
    for _ in range(9):
        purse.earn(1.0)
    assert purse.affords(1.0)


def test_short_tests_do_not_pay_for_long_ones() -> None:
    """Tests of over 10 ms have a purse of their own, and so have the others."""
    purse = Purse(tests=1000)
    for _ in range(1000):
        purse.earn(0.005)
    assert purse.affords(0.005)
    assert not purse.affords(0.02)
    for _ in range(10):
        purse.earn(0.02)
    purse.spend(10.0, 0.005)
    assert purse.affords(0.02)
    assert not purse.affords(0.005)


_MANY = """
import pytest

KEPT, WARM = [], []

@pytest.mark.parametrize("number", range(60))
def test_quick(number):
    pass

class Part:
    def __init__(self, number):
        self.text = f"part {number}"

def test_warms_up():
    if not WARM:
        WARM.extend(map(Part, range(400)))
    assert sum(range(2_000_000))

def test_leaks():
    KEPT.extend(map(Part, range(2_000)))
"""


def test_a_large_session(tmp_path: Path) -> None:
    """Among many quick tests a large leak is found all the same; what left a little more is told and not repeated."""
    (tmp_path / "test_it.py").write_text(_MANY, encoding="utf-8")
    done = session(tmp_path, "--memguard", "--memguard-report=found.json")
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [row["test"].partition("::")[2] for row in found["findings"]] == ["test_leaks"], done.stdout
    assert "test_it.py::test_warms_up" in found["not_repeated"]
    assert "left a little more than usual and were not repeated" in done.stdout


_SUBTESTS = """
import unittest

class Test(unittest.TestCase):
    def test_many(self):
        for number in range(2_000):
            with self.subTest(number=number):
                pass
"""


def test_notes_of_subtests(tmp_path: Path) -> None:
    """What pytest keeps of thousands of subtests is no reason to repeat a test."""
    (tmp_path / "test_it.py").write_text(_SUBTESTS, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(_COUNTS, encoding="utf-8")
    done = session(tmp_path, "--memguard")
    assert "1 passed" in done.stdout, done.stdout
    assert "runs: 1" in done.stdout


_COUNTS = """
import pytest

RUNS = []

@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    RUNS.append(None)
    return (yield)

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"runs: {len(RUNS)}")
"""
