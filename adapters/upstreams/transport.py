"""The only upstream sockets: pools, deadlines and the classification of what goes wrong.

One pool per process, owned by whoever opens it and never evicted while leased. TCP_NODELAY
is on for every socket (asyncio and uvloop set it).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from kyma.calls import Fault, UpstreamError

ERROR_BODY_LIMIT = 64 * 1024
TICK_S = 0.05
"""A timer may fire early by the clock's grain; less than this is no time for another try."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, to a stream's first bytes, between its chunks, for a whole answer."""

    connect_s: float
    first_byte_s: float
    chunk_s: float
    answer_s: float


class Transport:
    """POSTs JSON and reads what comes back."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=30, ttl_dns_cache=60, enable_cleanup_closed=True
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
                skip_auto_headers=("User-Agent", "Accept"),
                read_bufsize=2**17,
            )
        return self._session

    async def post(
        self, url: str, headers: dict[str, str], body: bytes, left_s: float
    ) -> tuple[int, bytes, str | None]:
        """Status, whole body and Retry-After; `left_s` is all the time there is."""
        end_by = asyncio.get_running_loop().time() + left_s
        timeout = aiohttp.ClientTimeout(
            total=min(left_s, self._timeouts.answer_s),
            sock_connect=min(self._timeouts.connect_s, left_s),
        )
        try:
            async with self._open().post(
                url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return response.status, await response.read(), response.headers.get("Retry-After")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise classified(error, end_by) from error

    async def get(self, url: str, headers: dict[str, str], left_s: float) -> int:
        """The status of a GET; its body is read no further than its beginning."""
        timeout = aiohttp.ClientTimeout(
            total=left_s, sock_connect=min(self._timeouts.connect_s, left_s)
        )
        try:
            async with self._open().get(
                url, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                await response.content.read(ERROR_BODY_LIMIT)
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise classified(error) from error

    @asynccontextmanager
    async def stream(
        self, url: str, headers: dict[str, str], body: bytes, left_s: float
    ) -> AsyncIterator[Stream]:
        """Enter once the status is known; leaving frees the socket (closed if not at its end)."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=min(self._timeouts.connect_s, left_s)
        )
        now = asyncio.get_running_loop().time()
        first_by = now + min(self._timeouts.first_byte_s, left_s)
        try:
            async with asyncio.timeout_at(first_by):
                response = await self._open().post(
                    url, data=body, headers=headers, timeout=timeout, allow_redirects=False
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise classified(error, now + left_s) from error
        stream = Stream(response, first_by, self._timeouts.chunk_s, now + left_s)
        try:
            yield stream
        finally:
            stream.close()

    async def close(self) -> None:
        """Close every socket."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class Stream:
    """A response whose body is read as it comes.

    One timer for the whole stream looks how long a read has been waiting: aiohttp's own
    timeouts cost a timer and a context manager for every chunk. Time in which nobody reads,
    because the client is slow, is not the upstream's.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, first_by: float, chunk_s: float, end_by: float
    ) -> None:
        """Times are those of the running event loop."""
        self._response = response
        self._first_by = first_by
        self._chunk_s = chunk_s
        self._end_by = end_by
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._late: UpstreamError | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.status = response.status
        self.retry_after = response.headers.get("Retry-After")
        self.is_event_stream = "text/event-stream" in response.headers.get("Content-Type", "")

    async def error_body(self) -> bytes:
        """The beginning of a body that is no stream."""
        try:
            async with asyncio.timeout_at(self._first_by):
                return await self._response.content.read(ERROR_BODY_LIMIT)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise classified(error, self._end_by) from error

    async def read(self, *, first: bool = False) -> bytes:
        """The next bytes, none at the end; raises `UpstreamError` if it broke or stalled.

        `first` reads are bounded by the time of the first text, whatever else comes before it.
        Not a generator: whoever was cancelled while it waited may call it again.
        """
        self._waiting_since = self._loop.time()
        try:
            if first:
                async with asyncio.timeout_at(self._first_by):
                    return await self._response.content.readany()
            if self._watch is None:
                self._look()
            return await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if self._late is not None:
                raise self._late from error
            raise classified(error, self._end_by) from error
        finally:
            self._waiting_since = None

    def _look(self) -> None:
        """Break the connection if a read has waited too long, else look again when it may have."""
        now = self._loop.time()
        if self._waiting_since is None:
            self._watch = self._loop.call_at(now + self._chunk_s, self._look)
            return
        due = min(self._waiting_since + self._chunk_s, self._end_by)
        if now < due:
            self._watch = self._loop.call_at(due, self._look)
            return
        if now >= self._end_by:
            self._late = UpstreamError(Fault.OVERDUE, "the request took all its time")
        else:
            self._late = UpstreamError(Fault.TIMEOUT, "the stream stalled")
        self._response.close()

    def close(self) -> None:
        """Free the socket; an answer that was not read to its end does not go back to the pool."""
        if self._watch is not None:
            self._watch.cancel()
        self._response.close()


def classified(error: BaseException, end_by: float = math.inf) -> UpstreamError:
    """What a socket's failure means for routing.

    A timeout is the provider's, who was too slow to connect, to begin or to go on, unless the
    request itself has no time left: `end_by` is when its time ends, on the running loop's clock.
    """
    name = type(error).__name__
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientConnectorError):
        is_over = asyncio.get_running_loop().time() >= end_by - TICK_S
        fault = Fault.OVERDUE if is_over else Fault.TIMEOUT
        return UpstreamError(fault, f"no answer in time ({name})")
    return UpstreamError(Fault.BROKEN, f"{name}: {error}"[:300])
