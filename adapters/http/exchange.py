"""One answer on its way: its head, its parts, its end, and whether its client still listens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from adapters.http import cors
from adapters.http.asgi import Receive, Send, encoded, send_whole
from adapters.http.asking import Asking
from adapters.http.compress import hot_answer
from adapters.http.connections import Outlet
from adapters.http.dialects import Dialect, Rendering
from adapters.http.errors import headers_of, quota_headers, status_of, stranger_headers
from adapters.http.strangers import StrangerLimit
from adapters.http.timing import server_timing
from kyma.errors import Refusal
from kyma.flows.access import Admission
from kyma.flows.once import Claim, Once
from kyma.flows.repeats import Repeats
from kyma.idempotency import StoredAnswer
from kyma.ports.runtime import Quota
from kyma.tiers import Tier

JSON = (b"content-type", b"application/json")
EVENTS = "text/event-stream; charset=utf-8"
EVENT_STREAM = [
    (b"content-type", EVENTS.encode()),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


LONG_BYTES = 1 << 20
"""An answer from here on is shortened off the event loop: it takes 30 ms a megabyte."""

GIVE_UP_AGAIN_S = 5.0

GIVE_BACK_S = 1.0
"""How long a refusal waits for the request's idempotency key to be free again. It takes two
questions to the database; if that does not answer, the caller is told all the same."""

REPLAYED = ("X-Kyma-Idempotent-Replay", "true")


class Presence:
    """Whether the client is still there; asks the server only when somebody wants to know."""

    def __init__(
        self, receive: Receive, outlet: Outlet | None = None, again_s: float = GIVE_UP_AGAIN_S
    ) -> None:
        self.receive = receive
        self._outlet = outlet
        self._again_s = again_s
        self._serving: asyncio.Task[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self.left = False

    def has_all(self) -> bool:
        """Whether the request's body is here, so that reading it waits for nobody."""
        return self._outlet is not None and self._outlet.is_whole()

    def gone(self) -> bool:
        """True once the client has closed its connection."""
        if self._watcher is None and not self._is_over:
            if self._outlet is None:
                self._start()
            elif self._outlet.is_gone():
                self.left = True
        return self.left

    def watch(self, patience_until: float) -> None:
        """From now on cancel the serving task when the client leaves, or reads too slowly.

        `patience_until` is a time of the event loop; a client whose stream has not ended by
        then counts as one that left.
        """
        self._serving = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_at(patience_until, self._give_up)
        self._start()

    def _give_up(self) -> None:
        """Again and again: a charge that is under way is finished first, whoever cancels it."""
        self._timer = asyncio.get_running_loop().call_later(self._again_s, self._give_up)
        self._leave()

    def _leave(self) -> None:
        self.left = True
        if self._serving is not None:
            self._serving.cancel()

    def _start(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            self._leave()

    def close(self) -> None:
        """Stop watching."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        self._serving = self._watcher = None  # they know us, too: nobody would notice the end


class Exchange:
    """The answer so far: decides whether a refusal is still a status or an event of a stream.

    A stream that has been silent for `keepalive_s` gets a comment, so that nothing between us
    and the client takes it for dead. If its first text is that late, the head leaves before
    it: from then on a failure is an event, and who serves is told by a comment.
    """

    def __init__(
        self,
        send: Send,
        request_id: str,
        dialect: Dialect,
        keepalive_s: float,
        asking: Asking,
        outlet: Outlet | None,
    ) -> None:
        self.claim: Claim | None = None
        self.is_complete = False
        self.is_refused = False
        self.is_settled = False
        self._once: Once | Repeats | None = None
        self._releasing: asyncio.Future[None] | None = None
        self._kept: list[bytes] = []
        self._kind = "application/json"
        self._send = send
        self._outlet = outlet
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._asking = asking
        self._extra = cors.ENCODED if asking.from_browser else cors.NONE
        self._everywhere = encoded(_names(dialect, request_id)) + self._extra
        self.request_id = request_id
        self.admission: Admission | None = None
        self.peek: Callable[[], Awaitable[tuple[Tier, Quota]]] | None = None
        self._dialect = dialect
        self._keepalive_s = keepalive_s
        self._rendering: Rendering | None = None
        self._early: list[tuple[str, str]] = []
        self._head_sent = False
        self._sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._pulse: asyncio.Task[None] | None = None

    def so_far(self) -> tuple[str, str]:
        """How long it took until now; what a model answered says more than this."""
        took_s = self._now() - self._began
        return ("Server-Timing", server_timing(total=took_s))

    async def whole(self, raw: bytes, headers: list[tuple[str, str]]) -> None:
        """Send a whole answer, a JSON object as it was written."""
        await self._complete(raw)
        headers_asked = self._asking.headers
        if len(raw) < LONG_BYTES:
            raw, more = hot_answer(headers_asked, raw)
        else:
            raw, more = await asyncio.to_thread(hot_answer, headers_asked, raw)
        own = [JSON, *encoded(headers), *more, *self._everywhere]
        await self._tell(200, own, raw)

    async def again(self, answer: StoredAnswer, request_id: str) -> None:
        """Send the answer that was given before, to the request of this id."""
        told = [("content-type", answer.content_type), REPLAYED, self.so_far()]
        told += _names(self._dialect, request_id)
        if self.peek is not None:
            told += quota_headers(*await self.peek())
        own = encoded(told) + self._extra
        await self._tell(answer.status, own, answer.body)

    async def _tell(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole answer, in one piece if that can be."""
        headers.append((b"content-length", b"%d" % len(body)))
        if self._outlet is None or not self._outlet.answer(status, headers, body):
            await send_whole(self._send, status, headers, body)

    def _keep(self, data: bytes) -> None:
        """Remember what is sent, if the owner of the key agreed to that."""
        if self.claim is not None and self.claim.seal_key is not None:
            self._kept.append(data)

    def claimed(self, claim: Claim, once: Once | Repeats) -> None:
        """The request has its idempotency key: its outcome is written before its last bytes."""
        self.claim, self._once = claim, once

    async def _complete(self, last: bytes) -> None:
        """The answer is whole and charged. Whoever repeats the request from now on is told so."""
        self._keep(last)
        self.is_complete = True
        if self.claim is not None and self._once is not None:
            kept = StoredAnswer(200, self._kind, b"".join(self._kept)) if self._kept else None
            await asyncio.shield(self._once.finish(self.claim, kept))

    def streams(self, rendering: Rendering, early: list[tuple[str, str]]) -> None:
        """The answer is a stream; `early` are the headers that are known before it begins."""
        self._rendering = rendering
        self._kind = EVENTS
        self._early = early
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        self._timer = loop.call_at(self._sent_at + self._keepalive_s, self._look)

    def _look(self) -> None:
        """Send a comment if it is time for one, and look again when it may be."""
        loop = asyncio.get_running_loop()
        due = self._sent_at + self._keepalive_s
        if due <= loop.time():
            self._sent_at = loop.time()
            due = self._sent_at + self._keepalive_s
            self._pulse = loop.create_task(self._beat())
        self._timer = loop.call_at(due, self._look)

    async def _beat(self) -> None:
        await self._head([self.so_far(), *self._early])
        await self._send(_more(b": thinking\n\n"))

    async def begin(self, headers: list[tuple[str, str]]) -> None:
        """Send the head of a stream, or what it would have said if it has been sent."""
        if not self._head_sent:
            await self._head(headers)
            return
        told = "".join(f": {name}: {value}\n" for name, value in headers)
        await self._send(_more(told.encode("latin-1") + b"\n"))

    async def _head(self, headers: list[tuple[str, str]]) -> None:
        if self._head_sent:
            return
        self._head_sent = True
        await self._send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": EVENT_STREAM + encoded(headers) + self._everywhere,
            }
        )

    async def more(self, data: bytes) -> None:
        """Send a part of a stream; nothing is no part."""
        if data:
            if self.claim is not None:
                self._keep(data)
            self._sent_at = self._now()  # no call of get_running_loop: it asks the kernel
            await self._send(_more(data))

    def more_at_once(self, events: list[bytes]) -> bool:
        """Send a part of a stream without waiting for anything, or nothing of it."""
        if self._outlet is None or self._rendering is None or not self._outlet.is_free():
            return False
        data = self._rendering.events(events)
        if data:
            if self.claim is not None:
                self._keep(data)
            self._sent_at = self._now()
            self._outlet.write(data)
        return True

    async def end(self, data: bytes) -> None:
        """Send the last bytes of a stream that is complete."""
        self.close()
        await self._complete(data)
        await self._send({"type": "http.response.body", "body": data})

    def close(self) -> None:
        """No more signs of life."""
        if self._timer is not None:
            self._timer.cancel()
        if self._pulse is not None:
            self._pulse.cancel()

    def _release(self) -> asyncio.Future[None] | None:
        """The key of a request that did not end in an answer on its way back, if it has one."""
        if self._releasing is None and self.claim and self._once and not self.is_complete:
            self._releasing = asyncio.ensure_future(self._once.release(self.claim))
        return self._releasing

    async def released(self) -> None:
        """Whoever has no answer has their idempotency key back, whoever waits for it leaves."""
        releasing = self._release()
        if releasing is not None:
            await asyncio.shield(releasing)

    async def refuse(self, refusal: Refusal, strangers: StrangerLimit) -> None:
        """Say why not; after a stream's head as an event that no clean end follows.

        First the request's key is given back: whoever hears this may repeat it at once. Who is
        not known is under the limit of `strangers`.
        """
        self.close()
        self.is_refused = True
        releasing = self._release()
        if releasing is not None:
            await asyncio.wait({releasing}, timeout=GIVE_BACK_S)
        if self._rendering is not None and self._head_sent:
            last = self._rendering.failed(refusal, self.request_id)
            await self._send({"type": "http.response.body", "body": last})
            return
        headers = [self.so_far()]
        if self.admission is not None:
            headers += quota_headers(self.admission.tier, self.admission.quota)
        elif self.peek is None:
            refusal, left = strangers.heard(refusal, self._asking.address)
            headers += stranger_headers(left)
        elif "quota" not in refusal.details:
            headers += quota_headers(*await self.peek())
        headers += headers_of(refusal)
        body = orjson.dumps(self._dialect.refusal(refusal, self.request_id))
        own = [JSON, *encoded(headers), *self._everywhere]
        await self._tell(status_of(refusal), own, body)


def _more(data: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": True}


def _names(dialect: Dialect, request_id: str) -> list[tuple[str, str]]:
    """A request's id, under our name and the one that the dialect's clients read."""
    return [("X-Kyma-Request-Id", request_id), (dialect.id_header, request_id)]
