"""Freed memory really goes back to the kernel, with every allocator that this machine has."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")]

_SCRIPT = """
import sys
from memguard.reclaimers.trim import Trim

def rss():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

trim = Trim()
name = trim.allocator
before = rss()
blocks = [b"x" * (2048 + number % 7) for number in range(150_000)]
full = rss()
last = blocks[::10_000] if name != "mimalloc" else None  # as in any service, something survives; mimalloc's limit
del blocks
freed = rss()
trim.reclaim(1 << 30)
print(name, full - before, freed - before, rss() - before, sep=",")
"""


def _run(script: str, **environ: str) -> list[str]:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(root), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split(",")


def _library(name: str, package: str) -> str:
    found = ctypes.util.find_library(name)
    if found is None:
        pytest.skip(f"needs lib{name} (Debian: {package})")
    return found


def _glibc() -> None:
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("needs glibc")


def test_glibc_gives_back_what_was_freed() -> None:
    """150 k freed blocks of 2 KB: nearly nothing comes back by itself, nearly everything after a trim."""
    _glibc()
    name, full, freed, trimmed = _run(_SCRIPT)
    assert name == "glibc"
    assert int(full) > 250 << 20
    assert int(freed) > 0.5 * int(full)
    assert int(trimmed) < 0.1 * int(full)


@pytest.mark.parametrize(
    ("library", "package", "name"),
    [
        ("jemalloc", "libjemalloc2", "jemalloc"),
        ("tcmalloc_minimal", "libtcmalloc-minimal4", "tcmalloc"),
        ("mimalloc", "libmimalloc2.0", "mimalloc"),
    ],
)
def test_preloaded_allocators_are_found_and_trimmed(library: str, package: str, name: str) -> None:
    """An allocator set in place by LD_PRELOAD is the one that is named and called.

    mimalloc 2.0 gives nothing back while one block in ten thousand survives (395 of 395 MB stay), so none does here.
    """
    preload = {"LD_PRELOAD": _library(library, package)}
    if name == "jemalloc":
        preload["MALLOC_CONF"] = "dirty_decay_ms:-1,muzzy_decay_ms:-1"  # it gives nothing back by itself
    if name == "tcmalloc":
        preload["TCMALLOC_RELEASE_RATE"] = "0"
    found, full, freed, trimmed = _run(_SCRIPT, **preload)
    assert found == name
    assert int(full) > 250 << 20
    assert int(trimmed) < 0.2 * int(full)
    if name != "mimalloc":  # newer ones give back by themselves after 10 ms
        assert int(freed) > 0.5 * int(full)


def test_an_allocator_that_is_only_loaded_is_passed_over() -> None:
    """A library that brings jemalloc along while malloc is still glibc's does not mislead."""
    _glibc()
    name = _library("mimalloc", "libmimalloc2.0")
    script = f"import ctypes; ctypes.CDLL({name!r}, mode=ctypes.RTLD_GLOBAL)\n{_SCRIPT}"
    assert _run(script)[0] == "glibc"


_ARROW = """
import pyarrow
from memguard.reclaimers.trim import Trim

def rss():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

pool = pyarrow.default_memory_pool()
pyarrow.array([1])  # imports pandas, where that is installed
before = rss()
arrays = [pyarrow.array(list(range(20_000))) for _ in range(200)]
full, held = rss(), pool.bytes_allocated()
trim = Trim()
del arrays
trim.reclaim(1 << 30)
print(full - before, held, pool.bytes_allocated(), rss() - before, sep=",")
"""


def test_the_arrow_pool_is_released() -> None:
    """Freed Arrow arrays leave little behind after a trim."""
    pytest.importorskip("pyarrow")
    full, held, left, trimmed = map(int, _run(_ARROW))
    assert held > 25 << 20
    assert left == 0
    assert trimmed < 0.5 * full


_THREADS = """
import sys, threading
from memguard.reclaimers.trim import Trim

def rss():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

COUNT = 8
phases = [threading.Barrier(COUNT + 1) for _ in range(3)]
before = rss()

def work():
    block = b"z" * (16 << 20)  # one large block, freed: glibc raises its thresholds
    del block
    blocks = [b"x" * (2000 + number % 7) for number in range(12_000)]
    phases[0].wait()
    del blocks
    phases[1].wait()
    phases[2].wait()  # idle, but alive: the arena stays its own

threads = [threading.Thread(target=work) for _ in range(COUNT)]
for thread in threads:
    thread.start()
phases[0].wait()
full = rss() - before
phases[1].wait()
Trim().reclaim(1 << 30)
plain = rss() - before
Trim(thread_tops=True).reclaim(1 << 30)
tops = rss() - before
phases[2].wait()
for thread in threads:
    thread.join()
print(full, plain, tops, threading.active_count(), sep=",")
"""


def test_tops_of_threads_arenas_need_the_opt_in() -> None:
    """What living threads freed stays with a plain trim, and comes back with thread_tops, from outside."""
    _glibc()
    if len(os.sched_getaffinity(0)) > 16:
        pytest.skip("may miss arenas on more than 16 cores, as documented")
    full, plain, tops, threads = map(int, _run(_THREADS))
    assert full > 150 << 20
    assert plain > 0.5 * full
    assert tops < 0.2 * full
    assert threads == 1
