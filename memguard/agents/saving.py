"""Saving: what a pool's hook does with an agent before it goes, sync or async, by whichever thread it goes."""

from __future__ import annotations

import sys
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future

    from memguard.agents.seats import Seat

__all__ = ["Saver", "current_loop"]

T = TypeVar("T")


def current_loop() -> AbstractEventLoop | None:
    """The asyncio loop that the caller runs on, None in any other thread."""
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()  # noqa: SLF001 - documented for libraries


class Saver(Generic[T]):
    """Calls ``on_retire``, which may be ``async``: then it runs on the event loop that the agent was last used on.

    A failure is an answer here and not raised: whoever asked keeps the agent.
    """

    __slots__ = ("_hook",)

    def __init__(self, hook: Callable[[str, T], object] | None) -> None:
        self._hook = hook

    def save(
        self, seat: Seat[T], then: Callable[[Exception | None], object], *, within_s: float
    ) -> Exception | Literal["later"] | None:
        """What went wrong, None if nothing did; "later" when that is not known yet, and ``then`` is told.

        It is later where the caller runs on an event loop himself, and an async hook cannot be waited for. Any other
        thread waits at most ``within_s`` for it.
        """
        if self._hook is None:
            return None
        try:
            done = self._hook(seat.id, cast("T", seat.agent))
            if not isawaitable(done):
                return None
            here = current_loop()
            home = seat.loop if seat.loop is not None and seat.loop.is_running() else here
            if here is None:
                _wait(done, home, within_s)
                return None
            seat.later = home or here
            _begin(done, seat.later).add_done_callback(lambda future: then(_failure(future)))
        except Exception as failure:  # noqa: BLE001 - a hook may be anybody's, and its agent is kept
            return failure.with_traceback(None)  # its frames would keep the agent alive
        return "later"

    async def save_async(self, seat: Seat[T]) -> Exception | None:
        """As ``save``, in a task that can wait for it."""
        if self._hook is None:
            return None
        try:
            done = self._hook(seat.id, cast("T", seat.agent))
            if isawaitable(done):
                home = seat.loop
                if home is None or home is current_loop() or not home.is_running():
                    await done
                else:
                    import asyncio  # noqa: PLC0415 - it runs

                    await asyncio.wrap_future(_begin(done, home))
        except Exception as failure:  # noqa: BLE001 - as above
            return failure.with_traceback(None)
        return None


async def _awaited(done: Awaitable[object]) -> None:
    await done


def _begin(done: Awaitable[object], home: AbstractEventLoop) -> Future[None]:
    import asyncio  # noqa: PLC0415 - it is loaded: there is a loop

    return asyncio.run_coroutine_threadsafe(_awaited(done), home)


def _wait(done: Awaitable[object], home: AbstractEventLoop | None, within_s: float) -> None:
    """Have it done on that loop, or on one of its own where that one does not run, and wait."""
    if home is None:
        import asyncio  # noqa: PLC0415 - an async hook needs it

        asyncio.run(_awaited(done))
        return
    future = _begin(done, home)
    try:
        future.result(within_s)
    except BaseException as error:
        future.cancel()
        if isinstance(error, TimeoutError) and not str(error):
            raise TimeoutError(f"its event loop did not finish it within {within_s:g} s") from None
        raise


def _failure(future: Future[Any]) -> Exception | None:
    if future.cancelled():
        return RuntimeError("cancelled")
    error = future.exception()
    if error is None:
        return None
    return (error if isinstance(error, Exception) else RuntimeError(repr(error))).with_traceback(None)
