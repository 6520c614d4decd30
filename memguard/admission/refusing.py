"""Refusing: why work is not admitted, in words with numbers, and what to do about it."""

from __future__ import annotations

from memguard.errors import AdmissionRefused
from memguard.units import format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.admission.tickets import Ticket
    from memguard.model import Snapshot

__all__ = ["refused"]


def refused(  # noqa: PLR0913 - how the gate stands
    ticket: Ticket,
    snapshot: Snapshot,
    *,
    wanted: int | None,
    own_bytes: int,
    peers_bytes: int,
    ceiling_ratio: float,
    shut: bool,
    retry_s: float,
    leaving: bool = False,
) -> AdmissionRefused:
    """The refusal of a ticket: ``wanted`` bytes, beside those promised here and by other workers.

    ``ceiling_ratio`` is the share of the limit that its priority may fill, ``shut`` whether none of it is admitted,
    ``leaving`` whether this process makes room for a fresh one.
    """
    what = "admission" if wanted is None else f"admission of {format_bytes(wanted)}"
    limit = format_bytes(snapshot.limit.bytes) if snapshot.limit else "no limit"
    used = format_bytes(snapshot.reading.used_bytes) if snapshot.reading else "unknown"
    promised = format_bytes(own_bytes + peers_bytes)
    others = f" ({format_bytes(peers_bytes)} of it by other workers)" if peers_bytes else ""
    ceiling = ceiling_ratio * snapshot.limit.bytes if snapshot.limit else float("inf")
    needs = (snapshot.reading.used_bytes if snapshot.reading else 0) + own_bytes + peers_bytes + (wanted or 0)
    kept = wanted and needs <= ceiling and not shut
    reason = (
        f"{what} refused: {used} of {limit} used ({snapshot.level.name.lower()}), {promised} already promised{others}"
        f"{', the rest is kept for other routes' if kept else ''}; retry in about {format_seconds(retry_s)}"
    )
    if leaving:
        reason = f"{what} refused: this process hands over to a fresh one; retry in about {format_seconds(retry_s)}"
    budget = ticket.budget
    never = bool(wanted and wanted > ceiling)
    if never:
        reason = f"{what} refused: it can never fit under the limit of {limit}; split the work"
    elif budget is not None and wanted and wanted > budget.max_bytes:
        never, reason = True, f"{what} refused: it can never fit: {budget.tight()}; split the work or raise it"
    elif budget is not None and needs <= ceiling and not leaving:
        reason = f"{what} refused: {budget.tight()}; retry in about {format_seconds(retry_s)} or raise it"
    found = AdmissionRefused(reason, retry_after_s=retry_s, level=snapshot.level.name, wanted_bytes=wanted)
    found.never = never
    return found
