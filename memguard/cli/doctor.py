"""``memguard doctor``: what is wrong with where a service runs and with the service, each with why and the mend."""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from memguard.cli.application import check_application, import_application
from memguard.cli.checks import Finding, arenas_set, check_surroundings, check_workers
from memguard.cli.leaky import installed_packages, known_leaks
from memguard.cli.printing import Progress, duration, paragraph, parser, print_json, settle_output
from memguard.cli.surroundings import environ_of, look_around
from memguard.cli.workforce import find_workforce
from memguard.errors import MemguardError, RulesError
from memguard.probes.files import printable, read_file
from memguard.rules import Rules
from memguard.units import format_bytes, format_seconds
from memguard.values import fields, replace

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from memguard.cli.application import Application
    from memguard.cli.surroundings import Surroundings
    from memguard.cli.workforce import Workforce

__all__ = ["main"]

_ORDER: Final = ("severe", "warning", "note")
_OVERCOMMIT: Final = {0: "by estimate (0)", 1: "always (1)", 2: "strict (2)"}
_OTHER_SETTINGS: Final = ("MEMGUARD_LOCAL_ACTIONS",)
# Two names so alike are the same one, misspelt.
_ALIKE_RATIO: Final = 0.88


def main(argv: Sequence[str] | None = None, *, root: str = "/", environ: Mapping[str, str] | None = None) -> int:
    """Look, and say what should be otherwise; 0 when nothing is, 1 when something is, 2 when it could not look.

    ``root`` is put before /proc and /sys; ``environ`` stands for this process's environment.

    Raises:
        MemguardError: the process named by ``--pid`` cannot be looked at.
    """
    settle_output()
    options = _options(argv)
    pid = "self" if options.pid is None else str(options.pid)
    if options.pid is not None:
        environ = environ_of(pid, root=root)
    environ = dict(os.environ) if environ is None else environ
    around = _around(environ, root, pid)
    command = () if options.pid is None else _command(root, pid)
    force = find_workforce(environ, asked=options.workers, command=command)
    app, failed = _application(options, environ)
    installed = app.packages if app is not None else {} if options.pid is not None else installed_packages()
    worker_bytes = app.rss_bytes if app is not None else None
    found = [*check_surroundings(around), *_misspelt(environ), *check_workers(around, force, worker_bytes)]
    if app is not None:
        found += check_application(app)
    found += _leaky(installed)
    found = [one for one in found if one.name not in options.ignore]
    found.sort(key=lambda one: _ORDER.index(one.severity))
    facts = _facts(around, force, app, options.app)
    status = 2 if failed else 1 if found else 0
    if options.json:
        print_json({"status": status, "error": failed, "facts": facts, "findings": [asdict(one) for one in found]})
    else:
        _print(facts, found, failed)
    return status


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    options = parser(
        "doctor",
        "Looks at limits, allocator, kernel settings, environment, workers and installed packages, and with APP at the "
        "application itself, which is imported in a child process. Changes nothing.",
        examples=(
            ("memguard doctor", "this machine or container, as a service started here would find it"),
            ("memguard doctor app:main --workers 4", "the application in app.py too, and whether four of it fit"),
            ("memguard doctor --pid 4711", "a process that runs: its limits, its environment, its threads"),
            ("memguard doctor --json | jq '.findings[].name'", "for scripts; --ignore NAME accepts a finding"),
        ),
        ends="0  nothing to mend\n1  findings\n2  it could not look, or the call makes no sense",
    )
    options.add_argument("app", nargs="?", metavar="APP", help="what to import, like app or app:main")
    options.add_argument("--app", dest="named", metavar="APP", help="the same")
    options.add_argument(
        "--workers", type=int, metavar="N", help="how many will run (default: as the environment says)"
    )
    options.add_argument("--pid", type=int, help="look at this process instead of at what this one finds")
    options.add_argument("--timeout", type=duration, default=60.0, metavar="S", help="for the import (default 60 s)")
    options.add_argument(
        "--ignore", action="append", default=[], metavar="NAME", help="leave this finding out; repeat it"
    )
    options.add_argument("--json", action="store_true", help="one JSON document instead of text")
    chosen = options.parse_args(argv)
    if chosen.app is not None and chosen.named is not None:
        options.error("APP is named twice")
    chosen.app = chosen.app or chosen.named
    if chosen.workers is not None and chosen.workers < 1:
        options.error(f"--workers {chosen.workers} is no number of workers: 1 or more")
    if chosen.app is not None and chosen.pid is not None:
        options.error("APP and --pid are two different things to look at: name one")
    return chosen


def _around(environ: Mapping[str, str], root: str, pid: str) -> Surroundings:
    try:
        rules = Rules.resolve(environ)
    except RulesError as error:
        return look_around(environ=environ, root=root, pid=pid, policy_error=str(error))
    source = rules.origins["max_bytes"] if rules.max_bytes is not None else ""
    around = look_around(environ=environ, root=root, pid=pid, policy=(rules.max_bytes, source))
    return replace(around, collect_bytes=rules.collect_bytes)


def _command(root: str, pid: str) -> tuple[str, ...]:
    try:
        return tuple(read_file(root, f"/proc/{pid}/cmdline").decode("utf-8", "replace").split("\0"))
    except OSError:
        return ()


def _application(options: argparse.Namespace, environ: Mapping[str, str]) -> tuple[Application | None, str]:
    if options.app is None:
        return None, ""
    try:
        with Progress(f"importing {options.app}"):
            return import_application(options.app, environ=environ, within_s=options.timeout), ""
    except MemguardError as error:
        return None, str(error)


def _leaky(installed: Mapping[str, str]) -> Iterator[Finding]:
    for leak, version in known_leaks(installed):
        yield Finding(
            severity="warning", name="leaky-package", what=f"{leak.package} {version} is known to leak: {leak.what}",
            why=f"told in {leak.told}", mend=f"pip install '{leak.package}>={leak.fixed}'",
        )  # fmt: skip


def _misspelt(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Settings that nobody reads, because one letter is wrong."""
    known = ["MEMGUARD_" + rule.name.upper() for rule in fields(Rules) if rule.name != "origins"]
    known += [rule.metadata["operator"][0] for rule in fields(Rules) if rule.metadata.get("operator")]
    known += _OTHER_SETTINGS
    for name in environ:
        near = difflib.get_close_matches(name, known, 1, _ALIKE_RATIO) if name not in known else []
        if near:
            yield Finding(
                severity="warning", name="setting-misspelt", what=f"{name} is set, and nobody reads it",
                why=f"memguard knows {near[0]}; a setting by another name changes nothing", mend=f"write {near[0]}",
            )  # fmt: skip


def _facts(around: Surroundings, force: Workforce, app: Application | None, name: str | None) -> dict[str, Any]:
    """What was seen, finding or not."""
    bound = around.bound
    others = [one for one in around.limits.limits if one is not bound]
    swap_used = None
    if around.swap_total_bytes is not None and around.swap_free_bytes is not None:
        swap_used = around.swap_total_bytes - around.swap_free_bytes
    allocator = app.allocator if app is not None else around.allocator
    return {
        "limit_bytes": None if bound is None else bound.bytes,
        "limit_source": None if bound is None else bound.source,
        "limit_kind": None if bound is None else bound.kind,
        "also_binds": [{"bytes": one.bytes, "kind": one.kind, "source": one.source} for one in others],
        "group": None if around.limits.group is None else printable(around.limits.group),
        "used_bytes": around.used_bytes,
        "machine_bytes": around.total_bytes,
        "cpus": around.cpus,
        "allocator": allocator,
        "arenas_bounded_by": arenas_set(around.environ) or None,
        "threads": app.threads if app is not None else around.threads,
        "huge_pages": around.huge_pages,
        "swap_bytes": around.swap_total_bytes,
        "swap_used_bytes": swap_used,
        "overcommit": around.overcommit,
        "in_memory": [asdict(one) for one in around.tmpfs],
        "workers": force.count,
        "workers_source": force.source or None,
        "app": name,
        "app_bytes": None if app is None else app.rss_bytes,
        "app_import_s": None if app is None else round(app.import_s, 3),
        "gc": None if app is None else {
            "enabled": app.gc_enabled, "thresholds": list(app.gc_thresholds), "frozen": app.gc_frozen
        },
    }  # fmt: skip


def _print(facts: Mapping[str, Any], found: Sequence[Finding], failed: str) -> None:
    for label, text in _lines(facts):
        print(paragraph(label, text, indent=0, hang=12))
    print()
    for one in found:
        print(f"{one.severity.upper()}: {one.name}")
        print(paragraph("", one.what))
        print(paragraph("why", one.why))
        print(paragraph("mend", one.mend))
        print()
    if failed:
        print(paragraph("", f"memguard doctor: {failed}", indent=0), file=sys.stderr)
    if found:
        counts = [(sum(one.severity == kind for one in found), kind) for kind in _ORDER]
        told = ", ".join(f"{count} {kind}" for count, kind in counts if count)
        print(f"{len(found)} finding{'s' * (len(found) > 1)}: {told}")
    elif not failed:
        print("nothing to mend")


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts for people."""

    def size(key: str) -> str:
        return "unknown" if facts[key] is None else format_bytes(facts[key])

    yield "limit", "none" if facts["limit_bytes"] is None else f"{size('limit_bytes')}, {facts['limit_source']}"
    for one in facts["also_binds"]:
        yield "also", f"{format_bytes(one['bytes'])}, {one['source']}"
    if facts["used_bytes"] is not None:
        yield "used", f"{size('used_bytes')}, without page cache"
    yield "machine", f"{size('machine_bytes')}, {facts['cpus']} CPU{'s' * (facts['cpus'] > 1)}"
    bounded = f", {facts['arenas_bounded_by']}" if facts["arenas_bounded_by"] else ""
    yield "allocator", f"{facts['allocator'] or 'unknown'}{bounded}"
    if facts["threads"] is not None:
        yield "threads", f"{facts['threads']}"
    yield "huge pages", facts["huge_pages"] or "unknown"
    swap = f"{size('swap_used_bytes')} of {size('swap_bytes')} in use" if facts["swap_bytes"] else "none"
    yield "swap", "unknown" if facts["swap_bytes"] is None else swap
    yield "overcommit", _OVERCOMMIT.get(facts["overcommit"], "unknown")
    for one in facts["in_memory"]:
        most = "half of the machine" if one["max_bytes"] is None else format_bytes(one["max_bytes"])
        yield "in memory", f"{one['point']}, up to {most}"
    yield "workers", f"{facts['workers']}, {facts['workers_source'] or 'nobody says otherwise'}"
    if facts["gc"] is not None:
        took = format_seconds(facts["app_import_s"])
        yield "application", f"{facts['app']}: {size('app_bytes')} once imported, in {took}"
        collector, frozen = facts["gc"], facts["gc"]["frozen"]
        on = f"thresholds {collector['thresholds']}" if collector["enabled"] else "off"
        yield "gc", on + (f", {frozen} objects frozen" if frozen else "")
