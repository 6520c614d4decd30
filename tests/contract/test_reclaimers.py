"""The promises of the Reclaimer port, over every implementation in reclaimers/."""

from __future__ import annotations

import functools
import time
from collections import OrderedDict, UserDict, deque
from typing import TYPE_CHECKING, Any, get_args

import cachetools
import pytest

from memguard.kinds import Cost
from memguard.model import Level
from memguard.ports import Reclaimer
from memguard.reclaimers.caches import adapter_for
from memguard.reclaimers.callback import Callback
from memguard.reclaimers.collect import Collect
from memguard.reclaimers.trim import Trim

if TYPE_CHECKING:
    from collections.abc import Iterator

_MUCH = 1 << 40


class Promises:
    """What the guard relies on; a subclass makes a full and an empty one and may count what is held."""

    holds = True

    @pytest.fixture
    def full(self) -> Iterator[Reclaimer]:
        """A reclaimer with something to give back."""
        raise NotImplementedError

    @pytest.fixture
    def empty(self) -> Iterator[Reclaimer]:
        """A reclaimer with nothing to give back."""
        raise NotImplementedError

    def test_has_the_shape(self, full: Reclaimer) -> None:
        """It matches the port, its name is not blank, its labels are of the stated types."""
        assert isinstance(full, Reclaimer)
        assert isinstance(full.name, str)
        assert full.name.strip()
        assert full.cost in get_args(Cost)
        assert isinstance(full.at, Level)
        assert isinstance(full.settles, bool)
        assert isinstance(full.stalls, bool)

    def test_size_is_an_amount_or_unknown(self, full: Reclaimer) -> None:
        """size() is None or at least 0, and more than 0 when it is known and there is something."""
        size = full.size()
        assert size is None or (type(size) is int and size > 0)

    def test_size_of_nothing(self, empty: Reclaimer) -> None:
        """size() of an empty holder is 0 or unknown."""
        assert empty.size() in {0, None}

    def test_size_is_cheap(self, full: Reclaimer) -> None:
        """The best of many calls of size() costs at most 50 us, a tenth of what a tick would notice."""
        full.size()
        best_s = float("inf")
        for _ in range(50):
            began = time.perf_counter()
            full.size()
            best_s = min(best_s, time.perf_counter() - began)
        assert best_s < 50e-6

    def test_asked_for_nothing(self, full: Reclaimer) -> None:
        """reclaim(0) does no harm: what was held is held, and it claims no bytes it did not release."""
        before = full.size()
        claim = full.reclaim(0)
        assert claim is None or claim >= 0
        assert not self.holds or (full.size() == before and not claim)

    def test_asked_for_more_than_there_is(self, full: Reclaimer) -> None:
        """reclaim() of more than there is gives what there is and does not raise."""
        before = full.size()
        claim = full.reclaim(_MUCH)
        assert claim is None or type(claim) is int
        assert claim is None or claim >= 0
        assert not (self.holds and before) or claim
        assert full.size() in {0, None}

    def test_empty_claims_nothing(self, empty: Reclaimer) -> None:
        """An empty holder claims 0 or nothing."""
        assert empty.reclaim(1 << 20) in {0, None}

    def test_settles(self, full: Reclaimer) -> None:
        """Asked again and again, it comes to an end: the last claims are 0 or none."""
        for _ in range(5):
            full.reclaim(_MUCH)
        assert not full.reclaim(_MUCH)
        assert full.size() in {0, None}


def _cache(obj: object, **options: Any) -> Reclaimer:
    return adapter_for(obj, name="answers", **options)[0]


def _filled(mapping: Any, count: int = 500) -> Any:
    for number in range(count):
        mapping[number] = f"answer {number} " * 10
    return mapping


class TestTrim(Promises):
    holds = False

    @pytest.fixture
    def full(self) -> Reclaimer:
        return Trim()

    empty = full

    def test_settles(self, full: Reclaimer) -> None:
        """A second trim in a row has nothing to release, and says so or says nothing."""
        full.reclaim(_MUCH)
        assert not full.reclaim(_MUCH)


class TestCollect(Promises):
    holds = False

    @pytest.fixture
    def full(self) -> Reclaimer:
        return Collect()

    @pytest.fixture
    def empty(self) -> Reclaimer:
        collect = Collect()
        collect.run()
        return collect


class TestCallback(Promises):
    @pytest.fixture
    def full(self) -> Reclaimer:
        held = [bytes(1000)] * 10

        def reclaim(wanted_bytes: int) -> int:
            count = min(len(held), -(-wanted_bytes // 1000))
            del held[:count]
            return count * 1000

        return Callback("blocks", reclaim, size=lambda: len(held) * 1000)

    @pytest.fixture
    def empty(self) -> Reclaimer:
        return Callback("blocks", lambda _wanted_bytes: 0, size=lambda: 0)


class TestCallbackThatIsSilent(Promises):
    holds = False

    @pytest.fixture
    def full(self) -> Reclaimer:
        return Callback("silent", lambda _wanted_bytes: None)

    empty = full


class _MappingPromises(Promises):
    def make(self) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def full(self) -> Iterator[Reclaimer]:
        holder = _filled(self.make())
        yield _cache(holder)
        del holder

    @pytest.fixture
    def empty(self) -> Iterator[Reclaimer]:
        holder = self.make()
        yield _cache(holder)
        del holder


class TestDict(_MappingPromises):
    def make(self) -> Any:
        return {}


class TestOrderedDict(_MappingPromises):
    def make(self) -> Any:
        return OrderedDict()


class TestUserDict(_MappingPromises):
    def make(self) -> Any:
        return UserDict()


class TestCachetoolsLRU(_MappingPromises):
    def make(self) -> Any:
        return cachetools.LRUCache(1000)


class TestCachetoolsTTL(_MappingPromises):
    def make(self) -> Any:
        return cachetools.TTLCache(1000, ttl=3600)


class TestCachetoolsInBytes(_MappingPromises):
    @pytest.fixture
    def full(self) -> Iterator[Reclaimer]:
        holder = _filled(cachetools.LFUCache(1 << 30, getsizeof=len))
        yield _cache(holder, currsize_is_bytes=True)
        del holder

    def make(self) -> Any:
        return cachetools.LFUCache(1 << 30, getsizeof=len)


class _OwnOrder:
    """Has popitem and len, and nothing else that can be looked at."""

    def __init__(self) -> None:
        self._items: list[tuple[int, str]] = []

    def __setitem__(self, key: int, value: str) -> None:
        self._items.append((key, value))

    def __len__(self) -> int:
        return len(self._items)

    def popitem(self) -> tuple[int, str]:
        return self._items.pop()


class TestOwnPopitem(_MappingPromises):
    def make(self) -> Any:
        return _OwnOrder()


class TestCachedFunction(Promises):
    @staticmethod
    def _function() -> Any:
        @cachetools.cached(cachetools.LRUCache(1000))
        def answer(number: int) -> str:
            return f"answer {number} " * 10

        return answer

    @pytest.fixture
    def full(self) -> Iterator[Reclaimer]:
        answer = self._function()
        for number in range(500):
            answer(number)
        yield _cache(answer)
        del answer

    @pytest.fixture
    def empty(self) -> Iterator[Reclaimer]:
        answer = self._function()
        yield _cache(answer)
        del answer


class TestLruCache(Promises):
    maxsize: int | None = 1000

    def _function(self) -> Any:
        @functools.lru_cache(self.maxsize)
        def answer(number: int) -> str:
            return f"answer {number} " * 10

        return answer

    @pytest.fixture
    def full(self) -> Iterator[Reclaimer]:
        answer = self._function()
        for number in range(500):
            answer(number)
        yield _cache(answer)
        del answer

    @pytest.fixture
    def empty(self) -> Iterator[Reclaimer]:
        answer = self._function()
        yield _cache(answer)
        del answer


class TestUnboundedCacheFunction(TestLruCache):
    maxsize = None


class TestDeque(Promises):
    @pytest.fixture
    def full(self) -> Iterator[Reclaimer]:
        holder = deque(f"answer {number} " * 10 for number in range(500))
        yield _cache(holder)
        del holder

    @pytest.fixture
    def empty(self) -> Iterator[Reclaimer]:
        holder: deque[str] = deque()
        yield _cache(holder)
        del holder
