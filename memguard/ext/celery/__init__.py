"""Celery: ``protect(app)`` guards every process where tasks run, and sends back tasks that do not fit."""

from __future__ import annotations

from memguard.errors import MissingExtra

try:
    from memguard.ext.celery.protecting import protect
except ModuleNotFoundError as _missing:
    if _missing.name != "celery":
        raise
    raise MissingExtra("memguard.ext.celery", "celery") from _missing

__all__ = ["protect"]
