"""A service whose control API has a token."""

from __future__ import annotations

from fastapi import FastAPI

import memguard
from memguard.ext.fastapi import protect

guard = memguard.Guard(limit="2GiB", roster=memguard.Roster())
app = protect(FastAPI(), guard, token="open-sesame")  # noqa: S106 - a test's
