"""Dask: a guard in every worker, sharing its duties with distributed's own memory management; a view of the cluster.

``client.register_plugin(GuardWorkers())`` is all that a job needs; ``protect(client)`` registers both plugins.
``docs/dask.md`` says who does what at which share of the limit.
"""

from __future__ import annotations

from importlib.util import find_spec

from memguard.errors import MissingExtra

if find_spec("distributed") is None:
    raise MissingExtra("memguard.ext.dask", "dask")

from memguard.ext.dask.fractions import Fractions, rungs
from memguard.ext.dask.scheduler import GuardScheduler
from memguard.ext.dask.standing import get_guard
from memguard.ext.dask.view import ClusterView, WorkerView, cluster
from memguard.ext.dask.workers import GuardWorkers, dask_setup, protect

__all__ = [
    "ClusterView",
    "Fractions",
    "GuardScheduler",
    "GuardWorkers",
    "WorkerView",
    "cluster",
    "dask_setup",
    "get_guard",
    "protect",
    "rungs",
]
