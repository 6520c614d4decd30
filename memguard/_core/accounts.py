"""Accounts: what an attempt released, what of it came back to the kernel, and the verdict on whoever was asked."""

from __future__ import annotations

from memguard._core.state import Account, State, event
from memguard.units import format_bytes, format_seconds
from memguard.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.model import Event, Relief
    from memguard.rules import Rules

__all__ = ["book", "close_account", "settles"]


# Less than this share still missing is left to the next trim: each trim holds the allocator's lock.
_OWED_RATIO = 0.25
# Of much that was released at least so much has to come back: more would only join it in the heap.
_BACK_RATIO = 0.25


def book(state: State, relief: Relief, at: float, events: list[Event], rules: Rules) -> State:
    """Judge the attempt, or leave its account open until those who settle have had their try."""
    bought, claimed = relief.bought_bytes, relief.claimed_bytes or 0
    # While the service itself grows, a real relief may measure as nothing: believe so much of the claim.
    allowance = relief.refilled_bytes
    if allowance is None:
        allowance = int(state.growth.burst * relief.cost_s)
    allowance = min(allowance, claimed)
    owed = claimed - max(0, bought)
    if settles(state, relief.name):
        return _settled(state, relief, owed, at, rules)
    account = Account(
        name=relief.name,
        wanted_bytes=relief.wanted_bytes,
        claimed_bytes=claimed,
        returned_bytes=bought,
        allowance_bytes=allowance,
        size_bytes=state.sizes.get(relief.name),
        left=tuple(name for name in state.settlers if name != relief.name),
    )
    substantial = owed >= max(rules.ask_min_bytes, claimed * _OWED_RATIO)
    if substantial and not relief.error and state.account is None and state.settlers:
        return replace(state, account=replace(account, returned_bytes=max(0, bought)))
    return _verdict(state, account, at, events, rules)


def settles(state: State, name: str) -> bool:
    """Whether this attempt returned to the kernel what another had released."""
    return state.account is not None and name != state.account.name and name in state.settlers


def _settled(state: State, relief: Relief, owed: int, at: float, rules: Rules) -> State:
    """Book what a settler returned to the account that is open, and to whoever opened it.

    Only one that stops the process backs off from settling in vain: a trim is cheap, and each release new.
    """
    account = state.account
    if account is None:
        return state
    credit = max(0, relief.bought_bytes)
    left = account.left
    if owed >= rules.ask_min_bytes and not left:  # a collection freed into the heap: trim once more
        left = tuple(name for name in state.settlers if name not in {relief.name, account.name})[:1]
    patience = {**state.patience, account.name: state.patience_of(account.name).credited(credit)}
    if relief.name in state.stallers and credit < rules.useless_ratio * relief.wanted_bytes:
        patience[relief.name] = state.patience_of(relief.name).failed(at, None, rules)
    account = replace(account, returned_bytes=account.returned_bytes + credit, left=left)
    return replace(state, patience=patience, account=account)


def close_account(state: State, at: float, events: list[Event], rules: Rules) -> State:
    """Judge the open account: everybody who could settle it has tried."""
    account = state.account
    if account is None:
        return state
    # Where the service took up again what was released, the heap is in use and not fragmented.
    if account.returned_bytes + account.allowance_bytes < account.claimed_bytes / 2:
        text = (
            f"heap fragmented: {account.name} released {format_bytes(account.claimed_bytes)}, "
            f"{format_bytes(account.returned_bytes)} came back to the system"
        )
        events.append(event(at, "relief.fragmented", text, name=account.name, claimed_bytes=account.claimed_bytes))
        state = replace(state, held_bytes=account.claimed_bytes - account.returned_bytes)
    return _verdict(replace(state, account=None), account, at, events, rules)


def _verdict(state: State, account: Account, at: float, events: list[Event], rules: Rules) -> State:
    name, bought, wanted = account.name, account.returned_bytes, account.wanted_bytes
    least = max(rules.useless_ratio * max(wanted, rules.ask_min_bytes), _BACK_RATIO * account.claimed_bytes)
    useful = bought + account.allowance_bytes >= least
    asked = f" of {format_bytes(wanted)} asked" if wanted else ""
    patience = state.patience_of(name)
    if useful:
        patience = patience.paid()
        text = f"{name} bought {format_bytes(bought)}{asked}"
        events.append(event(at, "relief.bought", text, name=name, bought_bytes=bought, wanted_bytes=wanted))
    else:
        # What was released is free in the heap: until the service has used that up, it does not grow.
        freed = account.claimed_bytes > 0
        patience = patience.failed(at, account.size_bytes, rules, used_bytes=state.used_bytes if freed else None)
        wait = format_seconds(patience.blocked_until - at)
        text = f"{name} bought {format_bytes(bought)}{asked}: left alone for {wait}"
        events.append(event(at, "relief.useless", text, name=name, bought_bytes=bought, wanted_bytes=wanted))
    ask = state.ask
    if ask is not None and not useful:
        ask = replace(ask, failed=ask.failed | {name})
    return replace(
        state, patience={**state.patience, name: patience}, ask=ask, exhausted=state.exhausted and not useful
    )
