"""Released versions of libraries that are known to leak, each read in the library's own changelog or advisory."""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING, Final

from memguard.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LEAKY", "Leak", "installed_packages", "known_leaks"]


@value
class Leak:
    """A leak in a library: from version ``since`` on ("" where the first one is not known), until ``fixed``.

    ``what`` says when it leaks, ``told`` where that is written.
    """

    package: str
    since: str
    fixed: str
    what: str
    told: str


LEAKY: Final[tuple[Leak, ...]] = (
    Leak(
        package="aiohttp", since="3.10.6", fixed="3.10.11", told="CVE-2024-52303",
        what="a server with middlewares keeps an entry for each request that no route answers (404, 405)",
    ),
    Leak(
        package="celery", since="", fixed="5.6.0", told="release notes of 5.6.0",
        what="a task that raises keeps its frames alive, worst on Python 3.11 and newer",
    ),
    Leak(
        package="eventlet", since="", fixed="0.34.1", told="release notes of 0.34.1, issue 810",
        what="greendns leaks with each look-up of a name",
    ),
    Leak(
        package="grpcio", since="1.72.0", fixed="1.72.1", told="release notes of 1.72.1, cython issue 6878",
        what="wheels built with Cython 3.1.0 leak with each call of grpc.aio",
    ),
    Leak(
        package="numpy", since="2.4.0", fixed="2.4.2", told="release notes of 2.4.1 and 2.4.2",
        what="several leaks, one of them when an array is assigned to through .flat",
    ),
    Leak(
        package="opentelemetry-sdk", since="", fixed="1.31.0", told="pull request 4449",
        what="each batch processor of spans or logs that was ever made stays alive",
    ),
    Leak(
        package="orjson", since="3.8.12", fixed="3.9.1", told="changelog of 3.9.1",
        what="an exception raised in default= is never freed",
    ),
    Leak(
        package="pendulum", since="2.1.0", fixed="3.0.0", told="issue 720",
        what="parse() leaks whenever it raises",
    ),
    Leak(
        package="pydantic-core", since="", fixed="2.14.6", told="release notes of pydantic 2.5.3",
        what="schemas with recursive definitions are never freed",
    ),
    Leak(
        package="pydantic-core", since="2.14.6", fixed="2.18.2", told="release notes of pydantic 2.7.1",
        what="validating an Iterable field leaks",
    ),
    Leak(
        package="redis", since="4.5.4", fixed="4.5.5", told="issues 2693 and 2741",
        what="redis.asyncio with hiredis keeps every connection that was closed",
    ),
    Leak(
        package="ujson", since="", fixed="5.12.1", told="CVE-2026-44660",
        what="dump() leaks the whole text when the file's write() raises",
    ),
    Leak(
        package="uvicorn", since="0.14.0", fixed="0.17.2", told="changelog of 0.17.2, issue 1226",
        what="connections that open and send nothing (TCP health checks) are never freed",
    ),
)  # fmt: skip

_RELEASE: Final = re.compile(r"v?(?:\d+!)?(\d+(?:\.\d+)*)(.*)", re.DOTALL)


def installed_packages() -> dict[str, str]:
    """Every package that this interpreter would import from, with its version; the first of a name is the one."""
    found: dict[str, str] = {}
    for one in metadata.distributions():
        if "Name" in one.metadata and "Version" in one.metadata:
            found.setdefault(one.metadata["Name"], one.metadata["Version"])
    return found


def known_leaks(installed: Mapping[str, str]) -> tuple[tuple[Leak, str], ...]:
    """Which of the installed packages (name to version) leak, with the version."""
    versions = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in installed.items()}
    return tuple(
        (leak, version)
        for leak in LEAKY
        if (version := versions.get(leak.package)) is not None and _within(version, leak)
    )


def _within(version: str, leak: Leak) -> bool:
    now, fixed = _order(version), _order(leak.fixed)
    if now is None or fixed is None or now >= fixed:
        return False
    since = _order(leak.since) if leak.since else None
    return since is None or now >= since


def _order(version: str) -> tuple[tuple[int, ...], int] | None:
    """What versions are compared by: the release, and whether it is one; None for what is no version.

    >>> _order("3.10.11rc0") < _order("3.10.11") < _order("3.10.11.post1")
    True
    """
    match = _RELEASE.fullmatch(version.strip())
    if match is None:
        return None
    release = tuple(map(int, match[1].split(".")))
    while release and not release[-1]:
        release = release[:-1]
    after = match[2].lower().partition("+")[0].lstrip("-_.")
    return release, -1 if after.startswith(("a", "b", "c", "rc", "dev", "pre")) else 1 if after else 0
