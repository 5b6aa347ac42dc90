"""A quote never disagrees with the request it is for: not on the hold, the route or the limits."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from adapters.memory.keys import MemoryAttempts
from adapters.memory.runtime import MemoryChance, MemoryConversations, MemoryPasswords
from adapters.memory.storage import MemoryAccounts
from adapters.system import HmacDigests, SystemClock
from kyma.calls import Dialect, Fault
from kyma.errors import Code, Refusal
from kyma.flows.access import Access
from kyma.flows.quote import LIKELY_OUTPUT_TOKENS, Quote, Quotes, limited_by
from kyma.flows.throttle import Throttle
from kyma.flows.ticket import Ticket
from kyma.money import Usd, usd
from kyma.ports.runtime import Quota
from kyma.ports.storage import Principal
from kyma.tiers import TIERS, Override, Standing
from kyma.usage import Usage
from tests.builders import new_id
from tests.flows.upstreams import Fails, World, a_world


class Nobody:
    """Forgets, having nothing to remember."""

    async def forget(self, account_id: str) -> None:
        return


def access_of(world: World) -> Access:
    accounts = MemoryAccounts(world.store)
    return Access(
        accounts,
        accounts,
        world.limiter,
        MemoryPasswords(),
        HmacDigests("p" * 32),
        Nobody(),
        SystemClock(),
        MemoryChance(),
        Throttle(MemoryAttempts(SystemClock().monotonic)),
    )


def principal_of(world: World, tier: int = 4) -> Principal:
    """The customer of the world, by an operator's word on this tier."""
    since = SystemClock().now() - timedelta(days=1)
    override = Override(new_id(), world.account_id, tier, "ana", "a test", since, None)
    standing = Standing(world.account_id, Usd(0), override)
    return Principal(world.account_id, new_id(), "ana@example.com", standing)


async def quote_for(world: World, ticket: Ticket, tier: int = 4, max_layer: int = 3) -> Quote:
    quotes = Quotes(
        access_of(world),
        world.chat,
        world.ledger,
        world.board,
        MemoryConversations(),
        SystemClock(),
        MemoryChance(),
    )
    return await quotes.quote(
        principal_of(world, tier),
        ticket.call,
        ticket.model,
        ticket.alias,
        endpoint="chat.completions",
        max_layer=max_layer,
    )


BODIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "alias": {"model": "best"},
    "several answers": {"n": 3, "max_tokens": 50},
    "newer name": {"max_completion_tokens": 7},
    "default length": {"max_tokens": None},
    "tools": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    "beyond the window": {"max_tokens": 2**31 - 1},
    "not ascii": {"messages": [{"role": "user", "content": "é€🙂\x00" * 99}]},
    "a picture": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            }
        ]
    },
    "a video": {"messages": [{"role": "user", "content": [{"type": "video_url"}]}]},
    "many messages": {"messages": [{"role": "user", "content": "x"}] * 500},
}


@pytest.mark.parametrize("fields", BODIES.values(), ids=BODIES)
async def test_the_worst_case_is_the_hold_that_the_request_places(fields: dict[str, Any]) -> None:
    world = await a_world(credit=usd("10"))
    model = fields.get("model", "big")
    more = {name: value for name, value in fields.items() if name != "model"}
    ticket = await world.ticket(model, **more)
    quote = await quote_for(world, ticket)
    assert await world.balance() == (usd("10"), 0)
    await world.chat.answer(ticket)
    entry = world.store.entries[ticket.id]
    assert entry.held_paid + entry.held_promo == quote.worst_case
    assert quote.worst_case >= quote.likely_cost


SCRIPTS: dict[str, list[str]] = {
    "all well": [],
    "first busy": ["first"],
    "model away": ["first", "second"],
    "family away": ["first", "second", "third"],
}


@pytest.mark.parametrize("broken", SCRIPTS.values(), ids=SCRIPTS)
async def test_who_is_named_first_is_who_then_serves(broken: list[str]) -> None:
    """Once health is known: a quote cannot know what nobody has found out."""
    world = await a_world({name: [Fails(Fault.BROKEN)] for name in broken})
    for _ in range(6):
        await world.chat.answer(await world.ticket())
    ticket = await world.ticket()
    quote = await quote_for(world, ticket)
    served = await world.chat.answer(ticket)
    assert quote.candidates[0].route == served.route
    assert quote.candidates[0].usable
    usable = {one.route.provider: one.usable for one in quote.candidates}
    assert [name for name, is_usable in usable.items() if not is_usable] == broken


async def test_a_limit_on_substitutes_leaves_them_out() -> None:
    world = await a_world()
    quote = await quote_for(world, await world.ticket(), max_layer=1)
    assert [one.route.layer for one in quote.candidates] == [0, 1]


async def test_what_nobody_serves_is_refused_in_the_words_of_the_request() -> None:
    world = await a_world()
    unserved = await world.ticket()
    unserved.model, _ = world.catalogue.find("unserved")
    foreign = await world.ticket()
    foreign.call = replace(foreign.call, dialect=Dialect.COMPLETIONS)
    for ticket, code in ((unserved, Code.NO_ROUTE), (foreign, Code.MODEL_NOT_FOUND)):
        with pytest.raises(Refusal) as caught:
            await quote_for(world, ticket)
        assert caught.value.code is code


async def test_a_quote_neither_holds_nor_counts_nor_asks() -> None:
    world = await a_world()
    ticket = await world.ticket()
    counted = await world.tokens_counted()
    for _ in range(3):
        await quote_for(world, ticket)
    assert await world.tokens_counted() == counted
    assert (await world.limiter.peek(world.account_id)).requests_used == 1
    assert world.upstream.asked == []
    assert set(world.store.entries) == {world.account_id}  # the sign-up credit alone


@pytest.mark.parametrize("short_by", [0, 1])
async def test_sufficient_is_what_the_ledger_then_says_to_the_nano_dollar(short_by: int) -> None:
    model_world = await a_world(credit=usd("1"))
    worst = (await quote_for(model_world, await model_world.ticket())).worst_case
    world = await a_world(credit=Usd(worst - short_by))
    ticket = await world.ticket()
    quote = await quote_for(world, ticket)
    assert quote.sufficient is (short_by == 0)
    if quote.sufficient:
        await world.chat.answer(ticket)
        return
    with pytest.raises(Refusal) as caught:
        await world.chat.answer(ticket)
    assert caught.value.code is Code.INSUFFICIENT_CREDITS
    assert caught.value.details["max_tokens_that_fit"] == quote.max_tokens_that_fit


async def test_the_likely_cost_is_that_of_the_usage_that_is_named() -> None:
    world = await a_world()
    quote = await quote_for(world, await world.ticket(max_tokens=4000, n=2))
    size = quote.call.size
    assert quote.likely_usage == Usage(input=size.likely_input, output=2 * LIKELY_OUTPUT_TOKENS)
    assert quote.likely_cost == quote.model.price.bill(quote.likely_usage)
    short = await quote_for(world, await world.ticket(max_tokens=5))
    assert short.likely_usage.output == 5


LIMITS: dict[str, tuple[int, int, int]] = {
    "room": (0, 100, 100),
    "one request too large": (0, 0, 300_000),
    "as large as allowed": (0, 0, 199_000),
    "tokens used up": (9, 20_000, 5_000),
    "tokens just fit": (9, 20_000, 4_000),
    "requests used up": (25, 1, 1),
}


@pytest.mark.parametrize(("earlier", "each", "tokens"), LIMITS.values(), ids=LIMITS)
async def test_a_quote_is_admitted_if_and_only_if_the_request_is(
    earlier: int, each: int, tokens: int
) -> None:
    """On tier 0: 30 requests and 200,000 tokens a minute, 200,000 tokens in one."""
    world = await a_world(credit=usd("10"))
    access, principal = access_of(world), principal_of(world, 0)
    ticket = await world.ticket()
    world.limiter._counted.clear()
    for number in range(earlier + 5 * (earlier == 25)):
        await world.limiter.take(world.account_id, f"model {number}", each, TIERS[4])
    size = replace(ticket.call.size, likely_input=0, max_output=tokens)
    tier, quota = await access.quota(principal)
    foreseen = limited_by(size, tier, quota)
    refusal = None
    try:
        await access.admit(principal, "big", size)
    except Refusal as caught:
        refusal = caught
    assert (foreseen is None) is (refusal is None)
    if refusal is not None and refusal.code is Code.RATE_LIMITED:
        assert refusal.details["limit"] == foreseen
    elif refusal is not None:
        assert (refusal.code, foreseen) == (Code.REQUEST_TOO_LARGE, "max_single_request")


async def test_while_the_counters_are_away_nothing_but_size_is_limited() -> None:
    world = await a_world()
    size = (await world.ticket()).call.size
    away = Quota(None, 0, 0, 0, unlimited=True)
    assert limited_by(size, TIERS[0], away) is None
    assert limited_by(replace(size, max_output=10**9), TIERS[0], away) == "max_single_request"
