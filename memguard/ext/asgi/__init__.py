"""Pure ASGI middleware: refuses requests whose memory would not fit, before their bodies are read."""

from __future__ import annotations

from memguard.ext.asgi.middleware import MemguardMiddleware
from memguard.ext.asgi.requests import TICKET

__all__ = ["TICKET", "MemguardMiddleware"]
