"""Fractions: where Dask spills, pauses and ends a worker, and where our rungs stand between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import dask

from memguard.rules import Rules
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Fractions", "rungs"]

_KEY: Final = "distributed.worker.memory"
# One rung below the next, as in Rules: what a burst takes between two looks.
_GAP: Final = 0.05
# Where Dask neither pauses nor ends a worker, the rungs of a plain guard.
_PAUSE, _END = 0.90, 1.0
# Above it a pause comes too late, whatever was configured; and nothing fits between fractions that are so close.
_LATEST, _APART = 0.98, 0.01


@value
class Fractions:
    """Dask's own thresholds as shares of a worker's memory limit; None where one is switched off."""

    target: float | None = 0.60
    spill: float | None = 0.70
    pause: float | None = 0.80
    terminate: float | None = 0.95

    @classmethod
    def configured(cls) -> Fractions:
        """As Dask is configured in this process."""
        return cls(**{name: _share(dask.config.get(f"{_KEY}.{name}")) for name in _NAMES})

    @classmethod
    def of(cls, memory_manager: Any) -> Fractions:  # noqa: ANN401 - distributed's WorkerMemoryManager, or a like one
        """As a worker's memory manager has them; who ends the worker is the nanny, of the same configuration."""
        own = {name: _share(getattr(memory_manager, f"memory_{name}_fraction", None)) for name in _NAMES[:-1]}
        return cls(terminate=_share(dask.config.get(f"{_KEY}.terminate")), **own)


_NAMES: Final = ("target", "spill", "pause", "terminate")


def _share(found: float | Literal[False] | None) -> float | None:
    return float(found) if found else None


def rungs(fractions: Fractions) -> Rules:
    """The rules of a guard that works between Dask's thresholds.

    What can be made again (caches) goes before Dask writes results to a disk, so WARNING stands a gap below ``spill``.
    CRITICAL is ``pause``: both stop new tasks there. EMERGENCY is half-way from there to ``terminate``. A hand-over is
    not the guard's own: see ``recycling``.
    """
    end = fractions.terminate or _END
    critical = min(fractions.pause or min(_PAUSE, end - min(_GAP, end / 4)), _LATEST)
    if end - critical < _APART:
        end = _END
    first, lead = (critical, 2 * _GAP) if fractions.spill is None else (min(fractions.spill, critical), _GAP)
    warning = first - min(lead, first / 2)
    gap = min(_GAP, warning / 4)
    made: Mapping[str, tuple[float, str]] = {
        "elevated_ratio": (warning - 2 * gap, "spill"),
        "collect_ratio": (warning - gap, "spill"),
        "warning_ratio": (warning, "spill"),
        "critical_ratio": (critical, "pause"),
        "emergency_ratio": ((critical + end) / 2, "pause and terminate"),
        "leave_gap_ratio": (gap, "spill"),
    }
    values: dict[str, Any] = {name: round(ratio, 4) for name, (ratio, _) in made.items()}
    return Rules(**values, origins={name: f"Dask's {_KEY}.{key}" for name, (_, key) in made.items()})
