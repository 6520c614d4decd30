"""The heap's store: every byte in one account."""

from __future__ import annotations

from memguard._core.heap import Store


def test_growth_covers_those_who_wait_oldest_first() -> None:
    """Who took its bytes is known by order of coming; the rest of the growth is nobody's."""
    store = Store()
    store.expect("a", 10.0)
    store.expect("b", 5.0)
    assert store.look(12.0, 0.1) == (["a"], 0.0)
    assert store.look(10.0, 0.1) == (["b"], 7.0)
    assert store.bytes == 0.0


def test_what_is_left_is_reused() -> None:
    """A request that ends without a fall of memory leaves its bytes to the next one, which then shows in no reading."""
    store = Store()
    store.expect("a", 10.0)
    store.look(10.0, 0.1)
    store.gone("a", 10.0)
    assert store.look(0.0, 0.1)[0] == []
    assert 9.9 < store.bytes <= 10.0
    store.expect("b", 8.0)
    assert store.look(0.0, 0.1)[0] == ["b"]
    assert 1.9 < store.bytes <= 2.0


def test_what_went_back_is_not_in_store() -> None:
    """A fall of memory empties the store by as much: a close, or a trim."""
    store = Store()
    store.expect("a", 10.0)
    store.look(10.0, 0.1)
    store.gone("a", 10.0)
    store.look(-10.0, 0.1)
    assert store.bytes == 0.0


def test_a_store_that_memory_grows_beside_is_of_no_use() -> None:
    """Fragments: when new requests make memory grow all the same, the store is written off."""
    store = Store()
    store.expect("a", 10.0)
    store.look(10.0, 0.1)
    store.gone("a", 10.0)
    store.look(0.0, 0.1)
    store.expect("b", 10.0)
    store.look(10.0, 0.1)
    assert store.bytes == 0.0


def test_who_never_took_it_leaves_nothing() -> None:
    """A request that ends before it took what was expected adds nothing to the store."""
    store = Store()
    store.expect("a", 10.0)
    store.gone("a", 10.0)
    assert store.bytes == 0.0
    assert store.pending == {}


def test_a_store_that_nobody_uses_fades() -> None:
    """After ten minutes half of it is counted."""
    store = Store()
    store.expect("a", 10.0)
    store.look(10.0, 0.1)
    store.gone("a", 10.0)
    store.look(0.0, 600.0)
    assert 4.9 < store.bytes < 5.1
