"""Runs the ``python`` blocks of README.md and docs/, so that no page shows code that does not work."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    CollectFile = Callable[[Path, pytest.Collector], pytest.Collector | None]


def _page_collector() -> CollectFile:
    from sybil import Sybil
    from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

    collect: CollectFile = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"]).pytest()
    return collect


pytest_collect_file = _page_collector()
# `make check` runs the doctests of every module; not all of them can be imported where Ray is not.
collect_ignore_glob = [] if find_spec("ray") else ["memguard/ext/ray/*"]
