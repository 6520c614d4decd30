"""A pytest plugin for the benchmarks: processor time of each test's whole protocol, into the file $PYTEST_TIMES."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

_times: dict[str, float] = {}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Time one test, with all that is done for it."""
    began = time.process_time()
    try:
        return (yield)
    finally:
        _times[item.nodeid] = time.process_time() - began


def pytest_sessionfinish() -> None:
    """Write them down."""
    Path(os.environ["PYTEST_TIMES"]).write_text(json.dumps(_times), encoding="utf-8")
