"""Ray: a guard in every worker process, calls that are refused so that Ray makes them again, actors that hand over.

``ray.init(runtime_env=memguard.ext.ray.runtime_env())`` guards every worker of a job; ``GuardedActor`` and ``admitted``
put the gate before calls. ``docs/ray.md`` says how that lives beside Ray's own memory monitor and object store.
"""

from __future__ import annotations

from memguard.errors import MissingExtra

try:
    import ray  # noqa: F401 - the room is this library's own
except ModuleNotFoundError as _missing:
    if _missing.name != "ray":
        raise
    raise MissingExtra("memguard.ext.ray", "ray") from _missing

from memguard.ext.ray.actors import ActorView, GuardedActor
from memguard.ext.ray.calls import NeverFits, admitted
from memguard.ext.ray.gauges import RayMetrics
from memguard.ext.ray.view import NodeView, ProcessView, cluster, node
from memguard.ext.ray.workers import get_guard, runtime_env, setup

__all__ = [
    "ActorView",
    "GuardedActor",
    "NeverFits",
    "NodeView",
    "ProcessView",
    "RayMetrics",
    "admitted",
    "cluster",
    "get_guard",
    "node",
    "runtime_env",
    "setup",
]
