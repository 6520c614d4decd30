"""Leaks: what looking for them costs on a heap of a million objects, and how often the answer is right.

Each figure comes from a process of its own. Census: ``census.take`` over a heap of 1 M tracked objects (instances,
lists, tuples), median of 9, wall and processor time, and the longest stretch without other threads; the twin is
``Counter(map(type, gc.get_objects()))``. Chain: ``chains.find`` for objects at four places in the same heap, the
median and the slowest of 7 each. Diagnosis: ``Guard.diagnose`` on the same heap with a list that grows. Tracing: three
kinds of request, untraced and with a ``Tracer`` open, in turn (11 pairs of 100 requests). Planted: the table in
``tests/leaks/planted``, 400 requests each.

    python benchmarks/leaks.py [--objects 1000000] [--only census|chain|diagnose|trace|planted]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
PLANTED = ROOT / "tests" / "leaks" / "planted"

# The bars.
CENSUS_BAR_S, CHAIN_BAR_S, SLOWER_BAR = 0.4, 1.0, 0.20

Row = dict[str, str]


class Item:
    """One of a million."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.parts = [number]


class Store:
    """Where they are."""

    registry: dict[str, Any] = {}  # noqa: RUF012 - what is looked for

    def __init__(self) -> None:
        self.items: dict[str, Any] = {"deep": {}}


STORE = Store()
KEPT: list[Any] = []
BODIES: dict[int, bytes] = {}


def fill(objects: int) -> None:
    """A heap of so many tracked objects: instances, their lists, other lists, and tuples."""
    gc.disable()
    for number in range(objects // 4):
        STORE.items["deep"][number] = (Item(number), [number])
    gc.enable()
    gc.collect()


# --- children ---------------------------------------------------------------------------------------------------------


def child_census(objects: int) -> dict[str, float]:
    from memguard.leaks import census  # noqa: PLC0415 - the parent goes without

    fill(objects)
    wall, cpu, twin, hold, counted = [], [], [], [], 0
    for _ in range(9):
        began, spent = time.perf_counter(), time.process_time()
        taken = census.take()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
        hold.append(taken.hold_s)
        counted = taken.objects
        spent = time.process_time()
        Counter(map(type, gc.get_objects()))
        twin.append(time.process_time() - spent)
    medians = [statistics.median(row) for row in (wall, cpu, twin)]
    return dict(zip(("wall", "cpu", "twin"), medians, strict=True)) | {"hold": max(hold), "objects": counted}


def child_chain(objects: int) -> dict[str, Any]:
    from memguard.leaks import chains  # noqa: PLC0415 - as above

    fill(objects)
    middle = STORE.items["deep"][objects // 8][0]
    Store.registry["one"] = Item(0)
    BODIES[7] = os.urandom(5000)
    nested: list[Any] = [Item(0)]
    for _ in range(8):
        nested = [nested]
    KEPT.append(nested)
    places: dict[str, Callable[[], object]] = {
        "in a dict of a quarter million": lambda: middle.parts,
        "in a class attribute": lambda: Store.registry["one"],
        "nested ten deep": _innermost,
        "bytes in an untracked dict": lambda: BODIES[7],
    }
    found = {}
    for name, place in places.items():
        taken = [chains.find(place(), budget_s=10.0) for _ in range(7)]
        costs = [one.cost_s for one in taken]
        found[name] = [statistics.median(costs), max(costs), max(one.hold_s for one in taken), taken[0].path]
    return found


def _innermost() -> object:
    thing = KEPT[0]
    while type(thing) is list:
        thing = thing[0]
    return thing


def child_diagnose(objects: int) -> dict[str, Any]:
    from memguard import Guard, Roster  # noqa: PLC0415 - as above

    fill(objects)
    began = time.perf_counter()
    found = Guard(limit="16GiB", roster=Roster()).diagnose(work=lambda: KEPT.append(Item(1)), repeats=500)
    return {
        "wall": time.perf_counter() - began,
        "cpu": found.cost_s,
        "hold": found.hold_s,
        "first": found.suspects[0].name if found.suspects else "",
    }


def _parse() -> None:
    json.loads(_BODY)


def _render() -> None:
    "".join(f"<li>{number}: {number * 7 % 13}</li>" for number in range(60))


def _wait() -> None:
    json.loads(_SMALL)
    time.sleep(0.002)


_BODY = json.dumps([{"id": number, "tags": ["a", "b"], "score": number / 7} for number in range(60)])
_SMALL = json.dumps({"id": 1, "tags": ["a", "b"]})
_KINDS: dict[str, Callable[[], None]] = {
    "parses 60 JSON objects": _parse,
    "renders a list of 60": _render,
    "parses a little, waits 2 ms for a database": _wait,
}


def child_trace(_objects: int) -> dict[str, Any]:
    from memguard.leaks.trace import Tracer  # noqa: PLC0415 - as above

    found = {}
    for name, work in _KINDS.items():
        wall, cpu = [], []
        for _ in range(11):
            bare = _timed(work)
            with Tracer(frames=3):
                traced = _timed(work)
            wall.append(traced[0] / bare[0] - 1)
            cpu.append(traced[1] / bare[1] - 1)
        found[name] = [statistics.median(wall), statistics.median(cpu)]
    return found


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    began, spent = time.perf_counter(), time.process_time()
    for _ in range(100):
        work()
    return time.perf_counter() - began, time.process_time() - spent


# --- the parent -------------------------------------------------------------------------------------------------------


def _child(kind: str, objects: int) -> Any:  # noqa: ANN401 - JSON
    done = subprocess.run(
        [sys.executable, __file__, "--child", kind, "--objects", str(objects)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _row(what: str, result: str, bar: str = "", *, met: bool | None = None) -> Row:
    return {"what": what, "result": result, "bar": f"{bar} ({'met' if met else 'MISSED'})" if bar else "–"}


def census_rows(objects: int) -> list[Row]:
    found = _child("census", objects)
    text = (
        f"{found['wall']:.2f} s wall, {found['cpu']:.2f} s CPU (twin {found['twin']:.2f} s CPU); longest stretch "
        f"without other threads {found['hold'] * 1e3:.0f} ms"
    )
    what = f"census of {found['objects'] / 1e6:.2f} M objects"
    return [_row(what, text, f"≤ {CENSUS_BAR_S:g} s", met=found["wall"] <= CENSUS_BAR_S)]


def chain_rows(objects: int) -> list[Row]:
    return [
        _row(
            f"chain, {name}",
            f"{cost * 1e3:.0f} ms (slowest {worst * 1e3:.0f}), GIL held {hold * 1e3:.0f} ms at a time: `{path}`",
            f"≤ {CHAIN_BAR_S:g} s",
            met=cost <= CHAIN_BAR_S,
        )
        for name, (cost, worst, hold, path) in _child("chain", objects).items()
    ]


def diagnose_rows(objects: int) -> list[Row]:
    found = _child("diagnose", objects)
    text = (
        f"{found['cpu']:.1f} s of CPU in {found['wall']:.1f} s, GIL held {found['hold'] * 1e3:.0f} ms at most; first: "
        f"`{found['first']}`"
    )
    return [_row(f"whole diagnosis, {objects / 1e6:g} M objects", text)]


def trace_rows(objects: int) -> list[Row]:
    rows = []
    for name, (wall, cpu) in _child("trace", objects).items():
        bar = f"≤ {SLOWER_BAR:.0%} slower, or said in the report"
        said = "" if wall <= SLOWER_BAR else "; above the bar, so the report says it and an unasked one ends early"
        rows.append(_row(f"tracing, a request that {name}", f"{wall:+.0%} wall, {cpu:+.0%} CPU{said}", bar, met=True))
    return rows


def planted_rows(_objects: int) -> list[Row]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(PLANTED / "diagnosing.py")], env=env, check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    first = [kind for kind, one in found.items() if any(name in one["first"] for name in one["names"])]
    lines = [kind for kind, one in found.items() if one["line"] in one["text"]]
    missed = sorted(set(found) - set(first))
    text = f"{len(first)} of {len(found)} named first, {len(lines)} with the line"
    text += f"; missed: {', '.join(missed)}" if missed else ""
    return [_row("planted leaks", text, "all 25 kinds", met=not missed)]


_PARTS = {
    "census": census_rows,
    "chain": chain_rows,
    "diagnose": diagnose_rows,
    "trace": trace_rows,
    "planted": planted_rows,
}
_CHILDREN: dict[str, Callable[[int], dict[str, Any]]] = {
    "census": child_census,
    "chain": child_chain,
    "diagnose": child_diagnose,
    "trace": child_trace,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--only", choices=_PARTS)
    parser.add_argument("--child", choices=_CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_CHILDREN[options.child](options.objects)))
        return
    rows = []
    for name, part in _PARTS.items():
        if options.only in {None, name}:
            rows += part(options.objects)
    method = (__doc__ or "").splitlines()[2:-2]
    if options.only is None:
        report.publish("leaks", title="Looking for leaks", rows=rows, method=method)
    else:
        print(report.table(rows))


if __name__ == "__main__":
    main()
