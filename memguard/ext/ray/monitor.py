"""The monitor: Ray's own, which kills workers of a node above a share of its memory; for a guard that is a limit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from memguard.model import Limit
from memguard.probes.limits import find_limits
from memguard.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from memguard.rules import Rules

__all__ = ["NodeLimits", "monitor_limit"]

_SHARE: Final = "RAY_memory_usage_threshold"
_PERIOD: Final = "RAY_memory_monitor_refresh_ms"
_FREE: Final = "RAY_min_memory_free_bytes"
# Ray's own defaults (ray_config_def.h).
_SHARE_DEFAULT, _PERIOD_DEFAULT = 0.95, 250.0
# The group that Ray's monitor reads; another one that limits it does not see.
_GROUPS: Final = frozenset({"/sys/fs/cgroup", "/sys/fs/cgroup/memory"})


class NodeLimits:
    """As a limit source: what the machine and the operator set, and the limit of Ray's memory monitor beside it."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.notes: tuple[str, ...] = ()
        self.group: str | None = None
        self.group_version: int | None = None

    def __call__(self) -> tuple[Limit, ...]:
        """Search anew."""
        rules = self._rules
        found = find_limits(
            environ=os.environ,
            policy_bytes=rules.max_bytes,
            policy_source=rules.origins.get("max_bytes", "keyword"),
        )
        own, notes = monitor_limit(found.limits, os.environ, total_bytes=_total_bytes())
        self.notes, self.group, self.group_version = (*found.notes, *notes), found.group, found.group_version
        return found.limits if own is None else (*found.limits, own)


def monitor_limit(
    limits: Iterable[Limit], environ: Mapping[str, str], *, total_bytes: int
) -> tuple[Limit | None, Sequence[str]]:
    """Above which usage Ray's memory monitor kills workers of this node, None where it is off; and what was odd.

    Ray watches the container's limit where it sees one, else the machine's memory (memory_monitor.cc). Its settings are
    read from the environment, which a worker has from its raylet; what ``_system_config`` sets is not seen.
    """
    notes: list[str] = []
    share = _number(environ, _SHARE, _SHARE_DEFAULT, notes)
    if _number(environ, _PERIOD, _PERIOD_DEFAULT, notes) <= 0.0 or not 0.0 < share <= 1.0:
        return None, notes
    host = Limit(bytes=total_bytes, kind="host", source="the machine's memory", usage="host")
    seen = [limit for limit in limits if limit.kind == "kill" and limit.path in _GROUPS]
    whole = min((*seen, host), key=lambda limit: limit.bytes)
    bound, said = int(share * whole.bytes), f"{share:.0%}"
    free = _number(environ, _FREE, -1.0, notes)
    if free >= 0.0 and whole.bytes - free > bound:
        bound, said = int(whole.bytes - free), f"all but {_FREE}={free:.0f}"
    source = f"Ray's memory monitor, which kills workers above {said} of {whole.source}"
    return replace(whole, bytes=bound, kind="kill", source=source), notes


def _number(environ: Mapping[str, str], name: str, default: float, notes: list[str]) -> float:
    text = environ.get(name, "").strip()
    try:
        return float(text) if text else default
    except ValueError:
        notes.append(f"environment {name} is {text[:40]!r}, no number: Ray's default counts")
        return default


def _total_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
