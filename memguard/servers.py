"""Servers: which one this process works for, who starts a new worker when it ends, and how it ends without loss.

What cannot be told is not guessed: a way says in ``hindrance`` why nobody would follow.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from memguard.rules import Rules

__all__ = ["Way", "find_way"]

_CLOSE = (b"connection", b"close")


class Way:
    """How this process is left, and who follows it.

    ``words`` says it for people. ``shared`` tells whether another process accepts on the same socket, so that what is
    not accepted here is lost to nobody. ``loop`` is the server's event loop.
    """

    shared: bool = False
    drains: bool = False
    """Whether the door can be closed while work goes on; else the server does both once it is asked to end."""

    hindrance: str = ""
    tells_close: bool = False
    """Whether its answers say by themselves, once the door is closed, that the connection ends."""

    last_code: int = 0
    """What the process exits with if its server does not end it in time."""

    group: str = ""
    """What those that follow each other have in common; "" where the server, or how it was started, tells."""

    patient: bool = False
    """Whether work under way is never cut off, however long it takes: the process ends by itself in the end."""

    def __init__(self, words: str) -> None:
        self.words: str = words
        self.loop: Any = None

    def halt(self) -> None:
        """Before the turn is taken: where work may take long, take in no more and wait for its end."""

    def resume(self) -> None:
        """It was not this process's turn: go on as before."""

    def close_door(self) -> None:
        """Accept no more connections; those that are there end with their next answer."""

    def connections(self) -> int:
        """How many connections would be cut by leaving now, beside those whose requests are known."""
        return 0

    def leave(self) -> None:
        """End this process as its server wants it: SIGTERM, which lets go of what is idle."""
        os.kill(os.getpid(), signal.SIGTERM)

    def __repr__(self) -> str:
        return f"<Way {self.words}>"


def find_way(rules: Rules) -> Way:
    """The way of the server that this process works for; reads what is loaded, changes nothing."""
    if os.name != "posix":
        return _closed(Way("unknown"), "only on POSIX systems")
    for find in (_gunicorn, _uvicorn, _hypercorn, _granian):
        way = find(rules)
        if way is not None:
            return way
    return _Plain("a plain process", rules)


def _closed(way: Way, hindrance: str) -> Way:
    way.hindrance = hindrance
    return way


def _instance(module: str, name: str, *signals: signal.Signals, ours: Callable[[Any], bool] = lambda _: True) -> Any:  # noqa: ANN401 - another library's object
    """The object of a class that a loaded library has made: whose method a signal calls, or one that is alive."""
    cls = getattr(sys.modules.get(module), name, None)
    if cls is None:
        return None
    for number in signals:
        owner = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(owner, cls) and ours(owner):
            return owner
    return next((found for found in gc.get_objects() if issubclass(type(found), cls) and ours(found)), None)


def _main_process(server: str) -> Way:
    """A server's own main process: a guard may be in it, by ``memguard run`` or because it forks its workers."""
    return _closed(Way(f"{server}'s main process"), f"{server}'s main process stays: its workers hand over")


def _child() -> bool:
    """Whether multiprocessing started this process, and who did lives."""
    process = sys.modules.get("multiprocessing.process")
    parent = None if process is None else process.parent_process()
    return parent is not None and parent.is_alive()


def _parent_words() -> list[str]:
    """The command line of the parent, where it can be read."""
    try:
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:  # noqa: PTH123 - pathlib is not loaded for this
            return [word.decode("utf-8", "replace") for word in file.read().split(b"\0") if word]
    except OSError:
        return []


# --- asyncio's listening sockets --------------------------------------------------------------------------------


class _Door:
    """The listening sockets of one event loop."""

    def __init__(self, loop: Any, servers: list[Any]) -> None:  # noqa: ANN401 - asyncio's or uvloop's
        self._loop = loop
        self._servers = servers

    def close(self) -> None:
        """Accept no more, from any thread."""
        self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        for server in self._servers:
            if type(server).__module__.partition(".")[0] == "uvloop":
                server.close()
                continue
            # Not asyncio's close(): a connection that was accepted just before would meet an assertion.
            for listener in server.sockets:
                self._loop.remove_reader(listener.fileno())


# --- uvicorn ----------------------------------------------------------------------------------------------------


class _Uvicorn(Way):
    """A worker that runs uvicorn's server, under its own supervisor or gunicorn's."""

    shared = True
    drains = True
    tells_close = True

    def __init__(self, words: str, server: Any) -> None:  # noqa: ANN401 - as _instance
        super().__init__(words)
        self._server = server
        self.loop = server.servers[0].get_loop() if getattr(server, "servers", None) else None

    def close_door(self) -> None:
        server = self._server
        if self.shared and self.loop is not None:
            _Door(self.loop, server.servers).close()
        server.config.encoded_headers.append(_CLOSE)
        server.server_state.default_headers = [*server.server_state.default_headers, _CLOSE]
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._end_requests)

    def _end_requests(self) -> None:
        """Requests under way took their headers along when they began."""
        for connection in list(self._server.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not getattr(cycle, "response_started", True):
                cycle.keep_alive = False

    def connections(self) -> int:
        return len(self._server.server_state.connections)


def _uvicorn(rules: Rules) -> Way | None:
    server = _instance("uvicorn.server", "Server", signal.SIGTERM)
    if server is None:
        return None
    config = server.config
    if getattr(config, "should_reload", False):
        return _closed(_Uvicorn("uvicorn --reload", server), "uvicorn --reload starts no new worker when one ends")
    if config.workers > 1 and not _child() and _instance("uvicorn.supervisors.multiprocess", "Multiprocess"):
        return _main_process("uvicorn")
    if config.workers > 1 and _child():
        return _Uvicorn(f"uvicorn --workers {config.workers}: its supervisor starts a new worker", server)
    return _UvicornAlone(server, rules)


# --- a process of its own ---------------------------------------------------------------------------------------


class _Plain(Way):
    """A process that nobody of its kind replaces: systemd or Kubernetes may."""

    drains = True

    def __init__(self, words: str, rules: Rules) -> None:
        super().__init__(words)
        self._code = self.last_code = rules.handover_exit_code
        self._follow(rules)

    def _follow(self, rules: Rules) -> None:
        """Say who starts it anew, as far as can be told."""
        exits = f"exits with code {self._code}"
        if rules.handover == "on":
            self.words += f": {exits}, and whoever started it starts it again, as handover='on' says"
        elif os.environ.get("KUBERNETES_SERVICE_HOST") and 1 in {os.getpid(), os.getppid()}:
            self.words += f": {exits}, and Kubernetes starts the container again (unless restartPolicy is Never)"
        else:
            under = "systemd" if os.environ.get("INVOCATION_ID") and os.getppid() == 1 else "whoever started it"
            self.hindrance = (
                f"{self.words} {exits}, and it cannot be seen whether {under} would start it again; if so "
                "(Restart=always, Restart=on-failure), say handover='on'"
            )

    def leave(self) -> None:
        """Ask the main thread to end as it ends by hand, and have the exit code say that a new start is wanted."""
        _exit_code(self._code)
        for number in (signal.SIGTERM, signal.SIGINT):
            if callable(signal.getsignal(number)):
                os.kill(os.getpid(), number)
                return
        sys.stdout.flush()
        os._exit(self._code)


class _UvicornAlone(_Plain):
    """One uvicorn process: nobody else accepts on its socket."""

    tells_close = True

    def __init__(self, server: Any, rules: Rules) -> None:  # noqa: ANN401 - as _instance
        self._inner = _Uvicorn("", server)
        self._inner.shared = False
        self._server = server
        super().__init__("one uvicorn process", rules)
        self.loop = self._inner.loop

    def close_door(self) -> None:
        self._inner.close_door()

    def connections(self) -> int:
        return self._inner.connections()

    def leave(self) -> None:
        # Not SIGTERM: uvicorn dies of it in the end, which systemd's on-failure takes for a wish.
        _exit_code(self._code)
        self._server.should_exit = True


def _exit_code(code: int) -> None:
    """Have this process exit with a code whatever its main thread says, after everybody's own farewells."""

    def last() -> None:
        atexit.unregister(last)
        atexit._run_exitfuncs()  # noqa: SLF001 - those that were registered before
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                continue
        os._exit(code)

    atexit.register(last)


# --- gunicorn ---------------------------------------------------------------------------------------------------


class _Gunicorn(Way):
    """One of gunicorn's own workers: SIGTERM lets it finish, and its arbiter starts another."""

    shared = True

    def __init__(self, words: str, worker: Any) -> None:  # noqa: ANN401 - as _instance
        super().__init__(words)
        self._worker = worker
        self.loop = getattr(worker, "loop", None)
        self.drains = self.loop is not None and isinstance(getattr(worker, "servers", None), list)

    def close_door(self) -> None:
        if self.drains:
            _Door(self.loop, self._worker.servers).close()

    def connections(self) -> int:
        return int(self._worker.nr_conns) if self.drains else 0


def _gunicorn(_rules: Rules) -> Way | None:
    # A worker that was forked later knows its elders, too, as the arbiter did.
    ours: Callable[[Any], bool] = lambda found: found.pid == os.getpid() and found.ppid == os.getppid()  # noqa: E731
    worker = _instance("gunicorn.workers.base", "Worker", signal.SIGUSR1, signal.SIGTERM, ours=ours)
    if worker is None:
        own: Callable[[Any], bool] = lambda found: getattr(found, "pid", None) == os.getpid()  # noqa: E731 - as above
        arbiter = _instance("gunicorn.arbiter", "Arbiter", signal.SIGTERM, signal.SIGHUP, ours=own)
        return None if arbiter is None else _main_process("gunicorn")
    words = f"gunicorn -w {worker.cfg.workers} ({type(worker).__name__}): its arbiter starts a new worker"
    server = _instance("uvicorn.server", "Server", signal.SIGTERM)
    way: Way = _Gunicorn(words, worker) if server is None else _Uvicorn(words, server)
    if worker.cfg.reuse_port:
        way.words += "; with --reuse-port connections that wait at this worker are reset when it leaves"
    return way


# --- hypercorn, granian -----------------------------------------------------------------------------------------


class _Hypercorn(Way):
    """A worker of hypercorn, which starts another only after one that ended well: not by a signal."""

    shared = True

    def __init__(self, words: str, context: Any) -> None:  # noqa: ANN401 - as _instance
        super().__init__(words)
        self._event = context.terminate._event  # noqa: SLF001 - what its max_requests sets
        self.loop = getattr(self._event, "_loop", None)

    def leave(self) -> None:
        self.loop.call_soon_threadsafe(self._event.set)


def _hypercorn(_rules: Rules) -> Way | None:
    if "hypercorn.config" not in sys.modules:
        return None
    context = _instance("hypercorn.asyncio.worker_context", "WorkerContext")
    if context is None or not hasattr(getattr(context.terminate, "_event", None), "set"):
        return _closed(Way("hypercorn"), "hypercorn's worker was not found: its asyncio and uvloop workers are known")
    way = _Hypercorn("hypercorn: its main process starts a new worker", context)
    if not _child():
        way.hindrance = "hypercorn --workers 0 starts no new worker: leave it out"
    elif way.loop is None:
        way.hindrance = "hypercorn's event loop was not found"
    return way


def _granian(_rules: Rules) -> Way | None:
    if "granian.server" not in sys.modules or not _child():
        return None
    way = Way("granian: its main process starts a new worker")
    way.shared = True
    words, switch = _parent_words(), "--respawn-failed-workers"
    env = os.environ.get("GRANIAN_RESPAWN_FAILED_WORKERS", "").lower()
    if switch not in words and env not in {"1", "true", "yes", "on", "t", "y"}:
        way.hindrance = f"granian ends as a whole when a worker does: start it with {switch}"
    return way
