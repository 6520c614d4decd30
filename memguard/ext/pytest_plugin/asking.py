"""What a test asks for: its markers' arguments, checked; wrong ones are usage errors that name test, value and mend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from memguard.units import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["LeakFree", "check_all", "leak_free", "leak_free_of", "peak_bytes_of"]

# The first runs fill caches, import and compile: with the run that is reported, three are not counted.
_WARMUP: Final = 2
_REPEATS: Final = 8
# Under three nothing can be told from chance.
_REPEATS_LEAST: Final = 3
_MANY: Final = 100_000
# Less than an object with attributes; numbers and texts come and go with the interpreter's own small caches.
_MAX_GROWTH_BYTES: Final = 64


class LeakFree(NamedTuple):
    """How a test is to be repeated, and what each repeat may leave behind.

    ``repeats`` are counted, after the run that is reported and ``warmup`` more. ``types`` are qualified names of the
    only types that count; () means all. ``screened`` says that the test is repeated only if its first run leaves much.
    """

    warmup: int = _WARMUP
    repeats: int = _REPEATS
    max_growth_bytes: int = _MAX_GROWTH_BYTES
    types: tuple[str, ...] = ()
    screened: bool = False


def check_all(items: Iterable[pytest.Item]) -> None:
    """Check every marker of these tests.

    Raises:
        pytest.UsageError: an argument that cannot be meant.
    """
    for item in items:
        leak_free_of(item)
        peak_bytes_of(item)


def leak_free_of(item: pytest.Item) -> LeakFree | None:
    """What a test's ``leak_free`` marker asks for; None without one."""
    mark = item.get_closest_marker("leak_free")
    if mark is None:
        return None
    where = f"{item.nodeid}: leak_free"
    if mark.args:
        raise _wrong(where, f"({_shown(mark.args)})", "name what is meant, as in leak_free(max_growth='1KiB')")
    return leak_free(where, mark.kwargs)


def leak_free(where: str, arguments: Mapping[str, object]) -> LeakFree:
    """The arguments of ``leak_free`` or ``leak_check``, checked; ``where`` names the place in errors.

    Raises:
        pytest.UsageError: an argument that cannot be meant.
    """
    known: dict[str, Callable[[str, str, object], object]] = {
        "warmup": _count(0), "repeats": _count(_REPEATS_LEAST), "max_growth": _amount, "types": _types,
    }  # fmt: skip
    found: dict[str, object] = {}
    for name, value in arguments.items():
        if name not in known:
            raise _wrong(where, f"({name}={value!r})", f"there is no such argument: it takes {', '.join(known)}")
        found["max_growth_bytes" if name == "max_growth" else name] = known[name](where, name, value)
    return LeakFree(**found)  # type: ignore[arg-type]


def peak_bytes_of(item: pytest.Item) -> int | None:
    """What a test's ``peak_memory`` marker allows; None without one."""
    mark = item.get_closest_marker("peak_memory")
    if mark is None:
        return None
    where = f"{item.nodeid}: peak_memory"
    if len(mark.args) + len(mark.kwargs) != 1 or set(mark.kwargs) - {"limit"}:
        given = ", ".join([*map(repr, mark.args), *(f"{name}={value!r}" for name, value in mark.kwargs.items())])
        raise _wrong(where, f"({given})", "it takes one amount of memory, as in peak_memory('50MiB')")
    limit_bytes: int = _amount(where, "limit", mark.args[0] if mark.args else mark.kwargs["limit"])
    if not limit_bytes:
        raise _wrong(where, "(0)", "no test runs in 0 bytes: write a limit like '50MiB'")
    return limit_bytes


def _amount(where: str, name: str, value: object) -> int:
    try:
        return parse_bytes(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise _wrong(where, f"({name}={value!r})", str(error)) from None


def _count(least: int) -> Callable[[str, str, object], int]:
    def check(where: str, name: str, value: object) -> int:
        if type(value) is not int or not least <= value <= _MANY:
            raise _wrong(where, f"({name}={value!r})", f"write a whole number, at least {least} and at most {_MANY}")
        return value

    return check


def _types(where: str, name: str, value: object) -> tuple[str, ...]:
    rows = tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else (value,)
    found = []
    for row in rows:
        if isinstance(row, type):
            from memguard.leaks.names import type_name  # noqa: PLC0415 - only where it is asked for

            found.append(type_name(row))
        elif isinstance(row, str) and row.replace(".", "").replace("<locals>", "").isidentifier():
            found.append(row.removeprefix("builtins."))
        else:
            mend = "write a class, its qualified name ('app.models.User'), or a list of those"
            raise _wrong(where, f"({name}={value!r})", mend)
    if not found:
        raise _wrong(where, f"({name}={value!r})", "leave it out where all types count")
    return tuple(found)


def _shown(values: tuple[object, ...]) -> str:
    return ", ".join(map(repr, values))


def _wrong(where: str, given: str, mend: str) -> pytest.UsageError:
    return pytest.UsageError(f"{where}{given}: {mend}")
