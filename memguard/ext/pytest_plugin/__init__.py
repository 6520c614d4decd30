"""The pytest plugin: tests that fail when they leave memory behind or take too much; inert until one asks.

Markers ``leak_free`` and ``peak_memory``, options ``--memguard`` and ``--memguard-report``, fixtures ``leak_check``,
``memory_limit`` and ``fake_memory``. Nothing else of memguard is imported before one of them is used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from memguard.ext.pytest_plugin.blocks import LeakCheck
    from memguard.ext.pytest_plugin.children import MemoryLimit
    from memguard.testing import FakeMemory

__all__ = ["fake_memory", "leak_check", "memory_limit"]

_MARKERS: Final = ("leak_free", "peak_memory")
_LINES: Final = (
    (
        "leak_free(warmup=2, repeats=8, max_growth='64B', types=None): the test is repeated, and fails when each "
        "repeat leaves more than max_growth behind (memguard)"
    ),
    "peak_memory(limit): the test fails when its memory peaks higher than limit above where it began (memguard)",
)
# Set for a child of memory_limit: where it writes what became of the test.
_CHILD: Final = "MEMGUARD_TEST_RESULT"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--memguard`` and ``--memguard-report``."""
    group = parser.getgroup("memguard", "memory left behind by tests")
    group.addoption(
        "--memguard",
        action="store_true",
        dest="memguard",
        help="look at what each test leaves behind; repeat those that leave much, and fail those that leak",
    )
    group.addoption(
        "--memguard-report",
        metavar="FILE",
        dest="memguard_report",
        help="write what --memguard and memguard's markers find into FILE: .json, .html, or else as text",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The markers' names, and a report that could not be written is refused now."""
    for line in _LINES:
        config.addinivalue_line("markers", line)
    asked = config.getoption("memguard", default=False) or config.getoption("memguard_report", default=None) is not None
    if asked and not hasattr(config, "workerinput"):  # a worker of xdist sends its notes to who started it
        from memguard.ext.pytest_plugin.telling import Told  # noqa: PLC0415 - see the module's docstring

        config.pluginmanager.register(Told(config), "memguard-told")
    if _CHILD in os.environ:
        from memguard.ext.pytest_plugin.children import Reporter  # noqa: PLC0415

        config.pluginmanager.register(Reporter(os.environ[_CHILD]), "memguard-child")


def _asks(item: pytest.Item) -> bool:
    """Whether anything of the test asks for a look."""
    return (
        bool(item.config.getoption("memguard", default=False))
        or "leak_check" in getattr(item, "fixturenames", ())
        or any(item.get_closest_marker(name) is not None for name in _MARKERS)
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Markers with wrong arguments end the session before a test has run."""
    marked = [item for item in items if any(item.get_closest_marker(name) is not None for name in _MARKERS)]
    if marked and not hasattr(marked[0].config, "workerinput"):  # a worker of xdist reports them test by test
        from memguard.ext.pytest_plugin.asking import check_all  # noqa: PLC0415

        check_all(marked)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Runs a test that asks; all others take their usual way."""
    if not isinstance(item, pytest.Function) or not _asks(item):
        return None
    from memguard.ext.pytest_plugin.protocol import run  # noqa: PLC0415

    return run(item, nextitem)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """The rest of a body that has run in a child process is passed over."""
    if "memory_limit" not in getattr(item, "fixturenames", ()):
        return (yield)
    from memguard.ext.pytest_plugin.children import RanElsewhere  # noqa: PLC0415

    try:
        return (yield)
    except RanElsewhere:
        return None


@pytest.fixture
def leak_check(request: pytest.FixtureRequest) -> LeakCheck:
    """A context manager around what must leave nothing behind; called, it takes the arguments of ``leak_free``.

    The test is repeated, as with the marker; it fails when what each repeat leaves behind comes from the block.
    """
    from memguard.ext.pytest_plugin.blocks import LeakCheck  # noqa: PLC0415

    return LeakCheck.of(request)


@pytest.fixture
def memory_limit(request: pytest.FixtureRequest) -> MemoryLimit:
    """``memory_limit("256MiB")`` as a test's first line: its body runs in a child process under that limit."""
    from memguard.ext.pytest_plugin.children import MemoryLimit  # noqa: PLC0415

    return MemoryLimit(request)


@pytest.fixture
def fake_memory() -> FakeMemory:
    """A process's memory that exists as numbers only, with its own clock: a probe for ``Guard(probe=fake_memory)``."""
    from memguard.testing import FakeClock, FakeMemory  # noqa: PLC0415

    return FakeMemory(FakeClock())
