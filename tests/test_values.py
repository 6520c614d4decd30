"""Values behave as frozen, slotted, keyword-only dataclasses do, for Python, its libraries and type checkers."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

import memguard
from memguard.values import field, fields, is_value, replace, value


@value
class Point:
    """A value that uses everything there is."""

    x: int
    y: float = 2.0
    tags: list[str] = field(default_factory=list)
    note: str = field(default="", compare=False, repr=False, metadata={"why": "only told"})
    unit: ClassVar[str] = "m"

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError(f"x={self.x} is below 0")

    @property
    def sum(self) -> float:
        """Both together."""
        return self.x + self.y


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """The same as a dataclass."""

    x: int
    y: float = 2.0
    tags: list[str] = dataclasses.field(default_factory=list)
    note: str = dataclasses.field(default="", compare=False, repr=False, metadata={"why": "only told"})
    unit: ClassVar[str] = "m"


@value(kw_only=False)
class Pair:
    """By position."""

    left: int
    right: tuple[int, ...] = ()


@value(frozen=False)
class Count:
    """One that may change."""

    done: int = 0


def test_made_as_a_dataclass_is() -> None:
    """The same signature, texts, defaults and refusals."""
    signatures = [list(inspect.signature(kind).parameters.values()) for kind in (Point, Twin)]
    for ours, theirs in zip(*signatures, strict=True):
        assert (ours.name, ours.kind) == (theirs.name, theirs.kind)
        assert (ours.default is ours.empty) == (theirs.default is theirs.empty)
    assert repr(Point(x=1)) == repr(Twin(x=1)).replace("Twin", "Point") == "Point(x=1, y=2.0, tags=[])"
    assert Point(x=1).tags is not Point(x=1).tags
    assert (Point(x=1).sum, Point.unit) == (3.0, "m")
    kinds: tuple[Any, ...] = (Point, Twin)
    for wrong in ({}, {"x": 1, "z": 2}):
        for kind in kinds:
            with pytest.raises(TypeError, match=r"missing 1 required|unexpected keyword argument 'z'"):
                kind(**wrong)
    with pytest.raises(TypeError, match="positional"):
        Point(1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="x=-1 is below 0"):
        Point(x=-1)


def test_frozen() -> None:
    """Nothing can be assigned, deleted or added."""
    point: Any = Point(x=1)
    for name in ("x", "z"):
        with pytest.raises(dataclasses.FrozenInstanceError, match=name):
            setattr(point, name, 2)
    with pytest.raises(dataclasses.FrozenInstanceError, match="x"):
        del point.x
    assert not hasattr(point, "__dict__")
    count = Count()
    count.done += 1
    assert count == Count(done=1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(count)
    with pytest.raises(AttributeError):
        count.other = 1  # type: ignore[attr-defined]


def test_compared_by_fields() -> None:
    """Equal when of one class and all that counts is equal; equal ones have one hash."""
    assert Point(x=1, note="a") == Point(x=1, note="b")
    assert Point(x=1) != Point(x=2)
    others: tuple[object, ...] = (Twin(x=1), (1, 2.0, []))
    assert Point(x=1) not in others
    assert len({Pair(1), Pair(1, ()), Pair(2)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point(x=1))  # its list is


def test_replace() -> None:
    """A copy with changes, checked anew; nothing that is not there."""
    point = Point(x=1, note="a")
    assert replace(point, y=5.0) == Point(x=1, y=5.0)
    assert replace(point, y=5.0).note == "a"
    with pytest.raises(ValueError, match="below 0"):
        replace(point, x=-1)
    with pytest.raises(TypeError, match="z"):
        replace(point, z=1)
    if sys.version_info >= (3, 13):
        assert copy.replace(point, x=3) == Point(x=3)


def test_by_position() -> None:
    """Those that say so are made, and matched, by position."""
    match Pair(1, (2, 3)):
        case Pair(left, (second, *_)):
            assert (left, second) == (1, 2)
        case _:
            pytest.fail("not matched")
    match Point(x=1):
        case Point(x=1, y=float(high)):
            assert high == 2.0
        case _:
            pytest.fail("not matched")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_copied_and_pickled(protocol: int) -> None:
    """Copies are equal, deep ones share nothing."""
    point = Point(x=1, tags=["a"], note="b")
    for made in (copy.copy(point), copy.deepcopy(point), pickle.loads(pickle.dumps(point, protocol))):  # noqa: S301 - our own
        assert (made, made.note) == (point, "b")
    assert copy.deepcopy(point).tags is not point.tags


def test_a_dataclass_to_others() -> None:
    """``dataclasses`` takes it: fields, metadata, replace, asdict, and what marks its classes."""
    point = Point(x=1, tags=["a"])
    subjects: tuple[Any, ...] = (Point, point)
    assert all(dataclasses.is_dataclass(one) for one in subjects)
    assert is_value(point)
    assert not is_value(Point)
    assert not is_value(Twin(x=1))
    told = [
        [(one.name, one.default, one.compare, one.repr, dict(one.metadata)) for one in dataclasses.fields(kind)]
        for kind in (Point, Twin)
    ]
    assert told[0] == told[1]
    assert [one.name for one in fields(Point)] == [one[0] for one in told[0]]
    assert dataclasses.asdict(point) == dataclasses.asdict(Twin(x=1, tags=["a"]))
    anything: Any = point
    assert dataclasses.replace(anything, x=4) == Point(x=4, tags=["a"])
    params = Point.__dataclass_params__  # type: ignore[attr-defined]
    assert (params.frozen, params.eq, Count.__dataclass_params__.frozen) == (True, True, False)  # type: ignore[attr-defined]


def test_nothing_is_brought_along() -> None:
    """Making and using a value loads no module; ``dataclasses`` comes when somebody asks for it."""
    code = """
import sys
from memguard.values import value, replace
@value
class A:
    x: int = 1
repr(replace(A(), x=2)), A() == A(), hash(A())
assert "dataclasses" not in sys.modules and "inspect" not in sys.modules
A.__dataclass_fields__
assert "dataclasses" in sys.modules
"""
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=Path(memguard.__file__).parents[1], timeout=60)
