"""Credit: scripted looks with an exact answer."""

from __future__ import annotations

import random

import pytest

from memguard._core.costs import Estimate
from memguard._core.credit import Credit
from memguard.units import MIB

STEP_S = 0.05


class Script:
    """Loads of known cost as counts that wander, and readings that follow them exactly."""

    def __init__(self, costs_mib: dict[str, float], seed: int = 1) -> None:
        self.credit = Credit()
        self.random = random.Random(seed)
        self.routes = {name: Estimate() for name in costs_mib}
        self.costs = costs_mib
        self.counts = dict.fromkeys(costs_mib, 0)
        self.at = 0.0
        self.base_mib = 100.0

    def look(self) -> None:
        self.at += STEP_S
        used = self.base_mib + sum(count * self.costs[name] for name, count in self.counts.items())
        loads: dict[tuple[Estimate | None, bool], float] = {
            (self.routes[name], False): float(count) for name, count in self.counts.items()
        }
        self.credit.look(self.at, used * MIB, loads)

    def wander(self, looks: int) -> None:
        for _ in range(looks):
            name = self.random.choice(list(self.counts))
            self.counts[name] = max(0, self.counts[name] + self.random.choice((-1, 1)))
            self.look()

    def found_mib(self, name: str) -> float:
        return self.credit.explained(self.routes[name]) / MIB


@pytest.mark.parametrize("costs", [{"a": 3.0}, {"a": 1.0, "b": 10.0}, {"a": 0.5, "b": 4.0, "c": 16.0, "z": 0.0}])
def test_counts_that_wander_give_the_costs(costs: dict[str, float]) -> None:
    """Whatever overlaps: each route's bytes come out."""
    script = Script(costs)
    script.wander(200 * len(costs))
    for name, cost in costs.items():
        assert script.found_mib(name) == pytest.approx(cost, rel=0.05, abs=0.05)


def test_a_steady_growth_is_nobodys() -> None:
    """A cache that fills by 4 MiB a second beside the requests is not put on their bill."""
    script = Script({"a": 2.0})
    for _ in range(300):
        script.base_mib += 4.0 * STEP_S
        script.wander(1)
    assert script.found_mib("a") == pytest.approx(2.0, rel=0.1)


def test_what_changed_is_learned_anew() -> None:
    """A route that holds half as much after a deployment is known to within some minutes."""
    script = Script({"a": 8.0})
    script.wander(400)
    script.costs["a"] = 4.0
    script.credit.reset()
    script.wander(4000)
    assert script.found_mib("a") == pytest.approx(4.0, rel=0.1)


def test_a_heap_that_keeps_is_no_cheap_route() -> None:
    """Requests that reuse what earlier ones freed move no reading: what was learned stays."""
    script = Script({"a": 5.0})
    for count in (0, 0, 1, 1, 2, 2, 3, 3):
        script.counts["a"] = count
        script.look()
    known = script.found_mib("a")
    high = script.base_mib + 15.0
    for number in range(2000):
        script.counts["a"] = number % 4
        script.at += STEP_S
        script.credit.look(script.at, high * MIB, {(script.routes["a"], False): float(number % 4)})
    assert script.found_mib("a") == pytest.approx(known, rel=0.1)
    assert known == pytest.approx(5.0, rel=0.3)


def test_a_relief_is_no_requests_doing() -> None:
    """200 MiB that a cache gave back do not make the requests of that moment cheap."""
    script = Script({"a": 3.0})
    script.wander(200)
    script.counts["a"] += 1
    script.base_mib -= 200.0
    script.credit.shift(-200.0 * MIB)
    script.look()
    script.wander(5)
    assert script.found_mib("a") == pytest.approx(3.0, rel=0.05)


def test_late_allocation_shows_in_the_old_column() -> None:
    """A request that takes its memory in the second half of its life is known by that half."""
    credit, route, at = Credit(), Estimate(), 0.0
    rng = random.Random(3)
    for _ in range(300):
        young, old = rng.randint(0, 3), rng.randint(0, 3)
        at += STEP_S
        credit.look(at, (100.0 + 6.0 * old) * MIB, {(route, False): float(young), (route, True): float(old)})
    assert credit.explained(route) / MIB == pytest.approx(6.0, rel=0.05)


def test_columns_come_and_go() -> None:
    """Routes that are gone leave no trace, however many have been."""
    credit, at = Credit(), 0.0
    for number in range(300):
        at += 1.0
        credit.look(at, (100.0 + number % 2) * MIB, {(Estimate(), False): 1.0})
    for _ in range(4000):
        at += 1.0
        credit.look(at, 100.0 * MIB, {})
    assert len(credit._columns) == 1
