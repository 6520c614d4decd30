"""Alerts of a real guard over scripted memory: who is told, when, and with which words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memguard.model import Event, Vitals
from memguard.rules import Rules
from memguard.sinks.webhook import Answer, WebhookSink
from memguard.testing import simulate
from memguard.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    from memguard.testing import Run, World

SLOW = Rules(pace_min_s=1.0, pace_max_s=1.0)


def become(world: World, mib: int) -> None:
    """Have so many MiB used from now on."""
    world.memory.grow(mib * MIB - world.memory.used_bytes)


def alerts(run: Run) -> list[Event]:
    """What was told about alerts."""
    return [event for event in run.events if event.name.startswith("alert.")]


def test_a_calm_day_raises_nothing() -> None:
    """No alert, and nothing that judges them is even made."""
    worlds: list[World] = []
    run = simulate(worlds.append, duration_s=3600, rules=SLOW)
    assert alerts(run) == []
    assert worlds[0].guard._alerts is None
    assert worlds[0].guard.alerts == ()


def test_high_for_five_minutes_and_well_again() -> None:
    """SEV-2 after 300 s above 85 %, with numbers, cause and deeds; one end, when it is over."""

    def scenario(world: World) -> None:
        become(world, 450)
        world.at(900.0, lambda: become(world, 150))

    run = simulate(scenario, duration_s=1500, rules=replace(SLOW, mode="observe"))
    raised, resolved = alerts(run)
    assert (raised.name, resolved.name) == ("alert.raised", "alert.resolved")
    assert raised.attributes["severity"] == "SEV-2"
    assert 299.0 <= raised.at - 1000.0 <= 303.0
    assert raised.attributes["used_bytes"] == 450 * MIB
    assert raised.attributes["limit_bytes"] == 512 * MIB
    assert "450.0 MiB of 512.0 MiB used (88%" in raised.text
    assert "no registered holder" in str(raised.attributes["cause"])
    assert "attempts bought" in str(raised.attributes["done"])
    assert 960.0 <= resolved.at - 1000.0 <= 963.0
    assert "well again after 11." in resolved.text


def test_at_the_brink_at_once() -> None:
    """SEV-1 within a look of passing 95 %."""
    found: list[tuple[str, ...]] = []

    def scenario(world: World) -> None:
        world.at(50.0, lambda: become(world, 495))
        world.at(52.0, lambda: found.append(tuple(alert.severity for alert in world.guard.alerts)))

    run = simulate(scenario, duration_s=60, rules=replace(SLOW, mode="observe"))
    assert [event.attributes["severity"] for event in alerts(run)] == ["SEV-1"]
    assert 50.0 <= alerts(run)[0].at - 1000.0 <= 51.5
    assert found == [("SEV-1",)]


def test_a_leak_is_forecast() -> None:
    """A limit that is less than an hour away for five minutes is told of long before it is near."""
    run = simulate(lambda world: world.memory.flow(200 * 1024), duration_s=1200, rules=SLOW)
    first = alerts(run)[0]
    assert (first.attributes["alert"], first.attributes["severity"]) == ("forecast", "SEV-2")
    assert float(first.attributes["pressure"]) < 0.5
    assert "the limit is " in first.text
    assert "growing by " in str(first.attributes["cause"])


def test_a_burst_at_the_start_is_no_forecast() -> None:
    """A service that loads 300 MiB and then stands still raises nothing."""

    def scenario(world: World) -> None:
        world.memory.flow(lambda second: 10 * MIB if second < 30 else 0.0)

    assert alerts(simulate(scenario, duration_s=1200, rules=SLOW)) == []


def test_swap_and_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's swap and available memory raise alerts though this process is well."""
    monkeypatch.setattr("memguard.alerts._machine_bytes", lambda: 64 * GIB)

    def scenario(world: World) -> None:
        def vitals(at: float) -> Vitals:
            bad = 100.0 <= world.clock.elapsed_s < 300.0
            return Vitals(
                at=at, available_bytes=GIB // 2 if bad else 30 * GIB,
                swap_used_bytes=9 * GIB if bad else 0, swap_total_bytes=10 * GIB,
            )  # fmt: skip

        world.memory.vitals = vitals  # type: ignore[method-assign]

    run = simulate(scenario, duration_s=600, rules=SLOW)
    told = [(event.name, event.attributes["alert"], event.attributes["severity"]) for event in alerts(run)]
    assert sorted(told) == [
        ("alert.raised", "available", "SEV-2"), ("alert.raised", "swap", "SEV-2"),
        ("alert.resolved", "available", "SEV-2"), ("alert.resolved", "swap", "SEV-2"),
    ]  # fmt: skip
    assert "9.00 GiB of 10.00 GiB in use" in " ".join(event.text for event in alerts(run))


def test_the_webhook_says_all_of_it() -> None:
    """One message a change, with level, numbers, cause, deeds and a link; the end has the same key as the beginning."""
    bodies: list[dict[str, object]] = []

    def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        import json

        bodies.append(json.loads(body))
        return Answer(204)

    def scenario(world: World) -> None:
        world.holder("answers", held_bytes="100MiB")
        become(world, 495)
        world.at(30.0, lambda: become(world, 195))

    sink = WebhookSink("https://alerts.example/hook", service="chat", link="https://chat.example/memguard", post=post)
    rules = replace(SLOW, mode="observe")
    simulate(scenario, duration_s=200, rules=rules, sinks=(sink,))
    first, last = bodies
    assert (first["status"], first["severity"], first["service"]) == ("firing", "SEV-1", "chat")
    assert first["link"] == "https://chat.example/memguard"
    assert "answers 100.0 MiB" in str(first["cause"])
    assert "attempts bought" in str(first["done"])
    numbers = first["numbers"]
    assert isinstance(numbers, dict)
    assert numbers["used_bytes"] == 495 * MIB
    assert numbers["level"] == "EMERGENCY"
    assert (last["status"], last["dedup_key"]) == ("resolved", first["dedup_key"])


def test_a_clock_that_jumps_back_raises_nothing_and_ends_nothing() -> None:
    """An alert under way stays, a wait under way goes on."""

    def scenario(world: World) -> None:
        become(world, 450)
        world.at(100.0, lambda: world.clock.jump(-5000.0))

    run = simulate(scenario, duration_s=600, rules=replace(SLOW, mode="observe"))
    assert [event.attributes["severity"] for event in alerts(run)] == ["SEV-2"]


def test_gradual_or_sudden() -> None:
    """The first question of a runbook is answered in the cause, from what the guard remembers."""

    def leak(world: World) -> None:
        world.guard.remember()
        world.memory.flow(700 * 1024)

    def burst(world: World) -> None:
        world.guard.remember()
        world.at(700.0, lambda: become(world, 500))

    rules = replace(SLOW, mode="observe", alert_forecast_s=0.0)
    slow = next(event for event in alerts(simulate(leak, duration_s=700, rules=rules)))
    fast = next(event for event in alerts(simulate(burst, duration_s=760, rules=rules)))
    assert str(slow.attributes["cause"]).startswith("gradual: 4")
    assert "more than 10.0 min ago" in str(slow.attributes["cause"])
    assert str(fast.attributes["cause"]).startswith("sudden: 436.0 MiB more than 60.0 s ago")
