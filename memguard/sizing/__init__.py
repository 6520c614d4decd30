"""How many bytes an object keeps alive: sampled, bounded in time, with the error that sampling leaves."""

from __future__ import annotations

from memguard.sizing.measured import Size, bytes_of, entry_bytes, sizeof

__all__ = ["Size", "bytes_of", "entry_bytes", "sizeof"]
