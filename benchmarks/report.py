"""Where benchmarks put their tables: one Markdown file each in ``benchmarks/results``, with machine and method."""

from __future__ import annotations

import datetime as dt
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """This machine in a line: kernel, cores, memory, Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libc = " ".join(platform.libc_ver())
    return (
        f"{platform.system()} {platform.release().split('-')[0]}, {os.cpu_count()} shared cores, {memory:.0f} GiB, "
        f"{libc}, CPython {platform.python_version()}"
    )


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a Markdown table; the first row's keys are the head."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(row.get(key, "")) for key in head) + " |" for row in rows]
    return "\n".join(lines)


def publish(name: str, *, title: str, rows: Sequence[Mapping[str, str]], method: Iterable[str]) -> None:
    """Print a table and keep it in ``results/NAME.md``."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    text = f"# {title}\n\n{machine()}; {today}\n\n{table(rows)}\n\n" + "\n".join(method).strip() + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print("\n" + text)
