"""Whether Redis answers, and whether a worker is alive: it says so through Redis."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError

KEY = "kyma:worker:pulse"
BEAT_TTL_S = 30
"""A worker beats every five seconds; this much silence means that there is none."""

TIMEOUT_S = 1.0


class Pulse:
    """The worker beats, the gateway listens."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def beat(self) -> None:
        """A worker is alive now."""
        await self._redis.set(KEY, b"1", ex=BEAT_TTL_S)

    async def redis_answers(self) -> bool:
        """Whether Redis answers in time."""
        return await self._asked() is not None

    async def worker_beats(self) -> bool | None:
        """Whether a worker was alive lately; None if Redis cannot be asked."""
        return await self._asked()

    async def _asked(self) -> bool | None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return bool(await self._redis.exists(KEY))
        except (RedisError, OSError, TimeoutError):
            return None
