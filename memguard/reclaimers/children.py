"""Child processes under a quota: their whole trees are watched, asked to end, and killed when they do not."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from memguard import roster as rosters
from memguard.model import Event, Level
from memguard.reclaimers.callback import check_labels
from memguard.reclaimers.errands import Errand
from memguard.reclaimers.processes import (
    ancestors,
    family,
    identify,
    private_bytes,
    processes_now,
    proportional_bytes,
    resident_bytes,
    send,
)
from memguard.threads import Bell
from memguard.units import format_bytes, format_seconds, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memguard.kinds import Cost
    from memguard.reclaimers.processes import Process
    from memguard.roster import Handle, Roster

__all__ = ["Child", "limit_child", "watch_child"]

# A spike that is over by itself is no reason to kill.
_OVER_S: Final = 3.0
# Between SIGTERM and SIGKILL: below the 5 s after which the guard goes on without a reclaimer.
_GRACE_S: Final = 3.0
# Between two looks while a tree is ending.
_POLL_S: Final = 0.02
# A look at every process of a large machine takes milliseconds: then it is taken more rarely (0.2 % of a core).
_EVERY_TIMES: Final = 500.0
# A tree that forks faster than it can be killed is given up after so many rounds, and told of.
_ROUNDS: Final = 50
_POPEN: Final[Any] = subprocess.Popen
_NAMES: Final = {signal.SIGTERM: "SIGTERM", signal.SIGKILL: "SIGKILL"}


class Child:
    """A child process and all that descends from it, with a memory quota, as a last-resort reclaimer.

    ``process`` is a ``subprocess.Popen``, an asyncio subprocess, a ``multiprocessing.Process``, a ``psutil.Process``,
    anything else with a ``pid``, or a process number; it must be a child (or grandchild) of this process. Its tree is
    looked at about once a second. Above ``max_bytes`` for ``over_s`` seconds it is told to end (SIGTERM to all of it,
    the first process first) and killed after ``grace_s``. ``end=False`` only tells. When the guard itself is in an
    EMERGENCY (``at``) and nothing else has helped, the tree is ended too, whatever it holds, unless ``sheddable`` is
    False.

    Only this very process and its descendants are ever signalled: never one that has got a number anew, this process
    or its own ancestors. Descendants whose parents have ended still belong to it if they were seen before, or if the
    child leads a session or group of its own (``start_new_session=True``).

    Memory is the sum of the proportional shares (PSS), so that what the tree shares counts once; it is read only when
    the resident sizes, which are quick to read, add up to more than the quota.

    Raises:
        ValueError: it has ended, is no descendant of this process, or a number is out of range.
        TypeError: it is no process.
    """

    settles: bool = False
    stalls: bool = False

    def __init__(  # noqa: PLR0913 - the quota of a child; all but it and its size have a default
        self,
        process: Any,  # noqa: ANN401 - whatever has a pid
        *,
        max_bytes: int,
        name: str | None = None,
        over_s: float = _OVER_S,
        grace_s: float = _GRACE_S,
        end: bool = True,
        sheddable: bool = True,
        cost: Cost = "last",
        at: Level = Level.EMERGENCY,
        tell: Callable[[Event], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root: Process = _identified(process)
        self.name: str = f"child {self.root.pid}" if name is None else name
        check_labels(self.name, cost, at)
        if max_bytes <= 0 or over_s < 0 or grace_s < 0:
            raise ValueError(
                f"{self.name}: max_bytes={max_bytes} must be above 0, over_s={over_s} and grace_s={grace_s} at least 0"
            )
        self.max_bytes: int = max_bytes
        self.over_s: float = over_s
        self.grace_s: float = grace_s
        self.sheddable: bool = sheddable
        self.cost: Cost = cost
        self.at: Level = at
        self._end = end
        self._tell = tell
        self._clock = clock
        self._owner = os.getpid()
        self._errand = Errand("memguard-child")
        self._popen: weakref.ref[subprocess.Popen[Any]] | None = _popen(process)
        self._known: dict[int, Process] = {self.root.pid: self.root}
        self._over_since: float | None = None
        self._due_at = float("-inf")
        self._orphans_told: frozenset[int] = frozenset()
        self.gone: Callable[[], None] = lambda: None
        """Called once the whole tree has ended."""
        self.held_bytes: int | None = None
        """Bytes that the tree held at the last look; None before the first."""
        self.pids: tuple[int, ...] = (self.root.pid,)
        """Who of the tree ran at the last look."""
        self.orphans: tuple[int, ...] = ()
        """Descendants whose parents have ended."""
        self.zombies: tuple[int, ...] = ()
        """Ended ones whose exit status nobody has fetched."""
        self.ended: bool = False
        """Whether nothing of the tree runs any more."""

    # --- the reclaimer ------------------------------------------------------------------------------------------

    @property
    def _ours(self) -> bool:
        """Whether this is the process that registered it, and not a fork of it, whose sibling the child is."""
        return os.getpid() == self._owner and not self.ended

    def size(self) -> int | None:
        """Bytes that ending it would give back; 0 when it may not be ended for that."""
        return self.held_bytes if self.sheddable and self._ours else 0

    def reclaim(self, wanted_bytes: int, /) -> int:
        """End the whole tree, however much is wanted: half a process gives nothing back."""
        if wanted_bytes <= 0 or not self.sheddable or not self._ours:
            return 0
        held = sum(map(private_bytes, self.look()))
        return held if held and self.terminate("memory is needed elsewhere") else 0

    def tend(self) -> None:
        """Look, and end it when it has been too large for too long, on a thread of its own."""
        if self._ours and self._clock() >= self._due_at:
            self._errand.start(self._look_after)

    # --- looking ------------------------------------------------------------------------------------------------

    def look(self) -> tuple[int, ...]:
        """Look at the whole tree now: who runs, who is orphaned, who is a zombie, and how much they hold together."""
        table = processes_now()
        members = family(self.root, self._known.values(), table)
        self._known = dict(members)
        running = {pid: seen for pid, seen in members.items() if not seen.ended}
        self.zombies = tuple(pid for pid, seen in members.items() if seen.ended)
        self.orphans = tuple(pid for pid in running if pid != self.root.pid and running[pid].parent not in members)
        self.pids = tuple(running)
        held = sum(map(resident_bytes, running))
        read = proportional_bytes if held > self.max_bytes else private_bytes
        self.held_bytes = sum(map(read, running))
        self._reap(members)
        return self.pids

    def _reap(self, members: Mapping[int, Process]) -> None:
        """Fetch the exit status of what has ended, where that is nobody else's to fetch."""
        for pid in self.zombies:
            popen = None if self._popen is None else self._popen()
            if pid == self.root.pid:
                if popen is not None:
                    popen.poll()  # keeps the status for its owner, under its own lock
            elif members[pid].parent == self._owner:
                # An orphan that fell to us, as to the first process of a container: nobody has a handle on it.
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue

    def _look_after(self) -> None:
        began = time.thread_time()
        self.look()
        self._due_at = self._clock() + _EVERY_TIMES * (time.thread_time() - began)
        held, now = self.held_bytes or 0, self._clock()
        self._tell_orphans()
        if not self.pids:
            self._close()
            return
        if held <= self.max_bytes:
            self._over_since = None
            return
        first, self._over_since = self._over_since is None, self._over_since or now
        if first:
            does = "it is ended unless that passes" if self._end else "nobody ends it: end=False"
            self._say("child.over", f"holds {format_bytes(held)} of {format_bytes(self.max_bytes)}; {does}")
        if self._end and now - self._over_since >= self.over_s:
            self.terminate(f"held {format_bytes(held)} of {format_bytes(self.max_bytes)}")

    def _tell_orphans(self) -> None:
        orphans = frozenset(self.orphans)
        if orphans - self._orphans_told:
            listed = ", ".join(map(str, sorted(orphans)))
            self._say("child.orphans", f"{len(orphans)} descendants have lost their parents: {listed}")
        self._orphans_told = orphans

    # --- ending -------------------------------------------------------------------------------------------------

    def terminate(self, reason: str = "asked") -> bool:
        """End the tree: SIGTERM to all, SIGKILL to those who are left after the grace; whether all have ended.

        Takes up to ``grace_s`` and a little more. Not in a fork of the process that registered it.
        """
        if not self._ours:
            return self.ended
        before, began = self.held_bytes, self._clock()
        bell, forced = Bell(), False
        asked: set[int] = set()
        for _ in range(_ROUNDS + int(self.grace_s / _POLL_S)):
            if not self.look():
                break
            forced = self._clock() - began >= self.grace_s
            self._signal(asked, signal.SIGKILL if forced else signal.SIGTERM)
            bell.wait(_POLL_S)
        took, how = format_seconds(self._clock() - began), _NAMES[signal.SIGKILL if forced else signal.SIGTERM]
        if self.pids:
            self._say("child.note", f"{reason}; {len(self.pids)} processes did not end within {took}")
            return False
        held = "" if before is None else f"; it held {format_bytes(before)}"
        self._say("child.killed", f"{reason}; ended by {how} after {took}{held}")
        self._close()
        return True

    def _signal(self, asked: set[int], number: signal.Signals) -> None:
        """Signal those who run: politely once each, the first process first; without mercy every time."""
        for pid in sorted(self.pids, key=lambda pid: pid != self.root.pid):
            if number == signal.SIGKILL or pid not in asked:
                asked.add(pid)
                try:
                    send(self._known[pid], number)
                except PermissionError:
                    self._say("child.note", f"process {pid} belongs to another user and cannot be ended")

    def _close(self) -> None:
        if not self.ended:
            self.ended = True
            self.gone()

    def _say(self, event: str, text: str) -> None:
        if self._tell is not None:
            held = self.held_bytes or 0
            numbers: dict[str, str | int] = {"name": self.name, "pid": self.root.pid, "held_bytes": held}
            self._tell(Event(at=self._clock(), name=event, text=f"{self.name}: {text}", attributes=numbers))

    def __repr__(self) -> str:
        return f"<Child {self.name!r} {'ended' if self.ended else self.pids}>"


def watch_child(roster: Roster | None, child: Child) -> Handle:
    """Sign a child up; it leaves when its whole tree has ended. Closing the handle only stops the watch."""
    handle = (rosters.DEFAULT if roster is None else roster).add(child)
    child.gone = handle.close
    return handle


def _identified(process: Any) -> Process:  # noqa: ANN401 - whatever has a pid
    """Who is meant; refused when nobody, or nobody of ours."""
    pid = process if isinstance(process, int) else getattr(process, "pid", None)
    if isinstance(pid, bool) or not isinstance(pid, int):
        hint = "start() it first" if hasattr(process, "start") else "give a Popen, a Process or a process number"
        raise TypeError(f"{process!r} is no running process: {hint}")
    if _has_ended(process):
        raise ValueError(f"process {pid} has ended already: register it right after its start")
    table = processes_now()
    seen = table.get(pid)
    if seen is None or seen.ended:
        raise ValueError(f"process {pid} has ended already: register it right after its start")
    if pid in ancestors(table):
        raise ValueError(f"process {pid} is this process or an ancestor of it: only children can be registered")
    if not _descends(seen, table):
        raise ValueError(f"process {pid} is no child of this process: only children and theirs can be registered")
    return seen


def _popen(process: Any) -> weakref.ref[subprocess.Popen[Any]] | None:  # noqa: ANN401
    return weakref.ref(process) if isinstance(process, _POPEN) else None


def _descends(process: Process, table: Mapping[int, Process]) -> bool:
    own, line = os.getpid(), [process.pid]
    while (seen := table.get(line[-1])) is not None and seen.parent not in line:
        if seen.parent == own:
            return True
        line.append(seen.parent)
    return False


def _has_ended(process: Any) -> bool:  # noqa: ANN401
    """Whether an object of a known shape says that its process is over: its number may be another's by now."""
    if isinstance(process, subprocess.Popen):
        return process.poll() is not None
    if hasattr(process, "is_running"):  # psutil
        return not process.is_running()
    ended = getattr(process, "exitcode", None) if hasattr(process, "exitcode") else getattr(process, "returncode", None)
    return ended is not None


def limit_child(
    process: Any,  # noqa: ANN401 - whatever has a pid
    *,
    data_bytes: str | int | None = None,
    address_bytes: str | int | None = None,
) -> Mapping[str, tuple[int, int]]:
    """Set the soft RLIMIT_DATA and RLIMIT_AS of a running child from outside; the (soft, hard) limits before, by name.

    An allocation above it fails inside the child: MemoryError in Python. Children that it starts from then on inherit
    it; a child may raise it again up to its hard limit, which is left. RLIMIT_DATA counts private writable memory,
    which is what most programs grow by; RLIMIT_AS counts every mapping, also what is only reserved, and breaks
    programs that reserve much (Go, Java, some BLAS builds).

    Raises:
        ValueError: nothing to set, above the hard limit, or less than the child has mapped already.
        TypeError, ValueError: as for ``Child``.
        OSError: the system has no prlimit (it is Linux's).
    """
    import resource  # noqa: PLC0415 - Unix only

    child = _identified(process)
    if not hasattr(resource, "prlimit"):
        raise OSError("this system cannot limit a running process: set the limit before the child starts")
    wanted = {
        name: parse_bytes(value) for name, value in (("RLIMIT_DATA", data_bytes), ("RLIMIT_AS", address_bytes))
        if value is not None
    }  # fmt: skip
    if not wanted:
        raise ValueError(f"limit_child({child.pid}): give data_bytes, address_bytes or both")
    before: dict[str, tuple[int, int]] = {}
    for name, count in wanted.items():
        number = getattr(resource, name)
        soft, hard = resource.prlimit(child.pid, number)
        mapped = _mapped_bytes(child.pid, name)
        if hard != resource.RLIM_INFINITY and count > hard:
            raise ValueError(f"{name} of process {child.pid}: {format_bytes(count)} is above its hard limit")
        if count < mapped:
            raise ValueError(
                f"{name} of process {child.pid}: {format_bytes(count)} is less than the {format_bytes(mapped)} that it "
                "has mapped, so that it could get nothing more: end it, or allow more"
            )
        resource.prlimit(child.pid, number, (count, hard))
        before[name] = (soft, hard)
    if not child.is_same(identify(child.pid)):
        raise ValueError(f"process {child.pid} has ended meanwhile")
    return before


def _mapped_bytes(pid: int, name: str) -> int:
    with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:  # noqa: PTH123 - a kernel file
        fields = file.read().split()
    return int(fields[5 if name == "RLIMIT_DATA" else 0]) * os.sysconf("SC_PAGE_SIZE")
