"""The table of signals: everything memguard tells the world, one row each. Its metrics stand in ``metrics``."""

from __future__ import annotations

from types import MappingProxyType

from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from memguard.kinds import Severity

__all__ = ["EVENTS", "EventRow"]


@value
class EventRow:
    """One kind of event: its name, what it means, and how serious one of them is."""

    name: str
    meaning: str
    severity: Severity


def _table(*rows: tuple[str, Severity, str]) -> Mapping[str, EventRow]:
    return MappingProxyType(
        {name: EventRow(name=name, meaning=meaning, severity=severity) for name, severity, meaning in rows}
    )


EVENTS: Final = _table(
    ("guard.started", "info", "a guard's thread runs"),
    ("guard.stopped", "info", "a guard's thread has ended, and what it changed is put back"),
    ("guard.starved", "warning", "the guard's thread woke far later than planned: something held it off"),
    ("guard.fault", "error", "something failed inside the guard; it went on"),
    ("guard.blind", "error", "readings have failed for too long: the level is the one the rules set for that case"),
    ("guard.sighted", "info", "readings work again after the guard was blind"),
    ("limit.found", "info", "a memory limit was found, and where"),
    ("limit.changed", "info", "the limit is another than before: the process was resized, or another limit binds"),
    ("limit.none", "warning", "nothing was found to guard against: the guard observes only"),
    ("limit.note", "warning", "something about the limit that an operator should know"),
    ("probe.failed", "warning", "one reading failed; the last level holds for a bounded time"),
    ("level.changed", "warning", "memory pressure entered or left a level"),
    ("incident.opened", "warning", "pressure left OK"),
    ("incident.closed", "info", "pressure is OK again: peak, reliefs, refusals and the verdict"),
    ("relief.bought", "info", "a reclaimer gave memory back, as measured by the probe"),
    ("relief.useless", "warning", "an attempt bought too little of what was asked: its reclaimer must wait"),
    ("relief.failed", "error", "a reclaimer raised: it must wait"),
    ("relief.overdue", "error", "an attempt takes longer than allowed: the guard goes on without it"),
    ("relief.planned", "info", "what would have been done, were the mode not 'observe'"),
    ("relief.fragmented", "warning", "memory was released but did not return to the kernel"),
    ("relief.exhausted", "error", "pressure is high and no reclaimer is left to try"),
    (
        "handover.begun",
        "warning",
        "this process makes room for a fresh one: why, and by which way of its server",
    ),
    ("handover.planned", "info", "a hand-over would have begun, were the mode not 'observe'"),
    ("handover.waits", "info", "a hand-over is due and too soon after the last one, or another worker's turn"),
    ("handover.futile", "error", "a hand-over is due and cannot help, or nobody would start a new worker: why"),
    ("handover.drained", "info", "what was under way has finished, or its time was over: what was cut off"),
    (
        "handover.failed",
        "error",
        "something went wrong in a hand-over, a hook perhaps; it goes on, or is called off",
    ),
    ("gc.due", "info", "a policy asked for a collection"),
    ("admission.refused", "warning", "work was refused because its memory would not fit"),
    ("feature.changed", "warning", "a feature went off under pressure, came back, or was switched by hand"),
    ("fuse.armed", "info", "a rolling RLIMIT_DATA turns what would not fit into a MemoryError from now on"),
    ("fuse.refused", "warning", "the fuse that was asked for is not armed, or not any more: why"),
    ("fuse.tripped", "warning", "work met a MemoryError, as the fuse means it to; what it held was let go"),
    ("child.over", "warning", "a registered child's tree holds more than its quota"),
    ("child.killed", "warning", "a registered child's tree was ended: why, by which signal, how much it held"),
    ("child.orphans", "warning", "descendants of a registered child have lost their parents"),
    ("child.note", "error", "a registered child could not be ended"),
    ("directory.early", "warning", "a registered directory holds more than its early sign"),
    ("directory.cleaned", "info", "the least recently used files of a directory were removed, or would be"),
    ("directory.over", "warning", "a directory holds more than its quota and the rest may not go: why not"),
    ("directory.note", "warning", "something about a directory that an operator should know"),
    ("state.kept", "warning", "a state could not be made smaller and is kept as it is: not picklable, a full disk, …"),
    ("state.unreadable", "error", "the bytes of a packed or spilled state cannot be loaded now; they are kept"),
    ("maintenance.done", "info", "a chore of the schedule did something: what, and how much came back"),
    ("maintenance.failed", "warning", "a chore raised, or does not come back: it is tried again, each time later"),
    ("state.left", "info", "a hand-over left states to the process that follows: how many, how many bytes"),
    ("state.reopened", "info", "states that the process before has left are here: each is loaded when asked for"),
    ("reading.recorded", "info", "the regular record: how much is used, of how much, and how it stands"),
    ("alert.raised", "error", "somebody should look: which alert, how severe, since when, why, what was done"),
    ("alert.eased", "warning", "an alert is less severe than it was, and not over"),
    ("alert.resolved", "info", "an alert is over"),
    ("store.failed", "error", "the store cannot be written now: why, and what to do; rows wait, the oldest go first"),
    ("store.restored", "info", "the store is written again: how many rows were lost meanwhile"),
    ("store.note", "warning", "something about the store that an operator should know"),
    ("workers.joined", "info", "this worker has found its place among others under the same limit"),
    ("workers.alone", "warning", "this worker cannot act together with others under its limit: why"),
    ("workers.waited", "info", "shedding is left to another worker, which could give up more"),
    ("workers.passed", "warning", "another worker could shed more and has not in time: this one goes ahead"),
    ("leak.suspected", "warning", "memory grows and does not bend: how fast, since when, how sure"),
    ("leak.cleared", "info", "the trend has not been leak-like any more for an hour"),
    ("leak.report", "error", "an examination that the trend asked for is done: what grows, who holds it, how sure"),
    ("leak.unexamined", "warning", "an examination could not be made: no room for it, or it failed"),
    ("leak.kept", "warning", "a watched object is still there after its grace period and a collection: who holds it"),
    ("control.acted", "warning", "somebody acted over the control API: who, what, and what it bought"),
    ("control.denied", "warning", "the control API refused somebody: who, what, why"),
    ("sink.failed", "error", "a sink raised; the event is lost to that sink alone"),
    ("events.dropped", "warning", "events came faster than the sinks took them"),
)
"""Every event by name: what ``Event.name`` may be."""
