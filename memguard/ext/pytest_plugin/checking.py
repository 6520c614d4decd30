"""The verdict on what a test leaves behind: first looks that cost little, then repeats, then tracing."""

from __future__ import annotations

import gc
from array import array
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import pytest

from memguard.ext.pytest_plugin.judging import each_time, slope
from memguard.ext.pytest_plugin.looks import PureCaches, look, settle, young
from memguard.ext.pytest_plugin.purse import Purse
from memguard.ext.pytest_plugin.repeating import NotRepeatable
from memguard.units import KIB, MIB, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memguard.ext.pytest_plugin.asking import LeakFree
    from memguard.ext.pytest_plugin.finding import Finding
    from memguard.ext.pytest_plugin.looks import Look
    from memguard.ext.pytest_plugin.repeating import Runs

__all__ = ["Known", "left_behind"]

# With --memguard a test that leaves less than this is not looked at again; the reports of a run are some 50 blocks.
_MUCH_BLOCKS: Final = 192
_REPORTS_BLOCKS: Final = 64
# More than that times the usual is unusual.
_KNOWN_MORE: Final = 1.5
# A repeat of a test that takes longer is dear: what is worth one grows with the root of its time.
_QUICK_S: Final = 0.01
# Where time for repeats is short, only so much more is worth one, and as much more as the test takes.
_LARGE_TIMES: Final = 16.0
# What pytest keeps of each report of a subtest: blocks, bytes of malloc, resident bytes.
_SENT: Final = (20, 32, 1536)
_MUCH_MALLOC_BYTES: Final = 32 * KIB
_MUCH_RSS_BYTES: Final = MIB
_MUCH: Final = (_MUCH_BLOCKS, _MUCH_MALLOC_BYTES, _MUCH_RSS_BYTES)
# Two of three tests that leave much do so in their first run only.
_TRIES: Final = 3
# Growth that cannot be told from what the allocators and pytest do.
_NOISE_BLOCKS: Final = 0.5
_NATIVE_BYTES: Final = 4 * KIB
_NATIVE_RSS_BYTES: Final = 64 * KIB
_BLOCK_BYTES: Final = 64
# Growth of less than that a repeat is followed for longer: so many times the repeats, or about so long.
_LITTLE_BYTES: Final = 4 * KIB
_SURE_TIMES: Final = 6
_SURE_S: Final = 3.0
_TRACED_EACH: Final = 4
_TRACED_LEAST: Final = 2
_TRACED_MOST: Final = 50
# What repeating one test may take: above it there are fewer repeats.
_LONG_S: Final = 30.0
_MOSTLY: Final = 0.5


class _Growth(NamedTuple):
    """What each repeat adds; ``lump_bytes`` is what malloc has handed out more in the end, steadily or not."""

    blocks: float
    malloc_bytes: float
    rss_bytes: float
    counts: float
    lump_bytes: int


def _much(before: Look, after: Look) -> bool:
    """Whether a run left so much behind that it is worth repeating."""
    return _is_much(*(later - sooner for sooner, later in zip(before, after, strict=True)))


def _is_much(blocks: int, malloc_bytes: int, rss_bytes: int) -> bool:
    return any(now > least for now, least in zip((blocks, malloc_bytes, rss_bytes), _MUCH, strict=True))


class Known:
    """What the runs of one function leave behind although it does not leak: garbage that a quick look takes for more.

    A function with several parameters is repeated for the first of them; later ones that leave no more are not.
    """

    KEY: ClassVar[pytest.StashKey[dict[object, Known]]] = pytest.StashKey()

    def __init__(self, purse: Purse) -> None:
        self._most = self._usual = (0, 0, 0)
        self.purse: Purse = purse
        self.passed_over: bool = False
        """Whether the last run left more than is usual, and a repeat would have cost more than one may."""

    @classmethod
    def of(cls, item: pytest.Function) -> Known:
        """The one of a test's function."""
        known = item.config.stash.get(cls.KEY, None)
        if known is None:
            known = item.config.stash[cls.KEY] = {}
        name = (item.path, item.cls, item.originalname)
        return known.get(name) or known.setdefault(name, cls(Purse.of(item)))

    def suspects(self, before: Look, *, seconds: float, sent: int) -> Look | None:
        """What there is after a run of so many seconds, if it is to be looked at: it left much, more than is usual.

        ``sent`` is how many reports were sent meanwhile, of subtests.
        """
        purse, self.passed_over = self.purse, False
        gc.collect(1)
        after = look()
        purse.earn(seconds)
        if self._is_usual(before, after, seconds, sent):
            return None
        poor = not purse.affords(seconds)
        if poor and self._is_usual(before, after, seconds, sent, large=True):
            self.passed_over = True
            return None
        if seconds > purse.collect_s:  # cheaper than a repeat
            purse.collect(seconds)
            after = look()
            if self._is_usual(before, after, seconds, sent):
                return None
            self.passed_over = poor and self._is_usual(before, after, seconds, sent, large=True)
        return None if self.passed_over else after

    def _is_usual(self, before: Look, after: Look, seconds: float, sent: int, *, large: bool = False) -> bool:
        dear = max(1.0, seconds / _QUICK_S)
        dear = _LARGE_TIMES * dear if large else dear**0.5
        limits = zip(_left(before, after), _MUCH, self._usual, _SENT, strict=True)
        return all(now - each * sent <= max(dear * least, _KNOWN_MORE * usual) for now, least, usual, each in limits)

    def acquit(self, before: Look, after: Look) -> None:
        """A run that left so much, of a test that was found not to leak: what two of them left is usual."""
        for_each = [sorted(row) for row in zip(self._usual, self._most, _left(before, after), strict=True)]
        self._usual = for_each[0][1], for_each[1][1], for_each[2][1]
        self._most = for_each[0][2], for_each[1][2], for_each[2][2]


def _left(before: Look, after: Look) -> tuple[int, int, int]:
    blocks, malloc, rss = (later - sooner for sooner, later in zip(before, after, strict=True))
    return blocks - _REPORTS_BLOCKS, malloc, rss


def left_behind(runs: Runs, wish: LeakFree, *, inside: Callable[[], bool] | None = None) -> Finding | None:
    """Repeat a test, and say what each repeat leaves behind; None when that is nothing, or no more than it may.

    ``inside`` tells whether what grows lies within watched blocks.

    Raises:
        NotRepeatable: the test did not pass again.
    """
    caches = PureCaches()
    try:
        return _left_behind(runs, caches, wish, inside, quick=True)
    except NotRepeatable:
        if wish.screened:
            raise
        # It may be one that looks at the collector's objects, and finds those gone that were set aside.
        return _left_behind(runs, caches, wish, inside, quick=False)


def _left_behind(
    runs: Runs, caches: PureCaches, wish: LeakFree, inside: Callable[[], bool] | None, *, quick: bool
) -> Finding | None:
    repeats = wish.repeats if not wish.screened else _fitting(wish.repeats, runs.seconds)
    if wish.screened and _acquitted(runs, caches):
        return None
    gc.collect()
    with young(quick=quick):
        for _ in range(wish.warmup):
            runs.again()
        growth = _repeat(runs, caches, wish, repeats)
    if growth is None or (inside is not None and not inside()):
        return None
    return _judge(runs, caches, wish, *growth, quick=quick)


def _acquitted(runs: Runs, caches: PureCaches) -> bool:
    """Whether one run of a few leaves little: a leak would leave much each time."""
    settle(caches, full=False)
    with young(quick=True):
        for _ in range(_TRIES):
            before = look()
            runs.again()
            settle(caches, full=True)
            if not _much(before, look()):
                return True
    return False


def _fitting(repeats: int, seconds: float) -> int:
    return max(_TRIES, min(repeats, int(_LONG_S / 3 / max(seconds, 1e-6))))


def _repeat(runs: Runs, caches: PureCaches, wish: LeakFree, repeats: int) -> tuple[_Growth, int] | None:
    """The counted repeats, what each adds, and how many they were; None when nothing grows with them."""
    growth = _series(runs, caches, wish, repeats)
    if growth is None or not (_grows(growth, wish) or growth.lump_bytes > wish.max_growth_bytes * repeats):
        return None
    little = growth.blocks * _BLOCK_BYTES + growth.malloc_bytes < _LITTLE_BYTES
    if not wish.screened and little and growth.rss_bytes < _NATIVE_RSS_BYTES:
        # The interpreter's own small caches fill for some dozen runs, and a buffer grows now and then; a leak goes on.
        more = max(repeats, min(_SURE_TIMES * repeats, int(_SURE_S / max(runs.seconds, 1e-6))))
        growth = _series(runs, caches, wish, more)
        repeats += more
    return None if growth is None or not _grows(growth, wish) else (growth, repeats)


def _series(runs: Runs, caches: PureCaches, wish: LeakFree, repeats: int) -> _Growth | None:
    # Made beforehand: one small object kept for each repeat would be a leak of ours.
    blocks, malloc, rss, counts = (array("q", bytes(8 * (repeats + 1))) for _ in range(4))
    for place in range(repeats + 1):
        if place:
            runs.again()
        settle(caches, full=True)
        counts[place] = _count(wish.types)
        blocks[place], malloc[place], rss[place] = look()
        if wish.screened and place and not _is_much(*(row[place] - row[place - 1] for row in (blocks, malloc, rss))):
            return None
    return _Growth(each_time(blocks), each_time(malloc), slope(rss), each_time(counts), malloc[-1] - malloc[0])


def _grows(growth: _Growth, wish: LeakFree) -> bool:
    if wish.types:
        return growth.counts >= _NOISE_BLOCKS
    return (
        growth.blocks >= _NOISE_BLOCKS
        or growth.malloc_bytes > wish.max_growth_bytes
        or growth.rss_bytes > max(_NATIVE_RSS_BYTES, wish.max_growth_bytes)
    )


def _count(types: Sequence[str]) -> int:
    if not types:
        return 0
    from memguard.leaks.census import take  # noqa: PLC0415 - only where types are named

    return sum(take(budget_s=10.0, types=types).counts.values())


def _judge(  # noqa: PLR0913 - all that is known of a test
    runs: Runs, caches: PureCaches, wish: LeakFree, growth: _Growth, repeats: int, *, quick: bool
) -> Finding | None:
    # The examiner is imported for tests that grow only.
    from memguard.ext.pytest_plugin.evidence import gather  # noqa: PLC0415
    from memguard.ext.pytest_plugin.finding import Finding as Found  # noqa: PLC0415
    from memguard.leaks.native import foreign_modules  # noqa: PLC0415

    each = max(_TRACED_LEAST, min(_TRACED_EACH, int(_LONG_S / 10 / max(runs.seconds, 1e-6))))
    if not wish.screened:
        each = max(each, min(_TRACED_MOST, repeats // 10))
    evidence = gather(runs, caches, each=each, quick=quick)
    python, native = evidence.unbounded, _native(growth, evidence.bytes, wish)
    if python + native <= wish.max_growth_bytes and not (wish.types and python):
        return None
    native_words = ""
    if native:
        modules = ", ".join(foreign_modules()) or "none of others"
        native_words = f"{format_bytes(native)} a repeat are none of Python's; extension modules loaded: {modules}"
    return Found(
        test=runs.item.nodeid,
        kind="leak",
        bytes=python + native,
        blocks=round(growth.blocks),
        allowed_bytes=wish.max_growth_bytes,
        how=f"{repeats} repeats, then {evidence.repeats} to find out whose",
        holders=evidence.holders,
        types=evidence.types,
        lines=evidence.lines if python > 0 else (),
        native=native_words,
    )


def _native(growth: _Growth, python_bytes: int, wish: LeakFree) -> int:
    """What each repeat adds outside of Python."""
    if wish.types:
        return 0
    allocated = growth.malloc_bytes - python_bytes
    if allocated > max(_NATIVE_BYTES, wish.max_growth_bytes) and allocated > _MOSTLY * growth.malloc_bytes:
        return round(allocated)
    resident = growth.rss_bytes - max(python_bytes, growth.malloc_bytes)
    if resident > max(_NATIVE_RSS_BYTES, wish.max_growth_bytes) and resident > _MOSTLY * growth.rss_bytes:
        return round(resident)
    return 0
