"""Tracing is bounded, refused where it would do harm, and names the lines whose births stay."""

from __future__ import annotations

import os
import tracemalloc
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest

from memguard.leaks import trace
from memguard.leaks.trace import Tracer
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = os.path.basename(__file__)  # noqa: PTH119 - as sites are written


class Thing:
    """Born and kept, or not."""

    def __init__(self, number: int) -> None:
        self.text = f"thing {number}"


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    """Each test begins and ends without tracing."""
    assert not tracemalloc.is_tracing()
    yield
    was_on = tracemalloc.is_tracing()
    tracemalloc.stop()
    assert not was_on, "the test left tracing on"


def _traced(work: Callable[[int], object], *, parts: int = 5, each: int = 200, **options: Any) -> Any:
    tracer = Tracer(**options)
    assert tracer.begin(), tracer.refused
    for part in range(parts):
        for number in range(each):
            work(part * each + number)
        tracer.mark(each)
    return tracer.end()


def test_a_leak_is_named_by_its_line() -> None:
    """What only ever grows comes first, with its line, and is beyond doubt."""
    kept: list[Thing] = []
    found = _traced(lambda number: kept.append(Thing(number)))
    assert HERE in found.sites[0].where
    assert found.sites[0].p < 0.001
    assert found.sites[0].ages_bytes[0] > found.sites[0].bytes * 0.6
    assert not tracemalloc.is_tracing()


def test_a_cache_that_is_full_is_no_leak() -> None:
    """What is replaced does not outlive the window's parts."""
    cache: OrderedDict[int, Thing] = OrderedDict()

    def work(number: int) -> None:
        cache[number] = Thing(number)
        if len(cache) > 50:
            cache.popitem(last=False)

    assert [site for site in _traced(work).sites if site.p < 0.05] == []


def test_garbage_is_no_leak() -> None:
    """What dies with its request is no site at all, or one without survivors."""
    assert [site for site in _traced(Thing).sites if site.p < 0.05] == []


def test_a_slow_leak_beside_a_busy_cache() -> None:
    """One object in ten requests is found beside a thousand that come and go."""
    kept: list[Thing] = []
    passing: dict[int, str] = {}

    def work(number: int) -> None:
        passing[number % 100] = f"{number}" * 20
        if number % 10 == 0:
            kept.append(Thing(number))

    found = [site for site in _traced(work, each=1000).sites if site.p < 0.05]
    assert found
    assert all(HERE in site.where for site in found)


@pytest.mark.parametrize("frames", [0, 6, -1])
def test_too_many_frames(frames: int) -> None:
    """A number of frames that would stop a service is refused by its value."""
    with pytest.raises(ValueError, match=f"frames={frames} must be 1 to 5"):
        Tracer(frames=frames)


def test_refused_without_room() -> None:
    """Near the limit it does not start, and says how much it would need."""
    tracer = Tracer(room_bytes=5 * MIB)
    assert not tracer.begin()
    assert "only 5.0 MiB are left until the limit, tracing needs 8.0 MiB" in tracer.refused
    assert not tracemalloc.is_tracing()
    assert tracer.end().refused == tracer.refused


def test_little_room_allows_little() -> None:
    """With little room the tracer may hold an eighth of it; then it ends, and the parts that it saw count."""
    tracer = Tracer(room_bytes=10 * MIB)
    assert tracer.tight
    assert tracer.begin()
    kept: list[Thing] = []
    while not tracer.full:
        kept += [Thing(number) for number in range(500)]
    assert not tracer.mark(len(kept))
    found = tracer.end()
    assert "all that it may with so little room" in found.note
    assert MIB < found.peak_bytes < 2 * MIB
    assert HERE in found.sites[0].where


def test_merged_parts() -> None:
    """Parts that are merged count as one: a first moment cut in four does not weigh as four."""
    tracer, kept = Tracer(), list[Thing]()
    assert tracer.begin()
    for part in range(8):
        kept += [Thing(number) for number in range(100)]
        tracer.mark(100)
        if part == 4:
            tracer.merge()
    assert tracer.work == 800
    site = next(site for site in tracer.end().sites if HERE in site.where)
    assert len(site.ages_bytes) == 3


def test_somebody_elses_tracing_is_shared() -> None:
    """The program's own tracing is used, and left as it was."""
    tracemalloc.start(7)
    kept = [Thing(number) for number in range(100)]
    found = _traced(lambda number: kept.append(Thing(number)), frames=2)
    assert found.shared
    assert found.frames == 7
    assert tracemalloc.is_tracing()
    assert tracemalloc.get_traceback_limit() == 7
    tracemalloc.stop()
    site = next(site for site in found.sites if HERE in site.where)
    assert site.p < 0.001


def test_what_was_there_before_is_not_counted() -> None:
    """Of shared tracing only what was born in the window counts."""
    tracemalloc.start()
    kept = [Thing(number) for number in range(5_000)]
    found = _traced(lambda number: None)
    tracemalloc.stop()
    assert len(kept) == 5_000
    assert sum(site.bytes for site in found.sites if HERE in site.where) < 10_000


def test_a_large_shared_tracing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When one look at the program's own traces would stop every thread for long, it says so instead."""
    monkeypatch.setattr(trace, "_SHARED_BYTES", 1000)
    tracemalloc.start()
    kept = [Thing(number) for number in range(500)]
    tracer = Tracer()
    began = tracer.begin()
    tracemalloc.stop()
    assert kept
    assert not began
    assert "tracemalloc holds" in tracer.refused


def test_stopped_by_somebody_else() -> None:
    """When the program stops tracing in the middle, the window ends and says so."""
    tracer = Tracer()
    tracer.begin()
    tracer.mark()
    tracemalloc.stop()
    assert not tracer.mark()
    assert "somebody stopped" in tracer.end().note


def test_the_tracers_own_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the tracer itself holds too much, the window ends early."""
    monkeypatch.setattr(trace, "_TRACER_BYTES", 1000)
    tracer = Tracer()
    tracer.begin()
    kept = [Thing(number) for number in range(500)]
    assert not tracer.mark()
    found = tracer.end()
    assert kept
    assert "ended early" in found.note


def test_two_windows_at_once() -> None:
    """The first to end does not take the other's tracing away."""
    first, second = Tracer(), Tracer()
    assert first.begin()
    assert second.begin()
    first.end()
    assert tracemalloc.is_tracing()
    second.end()
    assert not tracemalloc.is_tracing()


def test_an_error_inside_stops_it() -> None:
    """The block ends tracing however it is left."""
    with pytest.raises(KeyError), Tracer():
        raise KeyError
    assert not tracemalloc.is_tracing()


def test_where_an_object_was_born() -> None:
    """An object of the window is told by its line; an older one is not."""
    old = Thing(0)
    with Tracer() as tracer:
        new = Thing(1)
        assert HERE in tracer.site_of(new)
        assert tracer.site_of(old) == ""
    assert tracer.site_of(new) == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_go_on_tracing() -> None:
    """A child that is forked inside the window is not slowed down for ever; the parent traces on."""
    with Tracer():
        child = os.fork()
        if not child:
            os._exit(int(tracemalloc.is_tracing()))
        _, status = os.waitpid(child, 0)
        assert tracemalloc.is_tracing()
    assert os.waitstatus_to_exitcode(status) == 0
