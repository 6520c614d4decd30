"""Module-level containers that a module's own functions fill and nothing empties, read from its source."""

from __future__ import annotations

import ast
from typing import Final

from memguard.values import field, value

__all__ = ["Grows", "find_growing"]

_MAKERS: Final = frozenset({"dict", "list", "set", "defaultdict", "OrderedDict", "Counter", "deque"})
_ADDS: Final = frozenset({"append", "add", "update", "extend", "setdefault", "appendleft", "insert"})
_DROPS: Final = frozenset({"pop", "popitem", "popleft", "clear", "remove", "discard"})
# Whoever else is handed the container may well bound it: guard.cache(CACHE, …), evict(CACHE).
_READS: Final = frozenset({"len", "sorted", "list", "tuple", "sum", "max", "min", "str", "repr", "print", "any", "all"})
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@value
class Grows:
    """A container at module level that only ever gets more: its name, the function that fills it, and the line."""

    name: str
    function: str
    line: int


@value(frozen=False, kw_only=False)
class _Uses:
    """What a module does with its containers."""

    made: set[str] = field(default_factory=set[str])
    filled: dict[str, Grows] = field(default_factory=dict[str, Grows])
    spared: set[str] = field(default_factory=set[str])


def find_growing(source: str) -> tuple[Grows, ...]:
    """Containers of a module that grow without end, as far as its own source shows; () for what is no Python.

    Left out: those that anything empties, replaces or is handed, those filled under constant keys, and those that
    decorators fill (a register of what is defined).
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ()
    uses = _Uses()
    for statement in tree.body:
        uses.made |= _made(statement)
    _spare(tree, uses)
    decorators = {name for name in map(_called, _decorators(tree)) if name}
    functions = [node for node in ast.walk(tree) if isinstance(node, _Function)]
    registers = {id(inner) for one in functions if one.name in decorators for inner in ast.walk(one)}
    for function in functions:
        if id(function) not in registers:
            _fill(function, uses)
    return tuple(one for name, one in uses.filled.items() if name not in uses.spared)


def _made(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets, value = [statement.target], statement.value
    else:
        return set()
    bounded = isinstance(value, ast.Call) and any(word.arg == "maxlen" for word in value.keywords)
    empty = isinstance(value, ast.Dict | ast.List) or (
        isinstance(value, ast.Call) and _called(value.func) in _MAKERS and not bounded
    )
    return {target.id for target in targets if isinstance(target, ast.Name)} if empty else set()


def _called(what: ast.expr) -> str:
    """The last name of what is called: ``deque`` of ``collections.deque(…)``."""
    if isinstance(what, ast.Call):
        what = what.func
    if isinstance(what, ast.Subscript):  # dict[str, int]()
        what = what.value
    return what.attr if isinstance(what, ast.Attribute) else what.id if isinstance(what, ast.Name) else ""


def _decorators(tree: ast.Module) -> list[ast.expr]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [decorator for node in ast.walk(tree) if isinstance(node, kinds) for decorator in node.decorator_list]


def _spare(tree: ast.Module, uses: _Uses) -> None:
    """Note what is emptied, replaced or handed to somebody, anywhere in the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Delete):
            taken = [target.value for target in node.targets if isinstance(target, ast.Subscript)]
        elif isinstance(node, ast.Call):
            taken = [*node.args, *(word.value for word in node.keywords)]
            if isinstance(node.func, ast.Name) and node.func.id in _READS:
                taken = []
            if isinstance(node.func, ast.Attribute) and node.func.attr in _DROPS:
                taken.append(node.func.value)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.slice, ast.Slice):
            taken = [node.value]
        elif isinstance(node, ast.Global):
            uses.spared.update(node.names)
            continue
        else:
            continue
        uses.spared.update(one.id for one in taken if isinstance(one, ast.Name))


def _fill(function: _Function, uses: _Uses) -> None:
    own = {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
    own |= {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(function):
        name = ""
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            name = "" if isinstance(node.slice, ast.Constant) else _name(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ADDS:
            constant = node.func.attr == "setdefault" and node.args and isinstance(node.args[0], ast.Constant)
            name = "" if constant else _name(node.func.value)
        if name in uses.made and name not in own:
            line = getattr(node, "lineno", function.lineno)
            uses.filled.setdefault(name, Grows(name=name, function=function.name, line=line))


def _name(what: ast.expr) -> str:
    return what.id if isinstance(what, ast.Name) else ""
