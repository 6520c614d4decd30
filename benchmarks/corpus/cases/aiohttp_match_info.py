"""With a middleware, each request that no route takes puts its handler into a cache without bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "aiohttp", "3.10.10", "3.10.11"
KIND, BYTES = "cache", 9000
RIGHT = ("_build_middlewares",)


def service() -> Callable[[], object]:
    """Requests with a method that the route does not allow, over loopback."""
    import asyncio  # noqa: PLC0415

    import aiohttp  # noqa: PLC0415
    from aiohttp import web  # noqa: PLC0415

    loop = asyncio.new_event_loop()

    @web.middleware
    async def timing(request: web.Request, handler: Callable[[web.Request], object]) -> object:
        return await handler(request)

    async def ok(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def begin() -> aiohttp.ClientSession:
        app = web.Application(middlewares=[timing])
        app.router.add_get("/", ok)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}")

    session = loop.run_until_complete(begin())

    async def once() -> int:
        async with session.post("/", data=b"x") as answer:
            await answer.read()
            return answer.status

    return lambda: loop.run_until_complete(once())
