"""What need not be asked twice: figures remembered for a while, and answers a client still has.

Anonymous callers cannot load the database: however many ask, each process asks once per
`ttl_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import orjson
import structlog
from quart import Response, request

from kyma.ports.storage import StorageUnavailable

log = structlog.get_logger("kyma.http")

T = TypeVar("T")

RETRY_S = 1.0
"""After a failure, how long nobody asks again."""


class Remembered(Generic[T]):
    """One value, asked for at most once at a time and once per `ttl_s`.

    While the database is away the last value is given for `stale_s` more; a value says itself
    of when it is. Without one, `StorageUnavailable` is raised.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        ttl_s: float,
        stale_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._monotonic = monotonic
        self._value: tuple[float, T] | None = None
        self._asking: asyncio.Task[T] | None = None
        self._failed: tuple[float, str] | None = None

    async def get(self) -> T:
        """The value, at most `ttl_s` old unless it cannot be had."""
        now = self._monotonic()
        if self._value is not None and now < self._value[0] + self._ttl_s:
            return self._value[1]
        try:
            return await self._shared(now)
        except StorageUnavailable as error:
            if self._value is None or now >= self._value[0] + self._ttl_s + self._stale_s:
                raise
            log.warning("figures_are_stale", error=str(error)[:200])
            return self._value[1]

    async def _shared(self, now: float) -> T:
        if self._failed is not None and now < self._failed[0] + RETRY_S:
            raise StorageUnavailable(self._failed[1])
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._look(now))
        # Shielded: whoever asked first may leave, the others still want the answer.
        return await asyncio.shield(self._asking)

    async def _look(self, now: float) -> T:
        try:
            value = await self._ask()
        except StorageUnavailable as error:
            self._failed = (now, str(error))
            raise
        else:
            self._value, self._failed = (now, value), None
            return value
        finally:
            self._asking = None


async def public_json(body: Any, max_age_s: int) -> Response:
    """JSON that anybody may keep for `max_age_s`, or 304 for who has it already."""
    response = Response(orjson.dumps(body), content_type="application/json")
    return await public(response, max_age_s)


async def public(response: Response, max_age_s: int) -> Response:
    """The same for any answer.

    Whoever shows a key gets an answer of their own: its headers tell what is left to them.
    """
    response.headers["Cache-Control"] = f"public, max-age={max_age_s}"
    response.vary.update(("Authorization", "x-api-key"))
    await response.add_etag()
    return await response.make_conditional(request)
