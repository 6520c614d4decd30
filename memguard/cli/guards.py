"""The guards of this machine, as they tell of themselves: in the ledgers that workers share, and by control API."""

from __future__ import annotations

import glob
import http.client
import json
import mmap
import os
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from memguard.cli.surroundings import environ_of, nearest_limit
from memguard.errors import MemguardError
from memguard.model import Level
from memguard.probes.files import read_file
from memguard.rules import Rules
from memguard.units import MIB
from memguard.values import value
from memguard.workers import slots
from memguard.workers.ledger import occupant
from memguard.workers.lives import own_life
from memguard.workers.rows import STATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard.workers.lives import Life

__all__ = ["Guards", "LedgerGuards", "RemoteGuard", "Seen", "Share"]

# A guard says how it stands with each tick, 4 times a second at the least; one that is silent so long is stuck.
_SILENT_S: Final = 30.0
_LIMIT_S: Final = 5.0
_ANSWER_S: Final = 5.0
_FEW: Final = 8
_OK: Final = 200


@value
class Share:
    """A part of what a guarded process holds: who, of which kind, and what its reliefs gave back (None: unknown)."""

    name: str
    kind: str
    bytes: int | None
    bought_bytes: int | None = None
    attempts: int = 0


@value
class Seen:
    """One guard at one look; None where its way of telling does not say.

    ``used_bytes`` is what is held against ``limit_bytes``: by ledger this process's own resident memory, by control API
    what the guard itself compares. ``silent_s`` is how long ago it said so.
    """

    pid: int
    where: str
    command: str
    level: str
    state: str
    used_bytes: int | None
    limit_bytes: int | None
    limit_source: str = ""
    pressure: float | None = None
    shed_bytes: int | None = None
    running: int | None = None
    refusals: int | None = None
    silent_s: float = 0.0
    forecast_s: float | None = None
    holders: tuple[Share, ...] = ()

    @property
    def stuck(self) -> bool:
        """Whether it has said nothing for so long that its figures mean little."""
        return self.silent_s > _SILENT_S


class Guards(Protocol):
    """Somewhere that guards can be seen."""

    def look(self) -> Sequence[Seen]:
        """Those that are there now; a MemguardError says why nobody can be asked."""
        ...


class LedgerGuards:
    """Reads the ledgers of workers, without taking part in them; those of other users only where they may be read."""

    def __init__(self, *, folders: Sequence[str] | None = None) -> None:
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        bases = [base for base in ("/dev/shm", runtime, tempfile.gettempdir()) if base]  # noqa: S108 - looked at
        self._patterns = [f"{glob.escape(base)}/memguard-*" for base in bases] if folders is None else list(folders)
        self._limits: dict[int, tuple[float, int | None, str]] = {}

    def look(self) -> Sequence[Seen]:
        """Everybody alive, by group and process id."""
        own, now, rows = own_life(), time.monotonic(), list[Seen]()
        for path in sorted({path for pattern in self._patterns for path in glob.glob(f"{pattern}/*.workers*")}):  # noqa: PTH207 - text
            with (
                suppress(OSError, ValueError),
                open(path, "rb") as file,  # noqa: PTH123 - as above
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw,
            ):
                rows += self._rows(raw, path, own, now)
        here = {row.pid for row in rows}
        self._limits = {pid: known for pid, known in self._limits.items() if pid in here}
        return sorted(rows, key=lambda row: (row.where, row.pid))

    def _rows(self, raw: mmap.mmap, path: str, own: Life, now: float) -> Sequence[Seen]:
        rows = []
        group = os.path.basename(path).partition(".workers")[0]  # noqa: PTH119 - text
        for at in range(slots.SLOT_BYTES, len(raw) - slots.SLOT_BYTES + 1, slots.SLOT_BYTES):
            found = occupant(raw, at, own, now)
            if found is None:
                continue
            life, seed, near = found
            said = slots.read(raw, at, life, seed)
            if said is None or not said.beat_at:
                continue
            pid = life.pid
            limit_bytes, source = self._limit(pid, now) if near else (None, "")
            rows.append(
                Seen(
                    pid=pid, where=group, command=_command(pid) if near else "(another container)",
                    level=Level(min(said.level, max(Level))).name, state=STATES[min(said.state, len(STATES) - 1)],
                    used_bytes=said.used_bytes, limit_bytes=limit_bytes, limit_source=source,
                    pressure=said.used_bytes / limit_bytes if limit_bytes else None, shed_bytes=said.yield_bytes,
                    running=said.running, refusals=said.refusals, silent_s=max(0.0, now - said.beat_at),
                )
            )  # fmt: skip
        return rows

    def _limit(self, pid: int, now: float) -> tuple[int | None, str]:
        """What ends a process, as its own guard would find it."""
        known = self._limits.get(pid)
        if known is None or now - known[0] > _LIMIT_S:
            self._limits[pid] = known = (now, *_limit_of(pid))
        return known[1], known[2]


def _limit_of(pid: int) -> tuple[int | None, str]:
    try:
        environ = environ_of(str(pid))
        nearest = nearest_limit(Rules.resolve(environ), environ, pid=str(pid))
    except (MemguardError, OSError):
        return None, ""
    return (None, "") if nearest is None else (nearest.bytes, nearest.source)


def _command(pid: int) -> str:
    """The command line, its first word without folders."""
    try:
        words = read_file("/", f"/proc/{pid}/cmdline").decode("utf-8", "replace").split("\0")
    except OSError:
        return "?"
    words = [os.path.basename(words[0]), *words[1:]]  # noqa: PTH119 - text
    text = " ".join(word for word in words if word)
    return "".join(mark if mark.isprintable() else "·" for mark in text) or "?"


class RemoteGuard:
    """Asks a control API (``memguard.ext.fastapi.protect``); no proxy is used, and no redirect followed.

    ``url`` is the service's address, its page (``…/memguard``) or the API's prefix (``…/api/v1``).

    Raises:
        MemguardError: the address is none.
    """

    def __init__(self, url: str, *, token: str | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1:
            raise MemguardError(f"{url!r} is no address of a service: write it like http://127.0.0.1:8000")
        path = parts.path.rstrip("/").removesuffix("/memguard")
        self._base = path or "/api/v1"
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._headers = {"Accept": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        self._where = f"{parts.hostname}:{port}" if port else parts.hostname

    def look(self) -> Sequence[Seen]:
        """The one guard behind the address."""
        memory = self._get("/monitoring/memory")
        top = self._get(f"/monitoring/memory/top?limit={_FEW}")
        try:
            return (self._seen(memory, top),)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise MemguardError(f"{self._where}{self._base} answers, but not as a control API does") from None

    def _seen(self, memory: dict[str, Any], top: dict[str, Any]) -> Seen:
        bought = {one["name"]: one for one in memory["holders"]}
        holders = []
        for one in top["consumers"]:
            known = bought.get(one["name"])
            holders.append(
                Share(
                    name=str(one["name"]), kind=str(one["kind"]), bytes=int(one["memory_mb"] * MIB),
                    bought_bytes=None if known is None else int(known["bought_mb"] * MIB),
                    attempts=0 if known is None else int(known["attempts"]),
                )
            )  # fmt: skip
        return Seen(
            pid=int(memory["process"]["pid"]), where=self._where, command=f"{self._where}{self._base}",
            level=str(memory["level"]), state="serving" if memory["running"] else "not running",
            used_bytes=memory["used_bytes"], limit_bytes=memory["limit_bytes"],
            limit_source=memory["limit_source"] or "", pressure=float(memory["pressure"]),
            running=int(memory["running_requests"]), refusals=int(memory["refused_requests"]),
            forecast_s=memory["forecast_s"], holders=tuple(holders),
        )  # fmt: skip

    def _get(self, path: str) -> dict[str, Any]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_ANSWER_S)
        try:
            connection.request("GET", self._base + path, headers=self._headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise MemguardError(f"{self._where} cannot be asked: {str(error) or type(error).__name__}") from None
        finally:
            connection.close()
        if answer.status != _OK:
            mend = {401: "give it --token", 403: "give it --token", 404: "name its prefix: http://HOST:PORT/PREFIX"}
            hint = mend.get(answer.status, "look at its log")
            raise MemguardError(f"{self._where}{self._base}{path} answers {answer.status} {answer.reason}: {hint}")
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError:
            raise MemguardError(f"{self._where}{self._base}{path} answers no JSON: is that a control API?") from None
        return found
