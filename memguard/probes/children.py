"""Usage of this process's descendants, for limits that hold for the whole tree."""

from __future__ import annotations

import os

from memguard.probes.files import below, read_file

__all__ = ["ChildrenProbe"]


class ChildrenProbe:
    """Reads the sum of the descendants' resident memory without their shared pages.

    For the slow pace: about 20 µs for each process and 8 µs for each thread of it, 2 µs when there is no child at
    all. A process that ends meanwhile counts nothing; one whose parent ended belongs to somebody else.
    """

    __slots__ = ("_closed", "_page_bytes", "_root", "source")

    def __init__(self, *, root: str = "/") -> None:
        self._closed = False
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._root = root
        self.source: str = "private resident memory of child processes (statm)"

    def read(self) -> int:
        """Bytes that the descendants hold now; looks at every one of them."""
        if self._closed:
            raise ValueError("this probe is closed")
        return sum(map(self._private_bytes, self.pids()))

    def pids(self) -> tuple[int, ...]:
        """The descendants' process ids, parents before children."""
        if self._root == "/" and not _has_children():
            return ()
        try:
            return self._walk()
        except OSError:
            # A kernel without CONFIG_PROC_CHILDREN.
            return self._scan()

    def _walk(self) -> tuple[int, ...]:
        found: dict[int, None] = {}
        queue = ["self"]
        for pid in queue:
            try:
                threads = os.listdir(below(self._root, f"/proc/{pid}/task"))  # noqa: PTH208 - pathlib is dearer
            except OSError:
                if pid == "self":
                    raise
                continue
            for thread in threads:
                try:
                    text = read_file(self._root, f"/proc/{pid}/task/{thread}/children")
                except OSError:
                    # A thread that just ended has no directory left; one that lives has one without the file.
                    if os.path.exists(below(self._root, f"/proc/{pid}/task/{thread}/stat")):  # noqa: PTH110 - as above
                        raise
                    continue
                for child in text.split():
                    if child.isdigit() and int(child) not in found:
                        found[int(child)] = None
                        queue.append(child.decode())
        return tuple(found)

    def _scan(self) -> tuple[int, ...]:
        children: dict[int, list[int]] = {}
        own = 0
        for name in [*os.listdir(below(self._root, "/proc")), "self"]:  # noqa: PTH208 - pathlib is dearer
            if not name.isdigit() and name != "self":
                continue
            try:
                stat = read_file(self._root, f"/proc/{name}/stat")
                # The command in brackets may hold blanks and brackets itself.
                pid, parent = int(stat.split(b" ", 1)[0]), int(stat[stat.rindex(b")") :].split(b" ", 3)[2])
            except (OSError, ValueError, IndexError):
                continue
            if name == "self":
                own = pid
            else:
                children.setdefault(parent, []).append(pid)
        if not own:
            raise FileNotFoundError("/proc/self/stat tells no process id")
        found = dict.fromkeys(children.get(own, ()))
        queue = list(found)
        for pid in queue:
            new = [child for child in children.get(pid, ()) if child not in found and child != own]
            found.update(dict.fromkeys(new))
            queue.extend(new)
        return tuple(found)

    def _private_bytes(self, pid: int) -> int:
        try:
            fields = read_file(self._root, f"/proc/{pid}/statm").split(b" ", 3)
            return max(0, int(fields[1]) - int(fields[2])) * self._page_bytes
        except (OSError, ValueError, IndexError):
            return 0

    def refresh(self) -> None:
        """Nothing is kept, so nothing is looked at."""

    def close(self) -> None:
        """Refuse to be read from now on; nothing is held."""
        self._closed = True


def _has_children() -> bool:
    """Whether this process has any child: asked of the kernel without reaping one."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
