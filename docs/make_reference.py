"""Writes docs/reference/ from the code: rules, events, metrics. With --check it only says whether it is current."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from memguard.metrics import ATTRIBUTES, METRICS
from memguard.model import Level
from memguard.rules import Rules
from memguard.telemetry import EVENTS
from memguard.units import format_bytes, format_seconds

_FOLDER = Path(__file__).resolve().parent / "reference"
_NOTE = "<!-- Written by `make reference` from the code. Do not edit. -->"


def _shown(name: str, value: object) -> str:
    """A default as people read it: with its unit, when the field's name has one."""
    if value is None:
        return "none"
    if isinstance(value, Level):
        return value.name
    if isinstance(value, int) and not isinstance(value, bool) and "_bytes" in name:
        return format_bytes(value) + ("/s" if name.endswith("_per_s") else "")
    if isinstance(value, float) and name.endswith("_s"):
        return format_seconds(value)
    return f"{value:.2f}" if isinstance(value, float) else str(value).lower()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def rules_page() -> str:
    """The page of every rule: default, environment names, reason."""
    lines = [
        "# Rules",
        "",
        _NOTE,
        "",
        "Every field of `memguard.Rules`. A value comes from, first match wins: the keyword given to `Guard`; the",
        "environment variable `MEMGUARD_<FIELD>`; the operator's own name below; the default. An empty variable",
        "counts as absent. Bytes read `512MiB` or `2GB`, durations `250ms` or `5m`, shares `90%` or `0.9`; the",
        "operator's names ending in `_MB` are plain numbers of MiB.",
        "",
        "| rule | default | environment | operator's name | why |",
        "| --- | --- | --- | --- | --- |",
    ]
    for rule in dataclasses.fields(Rules):
        if rule.metadata:
            operator = rule.metadata["operator"]
            cells = (
                f"`{rule.name}`",
                _shown(rule.name, rule.default),
                f"`MEMGUARD_{rule.name.upper()}`",
                f"`{operator[0]}`" if operator else "",
                _cell(rule.metadata["why"]),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def events_page() -> str:
    """The page of every event: name, severity, meaning."""
    lines = [
        "# Events",
        "",
        _NOTE,
        "",
        "What a guard tells its sinks: the `name` of a `memguard.Event`, and what it means.",
        "",
        "| event | severity | meaning |",
        "| --- | --- | --- |",
    ]
    lines += [f"| `{row.name}` | {row.severity} | {_cell(row.meaning)} |" for row in EVENTS.values()]
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """The page of every metric: OpenTelemetry's name, kind and unit, Prometheus's name, attributes, meaning."""
    lines = [
        "# Metrics",
        "",
        _NOTE,
        "",
        "Every metric of a guard, as OpenTelemetry and as Prometheus name it. A *gauge* is what is now, a *counter*",
        "only grows, a *histogram* counts by size. What is not known on a machine is left out.",
        "[How to get them](../metrics.md).",
        "",
        "| OpenTelemetry | kind | unit | Prometheus | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in METRICS.values():
        labels = f" `{{{', '.join(row.labels)}}}`" if row.labels else ""
        cells = (f"`{row.name}`", row.kind, f"`{row.unit}`", f"`{row.prometheus}`{labels}", _cell(row.meaning))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| attribute | label | its values |", "| --- | --- | --- |"]
    lines += [
        f"| `{name}` | `{name.removeprefix('memguard.').replace('.', '_')}` | {_cell(meaning)} |"
        for name, meaning in ATTRIBUTES.items()
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check compare them; 1 when one is not current."""
    stale = []
    pages = (("rules.md", rules_page()), ("events.md", events_page()), ("metrics.md", metrics_page()))
    for name, page in pages:
        path = _FOLDER / name
        if arguments == ["--check"]:
            if not path.exists() or path.read_text(encoding="utf-8") != page:
                stale.append(name)
        else:
            path.write_text(page, encoding="utf-8")
    if stale:
        print(f"docs/reference: {', '.join(stale)} not current; run: make reference")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
