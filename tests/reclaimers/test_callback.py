"""Callables as reclaimers, and the checks on labels."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from memguard.model import Level
from memguard.reclaimers.callback import Callback

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Owner:
    def __init__(self) -> None:
        self.asked: list[int] = []

    def shrink(self, wanted_bytes: int) -> int:
        self.asked.append(wanted_bytes)
        return wanted_bytes // 2

    def held_bytes(self) -> int:
        return 4096


class _Slotted:
    __slots__ = ()

    def shrink(self, wanted_bytes: int) -> int:
        return wanted_bytes


def test_passes_the_wish_and_the_claim_on() -> None:
    """The callable is asked for what was wanted, and its claim comes back."""
    owner = _Owner()
    callback = Callback("states", owner.shrink, size=owner.held_bytes)
    assert callback.reclaim(1000) == 500
    assert owner.asked == [1000]
    assert callback.size() == 4096


def test_never_keeps_the_owner_alive() -> None:
    """Neither a bound reclaim nor a bound size holds its owner; afterwards there is nothing to give back."""
    owner = _Owner()
    gone = weakref.ref(owner)
    callback = Callback("states", owner.shrink, size=owner.held_bytes)
    assert callback.held is owner
    del owner
    gc.collect()
    assert gone() is None
    assert callback.held is None
    assert callback.size() == 0
    assert callback.reclaim(1000) == 0


def test_size_whose_owner_is_gone() -> None:
    """A size whose own owner died is 0, also while the reclaim lives."""
    owner = _Owner()
    callback = Callback("states", lambda wanted_bytes: wanted_bytes, size=owner.held_bytes)
    assert callback.held is None
    del owner
    gc.collect()
    assert callback.size() == 0


def test_owner_that_cannot_be_held_weakly() -> None:
    """A method of a class with __slots__ works; its owner is held."""
    callback = Callback("states", _Slotted().shrink)
    gc.collect()
    assert callback.reclaim(7) == 7
    assert callback.held is None


@pytest.mark.parametrize(
    ("answer", "claim"), [(5, 5), (-5, 0), (True, None), (2.5, None), ("5", None), ([1], None), (None, None)]
)
def test_a_claim_that_is_no_amount_counts_as_none(answer: Any, claim: int | None) -> None:
    """What is returned beside an int of bytes is no claim, and none is below 0; the same holds for sizes."""
    callback = Callback("states", lambda _wanted_bytes: answer, size=lambda: answer)
    assert callback.reclaim(1) == claim
    assert callback.size() == claim


def test_failures_pass_through() -> None:
    """What the callable raises reaches the caller, who records it."""

    def fail(wanted_bytes: int) -> int:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Callback("states", fail).reclaim(1)


async def _late(wanted_bytes: int) -> int:
    return wanted_bytes


def _bit_by_bit() -> Iterator[int]:
    yield 0


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"name": ""}, ValueError, "blank"),
        ({"name": "  "}, ValueError, "blank"),
        ({"name": 3}, TypeError, "must be text, not 3"),
        ({"cost": "expensive"}, ValueError, "'expensive' is no cost: choose one of free, cheap, dear, last"),
        ({"at": "WARNING"}, TypeError, r"at='WARNING' is no level: choose one of Level\.OK"),
        ({"at": 2}, TypeError, "is no level"),
        ({"reclaim": 3}, TypeError, "reclaim=3 cannot be called"),
        ({"reclaim": _late}, TypeError, "is async or yields"),
        ({"size": _bit_by_bit}, TypeError, "is async or yields"),
        ({"reclaim": lambda: 0}, TypeError, "must take one argument, wanted_bytes"),
        ({"reclaim": _Owner().held_bytes}, TypeError, "write reclaim=lambda wanted_bytes: "),
        ({"size": lambda wanted_bytes: 0}, TypeError, "size must take no argument"),
        ({"size": 512}, TypeError, "size=512 cannot be called"),
    ],
)
def test_refuses_what_cannot_be_meant(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    """A wrong name, cost, level or callable is refused at once, with the mend."""
    settings: dict[str, Any] = {"name": "states", "reclaim": lambda wanted_bytes: wanted_bytes, **changes}
    with pytest.raises(error, match=text):
        Callback(settings.pop("name"), settings.pop("reclaim"), **settings)


def test_defaults() -> None:
    """A callback is cheap, asked from WARNING on, and neither settles nor stalls."""
    callback = Callback("states", lambda wanted_bytes: wanted_bytes)
    assert (callback.cost, callback.at) == ("cheap", Level.WARNING)
    assert not callback.settles
    assert not callback.stalls
    assert callback.size() is None
    assert "states" in repr(callback)
