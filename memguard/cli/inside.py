"""Inside a child process: imports an application and tells as JSON what ``doctor`` wants to know of it.

Run as ``python -m memguard.cli.inside APP FD``; the answer goes to the descriptor, so that the application may print.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from inspect import CO_VARARGS, CO_VARKEYWORDS
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# A walk over some 5 million objects.
_WALK_S: Final = 5.0
_LONGEST_SOURCE: Final = 2_000_000


def _main(app: str, descriptor: int) -> None:
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - the system call's own
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - text, as Python itself puts it there
    name, _, attribute = app.partition(":")
    began = time.perf_counter()
    answer: dict[str, Any] = {"error": ""}
    try:
        found: Any = __import__(name, fromlist=["*"])
        for part in filter(None, attribute.split(".")):
            found = getattr(found, part)
    except BaseException as error:  # noqa: BLE001 - an application may raise anything, SystemExit too
        answer["error"] = f"{type(error).__name__}: {error}"
    else:
        # First of all: what is imported to look costs memory too.
        answer["rss_bytes"] = _resident()
        answer["import_s"] = time.perf_counter() - began
        answer |= _told(name.partition(".")[0])
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(json.dumps(answer) + "\n")
    # Threads of the application must not keep us, nor its atexit hooks run.
    os._exit(0)


def _resident() -> int | None:
    try:
        fields = Path("/proc/self/statm").read_bytes().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _told(package: str) -> dict[str, Any]:
    import threading  # noqa: PLC0415 - after the measurement, as below

    from memguard.cli.leaky import installed_packages  # noqa: PLC0415

    counts = gc.get_threshold()
    try:
        maps = Path("/proc/self/maps").read_text("utf-8", "replace")
    except OSError:
        maps = ""
    return {
        "threads": threading.active_count(),
        "gc_enabled": gc.isenabled(),
        "gc_thresholds": list(counts),
        "gc_frozen": gc.get_freeze_count(),
        "maps": "\n".join(sorted({line.rpartition(" ")[2] for line in maps.splitlines() if ".so" in line})),
        "packages": installed_packages(),
        "caches": list(_caches(package)),
        "containers": list(_containers(package)),
    }


def _own(path: object, module: str, package: str) -> bool:
    """Whether a file is the application's, not Python's or a library's; the application may be installed, too."""
    if not isinstance(path, str) or not os.path.isfile(path):  # noqa: PTH113 - compiled code names files that are not there
        return False
    if module.partition(".")[0] == package:
        return True
    real = os.path.realpath(path)
    if "/site-packages/" in real or "/dist-packages/" in real:
        return False
    home = os.path.realpath(str(Path(os.__file__).parent))
    ours = os.path.realpath(str(Path(__file__).parents[1]))
    return not real.startswith((home + os.sep, ours + os.sep))


def _caches(package: str) -> Iterator[dict[str, Any]]:
    """Function caches without a bound that the application itself made; one of a function without arguments has one."""
    import functools  # noqa: PLC0415 - after the measurement

    from memguard.leaks.census import Slices  # noqa: PLC0415 - as above

    kind: Any = type(functools.lru_cache(bool))
    for chunk in Slices(budget_s=_WALK_S):
        for cached in chunk:
            code = getattr(getattr(cached, "__wrapped__", None), "__code__", None) if type(cached) is kind else None
            if not isinstance(code, CodeType) or cached.cache_info().maxsize is not None:
                continue
            if not _own(code.co_filename, str(cached.__module__), package):
                continue
            arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            if arguments in {(), ("cls",)} and not code.co_flags & (CO_VARARGS | CO_VARKEYWORDS):
                continue
            where = f"{_short(code.co_filename)}:{code.co_firstlineno}"
            name = f"{cached.__module__}.{cached.__qualname__}"
            yield {"name": name, "where": where, "method": arguments[:1] == ("self",)}


def _containers(package: str) -> Iterator[dict[str, Any]]:
    from memguard.cli.growing import find_growing  # noqa: PLC0415 - after the measurement

    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "__main__" or not _own(file, name, package) or not str(file).endswith(".py"):
            continue
        for one in find_growing(_source(str(file))):
            if not _register(module, one.name):
                where = f"{_short(str(file))}:{one.line}"
                yield {"name": f"{name}.{one.name}", "where": where, "function": one.function}


def _source(file: str) -> str:
    try:
        text = Path(file).read_bytes()
    except OSError:
        return ""
    return text.decode("utf-8", "replace") if len(text) < _LONGEST_SOURCE else ""


def _register(module: ModuleType, name: str) -> bool:
    """Whether a container holds what was defined while modules were imported: classes and functions, not results."""
    held = vars(module).get(name)
    if type(held) is dict:
        held = list(held.values())
    return isinstance(held, (list, set)) and bool(held) and all(callable(one) for one in held)


def _short(file: str) -> str:
    try:
        return os.path.relpath(file)
    except ValueError:
        return file


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
