"""Everything a provider can do to us: what the customer sees and what the customer pays.

`docs/faults.md` shows the same rows; `test_docs.py` holds the two together.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from adapters.embedded.processes import free_port
from tests.e2e.asking import (
    CREDIT,
    HELLO,
    PATIENCE,
    Audit,
    Customer,
    Reply,
    arm,
    asked,
    audit,
    customer,
    reset,
    well_again,
)
from tests.e2e.stack import Process, Stack
from tests.servers import Servers, black_hole, drop_database, fresh_database, fresh_redis

MODEL = "deepseek-v4-flash"
"""A model without siblings and substitutes: its only routes are the two sandboxes."""

SPOILT_ONCE = ("gemma-4-31b", "kimi-k2.5", "glm-4.7-flash", "gemini-2.5-flash")
"""More of the kind, each for one test that leaves its routes closed for long."""

FIRST_ROUTE, SECOND_ROUTE = f"sandbox/{MODEL}", f"sandbox-2/{MODEL}"
BOTH = ("whole", "streamed")


@dataclass(frozen=True, slots=True)
class Refused:
    """A status and an error; nothing charged."""

    status: int
    code: str
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A complete answer, charged once; `counted` if the provider's own figures were no use."""

    fell_back: bool = False
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A stream that ends in an error event; nothing charged."""


Outcome = Refused | Answered | Interrupted
FELL_BACK = Answered(fell_back=True)
FAILED = Refused(502, "provider_error")
BUSY = Refused(503, "provider_overloaded", "1")
LATE = Refused(504, "provider_timeout")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a fault of the first provider, and what comes of it."""

    id: str
    fault: str
    with_second: Outcome
    alone: Outcome
    modes: tuple[str, ...] = BOTH
    details: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=lambda: HELLO)

    @property
    def spoils(self) -> bool:
        """Whether the route stays closed after it, whatever others say of it."""
        return self.fault in {"rate_limit", "unauthorized", "payment_required"}

    @property
    def callers_own(self) -> bool:
        """Whether the fault is the caller's, so that nobody else may be asked."""
        return isinstance(self.with_second, Refused)


def _always(id: str, outcome: Outcome, **more: Any) -> Row:
    """A row in which a second provider changes nothing."""
    return Row(id, more.pop("fault", id), outcome, outcome, **more)


PREFILL = [*HELLO, {"role": "assistant", "content": "Hel"}]
WHOLE, STREAMED = ("whole",), ("streamed",)

FAULTS = (
    Row("error_500", "error_500", FELL_BACK, FAILED),
    Row("error_503", "error_503", FELL_BACK, BUSY),
    Row("flap", "flap", FELL_BACK, BUSY),
    Row("rate_limit", "rate_limit", FELL_BACK, Refused(503, "provider_overloaded", "9"),
        details={"retry_after": 8.5}),
    Row("rate_limit_short", "rate_limit", FELL_BACK, BUSY, details={"retry_after": 0.5}),
    Row("unauthorized", "unauthorized", FELL_BACK, FAILED),
    Row("payment_required", "payment_required", FELL_BACK, FAILED),
    Row("reset", "reset", FELL_BACK, FAILED),
    Row("reset_before_headers", "reset_before_headers", FELL_BACK, FAILED),
    Row("timeout", "timeout", FELL_BACK, LATE),
    Row("slow_start", "slow_start", FELL_BACK, LATE),
    Row("empty_200", "empty_200", FELL_BACK, FAILED),
    Row("html_200", "html_200", FELL_BACK, FAILED),
    _always("bad_request", Refused(400, "provider_rejected_request")),
    _always("content_filter", Refused(400, "content_filter")),
    _always("context_too_long", Refused(400, "context_length_exceeded")),
    _always("reject_prefill", Refused(400, "provider_rejected_request"), messages=PREFILL),
    Row("cut_body", "cut_stream", FELL_BACK, FAILED, WHOLE),
    Row("stalled_body", "stalled_stream", FELL_BACK, LATE, WHOLE),
    Row("malformed_body", "malformed_chunk", FELL_BACK, FAILED, WHOLE),
    Row("error_in_body", "error_in_stream", FELL_BACK, FAILED, WHOLE),
    Row("unfinished_body", "missing_finish", FELL_BACK, FAILED, WHOLE),
    Row("failed_body", "failed_finish", FELL_BACK, FAILED, WHOLE),
    Row("cut_before_text", "cut_stream", FELL_BACK, FAILED, STREAMED, {"after": 1}),
    Row("stalled_before_text", "stalled_stream", FELL_BACK, LATE, STREAMED, {"after": 1}),
    Row("malformed_before_text", "malformed_chunk", FELL_BACK, FAILED, STREAMED, {"after": 1}),
    Row("error_before_text", "error_in_stream", FELL_BACK, FAILED, STREAMED, {"after": 1}),
    Row("missing_finish_before_text", "missing_finish", FELL_BACK, FAILED, STREAMED, {"after": 1}),
    Row("failed_finish_before_text", "failed_finish", FELL_BACK, FAILED, STREAMED, {"after": 1}),
    _always("cut_stream", Interrupted(), modes=STREAMED),
    _always("stalled_stream", Interrupted(), modes=STREAMED),
    _always("malformed_chunk", Interrupted(), modes=STREAMED),
    _always("error_in_stream", Interrupted(), modes=STREAMED),
    _always("missing_finish", Interrupted(), modes=STREAMED),
    _always("failed_finish", Interrupted(), modes=STREAMED),
    _always("missing_done", Answered(counted=True), modes=STREAMED),
    _always("missing_done_body", Answered(), modes=WHOLE, fault="missing_done"),
    _always("no_usage", Answered(counted=True)),
    _always("negative_usage", Answered(counted=True)),
    _always("absurd_usage", Answered(counted=True)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """Where the faults are played out."""

    stack: Stack
    servers: Servers
    first: Process
    second: Process
    with_second: Process
    alone: Process
    redis: dict[str, str]
    fresh: dict[str, list[tuple[Process, str]]] = field(default_factory=dict)

    def gateway(self, providers: str) -> Process:
        """The one with two providers, or the one with one."""
        return self.with_second if providers == "second" else self.alone

    async def unspoilt(self, providers: str) -> tuple[Process, str]:
        """A gateway, and a model of which it knows nothing yet."""
        left = self.fresh.setdefault(providers, [])
        if not left:
            gateway = await start_gateway(
                self.stack,
                await fresh_redis(self.servers),
                self.first,
                self.second if providers == "second" else None,
            )
            left += [(gateway, model) for model in SPOILT_ONCE]
        return left.pop()

    async def audit(self, who: Customer) -> Audit:
        """Of a customer."""
        return await audit(self.stack.database_url, who.id)


async def start_gateway(
    stack: Stack, redis_url: str, first: Process, second: Process | None
) -> Process:
    """A gateway with little patience."""
    return await stack.gateway(
        f"gateway-{len(stack.started)}",
        redis_url=redis_url,
        sandbox_url=f"{first.url}/v1",
        sandbox_url_2=f"{second.url}/v1" if second else "",
        first_byte_timeout_s="1",
        answer_timeout_s="1",
        chunk_timeout_s="1",
        request_timeout_s="30",
    )


@pytest_asyncio.fixture(scope="module")
async def shared_field(servers: Servers) -> AsyncIterator[Field]:
    url = await fresh_database(servers)
    redis = {name: await fresh_redis(servers) for name in ("second", "alone")}
    stack = Stack(url, redis["second"])
    first = await stack.sandbox("sandbox")
    second = await stack.sandbox("sandbox-2")
    both = await start_gateway(stack, redis["second"], first, second)
    alone = await start_gateway(stack, redis["alone"], first, None)
    yield Field(stack, servers, first, second, both, alone, redis)
    stack.close()
    await drop_database(servers, url)


@pytest_asyncio.fixture
async def place(shared_field: Field) -> Field:
    """Both providers well, and both gateways convinced of it."""
    for sandbox in (shared_field.first, shared_field.second):
        await reset(sandbox.url)
    for redis_url in shared_field.redis.values():
        await well_again(redis_url, FIRST_ROUTE, SECOND_ROUTE)
    return shared_field


def _cases() -> list[Any]:
    return [
        pytest.param(row, mode, providers, id=f"{row.id}-{mode}-{providers}")
        for row in FAULTS
        for mode in row.modes
        for providers in ("second", "alone")
    ]


@pytest.mark.parametrize(("row", "mode", "providers"), _cases())
async def test_a_fault_has_the_outcome_of_its_row(
    place: Field, row: Row, mode: str, providers: str
) -> None:
    gateway, model = place.gateway(providers), MODEL
    if row.spoils:
        gateway, model = await place.unspoilt(providers)
    who = await customer(gateway.url)
    fault = {"fault": row.fault, "provider": "sandbox", "key": f"{who.id}", **row.details}
    streamed = mode == "streamed"
    reply = await who.chat(model, stream=streamed, messages=row.messages, sandbox=fault)
    balance = await who.balance()
    assert balance["held"] == "0"
    books = await place.audit(who)
    books.check_at_rest()
    (record,) = books.records
    assert record["streamed"] is streamed
    outcome = row.with_second if providers == "second" else row.alone
    match outcome:
        case Answered():
            _check_answered(reply, record, outcome, books, streamed=streamed)
        case Interrupted():
            _check_interrupted(reply, record, books)
        case Refused():
            _check_refused(reply, record, outcome, books)
    calls = len(await asked(place.first.url)), len(await asked(place.second.url))
    if row.callers_own or not isinstance(outcome, Refused):
        assert calls == (1, int(isinstance(outcome, Answered) and outcome.fell_back))
    else:
        assert 1 <= calls[0] <= 2
        assert calls[1] == 0


def _check_answered(
    reply: Reply, record: dict[str, Any], outcome: Answered, books: Audit, *, streamed: bool
) -> None:
    assert reply.status == 200, reply.raw
    assert reply.is_stream is streamed
    assert "sandbox" in reply.text().lower()
    assert reply.finish_reasons() == ["stop"]
    if streamed:
        assert reply.events()[-1] == ("", "[DONE]")
        assert all(name != "error" for name, _ in reply.events())
    assert reply.headers.get("x-kyma-fallback") == ("true" if outcome.fell_back else None)
    assert reply.headers.get("x-kyma-fallback-layer") == ("1" if outcome.fell_back else None)
    assert record["outcome"] == "ok"
    assert record["layer"] == int(outcome.fell_back)
    assert record["provider"] == ("sandbox-2" if outcome.fell_back else "sandbox")
    assert len(record["attempts"]) == 1 + int(outcome.fell_back)
    assert record["attempts"][-1]["outcome"] == "ok"
    assert record["evidence"] == ("at_least" if outcome.counted else "exact")
    assert 0 < record["charged"] == books.spent <= books.largest_hold


def _check_refused(reply: Reply, record: dict[str, Any], outcome: Refused, books: Audit) -> None:
    assert not reply.is_stream
    error = reply.error()
    assert (reply.status, error["code"]) == (outcome.status, outcome.code)
    assert reply.headers.get("retry-after") == outcome.retry_after
    assert "sandbox" not in error["message"].lower()
    assert "x-kyma-request-id" in reply.headers
    assert "x-ratelimit-remaining-requests" in reply.headers
    assert record["outcome"] == outcome.code
    assert books.spent == 0
    assert books.available == CREDIT


def _check_interrupted(reply: Reply, record: dict[str, Any], books: Audit) -> None:
    assert reply.status == 200
    assert reply.text()
    name, data = reply.events()[-1]
    assert name == "error"
    error = json.loads(data)["error"]
    assert (error["code"], error["type"]) == ("stream_interrupted", "provider_error")
    assert error["charged"] is False
    assert error["retryable"] is True
    assert reply.finish_reasons() == []
    assert b"[DONE]" not in reply.raw
    assert record["outcome"] == "stream_interrupted"
    assert record["attempts"][-1]["outcome"] != "ok"
    assert (books.spent, books.available) == (0, CREDIT)


@pytest.mark.parametrize("fault", ["unauthorized", "payment_required"])
async def test_trouble_with_our_account_is_logged_for_the_operator_and_not_told(
    place: Field, fault: str
) -> None:
    gateway, model = await place.unspoilt("alone")
    who = await customer(gateway.url)
    said = len(gateway.said())
    reply = await who.chat(model, sandbox={"fault": fault, "key": who.id})
    assert reply.status == 502
    for word in ("quota", "key", "incorrect", "401", "402"):
        assert word not in reply.error()["message"].lower()
    assert "provider_account_refused" in gateway.said()[said:]


async def test_a_provider_that_flaps_is_used_again_within_30_seconds(place: Field) -> None:
    await arm(place.first.url, fault="flap", seconds=4)
    began = time.monotonic()
    who = await customer(place.with_second.url)
    while True:
        reply = await who.chat(MODEL, max_tokens=1)
        assert reply.status in {200, 429}, reply.raw
        if reply.status == 429:  # thirty requests a minute and no more
            who = await customer(place.with_second.url)
        elif "x-kyma-fallback" not in reply.headers:
            break
        assert time.monotonic() - began < 30
        await asyncio.sleep(0.2)
    assert time.monotonic() - began >= 3.5


async def test_a_provider_that_says_when_to_come_back_is_left_alone_until_then(
    place: Field,
) -> None:
    gateway, model = await place.unspoilt("second")
    who = await customer(gateway.url)
    await arm(place.first.url, fault="rate_limit", retry_after=2, times=1)
    began = time.monotonic()
    replies = [await who.chat(model, max_tokens=1)]
    limited_at = time.monotonic()
    while time.monotonic() < began + 1.8:
        replies.append(await who.chat(model, max_tokens=1))
        await asyncio.sleep(0.15)
    assert all(reply.headers["x-kyma-fallback"] == "true" for reply in replies)
    assert len(await asked(place.first.url)) == 1
    await asyncio.sleep(max(0.0, limited_at + 2.1 - time.monotonic()))
    reply = await who.chat(model, max_tokens=1)
    assert reply.status == 200
    assert "x-kyma-fallback" not in reply.headers
    assert len(await asked(place.first.url)) == 2


async def test_while_the_only_provider_asks_to_wait_it_is_not_called_at_all(
    place: Field,
) -> None:
    gateway, model = await place.unspoilt("alone")
    who = await customer(gateway.url)
    await who.chat(model, sandbox={"fault": "rate_limit", "retry_after": 20, "key": who.id})
    reply = await who.chat(model)
    assert (reply.status, reply.error()["code"]) == (503, "no_route_available")
    assert 15 <= int(reply.headers["retry-after"]) <= 20
    assert len(await asked(place.first.url)) == 1
    books = await place.audit(who)
    books.check_at_rest()
    assert books.spent == 0


async def test_a_fallback_that_rejects_the_request_is_not_shown_as_the_callers_error(
    place: Field,
) -> None:
    who = await customer(place.with_second.url)
    await arm(place.first.url, fault="error_500")
    await arm(place.second.url, fault="bad_request")
    for stream in (False, True):
        reply = await who.chat(MODEL, stream=stream)
        assert (reply.status, reply.error()["code"]) == (502, "provider_error")
    assert await asked(place.second.url)
    books = await place.audit(who)
    books.check_at_rest()
    assert books.spent == 0


async def test_a_fallback_that_rejects_a_prefill_is_not_shown_as_the_callers_error(
    place: Field,
) -> None:
    who = await customer(place.with_second.url)
    await arm(place.first.url, fault="error_503")
    await arm(place.second.url, fault="reject_prefill")
    reply = await who.chat(MODEL, messages=PREFILL)
    assert (reply.status, reply.error()["code"]) == (503, "provider_overloaded")
    (await place.audit(who)).check_at_rest()


@pytest.mark.parametrize("is_refused", [True, False], ids=["nobody listens", "nobody accepts"])
async def test_a_provider_that_is_not_there_is_passed_over(place: Field, is_refused: bool) -> None:
    with black_hole() as port:
        gateway = await place.stack.gateway(
            f"gateway-{len(place.stack.started)}",
            redis_url=await fresh_redis(place.servers),
            sandbox_url=f"http://127.0.0.1:{free_port() if is_refused else port}/v1",
            sandbox_url_2=f"{place.second.url}/v1",
            connect_timeout_s="0.3",
        )
        who = await customer(gateway.url)
        for stream in (False, True):
            began = time.monotonic()
            reply = await who.chat(MODEL, stream=stream)
            assert time.monotonic() - began < 5
            assert (reply.status, reply.finish_reasons()) == (200, ["stop"])
    books = await place.audit(who)
    books.check_at_rest()
    missed = "broken" if is_refused else "timeout"
    told = [[attempt["outcome"] for attempt in record["attempts"]] for record in books.records]
    assert told == [[missed, "ok"]] * 2
    assert books.spent == sum(record["charged"] for record in books.records) > 0


async def test_when_both_providers_fail_nothing_is_charged_and_the_calls_are_bounded(
    place: Field,
) -> None:
    who = await customer(place.with_second.url)
    for stream in (False, True):
        reply = await who.chat(MODEL, stream=stream, sandbox={"fault": "error_500", "key": who.id})
        assert (reply.status, reply.error()["code"]) == (502, "provider_error")
    calls = len(await asked(place.first.url)) + len(await asked(place.second.url))
    assert calls <= 8
    books = await place.audit(who)
    books.check_at_rest()
    assert books.spent == 0


async def test_one_failure_is_retried_on_the_only_provider_and_charged_once(place: Field) -> None:
    who = await customer(place.alone.url)
    fault = {"fault": "error_500", "times": 1, "key": who.id}
    reply = await who.chat(MODEL, sandbox=fault)
    assert reply.status == 200
    assert reply.headers["x-kyma-fallback"] == "true"
    books = await place.audit(who)
    books.check_at_rest()
    (record,) = books.records
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["broken", "ok"]
    assert record["charged"] > 0


async def _leave(
    who: Customer, body: dict[str, Any], until: Callable[[aiohttp.ClientResponse], Awaitable[Any]]
) -> None:
    """Start a stream and close the connection once `until` has returned."""
    async with aiohttp.ClientSession(timeout=PATIENCE) as session:
        response = await session.post(
            f"{who.url}/v1/chat/completions",
            data=orjson.dumps({"model": MODEL, "messages": HELLO, "stream": True, **body}),
            headers={**who.headers, "Content-Type": "application/json"},
        )
        assert response.status == 200
        await until(response)
        response.close()


async def _at_rest(place: Field, who: Customer) -> Audit:
    """The books once the customer's request has ended."""
    deadline = time.monotonic() + 10
    while not (books := await place.audit(who)).records:
        assert time.monotonic() < deadline, "the request never ended"
        await asyncio.sleep(0.05)
    books.check_at_rest()
    return books


@pytest.mark.parametrize("asks_for_more", [False, True])
async def test_a_client_that_leaves_in_mid_stream_pays_for_what_came(
    place: Field, asks_for_more: bool
) -> None:
    """Also if it asked for more on the same connection before it went."""
    who = await customer(place.with_second.url)

    async def some_text(response: aiohttp.ClientResponse) -> None:
        got = b""
        while got.count(b'"content":') < 4:
            got += await response.content.readany()
        if asks_for_more:
            assert response.connection is not None
            assert response.connection.transport is not None
            response.connection.transport.write(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
            await asyncio.sleep(0.05)

    await _leave(who, {"sandbox": {"delay_ms": 100, "chunks": 400}}, some_text)
    books = await _at_rest(place, who)
    (record,) = books.records
    assert record["outcome"] == "client_left"
    assert 0 < record["charged"] <= books.largest_hold
    assert record["evidence"] == "at_least"
    assert 0 < record["output_tokens"] < 100
    (call,) = await asked(place.first.url)
    assert call["client_disconnected"]
    assert call["chunks_sent"] < 100


async def test_a_client_that_leaves_a_stream_about_to_end_pays_what_the_provider_told(
    place: Field,
) -> None:
    who = await customer(place.with_second.url)

    async def a_first_word(response: aiohttp.ClientResponse) -> None:
        await response.content.readany()

    await _leave(who, {"max_tokens": 20, "sandbox": {"delay_ms": 20}}, a_first_word)
    (record,) = (await _at_rest(place, who)).records
    assert (record["outcome"], record["evidence"]) == ("client_left", "exact")
    assert record["output_tokens"] == 20
    assert record["charged"] > 0


async def _give_up(who: Customer, after_s: float, **fields: Any) -> None:
    """Ask, and close the connection before there is an answer."""
    asking = asyncio.create_task(who.chat(MODEL, **fields))
    await asyncio.sleep(after_s)
    assert asking.cancel()
    await asyncio.wait([asking])


async def test_a_client_that_leaves_before_the_first_text_pays_nothing(place: Field) -> None:
    who = await customer(place.with_second.url)
    fault = {"fault": "slow_start", "seconds": 0.8, "key": who.id, "provider": "sandbox"}
    await _give_up(who, 0.4, stream=True, sandbox=fault)
    books = await _at_rest(place, who)
    (record,) = books.records
    assert (books.spent, books.available) == (0, CREDIT)
    assert record["output_tokens"] == 0
    (call,) = await asked(place.first.url)
    assert call["client_disconnected"]
    assert not await asked(place.second.url)


async def test_a_client_that_leaves_a_whole_answer_pays_for_what_was_made(place: Field) -> None:
    who = await customer(place.with_second.url)
    fault = {"fault": "slow_start", "seconds": 0.7, "key": who.id, "provider": "sandbox"}
    await _give_up(who, 0.3, sandbox=fault)
    books = await _at_rest(place, who)
    (record,) = books.records
    assert record["outcome"] == "ok"
    assert 0 < books.spent <= books.largest_hold


async def test_after_a_client_has_left_no_other_provider_is_asked(place: Field) -> None:
    who = await customer(place.with_second.url)
    fault = {"fault": "timeout", "key": who.id, "provider": "sandbox"}
    await _give_up(who, 0.3, sandbox=fault)
    books = await _at_rest(place, who)
    assert books.spent == 0
    assert len(await asked(place.first.url)) == 1
    assert not await asked(place.second.url)
