"""The command line's tests see no package of this machine and no terminal."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of the machine that runs the tests are no finding."""
    from memguard.cli import doctor

    monkeypatch.setattr(doctor, "installed_packages", dict)
    monkeypatch.setenv("COLUMNS", "80")
