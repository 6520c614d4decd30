"""Listing: one row for each state, wherever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memguard.agents.figures import StateRow

if TYPE_CHECKING:
    from memguard.agents.keeping import Keeping

__all__ = ["rows_of"]


def rows_of(keeping: Keeping) -> list[StateRow]:
    """Every state now. Walks all of them."""
    rows: list[StateRow] = keeping.while_still(lambda: _rows(keeping))
    return rows


def _rows(keeping: Keeping) -> list[StateRow]:
    now, attic = keeping.clock(), keeping.attic
    rows = [
        StateRow(
            id=key,
            bytes=entry.bytes,
            stored="live",
            stored_bytes=entry.bytes,
            idle_s=max(0.0, now - entry.used),
            leased=key in keeping.pins,
        )
        for key, entry in keeping.entries
    ]
    for place in attic.places():
        on_disk = bool(attic.serials[place])
        rows.append(
            StateRow(
                id=attic.key(place),
                bytes=attic.sizes[place],
                stored="spilled" if on_disk else "packed",
                stored_bytes=attic.spilled_bytes[place] if on_disk else attic.blob_bytes(place),
                idle_s=max(0.0, now - attic.used[place]),
                leased=False,
            )
        )
    return rows
