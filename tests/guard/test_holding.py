"""What a guard hands out to holders: states, directories, children."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import memguard
from memguard.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def guard() -> Iterator[memguard.Guard]:
    """A guard with a roster of its own, which runs."""
    with memguard.Guard(limit="64GiB", roster=memguard.Roster(), state_max_bytes=2 * MIB, state_compact=False) as guard:
        yield guard


def names(guard: memguard.Guard) -> set[str]:
    """Who is on the roster."""
    return {holder.name for holder in guard.holders()}


def test_states_take_their_limits_from_the_rules(guard: memguard.Guard) -> None:
    """``state_max_bytes`` and ``state_compact`` hold where nothing else is said; they sign up and leave."""
    before = names(guard)
    states = guard.states("beliefs")
    assert (states.max_bytes_each, states.compacts) == (2 * MIB, False)
    assert any("beliefs" in name for name in names(guard) - before)
    own = guard.states("own", max_bytes_each="1MiB", compact=True)
    assert (own.max_bytes_each, own.compacts) == (MIB, True)
    states["a"] = [1, 2]
    states.close()
    own.close()
    assert names(guard) == before
    assert states["a"] == [1, 2]


def test_a_directory_is_registered_by_its_path(guard: memguard.Guard, tmp_path: Path) -> None:
    """It is a holder until its handle is closed; what cannot be meant is refused by name."""
    with guard.directory(tmp_path, max_bytes="1MiB") as handle:
        assert handle.name == str(tmp_path)
        assert handle.name in names(guard)
        with pytest.raises(ValueError, match="beside"):
            guard.directory(tmp_path / ".", max_bytes="1MiB")
    assert str(tmp_path) not in names(guard)
    with pytest.raises(ValueError, match="max_bytes"):
        guard.directory(tmp_path, max_bytes=0)


def test_a_child_is_watched_until_it_ends(guard: memguard.Guard) -> None:
    """It is a holder of known size; closing the handle leaves it alive."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        with guard.child(process, max_bytes="1GiB", name="worker"):
            assert "worker" in names(guard)
        assert "worker" not in names(guard)
        assert process.poll() is None
    finally:
        process.communicate()
    with pytest.raises(ValueError, match="ended"):
        guard.child(process, max_bytes=KIB)
