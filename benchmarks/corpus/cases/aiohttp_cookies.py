"""Each path that cookies are looked up for leaves an empty entry in the jar."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "aiohttp", "3.12.2", "3.12.6"
KIND, BYTES = "python", 1050
RIGHT = ("._cookies", "._morsel_cache")


def service() -> Callable[[], object]:
    """A crawler that asks its jar before each page."""
    import asyncio  # noqa: PLC0415
    import itertools  # noqa: PLC0415

    from aiohttp import CookieJar  # noqa: PLC0415
    from yarl import URL  # noqa: PLC0415

    async def make() -> CookieJar:
        return CookieJar()

    jar = asyncio.new_event_loop().run_until_complete(make())
    jar.update_cookies({"session": "1"}, URL("http://example.test/"))
    numbers = itertools.count()
    return lambda: jar.filter_cookies(URL(f"http://example.test/orders/{next(numbers)}/lines"))
