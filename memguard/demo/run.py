"""``memguard demo``: the same service under the same load, bare and guarded, inside a real memory limit."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from memguard.demo.drawing import picture
from memguard.demo.schedule import make_schedule, write_schedule
from memguard.demo.show import Progress, curves, reliefs, table
from memguard.demo.trial import run_trial
from memguard.errors import MissingExtra
from memguard.testing.cage import Enforcer
from memguard.units import MIB, format_bytes, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memguard.demo.trial import Kind, Trial

__all__ = ["main", "verdict"]

# The load is made for these: it fills the limit in somewhat more than half of the time.
_SECONDS = 36.0
_LIMIT_BYTES = 512 * MIB
# What the service needs before its first request: it counts against the limit, not against the load.
_START_BYTES = 40 * MIB


def main(argv: Sequence[str] | None = None) -> int:
    """Run both trials and compare them; 0 when the bare service was killed and the guarded one was not, else 1.

    Raises:
        MissingExtra: FastAPI or uvicorn is not installed.
        CageUnavailable: no memory limit can be enforced on this machine.
        MemguardError: the service did not start.
    """
    options = _options(argv)
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise MissingExtra("the demo", "demo")
    out: Path = options.out / "demo"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    fill = (options.limit - _START_BYTES) / (_LIMIT_BYTES - _START_BYTES)
    requests = make_schedule(
        seconds=options.seconds, seed=options.seed, intensity=max(0.1, fill * _SECONDS / options.seconds)
    )
    schedule = out / "schedule.jsonl"
    write_schedule(requests, schedule)
    print(
        f"One agent service under one recorded load ({len(requests)} requests in {options.seconds:g} s, "
        f"seed {options.seed}), limited to {format_bytes(options.limit)}; first bare, then guarded.\n"
    )
    bare, guarded = _both(options, schedule, len(requests))
    return _tell(bare, guarded, options.out / "demo.svg")


def _both(options: argparse.Namespace, schedule: Path, planned: int) -> tuple[Trial, Trial]:
    """Both trials, one after the other, under the same load; a SIGTERM meanwhile removes the cage too."""
    progress = Progress(limit_bytes=options.limit)

    def trial(kind: Kind) -> Trial:
        ended = run_trial(
            kind,
            schedule=schedule,
            planned=planned,
            seconds=options.seconds,
            limit_bytes=options.limit,
            by=options.by,
            out=schedule.parent,
            show=progress,
        )
        progress.ended(ended)
        return ended

    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return trial("bare"), trial("guarded")
    finally:
        signal.signal(signal.SIGTERM, before)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="memguard demo", description=__doc__)
    parser.add_argument("--seconds", type=_seconds, default=_SECONDS, help="length of the load (default %(default)g)")
    parser.add_argument("--limit", type=_limit, default="512MiB", help="memory limit (default %(default)s)")
    parser.add_argument("--by", choices=get_args(Enforcer), default="auto", help="who kills at the limit")
    parser.add_argument("--seed", type=int, default=1, help="the load's random seed (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build"), help="where records go (default %(default)s)")
    return parser.parse_args(argv)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 5 <= seconds <= 600:  # noqa: PLR2004 - shorter has no room for a calm end, longer is no demonstration
        raise argparse.ArgumentTypeError(f"{text} is not between 5 and 600 seconds")
    return seconds


def _limit(text: str) -> int:
    try:
        limit = parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if limit < 2 * _START_BYTES:
        raise argparse.ArgumentTypeError(f"{text} leaves the service no room: it starts with {_START_BYTES // MIB} MiB")
    return limit


def _tell(bare: Trial, guarded: Trial, svg: Path) -> int:
    svg.write_text(picture(bare, guarded), encoding="utf-8")
    failures = verdict(bare, guarded)
    print(f"\nlimit enforced by: {bare.cage_kind}\n")
    print(table(bare, guarded), reliefs(guarded), curves(bare, guarded), sep="\n\n")
    print(f"\nthe curves as a picture: {svg}\n")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


def verdict(bare: Trial, guarded: Trial) -> list[str]:
    """What the demonstration failed to show, in words; nothing when it did."""
    failures = []
    if not bare.was_killed:
        failures.append("the bare service was not killed at the limit")
    if guarded.killed:
        failures.append("the guarded service was killed at the limit")
    elif guarded.died_at_s is not None:
        failures.append(f"the guarded service ended by itself, status {guarded.status}")
    return failures


if __name__ == "__main__":
    sys.exit(main())
