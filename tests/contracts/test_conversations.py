"""Who holds a conversation's cache: the same in memory and in Redis, and never in the way."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis

from adapters.memory.runtime import MemoryConversations
from adapters.redis.client import make_redis
from adapters.redis.conversations import TTL_S, RedisConversations
from adapters.system import HmacDigests
from kyma.ports.runtime import Conversations

DIGESTS = HmacDigests("pepper-" + "0" * 32)
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture(params=["memory", "redis"])
def conversations(request: pytest.FixtureRequest) -> Conversations:
    if request.param == "memory":
        return MemoryConversations()
    return RedisConversations(request.getfixturevalue("redis"), DIGESTS)


async def recalled(conversations: Conversations, conversation: str, until: str | None) -> bool:
    """Whether the answer becomes `until` within moments."""
    for _ in range(100):
        if await conversations.recall(conversation) == until:
            return True
        await asyncio.sleep(0.01)
    return False


async def test_the_last_route_is_recalled(conversations: Conversations) -> None:
    assert await conversations.recall("talk") is None
    conversations.remember("talk", "groq/llama")
    assert await recalled(conversations, "talk", "groq/llama")
    conversations.remember("talk", "together/llama")
    assert await recalled(conversations, "talk", "together/llama")
    assert await conversations.recall("another") is None


async def test_another_process_recalls_it_too_and_forgets_it_in_time(redis: Redis) -> None:
    here, there = RedisConversations(redis, DIGESTS), RedisConversations(redis, DIGESTS)
    here.remember("talk", "groq/llama")
    assert await recalled(there, "talk", "groq/llama")
    assert not await redis.keys("*talk*")
    keys = await redis.keys("kyma:cv:*")
    assert len(keys) == 1
    assert 0 < await redis.ttl(keys[0]) <= TTL_S


async def test_what_waits_is_written_before_the_end(redis: Redis) -> None:
    here = RedisConversations(redis, DIGESTS)
    here.remember("talk", "groq/llama")
    await here.close()
    assert await RedisConversations(redis, DIGESTS).recall("talk") == "groq/llama"


async def test_without_redis_nobody_is_known_and_nobody_waits() -> None:
    client = make_redis(NOWHERE)
    conversations = RedisConversations(client, DIGESTS)
    conversations.remember("talk", "groq/llama")
    await conversations.close()
    began = time.monotonic()
    for _ in range(50):
        assert await conversations.recall("talk") is None
    assert time.monotonic() - began < 1.0
    await client.aclose()
