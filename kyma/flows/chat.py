"""Chat: hold, routes in order until one answers, bill, settle, answer.

A stream is the same bracket: entering it means that the hold is placed and the first text is
in hand, so every fallback and every refusal happens before a byte leaves; leaving it settles,
however one leaves. Two models are never spliced into one answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from kyma.calls import ChatCall, Dialect, Fault, UpstreamError, conversation_of
from kyma.catalog.model import Catalogue, Model
from kyma.errors import Code, Refusal
from kyma.flows.access import Admission
from kyma.flows.billing import Billing
from kyma.flows.faults import outcome_of, refusal_of
from kyma.flows.live import Begun, LiveAnswer, until_text
from kyma.flows.ticket import Receipt, Served, Ticket
from kyma.generations import price_used
from kyma.ledger import Hold, Outcome
from kyma.money import ZERO, Usd
from kyma.ports.runtime import Alerts, Chance, Clock, Conversations, HealthBoard, Limiter
from kyma.ports.storage import StorageUnavailable
from kyma.ports.upstreams import ChatUpstream, Deadline
from kyma.pricing import PerToken, billable, echoed_bytes
from kyma.routing import UNKNOWN, Affinity, Route, Step, is_half_open, next_step, order, soonest
from kyma.usage import NOTHING, Attempt, Evidence, Usage, UsageRecord

T = TypeVar("T")

MAX_ATTEMPTS = 6
"""Upstream calls for one request; every loop is bounded."""

SECOND_ROUND_PAUSE_S = 0.2
SECOND_ROUND_MAX_PAUSE_S = 3.0
"""When every route failed, one more round is tried if none asks us to wait longer than this."""

CACHEABLE_TOKENS = 1024
"""Prompts from this size on are cached by providers (docs page guides/prompt-caching)."""

MAX_LAYER = 3

WAITED = frozenset({Fault.TIMEOUT, Fault.OVERDUE})

BYTES_PER_TOKEN = 4
"""Used only where an upstream does not tell: UTF-8 bytes of output per token, on the low side."""


Write = Callable[[Served], bytes]


def _unwritten(_: Served) -> bytes:
    return b""


class Chat:
    """Chat completions over every provider."""

    def __init__(
        self,
        catalogue: Catalogue,
        billing: Billing,
        upstream: ChatUpstream,
        board: HealthBoard,
        limiter: Limiter,
        conversations: Conversations,
        alerts: Alerts,
        clock: Clock,
        chance: Chance,
        request_timeout_s: float,
    ) -> None:
        """`request_timeout_s` bounds a whole request, every attempt included."""
        self._catalogue = catalogue
        self._billing = billing
        self._upstream = upstream
        self._board = board
        self._limiter = limiter
        self._conversations = conversations
        self._alerts = alerts
        self._clock = clock
        self._chance = chance
        self._request_timeout_s = request_timeout_s

    def ticket(
        self,
        admission: Admission,
        call: ChatCall,
        model: Model,
        alias: str | None,
        *,
        id: str,
        endpoint: str,
        gone: Callable[[], bool],
        began: float | None = None,
        max_layer: int = MAX_LAYER,
    ) -> Ticket:
        """Start the clock of a request, or refuse one that no route may serve.

        `id` names the request, its hold, its usage record and its answer; `gone` tells whether
        its client has left; `began` is when it came (monotonic), now if not given. Routes
        beyond `max_layer` are left out: 1 refuses every substitute model.
        """
        started = self._clock.monotonic() if began is None else began
        try:
            routes = self._routes(call, model, max_layer, admission.principal.policy.models)
        except Refusal:
            self._correct_limits(admission, call, NOTHING)
            raise
        return Ticket(
            id=id,
            admission=admission,
            call=call,
            model=model,
            alias=alias,
            endpoint=endpoint,
            started_at=self._clock.now(),
            started=started,
            deadline=Deadline(started + self._request_timeout_s),
            gone=gone,
            routes=routes,
            affinity=_affinity(call, model),
        )

    def _routes(
        self, call: ChatCall, model: Model, max_layer: int, allowed: frozenset[str]
    ) -> tuple[Route, ...]:
        """The routes that could serve this call, whatever their health.

        `allowed` are the models of the caller's key, if it is limited to some: no fallback
        leaves them.
        """
        known = self._catalogue.routes(model)
        need = call.size.likely_input + call.size.max_output
        speaking = [
            route
            for route in known
            if model.speaks(call.dialect) and self._upstream.serves(route, call.dialect)
        ]
        if known and not speaking:
            raise Refusal(
                Code.MODEL_NOT_FOUND,
                f"{model.id} is not offered on this endpoint ({call.dialect}) by any provider "
                "here. GET /v1/models lists what each model can do.",
                param="model",
            )
        routes = tuple(
            route
            for route in speaking
            if route.layer <= max_layer
            and (not allowed or route.model in allowed)
            # A substitute whose window is too small would answer with the caller's error.
            and (route.model == model.id or self._catalogue.get(route.model).context_window >= need)
        )
        if not routes:
            why = "within the fallback layers that this request allows " if known else ""
            raise Refusal(
                Code.NO_ROUTE,
                f"No provider that is configured here serves {model.id} {why}now. "
                "Nothing was charged.",
            )
        return routes

    async def answer(self, ticket: Ticket, write: Write = _unwritten) -> Served:
        """A whole answer, written, then settled, then returned.

        `write` makes the bytes of an answer with its receipt. What it refuses with an
        `UpstreamError` is no answer: another route is asked. Nothing that it raises is charged.
        """
        hold = await self._hold(ticket)

        async def ask(route: Route) -> Served:
            answer = await self._upstream.answer(ticket.call, route, hold, ticket.deadline)
            began = self._clock.monotonic()
            usage = self.evidence(ticket, route, answer.usage, answer.output_bytes)
            draft = Served(ticket, route, answer, self._expected(ticket, hold, route, usage))
            draft = replace(draft, written=write(draft))
            ticket.upstream_s -= self._clock.monotonic() - began  # this was not the provider
            return draft

        try:
            draft, route = await self._first_to_answer(ticket, ask)
        except BaseException as error:
            await self._refund(ticket, hold, outcome_of(error))
            raise
        receipt = await self.settle(ticket, hold, route, draft.receipt.usage, "ok")
        if receipt == draft.receipt:
            return draft
        served = replace(draft, receipt=receipt)
        return replace(served, written=write(served))

    def _expected(self, ticket: Ticket, hold: Hold, route: Route, usage: Usage) -> Receipt:
        """The receipt that settling comes to, unless the sweep has returned the hold."""
        price = self._price(ticket.model, route, usage)
        return Receipt(usage, min(price.bill(usage), hold.amount), price.cache_discount(usage))

    @asynccontextmanager
    async def stream(self, ticket: Ticket) -> AsyncIterator[LiveAnswer]:
        """A stream with its first text in hand; leaving the block resolves the hold."""
        hold = await self._hold(ticket)
        async with AsyncExitStack() as sockets:

            async def begin(route: Route) -> Begun:
                attempt = AsyncExitStack()
                try:
                    chunks = await attempt.enter_async_context(
                        self._upstream.stream(ticket.call, route, hold, ticket.deadline)
                    )
                    first = await until_text(chunks)
                except BaseException:
                    await attempt.aclose()
                    raise
                sockets.push_async_exit(attempt)
                return Begun(chunks, first)

            try:
                begun, route = await self._first_to_answer(ticket, begin)
            except BaseException as error:
                await self._refund(ticket, hold, outcome_of(error))
                raise
            live = LiveAnswer(self, ticket, route, hold, begun)
            try:
                yield live
            finally:
                await self._billing.detached(live.leave())

    async def _hold(self, ticket: Ticket) -> Hold:
        """Place the hold; meanwhile it is asked which route holds the conversation's cache.

        Once a hold is granted nothing is awaited here: its caller refunds it, however it ends.
        """
        began = self._clock.monotonic()
        if ticket.affinity is not None:
            recall = self._conversations.recall(ticket.affinity.conversation)
            ticket.recalling = asyncio.ensure_future(recall)
        try:
            principal = ticket.admission.principal
            hold = await self._billing.hold(
                ticket.id, principal.account_id, ticket.model, ticket.call.size, principal.key_id
            )
        except BaseException:
            if ticket.recalling is not None:
                ticket.recalling.cancel()
            self._correct_limits(ticket.admission, ticket.call, NOTHING)
            raise
        ticket.hold_s = self._clock.monotonic() - began
        return hold

    async def _first_to_answer(
        self, ticket: Ticket, ask: Callable[[Route], Awaitable[T]]
    ) -> tuple[T, Route]:
        """Try routes in order, a second round after a short pause; raises the refusal."""
        if ticket.affinity is not None and ticket.recalling is not None:
            ticket.affinity = replace(ticket.affinity, held_by=await ticket.recalling)
        first_fault: UpstreamError | None = None
        for round_number in range(2):
            for route in self._order(ticket):
                if len(ticket.attempts) >= MAX_ATTEMPTS or self._is_over(ticket):
                    break
                try:
                    return await self._attempt(ticket, route, ask), route
                except UpstreamError as error:
                    if next_step(error.fault) is Step.GIVE_UP and first_fault is None:
                        raise refusal_of(error) from error
                    # A route that rejects what the first one would have taken is just
                    # one more that failed: the caller hears of the first fault.
                    # Its traceback knows this frame, which knows it: both would stay.
                    first_fault = first_fault or error.with_traceback(None)
            if round_number > 0 or (first_fault and first_fault.fault in WAITED):
                break  # who has waited in vain once is not made to wait again
            if not await self._pause(ticket):
                break
        if first_fault is None:
            raise self._no_route(ticket)
        raise refusal_of(first_fault) from first_fault

    def _order(self, ticket: Ticket) -> list[Route]:
        return order(
            ticket.routes,
            self._board.view(),
            self._clock.now().timestamp(),
            self._chance.dice,
            ticket.affinity,
        )

    def _is_over(self, ticket: Ticket) -> bool:
        return ticket.gone() or ticket.deadline.left(self._clock.monotonic()) <= 0

    async def _pause(self, ticket: Ticket) -> bool:
        """Wait for the first route that may be tried again; False if that is too far off."""
        routes = ticket.routes
        if len(ticket.attempts) >= MAX_ATTEMPTS or self._is_over(ticket):
            return False
        view = self._board.view()
        now = self._clock.now().timestamp()
        waits = [view.get(route.key, UNKNOWN).open_until - now for route in routes]
        pause = max(SECOND_ROUND_PAUSE_S, min(waits) + 0.01)
        if pause > min(SECOND_ROUND_MAX_PAUSE_S, ticket.deadline.left(self._clock.monotonic())):
            return False
        await asyncio.sleep(pause)
        return True

    async def _attempt(
        self, ticket: Ticket, route: Route, ask: Callable[[Route], Awaitable[T]]
    ) -> T:
        if is_half_open(self._board.view().get(route.key, UNKNOWN), self._clock.now().timestamp()):
            self._board.probing(route.key)
        began = self._clock.monotonic()
        outcome = "cancelled"
        try:
            answer = await ask(route)
            outcome = "ok"
        except UpstreamError as error:
            outcome = error.fault.value
            self._board.failed(route.key, error.fault, error.retry_after_s)
            if error.fault is Fault.DENIED:
                self._alerts.provider_account_refused(route.provider, error.message)
            raise
        finally:
            took = self._clock.monotonic() - began
            ticket.upstream_s += took
            ticket.attempts.append(
                Attempt(
                    route.provider, route.upstream_model, route.layer, outcome, int(took * 1000)
                )
            )
        ticket.first_byte_ms = int((self._clock.monotonic() - ticket.started) * 1000)
        self._board.succeeded(route.key, took * 1000)
        if ticket.affinity is not None and route.layer <= 1:
            self._conversations.remember(ticket.affinity.conversation, route.key)
        return answer

    def _no_route(self, ticket: Ticket) -> Refusal:
        if ticket.gone():
            return Refusal(Code.STREAM_INTERRUPTED, "The client left before an answer began.")
        return Refusal(
            Code.NO_ROUTE,
            f"Every provider of {ticket.model.id} asks us to wait. Nothing was charged.",
            retry_after_s=soonest(ticket.routes, self._board.view(), self._clock.now().timestamp()),
        )

    def evidence(
        self, ticket: Ticket, route: Route, told: Usage | None, output_bytes: int
    ) -> Usage:
        """What to bill: what the upstream told if that can be true, else what we counted."""
        call = ticket.call
        if told is not None:
            usage = billable(told, call, ticket.model.context_window, output_bytes)
            if usage != told:
                self._alerts.implausible_usage(route.provider, route.model, repr(told)[:300])
            if usage is not None:
                return usage
        said_bytes = max(0, output_bytes - echoed_bytes(call))
        return Usage(
            input=call.size.likely_input,
            output=min(-(-said_bytes // BYTES_PER_TOKEN), call.size.max_output),
            evidence=Evidence.AT_LEAST,
        )

    async def settle(
        self, ticket: Ticket, hold: Hold, route: Route, usage: Usage, outcome: str
    ) -> Receipt:
        """Charge what was used, at most the hold, and write the record with it."""
        self._correct_limits(ticket.admission, ticket.call, usage)
        price = self._price(ticket.model, route, usage)
        bill, cost = price.bill(usage), route.cost.bill(usage)
        record = self._record(ticket, route, usage, outcome, price.cache_discount(usage), cost)
        began = self._clock.monotonic()
        try:
            resolved = await self._billing.settle(hold, bill, cost, record)
        except StorageUnavailable as error:
            raise Refusal(
                Code.STORAGE_UNAVAILABLE,
                "The answer was made, but its charge could not be recorded. If it was, it is at "
                "most the hold and GET /v1/credits/balance shows it; if not, the hold returns.",
                retry_after_s=2,
                charged=None,
            ) from error
        ticket.settle_s = self._clock.monotonic() - began
        if resolved.outcome not in {Outcome.DONE, Outcome.ALREADY_SETTLED}:
            # The sweep was faster: the customer has the credit back, the work is our loss.
            return Receipt(usage, ZERO, record.cache_discount)
        return Receipt(usage, resolved.settled, record.cache_discount)

    def _price(self, model: Model, route: Route, usage: Usage) -> PerToken:
        if route.model == model.id:
            return model.price
        return price_used(model.price, self._catalogue.get(route.model).price, usage)

    async def broke(
        self, ticket: Ticket, hold: Hold, route: Route, usage: Usage, error: UpstreamError
    ) -> None:
        """A stream broke after its first text: the customer pays nothing, the route is marked."""
        self._board.failed(route.key, error.fault, error.retry_after_s)
        ticket.attempts[-1] = replace(ticket.attempts[-1], outcome=error.fault.value)
        await self._refund(ticket, hold, "stream_interrupted", route, usage)

    async def cut(self, ticket: Ticket, hold: Hold, route: Route) -> None:
        """A stream was cut by us: the customer pays nothing, the route is not to blame."""
        await self._refund(ticket, hold, "cut_by_gateway", route)

    async def _refund(
        self,
        ticket: Ticket,
        hold: Hold,
        outcome: str,
        route: Route | None = None,
        usage: Usage = NOTHING,
    ) -> None:
        """Return the hold. What a provider bills us for a broken answer is our cost."""
        self._correct_limits(ticket.admission, ticket.call, usage)
        cost = route.cost.bill(usage) if route else ZERO
        record = self._record(ticket, route, usage, outcome, ZERO, cost)
        try:
            await self._billing.refund(hold, cost, record)
        except StorageUnavailable:
            # Nothing more can be done here: the hold expires and the sweep returns it.
            return

    def _correct_limits(self, admission: Admission, call: ChatCall, usage: Usage) -> None:
        """From what the limits reserved for a call to what it used."""
        reserved = call.size.likely_input + call.size.max_output
        used = usage.prompt_tokens + usage.completion_tokens
        self._limiter.correct(admission.principal.account_id, admission.quota, used - reserved)

    def _record(
        self,
        ticket: Ticket,
        route: Route | None,
        usage: Usage,
        outcome: str,
        discount: Usd,
        cost: Usd,
    ) -> UsageRecord:
        return UsageRecord(
            id=ticket.id,
            account_id=ticket.admission.principal.account_id,
            key_id=ticket.admission.principal.key_id,
            endpoint=ticket.endpoint,
            requested_model=ticket.model.id,
            served_model=route.model if route else "",
            provider=route.provider if route else "",
            layer=route.layer if route else 0,
            streamed=ticket.call.stream,
            outcome=outcome,
            usage=usage,
            price_version=self._catalogue.price_version,
            charged=ZERO,
            cache_discount=discount,
            provider_cost=cost,
            first_byte_ms=ticket.first_byte_ms,
            duration_ms=int((self._clock.monotonic() - ticket.started) * 1000),
            attempts=tuple(ticket.attempts),
            started_at=ticket.started_at,
        )


def _affinity(call: ChatCall, model: Model) -> Affinity | None:
    """What ties this call to a route; nothing does where no provider would cache its prompt."""
    if (
        not model.caching
        or call.size.likely_input < CACHEABLE_TOKENS
        or call.dialect not in {Dialect.CHAT, Dialect.MESSAGES}
    ):
        return None
    return Affinity(conversation_of(call.body))
