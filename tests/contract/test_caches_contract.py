"""What every cache promises that says it is a cachetools.Cache: theirs as the reference, and ours."""

from __future__ import annotations

import copy
import pickle
from collections.abc import MutableMapping
from typing import Any

import cachetools
import pytest

from memguard.caching.mapping import Cache
from memguard.roster import Roster


class CachePromises:
    """The promises of ``cachetools.Cache``; a subclass says in ``kind`` which class, and how to make one."""

    kind: type[Any]

    def make(self, maxsize: float, getsizeof: Any = None) -> Any:
        return self.kind(maxsize, getsizeof=getsizeof)

    def test_it_starts_empty(self) -> None:
        """A new cache has its maxsize, no entries and no size; a value counts 1."""
        cache = self.make(3)
        assert isinstance(cache, MutableMapping)
        assert isinstance(cache, cachetools.Cache)
        assert (len(cache), cache.maxsize, cache.currsize, cache.getsizeof("anything")) == (0, 3, 0, 1)

    def test_what_is_put_in_is_there(self) -> None:
        """Each of the ways in keeps the value and counts it."""
        cache = self.make(4)
        cache["a"] = 1
        cache.update({"b": 2}, c=3)
        assert cache.setdefault("d", 4) == 4
        assert cache.setdefault("d", 5) == 4
        assert [cache[key] for key in "abcd"] == [1, 2, 3, 4]
        assert sorted(cache) == ["a", "b", "c", "d"]
        assert sorted(cache.items()) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
        assert sorted(cache.values()) == [1, 2, 3, 4]
        assert (len(cache), cache.currsize) == (4, 4)

    def test_maxsize_is_never_passed(self) -> None:
        """However many are put in, at most maxsize stay, the newest among them, and each has its own value."""
        cache = self.make(2)
        for number in range(20):
            cache[number] = str(number)
            assert len(cache) == cache.currsize <= 2
            assert number in cache
        assert all(cache[key] == str(key) for key in list(cache))

    def test_a_new_value_replaces_the_old(self) -> None:
        """Setting a key again keeps one entry, the new one, and pushes nobody out."""
        cache = self.make(2)
        cache["a"], cache["b"] = 1, 2
        cache["a"] = 10
        assert dict(cache) == {"a": 10, "b": 2}
        assert cache.currsize == 2

    def test_deleting(self) -> None:
        """A deleted key is gone and no longer counted; deleting it again is a KeyError."""
        cache = self.make(3)
        cache.update(a=1, b=2)
        del cache["a"]
        assert "a" not in cache
        assert (len(cache), cache.currsize) == (1, 1)
        with pytest.raises(KeyError):
            del cache["a"]

    def test_pop(self) -> None:
        """Pop gives the value once, then the default, or a KeyError that names the key."""
        cache = self.make(3)
        cache["a"] = 1
        assert cache.pop("a") == 1
        assert cache.pop("a", None) is None
        assert cache.pop("a", default=7) == 7
        with pytest.raises(KeyError, match="'a'"):
            cache.pop("a")
        assert cache.currsize == 0

    def test_popitem_empties_it(self) -> None:
        """Popitem gives every entry once, then a KeyError without a cause of its own inside."""
        cache = self.make(3)
        cache.update(a=1, b=2, c=3)
        assert sorted(cache.popitem() for _ in range(3)) == [("a", 1), ("b", 2), ("c", 3)]
        assert (len(cache), cache.currsize) == (0, 0)
        with pytest.raises(KeyError) as caught:
            cache.popitem()
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__

    def test_get(self) -> None:
        """Get gives the value or the default, and keeps nothing."""
        cache = self.make(2)
        cache["a"] = 1
        assert cache.get("a") == 1
        assert cache.get("b") is None
        assert cache.get("b", 2) == 2
        assert "b" not in cache
        assert "a" in cache

    def test_clear(self) -> None:
        """After clear nothing is left and nothing counted, and it can be filled again."""
        cache = self.make(2)
        cache.update(a=1, b=2)
        cache.clear()
        assert (len(cache), cache.currsize, "a" in cache) == (0, 0, False)
        cache["a"] = 3
        assert dict(cache) == {"a": 3}

    def test_missing_is_asked_by_brackets_alone(self) -> None:
        """``[]`` of a key that is not there asks __missing__, which may keep what it makes; get, pop and in do not."""
        kind: Any = self.kind

        class Squares(kind):  # type: ignore[misc]
            def __missing__(self, key: int) -> int:
                self[key] = key * key
                return key * key

        cache = Squares(2)
        assert cache.get(3) is None
        assert cache.pop(3, "none") == "none"
        assert 3 not in cache
        assert (cache[3], cache[3], cache.currsize) == (9, 9, 1)
        assert [cache[number] for number in range(5)] == [0, 1, 4, 9, 16]
        assert len(cache) == 2

    def test_sizes_are_asked_for(self) -> None:
        """With getsizeof, currsize is the sum of what it gave, and maxsize bounds that sum."""
        cache = self.make(10, getsizeof=len)
        cache["a"], cache["b"] = "four", "four"
        assert (cache.currsize, cache.getsizeof("abc")) == (8, 3)
        cache["c"] = "three"
        assert cache.currsize == sum(map(len, cache.values())) <= 10
        assert cache["c"] == "three"

    def test_replacing_counts_the_difference(self) -> None:
        """A larger value in place of an old one pushes out only what it must."""
        cache = self.make(10, getsizeof=len)
        cache["a"], cache["b"] = "12345", "12345"
        cache["a"] = "54321"
        assert dict(cache) == {"a": "54321", "b": "12345"}
        cache["a"] = "123456"
        assert dict(cache) == {"a": "123456"}
        assert cache.currsize == 6

    def test_too_large_is_refused(self) -> None:
        """A value larger than maxsize is a ValueError, and what was there stays."""
        cache = self.make(3, getsizeof=len)
        cache["a"] = "abc"
        with pytest.raises(ValueError, match="value too large"):
            cache["a"] = "abcd"
        with pytest.raises(ValueError, match="value too large"):
            cache.setdefault("b", "abcd")
        assert dict(cache) == {"a": "abc"}
        assert cache.currsize == 3

    def test_a_cache_of_nothing_keeps_nothing(self) -> None:
        """With maxsize 0 every value is too large, but one of size 0 is not."""
        with pytest.raises(ValueError, match="value too large"):
            self.make(0)["a"] = 1
        cache = self.make(0, getsizeof=lambda _: 0)
        cache["a"] = 1
        assert (dict(cache), cache.currsize) == ({"a": 1}, 0)

    def test_sizes_must_make_sense(self) -> None:
        """A negative maxsize and a negative size are ValueErrors."""
        with pytest.raises(ValueError, match="non-negative"):
            self.make(-1)
        cache = self.make(3, getsizeof=lambda _: -1)
        with pytest.raises(ValueError, match="non-negative"):
            cache["a"] = 1
        assert (len(cache), cache.currsize) == (0, 0)

    def test_getsizeof_may_be_a_method(self) -> None:
        """A subclass may say by overriding what a value counts."""
        kind: Any = self.kind

        class Words(kind):  # type: ignore[misc]
            @staticmethod
            def getsizeof(value: str) -> int:
                return len(value.split())

        cache = Words(4)
        cache["a"], cache["b"] = "one two", "one two three"
        assert (cache.currsize, cache.maxsize) == (3, 4)

    def test_popitem_may_watch(self) -> None:
        """A subclass's popitem is told of each eviction."""
        kind: Any = self.kind

        class Watched(kind):  # type: ignore[misc]
            def popitem(self) -> Any:
                item = super().popitem()
                gone.append(item)
                return item

        gone: list[Any] = []
        cache = Watched(2)
        for number in range(5):
            cache[number] = -number
        assert len(gone) == 3
        assert sorted([*gone, *cache.items()]) == [(number, -number) for number in range(5)]

    def test_it_compares_as_a_mapping(self) -> None:
        """Two caches with the same entries are equal, and like every mapping it cannot be hashed."""
        one, other = self.make(2), self.make(3)
        one["a"] = other["a"] = 1
        assert one == other == {"a": 1}
        other["b"] = 2
        assert one != other
        with pytest.raises(TypeError):
            hash(one)

    def test_it_can_be_pickled_and_copied(self) -> None:
        """A copy holds the same entries and counts for itself."""
        cache = self.make(3, getsizeof=len)
        cache["a"] = "ab"
        for again in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):  # noqa: S301 - pickled here
            assert again == cache
            assert (again.maxsize, again.currsize) == (3, 2)
            again["b"] = "abc"
            assert dict(again) == {"b": "abc"}
        assert dict(cache) == {"a": "ab"}

    def test_unhashable_keys_are_type_errors(self) -> None:
        """A key that cannot be hashed is a TypeError on every way in and out, and changes nothing."""
        cache = self.make(2)
        for ask in (cache.__setitem__, cache.setdefault):
            with pytest.raises(TypeError):
                ask([], 1)
        for look in (cache.__getitem__, cache.get, cache.__contains__, cache.pop, cache.__delitem__):
            with pytest.raises(TypeError):
                look([])
        assert (len(cache), cache.currsize) == (0, 0)


class TestTheirs(CachePromises):
    kind = cachetools.Cache


class TestTheirLru(CachePromises):
    kind = cachetools.LRUCache


class TestOurs(CachePromises):
    kind = Cache


class TestOursOnARosterOfItsOwn(CachePromises):
    kind = Cache

    def make(self, maxsize: float, getsizeof: Any = None) -> Any:
        return Cache(maxsize, getsizeof, roster=Roster(), name="mine", max_bytes="1MiB")


class TestOursWithATtl(CachePromises):
    kind = Cache

    def make(self, maxsize: float, getsizeof: Any = None) -> Any:
        return Cache(maxsize, getsizeof, ttl=3600)
