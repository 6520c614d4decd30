"""Gauntlet: one service under a real memory limit, fifteen hostile loads, bare, guarded, and by each peer's way.

Each run is the service of ``service.py`` in a memory group of its own, and a client outside of it. A service that ends
is started again at once, as a container would be; what is asked meanwhile is lost. "killed" is the kernel's count.
"lost" are requests without an answer or with one of 500: "refused" (503, 429, 1013) is an answer. "goodput" is what was
served as a share of the best possible: of what is asked in order, all that fits beside what is held then, where room is
the limit minus what the service takes at rest; answers that can be made again take none. "peak" is the group's use
without page cache, of the limit that holds then. "back" is the time from the load's end until four requests in a row
that hold 4 MiB are served. "shed wrongly" counts refusals and answers made twice where there was no pressure.

    python benchmarks/gauntlet/run.py [--case NAME] [--by NAME] [--rounds 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build"
sys.path[:0] = [str(HERE), str(HERE.parent)]

import report  # noqa: E402 - benchmarks are no package
from cases import CASES, Case  # noqa: E402
from client import Client, best  # noqa: E402
from protections import PROTECTIONS, Protection  # noqa: E402

from memguard.testing.cage import Cage, cage_unavailable  # noqa: E402
from memguard.units import MIB  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

_START_S, _BACK_S, _SAMPLE_S = 60.0, 15.0, 0.02
_FLOOD_BYTES = 800 * MIB
_FLOOD = """
import sys
with open(sys.argv[1], "wb") as file:
    for _ in range(int(sys.argv[2]) >> 20):
        file.write(b"x" * (1 << 20))
"""


@dataclass
class Run:
    """What came of one load under one protection."""

    case: str
    by: str
    killed: int = 0
    restarts: int = 0
    asked: int = 0
    served: int = 0
    refused: int = 0
    lost: int = 0
    best: int = 0
    p99_s: float | None = None
    peak_ratio: float = 0.0
    back_s: float | None = None
    light_ratio: float | None = None
    errors: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    failed: str = ""

    @property
    def goodput(self) -> float:
        """Served, of the best possible."""
        return self.served / self.best if self.best else 0.0


class Service:
    """The service in its cage, started again whenever it ends, and watched."""

    def __init__(self, cage: Cage, case: Case, by: Protection, folder: Path) -> None:
        self.cage, self.case, self.by = cage, case, by
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.restarts = 0
        self.peak_ratio = 0.0
        self._env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]),
            "GAUNTLET": by.name,
            "GAUNTLET_LIMIT_BYTES": str(case.limit_bytes),
            "GAUNTLET_TROUBLE": case.trouble,
            "GAUNTLET_FULL": str(folder / "full"),
        }
        self._errors = (folder / "service.log").open("ab")
        self._stop = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _start(self) -> subprocess.Popen[bytes]:
        argv = self.by.command(self.port, self.case.workers)
        return self.cage.popen(argv, env=self._env, cwd=HERE, stdout=self._errors, stderr=self._errors)

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self.peak_ratio = max(self.peak_ratio, self.cage.working_bytes / self.cage.limit_bytes)
            if self._process.poll() is not None:
                self.restarts += 1
                self._process = self._start()

    async def ready(self, client: Client) -> int:
        """Wait until it answers; what it takes then."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                if await client.ask("/small") == "served":
                    break
            except (OSError, EOFError):
                pass
            if self._process.poll() is not None:
                raise RuntimeError(f"the service ended with {self._process.returncode}: {self.said()}")
            await asyncio.sleep(0.1)
        else:
            raise RuntimeError(f"the service did not answer within {_START_S:g} s: {self.said()}")
        self._thread.start()
        await asyncio.sleep(0.5)
        return self.cage.working_bytes

    def said(self) -> str:
        """The end of what it wrote."""
        self._errors.flush()
        return Path(self._errors.name).read_text(encoding="utf-8", errors="replace")[-600:]

    def close(self) -> None:
        """End it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._errors.close()


async def one(case: Case, by: Protection) -> Run:
    """One load under one protection."""
    run = Run(case.name, by.name)
    load = case.load()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gauntlet-", dir=BUILD)))
        if case.trouble == "disk":
            _full_disk(folder / "full", stack)
        cage = stack.enter_context(Cage(case.limit_bytes, name="gauntlet"))
        service = Service(cage, case, by, folder)
        stack.callback(service.close)
        client = Client(service.port)
        try:
            rest_bytes = await service.ready(client)
        except RuntimeError as error:
            run.failed = str(error)
            return run
        around = asyncio.create_task(_around(case, cage, folder))
        await client.play(load)
        run.back_s = await _back(client)
        await around
        try:
            run.facts = await _facts(service.port)
        except (OSError, EOFError, ValueError):
            run.facts = {}
        service.close()
        run.killed, run.restarts, run.peak_ratio = cage.killed, service.restarts, service.peak_ratio
    counts = client.ended
    run.asked, run.served, run.refused = len(load), counts["served"], counts["refused"]
    run.lost = counts["lost"] + counts["failed"]
    run.errors = dict(client.errors) | ({"status": counts["failed"]} if counts["failed"] else {})
    run.best = best(load, (case.floor_bytes or case.limit_bytes) - rest_bytes)
    run.p99_s = statistics.quantiles(client.late_s, n=100)[98] if len(client.late_s) > 1 else None
    light = sum(client.light.values())
    run.light_ratio = client.light["served"] / light if light else None
    return run


def _full_disk(place: Path, stack: ExitStack) -> None:
    """A file system of 256 KiB that is full."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "gauntlet", place], check=True)  # noqa: S607
    stack.callback(subprocess.run, ["umount", "-l", place], check=False)
    with suppress(OSError):
        (place / "filler").write_bytes(b"x" * 300_000)


async def _around(case: Case, cage: Cage, folder: Path) -> None:
    if case.around == "lower":
        await asyncio.sleep(case.around_s)
        # v1 does not lower a limit below what is used (EBUSY); v2 does, and kills.
        with suppress(OSError):
            cage.resize(case.floor_bytes)
    elif case.around == "pages":
        await asyncio.sleep(case.around_s)
        writer = cage.popen([sys.executable, "-c", _FLOOD, str(folder / "flood"), str(_FLOOD_BYTES)])
        await asyncio.to_thread(writer.wait)


async def _back(client: Client) -> float | None:
    """How long until new work is served again, four times in a row; None if it is not."""
    began, row, first = time.monotonic(), 0, 0.0
    while time.monotonic() - began < _BACK_S:
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(5.0):
                served = await client.ask("/hold?kib=4096&hold_s=0.05") == "served"
        except (OSError, EOFError, TimeoutError, ValueError):
            served = False
        if served and not row:
            first = asked_at
        row = row + 1 if served else 0
        if row == 4:  # a single one may be luck
            return first - began
        await asyncio.sleep(0.05)
    return None


async def _facts(port: int) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /facts HTTP/1.1\r\nhost: gauntlet\r\nconnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10.0)
    writer.close()
    told: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return told


def row(case: Case, by: Protection, runs: Sequence[Run]) -> dict[str, str]:
    """A line of the table: sums and worst values over the rounds."""
    head = {"case": f"{case.name}: {case.words}", "by": by.name}
    if failed := [run.failed for run in runs if run.failed]:
        return head | {"killed": "–", "lost": f"did not start: {failed[0].splitlines()[-1][-80:]}"}
    late = [run.p99_s for run in runs if run.p99_s is not None]
    back = [run.back_s for run in runs]
    wrong = sum(run.refused for run in runs) if case.calm else None
    return head | {
        "killed": str(sum(run.killed for run in runs)),
        "lost": f"{sum(run.lost for run in runs)} of {sum(run.asked for run in runs)}",
        "refused": str(sum(run.refused for run in runs)),
        "goodput": f"{sum(run.served for run in runs) / max(1, sum(run.best for run in runs)):.0%}",
        "p99": f"{max(late) * 1e3:.0f} ms" if late else "–",
        "peak": f"{max(run.peak_ratio for run in runs):.0%}",
        "back": "never" if None in back else f"{max(value for value in back if value is not None):.1f} s",
        "shed wrongly": "–" if wrong is None else str(wrong + _made_twice(runs)),
    }


def _made_twice(runs: Sequence[Run]) -> int:
    """Answers that were made again: they had been shed."""
    return sum(max(0, run.facts.get("made", 0) - run.facts.get("answers", 0)) for run in runs)


def main() -> int:
    """Run what is asked for; 1 when a guarded run was killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--by", action="append", choices=[by.name for by in PROTECTIONS])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="every run as a line of JSON, too")
    options = parser.parse_args()
    if reason := cage_unavailable():
        print(f"no gauntlet: {reason}", file=sys.stderr)
        return 2
    BUILD.mkdir(exist_ok=True)
    rows, killed = [], 0
    for case in (case for case in CASES if not options.case or case.name in options.case):
        for by in (by for by in PROTECTIONS if not options.by or by.name in options.by):
            if not (case.peers or by.name in {"bare", "memguard"}):
                continue
            if (case.workers > 1 and by.name not in {"bare", "memguard", "max_requests"}) or by.missing:
                continue
            runs = [asyncio.run(one(case, by)) for _ in range(options.rounds)]
            rows.append(row(case, by, runs))
            print("  ".join(rows[-1].values()), flush=True)
            if options.json:
                with options.json.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(asdict(run)) + "\n" for run in runs)
            if by.name == "memguard":
                killed += sum(run.killed for run in runs)
    if not options.case and not options.by:
        ways = [f"{by.name}: {by.words}." for by in PROTECTIONS if not by.missing]
        method = [*(__doc__ or "").split("\n\n")[1].splitlines(), "", *ways, "", f"Rounds: {options.rounds}."]
        if "/" not in Path("/proc/swaps").read_text(encoding="ascii"):
            method.append("No swap on this machine: nothing was measured with it.")
        report.publish("gauntlet", title="Gauntlet", rows=rows, method=method)
    return 1 if killed else 0


if __name__ == "__main__":
    raise SystemExit(main())
