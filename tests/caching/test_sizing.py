"""What objects weigh: exact when small, sampled with an honest error when large, and never disturbed."""

from __future__ import annotations

import array
import collections
import copy
import gc
import json
import logging
import mmap
import pickle
import random
import subprocess
import sys
import threading
import tracemalloc
import types
import weakref
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from memguard.sizing import Size, bytes_of, entry_bytes, sizeof
from memguard.sizing.measured import _BUDGET
from memguard.sizing.scales import Scales

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NOBODYS = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, bool, type(None))


def _exact(root: object) -> int:
    """An exact walk, slow and plain: each object once, by what CPython says of it."""
    seen, stack, total = set[int](), [root], 0
    while stack:
        thing: Any = stack.pop()
        if id(thing) in seen or isinstance(thing, _NOBODYS) or (type(thing) is int and -6 < thing < 257):
            continue
        if isinstance(thing, (str, bytes)) and (len(thing) < 2 or sys.getrefcount(thing) > 1 << 29):  # kept anyway
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        stack += gc.get_referents(thing)
        if isinstance(thing, dict):
            stack += dict.keys(thing)
        if isinstance(thing, np.ndarray):
            stack.append(thing.base)
    return total


def _text(dice: random.Random, length: float) -> str:
    return "".join(dice.choices("abcdefghij klmnop", k=int(length) + 1))


def _documents(dice: random.Random) -> Any:
    """1 MB of JSON: records of one kind, nested, of different sizes."""
    made, size = list[Any](), 0
    while size < 1_000_000:
        made.append(
            {
                "id": dice.randrange(1000, 10**6),
                "name": _text(dice, dice.randint(5, 30)),
                "score": dice.random(),
                "tags": [_text(dice, 6) for _ in range(dice.randint(1, 4))],
                "author": {"name": _text(dice, 12), "mail": _text(dice, 20), "age": dice.randint(300, 900)},
            }
        )
        size += len(json.dumps(made[-1]))
    return json.loads(json.dumps({"version": 1, "items": made}))


def _chats(dice: random.Random) -> Any:
    """1 MB of JSON: conversations of messages."""
    made, size = list[Any](), 0
    while size < 1_000_000:
        messages = [
            {
                "role": dice.choice(["user", "assistant"]),
                "content": _text(dice, dice.randint(20, 600)),
                "at": dice.random(),
            }
            for _ in range(dice.randint(4, 40))
        ]
        made.append({"id": len(made) + 1000, "messages": messages})
        size += len(json.dumps(made[-1]))
    return json.loads(json.dumps(made))


def _embeddings(dice: random.Random) -> Any:
    """Vectors as lists of floats, by their texts."""
    return {_text(dice, 40): [dice.random() for _ in range(384)] for _ in range(100)}


def _rows(dice: random.Random) -> Any:
    """Rows with the same keys."""
    return [{"a": number + 1000, "b": dice.random(), "c": f"name {number}", "d": None} for number in range(5000)]


def _words(dice: random.Random) -> Any:
    """Many small objects in one list."""
    return [_text(dice, dice.randint(1, 200)) for _ in range(20_000)]


def _keyed(dice: random.Random) -> Any:
    """A large dict of small values."""
    return {f"key-{number}": number * 1000 for number in range(30_000)}


def _skewed(dice: random.Random) -> Any:
    """1 % of the elements hold 90 % of the bytes."""
    return [{"k": at + 300, "v": _text(dice, 90_000 if dice.random() < 0.01 else 100)} for at in range(1500)]


@dataclass
class _Point:
    x: float
    y: str


@dataclass(slots=True)
class _SlottedPoint:
    x: float
    y: str


class _Colour(Enum):
    RED = "red" * 100


_SHAPES: list[Callable[[random.Random], Any]] = [_documents, _chats, _embeddings, _rows, _words, _keyed]


# --- how true --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", _SHAPES)
def test_large_objects_are_weighed_within_five_percent(shape: Callable[[random.Random], Any]) -> None:
    """Of JSON documents, chat logs, embeddings, rows and words, a sample is within 5 % of an exact walk."""
    thing = shape(random.Random(5))
    assert sizeof(thing) == pytest.approx(_exact(thing), rel=0.05)


@pytest.mark.parametrize("shape", _SHAPES)
def test_what_is_weighed_is_what_was_allocated(shape: Callable[[random.Random], Any]) -> None:
    """The sample is within 5 % of what tracemalloc saw being allocated and kept."""
    shape(random.Random(6))  # what the code itself keeps is there before
    gc.collect()
    tracemalloc.start(1)
    try:
        before = tracemalloc.get_traced_memory()[0]
        thing = shape(random.Random(6))
        gc.collect()
        allocated = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert sizeof(thing) == pytest.approx(allocated, rel=0.05)


@pytest.mark.parametrize("shape", [*_SHAPES, _skewed])
def test_the_error_is_about_two_sigma(shape: Callable[[random.Random], Any]) -> None:
    """Of ten objects of a kind, eight true sizes or more lie within the stated error, or within 0.5 %."""
    within = 0
    for seed in range(10):
        thing = shape(random.Random(seed))
        size, exact = sizeof(thing), _exact(thing)
        within += abs(size - exact) <= max(size.error_bytes, 0.005 * exact)
    assert within >= 8


def test_a_skewed_list_says_that_it_is_hard() -> None:
    """Where 1 % of many elements hold 90 % of the bytes, the stated error is large, and true."""
    dice = random.Random(3)
    thing = [{"k": at + 300, "v": bytes(90_000 if dice.random() < 0.01 else 100)} for at in range(20_000)]
    size = sizeof(thing)
    assert size.error_bytes > 0.05 * size
    assert abs(size - _exact(thing)) <= 1.5 * size.error_bytes


def test_few_large_ones_are_looked_for() -> None:
    """Where 1 % of some thousand elements hold 90 % of the bytes, nearly all of these are weighed."""
    for seed in range(5):
        thing = _skewed(random.Random(seed))
        assert sizeof(thing) == pytest.approx(_exact(thing), rel=0.15)


def test_small_objects_are_exact() -> None:
    """What can be visited whole is, and the error is 0."""
    thing = {"a": [1.5, "two", b"three", 4000], "b": {"c": ({1.5, 2.5}, frozenset([3.5]))}, 12.5: (None, True, 1)}
    size = sizeof(thing)
    assert size == _exact(thing)
    assert size.error_bytes == 0


def test_walks_repeat() -> None:
    """The same object weighs the same twice."""
    thing = _chats(random.Random(8))
    first, second = sizeof(thing), sizeof(thing)
    assert (first, first.error_bytes) == (second, second.error_bytes)


def test_a_rhythm_in_a_list_does_not_mislead() -> None:
    """Every second, third, fifth or eighth element large: all the same to the sample."""
    for rhythm in (2, 3, 5, 8, 13):
        thing = [[b"x" * (1000 if at % rhythm == 0 else 10)] for at in range(15_000)]
        size, exact = sizeof(thing), _exact(thing)
        assert size == pytest.approx(exact, rel=0.25)
        assert abs(size - exact) <= 2 * size.error_bytes


def test_records_of_many_kinds_are_weighed_by_their_places() -> None:
    """Records with names that only some have, nested in each other, in a dict, and with odd objects among them."""

    def record(dice: random.Random, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {"id": dice.randrange(1000, 10**6), "tags": [_text(dice, 6)] * dice.randint(1, 3)}
        if dice.random() < 0.6 and depth < 3:
            made["child"] = record(dice, depth + 1)
        if dice.random() < 0.1:
            made["body"] = _text(dice, 800)
        if dice.random() < 0.2:
            made["point"] = _Point(dice.random(), _text(dice, 40))
        return made

    def rows(seed: int) -> list[dict[str, Any]]:
        dice = random.Random(seed)
        return [record(dice, 0) for _ in range(3000)]

    table = {f"row {at}": row for at, row in enumerate(rows(13))}
    for thing in (rows(12), table, tuple(rows(14)), {"items": rows(15), "more": [1.5, "x"]}):
        size, exact = sizeof(thing), _exact(thing)
        assert size == pytest.approx(exact, rel=0.12)
        assert abs(size - exact) <= 1.5 * size.error_bytes


def test_a_sample_is_released() -> None:
    """What a survey by columns looked at is held by nobody afterwards, whatever it found there."""
    thing = _chats(random.Random(9))
    thing[0]["messages"][0]["odd"] = _Point(1.5, "x")
    parts = [part for chat in thing for part in (chat, chat["messages"], *chat["messages"])]
    gc.disable()
    try:
        before = list(map(sys.getrefcount, parts))
        sizeof(thing)
        assert list(map(sys.getrefcount, parts)) == before
    finally:
        gc.enable()


def test_keys_that_raise_are_left_alone() -> None:
    """Where keys of a few dicts answer to the names of all others, and raise, the walk still ends with a size."""

    class Trap(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            raise AssertionError("it was asked")

        __hash__ = str.__hash__

    thing: list[Any] = [{"name": f"number {at:05}", "at": float(at)} for at in range(3000)]
    for at in range(0, 3000, 400):
        thing[at] = {Trap("name"): "x" * 50, "at": float(at)}
    assert sizeof(thing) == pytest.approx(3000 * (184 + 8 + 61 + 24), rel=0.15)


# --- how long --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: [0.5] * 10**6,
        lambda: [[float(at) for at in range(1000)] for _ in range(200)],
        lambda: dict.fromkeys(range(10**6), "x"),
        lambda: [dict.fromkeys(range(20_000)) for _ in range(20)],
        lambda: {"a": [{"b": list(range(300, 30_000))} for _ in range(50)]},
        lambda: [_Point(float(at), str(at)) for at in range(50_000)],
        lambda: collections.deque(bytes(at % 100) for at in range(100_000)),
        lambda: set(range(100_000)),
        lambda: np.array([str(at) for at in range(100_000)], dtype=object),
        lambda: [np.zeros(100)[:50] for _ in range(20_000)],
    ],
)
def test_the_budget_bounds_what_is_visited(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size, at most about twice the budget of objects is weighed, shared ones and levels included."""
    thing = make()
    weighed = 0
    weigh = Scales.plain

    def counting(self: Scales, flat: Any) -> Any:
        nonlocal weighed
        weighed += len(flat)
        return weigh(self, flat)

    monkeypatch.setattr(Scales, "plain", counting)
    sizeof(thing)
    assert 0 < weighed <= 2 * _BUDGET


def test_depth_is_no_matter() -> None:
    """100 000 lists in each other raise no RecursionError; the error says that the bottom was not reached."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    size = sizeof(deep)
    assert size.error_bytes >= size > 0
    while deep:
        deep = deep[0]


def test_some_depth_is_exact() -> None:
    """Fifty levels are walked to the bottom."""
    deep: Any = "bottom of it all"
    for at in range(25):
        deep = {"down": [deep, float(at)]}
    size = sizeof(deep)
    assert size == _exact(deep)
    assert size.error_bytes == 0


# --- what counts, and how often --------------------------------------------------------------------------------------


def test_what_is_shared_counts_once() -> None:
    """A referent that two hold is kept alive once."""
    blob = b"x" * 10_000
    assert sizeof([blob, blob]) == sizeof([blob]) + 8
    assert sizeof({"a": [blob], "b": (blob,)}) < 11_000


def test_what_is_shared_counts_once_across_samples() -> None:
    """Ten large values that 20 000 rows share are not scaled up with the rows."""
    shared = [{"text": str(at) * 20_000} for at in range(10)]
    thing = [{"row": at + 1000, "schema": shared[at % 10]} for at in range(20_000)]
    assert sizeof(thing) == pytest.approx(_exact(thing), rel=0.05)


def test_pairs_that_share_are_noticed_in_a_sample() -> None:
    """Where each two neighbours share one value, the sample finds out, within its error."""
    thing = []
    for at in range(10_000):
        shared = {"x": str(at) * 60}
        thing += [[shared], [shared]]
    size, exact = sizeof(thing), _exact(thing)
    assert size == pytest.approx(exact, rel=0.3)
    assert abs(size - exact) <= size.error_bytes


def test_what_others_hold_too_counts_in_full() -> None:
    """Rows that an index holds as well are as large as rows that nobody else holds."""
    rows = _rows(random.Random(1)) * 1
    index = {row["c"]: row for row in rows}
    assert sizeof(rows) == pytest.approx(_exact(rows), rel=0.05)
    assert len(index) == len(rows)


def test_classes_functions_and_modules_are_nobodys() -> None:
    """What all instances share, and what modules hold anyway, does not count."""
    thing = [sys, json, _Point, _exact, len, logging.getLogger("x"), _Colour.RED, None, True, ...]
    assert sizeof(thing) == sys.getsizeof(thing)
    kept = [1, 2, 256, "", "a", b"b", ()]
    assert sizeof(kept) == sys.getsizeof(kept)
    assert sizeof(_Point) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: collections.OrderedDict({f"key {at}": float(at) for at in range(50)}),
        lambda: collections.OrderedDict({(at, 1): float(at) for at in range(50)}),
        lambda: collections.defaultdict(list, {at + 1000: [float(at)] for at in range(50)}),
        lambda: collections.Counter({f"word {at}": at + 300 for at in range(50)}),
        lambda: collections.UserDict({f"key {at}": float(at) for at in range(50)}),
        lambda: collections.deque(float(at) for at in range(50)),
        lambda: collections.ChainMap({"aa": 1.5}, {"bb": 2.5}),
        lambda: {frozenset([at + 0.5]): {at + 1000} for at in range(50)},
    ],
)
def test_containers_of_the_standard_library(make: Callable[[], Any]) -> None:
    """Subclasses of dict and the rest of collections count with keys and values."""
    thing = make()
    size = sizeof(thing)
    assert size == pytest.approx(_exact(thing), abs=100)
    assert size.error_bytes == 0


def test_large_subclasses_are_sampled() -> None:
    """A large subclass of dict or list is sampled underneath its own methods."""

    class Rows(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError

        def __len__(self) -> int:
            raise AssertionError

        def __getitem__(self, at: Any) -> Any:
            raise AssertionError

    class Table(dict[Any, Any]):
        def values(self) -> Any:
            raise AssertionError

        keys = items = __iter__ = __len__ = values

    assert sizeof(Rows(float(at) for at in range(50_000))) == pytest.approx(50_000 * 32, rel=0.15)
    plain = {f"a key {at}": float(at) for at in range(50_000)}
    assert sizeof(Table(plain)) == pytest.approx(_exact(plain), rel=0.1)


@pytest.mark.parametrize("kind", [_Point, _SlottedPoint])
def test_instances_are_true_to_what_was_allocated(kind: Any) -> None:
    """Attributes count wherever CPython keeps them: in slots, in an array of the instance, or in a dict."""
    points = [kind(0.5, "warm")]
    points.clear()
    tracemalloc.start(1)
    try:
        before = tracemalloc.get_traced_memory()[0]
        points = [kind(float(at), f"point {at}") for at in range(1000)]
        allocated = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert sizeof(points) == pytest.approx(allocated, rel=0.03)


class _Message:
    """A message that holds its text in a slot, and what only some have in its ``__dict__``."""

    __slots__ = ("__dict__", "at", "author", "text")

    def __init__(self, dice: random.Random, extra: float) -> None:
        self.text = "x" * int(2 + dice.lognormvariate(4, 1))
        self.at = dice.random()
        self.author = {"name": "y" * dice.randrange(5, 20), "id": dice.randrange(1000, 10**6)}
        if dice.random() < extra:
            self.attachment = "z" * 2000


@pytest.mark.parametrize("extra", [0.0, 0.02, 0.3], ids=["alike", "few with more", "uneven"])
@pytest.mark.parametrize("nested", [False, True])
def test_many_instances_are_weighed_by_their_attributes(nested: bool, extra: float) -> None:
    """Thousands of instances are within 5 % in the mean, also where some have attributes that others have not."""
    off = list[float]()
    for seed in range(4):
        dice = random.Random(seed)
        made: Any = [_Message(dice, extra) for _ in range(2000)]
        thing = {number: made[number : number + 30] for number in range(0, 2000, 30)} if nested else made
        size, exact = sizeof(thing), _exact(thing)
        assert abs(size - exact) <= max(2 * size.error_bytes, 0.03 * exact)
        off.append(size / exact - 1)
    assert sum(one * one for one in off) / 4 <= 0.05**2


def test_instances_and_their_kinds_are_released() -> None:
    """Instances of many types in one list, some of which tell nothing: all are weighed, and nobody holds them after."""
    kinds = [type(f"Kind{number}", (), {"__slots__": ("own",)}) for number in range(7)]
    things: list[Any] = []
    for number in range(4900):
        one = kinds[number % 7]()
        one.own = f"the text {number}"
        things.append(one)
    before = [sys.getrefcount(one) for one in things[:50]]
    assert sizeof(things) == pytest.approx(_exact(things), rel=0.05)
    assert [sys.getrefcount(one) for one in things[:50]] == before


def test_looking_makes_no_instance_dict() -> None:
    """Weighing an instance does not make its __dict__, which would stay for good."""
    points = [_Point(float(at), "y") for at in range(100)]

    def allocated() -> int:
        return sum(type(one) is dict for point in points for one in gc.get_referents(point))

    assert allocated() == 0
    sizeof(points)
    bytes_of(points[0])
    entry_bytes("k", points[1])
    assert allocated() == 0


def test_pydantic_models_count_with_their_fields() -> None:
    """Models count with what they hold; the names of fields are their class's."""
    import pydantic

    class Model(pydantic.BaseModel):
        number: int
        text: str
        many: list[float]

    models = [Model(number=at + 1000, text=f"text {at}", many=[at + 0.5]) for at in range(3000)]
    assert sizeof(models) == pytest.approx(_exact(models), rel=0.05)


# --- what lies outside -----------------------------------------------------------------------------------------------


def test_arrays_count_their_memory() -> None:
    """A numpy array counts what it owns; a view counts its base, once for all views."""
    base = np.zeros(100_000)
    assert sizeof(base) == sys.getsizeof(base)
    assert sizeof(base[10:20]) == pytest.approx(800_000, rel=0.01)
    views = {at: base[at : at + 10] for at in range(300)}
    assert sizeof(views) == _exact(views)
    assert sizeof([base, base[1:], base.reshape(10, -1)]) < 801_000


def test_views_count_their_base_once_across_samples() -> None:
    """20 000 views of one array do not multiply it; 5 000 views of 5 000 arrays count each."""
    base = np.zeros(1_000_000)
    views = [base[at : at + 10] for at in range(20_000)]
    assert sizeof(views) == pytest.approx(_exact(views), rel=0.05)
    apart = [np.zeros(100)[:5] for _ in range(5000)]
    assert sizeof(apart) == pytest.approx(_exact(apart), rel=0.05)


def test_arrays_of_objects_count_the_objects() -> None:
    """An array of objects counts them, sampled when there are many; arrays of numbers have none."""
    for count in (10, 50_000):
        words = np.array([f"a longer word {at:07}" for at in range(count)], dtype=object)
        assert sizeof(words) == pytest.approx(count * (8 + sys.getsizeof("a longer word 1234567")) + 112, rel=0.02)


def test_subclasses_of_arrays_are_not_asked() -> None:
    """A subclass of ndarray that redefines everything is measured by what numpy says."""

    class Liar(np.ndarray[Any, Any]):
        @property
        def nbytes(self) -> Any:
            raise AssertionError

        base = size = dtype = flat = nbytes

        def __sizeof__(self) -> int:
            raise AssertionError

    assert sizeof(np.zeros(10_000).view(Liar)) == pytest.approx(80_000, rel=0.02)


def test_mapped_arrays_count_their_file(tmp_path: Path) -> None:
    """A memory-mapped array counts the mapping behind it, once."""
    mapped: Any = np.memmap(tmp_path / "data", dtype="f8", mode="w+", shape=(10_000,))
    assert sizeof([mapped, mapped[5:]]) == pytest.approx(80_000, rel=0.03)


def test_frames_count_their_columns() -> None:
    """Series and frames count their arrays, with the objects in them, as pandas' deep memory usage does."""
    numbers = pd.DataFrame({"a": np.arange(20_000), "b": np.random.default_rng(1).random(20_000)})
    assert sizeof(numbers) == pytest.approx(320_000, rel=0.03)
    words = pd.Series([f"a longer word {at:07}" for at in range(20_000)], dtype=object)
    assert sizeof(words) == pytest.approx(int(words.memory_usage(deep=True)), rel=0.03)
    mixed = numbers.assign(c=words, d=pd.Categorical(["x", "y"] * 10_000))
    assert sizeof(mixed) == pytest.approx(int(mixed.memory_usage(deep=True).sum()), rel=0.03)
    assert sizeof([numbers, numbers["a"], numbers.iloc[5:]]) < 1.1 * sizeof(numbers)
    text = pd.Series([f"a longer word {at:07}" for at in range(20_000)])
    assert sizeof(text) == pytest.approx(int(text.memory_usage(deep=True)), rel=0.1)


def test_arrow_counts_its_buffers() -> None:
    """Arrow arrays, slices, chunked arrays, batches and tables count the buffers they keep, each once."""
    numbers = pa.array(range(100_000), pa.int64())
    whole = pytest.approx(800_000, rel=0.02)
    assert sizeof(numbers) == whole
    assert sizeof(numbers[10:20]) == whole
    assert sizeof([numbers, numbers[1:], numbers[2:]]) == whole
    assert sizeof([numbers[at:] for at in range(20_000)]) == pytest.approx(
        800_000 + 20_000 * (8 + 16 + object.__sizeof__(numbers)), rel=0.03
    )
    assert sizeof(pa.chunked_array([numbers, numbers])) == whole
    table = pa.table({"a": numbers, "b": numbers, "c": pa.array([0.5] * 100_000)})
    assert sizeof(table) == pytest.approx(1_600_000, rel=0.02)
    assert sizeof([table, table.slice(5), table.select(["c"])]) == pytest.approx(1_600_000, rel=0.02)
    assert sizeof(table.to_batches()[0]) == pytest.approx(1_600_000, rel=0.02)
    assert sizeof(numbers.buffers()[1]) == whole
    assert sizeof(numbers.to_numpy()) == whole
    words = pa.array(["alpha" * 1000, "beta" * 1000] * 10).dictionary_encode()
    assert sizeof(words) == pytest.approx(words.get_total_buffer_size(), abs=300)


def test_tables_of_many_chunks_are_added_up_by_arrow() -> None:
    """A table of a thousand chunks counts what arrow says of it, in bounded time."""
    table = pa.table({"a": pa.chunked_array([pa.array([float(at)] * 100) for at in range(1000)])})
    assert sizeof(table) == pytest.approx(800_000, rel=0.05)


def _torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that looks like torch as far as sizes go: tensors over storages that know their address and bytes."""

    class Storage:
        def __init__(self, address: int, size: int) -> None:
            self.address, self.size = address, size

        def data_ptr(self) -> int:
            return self.address

        def nbytes(self) -> int:
            return self.size

    class TensorBase:
        def __init__(self, storage: Storage | None, *, device: str = "cpu", grad: object = None) -> None:
            self.parts = (storage, types.SimpleNamespace(type=device), grad)

        device = property(lambda self: self.parts[1])
        grad = property(lambda self: self.parts[2])
        is_leaf = property(lambda self: True)

        def untyped_storage(self) -> Storage:
            if self.parts[0] is None:
                raise NotImplementedError("Cannot access storage of SparseTensorImpl")
            return self.parts[0]

    class Tensor(TensorBase):
        __module__ = "torch"

    class NoOverrides:
        def __enter__(self) -> None: ...

        def __exit__(self, *exc: object) -> None: ...

    torch: Any = types.ModuleType("torch")
    torch.Tensor, torch.Storage = Tensor, Storage
    torch._C = types.SimpleNamespace(DisableTorchFunctionSubclass=NoOverrides)
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


def test_tensors_count_their_storage_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors over one storage count it once; gradients count; what lies on another device or is sparse does not."""
    torch = _torch(monkeypatch)
    storage = torch.Storage(4096, 1_000_000)
    assert sizeof([torch.Tensor(storage), torch.Tensor(storage)]) == pytest.approx(1_000_000, rel=0.01)
    assert sizeof([torch.Tensor(storage), torch.Tensor(torch.Storage(8192, 500_000))]) == pytest.approx(1.5e6, rel=0.01)
    grad = torch.Tensor(torch.Storage(1 << 20, 1_000_000))
    assert sizeof(torch.Tensor(storage, grad=grad)) == pytest.approx(2_000_000, rel=0.01)
    assert sizeof(torch.Tensor(storage, device="cuda")) < 1000
    assert sizeof(torch.Tensor(None)) < 1000


def test_tensors_share_storages_across_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 000 tensors over ten storages do not multiply them."""
    torch = _torch(monkeypatch)
    storages = [torch.Storage(at << 30, 10_000_000) for at in range(1, 11)]
    tensors = [torch.Tensor(storages[at % 10]) for at in range(20_000)]
    assert sizeof(tensors) == pytest.approx(100_000_000, rel=0.15)


def test_a_library_that_is_not_as_known_is_weighed_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a known type lacks what it used to have, its instances count with what getsizeof says."""
    torch = _torch(monkeypatch)
    del torch._C
    tensor = torch.Tensor(torch.Storage(4096, 1_000_000))
    assert 0 < sizeof(tensor) < 1000


def test_only_the_real_type_is_believed() -> None:
    """A class that merely calls itself numpy.ndarray is walked like any other."""
    fake = type("ndarray", (), {"__module__": "numpy"})()
    fake.attribute = "x" * 10_000
    assert sizeof(fake) == pytest.approx(10_100, rel=0.05)


def test_bytes_and_their_likes() -> None:
    """bytes, bytearray and array count their buffers, a memoryview the object behind it, a mapping its length."""
    assert sizeof(b"x" * 10_000) == sys.getsizeof(b"x" * 10_000)
    assert sizeof(bytearray(10_000)) == sys.getsizeof(bytearray(10_000))
    assert sizeof(array.array("d", [0.5] * 1000)) == pytest.approx(8000, rel=0.05)
    view = memoryview(bytearray(10_000))
    assert sizeof(view[5:10]) == pytest.approx(10_000, rel=0.06)
    assert sizeof([view, view[5:], view.obj]) == pytest.approx(10_000, rel=0.15)
    released = memoryview(b"x" * 10_000)
    released.release()
    assert sizeof(released) < 1000
    with mmap.mmap(-1, 1 << 16) as mapping:
        assert sizeof([mapping, mapping]) == pytest.approx(1 << 16, rel=0.01)
    assert sizeof(mapping) < 1000  # closed


# --- bad company -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [-5, "many", None, 1.5, OSError("no"), RecursionError("deep"), 1 << 80])
def test_sizes_that_lie_or_raise(answer: Any) -> None:
    """A __sizeof__ that raises, or gives what is no size, is replaced by the layout of the type; the rest counts on."""

    class Liar:
        def __init__(self) -> None:
            self.held = b"x" * 10_000

        def __sizeof__(self) -> int:
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]

    assert sizeof([Liar(), 1.5]) == pytest.approx(10_200, rel=0.03)
    assert entry_bytes("k", Liar()) == pytest.approx(10_200, rel=0.03)


def test_no_code_of_the_object_runs() -> None:
    """Attributes, properties, lengths, iterators, comparisons and hashes of what is weighed are never asked."""

    def refuse(*_: object) -> Any:
        raise AssertionError("it was asked")

    class Shy:
        __getattribute__ = __getattr__ = __len__ = __iter__ = __bool__ = __getitem__ = refuse
        __contains__ = __dir__ = __repr__ = __str__ = __index__ = __int__ = refuse
        __eq__ = __hash__ = refuse
        prop = property(refuse)

        def __init__(self) -> None:
            object.__setattr__(self, "held", bytes(1000))

    class ShyDict(dict[Any, Any]):
        __getattribute__ = __len__ = __iter__ = __bool__ = __getitem__ = keys = values = items = refuse
        __eq__ = refuse
        __hash__ = refuse  # type: ignore[assignment]

    assert sizeof([Shy(), ShyDict(a=bytes(1000))]) > 2000
    crowd = [Shy() for _ in range(5000)]
    assert sizeof(crowd) == pytest.approx(5000 * 1150, rel=0.05)


def test_metaclasses_are_not_asked() -> None:
    """A class whose metaclass hashes, compares or answers in its own way is weighed all the same."""

    class Meta(type):
        def __instancecheck__(cls, one: object) -> bool:
            raise AssertionError

        def __subclasscheck__(cls, one: object) -> bool:
            raise AssertionError

        @property
        def __mro__(cls) -> Any:
            raise AssertionError

    class Odd(metaclass=Meta):
        pass

    odd = Odd()
    odd.held = b"x" * 10_000  # type: ignore[attr-defined]
    assert sizeof([odd]) == pytest.approx(10_200, rel=0.03)


def test_cycles_end() -> None:
    """Objects that hold each other count once each."""
    knot: list[Any] = [1.5]
    knot += [knot, {"the knot": knot}, (knot, knot)]
    assert sizeof(knot) == _exact(knot)
    nodes = [_Point(0.5, "") for _ in range(5000)]
    for one, other in zip(nodes, nodes[1:] + nodes[:1], strict=True):
        one.y = other  # type: ignore[assignment]
    ring = sizeof(nodes[0])  # one after another: the budget ends first
    assert ring.error_bytes >= ring
    assert sizeof(nodes) > 5000 * 24


def test_nothing_is_kept_and_no_garbage_left() -> None:
    """After a walk no object has more references than before, and the collector finds nothing to collect."""
    thing = _documents(random.Random(2))
    thing["odd"] = [_Point(1.5, "x"), np.zeros(10)[:5], pd.Series([1, 2]), pa.array([1, 2])]
    parts = [thing, thing["items"], *thing["items"][:200], *thing["odd"], thing["odd"][0].y]
    watch = weakref.ref(thing["odd"][0])
    sizeof(thing)
    gc.collect()
    gc.disable()
    try:
        before = list(map(sys.getrefcount, parts))
        sizeof(thing)
        entry_bytes("key", thing)
        bytes_of(thing)
        assert list(map(sys.getrefcount, parts)) == before
        assert gc.collect() == 0
        del parts, thing
        assert watch() is None
    finally:
        gc.enable()


def test_objects_may_change_meanwhile() -> None:
    """While other threads fill and empty what is walked, every walk ends with a size."""
    table: dict[Any, Any] = {at: [at] for at in range(5000)}
    rows: list[Any] = [{"a": at} for at in range(5000)]
    lots: set[int] = set(range(3000))
    over = threading.Event()

    def churn(seed: int) -> None:
        dice = random.Random(seed)
        while not over.is_set():
            at = dice.randrange(5000)
            table.pop(at, None)
            table[at + 5000 * dice.randrange(3)] = [at]
            rows[at % 500][at] = at
            lots.symmetric_difference_update((at, at + 1))
            if len(rows) > 2000 and at % 3 == 0:
                del rows[-500:]
            else:
                rows.extend({"a": at} for _ in range(100 if len(rows) < 9000 else 0))

    threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        sizes = [sizeof([table, rows, lots]) for _ in range(150)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert all(size > 0 for size in sizes)


# --- the answer ------------------------------------------------------------------------------------------------------


def test_a_size_is_an_int_that_keeps_its_error() -> None:
    """A size adds, compares and formats as an int, and keeps its error through copies and processes."""
    size = Size(1000, error_bytes=50)
    assert size == 1000
    assert size + 1 == 1001
    assert f"{size:,}" == "1,000"
    for again in (copy.copy(size), copy.deepcopy(size), pickle.loads(pickle.dumps(size))):  # noqa: S301 - our own
        assert type(again) is Size
        assert (again, again.error_bytes) == (1000, 50)
    assert Size(5).error_bytes == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("a key", 1.5),
        (12345, b"bytes"),
        (("a key", 1000, 2.5), "value"),
        (("user", 77_000), ("name", 1.5, b"x")),
        ("a key", None),
        ("a key", True),
    ],
)
def test_plain_entries_weigh_their_leaves(key: Any, value: Any) -> None:
    """Entries of strings, numbers, bytes and small tuples of these are the sum of their leaves."""
    leaves = [part for thing in (key, value) for part in ([thing, *thing] if type(thing) is tuple else [thing])]
    header = sys.getsizeof(()) - ().__sizeof__()
    exact = sum(sys.getsizeof(leaf) for leaf in leaves if not isinstance(leaf, (bool, type(None))))
    assert exact - 2 * header <= entry_bytes(key, value) <= exact


def test_entries_count_what_key_and_value_share_once() -> None:
    """A value that holds its own key counts it once."""
    key = "k" * 10_000
    assert entry_bytes(key, [key]) == sizeof([key])
    assert entry_bytes((key, [1.5]), {"key": key}) < 11_000


def test_entries_of_large_values_are_sampled() -> None:
    """A large value is within a tenth of an exact walk."""
    value = _documents(random.Random(4))
    assert entry_bytes("k", value) == pytest.approx(_exact(value), rel=0.1)


def test_no_library_is_imported() -> None:
    """Weighing brings no third-party module."""
    code = (
        "import sys; before = set(sys.modules); from memguard.sizing import sizeof; sizeof([{'a': 1.5}] * 9)\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(names - set(sys.stdlib_module_names) - {'memguard'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
