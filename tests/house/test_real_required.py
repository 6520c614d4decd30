"""`.ci/run` fails when a test marked `real` was skipped."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_MARKED = "import pytest\n@pytest.mark.real\ndef test_it(): {}\n"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty suite with our conftest, in which all `real` tests are required."""
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers = real: needs the machine\n")
    monkeypatch.setenv("MEMGUARD_REAL_REQUIRED", "1")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester


def _run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    # A process of its own: Hypothesis' profiles are global.
    return suite.runpytest_subprocess("-p", "no:cacheprovider", "-p", "pytest_rerunfailures", *arguments)


def test_a_skip_is_a_failure(suite: pytest.Pytester) -> None:
    """A skipped `real` test fails the run and says why it was skipped."""
    suite.makepyfile(_MARKED.format("pytest.skip('no jq here')"))
    result = _run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*marked real*skipped*no jq here*"])


def test_a_skip_by_mark_is_a_failure(suite: pytest.Pytester) -> None:
    """A skip decided before the test, by mark or fixture, counts the same."""
    suite.makepyfile("import pytest\npytestmark = [pytest.mark.real, pytest.mark.skip('later')]\ndef test_it(): pass\n")
    assert _run(suite).ret == pytest.ExitCode.TESTS_FAILED


def test_a_module_that_skips_itself_is_a_failure(suite: pytest.Pytester) -> None:
    """A module of tests/real cannot step out as a whole either."""
    folder = suite.mkdir("real")
    (folder / "test_it.py").write_text("import pytest\npytest.skip('not me', allow_module_level=True)\n")
    result = _run(suite)
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*skipped as a whole*not me*"])


def test_none_at_all_is_a_failure(suite: pytest.Pytester) -> None:
    """A run without any `real` test is no proof."""
    suite.makepyfile("def test_it(): pass\n")
    assert _run(suite).ret == pytest.ExitCode.TESTS_FAILED


def test_workers_count(suite: pytest.Pytester) -> None:
    """What ran or skipped in other processes counts too."""
    several = ("-p", "xdist", "-n", "2")
    suite.makepyfile(test_it=_MARKED.format("pass"))
    result = _run(suite, *several)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["tests marked real that ran: 1"])
    suite.makepyfile(test_it=_MARKED.format("pytest.skip('no jq here')"))
    _run(suite, *several).assert_outcomes(failed=1)
    suite.makepyfile(test_it="def test_it(): pass\n")
    assert _run(suite, *several).ret == pytest.ExitCode.TESTS_FAILED


def test_a_run_is_a_pass(suite: pytest.Pytester) -> None:
    """A `real` test that runs passes; other tests may skip."""
    suite.makepyfile(_MARKED.format("pass"), test_other="import pytest\ndef test_other(): pytest.skip('fine')\n")
    result = _run(suite)
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == pytest.ExitCode.OK


def test_without_the_demand_skips_are_skips(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a desk a `real` test may skip, and says which tool it lacks."""
    monkeypatch.delenv("MEMGUARD_REAL_REQUIRED")
    suite.makepyfile(_MARKED.format("pytest.skip('no jq here')"))
    result = _run(suite)
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.OK


def test_ci_demands_it() -> None:
    """`.ci/run` is sound bash and demands every `real` test."""
    script = ROOT / ".ci" / "run"
    assert "MEMGUARD_REAL_REQUIRED=1" in script.read_text()
    assert subprocess.run(["bash", "-n", str(script)], timeout=30, check=False).returncode == 0
