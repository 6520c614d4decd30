"""An application looked at from inside: imported in a child process, and what in it will hold memory without end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final

from memguard.cli.checks import Finding
from memguard.cli.surroundings import allocator_of
from memguard.errors import MemguardError
from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Application", "check_application", "import_application"]

_NAME: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?")
_SHOWN: Final = 5
_STDERR_BYTES: Final = 600


@value
class Application:
    """What a freshly imported application is like: its memory, threads, garbage collector, caches, packages."""

    import_s: float
    rss_bytes: int | None
    threads: int
    gc_enabled: bool
    gc_thresholds: tuple[int, ...]
    gc_frozen: int
    allocator: str | None
    packages: Mapping[str, str]
    caches: tuple[Mapping[str, Any], ...]
    containers: tuple[Mapping[str, Any], ...]


def import_application(app: str, *, environ: Mapping[str, str], within_s: float) -> Application:
    """Import MODULE or MODULE:ATTRIBUTE in a child process and ask what it is like.

    Raises:
        MemguardError: no such module or attribute, an import that raises, dies or takes longer than ``within_s``.
    """
    if not _NAME.fullmatch(app):
        raise MemguardError(f"{app!r} names no application: write MODULE or MODULE:ATTRIBUTE, like app:main")
    answer = _ask(app, environ, within_s)
    if answer.get("error"):
        raise MemguardError(f"{app} cannot be imported: {answer['error']}; run from its folder, with its settings")
    return Application(
        import_s=answer["import_s"],
        rss_bytes=answer["rss_bytes"],
        threads=answer["threads"],
        gc_enabled=answer["gc_enabled"],
        gc_thresholds=tuple(answer["gc_thresholds"]),
        gc_frozen=answer["gc_frozen"],
        allocator=allocator_of(answer["maps"].encode("utf-8", "replace")),
        packages=answer["packages"],
        caches=tuple(answer["caches"]),
        containers=tuple(answer["containers"]),
    )


def _ask(app: str, environ: Mapping[str, str], within_s: float) -> dict[str, Any]:
    out, into = os.pipe()
    with tempfile.TemporaryFile() as said:
        try:
            child = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                [sys.executable, "-m", "memguard.cli.inside", app, str(into)],
                env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, pass_fds=(into,),
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(into)
        try:
            text = _read(out, within_s)
        finally:
            os.close(out)
            # What it started while it was imported goes with it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            status = child.wait()
        if text is None:
            raise MemguardError(
                f"{app} was not imported within {within_s:g} s: give it --timeout, or keep servers out of its import "
                '(if __name__ == "__main__":)'
            )
        try:
            answer: dict[str, Any] = json.loads(text)
        except ValueError:
            said.seek(0)
            last = said.read()[-_STDERR_BYTES:].decode("utf-8", "replace").strip() or "it said nothing"
            raise MemguardError(f"{app} ended while it was imported (status {status}): {last}") from None
    return answer


def _read(descriptor: int, within_s: float) -> bytes | None:
    """The line that the child writes, or what came of it until its end was closed; None when time is up."""
    until, parts = time.monotonic() + within_s, list[bytes]()
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        part = os.read(descriptor, 65536)
        parts.append(part)
        if not part or part.endswith(b"\n"):
            return b"".join(parts)


def check_application(app: Application) -> Iterator[Finding]:
    """Every finding about the application itself."""
    if not app.gc_enabled or not app.gc_thresholds[0]:
        yield Finding(
            severity="warning", name="gc-off", what="The garbage collector is off once the application is imported",
            why="objects that refer to each other in a circle, exceptions among them, are never freed",
            mend="remove gc.disable() and gc.set_threshold(0); to spare forked pages use gc.freeze() before the fork",
        )  # fmt: skip
    on_methods = [one for one in app.caches if one["method"]]
    on_functions = [one for one in app.caches if not one["method"]]
    if on_methods:
        yield Finding(
            severity="severe", name="cache-on-method", what=f"Caches without bound on methods: {_listed(on_methods)}",
            why="each entry keeps self alive, so that no instance is ever freed",
            mend="use @memguard.cached, which holds self weakly and gives way, or functools.cached_property",
        )  # fmt: skip
    if on_functions:
        yield Finding(
            severity="warning", name="cache-unbounded", what=f"Caches without bound: {_listed(on_functions)}",
            why="functools.cache and lru_cache(None) keep every result of every argument they ever saw",
            mend="use @memguard.cached, which gives way when memory is short, or lru_cache(maxsize=1024)",
        )  # fmt: skip
    if app.containers:
        yield Finding(
            severity="warning", name="container-grows",
            what=f"Containers that functions fill and nothing empties: {_listed(app.containers)}",
            why="what is put into a module's dict or list stays as long as the process",
            mend="use memguard.Cache(name=…), or register it (guard.cache(CONTAINER, name=…)), or remove what is done",
        )  # fmt: skip


def _listed(rows: tuple[Mapping[str, Any], ...] | list[Mapping[str, Any]]) -> str:
    shown = ", ".join(f"{one['name']} ({one['where']})" for one in rows[:_SHOWN])
    return shown + (f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")
