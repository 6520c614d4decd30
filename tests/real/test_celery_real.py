"""A real Celery worker, two prefork children under a real memory limit, its queue in files: no server is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from memguard.testing.cage import Cage, cage_unavailable

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(cage_unavailable() is not None, reason=f"needs a real memory limit: {cage_unavailable()}"),
]

ROOT = Path(__file__).resolve().parents[2]
TASKS, LEAK_MIB, LIMIT = 45, 8, "400MiB"
OPTIONS = "--concurrency 2 --loglevel INFO --without-gossip --without-mingle --without-heartbeat"
# The ladder begins early and a worker may be young, so that a test need not last for minutes.
RULES = """
from memguard.ext.celery import protect
guard = protect(
    app, wait_s=0.3, dwell_s=0.5, elevated_ratio=0.45, collect_ratio=0.5, warning_ratio=0.55, critical_ratio=0.85,
    handover_life_s=1, handover_after_s=0.5, handover_urgent_s=300,
)
guard.on_handover(lambda: open("saved", "a").write("saved\\n"))
"""
SERVICE = """
import os, time
from celery import Celery

app = Celery("service")
app.config_from_object("settings")
kept = []

@app.task(name="work")
def work(number):
    kept.append(bytes([number % 251]) * ({leak} << 20))   # a leak
    page = bytes([1]) * (6 << 20)                         # and what it works with
    time.sleep(0.15)
    with open("done", "a") as file:
        file.write(f"{{number}} {{os.getpid()}}\\n")
{rules}
"""
# kombu's own writes a message where it is read: a reader that comes at the wrong moment finds nothing in it, and ends.
FILES = """
import os, uuid
from kombu.transport import filesystem
from kombu.utils.json import dumps

class Channel(filesystem.Channel):
    def _put(self, queue, payload, **options):
        name = f"{uuid.uuid4()}.{queue}.msg"
        with open(name, "w") as file:
            file.write(dumps(payload))
        os.rename(name, os.path.join(self.data_folder_out, name))

class Transport(filesystem.Transport):
    Channel = Channel
"""
SETTINGS = """
from kombu.transport import TRANSPORT_ALIASES
TRANSPORT_ALIASES["files"] = "files:Transport"
broker_url = "files://"
broker_transport_options = {{
    "data_folder_in": "{folder}/queue", "data_folder_out": "{folder}/queue", "control_folder": "{folder}/control",
    "polling_interval": 0.01,
}}
task_ignore_result = True
worker_prefetch_multiplier = 1
worker_enable_remote_control = False
broker_connection_retry_on_startup = True
"""


def _run(folder: Path, *, rules: str, within_s: float) -> dict[str, Any]:
    """What came of ``TASKS`` tasks: who did which, how many processes were killed, what the worker said."""
    for name in ("queue", "control"):
        (folder / name).mkdir()
    (folder / "settings.py").write_text(SETTINGS.format(folder=folder))
    (folder / "files.py").write_text(FILES)
    (folder / "service.py").write_text(SERVICE.format(leak=LEAK_MIB, rules=rules))
    sender = Celery("sender", set_as_current=False)
    folders = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
    sender.conf.update(
        broker_url="filesystem://",
        broker_transport_options={option: str(folder / name) for option, name in folders.items()},
        task_ignore_result=True,
    )
    with sender.connection_for_write() as connection, sender.amqp.Producer(connection) as producer:
        for number in range(TASKS):
            sender.send_task("work", (number,), producer=producer)
    done = folder / "done"
    with Cage(LIMIT, name="celery", by="kernel") as cage, (folder / "said").open("w") as said:
        worker = cage.popen(
            [sys.executable, "-m", "celery", "-A", "service", "worker", *OPTIONS.split()],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "C_FORCE_ROOT": "1"},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        deadline, before = time.monotonic() + within_s, -1
        while time.monotonic() < deadline and worker.poll() is None:
            lines = done.read_text().count("\n") if done.exists() else 0
            # After a kill: done, or nothing more comes.
            if lines >= TASKS or (cage.killed and lines == before):
                break
            before = lines
            time.sleep(1.0 if cage.killed else 0.1)
        killed = cage.killed
        worker.terminate()
        if not killed:  # else it waits for what it has lost
            worker.wait(30)
            killed = cage.killed
    rows = [line.split() for line in done.read_text().splitlines()]
    saved = folder / "saved"
    return {
        "done": sorted({int(number) for number, _ in rows}),
        "times": len(rows),
        "children": len({pid for _, pid in rows}),
        "killed": killed,
        "saved": saved.read_text().count("saved") if saved.exists() else 0,
        "said": (folder / "said").read_text(),
        "code": worker.returncode,
    }


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The same work without and with a guard, side by side, each in a cage of its own."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("bare", "guarded")}
    with ThreadPoolExecutor(2) as both:
        bare = both.submit(_run, folders["bare"], rules="", within_s=30.0)
        guarded = both.submit(_run, folders["guarded"], rules=RULES, within_s=90.0)
        return {"bare": bare.result(), "guarded": guarded.result()}


def test_bare_the_kernel_kills_and_tasks_are_lost(twins: dict[str, dict[str, Any]]) -> None:
    """Without a guard the leak meets the limit: a child is killed with a task in its hands, which is never done."""
    found = twins["bare"]
    assert found["killed"] >= 1
    assert len(found["done"]) < TASKS


def test_guarded_all_tasks_are_done(twins: dict[str, dict[str, Any]]) -> None:
    """With protect() children are handed over between two tasks: nobody is killed, each task is done once."""
    found = twins["guarded"]
    assert found["killed"] == 0, found["said"]
    assert found["done"] == list(range(TASKS)), found["said"]
    assert found["times"] == TASKS, found["said"]
    assert found["children"] >= 3, found["said"]
    assert found["saved"] >= 1
    assert found["code"] == 0, found["said"]
    assert "handover.begun" in found["said"]
    assert "WorkerLostError" not in found["said"]
