"""Every text route against what nobody sends by mistake: a clear error or service, never a 500.

`test_bad_input.py` holds the chat route to exact answers. Here each route in turn meets the
same abuse, and every field of a body that uses all of its dialect is replaced by what does not
belong there; a refusal costs nothing and leaves no hold.
"""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from adapters.http.contract import Envelope, Meter
from adapters.http.openapi import routes_of
from adapters.http.text_contract import OPERATIONS
from tests.e2e.asking import Customer, Reply, audit
from tests.e2e.paying import check_at_rest, paying_customers
from tests.e2e.stack import Process, Stack
from tests.http.wired import gateway as wired
from tests.servers import Servers, drop_database, fresh_database, fresh_redis

MODEL = "qwen-3.6-plus"
EMBEDDING_MODEL = "qwen-3-embedding-8b"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
COUNT, RESPONSES = "/v1/messages/count_tokens", "/v1/responses"
COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"

SERVED = sorted({route.path for route in routes_of(wired().quart)} & set(OPERATIONS))
STREAMED = [path for path in SERVED if OPERATIONS[path].answers[200].streamed]
each_route = pytest.mark.parametrize("path", SERVED)

PATIENCE = aiohttp.ClientTimeout(total=60)
PER_CUSTOMER = 150
"""Requests after which the next customer asks; the highest tier allows 200 of a model."""

TURN = '{"role": "user", "content": "TEXT"}'
RAW = {
    CHAT: f'{{"model": "{MODEL}", "max_tokens": 50, "messages": [{TURN}]}}',
    MESSAGES: f'{{"model": "{MODEL}", "max_tokens": 50, "messages": [{TURN}]}}',
    COUNT: f'{{"model": "{MODEL}", "messages": [{TURN}]}}',
    RESPONSES: f'{{"model": "{MODEL}", "max_output_tokens": 50, "input": "TEXT"}}',
    COMPLETIONS: f'{{"model": "{MODEL}", "max_tokens": 50, "prompt": "TEXT"}}',
    EMBEDDINGS: f'{{"model": "{EMBEDDING_MODEL}", "input": "TEXT"}}',
}
"""A small good body of each route, as text, with a mark where its prompt is."""


class Place:
    """One gateway, and customers who take turns."""

    def __init__(self, stack: Stack, gateway: Process) -> None:
        self.stack = stack
        self.gateway = gateway
        self.customers: list[Customer] = []
        self._asked = 0

    async def who(self) -> Customer:
        """Somebody who may still ask."""
        if self._asked % PER_CUSTOMER == 0:
            self.customers += await paying_customers(self.gateway.url, self.stack.database_url, 1)
        self._asked += 1
        return self.customers[-1]


@pytest_asyncio.fixture(scope="module")
async def place(servers: Servers) -> AsyncIterator[Place]:
    url = await fresh_database(servers)
    stack = Stack(url, await fresh_redis(servers))
    sandbox = await stack.sandbox()
    gateway = await stack.gateway(sandbox_url=f"{sandbox.url}/v1")
    made = Place(stack, gateway)
    yield made
    for who in made.customers:
        check_at_rest(await audit(url, who.id))
    said = gateway.said()
    stack.close()
    await drop_database(servers, url)
    assert "request_failed" not in said
    assert "Traceback" not in said


async def post(session: aiohttp.ClientSession, who: Customer, path: str, body: bytes) -> Reply:
    headers = {**who.headers, "Content-Type": "application/json"}
    async with session.post(who.url + path, data=body, headers=headers) as response:
        raw = await response.read()
        lowered = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, lowered, raw)


def complaint(path: str, reply: Reply) -> str | None:
    """What is wrong with an answer to a hostile request, if something is."""
    if "x-kyma-request-id" not in reply.headers:
        return "no request id"
    if reply.status == 200:
        return None
    if not 400 <= reply.status < 500:
        return f"status {reply.status}"
    try:
        error = reply.json()["error"]
    except (ValueError, TypeError, KeyError):
        return "no envelope"
    if not (isinstance(error.get("message"), str) and error["message"]):
        return "no message"
    if OPERATIONS[path].envelope is Envelope.ANTHROPIC:
        return None if reply.json().get("type") == "error" else "not Anthropic's envelope"
    return None if error.get("charged") is False else "does not say that it is free"


async def checked(place: Place, path: str, body: bytes) -> Reply:
    """The answer to one hostile request, after which the customer's books must be right."""
    who = await place.who()
    before = await audit(place.stack.database_url, who.id)
    async with aiohttp.ClientSession(timeout=PATIENCE) as session:
        reply = await post(session, who, path, body)
    assert complaint(path, reply) is None, (reply.status, reply.raw[:300])
    after = await audit(place.stack.database_url, who.id)
    check_at_rest(after)
    if reply.status != 200 or OPERATIONS[path].meter is Meter.FREE:
        assert after.available == before.available
    else:
        assert after.available < before.available
    return reply


# --- one abuse at a time ----------------------------------------------------------------

DEEP = 100_000
REFUSED: dict[str, Callable[[str], str | bytes]] = {
    "nothing": lambda _: b"",
    "half a body": lambda raw: raw[: len(raw) // 2],
    "two bodies": lambda raw: raw + raw,
    "an array": lambda raw: f"[{raw}]",
    "a number": lambda _: "17",
    "UTF-16": lambda raw: raw.encode("utf-16"),
    "bytes that are no UTF-8": lambda raw: raw.encode().replace(b"TEXT", b"\xff\xfe\x80"),
    "an encoded surrogate": lambda raw: raw.encode().replace(b"TEXT", b"\xed\xa0\x80"),
    "a lone high surrogate": lambda raw: raw.replace("TEXT", "\\ud83d"),
    "a lone low surrogate": lambda raw: raw.replace("TEXT", "\\udca9 text"),
    "surrogates in the wrong order": lambda raw: raw.replace("TEXT", "\\udca9\\ud83d"),
    "a lone surrogate as a name": lambda raw: raw[:-1] + ', "\\ud83d": 1}',
    "a raw NUL": lambda raw: raw.replace("TEXT", "a\x00b"),
    "a raw line break": lambda raw: raw.replace("TEXT", "a\nb"),
    "NaN": lambda raw: raw[:-1] + ', "temperature": NaN}',
    "minus infinity": lambda raw: raw[:-1] + ', "temperature": -Infinity}',
    "1e999": lambda raw: raw[:-1] + ', "temperature": 1e999}',
    "deep arrays": lambda raw: raw[:-1] + ', "x": ' + "[" * DEEP + "]" * DEEP + "}",
    "deep objects": lambda raw: raw[:-1] + ', "x": ' + '{"a":' * DEEP + "1" + "}" * DEEP + "}",
    "arrays without an end": lambda raw: raw[:-1] + ', "x": ' + "[" * DEEP,
    "a model of another type the second time": lambda raw: raw[:-1] + ', "model": 5}',
    "a prompt that is a number": lambda raw: raw.replace('"TEXT"', "17"),
}
"""What no route may serve."""

DEEP_ENOUGH = 90
ODD: dict[str, Callable[[str], str | bytes]] = {
    "an escaped NUL": lambda raw: raw.replace("TEXT", "a\\u0000b"),
    "every plane of Unicode": lambda raw: raw.replace("TEXT", "é漢🦦\u202e\ufffd\U0010ffff\ue000"),
    "a thousand marks on a letter": lambda raw: raw.replace("TEXT", "e" + "\u0301" * 1000),
    "a family of a thousand": lambda raw: raw.replace("TEXT", "👩\u200d" * 1000 + "👩"),
    "a pair of escaped surrogates": lambda raw: raw.replace("TEXT", "\\ud83d\\udca9"),
    "a megabyte of text": lambda raw: raw.replace("TEXT", "word " * 200_000),
    "a megabyte of 漢": lambda raw: raw.replace("TEXT", "漢" * 350_000),
    "a megabyte without a space": lambda raw: raw.replace("TEXT", "x" * 1_000_000),
    "an integer of 65 bits": lambda raw: raw[:-1] + f', "seed": {2**64}}}',
    "an integer of 4,000 digits": lambda raw: raw[:-1] + ', "seed": ' + "9" * 4000 + "}",
    "a name twice, the last one good": lambda raw: '{"model": 5, ' + raw[1:],
    "ten thousand unknown fields": lambda raw: (
        raw[:-1] + "".join(f', "field_{number}": {number}' for number in range(10_000)) + "}"
    ),
    "a name of a megabyte": lambda raw: raw[:-1] + ', "' + "n" * 1_000_000 + '": 1}',
    "an unknown field of ninety levels": lambda raw: (
        raw[:-1] + ', "x": ' + "[" * DEEP_ENOUGH + "]" * DEEP_ENOUGH + "}"
    ),
    "names that mean something elsewhere": lambda raw: (
        raw[:-1] + ', "__proto__": {"a": 1}, "constructor": 1, "__class__": "x", "$ref": "#/"}'
    ),
}
"""What a route may serve or refuse, as long as it says so."""


def as_bytes(body: str | bytes) -> bytes:
    return body if isinstance(body, bytes) else body.encode()


@each_route
@pytest.mark.parametrize("abuse", REFUSED)
async def test_what_cannot_be_served_is_refused_and_free(
    place: Place, path: str, abuse: str
) -> None:
    body = as_bytes(REFUSED[abuse](RAW[path]))
    reply = await checked(place, path, body)
    assert 400 <= reply.status < 500
    assert len(reply.raw) < 2_000


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("abuse", ["a lone high surrogate", "a prompt that is a number"])
async def test_a_stream_that_cannot_be_served_is_refused_with_a_status(
    place: Place, path: str, abuse: str
) -> None:
    raw = RAW[path][:-1] + ', "stream": true}'
    reply = await checked(place, path, as_bytes(REFUSED[abuse](raw)))
    assert 400 <= reply.status < 500
    assert reply.headers["content-type"] == "application/json"


@each_route
@pytest.mark.parametrize("oddity", ODD)
async def test_what_is_odd_is_served_or_refused_and_the_books_are_right(
    place: Place, path: str, oddity: str
) -> None:
    await checked(place, path, as_bytes(ODD[oddity](RAW[path])))


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("oddity", ["an escaped NUL", "every plane of Unicode", "a megabyte of 漢"])
async def test_what_is_odd_is_streamed_or_refused_and_the_books_are_right(
    place: Place, path: str, oddity: str
) -> None:
    raw = RAW[path][:-1] + ', "stream": true}'
    await checked(place, path, as_bytes(ODD[oddity](raw)))


# --- much of it -------------------------------------------------------------------------

TOOL_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "d" * 900}},
}
MANY = 1000


def a_megabyte_of_tools(path: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(RAW[path].replace("TEXT", "Say hello."))
    function = {"description": "What it does.", "parameters": TOOL_SCHEMA}
    tools: dict[str, Callable[[int], dict[str, Any]]] = {
        CHAT: lambda n: {"type": "function", "function": {"name": f"tool_{n}", **function}},
        RESPONSES: lambda n: {"type": "function", "name": f"tool_{n}", **function},
    }

    def anthropic(n: int) -> dict[str, Any]:
        return {"name": f"tool_{n}", "input_schema": TOOL_SCHEMA}

    body["tools"] = [tools.get(path, anthropic)(number) for number in range(MANY)]
    return body


def ten_thousand_turns(path: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(RAW[path].replace("TEXT", "Say hello."))
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"{n}"} for n in range(9_999)]
    return {**body, ("input" if path == RESPONSES else "messages"): turns}


@pytest.mark.parametrize("path", sorted({CHAT, MESSAGES, COUNT, RESPONSES} & set(SERVED)))
@pytest.mark.parametrize("much", [a_megabyte_of_tools, ten_thousand_turns])
async def test_much_is_served_or_refused_and_the_books_are_right(
    place: Place, path: str, much: Callable[[str], dict[str, Any]]
) -> None:
    body = json.dumps(much(path)).encode()
    await checked(place, path, body)


# --- nobody else waits ------------------------------------------------------------------

BODY_LIMIT = 20 * 1024 * 1024
LONGEST_PAUSE_S = 1.0
"""Of the whole process, as somebody else sees it. Measured on two busy cores: at most 0.15 s.

Before bodies were bounded and read off the event loop, the address took 26 s, the tools of a
response 7, those of a chat 4 and the blocks 1.7. The others passed even then: they stand here
because they are the heaviest that are still taken.
"""


def filled(before: str, unit: str, after: str) -> bytes:
    """As much of this as a body may hold."""
    room = BODY_LIMIT - len(before) - len(after)
    return (before + ",".join([unit] * (room // (len(unit) + 1))) + after).encode()


BLOCK = '{"type": "text", "text": "x"}'
BLOCKS = f'{{"role": "user", "content": [{",".join([BLOCK] * 9_900)}]}}'
RESULT = f'{{"type": "tool_result", "tool_use_id": "a", "content": [{BLOCK}]}}'
SPEC = json.dumps({"properties": {f"p{n}": {"type": "string", "enum": ["a"]} for n in range(75)}})
TOOL = f'{{"type": "function", "name": "a", "parameters": {SPEC}}}'
HEAVY: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a long address": (
        "/v1/auth/register",
        lambda: b'{"password": "secret1", "email": "' + b"a." * (BODY_LIMIT // 2 - 99) + b'@b.co"}',
    ),
    "tools of a response": (
        RESPONSES,
        lambda: filled(
            RAW[RESPONSES][:-1] + ', "tools": [',
            '{"type":"function","name":"a","parameters":{}}',
            "]}",
        ),
    ),
    "tools of a chat": (CHAT, lambda: filled(RAW[CHAT][:-1] + ', "tools": [', '{"a":{}}', "]}")),
    "blocks": (
        MESSAGES,
        lambda: filled(f'{{"model": "{MODEL}", "max_tokens": 5, "messages": '
                       '[{"role": "user", "content": [', BLOCK, "]}]}"),
    ),
    "results of tools": (
        MESSAGES,
        lambda: filled(f'{{"model": "{MODEL}", "max_tokens": 5, "messages": '
                       '[{"role": "user", "content": [', RESULT, "]}]}"),
    ),
    "as many blocks as are taken": (
        MESSAGES,
        lambda: RAW[MESSAGES].replace(TURN, ",".join([BLOCKS] * 8)).encode(),
    ),
    "as many values in tools as are taken": (
        RESPONSES,
        (RAW[RESPONSES][:-1] + f', "tools": [{",".join([TOOL] * 500)}]}}').encode,
    ),
    "prose of many commas": (
        CHAT,
        lambda: RAW[CHAT].replace("TEXT", "a," * (BODY_LIMIT // 8)).encode(),
    ),
}  # fmt: skip
"""The largest body that a route may be sent, in the ways that take it longest."""


@pytest.mark.parametrize("what", HEAVY)
async def test_a_heavy_request_keeps_nobody_else_waiting(place: Place, what: str) -> None:
    path, build = HEAVY[what]
    body, who, pauses, over = build(), await place.who(), [0.0], asyncio.Event()
    assert len(body) <= BODY_LIMIT

    async def another() -> None:
        async with aiohttp.ClientSession(timeout=PATIENCE) as session:
            while not over.is_set():
                began = time.perf_counter()
                async with session.get(f"{who.url}/healthz") as response:
                    assert response.status == 200
                pauses.append(time.perf_counter() - began)
                await asyncio.sleep(0.01)

    watching = asyncio.create_task(another())
    async with aiohttp.ClientSession(timeout=PATIENCE) as session:
        reply = await post(session, who, path, body)
    over.set()
    await watching
    assert max(pauses) < LONGEST_PAUSE_S
    assert reply.status in {200, 400, 413, 429}, reply.raw[:300]


# --- every field, replaced --------------------------------------------------------------

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "The weather.", "parameters": SCHEMA}

FULL: dict[str, dict[str, Any]] = {
    CHAT: {
        "model": MODEL,
        "max_tokens": 20,
        "temperature": 0.5,
        "top_p": 0.9,
        "n": 1,
        "stop": ["END"],
        "seed": 7,
        "user": "somebody",
        "stream": False,
        "max_cost": 0.5,
        "logit_bias": {"50256": -100},
        "metadata": {"a": "b"},
        "reasoning_effort": "low",
        "response_format": {"type": "text"},
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": True,
        "tools": [{"type": "function", "function": FUNCTION}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
        ],
    },
    MESSAGES: {
        "model": MODEL,
        "max_tokens": 2000,
        "temperature": 1,
        "stop_sequences": ["END"],
        "stream": False,
        "max_cost": 0.5,
        "metadata": {"user_id": "somebody"},
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
        "tools": [{"name": "weather", "description": "The weather.", "input_schema": SCHEMA}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
                    },
                    {
                        "type": "document",
                        "title": "A page",
                        "source": {"type": "text", "media_type": "text/plain", "data": "Words."},
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmF0dXJl"},
                    {
                        "type": "tool_use",
                        "id": "toolu_1",
                        "name": "weather",
                        "input": {"city": "x"},
                    },
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "is_error": False,
                        "content": [{"type": "text", "text": "Rain."}],
                    }
                ],
            },
        ],
    },
    RESPONSES: {
        "model": MODEL,
        "max_output_tokens": 20,
        "temperature": 0.5,
        "top_p": 0.9,
        "instructions": "Be brief.",
        "stream": False,
        "store": False,
        "max_cost": 0.5,
        "metadata": {"a": "b"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tool_choice": {"type": "function", "name": "weather"},
        "parallel_tool_calls": True,
        "tools": [{"type": "function", "strict": False, **FUNCTION}],
        "input": [
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"},
                ],
            },
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "Rain."},
            {"role": "assistant", "content": [{"type": "output_text", "text": "It rains."}]},
            {"role": "user", "content": "Go on."},
        ],
    },
    COMPLETIONS: {
        "model": MODEL,
        "prompt": ["Once upon a time", "there was"],
        "suffix": "The end.",
        "max_tokens": 20,
        "temperature": 0.5,
        "top_p": 0.9,
        "n": 1,
        "stop": ["END"],
        "echo": False,
        "logprobs": 1,
        "stream": False,
        "max_cost": 0.5,
        "seed": 7,
        "user": "somebody",
    },
    EMBEDDINGS: {
        "model": EMBEDDING_MODEL,
        "input": ["a text", "another"],
        "dimensions": 8,
        "encoding_format": "float",
        "max_cost": 0.5,
        "user": "somebody",
    },
}
FULL[COUNT] = {
    "model": MODEL,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}],
    "tools": FULL[MESSAGES]["tools"],
}

WRONG: tuple[Any, ...] = (
    *(None, True, -1, 2**64, 1.5, "", "x" * 300),
    *([], [None], [{"type": []}]),
    *({}, {"type": None}, {"type": "text"}, {"type": "function", "function": 1}),
)


def places(node: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every node below the root."""
    if here:
        yield here
    if isinstance(node, dict):
        for name, child in node.items():
            yield from places(child, (*here, name))
    elif isinstance(node, list):
        for number, child in enumerate(node):
            yield from places(child, (*here, number))


def replaced(body: dict[str, Any], way: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The body with another value there."""
    changed: Any = copy.deepcopy(body)
    node = changed
    for step in way[:-1]:
        node = node[step]
    node[way[-1]] = value
    return dict(changed)


def without(body: dict[str, Any], way: tuple[Any, ...]) -> dict[str, Any]:
    """The body without what is there."""
    changed: Any = copy.deepcopy(body)
    node = changed
    for step in way[:-1]:
        node = node[step]
    del node[way[-1]]
    return dict(changed)


def bodies(path: str, field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every way to put something wrong at or below a field."""
    full = FULL[path]
    for way in places(full):
        if way[0] != field:
            continue
        yield f"without {way}", without(full, way)
        for value in WRONG:
            yield f"{way} = {value!r:.60}", replaced(full, way, value)


FIELDS = [(path, field) for path in SERVED for field in FULL[path]]


@pytest.mark.parametrize(("path", "field"), FIELDS)
async def test_whatever_stands_in_a_field_is_served_or_refused(
    place: Place, path: str, field: str
) -> None:
    wrong: list[str] = []
    at_once = asyncio.Semaphore(6)

    async def one(what: str, body: dict[str, Any]) -> None:
        async with at_once:
            reply = await post(session, await place.who(), path, json.dumps(body).encode())
        found = complaint(path, reply)
        if found is not None:
            wrong.append(f"{what}: {found}: {reply.raw[:200]!r}")

    async with aiohttp.ClientSession(timeout=PATIENCE) as session:
        await asyncio.gather(*(one(what, body) for what, body in bodies(path, field)))
    assert wrong == []


@each_route
async def test_the_full_body_itself_is_in_order(place: Place, path: str) -> None:
    """Else its changes would all fail for the same reason."""
    reply = await checked(place, path, json.dumps(FULL[path]).encode())
    assert reply.status == 200, reply.raw[:300]
