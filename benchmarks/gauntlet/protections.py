"""Ways to keep a service inside its limit, and the command that starts the service so."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["PROTECTIONS", "Protection"]

HERE = Path(__file__).parent
_GUNICORN = ("gunicorn", "--chdir", str(HERE), "-k", "uvicorn.workers.UvicornWorker", "--log-level", "error")
# What an operator would guess for a service of some 50 requests a second.
_AT_ONCE, _REQUESTS = "60", "400"


class Protection(NamedTuple):
    """One way, in the words of the table."""

    name: str
    words: str
    needs: str = ""

    @property
    def missing(self) -> str:
        """The module that is not installed; empty when all is there."""
        return "" if not self.needs or importlib.util.find_spec(self.needs) else self.needs

    def command(self, port: int, workers: int) -> list[str]:
        """What starts the service."""
        if workers > 1 or self.name == "max_requests":
            argv = [sys.executable, "-m", *_GUNICORN, "-b", f"127.0.0.1:{port}", "-w", str(workers), "service:app"]
            return [*argv, "--max-requests", _REQUESTS, "--max-requests-jitter", "40"] if self.peer else argv
        return [
            sys.executable,
            str(HERE / "service.py"),
            str(port),
            *((_AT_ONCE,) if self.name == "concurrency" else ()),
        ]

    @property
    def peer(self) -> bool:
        """Whether it is gunicorn's own restarting of workers."""
        return self.name == "max_requests"


PROTECTIONS: tuple[Protection, ...] = (
    Protection("bare", "nothing: killed at the limit, and restarted at once"),
    Protection("memguard", "protect(app, guard), two caches registered, default rules"),
    Protection("max_requests", f"gunicorn --max-requests {_REQUESTS}: workers are replaced by count", "gunicorn"),
    Protection("concurrency", f"uvicorn limit_concurrency={_AT_ONCE}: 503 beyond"),
    Protection("rlimit", "RLIMIT_DATA at 90 % of the limit: MemoryError instead of the kernel"),
    Protection("psutil", "a middleware that reads RSS and answers 503 above 85 %", "psutil"),
    Protection("cachetools", "LRUCache(maxsize=1000), as guessed", "cachetools"),
    Protection("resource-pressure", "its governor around each request, 100 slots", "resource_pressure"),
)
