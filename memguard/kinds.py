"""Words out of a closed set, as types.

Apart from the values, because ``typing`` costs half a MiB of memory: a started guard does without it.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Cost", "LimitKind", "MetricKind", "Outcome", "Priority", "Severity", "Usage", "VerdictKind", "WorkerState"]

LimitKind = Literal["policy", "kill", "throttle", "host"]
"""What happens above a limit: a promise broken, a kill, a stall, or the machine's own end."""

Usage = Literal["tree", "cgroup", "address-space", "data", "host"]
"""Which usage a limit is compared with."""

Cost = Literal["free", "cheap", "dear", "last"]
"""What giving memory back costs the service: nothing, a recomputation, something noticed, a last resort."""

Outcome = Literal["done", "failed", "abandoned"]
"""How admitted work ended: as meant, with an error, or because nobody wanted it any more."""

Priority = Literal["critical", "normal", "sheddable"]
"""Who is refused first: sheddable work from WARNING on, normal work from CRITICAL, critical work when it cannot fit."""

Severity = Literal["info", "warning", "error"]
"""How loud a log line about an event should be."""

VerdictKind = Literal["flat", "filling", "leak-like", "step", "spike", "periodic", "unknown"]
"""What a trend of memory looks like; see ``memguard.findings.Verdict``."""

MetricKind = Literal["gauge", "counter", "histogram"]
"""What is now, what only grows, or how many of which size."""

WorkerState = Literal["serving", "draining", "handing over"]
"""What a worker is doing: its work, ending it, or waiting for the one that takes its place."""
