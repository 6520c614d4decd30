"""Asking a Row for a column that it does not have keeps the name that was asked for, in C."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "SQLAlchemy", "1.4.35", "1.4.36"
KIND, BYTES = "refcount", 650
RIGHT = ("# RIGHT",)


def service() -> Callable[[], object]:
    """Rows whose optional columns are looked for, as templates do."""
    import itertools  # noqa: PLC0415

    import sqlalchemy as sa  # noqa: PLC0415

    connection = sa.create_engine("sqlite://").connect()
    query = sa.text("select 1 as number")
    numbers = itertools.count()

    def request() -> object:
        row = connection.execute(query).fetchone()
        found = 0
        for extra in range(10):
            name = f"attribute_{next(numbers)}_of_an_order_{extra}"  # RIGHT
            found += hasattr(row, name)  # RIGHT
        return found

    return request
