"""The survey: who could give memory back, how much they hold, and what their reliefs have bought."""

from __future__ import annotations

from memguard._core.planner import HARM
from memguard._core.stimuli import Offer
from memguard.model import Holder, Level
from memguard.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memguard._core.state import State
    from memguard.model import Relief
    from memguard.ports import Part, Reclaimer
    from memguard.roster import Roster

__all__ = ["Survey"]


class Survey:
    """Asks the guard's own reclaimers and those on the roster; one that fails is told of and left out."""

    def __init__(self, *, roster: Roster, builtin: Sequence[Reclaimer], fault: Callable[[float, str], None]) -> None:
        self._roster = roster
        self._builtin = tuple((reclaimer.name, reclaimer) for reclaimer in builtin)
        self._fault = fault
        self._claims: dict[str, int] = {}
        self._bought: dict[str, int] = {}

    def _everybody(self) -> tuple[tuple[str, Reclaimer], ...]:
        return (*self._builtin, *self._roster.entries())

    def find(self, name: str) -> Reclaimer | None:
        """The reclaimer of that name, or None."""
        return next((known for own, known in self._everybody() if own == name), None)

    def offers(self, at: float) -> tuple[Offer, ...]:
        """What the planner may choose from."""
        return tuple(offer for offer, _ in self._ask(at))

    def holders(self, state: State) -> tuple[Holder, ...]:
        """Everybody, and after each the parts that it consists of, with what their reliefs really bought."""
        rows = list[Holder]()
        for offer, reclaimer in self._ask(state.at):
            rows.append(_holder(offer, state))
            rows += _parts(rows[-1], reclaimer, state)
        return tuple(rows)

    def _ask(self, at: float) -> Iterator[tuple[Offer, Reclaimer]]:
        for name, reclaimer in self._everybody():
            try:
                yield _offer(name, reclaimer, self._roster.over(name)), reclaimer
            except Exception as error:  # noqa: BLE001 - a holder may be anybody's; the others are asked all the same
                self._fault(at, f"holder {name!r} is left out: {type(error).__name__}: {error}")

    def over_budget(self, at: float) -> tuple[Offer, ...]:
        """What the planner may choose from when somebody is over a budget; () while nobody is."""
        if not self._roster.budgeted:
            return ()
        offers = self.offers(at)
        return offers if any(offer.over_bytes for offer in offers) else ()

    def claimed(self, relief: Relief) -> None:
        """Remember what a reclaimer says that it released, and did not take again at once."""
        released = (relief.claimed_bytes or 0) - (relief.refilled_bytes or 0)
        self._claims[relief.name] = self._claims.get(relief.name, 0) + max(0, released)

    def tend(self, state: State) -> None:
        """Let those who wish look after themselves, and tell them how much of their claims came back to the kernel."""
        for name, reclaimer in self._roster.entries():
            tend, learn = getattr(reclaimer, "tend", None), getattr(reclaimer, "learn", None)
            try:
                if tend is not None:
                    tend()
                # Not while an account is open: what was released may come back yet.
                if learn is not None and self._claims.get(name) and state.account is None and state.step is None:
                    bought_bytes = state.patience_of(name).bought_bytes
                    learn(self._claims.pop(name), max(0, bought_bytes - self._bought.get(name, 0)))
                    self._bought[name] = bought_bytes
            except Exception as error:  # noqa: BLE001 - as in offers
                self._fault(state.at, f"holder {name!r} could not be tended: {type(error).__name__}: {error}")


def _parts(whole: Holder, reclaimer: Reclaimer, state: State) -> Iterator[Holder]:
    """What a reclaimer consists of; what it bought is split by what each part says that it gave."""
    parts: Callable[[], Sequence[Part]] = getattr(reclaimer, "parts", tuple)
    try:
        listed = parts()
        given = sum(part.evicted_bytes for part in listed) or 1
        for part in listed:
            yield replace(
                whole,
                name=f"{whole.name}/{part.name}",
                size_bytes=part.bytes,
                share=part.bytes / state.used_bytes if part.bytes is not None and state.used_bytes else None,
                bought_bytes=whole.bought_bytes * part.evicted_bytes // given,
            )
    except Exception:  # noqa: BLE001 - as in offers; the whole has its row already
        return


def _holder(offer: Offer, state: State) -> Holder:
    record, size_bytes = state.patience_of(offer.name), offer.size_bytes
    return Holder(
        name=offer.name,
        cost=offer.cost,
        at=offer.at,
        size_bytes=size_bytes,
        share=size_bytes / state.used_bytes if size_bytes is not None and state.used_bytes else None,
        attempts=record.attempts,
        bought_bytes=record.bought_bytes,
        blocked_s=max(0.0, record.blocked_until - state.at),
    )


def _offer(name: str, reclaimer: Reclaimer, over_bytes: int) -> Offer:
    cost, at = reclaimer.cost, reclaimer.at
    if cost not in HARM or not isinstance(at, Level):
        raise ValueError(f"cost={cost!r} must be one of {', '.join(HARM)}, and at={at!r} a Level")
    return Offer(
        name=name,
        cost=cost,
        at=at,
        size_bytes=_size(reclaimer),
        settles=bool(reclaimer.settles),
        stalls=bool(reclaimer.stalls),
        over_bytes=over_bytes,
    )


def _size(reclaimer: Reclaimer) -> int | None:
    """What a reclaimer says it holds; one that cannot say is asked all the same, and measured."""
    try:
        size = reclaimer.size()
    except Exception:  # noqa: BLE001 - a holder may be anybody's
        return None
    return size if isinstance(size, int) and size >= 0 else None
