"""A protected service under a real server, and the operator's shell."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(
    app: str = "tests.control.service:app", *, port: int = 0, gently: bool = True, **environment: str
) -> Generator[str]:
    """Serve an application with uvicorn; its address."""
    port = port or free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})
    base = f"http://localhost:{port}"
    try:
        until = time.monotonic() + 30
        while True:
            assert process.poll() is None, "the server has ended"
            try:
                assert httpx.get(f"{base}/livez", timeout=5).status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.05)
        yield base
    finally:
        if not gently:
            process.kill()
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """The address of a service that lets its own machine act."""
    with served(MEMGUARD_LOCAL_ACTIONS="1") as address:
        yield address


@pytest.fixture
def shell(base: str) -> Callable[[str], str]:
    """What an operator types; ``$A`` is the API, ``$B`` the service."""
    for tool in ("curl", "jq"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")

    def run(line: str) -> str:
        script = f"set -o pipefail; A={base}/api/v1; B={base}; {line}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
