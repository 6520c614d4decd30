"""The command line: ``memguard …`` or ``python -m memguard …``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from memguard import __version__
from memguard.errors import MemguardError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def _demo(arguments: Sequence[str]) -> int:
    from memguard.demo.run import main as demo  # noqa: PLC0415 - `memguard --version` needs none of it

    return demo(arguments)


def _run(arguments: Sequence[str]) -> int:
    from memguard.run import main as run  # noqa: PLC0415 - as above

    return run(arguments)


_COMMANDS = {
    "run": (_run, "a program under a guard; --diagnose says at its end what leaked"),
    "demo": (_demo, "a service that dies bare and lives guarded, side by side"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status: 0 for yes, 1 for no, 2 for a call that could not be carried out."""
    parser = argparse.ArgumentParser(prog="memguard", description="A memory guard for Python services.")
    parser.add_argument("--version", action="version", version=f"memguard {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (_, meaning) in _COMMANDS.items():
        # Each command reads its own options, --help included, so that none is imported to print this list.
        commands.add_parser(name, help=meaning, add_help=False)
    chosen, rest = parser.parse_known_args(arguments)
    run, _ = _COMMANDS[chosen.command]
    try:
        return run(rest)
    except MemguardError as error:
        print(f"memguard {chosen.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as a shell reports a program ended by SIGINT


if __name__ == "__main__":
    sys.exit(main())
