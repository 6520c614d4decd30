"""The shared ledger: what every worker under one limit says of itself, in a file that all have mapped.

Method: a slot of 64 bytes for each worker, written by it alone (``slots``). A slot is claimed under the file's lock; it
is free again when its owner's process has ended, by pid and start, however it ended.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import time
from contextlib import suppress

from memguard.model import Level
from memguard.workers import slots
from memguard.workers.folder import WorkersUnavailable, locked, private_folder
from memguard.workers.lease import LEASE_SUFFIX, let_go
from memguard.workers.lives import Life, alive, own_life
from memguard.workers.rows import STATES, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.workers.slots import Said

__all__ = ["SLOTS", "SharedLedger", "ledger_path", "occupant", "sweep"]

SLOTS = 255
"""How many workers one ledger holds: 16 KiB with its head."""

_FILE_BYTES = slots.SLOT_BYTES * (SLOTS + 1)
# The head: a mark, whose last digit is the layout's number, and up to which slot there may be anybody.
_MARK = b"mgworks1"
_HIGHEST = struct.Struct("<I")
_HIGHEST_AT = len(_MARK)
_WORD_BYTES = 8
_SUFFIX = ".workers1"
# Where a worker's life cannot be looked up (another pid namespace), it counts as dead after so long without a beat: as
# long as any stop of a process is likely to last.
_SILENT_S = 120.0
# What a worker promised counts as long as it beats: later than that promises have lapsed anyhow.
_UNHEARD_S = 30.0
# A file that nobody alive has a slot in is left over from a group that was killed as a whole.
_LEFT_OVER_S = 60.0
_SWEPT_AT_MOST = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def ledger_path(group: str, *, folder: str | None = None) -> str:
    """Where the ledger of a group of workers is kept.

    Raises:
        ValueError: a name that is none.
        WorkersUnavailable: there is no folder that workers could share.
    """
    if _NAME.fullmatch(group) is None:
        raise ValueError(f"group {group!r} is no name for workers: write letters, digits, '.', '_' and '-'")
    return os.path.join(private_folder() if folder is None else folder, group + _SUFFIX)  # noqa: PTH118 - as in folder


def occupant(buffer: mmap.mmap, at: int, own: Life, now: float) -> tuple[Life, int, bool] | None:
    """Life, seed and whether its life can be looked up, of whoever lives in the slot at this place; None: it is free.

    ``own`` is who asks.
    """
    found = slots.life_in(buffer[at : at + slots.SLOT_BYTES])
    if found is None:
        return None
    life, seed = found
    lives = alive(life, own)
    if lives is None:
        said = slots.read(buffer, at, life, seed)
        silent = said is None or abs(now - said.beat_at) > _SILENT_S
        return None if silent else (life, seed, False)
    return (life, seed, True) if lives else None


class SharedLedger:
    """One worker's part in a ledger: its own slot, and a look at those of the others.

    One thread publishes and looks; the rest may be asked for from any. After a fork the child has to ``forget`` it
    and make one of its own.

    Raises:
        OSError: the file cannot be made, no room is left for it, or its lock is held for too long.
        WorkersUnavailable: it is not ours alone, is something else, or all slots are taken.
    """

    def __init__(self, path: str, *, now: float) -> None:
        self.path: str = path
        self._own = own_life()
        with locked(path) as fd:
            self._map = _mapped(fd, path)
            self._identity = _identity(os.fstat(fd))
            try:
                self.slot: int = self._claim(now)
            except BaseException:
                self._map.close()
                raise
        self._at = self.slot * slots.SLOT_BYTES
        self._words = memoryview(self._map).cast("Q")
        self._word = self._at // _WORD_BYTES
        self._elsewhere: tuple[int, ...] = ()
        self._last: dict[int, tuple[Life, Said]] = {}
        self._others: tuple[tuple[int, Life, int, bool], ...] = ()
        self.look(now)

    def _claim(self, now: float) -> int:
        highest = self._highest()
        free = next((slot for slot in range(1, highest + 1) if not self._taken(slot, now)), highest + 1)
        if free > SLOTS:
            raise WorkersUnavailable(f"{self.path} is full: {SLOTS} workers share it already")
        self._seed = slots.claim(self._map, free * slots.SLOT_BYTES, self._own)
        if free > highest:
            self._map[_HIGHEST_AT : _HIGHEST_AT + _HIGHEST.size] = _HIGHEST.pack(free)
        return free

    def _highest(self) -> int:
        number: int = _HIGHEST.unpack_from(self._map, _HIGHEST_AT)[0]
        return min(number, SLOTS)

    def _taken(self, slot: int, now: float) -> bool:
        return self._living(slot, now) is not None

    def _living(self, slot: int, now: float) -> tuple[int, Life, int, bool] | None:
        """Slot, life, seed and whether its life can be looked up; None for a slot that is free."""
        found = occupant(self._map, slot * slots.SLOT_BYTES, self._own, now)
        return None if found is None else (slot, *found)

    # --- saying ---------------------------------------------------------------------------------------------------

    def publish(self, said: Said) -> None:
        """Let everybody know; some 3 µs."""
        slots.say(self._map, self._at, self._seed, said)

    def promise(self, total_bytes: int) -> None:
        """Let everybody know how much is promised here in all; 0.5 µs, from any thread."""
        with suppress(ValueError):  # closed meanwhile
            self._words[self._word] = total_bytes if total_bytes > 0 else 0

    # --- looking --------------------------------------------------------------------------------------------------

    def look(self, now: float) -> int:
        """See who is there and alive, at a slow pace: some 15 µs for each; how many others."""
        living = (self._living(slot, now) for slot in range(1, self._highest() + 1) if slot != self.slot)
        self._others = tuple(found for found in living if found is not None)
        there = {slot for slot, *_ in self._others}
        for slot in [slot for slot in tuple(self._last) if slot not in there]:
            del self._last[slot]
        words = slots.SLOT_BYTES // _WORD_BYTES
        silent = {other.slot for other in self.others() if now - other.beat_at >= _UNHEARD_S}
        self._elsewhere = tuple(slot * words for slot in sorted(there - silent))
        return len(self._others)

    @property
    def promised_elsewhere(self) -> int:
        """What the others have promised and not seen yet, in bytes; under 1 µs for four, from any thread."""
        words = self._words
        try:
            return sum([words[word] for word in self._elsewhere])
        except ValueError:  # closed meanwhile
            return 0

    def others(self) -> tuple[Worker, ...]:
        """What the others said last, of those who were alive at the last look."""
        rows = list[Worker]()
        for slot, life, seed, known in self._others:
            at = slot * slots.SLOT_BYTES
            said = slots.read(self._map, at, life, seed)
            if said is None:
                last = self._last.get(slot)
                if last is None or last[0] != life:
                    continue
                said = last[1]
            else:
                self._last[slot] = life, said
            rows.append(self._row(slot, life, said, known=known))
        return tuple(rows)

    def own(self) -> Worker:
        """What this worker said last."""
        said = slots.read(self._map, self._at, self._own, self._seed) or slots.Said()
        return self._row(self.slot, self._own, said, known=True)

    def _row(self, slot: int, life: Life, said: Said, *, known: bool) -> Worker:
        return Worker(
            slot=slot,
            pid=life.pid,
            own=slot == self.slot,
            level=Level(min(said.level, max(Level))),
            state=STATES[min(said.state, len(STATES) - 1)],
            shedding=said.shedding,
            used_bytes=said.used_bytes,
            yield_bytes=said.yield_bytes,
            promised_bytes=self._words[slot * slots.SLOT_BYTES // _WORD_BYTES],
            running=said.running,
            refusals=said.refusals,
            beat_at=said.beat_at,
            started_ticks=life.started_ticks,
            known=known,
        )

    @property
    def gone(self) -> bool:
        """Whether the file was removed or replaced, or the slot is not ours any more: nobody new would find us."""
        try:
            moved = _identity(os.stat(self.path)) != self._identity  # noqa: PTH116 - as in lives
        except OSError:
            return True
        found = slots.life_in(self._map[self._at : self._at + slots.SLOT_BYTES])
        return moved or found is None or found[0] != self._own

    # --- leaving --------------------------------------------------------------------------------------------------

    def close(self, *, now: float) -> None:
        """Give the slot back; the last one to leave removes the file. Twice is fine."""
        if self._map.closed:
            return
        try:
            with locked(self.path) as fd:
                slots.clear(self._map, self._at)
                alone = not any(self._taken(slot, now) for slot in range(1, self._highest() + 1))
                if alone and _identity(os.fstat(fd)) == self._identity:
                    os.unlink(self.path)  # noqa: PTH108
        except (OSError, WorkersUnavailable):  # another user by now
            slots.clear(self._map, self._at)
        self.forget()

    def forget(self) -> None:
        """Let the file go and leave the slot as it is: in a forked child it is the parent's."""
        self._elsewhere = self._others = ()
        self._words.release()
        self._map.close()


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _mapped(fd: int, path: str) -> mmap.mmap:
    size = os.fstat(fd).st_size
    if size != _FILE_BYTES:
        # Shorter and empty: its maker was killed, or found no room.
        if size > _FILE_BYTES or any(os.pread(fd, size, 0)):
            raise WorkersUnavailable(f"{path} is {size} bytes long and no ledger of ours: remove it")
        # With all its pages: where a file system in memory is full, this fails, and a store into a page would kill.
        if os.pwrite(fd, bytes(_FILE_BYTES), 0) < _FILE_BYTES:
            raise WorkersUnavailable(f"{path} finds no room: {_FILE_BYTES} bytes are needed")
    mapped = mmap.mmap(fd, _FILE_BYTES)
    mark = mapped[:_HIGHEST_AT]
    if mark != _MARK:
        if any(mark):
            mapped.close()
            raise WorkersUnavailable(f"{path} is no ledger of ours: remove it")
        mapped[:_HIGHEST_AT] = _MARK
    return mapped


def sweep(folder: str) -> int:
    """Remove ledgers that nobody alive has a slot in, and leases of the dead; how many."""
    removed = 0
    with os.scandir(folder) as entries:
        names = [entry.path for entry in entries if entry.name.endswith((_SUFFIX, LEASE_SUFFIX))][:_SWEPT_AT_MOST]
    for path in names:
        with suppress(OSError, WorkersUnavailable, ValueError):
            if time.time() - os.stat(path).st_mtime < _LEFT_OVER_S:  # noqa: PTH116
                continue
            with locked(path, wait_s=0.0) as fd:
                if not (let_go(fd) if path.endswith(LEASE_SUFFIX) else _deserted(fd)):
                    continue
                os.unlink(path)  # noqa: PTH108
                removed += 1
    return removed


def _deserted(fd: int) -> bool:
    own = own_life()
    raw = os.pread(fd, _FILE_BYTES, 0)
    if raw[:_HIGHEST_AT] != _MARK:
        return False
    for at in range(slots.SLOT_BYTES, len(raw), slots.SLOT_BYTES):
        found = slots.life_in(raw[at : at + slots.SLOT_BYTES])
        if found is not None and alive(found[0], own) is not False:
            return False
    return bool(raw)
