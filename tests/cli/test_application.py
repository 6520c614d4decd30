"""The doctor imports an application in a child process and says what in it will hold memory without end."""

from __future__ import annotations

import json
import os
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from memguard.cli import doctor
from memguard.cli.checks import check_workers
from memguard.cli.growing import find_growing
from memguard.cli.surroundings import look_around
from memguard.cli.workforce import Workforce
from memguard.workers.lives import started_ticks
from tests.cli.trees import plant
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120


@pytest.fixture(autouse=True)
def _no_package_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed where the tests run is no finding."""
    monkeypatch.setattr(doctor, "known_leaks", lambda installed: ())


def _diagnosed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str, *more: str
) -> tuple[int, Any]:
    """What the doctor says of an application of this source, in a good container."""
    folder = tmp_path / "service"
    folder.mkdir()
    (folder / "app.py").write_text(textwrap.dedent(source))
    monkeypatch.chdir(folder)
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": ROOT}
    status = doctor.main(["app:main", "--json", *more], root=plant(tmp_path / "tree"), environ=environ)
    return status, json.loads(capsys.readouterr().out)


def test_what_holds_memory_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Caches without bound, on methods and on functions, containers that only grow, and a collector that is off."""
    source = """
        import functools, gc
        SEEN = {}
        class Agent:
            @functools.lru_cache(None)
            def think(self, thought): return thought
        @functools.cache
        def embed(text): return text
        def see(one):
            SEEN[one] = 1
        gc.disable()
        print("an application may print")
        main = None
    """
    status, told = _diagnosed(tmp_path, monkeypatch, capsys, source)
    found = {one["name"]: one["what"] for one in told["findings"]}
    assert set(found) == {"cache-on-method", "cache-unbounded", "container-grows", "gc-off"}
    assert "app.Agent.think (app.py:5)" in found["cache-on-method"]
    assert "app.embed (app.py:7)" in found["cache-unbounded"]
    assert "app.SEEN (app.py:10)" in found["container-grows"]
    assert told["facts"]["app_bytes"] > 1 << 20
    assert status == 1


def test_of_a_good_application_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bounded caches, singletons, registers of what is defined, and what libraries do inside are no findings."""
    source = """
        import collections, functools, json, logging, re, typing
        import memguard
        ROUTES = {}
        LAST = collections.deque(maxlen=100)
        STATE = {}
        OPEN = {}
        def route(function):
            ROUTES[function.__name__] = function
            return function
        @functools.cache
        def settings(): return {"a": 1}
        @functools.lru_cache(maxsize=1024)
        def embed(text): return text
        @memguard.cached
        def ours(text): return text
        @route
        def see(one):
            LAST.append(one)
            STATE["last"] = one
            OPEN[one] = 1
        def done(one):
            del OPEN[one]
        def main(): ...
    """
    status, told = _diagnosed(tmp_path, monkeypatch, capsys, source, "--workers", "4")
    assert told["findings"] == []
    assert status == 0


@pytest.mark.parametrize(
    ("workers", "limit_mib", "policy_mib", "names"),
    [
        (1, 256, None, ["application-too-large"]),
        (1, 1024, None, []),
        (4, 2048, 400, []),  # a policy is each worker's own
        (4, 512, 400, ["workers-too-many"]),
        (4, None, 600, ["workers-too-many"]),  # it stands for a pod's limit here
    ],
)
def test_sizes_and_limits(
    workers: int, limit_mib: int | None, policy_mib: int | None, names: list[str], tmp_path: Path
) -> None:
    """Of 200 MiB each: one process is held against its policy, all together against the container's limit."""
    limit = "max" if limit_mib is None else str(limit_mib << 20)
    root = plant(tmp_path, {"sys/fs/cgroup/memory.max": f"{limit}\n"})
    policy = (None if policy_mib is None else policy_mib << 20, "a test")
    around = look_around(environ={}, root=root, policy=policy)
    found = check_workers(around, Workforce(count=workers, source="--workers"), 200 << 20)
    assert [one.name for one in found] == names


def test_workers_of_that_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The memory that the application takes once imported, times its workers, is held against the limit."""
    source = "HELD = bytes(1) * (200 << 20)\nmain = None\n"
    status, told = _diagnosed(tmp_path, monkeypatch, capsys, source, "--workers", "4")
    assert [one["name"] for one in told["findings"]] == ["workers-too-many"]
    assert "start 1" in told["findings"][0]["mend"]
    assert status == 1


def test_what_an_import_starts_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An application that forks or starts others while it is imported does not keep the doctor, and leaves nobody."""
    source = f"""
        import os, signal, subprocess, sys
        def pid(name, number): open(os.path.join({str(tmp_path)!r}, name), "w").write(str(number))
        pid("started", subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]).pid)
        child = os.fork()
        if not child:
            signal.pause()
        pid("forked", child)
        main = None
    """
    status, told = _diagnosed(tmp_path, monkeypatch, capsys, source)
    assert (status, told["error"]) == (0, "")
    numbers = [int((tmp_path / name).read_text()) for name in ("started", "forked")]
    wait_for(lambda: [started_ticks(number) for number in numbers] == [None, None])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module_anywhere\n", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("raise RuntimeError('no database')\n", "RuntimeError: no database"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("other = None\n", "has no attribute 'main'"),
        ("import os, sys; print('gone', file=sys.stderr, flush=True); os._exit(4)\n", "(status 4): gone"),
        ("import time\nwhile True: time.sleep(1)\n", "was not imported within 1.5 s"),
    ],
)
def test_an_application_that_cannot_be_imported(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The doctor says what happened, still tells what it knows of the machine, and ends with 2."""
    timeout = "1.5" if "within" in words else "60"
    status, told = _diagnosed(tmp_path, monkeypatch, capsys, source, "--timeout", timeout)
    assert words in told["error"]
    assert told["facts"]["limit_bytes"] == 512 << 20
    assert status == told["status"] == 2


@pytest.mark.parametrize("app", ["app:", "../app", "app main", ":main", "app:main()"])
def test_names_that_are_none(app: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What names no application is not started."""
    assert doctor.main([app, "--json"], root=plant(tmp_path), environ={}) == 2
    assert "write MODULE or MODULE:ATTRIBUTE" in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("A = {}\ndef f(k): A[k] = 1", ["A"]),
        ("A: dict[str, int] = {}\nasync def f(k): A.setdefault(k, 1)", ["A"]),
        ("A = []\nclass C:\n def f(self, x): A.append(x)", ["A"]),
        ("import collections\nA = collections.defaultdict(list)\ndef f(k): A[k].append(1)\ndef g(k): A[k] = []", ["A"]),
        ("A = set()\ndef f(k):\n A.add(k)\n return len(A)", ["A"]),
        ("A = {}\ndef f(k):\n A = {}\n A[k] = 1", []),
        ("A = {}\ndef f(A, k): A[k] = 1", []),
        ("A = {}\ndef f(k): A[k] = 1\ndef g(): A.clear()", []),
        ("A = {}\ndef f(k): A[k] = 1\nevict(A)", []),
        ("A = {}\ndef f(k):\n global A\n A = {}\n A[k] = 1", []),
        ("A = {}\nA['x'] = 1", []),
        ("A = {}\ndef r(n):\n def d(f): A[n] = f\n return d\n@r('x')\ndef f(): ...", []),
        ("A = []\ndef f(x):\n A.append(x)\n A[:] = A[-9:]", []),
        ("def f(: broken", []),
    ],
)
def test_containers_that_only_grow(source: str, names: list[str]) -> None:
    """A container of a module counts when its functions fill it, and neither empty it, replace it nor hand it on."""
    assert [one.name for one in find_growing(source)] == names


def test_an_installed_application_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In an image the application itself lies among the packages: it counts, and its libraries do not."""
    home = tmp_path / "venv" / "site-packages"
    cached = "import functools\n@functools.cache\ndef embed(text): return text\n"
    for package, source in (("service", "import library\n" + cached), ("library", cached)):
        (home / package).mkdir(parents=True)
        (home / package / "__init__.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{home}"}
    assert doctor.main(["service", "--json"], root=plant(tmp_path / "tree"), environ=environ) == 1
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert "service.embed" in found["what"]
    assert "library" not in found["what"]
