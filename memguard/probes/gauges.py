"""Each limit with the probe that measures what it is compared with."""

from __future__ import annotations

import os

from memguard.probes.cgroup import CgroupProbe
from memguard.probes.files import below
from memguard.probes.portable import PortableProbe
from memguard.probes.procfs import HostProbe, MappedProbe, TreeProbe
from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memguard.model import Limit
    from memguard.ports import Probe

__all__ = ["Gauge", "close_gauges", "open_gauges", "refresh_gauges"]


@value
class Gauge:
    """A limit beside the probe whose reading is compared with it; several limits may share one probe."""

    limit: Limit
    probe: Probe


def open_gauges(
    limits: Sequence[Limit],
    *,
    elevated_ratio: float,
    root: str = "/",
    failed: Callable[[Limit, Exception], None] | None = None,
) -> tuple[Gauge, ...]:
    """A gauge for each limit whose usage can be read, in the order of ``limits``.

    Each probe is read and refreshed once. A limit whose probe fails is left out and told to ``failed``.
    ``elevated_ratio`` is the share of a limit from which page cache is read on every tick.
    Descriptors under /proc/self stay with the process that opened them: after a fork, close and open anew.
    """
    exact: dict[str | None, int] = {}
    for limit in limits:
        rung_bytes = int(limit.bytes * elevated_ratio)
        exact[limit.path] = min(rung_bytes, exact.get(limit.path, rung_bytes))
    probes: dict[tuple[str, str | None], Probe] = {}
    gauges: list[Gauge] = []
    for limit in limits:
        measure = (limit.usage, limit.path)
        try:
            if measure not in probes:
                probes[measure] = _open(limit, exact_above_bytes=exact[limit.path], root=root)
            gauges.append(Gauge(limit=limit, probe=probes[measure]))
        except (OSError, ValueError, ImportError) as error:
            if failed is not None:
                failed(limit, error)
    return tuple(gauges)


def _open(limit: Limit, *, exact_above_bytes: int, root: str) -> Probe:
    probe: CgroupProbe | TreeProbe | MappedProbe | HostProbe | PortableProbe
    if limit.usage == "cgroup":
        if limit.path is None or limit.version not in {1, 2}:
            raise ValueError(f"limit from {limit.source} names no cgroup: path={limit.path!r}, version={limit.version}")
        probe = CgroupProbe(limit.path, version=limit.version, exact_above_bytes=exact_above_bytes, root=root)
    elif not os.path.exists(below(root, "/proc/self/statm")):  # noqa: PTH110 - one flavour of path in this room
        probe = PortableProbe(limit.usage)
    elif limit.usage == "tree":
        probe = TreeProbe(root=root)
    elif limit.usage == "host":
        probe = HostProbe(root=root)
    else:
        probe = MappedProbe(limit.usage, root=root)
    try:
        probe.refresh()
        probe.read()
    except (OSError, ValueError, IndexError):
        probe.close()
        raise
    return probe


def refresh_gauges(gauges: Iterable[Gauge]) -> tuple[str, ...]:
    """Look anew at what the ticks take from memory (children, page cache); the failures in words."""
    failures: list[str] = []
    for probe in _distinct(gauges):
        refresh = getattr(probe, "refresh", None)
        if refresh is None:
            continue
        try:
            refresh()
        except (OSError, ValueError) as error:
            failures.append(f"{probe.source} cannot be refreshed: {error}")
    return tuple(failures)


def close_gauges(gauges: Iterable[Gauge]) -> None:
    """Give every descriptor back; twice is fine."""
    for probe in _distinct(gauges):
        probe.close()


def _distinct(gauges: Iterable[Gauge]) -> list[Probe]:
    return list({id(gauge.probe): gauge.probe for gauge in gauges}.values())
