"""The sandbox's legacy completions, its embeddings, and what its wires share, over real sockets."""

import base64
import json
import math
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from adapters.embedded.sandbox import Options, serve
from adapters.embedded.sandbox_faults import FaultName
from adapters.embedded.sandbox_text import pieces
from tests.wire.test_sandbox import HELLO, SCHEMAS
from tests.wire.test_sandbox import tool as chat_tool

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
DEFAULTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO},
    COMPLETIONS: {"prompt": "Once upon a time"},
    EMBEDDINGS: {"input": "Once upon a time"},
}


@dataclass
class Reply:
    status: int
    headers: Any
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def lines(self) -> list[str]:
        found = self.raw.decode().split("\n\n")
        return [line.removeprefix("data: ") for line in found if line]

    @property
    def events(self) -> list[Any]:
        return [json.loads(line) for line in self.lines if line != "[DONE]"]

    def texts(self, index: int = 0) -> list[str]:
        choices = [choice for event in self.events for choice in event["choices"]]
        return [choice["text"] for choice in choices if choice["index"] == index]

    @property
    def vectors(self) -> list[list[float]]:
        return [row["embedding"] for row in self.body["data"]]


class Sandbox:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def ask(self, path: str, headers: Any = None, **fields: Any) -> Reply:
        body = {"model": "any-model", **DEFAULTS[path], **fields}
        async with self.session.post(self.url + path, json=body, headers=headers) as response:
            return Reply(response.status, response.headers, await response.read())

    async def complete(self, **fields: Any) -> Reply:
        return await self.ask(COMPLETIONS, **fields)

    async def embed(self, **fields: Any) -> Reply:
        return await self.ask(EMBEDDINGS, **fields)

    async def records(self) -> Any:
        async with self.session.get(self.url + "/sandbox/requests") as response:
            return (await response.json())["last"]

    def client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="sk-any", max_retries=0)


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    runner, port = await serve(Options(speed_ms=0, name="first"))
    async with aiohttp.ClientSession() as session:
        yield Sandbox(session, f"http://127.0.0.1:{port}")
    await runner.cleanup()


# Completions


async def test_a_completion_has_the_shape_of_openai_and_sixteen_tokens(sandbox: Sandbox) -> None:
    reply = await sandbox.complete()
    (choice,) = reply.body["choices"]
    assert reply.body["object"] == "text_completion"
    assert reply.body["id"].startswith("cmpl-")
    assert choice["text"].startswith("This is a sandbox answer.")
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    usage = reply.body["usage"]
    assert usage["completion_tokens"] == len(pieces(choice["text"])) == 16
    assert usage["prompt_tokens"] == len(pieces("Once upon a time"))
    assert usage["total_tokens"] == usage["prompt_tokens"] + 16


@pytest.mark.parametrize(("prompt", "size"), [
    ("Hello", 1), (["Hello", "Hello there"], 3), ([15339, 995], 2), ([[15339], [995, 1]], 3),
])  # fmt: skip
async def test_a_prompt_is_text_tokens_or_many_of_them(
    sandbox: Sandbox, prompt: Any, size: int
) -> None:
    reply = await sandbox.complete(prompt=prompt, n=2, max_tokens=5)
    count = 2 * (len(prompt) if isinstance(prompt, list) and size == 3 else 1)
    choices = reply.body["choices"]
    assert [choice["index"] for choice in choices] == list(range(count))
    assert reply.body["usage"]["prompt_tokens"] == size
    assert reply.body["usage"]["completion_tokens"] == 5 * count


async def test_every_prompt_gets_an_answer_of_its_own(sandbox: Sandbox) -> None:
    reply = await sandbox.complete(prompt=["Hello", "Goodbye"], max_tokens=40)
    hello, goodbye = [choice["text"] for choice in reply.body["choices"]]
    assert '"Hello"' in hello
    assert '"Goodbye"' in goodbye
    alone = await sandbox.complete(prompt="Goodbye", max_tokens=40)
    assert alone.body["choices"][0]["text"] == goodbye


async def test_the_prompt_is_echoed_and_stops_end_the_text(sandbox: Sandbox) -> None:
    for stream in (False, True):
        reply = await sandbox.complete(prompt="Hi.", echo=True, stop=" sandbox", stream=stream)
        text = "".join(reply.texts()) if stream else reply.body["choices"][0]["text"]
        last = reply.events[-1] if stream else reply.body
        assert text == "Hi.This is a"
        assert last["choices"][0]["finish_reason"] == "stop"


async def test_a_streamed_completion_says_what_the_whole_one_says(sandbox: Sandbox) -> None:
    asked: Any = {"prompt": ["One", "Two"], "max_tokens": 12}
    whole = await sandbox.complete(**asked)
    streamed = await sandbox.complete(**asked, stream=True)
    told = await sandbox.complete(**asked, stream=True, stream_options={"include_usage": True})
    assert {event["object"] for event in streamed.events} == {"text_completion"}
    for index in (0, 1):
        assert "".join(streamed.texts(index)) == whole.body["choices"][index]["text"]
    assert streamed.lines[-1] == "[DONE]"
    assert not any("usage" in event for event in streamed.events)
    assert told.events[-1]["choices"] == []
    assert told.events[-1]["usage"] == whole.body["usage"]
    assert all(event["usage"] is None for event in told.events[:-1])


@pytest.mark.parametrize(("fields", "param"), [
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [1, "two"]}, "prompt"),
    ({"prompt": 7}, "prompt"),
    ({"model": ""}, "model"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"echo": "yes"}, "echo"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stream_options": {}}, "stream_options"),
])  # fmt: skip
async def test_a_wrong_completion_is_refused_as_openai_does(
    sandbox: Sandbox, fields: Any, param: str
) -> None:
    reply = await sandbox.complete(**fields)
    assert (reply.status, reply.body["error"]["param"]) == (400, param)
    assert reply.body["error"]["type"] == "invalid_request_error"


# Embeddings


async def test_a_text_has_a_unit_vector_and_always_the_same(sandbox: Sandbox) -> None:
    first = await sandbox.embed(input=["Hello", "Goodbye", "Hello"], model="sandbox-embed")
    alone = await sandbox.embed(input="Hello")
    hello, goodbye, again = first.vectors
    assert first.body["object"] == "list"
    assert first.body["model"] == "sandbox-embed"
    assert [row["index"] for row in first.body["data"]] == [0, 1, 2]
    assert {row["object"] for row in first.body["data"]} == {"embedding"}
    assert hello == again == alone.vectors[0] != goodbye
    assert len(hello) == 1536
    assert math.isclose(math.hypot(*hello), 1, rel_tol=1e-6)
    assert first.body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


async def test_fewer_dimensions_are_the_first_ones_made_unit_again(sandbox: Sandbox) -> None:
    (full,), (short,) = (await sandbox.embed()).vectors, (await sandbox.embed(dimensions=8)).vectors
    length = math.hypot(*full[:8])
    assert len(short) == 8
    assert all(math.isclose(a, b / length, rel_tol=1e-5) for a, b in zip(short, full, strict=False))


async def test_base64_is_the_same_vector_as_floats(sandbox: Sandbox) -> None:
    (floats,) = (await sandbox.embed(dimensions=16)).vectors
    (encoded,) = (await sandbox.embed(dimensions=16, encoding_format="base64")).vectors
    assert list(struct.unpack("<16f", base64.b64decode(str(encoded)))) == floats


@pytest.mark.parametrize(("given", "count", "size"), [
    ([15339, 995], 1, 2), ([[15339], [995, 1]], 2, 3), (["a b", "c"], 2, 3),
])  # fmt: skip
async def test_inputs_are_texts_or_tokens(
    sandbox: Sandbox, given: Any, count: int, size: int
) -> None:
    reply = await sandbox.embed(input=given, dimensions=2)
    assert (len(reply.vectors), reply.body["usage"]["prompt_tokens"]) == (count, size)


@pytest.mark.parametrize(("fields", "param"), [
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": ["x", ""]}, "input"),
    ({"input": ["x"] * 2049}, "input"),
    ({"input": "word " * 9000}, "input"),
    ({"dimensions": 0}, "dimensions"),
    ({"dimensions": 4000}, "dimensions"),
    ({"encoding_format": "hex"}, "encoding_format"),
])  # fmt: skip
async def test_a_wrong_input_is_refused_as_openai_does(
    sandbox: Sandbox, fields: Any, param: str
) -> None:
    reply = await sandbox.embed(**fields)
    assert (reply.status, reply.body["error"]["param"]) == (400, param)


async def test_the_embedding_model_is_listed(sandbox: Sandbox) -> None:
    async with sandbox.session.get(sandbox.url + "/v1/models") as response:
        assert "sandbox-embed" in [row["id"] for row in (await response.json())["data"]]


# Faults of both


@pytest.mark.parametrize("path", [COMPLETIONS, EMBEDDINGS])
@pytest.mark.parametrize(("fault", "status"), [
    ("error_500", 500), ("error_503", 503), ("flap", 503), ("rate_limit", 429),
    ("unauthorized", 401), ("payment_required", 402), ("bad_request", 400),
    ("content_filter", 400), ("context_too_long", 400),
])  # fmt: skip
async def test_an_error_fault_answers_with_its_status(
    sandbox: Sandbox, path: str, fault: str, status: int
) -> None:
    reply = await sandbox.ask(path, sandbox={"fault": fault})
    assert (reply.status, "error" in reply.body) == (status, True)
    assert reply.headers.get("Retry-After") == ("1" if fault == "rate_limit" else None)
    (record,) = await sandbox.records()
    assert (record["fault"], record["status"], record["path"]) == (fault, status, path)


@pytest.mark.parametrize("path", [COMPLETIONS, EMBEDDINGS])
@pytest.mark.parametrize("fault", list(FaultName))
async def test_every_fault_leaves_the_sandbox_able_to_answer(
    sandbox: Sandbox, path: str, fault: FaultName
) -> None:
    control = {"fault": fault, "seconds": 0.01}
    asked = {"stream": True} if path == COMPLETIONS else {}
    try:
        await sandbox.ask(path, sandbox=control, **asked)
    except aiohttp.ClientError:
        assert fault in ("reset", "reset_before_headers", "cut_stream", "timeout")
    assert (await sandbox.ask(path)).status == 200


async def test_a_streamed_completion_breaks_as_a_streamed_chat_does(sandbox: Sandbox) -> None:
    async def lines(fault: str) -> list[str]:
        control = {"fault": fault, "chunks": 20}
        return (await sandbox.complete(stream=True, sandbox=control)).lines

    assert (await lines("malformed_chunk")).count("{broken") == 1
    assert (await lines("missing_done"))[-1] != "[DONE]"
    assert len(await lines("missing_finish")) == 10
    assert "server_error" in (await lines("error_in_stream"))[-1]
    assert sum("network_error" in line for line in await lines("failed_finish")) == 1


async def test_whole_answers_break_too(sandbox: Sandbox) -> None:
    for path in (COMPLETIONS, EMBEDDINGS):
        broken = await sandbox.ask(path, sandbox={"fault": "malformed_chunk"})
        with pytest.raises(json.JSONDecodeError):
            json.loads(broken.raw)
        with pytest.raises(aiohttp.ClientPayloadError):
            await sandbox.ask(path, sandbox={"fault": "cut_stream"})
        error = await sandbox.ask(path, sandbox={"fault": "error_in_stream"})
        assert (error.status, "error" in error.body) == (200, True)
        silent = await sandbox.ask(path, sandbox={"fault": "no_usage"})
        assert "usage" not in silent.body
        negative = await sandbox.ask(path, sandbox={"fault": "negative_usage"})
        assert negative.body["usage"]["total_tokens"] < 0


async def test_both_want_the_key_of_the_chat(sandbox: Sandbox) -> None:
    runner, port = await serve(Options(speed_ms=0, key="sk-right"))
    locked = Sandbox(sandbox.session, f"http://127.0.0.1:{port}")
    right = {"Authorization": "Bearer sk-right"}
    for path in (COMPLETIONS, EMBEDDINGS):
        assert (await locked.ask(path)).status == 401
        assert (await locked.ask(path, headers=right)).status == 200
    await runner.cleanup()


# What the wires share, on the chat's


@pytest.mark.parametrize("stream", [False, True])
async def test_several_tools_are_called_at_once_where_that_is_asked_for(
    sandbox: Sandbox, stream: bool
) -> None:
    tools = [chat_tool("first"), chat_tool("second", SCHEMAS["weather"])]
    asked: Any = {"tools": tools, "stream": stream, "sandbox": {"tool_calls": 3}}
    reply = await sandbox.ask(CHAT, **asked)
    if stream:
        deltas = [event["choices"][0]["delta"] for event in reply.events]
        parts = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
        calls = [part for part in parts if "id" in part]
        assert [call["index"] for call in calls] == [0, 1, 2]
        arguments = "".join(p["function"]["arguments"] for p in parts if p["index"] == 1)
        assert "city" in json.loads(arguments)
    else:
        calls = reply.body["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["first", "second", "first"]
    assert len({call["id"] for call in calls}) == 3
    one = await sandbox.ask(CHAT, **{**asked, "stream": False, "parallel_tool_calls": False})
    assert len(one.body["choices"][0]["message"]["tool_calls"]) == 1


async def test_a_note_beside_a_tool_result_does_not_call_it_again(sandbox: Sandbox) -> None:
    tools = [chat_tool("act")]
    asked = (await sandbox.ask(CHAT, tools=tools)).body["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": asked["tool_calls"][0]["id"], "content": "19"}
    for role in ("user", "system"):
        note = {"role": role, "content": "A note beside it."}
        turns = [*HELLO, asked, result, note]
        reply = await sandbox.ask(CHAT, tools=tools, messages=turns)
        assert reply.body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_it_thinks_first_where_that_is_asked_for(sandbox: Sandbox, stream: bool) -> None:
    plain = await sandbox.ask(CHAT)
    options = {"stream_options": {"include_usage": True}} if stream else {}
    reply = await sandbox.ask(CHAT, stream=stream, sandbox={"thinking": 20}, **options)
    if stream:
        deltas = [choice["delta"] for event in reply.events for choice in event["choices"]]
        thoughts = [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta]
        text = "".join(delta.get("content") or "" for delta in deltas)
        assert deltas.index({"reasoning_content": thoughts[-1]}) < len(deltas) - 3
    else:
        message = reply.body["choices"][0]["message"]
        thoughts, text = pieces(message["reasoning_content"]), message["content"]
    usage = (reply.events[-1] if stream else reply.body)["usage"]
    assert len(thoughts) == usage["completion_tokens_details"]["reasoning_tokens"] == 20
    assert text == plain.body["choices"][0]["message"]["content"]
    assert usage["completion_tokens"] == plain.body["usage"]["completion_tokens"] + 20


@pytest.mark.parametrize("stream", [False, True])
async def test_a_filter_can_step_in_after_some_text(sandbox: Sandbox, stream: bool) -> None:
    control = {"fault": "content_filter", "after": 5}
    reply = await sandbox.ask(CHAT, stream=stream, sandbox=control)
    assert reply.status == 200
    last = reply.events[-1] if stream else reply.body
    assert last["choices"][0]["finish_reason"] == "content_filter"
    if not stream:
        assert reply.body["usage"]["completion_tokens"] == 5


# The official client


async def test_the_official_client_completes_and_embeds(sandbox: Sandbox) -> None:
    async with sandbox.client() as client:
        whole = await client.completions.create(model="m", prompt="Hi", max_tokens=9)
        stream = await client.completions.create(model="m", prompt="Hi", max_tokens=9, stream=True)
        text = "".join([event.choices[0].text async for event in stream])
        embedded = await client.embeddings.create(model="sandbox-embed", input=["Hi", "Ho"])
    assert whole.choices[0].text == text
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 9
    assert [len(row.embedding) for row in embedded.data] == [1536, 1536]
    assert embedded.data[0].embedding == (await sandbox.embed(input="Hi")).vectors[0]


async def test_the_official_client_raises_the_class_of_the_error(sandbox: Sandbox) -> None:
    async with sandbox.client() as client:
        with pytest.raises(openai.RateLimitError):
            await client.embeddings.create(
                model="m", input="Hi", extra_body={"sandbox": {"fault": "rate_limit"}}
            )
        with pytest.raises(openai.InternalServerError):
            await client.completions.create(
                model="m", prompt="Hi", extra_body={"sandbox": {"fault": "error_500"}}
            )
