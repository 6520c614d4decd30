"""Real servers with two workers under a real memory limit: a leak is handed over, and no request is lost."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memguard.testing.cage import cage_unavailable

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(cage_unavailable() is not None, reason=f"needs a real memory limit: {cage_unavailable()}"),
]

_BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "handover.py"
# The ladder begins early, so that a loaded machine has the time of a drain before work is refused.
_RULES = {
    "elevated_ratio": "0.5",
    "collect_ratio": "0.55",
    "warning_ratio": "0.6",
    "handover_life_s": "2",
    "handover_urgent_s": "300",
}


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The service and the client of benchmarks/handover.py."""
    spec = importlib.util.spec_from_file_location("memguard_benchmark_handover", _BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("server", ["uvicorn --workers 2", "gunicorn -w 2, UvicornWorker"])
def test_a_leak_is_handed_over_without_loss(benchmark: ModuleType, server: str) -> None:
    """A leak under load: at least one hand-over, the hook called, nobody killed, every request answered with 200."""
    found: dict[str, Any] = benchmark.one_run(
        benchmark.SERVERS[server], "guarded", seconds=14.0, limit_mb=320, leak_mb_s=10.0, rate=40.0, rules=_RULES
    )
    told = "\n".join(found["told"])
    assert found["killed"] == 0
    assert found["handovers"] >= 1, told
    assert " saved:" in told
    assert found["failed"] == 0, (found["counts"], found["losses_s"], told)
