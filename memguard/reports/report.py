"""The report of an incident: the answer in its first sentence, then the questions operators decide by, answered."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from memguard.model import Level
from memguard.reports.advice import advice
from memguard.reports.measures import Attempts, Measures, measured
from memguard.reports.outside import outside
from memguard.reports.story import STOPPED
from memguard.units import MIB, format_bytes, format_seconds
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.reports.story import Line, Story

__all__ = ["Answer", "IncidentReport", "Moment", "Work", "report_of"]

# As the runbook has it: what leaves five minutes is gradual.
_SUDDEN_S: Final = 300.0
_MOMENTS: Final = 60
_DULL: Final = frozenset({"reading.recorded", "gc.due", "control.acted", "control.denied"})
_LEAKS: Final = frozenset({"leak.suspected", "leak.report", "leak.kept"})


@value
class Moment:
    """One row of the timeline: seconds after the incident began (below 0: before), what was told."""

    at_s: float
    unix_s: float
    event: str
    text: str


@value
class Answer:
    """One question of the decision tree, its answer, and what that rests on ("": nothing was seen)."""

    question: str
    answer: str
    evidence: str = ""


@value
class Work:
    """What ran during it and has ended, by type: how many, by how much memory grew for them, the longest."""

    type: str
    count: int
    delta_bytes: int
    largest_bytes: int
    longest_s: float


@value
class IncidentReport:
    """Everything about one incident. ``summary`` answers in a sentence; ``unknown`` says what nobody saw.

    ``markdown()`` and ``html()`` are for people, ``to_dict()`` and ``to_json()`` for tools.
    """

    source: str
    opened_unix_s: float
    closed_unix_s: float | None
    summary: str
    measures: Measures
    answers: tuple[Answer, ...]
    timeline: tuple[Moment, ...]
    work: tuple[Work, ...]
    advice: tuple[tuple[str, str], ...]
    outside: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...]
    leak: str
    curve: tuple[tuple[float, int], ...]

    @property
    def opened(self) -> str:
        """When it began, UTC."""
        return stamp(self.opened_unix_s)

    def to_dict(self) -> dict[str, object]:
        """All of it in plain dicts, lists, numbers and texts."""
        found = asdict(self)
        numbers = found["measures"]
        numbers["peak_level"] = self.measures.peak_level.name
        numbers["peak_ratio"] = self.measures.peak_ratio
        numbers["reached"] = {level.name: at for level, at in self.measures.reached.items()}
        rules = numbers.pop("rules")
        found["rules"] = {name: getattr(value, "name", value) for name, value in rules.items() if name != "origins"}
        found["opened"] = self.opened
        found["advice"] = [{"change": change, "why": why} for change, why in self.advice]
        found["outside"] = [{"message": message, "means": means} for message, means in self.outside]
        return found

    def to_json(self, *, indent: int | None = None) -> str:
        """The same as JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, default=str)

    def markdown(self) -> str:
        """The report in Markdown."""
        from memguard.reports.words import markdown  # noqa: PLC0415 - only when it is wanted

        return markdown(self)

    def html(self) -> str:
        """The report as one page that loads nothing."""
        from memguard.reports.page import page  # noqa: PLC0415 - as above

        return page(self)


def stamp(unix_s: float) -> str:
    """An instant for people: "2026-11-21 19:05:00 UTC"."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))


def report_of(story: Story) -> IncidentReport:
    """The report of one story."""
    numbers = measured(story)
    work = tuple(Work(**row) for row in story.operations)
    return IncidentReport(
        source=story.source,
        opened_unix_s=story.opened.unix_s,
        closed_unix_s=None if story.closed is None else story.closed.unix_s,
        summary=_summary(story, numbers),
        measures=numbers,
        answers=tuple(_answers(story, numbers, work)),
        timeline=tuple(_timeline(story)),
        work=work,
        advice=advice(numbers),
        outside=outside(numbers, open_end=story.closed is None and story.ends != STOPPED),
        unknown=tuple(_unknown(story, numbers, work)),
        leak=_leak(story),
        curve=story.curve,
    )


# --- the answer -------------------------------------------------------------------------------------------------------


def _summary(story: Story, numbers: Measures) -> str:
    limit = "" if numbers.limit_bytes is None else f" of {format_bytes(numbers.limit_bytes)}"
    share = "" if numbers.peak_ratio is None else f" ({numbers.peak_ratio:.0%})"
    sudden = _sudden(numbers)
    how = "Memory" if sudden is None else "Memory rose suddenly and" if sudden else "Memory rose slowly and"
    words = f"{how} reached {numbers.peak_level.name} with {format_bytes(numbers.peak_bytes)}{limit}{share}"
    part = numbers.grown
    if part is not None:
        words += f", most of it in {part.name}"
    tried = sum(one.count for one in numbers.attempts)
    if not tried:
        words += "; nothing was shed"
    elif numbers.bought_bytes > 0:
        words += f"; {_count(tried, 'relief')} bought {format_bytes(numbers.bought_bytes)}"
    else:
        words += f"; {_count(tried, 'relief')} bought nothing"
    if numbers.refusals:
        words += f", {_count(numbers.refusals, 'request')} {'was' if numbers.refusals == 1 else 'were'} refused"
    if numbers.lasted_s is None:
        return f"{words}; {story.ends}."
    return f"{words}, and it was over after {format_seconds(numbers.lasted_s)}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _sudden(numbers: Measures) -> bool | None:
    """Whether what was left at the beginning would have been full within five minutes; None: nobody saw it grow."""
    if numbers.rate is None or not numbers.limit_bytes or numbers.opened_bytes is None:
        return None
    return (numbers.limit_bytes - numbers.opened_bytes) / numbers.rate < _SUDDEN_S


# --- the decision tree ------------------------------------------------------------------------------------------------


def _answers(story: Story, numbers: Measures, work: tuple[Work, ...]) -> Iterator[Answer]:
    yield _how_fast(numbers)
    yield _which_part(numbers)
    yield _who_holds(numbers)
    yield _what_ran(story, numbers, work)
    yield Answer(question="Does it leak?", answer=_leak(story) or "nobody judged the trend")
    yield _what_helped(numbers)
    yield _which_limit(numbers)


def _how_fast(numbers: Measures) -> Answer:
    question, sudden = "Gradual or sudden?", _sudden(numbers)
    if sudden is None or numbers.rate is None:
        return Answer(question=question, answer="unknown: it was not seen to grow")
    evidence = f"up to {format_bytes(numbers.rate)}/s"
    if numbers.opened_bytes is not None and numbers.limit_bytes:
        left_s = (numbers.limit_bytes - numbers.opened_bytes) / numbers.rate
        evidence += f": from {format_bytes(numbers.opened_bytes)} to the limit in {format_seconds(max(0.0, left_s))}"
    if sudden:
        return Answer(
            question=question, answer="sudden: look at concurrent work, pool sizes, large inputs", evidence=evidence
        )
    return Answer(question=question, answer="gradual: look for a leak or a recent deployment", evidence=evidence)


def _which_part(numbers: Measures) -> Answer:
    question = "Which part grew?"
    if not numbers.parts:
        return Answer(question=question, answer="unknown: nobody looked before and at the peak")
    rows = ", ".join(f"{part.name} {_signed(part.grown_bytes)}" for part in numbers.parts)
    part = numbers.grown
    if part is None:
        grew = any(one.grown_bytes > 0 and one.counts for one in numbers.parts)
        answer = "several" if grew else "none, as far as was seen where levels turned"
        return Answer(question=question, answer=answer, evidence=rows)
    return Answer(question=question, answer=part.name, evidence=rows)


def _signed(count: int) -> str:
    return f"{'+' if count >= 0 else '-'}{format_bytes(abs(count))}"


def _who_holds(numbers: Measures) -> Answer:
    question = "Who of those registered grew?"
    grown = [one for one in numbers.holders if one.grown_bytes > 0]
    if grown:
        return Answer(
            question=question,
            answer=grown[0].name,
            evidence=", ".join(f"{one.name} {_signed(one.grown_bytes)}" for one in numbers.holders[:5]),
        )
    return Answer(question=question, answer="nobody by a MiB or more: look at work that runs, or register who holds it")


def _what_ran(story: Story, numbers: Measures, work: tuple[Work, ...]) -> Answer:
    question = "What ran then?"
    highest = max(story.sights, key=lambda line: int(line.seen.get("used_bytes", 0)), default=None)
    rows = []
    if highest is not None and highest.seen.get("running"):
        rows += [f"{count} of {name}" for name, count in list(highest.seen["running"].items())[:5]]
    elif highest is not None and highest.seen.get("requests"):
        rows.append(_count(int(highest.seen["requests"]), "request"))
    heavy = [one for one in work if one.delta_bytes > 0][:3]
    evidence = "; ".join(f"{one.type}: {one.count} ended, {_signed(one.delta_bytes)}" for one in heavy)
    if numbers.starved_s:
        by = f" while {numbers.starved_by} ran" if numbers.starved_by else ""
        evidence += f"{'; ' if evidence else ''}the guard could not run for {format_seconds(numbers.starved_s)}{by}"
    if not rows:
        answer = heavy[0].type if heavy else "nothing that the guard knows of: no admitted work, no operations"
        return Answer(question=question, answer=answer, evidence=evidence)
    return Answer(question=question, answer=f"at the peak: {', '.join(rows)}", evidence=evidence)


def _what_helped(numbers: Measures) -> Answer:
    question = "Which step helped?"
    if not numbers.attempts:
        observed = " (mode 'observe' does nothing)" if numbers.rules.mode == "observe" else ""
        return Answer(question=question, answer=f"none was tried{observed}")
    best, evidence = numbers.attempts[0], "; ".join(_words(one) for one in numbers.attempts[:5])
    if best.bought_bytes < max(MIB, numbers.rules.useless_ratio * best.wanted_bytes):
        return Answer(question=question, answer="none that is worth speaking of", evidence=evidence)
    return Answer(question=question, answer=best.name, evidence=evidence)


def _words(one: Attempts) -> str:
    cost = "" if one.cost_s is None else f" in {format_seconds(one.cost_s)}"
    return f"{one.name}: {format_bytes(one.bought_bytes)} of {format_bytes(one.wanted_bytes)} asked{cost}"


def _which_limit(numbers: Measures) -> Answer:
    question = "Which limit?"
    if numbers.limit_bytes is None:
        return Answer(question=question, answer="none was found")
    kinds = {
        "kill": "above it the kernel kills",
        "throttle": "above it the kernel slows allocations down",
        "policy": "the operator's own",
        "host": "the machine's memory",
    }
    return Answer(
        question=question,
        answer=f"{format_bytes(numbers.limit_bytes)}: {numbers.limit_source or 'its source was not told'}",
        evidence=kinds.get(numbers.limit_kind, ""),
    )


def _leak(story: Story) -> str:
    """The last word about a leak before the end, or soon after."""
    told = [line for line in (*story.before, *story.lines, *story.after) if line.event in _LEAKS]
    if told:
        return told[-1].text
    return next((str(line.seen["verdict"]) for line in reversed(story.sights) if line.seen.get("verdict")), "")


# --- the rest ---------------------------------------------------------------------------------------------------------


def _timeline(story: Story) -> Iterator[Moment]:
    begin = story.opened.at
    told = [line for line in (*story.before[-3:], *story.lines, *story.after[:3]) if line.event not in _DULL]
    lines = _without_repeats(told)
    kept = lines if len(lines) <= _MOMENTS else [*lines[: _MOMENTS // 2], *lines[-_MOMENTS // 2 :]]
    for place, line in enumerate(kept):
        if len(kept) < len(lines) and place == _MOMENTS // 2:
            text = f"{len(lines) - len(kept)} more events"
            yield Moment(at_s=line.at - begin, unix_s=line.unix_s, event="…", text=text)
        yield Moment(at_s=line.at - begin, unix_s=line.unix_s, event=line.event, text=line.text)


def _without_repeats(told: list[Line]) -> list[Line]:
    """The same, of several starvations in a row only the longest: on a busy machine there are dozens."""
    found: list[Line] = []
    for line in told:
        last = found[-1] if found else None
        if last is None or line.event != "guard.starved" or last.event != line.event:
            found.append(line)
        elif line.attributes.get("gap_s", 0.0) > last.attributes.get("gap_s", 0.0):
            found[-1] = line
    return found


def _unknown(story: Story, numbers: Measures, work: tuple[Work, ...]) -> Iterator[str]:
    yield from story.notes
    if story.closed is None:
        yield f"its end: {story.ends}"
    if not numbers.parts:
        yield "which part grew: add JsonlSink (or protect()) to the guard, and each level's turn is looked at"
    if not story.told.get("rules"):
        yield "the rules in force then: thresholds here are the defaults"
    if story.record is None:
        yield "every decision again: no record of it is kept here, so it cannot be replayed"
    elif story.record.missed:
        yield f"the last {story.record.missed} looks: the record of an incident is bounded"
    if numbers.attempts and any(one.cost_s is None for one in numbers.attempts):
        yield "what reliefs cost in time"
    if not work:
        yield "what operations cost: none ended meanwhile, or nobody calls guard.operation() or protect()"
    if numbers.peak_level < Level.WARNING:
        yield "what shedding would have given: it was not needed"
