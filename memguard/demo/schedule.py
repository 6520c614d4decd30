"""The recorded load of the demonstration: which request is due when. Made once, replayed in both runs."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from typing import TYPE_CHECKING

from memguard.units import KIB
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Request", "body_of", "make_schedule", "read_schedule", "sample_text", "write_schedule"]

# Requests a second while the load is full, by kind. Together they leave some 25 MB more in the service every second.
_RATES = {"answer": 65.0, "observe": 30.0, "digest": 0.7}
# The last part of the load is calm: sessions end, and a service that recovers has to show it.
_CALM_RATIO = 0.15
_CALM_RATE_RATIO = 0.25
# So many sessions begin every second, and as many fall silent; the active ones share the messages.
_SESSIONS_PER_S = 10.0
_ACTIVE_SESSIONS = 40
# Half of the answers asked for are among these few.
_POPULAR = 40
_TEXT_BYTES = 512 * KIB


@value
class Request:
    """One request of the load: when it is due (seconds from the start), and how its body is made."""

    due_s: float
    kind: str
    method: str
    path: str
    body_bytes: int = 0
    seed: int = 0


def make_schedule(*, seconds: float, seed: int, intensity: float = 1.0) -> list[Request]:
    """The requests of a run, in order: open-loop Poisson arrivals, so a slow answer does not slow the load down.

    ``intensity`` multiplies the rates: shorter runs need more of it to fill the same memory.
    """
    draw = random.Random(seed)
    calm_at = seconds * (1.0 - _CALM_RATIO)
    requests = [
        request
        for kind, rate in _RATES.items()
        for due_s in _arrivals(draw, rate * intensity, calm_at, seconds)
        for request in [_request(draw, kind, due_s, _SESSIONS_PER_S * intensity)]
    ]
    busy = sorted({request.path.split("/")[2] for request in requests if request.kind == "observe"})
    draw.shuffle(busy)
    # Every session ends within the first half of the calm.
    for rank, name in enumerate(busy):
        due_s = calm_at + 0.5 * (seconds - calm_at) * rank / len(busy)
        requests.append(Request(due_s=due_s, kind="finish", method="DELETE", path=f"/agents/{name}"))
    return sorted(requests, key=lambda request: request.due_s)


def _arrivals(draw: random.Random, rate: float, calm_at: float, seconds: float) -> Iterator[float]:
    at = draw.expovariate(rate)
    while at < seconds:
        yield at
        at += draw.expovariate(rate if at < calm_at else rate * _CALM_RATE_RATIO)


def _request(draw: random.Random, kind: str, due_s: float, sessions_per_s: float) -> Request:
    if kind == "answer":
        popular = draw.random() < 0.5  # noqa: PLR2004
        key = draw.randrange(_POPULAR) if popular else draw.randrange(_POPULAR, 1 << 30)
        kib = (16, 64, 128, 256, 512, 1024)[key % 6]
        return Request(due_s=due_s, kind=kind, method="GET", path=f"/answers/{key}?kib={kib}")
    if kind == "observe":
        number = int(due_s * sessions_per_s) + draw.randrange(_ACTIVE_SESSIONS)
        path, body_bytes = f"/agents/a{number}/messages", draw.choice((2, 8, 32, 128, 512)) * KIB
    else:
        path, body_bytes = "/documents", draw.choice((256, 1024, 4096)) * KIB
    return Request(
        due_s=due_s, kind=kind, method="POST", path=path, body_bytes=body_bytes, seed=draw.randrange(1 << 30)
    )


def body_of(request: Request, text: str) -> bytes:
    """The JSON body of a request, about ``body_bytes`` long; ``text`` is what messages are cut from."""
    if not request.body_bytes:
        return b""
    draw, parts, size = random.Random(request.seed), [], 0
    while size < request.body_bytes:
        if request.kind == "observe":
            at, length = draw.randrange(len(text) - 2 * KIB), draw.randrange(200, 2 * KIB)
            parts.append(f'{{"role":"user","content":"{text[at : at + length]}"}}')
        else:
            # A thousand different records again and again: making them must not cost the client more than sending.
            parts.append(",".join(_records(draw)))
        size += len(parts[-1])
    key = "messages" if request.kind == "observe" else "records"
    return f'{{"{key}":[{",".join(parts)}]}}'.encode()


def _records(draw: random.Random) -> list[str]:
    first = draw.randrange(1 << 30)
    return [
        f'{{"id":{first + step},"score":{step / 7:.3f},"tags":["t{step % 11}","u{step % 7}"]}}' for step in range(200)
    ]


def sample_text(seed: int) -> str:
    """Letters and blanks to cut messages from."""
    draw = random.Random(seed)
    return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz     ", k=_TEXT_BYTES))


def write_schedule(requests: list[Request], path: Path) -> None:
    """Record the load, one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(request)) + "\n" for request in requests)


def read_schedule(path: Path) -> list[Request]:
    """The load as it was recorded."""
    with path.open(encoding="utf-8") as file:
        return [Request(**json.loads(line)) for line in file]
