"""``memguard top``: the guards of this machine, live: level, what is used of which limit, who holds it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from memguard.cli.guards import LedgerGuards, RemoteGuard
from memguard.cli.printing import duration, parser, settle_output, table, width
from memguard.errors import MemguardError
from memguard.units import GIB, MIB, format_bytes, format_seconds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from memguard.cli.guards import Guards, Seen

__all__ = ["main"]

_EVERY_S: Final = 2.0
_SHORTEST_S: Final = 0.1
_HEAD: Final = ("PID", "LEVEL", "USED", "LIMIT", "%", "SHED", "RUNS", "REFUSED", "COMMAND")
_RIGHT: Final = frozenset({0, 2, 3, 4, 5, 6, 7})
_SHARES: Final = ("HOLDER", "KIND", "HOLDS", "GAVE BACK", "RELIEFS")
# Foreground colours of a terminal, by level; what is not coloured reads as well.
_COLOURS: Final = {"ELEVATED": "36", "WARNING": "33", "CRITICAL": "31", "EMERGENCY": "1;31"}
_CLEAR, _HIDE, _SHOW = "\x1b[H\x1b[J", "\x1b[?25l", "\x1b[?25h"


def main(
    argv: Sequence[str] | None = None,
    *,
    guards: Sequence[Guards] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show guards until it is interrupted; 0 when there were any at the last look, 1 when none, 2 when nobody answers.

    ``guards`` stands for where they are looked for.

    Raises:
        MemguardError: an address that is none.
    """
    settle_output()
    options = _options(argv)
    if guards is None:
        token = options.token or os.environ.get("MEMGUARD_TOKEN")
        guards = [RemoteGuard(url, token=token) for url in options.url] or [LedgerGuards()]
    live = sys.stdout.isatty() and not options.json and options.count != 1
    try:
        if live:
            sys.stdout.write(_HIDE)
        return _watch(options, guards, sleep, live=live)
    except KeyboardInterrupt:
        return 0  # how one leaves it
    except BrokenPipeError:
        # Whoever read us has seen enough; Python would complain about it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        if live:
            sys.stdout.write(_SHOW + "\n")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    options = parser(
        "top",
        "Shows the guards that run on this machine, found by the ledger that workers share, or the one behind "
        "each --url with what it holds. Ctrl-C ends it. Not on a terminal it prints one look after another.",
        examples=(
            ("memguard top", "all guards of yours here; as root those of everybody"),
            ("memguard top --url http://127.0.0.1:8000", "one service by its control API, with its holders"),
            ("memguard top --once --json | jq '.guards[].level'", "for scripts"),
        ),
        ends="0  guards were seen\n1  there are none\n2  a service does not answer, or the call makes no sense",
    )
    options.add_argument(
        "--url", action="append", default=[], help="ask this control API instead; repeat it for several"
    )
    options.add_argument("--token", help="what its protect(token=…) asks for (default: environment MEMGUARD_TOKEN)")
    options.add_argument("--interval", type=duration, default=_EVERY_S, metavar="S", help="between looks (default 2 s)")
    options.add_argument("--count", type=int, default=0, metavar="N", help="end after so many looks")
    options.add_argument("--once", action="store_const", const=1, dest="count", help="one look")
    options.add_argument("--json", action="store_true", help="a JSON document for each look, in one line")
    chosen = options.parse_args(argv)
    if chosen.interval < _SHORTEST_S:
        options.error(f"--interval {chosen.interval:g} is too short: {_SHORTEST_S:g} s or more")
    if chosen.count < 0:
        options.error(f"--count {chosen.count} is no number of looks")
    return chosen


def _watch(options: argparse.Namespace, guards: Sequence[Guards], sleep: Callable[[float], None], *, live: bool) -> int:
    looks = 0
    while True:
        seen, errors = _look(guards)
        looks += 1
        if options.json:
            rows = [asdict(one) | {"stuck": one.stuck} for one in seen]
            print(json.dumps({"at": time.time(), "guards": rows, "errors": errors}), flush=True)
        else:
            text = "\n".join(_screen(seen, errors, live=live, url=bool(options.url)))
            sys.stdout.write((_CLEAR if live else "") + text + ("" if live else "\n"))
            sys.stdout.flush()
        if options.count and looks >= options.count:
            return 2 if errors else 0 if seen else 1
        if not live and not options.json:
            print()
        sleep(options.interval)


def _look(guards: Sequence[Guards]) -> tuple[list[Seen], list[str]]:
    seen: list[Seen] = []
    errors: list[str] = []
    for one in guards:
        try:
            seen += one.look()
        except MemguardError as error:
            errors.append(str(error))
    return seen, errors


def _screen(seen: Sequence[Seen], errors: Sequence[str], *, live: bool, url: bool) -> list[str]:
    head = f"memguard top  {time.strftime('%H:%M:%S')}  {len(seen)} guard{'s' * (len(seen) != 1)}"
    lines = [head + ("  (Ctrl-C ends)" if live else "")]
    if seen:
        rows = table([_HEAD, *map(_row, seen)], right=_RIGHT)
        lines += [rows[0], *(_coloured(row, one) if live else row for row, one in zip(rows[1:], seen, strict=True))]
    elif not errors:
        lines += [
            "no guard is seen here: those that share a limit tell of themselves, and one",
            "that is alone does when its group has a name (MEMGUARD_WORKERS=web); a service",
            "with a control API is asked by --url http://HOST:PORT",
        ]
    lines += errors
    for one in seen if url else ():
        lines += ["", *_detail(one)]
    most = shutil.get_terminal_size().lines - 1
    return [*lines[: most - 1], f"and {len(lines) - most + 1} lines more"] if live and len(lines) > most else lines


def _row(one: Seen) -> tuple[str, ...]:
    state = {"serving": "", "not running": " (stopped)"}.get(one.state, f" ({one.state})")
    note = f"  silent for {format_seconds(one.silent_s)}" if one.stuck else ""
    return (
        str(one.pid), one.level + state, _size(one.used_bytes), _size(one.limit_bytes),
        "-" if one.pressure is None else f"{one.pressure:.0%}", _size(one.shed_bytes),
        "-" if one.running is None else str(one.running), "-" if one.refusals is None else str(one.refusals),
        one.command + note,
    )  # fmt: skip


def _size(count: int | None) -> str:
    """Bytes in few columns: a tenth of a MiB makes no difference here."""
    if count is None:
        return "-"
    return format_bytes(count) if not MIB <= count < GIB else f"{count / MIB:.0f} MiB"


def _coloured(row: str, one: Seen) -> str:
    colour = _COLOURS.get(one.level)
    return row if colour is None else f"\x1b[{colour}m{row}\x1b[0m"


def _detail(one: Seen) -> list[str]:
    """What a guard holds, the largest first, with what reliefs bought."""
    lines = [f"{one.where}: {one.limit_source or 'no limit'}"[: width()]]
    if one.forecast_s is not None:
        lines.append(f"at the present rate the limit is {format_seconds(one.forecast_s)} away")
    rows = [
        (
            share.name,
            share.kind,
            _size(share.bytes),
            _size(share.bought_bytes),
            str(share.attempts) if share.attempts else "-",
        )
        for share in one.holders
    ]
    return lines + table([_SHARES, *rows], right=frozenset({2, 3, 4}))
