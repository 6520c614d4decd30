"""Cost of `pytest --memguard`: tests of over 10 ms that leave nothing behind, bare and looked at.

Two sessions of the same tests are twins, run in turn, several times; the plugin is loaded in both, and asked in one.
What is compared is processor time of a test's whole protocol (setup, call, teardown, reports, what the plugin adds),
from outermost hook to outermost hook, medians over the rounds. The first test of each kind has first-call effects
(imports, caches), which the plugin has to tell from a leak by repeating the test: a row of its own shows it.

    python benchmarks/pytest_plugin.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest_sessions
import report

BAR = 1.3
EACH = 20

TESTS = """
import dataclasses, decimal, json, re, sqlite3, string
import pytest

N = range({each})

def spin(number=1):
    for _ in range(number):
        rows = [{{"id": n, "name": f"user {{n}}", "tags": ["a", "b"]}} for n in range(2_000)]
        assert len(json.loads(json.dumps(rows))) == 2_000

@pytest.mark.parametrize("n", N)
def test_json(n):
    spin(2)

@pytest.fixture
def database():
    connection = sqlite3.connect(":memory:")
    connection.execute("create table t (a integer, b text)")
    yield connection
    connection.close()

@pytest.mark.parametrize("n", N)
def test_database(n, database):
    database.executemany("insert into t values (?, ?)", ((k, f"row {{k}}") for k in range(20_000)))
    assert database.execute("select count(*) from t").fetchone() == (20_000,)

@pytest.mark.parametrize("n", N)
def test_classes(n):
    for k in range(25):
        fields = [(f"field_{{letter}}", int, k) for letter in string.ascii_lowercase[:6]]
        assert dataclasses.make_dataclass("Made", fields)()

@pytest.mark.parametrize("n", N)
def test_objects_in_cycles(n):
    class Node:
        pass
    for _ in range(20_000):
        node = Node()
        node.me = node

@pytest.mark.parametrize("n", N)
def test_files(n, tmp_path):
    for k in range(100):
        (tmp_path / f"{{k}}.txt").write_text("line\\n" * 100)
    spin()

@pytest.mark.parametrize("n", N)
def test_numbers(n):
    total = decimal.Decimal(0)
    for k in range(30_000):
        total += decimal.Decimal(k) / 7
    assert re.search(r"\\d+", str(total))
"""


def sessions(rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each test, bare and guarded, of every round."""
    found: tuple[dict[str, list[float]], ...] = (defaultdict(list), defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_twins.py").write_text(TESTS.format(each=EACH), encoding="utf-8")
        for place in range(rounds):
            for guarded in (False, True) if place % 2 else (True, False):
                done = pytest_sessions.run(Path(folder), guarded=guarded)
                if done.status:
                    raise RuntimeError(done.output)
                for test, seconds in done.seconds.items():
                    found[guarded][test].append(seconds)
    return found[0], found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    bare, guarded = sessions(rounds)
    kinds: dict[str, list[str]] = defaultdict(list)
    for test in bare:
        name, _, rest = test.partition("::test_")[2].partition("[")
        first = rest == "0]"
        kinds["the first of each kind" if first else name.replace("_", " ")].append(test)
        kinds["all"].append(test)
    rows, missed = [], False
    for kind, tests in sorted(kinds.items(), key=lambda row: row[0] == "all"):
        before, after = (sum(statistics.median(times[test]) for test in tests) for times in (bare, guarded))
        worst = max(statistics.median(guarded[test]) / statistics.median(bare[test]) for test in tests)
        met = after / before <= BAR
        missed |= kind == "all" and not met
        rows.append({
            "tests": kind,
            "bare, ms each": f"{before / len(tests) * 1e3:.1f}",
            "with --memguard": f"{after / before:.2f} ×",
            f"≤ {BAR} ×": ("met" if met else "MISSED") if kind == "all" else "",
            "worst single test": f"{worst:.2f} ×",
        })  # fmt: skip
    report.publish(
        "pytest_plugin",
        title=f"pytest --memguard: overhead, at most {BAR} × for tests over 10 ms",
        rows=rows,
        method=[(__doc__ or "").partition("\n\n")[2].partition("\n\n    python")[0], f"{rounds} rounds."],
    )
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
