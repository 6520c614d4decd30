"""Reports as files: whole or not at all, and refused before the work where they cannot be written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING

from memguard.errors import MemguardError

if TYPE_CHECKING:
    from memguard.findings import LeakReport

__all__ = ["writable", "write"]


def writable(path: str) -> None:
    """Whether a report can be written there; says why not.

    Raises:
        MemguardError: it cannot.
    """
    folder = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120 - text in, text out
    if os.path.isdir(path):  # noqa: PTH112
        raise MemguardError(f"a report cannot be written to {path!r}: it is a directory; add a file name")
    try:
        handle, trial = tempfile.mkstemp(dir=folder, prefix=".memguard-")
    except OSError as error:
        raise _refused(path, error) from None
    os.close(handle)
    os.unlink(trial)  # noqa: PTH108


def write(path: str, report: LeakReport) -> None:
    """Write a report: as a page, as words, or as JSON, by the path's ending; readable by its owner alone.

    Raises:
        MemguardError: it cannot be written; nothing is left behind.
    """
    ending = os.path.splitext(path)[1].lower()  # noqa: PTH122 - text in, text out
    text = {".html": report.html, ".htm": report.html, ".txt": report.text}.get(ending)
    folder = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120
    trial = ""
    try:
        handle, trial = tempfile.mkstemp(dir=folder, prefix=".memguard-")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123
            file.write(report.to_json(indent=1) if text is None else text)
        os.replace(trial, path)  # noqa: PTH105
    except OSError as error:
        if trial:
            with contextlib.suppress(OSError):
                os.unlink(trial)  # noqa: PTH108
        raise _refused(path, error) from None


def _refused(path: str, error: OSError) -> MemguardError:
    why = error.strerror or str(error)
    return MemguardError(f"a report cannot be written to {path!r}: {why}; name a folder that exists and is writable")
