"""A chat with retrieval: an embeddings cache bounded by the guard, and conversations that keep their last messages.

Run as a program it holds 20 conversations of 50 turns.
"""

from __future__ import annotations

import asyncio
import hashlib

import memguard

Message = dict[str, str]
KEPT = 20

guard = memguard.Guard()
smarter = guard.feature("rerank", off_at=memguard.Level.WARNING)


def shorter(messages: list[Message]) -> list[Message]:
    """What a conversation may forget when it is over its limit: the middle."""
    return messages[:2] + messages[-KEPT:]


talks: dict[str, list[Message]] = guard.states("talks", max_bytes_each="16KiB", compact=shorter)  # type: ignore[assignment]


@memguard.cached(ttl="1h", name="embeddings")
async def embed(text: str) -> list[float]:
    """A model's place: a vector out of a hash, after a while. Concurrent calls of one text share one execution."""
    await asyncio.sleep(0.001)
    return [byte / 255 for byte in hashlib.sha512(text.encode()).digest() * 6]


@smarter(fallback=lambda found: found)
def rerank(found: list[str]) -> list[str]:
    """Better, and worth its memory only while there is enough."""
    return sorted(found, key=len)


async def reply(user: str, text: str) -> str:
    """One turn: remember, look things up, answer."""
    with guard.admit("1MiB", label="chat"):
        query = await embed(text)
        found = rerank([f"note {index}" for index in range(int(query[0] * 10))])
        messages = talks.get(user, [])
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": f"{text}? See {found}."}]
        talks[user] = messages
        return messages[-1]["content"]


async def main() -> None:
    async with guard:
        for turn in range(50):
            await asyncio.gather(*(reply(f"user {user}", f"question {turn % 10} " * 20) for user in range(20)))
    info = embed.cache_info()
    longest = max(len(messages) for messages in talks.values())
    print(f"{info.hits + info.misses} embeddings asked for, {info.misses} computed, {info.bytes:,} bytes")
    print(f"{len(talks)} conversations of at most {longest} messages")


if __name__ == "__main__":
    asyncio.run(main())
