"""Chains: the shortest way from a root to an object, found backwards with ``gc.get_referrers``.

Each level is one pass over the heap in C, in which no other thread runs: 20 to 60 ms per million objects, which cannot
be sliced; ``Chain.hold_s`` tells the longest. Depth, objects and time are bounded. The search's own containers and
frames are skipped. Objects that ``gc.freeze`` set aside are not seen by such a pass: those are looked for forwards.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from contextvars import Context
from itertools import compress
from sys import getrefcount
from types import BuiltinFunctionType, CellType, CoroutineType, FrameType, FunctionType, GeneratorType, TracebackType
from typing import TYPE_CHECKING, Any, Final

from memguard.findings import Chain
from memguard.leaks.names import module_dict, type_name
from memguard.leaks.referents import referents
from memguard.leaks.roots import Root, Roots, frame_locals, running_frames
from memguard.leaks.steps import links
from memguard.leaks.untracked import holding
from memguard.threads import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

__all__ = ["find", "shortest"]

# Objects that a level is searched for: the pass compares every reference of the heap with each of them.
_WIDTH: Final = 32
# Referrers of a level that are looked at; a class or None may have millions.
_LOOKED: Final = 200_000
# Our own rooms: frames of an examination hold nothing for long.
_OURS: Final = ("memguard.leaks", "memguard.examining")
# Which referrers to follow first where there are too many: what holds on purpose, before what is passing.
_LIKELY: Final[dict[int, int]] = {
    id(dict): 0, id(FunctionType): 0, id(CellType): 0, id(list): 1, id(set): 1, id(deque): 1, id(tuple): 3,
    id(GeneratorType): 3, id(CoroutineType): 3, id(TracebackType): 4, id(BuiltinFunctionType): 4, id(FrameType): 5,
}  # fmt: skip
_INSTANCE: Final = 2
# A search among frozen objects goes forwards from the modules; so many objects are some 100 ms and 30 MB.
_FORWARD_AT_MOST: Final = 300_000
_BATCH: Final = 1_000
_PAUSE_S: Final = 0.001
_NOBODY: Final = "nothing in Python refers to it: C code holds it, or never gave a reference back, or it is garbage"
# What getrefcount, called by map, says of an object that one list holds and nobody else.
_ALONE: Final = next(map(getrefcount, [object()]))


def find(
    target: object,
    *,
    max_depth: int = 20,
    budget_s: float = 1.0,
    redact_keys: bool = False,
    skip: Collection[object] = (),
) -> Chain:
    """The shortest chain from a root to this object; ``kind="none"`` with a note where none was found in bounds.

    ``budget_s`` is processor time.

    ``skip`` are containers of the caller's that hold the object too, and are no answer.
    """
    return shortest([target], max_depth=max_depth, budget_s=budget_s, redact_keys=redact_keys, skip=skip)


def shortest(  # noqa: PLR0913 - bounds, all with a default
    targets: Sequence[object],
    *,
    max_depth: int = 20,
    budget_s: float = 1.0,
    redact_keys: bool = False,
    skip: Collection[object] = (),
    see: Callable[[list[Any]], None] | None = None,
) -> Chain:
    """The shortest chain from a root to any of these objects; see ``find``.

    ``see`` is shown the objects of the chain, from the root to the target, before they are let go.
    """
    search = _Search(targets, max_depth=max_depth, budget_s=budget_s)
    search.skip(targets, skip, *skip)
    return search.run(redact=redact_keys, see=see)


class _Search:
    """One search. ``_held_by`` leads from an object's id to the id of what it holds on the way to a target."""

    def __init__(self, targets: Sequence[object], *, max_depth: int, budget_s: float) -> None:
        self._targets = targets
        self._max_depth = max_depth
        self._began = time.perf_counter()
        self._ends_at = time.thread_time() + budget_s
        self._budget_s = budget_s
        self._roots = Roots()
        self._bell = Bell()
        self._met: dict[int, Any] = {}
        self._holds: dict[int, int] = {}
        self._ours: set[int] = {id(self._met), id(self._targets)}
        self._hold_s = 0.0
        self._dead_end: int | None = None
        self._note = self._frozen_note = ""

    def skip(self, *containers: object) -> None:
        self._ours.update(map(id, containers))

    def run(self, *, redact: bool, see: Callable[[list[Any]], None] | None = None) -> Chain:
        found = self._backwards()
        if found is None and gc.get_freeze_count():
            found = self._forwards()
        last = self._dead_end
        if found is None and (last is None or type(self._met[last]) is not Context):
            found = self._in_frames()
        if found is None and last is not None and not self._note:
            found = self._from_c(last)
        if found is None:
            note = self._note or _NOBODY + self._frozen_note
            root, path = Root("none", type_name(type(self._targets[0]))), [self._targets[0]]
        else:
            (root, path), note = found, ""
        try:
            if see is not None:
                see(path)
            return Chain(
                kind=root.kind,
                root=root.name,
                links=links(path, redact=redact),
                note=note,
                cost_s=time.perf_counter() - self._began,
                hold_s=self._hold_s,
            )
        finally:
            path.clear()
            self._met.clear()

    # --- backwards --------------------------------------------------------------------------------------------------

    def _backwards(self) -> tuple[Root, list[object]] | None:
        frontier = list(self._targets)[:_WIDTH]
        for target in frontier:
            self._met[id(target)] = target
        for depth in range(self._max_depth):
            cpu = time.thread_time()
            if cpu + (self._hold_s if depth else 0.0) > self._ends_at:
                self._note = f"not found within {self._budget_s:g} s of processor time and {depth} steps"
                return None
            self.skip(frontier)
            above = _alive(gc.get_referrers(*frontier))
            self._hold_s = max(self._hold_s, time.thread_time() - cpu)
            if not any(map(gc.is_tracked, frontier)):  # whatever holds those may be untracked itself
                hidden, hold_s = holding(set(map(id, frontier)), budget_s=self._ends_at - time.thread_time())
                above += hidden
                self._hold_s = max(self._hold_s, hold_s)
            self.skip(above)
            root = self._root_among(above, frontier)
            if root is not None:
                return root
            frontier = self._next(above, frontier)
            if not frontier:
                return None
            self._bell.wait(_PAUSE_S)
        self._note = f"not found within {self._max_depth} steps: it is nested deeper, as in a linked list"
        return None

    def _root_among(self, above: list[Any], frontier: list[Any]) -> tuple[Root, list[object]] | None:
        """The path from the first of them that is a root."""
        for holder in above[:_LOOKED]:
            if id(holder) not in self._ours and id(holder) not in self._met and (root := self._roots.of(holder)):
                held = self._child(holder, frontier)
                if held is not None:
                    return root, self._path(holder, held)
        return None

    def _child(self, holder: object, frontier: list[Any]) -> int | None:
        wanted = set(map(id, frontier))
        return next((key for key in map(id, referents(holder)) if key in wanted), None)

    def _next(self, above: list[Any], frontier: list[Any]) -> list[Any]:
        """Whom to look for next: the likeliest of those who refer to the present ones."""
        ours, met = self._ours, self._met
        fresh = [one for one in above[:_LOOKED] if id(one) not in ours and id(one) not in met]
        self.skip(fresh)
        if len(fresh) > _WIDTH:
            fresh.sort(key=lambda one: _LIKELY.get(id(type(one)), _INSTANCE))
            del fresh[_WIDTH:]
        orphans = set(map(id, frontier))
        for holder in fresh:
            held = self._child(holder, frontier)
            if held is not None:
                self._met[id(holder)] = holder
                self._holds[id(holder)] = held
                orphans.discard(held)
        if orphans:  # the last ones in line that nothing in Python refers to
            self._dead_end = next(key for key in map(id, frontier) if key in orphans)
        return [one for one in fresh if id(one) in self._holds]

    def _path(self, first: object, held: int | None) -> list[object]:
        path = [first]
        while held is not None:
            path.append(self._met[held])
            held = self._holds.get(held)
        return path

    # --- where nothing in Python refers to it -------------------------------------------------------------------------

    def _in_frames(self) -> tuple[Root, list[object]] | None:
        """A local variable of a function that runs now: the collector does not see those."""
        best: tuple[Root, list[object]] | None = None
        for thread, frame in running_frames(_OURS):
            for name, value in frame_locals(frame):
                if id(value) in self._met and id(value) not in self._ours:
                    path = self._path(frame, id(value))
                    if best is None or len(path) < len(best[1]):
                        best = Root("frame", f"{thread}: {frame.f_code.co_qualname}"), path
                del value, name
        return best

    def _from_c(self, last: int) -> tuple[Root, list[object]] | None:
        holder = self._met[last]
        held = self._holds.get(last)
        if type(holder) is Context:
            return Root("context", "context"), self._path(holder, held)
        if last in map(id, self._targets):
            return None
        return Root("C", f"C → {type_name(type(holder))}"), self._path(holder, held)

    # --- forwards ---------------------------------------------------------------------------------------------------

    def _forwards(self) -> tuple[Root, list[object]] | None:
        """From the modules to what was met; for heaps of which a part is frozen."""
        import sys  # noqa: PLC0415

        found = _Forward(self._met, self._ours)
        for name, module in list(sys.modules.items()):
            names = module_dict(module)
            if names is not None:
                found.begin(name, names)
        hit = found.walk(self._ends_at, self._bell)
        if hit is None:
            if not self._note:
                self._frozen_note = f"; {gc.get_freeze_count()} objects are frozen (gc.freeze), {found.note}"
            return None
        root, path = hit
        tail = self._path(path.pop(), None)
        return root, [*path, *tail, *self._path(tail[-1], self._holds.get(id(tail[-1])))[1:]]


def _alive(found: list[Any]) -> list[Any]:
    """Those that somebody else holds too: not the arguments of the very call that found them (CPython 3.13)."""
    counts = list(map(getrefcount, found))  # before compress holds one too
    return list(compress(found, map(_ALONE.__lt__, counts)))


class _Forward:
    """A walk from namespaces over everything they lead to, until something that is wanted is met."""

    def __init__(self, wanted: dict[int, Any], ours: set[int]) -> None:
        self._wanted = wanted
        self._ours = ours
        self._from: dict[int, tuple[Any, int]] = {}
        self._names: dict[int, str] = {}
        self._level: list[Any] = []
        self.note: str = ""

    def begin(self, name: str, names: dict[str, Any]) -> None:
        self._names[id(names)] = name
        self._from[id(names)] = (names, 0)
        self._level.append(names)

    def walk(self, ends_at: float, bell: Bell) -> tuple[Root, list[object]] | None:
        while self._level:
            below = list[Any]()
            for count, holder in enumerate(self._level):
                if not count % _BATCH:
                    bell.wait(_PAUSE_S)
                    if time.thread_time() > ends_at or len(self._from) > _FORWARD_AT_MOST:
                        self.note = f"not found among the first {len(self._from)} from the modules"
                        return None
                for held in referents(holder):
                    if id(held) not in self._from and id(held) not in self._ours:
                        self._from[id(held)] = (held, id(holder))
                        if id(held) in self._wanted:
                            return self._back(held)
                        below.append(held)
            self._level = below
        self.note = "no module leads to it"
        return None

    def _back(self, last: Any) -> tuple[Root, list[object]]:  # noqa: ANN401
        path, key = [last], self._from[id(last)][1]
        while key:
            holder, above = self._from[key]
            path.append(holder)
            key = above
        path.reverse()
        return Root("module", self._names[id(path[0])]), path
