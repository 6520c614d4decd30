"""Working: the part of a guard that a service's work goes through: its gate, pools, operations, features, budgets."""

from __future__ import annotations

from weakref import WeakValueDictionary

from memguard.model import Level

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from memguard.admission import Gate, Ticket
    from memguard.agents.pools import Pool
    from memguard.budgets import Budget, Budgets
    from memguard.features import Feature, Features
    from memguard.kinds import Priority
    from memguard.model import Limit, Snapshot
    from memguard.operations import Operation, Operations
    from memguard.ports import Clock
    from memguard.roster import Roster
    from memguard.rules import Rules
    from memguard.sight import Sight
    from memguard.telling import Teller
    from memguard.watch import Watch

    T = TypeVar("T")

__all__ = ["Working"]

# As in holding: a guard whose service has no pools does not pay for them in memory.


class Working:
    """Admits work; opens a pool, an operation, a feature or a budget, each made when it is first asked for."""

    gate: Gate
    rules: Rules
    roster: Roster
    _clock: Clock
    _sight: Sight
    _teller: Teller
    _watch: Watch

    if TYPE_CHECKING:

        @property
        def snapshot(self) -> Snapshot:
            """As the guard has it."""
            ...

        @property
        def limits(self) -> tuple[Limit, ...]:
            """As the guard has them."""
            ...

        def _left(self, thing: object, kind: str) -> None: ...

    def admit(  # noqa: PLR0913 - each but the first says one thing about the work
        self,
        bytes: str | int | None = None,  # noqa: A002 - the public name
        *,
        kind: str = "request",
        label: str = "",
        budget: str | None = None,
        wait_s: float = 0.0,
        priority: Priority = "normal",
    ) -> Ticket:
        """Permission for work that needs so many bytes (None: unknown), as a context manager, sync or async.

        Refused from CRITICAL on until pressure is below where that level is left, and whenever used + promised +
        ``bytes`` would pass the CRITICAL rung. ``label`` names the work in events ("POST /agents"). ``budget`` names
        one whose room the work needs too, as long as it runs. ``wait_s`` waits for room; on an event loop use
        ``async with``. ``priority`` "sheddable" moves both to WARNING; "critical" work is refused only when its bytes
        would pass the EMERGENCY rung.

        Raises:
            AdmissionRefused: with ``retry_after_s``, the level and the numbers.
            ValueError: a negative amount, or no such priority.
            RulesError: there is no such budget.
        """
        purse = None if budget is None else self.budgets.budget(budget)
        return self.gate.admit(bytes, kind, label, wait_s, priority, budget=purse)

    def pool(  # noqa: PLR0913 - options, all with a default
        self,
        name: str,
        *,
        max_size: int | None = None,
        on_retire: Callable[[str, T], object] | None = None,
        max_idle_s: str | float | None = None,
        cost_bytes: str | int = 0,
        replace_idle: bool | None = None,
    ) -> Pool[T]:
        """A pool of agents, at most ``max_size`` (the rule ``pool_max_size``), and never more than fit; see ``Pool``.

        Raises:
            TypeError, ValueError: a name, a size or a hook that cannot be meant.
        """
        from memguard.agents.pools import Pool  # noqa: PLC0415

        made: Pool[T] = Pool(
            name,
            rules=self.rules,
            snapshot=lambda: self.snapshot,
            used_bytes=lambda: self._sight.meter()(),  # noqa: PLW0108 - another limit may bind next time
            max_size=max_size,
            on_retire=on_retire,
            max_idle_s=max_idle_s,
            cost_bytes=cost_bytes,
            replace_idle=replace_idle,
            roster=self.roster,
            clock=self._clock,
            farewell=lambda agent: self._left(agent, f"agents retired from pool {name!r}"),
        )
        self._once("_pools", WeakValueDictionary[str, "Pool[Any]"]())[made.name] = made
        return made

    @property
    def pools(self) -> tuple[Pool[Any], ...]:
        """Every pool that this guard has opened and that is still there."""
        return tuple(vars(self).get("_pools", {}).values())

    def operation(self, type: str, *, id: str | None = None) -> Operation:  # noqa: A002 - the public names
        """An operation of a type ("agent.run"): its duration and memory delta; a context manager, or a decorator.

        Raises:
            TypeError, ValueError: a type or an id that is no text, or blank.
        """
        return self.operations.operation(type, id=id)

    @property
    def operations(self) -> Operations:
        """Every operation: those that run, the last that ended, what each type cost."""
        found: Operations | None = vars(self).get("_operations")
        if found is None:
            from memguard.operations import Operations  # noqa: PLC0415

            return self._once("_operations", Operations(clock=self._clock))
        return found

    def feature(self, name: str, *, off_at: Level | str = Level.WARNING) -> Feature:
        """A feature that is off from a level on: truthy while on, and a decorator with a fallback; see ``Feature``.

        Raises:
            TypeError, ValueError: a name or a level that cannot be meant, or another level than the first time.
        """
        return self.features.feature(name, off_at=off_at)

    @property
    def features(self) -> Features:
        """Every feature."""
        found: Features | None = vars(self).get("_features")
        if found is None:
            from memguard.features import Features  # noqa: PLC0415

            rules = self.rules
            made = Features(
                clock=self._clock, tell=self._teller.tell, act=rules.mode == "act", retry_after_s=rules.dwell_s
            )
            kept = self._once("_features", made)
            if kept is made:
                self._watch.shown = (*self._watch.shown, made.show)
                made.show(self.snapshot)
            return kept
        return found

    def budget(self, name: str, max_bytes: str | int | None = None) -> Budget:
        """A named part of the limit, or the one that exists; see ``Budget``.

        Raises:
            RulesError: all together would reach the limit, naming all; or an amount or name that cannot be meant.
        """
        return self.budgets.budget(name, max_bytes)

    @property
    def budgets(self) -> Budgets:
        """Every budget."""
        found: Budgets | None = vars(self).get("_budgets")
        if found is None:
            from memguard.budgets import Budgets  # noqa: PLC0415

            return self._once("_budgets", Budgets(roster=self.roster, limit=self._nearest_limit))
        return found

    def _nearest_limit(self) -> Limit | None:
        return min(self.limits, key=lambda limit: limit.bytes, default=None)

    def _once(self, name: str, made: T) -> T:
        """Of several first callers one wins: one step in C."""
        kept: T = vars(self).setdefault(name, made)
        return kept

    def _forget_work(self) -> None:
        """In a forked child: what ran in the parent is not ours."""
        for name in ("_operations", "_features", "_budgets"):
            if name in vars(self):
                vars(self)[name].forget()
