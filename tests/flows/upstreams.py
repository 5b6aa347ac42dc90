"""A fake of the `ChatUpstream` port, and a gateway of memory adapters around it.

What a provider does is said by the test: a list of acts per provider, the last of which
repeats. No act knows anything of the flow under test.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from adapters.memory.runtime import (
    MemoryAlerts,
    MemoryChance,
    MemoryConversations,
    MemoryHealth,
    MemoryLimiter,
)
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.system import SystemClock
from kyma.calls import ChatAnswer, ChatCall, Chunk, Dialect, Fault, UpstreamError, size_of
from kyma.catalog.model import Catalogue, Model
from kyma.flows.access import Admission
from kyma.flows.billing import Billing
from kyma.flows.chat import Chat
from kyma.flows.ticket import Ticket
from kyma.ledger import Hold, LedgerHealth
from kyma.money import ZERO, Usd, usd
from kyma.ports.runtime import Conversations, Quota
from kyma.ports.storage import Ledger, Principal
from kyma.ports.upstreams import ChatUpstream, Deadline, Take
from kyma.pricing import PerToken, per_token
from kyma.routing import Route
from kyma.tiers import TIERS, Standing
from kyma.usage import Usage
from tests.builders import a_key, a_session, an_account, new_id

HOLD_TTL_S = 660
USAGE = Usage(input=100, output=2)
CREDIT = usd("0.50")


@dataclass(frozen=True)
class Says:
    """An answer: its words (one chunk each, as a stream), and the usage it tells.

    `more` stands beside the choices of a whole one; `pause_s` is before each word of a stream.
    """

    words: Sequence[str] = ("Hello", " world")
    usage: Usage | None = USAGE
    more: Mapping[str, Any] = field(default_factory=dict)
    pause_s: float = 0.0


@dataclass(frozen=True)
class Fails:
    """A failure before any text."""

    fault: Fault
    retry_after_s: float | None = None
    message: str = "upstream says no"
    param: str | None = None


@dataclass(frozen=True)
class Breaks:
    """A stream that says some words and then breaks; as a whole answer it only breaks."""

    words: Sequence[str] = ("Hello",)
    fault: Fault = Fault.BROKEN


@dataclass(frozen=True)
class Stalls:
    """A stream that says some words and then nothing, for ever."""

    words: Sequence[str] = ()


Act = Says | Fails | Breaks | Stalls


@dataclass
class ScriptedUpstream:
    """The `ChatUpstream` port. `asked` is who was called, `spoke` whether any text came out."""

    script: Mapping[str, Sequence[Act]]
    store: MemoryStore
    asked: list[Route] = field(default_factory=list)
    calls: list[ChatCall] = field(default_factory=list)
    open_streams: int = 0
    spoke: bool = False
    taken: int = 0

    def _act(self, route: Route, hold: Hold) -> Act:
        assert hold.id in self.store.open_holds, "a billable call without an open hold"
        acts = self.script.get(route.provider, [Says()])
        turn = sum(route.provider == earlier.provider for earlier in self.asked)
        self.asked.append(route)
        return acts[min(turn, len(acts) - 1)]

    def serves(self, route: Route, dialect: Dialect) -> bool:
        return dialect in {Dialect.CHAT, Dialect.MESSAGES}

    async def answer(
        self, call: ChatCall, route: Route, hold: Hold, deadline: Deadline
    ) -> ChatAnswer:
        self.calls.append(call)
        act = self._act(route, hold)
        await asyncio.sleep(0)
        if isinstance(act, Stalls):
            await asyncio.Event().wait()
        if isinstance(act, Fails):
            raise _error(act)
        if isinstance(act, Breaks):
            raise UpstreamError(act.fault, "broke")
        assert isinstance(act, Says)
        self.spoke = True
        text = "".join(act.words)
        choice = {"message": {"role": "assistant", "content": text}}
        body = {**act.more, "choices": [choice]}
        return ChatAnswer(body, act.usage, len(text.encode()))

    @asynccontextmanager
    async def stream(
        self, call: ChatCall, route: Route, hold: Hold, deadline: Deadline
    ) -> AsyncIterator[Offering]:
        act = self._act(route, hold)
        await asyncio.sleep(0)
        if isinstance(act, Fails):
            raise _error(act)
        self.open_streams += 1
        try:
            yield Offering(self, self._chunks(act))
        finally:
            self.open_streams -= 1

    async def _chunks(self, act: Says | Breaks | Stalls) -> AsyncIterator[Chunk]:
        yield Chunk([_payload({"role": "assistant"})], 0, False, None)
        for word in act.words:
            await asyncio.sleep(act.pause_s if isinstance(act, Says) else 0)
            self.spoke = True
            yield Chunk([_payload({"content": word})], len(word.encode()), False, None)
        await asyncio.sleep(0)
        if isinstance(act, Stalls):
            await asyncio.Event().wait()
        if isinstance(act, Breaks):
            raise UpstreamError(act.fault, "broke in the middle")
        assert isinstance(act, Says)
        yield Chunk([_payload({}, "stop")], 0, True, None)
        yield Chunk([], 0, True, act.usage)


class Offering:
    """The chunks of a generator. Offered are those that say nothing but text."""

    def __init__(self, upstream: ScriptedUpstream, chunks: AsyncIterator[Chunk]) -> None:
        self._upstream = upstream
        self._chunks = chunks

    async def next(self, take: Take | None = None) -> Chunk | None:
        async for chunk in self._chunks:
            is_text = chunk.output_bytes > 0 and not chunk.finished and chunk.usage is None
            if take is None or not is_text or not take(chunk):
                return chunk
            self._upstream.taken += 1
        return None


def _error(act: Fails) -> UpstreamError:
    return UpstreamError(act.fault, act.message, retry_after_s=act.retry_after_s, param=act.param)


def _payload(delta: Mapping[str, str], finish: str | None = None) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + orjson.dumps(chunk)


PRICE = per_token("1", "4", "0.1")
CHEAP = per_token("0.5", "2", "0.2")


def a_model(id: str, price: PerToken, providers: Sequence[str], **changes: Any) -> Model:
    """A model served by these providers, the first of them on layer 0."""
    routes = tuple(
        Route(provider, f"{id}@{provider}", id, per_token("0.2", "1"), layer=min(place, 1))
        for place, provider in enumerate(providers)
    )
    return Model(id, id, "", "maker", "family", price, 10_000, 4_096, routes, **changes)


MODELS = (
    a_model("big", PRICE, ["first", "second"], siblings=("older",), substitutes=("small",)),
    a_model("older", PRICE, ["third"]),
    a_model("small", CHEAP, ["fourth"]),
    a_model("lonely", PRICE, ["alone"]),
    a_model("unserved", PRICE, ["nobody"]),
)
PROVIDERS = ("first", "second", "third", "fourth", "alone")


@dataclass
class World:
    """A gateway of memory adapters, one customer, and the upstreams of a script."""

    store: MemoryStore
    ledger: MemoryLedger
    upstream: ScriptedUpstream
    alerts: MemoryAlerts
    limiter: MemoryLimiter
    board: MemoryHealth
    catalogue: Catalogue
    billing: Billing
    chat: Chat
    account_id: str
    offset: list[float]

    async def ticket(
        self,
        model: str = "big",
        *,
        stream: bool = False,
        gone: Callable[[], bool] = lambda: False,
        dialect: Dialect = Dialect.CHAT,
        max_layer: int = 3,
        **fields: Any,
    ) -> Ticket:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "x" * 400}],
            "max_tokens": 100,
            "stream": stream,
            **fields,
        }
        found, alias = self.catalogue.find(model)
        call = ChatCall(body, found.id, stream, True, size_of(body, found.context_window))
        call = replace(call, dialect=dialect)
        tier = TIERS[4]
        reserved = call.size.likely_input + call.size.max_output
        quota: Quota = await self.limiter.take(self.account_id, found.id, reserved, tier)
        principal = Principal(
            self.account_id, new_id(), "ana@example.com", Standing(self.account_id, ZERO, None)
        )
        return self.chat.ticket(
            Admission(principal, tier, quota),
            call,
            found,
            alias,
            id=new_id(),
            endpoint="chat.completions",
            gone=gone,
            max_layer=max_layer,
        )

    async def balance(self) -> tuple[Usd, Usd]:
        """Available and held."""
        balance = await self.ledger.balance(self.account_id)
        return balance.available, balance.held

    async def tokens_counted(self) -> int:
        return (await self.limiter.peek(self.account_id)).tokens_used

    async def swept(self) -> LedgerHealth:
        """The ledger once every hold that is still open has expired."""
        self.offset[0] += HOLD_TTL_S + 1
        await self.ledger.sweep()
        return await self.ledger.health()


async def a_world(
    script: Mapping[str, Sequence[Act]] | None = None,
    *,
    credit: Usd = CREDIT,
    ledger_of: Callable[[MemoryLedger], Ledger] = lambda ledger: ledger,
    upstream_of: Callable[[ScriptedUpstream], ChatUpstream] = lambda upstream: upstream,
    conversations_of: Callable[[MemoryConversations], Conversations] = lambda kept: kept,
) -> World:
    """A world in which providers do as the script says; others say hello."""
    offset = [0.0]
    store = MemoryStore(now=lambda: datetime.now(UTC) + timedelta(seconds=offset[0]))
    account = an_account()
    await MemoryAccounts(store).register(account, a_key(account), a_session(account), credit)
    ledger = MemoryLedger(store)
    upstream = ScriptedUpstream(script or {}, store)
    alerts, limiter, board = MemoryAlerts(), MemoryLimiter(time.monotonic), MemoryHealth(time.time)
    conversations = conversations_of(MemoryConversations())
    catalogue = Catalogue(MODELS, {"best": "big"}, PROVIDERS)
    billing = Billing(ledger_of(ledger), HOLD_TTL_S)
    chat = Chat(
        catalogue,
        billing,
        upstream_of(upstream),
        board,
        limiter,
        conversations,
        alerts,
        SystemClock(),
        MemoryChance(),
        600.0,
    )
    return World(
        store,
        ledger,
        upstream,
        alerts,
        limiter,
        board,
        catalogue,
        billing,
        chat,
        account.id,
        offset,
    )
