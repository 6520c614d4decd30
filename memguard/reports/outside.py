"""Outside: what others say when memory runs out, which often names another cause, and what it means here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memguard.units import format_bytes

if TYPE_CHECKING:
    from memguard.reports.measures import Measures

__all__ = ["outside"]

_NEAR: Final = 0.97
_KILLED: Final = (
    "Signal 9, mostly the kernel's when a group's memory is full; but a failed liveness probe, or a node that is "
    "drained, sends the same in the end."
)
_GUNICORN: Final = (
    "gunicorn's guess from signal 9. It sends that signal itself to a worker that outlived its timeout: then "
    '"WORKER TIMEOUT" stands above it.'
)
_STORAGE: Final = (
    "Names files: logs, emptyDir and the container's own layer. A service that spills memory to disk, or dumps core "
    "when it is killed, fills these because memory ran short. An emptyDir of medium Memory counts as memory, and no "
    "file on disk grew."
)
_CACHE: Final = (
    "They count page cache that the kernel drops when it needs the room. The guard judges by what would not go"
)
_REFUSED: Final = (
    "An allocation was refused, which is no kill: by RLIMIT_DATA or RLIMIT_AS (the guard's fuse sets the first), or by "
    "fork() where overcommit is strict. The request fails and the process lives."
)


def outside(numbers: Measures, *, open_end: bool) -> tuple[tuple[str, str], ...]:
    """Messages and what they mean, those first that fit this incident best."""
    peak = numbers.peak_ratio
    how = "" if peak is None else f" The peak here was {peak:.0%} of the limit."
    if numbers.oom_kills > 0:
        kill = (
            f"The kernel killed {numbers.oom_kills} process(es) of this group for want of memory during the incident."
        )
    elif open_end and peak is not None and peak >= _NEAR:
        kill = "The end of this incident was never told and memory was all but full: a kill for memory is likely."
    elif open_end:
        kill = (
            "The end of this incident was never told; memory was not full when it was last read: look for other causes."
        )
    else:
        kill = "Not in this incident: the process lived, and the kernel counted no kill of its group."
    cache = next((part for part in numbers.parts if not part.counts), None)
    cached = (
        "" if cache is None else f" At the peak {format_bytes(cache.peak_bytes)} of page cache were not counted here."
    )
    measure = f" ({numbers.used_source})" if numbers.used_source else ""
    return (
        ('exit code 137, "Killed", OOMKilled', f"{_KILLED} {kill}{how}"),
        ("Worker (pid:…) was sent SIGKILL! Perhaps out of memory?", f"{_GUNICORN} {kill}"),
        ('evicted: "The node was low on resource: ephemeral-storage"', _STORAGE),
        (
            "container_memory_usage_bytes or docker stats above what the guard says",
            f"{_CACHE}{measure}; dashboards should use the working set.{cached}",
        ),
        ("MemoryError, or OSError: [Errno 12] Cannot allocate memory", _REFUSED),
        (
            "503 with application/problem+json that says memory is short",
            f"The guard itself, on purpose: the request would not have fitted. {numbers.refusals} were refused here.",
        ),
    )
