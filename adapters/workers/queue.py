"""The arq queue as others see it: a bell. What there is to do stands in the database."""

from __future__ import annotations

import asyncio

import structlog
from arq.connections import ArqRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger("kyma")

QUEUE = "kyma:queue"
DELIVER_MAIL = "deliver_mail"
"""The worker's function of this name; the job's id too, so that one waits at most."""

RING_S = 0.5


class ArqBell:
    """The `Bell` port: a job without arguments, so that nothing of a letter is ever in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._arq = ArqRedis(redis.connection_pool)

    async def ring(self) -> None:
        """Enqueue it unless it waits already; unheard, the worker's next round finds the work."""
        try:
            async with asyncio.timeout(RING_S):
                await self._arq.enqueue_job(DELIVER_MAIL, _job_id=DELIVER_MAIL, _queue_name=QUEUE)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("bell_not_heard", error=type(error).__name__)
