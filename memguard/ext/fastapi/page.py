"""The page: one self-contained HTML, put together once from the files of ``web/``."""

from __future__ import annotations

import gzip
import html
import json
import posixpath
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

__all__ = ["Sheet", "sheet"]


class Sheet:
    """A page, plain and gzipped, with the policy that lets its own script run and nothing else."""

    def __init__(self, text: str, policy: str) -> None:
        self.plain: bytes = text.encode()
        self.gzipped: bytes = gzip.compress(self.plain, 9, mtime=0)
        self.headers: dict[str, str] = {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": policy,
            "cache-control": "no-cache",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "vary": "accept-encoding",
        }


def sheet(*, page: str, prefix: str) -> Sheet:
    """The page that stands at ``page`` and asks the API below ``prefix``; relative, so that it works below any root."""
    web = files("memguard.ext.fastapi").joinpath("web")
    read = {name: web.joinpath(name).read_text("utf-8") for name in ("page.html", "page.css", "page.js", "uplot.js")}
    folder = posixpath.dirname(page) or "/"
    api, clear = (posixpath.relpath(path, folder) for path in (prefix or "/", "/admin/clear-cache"))
    script = f"{read['uplot.js']}\n{read['page.js']}"
    style = web.joinpath("uplot.css").read_text("utf-8") + read["page.css"]
    settings = html.escape(json.dumps({"api": api, "clear": clear}))
    text = read["page.html"].replace("{{style}}", style).replace("{{settings}}", settings).replace("{{script}}", script)
    policy = (
        f"default-src 'none'; script-src {_hashed(script)}; style-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; frame-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Sheet(text, policy)


def _hashed(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
