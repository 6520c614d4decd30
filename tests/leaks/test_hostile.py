"""The examiner runs no code of what it looks at."""

from __future__ import annotations

import gc
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from memguard.leaks import census, chains
from memguard.leaks.named import take_inventory
from memguard.leaks.names import type_name
from memguard.leaks.retained import weigh
from memguard.leaks.swelling import Lengths

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def app(hostile: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module whose objects run amok."""
    module = ModuleType("hostile_app")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    hostile.CALLS.clear()
    yield module
    calls = list(hostile.CALLS)
    vars(module).clear()
    assert calls == []


def test_a_census_asks_nobody(app: Any, hostile: Any) -> None:
    """Hostile objects and classes are counted under their real names."""
    app.zoo = hostile.zoo()
    counts = census.take().counts
    assert counts[type_name(hostile.Raising)] == 1
    assert counts[type_name(hostile.Lying)] == 1
    assert any(name.endswith(".Amok") for name in counts)


@pytest.mark.parametrize("place", range(5))
def test_a_chain_to_a_hostile_object(place: int, app: Any, hostile: Any) -> None:
    """Who holds one is found without asking it."""
    app.zoo = hostile.zoo()
    assert chains.find(app.zoo[place]).path == f"hostile_app.zoo[{place}]"


@pytest.mark.parametrize("kind", ["Raising", "Sly"])
def test_a_chain_through_a_hostile_object(kind: str, app: Any, hostile: Any) -> None:
    """So is what one of them holds."""
    held: list[int] = []
    holder = object.__new__(hostile.Raising) if kind == "Raising" else hostile.Sly()
    if kind == "Raising":
        object.__setattr__(holder, "held", held)
    else:
        dict.__setitem__(holder, "held", held)
    app.holder = holder
    shown = chains.find(held).path
    assert shown.startswith("hostile_app.holder")
    assert "held" in shown or "→" in shown


def test_a_key_that_runs_amok(app: Any, hostile: Any) -> None:
    """A key is shown by its type."""
    key = object.__new__(hostile.Lying)
    held: list[int] = []
    app.names = {1: held}
    app.other = [key]
    assert chains.find(held).path == "hostile_app.names[1]"
    assert chains.find(key).path == "hostile_app.other[0]"


def test_modules_are_never_asked(app: Any, hostile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No module is asked what it refers to: _asyncio of CPython 3.12 hands out dead objects, and the process dies."""
    asked: list[type] = []
    true = gc.get_referents

    def watched(*some: object) -> list[Any]:
        asked.extend(map(type, some))
        return true(*some)

    monkeypatch.setattr(gc, "get_referents", watched)
    app.held = {7: b"x" * 5000}
    assert chains.find(app.held[7]).path == "hostile_app.held[7]"
    lengths = Lengths(budget_s=5.0)
    lengths.first()
    lengths.again()
    lengths.last()
    weigh([app, [app]])
    assert asked
    assert not any(kind is ModuleType for kind in asked)


def test_namespaces_that_lie(app: Any, hostile: Any) -> None:
    """The dict of attributes, a function's globals or a class's body may be of a class that runs amok."""

    class Odd:
        pass

    app.odd, held = Odd(), list[int]()
    app.odd.__dict__ = hostile.Sly()
    dict.__setitem__(app.odd.__dict__, "held", held)
    assert chains.find(held).path == "hostile_app.odd.held"
    space = hostile.Sly()
    exec("def handler(items=[]): return items", space)  # noqa: S102 - how such globals come about
    app.handler = dict.__getitem__(space, "handler")
    assert "default of argument items" in chains.find(app.handler.__defaults__[0]).path
    take_inventory(budget_s=5.0)
