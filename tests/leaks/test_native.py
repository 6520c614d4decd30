"""The native share is arithmetic over two looks, said in words."""

from __future__ import annotations

import os

import pytest

from memguard.leaks.native import Books, keep_books, share
from memguard.units import MIB


def _books(
    *, rss: int = 100 * MIB, blocks: int = 100_000, used: int = 50 * MIB, free: int = 0, threads: int = 1, heap: int = 0
) -> Books:
    return Books(
        rss_bytes=rss,
        blocks=blocks,
        malloc_bytes=used,
        malloc_free_bytes=free,
        threads=threads,
        kinds={"C heap": heap, "files": 5 * MIB},
    )


def test_native_growth_is_called_native() -> None:
    """RSS that grows while Python does not is native, and where it lies is said."""
    found = share(_books(), _books(rss=280 * MIB, heap=180 * MIB), traced_bytes=4 * MIB)
    assert found.is_native
    assert found.native_bytes == 176 * MIB
    assert found.words.startswith("RSS +180.0 MiB, Python +4.0 MiB: 176.0 MiB are native")
    assert "the C heap (malloc)" in found.words
    assert "extension module" in found.words


def test_python_growth_is_not() -> None:
    """What Python accounts for is no native leak."""
    found = share(_books(), _books(rss=280 * MIB), traced_bytes=170 * MIB)
    assert not found.is_native


def test_fragmentation_is_told_apart() -> None:
    """Memory that malloc keeps free is fragmentation."""
    found = share(_books(), _books(rss=180 * MIB, free=75 * MIB), traced_bytes=2 * MIB)
    assert not found.is_native
    assert "fragmentation and no leak" in found.words


def test_without_tracing_it_is_an_estimate() -> None:
    """Not traced, Python's blocks and what containers hold are counted, and the words say so."""
    found = share(_books(), _books(rss=180 * MIB), traced_bytes=None, held_bytes=70 * MIB)
    assert not found.is_native
    assert "estimated" in found.words


@pytest.mark.parametrize("grown", [0, MIB, -50 * MIB])
def test_noise(grown: int) -> None:
    """Small growth, or none, is no leak."""
    assert not share(_books(), _books(rss=100 * MIB + grown), traced_bytes=0).is_native


def test_threads_are_mentioned() -> None:
    """More threads than before are said beside."""
    found = share(_books(), _books(rss=280 * MIB, heap=180 * MIB, threads=9), traced_bytes=0)
    assert "8 threads more run" in found.words


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="no procfs here")  # noqa: PTH110
def test_the_real_books() -> None:
    """This process's books add up."""
    books = keep_books()
    assert books.rss_bytes == sum(books.kinds.values())
    assert books.rss_bytes > MIB
    assert books.threads >= 1
    assert books.blocks > 10_000
