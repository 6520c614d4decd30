"""What is known to leak, by name: threads, tasks, function caches, hooks, open files, objects that nothing can collect.

An inventory counts them at one instant; two of them, compared, say which grow.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections import Counter
from functools import lru_cache
from itertools import compress, pairwise
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final

from memguard.findings import Named
from memguard.leaks.census import Slices
from memguard.leaks.names import attribute, class_dict, module_dict, mro, plain_text, type_name
from memguard.leaks.roots import task_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memguard.findings import Census

__all__ = ["Inventory", "compare", "count_runners", "late_cycles", "take_inventory"]

Inventory = Counter[tuple[str, str]]
"""How many there are, by (kind, name)."""

_LRU: Final = type(lru_cache(lambda: None))
_LRU_FIGURES: Final[Any] = class_dict(_LRU)["cache_info"]
_CODE: Final[Any] = FunctionType.__dict__["__code__"].__get__
# Below that, growth between two looks is work that happens to be under way.
_GROWN_AT_LEAST: Final = 3
# What each half of a window has to bring of it.
_HALF_RATIO: Final = 0.2
# Of cycles that only a full collection frees; any service has some.
_LATE_OBJECTS: Final = 10_000
# The same where the collector is off, and nobody would free them later either.
_NEVER_OBJECTS: Final = 100
_LATE_TYPES: Final = 5
_WORDS: Final = {
    "thread": "threads of {name} run and never end",
    "task": "asyncio tasks of {name} are not finished",
    "unbounded cache": "the function cache of {name} has no bound",
    "unbounded cache on methods": "the function cache of {name} has no bound and keeps each self alive",
    "open": "open {name}s",
    "uncollectable": "objects of {name} lie in gc.garbage",
    "log handlers": "handlers at the logger {name}",
    "hooks": "entries in {name}",
    "processes": "{name} were started and not waited for",
}


def take_inventory(*, budget_s: float) -> Inventory:
    """Count everything that is known by name; one pass over the heap in slices."""
    found = Inventory()
    _threads(found)
    _files(found)
    _hooks(found)
    for thing in gc.garbage[:10_000]:
        found["uncollectable", type_name(type(thing))] += 1
    wanted = {id(_LRU), *_task_kinds()}
    for chunk in Slices(budget_s=budget_s):
        for thing in compress(chunk, map(wanted.__contains__, map(id, map(type, chunk)))):
            if type(thing) is _LRU:
                _cache(thing, found)
            elif _unfinished(thing):
                found["task", task_name(thing)] += 1
    return found


def count_runners() -> int:
    """How many threads and asyncio tasks there are; costs microseconds."""
    threads = (module_dict(sys.modules.get("threading")) or {}).get("_active", {})
    tasks = module_dict(sys.modules.get("asyncio.tasks")) or {}
    weak = [attribute(tasks[name], "data") for name in ("_all_tasks", "_scheduled_tasks") if name in tasks]
    return len(threads) + max((len(one) for one in weak if type(one) is set), default=0)


def _task_kinds() -> set[int]:
    kinds = set[int]()
    for home in ("_asyncio", "asyncio.tasks"):
        names = module_dict(sys.modules.get(home)) or {}
        kinds.update(id(names[name]) for name in ("Task", "_PyTask", "_CTask") if name in names)
    return kinds


def _unfinished(task: Any) -> bool:  # noqa: ANN401 - of C or of Python, subclasses are left out
    for base in mro(type(task)):
        done = class_dict(base).get("done")
        if done is not None:
            try:
                return not done(task)
            except Exception:  # noqa: BLE001 - one that is only half there
                return False
    return False


def _threads(found: Inventory) -> None:
    active = (module_dict(sys.modules.get("threading")) or {}).get("_active", {})
    for thread in list(dict.values(active)):
        target = attribute(thread, "_target")
        if type(target) is FunctionType:
            code: CodeType = _CODE(target)
            name = plain_text(code.co_qualname)
        else:
            name = type_name(type(thread))
        found["thread", name] += 1


def _files(found: Inventory) -> None:
    try:
        numbers = os.listdir("/proc/self/fd")  # noqa: PTH208 - names only
    except OSError:
        return
    for number in numbers:
        try:
            path = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115 - it need not exist
        except OSError:
            continue
        kind = path.partition(":")[0] if not path.startswith("/") else "file"
        found["open", kind] += 1


def _hooks(found: Inventory) -> None:
    logging = module_dict(sys.modules.get("logging"))
    if logging is not None:
        root = logging["root"]
        loggers = attribute(class_dict(logging["Logger"]).get("manager"), "loggerDict")
        for name, logger in [("root", root), *(dict.items(loggers) if type(loggers) is dict else ())]:
            handlers = attribute(logger, "handlers")
            if type(handlers) is list and handlers:
                found["log handlers", plain_text(name)] = len(handlers)
    found["hooks", "atexit"] = atexit._ncallbacks()  # noqa: SLF001 - CPython tells the number nowhere else
    found["hooks", "the callbacks of gc"] = len(gc.callbacks)
    found["hooks", "sys.path"] = len(sys.path)
    found["hooks", "sys.meta_path"] = len(sys.meta_path)
    warnings = module_dict(sys.modules.get("warnings")) or {}
    found["hooks", "warnings.filters"] = len(warnings.get("filters", ()))
    started = (module_dict(sys.modules.get("subprocess")) or {}).get("_active")
    if type(started) is list and started:
        found["processes", "child processes"] = len(started)


def _cache(cached: Any, found: Inventory) -> None:  # noqa: ANN401 - an lru_cache wrapper
    _, _, maxsize, currsize = _LRU_FIGURES(cached)
    if maxsize is not None:
        return
    name = f"{plain_text(attribute(cached, '__module__'))}.{plain_text(attribute(cached, '__qualname__'))}"
    inner = attribute(cached, "__wrapped__")
    method = type(inner) is FunctionType and _CODE(inner).co_varnames[:1] == ("self",)
    found["unbounded cache on methods" if method else "unbounded cache", name] += currsize


def compare(
    before: Mapping[tuple[str, str], int],
    after: Mapping[tuple[str, str], int],
    middle: Mapping[tuple[str, str], int] | None = None,
    *,
    runners: Sequence[int] = (),
) -> tuple[Named, ...]:
    """What grows, in both halves where there is a middle, the most grown first; and what nothing can collect.

    ``runners`` are counts of threads and tasks in between: where they fell, those under way come and go.
    """
    rows = []
    fell = any(later < sooner for sooner, later in pairwise(runners))
    for (kind, name), count in after.items():
        grown = count - before.get((kind, name), 0)
        late = grown if middle is None else count - middle.get((kind, name), 0)
        steady = min(late, grown if middle is None else grown - late) >= _HALF_RATIO * grown
        steady = steady and not (fell and kind in {"thread", "task"})
        if (grown >= _GROWN_AT_LEAST and steady) or (kind == "uncollectable" and count):
            words = _WORDS[kind].format(name=name)
            more = f"{count}, {grown} more than at the beginning" if grown else f"{count}"
            rows.append(Named(kind=kind, name=name, count=count, grown=grown, words=f"{words}: {more}"))
    return tuple(sorted(rows, key=lambda row: -row.grown))


def late_cycles(dirty: Census, clean: Census, *, enabled: bool) -> tuple[Named, ...]:
    """Of which types a full collection freed many: garbage in cycles, that lies about until then."""
    gone = Counter(dirty.counts)
    gone.subtract(clean.counts)
    freed = +gone
    total = freed.total()
    if not dirty.complete or not clean.complete or total < (_LATE_OBJECTS if enabled else _NEVER_OBJECTS):
        return ()
    most = ", ".join(f"{count} {name}" for name, count in freed.most_common(_LATE_TYPES))
    why = "" if enabled else "; the collector is off (gc.disable), so nobody frees them"
    words = f"{total} objects lay in cycles that only a full collection frees: {most}{why}"
    return (Named(kind="late cycles", name=freed.most_common(1)[0][0], count=total, grown=total, words=words),)
