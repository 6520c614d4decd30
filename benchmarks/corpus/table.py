"""The table of cases: one module each in ``cases``, and what its answer has to be.

A case says ``LIBRARY``, the release that ``LEAKS`` and the one that ``FIXED`` it, the ``KIND`` of the leak, about how
many ``BYTES`` a request leaks, what else is installed (``WITH``), and what the first answer has to name to be
``RIGHT``: a text, or "# RIGHT" for the lines of its own that end with this comment. ``service()`` gives one request.

Kinds: ``python`` (an object of Python's holds more and more), ``cache``, ``thread``, ``task``, ``cycle`` (through C
code, which the collector cannot see), ``refcount`` (C code forgets to let go of what Python's allocators gave out:
nobody holds it, so the line is the answer) and ``native`` (memory that Python's allocators never saw).
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

CASES = Path(__file__).parent / "cases"
NAMES = sorted(path.stem for path in CASES.glob("*.py"))
KINDS = frozenset({"python", "cache", "thread", "task", "cycle", "refcount", "native"})
_MARK = "# RIGHT"


class Case(NamedTuple):
    """One leak of one library."""

    name: str
    module: ModuleType
    library: str
    leaks: str
    fixed: str
    kind: str
    bytes: int
    fact: str
    right: tuple[str, ...]
    installed_with: tuple[str, ...]

    def named_by(self, suspect: Mapping[str, Any] | None) -> bool:
        """Whether this answer names what it has to; a native leak has to be called one, and no other may be."""
        if suspect is None or (self.kind == "native") != (suspect["kind"] == "native"):
            return False
        said = (suspect["name"], suspect["site"], suspect["words"], suspect["chain"])
        # A place ends where its number ends: line 2 is not line 21.
        return any(re.search(rf"{re.escape(text)}(?!\d)", part) for text in self.right for part in said)

    def judged(self, leaking: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, bool]:
        """What of the bars this case meets, by what both releases were found to be."""
        first = next(iter(leaking["suspects"]), None)
        return {
            "leak-like": leaking["verdict"] == "leak-like",
            "right": self.named_by(first),
            "native": self.kind != "native" or (first is not None and first["kind"] == "native"),
            "clean": fixed["verdict"] not in {"leak-like", "none"} and not fixed["ever"],
        }


def load(name: str) -> Case:
    """The case of that name."""
    path = CASES / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"no case {name!r}: there are {', '.join(NAMES)}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = path.read_text(encoding="utf-8").splitlines()
    marked = tuple(f"{path.name}:{number}" for number, line in enumerate(lines, 1) if line.endswith(_MARK))
    right = tuple(text for text in module.RIGHT if text != _MARK)
    return Case(
        name=name,
        module=module,
        library=module.LIBRARY,
        leaks=module.LEAKS,
        fixed=module.FIXED,
        kind=module.KIND,
        bytes=module.BYTES,
        fact=(module.__doc__ or "").strip(),
        right=(*right, *(marked if _MARK in module.RIGHT else ())),
        installed_with=getattr(module, "WITH", ()),
    )
