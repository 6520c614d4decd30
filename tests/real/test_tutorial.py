"""The tutorial's commands do what it says they do."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


def test_as_it_stands(tmp_path: Path) -> None:
    """Both programs and every command after the installation, pasted in order: all served, in half the memory."""
    for tool in ("bash", "curl", "uvicorn"):
        where = shutil.which(tool, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if where is None:
            pytest.skip(f"{tool} is not here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    programs = [block for language, block in blocks if language == "python"]
    commands = [block for language, block in blocks if language == "sh"]
    assert "pip install" in commands[0]
    (tmp_path / "app.py").write_text(programs[0])
    (tmp_path / "guarded.py").write_text(programs[1])
    script = "\n".join(commands[1:]).replace(":8000", f":{port}").replace("uvicorn ", f"uvicorn --port {port} ")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(PAGE.parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = done.stdout + done.stderr
    assert re.findall(r"^ *(\d+) (\d+)$", done.stdout, re.MULTILINE) == [("1500", "200")] * 2, told
    bare, guarded = (int(kib) / 1024 for kib in re.findall(r"VmRSS:\s+(\d+) kB", done.stdout))
    assert bare > 270, told
    assert guarded < 150, told
    assert '"status":"ready"' in done.stdout, told
    assert '"name": "embeddings"' in done.stdout, told
    assert "level.changed: OK → ELEVATED" in done.stderr, told
