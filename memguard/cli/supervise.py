"""The supervisor behind ``memguard run -- COMMAND``: watches what a program and its children hold, from outside."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from memguard.cli.programs import Program, entered
from memguard.cli.surroundings import nearest_limit
from memguard.cli.tree import Tree, adopt_orphans
from memguard.errors import MemguardError
from memguard.model import Level
from memguard.probes.cgroup import CgroupProbe
from memguard.rules import Rules
from memguard.units import MIB, format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from memguard.model import Limit

__all__ = ["KILLED_STATUS", "supervise"]

KILLED_STATUS: Final = 137
"""What the kernel's own kill looks like to whoever started us: 128 and SIGKILL."""

_NOT_FOUND, _NOT_RUN = 127, 126
_FORWARDED: Final = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGALRM")
# A terminal sends these to everybody in front of it; sent on, they would arrive twice.
_FROM_TERMINAL: Final = ("SIGINT", "SIGQUIT")
_SHORTEST_S, _LONGEST_S = 0.02, 1.0
# Growth that is always reckoned with, and how fast what was seen is forgotten.
_FLOOR_BYTES_PER_S: Final = 128 * MIB
_FORGET: Final = 0.9
# During the grace: so far above the limit there is no time left for manners.
_RUDE_RATIO: Final = 1.1


def supervise(
    command: Sequence[str],
    *,
    max_bytes: int | None = None,
    grace_s: float = 10.0,
    as_json: bool = False,
    inside: bool = True,
) -> int:
    """Run a command to its end and tell on stderr whenever its level changes; its exit status, 128+N for a signal.

    Above ``max_bytes`` the command is ended: SIGTERM to it, SIGKILL to its whole tree ``grace_s`` later or once it is a
    tenth above; the status is then 137. Without it nobody is ended, and what is watched is the limit that is found.
    ``inside``: a Python program gets a guard of its own, too.

    Raises:
        MemguardError: no command, or the limit in the environment cannot be meant.
    """
    if not command:
        raise MemguardError("-- is followed by no command: write memguard run -- python server.py")
    if max_bytes is not None and not os.path.exists("/proc/self/statm"):  # noqa: PTH110 - a question, not a path
        raise MemguardError("--max cannot be kept here: what a command holds is read from /proc, on Linux")
    voice = _Voice(command[0], as_json=as_json)
    program = entered(command) if inside else Program(command=tuple(command))
    supervisor = _Supervisor(program, max_bytes, grace_s, voice)
    if program.why_not:
        voice.tell("note", program.why_not)
    return supervisor.run()


class _Voice:
    """Says what happened, in words or as JSON, a line each."""

    def __init__(self, command: str, *, as_json: bool) -> None:
        self._name = os.path.basename(command)  # noqa: PTH119 - text
        self._json = as_json

    def tell(self, event: str, words: str, **numbers: object) -> None:
        """One event; nobody to tell it to is no reason to leave the command alone."""
        line = json.dumps({"event": event, "at": time.time(), "command": self._name, **numbers})
        with suppress(OSError):
            print(line if self._json else f"memguard run: {self._name} {words}", file=sys.stderr, flush=True)


class _Supervisor:
    """One command under watch."""

    def __init__(self, program: Program, max_bytes: int | None, grace_s: float, voice: _Voice) -> None:
        self._command = list(program.command)
        self._environ = dict(os.environ)
        if program.inside and max_bytes is not None:
            self._environ.setdefault("MEMGUARD_MAX_BYTES", str(max_bytes))  # it sheds before we end it
        self._grace_s = grace_s
        self._voice = voice
        self._rules = Rules.resolve(os.environ)
        found = nearest_limit(self._rules, os.environ)
        self._kills = max_bytes is not None
        self._limit_bytes = max_bytes if max_bytes is not None else None if found is None else found.bytes
        self._above = found if found is not None and max_bytes is not None and max_bytes > found.bytes else None
        self._tree = Tree()
        self._group = None if self._kills else _probe(found)
        self._child: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        self._early: list[int] = []
        self._level = Level.OK
        self._peak_bytes = self._last_bytes = 0
        self._last_at = time.monotonic()
        self._rate = 0.0
        self._asked_at: float | None = None
        self._killed = False
        self._own_session = sys.stdin is None or not sys.stdin.isatty()

    def run(self) -> int:
        """Start it, watch it, and give its status."""
        wakes, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(wakes, False)
        adopt_orphans()
        before = self._listen(waker)
        try:
            began = time.monotonic()
            problem = self._start()
            if problem:
                return problem
            while self._status is None:
                pause_s = self._look()
                select.select([wakes], [], [], pause_s)
                with suppress(BlockingIOError):
                    os.read(wakes, 4096)
                self._reap()
            return self._end(time.monotonic() - began)
        finally:
            signal.set_wakeup_fd(before[0])
            for number, handler in before[1].items():
                signal.signal(number, handler)
            os.close(wakes)
            os.close(waker)

    def _listen(self, waker: int) -> tuple[int, dict[int, signal._HANDLER]]:
        """Forward signals from now on; what was there before."""
        handlers: dict[int, signal._HANDLER] = {}
        for name in (*_FORWARDED, *_FROM_TERMINAL):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                quiet = name in _FROM_TERMINAL and not self._own_session
                handlers[number] = signal.signal(number, _nothing if quiet else self._forward)
        handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _nothing)
        return signal.set_wakeup_fd(waker, warn_on_full_buffer=False), handlers

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if self._child is None:
            self._early.append(number)
        elif self._status is None:
            # Those of a terminal go to all who stand before it.
            send = os.killpg if self._own_session and signal.Signals(number).name in _FROM_TERMINAL else os.kill
            with suppress(ProcessLookupError):
                send(self._child.pid, number)

    def _start(self) -> int:
        try:
            self._child = subprocess.Popen(  # noqa: S603 - no shell
                self._command, env=self._environ, start_new_session=self._own_session
            )
        except FileNotFoundError:
            self._voice.tell("failed", "is not there: name a command on PATH, or a path", status=_NOT_FOUND)
            return _NOT_FOUND
        except OSError as error:
            self._voice.tell("failed", f"cannot be run: {error.strerror}", status=_NOT_RUN)
            return _NOT_RUN
        for number in self._early:
            self._forward(number, None)
        if self._above is not None and self._limit_bytes is not None:
            most, end = format_bytes(self._limit_bytes), self._above
            words = f"may hold {most} by --max, but {end.source} ends it at {format_bytes(end.bytes)}"
            self._voice.tell("note", words, limit_bytes=end.bytes)
        return 0

    def _reap(self) -> None:
        """Take the status of every child that has ended: ours, and those whose parent ended before them."""
        child = self._child
        while child is not None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:  # somebody else has taken it
                self._status = child.returncode = 0 if self._status is None else self._status
                return
            if not pid:
                return
            if pid == child.pid:
                self._status = child.returncode = os.waitstatus_to_exitcode(status)

    # --- watching -------------------------------------------------------------------------------------------------

    def _look(self) -> float:
        """One look; how long until the next, in seconds."""
        limit_bytes, now = self._limit_bytes, time.monotonic()
        used = self._used()
        self._peak_bytes = max(self._peak_bytes, used)
        if limit_bytes is None:
            return _LONGEST_S
        grown = (used - self._last_bytes) / max(now - self._last_at, 1e-3)
        self._rate = max(grown, self._rate * _FORGET, _FLOOR_BYTES_PER_S)
        self._last_bytes, self._last_at = used, now
        if used:  # nothing at all: it has just ended
            self._climb(used, limit_bytes)
        if self._kills:
            self._end_it(used, limit_bytes, now)
        pause_s = max(0, limit_bytes - used) / self._rate / 2
        return min(_LONGEST_S, max(_SHORTEST_S, pause_s))

    def _used(self) -> int:
        if self._group is not None:
            with suppress(OSError, ValueError):
                return self._group.read()
        limit_bytes = self._limit_bytes or 0
        low = int(self._rules.leave_ratio(Level.ELEVATED) * limit_bytes)
        return self._tree.used_bytes(exact_between=(low, 2 * limit_bytes))

    def _climb(self, used: int, limit_bytes: int) -> None:
        pressure, level = used / limit_bytes, self._level
        while level < Level.EMERGENCY and pressure >= self._rules.enter_ratio(Level(level + 1)):
            level = Level(level + 1)
        while level > Level.OK and pressure < self._rules.leave_ratio(level):
            level = Level(level - 1)
        if level is self._level:
            return
        does = "rises to" if level > self._level else "falls to"
        share = f"{format_bytes(used)} of {format_bytes(limit_bytes)} ({pressure:.0%})"
        self._voice.tell(
            "level", f"{does} {level.name}: {share}", level=level.name, used_bytes=used, limit_bytes=limit_bytes
        )
        self._level = level

    def _end_it(self, used: int, limit_bytes: int, now: float) -> None:
        child = self._child
        if child is None:
            return
        if self._asked_at is None:
            if used < limit_bytes:
                return
            self._asked_at = now
            share = f"{format_bytes(used)} of {format_bytes(limit_bytes)}"
            self._voice.tell(
                "asked", f"is above its limit, {share}: SIGTERM, and SIGKILL in {format_seconds(self._grace_s)}",
                used_bytes=used, limit_bytes=limit_bytes, grace_s=self._grace_s,
            )  # fmt: skip
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGTERM)
        elif now - self._asked_at >= self._grace_s or used >= _RUDE_RATIO * limit_bytes:
            self._kill(used)

    def _kill(self, used: int) -> None:
        """Kill every process that we started, or that those did; nobody else's."""
        if not self._killed:
            self._killed = True
            self._voice.tell("killed", f"did not end in time, {format_bytes(used)}: SIGKILL", used_bytes=used)
        for pid in self._tree.pids():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _end(self, lasted_s: float) -> int:
        status = self._status if self._status is not None else 0
        ended = self._asked_at is not None
        told = KILLED_STATUS if ended else 128 - status if status < 0 else status
        if ended:
            for pid in self._tree.pids():  # what the command left behind would go on without a limit
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        if self._level is not Level.OK or ended:
            peak = format_bytes(self._peak_bytes)
            words = f"has ended after {format_seconds(lasted_s)}, status {told}; it held {peak} at most"
            self._voice.tell("ended", words, status=told, peak_bytes=self._peak_bytes, lasted_s=round(lasted_s, 3))
        return told


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Wake up; nothing else is asked for."""


def _probe(limit: Limit | None) -> CgroupProbe | None:
    if limit is None or limit.usage != "cgroup" or limit.path is None or limit.version is None:
        return None
    try:
        return CgroupProbe(limit.path, version=limit.version)
    except OSError:
        return None
