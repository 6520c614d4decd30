"""Diagnoses every planted leak, one after another, in a process of its own; prints what was found as JSON."""

from __future__ import annotations

import gc
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))
import table  # type: ignore[import-not-found]

from memguard.leaks.examiner import Options, examine

if TYPE_CHECKING:
    from types import ModuleType

REQUESTS = 400


def diagnosed(module: ModuleType) -> dict[str, object]:
    """What the examiner says of a module's leak."""
    done = 0

    def wait(share: float) -> None:
        nonlocal done
        for _ in range(round(share * REQUESTS)):
            done += 1
            module.work(done)

    kind = module.__name__.removeprefix("planted_")
    report = examine(wait, options=Options(requests=lambda: done))
    first = report.suspects[0] if report.suspects else None
    return {
        "leaks": report.leaks,
        "first": "" if first is None else f"{first.kind}: {first.words}",
        "summary": report.summary,
        "text": report.text,
        "names": module.NAMES,
        "line": f"{kind}.py:{table.leak_line(kind)}",
    }


def main() -> None:
    """Each kind in turn."""
    warnings.simplefilter("ignore", ResourceWarning)
    found = {}
    for kind in table.KINDS:
        module = table.plant(kind)
        try:
            found[kind] = diagnosed(module)
        finally:
            table.uproot(module)
            del module
            gc.collect()
    print(json.dumps(found))  # noqa: T201 - for whoever started it


if __name__ == "__main__":
    main()
