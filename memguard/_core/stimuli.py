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
    "HandOver",
    "Looked",
    "Offer",
    "Overdue",
    "Refused",
    "Relieved",
    "Starved",
    "Stayed",
    "Step",
    "Stimulus",
    "Survey",
    "Surveyed",
    "Weighed",
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
    """Admission turned away ``count`` pieces of work since the last such stimulus, or let them wait.

    ``short_bytes`` is by how much room was short at the most; 0 when it was for another reason.
    """

    at: float
    count: int
    short_bytes: int = 0


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
class Weighed:
    """What a hand-over would mean now, about once a second while one may be due.

    This process is ``age_s`` old, holds ``own_bytes`` and held ``fresh_bytes`` when it was new; a new one takes
    ``startup_s`` to serve. Other workers under the same limit hold ``others_bytes``, each. ``since_s`` is how long ago
    one of them handed over (None: none did), ``wait_s`` how long the next has to wait after that, ``count`` how many
    there were of late. ``leak_s`` is when a growth that looks like a leak reaches the limit (None: there is none).
    ``hindrance`` says why nobody would follow, "" when somebody would.
    """

    at: float
    age_s: float
    own_bytes: int
    fresh_bytes: int
    startup_s: float = 0.0
    others_bytes: tuple[int, ...] = ()
    since_s: float | None = None
    wait_s: float = 0.0
    count: float = 0.0
    leak_s: float | None = None
    hindrance: str = ""


@value
class Stayed:
    """A hand-over could not begin, or was called off: none is tried before the instant ``until``."""

    at: float
    until: float


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


@value
class HandOver:
    """Make room for a fresh worker: why, whether the limit is near, how many bytes that should free."""

    reason: str
    urgent: bool
    gain_bytes: int


Stimulus = Looked | Failed | Starved | Refused | Surveyed | Relieved | Overdue | Asked | Due | Weighed | Stayed
Action = Survey | Attempt | HandOver
