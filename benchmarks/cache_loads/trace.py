"""Real traces: a CSV file of requests as a load.

The first line names the columns, in any order; others are ignored:

    time     seconds, any zero; a line may not be earlier than the one before
    cache    the name of the cache
    key      any text
    bytes    size of the value, a whole number above 0
    cost_s   seconds that making the value took, 0 or more

    time,cache,key,bytes,cost_s
    0.00,answers,q1,2048,0.120
    0.25,rows,42,310,0.002
"""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, Final

from cache_loads.load import Load, Request

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["COLUMNS", "read_trace"]

COLUMNS: Final = ("time", "cache", "key", "bytes", "cost_s")


def read_trace(path: Path, *, budget_bytes: int | None = None, budget_ratio: float = 0.1) -> Load:
    """The load in a CSV file; without ``budget_bytes`` the budget is that share of all different bytes.

    Raises:
        ValueError: a line is wrong (the text names file, line, column and what was found), or there is none.
    """
    with path.open(newline="", encoding="utf-8") as file:
        caches, requests = _parse(csv.reader(file), str(path))
    load = Load(name=path.stem, caches=tuple(caches), requests=requests, budget_bytes=budget_bytes or 0)
    if budget_bytes is not None:
        return load
    budget_bytes = max(1, int(sum(load.footprints) * budget_ratio))
    return Load(name=path.stem, caches=tuple(caches), requests=requests, budget_bytes=budget_bytes)


def _parse(rows: Iterable[list[str]], path: str) -> tuple[list[str], list[Request]]:
    caches: dict[str, int] = {}
    keys: dict[tuple[int, str], int] = {}
    requests: list[Request] = []
    places: list[int] = []
    for line, row in enumerate(rows, start=1):
        if not places:
            missing = [name for name in COLUMNS if name not in row]
            if missing:
                raise ValueError(f"{path}, line {line}: no column {', '.join(missing)}; needed: {', '.join(COLUMNS)}")
            places = [row.index(name) for name in COLUMNS]
        elif row:
            if len(row) <= max(places):
                raise ValueError(f"{path}, line {line}: {len(row)} fields, {max(places) + 1} are needed")
            time, cache, key, size, cost = (row[place].strip() for place in places)
            where = f"{path}, line {line}"
            at = _number(time, where, "time")
            if requests and at < requests[-1][0]:
                raise ValueError(f"{where}: time {time} is earlier than the line before ({requests[-1][0]:g}): sort it")
            number = caches.setdefault(cache, len(caches))
            name = keys.setdefault((number, key), len(keys))
            requests.append((at, number, name, _size(size, where), _number(cost, where, "cost_s", least=0.0)))
    if not requests:
        raise ValueError(f"{path}: no requests; the first line must be {','.join(COLUMNS)}")
    return list(caches), requests


def _number(text: str, where: str, column: str, *, least: float = -math.inf) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number < math.inf:
        what = "a number" if least == -math.inf else f"a number of {least:g} or more"
        raise ValueError(f"{where}: {column} is {text!r}, not {what}")
    return number


def _size(text: str, where: str) -> int:
    try:
        size = int(text)
    except ValueError:
        size = 0
    if size <= 0:
        raise ValueError(f"{where}: bytes is {text!r}, not a whole number above 0")
    return size
