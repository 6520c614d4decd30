"""How instances of a type are measured; arrays, tensors and tables are told by their names, never imported."""

from __future__ import annotations

import functools
import gc
import sys
import types
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Elements", "Parts", "Trait", "shallow", "trait_of", "values_bytes"]

# An object that cannot tell its size counts as a small one.
_UNKNOWN_BYTES: Final = 64
_HEADER_BYTES: Final = sys.getsizeof([]) - [].__sizeof__()
# Py_TPFLAGS_MANAGED_DICT (Include/object.h): attributes lie in an array of their own, which getsizeof leaves out: a
# word for each and two more, three on CPython 3.13, as tracemalloc shows.
_MANAGED_DICT: Final = 1 << 4
_MORE_WORDS: Final = 3 if sys.version_info >= (3, 13) else 2
_WORD_BYTES: Final = 8
# Chunks of arrow columns that are looked at one by one, 2 us each; beyond, arrow adds up what it can.
_CHUNKS: Final = 64

# Everybody's: no object keeps these alive alone. A cached function leads to its cache.
_SHARED: Final[frozenset[type]] = frozenset(
    {
        type,
        types.ModuleType,
        types.FunctionType,
        types.BuiltinFunctionType,
        types.MethodDescriptorType,
        types.WrapperDescriptorType,
        types.GetSetDescriptorType,
        types.MemberDescriptorType,
        types.CodeType,
        property,
        staticmethod,
        classmethod,
        type(functools.lru_cache(bool)),
        type(None),
        type(...),
        type(NotImplemented),
        bool,
    }
)
# A logger leads to every other; members of an enum live as long as their class.
_SHARED_NAMES: Final = frozenset({("logging", "Logger"), ("enum", "Enum")})
_SIZED: Final = (dict, list, tuple, set, frozenset, deque)
_LEAVES: Final = (str, bytes, bytearray, int, float, complex, range, slice, weakref.ref)

Parts = tuple[int, "Sequence[tuple[int, int]]", "Sequence[object]"]
"""Own bytes, blocks outside of Python's heap as (address, bytes), and objects behind."""


class Trait:
    """How instances of one type are measured.

    ``counts``: they are somebody's, not everybody's. ``inner``: more may lie behind them. ``sized``: the builtin
    container underneath. ``read``: tells parts that neither getsizeof nor the garbage collector knows. ``plain``: what
    they refer to is all there is to know.
    """

    __slots__ = ("counts", "inner", "plain", "read", "sized")

    def __init__(
        self,
        *,
        counts: bool = True,
        inner: bool = True,
        sized: type | None = None,
        read: Callable[[Any], Parts] | None = None,
    ) -> None:
        self.counts: bool = counts
        self.inner: bool = inner
        self.sized: type | None = sized
        self.read: Callable[[Any], Parts] | None = read
        self.plain: bool = counts and inner and sized is None and read is None


def trait_of(kind: type) -> Trait:
    """The trait of a type, from the names and homes of its bases, as far as these are loaded."""
    for base in _MRO(kind):
        trait = _builtin(base) or _foreign(base)
        if trait is not None:
            return trait
    return Trait()


def _builtin(base: type) -> Trait | None:
    if base in _SHARED:
        return Trait(counts=False)
    if base in _SIZED:
        return Trait(sized=base)
    return Trait(inner=False) if base in _LEAVES else None


def _foreign(base: type) -> Trait | None:
    module, name = _MODULE(base), _NAME(base)
    if type(module) is not str:
        return None
    if (module, name) in _SHARED_NAMES:
        return Trait(counts=False)
    package = module.partition(".")[0]
    reader = _READERS.get((package, name))
    if reader is not None and vars(sys.modules.get(package, object)).get(name) is base:
        return Trait(inner=False, read=functools.partial(reader, base))
    return Trait(read=_pandas) if package == "pandas" else None


# What type itself says of a class; a metaclass may answer otherwise.
_MRO: Final[Callable[[type], tuple[type, ...]]] = cast("Any", type).__dict__["__mro__"].__get__
_MODULE: Final[Callable[[type], object]] = cast("Any", type).__dict__["__module__"].__get__
_NAME: Final[Callable[[type], str]] = cast("Any", type).__dict__["__name__"].__get__


def shallow(thing: object) -> int:
    """What ``sys.getsizeof`` says; of an object that lies or refuses, what CPython's layout of its type says."""
    try:
        return sys.getsizeof(thing)
    except Exception:  # noqa: BLE001 - a __sizeof__ that raises must not end a walk
        return _laid_out(thing)


def _laid_out(thing: object) -> int:
    try:
        return object.__sizeof__(thing) + (_HEADER_BYTES if gc.is_tracked(thing) else 0)
    except Exception:  # noqa: BLE001
        return _UNKNOWN_BYTES


def values_bytes(things: Sequence[object]) -> int:
    """Bytes of the arrays in which instances of one type keep their attributes, judged by the first of them."""
    if not type(things[0]).__flags__ & _MANAGED_DICT:
        return 0
    kind = type(things[0])
    kinds: list[type] = [type(inner) for inner in gc.get_referents(things[0]) if inner is not kind]
    slots = (kind.__basicsize__ - object.__basicsize__) // _WORD_BYTES
    if dict in kinds and len(kinds) - 1 <= slots:
        return 0  # somebody asked for its __dict__: that has them now
    return len(things) * _WORD_BYTES * (len(kinds) + _MORE_WORDS)


class Elements:
    """The elements of a numpy array of objects, as a container."""

    __slots__ = ("_flat", "_size")

    def __init__(self, flat: Any, size: int) -> None:  # noqa: ANN401
        self._flat, self._size = flat, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> list[object]:
        found: list[object] = self._flat[part].tolist()
        return found


# --- readers, called with the base class and an instance: only what the base class defines is asked ------------------


def _numpy(base: Any, array: Any) -> Parts:  # noqa: ANN401
    """One that owns its elements counts them; a view leads to its base."""
    own: int = base.__sizeof__(array)
    behind: list[object] = gc.get_referents(array) if type(array) is not base else []
    owner = base.base.__get__(array)
    if owner is not None:
        behind.append(owner)
    elif base.dtype.__get__(array).kind == "O":
        behind.append(Elements(base.flat.__get__(array), base.size.__get__(array)))
    return own, (), behind


def _pandas(thing: Any) -> Parts:  # noqa: ANN401
    """Whatever pandas makes: its ``__sizeof__`` walks every element, so its layout counts."""
    return _laid_out(thing), (), gc.get_referents(thing)


def _mmap(base: Any, mapping: Any) -> Parts:  # noqa: ANN401
    try:
        return shallow(mapping), ((id(mapping), base.__len__(mapping)),), ()
    except ValueError:  # closed
        return shallow(mapping), (), ()


def _arrow_buffer(base: Any, buffer: Any) -> Parts:  # noqa: ANN401
    return _laid_out(buffer), ((base.address.__get__(buffer), base.size.__get__(buffer)),), ()


def _arrow_array(base: Any, array: Any) -> Parts:  # noqa: ANN401
    return _laid_out(array), _buffers(base, array), ()


def _buffers(base: Any, array: Any) -> list[tuple[int, int]]:  # noqa: ANN401
    """Of an array: whole buffers, though it be a slice of them, and its dictionary's."""
    blocks = [(buffer.address, buffer.size) for buffer in base.buffers(array) if buffer is not None]
    dictionary = getattr(array, "dictionary", None) if type(array).__name__ == "DictionaryArray" else None
    return blocks if dictionary is None else [*blocks, *_buffers(base, dictionary)]


def _arrow_chunks(base: Any, table: Any) -> Parts:  # noqa: ANN401
    """A table, a batch or a chunked array: the buffers of its chunks, each once."""
    columns = [table] if base.__name__ == "ChunkedArray" else base.columns.__get__(table)
    array = sys.modules["pyarrow"].Array
    blocks: list[tuple[int, int]] = []
    looked = 0
    for column in columns:
        for chunk in (column,) if isinstance(column, array) else column.chunks:
            looked += 1
            if looked > _CHUNKS:
                total = base.get_total_buffer_size(table)
                # What many small chunks share with others cannot be told any more: the table stands for itself.
                return _laid_out(table), ((id(table), total),), ()
            blocks += _buffers(array, chunk)
    return _laid_out(table), blocks, ()


def _torch(base: Any, tensor: Any) -> Parts:  # noqa: ANN401
    """The storage, if it lies in the process's own memory; and the gradient."""
    torch = sys.modules["torch"]
    own = _laid_out(tensor)
    with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - or a subclass's own code would be asked
        try:
            if base.device.__get__(tensor).type != "cpu":
                return own, (), ()
            storage = base.untyped_storage(tensor)
            blocks = ((int(storage.data_ptr()), int(storage.nbytes())),)
            grad = base.grad.__get__(tensor) if base.is_leaf.__get__(tensor) else None
        except (RuntimeError, NotImplementedError):  # sparse, or without storage
            return own, (), ()
    return own, blocks, gc.get_referents(tensor) if grad is None else (*gc.get_referents(tensor), grad)


_READERS: Final[dict[tuple[str, str], Callable[[Any, Any], Parts]]] = {
    ("numpy", "ndarray"): _numpy,
    ("mmap", "mmap"): _mmap,
    ("pyarrow", "Buffer"): _arrow_buffer,
    ("pyarrow", "Array"): _arrow_array,
    ("pyarrow", "ChunkedArray"): _arrow_chunks,
    ("pyarrow", "RecordBatch"): _arrow_chunks,
    ("pyarrow", "Table"): _arrow_chunks,
    ("torch", "Tensor"): _torch,
}
