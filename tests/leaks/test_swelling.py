"""Containers that hold more at each look are found; what only comes and goes is not."""

from __future__ import annotations

import io
import random
import weakref
from collections import OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, Any

import pytest

from memguard.leaks.retained import weigh
from memguard.leaks.swelling import Grown, Lengths, newest

if TYPE_CHECKING:
    from collections.abc import Callable


class Thing:
    """Something to hold."""

    def __init__(self, size: int = 0) -> None:
        self.body = bytes(size)


def _grow_list(box: Any) -> None:
    box.append([])


def _grow_dict(box: Any) -> None:
    box[len(box)] = []


def _grow_buffer(box: Any) -> None:
    box.extend(b"0123456789")


def _grow_stream(box: Any) -> None:
    box.write(b"0123456789" * 100)


def _found(box: Any, grow: Callable[[Any], None], each: int = 20) -> list[Grown]:
    lengths = Lengths(budget_s=10.0)
    for look in (lengths.first, lengths.again, lengths.after, lengths.after):
        for _ in range(each):
            grow(box)
        look()
    for _ in range(each):
        grow(box)
    assert lengths.complete
    return [one for one in lengths.last() if one.container is box]


@pytest.mark.parametrize(
    ("box", "grow"),
    [
        ([], _grow_list),
        (deque(), _grow_list),
        ({}, _grow_dict),
        (OrderedDict(), _grow_dict),
        (defaultdict(list), _grow_dict),
        (set(), lambda box: box.add(len(box))),
        ({}, lambda box: box.__setitem__(len(box), b"plain")),
        (bytearray(), _grow_buffer),
        (io.BytesIO(), _grow_stream),
    ],
)
def test_each_kind(box: Any, grow: Callable[[Any], None]) -> None:
    """Lists, deques, dicts and their subclasses, sets, untracked dicts and buffers are all seen."""
    holder = [box]
    found = _found(holder[0], grow)
    assert len(found) == 1
    assert found[0].rises
    assert found[0].ends[0] < found[0].ends[1] < found[0].ends[2]


def test_a_container_that_shrinks_again() -> None:
    """What was emptied meanwhile is not told of."""
    box: list[list[int]] = []

    def work(box: Any) -> None:
        box.append([])
        if len(box) > 70:
            box.clear()

    assert _found(box, work) == []


def test_a_population_that_varies() -> None:
    """Of 50 sets that come and go by chance, hardly one is told of."""
    dice, told = random.Random(3), 0
    for _ in range(50):
        lengths = [1000]
        for _ in range(6):
            lengths.append(lengths[-1] + dice.randint(-15, 15))
        one = Grown(set(), lengths)
        told += one.grown > 0 and one.rises
    assert told <= 2


def test_nothing_is_kept_for_long() -> None:
    """A container that nobody else holds is let go at the next look; afterwards none is held."""

    class Box(list[Any]):
        pass

    box = Box([[] for _ in range(10)])
    gone, lengths = weakref.ref(box), Lengths(budget_s=10.0)
    lengths.first()
    box.extend([] for _ in range(50))
    lengths.again()
    assert any(one.container is box for one in lengths._kept)
    del box
    assert gone() is not None
    lengths.after()
    assert gone() is None
    lengths.last()
    assert lengths._kept == []


def test_a_budget_that_ends_first_is_told() -> None:
    """Without time it says that it has not seen all."""
    lengths = Lengths(budget_s=0.0)
    lengths.first()
    assert not lengths.complete


def test_the_newest() -> None:
    """Samples are what was put in last; of a dict of numbers its keys."""
    assert newest(list(range(100)), 2) == [99, 98]
    assert newest(deque([1, 2, 3]), 1) == [3]
    assert newest({"a": [1], "b": [2]}, 1) == [[2]]
    assert newest({"a": 1, "b": 2}, 1) == ["b"]
    assert newest(5) == []


def test_weights() -> None:
    """What samples hold alone is theirs; what they share is nobody's."""
    shared = bytearray(100_000)
    some = [[Thing(2_000), shared] for _ in range(5)]
    weight = weigh(some)
    assert 2_000 < weight.each < 4_000
    assert f"{__name__}.Thing" in weight.types
    assert weigh([]).each == 0
