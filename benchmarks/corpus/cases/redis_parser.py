"""A parser gives the C reader its own bound method, and the collector cannot see that cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "redis", "4.5.4", "4.5.5"
WITH = ("hiredis==2.2.2",)
KIND, BYTES = "cycle", 2_400
RIGHT = ("HiredisParser", "redis/asyncio/connection.py")


def service() -> Callable[[], object]:
    """A connection for each request, to a server that answers PING."""
    import asyncio  # noqa: PLC0415

    import redis.asyncio  # noqa: PLC0415

    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                await reader.readexactly(size + 2)
            writer.write(b"+PONG\r\n")
        writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    port = server.sockets[0].getsockname()[1]

    async def once() -> None:
        client = redis.asyncio.Redis(host="127.0.0.1", port=port)
        await client.ping()
        await client.close()
        await client.connection_pool.disconnect()

    return lambda: loop.run_until_complete(once())
