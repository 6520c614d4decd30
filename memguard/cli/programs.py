"""Programs: which commands are Python programs, and how such a one is started with a guard inside of it.

Options are read as Python's own command line reads them (docs.python.org, "Command line and environment").
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Program", "entered"]

_PYTHON: Final = re.compile(r"(?:python|pypy)(?:\d+(?:\.\d+)*)?t?")
# What pip writes where a path is too long, or has a blank in it, for a first line.
_LONG: Final = re.compile(rb"#!/bin/sh\n'''exec' \"?([^\"\n]+?)\"? \"\$0\" \"\$@\"\n")
_FIRST_LINES: Final = 1024
_ALONE: Final = frozenset("bBdEIOPqRsSuv")
_WITH_VALUE: Final = frozenset("WX")
# Options that leave site-packages or PYTHONPATH out: whether memguard is there has to be tried.
_RISKY: Final = frozenset("EIsS")
_WITHIN: Final = "memguard.cli.within"
_TRY_S: Final = 30.0
_PYCS: Final = "--check-hash-based-pycs"


@value
class Program:
    """A command as it is to be started. ``why_not``: why no guard is inside of a Python program; "" of any other."""

    command: tuple[str, ...]
    inside: bool = False
    why_not: str = ""


def entered(command: Sequence[str]) -> Program:
    """The command with a guard inside of it, when it is a Python program: an interpreter's, or a script for one."""
    plain = Program(command=tuple(command))
    found = _interpreted(command)
    if found is None:
        return plain
    interpreter, words = found
    split = _split(words)
    if split is None:  # a prompt, a program that is piped in, --version
        return plain
    options, program = split
    if not _has_memguard(interpreter, options):
        why = f"is watched from outside only: {interpreter} cannot import memguard (pip install pymemguard there)"
        return Program(command=tuple(command), why_not=why)
    return Program(command=(interpreter, *options, "-m", _WITHIN, *program), inside=True)


def _interpreted(command: Sequence[str]) -> tuple[str, list[str]] | None:
    """The interpreter that runs a command, and its words; None when it is no Python."""
    first = command[0] if command else ""
    if _PYTHON.fullmatch(os.path.basename(first)):  # noqa: PTH119 - text, as everywhere here
        return first, list(command[1:])
    path = shutil.which(first)
    words = [] if path is None else _first_line(path)
    if words and os.path.basename(words[0]) == "env":  # noqa: PTH119
        words = words[2:] if words[1:2] == ["-S"] else words[1:]
    if path is None or not words or not _PYTHON.fullmatch(os.path.basename(words[0])):  # noqa: PTH119
        return None
    return words[0], [*words[1:], path, *command[1:]]


def _first_line(path: str) -> list[str]:
    """What a script's first line says it is run by."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(_FIRST_LINES)
    except OSError:
        return []
    long = _LONG.match(head)
    if long is not None:
        return [os.fsdecode(long[1])]
    return os.fsdecode(head[2:].split(b"\n", 1)[0]).split() if head.startswith(b"#!") else []


def _split(words: list[str]) -> tuple[list[str], list[str]] | None:
    """An interpreter's own options, and its program: -c CODE …, -m MODULE … or FILE …; None when there is none."""
    options = list[str]()
    for at, word in enumerate(words):
        if word == _PYCS or (options and options[-1] in {"-W", "-X", _PYCS}):
            options.append(word)
        elif not word.startswith("-"):
            return options, words[at:]
        elif word == "-" or word.startswith("--"):
            return None
        else:
            for place, letter in enumerate(word[1:], start=2):
                rest = [word[place:]] if word[place:] else []
                if letter in "cm":
                    program = [f"-{letter}", *rest, *words[at + 1 :]]
                    return (options, program) if len(program) > 1 else None
                if letter in _WITH_VALUE:
                    options += [f"-{letter}", *rest]
                    break
                if letter not in _ALONE:  # -h, -i, -V, -x
                    return None
                options.append(f"-{letter}")
    return None


def _has_memguard(interpreter: str, options: list[str]) -> bool:
    path = shutil.which(interpreter)
    if path is None:
        return True  # let it fail by itself
    if path == sys.executable and not any(option[1] in _RISKY for option in options if option.startswith("-")):
        return True
    try:
        words = [path, *options, "-c", f"import {_WITHIN}"]
        done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=_TRY_S, check=False)  # noqa: S603 - the user's own
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
