"""What one protected application's control API knows: its guard, who may do what, what was done."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from memguard.ext.fastapi.pacing import Bucket
from memguard.ext.fastapi.problems import Problem
from memguard.ext.fastapi.sockets import Sockets
from memguard.sinks.chronicle import Chronicle
from memguard.units import format_bytes
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard.ext.asgi.wire import Scope
    from memguard.ext.fastapi.access import Access, Caller
    from memguard.findings import Census
    from memguard.guard import Guard

__all__ = ["CALLER", "CONTROL", "Control", "Done", "Paths"]

CONTROL = "memguard.control"
"""The scope's key under which the door leaves the control of this application."""

CALLER = "memguard.caller"
"""The scope's key under which the door says who was let in; without it no route answers."""

# An operator's loop comes every ten seconds; an examination takes as long, and slows the service down.
_ACT_S, _ACTS = 1.0, 10
_DUMP_S, _DUMPS = 10.0, 3
_KEPT = 50
# Denials are told so often: anybody can cause them.
_DENIED_S, _DENIED = 10.0, 5


@value
class Done:
    """One row of the audit: at which unix second who did what, and what it bought (None: that is not measured)."""

    unix_s: float
    who: str
    what: str
    text: str
    bought_bytes: int | None


@value
class Paths:
    """Where things are: below ``prefix``, beside it, the page (None: there is none), the probes (None: the app's)."""

    prefix: str
    page: str | None
    livez: str | None
    readyz: str | None
    looks: frozenset[str]
    acts: frozenset[str]

    @property
    def dump(self) -> str:
        """Where an examination is asked for."""
        return f"{self.prefix}/monitoring/memory/dump"

    def all(self) -> tuple[str, ...]:
        """Everything that passes the gate."""
        own = (self.page, self.livez, self.readyz)
        return (*self.looks, *self.acts, *(path for path in own if path is not None))


class Control:
    """One application's control; routes find it in their scope."""

    def __init__(self, *, guard: Guard, access: Access, paths: Paths, engines: Sequence[object] = ()) -> None:
        self.guard: Guard = guard
        self.access: Access = access
        self.paths: Paths = paths
        self.engines: tuple[object, ...] = tuple(engines)
        self.sockets: Sockets = Sockets()
        self.chronicle: Chronicle = Chronicle()
        self.done: deque[Done] = deque(maxlen=_KEPT)
        self.census: Census | None = None
        self._paces: dict[str, Bucket] = {}
        self._denials = Bucket(every_s=_DENIED_S, burst=_DENIED)

    @property
    def ready(self) -> bool:
        """Whether new work is taken: as the gate does for normal work, from the shed level until its release."""
        guard = self.guard
        if guard.leaving:
            return False
        snapshot, rules = guard.snapshot, guard.rules
        if rules.mode != "act" or snapshot.level < 3:  # noqa: PLR2004 - CRITICAL, without the enum's call
            return True
        release = rules.leave_ratio(type(snapshot.level).CRITICAL)
        return not snapshot.blind and snapshot.pressure < release

    def let_in(self, scope: Scope, path: str) -> None:
        """Judge a request to the control API, and leave in its scope who it is.

        Raises:
            Problem: it may not.
        """
        acting = scope["method"] not in {"GET", "HEAD", "OPTIONS"}
        try:
            caller = self.access.judge(scope, acting=acting)
        except Problem as problem:
            self._deny(scope, path, problem)
            raise
        if acting:
            self._pace(path)
        scope[CONTROL] = self
        scope[CALLER] = caller

    def _pace(self, path: str) -> None:
        pace = self._paces.get(path)
        if pace is None:
            every_s, burst = (_DUMP_S, _DUMPS) if path == self.paths.dump else (_ACT_S, _ACTS)
            pace = self._paces.setdefault(path, Bucket(every_s=every_s, burst=burst))
        wait_s = pace.take()
        if wait_s:
            raise Problem.later(wait_s, f"{path} was asked for too often: wait {wait_s:.1f} s")

    def _deny(self, scope: Scope, path: str, problem: Problem) -> None:
        if self._denials.take():
            return
        address = str((scope.get("client") or ("a socket",))[0])
        text = f"{address} may not {scope['method']} {path}: {problem.detail}"
        self.guard.tell("control.denied", text, who=address, path=path, status=problem.status)

    def audit(self, caller: Caller, what: str, text: str, *, bought_bytes: int | None = None) -> None:
        """Take down and tell what somebody did, and what it bought."""
        known = {} if bought_bytes is None else {"bought_bytes": bought_bytes}
        words = text
        if bought_bytes is not None:
            words += (
                f"; memory {'fell' if bought_bytes >= 0 else 'grew'} by {format_bytes(abs(bought_bytes))} meanwhile"
            )
        self.done.append(Done(unix_s=time.time(), who=caller.who, what=what, text=words, bought_bytes=bought_bytes))
        self.guard.tell("control.acted", f"{caller.who}: {what}: {words}", who=caller.who, what=what, **known)
