"""Slots: 64 bytes in shared memory for each worker, written by it alone, read by all, without a lock.

    0  promised bytes, 8: one aligned store of its own, so that an admission is seen by all at once
    8  whose: pid 4, pid namespace 4, start in ticks 8, check 4: written when the slot is claimed
    28 what it says: check 4, level 1, state 1, running 2, beat 8, used 8, yield 8, refusals 4

A check covers what stands beside it, and that of what a worker says is seeded by whose it is. Whoever reads while it is
written, or after its writer was killed in the middle, sees a check that does not fit: he reads again, or takes
what stood there before. No lock, no sequence number that a killed writer would leave odd.
"""

from __future__ import annotations

import struct
import zlib

from memguard.values import value
from memguard.workers.lives import Life

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

__all__ = ["SLOT_BYTES", "Said", "claim", "clear", "life_in", "read", "say"]

SLOT_BYTES = 64
_WHOSE = struct.Struct("<IIQ")
_SAYS = struct.Struct("<BBHdQQI")
_WHOSE_AT, _WHOSE_CHECK, _SAYS_CHECK, _SAYS_AT = 8, 24, 28, 32
_BYTES_AT_MOST = (1 << 62) - 1
# The state's highest bit: whether an attempt is under way.
_SHEDDING = 0x80
_U16, _U32 = 0xFFFF, 0xFFFFFFFF
# A write takes less than a microsecond; whoever meets one again and again reads the work of a killed writer.
_TRIES = 4


@value
class Said:
    """What a worker says of itself; a beat of 0.0: nothing yet."""

    level: int = 0
    state: int = 0
    shedding: bool = False
    running: int = 0
    beat_at: float = 0.0
    used_bytes: int = 0
    yield_bytes: int = 0
    refusals: int = 0


def _packed(life: Life) -> bytes:
    return _WHOSE.pack(life.pid, life.space, life.started_ticks)


def claim(buffer: mmap.mmap, at: int, life: Life) -> int:
    """Make the slot at this place a life's own; the seed to ``say`` with. Only under the file's lock."""
    buffer[at : at + SLOT_BYTES] = bytes(SLOT_BYTES)
    whose = _packed(life)
    seed = zlib.crc32(whose)
    # In one copy, check last: whoever is killed in the middle has claimed nothing.
    buffer[at + _WHOSE_AT : at + _SAYS_CHECK] = whose + seed.to_bytes(4, "little")
    return seed


def clear(buffer: mmap.mmap, at: int) -> None:
    """Make the slot nobody's."""
    buffer[at : at + SLOT_BYTES] = bytes(SLOT_BYTES)


def say(buffer: mmap.mmap, at: int, seed: int, said: Said) -> None:
    """Write what the slot's owner says; numbers out of range are taken to its ends."""
    says = _SAYS.pack(
        said.level,
        said.state | (_SHEDDING if said.shedding else 0),
        min(said.running, _U16),
        said.beat_at,
        min(max(said.used_bytes, 0), _BYTES_AT_MOST),
        min(max(said.yield_bytes, 0), _BYTES_AT_MOST),
        said.refusals & _U32,
    )
    buffer[at + _SAYS_CHECK : at + SLOT_BYTES] = zlib.crc32(says, seed).to_bytes(4, "little") + says


def life_in(raw: bytes) -> tuple[Life, int] | None:
    """Whose a slot is, and the seed of its checks; None when it is nobody's."""
    whose = raw[_WHOSE_AT:_WHOSE_CHECK]
    seed = int.from_bytes(raw[_WHOSE_CHECK:_SAYS_CHECK], "little")
    if zlib.crc32(whose) != seed or not seed:
        return None
    pid, space, ticks = _WHOSE.unpack(whose)
    return (Life(pid=pid, started_ticks=ticks, space=space), seed) if pid else None


def read(buffer: mmap.mmap, at: int, life: Life, seed: int) -> Said | None:
    """What this owner of a slot says; None when it says nothing that holds, or the slot is another's by now."""
    whose = _packed(life) + seed.to_bytes(4, "little")
    for _ in range(_TRIES):
        raw = buffer[at : at + SLOT_BYTES]
        if raw[_WHOSE_AT:_SAYS_CHECK] != whose:
            return None
        says = raw[_SAYS_AT:]
        if zlib.crc32(says, seed) == int.from_bytes(raw[_SAYS_CHECK:_SAYS_AT], "little"):
            level, state, running, beat_at, used, yields, refusals = _SAYS.unpack(says)
            return Said(
                level=level, state=state & ~_SHEDDING, shedding=bool(state & _SHEDDING), running=running,
                beat_at=beat_at, used_bytes=used, yield_bytes=yields, refusals=refusals,
            )  # fmt: skip
    return None
