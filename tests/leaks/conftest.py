"""What the tests of the examiner share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).parent


def _load(path: Path) -> Any:
    name = f"memguard_tests_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def hostile() -> Any:
    """Objects that run amok."""
    return _load(_HERE / "hostile.py")


@pytest.fixture(scope="session")
def planted() -> Any:
    """The table of planted leaks."""
    return _load(_HERE / "planted" / "table.py")
