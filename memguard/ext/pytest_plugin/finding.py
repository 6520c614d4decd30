"""What is found about a test, as a frozen value and in words; types, names and sizes, no contents."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from memguard.units import format_bytes
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Finding"]


@value
class Finding:
    """A test that failed for its memory.

    ``kind`` is ``"leak"`` (``bytes`` and ``blocks`` are what each repeat leaves behind) or ``"peak"`` (``bytes`` is how
    much higher than at its begin memory stood). ``allowed_bytes`` is what it may. ``holders`` say who holds what grows,
    each with its chain, ``types`` of what there is more, ``lines`` where it was allocated, ``native`` what Python does
    not explain ("" when that is nothing). ``how`` tells how it was measured.
    """

    test: str
    kind: str
    bytes: int
    blocks: int
    allowed_bytes: int
    how: str
    holders: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    native: str = ""

    @property
    def summary(self) -> str:
        """The finding in one sentence."""
        if self.kind == "peak":
            return (
                f"memory peaked {format_bytes(self.bytes)} above where the test began, allowed are "
                f"{format_bytes(self.allowed_bytes)}"
            )
        blocks = f" in {self.blocks} blocks" if self.blocks else ""
        allowed = format_bytes(self.allowed_bytes)
        return f"each repeat leaves {format_bytes(self.bytes)}{blocks} behind, allowed are {allowed}"

    @property
    def text(self) -> str:
        """The whole for a person."""
        rows = [f"{self.summary} ({self.how})"]
        for title, found in (("held", self.holders), ("types", self.types), ("lines", self.lines)):
            rows += [f"  {title if not place else '':6}{row}" for place, row in enumerate(found)]
        if self.native:
            rows.append(f"  native {self.native}")
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they go from a worker to its controller and into JSON."""
        return {**asdict(self), "summary": self.summary}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Finding:
        """The same, back from plain values."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
        }
        known.pop("summary", None)
        return cls(**known)
