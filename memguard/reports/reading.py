"""Reading: stories out of what sinks wrote: JSON lines, or a SQLite store; records out of either kind of file."""

from __future__ import annotations

import base64
import json
import zlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from memguard._core.record import Record, decode
from memguard._core.state import State
from memguard.errors import MemguardError
from memguard.reports.story import Line, Story, stories
from memguard.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["VERSION", "RecordError", "kind_of", "lines_of", "record_of", "saved", "stories_of", "stories_of_lines"]

VERSION: Final = 1
"""The version of a record that is read here."""

_SQLITE: Final = b"SQLite format 3\0"
_KNOWN: Final = frozenset({"timestamp", "event", "text", "at", "pid", "attributes", "seen"})


class RecordError(MemguardError, ValueError):
    """A record that cannot be read: which, and why."""


def kind_of(path: str | Path) -> Literal["events", "store", "record"]:
    """What a file holds, by its beginning.

    Raises:
        MemguardError: there is none, it cannot be read, or it is empty.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise MemguardError(f"{path}: there is no such file; name what JsonlSink or SqlSink wrote") from None
    except OSError as error:
        raise MemguardError(f"{path} cannot be read: {error.strerror or error}") from None
    if not head.strip():
        raise MemguardError(f"{path} is empty: nothing was told yet, or to another file")
    return "store" if head.startswith(_SQLITE) else "record" if b'"memguard": "record"' in head else "events"


def stories_of(path: str | Path) -> list[Story]:
    """The incidents in a file of the JSONL sink, or in a SQLite store; the oldest first.

    Raises:
        MemguardError: it cannot be read, or is something else: which, and the mend.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "store":
        from memguard.reports.stored import stories_in  # noqa: PLC0415 - sqlite3 is a MB

        return [_with_record(story, str(path)) for story in stories_in(path)]
    if kind == "record":
        raise MemguardError(f"{path} holds a record alone: `memguard replay` reads it, a report wants JsonlSink's file")
    return stories_of_lines(path.read_text(encoding="utf-8", errors="replace").splitlines(), str(path))


def stories_of_lines(texts: Iterable[str], where: str) -> list[Story]:
    """The incidents in lines of JSON. A last line that was cut off is left out.

    Raises:
        MemguardError: none of them is an event's, or one is damaged: which.
    """
    found = stories(lines_of(texts, where))
    return [_with_record(story, where) for story in found]


def lines_of(texts: Iterable[str], where: str) -> list[Line]:
    """Lines of JSON as events.

    Raises:
        MemguardError: as above.
    """
    found, wrong = list[Line](), list[int]()
    number = 0
    for number, text in enumerate(texts, start=1):
        if text.strip():
            line = _line(text)
            if line is None:
                wrong.append(number)
            else:
                found.append(line)
    if wrong and (not found or wrong != [number]):  # the last one may be cut: a process died while it wrote
        many = "no line" if not found else f"not {len(wrong)} of {number} lines, as line {wrong[0]},"
        raise MemguardError(
            f"{where}: {many} is an event of memguard; name a file that JsonlSink wrote, or a store of SqlSink"
        )
    return found


def _line(text: str) -> Line | None:
    try:
        shown = json.loads(text)
        return Line(
            unix_s=datetime.fromisoformat(shown["timestamp"]).timestamp(),
            at=float(shown["at"]),
            event=str(shown["event"]),
            text=str(shown["text"]),
            source=str(shown.get("pid", "")),
            attributes=shown.get("attributes") or {},
            seen=shown.get("seen") or {},
            rest={name: value for name, value in shown.items() if name not in _KNOWN},
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _with_record(story: Story, where: str) -> Story:
    """The story with its record unpacked."""
    packed = story.told.get("record")
    if packed is None:
        return story
    place = f"{where}, the incident that ended at {story.opened.at:.3f}"
    try:
        shown = json.loads(zlib.decompress(base64.b85decode(packed)))
    except (ValueError, TypeError, zlib.error) as error:
        raise RecordError(f"{place}: its record is damaged ({error})") from None
    return replace(story, record=record_of(shown, place))


def record_of(shown: Mapping[str, Any], where: str) -> Record:
    """A record out of what ``Record.shown`` gave.

    Raises:
        RecordError: another version, or damaged.
    """
    if shown.get("memguard") != "record":
        raise RecordError(f"{where} holds no record: write one with memguard.testing.save_record or JsonlSink")
    if shown.get("version") != VERSION:
        raise RecordError(
            f"{where} is no record that this memguard reads: its version is {shown.get('version')!r}, not {VERSION}; "
            "replay it with the memguard that wrote it"
        )
    try:
        state, stimuli = decode(shown["state"]), [decode(one) for one in shown["stimuli"]]
        if not isinstance(state, State):
            raise ValueError("it holds no state")  # noqa: TRY301, TRY004 - damaged, as below
        return Record(state=state, stimuli=stimuli, missed=int(shown.get("missed", 0)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"{where} is damaged: {error}") from None


def saved(path: str | Path) -> Record | None:
    """The record in a file that ``save_record`` wrote; None when it is another kind of file.

    Raises:
        RecordError: it cannot be read, has another version, or is damaged: where.
    """
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            first = file.readline()
            head = next(_json([first], str(path))) if first else None
            if not isinstance(head, dict) or head.get("memguard") != "record":
                return None
            rows = list(_json([first, *file], str(path)))
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from None
    return record_of({**rows[0], "stimuli": rows[1:]}, str(path))


def _json(texts: Iterable[str], where: str) -> Iterator[Any]:
    for number, text in enumerate(texts, start=1):
        try:
            yield json.loads(text)
        except ValueError as error:
            raise RecordError(f"{where}, line {number}: no JSON ({error}); was the file cut off?") from None
