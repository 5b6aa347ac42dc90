"""The sandbox provider over real sockets: its answers, its counts and every fault it acts out."""

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
import pytest_asyncio

from adapters.embedded.sandbox import Options, serve
from adapters.embedded.sandbox_faults import FaultName
from adapters.embedded.sandbox_text import pieces, seeded
from adapters.embedded.sandbox_values import SchemaError, value_for

ROOT = Path(__file__).resolve().parents[2]
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello, who are you?"}]
LONG = "The same words of a long contract come first every time. " * 140


@dataclass
class Reply:
    status: int
    headers: Any
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def text(self) -> str:
        return self.body["choices"][0]["message"]["content"]

    @property
    def lines(self) -> list[str]:
        found = self.raw.decode().split("\n\n")
        return [line.removeprefix("data: ") for line in found if line]

    @property
    def events(self) -> list[Any]:
        return [json.loads(line) for line in self.lines if line != "[DONE]"]

    @property
    def streamed_text(self) -> str:
        deltas = [choice["delta"] for event in self.events for choice in event["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def finishes(self) -> list[str]:
        found = [c["finish_reason"] for event in self.events for c in event.get("choices", ())]
        return [finish for finish in found if finish]


class Sandbox:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def ask(self, /, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
        body = {"model": "any-model", "messages": HELLO, **fields}
        async with self.session.post(self.url + CHAT, json=body, headers=headers) as response:
            return Reply(response.status, response.headers, await response.read())

    async def stream(self, **fields: Any) -> Reply:
        return await self.ask(stream=True, **fields)

    async def read_until_it_breaks(self, **fields: Any) -> tuple[bytes, Exception | None]:
        body = {"model": "any-model", "messages": HELLO, **fields}
        received = b""
        async with self.session.post(self.url + CHAT, json=body) as response:
            try:
                async for part in response.content.iter_any():
                    received += part
            except aiohttp.ClientError as broken:
                return received, broken
        return received, None

    async def arm(self, **fault: Any) -> None:
        async with self.session.post(self.url + "/sandbox/faults", json=fault) as response:
            assert response.status == 201

    async def requests(self) -> Any:
        async with self.session.get(self.url + "/sandbox/requests") as response:
            return await response.json()

    async def last_once_settled(self) -> Any:
        """The last record, once its handler is over; a disconnect is noticed a moment later."""
        for _ in range(100):
            last = (await self.requests())["last"][-1]
            if last["completed"] or last["client_disconnected"] or last["aborted"]:
                return last
            await asyncio.sleep(0.01)
        return last


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    runner, port = await serve(Options(speed_ms=0, name="first"))
    async with aiohttp.ClientSession() as session:
        yield Sandbox(session, f"http://127.0.0.1:{port}")
    await runner.cleanup()


@pytest_asyncio.fixture
async def locked() -> AsyncIterator[Sandbox]:
    runner, port = await serve(Options(speed_ms=0, key="sk-right"))
    async with aiohttp.ClientSession() as session:
        yield Sandbox(session, f"http://127.0.0.1:{port}")
    await runner.cleanup()


# Text


async def test_a_whole_answer_has_the_shape_of_openai_and_is_labelled(sandbox: Sandbox) -> None:
    reply = await sandbox.ask()
    body = reply.body
    assert reply.status == 200
    assert reply.headers["X-Sandbox"] == "first"
    assert body["object"] == "chat.completion"
    assert body["model"] == "any-model"
    assert body["id"].startswith("chatcmpl-")
    assert body["system_fingerprint"] == "sandbox"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert reply.text.startswith("This is a sandbox answer.")
    assert body["usage"]["completion_tokens"] == len(pieces(reply.text))
    assert body["usage"]["total_tokens"] == sum(
        body["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    )


async def test_the_same_question_gets_the_same_text_and_another_id(sandbox: Sandbox) -> None:
    first, again = await sandbox.ask(), await sandbox.ask()
    other = await sandbox.ask(messages=[{"role": "user", "content": "Something else?"}])
    assert first.text == again.text != other.text
    assert first.body["id"] != again.body["id"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [1, 7, 20])
async def test_the_token_limit_cuts_exactly(sandbox: Sandbox, name: str, limit: int) -> None:
    full, cut = await sandbox.ask(), await sandbox.ask(**{name: limit})
    assert cut.body["usage"]["completion_tokens"] == len(pieces(cut.text)) == limit
    assert cut.body["choices"][0]["finish_reason"] == "length"
    assert full.text.startswith(cut.text)


async def test_a_limit_beyond_the_answer_changes_nothing(sandbox: Sandbox) -> None:
    assert (await sandbox.ask(max_tokens=10_000)).body["choices"][0]["finish_reason"] == "stop"


async def test_the_answer_ends_before_a_stop_sequence(sandbox: Sandbox) -> None:
    reply = await sandbox.ask(stop=["nowhere", " answer"])
    assert reply.text == "This is a sandbox"
    assert reply.body["choices"][0]["finish_reason"] == "stop"
    assert reply.body["usage"]["completion_tokens"] == len(pieces(reply.text))


@pytest.mark.parametrize("chunks", [1, 60, 500])
async def test_the_caller_can_force_the_length(sandbox: Sandbox, chunks: int) -> None:
    reply = await sandbox.ask(sandbox={"chunks": chunks})
    assert reply.body["usage"]["completion_tokens"] == chunks
    assert reply.body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_n_choices_are_given_and_counted(sandbox: Sandbox, stream: bool) -> None:
    asked = {"n": 3, "stream": stream, "max_tokens": 9}
    if stream:
        reply = await sandbox.ask(**asked, stream_options={"include_usage": True})
        assert reply.finishes == ["length"] * 3
        assert reply.events[-1]["usage"]["completion_tokens"] == 27
        return
    reply = await sandbox.ask(**asked)
    assert [choice["index"] for choice in reply.body["choices"]] == [0, 1, 2]
    assert reply.body["usage"]["completion_tokens"] == 27


async def test_the_choices_of_one_request_differ(sandbox: Sandbox) -> None:
    choices = (await sandbox.ask(n=2)).body["choices"]
    assert choices[0]["message"]["content"] != choices[1]["message"]["content"]


async def test_images_and_audio_are_counted_and_mentioned(sandbox: Sandbox) -> None:
    text = {"type": "text", "text": "What is this?"}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}}
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    plain = await sandbox.ask(messages=[{"role": "user", "content": [text]}])
    shown = await sandbox.ask(messages=[{"role": "user", "content": [text, image, image, audio]}])
    more = shown.body["usage"]["prompt_tokens"] - plain.body["usage"]["prompt_tokens"]
    assert more == 85 + 85 + 128
    assert "I was shown 2 images and 1 audio clip." in shown.text


@pytest.mark.parametrize(
    "text", ["plain words", "a  b\n\n\tc", "naïve ½² 你好 🙂🙂", "__x__1234567"]
)
def test_the_pieces_joined_are_the_text_and_a_prefix_counts_as_itself(text: str) -> None:
    found = pieces(text)
    assert "".join(found) == text
    for at in range(len(found) + 1):
        assert pieces("".join(found[:at])) == found[:at]


# Streams


async def test_a_stream_says_what_the_whole_answer_says(sandbox: Sandbox) -> None:
    whole, streamed = await sandbox.ask(), await sandbox.stream()
    assert streamed.headers["Content-Type"].startswith("text/event-stream")
    assert streamed.streamed_text == whole.text
    assert streamed.events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert streamed.finishes == ["stop"]
    assert streamed.lines[-1] == "[DONE]"
    assert {event["system_fingerprint"] for event in streamed.events} == {"sandbox"}
    assert not any("usage" in event for event in streamed.events)


async def test_the_usage_comes_last_and_only_when_asked_for(sandbox: Sandbox) -> None:
    reply = await sandbox.stream(stream_options={"include_usage": True})
    whole = await sandbox.ask()
    *before, last = reply.events
    assert last["choices"] == []
    assert last["usage"] == whole.body["usage"]
    assert all(event["usage"] is None for event in before)


async def test_chunks_arrive_one_by_one_at_the_pace_asked_for(sandbox: Sandbox) -> None:
    loop = asyncio.get_running_loop()
    control = {"chunks": 10, "delay_ms": 20, "first_ms": 60}
    body = {"model": "m", "messages": HELLO, "stream": True, "sandbox": control}
    started, arrivals = loop.time(), []
    async with sandbox.session.post(sandbox.url + CHAT, json=body) as response:
        async for _ in response.content.iter_any():
            arrivals.append(loop.time() - started)
    assert arrivals[0] >= 0.055
    assert len(arrivals) >= 10
    assert arrivals[-1] - arrivals[0] >= 0.18


# Tools and JSON


SCHEMAS: dict[str, Any] = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 12, "maxLength": 14},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 3, "exclusiveMaximum": 5},
            "note": {"type": ["string", "null"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "order": {
                "type": "object",
                "properties": {
                    "lines": {
                        "type": "array",
                        "minItems": 3,
                        "items": {
                            "type": "object",
                            "properties": {"sku": {"type": "string"}, "count": {"type": "integer"}},
                            "required": ["sku", "count"],
                        },
                    }
                },
                "required": ["lines"],
            }
        },
        "required": ["order"],
    },
    "formats": {
        "type": "object",
        "properties": {
            name: {"type": "string", "format": name}
            for name in ("date-time", "date", "time", "email", "uri", "uuid", "ipv4", "ipv6")
        },
    },
    "bounds": {
        "type": "object",
        "properties": {
            "tight": {"type": "number", "minimum": 0.001, "maximum": 0.002},
            "open": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            "step": {"type": "integer", "multipleOf": 7, "minimum": 50},
            "below": {"type": "integer", "maximum": -4},
            "cents": {"type": "number", "multipleOf": 0.25, "minimum": 1, "maximum": 2},
            "fixed": {"const": {"a": [1, None]}},
        },
        "required": ["tight", "open", "step", "below", "cents", "fixed"],
    },
    "combined": {
        "type": "object",
        "properties": {
            "either": {"anyOf": [{"type": "integer"}, {"type": "array", "minItems": 1}]},
            "one": {"oneOf": [{"type": "number"}, {"type": "integer"}, {"type": "string"}]},
            "all": {"allOf": [{"type": "string", "minLength": 4}, {"maxLength": 4}]},
            "mapped": {"type": "object", "additionalProperties": {"type": "boolean"}},
        },
        "required": ["either", "one", "all", "mapped"],
        "allOf": [{"required": ["extra"]}, {"properties": {"extra": {"type": "null"}}}],
    },
    "references": {
        "type": "object",
        "properties": {"home": {"$ref": "#/$defs/address"}, "tree": {"$ref": "#/$defs/node"}},
        "required": ["home", "tree"],
        "$defs": {
            "address": {"type": "object", "properties": {"zip": {"type": "string"}}},
            "node": {
                "anyOf": [
                    {"type": "object", "properties": {"leaf": {"type": "integer"}}},
                    {
                        "type": "object",
                        "properties": {
                            "left": {"$ref": "#/$defs/node"},
                            "right": {"$ref": "#/$defs/node"},
                        },
                        "required": ["left", "right"],
                    },
                ]
            },
        },
    },
    "endless unless null": {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    },
    "arrays": {
        "type": "object",
        "properties": {
            "pair": {
                "type": "array",
                "prefixItems": [{"type": "string"}, {"type": "integer"}],
                "minItems": 2,
                "items": False,
            },
            "set": {
                "type": "array",
                "items": {"enum": ["a", "b", "c"]},
                "uniqueItems": True,
                "minItems": 3,
            },
            "none": {"type": "array", "maxItems": 0},
        },
        "required": ["pair", "set", "none"],
    },
    "patterns": {
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3,5}$"},
            "word": {"type": "string", "pattern": "^(?:yes|no)( please)?$"},
            "hex": {"type": "string", "pattern": "^#[0-9a-fA-F]{6}$"},
        },
        "minProperties": 3,
    },
    "conditions": {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "size": {"not": {"const": "amber"}}},
        "required": ["kind", "size"],
        "if": {"properties": {"kind": {"const": "a"}}},
        "then": {"properties": {"size": {"type": "string"}}},
    },
    "typed by its keywords": {"properties": {"x": {"minimum": 2}}, "required": ["x", "y"]},
    "anything": {"type": "object"},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_made_value_is_valid_whatever_the_seed(name: str) -> None:
    checker = jsonschema.Draft202012Validator(
        SCHEMAS[name], format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    for seed in range(60):
        checker.validate(value_for(SCHEMAS[name], seeded(seed)))


@pytest.mark.parametrize("schema", [
    {"type": "integer", "minimum": 5, "maximum": 4},
    {"allOf": [{"type": "string"}, {"type": "object"}]},
    {"$ref": "#/$defs/missing"},
    {"$ref": "https://example.com/schema.json"},
    {"$ref": "#"},
    {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]},
    {"enum": []},
    {"type": "string", "pattern": "("},
    {"type": 7},
])  # fmt: skip
def test_a_schema_without_values_is_told_apart(schema: Any) -> None:
    with pytest.raises(SchemaError):
        value_for(schema, seeded("any"))


def tool(name: str, parameters: Any = None) -> Any:
    function = {"name": name, "parameters": parameters} if parameters else {"name": name}
    return {"type": "function", "function": function}


@pytest.mark.parametrize("name", SCHEMAS)
async def test_the_arguments_of_a_tool_call_are_valid(sandbox: Sandbox, name: str) -> None:
    reply = await sandbox.ask(tools=[tool("act", SCHEMAS[name])])
    choice = reply.body["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert call["id"].startswith("call_")
    assert call["function"]["name"] == "act"
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[name])


@pytest.mark.parametrize(("choice", "called"), [
    (None, "first"),
    ("auto", "first"),
    ("required", "first"),
    ({"type": "function", "function": {"name": "second"}}, "second"),
    ("none", None),
])  # fmt: skip
async def test_tool_choice_decides_which_tool_is_called(
    sandbox: Sandbox, choice: Any, called: str | None
) -> None:
    asked = {"tool_choice": choice} if choice else {}
    reply = await sandbox.ask(tools=[tool("first"), tool("second")], **asked)
    calls = reply.body["choices"][0]["message"].get("tool_calls", [])
    assert [call["function"]["name"] for call in calls] == ([called] if called else [])


async def test_the_streamed_arguments_arrive_in_fragments(sandbox: Sandbox) -> None:
    asked = {"tools": [tool("act", SCHEMAS["weather"])]}
    whole, streamed = await sandbox.ask(**asked), await sandbox.stream(**asked)
    deltas = [event["choices"][0]["delta"] for event in streamed.events]
    parts = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert parts[0]["id"].startswith("call_")
    assert parts[0]["function"] == {"name": "act", "arguments": ""}
    assert len(parts) > 4
    assert all("id" not in part and "name" not in part["function"] for part in parts[1:])
    arguments = "".join(part["function"]["arguments"] for part in parts)
    message = whole.body["choices"][0]["message"]
    assert arguments == message["tool_calls"][0]["function"]["arguments"]
    assert streamed.finishes == ["tool_calls"]


async def test_after_a_tool_result_the_answer_quotes_it(sandbox: Sandbox) -> None:
    tools = [tool("act", SCHEMAS["weather"])]
    asked = (await sandbox.ask(tools=tools)).body["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": asked["tool_calls"][0]["id"], "content": "19 degrees"}
    reply = await sandbox.ask(tools=tools, messages=[*HELLO, asked, result])
    assert 'The tool returned "19 degrees".' in reply.text
    assert reply.body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", SCHEMAS)
async def test_a_structured_answer_is_valid(sandbox: Sandbox, name: str, stream: bool) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS[name]}}
    reply = await sandbox.ask(response_format=wanted, stream=stream)
    text = reply.streamed_text if stream else reply.text
    jsonschema.validate(json.loads(text), SCHEMAS[name])


@pytest.mark.parametrize("stream", [False, True])
async def test_json_mode_answers_with_an_object(sandbox: Sandbox, stream: bool) -> None:
    reply = await sandbox.ask(response_format={"type": "json_object"}, stream=stream)
    answer = json.loads(reply.streamed_text if stream else reply.text)
    assert answer["sandbox"] is True


# The prompt cache


async def test_a_repeated_prefix_counts_as_cached(sandbox: Sandbox) -> None:
    system = {"role": "system", "content": LONG}
    first = await sandbox.ask(messages=[system, {"role": "user", "content": "One"}])
    again = await sandbox.ask(messages=[system, {"role": "user", "content": "Two"}])
    size = first.body["usage"]["prompt_tokens"]
    assert first.body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    cached = again.body["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached % 64 == 0
    assert size - 72 < cached < size


async def test_a_prefix_is_cached_for_its_model_only(sandbox: Sandbox) -> None:
    messages = [{"role": "user", "content": LONG}]
    await sandbox.ask(messages=messages)
    other = await sandbox.ask(messages=messages, model="another")
    assert other.body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_a_changed_beginning_is_not_cached(sandbox: Sandbox) -> None:
    await sandbox.ask(messages=[{"role": "user", "content": LONG}])
    changed = await sandbox.ask(messages=[{"role": "user", "content": "Now " + LONG}])
    assert changed.body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_a_short_prompt_is_never_cached(sandbox: Sandbox) -> None:
    for _ in range(2):
        reply = await sandbox.ask(messages=[{"role": "user", "content": "word " * 900}])
    assert reply.body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


# Refusals


@pytest.mark.parametrize(("fields", "param"), [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages[0].role"),
    ({"model": None}, "model"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"n": 129}, "n"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"tools": []}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "poem"}}, "response_format.type"),
    ({"tools": [{"type": "function", "function": {"name": "x", "parameters": {"$ref": "#/no"}}}]},
     "tools"),
    ({"sandbox": {"fault": "no_such"}}, "sandbox.fault"),
])  # fmt: skip
async def test_a_wrong_request_is_refused_as_openai_does(
    sandbox: Sandbox, fields: Any, param: str
) -> None:
    reply = await sandbox.ask(**fields)
    assert reply.status == 400
    assert reply.body["error"]["type"] == "invalid_request_error"
    assert reply.body["error"]["param"] == param
    assert reply.body["error"]["message"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe"])
async def test_a_body_that_is_no_json_object_is_refused(sandbox: Sandbox, raw: bytes) -> None:
    async with sandbox.session.post(sandbox.url + CHAT, data=raw) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_a_prompt_beyond_the_context_is_refused(sandbox: Sandbox) -> None:
    reply = await sandbox.ask(messages=[{"role": "user", "content": "ab " * 1_048_600}])
    assert reply.status == 400
    assert reply.body["error"]["code"] == "context_length_exceeded"


async def test_an_unknown_path_is_refused_in_the_same_envelope(sandbox: Sandbox) -> None:
    async with sandbox.session.get(sandbox.url + "/v1/nothing") as response:
        assert response.status == 404
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_only_the_right_key_is_let_in(locked: Sandbox) -> None:
    wrong = await locked.ask(headers={"Authorization": "Bearer sk-wrong"})
    right = await locked.ask(headers={"Authorization": "Bearer sk-right"})
    assert (wrong.status, (await locked.ask()).status, right.status) == (401, 401, 200)
    assert wrong.body["error"]["code"] == "invalid_api_key"


# Faults: who meets them


async def test_the_first_requests_with_a_key_fail_and_the_next_succeed(sandbox: Sandbox) -> None:
    control = {"fault": "error_500", "times": 2, "key": "one"}
    statuses = [(await sandbox.ask(sandbox=control)).status for _ in range(4)]
    other = await sandbox.ask(sandbox={**control, "key": "two"})
    assert statuses == [500, 500, 200, 200]
    assert other.status == 500


async def test_a_fault_meant_for_another_provider_does_nothing(sandbox: Sandbox) -> None:
    other = await sandbox.ask(sandbox={"fault": "error_500", "provider": "second"})
    mine = await sandbox.ask(sandbox={"fault": "error_500", "provider": "first"})
    assert (other.status, mine.status) == (200, 500)


async def test_armed_faults_act_in_order_and_then_are_spent(sandbox: Sandbox) -> None:
    await sandbox.arm(fault="error_503", times=1)
    await sandbox.arm(fault="rate_limit", times=2, retry_after=7)
    replies = [await sandbox.ask() for _ in range(4)]
    assert [reply.status for reply in replies] == [503, 429, 429, 200]
    assert replies[1].headers["Retry-After"] == "7"


async def test_an_armed_fault_lasts_until_it_is_cleared(sandbox: Sandbox) -> None:
    await sandbox.arm(fault="error_500", times=None)
    assert [(await sandbox.ask()).status for _ in range(3)] == [500] * 3
    async with sandbox.session.delete(sandbox.url + "/sandbox/faults") as response:
        assert response.status == 204
    assert (await sandbox.ask()).status == 200


async def test_an_armed_fault_can_concern_one_model(sandbox: Sandbox) -> None:
    await sandbox.arm(fault="error_500", model="broken")
    assert (await sandbox.ask(model="broken")).status == 500
    assert (await sandbox.ask(model="sound")).status == 200


async def test_a_rate_lets_some_requests_through(sandbox: Sandbox) -> None:
    await sandbox.arm(fault="error_500", rate=0.5)
    statuses = [(await sandbox.ask()).status for _ in range(60)]
    assert 10 < statuses.count(500) < 50


async def test_a_fault_nobody_knows_cannot_be_armed(sandbox: Sandbox) -> None:
    for fault in ({"fault": "no_such"}, {"fault": "timeout", "seconds": "long"}, []):
        async with sandbox.session.post(sandbox.url + "/sandbox/faults", json=fault) as response:
            assert response.status == 400


# Faults: what they do


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "status", "code"), [
    ("error_500", 500, None),
    ("error_503", 503, None),
    ("rate_limit", 429, "rate_limit_exceeded"),
    ("unauthorized", 401, "invalid_api_key"),
    ("payment_required", 402, "insufficient_quota"),
    ("bad_request", 400, "invalid_value"),
    ("content_filter", 400, "content_filter"),
    ("context_too_long", 400, "context_length_exceeded"),
    ("flap", 503, None),
])  # fmt: skip
async def test_an_error_fault_answers_with_its_status(
    sandbox: Sandbox, fault: str, status: int, code: str | None, stream: bool
) -> None:
    reply = await sandbox.ask(stream=stream, sandbox={"fault": fault})
    assert reply.status == status
    assert reply.body["error"]["code"] == code
    assert reply.headers.get("Retry-After") == ("1" if fault == "rate_limit" else None)
    record = (await sandbox.requests())["last"][-1]
    assert (record["fault"], record["status"]) == (fault, status)


async def test_a_prefill_is_refused_only_where_there_is_one(sandbox: Sandbox) -> None:
    prefilled = [*HELLO, {"role": "assistant", "content": "I am"}]
    refused = await sandbox.ask(messages=prefilled, sandbox={"fault": "reject_prefill"})
    plain = await sandbox.ask(sandbox={"fault": "reject_prefill"})
    assert (refused.status, plain.status) == (400, 200)


@pytest.mark.parametrize("fault", ["reset", "reset_before_headers"])
async def test_a_reset_reaches_the_caller_as_one(sandbox: Sandbox, fault: str) -> None:
    with pytest.raises(aiohttp.ClientOSError) as failure:
        await sandbox.ask(sandbox={"fault": fault})
    assert failure.value.errno == errno.ECONNRESET
    last = await sandbox.last_once_settled()
    assert last["aborted"]
    assert not last["client_disconnected"]


async def test_a_timeout_never_answers_and_sees_the_caller_leave(sandbox: Sandbox) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await sandbox.ask(sandbox={"fault": "timeout"})
    last = await sandbox.last_once_settled()
    assert last["client_disconnected"]
    assert last["fault"] == "timeout"


async def test_a_timeout_ends_in_a_reset(sandbox: Sandbox) -> None:
    with pytest.raises(aiohttp.ClientOSError) as failure:
        await sandbox.ask(sandbox={"fault": "timeout", "seconds": 0.02})
    assert failure.value.errno == errno.ECONNRESET


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_start_holds_back_the_first_byte(sandbox: Sandbox, stream: bool) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    reply = await sandbox.ask(stream=stream, sandbox={"fault": "slow_start", "seconds": 0.1})
    assert loop.time() - started >= 0.1
    assert reply.status == 200


async def test_a_cut_stream_ends_after_forty_percent_without_an_end(sandbox: Sandbox) -> None:
    asked = {"stream": True, "sandbox": {"fault": "cut_stream", "chunks": 60}}
    received, broken = await sandbox.read_until_it_breaks(**asked)
    assert isinstance(broken, aiohttp.ClientPayloadError)
    assert received.count(b"data: ") == 24
    assert b"[DONE]" not in received
    last = await sandbox.last_once_settled()
    assert last["aborted"]
    assert last["chunks_sent"] == 24


async def test_the_caller_can_say_after_how_many_chunks_it_is_cut(sandbox: Sandbox) -> None:
    control = {"fault": "cut_stream", "chunks": 60, "after": 41}
    received, broken = await sandbox.read_until_it_breaks(stream=True, sandbox=control)
    assert broken
    assert received.count(b"data: ") == 41


async def test_a_cut_whole_answer_is_shorter_than_it_said(sandbox: Sandbox) -> None:
    received, broken = await sandbox.read_until_it_breaks(sandbox={"fault": "cut_stream"})
    assert isinstance(broken, aiohttp.ClientPayloadError)
    assert 0 < len(received) < len((await sandbox.ask()).raw)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stalled_stream_rests_and_then_goes_on(sandbox: Sandbox, stream: bool) -> None:
    loop = asyncio.get_running_loop()
    control = {"fault": "stalled_stream", "seconds": 0.15, "chunks": 20}
    body = {"model": "m", "messages": HELLO, "stream": stream, "sandbox": control}
    arrivals = []
    async with sandbox.session.post(sandbox.url + CHAT, json=body) as response:
        async for _ in response.content.iter_any():
            arrivals.append(loop.time())
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert max(gaps) >= 0.12
    assert (await sandbox.last_once_settled())["completed"]


async def test_a_caller_that_leaves_a_stalled_stream_is_noticed(sandbox: Sandbox) -> None:
    control = {"fault": "stalled_stream", "seconds": 60}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await sandbox.stream(sandbox=control)
    last = await sandbox.last_once_settled()
    assert last["client_disconnected"]
    assert not last["completed"]


async def test_a_caller_that_leaves_mid_stream_is_noticed(sandbox: Sandbox) -> None:
    body = {"model": "m", "messages": HELLO, "stream": True}
    pace = {"chunks": 1000, "delay_ms": 5}
    async with sandbox.session.post(sandbox.url + CHAT, json={**body, "sandbox": pace}) as response:
        await response.content.readany()
        response.close()
    last = await sandbox.last_once_settled()
    assert last["client_disconnected"]
    assert last["chunks_sent"] < 1000


async def test_one_malformed_chunk_stands_in_an_otherwise_whole_stream(sandbox: Sandbox) -> None:
    reply = await sandbox.stream(sandbox={"fault": "malformed_chunk", "chunks": 20})
    assert reply.lines.count("{broken") == 1
    assert reply.lines[-1] == "[DONE]"
    assert len(reply.lines) == 1 + 20 + 1 + 1 + 1


async def test_a_malformed_whole_answer_is_no_json(sandbox: Sandbox) -> None:
    reply = await sandbox.ask(sandbox={"fault": "malformed_chunk"})
    assert reply.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.raw)


async def test_a_stream_can_miss_its_done_and_its_usage(sandbox: Sandbox) -> None:
    control = {"fault": "missing_done"}
    reply = await sandbox.stream(sandbox=control, stream_options={"include_usage": True})
    assert reply.finishes == ["stop"]
    assert "[DONE]" not in reply.lines
    assert reply.events[-1]["usage"] is None


async def test_a_stream_can_miss_its_finish(sandbox: Sandbox) -> None:
    reply = await sandbox.stream(sandbox={"fault": "missing_finish", "chunks": 20})
    assert reply.finishes == []
    assert "[DONE]" not in reply.lines
    assert len(reply.events) == 10


async def test_a_whole_answer_can_miss_its_finish(sandbox: Sandbox) -> None:
    reply = await sandbox.ask(sandbox={"fault": "missing_finish", "chunks": 20})
    assert reply.body["choices"][0]["finish_reason"] is None
    assert len(pieces(reply.text)) == 10


async def test_an_answer_can_end_with_a_word_of_failure(sandbox: Sandbox) -> None:
    control = {"fault": "failed_finish", "chunks": 20}
    streamed, whole = await sandbox.stream(sandbox=control), await sandbox.ask(sandbox=control)
    assert streamed.finishes == ["network_error"]
    assert whole.body["choices"][0]["finish_reason"] == "network_error"
    assert len(pieces(whole.text)) == 10
    assert "[DONE]" in streamed.lines


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_can_come_after_a_good_status(sandbox: Sandbox, stream: bool) -> None:
    reply = await sandbox.ask(stream=stream, sandbox={"fault": "error_in_stream"})
    assert reply.status == 200
    last = reply.events[-1] if stream else reply.body
    assert last["error"]["type"] == "server_error"
    assert b"[DONE]" not in reply.raw


@pytest.mark.parametrize("stream", [False, True])
async def test_the_usage_can_be_negative_or_absent(sandbox: Sandbox, stream: bool) -> None:
    asked = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    negative = await sandbox.ask(**asked, sandbox={"fault": "negative_usage"})
    absent = await sandbox.ask(**asked, sandbox={"fault": "no_usage"})
    usage = (negative.events[-1] if stream else negative.body)["usage"]
    assert max(usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) < 0
    assert not (absent.events[-1] if stream else absent.body).get("usage")
    assert not stream or absent.lines[-1] == "[DONE]"


async def test_a_flap_fails_for_a_while_and_then_is_well(sandbox: Sandbox) -> None:
    await sandbox.arm(fault="flap", seconds=0.15)
    assert (await sandbox.ask()).status == 503
    await asyncio.sleep(0.2)
    assert [(await sandbox.ask()).status for _ in range(3)] == [200] * 3


async def test_a_flap_can_come_back(sandbox: Sandbox) -> None:
    await sandbox.arm(fault="flap", seconds=0.05, healthy_seconds=0.05)
    statuses = []
    for _ in range(30):
        statuses.append((await sandbox.ask()).status)
        await asyncio.sleep(0.01)
    changes = sum(a != b for a, b in pairwise(statuses))
    assert changes >= 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_good_status_can_come_with_nothing_or_with_a_page(
    sandbox: Sandbox, stream: bool
) -> None:
    empty = await sandbox.ask(stream=stream, sandbox={"fault": "empty_200"})
    page = await sandbox.ask(stream=stream, sandbox={"fault": "html_200"})
    assert (empty.status, empty.raw) == (200, b"")
    assert page.status == 200
    assert page.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("fault", list(FaultName))
async def test_every_fault_leaves_the_sandbox_able_to_answer(
    sandbox: Sandbox, fault: FaultName
) -> None:
    control = {"fault": fault, "seconds": 0.01}
    try:
        await sandbox.stream(sandbox=control)
    except aiohttp.ClientError:
        assert fault in ("reset", "reset_before_headers", "cut_stream", "timeout")
    assert (await sandbox.ask()).status == 200


# The record and the process


async def test_requests_are_counted_and_the_last_hundred_are_kept(sandbox: Sandbox) -> None:
    for _ in range(103):
        await sandbox.ask(sandbox={"chunks": 1})
    seen = await sandbox.requests()
    assert (seen["count"], len(seen["last"])) == (103, 100)
    assert seen["last"][-1]["completed"]
    async with sandbox.session.delete(sandbox.url + "/sandbox/requests"):
        assert (await sandbox.requests()) == {"count": 0, "last": []}


async def test_models_and_health_are_served(sandbox: Sandbox) -> None:
    async with sandbox.session.get(sandbox.url + "/v1/models") as response:
        assert "sandbox-small" in [row["id"] for row in (await response.json())["data"]]
    async with sandbox.session.get(sandbox.url + "/healthz") as response:
        assert await response.json() == {"status": "ok", "name": "first"}


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_says_where_it_is_and_stops_at_once(tmp_path: Path, stop: int) -> None:
    port_file = tmp_path / "port"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "adapters.embedded.sandbox",
        "--port", "0", "--name", "own", "--port-file", str(port_file),
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "random"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
    url = f"http://127.0.0.1:{port_file.read_text()}"
    assert line == f"sandbox listening on {url}"
    async with aiohttp.ClientSession() as session:
        other = Sandbox(session, url)
        assert (await other.ask()).headers["X-Sandbox"] == "own"
        waiting = asyncio.create_task(other.ask(sandbox={"fault": "timeout"}))
        await asyncio.sleep(0.05)
        process.send_signal(stop)
        _, errors = await asyncio.wait_for(process.communicate(), 5)
        with pytest.raises(aiohttp.ClientError):
            await waiting
    assert (process.returncode, errors) == (0, b"")


async def test_two_processes_give_the_same_answer(sandbox: Sandbox) -> None:
    runner, port = await serve(Options(speed_ms=0, name="second"))
    other = Sandbox(sandbox.session, f"http://127.0.0.1:{port}")
    asked = {"tools": [tool("act", SCHEMAS["combined"])], "tool_choice": "none"}
    assert (await sandbox.ask(**asked)).text == (await other.ask(**asked)).text
    await runner.cleanup()
