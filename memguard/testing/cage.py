"""A real memory limit around child processes, for tests, demonstrations and benchmarks.

The kernel enforces it where a memory control group can be made (cgroup v1 or v2); elsewhere a supervisor
polls the resident memory of the process tree and kills at the limit. ``Cage.kind`` says which.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from memguard.errors import CageUnavailable
from memguard.testing._supervisor import Supervisor, supervisor_unavailable
from memguard.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Cage", "Enforcer", "cage_unavailable"]

Enforcer = Literal["auto", "kernel", "supervisor"]
"""Who kills at the limit: the kernel where it can (auto), the kernel or nobody, or a polling supervisor."""

# The child enters the group before it becomes the program: not one byte is charged elsewhere.
_ENTER = 'echo $$ > "$0/cgroup.procs" || exit 125; exec "$@"'
_REMOVE_S = 5.0
_numbers = itertools.count(1)


class _Wall(Protocol):
    """What enforces the limit."""

    kind: str

    def command(self, argv: Sequence[str]) -> list[str]: ...

    def started(self, pid: int) -> None: ...

    def killed(self) -> int: ...

    def peak_bytes(self) -> int: ...

    def usage_bytes(self) -> int: ...

    def working_bytes(self) -> int: ...

    def resize(self, limit_bytes: int) -> None: ...

    def pids(self) -> list[int]: ...

    def close(self) -> None: ...


class Cage:
    """A memory limit that really kills, around the processes it starts; a context manager, used once.

    ``limit_bytes`` takes bytes or text like ``"512MiB"``. ``by`` picks who enforces: ``"kernel"``,
    ``"supervisor"``, or ``"auto"``: the kernel where it can. Leaving the cage kills whatever still runs in it and
    removes the group, also after an exception. Figures stay readable afterwards.

    Raises:
        CageUnavailable: nobody can enforce a limit here; the text says why.
        ValueError: a limit of 0 or no amount of memory.
    """

    def __init__(
        self,
        limit_bytes: int | str,
        *,
        name: str = "cage",
        by: Enforcer = "auto",
    ) -> None:
        self.limit_bytes: int = _above_zero(limit_bytes)
        self.name: str = "".join(letter if letter.isalnum() else "-" for letter in name)
        self._by = by
        self._wall: _Wall | None = None
        self._children: list[subprocess.Popen[Any]] = []
        self._last = {"killed": 0, "peak_bytes": 0}
        self.kind: str = "not entered yet"
        self.by_kernel: bool = False

    def __enter__(self) -> Self:
        if self._wall is not None or self._children:
            raise CageUnavailable("a cage is used once: make another one")
        reason = cage_unavailable() if self._by != "supervisor" else "not asked for"
        if reason is None:
            self._wall = _group(self.name, self.limit_bytes)
            self.by_kernel = True
        elif self._by == "kernel":
            raise CageUnavailable(f"the kernel cannot limit memory here: {reason}")
        elif (also := supervisor_unavailable()) is not None:
            raise CageUnavailable(f"no memory limit can be enforced here: {reason}; {also}")
        else:
            self._wall = Supervisor(self.limit_bytes)
        self.kind = self._wall.kind
        if self._by == "auto" and reason is not None:
            self.kind += f", since the kernel cannot: {reason}"
        return self

    def __exit__(self, *exc: object) -> None:
        wall = self._standing()
        for pid in wall.pids():
            _kill(pid)
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.wait()
        self._last = {"killed": wall.killed(), "peak_bytes": wall.peak_bytes()}
        self._wall = None
        wall.close()

    def popen(self, argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:  # noqa: ANN401 - Popen's own
        """Start a program inside; arguments as for ``subprocess.Popen``, without a shell.

        Raises:
            FileNotFoundError: there is no such program.
        """
        wall = self._standing()
        words = [os.fspath(word) for word in argv]
        environ: Mapping[str, str] = options.get("env") or os.environ
        if shutil.which(words[0], path=environ.get("PATH")) is None:
            raise FileNotFoundError(f"no program {words[0]!r} to start in a cage")
        child = subprocess.Popen(wall.command(words), **options)  # noqa: S603 - the caller's own program
        self._children.append(child)
        wall.started(child.pid)
        return child

    @property
    def killed(self) -> int:
        """How many processes were killed at the limit, as the kernel (or the supervisor) counts them."""
        return self._last["killed"] if self._wall is None else self._wall.killed()

    @property
    def peak_bytes(self) -> int:
        """The highest usage seen; the kernel's own figure (with page cache) where it keeps one."""
        return self._last["peak_bytes"] if self._wall is None else self._wall.peak_bytes()

    @property
    def usage_bytes(self) -> int:
        """Memory charged to the cage now, page cache included; 0 after leaving."""
        return 0 if self._wall is None else self._wall.usage_bytes()

    @property
    def working_bytes(self) -> int:
        """Usage without the page cache that the kernel would drop before killing; 0 after leaving."""
        return 0 if self._wall is None else self._wall.working_bytes()

    def resize(self, limit_bytes: int | str) -> None:
        """Change the limit while programs run, as an in-place resize of a pod does."""
        wanted = _above_zero(limit_bytes)
        self._standing().resize(wanted)
        self.limit_bytes = wanted

    def pids(self) -> list[int]:
        """The processes inside now."""
        return [] if self._wall is None else self._wall.pids()

    def _standing(self) -> _Wall:
        if self._wall is None:
            raise CageUnavailable("the cage is not standing: use it inside 'with Cage(...) as cage:'")
        return self._wall

    def __repr__(self) -> str:
        return f"<Cage {self.name!r} {format_bytes(self.limit_bytes)}, {self.kind}>"


def cage_unavailable() -> str | None:
    """Why the kernel cannot enforce a limit here, in words for ``pytest.skip``; None when it can."""
    reasons = []
    for version, parent in ((1, _parent_v1()), (2, _parent_v2())):
        if isinstance(parent, str):
            reasons.append(f"cgroup v{version}: {parent}")
            continue
        trial = parent / f"memguard-trial-{os.getpid()}-{next(_numbers)}"
        try:
            trial.mkdir()
        except OSError as error:
            reasons.append(f"cgroup v{version}: no group can be made in {parent} ({error.strerror})")
            continue
        missing = not (trial / ("memory.limit_in_bytes" if version == 1 else "memory.max")).exists()
        trial.rmdir()
        if not missing:
            return None
        reasons.append(f"cgroup v{version}: groups in {parent} have no memory limit")
    return "; ".join(reasons)


def _group(name: str, limit_bytes: int) -> _Group:
    """A new control group, v1 before v2: in a hybrid tree the memory controller is in one of them only."""
    failure: OSError | None = None
    for version, parent in ((1, _parent_v1()), (2, _parent_v2())):
        if isinstance(parent, str):
            continue
        try:
            return _Group(parent / f"memguard-{name}-{os.getpid()}-{next(_numbers)}", version, limit_bytes)
        except OSError as error:
            failure = error
    raise CageUnavailable(f"the kernel cannot limit memory here: {failure}")


class _Group:
    """A control group made for one cage, of either version."""

    def __init__(self, path: Path, version: int, limit_bytes: int) -> None:
        self.kind = f"kernel (cgroup v{version})"
        self.path = path
        self._v1 = version == 1
        self._seen_bytes = 0
        path.mkdir()
        try:
            # Swap would soften the limit: a service that ought to die would crawl instead.
            self._write_if_there("memory.swappiness" if self._v1 else "memory.swap.max", 0)
            self.resize(limit_bytes)
        except BaseException:
            path.rmdir()
            raise

    def _write_if_there(self, file: str, value: int) -> None:
        with suppress(FileNotFoundError, PermissionError):
            self._write(file, value)

    def _write(self, file: str, value: int) -> None:
        # Never creates: on a file system that is no cgroup a plain open("w") would.
        descriptor = os.open(self.path / file, os.O_WRONLY)
        try:
            os.write(descriptor, str(value).encode())
        finally:
            os.close(descriptor)

    def _count(self, file: str, *keys: str) -> int:
        text = (self.path / file).read_text()
        if not keys:
            return int(text)
        table = dict(line.split(None, 1) for line in text.splitlines())
        return sum(int(table.get(key, 0)) for key in keys)

    def command(self, argv: Sequence[str]) -> list[str]:
        return ["/bin/sh", "-c", _ENTER, str(self.path), *argv]

    def started(self, pid: int) -> None:
        """Nothing to do: the child enters by itself."""

    def killed(self) -> int:
        return self._count("memory.oom_control" if self._v1 else "memory.events", "oom_kill")

    def usage_bytes(self) -> int:
        usage = self._count("memory.usage_in_bytes" if self._v1 else "memory.current")
        self._seen_bytes = max(self._seen_bytes, usage)
        return usage

    def working_bytes(self) -> int:
        prefix = "total_" if self._v1 else ""
        droppable = self._count("memory.stat", prefix + "inactive_file", prefix + "active_file")
        return max(0, self.usage_bytes() - droppable)

    def peak_bytes(self) -> int:
        try:
            return self._count("memory.max_usage_in_bytes" if self._v1 else "memory.peak")
        except FileNotFoundError:  # memory.peak came with Linux 5.19
            self.usage_bytes()
            return self._seen_bytes

    def resize(self, limit_bytes: int) -> None:
        if not self._v1:
            self._write("memory.max", limit_bytes)
            return
        # The kernel refuses memory > memory+swap at any moment: move the outer one first when growing.
        outer, inner = "memory.memsw.limit_in_bytes", "memory.limit_in_bytes"
        if limit_bytes > self._count(inner):
            self._write_if_there(outer, limit_bytes)
        self._write(inner, limit_bytes)
        self._write_if_there(outer, limit_bytes)

    def _levels(self) -> Iterator[Path]:
        for directory, _, _ in os.walk(self.path, topdown=False):
            yield Path(directory)

    def pids(self) -> list[int]:
        found = []
        for level in self._levels():
            with suppress(OSError):
                found += [int(word) for word in (level / "cgroup.procs").read_text().split()]
        return found

    def close(self) -> None:
        """Kill what is left and remove the group; the kernel needs a moment after the last death."""
        deadline = time.monotonic() + _REMOVE_S
        while self.path.exists():
            for pid in self.pids():
                _kill(pid)
            try:
                for level in self._levels():
                    level.rmdir()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise CageUnavailable(
                        f"group {self.path} cannot be removed ({error.strerror}), pids {self.pids()}: remove it by hand"
                    ) from error
                time.sleep(0.01)


def _above_zero(limit_bytes: int | str) -> int:
    wanted = parse_bytes(limit_bytes)
    if wanted == 0:
        raise ValueError("a cage of 0 bytes holds nothing: give it a limit like '512MiB'")
    return wanted


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _own_group(version: int, proc: Path) -> tuple[Path, Path] | None:
    """(mount point, this process's own group) of a hierarchy that may limit memory."""
    try:
        mounts = (proc / "self/mountinfo").read_text().splitlines()
        groups = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return None
    own = None
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if ("memory" in controllers.split(",")) if version == 1 else not controllers:
            own = path
    for line in mounts:
        left, _, right = line.partition(" - ")
        root, point = (re.sub(r"\\([0-7]{3})", _octal, field) for field in left.split()[3:5])
        kind, _, options = right.split(" ", 2)
        fits = kind == "cgroup" and "memory" in options.split(",") if version == 1 else kind == "cgroup2"
        if fits and own is not None:
            # In a container the mount may begin below the tree's root, and the path above it is not visible.
            visible = PurePosixPath(own).is_relative_to(root) and ".." not in own
            group = Path(point, PurePosixPath(own).relative_to(root)) if visible else Path(point)
            return Path(point), group if group.is_dir() else Path(point)
    return None


def _octal(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))


def _parent_v1(proc: Path = Path("/proc")) -> Path | str:
    """Where a v1 cage goes: below this process's own group, so that outer limits still hold. Or why not."""
    found = _own_group(1, proc)
    if found is None:
        return "no memory controller is mounted"
    group = found[1]
    return group if os.access(group, os.W_OK) else f"{group} is not writable"


def _parent_v2(proc: Path = Path("/proc")) -> Path | str:
    """Where a v2 cage goes: the nearest level that hands the memory controller down. Or why there is none.

    A v2 group with processes in it cannot have limited children, so the cage is usually a sibling of this process's
    group; a level that is itself limited is never stepped over, for that would escape its limit.
    """
    found = _own_group(2, proc)
    if found is None:
        return "no unified hierarchy is mounted"
    point, group = found
    for level in (group, *group.parents):
        if not level.is_relative_to(point):
            break
        try:
            if level == group and "memory" in (level / "cgroup.controllers").read_text().split():
                # Works at a real root only, elsewhere EBUSY; left on, for other cages may depend on it.
                with suppress(OSError):
                    (level / "cgroup.subtree_control").write_text("+memory")
            if "memory" in (level / "cgroup.subtree_control").read_text().split() and os.access(level, os.W_OK):
                return level
            limit = (level / "memory.max").read_text().strip() if (level / "memory.max").exists() else "max"
        except OSError as error:
            return f"{level} cannot be read ({error.strerror})"
        if limit != "max":
            return f"{level} is limited to {limit} bytes, and a cage may not escape that"
    return "the memory controller is not delegated to this user, or this group still holds processes"
