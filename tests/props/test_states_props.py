"""States lose nothing: whatever is packed, spilled, moved or broken off, what comes out is what went in."""

from __future__ import annotations

import copy
import enum
import errno
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from memguard.agents import attic, codecs, slabs, volume
from memguard.agents.states import States
from memguard.errors import StateTooLarge
from memguard.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

# MEMGUARD_SOAK=10000 tests/props/test_states_props.py runs as many histories.
HISTORIES = int(os.environ.get("MEMGUARD_SOAK", "150"))


class Mood(enum.Enum):
    CALM = 1


@dataclass
class Belief:
    """Compared by its fields."""

    about: str
    weights: list[float] = field(default_factory=list)
    mood: Mood = Mood.CALM


class Goal(pydantic.BaseModel):
    text: str
    tags: set[str] = set()
    _private: list[int] = pydantic.PrivateAttr(default_factory=lambda: [1])


class Opaque:
    """Compared by identity: only its parts tell."""

    def __init__(self, inner: object) -> None:
        self.inner = inner


@dataclass
class Stubborn:
    """Cannot be pickled."""

    text: str

    def __reduce__(self) -> Any:
        raise TypeError("no")

    def __deepcopy__(self, memo: object) -> Stubborn:
        return Stubborn(self.text)


class BrokenOff(BaseException):
    """As KeyboardInterrupt, which would end the tests too."""


def shape(thing: Any) -> Any:  # noqa: PLR0911 - a case for each kind
    """What a thing is, as something that compares by value; written without what it tests."""
    if isinstance(thing, np.ndarray):
        inner = [shape(part) for part in thing.ravel().tolist()] if thing.dtype == object else thing.tobytes()
        return ("array", str(thing.dtype), thing.shape, inner)
    if isinstance(thing, (list, tuple)):
        return (type(thing), [shape(part) for part in thing])
    if isinstance(thing, dict):
        return (type(thing), [(shape(key), shape(value)) for key, value in thing.items()])
    if isinstance(thing, (Opaque, Belief, Stubborn)):
        return (type(thing), shape(vars(thing)))
    if isinstance(thing, pydantic.BaseModel):
        return (type(thing), shape(thing.model_dump()), shape(thing.__pydantic_private__))
    if isinstance(thing, set):
        return (set, sorted(map(repr, thing)))
    return (type(thing), repr(thing))


_text = st.text(max_size=30)
_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | _text
    | st.binary(max_size=30)
    | st.builds(lambda n: np.linspace(0, 1, n), st.integers(0, 40))
    | st.builds(lambda n: np.arange(n)[::2], st.integers(0, 40))
    | st.just(np.array([0.5, float("nan")]))
    | st.builds(Belief, _text, st.lists(st.floats(), max_size=3))
    | st.builds(Goal, text=_text, tags=st.sets(_text, max_size=3))
    | st.builds(HumanMessage, _text)
    | st.builds(lambda text: AIMessage(text, additional_kwargs={"calls": [text]}), _text)
)
_states = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(_text, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.builds(Opaque, inner)
    ),
    max_leaves=12,
)
# Most are long enough that packing pays.
_values = st.builds(
    lambda state, times: {"state": state, "log": [f"line {n}" for n in range(times)]}, _states, st.integers(0, 80)
)
_values |= st.builds(lambda text: {"state": Stubborn(text), "log": []}, _text)
_keys = st.sampled_from(["a", "b", "c", "d", "ключ", "\ud800", ""])
_faults = st.sampled_from([lambda: OSError(errno.ENOSPC, "full"), MemoryError, BrokenOff, ValueError])
_amounts = st.sampled_from([1, 1 << 40])
ON_ONE = {"put", "get", "change", "lease", "delete", "pop", "hold"}

_steps = st.one_of(
    st.tuples(st.just("put"), _keys, _values),
    st.tuples(st.just("get"), _keys),
    st.tuples(st.just("change"), _keys, _text),
    st.tuples(st.just("lease"), _keys, _text),
    st.tuples(st.sampled_from(["delete", "pop", "hold"]), _keys),
    st.tuples(st.sampled_from(["pack", "spill"]), _amounts),
    st.tuples(st.sampled_from(["move", "release"])),
    st.tuples(st.just("limit"), st.sampled_from([None, 3000, 20_000])),
    st.tuples(st.just("crash"), st.integers(1, 8), _faults),
)


class Gone(enum.Enum):
    """Nothing there; copies of it are it."""

    GONE = 0


GONE: Any = Gone.GONE


class History:
    """One history, beside a dict of what must come out."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.states: States[Any] = States("history", max_bytes_each=None, clock=self.clock)
        self.wanted: dict[str, Any] = {}
        self.puts: Counter[str] = Counter()
        self.held: list[tuple[str, int, list[str]]] = []
        self.countdown = 0
        self.fault: Callable[[], BaseException] = ValueError
        self.raised: BaseException | None = None
        for place, name in (
            (volume.Volume, "write"),
            (volume.Volume, "read"),
            (volume.Volume, "drop"),
            (codecs, "_press"),
            (codecs, "unpack"),
            (attic.Attic, "add"),
            (attic.Attic, "remove"),
            (slabs.Slabs, "_new"),
        ):
            patch.setattr(place, name, self.failing(getattr(place, name)))

    def failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """The real thing, which raises when its turn has come."""

        def call(*args: Any, **options: Any) -> Any:
            self.countdown -= 1
            if self.countdown == 0:
                self.raised = self.fault()
                raise self.raised
            return real(*args, **options)

        return call

    def step(self, what: str, *how: Any) -> None:
        """Do one thing. One that was broken off has happened or has not: there is nothing between."""
        self.clock.advance(100)
        if what == "crash":
            self.countdown, self.fault = how
            return
        key = how[0] if what in ON_ONE else ""
        before = self.wanted.get(key, GONE)
        after = self.after(what, before, *how[1:])
        try:
            getattr(self, f"do_{what}")(*how)
        except BaseException as error:
            self.countdown = 0
            if not self.is_ours(error) and not isinstance(error, StateTooLarge):
                raise
            found = self.states.get(key, GONE)
            assert shape(found) in (shape(before), shape(after))
            after = copy.deepcopy(found)
        finally:
            self.countdown, self.raised = 0, None
        if what in ON_ONE:
            if after is GONE:
                self.wanted.pop(key, None)
            else:
                self.wanted[key] = after

    def is_ours(self, error: BaseException | None) -> bool:
        """Whether this is the fault of the day, or has come of it."""
        while error is not None and error is not self.raised:
            error = error.__cause__ or error.__context__
        return error is not None

    @staticmethod
    def after(what: str, before: Any, *how: Any) -> Any:
        """What is there once it has happened."""
        if what == "put":
            return copy.deepcopy(how[0])
        if what in {"delete", "pop"}:
            return GONE
        after = copy.deepcopy(before)
        if what in {"change", "lease"} and after is not GONE:
            after["log"].append(how[0])
        return after

    def do_put(self, key: str, value: Any) -> None:
        self.puts[key] += 1
        self.states[key] = copy.deepcopy(value)

    def do_get(self, key: str) -> None:
        assert (self.states.get(key) is not None) == (key in self.wanted)

    def do_change(self, key: str, text: str) -> None:
        """A change in place, through the object that the mapping gave."""
        if key in self.wanted:
            self.states[key]["log"].append(text)

    def do_lease(self, key: str, text: str) -> None:
        """A change during a lease, with pressure in it."""
        if key in self.wanted:
            with self.states.lease(key) as state:
                state["log"].append(text)
                self.states.pack()
                self.states.spill()
                assert self.states[key] is state

    def do_delete(self, key: str) -> None:
        self.puts[key] += 1
        if key in self.wanted:
            del self.states[key]

    def do_pop(self, key: str) -> None:
        self.puts[key] += 1
        found = self.states.pop(key, GONE)
        assert shape(found) == shape(self.wanted.get(key, GONE))

    def do_pack(self, wanted_bytes: int) -> None:
        self.states.pack(wanted_bytes)

    def do_spill(self, wanted_bytes: int) -> None:
        self.states.spill(wanted_bytes)

    def do_move(self) -> None:
        self.states.move()

    def do_limit(self, limit: int | None) -> None:
        self.states.max_bytes = limit

    def do_hold(self, key: str) -> None:
        """Somebody keeps a part of a state."""
        if key in self.wanted:
            self.held.append((key, self.puts[key], self.states[key]["log"]))

    def do_release(self) -> None:
        """It still is a part of that state, if nobody put another: it was never packed under its owner."""
        for key, puts, log in self.held:
            if self.puts[key] == puts:
                assert self.states[key]["log"] is log
        self.held.clear()

    def check(self) -> None:
        """Everything is there, equal, and added up right; and all that may go to the disk does."""
        self.countdown = 0
        self.do_release()
        self.states.max_bytes = None
        assert sorted(self.states) == sorted(self.wanted)
        assert len(self.states) == len(self.wanted)
        for key, wanted in self.wanted.items():
            assert key in self.states
            assert shape(self.states[key]) == shape(wanted), key
        keeping = self.states._keeping
        accounted = keeping.live_bytes
        keeping.recount()
        assert accounted == keeping.live_bytes
        self.clock.advance(100)
        self.states.spill()
        stubborn = sum(isinstance(wanted["state"], Stubborn) for wanted in self.wanted.values())
        assert self.states.figures().live == stubborn
        for key, wanted in self.wanted.items():
            assert shape(self.states[key]) == shape(wanted), key


@settings(max_examples=HISTORIES)
@given(st.lists(_steps, max_size=25))
def test_nothing_is_lost(steps: list[tuple[Any, ...]]) -> None:
    """After any history of uses, pressure and failures, every state comes out equal to what was put or changed."""
    with pytest.MonkeyPatch.context() as patch:
        history = History(patch)
        for step in steps:
            history.step(*step)
        history.check()
