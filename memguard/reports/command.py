"""``memguard report`` and ``memguard replay``: an incident in words, and under other rules."""

from __future__ import annotations

import argparse
import json
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memguard.errors import MemguardError, RulesError
from memguard.reports.measures import measured
from memguard.reports.other_rules import compare, courses_text
from memguard.reports.reading import kind_of, saved, stories_of
from memguard.reports.report import report_of, stamp
from memguard.rules import Rules
from memguard.values import fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard._core.record import Record
    from memguard.reports.story import Story

__all__ = ["replay", "report"]

_KINDS = {".html": "html", ".htm": "html", ".json": "json", ".md": "markdown"}


def report(arguments: Sequence[str]) -> int:
    """The report of one incident; 1 when there is none.

    Raises:
        MemguardError: the file cannot be read, or has no such incident, or the report cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="memguard report",
        description="Says what happened in an incident: what grew, what was done, what to change. FILE is what "
        "JsonlSink wrote, or the SQLite store of SqlSink. Status 0: reported, 1: no incident in it, 2: unreadable.",
    )
    parser.add_argument("file", metavar="FILE", help="JSON lines or SQLite")
    _which(parser)
    parser.add_argument("--list", action="store_true", help="only say which incidents there are")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--html", action="store_const", const="html", dest="kind", help="one page that loads nothing")
    kinds.add_argument("--json", action="store_const", const="json", dest="kind", help="for tools")
    kinds.add_argument("--markdown", action="store_const", const="markdown", dest="kind", help="as it is without")
    parser.add_argument("--out", metavar="OUT", help="write there; .html, .json and .md say what")
    options = parser.parse_args(arguments)
    found = stories_of(options.file)
    if not found:
        _say(f"{options.file}: no incident in it: pressure never left OK while it was written.\n")
        return 1
    if options.list:
        _say("".join(f"{_row(number, story)}\n" for number, story in enumerate(found, start=1)))
        return 0
    made = report_of(_choose(found, options.incident, options.file))
    kind = options.kind or _KINDS.get(Path(options.out).suffix.lower() if options.out else "", "markdown")
    text = made.html() if kind == "html" else f"{made.to_json(indent=2)}\n" if kind == "json" else made.markdown()
    if options.out is None:
        _say(text)
        return 0
    try:
        Path(options.out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise MemguardError(f"{options.out} cannot be written: {error.strerror or error}") from None
    _say(f"{made.summary}\n{options.out} is written.\n")
    return 0


def replay(arguments: Sequence[str]) -> int:
    """What other rules would have decided about a recorded incident; 1 when there is none.

    Raises:
        MemguardError: the file cannot be read, has no record, or the rules cannot hold.
    """
    parser = argparse.ArgumentParser(
        prog="memguard replay",
        description="Decides a recorded incident again under other rules, and says where they part. FILE is "
        "what JsonlSink wrote, the SQLite store of SqlSink, or memguard.testing.save_record.",
    )
    parser.add_argument("file", metavar="FILE", help="JSON lines, SQLite, or a record")
    _which(parser)
    parser.add_argument(
        "--rules", nargs="+", required=True, metavar="NAME=VALUE", help="rules that are other than they were then"
    )
    parser.add_argument("--json", action="store_true", help="for tools")
    options = parser.parse_args(arguments)
    record, before = _recorded(options.file, options.incident)
    if record is None:
        _say(f"{options.file}: no incident in it: pressure never left OK while it was written.\n")
        return 1
    after = Rules.resolve({}, _overrides(options.rules), base=before)
    difference = compare(record, before, after)
    if options.json:
        _say(f"{json.dumps(difference.to_dict(), indent=2)}\n")
    else:
        _say(courses_text(difference, ("as recorded", " ".join(options.rules))))
    return 0


def _which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--incident", type=int, default=-1, metavar="N", help="which: 1 is the oldest, -1 the last (without: the last)"
    )


def _choose(found: list[Story], number: int, where: str) -> Story:
    if number == 0 or not -len(found) <= number <= len(found):
        raise MemguardError(f"{where} has {len(found)} incidents and no number {number}: --list shows them")
    return found[number - 1 if number > 0 else number]


def _row(number: int, story: Story) -> str:
    numbers = measured(story)
    share = "" if numbers.peak_ratio is None else f" {numbers.peak_ratio:.0%}"
    ended = story.ends or "over"
    return (
        f"{number:>3}  {stamp(story.opened.unix_s)}  process {story.source}  {numbers.peak_level.name}{share}  {ended}"
    )


def _recorded(where: str, number: int) -> tuple[Record | None, Rules]:
    """A record and the rules in force then."""
    kind = kind_of(where)
    if kind == "record":
        return saved(where), Rules()
    found = stories_of(where)
    if not found:
        return None, Rules()
    story = _choose(found, number, where)
    if story.record is None:
        raise MemguardError(
            f"{where}: there is no record of the incident of {stamp(story.opened.unix_s)} "
            f"({story.ends or 'it is over'}): JsonlSink and SqlSink write one when an incident ends"
        )
    return story.record, measured(story).rules


def _overrides(given: Sequence[str]) -> dict[str, Any]:
    known = [rule.name for rule in fields(Rules) if rule.name != "origins"]
    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise MemguardError(f"{text!r} sets no rule: write NAME=VALUE, like warning_ratio=0.75")
        if name not in known:
            near = get_close_matches(name, known, 3, 0.5)
            raise RulesError(f"there is no rule {name!r}: did you mean {' or '.join(near or sorted(known))}?")
        found[name] = None if value.lower() == "none" else value
    return found


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
