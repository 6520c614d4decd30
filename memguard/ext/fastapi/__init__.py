"""FastAPI and Starlette: ``protect(app, guard)`` admits requests, and adds probes, a control API and a page."""

from __future__ import annotations

from memguard.errors import MissingExtra

try:
    from memguard.ext.fastapi.protecting import protect
except ModuleNotFoundError as _missing:
    if _missing.name != "fastapi":
        raise
    raise MissingExtra("memguard.ext.fastapi", "fastapi") from _missing

__all__ = ["protect"]
