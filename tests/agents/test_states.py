"""States as a mapping: everything a dict does, wherever a state happens to be."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from memguard.agents import codecs
from memguard.agents.states import States
from memguard.errors import MissingExtra, StateTooLarge, StateUnreadable
from memguard.model import Level
from memguard.ports import Reclaimer
from memguard.roster import Roster
from memguard.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("plain_copies")

PLACES = ["live", "packed", "spilled"]


def talk(number: int = 0, turns: int = 200) -> dict[str, Any]:
    """A conversation; packing it pays."""
    return {"id": number, "messages": [{"role": "user", "text": f"line {n} of talk {number}"} for n in range(turns)]}


def put_away(states: States[Any], place: str) -> None:
    """Bring all states to a place."""
    if place == "packed":
        states.pack()
    elif place == "spilled":
        states.spill()
    figures = states.figures()
    assert getattr(figures, place) == len(states), figures


@pytest.fixture(params=PLACES)
def filled(request: pytest.FixtureRequest) -> Iterator[States[Any]]:
    """Five states, all of them objects, all packed, or all on disk."""
    states: States[Any] = States("talks")
    for number in range(5):
        states[f"t{number}"] = talk(number)
    put_away(states, request.param)
    yield states
    states.close()


def test_reading(filled: States[Any]) -> None:
    """Length, membership, iteration, get: as of a dict, and what comes out is equal."""
    assert len(filled) == 5
    assert sorted(filled) == [f"t{number}" for number in range(5)]
    assert "t3" in filled
    assert "t9" not in filled
    assert cast("Any", 3) not in filled
    assert filled["t3"] == talk(3)
    assert filled.get("t4") == talk(4)
    assert filled.get("t9") is None
    assert filled.get("t9", 7) == 7
    assert dict(filled) == {f"t{number}": talk(number) for number in range(5)}
    assert filled == dict(filled)


def test_missing(filled: States[Any]) -> None:
    """What is not there is a KeyError, of any type of key."""
    for key in ("t9", 3, None):
        with pytest.raises(KeyError):
            filled[key]  # type: ignore[index]
        with pytest.raises(KeyError):
            del filled[key]  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        filled.pop("t9")
    assert filled.pop("t9", None) is None


def test_writing(filled: States[Any]) -> None:
    """Put over, put new, update, setdefault, delete, pop, popitem, clear."""
    filled["t1"] = {"new": 1}
    filled.update(t9=talk(9))
    assert filled.setdefault("t2", None) == talk(2)
    assert filled.setdefault("t8", {"first": 1}) == {"first": 1}
    del filled["t0"]
    assert filled.pop("t3") == talk(3)
    assert dict(filled) == {"t1": {"new": 1}, "t2": talk(2), "t4": talk(4), "t8": {"first": 1}, "t9": talk(9)}
    key, value = filled.popitem()
    assert key not in filled
    assert value in ({"new": 1}, talk(2), talk(4), talk(9), {"first": 1})
    filled.clear()
    assert (len(filled), filled.bytes) == (0, 0)
    with pytest.raises(KeyError):
        filled.popitem()


def test_one_object_as_long_as_somebody_has_it(filled: States[Any]) -> None:
    """Each access gives the same object, and what is changed in it is changed for all."""
    one = filled["t1"]
    one["messages"].append("more")
    filled.pack()
    filled.spill()
    filled.move()
    assert filled["t1"] is one
    del one
    filled.pack()
    filled.spill()
    assert filled["t1"]["messages"][-1] == "more"


def test_keys_are_text(filled: States[Any]) -> None:
    """A key that is no text is refused with the mend; a subclass of str is taken for the text that it is."""
    with pytest.raises(TypeError, match=r"write str\(key\)"):
        filled[3] = talk()  # type: ignore[index]

    class Name(str):
        __slots__ = ()

    filled[Name("n")] = 1
    assert [type(key) for key in filled if key == "n"] == [str]
    assert filled[Name("t1")] == talk(1)


@pytest.mark.parametrize("key", ["", "\ud800", "ключ", "a" * 100_000, "\0", "t/../x"])
@pytest.mark.parametrize("place", PLACES)
def test_any_text_is_a_key(key: str, place: str) -> None:
    """Empty, of any script, with lone surrogates, long."""
    states: States[Any] = States()
    states[key] = talk(1)
    put_away(states, place)
    assert list(states) == [key]
    assert states[key] == talk(1)


# --- what is kept as it is ------------------------------------------------------------------------------------------


class Sealed:
    """Cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Forgetful:
    """Its pickle leaves something out."""

    def __init__(self, keep: int, forget: int) -> None:
        self.keep, self.forget = keep, forget

    def __getstate__(self) -> dict[str, int]:
        return {"keep": self.keep}


class Unloadable(Exception):
    """Pickles, but does not load."""

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code


@pytest.mark.parametrize(
    ("make", "kind"),
    [(Sealed, "unpicklable"), (lambda: Forgetful(1, 2), "unequal"), (lambda: Unloadable("x", code=1), "unpicklable")],
)
def test_what_would_not_come_back_is_kept(make: Callable[[], Any], kind: str) -> None:
    """A state that cannot be pickled, loaded, or not wholly, stays an object under any pressure, and is reported."""
    told: list[Any] = []
    clock = FakeClock()
    states: States[Any] = States("odd", tell=told.append, clock=clock)
    states["odd"] = {"it": make(), "talk": talk()}
    states["even"] = talk()
    for _ in range(3):
        states.pack()
        states.spill()
        states.move()
        clock.advance(61)
    assert states.figures().live == 1
    assert type(states["odd"]["it"]) is type(make())
    assert {report.kind for report in states.reports} == {kind}
    assert {report.state for report in states.reports} == {"odd"}
    assert {event.name for event in told} == {"state.kept"}
    assert "'odd'" in told[0].text


def test_the_teller_hears_of_a_kind_once_a_minute() -> None:
    """A thousand states that cannot be packed are counted a thousand times and told once."""
    told: list[Any] = []
    clock = FakeClock()
    states: States[Any] = States("odd", tell=told.append, clock=clock, spill=False)
    for number in range(100):
        states[str(number)] = {"it": Sealed(), "talk": talk(turns=30)}
    states.pack()
    assert states.figures().refused["unpicklable"] == 100
    assert len(states.reports) == 64
    assert len(told) == 1
    clock.advance(61)
    states.pack()
    assert len(told) == 2


def test_what_does_not_shrink_stays_until_the_disk_takes_it() -> None:
    """Random bytes are not packed; they are spilled."""
    import random

    noise = random.Random(1).randbytes(200_000)
    states: States[Any] = States()
    states["noise"] = {"noise": bytearray(noise)}
    assert states.pack() == 0
    assert states.figures().live == 1
    assert states.figures().refused == {"no gain": 1}
    assert states.reports == ()
    assert states.spill() > 190_000
    assert states.figures().spilled == 1
    assert states["noise"] == {"noise": noise}


# --- loading that fails ---------------------------------------------------------------------------------------------


def test_a_codec_that_went_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its package a zstd state cannot be loaded: a clear error, no KeyError; with it again, it can."""
    states: States[Any] = States("talks", codec="zstd")
    states["a"] = talk(1)
    put_away(states, "packed")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "zstandard", None)
        reads: list[Callable[[], Any]] = [
            lambda: states["a"],
            lambda: states.get("a", 7),
            lambda: states.pop("a", 7),
        ]
        for read in reads:
            with pytest.raises(
                StateUnreadable, match=r"'a' of 'talks'.*pip install 'pymemguard\[zstd\]'.*are kept"
            ) as info:
                read()
            assert info.value.state == "a"
        assert "a" in states
        assert states.reports[-1].kind == "unreadable"
        with pytest.raises(MissingExtra):
            States(codec="zstd")
    assert states["a"] == talk(1)


class Moody:
    """Loads when it likes."""

    refuses = False

    def __init__(self, text: str) -> None:
        self.text = text

    def __setstate__(self, state: dict[str, str]) -> None:
        if Moody.refuses:
            raise ConnectionError("not now")
        vars(self).update(state)


@pytest.mark.parametrize("place", ["packed", "spilled"])
def test_a_class_that_does_not_load_now(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a class raises while it is loaded is told; the bytes are kept, and can be put over or deleted."""
    states: States[Any] = States("talks")
    for key in "abc":
        states[key] = [Moody(key * 1000) for _ in range(20)]
    put_away(states, place)
    with monkeypatch.context() as patch:
        patch.setattr(Moody, "refuses", True)
        with pytest.raises(StateUnreadable, match="ConnectionError: not now"):
            states["a"]
        with pytest.raises(StateUnreadable), states.lease("a"):
            raise AssertionError("no lease of what is not there")
        states["b"] = 1
        del states["c"]
    assert states["a"][19].text == "a" * 1000
    assert states["b"] == 1
    assert list(states._keeping.pins) == []


def test_a_spill_file_that_was_damaged(tmp_path: Path) -> None:
    """A state whose bytes on disk were changed is an error that names it; the others are fine."""
    told: list[Any] = []
    states: States[Any] = States("talks", spill=tmp_path, tell=told.append)
    for number in range(3):
        states[f"t{number}"] = talk(number)
    put_away(states, "spilled")
    disk = states._keeping.spill
    assert disk is not None
    (volume,) = disk._volumes.values()
    serial = states._keeping.attic.serials[states._keeping.attic.find("t1") or 0]
    volume.open().execute("UPDATE pieces SET body = zeroblob(length(body)) WHERE serial = ?", (serial % (1 << 40),))
    with pytest.raises(StateUnreadable, match=r"'t1' of 'talks'.*not what was written"):
        states["t1"]
    assert (states["t0"], states["t2"]) == (talk(0), talk(2))
    assert told[-1].name == "state.unreadable"
    del states["t1"]
    assert len(states) == 2


def test_no_memory_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """MemoryError while loading is MemoryError, and the next try works."""
    states: States[Any] = States()
    states["a"] = talk(1)
    put_away(states, "packed")

    def poor(_: object) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(codecs, "unpack", poor)
        with pytest.raises(MemoryError):
            states["a"]
    assert states["a"] == talk(1)


# --- leases ---------------------------------------------------------------------------------------------------------


def test_a_leased_state_stays(filled: States[Any]) -> None:
    """It is the same object all along, nested leases too, and what was changed is kept; others are packed meanwhile."""
    with filled.lease("t1") as one, filled.lease("t1") as same:
        assert one is same
        where = id(one)
        del one, same
        filled.pack()
        filled.spill()
        filled.move()
        assert id(filled["t1"]) == where
        filled["t1"]["messages"].append("more")
        assert filled.figures().live == filled.figures().leased == 1
    filled.pack()
    filled.spill()
    assert filled.figures().live == 0
    assert filled["t1"]["messages"][-1] == "more"


def test_a_lease_of_nothing() -> None:
    """A key that is not there is a KeyError on entering, and pins nothing."""
    states: States[Any] = States()
    with pytest.raises(KeyError), states.lease("x"):
        raise AssertionError
    states["x"] = talk()
    put_away(states, "packed")


def test_an_error_in_a_lease(filled: States[Any]) -> None:
    """A block that raises ends its lease, and what it changed before is kept."""
    with pytest.raises(ZeroDivisionError), filled.lease("t1") as one:  # noqa: PT012 - what came before counts too
        one["messages"].append("more")
        raise ZeroDivisionError
    del one
    gc.collect()
    filled.spill()
    assert filled.figures().live == 0
    assert filled["t1"]["messages"][-1] == "more"


def test_deleted_or_put_during_a_lease(filled: States[Any]) -> None:
    """Who deletes or puts wins: the lease ends quietly, and brings nothing back."""
    with filled.lease("t1") as one:
        del filled["t1"]
        one["x"] = 1
    with filled.lease("t2") as two:
        filled["t2"] = {"new": 1}
        two["x"] = 1
    assert "t1" not in filled
    assert filled["t2"] == {"new": 1}


# --- as a whole -----------------------------------------------------------------------------------------------------


def test_values_and_items_load_one_after_another() -> None:
    """Going through all states keeps to the limit in all."""
    states: States[Any] = States("talks", max_bytes="300KiB")
    for number in range(30):
        states[f"t{number}"] = talk(number)
    for key, value in states.items():
        assert value == talk(int(key[1:]))
        assert states.bytes < 400 << 10
    del value
    assert sorted(value["id"] for value in states.values()) == list(range(30))


def test_no_copies_of_the_whole(filled: States[Any]) -> None:
    """A mapping with a file and locks is not pickled or copied by accident; the text says what to do."""
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"dict\(states\)"):
            copier(filled)


def test_repr_shows_no_content(filled: States[Any]) -> None:
    """Name, count and bytes; nothing of what is in it."""
    assert repr(filled).startswith("<States 'talks': 5 states, ")
    assert "line" not in repr(filled)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": " "}, "name"),
        ({"max_bytes_each": 0}, "no room"),
        ({"max_bytes": "0MiB"}, "no room"),
        ({"max_bytes_each": "10M"}, "ambiguous"),
        ({"codec": "lz4"}, "zlib, zstd"),
        ({"floats": "float8"}, "float32"),
        ({"spill": "/nowhere/at/all"}, "no directory"),
        ({"spill_max_bytes": -1}, "spill_max_bytes=-1.*negative"),
        ({"max_bytes": True}, "max_bytes=True"),
        ({"compact": "no"}, "compact='no'"),
    ],
)
def test_settings_that_cannot_be_meant(options: dict[str, Any], words: str) -> None:
    """Each is refused when the states are made, with the value and the mend."""
    with pytest.raises((TypeError, ValueError), match=words):
        States(**options)


def test_figures_and_rows() -> None:
    """What is where adds up, and each state has its row."""
    clock = FakeClock()
    states: States[Any] = States("talks", clock=clock)
    for number in range(4):
        states[f"t{number}"] = talk(number)
        clock.advance(10)
    states.pack(1)
    states._upkeep.spill_cold(1)
    states.pack(1)
    with states.lease("t3"):
        figures = states.figures()
        assert (figures.live, figures.packed, figures.spilled, figures.leased) == (2, 1, 1, 1)
        rows = {row.id: row for row in states.rows()}
        assert [rows[f"t{number}"].stored for number in range(4)] == ["spilled", "packed", "live", "live"]
        assert rows["t3"].leased
        assert (rows["t0"].idle_s, rows["t2"].idle_s) == (40.0, 20.0)
        assert rows["t0"].bytes > 5 * rows["t0"].stored_bytes
        assert figures.ratio > 5
        assert figures.spilled_bytes == rows["t0"].stored_bytes
        assert figures.packed_bytes == rows["t1"].stored_bytes
        assert figures.live_bytes == rows["t2"].bytes + rows["t3"].bytes
        assert figures.live_bytes < figures.bytes < figures.live_bytes + figures.packed_bytes + 2000


# --- threads, tasks, finalizers -------------------------------------------------------------------------------------


def test_threads() -> None:  # noqa: C901 - three kinds of work
    """Eight threads change their states under constant pressure, read each other's, and lose nothing."""
    states: States[Any] = States("talks", max_bytes="200KiB")
    done = threading.Event()
    failures: list[BaseException] = []

    def press() -> None:
        while not done.is_set():
            states.pack(50_000)
            states.spill(20_000)
            states.move()

    def work(seed: int) -> None:
        try:
            for turn in range(150):
                key = f"{seed}:{turn % 3}"
                if key not in states:
                    states[key] = {"log": ["x" * 200] * 20, "own": []}
                with states.lease(key) as state:
                    state["own"].append(turn)
                states.get(f"{(seed + 1) % 8}:{turn % 3}")
                states[f"shared {turn % 5}"] = talk(turn, turns=20)
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    pressing = [threading.Thread(target=press) for _ in range(2)]
    working = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in pressing + working:
        thread.start()
    for thread in working:
        thread.join()
    done.set()
    for thread in pressing:
        thread.join()
    assert failures == []
    for seed in range(8):
        for third in range(3):
            assert states[f"{seed}:{third}"]["own"] == list(range(third, 150, 3))
    keeping = states._keeping
    accounted = keeping.live_bytes
    keeping.recount()
    assert accounted == keeping.live_bytes
    assert (keeping._busy, keeping.pins, keeping._loading) == ({}, {}, {})


def test_all_threads_load_the_same_object() -> None:
    """Threads that ask at once for a packed state get one object, loaded once."""
    states: States[Any] = States()
    loads: list[int] = []
    entered, door = threading.Event(), threading.Event()
    unpack = codecs.unpack

    def slow(blob: Any) -> Any:
        loads.append(1)
        entered.set()
        door.wait(5)
        return unpack(blob)

    states["a"] = talk(1)
    put_away(states, "packed")
    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codecs, "unpack", slow)
        threads = [threading.Thread(target=lambda: found.append(states["a"])) for _ in range(4)]
        threads[0].start()
        assert entered.wait(5)
        for thread in threads[1:]:
            thread.start()
        door.set()
        for thread in threads:
            thread.join()
    assert len(loads) == 1
    assert len({id(state) for state in found}) == 1


class Asker:
    """Asks for another state, or for the one it is in, while it is loaded."""

    states: States[Any]

    def __init__(self, other: str) -> None:
        self.other = other
        self.filling = "x" * 5000

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.other in Asker.states._keeping.live:
            Asker.states[self.other]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Asker) and other.other == self.other

    __hash__ = object.__hash__


def test_a_state_that_asks_while_it_is_loaded() -> None:
    """A class that looks at the mapping in its ``__setstate__`` does not hang it."""
    states: States[Any] = States("askers")
    Asker.states = states
    states["a"], states["b"], states["c"] = Asker("b"), Asker("a"), Asker("c")
    states.pack()
    assert states.figures().packed == 3
    assert [states[key].other for key in "abc"] == ["b", "a", "c"]


def test_waiting_for_each_other_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that load states which need each other's do not wait for good: one loads a copy of its own."""
    states: States[Any] = States("askers")
    states["a"], states["b"] = talk(1), talk(2)
    put_away(states, "packed")
    met = threading.Barrier(2, timeout=20)
    here = threading.local()
    unpack = codecs.unpack

    def needing(blob: Any) -> Any:
        state = unpack(blob)
        if not hasattr(here, "asked"):
            here.asked = True
            met.wait()
            assert states["b" if state["id"] == 1 else "a"]
        return state

    monkeypatch.setattr(codecs, "unpack", needing)
    threads = [threading.Thread(target=states.get, args=(key,)) for key in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert (states["a"], states["b"]) == (talk(1), talk(2))


def test_a_reader_never_waits_for_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants a state that is just being packed gets it at once; packing was in vain, and nothing is lost."""
    states: States[Any] = States()
    states["a"] = talk(1)
    entered, door = threading.Event(), threading.Event()
    pack = codecs.pack

    def slow(*args: Any, **options: Any) -> Any:
        entered.set()
        assert door.wait(10)
        return pack(*args, **options)

    monkeypatch.setattr(codecs, "pack", slow)
    thread = threading.Thread(target=states.pack)
    thread.start()
    assert entered.wait(5)
    assert "a" in states
    assert len(states) == 1
    states["a"]["messages"].append("during")
    door.set()
    thread.join()
    assert states["a"]["messages"][-1] == "during"
    assert states.figures().live == 1
    assert states.figures().refused == {"used": 1}


@pytest.mark.parametrize("change", ["put", "delete"])
def test_changed_while_it_is_packed(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that is put over or deleted while it is packed: that holds, on disk too, and no row is left there."""
    states: States[Any] = States()
    states["a"] = talk(1)
    pack = codecs.pack

    def meddle(*args: Any, **options: Any) -> Any:
        if change == "put":
            states["a"] = {"new": 1}
        else:
            del states["a"]
        return pack(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(codecs, "pack", meddle)
        states._keeping.pack("a", to_disk=True)
    assert states.get("a") == ({"new": 1} if change == "put" else None)
    disk = states._keeping.spill
    assert disk is not None
    assert disk.count == 0


def test_tasks() -> None:
    """Tasks share states without awaiting anything; a cancelled one ends its lease."""

    async def turn(states: States[Any], key: str, number: int) -> None:
        with states.lease(key) as state:
            await asyncio.sleep(0)
            state["own"].append(number)
            await asyncio.sleep(0)

    async def press(states: States[Any]) -> None:
        while True:
            states.pack()
            states.spill()
            await asyncio.sleep(0)

    async def main() -> States[Any]:
        states: States[Any] = States()
        for key in "abc":
            states[key] = {"own": [], "filling": ["x" * 100] * 20}
        pressing = asyncio.create_task(press(states))
        await asyncio.gather(*(turn(states, "abc"[number % 3], number) for number in range(60)))
        hanging = asyncio.create_task(turn(states, "a", -1))
        await asyncio.sleep(0)
        hanging.cancel()
        pressing.cancel()
        await asyncio.gather(hanging, pressing, return_exceptions=True)
        return states

    states = asyncio.run(main())
    assert states._keeping.pins == {}
    assert states["a"]["own"] == list(range(0, 60, 3))


class Owner:
    """An agent that puts its last word down when it dies."""

    def __init__(self, states: States[Any], key: str) -> None:
        self.states, self.key = states, key

    def __del__(self) -> None:
        self.states[self.key] = "gone"


def test_finalizers_amid_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer that runs inside of a change has its turn after it: nothing hangs, nothing is lost."""
    states: States[Any] = States()
    enter = states._keeping._enter
    owners = [Owner(states, "owner")]

    def dying(key: str, entry: Any) -> None:
        owners.clear()
        enter(key, entry)

    monkeypatch.setattr(states._keeping, "_enter", dying)
    states["a"] = talk(1)
    assert dict(states) == {"a": talk(1), "owner": "gone"}


def test_dropped_states_die_outside_of_the_lock() -> None:
    """What a put, a delete or a pack lets go of may use the mapping while it dies."""
    states: States[Any] = States()
    states["a"] = Owner(states, "a died")
    states["a"] = 1
    states["b"] = Owner(states, "b died")
    del states["b"]
    assert dict(states) == {"a": 1, "a died": "gone", "b died": "gone"}


def test_a_signal_amid_a_change() -> None:
    """Reading what is not an object from inside of a change is refused in words, not answered wrongly."""
    states: States[Any] = States()
    states["a"] = talk(1)
    put_away(states, "packed")
    with pytest.raises(RuntimeError, match="finalizer or a signal handler"):
        states._keeping._change(lambda: states["a"])
    assert states["a"] == talk(1)


# --- with a guard ---------------------------------------------------------------------------------------------------


def test_three_rungs() -> None:
    """Packing is the cheapest, spilling and moving are dear; each is a reclaimer by shape."""
    states: States[Any] = States("talks")
    states["a"] = talk()
    rungs = states.rungs
    assert [(rung.name, rung.cost) for rung in rungs] == [
        ("talks", "cheap"),
        ("talks/spill", "dear"),
        ("talks/move", "dear"),
    ]
    for rung in rungs:
        assert isinstance(rung, Reclaimer)
        assert rung.at is Level.WARNING
        assert rung.reclaim(0) == 0
    assert states.figures().live == 1


def test_rungs_give_what_there_is() -> None:
    """Asked for more than there is, each gives what there is, comes to an end, and then offers nothing."""
    clock = FakeClock()
    states: States[Any] = States("talks", clock=clock)
    for number in range(20):
        states[f"t{number}"] = talk(number)
    clock.advance(1)
    packing, spilling, _ = states.rungs
    packing.tend()  # type: ignore[attr-defined]
    size = packing.size()
    assert size is not None
    assert size > 500_000
    assert packing.reclaim(1) > 0
    assert states.figures().packed == 1
    freed = packing.reclaim(1 << 40)
    assert size * 0.8 < freed < size * 1.1
    assert (packing.size(), packing.reclaim(1 << 40)) == (0, 0)
    assert spilling.size() == states.figures().packed_bytes
    assert spilling.reclaim(1 << 40) > 0
    assert (spilling.size(), spilling.reclaim(1 << 40)) == (0, 0)
    assert states.figures().spilled == 20


def test_an_empty_mapping_offers_nothing() -> None:
    """No state, nothing to give, nothing claimed."""
    states: States[Any] = States("talks")
    for rung in states.rungs:
        assert rung.size() == 0
        assert rung.reclaim(1 << 40) == 0


def test_the_roster_does_not_keep_them() -> None:
    """Enlisted states leave the roster by ``close()``, or with the last reference to them."""
    roster = Roster()
    states: States[Any] = States("talks").enlist(roster)
    assert [name for name, _ in roster.entries()] == ["talks", "talks/spill", "talks/move"]
    states.enlist(roster)
    assert len(roster) == 3
    states.close()
    states.close()
    assert len(roster) == 0
    assert states.get("x") is None
    states.enlist(roster)
    rungs = states.rungs
    del states
    gc.collect()
    assert len(roster) == 0
    assert [rung.size() for rung in rungs] == [0, 0, 0]
    assert [rung.reclaim(1 << 20) for rung in rungs] == [0, 0, 0]


def test_asked_again_soon_it_packs_more() -> None:
    """States that lie between each other give no page back one by one: asked again for as much, it packs four times."""
    clock = FakeClock()
    states: States[Any] = States("talks", clock=clock, spill=False)
    for number in range(100):
        states[f"t{number}"] = talk(number, turns=20)
    clock.advance(1)
    packing = states.rungs[0]
    counts = []
    for _ in range(3):
        packing.reclaim(2500)
        counts.append(states.figures().packed)
    clock.advance(60)
    packing.reclaim(2500)
    counts.append(states.figures().packed)
    first, second, third, later = (b - a for a, b in zip([0, *counts], counts, strict=False))
    assert first < second < third
    assert later == first


def test_moving_is_offered_when_it_pays() -> None:
    """When much was let go of and little is left, moving the rest is offered; then it is done."""
    states: States[Any] = States("talks", spill=False)
    for number in range(400):
        states[f"t{number}"] = talk(number)
    moving = states.rungs[2]
    assert moving.size() == 0
    for number in range(390):
        del states[f"t{number}"]
    loose = moving.size()
    assert loose is not None
    assert loose > 8 << 20
    assert moving.reclaim(1 << 20) >= loose
    assert (states.figures().live, moving.size()) == (0, 0)
    assert states["t399"] == talk(399)
    del states["t399"]
    loose = states._keeping.loose_bytes
    assert loose > 0
    states.rungs[0].learn(100, 50)
    assert states._keeping.loose_bytes == loose - 50


def test_tending_measures_what_grows() -> None:
    """A state that grew in place is measured while the guard tends, and the growth of the others is estimated."""
    clock = FakeClock()
    states: States[Any] = States("talks", clock=clock, max_bytes_each=None, spill=False)
    for number in range(50):
        states[f"t{number}"] = {"messages": []}
    packing: Any = states.rungs[0]
    clock.advance(1)
    for number in range(50):
        states[f"t{number}"]["messages"] += [f"line {n}" * 10 for n in range(300)]
        clock.advance(0.001)
    before = states._keeping.live_bytes
    packing.tend()
    assert states._keeping.live_bytes > before
    truth = 50 * 300 * 110
    assert packing.size() > truth / 5
    assert packing.reclaim(1 << 40) > truth / 2
    assert states.figures().live == 0


def test_parts() -> None:
    """The guard lists what is kept as objects and what in blobs."""
    states: States[Any] = States("talks")
    states["a"] = talk()
    parts: Any = states.rungs[0]
    assert {part.name: part.bytes for part in parts.parts()} == {"live": states.figures().live_bytes, "packed": 0}


def test_errors_travel() -> None:
    """Both errors are pickled whole, and are what Python code catches them by."""
    for error in (
        StateTooLarge("too large", state="a", size_bytes=2, limit_bytes=1),
        StateUnreadable("unreadable", state="a"),
    ):
        back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))
    assert issubclass(StateTooLarge, ValueError)
    assert not issubclass(StateUnreadable, LookupError)
