"""What a request would cost and who would serve it, found out without asking anybody.

Everything is reckoned by what the request itself would pass through: the same estimate, the
same routes in the same order, the same limits. Nothing is held, counted or sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kyma.calls import ChatCall, Size
from kyma.catalog.model import Model
from kyma.flows.access import Access, Admission, check_model, unavailable
from kyma.flows.chat import MAX_LAYER, Chat
from kyma.ledger import Balance
from kyma.money import Usd
from kyma.ports.runtime import Chance, Clock, Conversations, HealthBoard, Quota
from kyma.ports.storage import Ledger, Principal, StorageUnavailable
from kyma.pricing import max_output_for
from kyma.routing import UNKNOWN, Health, Route, is_shut, order
from kyma.tiers import Tier
from kyma.usage import Usage

LIKELY_OUTPUT_TOKENS = 512
"""What a likely answer is taken to have, if the request allows as much: our assumption."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route that may serve the request; `usable` is false while it is only a last resort."""

    route: Route
    usable: bool
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Quote:
    """The answer. `worst_case` is what the request would hold: no more can be charged.

    `candidates` are in the order in which they would be tried now. `limited_by` is the limit
    that would refuse the request, None if it would be admitted.
    """

    model: Model
    alias: str | None
    call: ChatCall
    worst_case: Usd
    likely_cost: Usd
    likely_usage: Usage
    candidates: tuple[Candidate, ...]
    balance: Balance
    max_tokens_that_fit: int
    tier: Tier
    quota: Quota
    limited_by: str | None

    @property
    def sufficient(self) -> bool:
        """Whether the hold could be placed now."""
        return self.worst_case <= self.balance.available


class Quotes:
    """Quotes for requests for text."""

    def __init__(
        self,
        access: Access,
        chat: Chat,
        ledger: Ledger,
        board: HealthBoard,
        conversations: Conversations,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._access = access
        self._chat = chat
        self._ledger = ledger
        self._board = board
        self._conversations = conversations
        self._clock = clock
        self._chance = chance

    async def quote(
        self,
        principal: Principal,
        call: ChatCall,
        model: Model,
        alias: str | None,
        *,
        endpoint: str,
        max_layer: int = MAX_LAYER,
    ) -> Quote:
        """A quote for this call; refuses what the call itself would be refused as unservable."""
        check_model(principal, model.id)
        tier, quota = await self._access.quota(principal)
        candidates = await self._candidates(
            Admission(principal, tier, quota), call, model, alias, endpoint, max_layer
        )
        try:
            balance = await self._ledger.balance(principal.account_id)
        except StorageUnavailable as error:
            raise unavailable() from error
        size = call.size
        likely = Usage(
            input=size.likely_input,
            output=min(size.max_output, LIKELY_OUTPUT_TOKENS * size.choices),
        )
        return Quote(
            model=model,
            alias=alias,
            call=call,
            worst_case=model.price.estimate(size),
            likely_cost=model.price.bill(likely),
            likely_usage=likely,
            candidates=candidates,
            balance=balance,
            max_tokens_that_fit=max_output_for(model.price, size, balance.available),
            tier=tier,
            quota=quota,
            limited_by=limited_by(size, tier, quota),
        )

    async def _candidates(
        self,
        admission: Admission,
        call: ChatCall,
        model: Model,
        alias: str | None,
        endpoint: str,
        max_layer: int,
    ) -> tuple[Candidate, ...]:
        ticket = self._chat.ticket(
            admission,
            call,
            model,
            alias,
            id=self._chance.id(),
            endpoint=endpoint,
            gone=lambda: False,
            max_layer=max_layer,
        )
        affinity = ticket.affinity
        if affinity is not None:
            held_by = await self._conversations.recall(affinity.conversation)
            affinity = replace(affinity, held_by=held_by)
        view, now = self._board.view(), self._clock.now().timestamp()
        found = order(ticket.routes, view, now, self._chance.dice, affinity)
        return tuple(_candidate(route, view, now) for route in found)


def limited_by(size: Size, tier: Tier, quota: Quota) -> str | None:
    """The limit that would refuse a request of this size now, by the words of a real refusal.

    The limit of requests per model is not foreseen: nobody counts it without a request.
    """
    tokens = size.likely_input + size.max_output
    if tokens > tier.max_request_tokens:
        return "max_single_request"
    if quota.unlimited:
        return None
    if quota.requests_used + 1 > tier.requests_per_minute:
        return "requests"
    return "tokens" if quota.tokens_used + tokens > tier.tokens_per_minute else None


def _candidate(route: Route, view: Mapping[str, Health], now: float) -> Candidate:
    health = view.get(route.key, UNKNOWN)
    return Candidate(route, not is_shut(health, now), health.latency_ms)
