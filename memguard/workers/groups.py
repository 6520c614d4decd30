"""Groups: by which name workers that share a limit find each other, without being told."""

from __future__ import annotations

import os

from memguard.workers.lives import own_life, started_ticks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from memguard.model import Limit

__all__ = ["limit_group", "siblings_group"]


def limit_group(limits: Iterable[Limit]) -> str | None:
    """The name of all who share the tightest of a control group's limits; None where no such limit holds.

    By the identity of the group's directory: each namespace sees it under another path, and all under this.
    """
    shared = [limit for limit in limits if limit.usage == "cgroup" and limit.path is not None]
    nearest = min(shared, key=lambda limit: limit.bytes, default=None)
    if nearest is None or nearest.path is None:
        return None
    try:
        found = os.stat(nearest.path)  # noqa: PTH116 - as in lives
    except OSError:
        return None
    return f"cgroup-{found.st_dev:x}-{found.st_ino:x}"


def siblings_group() -> str:
    """The name of all children of this process's parent: workers of one server where no limit is shared."""
    pid = os.getppid()
    return f"parent-{own_life().space:x}-{pid}-{started_ticks(pid) or 0}"
