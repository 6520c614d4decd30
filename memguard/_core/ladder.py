"""The ladder: from pressure to level, with hysteresis that cannot flap and cannot latch."""

from __future__ import annotations

from memguard.model import Level
from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.rules import Rules

__all__ = ["Stand", "judge", "leave_ratio"]

# What is left of the hysteresis gap when it has fully relaxed: enough that noise does not flap.
_RELAXED_GAP_SHARE = 0.2
_DOWNWARD = tuple(sorted(Level, reverse=True))


@value(kw_only=False)
class Stand:
    """Where on the ladder we stand: the level, since when, and since when pressure allows a lower one."""

    level: Level = Level.OK
    held_at: float = 0.0
    calm_at: float | None = None


def leave_ratio(stand: Stand, at: float, rules: Rules) -> float:
    """The pressure below which the present level may be left.

    It starts ``leave_gap_ratio`` below the rung and rises towards it over ``relax_s``: a service whose floor lies
    inside the gap would otherwise stay at its level for ever ("tripped and never recovered").
    """
    relaxed = min(1.0, (at - stand.held_at) / rules.relax_s) if rules.relax_s else 1.0
    gap = rules.leave_gap_ratio * (1.0 - relaxed * (1.0 - _RELAXED_GAP_SHARE))
    return rules.enter_ratio(stand.level) - gap


def judge(stand: Stand, pressure: float, at: float, rules: Rules) -> Stand:
    """The new stand for a pressure at an instant.

    Climbs are immediate: a delay there is a kill. A fall needs ``dwell_s`` of pressure below the leave level
    without a break, so that in any window of ``dwell_s`` there is at most one fall, and none after a climb.
    """
    level = stand.level
    if level is Level.OK and pressure < rules.elevated_ratio:
        return stand
    if level is not Level.EMERGENCY and pressure >= rules.enter_ratio(Level(level + 1)):
        climbed = next(rung for rung in _DOWNWARD if pressure >= rules.enter_ratio(rung))
        return Stand(climbed, at, None)
    if pressure >= leave_ratio(stand, at, rules):
        return stand if stand.calm_at is None else Stand(level, stand.held_at, None)
    if stand.calm_at is None:
        return Stand(level, stand.held_at, at)
    if at - stand.calm_at < rules.dwell_s:
        return stand
    lower = next(rung for rung in _DOWNWARD if rung < level and pressure >= rules.leave_ratio(rung))
    return Stand(lower, at, None)
