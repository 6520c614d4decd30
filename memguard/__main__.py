"""The command line: ``memguard …`` or ``python -m memguard …``."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from memguard import __version__
from memguard.errors import MemguardError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]


def _in(module: str, name: str = "main") -> Callable[[Sequence[str]], int]:
    """A command that is imported when it is run: `memguard --version` needs none of them."""

    def run(arguments: Sequence[str]) -> int:
        command: Callable[[Sequence[str]], int] = getattr(import_module(module), name)
        return command(arguments)

    return run


_COMMANDS = {
    "doctor": (
        _in("memguard.cli.doctor"),
        "what is wrong with where a service runs, and with the service; with why and the mend",
    ),
    "run": (_in("memguard.run"), "a program under a guard, or after -- any command under a supervisor"),
    "top": (_in("memguard.cli.top"), "the guards of this machine, live"),
    "clean": (_in("memguard.cli.clean"), "directories held to a quota; shows what would go, removes it with --yes"),
    "demo": (_in("memguard.demo.run"), "a service that dies bare and lives guarded, side by side"),
    "report": (
        _in("memguard.reports.command", "report"),
        "an incident out of a log or a store: what grew, what was done, what to change",
    ),
    "replay": (
        _in("memguard.reports.command", "replay"),
        "what other rules would have decided about a recorded incident",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status: 0 for yes, 1 for no, 2 for a call that could not be carried out."""
    parser = argparse.ArgumentParser(prog="memguard", description="A memory guard for Python services.")
    parser.add_argument("--version", action="version", version=f"memguard {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (_, meaning) in _COMMANDS.items():
        # Each command reads its own options, --help included, so that none is imported to print this list.
        commands.add_parser(name, help=meaning, add_help=False)
    words = list(sys.argv[1:] if arguments is None else arguments)
    # What follows the command is its own, whatever it looks like: memguard run -- python --version
    chosen = parser.parse_args(words[:1])
    run, _ = _COMMANDS[chosen.command]
    try:
        status = run(words[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
    except MemguardError as error:
        print(f"memguard {chosen.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as a shell reports a program ended by SIGINT
    except BrokenPipeError:
        if chosen.command == "run":  # a program's own, of whatever pipe or connection
            raise
        # Whoever read us has seen enough; Python would complain about it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as it reports one ended by SIGPIPE
    return status


if __name__ == "__main__":
    sys.exit(main())
