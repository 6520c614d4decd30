"""The nouns as frozen values: what a guard reads, judges, plans, buys and tells.

Bytes are integers, ``at`` is a monotonic instant in seconds, ratios lie between 0 and 1 (a pressure
may exceed 1), durations end in ``_s``.
"""

from __future__ import annotations

from enum import IntEnum

from memguard.values import field, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from memguard.kinds import Cost, LimitKind, Usage

__all__ = [
    "Event",
    "GcStats",
    "Holder",
    "Incident",
    "Level",
    "Limit",
    "Reading",
    "Relief",
    "Snapshot",
    "Vitals",
]


class Level(IntEnum):
    """How serious the memory pressure is."""

    OK = 0
    ELEVATED = 1
    WARNING = 2
    CRITICAL = 3
    EMERGENCY = 4


@value
class Limit:
    """How much memory is allowed, and where that number came from, in words.

    ``usage`` says what it is compared with; for ``"cgroup"``, ``path`` is the directory of the level that
    set the limit (usage must be read at the same level) and ``version`` 1 or 2.
    """

    bytes: int
    kind: LimitKind
    source: str
    usage: Usage = "tree"
    path: str | None = None
    version: int | None = None


@value
class Reading:
    """One look: how many bytes were used at an instant, and by which measure (``source``)."""

    at: float
    used_bytes: int
    source: str


@value
class Vitals:
    """What is read at a slow pace beside the usage; None where the machine does not tell.

    ``psi_some_ratio`` and ``psi_full_ratio`` are the kernel's 10-second averages of time lost waiting for
    memory (0 to 1). ``oom_kills`` counts kernel kills seen in the group since it was made.
    """

    at: float
    rss_bytes: int | None = None
    children_bytes: int | None = None
    page_cache_bytes: int | None = None
    available_bytes: int | None = None
    swap_used_bytes: int | None = None
    swap_total_bytes: int | None = None
    peak_bytes: int | None = None
    psi_some_ratio: float | None = None
    psi_full_ratio: float | None = None
    oom_kills: int | None = None


@value
class Relief:
    """The measured result of one reclaim attempt.

    ``bought_bytes`` is ``before_bytes - after_bytes``, read by the same probe: negative when the service
    grew faster than memory came back. ``claimed_bytes`` is what the reclaimer said (None: nothing), ``refilled_bytes``
    what it took anew meanwhile, where it can tell. ``error`` holds the failure in words, "" when there was none.
    """

    name: str
    at: float
    wanted_bytes: int
    claimed_bytes: int | None
    before_bytes: int
    after_bytes: int
    cost_s: float
    error: str = ""
    refilled_bytes: int | None = None

    @property
    def bought_bytes(self) -> int:
        """Bytes that really came back."""
        return self.before_bytes - self.after_bytes


@value
class Holder:
    """Somebody who holds memory and can give some back, as ``guard.holders()`` lists it.

    ``size_bytes`` is accounted (None: unknown), ``share`` its part of the used bytes, ``bought_bytes`` what
    its ``attempts`` relief attempts really bought, ``blocked_s`` for how long it is left alone yet.
    """

    name: str
    cost: Cost
    at: Level
    size_bytes: int | None
    share: float | None
    attempts: int = 0
    bought_bytes: int = 0
    blocked_s: float = 0.0


@value
class Incident:
    """From leaving OK to being OK again: how bad it was, what was tried and what that bought.

    ``closed_at`` is None while it lasts. ``reliefs`` holds the last 32; ``attempts``, ``bought_bytes`` count
    all. ``verdict`` says in words how it ended, or why it has not.
    """

    opened_at: float
    closed_at: float | None = None
    reason: str = "pressure"
    limit_bytes: int | None = None
    peak_level: Level = Level.OK
    peak_bytes: int = 0
    peak_pressure: float = 0.0
    reliefs: tuple[Relief, ...] = ()
    attempts: int = 0
    bought_bytes: int = 0
    refusals: int = 0
    blind_s: float = 0.0
    verdict: str = ""

    @property
    def lasted_s(self) -> float | None:
        """Seconds from opening to closing; None while it lasts."""
        return None if self.closed_at is None else self.closed_at - self.opened_at


@value
class GcStats:
    """What Python's cyclic garbage collector did, seen through ``gc.callbacks``.

    ``full_collections`` counts generation 2 only; ``last_freed_bytes`` is what the last full collection that
    memguard asked for bought, measured; ``duty_ratio`` the share of wall time spent collecting.
    """

    collections: int = 0
    full_collections: int = 0
    collected_objects: int = 0
    uncollectable_objects: int = 0
    pause_total_s: float = 0.0
    pause_max_s: float = 0.0
    last_full_at: float | None = None
    last_freed_bytes: int | None = None
    duty_ratio: float = 0.0


@value
class Event:
    """One thing that happened, told to sinks: a name from ``telemetry.EVENTS``, words, and numbers."""

    at: float
    name: str
    text: str
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@value
class Snapshot:
    """What a guard knows, as one value that its thread swaps in: reading it never blocks.

    ``pressure`` is used ÷ limit (0.0 without a limit). ``forecast`` is seconds until the limit at the
    present rate, None when memory is not growing. ``blind`` means that readings fail and ``level`` is the
    one the rules say for that case. ``running`` counts open tickets.
    """

    at: float
    reading: Reading | None
    limit: Limit | None
    pressure: float
    level: Level
    forecast: float | None
    blind: bool = False
    holders: tuple[Holder, ...] = ()
    running: int = 0
    promised_bytes: int = 0
    refusals: int = 0
    incident: Incident | None = None
    vitals: Vitals | None = None
