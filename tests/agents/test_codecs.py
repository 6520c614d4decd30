"""Blobs: small where that pays, equal when loaded back, and never made of what cannot be."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest

from memguard.agents import codecs
from memguard.agents.codecs import check_codec, fits, pack, unpack
from memguard.agents.figures import Obstacle
from memguard.agents.sameness import same
from memguard.errors import MissingExtra

pytestmark = pytest.mark.usefixtures("plain_copies")

CHAT = [{"role": "user", "content": f"what is the weather like on day {n}?", "at": 1.7e9 + n} for n in range(3000)]
DENSE = np.random.default_rng(1).random(50_000)


def packed(value: object, **options: Any) -> bytes:
    """A blob that there is."""
    blob = pack(value, **{"codec": "zlib", **options})
    assert not isinstance(blob, Obstacle), blob
    return blob


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
@pytest.mark.parametrize("count", [1, 30, 3000])
def test_what_repeats_gets_small(codec: str, count: int) -> None:
    """Histories shrink by either codec, short, of one probe's length, and long, and load back equal."""
    blob = packed(CHAT[:count], codec=codec)
    assert unpack(blob) == CHAT[:count]
    assert count == 1 or blob[:1] == {"zlib": b"z", "zstd": b"s"}[codec]
    if count == 3000:
        assert len(blob) < len(packed(CHAT, compress=False)) / 5


def test_dense_floats_are_not_compressed() -> None:
    """The first 64 KB tell that it does not pay: the blob is the plain pickle, bit for bit."""
    blob = packed(DENSE)
    assert blob[:1] == b"r"
    assert unpack(blob).tobytes() == DENSE.tobytes()


def test_a_blob_that_does_not_shrink_is_not_made() -> None:
    """Beyond what is allowed, packing gives up, early: nothing of the size of the object is allocated."""
    import tracemalloc

    many = np.tile(DENSE, 20)
    tracemalloc.start()
    found = pack(many, codec="zlib", at_most=many.nbytes // 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, Obstacle)
    assert found.kind == "no gain"
    assert peak < many.nbytes / 8


def test_fits_asks_without_keeping() -> None:
    """Whether a blob fits is told by the same rule as packing follows."""
    size = len(packed(CHAT))
    assert not fits(CHAT, codec="zlib", floats="exact", at_most=size)
    assert fits(CHAT, codec="zlib", floats="exact", at_most=size - 1).kind == "no gain"
    assert fits(lambda: 0, codec="zlib", floats="exact", at_most=size).kind == "unpicklable"


@pytest.mark.parametrize("floats", ["float32", "float16"])
def test_fewer_digits_only_when_asked(floats: str) -> None:
    """Narrow floats take a half or a quarter, wherever in a state, come back in their old type, and are close."""
    narrow = packed({"belief": [DENSE]}, floats=floats)
    assert len(narrow) < len(packed(DENSE)) * (0.55 if floats == "float32" else 0.3)
    back = unpack(narrow)["belief"][0]
    assert back.dtype == DENSE.dtype
    assert not (back == DENSE).all()
    assert np.allclose(back, DENSE, atol=1e-3)


def test_narrowing_leaves_what_it_would_break() -> None:
    """Numbers that a narrow float cannot hold, whole numbers, and floats that are narrow already stay exact."""
    for array in (np.array([1e300, 1.0]), np.arange(9), np.arange(9, dtype="f2"), np.array([np.nan, np.inf])):
        back = unpack(packed(array, floats="float16"))
        assert back.dtype == array.dtype
        assert np.array_equal(back, array, equal_nan=array.dtype.kind == "f")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3)),
        np.array(1.5),
        np.asfortranarray(np.random.default_rng(2).random((30, 40))),
        np.arange(100)[::3],
        np.array([np.zeros(2), [1], None], dtype=object),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2024-01-01"], dtype="M8[D]"),
        np.frombuffer(b"12345678"),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_arrays_of_every_kind(array: Any) -> None:
    """Empty, scalar, transposed, strided, of objects, of records, of dates, read-only: all come back."""
    back = unpack(packed(array))
    assert same(array, back)
    assert back.flags.writeable == array.flags.writeable


def test_whatever_pickling_raises_is_told() -> None:
    """An object that cannot be pickled, or not deep enough, or for want of memory, is an obstacle in words."""

    class Poor:
        def __reduce__(self) -> Any:
            raise MemoryError("poor")

    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value, word in ((lambda: 0, "lambda"), (Poor(), "poor"), (deep, "recursion")):
        found = pack(value, codec="zlib")
        assert isinstance(found, Obstacle)
        assert found.kind == "unpicklable"
        assert word in found.text
    while deep:
        deep = deep[0]  # taken apart by hand: deallocating it would nest as deep


class Unloadable(Exception):
    """Pickles, but cannot be loaded: what its constructor wants is not in its args."""

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code


def test_it_is_loaded_back_before_it_counts() -> None:
    """What pickles but does not load, or loads as something else, is told before the original is gone."""
    found = pack([Unloadable("x", code=1)], codec="zlib", check=lambda _: True)
    assert isinstance(found, Obstacle)
    assert (found.kind, "loaded back" in found.text) == ("unpicklable", True)
    found = pack([1], codec="zlib", check=lambda back: back != [1])
    assert isinstance(found, Obstacle)
    assert found.kind == "unequal"


def test_a_codec_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its package zstd is refused at once, with the command; and so is loading what it once packed."""
    blob = packed(CHAT, codec="zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtra, match=r"pip install 'pymemguard\[zstd\]'$"):
        check_codec("zstd", "exact")
    with pytest.raises(MissingExtra):
        unpack(blob)


@pytest.mark.parametrize(("codec", "floats"), [("lz4", "exact"), ("zlib", "float8"), (None, "exact")])
def test_unknown_names(codec: object, floats: object) -> None:
    """A codec that is none is refused with those that are."""
    with pytest.raises(ValueError, match="choose one of"):
        check_codec(codec, floats)


def test_a_strange_blob_is_refused() -> None:
    """Bytes that were not packed here are not unpickled."""
    with pytest.raises(ValueError, match="not made here"):
        unpack(b"\x80garbage")


def test_damaged_bytes_raise() -> None:
    """A blob that was cut or changed does not load as something else."""
    blob = packed(CHAT)
    for bad in (blob[:-20], blob[:50] + b"\0\0\0\0" + blob[54:]):
        with pytest.raises(Exception, match=r".+"):
            unpack(bad)


def test_pieces_of_any_size() -> None:
    """Large buffers between small ones, on either side of the probe and of what is compressed at once."""
    rng = random.Random(3)
    for sizes in ((10, 70_000, 5), (70_000, 2_000_000, 10, 3_000_000), (1,), (65_536,), (65_535, 2, 1 << 20)):
        value = [rng.randbytes(size) if size % 2 else b"ab" * (size // 2) for size in sizes]
        assert unpack(packed(value)) == value
        assert unpack(packed(value, codec="zstd")) == value


def test_sameness() -> None:
    """Equal by ==, by parts where == is identity, with NaNs; and not what lost something."""

    class Plain:
        def __init__(self, **parts: object) -> None:
            vars(self).update(parts)

    class Slotted:
        __slots__ = ("a", "b")

        def __init__(self, a: object) -> None:
            self.a = a

    nan = float("nan")
    loop: list[Any] = []
    loop.append(loop)
    other: list[Any] = []
    other.append(other)
    assert same([nan, {"x": nan}, Plain(a=[np.array([nan])])], [float("nan"), {"x": nan}, Plain(a=[np.array([nan])])])
    assert same(Slotted([1]), Slotted([1]))
    assert same(loop, other)
    assert same(iter([1, 2]), iter([1, 2]))
    for one, two in (
        (Plain(a=1), Plain(a=2)),
        (Plain(a=1), Plain()),
        (Slotted(1), Slotted(2)),
        ([1], (1,)),
        ([1], [1, 2]),
        (np.zeros(2), np.zeros(3)),
        (np.zeros(2), np.zeros(2, "f4")),
        (np.zeros(2), np.array([0.0, 1.0])),
        ({1: 2}, {1: 3}),
        (iter([1, 2]), iter([1, 3])),
    ):
        assert not same(one, two), (one, two)


def test_tables_are_the_same_by_what_they_pickle() -> None:
    """What compares cell by cell, as pandas does, and has no truth of its own."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": range(9), "b": [f"x{n % 3}" for n in range(9)]})
    for table in (frame, frame["a"], frame.set_index("a"), frame.groupby("b").sum(), pandas.Index([1, 2])):
        assert same([table], [unpack(packed(table))])
    changed = frame.copy()
    changed.iloc[0, 0] = 7
    assert not same(frame, changed)
    assert not same(frame["a"], frame["a"].astype("int8"))


def test_sameness_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many parts to look at one by one count as not equal: the original stays."""
    from memguard.agents import sameness

    class Plain:
        def __init__(self, inner: object) -> None:
            self.inner = inner

    monkeypatch.setattr(sameness, "_MOST", 10)
    assert not same([Plain(n) for n in range(100)], [Plain(n) for n in range(100)])


def test_one_home_for_the_codec() -> None:
    """Compression calls are few: each lets other threads in, and may wait 5 ms for the interpreter."""
    calls = []
    press = codecs._Press("zlib", None)
    squeeze = codecs._squeezed

    def counted(raw: bytes, codec: Any) -> bytes:
        calls.append(len(raw))
        return squeeze(raw, codec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codecs, "_squeezed", counted)
        codecs._press(CHAT[:300], press, "exact")
    assert len(calls) == 1
