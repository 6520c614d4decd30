"""What enters the machine (stimuli) and what it wants done (actions): the one door, both ways."""

from __future__ import annotations

from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.kinds import Cost
    from memguard.model import Level, Relief

__all__ = [
    "Action",
    "Asked",
    "Attempt",
    "Due",
    "Failed",
    "Looked",
    "Offer",
    "Overdue",
    "Refused",
    "Relieved",
    "Starved",
    "Step",
    "Stimulus",
    "Survey",
    "Surveyed",
]


@value(kw_only=False)
class Looked:
    """A probe was read: so many bytes used under a limit (None: nothing limits)."""

    at: float
    used_bytes: int
    limit_bytes: int | None
    source: str


@value
class Failed:
    """A probe could not be read."""

    at: float
    error: str


@value
class Starved:
    """The guard woke ``gap_s`` seconds later than planned; ``running`` names the work that ran then."""

    at: float
    gap_s: float
    running: tuple[str, ...] = ()


@value
class Refused:
    """Admission turned away ``count`` pieces of work since the last such stimulus."""

    at: float
    count: int


@value
class Offer:
    """A reclaimer as the planner sees it: who, from which level, at what cost, how much at most.

    ``over_bytes`` is by how much it is over its budget: so much is asked of it first, at any level.
    """

    name: str
    cost: Cost
    at: Level
    size_bytes: int | None
    settles: bool = False
    stalls: bool = False
    over_bytes: int = 0


@value
class Surveyed:
    """The answer to ``Survey``: everything that could be shed now."""

    at: float
    offers: tuple[Offer, ...]


@value
class Relieved:
    """An attempt ended, measured."""

    at: float
    relief: Relief


@value
class Overdue:
    """An attempt has not come back in time; it may still end later."""

    at: float
    name: str


@value
class Asked:
    """A person wants memory brought down to ``target_bytes`` now, by hand."""

    at: float
    target_bytes: int
    reason: str


@value
class Due:
    """A GC policy says that a collection of this generation is due."""

    at: float
    name: str
    generation: int


@value
class Step:
    """One attempt to make: who is asked for how many bytes, and until when (an instant)."""

    name: str
    wanted_bytes: int
    until: float
    stalls: bool = False
    generation: int | None = None


@value
class Survey:
    """Ask every holder how much it could give back."""


@value
class Attempt:
    """Carry this step out and measure what it buys."""

    step: Step


Stimulus = Looked | Failed | Starved | Refused | Surveyed | Relieved | Overdue | Asked | Due
Action = Survey | Attempt
