"""Advice: which thresholds to change after an incident, each from a number that was measured in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memguard.model import Level
from memguard.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.reports.measures import Measures

__all__ = ["advice"]

# A rung is moved by whole percents, and stays apart from its neighbours.
_STEP: Final = 0.01
_ROOM_RATIO: Final = 0.05
_TWICE: Final = 2
_LONG_S: Final = 600.0
# The guard's own, which nobody has registered; what a user notices of a pause.
_OWN: Final = frozenset({"collect", "trim"})
_PAUSE_S: Final = 0.1
_ROOMY: Final = 1.5


def advice(numbers: Measures) -> tuple[tuple[str, str], ...]:
    """What to change, and the measurement that says so; nothing where nothing does."""
    return tuple(
        found
        for rule in (
            _no_limit, _reaction, _useless, _broken, _collections, _fragmented, _exhausted, _room_left, _starved,
            _close_call, _leaking, _no_successor, _long,
        )
        for found in rule(numbers)
    )  # fmt: skip


def _no_limit(numbers: Measures) -> Iterator[tuple[str, str]]:
    if numbers.limit_bytes is None:
        yield "set max_bytes (API_MAX_MEMORY_MB)", "no limit was found: the guard could only watch"
    elif numbers.limit_kind == "host":
        yield (
            "set max_bytes (API_MAX_MEMORY_MB), or a limit on the container",
            f"the only limit was the machine's ({numbers.limit_source}): others use that memory, too",
        )


def _reaction(numbers: Measures) -> Iterator[tuple[str, str]]:
    """From WARNING, where holders are shed, to CRITICAL, in less time than it took to give anything back."""
    rules, limit = numbers.rules, numbers.limit_bytes
    warned, critical = numbers.reached.get(Level.WARNING), numbers.reached.get(Level.CRITICAL)
    paid = [one for one in numbers.attempts if one.bought_bytes > 0 and one.after_s is not None]
    if critical is None or not paid or not limit or not numbers.rate:
        return
    warned = critical if warned is None else warned  # it was passed within one look
    gap_s = critical - warned
    reaction_s = max(0.0, min((one.after_s or 0.0) + (one.cost_s or 0.0) / one.count for one in paid) - warned)
    if reaction_s <= gap_s:
        return
    lower = numbers.rate * (reaction_s - gap_s) / limit
    target = max(rules.elevated_ratio + _STEP, rules.warning_ratio - max(_STEP, lower))
    target = round(target - target % _STEP, 2)
    if target >= rules.warning_ratio or target <= rules.collect_ratio:
        yield (
            "slow the growth down rather than shed earlier: admission with wait_s, smaller pools, budgets",
            (
                f"WARNING to CRITICAL took {format_seconds(gap_s)}, the first relief {format_seconds(reaction_s)}; at "
                f"{format_bytes(numbers.rate)}/s no rung is low enough"
            ),
        )
        return
    yield (
        f"warning_ratio {rules.warning_ratio:g} → {target:g}",
        (
            f"WARNING to CRITICAL took {format_seconds(gap_s)}, the first relief that bought something "
            f"{format_seconds(reaction_s)}: at {format_bytes(numbers.rate)}/s that is "
            f"{format_bytes(numbers.rate * (reaction_s - gap_s))} too late"
        ),
    )


def _useless(numbers: Measures) -> Iterator[tuple[str, str]]:
    least = numbers.rules.useless_ratio
    for one in numbers.attempts:
        if one.name in _OWN:
            continue
        if one.count >= _TWICE and one.wanted_bytes and one.bought_bytes < least * one.wanted_bytes:
            cost = "" if one.cost_s is None else f" and took {format_seconds(one.cost_s)}"
            yield (
                f"register {one.name!r} with what it can really give, or not at all",
                (
                    f"asked {one.count} times for {format_bytes(one.wanted_bytes)} in all, it bought "
                    f"{format_bytes(one.bought_bytes)}{cost}"
                ),
            )


def _broken(numbers: Measures) -> Iterator[tuple[str, str]]:
    """Who raised, or did not come back in time."""
    for one in numbers.attempts:
        if one.errors:
            yield f"mend {one.name!r}: what raises gives nothing back", f"it raised {one.errors[0]}"
    if numbers.events.get("relief.overdue"):
        attempt_s = numbers.rules.attempt_s
        longest_s = max(((one.cost_s or 0.0) / one.count for one in numbers.attempts), default=0.0)
        allow = f", or attempt_s {attempt_s:g} → {longest_s * _ROOMY:.0f}" if longest_s > attempt_s else ""
        yield (
            f"have it give back in smaller steps{allow}",
            f"{numbers.events['relief.overdue']} times a holder took longer than {format_seconds(attempt_s)}",
        )


def _fragmented(numbers: Measures) -> Iterator[tuple[str, str]]:
    count = numbers.events.get("relief.fragmented", 0)
    if count:
        yield (
            "fewer arenas (MALLOC_ARENA_MAX=2), an allocator that decays (jemalloc), or states instead of plain dicts",
            f"{count} times most of what was released stayed in the heap, since small survivors lie among it",
        )


def _leaking(numbers: Measures) -> Iterator[tuple[str, str]]:
    if any(numbers.events.get(name) for name in ("leak.suspected", "leak.report", "leak.kept")):
        yield (
            "mend what the leak's report names; a threshold only moves the hour",
            "growth did not bend: see 'Does it leak?' above",
        )


def _no_successor(numbers: Measures) -> Iterator[tuple[str, str]]:
    """The last step was due, and could not be taken."""
    if numbers.events.get("handover.futile"):
        rules, peak = numbers.rules, numbers.peak_ratio
        share = "" if peak is None else f" (peak {peak:.0%})"
        yield (
            "raise the limit or start fewer workers; or say who starts a new one (handover='on')",
            f"a hand-over was due and could not help, or nobody would follow{share}: handover={rules.handover!r}",
        )


def _collections(numbers: Measures) -> Iterator[tuple[str, str]]:
    """Full collections stop the process; where there are few cycles they buy nothing."""
    for one in numbers.attempts:
        if one.name == "collect" and one.count >= _TWICE and one.bought_bytes <= 0 and (one.cost_s or 0.0) > _PAUSE_S:
            yield (
                f"collect_ratio {numbers.rules.collect_ratio:g} upwards: there are few cycles to collect",
                (
                    f"{one.count} full collections bought nothing and stopped the process for "
                    f"{format_seconds(one.cost_s or 0.0)}"
                ),
            )


def _exhausted(numbers: Measures) -> Iterator[tuple[str, str]]:
    if numbers.events.get("relief.exhausted"):
        grown = numbers.grown
        what = "" if grown is None else f"; what grew was {grown.name} (by {format_bytes(grown.grown_bytes)})"
        yield (
            "register who holds the rest (guard.cache, states, pool, child, reclaimer), or lower what may run at once",
            f"at the worst moment nothing that was registered could give anything back{what}",
        )


def _room_left(numbers: Measures) -> Iterator[tuple[str, str]]:
    """Work was refused at CRITICAL, and the room above was never needed."""
    rules, limit, peak = numbers.rules, numbers.limit_bytes, numbers.peak_ratio
    if not numbers.refusals or not limit or peak is None or Level.EMERGENCY in numbers.reached:
        return
    ceiling = rules.emergency_ratio - _STEP
    target = round(min(ceiling, rules.critical_ratio + (rules.emergency_ratio - peak) / 2), 2)
    if 1.0 - peak >= _ROOM_RATIO and target > rules.critical_ratio and peak < ceiling:
        left = format_bytes(limit - numbers.peak_bytes)
        yield (
            f"critical_ratio {rules.critical_ratio:g} → {target:g}, if refusals hurt more than risk",
            f"{numbers.refusals} were refused while at the peak ({peak:.1%}) {left} were left",
        )


def _starved(numbers: Measures) -> Iterator[tuple[str, str]]:
    if numbers.starved_s > 0.0 and numbers.rate:
        by = f"; running then: {numbers.starved_by}" if numbers.starved_by else ""
        grown = format_bytes(numbers.rate * numbers.starved_s)
        yield (
            "lower the rungs by what can grow meanwhile, or move that work into a child process",
            f"the guard could not run for {format_seconds(numbers.starved_s)}, in which {grown} can grow{by}",
        )
    if numbers.events.get("guard.blind"):
        yield (
            "find out why readings fail (probe.failed in the log)",
            f"for {format_seconds(numbers.blind_s)} nobody saw how much was used",
        )


def _close_call(numbers: Measures) -> Iterator[tuple[str, str]]:
    peak = numbers.peak_ratio
    if peak is None or Level.EMERGENCY not in numbers.reached:
        return
    left = (numbers.limit_bytes or 0) - numbers.peak_bytes
    yield (
        "raise the limit, or lower what may run at once (pool sizes, workers, admission's budgets)",
        (f"EMERGENCY was reached: {peak:.1%} of the limit, {format_bytes(max(0, left))} from its end"),
    )


def _long(numbers: Measures) -> Iterator[tuple[str, str]]:
    if numbers.lasted_s is not None and numbers.lasted_s > _LONG_S and numbers.peak_level <= Level.ELEVATED:
        rules = numbers.rules
        yield (
            f"elevated_ratio {rules.elevated_ratio:g} upwards, or more memory",
            f"it never got beyond ELEVATED and lasted {format_seconds(numbers.lasted_s)}: so this service lives",
        )
