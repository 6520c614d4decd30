"""Every command of the operators' runbook, as it is typed, with their own curl and jq."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Shell = Callable[[str], str]

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def _json(text: str) -> Any:
    return json.loads(text)


def test_memory(shell: Shell) -> None:
    """`GET monitoring/memory`: limit and source, what is used and by whom, as numbers that fit together."""
    found = _json(shell("curl -s $A/monitoring/memory | jq"))
    assert found["limit_mb"] == 2048
    assert "keyword limit" in found["limit_source"]
    assert 20 < found["used_mb"] < found["limit_mb"]
    assert found["pressure"] == pytest.approx(found["used_mb"] / found["limit_mb"], abs=0.001)
    assert found["level"] == "OK"
    assert {"agents", "caches", "beliefs"} <= {holder["name"] for holder in found["holders"]}
    assert found["process"]["rss_mb"] == pytest.approx(found["used_mb"], rel=0.2)
    assert 0 < found["native_share"] < 1
    assert {"available_mb", "swap_used_mb", "swap_total_mb", "forecast_s", "working_set_mb", "children", "gc"} <= set(
        found
    )


def test_metrics(shell: Shell) -> None:
    """`GET monitoring/metrics | grep memory`: one metric a line."""
    lines = shell("curl -s $A/monitoring/metrics | grep memory").splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values["memguard_memory_limit_bytes"]) == 2 << 30
    assert 20 << 20 < float(values["memguard_memory_usage_bytes"]) < 2 << 30


def test_top_finds_an_agent(shell: Shell) -> None:
    """`GET monitoring/memory/top`: an agent of 50 MB more shows within 10 %; the rows add up to what is used."""
    ask = "curl -s $A/monitoring/memory/top | jq '.consumers[:10]'"

    def agents() -> float:
        rows = {row["name"]: row for row in _json(shell(ask))}
        return float(rows["agents"]["memory_mb"]) if "agents" in rows else 0.0

    before = agents()
    shell('curl -s -X POST "$B/agents/large?mb=50"')
    assert agents() - before == pytest.approx(50, rel=0.1)
    whole = _json(shell("curl -s $A/monitoring/memory/top | jq"))
    rows = whole["consumers"]
    assert [row["memory_mb"] for row in rows] == sorted((row["memory_mb"] for row in rows), reverse=True)
    assert sum(row["memory_mb"] for row in rows) == pytest.approx(whole["used_mb"], abs=0.1)
    assert {"pool", "native", "python heap"} <= {row["kind"] for row in rows}
    assert rows[0]["reclaimable_mb"] == pytest.approx(50, rel=0.1)


def test_the_pandas_recipe(base: str) -> None:
    """The runbook's recipe runs as it is: a frame, timestamps, the mean growth."""
    pandas = pytest.importorskip("pandas")
    deadline = time.monotonic() + 20
    while True:
        data = httpx.get(f"{base}/api/v1/monitoring/metrics/memory?duration=1h&interval=1s").json()
        if len(data["metrics"]) > 2:
            break
        assert time.monotonic() < deadline
        time.sleep(0.3)
    df = pandas.DataFrame(data["metrics"])
    df["timestamp"] = pandas.to_datetime(df["timestamp"])
    growth = df["value"].diff().mean()
    assert growth == growth, "a number, not NaN"  # noqa: PLR0124 - that is how NaN is told
    assert df["timestamp"].is_monotonic_increasing
    assert str(df["timestamp"].dtype).endswith("UTC]")
    assert (df["max_mb"] >= df["memory_mb"]).all()
    assert abs(time.time() - df["timestamp"].iloc[-1].timestamp()) < 10


def test_metrics_of_a_day(shell: Shell) -> None:
    """`duration=24h&interval=5m`: rows of MiB, oldest first, and none for a time in which nothing was read."""
    found = _json(shell('curl -s "$A/monitoring/metrics/memory?duration=24h&interval=5m"'))
    assert found["interval_s"] == 300
    assert 1 <= len(found["metrics"]) <= 3
    assert found["metrics"][0]["timestamp"].endswith("Z")
    assert found["metrics"][0]["value"] == found["metrics"][0]["memory_mb"]


def test_trend(shell: Shell) -> None:
    """`metrics/memory/trend`: a verdict of five, a slope with its confidence, words."""
    found = _json(shell('curl -s "$A/monitoring/metrics/memory/trend?duration=1h" | jq'))
    assert found["verdict"] in {"flat", "filling", "leak-like", "spike", "unknown"}
    assert found["words"]
    assert {"growth_mb_per_h", "growth_confidence", "seconds_to_limit", "confidence"} <= set(found)


def test_agents(shell: Shell) -> None:
    """`metrics/agent_memory` and `agents/memory`: who holds how much, who is at work, what it believes."""
    shell("curl -s -X POST $B/agents/worker?hold=true; curl -s -X POST $B/agents/idle?mb=3")
    rows = {row["id"]: row for row in _json(shell("curl -s $A/monitoring/metrics/agent_memory | jq '.agents'"))}
    assert rows["worker"]["critical"]
    assert not rows["idle"]["critical"]
    top = _json(shell("curl -s $A/monitoring/agents/memory | jq '.agents | sort_by(.memory_mb) | reverse | .[:5]'"))
    assert len(top) <= 5
    found = {row["id"]: row for row in _json(shell("curl -s $A/monitoring/agents/memory"))["agents"]}
    assert found["worker"]["state"] == "running"
    assert found["idle"]["memory_mb"] >= 3
    assert found["idle"]["belief_size_kb"] > 20
    assert found["worker"]["idle_s"] == 0.0


def test_beliefs_lifecycle_pool(shell: Shell) -> None:
    """`agents/beliefs`, `agents/lifecycle`, `agents/pool`: sizes and how they are stored; what became of agents."""
    shell("curl -s -X POST $B/agents/believer")
    beliefs = _json(shell("curl -s $A/monitoring/agents/beliefs | jq '.beliefs'"))
    one = next(row for row in beliefs if row["id"] == "believer")
    assert one["stored_as"] == "live"
    assert one["belief_size_kb"] > 20
    life = _json(shell("curl -s $A/monitoring/agents/lifecycle | jq"))
    pool = _json(shell("curl -s $A/monitoring/agents/pool | jq"))
    assert life["alive"] == pool["size"] >= 1
    assert life["created"] >= life["alive"]
    assert {"finished", "orphaned", "refused"} <= set(life)
    assert pool["oldest_idle_s"] >= 0
    assert pool["max_size"] >= pool["size"]


def test_operations(shell: Shell) -> None:
    """`operations?status=running&duration_gt=…`: requests by their route's template, while they run."""
    script = (
        "curl -s $B/slow/3 >/dev/null & sleep 0.7; "
        'curl -s "$A/monitoring/operations?status=running&duration_gt=0.3" | jq; wait'
    )
    rows = _json(shell(script))["operations"]
    assert [row["type"] for row in rows] == ["GET /slow/{seconds}"]
    assert rows[0]["status"] == "running"
    assert 0.3 < rows[0]["duration_s"] < 3
    assert _json(shell('curl -s "$A/monitoring/operations?status=running&duration_gt=300" | jq'))["operations"] == []
    done = _json(shell('curl -s "$A/monitoring/operations?status=done" | jq'))["operations"]
    assert "GET /slow/{seconds}" in {row["type"] for row in done}


def test_gc_and_websockets(shell: Shell, base: str) -> None:
    """`monitoring/gc` and `websocket/stats`: what collections do, which sockets are open."""
    websockets = pytest.importorskip("websockets")
    assert _json(shell("curl -s $A/monitoring/gc | jq"))["thresholds"]

    async def talk() -> Any:
        async with websockets.connect(f"{base.replace('http', 'ws')}/talk/ada") as socket:
            await socket.send("hello")
            assert await socket.recv() == "ada: hello"
            return await asyncio.to_thread(lambda: _json(shell("curl -s $A/monitoring/websocket/stats | jq")))

    found = asyncio.run(talk())
    assert found["open"] == 1
    (row,) = [row for row in found["paths"] if row["open"]]
    assert row["path"] == "/talk/{name}"
    assert (row["messages_in"], row["messages_out"], row["bytes_in"], row["bytes_out"]) == (1, 1, 5, 10)
    assert _json(shell("curl -s $A/websocket/stats"))["paths"]


def test_dump(shell: Shell, tmp_path: Path) -> None:
    """`POST monitoring/memory/dump -o …`: types, sizes, growth; nothing of what an agent believes."""
    shell("curl -s -X POST $B/agents/secretive")
    file = tmp_path / "memory_dump_now.json"
    shell(f'curl -s -X POST "$A/monitoring/memory/dump?seconds=1" -o {file}')
    text = file.read_text()
    found = _json(text)
    assert found["census"]["counts"]["builtins.dict" if "builtins.dict" in found["census"]["counts"] else "dict"] > 100
    assert found["summary"]
    assert found["since_start"]
    assert all(row["grown"] > 0 for row in found["since_start"])
    traced = _json(shell('curl -s -X POST "$A/monitoring/memory/dump?seconds=1&trace=true"'))
    assert traced["trace"]["seconds"] > 0 or traced["trace"]["refused"]
    assert "secretive" not in text


def test_cleanup_and_clear(shell: Shell) -> None:
    """`cache/cleanup` drops what has expired and nothing else; `clear-cache` drops all."""
    for _ in range(20):  # once a second the guard does the same by itself, and may come before
        shell("curl -s -X POST $B/fill; sleep 0.2")
        found = _json(shell("curl -s -X POST $A/system/cache/cleanup"))
        gone = {row["name"]: row["entries"] for row in found["caches"]}
        assert gone["lasting"] == 0
        if gone["expiring"]:
            break
    assert gone["expiring"] > 0
    assert _json(shell("curl -s $B/cached"))["lasting"] == 1000
    assert "bought_mb" in found
    cleared = _json(shell("curl -s -X POST $B/admin/clear-cache"))
    assert {row["name"]: row["entries"] for row in cleared["caches"]} == {"expiring": 0, "lasting": 1000}
    assert _json(shell("curl -s $B/cached"))["lasting"] == 0


def test_pool_gets_a_new_cap(shell: Shell) -> None:
    """`system/agents/pool {"max_size": …}`: idle ones above it go, those at work stay and are told of."""
    shell("for n in 1 2 3; do curl -s -X POST $B/agents/idle$n; done; curl -s -X POST $B/agents/busy?hold=true")
    order = """curl -s -X POST $A/system/agents/pool -H 'Content-Type: application/json' -d '{"max_size": %s}'"""
    found = _json(shell(order % 0))
    assert found["retired"] >= 3
    assert found["running_above"] >= 1
    assert _json(shell("curl -s $A/monitoring/agents/pool"))["size"] == found["running_above"]
    assert _json(shell(order % 50))["max_size"] == 50


@pytest.mark.parametrize("path", ["system/gc", "agents/gc"])
def test_gc_by_hand(shell: Shell, path: str) -> None:
    """`system/gc` and `agents/gc {"mode": …}`: before, after, what came back, objects, pause."""
    found = _json(shell(f"curl -s -X POST $A/{path} -H 'Content-Type: application/json' -d '{{\"mode\": \"full\"}}'"))
    assert found["generation"] == 2
    assert found["freed_mb"] == pytest.approx(found["before_mb"] - found["after_mb"], abs=5)
    assert found["pause_s"] > 0
    assert found["objects"] >= 0
    assert _json(shell(f"curl -s -X POST $A/{path}"))["mode"] == "full"


def test_orphans_are_cleaned_up(shell: Shell) -> None:
    """`system/agents/cleanup`: agents whose owner has ended are retired, and listed."""
    shell("curl -s -X POST $B/orphans/forlorn")
    found = _json(shell("curl -s -X POST $A/system/agents/cleanup"))
    assert "forlorn" in found["retired"]
    assert found["count"] == len(found["retired"])
    assert "forlorn" not in {row["id"] for row in _json(shell("curl -s $A/monitoring/agents/memory"))["agents"]}


def test_config(shell: Shell) -> None:
    """`PUT system/config`: applied values; what is unknown is ignored and said; a wrong value changes nothing."""
    put = "curl -s -o - -w ' %{http_code}' -X PUT $A/system/config -H 'Content-Type: application/json' -d "
    text, status = shell(put + """'{"belief_compression": false, "belief_size_limit_mb": 10, "colour": 1}'""").rsplit(
        " ", 1
    )
    found = _json(text)
    assert status == "200"
    assert found["applied"] == {"belief_compression": False, "belief_size_limit_mb": 10}
    assert found["ignored"] == ["colour"]
    text, status = shell(put + """'{"belief_compression": true, "belief_size_limit_mb": -3}'""").rsplit(" ", 1)
    assert status == "422"
    assert "belief_size_limit_mb" in _json(text)["detail"]
    (states,) = _json(shell("curl -s $A/monitoring/agents/beliefs"))["states"]
    assert (states["compression"], states["max_mb_each"]) == (False, 10)


def test_beliefs_are_compacted(shell: Shell) -> None:
    """`agents/beliefs/compact`: what is over its limit is made smaller; bytes before and after."""
    put = "curl -s -X PUT $A/system/config -H 'Content-Type: application/json' -d "
    shell(put + """'{"belief_compression": true, "belief_size_limit_mb": 10}'""")
    shell("curl -s -X POST $B/agents/talkative")
    shell(put + """'{"belief_size_limit_mb": 0.01}'""")
    found = _json(shell("curl -s -X POST $A/system/agents/beliefs/compact"))
    assert found["states"][0]["name"] == "beliefs"
    rows = _json(shell("curl -s $A/monitoring/agents/beliefs"))["beliefs"]
    assert next(row for row in rows if row["id"] == "talkative")["stored_as"] == "packed"
    assert found["after_bytes"] <= found["before_bytes"]


def test_pool_reset_without_an_engine(shell: Shell) -> None:
    """`system/db/pool/reset`: 404 with words when no engine is registered."""
    text, status = shell("curl -s -w ' %{http_code}' -X POST $A/system/db/pool/reset").rsplit(" ", 1)
    assert status == "404"
    assert "engine" in _json(text)["detail"]
