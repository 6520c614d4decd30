"""Keeping: where each state is: an object, packed in the attic, or on disk; and how it becomes an object again.

Whoever reads a live state takes no lock.
"""

from __future__ import annotations

import heapq
from _thread import RLock, get_ident
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from memguard.agents import codecs, forks
from memguard.agents.attic import PLACE_BYTES, Attic
from memguard.errors import StateUnreadable
from memguard.threads import new_lock
from memguard.units import format_bytes

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable

    from memguard.agents.codecs import Codec, Floats
    from memguard.agents.spill import Spill

__all__ = ["ANY", "ENTRY_BYTES", "Entry", "Keeping"]

ANY: Final = object()
"""Whatever object it is."""

ENTRY_BYTES: Final = 256
"""What a live state costs beside itself: its entry, with a place in a dict."""

# Whoever wants a state that another thread is just loading waits so long, then loads it too: the other may be waiting
# for him.
_WAIT_S: Final = 1.0
_is_mine: Final[Callable[[RLock], bool]] = cast("Any", RLock)._is_owned  # noqa: SLF001 - as threading.Condition


class Entry:
    """A live state. ``token`` names the try at packing it that is under way.

    ``again`` and ``packs_again`` are when it may next be tried to part with it, and to pack it in memory.
    """

    __slots__ = ("again", "bytes", "measured", "packs_again", "token", "used", "value")

    def __init__(self, value: Any, size: int, now: float) -> None:  # noqa: ANN401
        self.value: Any = value
        self.bytes: int = size
        self.used: float = now
        self.measured: float = now
        self.again: float = 0.0
        self.packs_again: float = 0.0
        self.token: int = 0


class Keeping:
    """States by key, wherever they are."""

    def __init__(
        self, name: str, *, codec: Codec, floats: Floats, spill: Spill | None, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self.codec: Codec = codec
        self.floats: Floats = floats
        self.spill = spill
        self.clock = clock
        self.live: dict[str, Entry] = {}
        """For readers without the lock."""
        self.pins: dict[str, int] = {}
        self.live_bytes: int = 0
        self.loose_bytes: int = 0
        """Bytes that left the table of objects and are not known to have left the process."""
        self.attic: Attic = Attic()
        self._busy: dict[str, Entry] = {}
        self._loading: dict[str, tuple[LockType, int]] = {}
        self._tokens = 0
        self._lock = RLock()
        # A change is under way, or was broken off.
        self._changing = False
        self._later: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._dropped: list[object] = []
        self._rows: list[tuple[int, int]] = []
        forks.enrol(self)

    # --- one change at a time ---------------------------------------------------------------------------------------

    def _change(self, operation: Callable[..., Any], *args: object, later: bool = False) -> Any:  # noqa: ANN401
        """Run it as the only change. From inside of another (a finalizer, a signal handler): later, or refused."""
        inside = _is_mine(self._lock)
        dropped, rows = list[object](), list[tuple[int, int]]()
        try:
            with self._lock:
                if inside and self._changing:
                    if later:
                        self._later.append((operation, args))
                        return None
                    raise RuntimeError(
                        f"states {self.name!r} were asked from a finalizer or a signal handler amid a change: "
                        f"ask from a thread or a task of its own"
                    )
                torn, self._changing = self._changing, True
                if torn:
                    self._mend()
                result = operation(*args)
                while self._later:
                    put_off, its = self._later.popleft()
                    put_off(*its)
                self._changing = False
                dropped, self._dropped = self._dropped, dropped
                rows, self._rows = self._rows, rows
        finally:
            for serial, length in rows:
                if self.spill is not None:
                    self.spill.drop(serial, length)
            dropped.clear()  # destructors may call back: not under the lock
        return result

    def _mend(self) -> None:
        """After a change that was broken off (KeyboardInterrupt, no memory): undo it, or finish it.

        Whatever is an object is what counts; a blob of the same name was just being made of it, or has just become it.
        """
        for key, entry in tuple(self._busy.items()):
            entry.token = 0
            self.live.setdefault(key, entry)
            del self._busy[key]
        self.live_bytes = sum(entry.bytes for entry in self.live.values())
        self.attic.mend()
        for key in self.live:
            place = self.attic.find(key)
            if place is not None:
                self._leave_attic(key, place)

    # --- figures ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.live) + len(self._busy) + len(self.attic)

    def __contains__(self, key: object) -> bool:
        return key in self.live or (isinstance(key, str) and self._change(self._is_here, key))

    def _is_here(self, key: str) -> bool:
        return key in self.live or key in self._busy or self.attic.find(key) is not None

    def keys(self) -> list[str]:
        """Every key now."""
        keys: list[str] = self._change(lambda: [*self.live, *self._busy, *self.attic.keys()])
        return keys

    @property
    def held_bytes(self) -> int:
        """Bytes in memory: of objects, of packed states, and of what is known about each."""
        rest = self.attic
        return self.live_bytes + ENTRY_BYTES * (len(self.live) + len(self._busy)) + rest.bytes + PLACE_BYTES * len(rest)

    def while_still(self, operation: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the operation gives
        """Run something that only looks, while nothing changes."""
        return self._change(operation)

    @property
    def entries(self) -> list[tuple[str, Entry]]:
        """Every state that is an object, those being packed included."""
        return [*self.live.items(), *self._busy.items()]

    def recount(self) -> None:
        """Add up anew."""

        def add_up() -> None:
            self.live_bytes = sum(entry.bytes for _, entry in self.entries)

        self._change(add_up)

    def coldest(self, count: int, *, to_pack: bool, early_s: float = 0.0) -> list[str]:
        """So many live states that nobody pins and that may be tried now (or so soon), least recently used first."""
        now, live, pins = self.clock() + early_s, self.live, self.pins
        free = (
            (entry.used, key)
            for key in list(live)
            if (entry := live.get(key)) is not None
            and entry.again <= now
            and not (to_pack and entry.packs_again > now)
            and key not in pins
        )
        return [key for _, key in heapq.nsmallest(count, free)]

    def wait(self, key: str, *, seconds: float, to_pack: bool = False) -> None:
        """Do not try this one again (``to_pack``: in memory) for so long."""
        entry = self.live.get(key)
        if entry is not None:
            until = self.clock() + seconds
            entry.packs_again = until
            if not to_pack:
                entry.again = until

    # --- reading ----------------------------------------------------------------------------------------------------

    def fetch(self, key: str) -> Any:  # noqa: ANN401 - the state
        """A state as an object, loaded if it is not one.

        Raises:
            KeyError: there is none.
            StateUnreadable: its bytes cannot be turned into an object; they are kept.
        """
        waits = True
        while True:
            found, value, gate = self._change(self._look, key, waits)
            if found == "live":
                return value
            if found == "":
                raise KeyError(key)
            if found == "loading":
                waits = gate.acquire(timeout=_WAIT_S)
                continue
            try:
                self._load(key, *value)
            finally:
                self._change(self._loaded, key, gate, later=True)

    def _look(self, key: str, waits: bool) -> tuple[str, Any, Any]:  # noqa: FBT001 - positional in _change
        entry = self.live.get(key)
        if entry is None and (entry := self._busy.get(key)) is not None:
            entry.token = 0
            self.live[key] = entry
            del self._busy[key]
        if entry is not None:
            entry.used = self.clock()
            return "live", entry.value, None
        place = self.attic.find(key)
        if place is None:
            return "", None, None
        gate, owner = self._loading.get(key, (None, 0))
        if waits and gate is not None and owner != get_ident() and gate.locked():
            return "loading", None, gate
        gate = new_lock()
        gate.acquire()
        self._loading[key] = (gate, get_ident())
        attic = self.attic
        return "rest", (attic.versions[place], attic.serials[place], attic.blob(place)), gate

    def _loaded(self, key: str, gate: LockType) -> None:
        if self._loading.get(key, (None, 0))[0] is gate:
            del self._loading[key]
        gate.release()

    def _load(self, key: str, version: int, serial: int, blob: bytes) -> None:
        """Turn a packed state into an object, if it still is where it was."""
        try:
            if serial and self.spill is not None:
                blob = self.spill.read(serial)
            value = codecs.unpack(blob)
        except MemoryError:
            raise
        except Exception as error:
            if not self._change(self._is_at, key, version):
                return  # somebody was faster, or it is gone
            size = format_bytes(len(blob)) if blob else "its bytes on disk"
            raise StateUnreadable(
                f"state {key!r} of {self.name!r} cannot be loaded: {type(error).__name__}: {error}; {size} are kept, "
                f"ask again when that is mended, or delete it",
                state=key,
            ) from error
        self._change(self._arrive, key, version, value)

    def _is_at(self, key: str, version: int) -> bool:
        place = self.attic.find(key)
        return place is not None and self.attic.versions[place] == version

    def _arrive(self, key: str, version: int, value: Any) -> None:  # noqa: ANN401
        place = self.attic.find(key)
        if place is None or self.attic.versions[place] != version or key in self.live:
            self._dropped.append(value)
            return
        entry = Entry(value, self.attic.sizes[place], self.clock())
        entry.measured = 0.0  # whoever loads it may change it
        self._enter(key, entry)
        self._leave_attic(key, place)

    def _enter(self, key: str, entry: Entry) -> None:
        self.live[key] = entry
        self.live_bytes += entry.bytes
        self.loose_bytes = max(0, self.loose_bytes - entry.bytes)

    def _leave_attic(self, key: str, place: int) -> None:
        serial, length = self.attic.serials[place], self.attic.spilled_bytes[place]
        self.attic.remove(key)
        if serial:
            self._rows.append((serial, length))

    # --- writing ----------------------------------------------------------------------------------------------------

    def put(self, key: str, value: object, size: int, *, room: int | None = None, over: bool = True) -> bool:
        """Keep an object of so many bytes; whether it was kept.

        It is not when all would have more than ``room`` bytes, or when there is one and ``over`` is False.
        """
        kept = self._change(self._put, key, value, size, room, over, later=True)
        return kept is not False

    def _put(self, key: str, value: object, size: int, room: int | None, over: bool) -> bool:  # noqa: FBT001
        old = self.live.get(key) or self._busy.get(key)
        place = None if old is not None else self.attic.find(key)
        if not over and (old is not None or place is not None):
            return False
        if room is not None and self.held_bytes + size - self._held(old, place) + ENTRY_BYTES * (old is None) > room:
            return False
        entry = Entry(value, size, self.clock())
        self._enter(key, entry)
        if old is not None:
            self._busy.pop(key, None)
            self._part(old)
        if place is not None:
            self._leave_attic(key, place)
        return True

    def _held(self, old: Entry | None, place: int | None) -> int:
        """What is freed of the attic or of the objects when another takes this one's place."""
        if old is not None:
            return old.bytes
        return 0 if place is None else self.attic.blob_bytes(place) + PLACE_BYTES

    def _part(self, entry: Entry) -> None:
        self.live_bytes -= entry.bytes
        self.loose_bytes += entry.bytes
        self._dropped.append(entry)

    def remove(self, key: str, *, only: object = ANY) -> bool:
        """Forget a state, or only this one of that key; whether it was there."""
        return self._change(self._remove, key, only, later=True) is not False

    def _remove(self, key: Any, only: object) -> bool:  # noqa: ANN401
        entry = self.live.get(key) or self._busy.get(key)
        if only is not ANY and (entry is None or entry.value is not only):
            return False
        if entry is not None:
            self.live.pop(key, None)
            self._busy.pop(key, None)
            self._part(entry)
            return True
        place = self.attic.find(key) if isinstance(key, str) else None
        if place is None:
            return False
        self._leave_attic(key, place)
        return True

    def measured(self, key: str, size: int, *, at: float) -> None:
        """A live state was found to have so many bytes."""
        self._change(self._measured, key, size, at)

    def _measured(self, key: str, size: int, at: float) -> None:
        entry = self.live.get(key)
        if entry is not None:
            self.live_bytes += size - entry.bytes
            entry.bytes, entry.measured = size, at

    def pin(self, key: str) -> None:
        """Let nobody pack this state until it is unpinned as often."""
        self._change(self._pin, key, 1)

    def unpin(self, key: str) -> None:
        """Undo one ``pin``."""
        self._change(self._pin, key, -1, later=True)

    def _pin(self, key: str, change: int) -> None:
        count = self.pins.get(key, 0) + change
        self.pins[key] = count
        if count <= 0:
            del self.pins[key]

    # --- forks ------------------------------------------------------------------------------------------------------

    def hold(self, timeout_s: float) -> tuple[bool, bool]:
        """Before a fork: let no change be half done."""
        held = self._lock.acquire(timeout=timeout_s)
        return held, self.spill is not None and self.spill.hold(timeout_s)

    def let_go(self, held: tuple[bool, bool], *, child: bool) -> None:
        """After a fork, on either side."""
        if self.spill is not None:
            self.spill.seal(child=child, held=held[1])
        if not child:
            if held[0]:
                self._lock.release()
            return
        # Whoever was packing or loading is not here.
        self._lock = RLock()
        self._changing = False
        self._loading.clear()
        for key, entry in self._busy.items():
            entry.token = 0
            self.live[key] = entry
        self._busy.clear()
