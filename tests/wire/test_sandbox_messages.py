"""Anthropic's wire at the sandbox, over real sockets: by hand, and by the official client."""

import asyncio
import base64
import errno
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import aiohttp
import anthropic
import jsonschema
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic

from adapters.embedded.sandbox import Options, serve
from adapters.embedded.sandbox_errors import ANTHROPIC_FAULTS, OPENAI_FAULTS
from adapters.embedded.sandbox_faults import FaultName
from adapters.embedded.sandbox_text import pieces
from tests.wire.test_sandbox import SCHEMAS

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HELLO = [{"role": "user", "content": "Hello, who are you?"}]
HEADERS = {"x-api-key": "sk-any", "anthropic-version": "2023-06-01"}
LONG = "The same words of a long contract come first every time. " * 140
MARKED = [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}]
PNG = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(b"png").decode()}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048}


def tool(name: str, schema: Any = None) -> Any:
    return {"name": name, "input_schema": {"type": "object", **(schema or {})}}


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
        return "".join(block.get("text", "") for block in self.body["content"])

    @property
    def events(self) -> list[Any]:
        """The data of every event, whose name has to be its type."""
        found = []
        for event in self.raw.decode().split("\n\n"):
            if event:
                name, data = event.split("\n")
                found.append(json.loads(data.removeprefix("data: ")))
                assert name == f"event: {found[-1]['type']}"
        return found

    @property
    def order(self) -> list[str]:
        """The types of the events, one for a run of the same."""
        types = [event["type"] for event in self.events]
        return [kind for at, kind in enumerate(types) if at == 0 or types[at - 1] != kind]

    def deltas(self, name: str) -> list[str]:
        found = [event["delta"] for event in self.events if event["type"] == "content_block_delta"]
        return [delta[name] for delta in found if name in delta]

    @property
    def error(self) -> Any:
        assert self.body["type"] == "error"
        assert self.body["request_id"] == self.headers["request-id"]
        return self.body["error"]


class Sandbox:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def post(self, path: str, body: Any, headers: Any = None) -> Reply:
        given = HEADERS if headers is None else headers
        async with self.session.post(self.url + path, json=body, headers=given) as response:
            return Reply(response.status, response.headers, await response.read())

    async def ask(self, /, headers: Any = None, **fields: Any) -> Reply:
        body = {"model": "any-model", "max_tokens": 1000, "messages": HELLO, **fields}
        given = {name: value for name, value in body.items() if value is not None}
        return await self.post(MESSAGES, given, headers)

    async def stream(self, **fields: Any) -> Reply:
        return await self.ask(stream=True, **fields)

    async def read_until_it_breaks(self, **fields: Any) -> tuple[bytes, Exception | None]:
        body = {"model": "m", "max_tokens": 1000, "messages": HELLO, **fields}
        received = b""
        async with self.session.post(self.url + MESSAGES, json=body, headers=HEADERS) as response:
            try:
                async for part in response.content.iter_any():
                    received += part
            except aiohttp.ClientError as broken:
                return received, broken
        return received, None

    async def records(self) -> Any:
        async with self.session.get(self.url + "/sandbox/requests") as response:
            return (await response.json())["last"]

    def client(self, **options: Any) -> AsyncAnthropic:
        return AsyncAnthropic(
            base_url=self.url, **{"api_key": "sk-any", "max_retries": 0, **options}
        )


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


async def test_a_whole_answer_has_the_shape_of_anthropic(sandbox: Sandbox) -> None:
    reply = await sandbox.ask(system="Be brief.")
    body = reply.body
    assert reply.status == 200
    assert reply.headers["X-Sandbox"] == "first"
    assert reply.headers["request-id"].startswith("req_")
    assert (body["type"], body["role"], body["model"]) == ("message", "assistant", "any-model")
    assert body["id"].startswith("msg_")
    assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
    assert [block["type"] for block in body["content"]] == ["text"]
    assert reply.text.startswith("This is a sandbox answer.")
    assert 'You asked "Hello, who are you?"' in reply.text
    usage = body["usage"]
    assert usage["output_tokens"] == len(pieces(reply.text))
    assert usage["input_tokens"] > 0
    assert usage["cache_read_input_tokens"] == usage["cache_creation_input_tokens"] == 0


async def test_the_same_question_gets_the_same_text_as_on_the_chat_wire(sandbox: Sandbox) -> None:
    chat = await sandbox.post("/v1/chat/completions", {"model": "any-model", "messages": HELLO})
    assert (await sandbox.ask()).text == chat.body["choices"][0]["message"]["content"]


@pytest.mark.parametrize("limit", [1, 7, 20])
@pytest.mark.parametrize("stream", [False, True])
async def test_max_tokens_cuts_exactly(sandbox: Sandbox, limit: int, stream: bool) -> None:
    reply = await sandbox.ask(max_tokens=limit, stream=stream)
    if stream:
        end = reply.events[-2]
        assert len(reply.deltas("text")) == limit
        assert end["delta"] == {
            "stop_reason": "max_tokens", "stop_sequence": None, "stop_details": None,
        }  # fmt: skip
        assert end["usage"]["output_tokens"] == limit
    else:
        assert len(pieces(reply.text)) == limit == reply.body["usage"]["output_tokens"]
        assert reply.body["stop_reason"] == "max_tokens"


async def test_the_answer_ends_before_a_stop_sequence_and_names_it(sandbox: Sandbox) -> None:
    reply = await sandbox.ask(stop_sequences=["nowhere", " answer"])
    streamed = await sandbox.stream(stop_sequences=["nowhere", " answer"])
    assert reply.text == "".join(streamed.deltas("text")) == "This is a sandbox"
    assert (reply.body["stop_reason"], reply.body["stop_sequence"]) == ("stop_sequence", " answer")
    end = streamed.events[-2]["delta"]
    assert (end["stop_reason"], end["stop_sequence"]) == ("stop_sequence", " answer")


async def test_an_answer_stopped_at_once_has_no_block(sandbox: Sandbox) -> None:
    reply = await sandbox.ask(stop_sequences=["This"])
    streamed = await sandbox.stream(stop_sequences=["This"])
    assert reply.body["content"] == []
    assert streamed.order == ["message_start", "ping", "message_delta", "message_stop"]


async def test_images_and_documents_are_counted_and_mentioned(sandbox: Sandbox) -> None:
    text = {"type": "text", "text": "What is this?"}
    shown = [
        text,
        {"type": "image", "source": PNG},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "document", "source": PDF, "title": "Contract"},
    ]
    plain = await sandbox.ask(messages=[{"role": "user", "content": [text]}])
    reply = await sandbox.ask(messages=[{"role": "user", "content": shown}])
    more = reply.body["usage"]["input_tokens"] - plain.body["usage"]["input_tokens"]
    assert more == 85 + 85 + 256
    assert "I was shown 2 images and 1 file." in reply.text


async def test_a_prefill_is_taken(sandbox: Sandbox) -> None:
    prefilled = [*HELLO, {"role": "assistant", "content": "I am"}]
    assert (await sandbox.ask(messages=prefilled)).status == 200


# Streams


async def test_a_stream_has_every_event_in_anthropics_order(sandbox: Sandbox) -> None:
    whole, streamed = await sandbox.ask(), await sandbox.stream()
    assert streamed.headers["Content-Type"].startswith("text/event-stream")
    assert streamed.order == [
        "message_start", "content_block_start", "ping", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    message = streamed.events[0]["message"]
    assert message["content"] == []
    assert message["stop_reason"] is None
    assert message["usage"] == {**whole.body["usage"], "output_tokens": 1}
    assert streamed.events[1]["content_block"] == {"type": "text", "text": ""}
    assert "".join(streamed.deltas("text")) == whole.text
    told = streamed.events[-2]["usage"]
    assert told.items() <= whole.body["usage"].items()
    assert {"input_tokens", "output_tokens", "cache_read_input_tokens"} <= told.keys()


async def test_no_tokens_at_all_fill_the_cache_and_say_nothing(sandbox: Sandbox) -> None:
    reply = await sandbox.ask(max_tokens=0, system=MARKED)
    assert reply.body["content"] == []
    assert reply.body["usage"]["output_tokens"] == 0
    assert (await sandbox.ask(system=MARKED)).body["usage"]["cache_read_input_tokens"] > 1024


# Tools


@pytest.mark.parametrize("name", SCHEMAS)
async def test_the_input_of_a_call_is_valid_whole_and_streamed(sandbox: Sandbox, name: str) -> None:
    tools = [tool("act", SCHEMAS[name])]
    whole, streamed = await sandbox.ask(tools=tools), await sandbox.stream(tools=tools)
    (call,) = whole.body["content"]
    assert whole.body["stop_reason"] == "tool_use"
    assert (call["type"], call["name"]) == ("tool_use", "act")
    assert call["id"].startswith("toolu_")
    jsonschema.validate(call["input"], SCHEMAS[name])
    start = streamed.events[1]["content_block"]
    assert (start["type"], start["name"], start["input"]) == ("tool_use", "act", {})
    fragments = streamed.deltas("partial_json")
    assert fragments[0] == ""
    assert json.loads("".join(fragments)) == call["input"]
    assert streamed.events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize(("choice", "called"), [
    (None, "first"),
    ({"type": "auto"}, "first"),
    ({"type": "any"}, "first"),
    ({"type": "tool", "name": "second"}, "second"),
    ({"type": "none"}, None),
])  # fmt: skip
async def test_tool_choice_decides_which_tool_is_called(
    sandbox: Sandbox, choice: Any, called: str | None
) -> None:
    reply = await sandbox.ask(tools=[tool("first"), tool("second")], tool_choice=choice)
    calls = [block["name"] for block in reply.body["content"] if block["type"] == "tool_use"]
    assert calls == ([called] if called else [])


async def test_tools_of_anthropics_own_are_accepted_and_never_called(sandbox: Sandbox) -> None:
    own = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
    assert (await sandbox.ask(tools=[own])).body["stop_reason"] == "end_turn"


@pytest.mark.parametrize("stream", [False, True])
async def test_several_tools_are_called_at_once_where_that_is_asked_for(
    sandbox: Sandbox, stream: bool
) -> None:
    asked: Any = {
        "tools": [tool("first"), tool("second", SCHEMAS["weather"])],
        "sandbox": {"tool_calls": 2},
    }
    reply = await sandbox.ask(stream=stream, **asked)
    if stream:
        starts = [e for e in reply.events if e["type"] == "content_block_start"]
        assert [start["index"] for start in starts] == [0, 1]
        calls = [start["content_block"] for start in starts]
    else:
        calls = reply.body["content"]
    assert [call["name"] for call in calls] == ["first", "second"]
    assert len({call["id"] for call in calls}) == 2
    one = await sandbox.ask(
        **asked, tool_choice={"type": "auto", "disable_parallel_tool_use": True}
    )
    assert len(one.body["content"]) == 1


def result(call: Any, content: Any) -> Any:
    return {"type": "tool_result", "tool_use_id": call["id"], "content": content}


async def test_after_a_tool_result_the_answer_quotes_it(sandbox: Sandbox) -> None:
    tools = [tool("act", SCHEMAS["weather"])]
    asked = (await sandbox.ask(tools=tools)).body["content"]
    for content in ("19 degrees", [{"type": "text", "text": "19 degrees"}]):
        # What clients add to a turn beside the result must not lead to the same call again.
        note = {"type": "text", "text": "A note beside it."}
        turn = {"role": "user", "content": [result(asked[0], content), note]}
        reply = await sandbox.ask(
            tools=tools, messages=[*HELLO, {"role": "assistant", "content": asked}, turn]
        )
        assert reply.body["stop_reason"] == "end_turn"
        assert 'The tool returned "19 degrees".' in reply.text


@pytest.mark.parametrize("name", ["weather", "nested"])
@pytest.mark.parametrize("place", ["output_config", "output_format"])
async def test_a_structured_answer_is_valid(sandbox: Sandbox, name: str, place: str) -> None:
    wanted = {"type": "json_schema", "schema": SCHEMAS[name]}
    asked = {place: {"format": wanted} if place == "output_config" else wanted}
    jsonschema.validate(json.loads((await sandbox.ask(**asked)).text), SCHEMAS[name])


# Thinking


async def test_thinking_comes_before_the_text_and_is_signed(sandbox: Sandbox) -> None:
    plain, whole = await sandbox.ask(), await sandbox.ask(**THINKING)
    thinking, text = whole.body["content"]
    assert (thinking["type"], text["type"]) == ("thinking", "text")
    assert thinking["thinking"]
    assert len(thinking["signature"]) > 40
    assert whole.text == plain.text
    usage, thoughts = whole.body["usage"], len(pieces(thinking["thinking"]))
    assert usage["output_tokens_details"] == {"thinking_tokens": thoughts}
    assert usage["output_tokens"] == len(pieces(text["text"])) + thoughts


async def test_streamed_thinking_ends_in_its_signature(sandbox: Sandbox) -> None:
    whole, streamed = await sandbox.ask(**THINKING), await sandbox.stream(**THINKING)
    thinking = whole.body["content"][0]
    assert "".join(streamed.deltas("thinking")) == thinking["thinking"]
    assert streamed.deltas("signature") == [thinking["signature"]]
    first = [event for event in streamed.events if event.get("index") == 0]
    assert first[0]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert first[-2]["delta"]["type"] == "signature_delta"
    assert first[-1]["type"] == "content_block_stop"
    assert "".join(streamed.deltas("text")) == whole.text


@pytest.mark.parametrize(("thinking", "thinks"), [
    ({"type": "adaptive"}, True), ({"type": "disabled"}, False), ({"type": "between_tools"}, False),
])  # fmt: skip
async def test_thinking_can_be_left_to_it_or_switched_off(
    sandbox: Sandbox, thinking: Any, thinks: bool
) -> None:
    kinds = [block["type"] for block in (await sandbox.ask(thinking=thinking)).body["content"]]
    assert ("thinking" in kinds) is thinks


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_that_are_not_to_be_shown_are_signed_and_counted(
    sandbox: Sandbox, stream: bool
) -> None:
    hidden = {"type": "adaptive", "display": "omitted"}
    reply = await sandbox.ask(thinking=hidden, stream=stream)
    if stream:
        assert (reply.deltas("thinking"), len(reply.deltas("signature"))) == ([], 1)
        usage = reply.events[-2]["usage"]
    else:
        usage = reply.body["usage"]
        thinking = reply.body["content"][0]
        assert (thinking["thinking"], bool(thinking["signature"])) == ("", True)
        turns = [*HELLO, {"role": "assistant", "content": reply.body["content"]}, *HELLO]
        assert (await sandbox.ask(messages=turns)).status == 200
    assert usage["output_tokens_details"]["thinking_tokens"] > 0


async def test_a_thought_is_taken_back_only_as_it_was_given(sandbox: Sandbox) -> None:
    asked = await sandbox.ask(**THINKING, tools=[tool("act")])
    thinking, call = asked.body["content"]
    turns = [*HELLO, {"role": "assistant", "content": [thinking, call]},
             {"role": "user", "content": [result(call, "done")]}]  # fmt: skip
    assert (await sandbox.ask(messages=turns, **THINKING)).status == 200
    thinking["thinking"] += "!"
    reply = await sandbox.ask(messages=turns, **THINKING)
    assert reply.status == 400
    assert "Invalid `signature` in `thinking` block" in reply.error["message"]


# The prompt cache


async def test_a_marked_prefix_is_written_once_and_read_after(sandbox: Sandbox) -> None:
    first = (await sandbox.ask(system=MARKED)).body["usage"]
    again = (await sandbox.ask(system=MARKED, messages=[{"role": "user", "content": "Other"}])).body
    written = first["cache_creation_input_tokens"]
    assert written == len(pieces(LONG)) > 1024
    assert first["cache_creation"] == {
        "ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0,
    }  # fmt: skip
    assert first["cache_read_input_tokens"] == 0
    assert first["input_tokens"] < 20
    assert again["usage"]["cache_read_input_tokens"] == written
    assert again["usage"]["cache_creation_input_tokens"] == 0
    assert again["usage"]["input_tokens"] < 20


async def test_a_growing_conversation_reads_what_it_wrote_and_writes_the_rest(
    sandbox: Sandbox,
) -> None:
    def marked(text: str) -> Any:
        return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]

    turns: list[Any] = [{"role": "user", "content": marked("One")}]
    first = (await sandbox.ask(system=LONG, messages=turns)).body
    turns = [{"role": "user", "content": "One"}, {"role": "assistant", "content": first["content"]},
             {"role": "user", "content": marked("Two")}]  # fmt: skip
    second = (await sandbox.ask(system=LONG, messages=turns)).body["usage"]
    read, written = second["cache_read_input_tokens"], second["cache_creation_input_tokens"]
    assert read == first["usage"]["cache_creation_input_tokens"]
    assert 0 < written < 200
    assert second["cache_creation"]["ephemeral_1h_input_tokens"] == written


async def test_nothing_is_cached_without_a_mark_or_below_1024_tokens(sandbox: Sandbox) -> None:
    short = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    for system in (LONG, short):
        for _ in range(2):
            usage = (await sandbox.ask(system=system)).body["usage"]
            assert usage["cache_read_input_tokens"] == usage["cache_creation_input_tokens"] == 0


async def test_a_mark_on_the_whole_request_marks_its_last_block(sandbox: Sandbox) -> None:
    asked = {"system": LONG, "cache_control": {"type": "ephemeral"}}
    first, again = await sandbox.ask(**asked), await sandbox.ask(**asked)
    assert first.body["usage"]["cache_creation_input_tokens"] > 1024
    assert again.body["usage"]["cache_read_input_tokens"] > 1024
    assert again.body["usage"]["cache_creation_input_tokens"] == 0


async def test_counting_tells_what_the_message_will_use_and_caches_nothing(
    sandbox: Sandbox,
) -> None:
    asked = {"model": "any-model", "messages": HELLO, "system": MARKED, "tools": [tool("act")]}
    counted = await sandbox.post(COUNT, asked)
    used = (await sandbox.ask(system=MARKED, tools=[tool("act")])).body["usage"]
    total = used["input_tokens"] + used["cache_creation_input_tokens"]
    assert counted.body == {"input_tokens": total}
    assert used["cache_read_input_tokens"] == 0


# Refusals


@pytest.mark.parametrize(("fields", "said"), [
    ({"messages": None}, "messages: Field required"),
    ({"messages": []}, "at least one message is required"),
    ({"max_tokens": None}, "max_tokens: Field required"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"model": None}, "model: Field required"),
    ({"stream_options": {"include_usage": True}}, "Extra inputs are not permitted"),
    ({"temperature": 1.5}, "temperature: range: 0..1"),
    ({"stop_sequences": ["\n"]}, "non-whitespace"),
    ({"system": [{"type": "image"}]}, "system.0.type"),
    ({"messages": [{"role": "system", "content": "x"}]}, "top-level `system` parameter"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": ""}]}, "must have non-empty content"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "non-empty"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "Input tag 'image_url'"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "I "}]}, "trailing whitespace"),
    ({"messages": [{"role": "user", "content": [
        {"type": "image", "source": {**PNG, "media_type": "image/tiff"}}]}]}, "media_type"),
    ({"messages": [{"role": "user", "content": [
        {"type": "image", "source": {**PNG, "data": "%"}}]}]}, "invalid base64 data"),
    ({"messages": [{"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}]}]},
     "unexpected `tool_use_id` found in `tool_result` blocks: toolu_1"),
    ({"messages": [*HELLO, {"role": "assistant", "content": [
        {"type": "tool_use", "id": "toolu_1", "name": "x", "input": {}}]}, *HELLO]},
     "`tool_use` ids were found without `tool_result` blocks immediately after: toolu_1"),
    ({"tools": [{"name": "x"}]}, "tools.0.custom.input_schema: Field required"),
    ({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, "should match pattern"),
    ({"tools": [tool("x"), tool("x")]}, "must be unique"),
    ({"tools": [tool("x", {"$ref": "#/no"})]}, "Invalid schema"),
    ({"tool_choice": {"type": "any"}}, "only be specified while providing tools"),
    ({"tools": [tool("x")], "tool_choice": {"type": "required"}}, "Input tag"),
    ({"tools": [tool("x")], "tool_choice": {"type": "any"}, **THINKING}, "forces tool use"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, "greater than or equal to 1024"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "must be greater than"),
    ({**THINKING, "temperature": 0.5}, "only be set to 1"),
    ({"system": MARKED * 5}, "maximum of 4 blocks with cache_control"),
    ({"sandbox": {"fault": "no_such"}}, "has to be one of"),
])  # fmt: skip
async def test_a_wrong_request_is_refused_as_anthropic_does(
    sandbox: Sandbox, fields: Any, said: str
) -> None:
    reply = await sandbox.ask(**fields)
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"
    assert said in reply.error["message"]


@pytest.mark.parametrize("fields", [
    {"temperature": 1},
    {"top_p": 0.5},
    {"top_k": 3},
    {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "x", "citations": [{"type": "char_location"}]}]}]},
    {"messages": [*HELLO, {"role": "assistant", "content": [
        {"type": "document", "source": PDF}]}, *HELLO]},
])  # fmt: skip
async def test_the_newer_version_of_the_api_takes_less(sandbox: Sandbox, fields: Any) -> None:
    newer = {**HEADERS, "anthropic-version": "2026-10-21"}
    assert (await sandbox.ask(headers=newer)).status == 200
    assert (await sandbox.ask(**fields)).status == 200
    refused = await sandbox.ask(headers=newer, **fields)
    assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")
    assert "not permitted" in refused.error["message"]


async def test_a_system_message_is_taken_anywhere_but_first(sandbox: Sandbox) -> None:
    later = {"role": "system", "content": [{"type": "text", "text": "Now be brief."}]}
    plain = await sandbox.ask(tools=[tool("act")])
    reply = await sandbox.ask(messages=[*HELLO, later], tools=[tool("act")])
    assert reply.body["stop_reason"] == "tool_use"
    assert reply.body["usage"]["input_tokens"] > plain.body["usage"]["input_tokens"]


@pytest.mark.parametrize(("headers", "status", "kind"), [
    ({"anthropic-version": "2023-06-01"}, 401, "authentication_error"),
    ({**HEADERS, "x-api-key": "sk-wrong"}, 401, "authentication_error"),
    ({"Authorization": "Bearer sk-wrong", "anthropic-version": "2023-06-01"}, 401,
     "authentication_error"),
    ({"x-api-key": "sk-right"}, 400, "invalid_request_error"),
    ({"x-api-key": "sk-right", "anthropic-version": "2"}, 400, "invalid_request_error"),
])  # fmt: skip
@pytest.mark.parametrize("path", [MESSAGES, COUNT])
async def test_key_and_version_have_to_come_in_their_headers(
    locked: Sandbox, headers: Any, status: int, kind: str, path: str
) -> None:
    reply = await locked.post(path, {"model": "m", "messages": HELLO}, headers)
    assert (reply.status, reply.error["type"]) == (status, kind)
    for right in ({"x-api-key": "sk-right"}, {"Authorization": "Bearer sk-right"}):
        reply = await locked.ask(headers={"anthropic-version": "2023-06-01", **right})
        assert reply.status == 200


async def test_other_refusals_are_in_the_same_envelope(sandbox: Sandbox) -> None:
    async with sandbox.session.post(sandbox.url + MESSAGES, data=b"{", headers=HEADERS) as response:
        broken = Reply(response.status, response.headers, await response.read())
    assert (broken.status, broken.error["type"]) == (400, "invalid_request_error")
    nowhere = await sandbox.post("/v1/messages/batches", {})
    assert (nowhere.status, nowhere.error["type"]) == (404, "not_found_error")


async def test_a_prompt_beyond_the_context_says_by_how_much(sandbox: Sandbox) -> None:
    reply = await sandbox.ask(messages=[{"role": "user", "content": "ab " * 1_048_600}])
    assert reply.status == 400
    assert "tokens > 1048576 maximum" in reply.error["message"]
    assert reply.error["message"].startswith("prompt is too long: ")


# Faults


def test_every_error_has_its_words_on_both_wires() -> None:
    assert OPENAI_FAULTS.keys() == ANTHROPIC_FAULTS.keys()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "status", "kind", "said"), [
    ("error_500", 500, "api_error", "Internal server error"),
    ("error_503", 529, "overloaded_error", "Overloaded"),
    ("flap", 529, "overloaded_error", "Overloaded"),
    ("rate_limit", 429, "rate_limit_error", "rate limit"),
    ("unauthorized", 401, "authentication_error", "invalid x-api-key"),
    ("payment_required", 400, "invalid_request_error", "credit balance is too low"),
    ("bad_request", 400, "invalid_request_error", "not understood"),
    ("content_filter", 400, "invalid_request_error", "content filtering policy"),
    ("context_too_long", 400, "invalid_request_error", "prompt is too long: "),
])  # fmt: skip
async def test_an_error_fault_answers_with_its_status(
    sandbox: Sandbox, fault: str, status: int, kind: str, said: str, stream: bool
) -> None:
    reply = await sandbox.ask(stream=stream, sandbox={"fault": fault})
    assert (reply.status, reply.error["type"]) == (status, kind)
    assert said in reply.error["message"]
    assert reply.headers.get("Retry-After") == ("1" if fault == "rate_limit" else None)
    record = (await sandbox.records())[-1]
    assert (record["fault"], record["status"], record["path"]) == (fault, status, MESSAGES)


async def test_an_armed_fault_meets_this_wire_too(sandbox: Sandbox) -> None:
    fault = {"fault": "rate_limit", "retry_after": 7, "times": 1}
    assert (await sandbox.post("/sandbox/faults", fault)).status == 201
    limited, well = await sandbox.ask(), await sandbox.ask()
    assert (limited.status, limited.headers["Retry-After"], well.status) == (429, "7", 200)


async def test_a_prefill_is_refused_only_where_there_is_one(sandbox: Sandbox) -> None:
    prefilled = [*HELLO, {"role": "assistant", "content": "I am"}]
    refused = await sandbox.ask(messages=prefilled, sandbox={"fault": "reject_prefill"})
    plain = await sandbox.ask(sandbox={"fault": "reject_prefill"})
    assert (refused.status, plain.status) == (400, 200)
    assert "prefill" in refused.error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_filter_can_step_in_after_some_text(sandbox: Sandbox, stream: bool) -> None:
    control = {"fault": "content_filter", "after": 5}
    reply = await sandbox.ask(stream=stream, sandbox=control)
    if stream:
        assert len(reply.deltas("text")) == 5
        assert reply.events[-2]["delta"]["stop_reason"] == "refusal"
        assert reply.order[-1] == "message_stop"
    else:
        assert len(pieces(reply.text)) == 5
        assert reply.body["stop_reason"] == "refusal"
        assert reply.body["stop_details"]["type"] == "refusal"


@pytest.mark.parametrize("fault", ["reset", "reset_before_headers"])
async def test_a_reset_reaches_the_caller_as_one(sandbox: Sandbox, fault: str) -> None:
    with pytest.raises(aiohttp.ClientOSError) as failure:
        await sandbox.ask(sandbox={"fault": fault})
    assert failure.value.errno == errno.ECONNRESET


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_answer_breaks_the_connection(sandbox: Sandbox, stream: bool) -> None:
    received, broken = await sandbox.read_until_it_breaks(
        stream=stream, sandbox={"fault": "cut_stream", "chunks": 60, "after": 23}
    )
    assert isinstance(broken, aiohttp.ClientPayloadError)
    if stream:  # start, block start and ping come before the text
        assert received.count(b"text_delta") == 20
    assert b"message_delta" not in received
    assert b"message_stop" not in received


async def test_a_stalled_stream_rests_and_then_goes_on(sandbox: Sandbox) -> None:
    control = {"fault": "stalled_stream", "seconds": 0.15, "chunks": 20}
    body = {"model": "m", "max_tokens": 99, "messages": HELLO, "stream": True, "sandbox": control}
    arrivals, received = [], b""
    async with sandbox.session.post(sandbox.url + MESSAGES, json=body, headers=HEADERS) as response:
        async for part in response.content.iter_any():
            arrivals.append(asyncio.get_running_loop().time())
            received += part
    assert max(later - earlier for earlier, later in pairwise(arrivals)) >= 0.12
    assert received.count(b"event: message_stop") == 1


async def test_one_malformed_event_stands_in_an_otherwise_whole_stream(sandbox: Sandbox) -> None:
    reply = await sandbox.stream(sandbox={"fault": "malformed_chunk"})
    assert reply.raw.count(b"data: {broken\n") == 1
    assert reply.raw.count(b"event: message_stop") == 1
    whole = await sandbox.ask(sandbox={"fault": "malformed_chunk"})
    assert whole.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(whole.raw)


async def test_a_stream_can_miss_its_stop_its_end_or_break_in_an_error(sandbox: Sandbox) -> None:
    without_stop = await sandbox.stream(sandbox={"fault": "missing_done"})
    assert without_stop.order[-1] == "message_delta"
    without_end = await sandbox.stream(sandbox={"fault": "missing_finish", "chunks": 20})
    assert without_end.order[-1] == "content_block_delta"
    error = await sandbox.stream(sandbox={"fault": "error_in_stream", "chunks": 20})
    assert error.order[-2:] == ["content_block_delta", "error"]
    assert error.events[-1]["error"]["type"] == "overloaded_error"
    failed = await sandbox.stream(sandbox={"fault": "failed_finish", "chunks": 20})
    assert failed.order == error.order


async def test_a_whole_answer_can_miss_its_end_or_be_an_error(sandbox: Sandbox) -> None:
    unfinished = await sandbox.ask(sandbox={"fault": "missing_finish", "chunks": 20})
    assert unfinished.body["stop_reason"] is None
    assert len(pieces(unfinished.text)) == 10
    for fault in ("error_in_stream", "failed_finish"):
        error = await sandbox.ask(sandbox={"fault": fault})
        assert (error.status, error.body["type"]) == (200, "error")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_usage_can_be_negative_or_absent(sandbox: Sandbox, stream: bool) -> None:
    negative = await sandbox.ask(stream=stream, sandbox={"fault": "negative_usage"})
    absent = await sandbox.ask(stream=stream, sandbox={"fault": "no_usage"})
    usages = [
        [*(e.get("usage") for e in reply.events), reply.events[0]["message"].get("usage")]
        if stream
        else [reply.body.get("usage")]
        for reply in (negative, absent)
    ]
    told = [usage for usage in usages[0] if usage]
    assert len(told) == 1 + stream
    assert all(usage["input_tokens"] < 0 > usage["output_tokens"] for usage in told)
    assert not any(usages[1])


@pytest.mark.parametrize("fault", list(FaultName))
async def test_every_fault_leaves_the_sandbox_able_to_answer(
    sandbox: Sandbox, fault: FaultName
) -> None:
    for path, stream in ((MESSAGES, True), (MESSAGES, False), (COUNT, False)):
        body = {"model": "m", "messages": HELLO, "sandbox": {"fault": fault, "seconds": 0.01}}
        if path == MESSAGES:
            body |= {"max_tokens": 99, "stream": stream}
        try:
            await sandbox.post(path, body)
        except aiohttp.ClientError:
            assert fault in ("reset", "reset_before_headers", "cut_stream", "timeout")
    assert (await sandbox.ask()).status == 200


# The official client


async def test_the_official_client_reads_a_whole_answer(sandbox: Sandbox) -> None:
    async with sandbox.client() as client:
        message = await client.messages.create(model="m", max_tokens=99, messages=HELLO)
        counted = await client.messages.count_tokens(model="m", messages=HELLO)
    assert message.content[0].type == "text"
    assert message.content[0].text.startswith("This is a sandbox answer.")
    assert message.stop_reason == "end_turn"
    assert message._request_id
    assert counted.input_tokens == message.usage.input_tokens


async def test_the_official_client_reads_a_stream_of_thoughts_and_text(sandbox: Sandbox) -> None:
    asked: Any = {"model": "m", "messages": HELLO, **THINKING}
    async with sandbox.client() as client:
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            text = "".join([part async for part in stream.text_stream])
            final = await stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0] == whole.content[0]
    assert text == whole.content[1].text
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_the_official_client_holds_a_conversation_with_a_tool(sandbox: Sandbox) -> None:
    asked: Any = {
        "model": "m", "tools": [tool("weather", SCHEMAS["weather"])], **THINKING,
    }  # fmt: skip
    async with sandbox.client() as client:
        async with client.messages.stream(messages=HELLO, **asked) as stream:
            first = await stream.get_final_message()
        call = first.content[-1]
        assert call.type == "tool_use"
        jsonschema.validate(call.input, SCHEMAS["weather"])
        answered = result({"id": call.id}, "19 degrees")
        second = await client.messages.create(
            messages=[
                *HELLO,
                {"role": "assistant", "content": first.content},
                {"role": "user", "content": [answered]},
            ],
            **asked,
        )
    assert first.stop_reason == "tool_use"
    assert second.content[-1].type == "text"
    assert "19 degrees" in second.content[-1].text


@pytest.mark.parametrize(("fault", "raised"), [
    ("bad_request", anthropic.BadRequestError),
    ("unauthorized", anthropic.AuthenticationError),
    ("rate_limit", anthropic.RateLimitError),
    ("error_500", anthropic.InternalServerError),
    ("error_503", anthropic.APIStatusError),
    ("reset", anthropic.APIConnectionError),
])  # fmt: skip
async def test_the_official_client_raises_the_class_of_the_error(
    sandbox: Sandbox, fault: str, raised: type[Exception]
) -> None:
    async with sandbox.client() as client:
        with pytest.raises(raised):
            await client.messages.create(
                model="m", max_tokens=9, messages=HELLO, extra_body={"sandbox": {"fault": fault}}
            )


async def test_the_official_client_raises_for_an_error_in_mid_stream(sandbox: Sandbox) -> None:
    async with sandbox.client() as client:
        with pytest.raises(anthropic.APIStatusError) as error:
            async with client.messages.stream(
                model="m",
                max_tokens=99,
                messages=HELLO,
                extra_body={"sandbox": {"fault": "error_in_stream"}},
            ) as stream:
                await stream.get_final_message()
    assert "Overloaded" in str(error.value)


async def test_the_official_client_is_told_that_its_key_is_wrong(locked: Sandbox) -> None:
    async with locked.client(api_key="sk-wrong") as client:
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.create(model="m", max_tokens=9, messages=HELLO)
