"""The record of an incident: where the machine stood and every stimulus since, enough to decide it all again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass

from memguard._core import stimuli
from memguard._core.forecast import Growth
from memguard._core.ladder import Stand
from memguard._core.patience import Duty, Patience
from memguard._core.state import Account, Ask, State
from memguard.model import Incident, Level, Relief

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from memguard._core.stimuli import Stimulus

__all__ = ["Record", "decode", "encode"]

# About 150 bytes each: a record stays under 200 KB, whatever happens.
_STIMULI_AT_MOST = 1000

_KINDS = {
    kind.__name__: kind
    for kind in (
        *(getattr(stimuli, name) for name in stimuli.__all__ if isinstance(getattr(stimuli, name), type)),
        *(Growth, Stand, Duty, Patience, Account, Ask, State, Incident, Relief),
    )
}


@dataclass(slots=True, kw_only=True)
class Record:
    """An incident as it can be replayed: the state before it and its stimuli, oldest first.

    ``missed`` counts stimuli beyond the bound of 1000; a replay ends where they begin.
    """

    state: State
    stimuli: list[Stimulus] = field(default_factory=list)
    missed: int = 0

    def add(self, stimulus: Stimulus) -> None:
        """Take one more stimulus down."""
        if len(self.stimuli) < _STIMULI_AT_MOST:
            self.stimuli.append(stimulus)
        else:
            self.missed += 1


def encode(value: object) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """A recorded value as what JSON can hold; ``decode`` gives an equal one back."""
    if isinstance(value, Level):
        return {"kind": "Level", "value": int(value)}
    if is_dataclass(value) and not isinstance(value, type):
        shown = {item.name: encode(getattr(value, item.name)) for item in fields(value)}
        return {"kind": type(value).__name__, **shown}
    if isinstance(value, Mapping):
        return {"kind": "map", "items": [[key, encode(item)] for key, item in value.items()]}
    if isinstance(value, frozenset):
        return {"kind": "set", "items": sorted(value)}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def decode(shown: Any) -> Any:  # noqa: ANN401 - as encode
    """The value that ``encode`` showed.

    Raises:
        ValueError: it names a kind that no record holds.
    """
    if isinstance(shown, list):
        return tuple(decode(item) for item in shown)
    if not isinstance(shown, dict):
        return shown
    rest = {key: item for key, item in shown.items() if key != "kind"}
    match shown.get("kind"):
        case "Level":
            return Level(rest["value"])
        case "map":
            return {key: decode(item) for key, item in rest["items"]}
        case "set":
            return frozenset(rest["items"])
        case str(kind) if kind in _KINDS:
            return _KINDS[kind](**{key: decode(item) for key, item in rest.items()})
        case kind:
            raise ValueError(f"{kind!r} is no part of a record: expected one of {', '.join(sorted(_KINDS))}")
