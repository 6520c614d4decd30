"""The examiner: what is no leak is called none, bad surroundings are survived, and everything is put back."""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import sys
import time
import tracemalloc
from collections import OrderedDict, deque
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from memguard.leaks import census, examiner
from memguard.leaks.examiner import Options, examine
from memguard.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memguard.findings import LeakReport


class Thing:
    """Of which some are kept."""

    def __init__(self, number: int) -> None:
        self.text = f"thing {number}"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that is there for this test."""
    module = ModuleType("examined_app")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module
    vars(module).clear()


def _examine(work: Callable[[int], object], *, requests: int = 300, **options: Any) -> LeakReport:
    done = 0

    def wait(share: float) -> None:
        nonlocal done
        for _ in range(round(share * requests)):
            done += 1
            work(done)

    return examine(wait, options=Options(requests=lambda: done, **options))


# --- what is no leak --------------------------------------------------------------------------------------------------


def test_nothing_grows() -> None:
    """Work that leaves nothing behind is no leak, and the first sentence says so."""
    report = _examine(Thing)
    assert not report.leaks
    assert report.summary.startswith("Nothing")
    assert report.text.startswith(report.summary)


def test_a_full_cache(app: Any) -> None:
    """A cache of ours that replaces its entries is no leak."""
    app.cache = cache = OrderedDict[int, Thing]()

    def work(number: int) -> None:
        cache[number] = Thing(number)
        if len(cache) > 20:
            cache.popitem(last=False)

    assert not _examine(work).leaks


@pytest.mark.parametrize("bound", ["deque", "lru_cache", "attribute"])
def test_a_cache_that_fills(bound: str, app: Any) -> None:
    """What grows towards a bound is told as that."""
    app.recent = deque(maxlen=5000)
    app.cached = functools.lru_cache(maxsize=5000)(Thing)
    app.store = Store(5000)
    adds: dict[str, Callable[[int], object]] = {
        "deque": lambda number: app.recent.append(Thing(number)),
        "lru_cache": app.cached,
        "attribute": app.store.add,
    }
    report = _examine(adds[bound])
    assert not report.leaks, report.text
    assert "has a bound" in report.summary
    assert "5000" in report.summary


class Store:
    """A cache of somebody's own making."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._entries: dict[int, Thing] = {}

    def add(self, number: int) -> None:
        """Keep one, within the bound."""
        if len(self._entries) < self._maxsize:
            self._entries[number] = Thing(number)


def test_first_call_effects(app: Any) -> None:
    """What is made once, at the first requests, is not judged."""
    app.tables = []

    def work(number: int) -> None:
        if number < 50:
            app.tables.append(Thing(number))

    assert not _examine(work).leaks


def test_a_step(app: Any) -> None:
    """What grew once and stays is no leak: it did not grow in both halves."""
    app.loaded = []

    def work(number: int) -> None:
        if number == 120:
            app.loaded.extend(Thing(place) for place in range(500))

    assert not _examine(work).leaks


# --- what is one ------------------------------------------------------------------------------------------------------


def test_how_fast_per_request(app: Any) -> None:
    """Growth is told per request, and what one item keeps alive."""
    app.kept = []

    def work(number: int) -> None:
        app.kept += [Thing(number), Thing(number)]

    report = _examine(work)
    assert report.leaks
    assert report.suspects[0].name == "examined_app.kept"
    assert "grows by 2 a request" in report.summary
    assert report.suspects[0].certainty == "sure"
    assert report.requests == 240


def test_keys_are_redacted_on_demand(app: Any) -> None:
    """No key of a mapping is shown, in none of the three renderings."""
    app.users = {"alice@example.org": []}

    def work(number: int) -> None:
        app.users["alice@example.org"].append(Thing(number))

    report = _examine(work, redact_keys=True)
    assert report.leaks
    assert "examined_app.users[…]" in report.summary
    for shown in (report.text, report.html, report.to_json()):
        assert "alice" not in shown


def test_no_contents_are_shown(app: Any) -> None:
    """What objects hold appears nowhere."""
    app.kept = []
    report = _examine(lambda number: app.kept.append({"password": "hunter2" * 3, "number": number}))
    assert report.leaks
    for shown in (report.text, report.html, report.to_json()):
        assert "hunter2" not in shown
        assert "password" not in shown


def test_cycles_that_nobody_collects() -> None:
    """With the collector off, cycles pile up: the report says which, and that nobody frees them."""

    def work(number: int) -> None:
        thing = Thing(number)
        thing.me = thing  # type: ignore[attr-defined]

    gc.disable()
    try:
        report = _examine(work, requests=1000)
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert any(one.kind == "late cycles" and "Thing" in one.words for one in report.named), report.text
    assert "the collector is off" in report.text


def test_what_nothing_can_collect(app: Any) -> None:
    """Objects in gc.garbage are told by their type."""
    gc.garbage.append(Thing(1))
    try:
        report = _examine(Thing)
    finally:
        gc.garbage.clear()
    assert any("gc.garbage" in one.words and "Thing" in one.words for one in report.named)


# --- bad surroundings -------------------------------------------------------------------------------------------------


def test_somebody_elses_tracing_goes_on(app: Any) -> None:
    """The program's own tracemalloc is used and left as it was."""
    app.kept = []
    tracemalloc.start(4)
    try:
        report = _examine(lambda number: app.kept.append(Thing(number)))
        assert tracemalloc.is_tracing()
        assert tracemalloc.get_traceback_limit() == 4
    finally:
        tracemalloc.stop()
    assert report.trace.shared
    assert "test_examiner.py" in report.suspects[0].site


def test_without_room_there_is_no_tracing(app: Any) -> None:
    """Near the limit it is not traced; the holder is found all the same, and what was not checked is said."""
    app.kept = []
    report = _examine(lambda number: app.kept.append(Thing(number)), room_bytes=MIB)
    assert report.suspects[0].name == "examined_app.kept"
    assert report.trace.refused
    assert any("were not traced, because only" in row and "tracing needs 8.0 MiB" in row for row in report.unchecked)


def test_not_asked_to_trace(app: Any) -> None:
    """Tracing can be left out."""
    report = _examine(Thing, trace=False)
    assert any("not asked for" in row for row in report.unchecked)


def test_a_busy_process_is_traced_shortly_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody asked for it, a process without processor time to spare is traced for a moment, and that is said."""
    monkeypatch.setattr(time, "process_time", time.monotonic)  # a core of its own, whoever shares this machine
    report = _examine(lambda number: sum(range(2_000)), patient=False)
    assert "of a core already" in report.trace.note
    assert any("of a core already" in row for row in report.unchecked)


def test_a_service_that_suffers_is_left_alone(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing that nobody asked for ends at the first look that finds the service a fifth slower, and that is said."""
    monkeypatch.setattr(examiner._Examination, "_slower", lambda _self: 0.5)
    monkeypatch.setattr(examiner, "_BUSY_RATIO", 99.0)
    app.kept = []
    report = _examine(lambda number: app.kept.append(Thing(number)), patient=False)
    assert "the service ran 50% slower" in report.trace.note
    assert any("50% slower" in row for row in report.unchecked)
    assert report.suspects[0].name == "examined_app.kept"


def test_frozen_heap(app: Any) -> None:
    """A heap that gc.freeze set aside is examined as far as it goes, and that is said."""
    app.kept = []
    gc.freeze()
    try:
        report = _examine(lambda number: app.kept.append([number]))
    finally:
        gc.unfreeze()
    assert any("frozen" in row for row in report.unchecked)


def test_an_error_in_the_middle() -> None:
    """When the window breaks off, the error goes on and tracing is off again."""

    def wait(share: float) -> None:
        if tracemalloc.is_tracing():
            raise KeyError

    with pytest.raises(KeyError):
        examine(wait)
    assert not tracemalloc.is_tracing()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_in_the_middle() -> None:
    """A child that is forked inside the window does not trace on; the parent's report is whole."""
    left = list[int]()

    def wait(share: float) -> None:
        if tracemalloc.is_tracing() and not left:
            child = os.fork()
            if not child:
                os._exit(int(tracemalloc.is_tracing()))
            left.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    report = examine(wait)
    assert left == [0]
    assert report.summary


@pytest.mark.parametrize("place", ["take", "take_inventory", "keep_books", "weigh_grown", "swellings", "share"])
def test_whatever_fails_is_put_back(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at any step leaves no tracing behind."""

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    home: Any = census if place == "take" else examiner
    monkeypatch.setattr(home, place, fail)
    with pytest.raises(MemoryError):
        examine(lambda share: None)
    assert not tracemalloc.is_tracing()


def test_hostile_objects(app: Any, hostile: Any) -> None:
    """A leak of objects that run amok is found without asking them anything."""
    hostile.CALLS.clear()
    app.kept = []
    report = _examine(lambda number: app.kept.append(object.__new__(hostile.Raising)))
    assert report.suspects[0].name == "examined_app.kept"
    app.kept.clear()
    report = _examine(lambda number: app.kept.extend(hostile.zoo()), requests=100)
    assert report.leaks
    calls = list(hostile.CALLS)
    app.kept.clear()
    assert calls == []


def _lose(thing: object) -> None:
    """What C code does when it forgets to let go: nobody holds it, and it stays."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class Part:
    """Which a whole holds."""

    whole: object = None


class Whole(Part):
    """Of several kinds of parts, each in a cycle with it, as a connection's are."""

    def __init__(self) -> None:
        self.parts = tuple(kind() for kind in _PARTS)
        for part in self.parts:
            part.whole = self


_PARTS = tuple(type(f"Part{place}", (Part,), {}) for place in range(4))


def test_a_reference_lost_in_c() -> None:
    """What nobody in Python holds is named by its type and line; not held by the examiner's samples of other types."""
    report = _examine(lambda number: _lose(Whole()), requests=300)
    first = report.suspects[0]
    assert first.kind == "type"
    assert first.chain is not None
    assert first.chain.kind == "C"
    assert "test_examiner." in first.name
    assert all("memguard" not in f"{one.words}{one.chain}" for one in report.suspects)
    assert "test_examiner.py:" in first.site


def test_a_lost_list_is_named_by_its_line() -> None:
    """Of lists that nobody holds there is no type to tell, and the line that made them is the answer."""
    report = _examine(lambda number: _lose([number] * 20), requests=2_000)
    assert "test_examiner.py:" in report.suspects[0].site


def test_lost_text_is_told_without_tracing() -> None:
    """Where no line can be had, blocks that no object holds are told as lost references, with what C code there is."""
    report = _examine(lambda number: _lose(f"{number} " * 9), requests=12_000, trace=False)
    assert report.leaks
    first = report.suspects[0]
    assert (first.kind, first.name) == ("lost", "lost references")
    assert report.lost is not None
    assert 3_000 < report.lost.blocks < 6_000  # of 4,800 in the second half
    assert "are held by no object that the collector sees" in report.summary
    assert "extension module" in report.summary
    assert report.lost.words in report.text
    assert json.loads(report.to_json())["lost"]["blocks"] == report.lost.blocks


def test_lost_text_with_little_room_is_named_by_its_line() -> None:
    """With little room it is traced all the same, within an eighth of it, and the line is named as what loses them."""
    report = _examine(lambda number: _lose(f"{number} " * 9), requests=10_000, room_bytes=24 * MIB)
    first = report.suspects[0]
    assert (first.kind, first.certainty) == ("site", "likely")
    assert "test_examiner.py:" in first.site
    assert "held by no object" in first.words
    assert 0 < report.trace.peak_bytes <= 3 * MIB


def test_a_first_moment_names_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a busy service, of which no more than a moment is traced, the line that loses is named all the same."""
    monkeypatch.setattr(time, "process_time", time.monotonic)
    report = _examine(lambda number: _lose(f"{number} " * 9), requests=12_000, patient=False)
    assert "of a core already" in report.trace.note
    assert report.suspects[0].kind == "site", report.text
    assert "test_examiner.py:" in report.suspects[0].site


@pytest.mark.parametrize("kind", ["rows", "buffers"])
def test_what_somebody_holds_is_not_lost(kind: str, app: Any) -> None:
    """Rows of text, and what has blocks of its own that the collector does not see, are no lost references."""
    app.kept, app.ordered = [], OrderedDict()

    def buffers(number: int) -> None:
        app.kept.append(bytearray(f"{number} " * 9, "ascii"))
        app.ordered[number] = None

    adds: dict[str, Callable[[int], object]] = {
        "rows": lambda number: app.kept.append(((f"{number} " * 9, number + 0.5), {"name": f"{number} " * 5})),
        "buffers": buffers,
    }
    report = _examine(adds[kind], requests=3_000, trace=False)
    assert report.lost is None, report.text
    assert all(one.kind != "lost" for one in report.suspects)


def test_lost_once_is_no_leak() -> None:
    """Blocks that came once, as of a library that is loaded late, are no lost references."""

    def work(number: int) -> None:
        if number == 2_000:
            for place in range(5_000):
                _lose(f"{place} " * 9)

    assert _examine(work, requests=3_000, trace=False).lost is None


def test_untraced_lines_are_not_called_still() -> None:
    """Where tracing was refused the first sentence does not say that no line grew."""
    report = _examine(Thing, requests=100, trace=False)
    assert "no line" not in report.summary
    assert "lines were not traced, because it was not asked for" in report.summary


# --- the report -------------------------------------------------------------------------------------------------------


def test_json(app: Any) -> None:
    """The JSON can be read back, and says the same."""
    app.kept = []
    report = _examine(lambda number: app.kept.append(Thing(number)))
    read = json.loads(report.to_json())
    assert read["leaks"] is True
    assert read["summary"] == report.summary
    assert read["suspects"][0]["path"].startswith("examined_app.kept")
    assert read["types"][0]["type"]
    assert "html" not in read


def test_the_page_is_whole_in_itself(app: Any) -> None:
    """The page loads nothing, runs nothing, and escapes what it shows."""
    app.kept = {"<script>": []}
    report = _examine(lambda number: app.kept["<script>"].append(Thing(number)))
    page = report.html
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page
    assert "<svg" in page
    assert page.count('class="step last"') >= 1


def test_what_it_cost_is_told(app: Any) -> None:
    """Processor time, the longest stretch without other threads, tracing: all said."""
    report = _examine(Thing)
    assert report.cost_s > 0
    assert report.hold_s > 0
    assert "processor time" in report.text
    assert "calls deep" in report.text


def test_a_long_window_is_traced_at_its_end() -> None:
    """A window of an hour is traced for its last half minute only."""
    assert examiner._Examination(Options(seconds=3600.0))._window(0) == pytest.approx(30 / 3600)
    assert examiner._Examination(Options(seconds=30.0))._window(0) == pytest.approx(0.4)


def test_with_little_room_the_window_is_as_long_as_it_may_be() -> None:
    """With little room, and much that is born and stays, less of the work is traced, and the rest is done before."""
    kept, shares = list[str](), list[float]()
    done = 0

    def wait(share: float) -> None:
        nonlocal done
        shares.append(share)
        for _ in range(round(share * 40_000)):
            done += 1
            kept.append(f"{done} " * 9)

    report = examine(wait, options=Options(requests=lambda: done, room_bytes=12 * MIB))
    assert sum(shares) == pytest.approx(1.0)
    assert 0.0 < shares[2] < 0.4  # before tracing begins
    assert not report.trace.refused
    assert report.trace.peak_bytes < 4 * MIB
