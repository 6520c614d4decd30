"""Which allocator is found, and what is asked of it; without an allocator."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from memguard.reclaimers import trim as trim_module
from memguard.reclaimers.trim import Trim, find_allocator


@pytest.fixture(autouse=True)
def _no_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever other tests have imported, no pool of arrow's is there to be released."""
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)


class _Library:
    """The symbols of a process; every call is noted and answered from a table."""

    def __init__(self, *symbols: str, **answers: int) -> None:
        self.calls: list[tuple[Any, ...]] = []
        for symbol in (*symbols, *answers):
            setattr(self, symbol, _Function(self, symbol, answers.get(symbol, 0)))


class _Function:
    argtypes: Any = None
    restype: Any = None

    def __init__(self, library: _Library, name: str, answer: int) -> None:
        self._library, self._name, self._answer = library, name, answer

    def __call__(self, *arguments: Any) -> int:
        self._library.calls.append((self._name, *arguments))
        return self._answer


@pytest.mark.parametrize(
    ("symbols", "name"),
    [
        (("malloc_trim", "mi_collect", "mallctl", "MallocExtension_ReleaseFreeMemory"), "jemalloc"),
        (("malloc_trim", "mi_collect", "MallocExtension_ReleaseFreeMemory"), "mimalloc"),
        (("malloc_trim", "MallocExtension_ReleaseFreeMemory"), "tcmalloc"),
        (("malloc_trim",), "glibc"),
    ],
)
def test_probe_order(symbols: tuple[str, ...], name: str) -> None:
    """jemalloc, mimalloc, tcmalloc, glibc: the first whose symbols are there."""
    found = find_allocator(_Library(*symbols))
    assert found.name == name
    assert found.trim is not None


def test_says_when_nothing_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl, and systems without symbols: nothing to call, said in words, and a claim of 0."""
    for library, words in ((_Library(), "none found"), (None, "shows no symbols")):
        monkeypatch.setattr(trim_module, "_process", lambda library=library: library)
        trim = Trim()
        assert words in trim.allocator
        assert not trim.works
        assert trim.reclaim(1 << 20) == 0


def test_finds_the_allocator_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search happens at the first need, and then never again."""
    library = _Library(malloc_trim=1)
    searches: list[int] = []

    def search() -> _Library:
        searches.append(1)
        return library

    monkeypatch.setattr(trim_module, "_process", search)
    trim = Trim()
    assert not searches
    assert trim.reclaim(5) is None
    trim.reclaim(5)
    assert trim.allocator == "glibc"
    assert "glibc" in repr(trim)
    assert len(searches) == 1
    assert library.calls == [("malloc_trim", 0)] * 2


def test_claims_zero_when_the_allocator_had_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """malloc_trim says whether it released anything: 0 is a claim of 0."""
    monkeypatch.setattr(trim_module, "_process", lambda: _Library(malloc_trim=0))
    assert Trim().reclaim(1 << 20) == 0


def test_jemalloc_decays_where_it_cannot_purge(monkeypatch: pytest.MonkeyPatch) -> None:
    """First purge, decay when purge is refused, and a claim of 0 when both are."""
    library = _Library("mallctl")
    monkeypatch.setattr(trim_module, "_process", lambda: library)
    assert Trim().reclaim(1) is None
    assert [call[1] for call in library.calls] == [b"thread.tcache.flush", b"arena.4096.purge"]
    library = _Library(mallctl=2)
    assert Trim().reclaim(1) == 0
    assert library.calls[-1][1] == b"arena.4096.decay"


def test_releases_the_arrow_pool_when_pyarrow_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded pyarrow is asked, a half imported one is not, an absent one is never imported."""
    released: list[int] = []
    pool = types.SimpleNamespace(release_unused=lambda: released.append(1))
    monkeypatch.setattr(trim_module, "_process", lambda: None)
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    assert Trim().reclaim(1) == 0
    assert "pyarrow" not in sys.modules
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace())
    assert Trim().reclaim(1) == 0
    arrow = types.SimpleNamespace(default_memory_pool=lambda: pool)
    monkeypatch.setitem(sys.modules, "pyarrow", arrow)
    assert Trim().reclaim(1) is None
    assert released == [1]


def test_a_failing_arrow_pool_does_not_keep_the_allocator_from_being_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the caller's to see, after the allocator had its turn."""
    library = _Library(malloc_trim=1)
    monkeypatch.setattr(trim_module, "_process", lambda: library)
    arrow: Any = types.SimpleNamespace(default_memory_pool=None)

    def fail() -> None:
        raise OSError("pool is broken")

    arrow.default_memory_pool = fail
    monkeypatch.setitem(sys.modules, "pyarrow", arrow)
    with pytest.raises(OSError, match="broken"):
        Trim().reclaim(1)
    assert library.calls == [("malloc_trim", 0)]


def test_nothing_is_changed_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the two opt-ins call mallopt."""
    library = _Library("mallopt", malloc_trim=1)
    monkeypatch.setattr(trim_module, "_process", lambda: library)
    Trim().reclaim(1)
    assert ("mallopt", -8, 2) not in library.calls
    Trim(max_arenas=2)
    assert library.calls == [("malloc_trim", 0), ("mallopt", -8, 2)]


def test_refuses_less_than_one_arena() -> None:
    """To glibc 0 means its own number: ask for 1 or more, or leave it."""
    with pytest.raises(ValueError, match="at least 1"):
        Trim(max_arenas=0)
