"""Generated pages say what the code says, and every decision is listed."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

from memguard.rules import Rules
from memguard.telemetry import EVENTS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_reference_is_current() -> None:
    """docs/reference is what `make reference` writes from the code as it is."""
    done = subprocess.run(
        [sys.executable, str(DOCS / "make_reference.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_reference_is_whole() -> None:
    """Every rule and every event has its row."""
    rules = (DOCS / "reference" / "rules.md").read_text()
    assert [rule.name for rule in dataclasses.fields(Rules) if f"| `{rule.name}` |" not in rules] == ["origins"]
    events = (DOCS / "reference" / "events.md").read_text()
    assert [name for name in EVENTS if f"| `{name}` |" not in events] == []


def test_decisions_are_listed() -> None:
    """Each decision record has a number of its own, the template's parts, and a line in the index."""
    index = (DOCS / "decisions" / "index.md").read_text()
    records = sorted(path for path in (DOCS / "decisions").glob("[0-9]*.md"))
    assert records
    numbers = [path.name[:4] for path in records]
    assert len(numbers) == len(set(numbers))
    for path in records:
        text = path.read_text()
        assert f"({path.name})" in index, f"{path.name} is not in the index"
        assert re.match(rf"# {path.name[:4]}: \S", text), f"{path.name}: title"
        for part in ("## Question", "## Evidence", "## Decision", "## Consequences"):
            assert part in text, f"{path.name}: {part}"


def test_every_block_is_run() -> None:
    """`make check` collects each `python` block of README.md and docs/: no page's code is shown without being run."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "README.md", "docs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    # A block that is skipped by name counts twice: the word that skips it is collected too.
    blocks = re.compile(r"^```python$|^<!-- skip: next", re.MULTILINE)
    shown = sum(len(blocks.findall(page.read_text())) for page in pages)
    assert shown > 0
    assert re.search(rf"^{shown} tests? collected", done.stdout, re.MULTILINE), done.stdout
