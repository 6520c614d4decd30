"""One at a time: what a single state may weigh, and how it is made to."""

from __future__ import annotations

from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final

from memguard.agents import codecs
from memguard.agents.figures import Obstacle
from memguard.agents.gauging import Gauge
from memguard.errors import StateTooLarge
from memguard.sizing import entry_bytes
from memguard.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.agents.packing import Packing
    from memguard.agents.reports import Reports

__all__ = ["SHARED_S", "Shrinking"]

SHARED_S: Final = 1.0
"""How long what is in use is left alone."""

# What cannot be packed now cannot in a moment either.
_STUBBORN_S: Final = 60.0
_DISK_S: Final = 5.0


class Shrinking:
    """The limit of each state. ``packs`` says whether objects may become blobs."""

    def __init__(
        self,
        keeping: Packing,
        *,
        max_bytes_each: int | None,
        packs: bool,
        compact: Callable[[Any], Any] | None,
        reports: Reports,
    ) -> None:
        self.keeping = keeping
        self.max_bytes_each: int | None = max_bytes_each
        self.packs: bool = packs
        self.compact: Callable[[Any], Any] | None = compact
        self.reports: Reports = reports
        self.gauge: Gauge = Gauge(keeping)
        self.over: dict[str, None] = {}
        """Live states that were found larger than they may be."""
        self._disk_again = 0.0

    def fit(self, key: str, value: object) -> tuple[object, int, bool]:
        """What to keep of a value that is to be kept, its bytes, and whether it has to be packed to be small enough.

        Raises:
            StateTooLarge: it is larger than a state may be, however small it is made.
        """
        size, limit = entry_bytes(key, value), self.max_bytes_each
        if limit is None or size <= limit:
            return value, size, False
        made = self._compacted(key, value)
        if made is not None:
            value, size = made
            if size <= limit:
                return value, size, False
        keeping, obstacle = self.keeping, Obstacle("no gain", "compact=False")
        if self.packs:
            obstacle = codecs.fits(value, codec=keeping.codec, floats=keeping.floats, at_most=limit)
            if not obstacle:
                return value, size, True
        raise StateTooLarge(
            f"state {key!r} of {keeping.name!r} has {format_bytes(size)}, more than max_bytes_each="
            f"{format_bytes(limit)}, and is not made small enough ({obstacle.text}): shorten it, give "
            f"compact=<a function that does>, or raise max_bytes_each",
            state=key,
            size_bytes=size,
            limit_bytes=limit,
        )

    def _compacted(self, key: str, value: Any) -> tuple[Any, int] | None:  # noqa: ANN401
        """What the user's callable makes of a copy of a state, and its bytes; None (reported) when that is no good."""
        compact = self.compact
        if compact is None or not self.packs:
            return None
        blob = codecs.pack(value, codec="zlib", compress=False)
        if isinstance(blob, Obstacle):
            self.reports.add(key, Obstacle(blob.kind, f"compact() is given a copy, and {blob.text}"))
            return None
        before, after = entry_bytes(key, value), 0
        try:
            made = compact(codecs.unpack(blob))
        except Exception as error:  # noqa: BLE001 - the user's
            made, fault = None, f"failed ({type(error).__name__}: {error})"
        else:
            fault = _no_state(made)
        if not fault:
            after = entry_bytes(key, made)
            fault = f"made {format_bytes(after)} of {format_bytes(before)}" if after >= before else ""
        if fault:
            self.reports.add(key, Obstacle("compact", f"compact() {fault}"))
            return None
        return made, after

    def _refuse(self, key: str, obstacle: Obstacle) -> None:
        """Leave a state alone for a while, for as long as its obstacle is likely to last."""
        self.reports.add(key, obstacle)
        keeping = self.keeping
        if obstacle.kind == "disk":
            self._disk_again = keeping.clock() + _DISK_S
        elif obstacle.kind in {"used", "shared"}:
            keeping.wait(key, seconds=SHARED_S)
        else:
            keeping.wait(key, seconds=_STUBBORN_S, to_pack=obstacle.kind == "no gain")

    def shrink(self, key: str) -> int:
        """Make a state that is over its limit smaller, if nobody refers to it; the bytes that frees."""
        keeping, limit = self.keeping, self.max_bytes_each
        entry = keeping.live.get(key)
        if entry is None or limit is None or entry.bytes <= limit:
            self.over.pop(key, None)
            return 0
        before = entry.bytes
        # To the end of the line, and not before its time.
        self.over[key] = self.over.pop(key, None)
        if max(entry.again, entry.packs_again) > keeping.clock():
            return 0
        del entry
        freed = self._compact_in_place(key, before)
        if freed is None or key not in self.over:
            return freed or 0
        packed = keeping.pack(key, at_most=before) if self.packs else Obstacle("too large", "compact=False")
        if isinstance(packed, Obstacle):
            self._refuse(key, packed)
            return freed
        self.over.pop(key, None)
        length = keeping.packed_bytes(key)
        if length > limit:
            text = f"packed it has {format_bytes(length)}, more than {format_bytes(limit)}"
            self.reports.add(key, Obstacle("too large", text))
        return freed + packed

    def _compact_in_place(self, key: str, before: int) -> int | None:
        """Let the user's callable shorten a live state; the bytes that frees, None when it has to wait."""
        if self.compact is None or not self.packs:
            return 0
        keeping = self.keeping
        obstacle = keeping.replace(key, lambda value: self._compacted(key, value))
        if obstacle:
            self._refuse(key, obstacle)
            return None
        entry = keeping.live.get(key)
        after = 0 if entry is None else entry.bytes
        if self.max_bytes_each is None or after <= self.max_bytes_each:
            self.over.pop(key, None)
        return max(0, before - after)

    def look_over(self, key: str, *, read: bool = False) -> None:
        """Measure a live state anew."""
        size = self.gauge.look(key, read=read)
        if size is not None and self.max_bytes_each is not None and size > self.max_bytes_each:
            self.over[key] = None

    def look_for_large(self) -> None:
        """Measure every live state anew."""
        for key in list(self.keeping.live):
            self.look_over(key)

    def tend(self) -> None:
        """Measure one state that was used since it was measured."""
        key = self.gauge.pick()
        if key is not None:
            self.look_over(key)


def _no_state(made: object) -> str:
    """What is wrong with what the user's callable returned; "" when it may be a state."""
    if made is None:
        return "returned None: let it return the smaller state"
    if isinstance(made, (CoroutineType, GeneratorType)):
        made.close()
        kind = "coroutine" if isinstance(made, CoroutineType) else "generator"
        return f"returned a {kind}: let it return the smaller state, without async and yield"
    return ""
