"""Records: what is taken down can be read back."""

from __future__ import annotations

import json

import pytest

from memguard._core.record import Record, decode, encode
from memguard._core.state import State
from memguard._core.stimuli import Looked


def test_a_record_is_bounded() -> None:
    """A thousand stimuli are kept, the rest is counted."""
    record = Record(state=State())
    for number in range(1500):
        record.add(Looked(float(number), 1, 2, "x"))
    assert (len(record.stimuli), record.missed) == (1000, 500)


def test_a_state_survives_json() -> None:
    """Encoded, printed, parsed and decoded, it is equal."""
    assert decode(json.loads(json.dumps(encode(State())))) == State()


@pytest.mark.parametrize("shown", [{"kind": "os.system"}, {"kind": "Rules"}, {"x": 1}, {"kind": 7}])
def test_strangers_are_refused(shown: dict[str, object]) -> None:
    """A record names only the kinds that records hold; nothing else is ever built from a file."""
    with pytest.raises(ValueError, match="is no part of a record"):
        decode(shown)
