"""The manifests of docs/kubernetes.md and examples/kubernetes say what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from memguard.ext.fastapi import protect

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples" / "kubernetes").glob("*.yaml"))
BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "kubernetes.md").read_text("utf-8"), re.DOTALL)


def _documents() -> list[Any]:
    texts = [path.read_text("utf-8") for path in EXAMPLES] + BLOCKS
    return [document for text in texts for document in yaml.safe_load_all(text)]


def _found(where: Any, key: str) -> list[Any]:
    """Every value under a key, however deep."""
    if isinstance(where, list):
        return [one for item in where for one in _found(item, key)]
    if not isinstance(where, dict):
        return []
    return [one for name, item in where.items() for one in ([item] if name == key else _found(item, key))]


def test_requests_equal_limits() -> None:
    """Memory asked for is memory allowed, wherever it is written."""
    resources = _found(_documents(), "resources")
    assert len(resources) >= 2
    for one in resources:
        assert one["requests"]["memory"] == one["limits"]["memory"]


@pytest.mark.parametrize(("probe", "argument"), [("livenessProbe", "livez"), ("readinessProbe", "readyz")])
def test_probes_are_those_of_protect(probe: str, argument: str) -> None:
    """The paths asked are the ones that ``protect`` answers by default."""
    paths = {one["httpGet"]["path"] for one in _found(_documents(), probe)}
    assert paths == {inspect.signature(protect).parameters[argument].default}


def test_metrics_are_where_prometheus_looks() -> None:
    """The scraped path is the control API's, and the scaled metric is one of ours."""
    prefix = inspect.signature(protect).parameters["prefix"].default
    assert _found(_documents(), "metrics_path") == [f"{prefix}/monitoring/metrics"]
    names = {metric["name"] for metric in _found(_documents(), "metric")}
    known = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    assert names
    assert all(f"`{name}`" in known for name in names)
