"""The front of a cached function: code written from its signature, whose hit is one look-up and one step of C.

A call through ``*args, **kwargs`` costs about three hits of ``functools.lru_cache``; a function that has the wrapped
one's own parameters costs about one, because CPython binds its arguments on the fast path. Most misses are computed
there too, so that a recursion is no deeper than under ``lru_cache``; the others go to a ``miss`` function.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from functools import update_wrapper
from types import CodeType, FunctionType

from memguard import beat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from memguard.caching.calls import Steps
    from memguard.caching.spec import Spec
    from memguard.caching.store import Store

__all__ = ["Front", "Parameters"]

# inspect.CO_VARARGS and CO_VARKEYWORDS, without inspect.
_VARARGS, _VARKEYWORDS = 0x04, 0x08
_numbers = itertools.count()


class Parameters:
    """The parameters of a callable, read from its code: what a call takes, whatever a decorator claims in its place.

    Callables that are no Python functions get ``*args, **kwargs``.
    """

    __slots__ = ("any_keywords", "any_positional", "by_keyword", "defaults", "keyword_defaults", "positional", "slash")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.slash: int = 0
        self.positional: tuple[str, ...] = ()
        self.by_keyword: tuple[str, ...] = ()
        self.any_positional: str = "args"
        self.any_keywords: str = "kwargs"
        self.defaults: tuple[Any, ...] | None = None
        self.keyword_defaults: dict[str, Any] | None = None
        if isinstance(function, FunctionType):
            self._read(function)

    def _read(self, function: FunctionType) -> None:
        code: CodeType = function.__code__
        names, many, more = code.co_varnames, code.co_argcount, code.co_kwonlyargcount
        self.slash = code.co_posonlyargcount
        self.positional = names[:many]
        self.by_keyword = names[many : many + more]
        rest = iter(names[many + more :])
        self.any_positional = next(rest) if code.co_flags & _VARARGS else ""
        self.any_keywords = next(rest) if code.co_flags & _VARKEYWORDS else ""
        self.defaults, self.keyword_defaults = function.__defaults__, function.__kwdefaults__

    def __iter__(self) -> Iterator[str]:
        names = (*self.positional, *self.by_keyword, self.any_positional, self.any_keywords)
        return (name for name in names if name)

    def declared(self, own: str = "") -> str:
        """As between the parentheses of a ``def``; ``own`` is a positional-only parameter in front of all others."""
        parts = [own] if own else []
        parts += self.positional[: self.slash]
        parts += ["/"] if parts else []
        parts += self.positional[self.slash :]
        parts += [f"*{self.any_positional}"] if self.any_positional else ["*"] if self.by_keyword else []
        parts += self.by_keyword
        parts += [f"**{self.any_keywords}"] if self.any_keywords else []
        return ", ".join(parts)

    def passed(self, own: str = "") -> str:
        """As in a call that hands every argument on."""
        parts = [own] if own else []
        parts += self.positional
        parts += [f"*{self.any_positional}"] if self.any_positional else []
        parts += [f"{name}={name}" for name in self.by_keyword]
        parts += [f"**{self.any_keywords}"] if self.any_keywords else []
        return ", ".join(parts)

    def named(self, own: str = "") -> str:
        """As a dict display of names and values."""
        parts = [f"{name!r}: {name}" for name in (own, *self.positional, *self.by_keyword, self.any_positional) if name]
        parts += [f"**{self.any_keywords}"] if self.any_keywords else []
        return f"{{{', '.join(parts)}}}"

    def key(self, use: Callable[[str], str], *, typed: bool, skip: int = 0) -> str:
        """The expression of a key that leaves out the first ``skip`` parameters.

        One parameter is its own key, several make a tuple of one shape per function, so that no two calls collide.
        ``**kwargs`` keep the caller's order, which the function sees too (PEP 468).
        """
        plain = (*self.positional[skip:], *self.by_keyword)
        args, kwargs = self.any_positional, self.any_keywords
        parts = list(plain)
        parts += [args] if args else []
        parts += [f"{use('tuple')}({kwargs}.items()) if {kwargs} else ()"] if kwargs else []
        if typed:
            parts += [f"{use('type')}({name})" for name in plain]
            parts += [f"{use('tuple')}({use('map')}({use('type')}, {args}))"] if args else []
            values = f"{use('tuple')}({use('map')}({use('type')}, {kwargs}.values()))" if kwargs else ""
            parts += [f"{values} if {kwargs} else ()"] if kwargs else []
        return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


_OWN = (
    "Exception", "KeyError", "TypeError", "beat", "begin", "call", "clock", "decide", "due", "end", "fail",
    "function", "id", "instance", "keep", "key", "map", "miss", "new", "owner_of", "refuse", "table", "tables", "tuple",
    "type", "used", "value",
)  # fmt: skip
_BUILTINS = {
    "Exception": Exception, "KeyError": KeyError, "TypeError": TypeError, "id": id, "map": map, "tuple": tuple,
    "type": type,
}  # fmt: skip
_TEXT = """\
{start}def {value}({declared}):
{prepare}{guard}{indent}    try:
{indent}        for {value} in {found}:
{indent}            return {value}
{indent}    except {KeyError}:
{indent}        pass
{indent}    except {TypeError}:
{indent}        {refuse}({named})
{indent}        raise
{steps}    return {wait}{miss}({used}, {passed})
"""
_STEPS = """    {call} = {new}()
    {gate}
        try:
            if {begin}({used}, {call}, {first}):
                {value} = {function}({passed})
                {keep}({used}, {call}, {value})
                return {value}
        except {Exception} as {value}:
            {fail}({used}, {call}, {value})
            raise
        finally:
            {end}({used}, {call})
"""
_UNDECIDED = """\
{start}def {value}({declared}):
    return {wait}{decide}({passed})
"""
_UNCACHED = """\
{start}def {value}({declared}):
    return {wait}{miss}(None, {passed})
"""


class Front:
    """Writes the wrapper of one cached function, as a function's or as a method's.

    What was written in a class's body starts undecided: ``decide`` is called with the arguments of its first call.
    ``miss(key, /, *args, **kwargs)`` gets what the caller gave, defaults filled in; a method's key is (what
    ``owner_of`` gives for the instance, key of the rest). ``refuse(arguments by name)`` is asked when something could
    not be hashed.

    What the code refers to lies in its globals, which are looked up faster than cells, under names that no parameter
    has: in a dict of its own, or beside the coarse clock where entries expire, so that ``NOW`` is a global too. When
    the wrapper dies, what is cached goes.
    """

    __slots__ = ("_awaited", "_beside_clock", "_number", "_prefix", "_spec", "_steps", "parameters")

    def __init__(self, spec: Spec, *, awaited: bool = False) -> None:
        self.parameters: Parameters = Parameters(spec.function)
        self._spec = spec
        self._awaited = awaited
        self._beside_clock = spec.expires and _is_module_level(spec.function)
        self._prefix = "mg_"
        while any(name.startswith(self._prefix) for name in self.parameters):
            self._prefix += "_"
        # Python 3.12 and later keep every name that was ever compiled: functions have some of their own only beside the
        # clock.
        self._number = str(next(_numbers)) if self._beside_clock else ""
        self._steps: Steps | None = None

    def wrapper(
        self,
        *,
        miss: Callable[..., Any],
        refuse: Callable[..., Any],
        decide: Callable[..., Any],
        due: list[float],
        steps: Steps | None = None,
    ) -> FunctionType:
        """The wrapper, which looks keys up in the store's table while the clock is before ``due[0]``."""
        spec, self._steps = self._spec, steps
        space: dict[str, Any] = (
            beat.__dict__ if self._beside_clock else {"__name__": getattr(spec.function, "__module__", __name__)}
        )
        undecided = self.may_be_method and self._in_class()
        if undecided:
            self._say(space, decide=decide)
        if spec.expires:
            self._say(space, beat=beat, clock=spec.store.clock, due=due)
        if steps is not None:
            self._say(space, function=spec.function, new=steps.new, begin=steps.begin)
            self._say(space, keep=steps.keep, fail=steps.fail, end=steps.end)
        self._say(space, table=spec.store.table, key=spec.key, miss=miss, refuse=refuse)
        text = self._text(_UNDECIDED) if undecided else self._plain()
        wrapper = self._compiled(_name_of(spec.function), "cached", text, space)
        # A class's dict is no dict of attributes for a function.
        update_wrapper(wrapper, spec.function, updated=() if isinstance(spec.function, type) else ("__dict__",))
        shared = space if self._beside_clock else {}
        # What the store keeps may refer to the wrapper: nothing that lives for ever may hold it.
        weakref.finalize(wrapper, _end, weakref.ref(spec.store), shared, self._prefix, self._number).atexit = False
        return wrapper

    def settle(self, wrapper: FunctionType) -> None:
        """Let an undecided wrapper be a function's."""
        made = self._compiled(wrapper.__name__, "cached", self._plain(), wrapper.__globals__)
        wrapper.__code__ = made.__code__

    def method(self, wrapper: FunctionType, *, owner_of: Callable[[Any], object], tables: dict[int, Any]) -> CodeType:
        """The wrapper's code as a method's: it looks its first argument up by ``id`` in ``tables``, then the rest."""
        self._say(wrapper.__globals__, owner_of=owner_of, tables=tables)
        return self._compiled(wrapper.__name__, "cached method", self._method(), wrapper.__globals__).__code__

    def key_maker(self, *, owner_of: Callable[[Any], object] | None = None) -> FunctionType:
        """A function of the same parameters that gives the key; ``owner_of`` makes it a method's."""
        use, parameters = self._use, self.parameters
        own, first = self._first() if owner_of is not None else ("", "")
        if self._spec.key is not None:
            text = f"{use('key')}({parameters.passed()})"
        elif owner_of is None:
            text = parameters.key(use, typed=self._spec.typed)
        else:
            rest = parameters.key(use, typed=self._spec.typed, skip=0 if own else 1)
            text = f"({use('owner_of')}({first}), {rest})"
        text = f"def {use('value')}({parameters.declared(own)}):\n    return {text}\n"
        space: dict[str, Any] = {}
        self._say(space, key=self._spec.key, owner_of=owner_of)
        return self._compiled(f"{_name_of(self._spec.function)}.cache_key", "cache key of", text, space)

    @property
    def may_be_method(self) -> bool:
        """Whether there is an argument that an instance could be bound to, and keys are not made by ``key=``."""
        parameters = self.parameters
        named = bool(parameters.positional or parameters.any_positional)
        return named and self._spec.key is None and self._spec.store.maxsize != 0

    def _use(self, name: str) -> str:
        return f"{self._prefix}{name}{self._number}"

    def _say(self, space: dict[str, Any], **values: object) -> None:
        space.update({self._use(name): value for name, value in values.items()})

    def _first(self) -> tuple[str, str]:
        """A positional parameter to put in front where the function declares none, and the first one's name."""
        if self.parameters.positional:
            return "", self.parameters.positional[0]
        return self._use("instance"), self._use("instance")

    def _plain(self) -> str:
        use, parameters = self._use, self.parameters
        if self._spec.store.maxsize == 0:
            return self._text(_UNCACHED)
        key, prepare = parameters.key(use, typed=self._spec.typed), ""
        if self._spec.key is not None:
            key, prepare = use("used"), f"    {use('used')} = {use('key')}({parameters.passed()})\n"
        return self._text(_TEXT, f"{use('table')}[{key}]", key, prepare=prepare)

    def _method(self) -> str:
        use, (own, first) = self._use, self._first()
        rest = self.parameters.key(use, typed=self._spec.typed, skip=0 if own else 1)
        key = f"({use('owner_of')}({first}), {rest})"
        return self._text(_TEXT, f"{use('tables')}[{use('id')}({first})][{rest}]", key, own=own)

    def _in_class(self) -> bool:
        scope, _, _ = getattr(self._spec.function, "__qualname__", "").rpartition(".")
        return bool(scope) and not scope.endswith("<locals>")

    def _text(self, text: str, found: str = "", key: str = "", *, own: str = "", prepare: str = "") -> str:
        use, parameters, steps = self._use, self.parameters, self._steps
        names = {name: use(name) for name in _OWN} | {"key": key, "passed": parameters.passed(own)}
        guard = missed = ""
        if self._spec.expires:
            now = "NOW" if self._beside_clock and "NOW" not in parameters else f"{use('beat')}.NOW"
            guard = f"    if {now} < {use('due')}[0] or {use('clock')}() < {use('due')}[0]:\n"
        if steps is None:
            names["used"] = key
        elif text is _TEXT:
            gate = f"with {use('call')}.gate:" if steps.shared else "if True:"
            missed = "" if key == use("used") else f"    {use('used')} = {key}\n"
            missed += _STEPS.format(**names, gate=gate, first=self._first_passed(own))
        return text.format(
            **names,
            start="async " if self._awaited else "",
            wait="await " if self._awaited else "",
            declared=parameters.declared(own),
            named=parameters.named(),
            found=found,
            prepare=prepare,
            guard=guard,
            indent="    " if guard else "",
            steps=missed,
        )

    def _first_passed(self, own: str) -> str:
        """The expression of what may turn out to be an instance."""
        if own or not self.may_be_method:
            return "None"
        if self.parameters.positional:
            return self.parameters.positional[0]
        return f"{self.parameters.any_positional}[0] if {self.parameters.any_positional} else None"

    def _compiled(self, name: str, what: str, text: str, space: dict[str, Any]) -> FunctionType:
        self._say(space, **{name: builtin for name, builtin in _BUILTINS.items() if self._use(name) in text})
        made: dict[str, FunctionType] = {}
        module = compile(text, f"<{what} {self._spec.name}>", "exec")
        # Named before it is made: what is set at a function later lets CPython 3.13 call it some 8 % slower for ever.
        parts = [
            part.replace(co_name=name, co_qualname=name) if isinstance(part, CodeType) else part
            for part in module.co_consts
        ]
        exec(module.replace(co_consts=tuple(parts)), space, made)  # noqa: S102 - our own text
        (function,) = made.values()
        if self.parameters.defaults:
            function.__defaults__ = self.parameters.defaults
        if self.parameters.keyword_defaults:
            function.__kwdefaults__ = self.parameters.keyword_defaults
        return function


def _name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _is_module_level(function: Any) -> bool:  # noqa: ANN401
    """Whether it lives as long as its module, as far as one can see.

    The dict beside the clock outlives everything, and what a function refers to may refer to its wrapper: for one that
    is local to another, or run by exec, that would be a leak.
    """
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    known = module is not None and getattr(function, "__globals__", None) is vars(module)
    return known and "<locals>" not in function.__qualname__


def _end(store: Callable[[], Store | None], space: dict[str, Any], prefix: str, number: str) -> None:
    for name in _OWN:
        space.pop(f"{prefix}{name}{number}", None)
    if (kept := store()) is not None:
        kept.clear()  # entries and cohorts hold each other: they would stay until the next collection
