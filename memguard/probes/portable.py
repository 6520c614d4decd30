"""Usage where there is no /proc (macOS, Windows, a hidden /proc): psutil, 5 to 15 times the cost of /proc."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import psutil

    from memguard.kinds import Usage

__all__ = ["PortableProbe", "portable_vitals", "total_bytes"]

_SOURCES = {
    "tree": "resident memory of this process and its children (psutil)",
    "address-space": "address space of this process (psutil)",
    "host": "memory of the whole machine, total - available (psutil)",
}


class PortableProbe:
    """Reads a usage through psutil: of the tree, the address space or the host; others raise ValueError.

    Children are looked at in ``refresh()`` only.
    """

    def __init__(self, usage: Usage) -> None:
        import psutil  # noqa: PLC0415 - 60 to 100 ms, only needed here

        if usage not in _SOURCES:
            raise ValueError(f"without /proc there is no way to read the usage of kind {usage!r}")
        self._psutil = psutil
        self._usage = usage
        self._process: psutil.Process | None = psutil.Process()
        self.children_bytes: int = 0
        self.source: str = _SOURCES[usage]

    def _open_process(self) -> psutil.Process:
        if self._process is None:
            raise ValueError("this probe is closed")
        return self._process

    def read(self) -> int:
        """Bytes used now; OSError when psutil cannot tell, ValueError after ``close()``."""
        process = self._open_process()
        try:
            if self._usage == "host":
                memory = self._psutil.virtual_memory()
                return max(0, int(memory.total) - int(memory.available))
            used = process.memory_info()
            return int(used.vms) if self._usage == "address-space" else int(used.rss) + self.children_bytes
        except self._psutil.Error as error:
            raise OSError(f"psutil cannot tell: {error}") from None

    def refresh(self) -> None:
        """Look at the children anew."""
        process = self._open_process()
        if self._usage != "tree":
            return
        total = 0
        try:
            children = process.children(recursive=True)
        except self._psutil.Error as error:
            raise OSError(f"psutil cannot tell: {error}") from None
        for child in children:
            try:
                used = child.memory_info()
            except self._psutil.Error:
                continue
            total += max(0, int(used.rss) - int(getattr(used, "shared", 0)))
        self.children_bytes = total

    def close(self) -> None:
        """Refuse to be read from now on."""
        self._process = None


def total_bytes() -> int | None:
    """The machine's memory in bytes, None when the machine does not tell."""
    import psutil  # noqa: PLC0415 - 60 to 100 ms, only needed here

    try:
        return int(psutil.virtual_memory().total) or None
    except (OSError, psutil.Error):
        return None


def portable_vitals() -> dict[str, int]:
    """The fields of ``Vitals`` that psutil can fill: rss, available and swap bytes; without what it cannot tell."""
    import psutil  # noqa: PLC0415 - 60 to 100 ms, only needed here

    found: dict[str, int] = {}
    try:
        used = psutil.Process().memory_info()
        found["rss_bytes"] = int(used.rss)
        peak_bytes = getattr(used, "peak_wset", None)
        if peak_bytes is not None:
            # Windows alone tells it.
            found["peak_bytes"] = int(peak_bytes)
        found["available_bytes"] = int(psutil.virtual_memory().available)
        swap = psutil.swap_memory()
        found.update(swap_used_bytes=int(swap.used), swap_total_bytes=int(swap.total))
    except (OSError, RuntimeError, psutil.Error):
        # RuntimeError: swap_memory() where the counters are switched off.
        return found
    return found
