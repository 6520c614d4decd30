"""Amounts: what limits and disks of states may be written as."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memguard.agents.spill import Spill
from memguard.units import parse_bytes

if TYPE_CHECKING:
    import os

__all__ = ["disk_of", "limit_of"]


def limit_of(what: str, limit: int | str | None) -> int | None:
    """A limit in bytes; None: no limit.

    Raises:
        ValueError, TypeError: it cannot be meant, or leaves no room.
    """
    if limit is None:
        return None
    count = _bytes(what, limit)
    if count <= 0:
        raise ValueError(f"{what}={limit!r} leaves no room for any state (None: no limit)")
    return count


def _bytes(what: str, amount: int | str) -> int:
    try:
        return parse_bytes(amount)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{what}={amount!r}: {error}") from None


def disk_of(spill: bool | str | os.PathLike[str], quota: int | str) -> Spill | None:  # noqa: FBT001 - as given
    """The disk to spill to; None: none.

    Raises:
        ValueError, TypeError: it cannot be meant, or there is no such directory.
    """
    quota_bytes = _bytes("spill_max_bytes", quota)
    if spill is False or not quota_bytes:
        return None
    if spill is True:
        return Spill(None, quota_bytes)
    folder = Path(spill)
    if not folder.is_dir():
        raise ValueError(f"spill={str(spill)!r} is no directory: make it, or write spill=True for a temporary one")
    return Spill(str(folder), quota_bytes)
