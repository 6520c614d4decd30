"""Who may look and who may act: nobody but those the application means, whatever they write into their requests."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import HTTPException, Request

from memguard.errors import RulesError
from tests.control.asking import API, ask, client, fake_guard, fake_report, protected

if TYPE_CHECKING:
    import httpx

    import memguard

LOOK = f"{API}/monitoring/memory"
ACT = f"{API}/system/agents/cleanup"
KEY = "s3cret-enough"
BEARER = {"authorization": f"Bearer {KEY}"}


def _ask(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    return asyncio.run(ask(app, method, path, **options))


def _is_problem(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert len(answer.json()["detail"]) > 20, "words that say what to do"


def test_this_machine_may_look() -> None:
    """A direct client of the loopback looks without a token, by either family of addresses."""
    app = protected()
    for address, host in (("127.0.0.1", "localhost"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
        assert _ask(app, "GET", LOOK, address=address, host=host).status_code == 200
    assert _ask(app, "GET", LOOK, address="::ffff:127.0.0.1").status_code == 200


def test_others_may_not_look() -> None:
    """Another machine does not look without a token, and is told what to do."""
    _is_problem(_ask(protected(), "GET", LOOK, address="10.0.0.9"), 403)
    answer = _ask(protected(token=KEY), "GET", LOOK, address="10.0.0.9")
    _is_problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header",
    [
        {"x-forwarded-for": "127.0.0.1"}, {"X-Forwarded-Proto": "https"}, {"forwarded": "for=127.0.0.1"},
        {"via": "1.1 proxy"}, {"x-real-ip": "127.0.0.1"}, {"x-envoy-external-address": "127.0.0.1"},
        {"cf-connecting-ip": "127.0.0.1"}, {"x-forwarded-for": ""}, {"connection": "close, x-forwarded-for"},
        {"host": "rebound.example"}, {"host": "localhost.evil.example"}, {"host": "127.0.0.1.evil.example"},
        {"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}, {"origin": "null"},
    ],
    ids=str,
)  # fmt: skip
def test_what_was_forwarded_is_not_local(header: dict[str, str]) -> None:
    """One header that a proxy, a rebound name or another site's page adds, and the request is nobody's of here."""
    app = protected(local_actions=True)
    assert _ask(app, "GET", LOOK, headers=header).status_code == 403
    assert _ask(app, "POST", ACT, headers=header).status_code == 403


def test_an_old_protocol_is_a_proxy() -> None:
    """HTTP/1.0 is what proxies speak that add no header."""
    app = protected(local_actions=True)
    sent: list[Any] = []

    async def run() -> None:
        scope = {
            "type": "http", "http_version": "1.0", "method": "GET", "path": LOOK, "root_path": "", "query_string": b"",
            "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "scheme": "http", "raw_path": b"",
            "server": ("127.0.0.1", 8000),
        }  # fmt: skip

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)

    asyncio.run(run())
    assert sent[0]["status"] == 403


def test_two_hosts_are_none() -> None:
    """A request with two Host headers is not local."""
    headers = [("host", "localhost"), ("host", "evil.example")]
    assert _ask(protected(), "GET", LOOK, headers=headers).status_code in {400, 403}


def test_acting_is_off() -> None:
    """Without a token and without leave nobody acts, not even on this machine."""
    app = protected()
    for method, path in (
        ("POST", ACT), ("POST", f"{API}/system/gc"), ("POST", f"{API}/monitoring/memory/dump"),
        ("POST", "/admin/clear-cache"),
        ("PUT", f"{API}/system/config"), ("POST", f"{API}/agents/gc"), ("POST", f"{API}/system/agents/pool"),
        ("POST", f"{API}/system/cache/cleanup"), ("POST", f"{API}/system/agents/cleanup"),
        ("POST", f"{API}/system/agents/beliefs/compact"), ("POST", f"{API}/system/db/pool/reset"),
    ):  # fmt: skip
        answer = _ask(app, method, path)
        _is_problem(answer, 403)
        assert "local_actions=True" in answer.json()["detail"]


def test_a_token_acts_from_anywhere() -> None:
    """The right token looks and acts; a wrong one does neither, not even on this machine."""
    for address in ("10.0.0.9", "127.0.0.1"):
        app = protected(token=KEY)
        assert _ask(app, "GET", LOOK, address=address, headers=BEARER).status_code == 200
        assert _ask(app, "POST", ACT, address=address, headers=BEARER).status_code == 200
        for wrong in (
            {"authorization": "Bearer wrong"}, {"authorization": "Bearer"}, {"authorization": "Basic s3cret-enough"},
            {"authorization": "Bearer s3cret-enough-too"}, {"authorization": "s3cret-enough"},
        ):  # fmt: skip
            _is_problem(_ask(app, "GET", LOOK, address=address, headers=wrong), 401)
            _is_problem(_ask(app, "POST", ACT, address=address, headers=wrong), 401)
    _is_problem(_ask(app, "POST", ACT), 401)
    twice = [("authorization", "Bearer s3cret-enough"), ("authorization", "Bearer other")]
    _is_problem(_ask(app, "POST", ACT, headers=twice), 401)


def test_local_actions_come_from_here() -> None:
    """With leave, direct clients of this machine act without a token; nobody else does."""
    app = protected(local_actions=True)
    assert _ask(app, "POST", ACT).status_code == 200
    _is_problem(_ask(app, "POST", ACT, address="10.0.0.9"), 403)
    both = protected(local_actions=True, token=KEY)
    assert _ask(both, "POST", ACT).status_code == 200
    _is_problem(_ask(both, "POST", ACT, address="10.0.0.9"), 401)


def test_the_environment_may_give_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """MEMGUARD_LOCAL_ACTIONS=1 is leave; the argument wins; anything but yes and no is refused."""
    monkeypatch.setenv("MEMGUARD_LOCAL_ACTIONS", "1")
    assert _ask(protected(), "POST", ACT).status_code == 200
    assert _ask(protected(local_actions=False), "POST", ACT).status_code == 403
    monkeypatch.setenv("MEMGUARD_LOCAL_ACTIONS", "perhaps")
    with pytest.raises(RulesError, match="MEMGUARD_LOCAL_ACTIONS"):
        protected()


@pytest.mark.parametrize(
    "header",
    [
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"},
        {"origin": "null"}, {"origin": "http://localhost:9999"},
    ],
    ids=str,
)  # fmt: skip
def test_other_sites_do_not_write(header: dict[str, str]) -> None:
    """Another site's page acts neither on this machine's leave nor with a token."""
    app = protected(local_actions=True, token=KEY)
    assert _ask(app, "POST", ACT, headers=header).status_code == 403
    assert _ask(app, "POST", ACT, headers={**header, **BEARER}).status_code == 403


def test_our_own_page_writes() -> None:
    """What browsers send from the page itself is accepted."""
    app = protected(local_actions=True)
    own = {"sec-fetch-site": "same-origin", "origin": "http://localhost:8000"}
    assert _ask(app, "POST", ACT, headers=own).status_code == 200
    assert _ask(app, "POST", ACT, headers={"origin": "http://localhost:8000"}).status_code == 200


def test_a_form_is_no_order() -> None:
    """A body has to be JSON: any page may send a form anywhere."""
    app = protected(local_actions=True)
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", ""):
        answer = _ask(app, "POST", ACT, content=b'{"mode": "full"}', headers={"content-type": kind})
        _is_problem(answer, 415)


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_are_refused(chunked: bool) -> None:
    """A body of a megabyte is refused before it is read, or where it becomes too large."""
    app = protected(local_actions=True)
    read = 0

    async def pieces() -> Any:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b" " * 1024

    body: Any = pieces() if chunked else b" " * (1 << 20)
    answer = _ask(app, "PUT", f"{API}/system/config", content=body, headers={"content-type": "application/json"})
    _is_problem(answer, 413)


def test_a_dependency_decides_alone() -> None:
    """access=: the application's own dependency lets in or keeps out, whoever asks from wherever."""

    def judge(request: Request) -> None:
        if request.headers.get("x-user") != "ada":
            raise HTTPException(403, "ada alone")

    app = protected(access=judge)
    assert _ask(app, "POST", ACT, address="10.0.0.9", headers={"x-user": "ada"}).status_code == 200
    assert _ask(app, "GET", LOOK, headers={"x-user": "eve"}).status_code == 403
    assert _ask(app, "POST", ACT, headers={"x-user": "ada", "origin": "http://evil.example"}).status_code == 403


def test_a_dependency_decides_on_everything() -> None:
    """access= judges every path there is, the page's feed included; only the page and the probes are for all."""

    def judge() -> None:
        raise HTTPException(401, "nobody at all", headers={"www-authenticate": "Bearer"})

    app = protected(access=judge)
    paths = app.state.memguard_control.paths
    assert f"{API}/monitoring/stream" in paths.looks
    for path in paths.looks:
        assert _ask(app, "GET", path).status_code == 401, path
    for path in paths.acts:
        method = "PUT" if path.endswith("config") else "POST"
        assert _ask(app, method, path, json={"max_size": 1}).status_code == 401, path


def test_every_path_is_judged() -> None:
    """From afar, without a token, nothing but the page and the probes answers."""
    app = protected()
    paths = app.state.memguard_control.paths
    assert len(paths.all()) >= 30
    for path in (*paths.looks, *paths.acts):
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"):
            assert _ask(app, method, path, address="10.0.0.9").status_code == 403, (method, path)


def test_ten_thousand_dumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask for dumps at once, a few are made and the rest is told when to come again."""
    guard, _, _ = fake_guard()
    report, made = fake_report(), 0

    def diagnose(*_: object, **__: object) -> object:
        nonlocal made
        made += 1
        return report

    monkeypatch.setattr(guard, "diagnose", diagnose)
    app = protected(guard=guard, local_actions=True)

    async def run() -> set[int]:
        async with client(app) as line:
            path = f"{API}/monitoring/memory/dump?seconds=0"
            answers = [await asyncio.gather(*(line.post(path) for _ in range(50))) for _ in range(200)]
            last = answers[-1][-1]
            assert int(last.headers["retry-after"]) >= 1
            return {answer.status_code for each in answers for answer in each}

    began = time.monotonic()
    assert asyncio.run(run()) == {200, 429}
    assert made <= 4 + (time.monotonic() - began) / 10, "three at once, and one every ten seconds"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", "a\r\nset-cookie: b", ".hidden", "x" * 100, "%00"])
def test_names_of_dumps_lead_nowhere(name: str) -> None:
    """A dump's name is a name: no path, no header."""
    answer = _ask(
        protected(local_actions=True), "POST", f"{API}/monitoring/memory/dump", params={"name": name, "seconds": "0"}
    )
    _is_problem(answer, 422)
    assert "set-cookie" not in answer.headers


def test_guesses_are_slowed_down() -> None:
    """After twenty wrong tokens the next have to wait, while the right one still works."""
    app = protected(token=KEY)

    async def run() -> list[int]:
        async with client(app) as line:
            wrong = [(await line.get(LOOK, headers={"authorization": f"Bearer {n}"})).status_code for n in range(60)]
            assert (await line.get(LOOK, headers=BEARER)).status_code == 200
            return wrong

    answers = asyncio.run(run())
    assert 15 <= answers.count(401) <= 25
    assert answers[-1] == 429


def test_what_is_done_is_told() -> None:
    """Who acted, what it was and what it bought is an event; who was refused, too."""
    heard: list[memguard.Event] = []
    guard, _, _ = fake_guard()
    guard.sink(heard.append)
    app = protected(guard=guard, token=KEY)
    _ask(app, "POST", ACT, address="10.0.0.9", headers=BEARER)
    _ask(app, "POST", ACT, address="10.0.0.8")
    acted = next(event for event in heard if event.name == "control.acted")
    assert "10.0.0.9" in str(acted.attributes["who"])
    assert "bought_bytes" in acted.attributes
    denied = next(event for event in heard if event.name == "control.denied")
    assert denied.attributes["who"] == "10.0.0.8"
    assert "s3cret" not in str([*acted.attributes.values(), acted.text, denied.text])


@pytest.mark.parametrize("token", ["", " ", "with blank", "schlüssel", "new\nline"])
def test_a_token_that_no_header_carries_is_refused(token: str) -> None:
    """A token that cannot be meant fails at once, and not at the first request."""
    with pytest.raises(RulesError):
        protected(token=token)
