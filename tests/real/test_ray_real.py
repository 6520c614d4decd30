"""A real Ray on one node under a real limit: one job, started once, of which each test holds one promise."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from memguard.testing.cage import Cage, cage_unavailable

# Not a skip of a test marked real, which CI takes for a failure: it installs Ray for one Python only.
_MISSING = importlib.util.find_spec("ray") is None
_WHY = "needs the extra 'ray'" if _MISSING else f"needs a real memory limit: {cage_unavailable()}"
pytestmark = (
    [pytest.mark.skipif(_MISSING, reason=_WHY)]
    if _MISSING
    else [pytest.mark.real, pytest.mark.skipif(cage_unavailable() is not None, reason=_WHY)]
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "ray.md"
# Ray's own processes take some 600 MiB of it.
LIMIT = "1400MiB"

JOB = """
import json, os, sys, time
import ray
from memguard.ext.ray import NeverFits
found = {}

def say(name, answer):
    found[name] = answer
    print(json.dumps({name: answer}), file=sys.stderr, flush=True)

@ray.remote
class Filler(GuardedActor):
    def hold(self, seconds):
        with self.guard.admit("550MiB"):
            time.sleep(seconds)
        return "held"

    def fill(self, count):
        total = 0
        for number in range(count):
            blob = page(number)
            total += blob[0] + len(blob)
        return total, self.guard.rules.mode

# Processes take a second or two to start: all at once.
agent, *pair = Agent.remote(sys.argv[1]), Filler.remote(), Filler.remote()

# --- the page's own job has run: its checksums
say("checksums", checksums)
say("nodes", [[view.level.name, view.limit_bytes, view.limit_source, view.error, len(view.processes),
               [row.name for row in view.processes]] for view in cluster()])

# --- a hand-over under calls
ray.get([agent.learn.remote(f"t{number}", "x" * 1000) for number in range(50)])
before = ray.get(agent.memguard_view.remote())
asked = [agent.memguard_hand_over.remote("a test")]
asked += [agent.learn.remote(f"u{number}", "y") for number in range(50)]
lost = 0
for ref in asked:
    try:
        ray.get(ref, timeout=60)
    except Exception as error:
        lost += 1
        print("lost:", repr(error)[:300], file=sys.stderr)
after = ray.get(agent.memguard_view.remote())
say("handover", {
    "lost": lost, "pids": [before.pid, after.pid], "restarts": [before.restarts, after.restarts],
    "way": before.handover, "states": after.states["beliefs"].live + after.states["beliefs"].packed,
    "known": ray.get(agent.recall.remote("t7")) == "x" * 1000,
    "operations": sorted(row.type for row in after.operations),
})
ray.kill(agent)

# --- an actor that Ray would not restart
plain = pair[0]
try:
    ray.get(plain.memguard_hand_over.remote())
except memguard.MemguardError as error:
    say("hindered", str(error.cause))

# --- room that another worker has promised: refused, made again by Ray, done
@ray.remote(max_retries=200, retry_exceptions=[memguard.AdmissionRefused])
@admitted(bytes="400MiB", wait_s=0.05)
def large(path):
    return "done"

@ray.remote(max_retries=200, retry_exceptions=[memguard.AdmissionRefused])
@admitted(bytes="900GiB", wait_s=5)
def never():
    return "done"

@ray.remote(max_retries=0)
@admitted(bytes="400MiB", wait_s=0.05)
def impatient():
    return "done"

holding = plain.hold.remote(2.0)
time.sleep(0.7)
try:
    say("impatient", ray.get(impatient.remote()))
except memguard.AdmissionRefused as error:
    say("impatient", [type(error.cause).__name__, error.retry_after_s > 0, str(error.cause)])
say("large", [ray.get(large.remote("")), ray.get(holding)])
began = time.monotonic()
try:
    say("never", ray.get(never.remote()))
except NeverFits as error:
    say("never", [type(error.cause).__name__, time.monotonic() - began < 4.0])

# --- actors that grow: guarded they live, observed they are killed
count = 10000                                     # 1 GB
bare = Filler.options(runtime_env={"env_vars": {"MEMGUARD_MODE": "observe"}}).remote()
expected = sum(number % 251 + 100_000 for number in range(count))
answers = ray.get([each.fill.remote(count) for each in pair])
say("guarded", [answer[0] == expected and answer[1] == "act" for answer in answers])
for each in pair:
    ray.kill(each)
try:
    say("bare", list(ray.get(bare.fill.remote(count))))
except ray.exceptions.RayError as error:
    say("bare", type(error).__name__)
with open(sys.argv[1] + "/found.json", "w") as file:  # Ray writes to stdout, too
    json.dump(found, file)
"""


def _page_job() -> tuple[str, str]:
    """The module and the program of docs/ray.md, with its result kept."""
    module, program, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "print(ray.get([checksum" in program
    return module, program.replace("print(ray.get([checksum", "checksums = (ray.get([checksum")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the job found, and in "killed" how many processes the kernel has killed."""
    folder = tmp_path_factory.mktemp("ray")
    script = folder / "job.py"
    module, program = _page_job()
    (folder / "pages.py").write_text(module)
    script.write_text(program + JOB)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short, Cage(LIMIT, name="ray", by="kernel") as cage:
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_TMPDIR": short,
        }
        job = cage.popen(
            [sys.executable, "-W", "ignore", str(script), str(folder)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        told, _ = job.communicate(timeout=200)
        assert job.returncode == 0, told[-6000:]
        return {**json.loads((folder / "found.json").read_text()), "killed": cage.killed, "told": told}


def test_the_pages_job_runs(found: dict[str, Any]) -> None:
    """The program of docs/ray.md computes what it says."""
    assert found["checksums"] == [
        sum(100_000 * (number % 251) for number in range(start, start + 50)) for start in range(0, 200, 50)
    ]


def test_the_node_shows_its_guarded_processes(found: dict[str, Any]) -> None:
    """One node, the cage's limit binds, and its workers are there by Ray's own titles."""
    ((level, limit_bytes, source, error, count, names),) = found["nodes"]
    assert (level, error) == ("OK", "")
    assert limit_bytes == 1400 << 20
    assert "memguard-" in source or "cgroup" in source
    assert count == len(names) >= 1  # the page's tasks may all have run in one worker
    assert all(name.startswith("ray::") for name in names), names


def test_an_actor_hands_over_without_loss(found: dict[str, Any]) -> None:
    """Calls that met the hand-over were all answered, by another process, which knows what the first one knew."""
    seen = found["handover"]
    assert seen["lost"] == 0, found["told"][-3000:]
    assert seen["restarts"] == [0, 1]
    assert seen["pids"][0] != seen["pids"][1]
    assert seen["states"] == 100
    assert seen["known"] is True
    assert "Ray restarts it" in seen["way"]
    assert {"Agent.learn", "Agent.recall"} & set(seen["operations"])


def test_an_actor_that_would_not_be_restarted_stays(found: dict[str, Any]) -> None:
    """A hand-over by hand is refused, with the mend."""
    assert "max_restarts=-1" in found["hindered"]


def test_a_refused_call_is_made_again_by_ray(found: dict[str, Any]) -> None:
    """While another worker's promise fills the node; without retries its caller meets the refusal; never is never."""
    assert found["large"] == ["done", "held"]
    name, hinted, text = found["impatient"]
    assert (name, hinted) == ("AdmissionRefused", True)
    assert "by other workers" in text
    assert found["never"] == ["NeverFits", True]


def test_actors_that_grow_live_guarded(found: dict[str, Any]) -> None:
    """Two that fill a cache with more than fits finish with the right results; one that is only observed is killed."""
    assert found["guarded"] == [True, True]
    assert found["bare"] in {"ActorDiedError", "ActorUnavailableError", "OutOfMemoryError"}
    assert found["killed"] >= 1
