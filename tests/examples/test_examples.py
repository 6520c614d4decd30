"""The examples run as their readers would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "belief_service.py": "600 of 600 observations served",
    "protected_service.py": "100 of 100 requests served, ready",
    "langgraph_agent.py": "60 of 60 conversations kept",
    "chat_service.py": "1000 embeddings asked for, 10 computed",
    "batch_worker.py": "40 items, sum 293772",
}


def test_every_example_is_tried() -> None:
    """A new example comes with a line of what it says."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str) -> None:
    """It ends by itself, without a word of complaint, and says what it did."""
    if name == "langgraph_agent.py":
        pytest.importorskip("langgraph")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
    assert "Traceback" not in done.stderr
