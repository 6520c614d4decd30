"""Cooperating: the part of a guard that finds the other workers under the same limit, and acts together with them."""

from __future__ import annotations

import os

from memguard.model import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from memguard.admission import Gate
    from memguard.kinds import WorkerState
    from memguard.model import Limit, Snapshot
    from memguard.ports import Clock
    from memguard.rules import Rules
    from memguard.sight import Sight
    from memguard.team import Team
    from memguard.telling import Teller
    from memguard.watch import Watch
    from memguard.workers.lease import Lease
    from memguard.workers.rows import Worker

__all__ = ["Cooperating"]

# So many processes of the group are looked at to find one that runs the same interpreter.
_LOOKED_AT = 128


class Cooperating:
    """Joins the workers that share this process's limit; a guard that is alone under it does not pay for them."""

    rules: Rules
    gate: Gate
    _clock: Clock
    _sight: Sight
    _teller: Teller
    _watch: Watch
    _team: Team | None = None
    _seek_at: float = 0.0
    _alone: str = ""
    _worker_state: WorkerState = "serving"

    if TYPE_CHECKING:

        @property
        def limits(self) -> tuple[Limit, ...]:
            """As the guard has them."""
            ...

        @property
        def running(self) -> bool:
            """As the guard has it."""
            ...

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Every worker that shares this one's limit, itself first, as each last said; () while none were found.

        Some 8 µs for each, from any thread; see ``memguard.workers.rows.Worker`` and the rule ``workers``.
        """
        team = self._team
        return () if team is None else team.rows()

    @property
    def worker_group(self) -> str:
        """The name under which this process's workers find each other.

        What the rule ``workers`` names; else that of the control group whose limit they share; else that of the
        parent process.
        """
        from memguard.workers.groups import limit_group, siblings_group  # noqa: PLC0415 - as in holding, and below

        if self.rules.workers not in {"auto", "on", "off"}:
            return self.rules.workers
        return limit_group(self.limits) or siblings_group()

    def lease(self, purpose: str = "recycle") -> Lease:
        """The lease for what only one worker of the group may do at a time; see ``memguard.workers.lease.Lease``.

        Raises:
            WorkersUnavailable: there is no folder that workers could share.
        """
        from memguard.workers.lease import Lease  # noqa: PLC0415

        return Lease(self.worker_group, purpose=purpose)

    def mark_worker(self, state: WorkerState) -> None:
        """Let the other workers know that this one is "draining" or "handing over": its caches go first; or "serving".

        Raises:
            ValueError: no such state.
        """
        if state not in {"serving", "draining", "handing over"}:
            raise ValueError(f"worker state {state!r} is none: choose 'serving', 'draining' or 'handing over'")
        self._worker_state = state
        if self._team is not None:
            self._team.mark(state)

    # --- the guard's thread ---------------------------------------------------------------------------------------

    def _mingle(self, snapshot: Snapshot) -> None:
        """After each look: tell the others; while there are none, look for some now and then."""
        team = self._team
        try:
            if team is not None and team.whose != (os.getpid(), os.geteuid()):
                # A fork that nobody told a guard without a thread of; a worker that has changed its user since.
                self._part(forked=team.whose[0] != os.getpid())
            elif team is not None:
                team.note(snapshot)
            elif snapshot.at >= self._seek_at and snapshot.reading is not None:
                self._seek_at = snapshot.at + self.rules.slow_s
                self._seek(snapshot)
        except Exception as error:  # noqa: BLE001 - a file of others' is worth no look; alone the guard still works
            self._part()
            self._seek_at = snapshot.at + self.rules.limit_refresh_s
            text = f"this worker acts alone: {type(error).__name__}: {error}"
            if text != self._alone:  # once in these words
                self._alone = text
                self._teller.tell(Event(at=snapshot.at, name="workers.alone", text=text))

    def _seek(self, snapshot: Snapshot) -> None:
        wanted = self.rules.workers
        if wanted == "off" or (wanted == "auto" and not self._has_siblings()):
            return
        from memguard.team import Team  # noqa: PLC0415

        if wanted in {"auto", "on"} and not any(limit.usage == "cgroup" for limit in self.limits):
            raise LookupError(
                "no limit of a control group holds, so none is shared; to share the machine's give the workers a "
                "name: Guard(workers='api')"
            )
        self._team = team = Team(
            self.worker_group,
            rules=self.rules,
            gate=self.gate,
            busy=lambda: self._watch.busy,
            holders=self._watch.holders,
            weighs=not self._sight.probed,
            tell=self._teller.tell,
            clock=self._clock,
        )
        team.mark(self._worker_state)
        self._watch.team = team
        team.note(snapshot)

    def _has_siblings(self) -> bool:
        """Whether another process in the limit's group, or of the same parent, runs this very interpreter."""
        shared = [limit for limit in self.limits if limit.usage == "cgroup" and limit.path is not None]
        if not shared or self._sight.probed or not self.running:
            return False
        own = os.stat("/proc/self/exe")  # noqa: PTH116 - pathlib costs more than the read, here and below
        for pid in self._neighbours(str(min(shared, key=lambda limit: limit.bytes).path)):
            try:
                found = os.stat(f"/proc/{pid}/exe")  # noqa: PTH116
            except OSError:  # ended, or somebody else's
                continue
            if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
                return True
        return False

    def _neighbours(self, path: str) -> Iterator[int]:
        parent, own = os.getppid(), os.getpid()
        pids = list[int]()
        for name in (f"{path}/cgroup.procs", f"/proc/{parent}/task/{parent}/children"):
            try:
                with open(name, "rb") as file:  # noqa: PTH123
                    pids += [int(word) for word in file.read().split()[:_LOOKED_AT]]
            except (OSError, ValueError):
                continue
        return (pid for pid in pids if pid not in {own, 0})

    def _part(self, *, forked: bool = False) -> None:
        """Leave the others; in a forked child, the seat is the parent's."""
        team, self._team = self._team, None
        self._watch.team, self._seek_at = None, 0.0
        if forked:
            self._worker_state = "serving"
        if team is not None:
            (team.forget if forked else team.leave)()
