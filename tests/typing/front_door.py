"""The public names as type checkers see them. Nothing here runs: mypy and pyright read it in `make check`.

An ignore that is not needed is an error in both, so each ignored line below is a line that must be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_type

import memguard
from memguard import ports


def names() -> None:
    """A name that does not exist is an error, not Any."""
    memguard.Typo  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # noqa: B018
    memguard.LeakReporter  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # noqa: B018
    assert_type(memguard.__version__, str)


def guard() -> None:
    """What a guard takes and gives."""
    one = memguard.Guard(limit="512MiB", mode="observe")
    assert_type(one.snapshot, memguard.Snapshot)
    assert_type(one.level, memguard.Level)
    assert_type(one.pressure, float)
    assert_type(one.holders(), tuple[memguard.Holder, ...])
    assert_type(one.verdict(), memguard.Verdict)
    assert_type(one.explain(), str)
    assert_type(one.collect(), memguard.Relief)
    assert_type(one.trim(), memguard.Relief)
    assert_type(one.relieve(memguard.Level.OK), memguard.Incident)
    with one as entered:
        assert_type(entered, memguard.Guard)
        with one.admit("64MiB") as ticket:
            assert_type(ticket, memguard.Ticket)
    one.gc_policy(memguard.GcPolicy.interval(60)).close()
    memguard.Guard("512MiB")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    one.snapshot.level = memguard.Level.OK  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def values(snapshot: memguard.Snapshot, relief: memguard.Relief, incident: memguard.Incident) -> None:
    """The values' fields."""
    assert_type(snapshot.reading, memguard.Reading | None)
    assert_type(snapshot.limit, memguard.Limit | None)
    assert_type(snapshot.forecast, float | None)
    assert_type(relief.bought_bytes, int)
    assert_type(incident.lasted_s, float | None)
    memguard.Reading(0.0, 1, "x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    memguard.Limit(bytes=1, kind="soft", source="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def rules() -> None:
    """Rules and where they come from."""
    made = memguard.Rules.resolve({}, {"critical_ratio": "92%"})
    assert_type(made, memguard.Rules)
    assert_type(made.max_bytes, int | None)
    assert_type(made.origins, Mapping[str, str])
    made.max_bytes = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    memguard.Rules(mode="off")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def refusal() -> None:
    """A refusal carries what a client needs to come back."""
    try:
        raise memguard.AdmissionRefused("full", retry_after_s=2.0, level="CRITICAL")
    except memguard.MemguardError as error:
        if isinstance(error, memguard.AdmissionRefused):
            assert_type(error.retry_after_s, float)
            assert_type(error.problem(), dict[str, object])


def shapes(reclaim: Callable[[int], int | None], sink: Callable[[memguard.Event], None]) -> None:
    """Ports are met by shape: plain functions are sinks, clocks and limit sources."""
    accepted: ports.Sink = sink
    clock: ports.Clock = lambda: 0.0  # noqa: E731 - a shape is what is shown
    source: ports.LimitSource = lambda: ()  # noqa: E731
    one = memguard.Guard(sinks=[accepted, print], clock=clock, limit=source)
    one.reclaimer("mine", reclaim, size=lambda: 0, cost="free")
    one.reclaimer("mine", reclaim, cost="huge")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
