"""Chains name who holds an object, by the shortest way."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import random
import sys
import threading
import weakref
from collections import defaultdict, deque
from types import ModuleType
from typing import TYPE_CHECKING, Any

import objgraph
import pytest

from memguard.leaks import chains

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memguard.findings import Chain


class Thing:
    """Held by somebody."""


class Slotted:
    """It has no dict."""

    __slots__ = ("x",)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that is there for this test."""
    module = ModuleType("app_under_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module
    vars(module).clear()


def _path(chain: Chain) -> str:
    return chain.path.replace(f"{__name__}.", "")


def _attribute(app: Any) -> Thing:
    app.bus = Thing()
    app.bus.handlers = [None, Thing()]
    thing: Thing = app.bus.handlers[1]
    return thing


def _nested(app: Any) -> Thing:
    app.store = {"a": defaultdict(list)}
    app.store["a"][5].append(Thing())
    thing: Thing = app.store["a"][5][0]
    return thing


def _closure(app: Any) -> Thing:
    seen: list[Thing] = []

    def handler() -> list[Thing]:
        return seen

    app.handler = handler
    seen.append(Thing())
    return seen[0]


def _default(app: Any) -> Thing:
    def handler(first: int, items: list[Thing] = [Thing()], *, more: int = 0) -> list[Thing]:  # noqa: B006, B008
        return items

    app.handler = handler
    return handler(1)[0]


def _kwdefault(app: Any) -> Thing:
    def handler(*, items: list[Thing] = [Thing()]) -> list[Thing]:  # noqa: B006, B008
        return items

    app.handler = handler
    return handler()[0]


def _class_attribute(app: Any) -> Thing:
    class Registry:
        seen = deque([Thing()])  # noqa: RUF012 - the leak

    app.Registry = Registry
    return Registry.seen[0]


def _slot(app: Any) -> Thing:
    app.one = Slotted()
    app.one.x = Thing()
    thing: Thing = app.one.x
    return thing


def _generator(app: Any) -> Thing:
    def run() -> Iterator[Thing]:
        local = Thing()
        yield local

    app.running = run()
    thing: Thing = next(app.running)
    return thing


def _error(app: Any) -> Thing:
    def fail() -> None:
        local = Thing()  # noqa: F841
        raise ValueError

    try:
        fail()
    except ValueError as error:
        app.last = error.with_traceback(error.__traceback__.tb_next)  # type: ignore[union-attr]
    thing: Thing = app.last.__traceback__.tb_frame.f_locals["local"]
    return thing


def _bound_method(app: Any) -> Thing:
    app.callback = Thing().__init__  # type: ignore[misc]
    thing: Thing = app.callback.__self__
    return thing


def _partial(app: Any) -> Thing:
    app.callback = functools.partial(print, Thing())
    thing: Thing = app.callback.args[0]
    return thing


def _set(app: Any) -> Thing:
    thing = Thing()
    app.all = {thing}
    return thing


def _local(app: Any) -> Thing:
    app.local = threading.local()
    app.local.items = [Thing()]
    thing: Thing = app.local.items[0]
    return thing


@pytest.mark.parametrize(
    ("plant", "path"),
    [
        (_attribute, "app_under_test.bus.handlers[1]"),
        (_nested, "app_under_test.store['a'][5][0]"),
        (_closure, "app_under_test.handler (closure variable seen)[0]"),
        (_default, "app_under_test.handler (default of argument items)[0]"),
        (_kwdefault, "app_under_test.handler (default of argument items)[0]"),
        (_class_attribute, "_class_attribute.<locals>.Registry.seen[0]"),
        (_slot, "app_under_test.one.x"),
        (_generator, "app_under_test.running (local local of _generator.<locals>.run)"),
        (_error, "app_under_test.last.__traceback__.tb_frame (local local of _error.<locals>.fail)"),
        (_bound_method, "app_under_test.callback.__self__"),
        (_partial, "app_under_test.callback.args[0]"),
        (_set, "app_under_test.all {…}"),
        (_local, "app_under_test.local (of one thread)['items'][0]"),
    ],
)
def test_who_holds_it(plant: Callable[[Any], Thing], path: str, app: Any) -> None:
    """The chain reads as one would write it, and ends at the object."""
    chain = chains.find(plant(app))
    assert chain.found
    assert _path(chain) == path
    assert chain.links[-1].type == f"{__name__}.Thing"


@functools.cache
def _unbounded(key: int) -> Thing:
    return Thing()


@functools.lru_cache(maxsize=8)
def _bounded(key: int) -> Thing:
    return Thing()


@pytest.mark.parametrize(("cached", "name"), [(_unbounded, "_unbounded[3]"), (_bounded, "_bounded[cached value]")])
def test_function_caches(cached: Any, name: str) -> None:
    """A function's cache is a root of its own, by the function's name."""
    chain = chains.find(cached(3))
    cached.cache_clear()
    assert (chain.kind, _path(chain)) == ("lru_cache", name)


def test_a_running_function() -> None:
    """What only a local variable of a running function holds is found there."""
    only_here = Thing()
    chain = chains.find(only_here)
    assert chain.kind == "frame"
    assert chain.path.endswith("test_a_running_function (local only_here of test_a_running_function)")
    assert chain.root.startswith("MainThread")


def test_reading_locals_leaves_no_copy() -> None:
    """The examiner's look into a frame does not keep alive what its variable held."""
    passing = Thing()
    gone = weakref.ref(passing)
    gc.disable()
    try:
        chains.find(passing)
        del passing
        assert gone() is None
    finally:
        gc.enable()


def test_a_task(app: Any) -> None:
    """What a coroutine holds while it waits is held by its task."""

    async def job(thing: Thing) -> None:
        await asyncio.sleep(60)

    async def main() -> Chain:
        task = asyncio.create_task(job(Thing()))
        await asyncio.sleep(0)
        held: Any = task.get_coro()
        chain = chains.find(held.cr_frame.f_locals["thing"])
        task.cancel()
        return chain

    chain = asyncio.run(main())
    assert chain.kind == "task"
    assert chain.root.endswith("job")
    assert chain.links[-1].name.startswith("(local thing of")


def test_a_context_variable() -> None:
    """What a context variable holds is found under its name."""
    variable: contextvars.ContextVar[list[Thing]] = contextvars.ContextVar("requests")

    def inside() -> Chain:
        variable.set([Thing()])
        return chains.find(variable.get()[0])

    chain = contextvars.copy_context().run(inside)
    assert "context variable requests" in chain.path


def test_untracked_holders(app: Any) -> None:
    """A dict of plain values, which the collector does not track, is found all the same."""
    app.bodies = {7: b"x" * 4000}
    assert chains.find(app.bodies[7]).path == "app_under_test.bodies[7]"


def test_the_shortest_of_several(app: Any) -> None:
    """Of two ways the shorter one is told."""
    thing = Thing()
    app.long = [[[[thing]]]]
    app.short = thing
    assert chains.find(thing).path == "app_under_test.short"


@pytest.mark.parametrize("seed", range(12))
def test_no_longer_than_objgraphs(seed: int, app: Any) -> None:
    """Over random holders it takes no more steps than objgraph's search for the next module."""
    dice = random.Random(seed)
    holders: list[Any] = [app]
    for number in range(40):
        thing, holder = Thing(), dice.choice(holders[-12:])
        way = 0 if holder is app else dice.randrange(3)
        if way == 0:
            setattr(holder, f"at_{number}", thing)
        elif way == 1:
            vars(holder).setdefault("listed", []).append(thing)
        else:
            vars(holder).setdefault("keyed", {})[number] = thing
        holders.append(thing)
        if dice.random() < 0.3:
            setattr(dice.choice(holders[1:]), f"also_{number}", dice.choice(holders[1:]))
    target = holders.pop()
    del holders, thing, holder
    chain = chains.find(target)
    theirs = objgraph.find_backref_chain(target, objgraph.is_proper_module, max_depth=60)
    assert theirs[0] is app
    # A module's or an instance's own dict is a step of theirs, and none of ours.
    own = {id(vars(one)) for one in theirs if isinstance(one, (Thing, ModuleType))}
    in_test = chain.kind == "frame"  # which has the module, a step away
    assert 1 <= len(chain.links) <= in_test + len([one for one in theirs[1:] if id(one) not in own])


def test_keys_can_be_redacted(app: Any) -> None:
    """Keys of mappings are left out on demand; names of attributes stay."""
    app.by_user = {"alice@example.org": Thing()}
    chain = chains.find(app.by_user["alice@example.org"], redact_keys=True)
    assert chain.path == "app_under_test.by_user[…]"
    assert "alice" not in str(chain)


def test_long_keys_are_cut(app: Any) -> None:
    """A key that is a text of its own is not spread over the report."""
    app.by_text = {"x" * 5000: Thing()}
    assert len(chains.find(next(iter(app.by_text.values()))).path) < 100


def test_a_depth_that_ends_first_is_told(app: Any) -> None:
    """What is nested deeper than one looks is no root, and says so."""
    gc.unfreeze()  # what an earlier test froze would be looked for from the modules too, however deep
    held: Any = Thing()
    found = weakref.ref(held)
    for _ in range(60):
        held = [held]
    app.deep = held
    chain = chains.find(found(), max_depth=10)
    assert not chain.found
    assert "nested deeper" in chain.note


def test_a_budget_that_ends_first_is_told(app: Any) -> None:
    """Without time there is no chain, and the note says what there was time for."""
    app.held = [[Thing()]]
    chain = chains.find(app.held[0][0], budget_s=0.0)
    assert not chain.found
    assert "within 0 s" in chain.note


def test_garbage_is_held_by_nobody() -> None:
    """Of what nothing refers to no root is invented."""
    chain = chains.find(Thing())
    assert not chain.found
    assert chain.note


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search forwards that is not ended by the size of the test suite's own heap."""
    monkeypatch.setattr(chains, "_FORWARD_AT_MOST", 10**9)


@pytest.mark.usefixtures("far")
def test_frozen_objects(app: Any) -> None:
    """A holder that gc.freeze set aside is found by looking forwards."""
    app.store = {"a": [Thing()]}
    gc.freeze()
    try:
        chain = chains.find(app.store["a"][0], budget_s=60.0)
    finally:
        gc.unfreeze()
    assert chain.path == "app_under_test.store['a'][0]"


@pytest.mark.usefixtures("far")
def test_a_new_object_in_a_frozen_holder(app: Any) -> None:
    """So is what was put into a frozen holder later."""
    app.store = {"a": []}
    gc.freeze()
    try:
        app.store["a"].append([Thing()])
        chain = chains.find(app.store["a"][0][0], budget_s=60.0)
    finally:
        gc.unfreeze()
    assert chain.path == "app_under_test.store['a'][0][0]"


def test_the_callers_containers_are_no_answer(app: Any) -> None:
    """What the caller keeps its samples in is left out."""
    app.samples = samples = [Thing()]
    chain = chains.shortest(samples, skip=[samples])
    assert chain.root != "app_under_test"


def test_with_the_collector_off(app: Any) -> None:
    """It needs no collection and switches nothing."""
    gc.disable()
    try:
        app.x = Thing()
        assert chains.find(app.x).path == "app_under_test.x"
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_temporaries_are_no_holders() -> None:
    """What only the search's own result holds (the arguments of its call, in CPython 3.13) is no holder."""
    held = [1]
    assert chains._alive([[2], held]) == [held]
