"""What Anthropic's clients ask beyond one dialect: betas in a header, and their token counter."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from adapters.http.asking import Asking
from adapters.http.bodies import LARGE_BYTES
from adapters.http.dialects.messages import Messages, with_betas
from adapters.http.errors import quota_headers
from adapters.http.exchange import Exchange, Presence
from adapters.http.text import TextRoute
from adapters.json_text import json_bytes
from kyma.flows.once import Claim, Replay
from kyma.flows.repeats import PASSING
from kyma.idempotency import fingerprint_of
from kyma.keys import Scope
from kyma.ports.storage import Principal

if TYPE_CHECKING:
    from adapters.http.app import Parts

COUNT_PATH = "/v1/messages/count_tokens"


class MessagesRoute(TextRoute):
    """`POST /v1/messages`: the betas of a header cross with the body, to Anthropic alone."""

    def __init__(self, dialect: Messages, parts: Parts) -> None:
        super().__init__(dialect, parts)
        self._messages = dialect

    def _parsed(self, raw: bytes, asking: Asking) -> dict[str, Any]:
        body = super()._parsed(raw, asking)
        with_betas(body, asking.betas)
        return body


class CountTokens(MessagesRoute):
    """What a prompt is likely to take, free; an estimate: no provider's tokenizer is here."""

    def __init__(self, dialect: Messages, parts: Parts) -> None:
        super().__init__(dialect, parts)
        self._keeper = self._repeats = parts.repeats

    async def _serve(self, asking: Asking, presence: Presence, exchange: Exchange) -> None:
        principal = await self._access.known(asking.secret)
        exchange.peek = lambda: self._access.quota(principal)
        self._access.permit(principal, Scope.INFERENCE, asking.address)
        raw = await self._body(asking, presence)
        named = asking.idempotency_key is not None
        if named and await self._is_done(asking, principal, raw, exchange):
            return
        if len(raw) > LARGE_BYTES:
            work = partial(self._counted, raw, asking)
            tokens = await self._workbench.run(principal.account_id, work)
        else:
            tokens = self._counted(raw, asking)
        quota = quota_headers(*await self._access.quota(principal))
        told = json_bytes({"input_tokens": tokens})
        await exchange.whole(told, [exchange.so_far(), *quota])

    async def _begin(
        self, asking: Asking, principal: Principal, raw: bytes, request_id: str
    ) -> Claim | Replay:
        return await self._repeats.begin(
            principal.account_id,
            asking.secret,
            asking.idempotency_key or "",
            fingerprint_of("POST", COUNT_PATH, raw),
            request_id,
            PASSING,
        )

    def _counted(self, raw: bytes, asking: Asking) -> int:
        body = self._parsed(raw, asking)
        model, _ = self._catalogue.find(self._messages.model_to_count(body))
        return self._messages.count(body, model)
