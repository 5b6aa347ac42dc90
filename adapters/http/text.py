"""Every route that answers with text, as a plain ASGI callable: parse, admit, one call, render.

What differs between them is their dialect (`adapters.http.dialects`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from adapters.http.asgi import ClientGone, Receive, Scope, Send, read_body
from adapters.http.asking import Asking
from adapters.http.bodies import LARGE_BYTES, check_packing, parsed
from adapters.http.connections import OUTLET
from adapters.http.dialects import Dialect
from adapters.http.errors import quota_headers
from adapters.http.exchange import Exchange, Presence
from adapters.http.replays import replayed
from adapters.json_text import Unwritable, json_bytes
from kyma.budget import FIELD as MAX_COST
from kyma.budget import check_max_cost, limit_of
from kyma.calls import ChatCall, Fault, UpstreamError
from kyma.catalog.model import Model
from kyma.errors import Code, Refusal
from kyma.flows.once import Claim, Once, Replay
from kyma.flows.repeats import Repeats
from kyma.flows.ticket import Served, Ticket
from kyma.idempotency import fingerprint_of
from kyma.keys import Scope as KeyScope
from kyma.ports.storage import Principal
from kyma.routing import Route

if TYPE_CHECKING:
    from adapters.http.app import Parts

log = structlog.get_logger("kyma.http")

SLOW_READER_S = 30.0
"""How long after its deadline a stream may still be blocked by a client that does not read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a client may send, and how slowly.

    `keepalive_s` is how long a stream may be silent; a claim on an idempotency key whose
    request has not ended after `claim_s` is that of a dead process.
    """

    body_bytes: int
    body_timeout_s: float
    keepalive_s: float
    claim_s: float


class TextRoute:
    """One dialect, served."""

    def __init__(self, dialect: Dialect, parts: Parts) -> None:
        self._dialect = dialect
        self._access = parts.access
        self._chat = parts.chat
        self._once = parts.once
        self._keeper: Once | Repeats = parts.once
        self._catalogue = parts.catalogue
        self._clock = parts.clock
        self._chance = parts.chance
        self._limits = parts.limits
        self._workbench = parts.workbench
        self._strangers = parts.strangers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; whatever happens is one answer in the caller's dialect."""
        outlet = scope.get("state", {}).get(OUTLET)
        presence = Presence(receive, outlet)
        asking = Asking(scope)
        exchange = Exchange(
            send, self._chance.id(), self._dialect, self._limits.keepalive_s, asking, outlet
        )
        try:
            await self._served_or_told(asking, presence, exchange)
        except ClientGone:
            return
        except asyncio.CancelledError:
            if not presence.left:
                if not exchange.is_refused:
                    await exchange.refuse(_stopping(exchange), self._strangers)
                raise
            current = asyncio.current_task()
            if current is not None:
                current.uncancel()
        finally:
            exchange.close()
            presence.close()
            await exchange.released()

    async def _served_or_told(self, asking: Asking, presence: Presence, exchange: Exchange) -> None:
        """Serve a request, or say why not; raises only if nobody is to be told any more."""
        try:
            await self._serve(asking, presence, exchange)
        except Refusal as refusal:
            await exchange.refuse(refusal, self._strangers)
        except ClientGone:
            raise
        except Exception:
            log.exception("request_failed", request_id=exchange.request_id)
            await exchange.refuse(_broken(exchange), self._strangers)

    async def _serve(self, asking: Asking, presence: Presence, exchange: Exchange) -> None:
        principal = await self._access.known(asking.secret)
        exchange.peek = lambda: self._access.quota(principal)
        self._access.permit(principal, KeyScope.INFERENCE, asking.address)
        raw = await self._body(asking, presence, principal)
        began = self._clock.monotonic()
        try:
            if len(raw) > LARGE_BYTES:
                read = await self._workbench.run(
                    principal.account_id, partial(self._read, raw, asking)
                )
            else:
                read = self._read(raw, asking)
            call, model, alias = read
            max_layer = asking.max_layer()
            if asking.idempotency_key is not None and await self._is_done(
                asking, principal, raw, exchange
            ):
                return
            exchange.admission = admission = await self._access.admit(
                principal, model.id, call.size
            )
        except Refusal:
            if len(raw) > LARGE_BYTES:
                await self._access.count(principal)
            raise
        ticket = self._chat.ticket(
            admission,
            call,
            model,
            alias,
            id=exchange.request_id,
            endpoint=self._dialect.endpoint,
            gone=presence.gone,
            began=began,
            max_layer=max_layer,
        )
        if call.stream:
            presence.watch(ticket.deadline.at + SLOW_READER_S)
            await self._stream(ticket, exchange)
        else:
            await self._answer(ticket, exchange)

    def _read(self, raw: bytes, asking: Asking) -> tuple[ChatCall, Model, str | None]:
        """The call that a body asks for, its model, and the alias by which that was named."""
        body = self._parsed(raw, asking)
        max_cost = limit_of(body.pop(MAX_COST, None), asking.max_cost)
        model, alias = self._catalogue.find(self._dialect.model(body))
        call = self._dialect.call(body, model)
        if len(raw) > LARGE_BYTES:
            call = replace(call, large=True)
        if max_cost is not None:
            check_max_cost(model.price, call.size, max_cost)
        return call, model, alias

    def _parsed(self, raw: bytes, asking: Asking) -> dict[str, Any]:  # noqa: ARG002 - see Messages
        """The body, with what the dialect says in headers."""
        return parsed(raw)

    async def _body(
        self, asking: Asking, presence: Presence, limited: Principal | None = None
    ) -> bytes:
        """The body; a large one is not read for a customer who has no request left."""
        if asking.packing is not None:
            check_packing(asking.packing)
        told, most = asking.content_length, self._limits.body_bytes
        if limited is not None and told is not None and LARGE_BYTES < told <= most:
            await self._access.check_window(limited)
        # A timer costs more than to read what has come with the head, as most bodies have.
        patience_s = None if presence.has_all() else self._limits.body_timeout_s
        raw = await read_body(told, presence.receive, most, patience_s)
        if limited is not None and told is None and len(raw) > LARGE_BYTES:
            await self._access.check_window(limited)
        return raw

    async def _is_done(
        self, asking: Asking, principal: Principal, raw: bytes, exchange: Exchange
    ) -> bool:
        """Claim the request's idempotency key, or answer with what became of its first use."""
        begun = await self._begin(asking, principal, raw, exchange.request_id)
        if isinstance(begun, Claim):
            exchange.claimed(begun, self._keeper)
            return False
        await exchange.again(replayed(begun, self._catalogue), begun.request_id)
        return True

    async def _begin(
        self, asking: Asking, principal: Principal, raw: bytes, request_id: str
    ) -> Claim | Replay:
        return await self._once.begin(
            principal,
            asking.idempotency_key or "",
            fingerprint_of("POST", self._dialect.path, raw),
            request_id,
            self._limits.claim_s,
            asking.secret,
        )

    async def _answer(self, ticket: Ticket, exchange: Exchange) -> None:
        served = await self._chat.answer(ticket, self._written)
        exchange.is_settled = True
        await exchange.whole(served.written, self._headers(ticket, served.route))

    def _written(self, served: Served) -> bytes:
        try:
            return json_bytes(self._dialect.whole(served))
        except Unwritable as error:
            raise UpstreamError(Fault.BROKEN, f"no answer of ours: {error}") from error

    async def _stream(self, ticket: Ticket, exchange: Exchange) -> None:
        rendering = self._dialect.rendering(ticket)
        exchange.streams(rendering, quota_headers(ticket.admission.tier, ticket.admission.quota))
        async with self._chat.stream(ticket) as live:
            await exchange.begin(self._headers(ticket, live.route))
            async for events in live.events(exchange.more_at_once):
                await exchange.more(rendering.events(events))
            exchange.is_settled = True
            await exchange.end(rendering.end(live))

    def _headers(self, ticket: Ticket, route: Route) -> list[tuple[str, str]]:
        total_s = self._clock.monotonic() - ticket.started
        headers = [
            ("X-Kyma-Model", route.model),
            ("X-Kyma-Overhead-Ms", f"{max(0.0, total_s - ticket.upstream_s) * 1000:.2f}"),
            (
                "Server-Timing",
                f"hold;dur={ticket.hold_s * 1000:.2f}, "
                f"upstream;dur={ticket.upstream_s * 1000:.2f}, "
                f"settle;dur={ticket.settle_s * 1000:.2f}, total;dur={total_s * 1000:.2f}",
            ),
            *quota_headers(ticket.admission.tier, ticket.admission.quota),
        ]
        if ticket.alias:
            headers.append(("X-Kyma-Alias", ticket.alias))
        if ticket.fell_back:
            headers.append(("X-Kyma-Fallback", "true"))
            headers.append(("X-Kyma-Fallback-Layer", str(max(1, route.layer))))
        if route.provider.startswith("sandbox"):
            headers.append(("X-Kyma-Sandbox", "true"))
        return headers


def _stopping(exchange: Exchange) -> Refusal:
    """Our process stops and cannot wait any longer; a hold that was not settled is returned."""
    if exchange.is_settled:
        return Refusal(
            Code.STREAM_INTERRUPTED,
            "This gateway is stopping. The answer was complete; "
            f"GET /v1/generations/{exchange.request_id} tells what was charged.",
            charged=None,
        )
    return Refusal(
        Code.STREAM_INTERRUPTED,
        "This gateway is stopping. Nothing was charged; send the request again.",
    )


def _broken(exchange: Exchange) -> Refusal:
    """Our own mistake. Once a hold may have been placed only the ledger knows what became of it."""
    if exchange.admission is None:
        words = "Nothing was charged; quote the request id."
        return Refusal(Code.INTERNAL, f"Something broke on our side. {words}")
    return Refusal(
        Code.INTERNAL,
        "Something broke on our side. "
        f"GET /v1/generations/{exchange.request_id} tells whether it was charged.",
        charged=None,
    )
