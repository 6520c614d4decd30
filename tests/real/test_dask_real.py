"""Dask with real workers, nannies and limits: what ends or stalls a job bare is over when each worker is guarded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memguard.testing.cage import cage_unavailable

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.real

_BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "dask_jobs.py"


@pytest.fixture(scope="module")
def jobs() -> ModuleType:
    """The jobs of benchmarks/dask_jobs.py, each run in a process and on a cluster of its own."""
    spec = importlib.util.spec_from_file_location("memguard_benchmark_dask", _BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_job_that_kills_workers_bare_finishes_guarded(jobs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that fill a cache, under Dask's limit and the kernel's: bare Dask gives up; guarded nobody is killed."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")  # it fails with 3, too, and takes longer
    contained = cage_unavailable() is None
    bare = jobs.child("cache", "bare", contained=contained)
    assert bare["result"] is None, bare
    assert bare["nanny_kills"] + bare["kernel_kills"] >= 1
    guarded = jobs.child("cache", "guarded", contained=contained)
    assert guarded["result"] == jobs.expected("cache"), guarded
    assert guarded["nanny_kills"] + guarded["kernel_kills"] == 0
    assert guarded["bought_bytes"] > 0
