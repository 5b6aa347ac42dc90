"""Who a secret belongs to, remembered for under a second and forgotten on a word from Redis.

A change (revoked key, new override) is published; every process drops what it knows of that
account. If Redis is away the memory is still at most `TTL_S` old.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kyma.ports.storage import Principal, Principals

log = structlog.get_logger("kyma.standings")

TTL_S = 0.8
"""Below the one second in which a revoked key must stop working on every process."""

MAX_REMEMBERED = 50_000
CHANNEL = "kyma:forget"


class RememberedPrincipals:
    """The `Principals` port in front of a slower one, and the `Invalidations` port."""

    def __init__(self, source: Principals, redis: Redis) -> None:
        self._source = source
        self._redis = redis
        self._known: OrderedDict[bytes, tuple[float, Principal | None]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Principal | None]] = {}
        self._epoch = 0
        self._listener: asyncio.Task[None] | None = None

    async def principal(self, digest: bytes) -> Principal | None:
        """From memory, or one look-up shared by all who ask at once; failures are not remembered."""
        known = self._known.get(digest)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        asking = self._asking.get(digest)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._look_up(digest))
            self._asking[digest] = asking
            asking.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(asking)

    async def _look_up(self, digest: bytes) -> Principal | None:
        epoch = self._epoch
        principal = await self._source.principal(digest)
        if epoch == self._epoch:
            # Somebody's change during the look-up might not be in what was read.
            self._known[digest] = (time.monotonic() + TTL_S, principal)
            self._known.move_to_end(digest)
            while len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        return principal

    async def forget(self, account_id: str) -> None:
        """Drop an account here at once and tell the others."""
        self._drop(account_id)
        try:
            await self._redis.publish(CHANNEL, account_id)
        except (RedisError, OSError) as error:
            log.warning("invalidation_not_published", error=type(error).__name__)

    def _drop(self, account_id: str) -> None:
        self._epoch += 1
        self._known = OrderedDict(
            (digest, known)
            for digest, known in self._known.items()
            if known[1] is None or known[1].account_id != account_id
        )

    def start(self) -> None:
        """Begin to listen for other processes' changes."""
        self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as words:
                    await words.subscribe(CHANNEL)
                    self._known.clear()
                    async for word in words.listen():
                        if word["type"] == "message":
                            self._drop(_text(word["data"]))
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("invalidations_lost", error=type(error).__name__)
                await asyncio.sleep(1.0)

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])


def _text(data: bytes | str) -> str:
    return data.decode() if isinstance(data, bytes) else data
