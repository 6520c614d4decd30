"""``memguard clean``: directories held to a quota; a dry run unless it is told otherwise."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from memguard.cli.printing import Progress, amount, duration, paragraph, parser, print_json, settle_output, table
from memguard.errors import MemguardError
from memguard.reclaimers.directories import Directory, directories_of
from memguard.roster import Roster
from memguard.units import MIB, format_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from memguard.reclaimers.cleaning import Cleanup

__all__ = ["main"]

# What operators clean at by hand: 100 MB each, 200 MB together.
_MAX_BYTES: Final = 100 * MIB
_TOTAL_BYTES: Final = 200 * MIB
_SHOWN: Final = 10
# As Directory has it: others tell by them who is running, and databases lose what they had promised.
_EXCLUDED: Final = ("*.lock", "*.pid", "*-wal", "*-shm", "*-journal", ".nfs*")


def main(argv: Sequence[str] | None = None) -> int:
    """Show what would go, or with ``--yes`` remove it; 0 when all are within their quota now, 1 when not.

    Raises:
        MemguardError: a directory that is none, or that holds what others need.
    """
    settle_output()
    options = _options(argv)
    roster = Roster()
    group = directories_of(roster)
    group.total_bytes = options.total
    directories = [_directory(path, options) for path in options.path]
    try:
        handles = [group.join(one) for one in directories]
    except ValueError as error:
        raise MemguardError(str(error)) from None
    with Progress("looking through " + ", ".join(one.path for one in directories)):
        # What is too much for all of them together is known when each was looked at.
        for one in directories:
            one.plan()
        before = {one.path: one.held_bytes or 0 for one in directories}
        done = [one.clean() if options.yes else one.plan() for one in directories]
    left = [
        _left(one, cleanup, before[one.path], dry=not options.yes)
        for one, cleanup in zip(directories, done, strict=True)
    ]
    over = [count > one.max_bytes for count, one in zip(left, directories, strict=True)]
    within = not any(over) and sum(left) <= options.total
    pending = not options.yes and any(cleanup.removed for cleanup in done)
    status = 0 if within and not pending else 1
    if options.json:
        rows = [
            asdict(cleanup) | {"freed_bytes": cleanup.freed_bytes, "left_bytes": count, "max_bytes": one.max_bytes}
            for one, cleanup, count in zip(directories, done, left, strict=True)
        ]
        print_json({"status": status, "dry_run": not options.yes, "total_bytes": options.total, "directories": rows})
    else:
        for one, cleanup in zip(directories, done, strict=True):
            _print(one, cleanup, before[one.path], everything=options.list)
        _print_end(options, left, pending=pending, within=within)
    for handle in handles:
        handle.close()
    return status


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    options = parser(
        "clean",
        "Holds directories of files that can be made again to a quota: above it the files used least recently go, down "
        "to four fifths of it. Shows what would go; removes it only with --yes. Never a file that is open, younger "
        "than --min-age, outside the directory or behind a link.",
        examples=(
            ("memguard clean /var/cache/app", "what would go to come below 100 MiB"),
            ("memguard clean /var/cache/app --max 200MiB --yes", "remove it"),
            ("memguard clean cache/a cache/b --total 500MiB --max 400MiB", "two directories with one total"),
            ("memguard clean models --exclude '*.keep' --json", "for scripts; patterns are of the shell's kind"),
        ),
        ends=(
            "0  within the quota: there was nothing to do, or it is done\n"
            "1  files would have to go (repeat with --yes), or it is still over\n"
            "2  a path that cannot be cleaned, or a call that makes no sense"
        ),
    )
    options.add_argument("path", nargs="+", metavar="PATH", help="a directory")
    options.add_argument("--max", type=amount, default=_MAX_BYTES, metavar="BYTES", help="for each (default 100MiB)")
    options.add_argument(
        "--total", type=amount, metavar="BYTES", help="for all together (default 200MiB, or --max where that is more)"
    )
    options.add_argument("--yes", action="store_true", help="remove the files, instead of showing them")
    options.add_argument("--include", action="append", metavar="PATTERN", help="only such names or paths may go")
    options.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="such ones stay; repeat it")
    options.add_argument("--min-age", type=duration, default=10.0, metavar="S", help="younger ones stay (default 10 s)")
    options.add_argument("--list", action="store_true", help="show every file, not the first ten")
    options.add_argument("--json", action="store_true", help="one JSON document instead of text")
    chosen = options.parse_args(argv)
    if chosen.total is None:
        chosen.total = max(_TOTAL_BYTES, chosen.max)
    return chosen


def _directory(path: str, options: argparse.Namespace) -> Directory:
    if not os.path.isdir(path):  # noqa: PTH112 - as it was typed
        known = "is no directory" if os.path.lexists(path) else "is not there"
        raise MemguardError(f"{path} {known}: name the directory that holds the files")
    include, exclude = options.include or ("*",), (*_EXCLUDED, *options.exclude)
    try:
        return Directory(
            path, max_bytes=options.max, include=tuple(include), exclude=exclude, min_age_s=options.min_age,
            act=options.yes,
        )  # fmt: skip
    except ValueError as error:
        raise MemguardError(str(error)) from None


def _left(one: Directory, cleanup: Cleanup, before: int, *, dry: bool) -> int:
    """Bytes that it holds now; of a dry run, that it holds as before."""
    return before if dry else (one.held_bytes if one.held_bytes is not None else before - cleanup.freed_bytes)


def _print(one: Directory, cleanup: Cleanup, before: int, *, everything: bool) -> None:
    memory = ", in memory" if one.in_memory else ""
    print(f"{one.path}{memory}")
    print(f"  {format_bytes(before)} in {_files(cleanup.files)}, {format_bytes(one.max_bytes)} allowed")
    if cleanup.removed:
        does = "would remove" if cleanup.dry_run else "removed"
        print(f"  {does} {_files(len(cleanup.removed))}, {format_bytes(cleanup.freed_bytes)}, the oldest first")
        print(paragraph("", f"by {one.order}:"))
        shown = cleanup.removed if everything else cleanup.removed[:_SHOWN]
        rows = [
            ("   ", format_bytes(each.bytes), time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used_at)),
             _printable(each.path.removeprefix(one.path + "/")))
            for each in shown
        ]  # fmt: skip
        print("\n".join(table(rows, right=frozenset({1}))))
        if len(shown) < len(cleanup.removed):
            print(f"    and {len(cleanup.removed) - len(shown)} more (--list shows all)")
    left = ", ".join(f"{count} {why}" for why, count in sorted(cleanup.left.items()))
    if left:
        print(f"  stays: {left}")
    for note in cleanup.notes:
        print(paragraph("", note))


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _printable(name: str) -> str:
    """A file's name for a terminal: control characters in it must not be obeyed."""
    return "".join(mark if mark.isprintable() else "?" for mark in name)


def _print_end(options: argparse.Namespace, left: Sequence[int], *, pending: bool, within: bool) -> None:
    together = f"{format_bytes(sum(left))} of {format_bytes(options.total)} together" if len(left) > 1 else ""
    if together:
        print(together)
    if pending:
        print("nothing was removed: repeat with --yes to remove these files")
    elif not within:
        print("still above the quota: what is left may not go")
    elif not options.yes:
        print("within the quota: nothing to remove")
