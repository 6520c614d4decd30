"""Which holder is asked next, and for how many bytes: cheapest measured relief first, just enough of it."""

from __future__ import annotations

from memguard._core.stimuli import Step
from memguard.model import Level

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from memguard._core.state import State
    from memguard._core.stimuli import Offer
    from memguard.rules import Rules

__all__ = ["HARM", "enough", "goal_bytes", "plan", "pressing", "settle"]

# How much worse it is to lose something costly than to lose nothing: a class is passed over only when it pays
# so many times less per second.
HARM = {"free": 1.0, "cheap": 4.0, "dear": 64.0, "last": 1024.0}
# What an untried reclaimer is expected to pay, bytes per second: freeing small objects gives about 1 MB a ms.
_PRIOR = float(1 << 30)
# Closer than this to the limit, at the speed of the burst, whoever knows what he holds goes before a gamble.
_URGENT_S = 1.0
_GAMBLE = 64.0


def goal_bytes(state: State, at_level: Level, rules: Rules) -> int | None:
    """Down to how many bytes a reclaimer of this level is asked to bring memory; None when it is not its turn.

    Each is asked only for what takes us below the rung that called it: caches for leaving WARNING, costlier
    holders for leaving CRITICAL.
    """
    if (ask := state.ask) is not None and (ask.level is None or at_level <= ask.level):
        return ask.target_bytes
    rung = max(at_level, Level.ELEVATED)
    if state.limit_bytes is None or state.stand.level < rung:
        return None
    return int(rules.leave_ratio(rung) * state.limit_bytes)


def pressing(state: State, rules: Rules) -> bool:
    """Whether anybody could be asked for anything now."""
    goal = goal_bytes(state, Level.ELEVATED, rules)
    return goal is not None and state.used_bytes > goal and not state.blind


def enough(offers: Iterable[Offer], state: State) -> bool:
    """Whether an ask for work can be met: for work that would not fit anyway nobody is to lose anything."""
    ask = state.ask
    if ask is None or ask.level is None:
        return True
    most = sum(offer.size_bytes or 0 for offer in offers if offer.at <= ask.level)
    return state.used_bytes - most <= ask.target_bytes


def _usable(offer: Offer, state: State, at: float, rules: Rules) -> bool:
    if offer.stalls and (state.duty is None or state.duty.tokens_s <= 0.0):
        return False
    if (ask := state.ask) is not None and (ask.level is None or offer.name in ask.failed):
        return offer.name not in ask.failed
    patience = state.patience_of(offer.name)
    if patience.used_at_failure is not None and state.limit_bytes is not None:
        # It had released memory, and now that is used up.
        grown = state.used_bytes - patience.used_at_failure
        if grown >= max(rules.ask_min_bytes, rules.leave_gap_ratio / 2 * state.limit_bytes):
            return True
    return not patience.blocks(at, offer.size_bytes, rules.ask_min_bytes)


def _over_bytes(offer: Offer, rules: Rules) -> int:
    """What is to go because it is over a budget, pressure or not; 0 when that is too little to be measured."""
    over = offer.over_bytes if offer.size_bytes is None else min(offer.over_bytes, offer.size_bytes)
    return over if over >= rules.ask_min_bytes else 0


def _wanted_bytes(offer: Offer, state: State, rules: Rules) -> int:
    goal = goal_bytes(state, offer.at, rules)
    if goal is None or state.used_bytes <= goal:
        return 0
    # What will arrive while the attempt runs, or it never catches up; bounded, since a burst is a maximum.
    arriving = min(state.growth.burst * rules.ask_horizon_s, rules.leave_gap_ratio * (state.limit_bytes or 0))
    wanted = max(rules.ask_min_bytes, state.used_bytes - goal + int(arriving))
    if offer.size_bytes is None:
        return wanted
    least = 1 if state.ask is not None else rules.ask_min_bytes
    return min(wanted, offer.size_bytes) if offer.size_bytes >= least else 0


def plan(offers: Iterable[Offer], state: State, at: float, rules: Rules) -> Step | None:
    """The best next step, or None when nobody may be asked now.

    Whoever is over its budget is brought back to it first. Else best is the highest measured bytes per second divided
    by the harm of the holder's cost class; in a hurry those of unknown size come last.
    """
    headroom = 0 if state.limit_bytes is None else state.limit_bytes - state.used_bytes
    urgent = headroom < state.growth.burst * _URGENT_S
    best: Step | None = None
    best_score = (False, -1.0, -1)
    for offer in offers:
        over = _over_bytes(offer, rules)
        wanted = over or _wanted_bytes(offer, state, rules)
        if not wanted or not _usable(offer, state, at, rules):
            continue
        rate = state.patience_of(offer.name).rate
        worth = (_PRIOR if rate is None else rate) / HARM[offer.cost]
        gamble = _GAMBLE if urgent and offer.size_bytes is None else 1.0
        score = (over > 0, worth / gamble, offer.size_bytes or 0)
        if score > best_score:
            best_score = score
            best = Step(name=offer.name, wanted_bytes=wanted, until=at + rules.attempt_s, stalls=offer.stalls)
    return best


def settle(offers: Iterable[Offer], state: State, at: float, rules: Rules) -> Step | None:
    """The next try at returning to the kernel what an open account says was released; None when all had theirs.

    An allocator trim is tried even if it was useless of late: this release is new. A collection stops the process
    and keeps its back-off.
    """
    account = state.account
    if account is None:
        return None
    known = {offer.name: offer for offer in offers}
    for name in account.left:
        offer = known.get(name)
        if offer is None:
            continue
        worth_a_stop = account.returned_bytes < account.claimed_bytes / 2 and _usable(offer, state, at, rules)
        if not offer.stalls or worth_a_stop:
            missing = max(rules.ask_min_bytes, account.claimed_bytes - account.returned_bytes)
            return Step(name=name, wanted_bytes=missing, until=at + rules.attempt_s, stalls=offer.stalls)
    return None
