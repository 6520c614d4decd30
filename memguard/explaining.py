"""Explaining: the whole of a guard in words, for people who ask why it does what it does."""

from __future__ import annotations

from memguard.units import format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from memguard.budgets import Budgets
    from memguard.model import Holder, Limit
    from memguard.rules import Rules

__all__ = ["explained"]


def explained(
    limits: Iterable[Limit],
    notes: Iterable[str],
    rules: Rules,
    holders: Iterable[Holder],
    budgets: Budgets | None = None,
) -> str:
    """The limits and their sources, every rule and its origin, every holder and what it bought; a line each.

    Budgets come last, with what is wrong with them.
    """
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
            *(_budgets(budgets) if budgets is not None else ()),
        ]
    )


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
