"""What a thread keeps for itself, and never clears."""

from __future__ import annotations

import threading

NAMES = ("planted_thread_local.LOCAL",)
"""What the first answer must name, one of them."""

LOCAL = threading.local()


def work(number: int) -> None:
    """One request."""
    if not hasattr(LOCAL, "queries"):
        LOCAL.queries = []
    LOCAL.queries.append({"sql": f"select {number}"})  # LEAK


def tidy() -> None:
    """Forget them."""
    LOCAL.__dict__.clear()
