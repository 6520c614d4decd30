"""Workers: how a guard comes into every worker process of a Ray job, by Ray's own hook."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final

import ray

from memguard import roster as rosters
from memguard.errors import MemguardError
from memguard.ext.ray.gauges import RayMetrics
from memguard.ext.ray.leaving import task_way
from memguard.ext.ray.monitor import NodeLimits
from memguard.guard import Guard
from memguard.model import Level
from memguard.rules import Rules
from memguard.threads import new_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from memguard.ports import Sink

__all__ = ["get_guard", "runtime_env", "setup"]

_HOOK: Final = "worker_process_setup_hook"
_log = logging.getLogger("memguard")
_lock = new_lock()
_here: list[Guard] = []


def runtime_env(base: Mapping[str, Any] | None = None, **rules: object) -> dict[str, Any]:
    """A runtime environment for ``ray.init`` in which every worker process runs a guard of its own.

    ``base`` is the environment that the job has anyway; a setup hook in it is called after ours. ``rules`` are fields
    of ``memguard.Rules``; they travel as ``MEMGUARD_<FIELD>`` and are checked here, where the job is made.

    Raises:
        RulesError: a rule that is unknown or cannot hold.
        MemguardError: a rule that is also set in the environment variables of ``base``.
    """
    Rules.resolve({}, rules)
    made = dict(base or {})
    variables = dict(made.get("env_vars") or {})
    for name, value in rules.items():
        if value is None:
            continue
        key = f"MEMGUARD_{name.upper()}"
        if variables.get(key, _text(value)) != _text(value):
            raise MemguardError(f"{key} is {variables[key]!r} in env_vars and {_text(value)!r} here: keep one")
        variables[key] = _text(value)
    hook = made.get(_HOOK)
    made[_HOOK] = f"{__name__}.{setup.__name__}" if hook is None else _both(hook)
    if variables:
        made["env_vars"] = variables
    return made


def _text(value: object) -> str:
    return value.name if isinstance(value, Level) else str(value)


def _both(hook: str | Callable[[], object]) -> Callable[[], None]:
    """A hook that calls ours and then another, given as Ray takes it: a function, or the path of one."""

    def guarded_setup() -> None:
        setup()
        if isinstance(hook, str):
            from importlib import import_module  # noqa: PLC0415 - this function is sent to workers

            module, _, name = hook.rpartition(".")
            getattr(import_module(module), name)()
        else:
            hook()

    return guarded_setup


def setup() -> None:
    """Start this process's guard: Ray's ``worker_process_setup_hook``, by its path ``memguard.ext.ray.setup``.

    A hook that raises ends its worker, and Ray starts the next: so what is wrong is said in the worker's log, which Ray
    brings to the driver, and the worker goes on without a guard.
    """
    try:
        get_guard()
    except Exception:  # noqa: BLE001 - see above
        _log.exception("this Ray worker runs without a guard")


def get_guard(*, sinks: Iterable[Sink] = (), **overrides: object) -> Guard:
    """This process's guard, started if need be; what is given counts for the first call alone.

    A guard that the application started itself over the process's roster is taken as it is. Ours has the limit of Ray's
    memory monitor beside the machine's (``monitor``), tells Ray's metrics (``RayMetrics``), and meets the guards of the
    other workers of this node: under the control group's limit, else by the node's name.

    Raises:
        RulesError: a setting that cannot hold, from here or the environment.
    """
    with _lock:
        owner = None if rosters.DEFAULT.owner is None else rosters.DEFAULT.owner()
        if isinstance(owner, Guard):
            return owner
        if not _here:
            made = _made(sinks, overrides)
            made.start()
            _here.append(made)
        return _here[0]


def _made(sinks: Iterable[Sink], overrides: Mapping[str, Any]) -> Guard:
    rules = Rules.resolve(os.environ, overrides)
    source = NodeLimits(rules)
    told = dict(overrides)
    if rules.origins["workers"] == "default":
        told["workers"] = _group(any(limit.usage == "cgroup" for limit in source()))
    guard = Guard(limit=source, sinks=(RayMetrics(), *sinks), **told)
    guard.leave_by(task_way())
    return guard


def _group(shared: bool) -> str:  # noqa: FBT001 - of one use
    """By which name workers of this node meet: all under one limit, else those of Ray's node."""
    if shared or not ray.is_initialized():
        return "on" if shared else "auto"
    return f"ray-{ray.get_runtime_context().get_node_id()}"
