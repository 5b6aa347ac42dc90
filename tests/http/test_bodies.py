"""Bodies as they come: what cannot be read is told so, and large ones keep nobody waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import orjson
import pytest

from adapters.http.bodies import (
    AT_ONCE,
    LARGE_BYTES,
    MAX_VALUES,
    SMALL_BYTES,
    Workbench,
    check_packing,
    parsed,
)
from adapters.http.complaints import MAX_CHOICES, MAX_MESSAGES, MAX_PARTS, MAX_TOOLS
from adapters.http.dialects import Dialect
from adapters.http.dialects.chat import ChatCompletions
from adapters.http.dialects.completions import Completions
from adapters.http.dialects.messages import Messages
from adapters.http.dialects.responses import Responses
from kyma.errors import Code, Refusal
from kyma.tiers import TIERS
from tests.http.on_memory import STRANGER, Place, a_body, a_place
from tests.http.responses_builders import MODEL
from tests.http.wired import ask, gateway

# --- JSON -------------------------------------------------------------------------------


def refusal_of(raw: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parsed(raw)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        "\\ud83d", "\\uD83D", "\\udca9 text", "\\udca9\\ud83d", "\\ud83d text and more",
        "\\ud83d\\u0041 and more", "\\ud83d\\n and more", "good \\ud83d\\udca9 then \\ud83d",
    ],
)  # fmt: skip
def test_half_of_a_surrogate_pair_is_called_by_its_name(text: str) -> None:
    for raw in (f'{{"a": "{text}"}}', f'{{"{text}": 1}}', f'{{"a": "{text}"'):
        refusal = refusal_of(raw.encode())
        assert refusal.code is Code.INVALID_JSON
        assert "half of a surrogate pair" in refusal.message


@pytest.mark.parametrize("raw", [b"", b'{"a": ', b'{"a": "\\ud83d\\udca9', b'{"a": "\\u00e9"'])
def test_a_body_that_is_cut_is_told_that_and_nothing_else(raw: bytes) -> None:
    assert "truncated" in refusal_of(raw).message


def test_bytes_that_are_no_utf_8_are_told_so() -> None:
    assert refusal_of(b'{"a": "\xed\xa0\x80"}').message == "The body is not valid UTF-8."


MANY = MAX_VALUES + 10


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":[' + b",".join([b"{}"] * MANY) + b"]}",
        b'{"a":[' + b",".join([b"1"] * MANY) + b"]}",
        b'{"a":[' + b",".join([b'""'] * MANY) + b"]}",
        b'{"a":[' + b",".join([b'"\\\\\\""'] * MANY) + b"]}",
        b"{" + b",".join(b'"%d":1' % number for number in range(MANY)) + b"}",
        b'{"a":' + b"[" * MANY + b"]" * MANY + b"}",
        b"[" * MANY,
    ],
    ids=["objects", "numbers", "texts", "escapes", "names", "nested", "open"],
)
def test_a_body_of_too_many_values_is_refused_before_they_are_built(raw: bytes) -> None:
    refusal = refusal_of(raw)
    assert refusal.code is Code.BODY_TOO_LARGE
    assert f"{MAX_VALUES:,}" in refusal.message


@pytest.mark.parametrize("text", ["a,[{", '\\",', "\\\\,", '{"a": [1, 2]}, ', '\\\\\\",[{'])
def test_what_stands_in_a_text_is_no_value(text: str) -> None:
    body = {"messages": [{"role": "user", "content": text * MAX_VALUES}] * 2}
    assert parsed(orjson.dumps(body)) == body


def test_a_long_conversation_is_not_too_many_values() -> None:
    turn = {"role": "user", "content": "A line, and another."}
    assert parsed(orjson.dumps({"model": "m", "messages": [turn] * MAX_MESSAGES}))


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "x" * 500])
def test_a_packed_body_is_refused_by_its_packing(encoding: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_packing(encoding)
    assert caught.value.code is Code.UNSUPPORTED_MEDIA_TYPE
    assert encoding[:40] in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_a_body_that_says_that_it_is_not_packed_is_taken(encoding: str) -> None:
    assert check_packing(encoding) is None


# --- how many of a kind -----------------------------------------------------------------


def read(dialect: Dialect, body: dict[str, Any]) -> None:
    dialect.model(body)
    dialect.call(body, MODEL)


TEXT = {"type": "text", "text": "x"}
TURN = {"role": "user", "content": "x"}
TOO_MANY: list[tuple[Dialect, dict[str, Any], str]] = [
    (ChatCompletions(), {"messages": [TURN] * (MAX_MESSAGES + 1)}, "messages"),
    (ChatCompletions(), {"messages": [TURN], "tools": [{}] * (MAX_TOOLS + 1)}, "tools"),
    (ChatCompletions(), {"messages": [TURN], "functions": [{}] * (MAX_TOOLS + 1)}, "functions"),
    (
        ChatCompletions(),
        {"messages": [{"role": "user", "content": [TEXT] * (MAX_PARTS + 1)}]},
        "messages[0].content",
    ),
    (Messages(), {"max_tokens": 1, "messages": [TURN] * (MAX_MESSAGES + 1)}, "messages"),
    (
        Messages(),
        {"max_tokens": 1, "messages": [{"role": "user", "content": [TEXT] * (MAX_PARTS + 1)}]},
        "messages[0].content",
    ),
    (
        Messages(),
        {"max_tokens": 1, "messages": [TURN], "system": [TEXT] * (MAX_PARTS + 1)},
        "system",
    ),
    (
        Messages(),
        {"max_tokens": 1, "messages": [TURN], "tools": [{"name": "a"}] * (MAX_TOOLS + 1)},
        "tools",
    ),
    (Responses(), {"input": [TURN] * (2 * MAX_MESSAGES + 1)}, "input"),
    (
        Responses(),
        {"input": "x", "tools": [{"type": "function", "name": "a"}] * (MAX_TOOLS + 1)},
        "tools",
    ),
    (
        Responses(),
        {"input": [{"role": "user", "content": [TEXT] * (MAX_PARTS + 1)}]},
        "input[0].content",
    ),
    (Completions(), {"prompt": ["x"] * (MAX_CHOICES + 1)}, "prompt"),
]


@pytest.mark.parametrize(
    ("dialect", "fields", "param"),
    TOO_MANY,
    ids=[f"{dialect.endpoint} {param}" for dialect, _, param in TOO_MANY],
)
def test_too_many_of_a_kind_are_refused_by_their_field(
    dialect: Dialect, fields: dict[str, Any], param: str
) -> None:
    body = {"model": MODEL.id, **fields}
    with pytest.raises(Refusal) as caught:
        read(dialect, body)
    assert (caught.value.code, caught.value.param) == (Code.INVALID_VALUE, param)


# --- the workbench ----------------------------------------------------------------------


async def test_the_event_loop_goes_on_while_a_large_body_is_read() -> None:
    gone_on = threading.Event()
    asyncio.get_running_loop().call_soon(gone_on.set)
    assert await Workbench().run("a", lambda: gone_on.wait(10))


async def test_a_customer_waits_for_themselves_and_not_everybody_else_for_them() -> None:
    bench, release, order = Workbench(), threading.Event(), list[str]()

    def slow(name: str) -> str:
        order.append(name)
        release.wait(10)
        return name

    many = [asyncio.create_task(bench.run("greedy", lambda: slow("greedy"))) for _ in range(5)]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(10):
            assert await bench.run("other", lambda: "served") == "served"
        assert order == ["greedy"]
    finally:
        release.set()
    assert await asyncio.gather(*many) == ["greedy"] * 5


async def test_few_large_bodies_are_read_at_once() -> None:
    bench, lock, now, most = Workbench(), threading.Lock(), [0], [0]

    def work() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1

    await asyncio.gather(*(bench.run(f"customer {number}", work) for number in range(8)))
    assert most[0] <= AT_ONCE


async def test_what_is_refused_in_the_thread_is_refused_to_the_caller() -> None:
    bench = Workbench()
    with pytest.raises(Refusal):
        await bench.run("a", lambda: parsed(b"["))
    assert await bench.run("a", lambda: 1) == 1


# --- at the edge ------------------------------------------------------------------------

CHAT, COUNT = "/v1/chat/completions", "/v1/messages/count_tokens"
LONG = "word " * (LARGE_BYTES // 4)
RPM = TIERS[0].requests_per_minute


async def used(place: Place) -> int:
    return (await place.limiter.peek(place.account.id)).requests_used


async def test_a_large_request_is_served_as_a_small_one_is() -> None:
    place = await a_place()
    answer = await place.chat(messages=[{"role": "user", "content": LONG}])
    assert answer.status == 200, answer.body
    assert place.upstream.calls[-1].large
    assert await used(place) == 1
    assert (await place.chat()).status == 200
    assert not place.upstream.calls[-1].large


async def test_a_large_request_counts_even_if_it_is_refused_and_a_small_one_does_not() -> None:
    place = await a_place()
    assert (await place.chat(temperature=3)).status == 400
    assert await used(place) == 0
    assert (await place.chat(temperature=3, user=LONG)).status == 400
    assert await used(place) == 1
    refused = await place.ask("POST", CHAT, b"x" * (2 * LARGE_BYTES))
    assert refused.status == 400
    assert await used(place) == 2
    assert refused.headers["x-ratelimit-remaining-requests"] == str(RPM - 2)


async def test_a_customer_without_requests_left_is_not_read_any_large_body() -> None:
    place = await a_place()
    for _ in range(RPM):
        assert (await place.chat(temperature=3, user=LONG)).status == 400
    assert await used(place) == RPM
    answer = await place.chat(temperature=3, user=LONG)
    assert answer.status == 429
    assert answer.json()["error"]["limit"] == "requests"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert (await place.ask("POST", CHAT, a_body(user=LONG), secret=STRANGER)).status == 200


async def test_counting_and_quoting_a_large_prompt_stay_free() -> None:
    place = await a_place()
    body = {"model": "big", "messages": [{"role": "user", "content": LONG}]}
    counted = await place.ask("POST", COUNT, body)
    assert counted.json()["input_tokens"] == 10_000  # its window
    assert (await place.ask("POST", "/v1/quote", body)).status == 200
    assert (await place.ask("POST", COUNT, {**body, "messages": LONG})).status == 400
    assert await used(place) == 0


@pytest.mark.parametrize(
    "path",
    [CHAT, "/v1/messages", COUNT, "/v1/responses", "/v1/completions", "/v1/embeddings",
     "/v1/quote", "/v1/auth/register", "/v1/auth/login"],
)  # fmt: skip
async def test_a_packed_body_is_a_415_on_every_route(path: str) -> None:
    place = await a_place()
    answer = await place.ask("POST", path, b"\x1f\x8b\x08", content_encoding="gzip")
    assert answer.status == 415, answer.body
    assert answer.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize("path", ["/v1/auth/register", "/v1/auth/login"])
async def test_routes_without_prompts_take_small_bodies_only(path: str) -> None:
    body = orjson.dumps({"email": "a@example.com", "password": "x" * SMALL_BYTES})
    answer = await ask(gateway(), "POST", path, body=body)
    assert answer.status == 413
    assert answer.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("email", ["a." * 20_000 + "@example.com", "a@" + "x." * 127 + "com"])
async def test_an_address_that_is_too_long_is_refused_before_it_is_looked_at(email: str) -> None:
    body = orjson.dumps({"email": email, "password": "secret-1"})
    answer = await ask(gateway(), "POST", "/v1/auth/register", body=body)
    assert answer.status == 400
    assert answer.json()["error"]["param"] == "email"
    assert "254" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1//chat/completions"),
        ("POST", "//v1/chat/completions"),
        ("POST", "//v1/messages/count_tokens"),
        ("GET", "/v1//models"),
        ("GET", "/v1/models/"),
    ],
)
async def test_a_path_with_a_slash_too_many_is_a_404_and_no_redirect(
    method: str, path: str
) -> None:
    answer = await ask(gateway(), method, path, body=b"{}")
    assert answer.status == 404
    assert "nothing at" in answer.json()["error"]["message"]
    assert "location" not in answer.headers
