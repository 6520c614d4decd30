"""How Sphinx makes a site of these pages: `make docs`, into build/docs."""

from __future__ import annotations

import re
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "memguard"
author = "the memguard authors"
copyright = "the memguard authors, MIT licence"  # noqa: A001 - Sphinx's own name for it
release = version = _version("pymemguard")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
exclude_patterns = ["decisions/template.md"]
# Pages link to files of the repository that are no part of the site.
suppress_warnings = ["myst.xref_missing"]
html_theme = "furo"
html_title = "memguard"
autodoc_member_order = "bysource"
autodoc_typehints = "none"

# An index is a list of links under headings, as it is read in the repository; the site's sidebar follows it.
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!template)([\w/-]+)\.(?:md|rst)\)")


def _add_sidebar(_: Sphinx, docname: str, source: list[str]) -> None:
    if not docname.endswith("index"):
        return
    listed = set[str]()
    text = source[0]
    heads = [*_SECTION.finditer(text), None]
    starts = [(0, "")] + [(head.end(), head[1]) for head in heads if head]
    for (begin, caption), head in zip(starts, heads, strict=True):
        names = [name for name in _LINK.findall(text[begin : head.start() if head else None]) if name not in listed]
        listed.update(names)
        if names:
            lines = [
                "",
                "",
                "```{toctree}",
                ":hidden:",
                f":caption: {caption}" if caption else ":maxdepth: 1",
                "",
                *names,
                "```",
            ]
            source[0] += "\n".join(lines)


def setup(app: Sphinx) -> None:
    """Sphinx calls it."""
    app.connect("source-read", _add_sidebar)
