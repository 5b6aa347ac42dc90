"""Which route holds a conversation's cache, for all processes: a hint with a short life.

Nothing depends on it: without Redis every process still draws the same route by hash.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kyma.ports.runtime import Digests

log = structlog.get_logger("kyma.conversations")

TTL_S = 300
"""Providers keep a prefix for five to ten minutes after its last use."""

BUDGET_S = 0.05
PAUSE_S = 1.0
"""After a failure nobody asks for this long."""

FLUSH_S = 0.02
MAX_WAITING = 10_000


class RedisConversations:
    """The `Conversations` port."""

    def __init__(self, redis: Redis, digests: Digests) -> None:
        """`digests` keep what is said from whoever reads the store and can guess beginnings."""
        self._redis = redis
        self._digests = digests
        self._waiting: dict[str, str] = {}
        self._writer: asyncio.Task[None] | None = None
        self._paused_until = 0.0

    async def recall(self, conversation: str) -> str | None:
        """One look-up within a small budget; None if it fails."""
        waiting = self._waiting.get(conversation)
        if waiting is not None:
            return waiting
        if time.monotonic() < self._paused_until:
            return None
        try:
            async with asyncio.timeout(BUDGET_S):
                found = await self._redis.get(self._key(conversation))
        except (RedisError, OSError, TimeoutError) as error:
            self._pause(error)
            return None
        return found.decode() if isinstance(found, bytes) else found

    def remember(self, conversation: str, route_key: str) -> None:
        """Written with those of the next moment, in one round trip."""
        if len(self._waiting) >= MAX_WAITING:
            return
        self._waiting[conversation] = route_key
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(FLUSH_S)
                batch, self._waiting = self._waiting, {}
                pipe = self._redis.pipeline(transaction=False)
                for conversation, route_key in batch.items():
                    pipe.set(self._key(conversation), route_key, ex=TTL_S)
                await pipe.execute()
        except (RedisError, OSError) as error:
            self._pause(error)
        finally:
            self._writer = None

    def _pause(self, error: BaseException) -> None:
        self._paused_until = time.monotonic() + PAUSE_S
        log.warning("conversations_unavailable", error=type(error).__name__)

    async def close(self) -> None:
        """Write what waits."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    def _key(self, conversation: str) -> str:
        return f"kyma:cv:{self._digests.digest(conversation).hex()[:32]}"
