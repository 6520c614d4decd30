"""Results that were invalidated while they were computed: nobody who comes after the invalidation is given one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from memguard.caching.spec import Course, Spec
from memguard.caching.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable


class Watched(dict[Any, Any]):
    """A store's table that remembers every key that was ever to be found in it."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[object] = []

    def setdefault(self, key: Any, entry: Any = None) -> Any:
        self.shown.append(key)
        return super().setdefault(key, entry)

    def __setitem__(self, key: Any, entry: Any) -> None:
        self.shown.append(key)
        super().__setitem__(key, entry)


def spec_of(size_of: Callable[[Any, Any], int] = lambda *_: 100, **options: Any) -> Spec:
    """A function's spec over a watched table."""
    store = Store(name="watched", size_of=size_of)
    store.table = Watched()
    return Spec(name="watched", function=lambda key: key, store=store, **options)


@pytest.mark.parametrize("how", ["invalidate", "clear"])
def test_what_was_invalidated_is_never_shown(how: str) -> None:
    """A result or an error that was invalidated under way is not put in, not even for a moment."""
    spec = spec_of(failures=((ValueError, 60.0),))
    table: Any = spec.store.table
    began = spec.begin()
    if how == "clear":
        spec.clear()
    else:
        spec.invalidate("a")
    assert not spec.keep("a", 1, 0.0, began)
    assert not spec.keep_failure("a", ValueError(), 0.0, began)
    assert table.shown == []
    assert spec.keep("a", 2, 0.0, spec.begin())
    assert spec.keep_failure("b", ValueError(), 0.0, spec.begin())
    assert len(table.shown) == len(table) == 2


def test_what_is_invalidated_while_it_is_put_in_goes() -> None:
    """An invalidation that comes while a result is measured or put in leaves none."""

    def size_of(key: object, value: object) -> int:
        if value == "old":
            spec.invalidate(key)
        return 100

    spec = spec_of(size_of)
    assert not spec.keep("a", "old", 0.0, spec.begin())
    assert not spec.store.table
    assert spec.keep("a", "new", 0.0, spec.begin())


def many(course: Course) -> None:
    """More invalidations than are remembered."""
    for number in range(300):
        course.invalidate(number)


@pytest.mark.parametrize("forget", [Course.clear, many])
def test_a_mark_that_is_forgotten_just_now_still_counts(forget: Callable[[Course], object]) -> None:
    """A key that was invalidated stays so while another thread clears all, or invalidates so many that marks go."""
    course = Course()

    class Racing(dict[int, int]):
        def get(self, key: int, default: Any = None) -> Any:
            forget(course)
            return super().get(key, default)

    began = course.turn
    course.invalidate("a")
    course._invalidated = Racing(course._invalidated)
    assert course.outdated("a", began)


def test_a_result_that_is_good_for_no_time_ends_the_one_before() -> None:
    """A ttl of 0 for a new result drops what was kept for its key."""
    spec = spec_of(ttl_s=lambda value: 60.0 if value == "good" else 0.0)
    assert spec.keep("a", "good", 0.0, spec.begin())
    assert not spec.keep("a", "bad", 0.0, spec.begin())
    assert not spec.store.table


def test_nobody_sees_what_was_invalidated_while_it_was_put_in() -> None:
    """An invalidation that comes in the middle of a put returns when that has ended, and nothing is left of it."""
    seen: list[object] = []

    class Slow(Watched):
        def setdefault(self, key: Any, entry: Any = None) -> Any:
            if key == "a":
                thread = threading.Thread(target=invalidate, daemon=True)
                threads.append(thread)
                thread.start()
                thread.join(0.2)
            found = super().setdefault(key, entry)
            seen.extend("early" for thread in threads if not thread.is_alive())
            return found

    def invalidate() -> None:
        spec.invalidate("a")
        seen.append("a" in table)

    threads: list[threading.Thread] = []
    spec = spec_of()
    table: Any = Slow()
    spec.store.table = table
    spec.store.put("b", 0)  # or there is no cohort to put it in, and another way is gone
    spec.keep("a", 1, 0.0, spec.begin())
    threads[0].join(10)
    assert seen == [False]
    assert "a" not in table


@pytest.mark.parametrize("how", ["result", "error"])
def test_what_is_outdated_at_the_last_moment_is_not_put_in(how: str) -> None:
    """A result that is invalidated while it is measured is never shown."""

    def size_of(key: object, value: object) -> int:
        spec.course.invalidate("a")  # as by another thread, which has not come to pop it yet
        return 100

    spec = spec_of(size_of, failures=((ValueError, 60.0),))
    table: Any = spec.store.table
    if how == "result":
        assert not spec.keep("a", 1, 0.0, spec.begin())
    else:
        assert not spec.keep_failure("a", ValueError(), 0.0, spec.begin())
    assert table.shown == []
