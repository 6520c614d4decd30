"""The collector as a reclaimer, and the watch over it."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

from memguard.reclaimers.collect import Collect, GcWatch

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Node:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def quiet_gc() -> Iterator[None]:
    """No automatic collection in between; everything as before afterwards."""
    gc.disable()
    before = list(gc.callbacks)
    gc.collect()
    yield
    assert gc.callbacks == before, "a hook was left behind"
    gc.enable()


@pytest.fixture
def watch() -> Iterator[GcWatch]:
    """A watch that is hooked in."""
    watch = GcWatch()
    watch.start()
    yield watch
    watch.stop()


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_collection_frees_cycles_and_claims_them() -> None:
    """A reclaim collects everything, whatever is wanted, and claims more for more garbage."""
    node = _Node()
    gone = weakref.ref(node)
    del node
    assert (Collect().reclaim(1) or 0) > 0
    assert gone() is None
    few = Collect().reclaim(1)
    for _ in range(1000):
        _Node()
    assert (Collect().reclaim(1) or 0) >= 1000 * 56
    assert few == 0


def test_a_young_collection_leaves_the_old_alone() -> None:
    """run(0) collects generation 0 only."""
    node = _Node()
    gc.collect()
    gone = weakref.ref(node)
    del node
    Collect().run(0)
    assert gone() is not None
    Collect().run(2)
    assert gone() is None


@pytest.mark.parametrize("generation", [-1, 3, 1.5])
def test_refuses_generations_that_do_not_exist(generation: int) -> None:
    """Only 0, 1 and 2 can be collected."""
    with pytest.raises(ValueError, match="choose 0, 1 or 2"):
        Collect().run(generation)


def test_a_collection_inside_a_collection_is_harmless() -> None:
    """Asked for by a finalizer during a collection, it finds nothing and returns."""
    claims: list[int | None] = []

    class Late(_Node):
        def __del__(self) -> None:
            claims.append(Collect().reclaim(1))

    Late()
    Collect().reclaim(1)
    assert claims == [0]


def test_counts_what_happens(watch: GcWatch) -> None:
    """Collections, full ones, objects and pauses are counted."""
    _Node()
    gc.collect(0)
    gc.collect(2)
    stats = watch.stats()
    assert stats.collections == 2
    assert stats.full_collections == 1
    assert stats.collected_objects >= 1
    assert 0 < stats.pause_max_s <= stats.pause_total_s
    assert 0 < stats.duty_ratio <= 1
    assert stats.last_full_at is not None
    assert stats.last_freed_bytes is None


def test_counts_automatic_collections(watch: GcWatch) -> None:
    """What Python starts by itself is seen too."""
    gc.enable()
    kept = [[number] for number in range(5000)]
    gc.disable()
    assert watch.stats().collections >= 1
    del kept


def test_works_with_frozen_objects(watch: GcWatch) -> None:
    """Freezing the heap does not blind the watch."""
    gc.freeze()
    try:
        gc.collect()
    finally:
        gc.unfreeze()
    assert watch.stats().full_collections == 1


def test_start_and_stop_may_be_repeated() -> None:
    """Two starts hook in once, two stops unhook; counts stay, and nothing is counted while stopped."""
    watch = GcWatch()
    watch.start()
    watch.start()
    assert watch.running
    gc.collect()
    watch.stop()
    watch.stop()
    assert not watch.running
    gc.collect()
    assert watch.stats().collections == 1


def test_two_watches_do_not_disturb_each_other(watch: GcWatch) -> None:
    """Stopping one leaves the other hooked in."""
    other = GcWatch()
    other.start()
    other.stop()
    gc.collect()
    assert watch.stats().collections == 1
    assert other.stats().collections == 0


def test_hooked_in_during_a_collection() -> None:
    """A watch started inside a collection sees an end without a beginning: counted, without a pause."""
    watch = GcWatch()

    class Late(_Node):
        def __del__(self) -> None:
            watch.start()

    Late()
    gc.collect()
    stats = watch.stats()
    watch.stop()
    assert (stats.collections, stats.pause_total_s) == (1, 0.0)


def test_pauses_and_duty_are_measured() -> None:
    """A pause lasts from the start hook to the stop hook; the duty ratio is pauses over the last 10 to 20 s."""
    clock, timer = _Clock(), _Clock()
    watch = GcWatch(clock=clock, timer=timer)
    watch.start()
    try:

        def long(phase: str, found: object) -> None:
            timer.now += 0.5

        gc.callbacks.insert(0, lambda *_: None)
        gc.callbacks.append(long)  # runs after the watch's start hook
        clock.now += 2.0
        gc.collect()
        assert watch.stats().pause_total_s == pytest.approx(0.5)
        assert watch.stats().duty_ratio == pytest.approx(0.25)
        assert watch.stats().last_full_at == 102.0
        for _ in range(4):
            clock.now += 10.0
            last = watch.stats()
        assert last.duty_ratio == 0.0
        assert last.pause_total_s == pytest.approx(0.5)
    finally:
        watch.stop()
        gc.callbacks.remove(long)
        gc.callbacks.pop(0)


def test_keeps_nothing_per_collection(watch: GcWatch) -> None:
    """The hook keeps no object for each collection."""
    gc.collect(0)
    before = len(gc.get_objects())
    for _ in range(200):
        gc.collect(0)
    assert len(gc.get_objects()) - before < 20


def test_remembers_what_a_collection_bought(watch: GcWatch) -> None:
    """The measured result that it is told appears in the stats."""
    watch.note_freed(12345)
    assert watch.stats().last_freed_bytes == 12345


def test_collections_from_many_threads(watch: GcWatch) -> None:
    """Threads that collect at the same time are counted without loss of sense: pauses never exceed the time."""
    threads = [threading.Thread(target=lambda: [gc.collect(0) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = watch.stats()
    assert 200 <= stats.collections <= 800
    assert 0.0 <= stats.duty_ratio <= 1.0
