"""States: how small and how fast they pack, how much memory really comes back, and what a get and a put cost.

python benchmarks/states.py [--only pack|rss|access]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import pickle
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report

from memguard.agents.states import States

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, MutableMapping

ROOT = Path(__file__).parent.parent
MIB = 1 << 20
ACCESSES = 200_000
AGENTS = 4000
# facts.md: 217 -> 25 MB with 5 % survivors; the share that came back.
RETURNED_BAR = 0.85

METHOD = (
    """Pack: CPU time of `States.pack` over 20 states of one kind (looking whether anybody refers to them, pickling,
compressing, loading back, comparing), of the first access after, of `States.spill` with the access after, and of a
plain pickle with its load, by MiB of the objects. "Smaller by": accounted bytes, before and after. Medians of 3.""",
    """Rss: a process of its own fills a mapping with 4,000 states of some 600 small objects (40 KB), deletes, packs or
spills all but a twentieth, collects and trims, and reads VmRSS; what the process had before is subtracted. "Moved":
everything is packed, also the twentieth, which is loaded again at its next use (last column). Medians of 3.""",
    """Access: CPU time of a loop over 1,000 keys, by access; medians of 5.""",
)

Row = dict[str, str]


# --- packing --------------------------------------------------------------------------------------------------------


def turns(number: int) -> list[dict[str, Any]]:
    """300 turns, with words that repeat as words do."""
    rng = random.Random(number)
    words = (ROOT / "docs" / "how-it-decides.md").read_text().split()
    return [
        {
            "role": rng.choice(("user", "assistant")),
            "content": " ".join(rng.choices(words, k=40)),
            "at": 1.7e9 + turn,
            "tokens": rng.randrange(500),
        }
        for turn in range(300)
    ]


def chat(number: int) -> object:
    """A conversation as JSON has it."""
    return {"id": f"session-{number}", "messages": turns(number)}


def messages(number: int) -> object:
    """The same as langchain messages."""
    from langchain_core.messages import AIMessage, HumanMessage  # noqa: PLC0415 - only here

    kinds = {"user": HumanMessage, "assistant": AIMessage}
    return [kinds[turn["role"]](turn["content"]) for turn in turns(number)]


def dense(number: int) -> object:
    """A belief as active inference keeps it: an array of arrays of probabilities, 0.4 MB."""
    import numpy as np  # noqa: PLC0415 - only here

    rng = np.random.default_rng(number)
    factors = [rng.dirichlet(np.ones(50), size=250) for _ in range(4)]
    held = np.empty(4, dtype=object)
    held[:] = factors
    return {"qs": held, "t": number}


def sparse(number: int) -> object:
    """A belief that is nearly certain: mostly zeros."""
    import numpy as np  # noqa: PLC0415 - only here

    table = np.zeros((500, 100))
    table[np.arange(500), np.random.default_rng(number).integers(0, 100, 500)] = 1.0
    return {"qs": table, "t": number}


KINDS: dict[str, tuple[Callable[[int], object], dict[str, Any]]] = {
    "chat history, zlib": (chat, {}),
    "chat history, zstd": (chat, {"codec": "zstd"}),
    "langchain messages, zlib": (messages, {}),
    "dense belief, exact": (dense, {}),
    "dense belief, floats='float32'": (dense, {"floats": "float32"}),
    "dense belief, floats='float16'": (dense, {"floats": "float16"}),
    "sparse belief, exact": (sparse, {}),
}


def packing() -> list[Row]:
    """One row for each kind of state."""
    rows = []
    for title, (make, options) in KINDS.items():
        runs = [_packed(make, options) for _ in range(3)]
        size, ratio, pack_ms, load_ms, spill_ms, pickle_ms, where = (
            statistics.median(column) if not isinstance(column[0], str) else column[0]
            for column in zip(*runs, strict=True)
        )
        rows.append(
            {
                "what": title,
                "size": f"{size / 1024:.0f} KiB",
                "smaller by": f"{ratio:.1f} ×" if where == "packed" else "stays an object, goes to disk",
                "pack": f"{pack_ms / size * MIB:.1f} ms/MiB",
                "load": f"{load_ms / size * MIB:.1f} ms/MiB",
                "to disk and back": f"{spill_ms / size * MIB:.1f} ms/MiB",
                "plain pickle and back": f"{pickle_ms / size * MIB:.1f} ms/MiB",
            }
        )
        print("  ".join(rows[-1].values()), flush=True)
    return rows


def _packed(make: Callable[[int], object], options: dict[str, Any]) -> tuple[Any, ...]:
    count = 20
    states: States[Any] = States("bench", max_bytes_each=None, **options)
    for number in range(count):
        states[str(number)] = make(number)
    live_bytes = states.figures().live_bytes
    pack_s = _cpu_s(states.pack)
    figures = states.figures()
    ratio = figures.ratio
    where = "packed" if figures.packed == count else "live"
    keys = [str(number) for number in range(count)]

    def to_disk_and_back() -> None:
        states.spill()
        _read(states, keys)

    def plainly() -> None:
        for thing in objects:
            pickle.loads(pickle.dumps(thing, 5))  # noqa: S301 - made here

    load_s = _cpu_s(lambda: _read(states, keys))
    spill_s = _cpu_s(to_disk_and_back)
    objects = list(states.values())
    pickle_s = _cpu_s(plainly)
    per = 1e3 / count
    return live_bytes / count, ratio, pack_s * per, load_s * per, spill_s * per, pickle_s * per, where


def _read(states: Mapping[str, object], keys: Iterable[str]) -> None:
    for key in keys:
        states[key]


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


# --- memory ---------------------------------------------------------------------------------------------------------


def _rss_mib() -> float:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - as cheap as can be
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def _settled_mib() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _rss_mib()


def agent(number: int, words: list[str], rng: random.Random) -> dict[str, Any]:
    """A state of some 600 small objects, 40 KB."""
    return {
        "id": f"agent-{number}",
        "messages": [
            {
                "role": rng.choice(("user", "assistant")),
                "text": " ".join(rng.choices(words, k=12)),
                "n": number * 1000 + turn,
                "score": rng.random(),
            }
            for turn in range(100)
        ],
    }


def child_rss(mode: str) -> dict[str, float]:
    """Fill, drop or pack all but a twentieth, and read what is left."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghij", k=6)) for _ in range(500)]
    states: Any = {} if mode.startswith("bare") else States("agents", max_bytes_each=None, spill="spill" in mode)
    before = _settled_mib()
    for number in range(AGENTS):
        states[f"agent-{number}"] = agent(number, words, rng)
    full = _settled_mib()
    few = {f"agent-{number}" for number in range(0, AGENTS, 20)}
    began = time.process_time()
    if "drop" in mode:
        for key in [key for key in states if key not in few]:
            del states[key]
    elif "pack" in mode or "spill" in mode:
        _read(states, few)
        while states.figures().live > len(few):
            (states.pack if "pack" in mode else states.spill)(MIB)
    if "move" in mode:
        while states.figures().live:
            states.move()
    took = time.process_time() - began
    left = _settled_mib()
    loaded = _cpu_s(lambda: _read(states, few))
    gc.collect()
    return {
        "full": full - before,
        "left": left - before,
        "took_ms": took * 1e3,
        "again": _settled_mib() - before,
        "load_ms": loaded * 1e3,
    }


MODES = {
    "bare drop": "a dict, 95 % deleted",
    "drop": "States, 95 % deleted",
    "drop, move": "States, 95 % deleted, the rest moved",
    "pack": "States, 95 % packed",
    "pack, move": "States, 95 % packed, the rest moved",
    "spill, move": "States, 95 % spilled, the rest moved",
}


def returned() -> list[Row]:
    """One row for each way."""
    rows = []
    for mode, title in MODES.items():
        found = [_measure(mode) for _ in range(3)]
        full, left, took_ms, again, load_ms = (
            statistics.median(run[name] for run in found) for name in ("full", "left", "took_ms", "again", "load_ms")
        )
        share = 1 - left / full
        bar = "–"
        if mode == "drop, move":
            bar = f"≥ {RETURNED_BAR:.0%} ({'met' if share >= RETURNED_BAR else 'MISSED'})"
        rows.append(
            {
                "what": title,
                "before": f"{full:.0f} MiB",
                "after": f"{left:.0f} MiB",
                "came back": f"{share:.0%}",
                "CPU": f"{took_ms:.0f} ms",
                "5 % loaded again": f"{again:.0f} MiB in {load_ms:.0f} ms",
                "bar": bar,
            }
        )
        print("  ".join(rows[-1].values()), flush=True)
    return rows


def _measure(mode: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", mode],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


# --- get and put ----------------------------------------------------------------------------------------------------


def access() -> list[Row]:
    """One row for each kind of access."""
    keys = [f"key {number}" for number in range(1000)]
    plain: dict[str, Any] = {}
    states: States[Any] = States("bench", max_bytes_each="10MiB", max_bytes="1GiB")
    history = chat(1)
    for key in keys:
        plain[key] = states[key] = "some text"
    many: dict[str, Any] = {f"{number}": number for number in range(1000)}

    def gets(mapping: Mapping[str, object]) -> Callable[[], None]:
        def loop() -> None:
            for _ in range(ACCESSES // 1000):
                _read(mapping, keys)

        return loop

    def puts(mapping: MutableMapping[str, Any], value: object) -> Callable[[], None]:
        return lambda: mapping.update(dict.fromkeys(keys, value))

    def leases() -> None:
        for key in keys:
            with states.lease(key):
                pass

    return [
        _ns("get, dict", gets(plain), ACCESSES),
        _ns("get, States", gets(states), ACCESSES),
        _ns("put of a short text, dict", puts(plain, "other"), 1000),
        _ns("put of a short text, States", puts(states, "other"), 1000),
        _ns("put of a dict of 1,000 numbers, States", puts(states, many), 1000),
        _ns("put of a chat history of 300 turns, States", puts(states, history), 1000),
        _ns("lease and release of that history, States", leases, 1000),
    ]


def _ns(what: str, work: Callable[[], None], count: int) -> Row:
    times = []
    for _ in range(5):
        began = time.process_time()
        work()
        times.append((time.process_time() - began) / count * 1e9)
    row = {"what": what, "measured": f"{statistics.median(times):,.0f} ns (best {min(times):,.0f})"}
    print("  ".join(row.values()), flush=True)
    return row


def main() -> None:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(description="what states cost and give back")
    parser.add_argument("--only", choices=["pack", "rss", "access"])
    parser.add_argument("--child")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child_rss(options.child)))
        return
    parts: dict[str, tuple[str, Callable[[], list[Row]]]] = {
        "pack": ("States: packing, spilling, loading", packing),
        "rss": ("States: what comes back to the kernel", returned),
        "access": ("States: get and put", access),
    }
    for name, (title, work) in parts.items():
        if options.only in {None, name}:
            paragraph = next(text for text in METHOD if text.startswith(name.title()))
            report.publish(f"states-{name}", title=title, rows=work(), method=[paragraph])


if __name__ == "__main__":
    main()
