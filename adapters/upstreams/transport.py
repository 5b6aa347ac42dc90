"""The only upstream sockets: their deadlines, and the classification of what goes wrong.

One pool per process, owned by whoever opens it and never evicted while leased.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from adapters.upstreams.http1 import Answer, Offer, Pool, Wants
from kyma.calls import Fault, UpstreamError

ERROR_BODY_LIMIT = 64 * 1024
ERROR_BODY_S = 2.0
"""How long the rest of a refusal is waited for, seconds."""

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

    def __init__(self, timeouts: Timeouts, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: whose certificates are trusted; the system's, unless told."""
        self._timeouts = timeouts
        self._pool = Pool(tls)

    async def post(
        self, url: str, headers: dict[str, str], body: bytes, left_s: float
    ) -> tuple[int, bytes, str | None]:
        """Status, whole body and Retry-After; `left_s` is all the time there is."""
        loop = asyncio.get_running_loop()
        end_by = loop.time() + left_s
        due = min(end_by, loop.time() + self._timeouts.answer_s)
        answer = await self._asked("POST", url, headers, body, due, end_by)
        watch = loop.call_at(due, answer.expire, "the answer is not complete")
        try:
            raw = await answer.whole()
        except OSError as error:
            if answer.status in {0, 200}:
                raise classified(error, end_by) from error
            raw = answer.taken()  # a refusal, as far as it came: its status says enough
        finally:
            watch.cancel()
            answer.release()
        return answer.status, raw, _text(answer, b"retry-after")

    async def get(self, url: str, headers: dict[str, str], left_s: float) -> int:
        """The status of a GET, whose body is not read."""
        loop = asyncio.get_running_loop()
        end_by = loop.time() + left_s
        answer = await self._asked("GET", url, headers, b"", end_by, math.inf)
        watch = loop.call_at(end_by, answer.expire, "no answer")
        try:
            await answer.head()
        except OSError as error:
            raise classified(error) from error
        else:
            return answer.status
        finally:
            watch.cancel()
            answer.release()

    @asynccontextmanager
    async def stream(
        self, url: str, headers: dict[str, str], body: bytes, left_s: float
    ) -> AsyncIterator[Stream]:
        """Enter once the status is known; leaving frees the socket (closed if not at its end)."""
        now = asyncio.get_running_loop().time()
        end_by = now + left_s
        first_by = min(end_by, now + self._timeouts.first_byte_s)
        answer = await self._asked("POST", url, headers, body, first_by, end_by)
        stream = Stream(answer, first_by, self._timeouts.chunk_s, end_by)
        try:
            await stream.head()
            yield stream
        finally:
            stream.close()

    async def close(self) -> None:
        """Close every socket."""
        await self._pool.close()

    async def _asked(
        self, method: str, url: str, headers: dict[str, str], body: bytes, due: float, end_by: float
    ) -> Answer:
        """A connection with this question on it; `due` bounds the wait for one."""
        left_s = due - asyncio.get_running_loop().time()
        connect_s = min(self._timeouts.connect_s, left_s)
        try:
            return await self._pool.ask(method, url, headers, body, connect_s)
        except (OSError, ValueError) as error:
            raise classified(error, end_by) from error


class Stream:
    """A response whose body is read as it comes.

    One timer for the whole stream looks how long a read has been waiting: one for every chunk
    would cost more than reading it. Time in which nobody reads, because the client is slow, is
    not the upstream's.
    """

    def __init__(self, answer: Answer, first_by: float, chunk_s: float, end_by: float) -> None:
        """Times are those of the running event loop."""
        self._answer = answer
        self._first_by = first_by
        self._chunk_s = chunk_s
        self._end_by = end_by
        self._loop = asyncio.get_running_loop()
        self._awaits_text = True
        self._watch = self._loop.call_at(first_by, self._look)
        self.status = 0
        self.retry_after: str | None = None
        self.is_event_stream = False

    async def head(self) -> None:
        """Wait for status and headers."""
        try:
            await self._answer.head()
        except OSError as error:
            raise classified(error, self._end_by) from error
        self.status = self._answer.status
        self.retry_after = _text(self._answer, b"retry-after")
        self.is_event_stream = "text/event-stream" in (_text(self._answer, b"content-type") or "")

    async def error_body(self) -> bytes:
        """The beginning of a body that is no stream, as far as it comes: the status says enough."""
        body = b""
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(ERROR_BODY_S):
                while len(body) < ERROR_BODY_LIMIT and (data := await self.read(first=True)):
                    body += data
        return body[:ERROR_BODY_LIMIT]

    async def read(self, *, first: bool = False, offer: Offer | None = None) -> bytes:
        """The next bytes, none at the end; raises `UpstreamError` if it broke or stalled.

        `first` reads are bounded by the time of the first text, whatever else comes before it.
        Bytes that come while this waits are offered first; the next are those that are left.
        Not a generator: whoever was cancelled while it waited may call it again.
        """
        if first is not self._awaits_text:
            self._awaits_text = first
            self._watch.cancel()
            self._look()
        answer = self._answer
        try:
            while not (data := answer.taken()) and not answer.complete:
                await answer.coming(Wants.BYTES, offer)
        except OSError as error:
            raise classified(error, self._end_by) from error
        return data

    def _look(self) -> None:
        """Give up if a read waits too long or the time is over, else look again when it may be."""
        now, since = self._loop.time(), self._answer.waits_since
        if since is None:
            due = min(now + self._chunk_s, self._end_by)
        elif self._awaits_text:
            due = self._first_by
        else:
            due = min(since + self._chunk_s, self._end_by)
        if now < due:
            self._watch = self._loop.call_at(due, self._look)
        else:
            self._answer.expire("the stream stalled" if now < self._end_by else "its time is over")

    def close(self) -> None:
        """Free the socket; an answer that was not read to its end does not go back to the pool."""
        self._watch.cancel()
        self._answer.release()


def _text(answer: Answer, name: bytes) -> str | None:
    value = answer.headers.get(name)
    return None if value is None else value.decode("latin-1")


def classified(error: Exception, end_by: float = math.inf) -> UpstreamError:
    """What a socket's failure means for routing, or an address or a key that cannot be sent.

    A timeout is the provider's, who was too slow to connect, to begin or to go on, unless the
    request itself has no time left: `end_by` is when its time ends, on the running loop's clock.
    """
    name = type(error).__name__
    if isinstance(error, TimeoutError):
        is_over = asyncio.get_running_loop().time() >= end_by - TICK_S
        fault = Fault.OVERDUE if is_over else Fault.TIMEOUT
        return UpstreamError(fault, f"no answer in time ({error or name})")
    return UpstreamError(Fault.BROKEN, f"{name}: {error}"[:300])
