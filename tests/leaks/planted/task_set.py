"""Asyncio tasks that are kept in a set and never end."""

from __future__ import annotations

import asyncio

NAMES = ("planted_task_set.TASKS", "_poll")
"""What the first answer must name, one of them."""

LOOP = asyncio.new_event_loop()
TASKS: set[asyncio.Task[None]] = set()


async def _poll(_number: int) -> None:
    await asyncio.get_running_loop().create_future()


async def _request(number: int) -> None:
    TASKS.add(asyncio.create_task(_poll(number)))  # LEAK
    await asyncio.sleep(0)


def work(number: int) -> None:
    """One request."""
    LOOP.run_until_complete(_request(number))


def tidy() -> None:
    """End them."""
    for task in TASKS:
        task.cancel()
    LOOP.run_until_complete(asyncio.gather(*TASKS, return_exceptions=True))
    TASKS.clear()
    LOOP.close()
