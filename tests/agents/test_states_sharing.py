"""An object that somebody else refers to is never packed under its owner, on any version of Python."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import logging
import pickle
import sys
import threading
import time
import types
import weakref
import zoneinfo
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from memguard.agents import sharing
from memguard.agents.sharing import shared_with
from memguard.agents.states import States
from memguard.testing import FakeClock
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable


class Box:
    """The one that holds a state."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class Plain:
    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


@dataclasses.dataclass
class Belief:
    weights: list[float]


@dataclasses.dataclass(slots=True)
class Slotted:
    inner: object


class Mood(enum.Enum):
    CALM = [1]  # noqa: RUF012 - a member whose value is mutable


def closing_over(thing: object) -> Callable[[], object]:
    """A function that keeps it."""
    return lambda: thing


CONSTANT = (1, "two", frozenset({3}), (4, (5,)))
LOG = logging.getLogger("memguard.tests.sharing")


def circle() -> Any:
    """Refers to itself."""
    one: Any = Plain(name="one")
    one.self, one.list = one, [one, {"one": one}]
    return one


def many() -> Any:
    """More attributes than fit into the object itself."""
    thing = Plain()
    for number in range(60):
        setattr(thing, f"part{number}", [number])
    return thing


def after_deleting() -> Any:
    """Its attributes have moved out of the object (CPython 3.13)."""
    thing: Any = Plain(a=[1], b=[2])
    del thing.a
    return thing


ALONE: dict[str, Callable[[], Any]] = {
    "list": lambda: [[1], {"a": [2]}],
    "constants": lambda: [CONSTANT, CONSTANT, (), frozenset(), "text", 10**20, None, 1.5, b"x"],
    "object": lambda: Plain(a=[1], b=Plain(c={})),
    "many attributes": many,
    "deleted attribute": after_deleting,
    "dataclass": lambda: Belief([1.0]),
    "slots": lambda: Slotted([1]),
    "circle": circle,
    "the same twice": lambda: [inner := [1], inner, {"again": inner}],
    "enum, function, class, module, logger": lambda: [Mood.CALM, len, circle, Plain, types, LOG, Plain.mro],
    "times": lambda: [
        dt.datetime.now(tz=zoneinfo.ZoneInfo("Europe/Berlin")),
        dt.datetime.now(tz=dt.UTC),
        decimal.Decimal(1),
    ],
    "collections": lambda: [
        collections.OrderedDict(a=[1]),
        collections.deque([[1]]),
        collections.defaultdict(list, a=[1]),
        {1, (2, 3)},
    ],
    "array": lambda: np.arange(9.0),
    "view of its own": lambda: np.arange(9.0)[2:5],
    "array of arrays": lambda: np.array([np.zeros(2), np.zeros(3)], dtype=object),
    "unpickled array": lambda: pickle.loads(pickle.dumps(np.arange(9.0), 5)),  # noqa: S301 - our own
    "array over bytes": lambda: np.frombuffer(b"12345678"),
    "scalars": lambda: [np.float64(1.5), np.dtype("f4"), array.array("d", [1.0])],
}


@pytest.mark.parametrize("make", ALONE.values(), ids=ALONE)
def test_nobody_else(make: Callable[[], Any]) -> None:
    """A state that nobody else refers to is free, whatever is in it; constants that all share do not count."""
    box = Box(make())  # not in the assertion, which keeps what it has seen
    assert shared_with(box) == ""


HELD: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the state": (lambda: [1], lambda state: state),
    "a list in it": (lambda: {"a": [{"b": []}]}, lambda state: state["a"][0]["b"]),
    "an attribute": (lambda: Plain(a=[1]), lambda state: state.a),
    "its __dict__": (lambda: Plain(a=[1]), vars),
    "its __dict__, many attributes": (many, vars),
    "its __dict__, one deleted": (after_deleting, vars),
    "an inner __dict__": (lambda: [Plain(a=[1])], lambda state: vars(state[0])),
    "a slot": (lambda: Slotted([1]), lambda state: state.inner),
    "an object in a circle": (circle, lambda state: state.list),
    "a list in a tuple": (lambda: [([],)], lambda state: state[0][0]),
    "the tuple around a list": (lambda: [([],)], lambda state: state[0]),
    "an iterator": (lambda: {"a": [1, 2]}, lambda state: iter(state["a"])),
    "a view of a dict": (lambda: {"a": {"b": 1}}, lambda state: state["a"].keys()),
    "a bound method": (lambda: [Belief([1.0])], lambda state: state[0].__repr__),
    "a closure": (lambda: [[1]], lambda state: closing_over(state[0])),
    "another container": (lambda: [[1]], lambda state: {"elsewhere": state[0]}),
    "a weak reference": (lambda: [Plain()], lambda state: weakref.ref(state[0])),
    "a weak set": (lambda: [Plain()], lambda state: weakref.WeakSet([state[0]])),
    "a memoryview": (lambda: [bytearray(9)], lambda state: memoryview(state[0])),
    "an ordered dict's value": (lambda: collections.OrderedDict(a=[1]), lambda state: state["a"]),
    "a deque's item": (lambda: collections.deque([[1]]), lambda state: state[0]),
    "an identity": (lambda: [object()], lambda state: state[0]),
    "a view of an array": (lambda: np.arange(9.0), lambda state: state[1:]),
    "a row of a matrix": (lambda: {"A": np.zeros((3, 3)).T}, lambda state: state["A"][0]),
    "the base of a view": (lambda: np.arange(9.0)[2:5], lambda state: state.base),
    "a view of its base": (lambda: np.arange(9.0)[2:5], lambda state: state.base[:2]),
    "an array in an array": (lambda: np.array([np.zeros(2), None], dtype=object), lambda state: state[0]),
    "a view of an array of arrays": (lambda: np.array([np.zeros(2), None], dtype=object), lambda state: state[1:]),
}


@pytest.mark.parametrize(("make", "take"), HELD.values(), ids=HELD)
def test_somebody_else(make: Callable[[], Any], take: Callable[[Any], Any]) -> None:
    """Whatever of a state somebody holds, in whatever way, is seen; when he lets go it is free."""
    box = Box(make())
    held = take(box.value)
    assert shared_with(box) != ""
    del held
    gc.collect()
    assert shared_with(box) == ""


@pytest.mark.parametrize(("make", "take"), HELD.values(), ids=HELD)
def test_never_packed_under_its_owner(make: Callable[[], Any], take: Callable[[Any], Any]) -> None:
    """The same through the mapping: the state stays the object that somebody has a part of."""
    clock = FakeClock()
    states: States[Any] = States(clock=clock)
    states["a"] = {"it": make(), "filling": ["x" * 100] * 50}
    held = take(states["a"]["it"])
    where = id(states["a"])
    states.pack()
    states.spill()
    states.move()
    assert id(states["a"]) == where
    assert states.figures().refused.keys() == {"shared"}
    del held
    clock.advance(2)
    states.spill()
    assert states.figures().spilled == 1


def test_memory_below_python_counts_as_shared(tmp_path: Any) -> None:
    """A mapped file, and a tensor, may be changed by those who share their memory: they stay."""
    mapped = Box([np.memmap(tmp_path / "file", dtype="f8", mode="w+", shape=(4,))])
    assert "memory of a mmap" in shared_with(mapped)

    class Tensor:
        __module__ = "torch"

    Tensor.__qualname__ = "Tensor"
    tensor = Box([Tensor()])
    assert "may share its memory" in shared_with(tensor)
    records = np.zeros(1, dtype=[("a", object)])
    held = Box([records])
    assert "records" in shared_with(held)


def test_a_pandas_frame() -> None:
    """A table is free with the weak references of its own, and held with a view of a column."""
    pandas = pytest.importorskip("pandas")
    box = Box([pandas.DataFrame({"a": np.arange(9.0), "b": np.arange(9)})])
    assert shared_with(box) == ""
    held = box.value[0]["a"].to_numpy()  # type: ignore[index]
    assert shared_with(box) != ""
    del held


def test_pydantic_and_messages() -> None:
    """Models and messages are free, and held with any part of them."""
    pydantic = pytest.importorskip("pydantic")
    messages = pytest.importorskip("langchain_core.messages")

    class Goal(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        text: str
        tags: list[str]
        _private: list[int] = pydantic.PrivateAttr(default_factory=list)

    box = Box([Goal(text="x", tags=["y"]), messages.HumanMessage("hi", additional_kwargs={"a": [1]})])
    assert shared_with(box) == ""
    takes: list[Callable[[Any], Any]] = [
        lambda parts: parts[0].tags,
        lambda parts: parts[0]._private,
        lambda parts: vars(parts[0]),
        lambda parts: parts[1].additional_kwargs["a"],
        lambda parts: parts[1],
    ]
    for take in takes:
        held = take(box.value)
        assert shared_with(box) != ""
        del held
        assert shared_with(box) == ""


def test_a_frame_that_runs() -> None:
    """A state in use by a thread in the middle of a call stays; after it, it may go."""
    clock = FakeClock()
    states: States[Any] = States(clock=clock)
    states["a"] = Belief([1.0] * 500)
    inside, door = threading.Event(), threading.Event()

    def use(belief: Belief) -> None:
        inside.set()
        door.wait(10)
        belief.weights.append(2.0)

    def run() -> None:
        use(states["a"])

    thread = threading.Thread(target=run)
    thread.start()
    assert inside.wait(5)
    states.spill()
    assert states.figures().live == 1
    door.set()
    thread.join()
    clock.advance(2)
    wait_for(lambda: states.spill() > 0)
    assert states["a"].weights[-1] == 2.0


def test_states_that_share_a_part_stay() -> None:
    """A part of two states stays one object: neither is packed alone."""
    shared = ["x" * 100] * 50
    states: States[Any] = States()
    states["a"], states["b"] = {"own": 1, "all": shared}, {"all": shared}
    del shared
    states.move()
    states.spill()
    assert states.figures().live == 2
    assert states["a"]["all"] is states["b"]["all"]


def test_a_python_that_cannot_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where counts say nothing, everything counts as shared."""
    monkeypatch.setattr(sharing, "_own_count", lambda: None)
    box = Box([1])
    assert "cannot be counted" in shared_with(box)


def test_too_much_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that leads to all the world stays."""
    monkeypatch.setattr(sharing, "_MOST", 100)
    box = Box([[number] for number in range(200)])
    assert "more than 100 objects" in shared_with(box)


def test_it_is_no_dearer_than_pickling_three_times() -> None:
    """The look at 20,000 dicts takes as long as pickling them a few times (best of five)."""
    box = Box([{"n": number, "text": str(number)} for number in range(20_000)])

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            began = time.process_time()
            work()
            times.append(time.process_time() - began)
        return min(times)

    assert best(lambda: shared_with(box)) < 12 * best(lambda: pickle.dumps(box.value, 5))


def test_counts_are_known_here() -> None:
    """On this Python, references can be counted."""
    assert sharing._own_count() is not None, sys.version
