"""The chat flow on memory adapters: every fault, every way out, and what each of them costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from adapters.http.errors import envelope
from adapters.memory.runtime import MemoryConversations
from adapters.memory.storage import MemoryLedger
from kyma.calls import ChatAnswer, ChatCall, Chunk, Dialect, Fault, UpstreamError
from kyma.errors import Code, Refusal
from kyma.flows.chat import MAX_ATTEMPTS, Served
from kyma.ledger import Balance, Hold, Kind, LedgerHealth, Outcome, Resolution
from kyma.money import ZERO, Usd, usd
from kyma.ports.storage import Held, Resolved, StorageUnavailable
from kyma.ports.upstreams import Chunks, Deadline, Take
from kyma.routing import Health, Route
from kyma.usage import Evidence, Usage, UsageRecord
from tests.flows.upstreams import (
    CHEAP,
    PRICE,
    USAGE,
    Act,
    Breaks,
    Fails,
    Says,
    ScriptedUpstream,
    Stalls,
    World,
    a_world,
)

START = usd("0.50")


async def read(
    world: World, model: str = "big", into: list[bytes] | None = None, **fields: Any
) -> tuple[str, Any]:
    """The text of a whole stream, and the live answer after its end.

    Every other time it takes events on the spot, as an edge does whose client keeps up.
    """
    got = [] if into is None else into

    def take(events: list[bytes]) -> bool:
        takes = len(got) % 2 == 0
        if takes:
            got.extend(events)
        return takes

    async with world.chat.stream(await world.ticket(model, stream=True, **fields)) as live:
        async for events in live.events(take):
            got += events
    return "".join(map(said, got)), live


def said(event: bytes) -> str:
    payload = orjson.loads(event.removeprefix(b"data: "))
    found: str = payload["choices"][0]["delta"].get("content", "")
    return found


async def serve(world: World, stream: bool, model: str = "big", **fields: Any) -> tuple[Route, Any]:
    """Who served a request, and its receipt; whole or streamed alike."""
    if stream:
        _, live = await read(world, model, **fields)
        return live.route, live.receipt
    served: Served = await world.chat.answer(await world.ticket(model, **fields))
    return served.route, served.receipt


async def refused(world: World, stream: bool, model: str = "big", **fields: Any) -> Refusal:
    """The refusal that a request ends with, before any text."""
    try:
        ticket = await world.ticket(model, stream=stream, **fields)
        if stream:
            async with world.chat.stream(ticket):
                pass
        else:
            await world.chat.answer(ticket)
    except Refusal as refusal:
        return refusal
    raise AssertionError("the request was served")


async def nothing_was_charged(world: World) -> None:
    assert await world.balance() == (START, ZERO)
    assert (await world.ledger.health()).sound
    assert await world.tokens_counted() == 0
    assert world.upstream.open_streams == 0


streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@streamed
async def test_an_answer_is_billed_recorded_and_settled_before_it_ends(stream: bool) -> None:
    world = await a_world()
    route, receipt = await serve(world, stream)
    bill = PRICE.bill(USAGE)
    assert route.provider == "first"
    assert (receipt.usage, receipt.charged) == (USAGE, bill)
    assert await world.balance() == (START - bill, ZERO)
    (record,) = world.store.records
    assert (record.outcome, record.charged, record.streamed) == ("ok", bill, stream)
    assert (record.requested_model, record.served_model, record.layer) == ("big", "big", 0)
    assert (record.usage, record.price_version) == (USAGE, world.catalogue.price_version)
    assert record.provider_cost == route.cost.bill(USAGE)
    assert [attempt.outcome for attempt in record.attempts] == ["ok"]
    assert await world.tokens_counted() == USAGE.prompt_tokens + USAGE.completion_tokens
    assert world.upstream.open_streams == 0


async def test_a_stream_brings_every_payload_in_order() -> None:
    world = await a_world({"first": [Says(["a", "b", "c", "é"])]})
    text, live = await read(world)
    assert text == "abcé"
    assert live.receipt.usage == USAGE


async def test_an_alias_is_billed_as_its_model() -> None:
    world = await a_world()
    ticket = await world.ticket("best")
    assert ticket.alias == "best"
    await world.chat.answer(ticket)
    assert world.store.records[0].requested_model == "big"


CODES = [
    (Fault.BUSY, Code.PROVIDER_BUSY),
    (Fault.BROKEN, Code.PROVIDER_ERROR),
    (Fault.TIMEOUT, Code.PROVIDER_TIMEOUT),
    (Fault.DENIED, Code.PROVIDER_ERROR),
    (Fault.REFUSED, Code.CONTENT_FILTERED),
    (Fault.BAD_REQUEST, Code.REFUSED_BY_MODEL),
    (Fault.TOO_LONG, Code.CONTEXT_TOO_LONG),
    (Fault.OVERDUE, Code.PROVIDER_TIMEOUT),
]
OURS = [Fault.BUSY, Fault.BROKEN, Fault.TIMEOUT, Fault.DENIED]
CALLERS = [Fault.REFUSED, Fault.BAD_REQUEST, Fault.TOO_LONG]


def test_the_table_names_every_fault() -> None:
    assert [fault for fault, _ in CODES] == list(Fault)
    assert {*OURS, *CALLERS, Fault.OVERDUE} == set(Fault)


@streamed
@pytest.mark.parametrize(("fault", "code"), CODES)
async def test_each_fault_alone_is_a_refusal_that_costs_nothing(
    stream: bool, fault: Fault, code: Code
) -> None:
    world = await a_world({"alone": [Fails(fault)]})
    refusal = await refused(world, stream, "lonely")
    assert refusal.code is code
    await nothing_was_charged(world)
    (record,) = world.store.records
    assert (record.outcome, record.charged) == (code.value, ZERO)
    assert {attempt.outcome for attempt in record.attempts} == {fault.value}


@streamed
@pytest.mark.parametrize("fault", OURS)
async def test_a_providers_fault_is_passed_over_by_the_next_route(
    stream: bool, fault: Fault
) -> None:
    world = await a_world({"first": [Fails(fault)]})
    route, receipt = await serve(world, stream)
    assert (route.provider, route.layer) == ("second", 1)
    assert receipt.charged == PRICE.bill(USAGE)
    (record,) = world.store.records
    assert [attempt.outcome for attempt in record.attempts] == [fault.value, "ok"]
    assert world.upstream.open_streams == 0


@streamed
@pytest.mark.parametrize("fault", CALLERS)
async def test_the_callers_own_fault_is_told_at_once_and_no_other_route_is_bothered(
    stream: bool, fault: Fault
) -> None:
    world = await a_world({"first": [Fails(fault, message="your fault", param="tools")]})
    refusal = await refused(world, stream)
    assert len(world.upstream.asked) == 1
    assert "your fault" in refusal.message
    assert refusal.param == ("tools" if fault is Fault.BAD_REQUEST else "messages")
    await nothing_was_charged(world)


@streamed
async def test_what_a_provider_says_of_our_account_is_not_told_to_the_customer(
    stream: bool,
) -> None:
    world = await a_world({"alone": [Fails(Fault.DENIED, message="kyma owes us $3")]})
    refusal = await refused(world, stream, "lonely")
    assert "owes" not in refusal.message
    assert world.alerts.heard == [("provider_account_refused", "alone", "kyma owes us $3")]


@streamed
async def test_routes_are_tried_layer_by_layer(stream: bool) -> None:
    broken = [Fails(Fault.BROKEN)]
    world = await a_world({"first": broken, "second": broken, "third": broken})
    route, _ = await serve(world, stream)
    assert [route.provider for route in world.upstream.asked] == [
        "first", "second", "third", "fourth",
    ]  # fmt: skip
    assert (route.layer, route.model) == (3, "small")
    (record,) = world.store.records
    assert [attempt.layer for attempt in record.attempts] == [0, 1, 2, 3]
    assert (record.requested_model, record.served_model) == ("big", "small")


@streamed
@pytest.mark.parametrize(
    ("usage", "price"),
    [
        (Usage(input=100, output=20), CHEAP),
        # Its cached tokens would be dearer than those of the model that was asked for.
        (Usage(cache_read=400, output=1), PRICE),
    ],
)
async def test_a_substitute_is_billed_at_the_cheaper_of_both_prices(
    stream: bool, usage: Usage, price: object
) -> None:
    broken = [Fails(Fault.BROKEN)]
    world = await a_world(
        {"first": broken, "second": broken, "third": broken, "fourth": [Says(usage=usage)]}
    )
    _, receipt = await serve(world, stream)
    assert receipt.charged == min(PRICE.bill(usage), CHEAP.bill(usage))
    assert receipt.charged == price.bill(usage)


@streamed
async def test_when_all_routes_failed_a_second_round_is_tried(stream: bool) -> None:
    world = await a_world({"alone": [Fails(Fault.BROKEN), Says()]})
    await serve(world, stream, "lonely")
    assert len(world.upstream.asked) == 2


@streamed
async def test_a_short_retry_after_is_waited_for(stream: bool) -> None:
    world = await a_world({"alone": [Fails(Fault.BUSY, retry_after_s=0.3), Says()]})
    began = asyncio.get_running_loop().time()
    await serve(world, stream, "lonely")
    assert 0.3 <= asyncio.get_running_loop().time() - began < 1.5


@streamed
async def test_a_long_retry_after_is_told_to_the_caller_at_once(stream: bool) -> None:
    world = await a_world({"alone": [Fails(Fault.BUSY, retry_after_s=20)]})
    refusal = await refused(world, stream, "lonely")
    assert (refusal.code, refusal.retry_after_s) == (Code.PROVIDER_BUSY, 20)
    assert len(world.upstream.asked) == 1
    again = await refused(world, stream, "lonely")
    assert again.code is Code.NO_ROUTE
    assert again.retry_after_s == pytest.approx(20, abs=1)
    assert len(world.upstream.asked) == 1, "a provider that told us to wait is left alone"
    await nothing_was_charged(world)


async def test_the_attempts_of_one_request_are_bounded() -> None:
    broken = [Fails(Fault.BROKEN)]
    world = await a_world(dict.fromkeys(["first", "second", "third", "fourth"], broken))
    await refused(world, False)
    assert len(world.upstream.asked) == MAX_ATTEMPTS


async def test_the_caller_hears_of_the_first_fault() -> None:
    world = await a_world(
        {
            "first": [Fails(Fault.TIMEOUT)],
            "second": [Fails(Fault.BAD_REQUEST, message="I do not know tools")],
            "third": [Fails(Fault.BROKEN)],
            "fourth": [Fails(Fault.BUSY)],
        }
    )
    assert (await refused(world, False)).code is Code.PROVIDER_TIMEOUT


@streamed
async def test_a_model_without_a_provider_is_refused_and_costs_nothing(stream: bool) -> None:
    world = await a_world()
    refusal = await refused(world, stream, "unserved")
    assert refusal.code is Code.NO_ROUTE
    assert "unserved" in refusal.message
    await nothing_was_charged(world)


@streamed
async def test_what_cannot_be_paid_is_refused_with_the_max_tokens_that_would_fit(
    stream: bool,
) -> None:
    world = await a_world(credit=Usd(600_000))
    refusal = await refused(world, stream)
    assert refusal.code is Code.INSUFFICIENT_CREDITS
    fits = refusal.details["max_tokens_that_fit"]
    assert f"A max_tokens of {fits} would fit" in refusal.message
    assert not world.upstream.asked
    assert await world.balance() == (600_000, ZERO)
    assert await world.tokens_counted() == 0
    await world.chat.answer(await world.ticket(max_tokens=fits))
    refusal = await refused(await a_world(credit=Usd(600_000)), stream, max_tokens=fits + 1)
    assert refusal.code is Code.INSUFFICIENT_CREDITS


async def test_the_max_tokens_that_would_fit_counts_every_choice() -> None:
    world = await a_world(credit=Usd(600_000))
    refusal = await refused(world, False, n=2)
    fits = refusal.details["max_tokens_that_fit"]
    await world.chat.answer(await world.ticket(n=2, max_tokens=fits))


async def test_where_not_even_the_prompt_fits_no_max_tokens_is_proposed() -> None:
    world = await a_world(credit=Usd(1))
    refusal = await refused(world, False)
    assert refusal.details["max_tokens_that_fit"] == 0
    assert "would fit" not in refusal.message


@pytest.mark.parametrize(
    "told",
    [
        Usage(input=-5, output=2),
        Usage(input=5, output=-2),
        Usage(input=1 << 60, output=2),
        Usage(input=100, output=0),  # yet text came
        Usage(input=0, cache_read=-1, output=2),
        Usage(input=0, output=2),  # nothing was asked
        Usage(input=100, output=1_000_000),  # of 100
        Usage(input=100, output=2, reasoning=1_000_000),
        Usage(input=1_000_000_000, output=2),  # of 400 bytes
        Usage(input=100, cache_read=1_000_000, output=2),
        Usage(input=100, output=11_000 + 65_536),  # of a window of 10,000
    ],
)
@streamed
async def test_usage_that_cannot_be_true_is_reported_and_counted_instead(
    stream: bool, told: Usage
) -> None:
    world = await a_world({"first": [Says(["12345678"], told)]})
    _, receipt = await serve(world, stream)
    assert receipt.usage.evidence is Evidence.AT_LEAST
    assert receipt.usage.output == 2  # eight bytes
    assert [heard[:3] for heard in world.alerts.heard] == [
        ("implausible_usage", "first", "big"),
    ]


@streamed
async def test_usage_that_is_not_told_is_counted_on_the_low_side(stream: bool) -> None:
    world = await a_world({"first": [Says(["123456789"], None)]})
    _, receipt = await serve(world, stream)
    assert (receipt.usage.output, receipt.usage.evidence) == (3, Evidence.AT_LEAST)
    assert receipt.usage.input == 108
    assert world.alerts.heard == []


@pytest.mark.parametrize(
    "told",
    [
        Usage(input=100, output=2, reasoning=98),  # thought that nobody sees
        Usage(input=2_100, output=2),  # the provider's own words around ours
        Usage(input=408, output=100),
        Usage(input=0, cache_read=400, output=2),
    ],
)
@streamed
async def test_usage_that_may_be_true_is_billed_as_told(stream: bool, told: Usage) -> None:
    world = await a_world({"first": [Says(["12345678"], told)]})
    _, receipt = await serve(world, stream)
    assert receipt.usage == told
    assert world.alerts.heard == []


async def test_a_long_text_is_not_one_of_few_tokens() -> None:
    world = await a_world({"first": [Says(["x" * 2_000], Usage(input=100, output=3))]})
    _, receipt = await serve(world, False)
    assert (receipt.usage.output, receipt.usage.evidence) == (100, Evidence.AT_LEAST)
    assert len(world.alerts.heard) == 1
    world = await a_world({"first": [Says(["x" * 2_000], Usage(input=100, output=7))]})
    _, receipt = await serve(world, False)
    assert (receipt.usage.output, world.alerts.heard) == (7, [])


@pytest.mark.parametrize("told", [Usage(input=100, output=1), Usage(input=100), None])
@streamed
async def test_a_prompt_that_comes_again_is_no_output(stream: bool, told: Usage | None) -> None:
    """Its 400 bytes are a prompt of 408 at most, by what every message weighs."""
    world = await a_world({"first": [Says(["x" * 400, "12"], told)]})
    _, receipt = await serve(world, stream, echo=True)
    expected = told or Usage(input=108, evidence=Evidence.AT_LEAST)
    assert receipt.usage == expected
    assert world.alerts.heard == []


@pytest.mark.parametrize(
    ("told", "billed"),
    [
        (Usage(input=9_000, output=2), Usage(input=408, output=2)),
        (Usage(9_000, 300, 10, 2), Usage(108, 300, 0, 2)),
        (Usage(input=100, output=40, reasoning=5_000), Usage(100, output=40, reasoning=60)),
        (Usage(input=100, output=5_000), Usage(100, output=100)),
    ],
)
@streamed
async def test_what_is_possible_and_more_than_was_held_for_is_charged_as_held_for(
    stream: bool, told: Usage, billed: Usage
) -> None:
    """400 bytes and 100 tokens were asked for, of a model with a window of 10,000."""
    world = await a_world({"first": [Says(["12345678"], told)]})
    _, receipt = await serve(world, stream)
    assert receipt.usage == replace(billed, evidence=Evidence.AT_LEAST)
    assert receipt.charged == PRICE.bill(billed)
    assert [heard[:3] for heard in world.alerts.heard] == [("implausible_usage", "first", "big")]


async def test_what_a_compaction_wrote_beside_the_answer_may_be_more_than_was_asked_for() -> None:
    told = Usage(input=200, output=5_000)
    world = await a_world({"first": [Says(usage=told)]})
    _, receipt = await serve(world, False, context_management={"edits": []})
    assert receipt.usage == told


@streamed
async def test_a_bill_beyond_the_hold_is_our_loss(stream: bool) -> None:
    world = await a_world({"first": [Says(usage=Usage(input=4_000, output=100))]})
    _, receipt = await serve(world, stream)
    hold = PRICE.estimate((await world.ticket()).call.size)
    assert receipt.charged == hold
    assert await world.balance() == (START - hold, ZERO)
    assert (await world.ledger.health()).loss > 0


# Whole answers are written before they are charged


async def test_an_answer_is_written_with_its_receipt_while_nothing_is_charged() -> None:
    world = await a_world()
    held: list[str] = []

    def write(served: Served) -> bytes:
        held.extend(world.store.open_holds)
        return f"{served.route.provider} {served.receipt.charged}".encode()

    ticket = await world.ticket()
    served = await world.chat.answer(ticket, write)
    assert held == [ticket.id], "written once, before the hold was resolved"
    assert served.written == f"first {PRICE.bill(USAGE)}".encode()
    assert served.receipt.charged == PRICE.bill(USAGE)


async def test_an_answer_that_cannot_be_written_is_none_and_another_provider_is_asked() -> None:
    def write(served: Served) -> bytes:
        if served.route.provider == "first":
            raise UpstreamError(Fault.BROKEN, "nested too deeply")
        return b"written"

    world = await a_world()
    served = await world.chat.answer(await world.ticket(), write)
    assert (served.route.provider, served.written) == ("second", b"written")
    assert world.board.view()["first/big@first"].failures_in_a_row == 1
    bill = PRICE.bill(USAGE)
    assert await world.balance() == (START - bill, ZERO)
    (record,) = world.store.records
    assert [attempt.outcome for attempt in record.attempts] == ["broken", "ok"]


@pytest.mark.parametrize("error", [UpstreamError(Fault.BROKEN, "no"), KeyError("choices")])
async def test_an_answer_that_nobody_can_write_costs_nothing(error: Exception) -> None:
    def write(_: Served) -> bytes:
        raise error

    world = await a_world()
    ticket = await world.ticket("lonely")
    with pytest.raises((Refusal, KeyError)):
        await world.chat.answer(ticket, write)
    await nothing_was_charged(world)


async def test_an_answer_is_written_again_if_it_was_charged_otherwise_than_expected() -> None:
    world = await a_world()
    sweeps: list[asyncio.Task[LedgerHealth]] = []

    def write(served: Served) -> bytes:
        if not sweeps:  # the sweep takes the hold between the writing and the settlement
            sweeps.append(asyncio.create_task(world.swept()))
        return str(served.receipt.charged).encode()

    served = await world.chat.answer(await world.ticket(), write)
    assert (await sweeps[0]).open_holds == 0
    assert (served.receipt.charged, served.written) == (0, b"0")
    assert await world.balance() == (START, ZERO)


async def test_the_time_that_writing_takes_is_ours_and_not_the_providers() -> None:
    world = await a_world()

    def write(_: Served) -> bytes:
        time.sleep(0.05)
        return b""

    ticket = await world.ticket()
    await world.chat.answer(ticket, write)
    assert ticket.upstream_s < 0.04


# A route that is tried again after its pause


async def test_one_request_tries_a_route_after_its_pause_and_the_others_keep_away() -> None:
    world = await a_world({"first": [Stalls()]})
    world.board.health["first/big@first"] = Health(open_until=time.time() - 1)
    trying = asyncio.create_task(world.chat.answer(await world.ticket()))
    while not world.upstream.asked:
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        others = [await serve(world, False) for _ in range(5)]
    assert {route.provider for route, _ in others} == {"second"}
    assert [route.provider for route in world.upstream.asked] == ["first", *["second"] * 5]
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying


# Streams: after the first text


async def test_before_its_first_text_a_broken_stream_falls_back() -> None:
    world = await a_world({"first": [Breaks(words=())]})
    text, live = await read(world)
    assert (text, live.route.provider) == ("Hello world", "second")
    assert world.upstream.open_streams == 0


@pytest.mark.parametrize("fault", OURS)
async def test_a_stream_that_breaks_after_text_ends_as_an_error_and_costs_nothing(
    fault: Fault,
) -> None:
    world = await a_world({"first": [Breaks(["Hello"], fault)]})
    got: list[bytes] = []
    with pytest.raises(Refusal) as caught:
        await read(world, into=got)
    assert caught.value.code is Code.STREAM_INTERRUPTED
    assert b"Hello" in b"".join(got)
    assert len(world.upstream.asked) == 1, "two models are never spliced"
    assert await world.balance() == (START, ZERO)
    (record,) = world.store.records
    assert (record.outcome, record.charged) == ("stream_interrupted", ZERO)
    assert record.attempts[-1].outcome == fault.value
    assert record.provider_cost > 0, "what the provider bills us is our cost"
    assert (await world.ledger.health()).provider_cost == record.provider_cost
    assert world.board.view()["first/big@first"].failures_in_a_row == 1


async def test_a_client_that_leaves_is_billed_what_the_upstream_tells_in_time() -> None:
    world = await a_world({"first": [Says(["a"] * 50, Usage(input=100, output=50))]})
    left: list[bool] = []
    ticket = await world.ticket(stream=True, gone=lambda: bool(left))
    async with world.chat.stream(ticket) as live:
        async for _ in live.events():
            left.append(True)
            break
    assert live.receipt is not None
    assert live.receipt.usage == Usage(input=100, output=50)
    assert world.store.records[0].outcome == "client_left"
    assert (await world.balance())[1] == 0
    assert world.upstream.open_streams == 0


async def test_a_client_that_leaves_a_stalled_stream_is_billed_what_came() -> None:
    world = await a_world({"first": [Stalls(["12345678"])]})
    left: list[bool] = []
    ticket = await world.ticket(stream=True, gone=lambda: bool(left))
    async with world.chat.stream(ticket) as live:
        async for events in live.events():
            if any(said(event) for event in events):
                left.append(True)
                break
    assert live.receipt is not None
    assert live.receipt.usage.evidence is Evidence.AT_LEAST
    assert live.receipt.usage.output == 2
    assert (await world.balance())[1] == 0
    assert world.upstream.open_streams == 0


async def test_a_client_that_leaves_pays_for_what_it_was_sent_without_asking() -> None:
    """Words that its reader took on the spot, while it waited."""
    world = await a_world({"first": [Stalls(["1234", "5678", "9012"])]})
    left: list[bool] = []
    taken: list[bytes] = []

    def take(events: list[bytes]) -> bool:
        taken.extend(events)
        return True

    async def reader() -> Any:
        ticket = await world.ticket(stream=True, gone=lambda: bool(left))
        async with world.chat.stream(ticket) as live:
            try:
                async for _ in live.events(take):
                    pass
            finally:
                left.append(True)

    reading = asyncio.ensure_future(reader())
    while len(taken) < 2:
        await asyncio.sleep(0.005)
    reading.cancel()
    await asyncio.wait([reading])
    assert "".join(map(said, taken)) == "56789012"
    (record,) = world.store.records
    assert (record.outcome, record.usage.output) == ("client_left", 3)
    assert record.charged > 0
    assert (await world.balance())[1] == 0


async def test_a_client_that_leaves_before_it_reads_is_settled_too() -> None:
    world = await a_world()
    left: list[bool] = []
    async with world.chat.stream(await world.ticket(stream=True, gone=lambda: bool(left))):
        left.append(True)
    assert world.store.records[0].outcome == "client_left"
    assert (await world.balance())[1] == 0


async def test_a_stream_that_we_cut_ourselves_costs_nothing() -> None:
    world = await a_world()
    async with world.chat.stream(await world.ticket(stream=True)):
        pass
    assert world.store.records[0].outcome == "cut_by_gateway"
    assert await world.balance() == (START, ZERO)


@streamed
async def test_a_client_that_left_before_an_attempt_causes_none(stream: bool) -> None:
    world = await a_world()
    refusal = await refused(world, stream, gone=lambda: True)
    assert refusal.code is Code.STREAM_INTERRUPTED
    assert not world.upstream.asked
    await nothing_was_charged(world)


async def test_an_error_in_the_reader_returns_the_hold() -> None:
    world = await a_world()

    async def reader() -> None:
        async with world.chat.stream(await world.ticket(stream=True)) as live:
            async for _ in live.events():
                raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await reader()
    assert await world.balance() == (START, ZERO)
    assert world.store.records[0].outcome == "cut_by_gateway"


# A ledger that fails


class FailingLedger:
    """A ledger whose database is away for the next `times` calls of one kind."""

    def __init__(self, ledger: MemoryLedger, what: str, times: int, *, done: bool = False) -> None:
        self._ledger = ledger
        self._what = what
        self._left = times
        self._done = done

    def _fails(self, what: str) -> bool:
        if what != self._what or self._left == 0:
            return False
        self._left -= 1
        return True

    async def hold(
        self, id: str, account_id: str, amount: Usd, ttl_s: int, key_id: str = ""
    ) -> Held:
        if self._fails("hold"):
            if self._done:
                await self._ledger.hold(id, account_id, amount, ttl_s, key_id)
            raise StorageUnavailable("away")
        return await self._ledger.hold(id, account_id, amount, ttl_s, key_id)

    async def resolve(self, how: Resolution, record: UsageRecord | None = None) -> Resolved:
        if self._fails("resolve"):
            if self._done:
                await self._ledger.resolve(how, record)
            raise StorageUnavailable("away")
        return await self._ledger.resolve(how, record)

    async def deposit(self, id: str, account_id: str, amount: Usd, reason: str) -> Outcome:
        return await self._ledger.deposit(id, account_id, amount, reason)

    async def grant(
        self, id: str, account_id: str, amount: Usd, reason: str, actor: str = ""
    ) -> Outcome:
        return await self._ledger.grant(id, account_id, amount, reason, actor)

    async def balance(self, account_id: str) -> Balance:
        return await self._ledger.balance(account_id)

    async def sweep(self, limit: int = 500) -> int:
        return await self._ledger.sweep(limit)

    async def health(self) -> LedgerHealth:
        return await self._ledger.health()


@streamed
async def test_without_a_database_nothing_is_asked_of_a_provider(stream: bool) -> None:
    world = await a_world(ledger_of=lambda ledger: FailingLedger(ledger, "hold", 1))
    refusal = await refused(world, stream)
    assert refusal.code is Code.STORAGE_UNAVAILABLE
    assert refusal.charged is False
    assert not world.upstream.asked
    await nothing_was_charged(world)


@streamed
async def test_a_hold_whose_answer_was_lost_is_swept(stream: bool) -> None:
    world = await a_world(ledger_of=lambda ledger: FailingLedger(ledger, "hold", 1, done=True))
    assert (await refused(world, stream)).code is Code.STORAGE_UNAVAILABLE
    assert (await world.swept()).open_holds == 0
    assert await world.balance() == (START, ZERO)


@streamed
@pytest.mark.parametrize("done", [False, True], ids=["not written", "answer lost"])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_settle_that_fails_for_a_moment_is_tried_again_and_charged_once(
    stream: bool, times: int, done: bool
) -> None:
    world = await a_world(
        ledger_of=lambda ledger: FailingLedger(ledger, "resolve", times, done=done)
    )
    _, receipt = await serve(world, stream)
    assert receipt.charged == PRICE.bill(USAGE)
    assert await world.balance() == (START - receipt.charged, ZERO)
    assert len(world.store.records) == 1


async def test_a_settle_that_never_comes_through_charges_nothing() -> None:
    world = await a_world(ledger_of=lambda ledger: FailingLedger(ledger, "resolve", 99))
    ticket = await world.ticket()
    with pytest.raises(Refusal) as caught:
        await world.chat.answer(ticket)
    assert caught.value.code is Code.STORAGE_UNAVAILABLE
    assert caught.value.charged is None, "whether it was charged is not known here"
    assert "Nothing was charged" not in caught.value.message
    assert envelope(caught.value, "id")["error"]["charged"] is None
    assert (await world.balance())[1] > 0
    assert (await world.swept()).open_holds == 0
    assert await world.balance() == (START, ZERO)


async def test_a_refund_that_never_comes_through_does_not_hide_why_the_call_failed() -> None:
    world = await a_world(
        {"alone": [Fails(Fault.BAD_REQUEST)]},
        ledger_of=lambda ledger: FailingLedger(ledger, "resolve", 99),
    )
    assert (await refused(world, False, "lonely")).code is Code.REFUSED_BY_MODEL
    assert (await world.swept()).open_holds == 0
    assert await world.balance() == (START, ZERO)


async def test_a_settle_after_the_sweep_charges_nothing() -> None:
    world = await a_world()
    async with world.chat.stream(await world.ticket(stream=True)) as live:
        await world.swept()
        async for _ in live.events():
            pass
    assert live.receipt is not None
    assert live.receipt.charged == 0
    assert await world.balance() == (START, ZERO)


# Cancelled at every await


class Interrupter:
    """Strikes at the k-th await of any port: `how` says what happens there."""

    def __init__(self, at: int, how: str) -> None:
        self.at = at
        self.how = how
        self.count = 0
        self.struck = False
        self.request: asyncio.Task[Any] | None = None

    async def around(self, work: Callable[[], Any]) -> Any:
        self.count += 1
        if self.struck and self.how == "the process dies":
            raise asyncio.CancelledError
        if self.count != self.at:
            return await work()
        self.struck = True
        if self.how == "raised before":
            raise asyncio.CancelledError
        if self.how == "the process dies":
            raise asyncio.CancelledError
        if self.how == "raised after":
            await work()
            raise asyncio.CancelledError
        # "the client goes": the request's task is cancelled, what is detached goes on
        assert self.request is not None
        self.request.cancel()
        await asyncio.sleep(0)
        return await work()


class InterruptedLedger(FailingLedger):
    def __init__(self, ledger: MemoryLedger, interrupter: Interrupter) -> None:
        super().__init__(ledger, "", 0)
        self._interrupter = interrupter

    async def hold(
        self, id: str, account_id: str, amount: Usd, ttl_s: int, key_id: str = ""
    ) -> Held:
        inner = super().hold
        held: Held = await self._interrupter.around(
            lambda: inner(id, account_id, amount, ttl_s, key_id)
        )
        return held

    async def resolve(self, how: Resolution, record: UsageRecord | None = None) -> Resolved:
        inner = super().resolve
        done: Resolved = await self._interrupter.around(lambda: inner(how, record))
        return done


class InterruptedUpstream:
    def __init__(self, upstream: ScriptedUpstream, interrupter: Interrupter) -> None:
        self._upstream = upstream
        self._interrupter = interrupter

    def serves(self, route: Route, dialect: Dialect) -> bool:
        return self._upstream.serves(route, dialect)

    async def answer(
        self, call: ChatCall, route: Route, hold: Hold, deadline: Deadline
    ) -> ChatAnswer:
        answer: ChatAnswer = await self._interrupter.around(
            lambda: self._upstream.answer(call, route, hold, deadline)
        )
        return answer

    @asynccontextmanager
    async def stream(
        self, call: ChatCall, route: Route, hold: Hold, deadline: Deadline
    ) -> AsyncIterator[InterruptedChunks]:
        opened = self._upstream.stream(call, route, hold, deadline)
        chunks = await self._interrupter.around(opened.__aenter__)
        try:
            yield InterruptedChunks(chunks, self._interrupter)
        finally:
            await opened.__aexit__(None, None, None)


class InterruptedChunks:
    def __init__(self, chunks: Chunks, interrupter: Interrupter) -> None:
        self._chunks = chunks
        self._interrupter = interrupter

    async def next(self, take: Take | None = None) -> Chunk | None:
        chunk: Chunk | None = await self._interrupter.around(lambda: self._chunks.next(take))
        return chunk


class InterruptedConversations:
    def __init__(self, kept: MemoryConversations, interrupter: Interrupter) -> None:
        self._kept = kept
        self._interrupter = interrupter

    async def recall(self, conversation: str) -> str | None:
        if self._interrupter.how == "the client goes":
            # Still asking when the hold has been granted, as a slow Redis is.
            await asyncio.sleep(0.01)
        held_by: str | None = await self._interrupter.around(
            lambda: self._kept.recall(conversation)
        )
        return held_by

    def remember(self, conversation: str, route_key: str) -> None:
        self._kept.remember(conversation, route_key)


SCRIPTS: dict[str, dict[str, Sequence[Act]]] = {
    "healthy": {},
    "fallback": {"first": [Fails(Fault.BROKEN)]},
    "breaks": {"first": [Breaks(["Hello"])]},
    "refused": {"first": [Fails(Fault.BAD_REQUEST)]},
}
HOWS = ["raised before", "raised after", "the process dies", "the client goes"]


async def _interrupted(script: str, stream: bool, at: int, how: str) -> bool:
    """One request struck at its `at`-th await; False if it ended before that."""
    interrupter = Interrupter(at, how)
    world = await a_world(
        SCRIPTS[script],
        ledger_of=lambda ledger: InterruptedLedger(ledger, interrupter),
        upstream_of=lambda upstream: InterruptedUpstream(upstream, interrupter),
        conversations_of=lambda kept: InterruptedConversations(kept, interrupter),
    )
    request = asyncio.create_task(serve(world, stream, messages=LONG))
    interrupter.request = request
    await asyncio.wait([request])
    if not request.cancelled():
        request.exception()
    await world.billing.drained()

    balance, held = await world.balance()
    where = f"{script}, {how} at await {at}"
    health = await world.ledger.health()
    assert health.sound, where
    assert balance + held <= START, where
    charged = START - balance - held
    if not world.upstream.spoke:
        assert charged == 0, f"charged without an answer: {where}"
    assert charged <= PRICE.estimate((await world.ticket(messages=LONG)).call.size), where
    after = await world.swept()
    assert (after.open_holds, after.sound) == (0, True), where
    assert await world.balance() == (START - charged, ZERO), f"the sweep makes whole: {where}"
    ends = [e.hold_id for e in world.store.entries.values() if e.kind in (Kind.SETTLE, Kind.REFUND)]
    assert len(ends) == len(set(ends)) <= 1, where
    if how == "the client goes" and interrupter.struck:
        assert health.open_holds == 0, f"a cancelled request resolves its own hold: {where}"
    return interrupter.struck


@streamed
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("script", SCRIPTS)
async def test_struck_at_any_await_every_hold_ends_and_nothing_is_charged_without_an_answer(
    script: str, how: str, stream: bool
) -> None:
    at = 1
    while await _interrupted(script, stream, at, how):
        at += 1
        assert at < 60, "a request has a bounded number of awaits"
    assert at > 3, "there must have been something to strike"


LONG = [{"role": "user", "content": "word " * 2000}]


async def test_a_conversation_stays_where_its_cache_is_after_the_first_choice_failed() -> None:
    world = await a_world({"first": [Fails(Fault.BROKEN), Says()]})
    await world.chat.answer(await world.ticket(messages=LONG))
    assert [route.provider for route in world.upstream.asked] == ["first", "second"]
    later = [*LONG, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "And?"}]
    await world.chat.answer(await world.ticket(messages=later))
    assert world.upstream.asked[-1].provider == "second"
    other = [{"role": "user", "content": "other " * 2000}]
    await world.chat.answer(await world.ticket(messages=other))
    assert world.upstream.asked[-1].provider == "first"


async def test_a_short_prompt_is_tied_to_no_route() -> None:
    world = await a_world({"first": [Fails(Fault.BROKEN), Says()]})
    await world.chat.answer(await world.ticket())
    await world.chat.answer(await world.ticket())
    assert world.upstream.asked[-1].provider == "first"


async def test_a_caller_may_refuse_every_substitute_model() -> None:
    broken = [Fails(Fault.BROKEN)]
    world = await a_world({"first": broken, "second": broken})
    served = await world.chat.answer(await world.ticket())
    assert served.route.layer > 1
    strict = await world.ticket(max_layer=1)
    with pytest.raises(Refusal) as refusal:
        await world.chat.answer(strict)
    assert refusal.value.code is Code.PROVIDER_ERROR
    assert {attempt.layer for attempt in strict.attempts} <= {0, 1}
    assert (await world.balance())[1] == 0


async def test_a_dialect_that_no_route_speaks_is_refused_before_any_hold() -> None:
    world = await a_world()
    with pytest.raises(Refusal) as refusal:
        await world.ticket(dialect=Dialect.EMBEDDINGS)
    assert refusal.value.code is Code.MODEL_NOT_FOUND
    assert refusal.value.param == "model"
    assert "embeddings" in refusal.value.message
    await nothing_was_charged(world)
