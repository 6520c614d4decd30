"""The shapes of what orders answer: what was done, and what it bought."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Cache",
    "CacheCleanup",
    "Cleanup",
    "Compaction",
    "Dump",
    "Engine",
    "Engines",
    "GcRun",
    "PoolResize",
    "Resized",
    "Settings",
]


class Cache(BaseModel):
    """What one cache gave."""

    name: str
    entries: int | None = Field(description="how many went; null: it cannot count")
    before_mb: float | None
    after_mb: float | None
    error: str = ""


class CacheCleanup(BaseModel):
    """What all caches gave; ``bought_mb`` is what came back to the machine, as measured."""

    caches: list[Cache]
    entries: int
    before_mb: float
    after_mb: float
    bought_mb: float
    took_s: float


class Resized(BaseModel):
    """What a new cap did to one pool."""

    name: str
    max_size: int
    before: int
    retired: list[str]
    running_above: int = Field(description="those at work above the cap: they go when they are released")
    kept: list[str] = Field(description="those whose state could not be saved")


class PoolResize(BaseModel):
    """What a new cap did."""

    max_size: int
    retired: int
    running_above: int
    pools: list[Resized]


class GcRun(BaseModel):
    """What a collection gave."""

    mode: str
    generation: int
    before_mb: float
    after_mb: float
    freed_mb: float = Field(description="before - after; negative when the service grew meanwhile")
    objects: int = Field(description="unreachable objects found")
    pause_s: float
    trim_freed_mb: float | None
    retired: list[str]


class Cleanup(BaseModel):
    """Agents that were nobody's any more."""

    retired: list[str]
    count: int
    kept: list[str] = Field(description="orphans whose state could not be saved")
    before_mb: float
    after_mb: float
    bought_mb: float


class Settings(BaseModel):
    """What holds now, and what nobody knows."""

    applied: dict[str, Any]
    ignored: list[str]
    states: list[str] = Field(description="to whom it was applied; those made later get it too")


class Compaction(BaseModel):
    """What compaction gave; accounted bytes of all states, and what came back as measured."""

    states: list[Cache]
    before_bytes: int
    after_bytes: int
    before_mb: float
    after_mb: float
    freed_mb: float
    bought_mb: float
    took_s: float


class Engine(BaseModel):
    """The connections of one engine before and after."""

    name: str
    open_before: int | None
    in_use: int | None = Field(description="those are closed when they are given back")
    open_after: int | None


class Engines(BaseModel):
    """What was reset."""

    engines: list[Engine]


class Dump(BaseModel):
    """A diagnosis: types, names and sizes, never contents."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    summary: str
    leaks: bool
    seconds: float
