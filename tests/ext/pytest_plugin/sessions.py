"""Sessions of pytest in a process of their own, with this plugin and no other that is not asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["session"]

ROOT = Path(__file__).resolve().parents[3]


def session(
    folder: Path, *arguments: str, plugins: tuple[str, ...] = (), cache: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder; a warning is an error there too."""
    loaded = [word for plugin in ("memguard.ext.pytest_plugin", *plugins) for word in ("-p", plugin)]
    options = [
        "-q",
        *([] if cache else ["-p", "no:cacheprovider"]),
        "-W",
        "error",
        f"--rootdir={folder}",
        "-c",
        os.devnull,
    ]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *loaded, *options, *arguments],
        cwd=folder,
        env={**inherited, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
