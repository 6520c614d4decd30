"""The thread of a connection that could not be opened runs for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "aiosqlite", "0.12.0", "0.13.0"
KIND, BYTES = "thread", 8_000
RIGHT = ("Connection",)


def service() -> Callable[[], object]:
    """Connections, of which one in four goes to a database that cannot be opened."""
    import asyncio  # noqa: PLC0415
    import itertools  # noqa: PLC0415
    import logging  # noqa: PLC0415
    import sqlite3  # noqa: PLC0415
    from contextlib import suppress  # noqa: PLC0415

    import aiosqlite  # noqa: PLC0415

    logging.getLogger("aiosqlite").setLevel(logging.CRITICAL)
    places = itertools.cycle(["/nowhere/at/all.db", ":memory:", ":memory:", ":memory:"])
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    async def once() -> None:
        with suppress(sqlite3.OperationalError):
            async with aiosqlite.connect(next(places)):
                pass

    return lambda: loop.run_until_complete(once())
