"""All that the machine remembers between two stimuli, as one frozen value."""

from __future__ import annotations

from memguard._core.forecast import Growth
from memguard._core.ladder import Stand
from memguard._core.patience import Duty, Patience
from memguard.model import Event, Level
from memguard.values import field, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from memguard._core.stimuli import Action, Step
    from memguard.model import Incident

__all__ = ["Account", "Ask", "Decision", "State", "event"]

_UNTRIED = Patience()


@value
class Account:
    """An attempt that released more than came back: open until those who settle have had their try.

    ``returned_bytes`` is what the kernel has got so far; ``left`` names who may still settle, in order.
    """

    name: str
    wanted_bytes: int
    claimed_bytes: int
    returned_bytes: int
    allowance_bytes: int
    size_bytes: int | None
    left: tuple[str, ...]


@value
class Ask:
    """A relief asked for; ``failed`` names who proved useless during it.

    ``level`` is up to which level holders are asked, each with its back-off; None, by hand: all of them, at once.
    """

    target_bytes: int
    reason: str
    failed: frozenset[str] = frozenset()
    level: Level | None = None


@value
class State:
    """What the machine knows.

    ``sight_at`` is the last good reading, ``failing`` whether readings fail since, ``failure_told_at`` when one was
    last told of, ``blind`` whether they have failed for too long. ``step`` is under way; ``stallers`` names who stops
    the process; ``quiet_until`` is when holders may be surveyed again after a survey in vain. ``stuck_at`` is since
    when relief has not reached WARNING's leave level, ``held_bytes`` what the heap did not return in this incident;
    ``leaving`` whether this process hands over, ``stay_until`` before when it does not, ``stay_told`` why it did not.
    """

    at: float = 0.0
    used_bytes: int = 0
    limit_bytes: int | None = None
    stand: Stand = field(default_factory=Stand)
    growth: Growth = field(default_factory=Growth)
    sight_at: float | None = None
    failing: bool = False
    failure_told_at: float | None = None
    blind: bool = False
    patience: Mapping[str, Patience] = field(default_factory=dict)
    duty: Duty | None = None
    settlers: tuple[str, ...] = ()
    stallers: frozenset[str] = frozenset()
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    account: Account | None = None
    step: Step | None = None
    quiet_until: float = 0.0
    ask: Ask | None = None
    incident: Incident | None = None
    exhausted: bool = False
    stuck_at: float | None = None
    held_bytes: int = 0
    leaving: bool = False
    stay_until: float = 0.0
    stay_told: str = ""

    @property
    def pressure(self) -> float:
        """Used ÷ limit; 0.0 when nothing limits."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0

    def patience_of(self, name: str) -> Patience:
        """The record of one reclaimer; an empty one when it was never tried."""
        return self.patience.get(name, _UNTRIED)


@value(kw_only=False)
class Decision:
    """The machine's answer: the new state, what to do now, what to tell, how long to sleep, what is over."""

    state: State
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    sleep_s: float = 0.0
    closed: Incident | None = None


def event(at: float, name: str, text: str, /, **attributes: str | float | bool) -> Event:
    """One event to tell."""
    return Event(at=at, name=name, text=text, attributes=attributes)
