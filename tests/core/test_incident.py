"""The incident as one value."""

from __future__ import annotations

from memguard._core import incident as incidents
from memguard.model import Incident, Level, Relief
from memguard.units import MIB


def _relief(bought_mib: int) -> Relief:
    return Relief(
        name="a", at=2.0, wanted_bytes=MIB, claimed_bytes=None, before_bytes=100 * MIB,
        after_bytes=(100 - bought_mib) * MIB, cost_s=0.1,
    )  # fmt: skip


def test_peaks_only_rise() -> None:
    """Level, bytes and pressure keep their highest; a lower look gives the same value back."""
    incident = incidents.seen(Incident(opened_at=1.0), Level.WARNING, 85 * MIB, 100 * MIB)
    assert (incident.peak_level, incident.peak_bytes, incident.peak_pressure) == (Level.WARNING, 85 * MIB, 0.85)
    assert incidents.seen(incident, Level.ELEVATED, 80 * MIB, 100 * MIB) is incident
    higher = incidents.seen(incident, Level.ELEVATED, 90 * MIB, 100 * MIB)
    assert (higher.peak_level, higher.peak_bytes) == (Level.WARNING, 90 * MIB)


def test_reliefs_are_bounded_and_sums_are_not() -> None:
    """The last 32 are kept word for word, all are counted."""
    incident = Incident(opened_at=1.0)
    for _ in range(50):
        incident = incidents.relieved(incident, _relief(2))
    assert (len(incident.reliefs), incident.attempts, incident.bought_bytes) == (32, 50, 100 * MIB)


def test_the_verdict_says_how_it_ended() -> None:
    """What was bought, whether it was enough, who was refused, for how long nobody looked."""
    quiet = incidents.close(Incident(opened_at=1.0), 4.0, exhausted=False)
    assert quiet.verdict == "passed by itself after 3.0 s: nothing had to be shed"
    assert quiet.lasted_s == 3.0
    hard = incidents.relieved(Incident(opened_at=1.0, refusals=7, blind_s=2.0), _relief(5))
    verdict = incidents.close(hard, 2.0, exhausted=True).verdict
    assert verdict == (
        "relieved after 1.0 s: 1 attempts bought 5.0 MiB; at times nothing that was left to shed helped; "
        "7 refused meanwhile; the guard could not look for 2.0 s of it"
    )
