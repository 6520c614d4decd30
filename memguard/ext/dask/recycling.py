"""Recycling: a worker that stays critical although it is paused makes room for a fresh one, by Dask's own retirement.

Its results move to other workers (``retire_workers``), it closes, and its nanny starts it anew. The scheduler's plugin
gives turns, so that it is one at a time and never a loop.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from distributed.core import Status

from memguard._core.recycling import next_wait_s
from memguard.ext.dask.spilling import fast_bytes
from memguard.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from distributed import Worker

    from memguard.ext.dask.pausing import Hold
    from memguard.model import Snapshot
    from memguard.ports import Clock
    from memguard.rules import Rules

    _Past = tuple[float, float]
    """When a name last had its turn, and how long it has to wait since."""

__all__ = ["Recycling", "Turns", "reason"]

# Without a turn, ask again; when nobody takes results, or nobody gives turns, not so soon.
_AGAIN_S, _STAYED_S, _NOBODY_S = 2.0, 30.0, 60.0
# A worker that has its turn has left by then, and a fresh one has come, or cannot.
_TURN_S: Final = 60.0
# Names whose last turn is remembered; workers of an adaptive cluster get new names.
_NAMES: Final = 1000


def reason(  # noqa: PLR0913 - what is known of a worker
    *,
    held_s: float,
    age_s: float,
    used_bytes: int,
    fresh_bytes: int,
    results_bytes: int,
    limit_bytes: int,
    rules: Rules,
) -> str:
    """Why a paused worker without running tasks should leave; "" when it should not.

    What Dask accounts as results does not count: a fresh worker would hold them, too, or another one.
    """
    gain_bytes = used_bytes - fresh_bytes - results_bytes
    if rules.handover == "off" or rules.mode == "observe":
        return ""
    if held_s < rules.handover_after_s or age_s < rules.handover_life_s:
        return ""
    if gain_bytes < rules.handover_worth_ratio * limit_bytes:
        return ""
    return (
        f"paused for {format_seconds(held_s)}, and {format_bytes(used_bytes)} of {format_bytes(limit_bytes)} are used "
        f"all the same; {format_bytes(gain_bytes)} are neither results nor what a fresh worker holds"
    )


class Turns:
    """Who may leave: one at a time, and the same name again only after a wait that doubles.

    The next has its turn when the fresh worker of that name is there. Who asks again while it has its turn has stayed,
    and its turn does not count.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._last: dict[str, _Past] = {}
        self._turn: tuple[str, str, float, _Past | None] | None = None

    def ask(self, *, address: str, name: str, present: Mapping[str, str], now: float) -> tuple[bool, float, str]:
        """Whether this worker may leave now; else in how many seconds to ask again, and why.

        ``present`` are the names of all workers by their addresses.
        """
        if self._turn is not None:
            holder, its_name, at, _ = self._turn
            if holder == address:
                self.take_back()
            elif now - at < _TURN_S and (holder in present or its_name not in present.values()):
                return False, _AGAIN_S, "another worker makes room for a fresh one: its turn first"
        before = self._last.pop(name, None)
        since_s, wait_s = (None, 0.0) if before is None else (now - before[0], before[1])
        if before is not None and since_s is not None and since_s < wait_s:
            self._last[name] = before
            left_s = wait_s - since_s
            return False, left_s, f"it was a fresh worker's turn: the next of {name} is in {format_seconds(left_s)}"
        self._turn = address, name, now, before
        self._last[name] = now, next_wait_s(wait_s, since_s, self._rules)  # at the end: the oldest is forgotten first
        if len(self._last) > _NAMES:
            del self._last[next(iter(self._last))]
        return True, 0.0, ""

    def take_back(self) -> None:
        """The worker whose turn it is has not left: as if it had not asked."""
        if self._turn is not None:
            _, name, _, before = self._turn
            self._turn = None
            self._last.pop(name, None)
            if before is not None:
                self._last[name] = before


class Recycling:
    """One worker's way out; to be used on its event loop."""

    def __init__(
        self,
        worker: Worker,
        *,
        rules: Rules,
        hold: Hold,
        tell: Callable[[str, str], None],
        clock: Clock = time.monotonic,
    ) -> None:
        self._worker = worker
        self._rules = rules
        self._hold = hold
        self._tell = tell
        self._clock = clock
        self._born_at = self._again_at = clock()
        self._fresh_bytes = int(worker.monitor.get_process_memory())
        self._said = ""
        self.leaving: bool = False

    def look(self, snapshot: Snapshot) -> None:
        """Leave, when there is a reason to and nothing runs."""
        worker, now, since = self._worker, self._clock(), self._hold.since
        if since is None or self.leaving or now < self._again_at or snapshot.limit is None or not worker.nanny:
            return
        if worker.state.executing or worker.state.long_running or worker.status != Status.paused:
            return
        why = reason(
            held_s=now - since,
            age_s=now - self._born_at,
            used_bytes=int(worker.monitor.get_process_memory()),
            fresh_bytes=self._fresh_bytes,
            results_bytes=fast_bytes(worker) or 0,
            limit_bytes=snapshot.limit.bytes,
            rules=self._rules,
        )
        if why:
            self.leaving = True
            worker.loop.add_callback(self._leave, why)

    async def _leave(self, why: str) -> None:
        """Ask for a turn, hand the results to others, and close; stay when that cannot be."""
        wait_s, cause, text = _AGAIN_S, "handover.failed", ""
        try:
            wait_s, cause, text = await self._try(why)
        except Exception as error:  # noqa: BLE001 - a scheduler that is gone, or whatever it answers: the worker stays
            text = f"{type(error).__name__}: {error}"
        if text:
            self.leaving, self._again_at = False, self._clock() + wait_s
            if text.partition(":")[0] != self._said:  # once in these words; waits have numbers in them
                self._said = text.partition(":")[0]
                self._tell(cause, f"{text}. It is due: {why}")

    async def _try(self, why: str) -> tuple[float, str, str]:
        worker = self._worker
        scheduler: Any = worker.scheduler
        answer = await scheduler.memguard_turn(address=worker.address, worker_name=str(worker.name))
        if not isinstance(answer, dict) or "go" not in answer:
            return _NOBODY_S, "handover.futile", "nobody gives turns: client.register_plugin(GuardScheduler())"
        if not answer["go"]:
            return float(answer["wait_s"]), "handover.waits", str(answer["why"])
        if self._hold.since is None:
            return _AGAIN_S, "handover.waits", "memory has come back: it stays"
        self._said = ""
        self._tell("handover.begun", f"{why}; its results move to other workers, and its nanny starts it anew")
        retired = await scheduler.retire_workers(
            workers=[worker.address], close_workers=False, remove=True, stimulus_id=f"memguard-recycle-{time.time()}"
        )
        if worker.address not in retired:
            return _STAYED_S, "handover.futile", "no other worker can take its results: it stays"
        await worker.close(nanny=False, reason="memguard-recycle")
        return 0.0, "", ""
