"""The shipped Grafana dashboard and Prometheus rules ask for what there is, in words that Prometheus understands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from memguard.metrics import METRICS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RULES = EXAMPLES / "prometheus" / "alerts.yml"
DASHBOARD = EXAMPLES / "grafana" / "memguard.json"


def _asked(text: str) -> set[str]:
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bmemguard_\w+", text)}


@pytest.mark.parametrize("path", [RULES, DASHBOARD, RULES.with_name("alerts_test.yml")], ids=lambda path: path.name)
def test_every_metric_exists(path: Path) -> None:
    """No panel and no rule asks for a metric that the table does not have."""
    asked = _asked(path.read_text())
    assert asked
    assert asked <= {re.sub(r"_(bucket|sum|count)$", "", row.prometheus) for row in METRICS.values()}


def test_every_label_exists() -> None:
    """Nor for a label that its metrics do not have."""
    labels = {label for row in METRICS.values() for label in row.labels}
    text = RULES.read_text() + DASHBOARD.read_text()
    asked = set(re.findall(r"\b(\w+)(?:!?=~?)\\?\"", text)) | set(re.findall(r"{{\s*\$labels\.(\w+)", text))
    asked |= {label for group in re.findall(r"by \(([\w, ]+)\)", text) for label in group.split(", ")}
    assert asked - {"job", "instance", "le"} <= labels


def test_the_dashboard_is_whole() -> None:
    """Panels have titles, places of their own, queries and a data source that can be chosen."""
    board = json.loads(DASHBOARD.read_text())
    places = set[tuple[int, int]]()
    for panel in board["panels"]:
        assert panel["title"]
        assert all(target["expr"] for target in panel["targets"])
        assert panel["datasource"]["uid"] == "${datasource}"
        grid = panel["gridPos"]
        mine = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not mine & places, panel["title"]
        assert max(x for x, _ in mine) < 24
        places |= mine
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.real
class TestPromtool:
    """Prometheus's own tool agrees."""

    @pytest.fixture
    def promtool(self) -> str:
        """Where it is."""
        found = shutil.which("promtool")
        if found is None:
            pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
        return found

    @pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
    def test_the_rules(self, promtool: str, arguments: tuple[str, ...]) -> None:
        """The rules are valid, and fire when they should and not before."""
        done = subprocess.run([promtool, *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_dashboards_queries(self, promtool: str, tmp_path: Path) -> None:
        """Every query of the dashboard is valid PromQL."""
        board = json.loads(DASHBOARD.read_text())
        queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
        queries += [each["expr"] for each in board["annotations"]["list"]]
        filled = [
            query.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")
            for query in queries
        ]
        rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(filled)]
        path = tmp_path / "queries.yml"
        path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
        done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_our_own_text(self, promtool: str) -> None:
        """`promtool check metrics` accepts the text as it is."""
        from memguard.sinks.prometheus import PrometheusSink
        from tests.sinks.stores import watched

        guard, clock, _ = watched(PrometheusSink())
        for _ in range(3):
            guard.tick()
            with guard.operation("agent.run"):
                clock.advance(1.0)
        guard.tick()
        done = subprocess.run(
            [promtool, "check", "metrics"], input=guard.exposition.text(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
