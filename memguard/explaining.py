"""Explaining: the whole of a guard in words, for people who ask why it does what it does."""

from __future__ import annotations

from memguard.units import format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from memguard._core.chores import Chore
    from memguard.budgets import Budgets
    from memguard.model import Holder, Limit
    from memguard.rules import Rules
    from memguard.workers.rows import Worker

__all__ = ["explained"]


def explained(  # noqa: PLR0913 - the parts of a guard
    limits: Iterable[Limit],
    notes: Iterable[str],
    rules: Rules,
    holders: Iterable[Holder],
    budgets: Budgets | None = None,
    *,
    handover: str = "",
    workers: Iterable[Worker] = (),
    chores: Iterable[Chore] = (),
    now: float = 0.0,
) -> str:
    """The limits and their sources, every rule and its origin, every holder and what it bought; a line each.

    Then the chores of the schedule, and what is done one after the other under pressure, each step with what it has
    bought; ``handover`` says how the last is done. Then the workers that share the limit, if there are others. Budgets
    come last, with what is wrong with them.
    """
    holders = tuple(holders)
    found = [f"{format_bytes(limit.bytes)} ({limit.kind}) from {limit.source}" for limit in limits]
    nothing = "none: the guard observes only; set API_MAX_MEMORY_MB to give it a limit"
    return "\n".join(
        [
            "limits:",
            *(found or [nothing]),
            *notes,
            "",
            "rules:",
            rules.explain(),
            "",
            "holders:",
            *(_line(holder) for holder in holders),
            "",
            "maintenance:",
            *_chores(rules, chores, now),
            "",
            "escalation:",
            *_escalation(rules, holders, handover),
            *(_workers(workers)),
            *(_budgets(budgets) if budgets is not None else ()),
        ]
    )


def _chores(rules: Rules, chores: Iterable[Chore], now: float) -> list[str]:
    """Every chore: how often, when next, what it did last, what all of it bought."""
    if rules.mode == "observe":
        return [f"nothing: mode 'observe' (else {rules.maintain})"]
    rows = [
        f"{chore.name}: every {format_seconds(chore.every_s)}, next in {format_seconds(max(0.0, chore.due_at - now))}; "
        f"{chore.runs} times, bought {format_bytes(chore.bought_bytes)}"
        + (f", failed {chore.failures} times in a row" if chore.failures else "")
        + (f"; last: {chore.words} ({format_seconds(chore.cost_s)})" if chore.words else "")
        for chore in chores
    ]
    return rows or [f"nothing yet: {rules.maintain}"]


def _escalation(rules: Rules, holders: Iterable[Holder], handover: str) -> list[str]:
    """Every step from the mildest to the last: from when on, who, and what it has bought so far."""
    by_step: dict[str, list[Holder]] = {"collect": [], "trim": [], "shrink": [], "compact": []}
    for holder in holders:
        mild = "shrink" if holder.cost in {"free", "cheap"} else "compact"
        by_step[holder.name if holder.name in by_step else mild].append(holder)
    collect = f"above {rules.collect_ratio:.0%}" if rules.collect_bytes is None else format_bytes(rules.collect_bytes)
    begins = {
        "collect": f"garbage, {collect} while that pays",
        "trim": "what is free in the heap, after each release",
        "shrink": f"caches, from WARNING ({rules.warning_ratio:.0%}) on",
        "compact": f"states, files, what is dear, from WARNING; the last from EMERGENCY ({rules.emergency_ratio:.0%})",
    }
    steps = ["1. expire: what is too old in caches and directories, all the time"]
    for number, (step, found) in enumerate(by_step.items(), start=2):
        attempts, bought = sum(each.attempts for each in found), sum(each.bought_bytes for each in found)
        steps.append(f"{number}. {step}: {begins[step]}; {attempts} attempts bought {format_bytes(bought)}")
    leave = rules.critical_ratio - rules.leave_gap_ratio
    steps.append(f"6. refuse: new work, from CRITICAL ({rules.critical_ratio:.0%}) until below {leave:.0%}")
    after, least = format_seconds(rules.handover_after_s), format_seconds(rules.handover_life_s)
    how = "never: the rule handover is 'off'" if rules.handover == "off" else handover
    steps.append(f"7. hand over: when that has not helped for {after}, at most every {least}; {how}")
    return steps


def _workers(workers: Iterable[Worker]) -> list[str]:
    rows = [
        f"{worker.pid}{' (this one)' if worker.own else ''}: {worker.level.name}, {worker.state}, "
        f"{format_bytes(worker.used_bytes)} used, {format_bytes(worker.yield_bytes)} to shed, "
        f"{format_bytes(worker.promised_bytes)} promised"
        for worker in workers
    ]
    return ["", "workers:", *rows] if rows else []


def _budgets(budgets: Budgets) -> list[str]:
    rows = [
        f"{row.name}: {format_bytes(row.used_bytes)} of {format_bytes(row.max_bytes)}, "
        f"charged: {', '.join(row.charged) or 'nobody'}"
        + (f"; unknown: {', '.join(row.unknown)}" if row.unknown else "")
        for row in budgets.rows()
    ]
    fault = budgets.fault()
    return ["", "budgets:", *(rows or ["none"]), *([fault] if fault else [])]


def _line(holder: Holder) -> str:
    size = "unknown size" if holder.size_bytes is None else format_bytes(holder.size_bytes)
    bought = f"{holder.attempts} attempts bought {format_bytes(holder.bought_bytes)}"
    return f"{holder.name}: {size}, cost {holder.cost}, from {holder.at.name}; {bought}"
