"""Sizing: how true and how quick ``memguard.sizeof`` is, beside an exact walk, tracemalloc and pympler's asizeof.

"allocated" is what tracemalloc saw being allocated and kept while the shape was made: the truth. "exact" is a plain
walk that visits every object once and adds up what CPython says of each, with the bases of numpy's views; it knows
nothing of the arrays in which instances keep attributes (dataclasses are compared with an exact walk corrected for
that). "sizeof" is ours with the error it states (about two sigma), then its distance from exact over shapes made from
several seeds: root mean square, and how many of these sizes lay within the stated error or 0.5 %. Times are the best
of several runs, in CPU time of the thread; the ratio is asizeof's time to ours. asizeof makes a ``__dict__`` of every
instance it meets, so it comes last.
"entry_bytes" is the same walk with a smaller budget, as a cache's miss pays for it.

    python benchmarks/sizing.py [--seeds 8] [--runs 15] [--only SHAPE]
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import sys
import time
import tracemalloc
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic
import report
from pympler import asizeof

from memguard.sizing import entry_bytes, sizeof
from memguard.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

# The bars, for 1 MB of JSON.
TIME_BAR_MS, ERROR_BAR_RATIO, ASIZEOF_BAR = 1.0, 0.05, 50
JSON_BYTES = 1_000_000
JSON_SHAPES = {"records", "documents", "chat log", "conversations"}

Row = dict[str, str]
_NOBODYS = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, bool, type(None))


@dataclass
class Point:
    """Attributes where CPython puts them."""

    a: int
    b: str
    c: float
    d: list[float]


@dataclass(slots=True)
class SlottedPoint:
    """Attributes in slots."""

    a: int
    b: str
    c: float
    d: list[float]


class Model(pydantic.BaseModel):
    """Attributes in a dict."""

    a: int
    b: str
    c: float
    d: list[float]


# --- shapes ------------------------------------------------------------------------------------------------------


def text(dice: random.Random, length: float) -> str:
    return "".join(dice.choices("abcdefghij klmnop", k=int(length) + 1))


def to_json(dice: random.Random, one: Callable[[random.Random], Any]) -> object:
    made, size = [], 0
    while size < JSON_BYTES:
        made.append(one(dice))
        size += len(json.dumps(made[-1]))
    return json.loads(json.dumps({"version": 1, "items": made}))


def record(dice: random.Random) -> dict[str, object]:
    return {
        "id": dice.randrange(10**6),
        "name": text(dice, dice.randint(5, 30)),
        "score": dice.random(),
        "tags": [text(dice, 6) for _ in range(dice.randint(0, 4))],
        "author": {"name": text(dice, 12), "mail": text(dice, 20), "age": dice.randint(18, 900)},
    }


def document(dice: random.Random, depth: int = 0) -> dict[str, object]:
    """Nested up to four deep, one in three with a body of log-normal length: the hardest of these to sample."""
    made = record(dice)
    if depth < 3 and dice.random() < 0.5:
        made["child"] = document(dice, depth + 1)
    if dice.random() < 0.3:
        made["body"] = text(dice, dice.lognormvariate(4, 1))
    return made


def message(dice: random.Random) -> object:
    return {
        "role": dice.choice(["user", "assistant"]),
        "content": text(dice, dice.lognormvariate(5.5, 1)),
        "at": dice.random(),
        "id": dice.randrange(10**9),
    }


def conversation(dice: random.Random) -> object:
    return {"id": dice.randrange(10**6), "messages": [message(dice) for _ in range(dice.randint(2, 60))]}


def views(_: random.Random) -> object:
    base = np.zeros(1_000_000)
    return {at: base[at * 100 : (at + 1) * 100] for at in range(5000)}


def fields(dice: random.Random, kind: Callable[..., object]) -> object:
    return [kind(a=at + 1000, b=text(dice, dice.randint(1, 40)), c=dice.random(), d=[at + 0.5]) for at in range(3000)]


def shared(dice: random.Random) -> object:
    pool = [{"schema": [text(dice, 2000) for _ in range(5)]} for _ in range(10)]
    return [{"row": at + 1000, "schema": dice.choice(pool)} for at in range(20_000)]


SHAPES: dict[str, Callable[[random.Random], Any]] = {
    "records": lambda dice: to_json(dice, record),
    "documents": lambda dice: to_json(dice, document),
    "chat log": lambda dice: to_json(dice, message),
    "conversations": lambda dice: to_json(dice, conversation),
    "embeddings": lambda dice: {text(dice, 40): [dice.random() for _ in range(768)] for _ in range(200)},
    "rows": lambda dice: [{"a": at + 1000, "b": dice.random(), "c": f"name {at}", "d": None} for at in range(5000)],
    "skewed 1 %": lambda dice: [
        {"k": at + 300, "v": text(dice, 90_000 if dice.random() < 0.01 else 100)} for at in range(3000)
    ],
    "words": lambda dice: [text(dice, dice.randint(1, 200)) for _ in range(50_000)],
    "large dict": lambda _: {f"key-{at}": at * 1000 for at in range(100_000)},
    "numpy views": views,
    "dataclasses": lambda dice: fields(dice, Point),
    "slots": lambda dice: fields(dice, SlottedPoint),
    "pydantic": lambda dice: fields(dice, Model),
    "shared": shared,
    "small entry": lambda dice: json.loads(json.dumps(record(dice))),
}


# --- measuring ---------------------------------------------------------------------------------------------------


def exact_bytes(root: object) -> int:
    seen, stack, total = set[int](), [root], 0
    while stack:
        thing: Any = stack.pop()
        if id(thing) in seen or isinstance(thing, _NOBODYS) or (type(thing) is int and -6 < thing < 257):
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        stack += gc.get_referents(thing)
        if isinstance(thing, dict):
            stack += thing
        if isinstance(thing, np.ndarray):
            stack.append(thing.base)
    return total


def allocated_bytes(make: Callable[[random.Random], Any]) -> int:
    make(random.Random(0))
    gc.collect()
    tracemalloc.start(1)
    before = tracemalloc.get_traced_memory()[0]
    thing = make(random.Random(0))
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del thing
    return after - before


def took_s(measure: Callable[[Any], object], thing: object) -> float:
    began = time.thread_time()
    measure(thing)
    return time.thread_time() - began


def measured(name: str, make: Callable[[random.Random], Any], *, seeds: int, runs: int) -> Row:
    truth = allocated_bytes(make)
    errors, within = [], 0
    for seed in range(seeds):
        thing = make(random.Random(seed))
        size, exact = sizeof(thing), exact_bytes(thing)
        if name == "dataclasses":
            exact = exact * truth // exact_bytes(make(random.Random(0)))
        errors.append(size / exact - 1)
        within += abs(size - exact) <= max(size.error_bytes, 0.005 * exact)
    thing = make(random.Random(0))
    size, exact = sizeof(thing), exact_bytes(thing)
    ours, entry = [], []
    for _ in range(runs):
        ours.append(took_s(sizeof, thing))
        entry.append(took_s(lambda one: entry_bytes("key", one), thing))
    walk_s = min(took_s(exact_bytes, thing) for _ in range(3))
    ours_s = min(ours)
    try:
        theirs_s = min(took_s(asizeof.asizeof, thing) for _ in range(3))
        theirs = f"{asizeof.asizeof(thing) / truth - 1:+.1%}"  # type: ignore[no-untyped-call]
    except ValueError:  # pympler 1.1 does not know views of numpy 2
        theirs_s, theirs = math.nan, "fails"
    off = (sum(error**2 for error in errors) / len(errors)) ** 0.5
    row = {
        "shape": name,
        "allocated": format_bytes(truth),
        "exact": f"{exact / truth - 1:+.1%}",
        "sizeof": f"{size / truth - 1:+.1%} ± {size.error_bytes / size:.1%}",
        "asizeof": theirs,
        "rms": f"{off:.1%}",
        "within": f"{within}/{seeds}",
        "sizeof ms": f"{ours_s * 1e3:.2f}",
        "entry_bytes ms": f"{min(entry) * 1e3:.2f}",
        "exact ÷ ours": f"{walk_s / ours_s:.0f} ×",
        "asizeof ÷ ours": "–" if math.isnan(theirs_s) else f"{theirs_s / ours_s:.0f} ×",
        "bar": "–",
    }
    if name in JSON_SHAPES:
        bars = {
            f"≤ {TIME_BAR_MS:g} ms": ours_s * 1e3 <= TIME_BAR_MS,
            f"≤ {ERROR_BAR_RATIO:.0%}": max(off, abs(size / truth - 1)) <= ERROR_BAR_RATIO,
            f"≥ {ASIZEOF_BAR} ×": theirs_s / ours_s >= ASIZEOF_BAR,
        }
        row["bar"] = ", ".join(f"{bar} {'met' if met else 'MISSED'}" for bar, met in bars.items())
    print("  ".join(row.values()), flush=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--only", choices=list(SHAPES))
    arguments = parser.parse_args()
    wanted = SHAPES if arguments.only is None else {arguments.only: SHAPES[arguments.only]}
    rows = [measured(name, make, seeds=arguments.seeds, runs=arguments.runs) for name, make in wanted.items()]
    if arguments.only is None:
        method = __doc__.split("\n\n")[1].splitlines()
        report.publish("sizing", title="How true and how quick sizeof is", rows=rows, method=method)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main())
