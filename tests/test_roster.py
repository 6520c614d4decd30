"""The roster: holders sign up, get names, and leave when they end."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.model import Level
from memguard.roster import Handle, Roster

if TYPE_CHECKING:
    from memguard.kinds import Cost


class _Silent:
    """A reclaimer that only has a name."""

    cost: Cost = "cheap"
    at = Level.WARNING
    settles = stalls = False

    def __init__(self, name: str) -> None:
        self.name = name

    def size(self) -> int | None:
        return None

    def reclaim(self, wanted_bytes: int, /) -> int | None:
        return None


class _Held:
    """Something that can be held weakly."""


def _names(roster: Roster) -> list[str]:
    return [name for name, _ in roster.entries()]


def test_oldest_first_with_unique_names() -> None:
    """A name that is taken gets a number, and entries come in the order in which they signed up."""
    roster = Roster()
    for name in ("answers", "pages", "answers", "answers"):
        roster.add(_Silent(name))
    assert _names(roster) == ["answers", "pages", "answers#2", "answers#3"]
    assert len(roster) == 4


@pytest.mark.parametrize("name", ["collect", "trim"])
def test_the_guards_own_names_are_taken(name: str) -> None:
    """No holder can pass for the guard's own collection or trim."""
    assert Roster().add(_Silent(name)).name == f"{name}#2"


def test_handles_close() -> None:
    """A closed handle's holder is gone, closing again does nothing, and the name is free again."""
    roster = Roster()
    handle = roster.add(_Silent("answers"))
    assert handle.name == "answers"
    assert not handle.closed
    handle.close()
    handle.close()
    assert handle.closed
    assert "closed" in repr(handle)
    assert _names(roster) == []
    assert roster.add(_Silent("answers")).name == "answers"


def test_a_handle_is_a_context() -> None:
    """`with` gives the place up at its end."""
    roster = Roster()
    with roster.add(_Silent("answers")) as handle:
        assert _names(roster) == ["answers"]
    assert handle.closed
    assert _names(roster) == []


def test_a_lost_handle_changes_nothing() -> None:
    """A holder stays although nobody kept its handle."""
    roster = Roster()
    roster.add(_Silent("answers"))
    gc.collect()
    assert _names(roster) == ["answers"]


def test_the_end_of_the_held_object_is_the_end_of_its_place() -> None:
    """When the held object is collected its reclaimer leaves by itself; the roster does not keep it alive."""
    roster = Roster()
    held = _Held()
    handle = roster.add(_Silent("answers"), held=held)
    other = roster.add(_Silent("pages"))
    del held
    gc.collect()
    assert handle.closed
    assert not other.closed
    assert _names(roster) == ["pages"]
    handle.close()
    assert _names(roster) == ["pages"]


def test_find() -> None:
    """A reclaimer is found by its unique name until it leaves."""
    roster = Roster()
    first, second = _Silent("answers"), _Silent("answers")
    roster.add(first)
    handle = roster.add(second)
    assert roster.find("answers") is first
    assert roster.find("answers#2") is second
    handle.close()
    assert roster.find("answers#2") is None


def test_readers_keep_what_they_picked_up() -> None:
    """Entries picked up before a change are not changed by it."""
    roster = Roster()
    handle = roster.add(_Silent("answers"))
    before = roster.entries()
    handle.close()
    roster.add(_Silent("pages"))
    assert [name for name, _ in before] == ["answers"]


def test_leaving_while_another_signs_up() -> None:
    """A holder that ends in the middle of someone's `add`, in the same thread, neither deadlocks nor stays."""
    roster = Roster()
    handle = roster.add(_Silent("answers"))

    class Interrupting(_Silent):
        @property
        def name(self) -> str:
            handle.close()
            return "pages"

        @name.setter
        def name(self, value: str) -> None: ...

    roster.add(Interrupting("pages"))
    assert handle.closed
    assert _names(roster) == ["pages"]
    assert roster.add(_Silent("answers")).name == "answers"


def test_many_threads() -> None:
    """Signing up and leaving from several threads at once loses nobody and leaves nobody behind."""
    roster = Roster()
    barrier = threading.Barrier(4)
    kept: list[str] = []

    def work() -> None:
        barrier.wait(10)
        for number in range(50):
            handle = roster.add(_Silent("answers"))
            if number % 2:
                handle.close()
            else:
                kept.append(handle.name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(_names(roster)) == sorted(kept)
    assert len(set(kept)) == 100


def test_after_a_fork() -> None:
    """A child whose parent held the lock at the fork can still sign holders up."""
    roster = Roster()
    roster.add(_Silent("answers"))
    roster._lock.acquire()
    roster.forget()
    roster.add(_Silent("pages"))
    assert _names(roster) == ["answers", "pages"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=60))
def test_like_a_list(moves: list[tuple[bool, int]]) -> None:
    """After any sequence of signing up and leaving, exactly those who have not left are there, under unique names."""
    roster = Roster()
    here: list[Handle] = []
    for comes, number in moves:
        if comes or not here:
            here.append(roster.add(_Silent(f"n{number % 2}")))
        else:
            here.pop(number % len(here)).close()
        names = _names(roster)
        assert names == [handle.name for handle in here]
        assert len(names) == len(set(names))
