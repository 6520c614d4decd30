"""Calls that were no hit: computed, kept, shared with who asks meanwhile, or refused in clear words."""

from __future__ import annotations

import sys
from math import inf
from time import perf_counter
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from memguard.caching.flights import Flights
from memguard.caching.instances import MADE_BY_STATEMENT, Binding, Instances, Owner, Value
from memguard.caching.wrapping import Front

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import CodeType

    from memguard.caching.spec import Spec

    Divert = Callable[[Hashable, object], FunctionType | None]

__all__ = ["Routes", "refusal", "sync_miss", "uncached"]

# What yields its content once: a second caller would be given what the first has used up.
_ONE_SHOT: Final = frozenset({AsyncGeneratorType, CoroutineType, GeneratorType})
_DEEPEST: Final = 8


class Steps:
    """How a wrapper computes by itself: no call of ours then stands between it and the function.

    Each one would shorten the recursion that the function can afford. The wrapper takes a ``new`` call, under whose
    gate (if it is ``shared``) it asks whether it may ``begin(key, call, first argument)``. Then it calls the function,
    and ``keep(key, call, value)`` or ``fail(key, call, error)``; in any case ``end(key, call)``. Where it may not,
    ``miss`` has the answer.
    """

    __slots__ = ("_course", "_divert", "_flights", "_keep", "_spec", "_store", "end", "new", "shared")

    def __init__(self, spec: Spec, divert: Divert, flights: Flights | None) -> None:
        self._spec = spec
        self._course, self._store, self._keep = spec.course, spec.store, spec.keep
        self._divert = divert
        self._flights = flights
        self.shared: bool = flights is not None
        self.new: Callable[[], Any] = _Call if flights is None else flights.flight
        self.end: Callable[[Hashable, Any], None] = (lambda _key, _call: None) if flights is None else flights.end

    def begin(self, key: Hashable, call: Any, first: object) -> bool:  # noqa: ANN401 - a flight, or a call of nobody's
        """Whether the caller is the one to compute that key, which then has begun."""
        if type(first).__flags__ & MADE_BY_STATEMENT and self._divert(key, first) is not None:
            return False
        if self._flights is not None and not self._flights.begin(key, call):
            return False
        # Asked again: another may have ended since, and a KeyError out of a key's own __eq__ is not taken for a miss.
        store = self._store
        if (store.table.get(key) if store.due[0] == inf else store.fresh(key)) is not None:
            return False
        if self._spec.failures and self._spec.fails(key):
            return False
        next(self._course.misses)
        call.turn, call.began = self._course.turn, perf_counter()
        return True

    def keep(self, key: Hashable, call: Any, value: object) -> None:  # noqa: ANN401
        """Keep what the function gave, for whoever waits too.

        Raises:
            TypeError: it is something that can be used only once.
        """
        cost_s = perf_counter() - call.began
        turn, call.turn = call.turn, -1  # what fails from here on is no failure of the function
        if type(value) in _ONE_SHOT:
            _refuse_one_shot(self._spec, value)
        self._keep(key, value, cost_s, turn)
        if self._flights is not None:
            call.outcome.succeed(value)

    def fail(self, key: Hashable, call: Any, error: Exception) -> None:  # noqa: ANN401
        """Tell whoever waits of an error, and keep it where that is asked for."""
        if self._flights is not None:
            call.outcome.fail(error)
        if self._spec.failures and call.turn >= 0:
            self._spec.keep_failure(key, error, perf_counter() - call.began, call.turn)


class _Call:
    """A computation that nobody shares."""

    __slots__ = ("began", "turn")

    def __init__(self) -> None:
        self.turn: int = -1
        self.began: float = 0.0


def sync_miss(spec: Spec, divert: Divert) -> tuple[Callable[..., Any], Steps]:
    """The miss path of a plain function: ``miss(key, /, *args, **kwargs)``, and the steps that come before it.

    ``divert`` is asked about a first argument that may be an instance, and gives what is to be called instead.
    """
    compute, course = _compute(spec, divert), spec.course
    if not spec.coalesce:
        return compute, Steps(spec, divert, None)
    flights = Flights(joined=lambda: next(course.shared))
    spec.detach.append(flights.drop)
    share = flights.compute

    def miss(key: Hashable, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the function's own
        return share(key, lambda: compute(key, *args, **kwargs))

    return miss, Steps(spec, divert, flights)


def _compute(spec: Spec, divert: Divert) -> Callable[..., Any]:
    function, course = spec.function, spec.course

    def compute(key: Hashable, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the function's own
        if args and type(args[0]).__flags__ & MADE_BY_STATEMENT and (other := divert(key, args[0])) is not None:
            return other(*args, **kwargs)
        if (entry := spec.find(key)) is not None:
            return next(entry)
        if spec.failures and (known := spec.find_failure(key)) is not None:
            try:
                raise known
            finally:
                del known  # it holds this frame by its traceback
        next(course.misses)
        turn, began = course.turn, perf_counter()
        try:
            value = function(*args, **kwargs)
        except Exception as error:
            if spec.failures:
                spec.keep_failure(key, error, perf_counter() - began, turn)
            raise
        cost_s = perf_counter() - began
        if type(value) in _ONE_SHOT:
            _refuse_one_shot(spec, value)
        spec.keep(key, value, cost_s, turn)
        return value

    return compute


def uncached(spec: Spec, *, awaited: bool) -> Callable[..., Any]:
    """The miss path under ``maxsize=0``: counts, and keeps nothing."""

    def counted(_: None, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        spec.begin()
        return spec.function(*args, **kwargs)

    async def counted_await(_: None, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        spec.begin()
        return await spec.function(*args, **kwargs)

    return counted_await if awaited else counted


def _refuse_one_shot(spec: Spec, value: Any) -> None:  # noqa: ANN401
    kind = type(value).__name__.replace("_", " ")
    if isinstance(value, CoroutineType):
        value.close()  # or Python would complain that nobody awaited it
        mend = "put cached on the async def itself, below the decorator that hides it"
    else:
        mend = "return a list or a tuple of what it yields"
    raise TypeError(f"cached function {spec.name} returned a {kind}, which can be used only once: {mend}")


def refusal(spec: Spec) -> Callable[[dict[str, Any]], None]:
    """What is asked after a TypeError of a look-up: raises a clearer one where an argument cannot be hashed.

    An error out of a ``__hash__`` or ``__eq__`` written in Python is the user's own, and goes on unchanged.
    """

    def refuse(named: dict[str, Any]) -> None:
        error = sys.exception()
        if error is None or error.__traceback__ is None or error.__traceback__.tb_next is not None:
            return
        if spec.key is not None:
            raise TypeError(
                f"cached function {spec.name}: key= gave something unhashable: {error}; let it give a tuple"
            ) from None
        for name, value in named.items():
            found = _unhashable(value, 0)
            if found:
                raise TypeError(
                    f"cached function {spec.name}: unhashable type: {found!r} in argument {name!r}: pass something "
                    f"hashable (a tuple for a list), or give cached(key=...) that makes a key of the arguments"
                ) from None

    return refuse


def _unhashable(value: object, depth: int) -> str:
    """The name of the type that cannot be hashed, in a value or in a tuple of values; "" when there is none."""
    kind: Any = type(value)
    if kind.__hash__ is None:
        return type(value).__name__
    if type(value) is tuple and depth < _DEEPEST:
        return next(filter(None, (_unhashable(item, depth + 1) for item in value)), "")
    return ""


class Routes:
    """Where calls of one wrapper go that were no hit, and the wrapper's turn into a method's at its first such call.

    Whether a function is a method shows at its first call alone: a class holds it by then, bare or under a property
    or another decorator, and ``staticmethod`` or ``classmethod`` may lie over it.

    The turn takes no lock: a signal handler or a destructor may call the function in the middle of it, and another
    thread too. Each of them makes it whole, every step may be made twice, and the code is the last.
    """

    __slots__ = (
        "__weakref__",
        "_binding",
        "_code",
        "_front",
        "_instances",
        "_key_maker",
        "_spec",
        "_turned",
        "_wrapper",
    )

    def __init__(self, spec: Spec, *, awaited: bool) -> None:
        self._spec = spec
        self._front = Front(spec, awaited=awaited)
        self._binding: Binding | None = None
        self._instances = Instances(spec.store)
        self._turned = False
        self._code: CodeType | None = None
        self._key_maker: tuple[bool, Callable[..., Hashable]] | None = None
        self._wrapper: Callable[[], FunctionType | None] = lambda: None

    def wrapper(self, miss: Callable[..., Any], due: list[float], steps: Steps | None = None) -> FunctionType:
        """The wrapper, made once; it is held weakly here."""
        refuse = refusal(self._spec)
        wrapper = self._front.wrapper(miss=miss, refuse=refuse, decide=self._decide, due=due, steps=steps)
        self._wrapper = ref(wrapper)
        if self._front.may_be_method:
            self._binding = Binding(wrapper)
        return wrapper

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """The key of a call's arguments.

        Raises:
            TypeError: they do not fit the function.
        """
        if args:
            self.divert(None, args[0])
        maker, turned = self._key_maker, self._turned
        if maker is None or maker[0] is not turned:
            maker = turned, self._front.key_maker(owner_of=self._instances.owner_of if turned else None)
            self._key_maker = maker
        return maker[1](*args, **kwargs)

    def divert(self, key: Hashable, first: object) -> FunctionType | None:
        """The wrapper, where a call with that key and first argument turns out to be a method's; None: go on."""
        if self._turned:  # then the key is a method's, or the call began before
            match key:
                case (Owner() | Value(), _):
                    return None
        elif self._binding is None or not self._binding.as_method(first):
            return None
        wrapper = self._wrapper()
        if wrapper is not None:
            self._turn(wrapper)
        return wrapper

    def _decide(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the function's own
        """The first call of what was written in a class's body."""
        wrapper = self._wrapper()
        if wrapper is None:
            return self._spec.function(*args, **kwargs)
        if not args or self.divert(None, args[0]) is None:
            if not self._turned:
                self._front.settle(wrapper)
            if self._turned:  # meanwhile
                self._turn(wrapper)
        return wrapper(*args, **kwargs)

    def _turn(self, wrapper: FunctionType) -> None:
        if self._code is not None and wrapper.__code__ is self._code:
            return
        self._turned = True
        instances = self._instances
        if not instances.adopted:
            self._spec.clear(counts=False)
            instances.adopt()
        self._code = self._front.method(wrapper, owner_of=instances.owner_of, tables=instances.tables)
        wrapper.__code__ = self._code

    def diverted(self, miss: Callable[..., Any]) -> Callable[..., Any]:
        """A miss path of coroutines that asks ``divert`` first."""

        def first_miss(key: Hashable, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the function's own
            if args and (other := self.divert(key, args[0])) is not None:
                return other(*args, **kwargs)
            return miss(key, *args, **kwargs)

        return first_miss
