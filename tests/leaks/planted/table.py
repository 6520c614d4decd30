"""The table of planted leaks: one small module each, that a diagnosis must name and a test must catch.

Each has ``work(number)``, one request that leaks; ``NAMES``, of which the first answer must name one; the comment
``# LEAK`` on the line that leaks; and, where more than memory is held, ``tidy()``.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).parent
KINDS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in {"table", "diagnosing"})


def plant(kind: str) -> ModuleType:
    """The module of that kind, loaded anew under ``planted_KIND``; ``uproot`` it afterwards."""
    name = f"planted_{kind}"
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{kind}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def uproot(module: ModuleType) -> None:
    """Give back what it holds."""
    tidy = getattr(module, "tidy", None)
    if tidy is not None:
        tidy()
    sys.modules.pop(module.__name__, None)


def leak_line(kind: str) -> int:
    """The line that leaks."""
    lines = (FOLDER / f"{kind}.py").read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith("# LEAK"))
