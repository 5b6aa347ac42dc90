"""What text routes have beside a dialect: idempotency, limits callers set, signs of life."""

from __future__ import annotations

import asyncio
import base64
import gzip
import random
import struct
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from tests.e2e.asking import (
    HELLO,
    PATIENCE,
    Customer,
    Reply,
    arm,
    asked,
    audit,
    customer,
    reset,
    send,
    well_again,
)
from tests.e2e.conftest import Running
from tests.e2e.stack import Process

MODEL = "deepseek-v4-flash"
EMBEDDING = "qwen-3-embedding-8b"
CHAT = "/v1/chat/completions"

streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest_asyncio.fixture
async def buyer(running: Running) -> AsyncIterator[Customer]:
    """A customer of a gateway whose providers are well."""
    for sandbox in (running.first, running.second):
        await reset(sandbox.url)
    await well_again(running.stack.redis_url, f"sandbox/{MODEL}", f"sandbox-2/{MODEL}")
    yield await customer(running.gateway.url)


async def post(who: Customer, body: Any, path: str = CHAT, **headers: str) -> Reply:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await send(who.url, "POST", path, orjson.dumps(body), {**who.headers, **given})


def hello(stream: bool = False, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": HELLO, "max_tokens": 20, "stream": stream, **fields}


async def calls(*sandboxes: Process) -> int:
    return sum([len(await asked(sandbox.url)) for sandbox in sandboxes])


@streamed
async def test_a_repeated_request_is_charged_once_and_tells_its_receipt(
    running: Running, buyer: Customer, stream: bool
) -> None:
    first = await post(buyer, hello(stream), Idempotency_Key="a-key")
    again = await post(buyer, hello(stream), Idempotency_Key="a-key")
    assert (first.status, again.status) == (200, 200)
    assert again.headers["x-kyma-idempotent-replay"] == "true"
    assert again.headers["x-kyma-request-id"] == first.headers["x-kyma-request-id"]
    assert again.json()["status"] == "already_completed"
    assert again.json()["id"].endswith(first.headers["x-kyma-request-id"])
    assert await calls(running.first, running.second) == 1
    found = await audit(running.stack.database_url, buyer.id)
    found.check_at_rest()
    assert len(found.records) == 1


@streamed
async def test_fifty_at_once_are_one_request(
    running: Running, buyer: Customer, stream: bool
) -> None:
    replies = await asyncio.gather(
        *(post(buyer, hello(stream), Idempotency_Key="at-once") for _ in range(50))
    )
    assert {reply.status for reply in replies} <= {200, 409, 429}
    served = [r for r in replies if r.status == 200 and "x-kyma-idempotent-replay" not in r.headers]
    assert len(served) == 1
    for reply in replies:
        if reply.status == 409:
            assert reply.error()["code"] == "idempotency_in_progress"
            assert int(reply.headers["retry-after"]) >= 1
    assert await calls(running.first, running.second) == 1
    found = await audit(running.stack.database_url, buyer.id)
    found.check_at_rest()
    assert len(found.records) == 1


async def test_a_key_is_good_for_one_body_and_one_path(buyer: Customer) -> None:
    assert (await post(buyer, hello(), Idempotency_Key="mine")).status == 200
    other = await post(buyer, hello(max_tokens=21), Idempotency_Key="mine")
    assert (other.status, other.error()["code"]) == (409, "idempotency_key_reused")
    elsewhere = await post(buyer, hello(), "/v1/embeddings", Idempotency_Key="mine")
    assert elsewhere.status in {400, 409}
    stranger = await customer(buyer.url)
    assert (await post(stranger, hello(max_tokens=22), Idempotency_Key="mine")).status == 200


async def test_a_key_that_is_no_key_is_refused(buyer: Customer) -> None:
    reply = await post(buyer, hello(), Idempotency_Key="x" * 256)
    assert reply.status == 400
    assert reply.error()["param"] == "Idempotency-Key"


@streamed
async def test_what_failed_uncharged_may_be_tried_again_under_its_key(
    running: Running, buyer: Customer, stream: bool
) -> None:
    for sandbox in (running.first, running.second):
        await arm(sandbox.url, fault="error_500", times=20)
    failed = await post(buyer, hello(stream), Idempotency_Key="twice")
    assert failed.status == 502
    for sandbox in (running.first, running.second):
        await reset(sandbox.url)
    await well_again(running.stack.redis_url, f"sandbox/{MODEL}", f"sandbox-2/{MODEL}")
    again = await post(buyer, hello(stream), Idempotency_Key="twice")
    assert again.status == 200
    assert "x-kyma-idempotent-replay" not in again.headers
    (await audit(running.stack.database_url, buyer.id)).check_at_rest()


@streamed
async def test_a_key_whose_owner_agreed_gives_the_very_bytes_again(
    running: Running, buyer: Customer, stream: bool
) -> None:
    keys = (await buyer.get("/v1/auth/keys")).json()["data"]
    chosen = await send(
        buyer.url,
        "PATCH",
        f"/v1/auth/keys/{keys[0]['id']}",
        orjson.dumps({"replay_minutes": 5}),
        buyer.headers,
    )
    assert chosen.status == 200, chosen.raw
    await asyncio.sleep(1.2)  # every process knows of it by then
    first = await post(buyer, hello(stream), Idempotency_Key="kept")
    again = await post(buyer, hello(stream), Idempotency_Key="kept")
    assert again.headers["x-kyma-idempotent-replay"] == "true"
    assert again.raw == first.raw
    assert again.headers["content-type"] == first.headers["content-type"]
    assert await calls(running.first, running.second) == 1


@streamed
async def test_a_caller_may_bound_the_cost_of_a_request(
    running: Running, buyer: Customer, stream: bool
) -> None:
    refused = await post(buyer, hello(stream, max_cost=0.0000001))
    assert refused.error()["code"] == "max_cost_exceeded"
    refused = await post(buyer, hello(stream), X_Kyma_Max_Cost="0.0000001")
    assert refused.error()["code"] == "max_cost_exceeded"
    assert await calls(running.first, running.second) == 0
    served = await post(buyer, hello(stream, max_cost="0.10"))
    assert served.status == 200
    assert "max_cost" not in orjson.dumps(await asked(running.first.url)).decode()


async def test_a_layer_that_is_none_is_refused(buyer: Customer) -> None:
    reply = await post(buyer, hello(), X_Kyma_Max_Fallback_Layer="first")
    assert (reply.status, reply.error()["param"]) == (400, "X-Kyma-Max-Fallback-Layer")


async def test_layer_nought_allows_no_fallback_at_all(running: Running, buyer: Customer) -> None:
    await arm(running.first.url, fault="error_500", times=20)
    refused = await post(buyer, hello(), X_Kyma_Max_Fallback_Layer="0")
    assert refused.status == 502
    assert await calls(running.second) == 0
    served = await post(buyer, hello(), X_Kyma_Max_Fallback_Layer="1")
    assert served.status == 200
    assert served.headers["x-kyma-fallback-layer"] == "1"


@streamed
async def test_every_answer_tells_where_its_time_went(buyer: Customer, stream: bool) -> None:
    reply = await post(buyer, hello(stream))
    parts = dict(part.split(";dur=") for part in reply.headers["server-timing"].split(", "))
    assert {"hold", "upstream", "total"} <= set(parts)
    assert float(parts["total"]) >= float(parts["upstream"]) > 0


async def test_a_browser_may_ask_and_read(buyer: Customer) -> None:
    wants = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    allowed = await send(buyer.url, "OPTIONS", CHAT, None, wants)
    assert allowed.status == 204
    assert allowed.headers["access-control-allow-origin"] == "*"
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    for status, reply in (
        (200, await post(buyer, hello(), Origin="https://app.example")),
        (200, await post(buyer, hello(True), Origin="https://app.example")),
        (400, await post(buyer, {}, Origin="https://app.example")),
    ):
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == "*"
        assert "X-Kyma-Model" in reply.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in (await post(buyer, hello())).headers


@pytest_asyncio.fixture
async def restless(running: Running) -> Process:
    """A gateway that sends a sign of life twice a second."""
    return await running.stack.gateway(
        "restless",
        sandbox_url=f"{running.first.url}/v1",
        sandbox_url_2=f"{running.second.url}/v1",
        keepalive_s="0.5",
        first_byte_timeout_s="4",
        request_timeout_s="30",
    )


async def test_comments_keep_a_thinking_stream_alive_and_who_serves_is_told_late(
    running: Running, buyer: Customer, restless: Process
) -> None:
    asker = buyer.at(restless.url)
    await arm(running.first.url, fault="slow_start", seconds=1.8, times=1)
    async with (
        aiohttp.ClientSession(timeout=PATIENCE) as session,
        session.post(
            asker.url + CHAT, data=orjson.dumps(hello(True)), headers=asker.headers
        ) as response,
    ):
        assert response.status == 200
        assert "x-kyma-model" not in response.headers
        assert response.headers["x-kyma-request-id"]
        raw = (await response.read()).decode()
    head, _, rest = raw.partition("data:")
    assert head.count(": thinking") >= 2
    assert f": X-Kyma-Model: {MODEL}" in head
    assert ": thinking" not in rest
    assert raw.endswith("data: [DONE]\n\n")
    (await audit(running.stack.database_url, buyer.id)).check_at_rest()


async def test_a_failure_after_signs_of_life_is_an_event_and_costs_nothing(
    running: Running, buyer: Customer, restless: Process
) -> None:
    for sandbox in (running.first, running.second):
        await arm(sandbox.url, fault="timeout", times=20)
    reply = await post(buyer.at(restless.url), hello(True))
    assert reply.status == 200
    (event,) = [data for name, data in reply.events() if name == "error"]
    assert orjson.loads(event)["error"]["charged"] is False
    assert b"[DONE]" not in reply.raw
    assert b"finish_reason" not in reply.raw
    found = await audit(running.stack.database_url, buyer.id)
    found.check_at_rest()
    assert found.spent == 0


async def test_embeddings_are_served_and_billed_by_their_input(
    running: Running, buyer: Customer
) -> None:
    body = {"model": EMBEDDING, "input": ["one text", "another text"]}
    reply = await post(buyer, body, "/v1/embeddings")
    assert reply.status == 200, reply.raw
    answer = reply.json()
    assert (answer["object"], answer["model"]) == ("list", EMBEDDING)
    assert [one["index"] for one in answer["data"]] == [0, 1]
    assert answer["usage"]["prompt_tokens"] > 0
    assert answer["usage"]["completion_tokens"] == 0
    found = await audit(running.stack.database_url, buyer.id)
    found.check_at_rest()
    assert found.spent > 0
    packed = await post(buyer, {**body, "encoding_format": "base64"}, "/v1/embeddings")
    raw = base64.b64decode(packed.json()["data"][0]["embedding"])
    vector = struct.unpack(f"<{len(raw) // 4}f", raw)
    assert sum(x * x for x in vector) == pytest.approx(1.0, abs=1e-3)


async def test_long_answers_are_shortened_and_streams_never(buyer: Customer) -> None:
    many = {"model": EMBEDDING, "input": ["text"] * 64}
    wants = {**buyer.headers, "Content-Type": "application/json", "Accept-Encoding": "gzip"}
    async with aiohttp.ClientSession(timeout=PATIENCE, auto_decompress=False) as session:
        for path, body, encoding in (
            ("/v1/embeddings", many, "gzip"),
            (CHAT, hello(), None),
            (CHAT, hello(True), None),
        ):
            url = buyer.url + path
            async with session.post(url, data=orjson.dumps(body), headers=wants) as response:
                raw = await response.read()
                assert response.headers.get("Content-Encoding") == encoding
                assert int(response.headers.get("Content-Length", len(raw))) == len(raw)
                if encoding:
                    assert len(orjson.loads(gzip.decompress(raw))["data"]) == 64


async def test_clients_that_leave_at_any_moment_leave_no_hold(
    running: Running, buyer: Customer
) -> None:
    """Long prompts, for which it is asked who holds their cache while their hold is placed."""
    gate = asyncio.Semaphore(12)
    dice = random.Random(7)
    port = int(running.gateway.url.rpartition(":")[2])

    async def leave(number: int, after_s: float) -> None:
        words = f"{number} " + "word " * 1500
        body = orjson.dumps(hello(True, messages=[{"role": "user", "content": words}]))
        async with gate:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\n"
                b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
                % (leavers[number % len(leavers)].key.encode(), len(body), body)
            )
            await asyncio.sleep(after_s)
            writer.transport.abort()

    leavers = [await customer(buyer.url) for _ in range(10)]
    await asyncio.gather(*(leave(number, dice.uniform(0, 0.025)) for number in range(250)))
    for _ in range(50):
        books = [await audit(running.stack.database_url, leaver.id) for leaver in leavers]
        if not sum(found.open_holds for found in books):
            break
        await asyncio.sleep(0.1)
    for found in books:
        found.check_at_rest()


@pytest.mark.parametrize(
    ("path", "model"), [("/v1/embeddings", MODEL), (CHAT, EMBEDDING)], ids=["chat", "embedding"]
)
async def test_a_model_on_the_wrong_endpoint_is_not_found(
    running: Running, buyer: Customer, path: str, model: str
) -> None:
    reply = await post(buyer, {"model": model, "input": "text", "messages": HELLO}, path)
    assert reply.status == 404
    assert reply.error()["code"] == "model_not_found"
    assert "endpoint" in reply.error()["message"]
    (await audit(running.stack.database_url, buyer.id)).check_at_rest()


@pytest.mark.parametrize(
    ("input", "param"),
    [
        (None, "input"), ("", "input"), ([], "input"), ([""], "input"), ([[]], "input"),
        ([1, "two"], "input"), ({"text": "x"}, "input"), ([-1], "input"), (["x"] * 2049, "input"),
    ],
)  # fmt: skip
async def test_an_input_that_is_none_is_refused(buyer: Customer, input: Any, param: str) -> None:
    reply = await post(buyer, {"model": EMBEDDING, "input": input}, "/v1/embeddings")
    assert reply.status == 400
    assert reply.error()["param"] == param
