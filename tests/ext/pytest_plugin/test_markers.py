"""What markers and fixtures find, and what they leave alone: one session, looked at from all sides."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import pytest

from tests.ext.pytest_plugin.sessions import session

_TESTS = """
import functools, gc, logging, re, unittest, weakref
import cachetools
import pytest
import memguard

KEPT = []
SETUPS = []
numbers = iter(range(10**9))

class Job:
    def __init__(self, number):
        self.text = f"job {number}"

@pytest.fixture(scope="module")
def server():
    SETUPS.append("up")
    yield {"requests": 0}
    SETUPS.append("down")

@pytest.fixture
def client(server):
    server["requests"] += 1
    return server

# --- what leaks ---

@pytest.mark.leak_free
def test_leaks_a_little(client):
    KEPT.append(Job(next(numbers)))

@pytest.mark.leak_free(max_growth="100KiB")
def test_leaks_what_it_may():
    KEPT.append(bytearray(50_000))

@pytest.mark.leak_free(max_growth="10KiB", warmup=0, repeats=4)
def test_leaks_more_than_it_may():
    KEPT.append(bytearray(50_000))

@pytest.mark.leak_free(types=Job)
def test_leaks_that_type():
    KEPT.append(Job(next(numbers)))

@pytest.mark.leak_free(types=["collections.OrderedDict"])
def test_leaks_no_such_type():
    KEPT.append(Job(next(numbers)))

@pytest.mark.leak_free
@pytest.mark.parametrize("keeps", [False, True])
def test_leaks_with_one_parameter(keeps):
    job = [Job(next(numbers)) for _ in range(50)]
    if keeps:
        KEPT.extend(job)

@pytest.mark.xfail(reason="known to leak", strict=True)
@pytest.mark.leak_free
def test_leaks_as_known():
    KEPT.append(Job(next(numbers)))

class TestUnit(unittest.TestCase):
    @pytest.mark.leak_free
    def test_leaks(self):
        KEPT.append(Job(next(numbers)))

    @pytest.mark.leak_free
    def test_clean(self):
        self.assertTrue(Job(1).text)
        with self.subTest("one"):
            pass

def test_leaks_in_a_block(leak_check):
    with leak_check:
        KEPT.append(Job(next(numbers)))

def test_leaks_beside_a_block(leak_check):
    KEPT.append(Job(next(numbers)))
    with leak_check(max_growth=0):
        Job(1)

def test_leaks_in_a_block_what_it_may(leak_check):
    with leak_check(max_growth="1MiB"):
        KEPT.append(bytearray(5_000))

# --- what does not ---

@pytest.mark.leak_free
def test_first_calls():
    import xml.dom.minidom, decimal
    logging.getLogger("app.first").debug("x")
    re.compile(f"a{next(numbers)}+b").match("aab")
    "".join(["a", "b"])
    xml.dom.minidom.parseString("<a/>")

@pytest.mark.leak_free
def test_pytests_own_fixtures(client, tmp_path, monkeypatch, caplog, capsys, recwarn, request, record_property):
    record_property("a", 1)
    print("x")
    logging.warning("hey")
    monkeypatch.setenv("A", "b")
    (tmp_path / "a").write_text("b")
    request.addfinalizer(lambda: None)

class Node:
    def __init__(self):
        self.me = self

@pytest.mark.leak_free
def test_cycles():
    for _ in range(1000):
        Node()

@functools.lru_cache(maxsize=10_000)
def recent(number):
    return [number] * 50

@pytest.mark.leak_free
def test_a_bounded_cache_that_fills():
    for _ in range(20):
        recent(next(numbers))

BOX = cachetools.LRUCache(maxsize=100_000)

@pytest.mark.leak_free
def test_a_bounded_mapping_that_fills():
    for _ in range(20):
        BOX[next(numbers)] = [0] * 50

@memguard.cached
def guarded(number):
    return [number] * 50

@pytest.mark.leak_free
def test_a_guarded_cache_that_fills():
    for _ in range(20):
        guarded(next(numbers))

class TestClass:
    items = []

    @pytest.mark.leak_free
    def test_has_a_new_instance(self):
        assert not hasattr(self, "mine")
        self.mine = [1] * 1000

@pytest.mark.leak_free
def test_looks_at_the_collector():
    assert gc.get_objects() and any(one is KEPT for one in gc.get_objects())

# --- others ---

DONE = []

@pytest.mark.leak_free
def test_once_only():
    assert not DONE
    DONE.append(1)

@pytest.mark.leak_free
def test_fails_anyway():
    assert KEPT == "something else"

@pytest.mark.leak_free
def test_is_skipped():
    pytest.skip("not today")

@pytest.mark.peak_memory("20MiB")
def test_low():
    bytearray(5 * 2**20)

@pytest.mark.peak_memory("20MiB")
def test_high():
    bytearray(40 * 2**20)

FIRST = []

@pytest.mark.peak_memory(limit="20MiB")
def test_high_at_first():
    if not FIRST:
        FIRST.append(bytes(40 * 2**20))

def test_numbers_only(fake_memory):
    guard = memguard.Guard(limit="512MiB", probe=fake_memory, clock=fake_memory.clock, roster=memguard.Roster())
    fake_memory.grow(460 * 2**20)
    guard.tick()
    assert guard.level is memguard.Level.EMERGENCY

def test_set_up_once(server):
    assert SETUPS == ["up"]

def test_wrong_arguments_of_a_block(leak_check):
    with leak_check(max_grow=1):
        pass

def test_too_late(request):
    request.getfixturevalue("leak_check")
"""


class _Found(NamedTuple):
    output: str
    outcomes: dict[str, str]
    findings: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> _Found:
    """The session's output, what became of each test, and what was found."""
    folder = tmp_path_factory.mktemp("markers")
    (folder / "test_it.py").write_text(_TESTS, encoding="utf-8")
    done = session(folder, "-vv", "-rA", "--memguard-report=found.json")
    outcomes = dict(re.findall(r"^test_it.py::(\S+) ([A-Z]+)", done.stdout, re.MULTILINE))
    rows = json.loads((folder / "found.json").read_text(encoding="utf-8"))["findings"]
    return _Found(done.stdout + done.stderr, outcomes, {row["test"].partition("::")[2]: row for row in rows})


@pytest.mark.parametrize(
    "test",
    [
        "test_leaks_a_little",
        "test_leaks_more_than_it_may",
        "test_leaks_that_type",
        "test_leaks_with_one_parameter[True]",
        "TestUnit::test_leaks",
        "test_leaks_in_a_block",
        "test_high",
    ],
)
def test_found(found: _Found, test: str) -> None:
    """A test that leaks, or takes more than it may, fails."""
    assert found.outcomes[test] == "FAILED", found.output
    assert test in found.findings


@pytest.mark.parametrize(
    "test",
    [
        "test_leaks_what_it_may",
        "test_leaks_no_such_type",
        "test_leaks_with_one_parameter[False]",
        "test_leaks_beside_a_block",
        "test_leaks_in_a_block_what_it_may",
        "TestUnit::test_clean",
        "test_first_calls",
        "test_pytests_own_fixtures",
        "test_cycles",
        "test_a_bounded_cache_that_fills",
        "test_a_bounded_mapping_that_fills",
        "test_a_guarded_cache_that_fills",
        "TestClass::test_has_a_new_instance",
        "test_looks_at_the_collector",
        "test_low",
        "test_high_at_first",
        "test_numbers_only",
        "test_set_up_once",
    ],
)
def test_left_alone(found: _Found, test: str) -> None:
    """A test passes that leaves nothing behind, or no more than it may, or only in a cache with a bound."""
    assert found.outcomes[test] == "PASSED", found.output
    assert test not in found.findings


def test_failure_says_it_all(found: _Found) -> None:
    """Growth per repeat, the holder, the types and the line, and nothing of what is in the objects."""
    row = found.findings["test_leaks_with_one_parameter[True]"]
    assert row["blocks"] >= 50
    assert 50 * 50 < row["bytes"] < 50 * 500
    assert any(one.startswith("test_it.KEPT (list): +50 a repeat") for one in row["holders"])
    assert any("+50 test_it.Job a repeat" in one for one in row["types"])
    assert any("test_it.py:" in one for one in row["lines"])
    text = found.output.partition("test_leaks_with_one_parameter[True]: each repeat leaves")[2].partition("____")[0]
    assert "test_it.KEPT" in text
    assert "job " not in text


def test_expected_failures_are_expected(found: _Found) -> None:
    """An xfail marker, strict or not, applies to a leak as to any failure."""
    assert found.outcomes["test_leaks_as_known"] == "XFAIL"


def test_what_cannot_be_repeated_says_so(found: _Found) -> None:
    """A marked test that passes only once fails with the reason, for nothing can be said of it."""
    assert found.outcomes["test_once_only"] == "FAILED"
    assert "passed once and cannot be repeated" in found.output
    assert "test_once_only" not in found.findings


def test_other_outcomes_stay(found: _Found) -> None:
    """A test that fails or is skipped by itself is reported as ever."""
    assert found.outcomes["test_fails_anyway"] == "FAILED"
    assert found.outcomes["test_is_skipped"] == "SKIPPED"
    assert "assert [" in found.output


def test_peak_is_told(found: _Found) -> None:
    """The failure says how high memory stood, and what was allowed."""
    row = found.findings["test_high"]
    assert row["kind"] == "peak"
    assert 35 * 2**20 < row["bytes"] < 60 * 2**20
    assert "allowed are 20.0 MiB" in row["summary"]


def test_wrong_use_of_a_block_says_how(found: _Found) -> None:
    """The error names the test, the argument and the mend."""
    assert "test_wrong_arguments_of_a_block: leak_check(max_grow=1): there is no such argument" in found.output
    assert "leak_check must be an argument of the test" in found.output
