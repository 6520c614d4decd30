"""One trial of the demonstration: the service in a cage, the load beside it, and what came of both."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Literal

from memguard.errors import MemguardError
from memguard.testing.cage import Cage, Enforcer
from memguard.units import MIB
from memguard.values import field, value

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Course", "Kind", "Sample", "Trial", "run_trial"]

Kind = Literal["bare", "guarded"]

_LOOK_S = 0.05
_ASK_S = 0.5
_START_S = 30.0
# After the load the level may fall: two dwell times and the relief in between.
_SETTLE_S = 10.0
# A load that ends so much later than planned has met a service that no longer answers.
_LATE_S = 20.0


@value
class Sample:
    """Memory of the service at one instant of its trial."""

    at_s: float
    used_bytes: int


@value
class Trial:
    """What came of one trial.

    ``died_at_s`` is None when the service lived to the end; ``killed`` counts the kills at the limit. Latencies are
    of served requests: (when it was due, seconds from then to the answer), quickest first. ``stats`` is
    what the service last said of itself.
    """

    kind: Kind
    by_kernel: bool
    cage_kind: str
    limit_bytes: int
    planned: int
    died_at_s: float | None
    status: int | None
    killed: int
    peak_bytes: int
    samples: tuple[Sample, ...]
    counts: dict[str, int]
    latencies_s: tuple[tuple[float, float], ...]
    status_at_end: int | None
    stats: dict[str, Any]

    @property
    def was_killed(self) -> bool:
        """Whether it died because it met the limit."""
        return self.died_at_s is not None and self.killed > 0

    @property
    def lasted_s(self) -> float:
        """Seconds from the load's first request to the service's death or the end of the trial."""
        return self.died_at_s if self.died_at_s is not None else self.samples[-1].at_s

    def latency_s(self, share: float, *, due_before_s: float) -> float | None:
        """The latency that this share of the served requests, due before then, did not exceed; None: none served."""
        latencies_s = [latency_s for due_s, latency_s in self.latencies_s if due_s < due_before_s]
        return latencies_s[min(len(latencies_s) - 1, int(share * len(latencies_s)))] if latencies_s else None


@value(frozen=False)
class Course:
    """A trial under way, as the progress shows it."""

    kind: Kind
    at_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
    died_at_s: float | None = None


def run_trial(  # noqa: PLR0913 - the plan of a trial, named piece by piece
    kind: Kind,
    *,
    schedule: Path,
    planned: int,
    seconds: float,
    limit_bytes: int,
    by: Enforcer,
    out: Path,
    show: Callable[[Course], None],
) -> Trial:
    """Run the service and its load until the load is over or the service is dead.

    Raises:
        MemguardError: the service did not start; the text names its log.
    """
    course, outcomes = Course(kind=kind), out / f"{kind}.jsonl"
    outcomes.unlink(missing_ok=True)
    with Cage(limit_bytes, name=f"demo-{kind}", by=by) as cage:
        service, port = _start_service(kind, cage, out / f"{kind}.log")
        command = [sys.executable, "-m", "memguard.demo.load", "--port", str(port)]
        load = subprocess.Popen(  # noqa: S603 - this interpreter, this package
            [*command, "--schedule", str(schedule), "--out", str(outcomes)], stdout=subprocess.PIPE
        )
        try:
            _watch(course, cage, service, load, port, seconds, show)
        finally:
            load.terminate()
            load.communicate()
        status_at_end = None if course.died_at_s is not None else _settle(course, cage, port, show)
        status, by_kernel, cage_kind = service.poll(), cage.by_kernel, cage.kind
    counts, latencies_s = _read_outcomes(outcomes)
    return Trial(
        kind=kind,
        by_kernel=by_kernel,
        cage_kind=cage_kind,
        limit_bytes=limit_bytes,
        planned=planned,
        died_at_s=course.died_at_s,
        status=status,
        killed=cage.killed,
        peak_bytes=cage.peak_bytes,
        samples=tuple(course.samples),
        counts=counts,
        latencies_s=latencies_s,
        status_at_end=status_at_end,
        stats=course.stats,
    )


def _start_service(kind: Kind, cage: Cage, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    environ = {**os.environ, "MEMGUARD_DEMO": kind}
    if not cage.by_kernel:  # a supervisor's limit is written nowhere: the guard has to be told
        environ["API_MAX_MEMORY_MB"] = str(cage.limit_bytes / MIB)
    # The parent's copy of the socket is closed at once, or connections to a dead service would hang.
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener, log.open("wb") as words:
        port: int = listener.getsockname()[1]
        service = cage.popen(
            [sys.executable, "-m", "memguard.demo.service", "--fd", str(listener.fileno())],
            env=environ,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
        )
    deadline = time.monotonic() + _START_S
    while _get(port, "/livez")[0] != http.client.OK:
        if service.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise MemguardError(f"the {kind} service did not start: {' '.join(last) or 'no words'} (all of it: {log})")
        time.sleep(_LOOK_S)
    return service, port


def _watch(  # noqa: PLR0913, PLR0917 - a step of run_trial
    course: Course,
    cage: Cage,
    service: subprocess.Popen[bytes],
    load: subprocess.Popen[bytes],
    port: int,
    seconds: float,
    show: Callable[[Course], None],
) -> None:
    """Sample memory and progress until the load is over or the service is dead."""
    assert load.stdout is not None  # noqa: S101 - asked for above
    os.set_blocking(load.stdout.fileno(), False)
    began_at, ask_at = time.monotonic(), 0.0
    while load.poll() is None and course.at_s < seconds + _LATE_S:
        time.sleep(_LOOK_S)
        course.at_s = time.monotonic() - began_at
        if service.poll() is not None or cage.killed:
            course.died_at_s = course.at_s
            service.wait()
            break
        course.samples.append(Sample(at_s=course.at_s, used_bytes=cage.working_bytes))
        lines = (load.stdout.read() or b"").splitlines()
        if lines:
            course.counts = json.loads(lines[-1])
        if course.kind == "guarded" and course.at_s >= ask_at:
            ask_at = course.at_s + _ASK_S
            course.stats = _get(port, "/stats")[1] or course.stats
        show(course)
    show(course)


def _settle(course: Course, cage: Cage, port: int, show: Callable[[Course], None]) -> int:
    """Wait a little until the level is OK again; the status of one more request after that."""
    began_at, offset_s = time.monotonic(), course.at_s
    while course.kind == "guarded":
        course.stats = _get(port, "/stats")[1] or course.stats
        if course.stats.get("level") == "OK" or time.monotonic() - began_at > _SETTLE_S:
            break
        time.sleep(_LOOK_S)
        course.at_s = offset_s + time.monotonic() - began_at
        course.samples.append(Sample(at_s=course.at_s, used_bytes=cage.working_bytes))
        show(course)
    return _get(port, "/answers/last-16?kib=16")[0]


def _get(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of one GET; 0 when there is no answer."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        line.request("GET", path)
        answer = line.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return 0, {}
    finally:
        line.close()
    is_json = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(body) if is_json else {}


def _read_outcomes(path: Path) -> tuple[dict[str, int], tuple[tuple[float, float], ...]]:
    """How many requests ended how, and the sorted latencies of the served ones."""
    counts: dict[str, int] = {}
    latencies_s = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            outcome = json.loads(line)
        except ValueError:  # the load was ended in the middle of a line
            continue
        counts[outcome["ended"]] = counts.get(outcome["ended"], 0) + 1
        if outcome["ended"] == "served":
            latencies_s.append((outcome["due_s"], outcome["latency_s"]))
    return counts, tuple(sorted(latencies_s, key=lambda pair: pair[1]))
