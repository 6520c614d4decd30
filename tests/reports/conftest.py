"""An incident that was simulated, and told to a sink that writes lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from memguard.reports import stories_of
from memguard.rules import Rules
from memguard.sinks.jsonl import JsonlSink
from memguard.testing import LyingReclaimer, Run, simulate
from memguard.units import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from memguard.reports import Story
    from memguard.testing import World

RULES = Rules(pace_min_s=0.1)


class Told(NamedTuple):
    """A run, and the file in which it was told."""

    run: Run
    path: Path

    @property
    def story(self) -> Story:
        """Its last incident."""
        return stories_of(self.path)[-1]


def spike(world: World) -> None:
    """A burst of 300 MiB; a cache gives back, a liar does not, the guard starves for a second; then it is over."""
    world.holder("answers", held_bytes="150MiB")
    world.add(LyingReclaimer("liar", size_bytes=50 * MIB))
    world.guard.remember()
    world.memory.flow(lambda second: 150.0 * MIB if 10 <= second < 12 else 0.0)
    world.at(15, lambda: world.starve(1.0))
    world.at(20, lambda: world.memory.grow(-300 * MIB))


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The burst, simulated once for all tests."""
    path = tmp_path_factory.mktemp("told") / "memguard.jsonl"
    return Told(simulate(spike, duration_s=60, rules=RULES, sinks=(JsonlSink(path),)), path)
