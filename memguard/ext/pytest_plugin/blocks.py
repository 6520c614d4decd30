"""The fixture ``leak_check``: which part of a test must leave nothing behind."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, ClassVar

import pytest

from memguard.ext.pytest_plugin.asking import LeakFree, leak_free
from memguard.ext.pytest_plugin.looks import Look, PureCaches, look, settle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

__all__ = ["Blocks", "LeakCheck"]


class Blocks:
    """What each run of a test added within its watched blocks."""

    KEY: ClassVar[pytest.StashKey[Blocks]] = pytest.StashKey()

    def __init__(self) -> None:
        self.wish: LeakFree | None = None
        self.caches: PureCaches | None = None
        self._blocks = self._grew = 0
        self.own: int | None = None

    def add(self, before: Sequence[int]) -> None:
        """One block was left; ``before`` is the look at its begin. The first is empty: what looking takes."""
        blocks, malloc, rss = (later - sooner for sooner, later in zip(before, look(), strict=True))
        if self.own is None:
            self.own = blocks
            return
        self._blocks += 1
        self._grew += blocks > self.own or malloc > 0 or rss > 0

    def inside(self) -> bool:
        """Whether most blocks grew, in whatever way."""
        return 2 * self._grew > self._blocks


class LeakCheck:
    """A context manager around what must leave nothing behind; call it for the arguments of ``leak_free``."""

    def __init__(self, blocks: Blocks, where: str) -> None:
        self._blocks = blocks
        self._where = where
        # Filled in place: numbers of ours must not count as growth.
        self._before = array("q", bytes(8 * len(Look._fields)))
        self._inside = False

    @classmethod
    def of(cls, request: pytest.FixtureRequest) -> LeakCheck:
        """The one of a test that runs.

        Raises:
            pytest.UsageError: it was asked for while the test was running already.
        """
        where = request.node.nodeid
        blocks = request.node.stash.get(Blocks.KEY, None)
        if blocks is None:
            raise pytest.UsageError(
                f"{where}: leak_check must be an argument of the test, for the test has to be repeated; "
                "request.getfixturevalue('leak_check') comes too late"
            )
        check = cls(blocks, f"{where}: leak_check")
        if blocks.own is None:
            with check:
                pass
            blocks.wish = None
        return check

    def __call__(self, **arguments: object) -> Self:
        """The same with arguments: ``warmup``, ``repeats``, ``max_growth``, ``types``.

        Raises:
            pytest.UsageError: an argument that cannot be meant.
        """
        self._blocks.wish = leak_free(self._where, arguments)
        return self

    def __enter__(self) -> Self:
        blocks = self._blocks
        if self._inside:
            raise pytest.UsageError(f"{self._where} is entered already: let one block follow the other")
        blocks.wish = blocks.wish or LeakFree()
        blocks.caches = blocks.caches or PureCaches()
        self._inside = True
        settle(blocks.caches, full=True)
        for place, value in enumerate(look()):
            self._before[place] = value
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._inside = False
        caches = self._blocks.caches
        if kind is None and caches is not None:
            settle(caches, full=True)
            self._blocks.add(self._before)
