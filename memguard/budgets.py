"""Budgets: named parts of the limit, who is charged to each, and by how much he is over it."""

from __future__ import annotations

import weakref
from _thread import RLock
from math import inf
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

from memguard.errors import RulesError
from memguard.model import Level
from memguard.roster import Handle
from memguard.units import format_bytes, parse_bytes
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.kinds import Cost
    from memguard.model import Limit
    from memguard.roster import Roster

__all__ = ["Budget", "BudgetRow", "Budgets"]


@value
class BudgetRow:
    """One budget as it stands: what is allowed, what those charged to it hold (``charged`` names them).

    ``unknown`` names those who could not say what they hold; they count as 0.
    """

    name: str
    max_bytes: int
    used_bytes: int
    over_bytes: int
    charged: tuple[str, ...]
    unknown: tuple[str, ...]


class _Charge:
    """Somebody charged to a budget under a name: how much he holds, and whether he is still there."""

    __slots__ = ("alive", "amount", "name")

    def __init__(self, name: str, amount: Callable[[], int | None], alive: Callable[[], bool]) -> None:
        self.name: str = name
        self.amount: Callable[[], int | None] = amount
        self.alive: Callable[[], bool] = alive


class Budget:
    """A named part of the limit, shared by whoever is charged to it."""

    __slots__ = ("_all", "_charges", "_work", "max_bytes", "name")

    def __init__(self, budgets: Budgets, name: str, max_bytes: int) -> None:
        self._all = budgets
        self._charges: tuple[_Charge, ...] = ()
        self._work: dict[object, int] = {}
        self.name: str = name
        self.max_bytes: int = max_bytes

    def charge(self, holder: object, *, name: str | None = None) -> Handle:
        """Charge a holder to this budget, until the handle is closed or the holder is gone.

        A holder is a handle (``guard.cache(…)``), a name out of ``guard.holders()``, anything with ``size()`` or with
        a count ``bytes`` (pools, states, caches), or a function that tells bytes. Objects and bound methods are held
        weakly where Python allows it. While the budget is exceeded, those of them whom the guard can ask to give memory
        back are asked first, and without pressure too.

        Raises:
            TypeError: nothing there tells bytes.
            ValueError: no holder has that name, or it is charged to a budget already.
        """
        return self._all.charge(self, holder, name)

    def take(self, work: object, wanted_bytes: int, *, anyway: bool) -> bool:
        """Promise bytes to admitted work if they fit, or ``anyway``; whether that was done (called by the gate).

        Work of unknown size (0) needs a budget that is not used up.
        """
        with self._all.lock:
            fits = anyway or self.used_bytes + max(1, wanted_bytes) <= self.max_bytes
            if fits:
                self._work[work] = wanted_bytes
            return fits

    def give(self, work: object) -> None:
        """Take back what was promised to this work; twice is fine."""
        self._work.pop(work, None)

    def tight(self) -> str:
        """How it stands, in words, for a refusal."""
        return f"{format_bytes(self.used_bytes)} of the {format_bytes(self.max_bytes)} of budget {self.name!r} are used"

    def add(self, charge: _Charge) -> None:
        """Take a charge in (called by ``charge``)."""
        self._charges = (*self._charges, charge)

    def drop(self, charge: _Charge) -> None:
        """Take a charge out; twice is fine."""
        self._charges = tuple(known for known in self._charges if known is not charge)

    @property
    def charges(self) -> tuple[_Charge, ...]:
        """Those charged who are still there."""
        if not all(charge.alive() for charge in self._charges):
            self._charges = tuple(charge for charge in self._charges if charge.alive())
        return self._charges

    @property
    def used_bytes(self) -> int:
        """What those charged hold together, with what admitted work was promised; who cannot say counts as 0."""
        return self._promised() + sum(_held(charge) or 0 for charge in self.charges)

    def _promised(self) -> int:
        return sum(tuple(self._work.values()))

    @property
    def over_bytes(self) -> int:
        """By how much it is exceeded; 0 while it is not."""
        return max(0, self.used_bytes - self.max_bytes)

    @property
    def room_bytes(self) -> int:
        """What is left of it; 0 when it is exceeded."""
        return max(0, self.max_bytes - self.used_bytes)

    def fits(self, wanted_bytes: int) -> bool:
        """Whether so many bytes more stay within it."""
        return self.used_bytes + wanted_bytes <= self.max_bytes

    def resize(self, max_bytes: str | int) -> None:
        """Allow more or less from now on.

        Raises:
            RulesError: all budgets together would reach the limit.
        """
        self._all.resize(self, _bytes(self.name, max_bytes))

    def row(self) -> BudgetRow:
        """How it stands now."""
        held = [(charge.name, _held(charge)) for charge in self.charges]
        if self._work:
            held.append(("admitted work", self._promised()))
        used = sum(amount or 0 for _, amount in held)
        return BudgetRow(
            name=self.name,
            max_bytes=self.max_bytes,
            used_bytes=used,
            over_bytes=max(0, used - self.max_bytes),
            charged=tuple(name for name, _ in held),
            unknown=tuple(name for name, amount in held if amount is None),
        )

    def __repr__(self) -> str:
        return f"<Budget {self.name!r} {format_bytes(self.used_bytes)} of {format_bytes(self.max_bytes)}>"


class Budgets:
    """All budgets of a guard. Together they must stay below the limit.

    Args:
        roster: whose holders are charged; the planner asks it who is over a budget.
        limit: tells the limit that binds (None: nothing limits, and every sum is fine).
    """

    def __init__(self, *, roster: Roster, limit: Callable[[], Limit | None]) -> None:
        self._roster = roster
        self._limit = limit
        self._budgets: dict[str, Budget] = {}
        self._shelves: Handle | None = None
        self.lock: RLock = RLock()

    def budget(self, name: str, max_bytes: str | int | None = None) -> Budget:
        """The budget of that name, made at the first call; without ``max_bytes`` only one that exists.

        Raises:
            RulesError: all budgets together would reach the limit (naming all), the amount is none, it was another
                before, or there is no budget of that name yet.
        """
        if not isinstance(cast("object", name), str) or not name.strip():
            raise RulesError(f"a budget needs a name, not {name!r}: write budget('caches', '200MiB')")
        with self.lock:
            known = self._budgets.get(name)
            if max_bytes is None:
                if known is None:
                    raise RulesError(f"there is no budget {name!r} yet: say how much, like budget({name!r}, '200MiB')")
                return known
            wanted = _bytes(name, max_bytes)
            if known is not None:
                if known.max_bytes != wanted:
                    raise RulesError(
                        f"budget {name!r} is {format_bytes(known.max_bytes)} already: to make it "
                        f"{format_bytes(wanted)}, resize() it"
                    )
                return known
            made = Budget(self, name, wanted)
            self._demand({**self._sums(), name: wanted})
            self._budgets[name] = made
            self._roster.over = self.over_bytes
            return made

    def resize(self, budget: Budget, max_bytes: int) -> None:
        """Give a budget another size (called by it)."""
        with self.lock:
            self._demand({**self._sums(), budget.name: max_bytes})
            budget.max_bytes = max_bytes

    def _sums(self) -> dict[str, int]:
        return {name: budget.max_bytes for name, budget in self._budgets.items()}

    def _demand(self, wanted: dict[str, int]) -> None:
        fault = self._fault(wanted)
        if fault:
            raise RulesError(fault)

    def _fault(self, wanted: dict[str, int]) -> str:
        limit, total = self._limit(), sum(wanted.values())
        if limit is None or total < limit.bytes:
            return ""
        shown = " + ".join(f"{name} {format_bytes(bytes_)}" for name, bytes_ in wanted.items())
        return (
            f"budgets add up to {format_bytes(total)} ({shown}), which must be less than the limit of "
            f"{format_bytes(limit.bytes)} from {limit.source}: lower one by more than "
            f"{format_bytes(total - limit.bytes)}, or raise the limit"
        )

    def fault(self) -> str:
        """What is wrong now, in words: the limit may have shrunk below the sum since; "" when nothing is."""
        return self._fault(self._sums()) if self._budgets else ""

    def rows(self) -> tuple[BudgetRow, ...]:
        """Every budget as it stands, oldest first."""
        return tuple(budget.row() for budget in tuple(self._budgets.values()))

    # --- who is charged ---------------------------------------------------------------------------------------------

    def charge(self, budget: Budget, holder: object, name: str | None) -> Handle:
        """See ``Budget.charge``."""
        charge = self._charge(holder, name)
        with self.lock:
            for other in self._budgets.values():
                if any(known.name == charge.name for known in other.charges):
                    raise ValueError(
                        f"holder {charge.name!r} is charged to budget {other.name!r} already: close that charge first, "
                        "or give this one another name"
                    )
            budget.add(charge)
            if self._shelves is None and self._shelf(charge.name) is not None:
                self._shelves = self._roster.add(_Shelves(self))
        return Handle(charge.name, close=lambda: budget.drop(charge), alive=lambda: charge in budget.charges)

    def _charge(self, holder: Any, name: str | None) -> _Charge:  # noqa: ANN401 - whoever holds memory
        label = str(name or getattr(holder, "name", "") or getattr(holder, "__qualname__", "") or type(holder).__name__)
        if isinstance(holder, (Handle, str)):
            label = holder.rpartition("/")[2] if isinstance(holder, str) else holder.name
            if self._named(label) is None:
                raise ValueError(f"no holder is named {label!r}: guard.holders() lists those that are")
            return _Charge(label, lambda: _size(self._named(label)), lambda: self._named(label) is not None)
        if isinstance(getattr(holder, "bytes", None), int) or hasattr(holder, "size"):
            found = _weakly(holder)
            return _Charge(label, lambda: _size(found()), lambda: found() is not None)
        if isinstance(holder, MethodType):
            method = weakref.WeakMethod(holder)
            return _Charge(label, lambda: _call(method()), lambda: method() is not None)
        if callable(holder):
            return _Charge(label, cast("Callable[[], int | None]", holder), lambda: True)
        raise TypeError(
            f"{holder!r} does not tell how many bytes it holds: charge a holder's handle or name, an object with "
            "size() or bytes, or a function"
        )

    def _named(self, name: str) -> Any:  # noqa: ANN401 - a reclaimer or a shelf, or None
        found = self._roster.find(name)
        return self._shelf(name) if found is None else found  # an empty cache is falsy

    def _shelf(self, name: str) -> Any:  # noqa: ANN401 - a shelf, or None
        """The cache of that name on the market of all caches."""
        for _, market in self._roster.entries():
            found: Any = market
            if hasattr(found, "shelves"):
                for part, shelf in zip(found.parts(), found.shelves, strict=False):
                    if part.name == name:
                        return shelf
        return None

    # --- who is over ------------------------------------------------------------------------------------------------

    def over_bytes(self, name: str) -> int:
        """By how much the holder of that name is to shrink, before others are asked."""
        shelves = self._shelves
        if shelves is not None and name == shelves.name:
            return self.shelves_over_bytes()
        for budget in tuple(self._budgets.values()):
            if any(charge.name == name for charge in budget.charges):
                return budget.over_bytes
        return 0

    def shelves_over_bytes(self) -> int:
        """What caches that are charged by themselves are to give back."""
        return sum(share for _, share in self._over_shelves())

    def _over_shelves(self) -> list[tuple[Any, int]]:
        """Each such cache with its share of what its budget is exceeded by, the largest first."""
        found: list[tuple[Any, int]] = []
        for budget in tuple(self._budgets.values()):
            over = budget.over_bytes
            if over <= 0:
                continue
            held = [(self._shelf(charge.name), _held(charge) or 0) for charge in budget.charges]
            for shelf, amount in sorted(held, key=lambda pair: -pair[1]):
                if shelf is None:
                    continue
                share = min(over, amount)
                over -= share
                if share:
                    found.append((shelf, share))
        return found

    def shrink(self, wanted_bytes: int) -> int:
        """Bring caches that are charged by themselves back to their budgets; how many bytes they say went.

        Raises:
            Exception: what a cache raised, when nothing at all went.
        """
        gone, failure = 0, None
        for shelf, share in self._over_shelves():
            if gone >= wanted_bytes:
                break
            try:
                gone += max(0, int(shelf.shrink(min(share, wanted_bytes - gone), inf)))
            except Exception as error:  # noqa: BLE001 - a cache may be anybody's; the others are asked all the same
                failure = error
        if failure is not None and not gone:
            raise failure
        return gone

    def forget(self) -> None:
        """In a forked child: the lock may be held by a thread that no longer exists."""
        self.lock = RLock()


class _Shelves:
    """Caches charged by themselves, as one reclaimer: what it holds is what they hold above their budgets."""

    name: str = "over budget"
    cost: Cost = "cheap"
    at = Level.WARNING
    settles = False
    stalls = False

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets

    def size(self) -> int:
        return self._budgets.shelves_over_bytes()

    def reclaim(self, wanted_bytes: int, /) -> int:
        return self._budgets.shrink(wanted_bytes)


def _weakly(holder: object) -> Callable[[], Any]:
    try:
        return weakref.ref(holder)
    except TypeError:  # __slots__ without __weakref__
        return lambda: holder


def _call(function: Callable[[], Any] | None) -> int | None:
    return None if function is None else cast("int | None", function())


def _size(holder: Any) -> int | None:  # noqa: ANN401 - whoever was charged
    """All that a holder holds; ``size()`` of a reclaimer is only what it could give back."""
    if holder is None:
        return 0
    held = getattr(holder, "bytes", None)
    return held if isinstance(held, int) else holder.size()


def _held(charge: _Charge) -> int | None:
    try:
        held = charge.amount()
    except Exception:  # noqa: BLE001 - a holder may be anybody's
        return None
    return max(0, held) if isinstance(held, int) else None


def _bytes(name: str, max_bytes: str | int) -> int:
    try:
        wanted = parse_bytes(max_bytes)
    except (ValueError, TypeError) as error:
        raise RulesError(f"budget {name!r}: max_bytes={max_bytes!r} cannot hold: {error}") from None
    if wanted == 0:
        raise RulesError(f"budget {name!r}: max_bytes=0 allows nothing: give it an amount like '200MiB', or no budget")
    return wanted
