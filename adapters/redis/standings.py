"""Who a secret belongs to, remembered as long as it is known not to have changed.

Twice a second each process asks the database whose keys, tier or deposits changed, and
forgets those; a word over Redis makes it immediate. What has not been confirmed within
`TRUST_S` is not trusted: so a revoked key stops within a second with or without Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Set

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from adapters.redis.client import channel
from kyma.ports.storage import Principal, Principals, StorageUnavailable

log = structlog.get_logger("kyma.standings")

POLL_S = 0.4
TRUST_S = 0.9
"""Below the one second in which a revoked key must stop working on every process."""

TTL_S = 600.0
"""However sure it is. Changes are told, so this only bounds what nobody told of, and how late a
key's last use is noted, which happens when it is looked up."""

NEGATIVE_TTL_S = 0.8
LISTEN_AGAIN_S = 1.0
MAX_REMEMBERED = 100_000
CHANNEL = "kyma:forget"


class RememberedPrincipals:
    """The `Principals` port in front of a slower one, and the `Invalidations` port."""

    def __init__(
        self,
        source: Principals,
        redis: Redis,
        most: int = MAX_REMEMBERED,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`most` secrets are remembered; the one looked up longest ago is forgotten first.

        `monotonic` tells the time in seconds, and `pause` waits for some of it to pass.
        """
        self._source = source
        self._most = most
        self._monotonic = monotonic
        self._pause = pause
        self._redis = redis
        self._channel = channel(redis, CHANNEL)
        self._known: dict[bytes, tuple[float, Principal | None]] = {}
        self._of_account: dict[str, set[bytes]] = {}
        self._asking: dict[bytes, asyncio.Task[Principal | None]] = {}
        self._trusted_until = 0.0
        self._epoch = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def remembered(self) -> tuple[int, int]:
        """How many secrets are in memory, known or known not to be, and of how many accounts."""
        return len(self._known), len(self._of_account)

    async def principal(self, digest: bytes) -> Principal | None:
        """From memory, or one look-up shared by all who ask; failures are not remembered."""
        now = self._monotonic()
        known = self._known.get(digest)
        if known is not None and now < known[0] and now < self._trusted_until:
            return known[1]
        asking = self._asking.get(digest)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._look_up(digest))
            self._asking[digest] = asking
            asking.add_done_callback(lambda task: self._answered(digest, task))
        return await asyncio.shield(asking)

    def _answered(self, digest: bytes, task: asyncio.Task[Principal | None]) -> None:
        if self._asking.get(digest) is task:
            del self._asking[digest]

    async def changes(self) -> Set[tuple[str, str]]:
        """Straight from the source."""
        return await self._source.changes()

    async def _look_up(self, digest: bytes) -> Principal | None:
        epoch = self._epoch
        principal = await self._source.principal(digest)
        if epoch == self._epoch:
            # Somebody's change during the look-up might not be in what was read.
            self._remember(digest, principal)
        return principal

    def _remember(self, digest: bytes, principal: Principal | None) -> None:
        self._forget(digest)
        ttl_s = NEGATIVE_TTL_S if principal is None else TTL_S
        self._known[digest] = (self._monotonic() + ttl_s, principal)
        if principal is not None:
            self._of_account.setdefault(principal.account_id, set()).add(digest)
        while len(self._known) > self._most:
            self._forget(next(iter(self._known)))

    def _forget(self, digest: bytes) -> None:
        _, principal = self._known.pop(digest, (0.0, None))
        if principal is not None:
            digests = self._of_account[principal.account_id]
            digests.remove(digest)
            if not digests:
                del self._of_account[principal.account_id]

    async def forget(self, account_id: str) -> None:
        """Drop an account here at once and tell the others."""
        self._drop({account_id})
        try:
            await self._redis.publish(self._channel, account_id)
        except (RedisError, OSError) as error:
            log.warning("invalidation_not_published", error=type(error).__name__)

    def _drop(self, account_ids: Set[str]) -> None:
        if not account_ids:
            return
        self._epoch += 1
        self._asking.clear()  # nobody joins a look-up that began before the change
        for account_id in account_ids:
            for digest in tuple(self._of_account.get(account_id, ())):
                self._forget(digest)

    def start(self) -> None:
        """Begin to ask and to listen."""
        loop = asyncio.get_running_loop()
        self._tasks = {loop.create_task(self._poll()), loop.create_task(self._listen())}

    async def _poll(self) -> None:
        seen: Set[tuple[str, str]] = frozenset()
        while True:
            try:
                seen = await self._catch_up(seen)
            except StorageUnavailable as error:
                log.warning("changes_unknown", error=str(error)[:200])
            except Exception:
                # Without this task nothing is trusted, and every request is a look-up.
                log.exception("changes_unknown")
            await self._pause(POLL_S)

    async def _catch_up(self, seen: Set[tuple[str, str]]) -> Set[tuple[str, str]]:
        began = self._monotonic()
        changes = await self._source.changes()
        if began >= self._trusted_until:
            # Not asked in time: a change may have come and gone in between.
            self._epoch += 1
            self._asking.clear()
            self._known.clear()
            self._of_account.clear()
        self._drop({account_id for account_id, _ in changes - seen})
        self._trusted_until = began + TRUST_S
        return changes

    async def _listen(self) -> None:
        while True:
            try:
                await self._heed()
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("invalidations_lost", error=type(error).__name__)
            except Exception:
                log.exception("invalidations_lost")
            await self._pause(LISTEN_AGAIN_S)

    async def _heed(self) -> None:
        async with self._redis.pubsub() as words:
            await words.subscribe(self._channel)
            async for word in words.listen():
                if word["type"] == "message":
                    self._drop({_text(word["data"])})

    async def close(self) -> None:
        """Stop both."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _text(data: bytes | str) -> str:
    return data.decode() if isinstance(data, bytes) else data
