"""The options, and the plugin beside others: each test is a session of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.ext.pytest_plugin.sessions import session

if TYPE_CHECKING:
    from pathlib import Path

_SCREENED = """
import itertools, pytest

KEPT, DONE = [], []
numbers = itertools.count()

class Job:
    def __init__(self):
        self.text = f"job {next(numbers)}"

@pytest.fixture(scope="module")
def server():
    yield [Job() for _ in range(1000)]

def test_leaks(server):
    KEPT.extend(Job() for _ in range(5000))

@pytest.mark.parametrize("size", [10, 1000])
def test_clean(size, server):
    assert [Job() for _ in range(size)]

def test_first_call():
    import decimal, sqlite3, xml.dom.minidom

def test_once_only():
    assert not DONE
    DONE.extend(Job() for _ in range(1000))

def test_fails():
    assert KEPT is None
"""


def test_all_tests_are_looked_at(tmp_path: Path) -> None:
    """With --memguard a test that leaks fails, with its holder; first calls and what cannot be repeated do not."""
    (tmp_path / "test_it.py").write_text(_SCREENED, encoding="utf-8")
    done = session(tmp_path, "--memguard", "--memguard-report=found.html")
    assert "2 failed, 4 passed" in done.stdout
    assert "test_it.KEPT (list): +5000 a repeat" in done.stdout
    # The one that failed by itself was not.
    assert "5 tests looked at, 1 failed for their memory" in done.stdout
    assert "1 left much behind and could not be repeated" in done.stdout
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert "test_it.KEPT (list)" in page
    assert "job " not in page
    assert "http" not in page


_LEAKING = """
import pytest

KEPT = []

@pytest.mark.leak_free
def test_leaks():
    KEPT.append(bytearray(10_000))

@pytest.mark.leak_free
def test_clean():
    bytearray(10_000)
"""


def test_last_failed_knows_them(tmp_path: Path) -> None:
    """A leak is a failure for --lf, and is run alone the next time."""
    (tmp_path / "test_it.py").write_text(_LEAKING, encoding="utf-8")
    first = session(tmp_path, "-o", "cache_dir=cache", cache=True)
    assert "1 failed, 1 passed" in first.stdout
    second = session(tmp_path, "-o", "cache_dir=cache", "--lf", cache=True)
    assert "1 failed" in second.stdout
    assert "passed" not in second.stdout


_ASYNC = """
import asyncio
import pytest

KEPT = []

async def work(keeps):
    await asyncio.sleep(0)
    job = bytearray(10_000)
    if keeps:
        KEPT.append(job)

@pytest.fixture
async def connection():
    await asyncio.sleep(0)
    yield [1] * 100

@pytest.mark.asyncio
@pytest.mark.leak_free
@pytest.mark.parametrize("keeps", [False, True])
async def test_asyncio(keeps):
    await work(keeps)

@pytest.mark.anyio
@pytest.mark.leak_free
@pytest.mark.parametrize("keeps", [False, True])
async def test_anyio(keeps, anyio_backend):
    await work(keeps)

@pytest.mark.asyncio
@pytest.mark.parametrize("keeps", [False, True])
async def test_block(keeps, leak_check):
    with leak_check(max_growth="1KiB"):
        await work(keeps)

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.limit_memory("100 MB")
@pytest.mark.leak_free
def test_with_memrays_own_marker():
    pass
"""


def test_beside_other_plugins(tmp_path: Path) -> None:
    """Async tests of two plugins, on workers, under coverage, with memray's markers: the same verdicts."""
    others = (
        "pytest_asyncio.plugin",
        "anyio.pytest_plugin",
        "xdist.plugin",
        "pytest_cov.plugin",
        "pytest_memray.plugin",
    )
    for name in others:
        pytest.importorskip(name.partition(".")[0])
    (tmp_path / "test_it.py").write_text(_ASYNC, encoding="utf-8")
    done = session(
        tmp_path,
        "-n2",
        "--cov=test_it",
        "--memguard-report=found.json",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        plugins=others,
    )
    assert "3 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    rows = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert {row["test"].partition("::")[2] for row in rows["findings"]} == {
        "test_asyncio[True]",
        "test_anyio[True]",
        "test_block[True]",
    }
    assert all("test_it.KEPT (list): +1 a repeat" in row["holders"][0] for row in rows["findings"])
    assert rows["looked_at"] == 7


_WRONG = """
import pytest

@pytest.mark.leak_free(max_growth="64K")
def test_it():
    raise AssertionError
"""


@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_wrong_arguments_end_the_session(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """A marker that cannot be meant: a usage error with test, value and mend; on a worker the test itself says it."""
    (tmp_path / "test_it.py").write_text(_WRONG, encoding="utf-8")
    done = session(tmp_path, *workers, plugins=("xdist.plugin",) if workers else ())
    said = done.stdout + done.stderr
    expected = pytest.ExitCode.TESTS_FAILED if workers else pytest.ExitCode.USAGE_ERROR
    assert done.returncode == expected, said
    assert "test_it.py::test_it: leak_free(max_growth='64K'): '64K' is ambiguous" in said
    assert "AssertionError" not in said


def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    """It is refused before any test has run, with the path and the mend."""
    (tmp_path / "test_it.py").write_text(_WRONG, encoding="utf-8")
    done = session(tmp_path, "--memguard-report=nowhere/found.json")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--memguard-report=nowhere/found.json: it cannot be written" in done.stdout + done.stderr


def test_inert_until_asked(tmp_path: Path) -> None:
    """A session that does not ask imports nothing of memguard but the plugin itself, and starts no thread."""
    (tmp_path / "test_it.py").write_text(
        "import sys, threading\n"
        "def test_it():\n"
        "    ours = {name for name in sys.modules if name.startswith('memguard')}\n"
        "    assert ours == {'memguard', 'memguard.ext', 'memguard.ext.pytest_plugin'}\n"
        "    assert threading.active_count() == 1\n",
        encoding="utf-8",
    )
    done = session(tmp_path)
    assert "1 passed" in done.stdout, done.stdout


def test_importing_needs_pytest_only() -> None:
    """Importing the plugin brings nothing that pytest does not bring."""
    code = (
        "import sys, pytest; before = set(sys.modules); import memguard.ext.pytest_plugin;"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('memguard')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() in {"[]", "['__future__']"}, done.stdout + done.stderr


def test_it_is_found_by_its_name() -> None:
    """pyproject.toml offers the plugin to pytest under the name memguard."""
    import tomllib

    from tests.ext.pytest_plugin.sessions import ROOT

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"memguard": "memguard.ext.pytest_plugin"}
