"""Codecs: an object as one blob of bytes, and back.

A blob is a letter that names its codec, then a pickle (protocol 5), compressed or not. Blobs are read by the process
that made them and by its forked children alone: pickles of strangers run what they like.
"""

from __future__ import annotations

import io
import pickle
import sys
import zlib
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from memguard.agents.figures import Obstacle
from memguard.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Codec", "Floats", "check_codec", "fits", "pack", "unpack"]

Codec = Literal["zlib", "zstd"]
"""What compresses: zlib is always there, zstd needs the extra of that name."""

Floats = Literal["exact", "float32", "float16"]
"""How floats in numpy arrays are kept: as they are, or narrower, which loses digits for good."""

_PROBE_BYTES: Final = 64 * 1024
# Compressing pays from here on: dense floats come to 0.95, text to 0.2.
_PAYS_RATIO: Final = 0.9
# The last of zlib's fast ones: on chat histories a third to a half of the time of its own 6, for 2 to 9 % more bytes.
_LEVEL: Final = 3
# What is compressed in one call.
_AT_ONCE_BYTES: Final = 1 << 20
_RAW: Final = b"r"
_ZLIB: Final = b"z"
_ZSTD: Final = b"s"
_TAGS: Final = {"zlib": _ZLIB, "zstd": _ZSTD}
_READ_BYTES: Final = 256 * 1024


def check_codec(codec: object, floats: object) -> None:
    """Refuse what is no codec, or cannot be used here.

    Raises:
        ValueError: an unknown name.
        MissingExtra: zstd without its package.
    """
    if codec not in get_args(Codec):
        raise ValueError(f"codec={codec!r} is unknown: choose one of {', '.join(get_args(Codec))}")
    if floats not in get_args(Floats):
        raise ValueError(f"floats={floats!r} is unknown: choose one of {', '.join(get_args(Floats))}")
    if codec == "zstd":
        _zstd()


def _zstd() -> Any:  # noqa: ANN401 - a module without types of its own
    try:
        import zstandard  # noqa: PLC0415
    except ImportError:
        raise MissingExtra("packing states with zstd", "zstd") from None
    return zstandard


class _TooLarge(Exception):
    """The blob grows beyond what was allowed."""


class _Press:
    """The file that a pickle is written to: keeps 64 KB back to see whether compressing pays, then goes on so.

    zlib and zstd let go of the interpreter at each call, and a thread that computes gives it back after 5 ms: so they
    are called seldom, with much.
    """

    def __init__(self, codec: Codec, at_most: int | None, *, keep: bool = True, compress: bool = True) -> None:
        self._codec: Codec = codec
        self._at_most = sys.maxsize if at_most is None else at_most
        self._keep = keep
        self._compress = compress
        self._decided = False
        self._compressor: Any = None
        self._out = io.BytesIO()
        self._held = bytearray()
        self.length: int = 0

    def write(self, piece: bytes | pickle.PickleBuffer) -> int:
        """Take in a piece: bytes, or the buffer of a large array, which is not copied."""
        view = memoryview(piece).cast("B")
        if not self._decided and len(self._held) + len(view) > _PROBE_BYTES:
            room = _PROBE_BYTES - len(self._held)
            self._held += view[:room]
            self._decide()
            self._take(view[room:])
        else:
            self._take(view)
        return len(view)

    def _take(self, view: memoryview) -> None:
        plain = self._compressor is None
        if self._decided and (plain or len(self._held) + len(view) > _AT_ONCE_BYTES):
            self._pass_on(self._held)
            self._held = bytearray()
            self._pass_on(view)
        else:
            self._held += view

    def _decide(self) -> None:
        self._decided = True
        probe = bytes(self._held)
        if self._compress and len(_squeezed(probe, self._codec)) < _PAYS_RATIO * len(probe):
            self._compressor = (
                zlib.compressobj(_LEVEL) if self._codec == "zlib" else _zstd().ZstdCompressor().compressobj()
            )
            self._emit(_TAGS[self._codec])
        else:
            self._emit(_RAW)

    def _pass_on(self, view: bytearray | memoryview) -> None:
        self._emit(view if self._compressor is None else self._compressor.compress(view))

    def _emit(self, piece: bytes | bytearray | memoryview) -> None:
        self.length += len(piece)
        if self.length > self._at_most:
            raise _TooLarge
        if self._keep:
            self._out.write(piece)

    def close(self) -> tuple[bytes, bytes]:
        """The blob; and the pickle, if it was short, else b""."""
        if self._decided:
            self._pass_on(self._held)
            if self._compressor is not None:
                self._emit(self._compressor.flush())
            return self._out.getvalue(), b""
        raw = bytes(self._held)
        short = _squeezed(raw, self._codec) if self._compress else raw
        pays = len(short) < _PAYS_RATIO * len(raw)
        self._emit(_TAGS[self._codec] if pays else _RAW)
        self._emit(short if pays else raw)
        return self._out.getvalue(), raw


def _squeezed(raw: bytes, codec: Codec) -> bytes:
    squeezed: bytes = zlib.compress(raw, _LEVEL) if codec == "zlib" else _zstd().ZstdCompressor().compress(raw)
    return squeezed


def _press(value: object, press: _Press, floats: Floats) -> tuple[bytes, bytes]:
    # Subclassed only when needed: asked about every object, it takes three times as long.
    pickler = pickle.Pickler(cast("Any", press), 5) if floats == "exact" else _Narrow(press, floats)
    pickler.dump(value)
    return press.close()


def pack(  # noqa: PLR0913 - options, all but the first with a default
    value: object,
    *,
    codec: Codec,
    floats: Floats = "exact",
    at_most: int | None = None,
    compress: bool = True,
    check: Callable[[Any], bool] | None = None,
) -> bytes | Obstacle:
    """An object's blob, or why there is none; one larger than ``at_most`` bytes is not made.

    ``check`` is given what loads back from it, and says whether that will do. Whatever is raised meanwhile ends up in
    the obstacle, MemoryError included: the object is as it was.
    """
    try:
        blob, raw = _press(value, _Press(codec, at_most, compress=compress), floats)
    except Exception as error:  # noqa: BLE001 - pickling runs other people's code
        return _obstacle(error)
    if check is not None:
        try:
            if not check(pickle.loads(raw) if raw else unpack(blob)):  # noqa: S301 - pickled here
                return Obstacle("unequal", "what loads back is not equal to it")
        except Exception as error:  # noqa: BLE001 - so does loading
            return Obstacle("unpicklable", f"it cannot be loaded back ({type(error).__name__}: {error})")
    return blob


def fits(value: object, *, codec: Codec, floats: Floats, at_most: int) -> Obstacle:
    """What stands in the way of a blob of so many bytes; keeps nothing of it."""
    try:
        _press(value, _Press(codec, at_most, keep=False), floats)
    except Exception as error:  # noqa: BLE001 - as in pack
        return _obstacle(error)
    return Obstacle()


def _obstacle(error: Exception) -> Obstacle:
    if isinstance(error, _TooLarge):
        return Obstacle("no gain", "it does not get small enough")
    return Obstacle("unpicklable", f"it cannot be pickled ({type(error).__name__}: {error})")


class _Unpressed(io.RawIOBase):
    """A compressed blob as a file of what it holds."""

    def __init__(self, blob: memoryview, decompress: Callable[[memoryview], bytes]) -> None:
        self._blob = blob
        self._decompress = decompress
        self._at = 0
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        while not self._left:
            piece = self._blob[self._at : self._at + _READ_BYTES]
            if not piece:
                return 0
            self._at += len(piece)
            self._left = memoryview(self._decompress(piece))
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def unpack(blob: bytes | memoryview) -> Any:  # noqa: ANN401 - whatever was packed
    """The object that a blob of ``pack`` holds.

    Raises:
        MissingExtra: its codec cannot be imported.
        Exception: what the classes in it raise while they are loaded.
    """
    view = memoryview(blob)
    tag, body = bytes(view[:1]), view[1:]
    if tag == _RAW:
        return pickle.loads(body)  # noqa: S301 - pickled here
    if tag == _ZLIB:
        decompress: Callable[[memoryview], bytes] = zlib.decompressobj().decompress
    elif tag == _ZSTD:
        decompress = _zstd().ZstdDecompressor().decompressobj().decompress
    else:
        raise ValueError(f"a blob that begins with {tag!r} was not made here")
    return pickle.load(io.BufferedReader(_Unpressed(body, decompress), _READ_BYTES))  # noqa: S301 - as above


# --- floats ---------------------------------------------------------------------------------------------------------


class _Narrow(pickle.Pickler):
    """Writes float arrays of numpy with fewer digits, as far as that leaves what is finite finite."""

    def __init__(self, press: _Press, floats: Floats) -> None:
        super().__init__(cast("Any", press), 5)
        self._floats = floats
        self._numpy: Any = sys.modules.get("numpy")

    def reducer_override(self, obj: Any) -> Any:  # noqa: ANN401
        numpy = self._numpy
        if numpy is None or type(obj) is not numpy.ndarray or obj.dtype.kind != "f":
            return NotImplemented
        if obj.dtype.itemsize <= numpy.dtype(self._floats).itemsize:
            return NotImplemented
        with numpy.errstate(over="ignore"):
            narrow = obj.astype(self._floats)
        if not numpy.array_equal(numpy.isfinite(narrow), numpy.isfinite(obj)):
            return NotImplemented
        return _widened, (narrow, obj.dtype.str)


def _widened(narrow: Any, dtype: str) -> Any:  # noqa: ANN401
    return narrow.astype(dtype)
