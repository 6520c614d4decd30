"""The shapes of the control API's answers; MiB end in ``_mb``, KiB in ``_kb``, bytes in ``_bytes``."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Agent",
    "AgentMemory",
    "AgentMetrics",
    "Agents",
    "Belief",
    "Beliefs",
    "Children",
    "Consumer",
    "Consumers",
    "Gc",
    "Holder",
    "Lifecycle",
    "LifecycleRow",
    "Memory",
    "Metrics",
    "Operation",
    "Operations",
    "Point",
    "PoolRow",
    "Pools",
    "ProblemObject",
    "Process",
    "Socket",
    "Sockets",
    "StateMap",
    "Trend",
]  # fmt: skip


class ProblemObject(BaseModel):
    """What is wrong, and what to do (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class Holder(BaseModel):
    """Somebody registered who can give memory back."""

    name: str
    size_mb: float | None
    share: float | None = Field(description="of what is used, 0 to 1")
    cost: str
    bought_mb: float = Field(description="what its reliefs gave back, as measured")
    attempts: int


class Gc(BaseModel):
    """What Python's cyclic garbage collector did since the guard was started."""

    enabled: bool
    collections: int
    full_collections: int
    collected_objects: int
    uncollectable_objects: int
    pause_total_s: float
    pause_max_s: float
    duty_ratio: float = Field(description="share of wall time spent collecting")
    last_full_freed_mb: float | None = Field(description="what the last full collection that was asked for gave back")
    counts: list[int] = Field(description="gc.get_count(): what has come since the last collection of each generation")
    thresholds: list[int]
    frozen_objects: int


class Process(BaseModel):
    """This process."""

    pid: int
    rss_mb: float | None
    peak_mb: float | None
    threads: int


class Children(BaseModel):
    """The descendants of this process, together."""

    memory_mb: float | None


class Worker(BaseModel):
    """A process that shares the limit, as it last said."""

    pid: int
    own: bool = Field(description="whether it is the one that answers")
    level: str
    state: str = Field(description="serving, draining or handing over")
    used_mb: float = Field(description="resident; pages that forked workers share count in each")
    yield_mb: float = Field(description="what it could shed without much harm")
    promised_mb: float
    running: int = Field(description="requests that are under way")
    refused: int


class Memory(BaseModel):
    """How memory stands, as of the guard's last look."""

    level: str
    pressure: float = Field(description="used divided by the limit; above 1 when it is passed")
    running: bool = Field(description="whether the guard runs: without it, nothing is looked at")
    blind: bool = Field(description="whether readings fail")
    limit_mb: float | None
    limit_bytes: int | None
    limit_source: str | None
    limit_kind: str | None
    used_mb: float | None
    used_bytes: int | None
    used_source: str | None = Field(description="by which measure")
    working_set_mb: float | None
    available_mb: float | None = Field(description="of the machine")
    headroom_mb: float | None = Field(description="until the limit")
    swap_used_mb: float | None
    swap_total_mb: float | None
    page_cache_mb: float | None
    forecast_s: float | None = Field(description="seconds until the limit at the present rate; null: none in sight")
    native_share: float | None = Field(description="of this process's memory, estimated: not Python's, 0 to 1")
    native_mb: float | None
    holders: list[Holder]
    gc: Gc
    process: Process
    children: Children
    workers: list[Worker] = Field(description="all that share the limit and a guard's ledger; empty when there is one")
    running_requests: int
    waiting_requests: int
    served_requests: int
    refused_requests: int
    promised_mb: float
    alerts: list[str]
    verdict: str
    rungs: dict[str, float] = Field(description="share of the limit from which each level holds")
    mode: str


class Consumer(BaseModel):
    """Somebody or something that takes memory."""

    name: str
    kind: str
    memory_mb: float
    share: float
    reclaimable_mb: float
    estimated: bool = Field(description="told from the rest by an estimate; what is registered is accounted")


class Consumers(BaseModel):
    """Who holds what is used, the largest first; they add up to ``used_mb``."""

    used_mb: float
    consumers: list[Consumer]


class Point(BaseModel):
    """What was read in one step of time."""

    timestamp: str
    value: float = Field(description="mean, MiB")
    memory_mb: float
    min_mb: float
    max_mb: float
    limit_mb: float | None
    level: str


class Metrics(BaseModel):
    """Readings of the past, the oldest first; where nothing was read there is no point."""

    metric: str
    unit: Literal["MiB"]
    duration_s: float
    interval_s: float | None
    metrics: list[Point]


class Trend(BaseModel):
    """Where memory is going."""

    verdict: Literal["flat", "filling", "leak-like", "spike", "unknown"]
    kind: str = Field(description="the verdict in the guard's own words: step and periodic too")
    confidence: float = Field(description="of the verdict, 0 to 1")
    growth_mb_per_h: float | None = Field(description="Theil-Sen's slope over the duration")
    growth_low_mb_per_h: float | None = Field(description="the lower end of its 95 % interval")
    growth_high_mb_per_h: float | None
    growth_confidence: float | None = Field(description="1 - p of Mann-Kendall's test, 0 to 1")
    seconds_to_limit: float | None
    points: int
    duration_s: float
    seen_s: float = Field(description="how long the verdict's evidence reaches back")
    words: str


class Agent(BaseModel):
    """An agent as a metric."""

    id: str
    memory_mb: float
    critical: bool = Field(description="whether it is at work, so that it is never retired")


class AgentMetrics(BaseModel):
    """Every agent of every pool, the heaviest first."""

    agents: list[Agent]
    total: int


class AgentMemory(BaseModel):
    """An agent, with what it believes."""

    id: str
    pool: str
    memory_mb: float
    belief_size_kb: float = Field(description="as an object in memory, whether or not it is packed now; 0 without one")
    state: str
    idle_s: float
    orphan: bool


class Agents(BaseModel):
    """Every agent of every pool, the heaviest first."""

    agents: list[AgentMemory]
    total: int


class Belief(BaseModel):
    """One state."""

    id: str
    states: str
    belief_size_kb: float = Field(description="as an object")
    stored_as: str = Field(description="live: an object; packed: in memory; spilled: on disk")
    stored_kb: float
    ratio: float = Field(description="by which factor it is smaller as it is stored")
    idle_s: float
    leased: bool


class StateMap(BaseModel):
    """All states of one mapping."""

    name: str
    live: int
    packed: int
    spilled: int
    memory_mb: float
    packed_mb: float
    spilled_mb: float
    ratio: float
    max_mb_each: float | None
    compression: bool


class Beliefs(BaseModel):
    """Every state, the largest first."""

    beliefs: list[Belief]
    total: int
    states: list[StateMap]


class LifecycleRow(BaseModel):
    """What became of the agents of a pool."""

    pool: str
    created: int
    alive: int
    running: int
    finished: int
    retired: int
    orphaned: int
    refused: int
    failed: int


class Lifecycle(BaseModel):
    """What became of all agents; a row for each pool."""

    created: int
    alive: int
    running: int
    finished: int = Field(description="taken out by their users")
    retired: int = Field(description="idle ones that went for room or age")
    orphaned: int
    refused: int
    failed: int
    pools: list[LifecycleRow]


class PoolRow(BaseModel):
    """One pool."""

    name: str
    size: int
    max_size: int
    running: int
    idle: int
    waiting: int
    orphans: int
    oldest_idle_s: float
    memory_mb: float
    cost_mb: float = Field(description="what one more agent takes")
    fits: int | None = Field(description="how many more fit under the limit; null: unknown")


class Pools(BaseModel):
    """All pools."""

    size: int
    max_size: int
    oldest_idle_s: float
    pools: list[PoolRow]


class Operation(BaseModel):
    """One piece of work; requests are called by their route's template."""

    id: str
    type: str
    status: str
    started_at: str
    duration_s: float
    memory_delta_mb: float
    shared: bool = Field(description="whether others ran beside it: then the delta is a fair part, no measurement")
    memory_sampled: bool = Field(description="whether memory was read for it: else the delta is the mean of its type")


class Operations(BaseModel):
    """Those that run, the longest first, then those that ended, the latest first."""

    operations: list[Operation]
    total: int


class Incident(BaseModel):
    """From leaving OK to being OK again, in a sentence; ``closed_at`` is null while it lasts."""

    number: int
    opened_at: str
    closed_at: str | None
    peak_level: str
    peak_mb: float
    limit_mb: float | None
    refusals: int
    bought_mb: float
    summary: str


class Incidents(BaseModel):
    """The oldest first."""

    incidents: list[Incident]
    total: int


class IncidentReport(BaseModel):
    """What happened in one incident: the answer first, then what it rests on."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    summary: str
    opened: str
    leak: str


class Socket(BaseModel):
    """All websockets of one path."""

    path: str
    open: int
    opened: int
    refused: int
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    queued_bytes: int


class Sockets(BaseModel):
    """All websockets; ``queued_bytes`` wait for clients that do not read."""

    open: int
    queued_bytes: int
    paths: list[Socket]
