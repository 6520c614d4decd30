"""A dict by request id whose entries nobody takes out."""

from __future__ import annotations

NAMES = ("planted_request_dict.RESULTS",)
"""What the first answer must name, one of them."""

RESULTS: dict[str, bytes] = {}


def work(number: int) -> None:
    """One request."""
    RESULTS[f"request-{number}"] = b"%d" % number * 100  # LEAK
