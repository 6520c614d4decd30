"""The record of an incident: where the machine stood and every stimulus since, enough to decide it all again."""

from __future__ import annotations

from collections.abc import Mapping
from marshal import dumps, loads

from memguard._core import stimuli
from memguard._core.forecast import Growth
from memguard._core.ladder import Stand
from memguard._core.patience import Duty, Patience
from memguard._core.state import Account, Ask, State
from memguard._core.stimuli import Looked
from memguard.model import Incident, Level, Relief
from memguard.values import fields, is_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from memguard._core.stimuli import Stimulus

__all__ = ["Record", "decode", "encode"]

# Stimuli of one record, and the bytes they may take: some 100 for a look, 1 KB for a survey of ten holders.
_STIMULI_AT_MOST = 1000
_ROOM_BYTES = 256 * 1024
# Before each stimulus in the buffer: how many bytes it takes.
_HEAD_BYTES = 4

_KINDS = {
    kind.__name__: kind
    for kind in (
        *(getattr(stimuli, name) for name in stimuli.__all__ if isinstance(getattr(stimuli, name), type)),
        *(Growth, Stand, Duty, Patience, Account, Ask, State, Incident, Relief),
    )
}


class Record:
    """An incident as it can be replayed: the state before it and its stimuli, oldest first.

    ``missed`` counts stimuli beyond the bound of 1000, or of 256 KiB; a replay ends where they begin.

    Stimuli are packed into one buffer. As objects they would lie among what the service allocates while it grows, and
    each would hold back the arena around it (1 MiB) when that is shed: a guard's own notes once kept 150 of 200 MiB.
    """

    __slots__ = ("_buffer", "_count", "_used", "missed", "state")

    def __init__(self, *, state: State, stimuli: Iterable[Stimulus] = (), missed: int = 0) -> None:
        self.state: State = state
        self.missed: int = 0
        self._buffer = bytearray(_ROOM_BYTES)
        self._count = self._used = 0
        for stimulus in stimuli:
            self.add(stimulus)
        self.missed += missed

    def add(self, stimulus: Stimulus) -> None:
        """Take one more stimulus down."""
        if isinstance(stimulus, Looked):  # nearly all
            packed = dumps((stimulus.at, stimulus.used_bytes, stimulus.limit_bytes, stimulus.source))
        else:
            packed = dumps(encode(stimulus))
        begin = self._used + _HEAD_BYTES
        end = begin + len(packed)
        if self.missed or self._count >= _STIMULI_AT_MOST or end > _ROOM_BYTES:
            self.missed += 1
            return
        self._buffer[self._used : begin] = len(packed).to_bytes(_HEAD_BYTES, "little")
        self._buffer[begin:end] = packed
        self._used, self._count = end, self._count + 1

    @property
    def stimuli(self) -> tuple[Stimulus, ...]:
        """What came in, oldest first, unpacked anew."""
        found: list[Stimulus] = []
        at = 0
        for _ in range(self._count):
            begin = at + _HEAD_BYTES
            at = begin + int.from_bytes(self._buffer[at:begin], "little")
            shown = loads(self._buffer[begin:at])  # noqa: S302 - we packed it ourselves, in this process
            found.append(Looked(*shown) if isinstance(shown, tuple) else decode(shown))
        return tuple(found)

    def shown(self) -> dict[str, Any]:
        """All of it as what JSON can hold; ``decode`` gives state and stimuli back."""
        return {
            "memguard": "record",
            "version": 1,
            "missed": self.missed,
            "state": encode(self.state),
            "stimuli": [encode(stimulus) for stimulus in self.stimuli],
        }


def encode(value: object) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """A recorded value as what JSON can hold; ``decode`` gives an equal one back."""
    if isinstance(value, Level):
        return {"kind": "Level", "value": int(value)}
    if is_value(value) and not isinstance(value, type):
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
