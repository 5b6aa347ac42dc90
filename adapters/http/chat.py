"""`POST /v1/chat/completions` as a plain ASGI callable: parse, admit, one call, render."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from adapters.http.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    credential,
    encoded,
    read_body,
    send_json,
    send_refusal,
)
from adapters.http.chat_request import check, parsed
from adapters.http.errors import envelope, quota_headers
from kyma.calls import ChatCall, size_of
from kyma.catalog.model import Catalogue
from kyma.errors import Code, Refusal
from kyma.flows.access import Access, Admission
from kyma.flows.chat import Chat, LiveAnswer, Receipt, Ticket
from kyma.money import decimal_text, number
from kyma.ports.runtime import Chance, Clock, Quota
from kyma.routing import Route
from kyma.tiers import Tier

log = structlog.get_logger("kyma.http")

PATH = "/v1/chat/completions"
EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
SLOW_READER_S = 30.0
"""How long after its deadline a stream may still be blocked by a client that does not read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a client may send, and how slowly."""

    body_bytes: int
    body_timeout_s: float


class ChatCompletions:
    """The hot route."""

    def __init__(
        self,
        access: Access,
        chat: Chat,
        catalogue: Catalogue,
        clock: Clock,
        chance: Chance,
        limits: Limits,
    ) -> None:
        self._access = access
        self._chat = chat
        self._catalogue = catalogue
        self._clock = clock
        self._chance = chance
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; whatever happens is one answer in OpenAI's envelope."""
        presence = _Presence(receive)
        exchange = _Exchange(send, self._chance.id())
        try:
            await self._serve(scope, presence, exchange)
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except ClientGone:
            return
        except asyncio.CancelledError:
            if not presence.left:
                await exchange.refuse(
                    Refusal(
                        Code.STREAM_INTERRUPTED,
                        "This gateway is stopping. Nothing was charged; send the request again.",
                    )
                )
                raise
            current = asyncio.current_task()
            if current is not None:
                current.uncancel()
        except Exception:
            log.exception("request_failed", request_id=exchange.request_id)
            await exchange.refuse(
                Refusal(
                    Code.INTERNAL,
                    "Something broke on our side. Nothing was charged; quote the request id.",
                )
            )
        finally:
            presence.close()

    async def _serve(self, scope: Scope, presence: _Presence, exchange: _Exchange) -> None:
        principal = await self._access.identify(credential(scope))
        exchange.peek = lambda: self._access.quota(principal)
        raw = await read_body(
            scope, presence.receive, self._limits.body_bytes, self._limits.body_timeout_s
        )
        body = parsed(raw)
        check(body)
        model, alias = self._catalogue.find(body["model"])
        options = body.get("stream_options")
        call = ChatCall(
            body,
            model.id,
            stream=bool(body.get("stream")),
            wants_usage=bool(options and options.get("include_usage")),
            size=size_of(body, model.context_window),
        )
        admission = await self._access.admit(principal, model.id, call.size)
        exchange.admission = admission
        ticket = self._chat.ticket(
            admission,
            call,
            model,
            alias,
            id=exchange.request_id,
            endpoint="chat.completions",
            gone=presence.gone,
        )
        if call.stream:
            presence.watch(ticket.deadline.at + SLOW_READER_S)
            await self._stream(ticket, exchange)
        else:
            await self._answer(ticket, exchange)

    async def _answer(self, ticket: Ticket, exchange: _Exchange) -> None:
        served = await self._chat.answer(ticket)
        body = served.answer.body
        body["usage"] = usage_json(served.receipt)
        await send_json(exchange.send, 200, body, self._headers(ticket, served.route))

    async def _stream(self, ticket: Ticket, exchange: _Exchange) -> None:
        async with self._chat.stream(ticket) as live:
            await exchange.begin(EVENT_STREAM + self._headers(ticket, live.route))
            send = exchange.send
            async for events in live.events():
                await send(
                    {
                        "type": "http.response.body",
                        "body": b"\n\n".join(events) + b"\n\n",
                        "more_body": True,
                    }
                )
            await exchange.end(_last_words(ticket, live))

    def _headers(self, ticket: Ticket, route: Route) -> list[tuple[bytes, bytes]]:
        overhead_ms = (self._clock.monotonic() - ticket.started - ticket.upstream_s) * 1000
        headers = [
            ("X-Kyma-Request-Id", ticket.id),
            ("X-Kyma-Model", route.model),
            ("X-Kyma-Overhead-Ms", f"{max(0.0, overhead_ms):.2f}"),
            *quota_headers(ticket.admission.tier, ticket.admission.quota),
        ]
        if ticket.alias:
            headers.append(("X-Kyma-Alias", ticket.alias))
        if ticket.fell_back:
            headers.append(("X-Kyma-Fallback", "true"))
            headers.append(("X-Kyma-Fallback-Layer", str(max(1, route.layer))))
        if route.provider.startswith("sandbox"):
            headers.append(("X-Kyma-Sandbox", "true"))
        return encoded(headers)


def _last_words(ticket: Ticket, live: LiveAnswer) -> bytes:
    """The usage chunk, if the client asked for it, and the end mark."""
    done = b"data: [DONE]\n\n"
    if not ticket.call.wants_usage or live.receipt is None:
        return done
    chunk = {
        "id": f"chatcmpl-{ticket.id}",
        "object": "chat.completion.chunk",
        "created": int(ticket.started_at.timestamp()),
        "model": live.route.model,
        "choices": [],
        "usage": usage_json(live.receipt),
    }
    return b"data: " + orjson.dumps(chunk) + b"\n\n" + done


def usage_json(receipt: Receipt) -> dict[str, Any]:
    """OpenAI's usage with Kyma's fields beside it; `cost` is what was charged, in USD."""
    usage = receipt.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "cached_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write,
        "cost": number(receipt.charged),
        "cost_usd": decimal_text(receipt.charged),
        "cache_discount": number(receipt.cache_discount),
    }


class _Presence:
    """Whether the client is still there; asks the server only when somebody wants to know."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.left = False

    def gone(self) -> bool:
        """True once the client has closed its connection."""
        if self._watcher is None:
            self._start(lambda: None)
        return self.left

    def watch(self, patience_until: float) -> None:
        """From now on cancel the serving task when the client leaves, or reads too slowly.

        `patience_until` is a time of the event loop; a client whose stream has not ended by
        then counts as one that left.
        """
        task = asyncio.current_task()
        if task is None:
            return

        def give_up() -> None:
            self.left = True
            task.cancel()

        self._timer = asyncio.get_running_loop().call_at(patience_until, give_up)
        self._start(task.cancel)

    def _start(self, then: Callable[[], object]) -> None:
        async def wait() -> None:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                self.left = True
                then()

        self._watcher = asyncio.get_running_loop().create_task(wait())

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()


class _Exchange:
    """The answer so far: decides whether a refusal is still a status or an event of a stream."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.send = send
        self.request_id = request_id
        self.admission: Admission | None = None
        self.peek: Callable[[], Awaitable[tuple[Tier, Quota]]] | None = None
        self._streaming = False

    async def begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head of a stream."""
        self._streaming = True
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def end(self, data: bytes) -> None:
        """Send the last bytes of a stream."""
        await self.send({"type": "http.response.body", "body": data})

    async def refuse(self, refusal: Refusal) -> None:
        """Say why not; after a stream's head as an error event, never followed by `[DONE]`."""
        if self._streaming:
            event = orjson.dumps(envelope(refusal, self.request_id))
            await self.end(b"event: error\ndata: " + event + b"\n\n")
            return
        headers: list[tuple[bytes, bytes]] = []
        if self.admission is not None:
            headers = encoded(quota_headers(self.admission.tier, self.admission.quota))
        elif self.peek is not None and "quota" not in refusal.details:
            headers = encoded(quota_headers(*await self.peek()))
        await send_refusal(self.send, refusal, self.request_id, headers)
