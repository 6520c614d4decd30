"""What is wrong with where a process runs: one small judgement each, with why and the mend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from memguard.units import KIB, MIB, format_bytes
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from memguard.cli.surroundings import Surroundings
    from memguard.cli.workforce import Workforce

__all__ = ["Finding", "Severity", "arenas_set", "check_surroundings", "check_workers"]

Severity = Literal["severe", "warning", "note"]
"""severe: it will be killed, hang or be misled; warning: it costs memory; note: good to know."""

# Of the limit: from here on there is no room for what a service does between two looks.
_FULL_RATIO: Final = 0.9
_SWAP_RATIO: Final = 0.8
# What may be taken at the start: a guard is at rest below it.
_START_RATIO: Final = 0.7
# A file system that may take so much of the limit, and one that does take so much of it already.
_TMPFS_RATIO: Final = 0.5
_TMPFS_USED_RATIO: Final = 0.1
# What 192 MB freed by 8 threads left behind in each arena's top was more; half of the limit is too much.
_ARENA_BYTES: Final = 8 * MIB
_ARENA_RATIO: Final = 0.5
_ARENAS_PER_CPU: Final = 8
# Threads that Starlette and asyncio start when nobody says otherwise (anyio: 40; asyncio: min(32, cpus + 4)).
_POOL_THREADS: Final = 40
# A Python web worker with a framework imported and nothing in it: 45 to 70 MiB.
_WORKER_BYTES: Final = 64 * MIB
_STRICT: Final = 2


@value
class Finding:
    """Something that should be otherwise: ``name`` never changes, ``what`` tells it with its numbers."""

    severity: Severity
    name: str
    what: str
    why: str
    mend: str


# What the search for limits notes, by words that it uses: the first that fits.
_NOTES: Final[tuple[tuple[str, Severity, str, str, str], ...]] = (
    (
        "out of sight", "severe", "limit-invisible",
        "a pod's limit lies above this container, and the kernel kills at it without a warning that can be read here",
        "set API_MAX_MEMORY_MB to the pod's limit in MiB, or give the container a limit of its own",
    ),
    (
        "is above the kill limit", "severe", "policy-above-limit",
        "the process is killed before it ever comes near this setting, so what is tuned by it never happens",
        "set API_MAX_MEMORY_MB to nine tenths of the container's limit, or remove it: the container's is found",
    ),
    (
        "more than the machine's", "warning", "limit-above-machine",
        "nobody can use more than there is: the limit protects nothing",
        "set it below the machine's memory, less what else runs there",
    ),
    (
        "stalls the group", "warning", "throttled",
        "above memory.high the kernel slows every allocation: without swap a service nearly stops, and stays so",
        "remove memory.high (systemd: MemoryHigh=infinity) and let memguard act below memory.max",
    ),
    (
        "ignored, no process fits", "severe", "limit-zero", "a limit of nothing cannot be meant, and is ignored",
        "write the amount, or remove the setting",
    ),
    (
        "not a number of MiB", "warning", "setting-unreadable", "the setting is ignored", "write a whole number of MiB",
    ),
    (
        "what that level uses cannot be seen", "warning", "limit-above",
        "the limit belongs to a group above this one: what neighbours take of it cannot be read",
        "set API_MAX_MEMORY_MB to this service's share",
    ),
)  # fmt: skip

# What API_MAX_MEMORY_MB mends.
_TOLD: Final = ("out of sight", "what that level uses cannot be seen")


def check_surroundings(around: Surroundings) -> Iterator[Finding]:
    """Every finding about the machine, the container and the environment."""
    for check in _CHECKS:
        found = check(around)
        if found is not None:
            yield found
    yield from _noted(around)
    for name in around.missing_preloads:
        yield Finding(
            severity="warning", name="preload-missing",
            what=f"LD_PRELOAD names {name}, which is not there",
            why="the loader says so once and goes on: the C library's allocator serves, not the one that was meant",
            mend="install it in the image (libjemalloc2, libmimalloc2.0), or correct the path",
        )  # fmt: skip
    yield from _in_memory(around)


def _noted(around: Surroundings) -> Iterator[Finding]:
    """What was odd about the limits, each with what it means."""
    told = any(limit.kind == "policy" for limit in around.limits.limits)
    for note in around.limits.notes:
        if told and any(words in note for words in _TOLD):
            continue
        for words, severity, name, why, mend in _NOTES:
            if words in note:
                yield Finding(severity=severity, name=name, what=_sentence(note), why=why, mend=mend)
                break
        else:
            yield Finding(
                severity="note", name="limit-odd", what=_sentence(note),
                why="the search for limits met something that it did not expect there",
                mend="look whether the limit above is the one you set; if not, set API_MAX_MEMORY_MB",
            )  # fmt: skip


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:]


def _policy(around: Surroundings) -> Finding | None:
    if not around.policy_error:
        return None
    return Finding(
        severity="severe", name="setting-wrong", what=_sentence(around.policy_error),
        why="a guard refuses to start with a setting that cannot be meant", mend="correct it as the text says",
    )  # fmt: skip


def _no_limit(around: Surroundings) -> Finding | None:
    invisible = any("out of sight" in note for note in around.limits.notes)
    if around.bound is not None or invisible:
        return None
    return Finding(
        severity="note", name="no-limit", what="Nobody set a memory limit: only the machine's memory ends it",
        why="everything else on the machine shares that end, and the kernel picks whom it kills",
        mend="set API_MAX_MEMORY_MB, or a limit of the container (docker -m, resources.limits.memory, MemoryMax=)",
    )  # fmt: skip


def _killed(around: Surroundings) -> Finding | None:
    if not around.kills:
        return None
    times = "once" if around.kills == 1 else f"{around.kills} times"
    return Finding(
        severity="severe", name="killed-before", what=f"The kernel has killed in this container {times} already",
        why="it met its limit, or its pod's; whatever was in flight then was lost",
        mend="start a memguard.Guard in the service, and look at what grows: memguard run --diagnose app:main",
    )  # fmt: skip


def _hangs(around: Surroundings) -> Finding | None:
    if not around.kill_off:
        return None
    return Finding(
        severity="severe", name="kill-off", what="oom_kill_disable is set: at its limit this group stops",
        why="every process in it waits for memory that nobody will free, and no restart comes",
        mend="start the container without --oom-kill-disable",
    )  # fmt: skip


def _full(around: Surroundings) -> Finding | None:
    bound, used = around.bound, around.used_bytes
    if bound is None or bound.usage != "cgroup" or used is None or used < _FULL_RATIO * bound.bytes:
        return None
    return Finding(
        severity="severe", name="nearly-full",
        what=f"{format_bytes(used)} of {format_bytes(bound.bytes)} are used already, without page cache",
        why="the kernel kills at the limit, and one request may be all that is missing",
        mend="find what holds it (memguard top), or raise the limit",
    )  # fmt: skip


def _collects_too_late(around: Surroundings) -> Finding | None:
    bound, collect = around.bound, around.collect_bytes
    if bound is None or collect is None or collect < bound.bytes:
        return None
    return Finding(
        severity="warning", name="gc-threshold-above-limit",
        what=f"Collections are due above {format_bytes(collect)}, and the limit is {format_bytes(bound.bytes)}",
        why="the process is killed before a collection ever comes due by this setting",
        mend="set API_GC_THRESHOLD_MB to three quarters of the limit, or remove it: that is the default",
    )  # fmt: skip


def _rlimit(around: Surroundings) -> Finding | None:
    for limit in around.limits.limits:
        if limit.usage == "address-space":
            return Finding(
                severity="warning", name="rlimit-as",
                what=f"RLIMIT_AS is {format_bytes(limit.bytes)}: it counts addresses, not memory",
                why="thread stacks and allocators reserve many times what they use: MemoryError comes early, and "
                "libraries written in Rust abort",
                mend="remove ulimit -v (systemd: LimitAS=) and limit the container instead",
            )  # fmt: skip
        if limit.usage == "data":
            return Finding(
                severity="warning", name="rlimit-data",
                what=f"RLIMIT_DATA is {format_bytes(limit.bytes)} for each process",
                why="above it allocations fail at once: MemoryError in Python, an abort in libraries written in Rust",
                mend="remove ulimit -d (systemd: LimitDATA=); memguard's fuse sets one that follows the limit",
            )  # fmt: skip
    return None


def _swap(around: Surroundings) -> Finding | None:
    total, free = around.swap_total_bytes, around.swap_free_bytes
    if not total or free is None or total - free < _SWAP_RATIO * total:
        return None
    return Finding(
        severity="warning", name="swap-full",
        what=f"{format_bytes(total - free)} of {format_bytes(total)} swap are in use",
        why="the machine ran out of memory before; what is swapped out answers a thousand times slower",
        mend="find who holds the memory (ps --sort -rss), and move something to another machine",
    )  # fmt: skip


def _overcommit(around: Surroundings) -> Finding | None:
    if around.overcommit != _STRICT:
        return None
    room = ""
    if around.commit_limit_bytes is not None and around.committed_bytes is not None:
        room = f": {format_bytes(around.committed_bytes)} of {format_bytes(around.commit_limit_bytes)} are promised"
    return Finding(
        severity="warning", name="overcommit-strict", what=f"vm.overcommit_memory is 2 on this machine{room}",
        why="memory that is only promised counts: fork and new threads fail while plenty is free",
        mend="sysctl vm.overcommit_memory=0 (the kernel's default)",
    )  # fmt: skip


def _huge_pages(around: Surroundings) -> Finding | None:
    if around.huge_pages != "always":
        return None
    return Finding(
        severity="warning", name="huge-pages", what="Transparent huge pages are on for everybody (always)",
        why="one byte that is touched can take 2 MiB, and a heap with holes keeps all of it: usage grows and stays",
        mend="echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, on the machine",
    )  # fmt: skip


def _musl(around: Surroundings) -> Finding | None:
    if around.allocator != "musl":
        return None
    return Finding(
        severity="note", name="musl", what="The C library is musl (Alpine)",
        why="its allocator has no call that gives freed memory back, and is slow with threads",
        mend="use a Debian based image (python:3.13-slim), or preload mimalloc",
    )  # fmt: skip


def _arenas(around: Surroundings) -> Finding | None:
    bound, environ = around.bound, around.environ
    if bound is None or around.allocator != "glibc" or arenas_set(environ):
        return None
    threads = around.threads if around.threads is not None else _POOL_THREADS
    arenas = min(_ARENAS_PER_CPU * around.cpus, threads)
    if arenas * _ARENA_BYTES <= _ARENA_RATIO * bound.bytes:
        return None
    seen = f"{threads} threads run" if around.threads is not None else f"a web server's {threads} threads"
    return Finding(
        severity="warning", name="arenas",
        what=f"Up to {arenas} arenas of malloc ({seen}, {around.cpus} CPUs) in {format_bytes(bound.bytes)}",
        why="glibc gives threads heaps of their own, 8 for each CPU there is, and each keeps what was freed in it",
        mend="set MALLOC_ARENA_MAX=2",
    )  # fmt: skip


def arenas_set(environ: Mapping[str, str]) -> str:
    """Who bounds glibc's arenas, in words; "" when nobody does."""
    if environ.get("MALLOC_ARENA_MAX", "").strip():
        return f"MALLOC_ARENA_MAX={environ['MALLOC_ARENA_MAX'].strip()}"
    return "GLIBC_TUNABLES" if "glibc.malloc.arena_max=" in environ.get("GLIBC_TUNABLES", "") else ""


def _debugging(around: Surroundings) -> Finding | None:
    environ = around.environ
    on = [f"{name}={environ[name]}" for name in ("PYTHONTRACEMALLOC", "PYTHONDEVMODE") if environ.get(name, "0") != "0"]
    malloc = environ.get("PYTHONMALLOC", "")
    on += [f"PYTHONMALLOC={malloc}"] if malloc and malloc != "pymalloc" else []
    on += [f"{name}={environ[name]}" for name in ("MALLOC_CHECK_", "MALLOC_PERTURB_") if environ.get(name, "0") != "0"]
    on = [one for one in on if not one.endswith("=")]
    if not on:
        return None
    return Finding(
        severity="warning", name="debugging", what=f"Set for debugging: {', '.join(on)}",
        why="every object grows by some 16 to 100 bytes, or leaves Python's own allocator, and everything is slower",
        mend="remove it from the service's environment",
    )  # fmt: skip


def _in_memory(around: Surroundings) -> Iterator[Finding]:
    bound = around.bound
    if bound is None:
        return
    for one in around.tmpfs:
        used, most = one.used_bytes or 0, one.max_bytes
        small = most is not None and most <= _TMPFS_RATIO * bound.bytes
        # A machine's /dev/shm may always hold half of its memory; what matters is who uses it.
        may = not small and not one.point.startswith("/dev/shm")  # noqa: S108 - looked at
        if not may and used < max(_TMPFS_USED_RATIO * bound.bytes, KIB):
            continue
        most_words = "half of the machine's memory" if most is None else format_bytes(most)
        yield Finding(
            severity="warning", name="files-in-memory",
            what=f"{one.point} lies in memory and may take {most_words}"
            + (f" ({format_bytes(used)} now)" if used else ""),
            why=f"files there count against the limit of {format_bytes(bound.bytes)}, and nobody drops them; a pod may "
            "be evicted for its storage then",
            mend=f"point TMPDIR to a disk, give the mount a size, or keep it small: memguard clean {one.point}/NAME",
        )  # fmt: skip


def check_workers(around: Surroundings, force: Workforce, worker_bytes: int | None) -> Iterator[Finding]:
    """Whether so many workers fit; ``worker_bytes`` is what one takes once it is loaded (None: nobody knows)."""
    if force.wrong:
        yield Finding(
            severity="warning", name="workers-unreadable", what=_sentence(force.wrong),
            why="the server refuses to start, or starts another number than was meant", mend="write a number, like 2",
        )  # fmt: skip
    bound, shared_bytes = around.bound, around.shared_bytes
    if bound is not None and worker_bytes is not None and worker_bytes > _START_RATIO * bound.bytes:
        yield Finding(
            severity="severe", name="application-too-large",
            what=f"Once imported it takes {format_bytes(worker_bytes)} of {format_bytes(bound.bytes)}",
            why="above seven tenths a guard is never at rest, and one request may be all that is missing",
            mend=f"raise the limit to {format_bytes(worker_bytes / _START_RATIO)}, or load less at the start",
        )  # fmt: skip
    if shared_bytes is None or force.count == 1:
        return
    each = _WORKER_BYTES if worker_bytes is None else worker_bytes
    together = each * force.count
    if together <= _FULL_RATIO * shared_bytes:
        return
    size = (
        "a bare Python web worker takes about"
        if worker_bytes is None
        else "loaded, before its first request, one takes"
    )
    fits, wanted = max(1, int(_START_RATIO * shared_bytes / each)), format_bytes(together / _START_RATIO)
    yield Finding(
        severity="severe", name="workers-too-many",
        what=f"{force.count} workers ({force.source}) share {format_bytes(shared_bytes)}: {size} {format_bytes(each)}",
        why=f"together that is {format_bytes(together)}, which leaves nothing for their work",
        mend=f"start {fits}, or raise the limit to {wanted} (gunicorn --preload shares what is loaded)",
    )  # fmt: skip


_CHECKS: Final[tuple[Callable[[Surroundings], Finding | None], ...]] = (
    _policy, _no_limit, _killed, _hangs, _full, _collects_too_late, _rlimit, _swap, _overcommit, _huge_pages, _musl,
    _arenas, _debugging,
)  # fmt: skip
