"""The worker's pulse, over a real Redis and over none."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from adapters.redis.client import make_redis
from adapters.redis.pulse import BEAT_TTL_S, KEY, Pulse


async def test_a_worker_is_alive_from_its_first_beat_until_it_falls_silent(redis: Redis) -> None:
    pulse = Pulse(redis)
    assert await pulse.worker_beats() is False
    await pulse.beat()
    assert await pulse.worker_beats() is True
    assert 0 < await redis.ttl(KEY) <= BEAT_TTL_S
    await redis.pexpire(KEY, 1)
    while await redis.exists(KEY):
        await asyncio.sleep(0.001)
    assert await pulse.worker_beats() is False


async def test_redis_answers_with_and_without_a_worker(redis: Redis) -> None:
    pulse = Pulse(redis)
    assert await pulse.redis_answers() is True
    await pulse.beat()
    assert await pulse.redis_answers() is True


async def test_without_redis_nothing_is_known_of_the_worker() -> None:
    client = make_redis("redis://127.0.0.1:1/0")
    pulse = Pulse(client)
    assert await pulse.redis_answers() is False
    assert await pulse.worker_beats() is None
    await client.aclose()
