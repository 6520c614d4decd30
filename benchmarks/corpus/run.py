"""The corpus: real leaks of released libraries, each on the release that leaks and on the one that mended it.

Each release is installed into an environment of its own under ``.venv-corpus`` and runs in a process of its own
(``trial.py``): a guard reads the process's real memory, with the default rules (an hour of patience) but for the pace.
Time is compressed: the guard is ticked by hand on a clock that the trial moves by four seconds a look, and between two
looks come as many requests as leak some 28 KB. The limit is 128 MiB above what the service starts with. It ends with
``leak.suspected``, or after four hours of that clock ("after" are minutes of it). Then
``guard.diagnose(work=request, repeats=n)`` is asked what it is, where n requests leak 8 MiB (but 1,600 to 50,000 of
them). "First named" is the first suspect of its report; what that has to name each case says in its file. A
``refcount`` case is C code that forgets objects or buffers of Python's allocators: nobody holds those, so the line is
the answer. Clean means that no verdict was leak-like at any look. Seconds are of the whole process, on the leaking
release; cost is processor time of the guard's looks, and of the examination.

    python benchmarks/corpus/run.py [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import report  # noqa: E402
from table import NAMES, Case, load  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

ENVIRONMENTS = ROOT / ".venv-corpus"
# What memguard itself needs there; it is imported from the tree.
NEEDS = ("psutil>=5.9.6",)
DEADLINE_S = 900.0
# The bars of the issue.
RIGHT_BAR, CASES_BAR = 0.8, 12


def environment(library: str, version: str, more: Sequence[str]) -> Path:
    """The interpreter of an environment with that release; made when it is not there."""
    home = ENVIRONMENTS / f"{library}-{version}".lower()
    python, made = home / "bin" / "python", home / ".made"
    wanted = [f"{library}=={version}", *more, *NEEDS]
    if not made.exists() or made.read_text(encoding="utf-8").split() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)], check=True)
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-qq", *wanted]
        subprocess.run(install, check=True)
        made.write_text("\n".join(wanted), encoding="utf-8")
    return python


def tried(case: Case, version: str) -> dict[str, Any]:
    """What a trial of that release says; ``error`` where it did not end."""
    python = environment(case.library, version, case.installed_with)
    began = time.perf_counter()
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            [str(python), str(HERE / "trial.py"), case.name],
            env=variables, capture_output=True, text=True, timeout=DEADLINE_S, check=True,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        said = getattr(error, "stderr", None) or ""
        tail = (said if isinstance(said, str) else said.decode())[-400:]
        found = {"verdict": "none", "ever": 0, "suspects": [], "error": f"{type(error).__name__}: {tail}"}
    return found | {"seconds": time.perf_counter() - began}


def row_of(case: Case, leaking: dict[str, Any], fixed: dict[str, Any]) -> dict[str, str]:
    """One case as a row of the table."""
    met = case.judged(leaking, fixed)
    first = next(iter(leaking["suspects"]), None)
    named = "nothing" if first is None else f"{first['kind']}: `{first['name']}`"
    if first is not None and first["site"] and first["site"] != first["name"]:
        named += f", made at `{first['site']}`"
    after, cost = leaking.get("after_s"), leaking.get("tick_s")
    return {
        "case": f"**{case.name}** {case.library} {case.leaks} → {case.fixed}",
        "kind": case.kind,
        "what leaks": case.fact,
        "verdict": f"{leaking['verdict']}" + (f", after {after / 60:.0f} min" if after and met["leak-like"] else ""),
        "first named": f"{named} ({'right' if met['right'] else 'WRONG'})",
        "fixed": f"{fixed['verdict']} ({'clean' if met['clean'] else 'NOT CLEAN'})",
        "seconds": f"{leaking['seconds']:.0f}",
        "cost": "–" if cost is None else f"{cost:.1f} s + {leaking['cost_s']:.1f} s",
    }


def summed_up(judged: Sequence[dict[str, bool]], kinds: Sequence[str]) -> list[dict[str, str]]:
    """The bars as rows."""
    count = len(judged)
    natives = [met["native"] for met, kind in zip(judged, kinds, strict=True) if kind == "native"]
    rows = [
        ("cases", count, CASES_BAR, count >= CASES_BAR),
        ("leak-like on the release that leaks", sum(met["leak-like"] for met in judged), count, None),
        ("right holder or line first", sum(met["right"] for met in judged), RIGHT_BAR * count, None),
        ("native ones called native", sum(natives), len(natives), None),
        ("clean on the release that mended it", sum(met["clean"] for met in judged), count, None),
    ]
    return [
        {
            "bar": name,
            "found": f"{found}" if name == "cases" else f"{found} of {len(natives) if 'native' in name else count}",
            "met": "met" if (found >= bar if met is None else met) else "MISSED",
        }
        for name, found, bar, met in rows
    ]


def main() -> int:
    """Run the cases, and publish their table when all of them were run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES)
    arguments = parser.parse_args()
    rows, judged, kinds = [], [], []
    for name in arguments.only or NAMES:
        case = load(name)
        leaking, fixed = tried(case, case.leaks), tried(case, case.fixed)
        rows.append(row_of(case, leaking, fixed))
        judged.append(case.judged(leaking, fixed))
        kinds.append(case.kind)
        print(" | ".join(rows[-1].values()), flush=True)
        for found in (leaking, fixed):
            if "error" in found:
                print(f"    {found['error']}", flush=True)
            elif not all(judged[-1].values()):
                print("    " + found["words"] + "\n    " + found["text"].replace("\n", "\n    "), flush=True)
    bars = summed_up(judged, kinds)
    print(report.table(bars))
    if arguments.only is None:
        method = [report.table(bars), "", *(__doc__ or "").split("\n\n")[1].splitlines()]
        report.publish("corpus", title="Real leaks", rows=rows, method=method)
    return int(any(bar["met"] != "met" for bar in bars))


if __name__ == "__main__":
    raise SystemExit(main())
