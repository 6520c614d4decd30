"""Letting go: what an error's traceback holds, and whether want of memory is behind it."""

from __future__ import annotations

from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["out_of_memory", "release"]

# CPython's own words for a thread that got no stack: a RuntimeError.
_NO_THREAD: Final = ("can't start new thread",)
_GROUP: Final[Any] = BaseExceptionGroup


def release(error: BaseException) -> None:
    """Let go of what the frames of a failed piece of work still hold: its traceback keeps them until a collection.

    Frames that still run are left. What the error says, and where, stays readable.
    """
    for link in _links(error):
        trace = link.__traceback__
        while trace is not None:
            with suppress(RuntimeError):  # it still runs
                trace.tb_frame.clear()
            trace = trace.tb_next


def out_of_memory(error: BaseException) -> bool:
    """Whether want of memory is behind an error: a MemoryError, or no room for a thread's stack.

    It may be the error itself, its cause or context, or one of a group.

    Frameworks hide it: FastAPI answers 400 with it as the cause when a JSON body could not be parsed for want of
    memory, task groups wrap it in an ExceptionGroup.
    """
    return any(isinstance(link, MemoryError) or link.args == _NO_THREAD for link in _links(error))


def _links(error: BaseException) -> list[BaseException]:
    """An error and all that led to it, each once."""
    links = [error]
    for link in links:
        members: tuple[BaseException, ...] = getattr(link, "exceptions", ()) if isinstance(link, _GROUP) else ()
        behind = (link.__cause__, link.__context__, *members)
        links += [one for one in behind if one is not None and not any(one is known for known in links)]
    return links
