"""What Claude Code sends, byte shape by byte shape, over raw sockets.

The requests have the form that Claude Code 2.1 was seen to send (2026-11): the query string, the
headers, marked system blocks, two dozen tools of 80 KB, thinking, edits of the context, results of
tools with marks of their own. The answers are held to Anthropic's order of events.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from tests.e2e.asking import Customer, Reply, send
from tests.sdk.conftest import Sdk

CLAUDE = "claude-haiku-4-5"
ADAPTIVE = "claude-sonnet-4-6"
TRANSLATED = "llama-3.3-70b"
BETAS = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,thinking-token-count-2026-05-13,"
    "context-management-2025-06-27,prompt-caching-scope-2026-01-05,"
    "mid-conversation-system-2026-04-07,effort-2025-11-24"
)
MARK = {"cache_control": {"type": "ephemeral"}}
MESSAGES = "/v1/messages?beta=true"
COUNT = "/v1/messages/count_tokens?beta=true"
TOOL_NAMES = [
    *("Agent", "Bash", "CronCreate", "CronDelete", "CronList", "Edit", "EnterWorktree"),
    *("ExitWorktree", "NotebookEdit", "Read", "ReportFindings", "ScheduleWakeup", "SendMessage"),
    *("Skill", "TaskCreate", "TaskGet", "TaskList", "TaskOutput", "TaskStop", "TaskUpdate"),
    *("WebFetch", "WebSearch", "Workflow", "Write", "mcp__files__search_everything"),
]


def tool(name: str) -> dict[str, Any]:
    """A tool with a long text and a schema of every sort that Claude Code uses."""
    return {
        "name": name,
        "description": f"The tool {name}. " + "It is described at great length. " * 90,
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "command": {"description": "What to do", "type": "string", "minLength": 2},
                "timeout": {"type": "number", "exclusiveMinimum": 0, "maximum": 600000},
                "level": {"type": "string", "enum": ["low", "medium", "high"]},
                "findings": {
                    "maxItems": 32,
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "file": {"type": "string"},
                            "line": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                        },
                        "required": ["file"],
                        "additionalProperties": False,
                    },
                },
                "env": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "required": ["command"],
            "additionalProperties": False,
        },
    }


TOOLS = [tool(name) for name in TOOL_NAMES]
SCHEMAS = {tool["name"]: tool["input_schema"] for tool in TOOLS}
SYSTEM = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli;"},
    {"type": "text", "text": "You are a command line agent.", **MARK},
    {"type": "text", "text": "You help with software. " * 1000, **MARK},
]
REMINDER = {"type": "text", "text": "<system-reminder>\nToday is a day.\n</system-reminder>\n"}


def request_of(model: str, messages: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A body as Claude Code writes it for this model."""
    thinking: dict[str, Any] = {"type": "adaptive"}
    if model == CLAUDE:
        thinking = {"type": "enabled", "budget_tokens": 31_999}
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "system": SYSTEM,
        "tools": TOOLS,
        "metadata": {"user_id": json.dumps({"device_id": "d" * 64, "session_id": "s" * 36})},
        "max_tokens": 32_000,
        "thinking": thinking,
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "stream": True,
    }
    if model != CLAUDE:
        body["output_config"] = {"effort": "high"}
    return {**body, **changes}


async def post(who: Customer, body: Mapping[str, Any], path: str = MESSAGES) -> Reply:
    """A request with Claude Code's headers."""
    headers = {
        "Accept": "application/json",
        "Authorization": f"Bearer {who.key}",
        "User-Agent": "claude-cli/2.1.197 (external, sdk-cli)",
        "X-Claude-Code-Session-Id": "e9aba7fd-1def-4d46-802b-d1ace24aa2a9",
        "X-Stainless-Arch": "x64",
        "X-Stainless-Lang": "js",
        "X-Stainless-Retry-Count": "0",
        "X-Stainless-Timeout": "600",
        "anthropic-beta": BETAS,
        "anthropic-dangerous-direct-browser-access": "true",
        "anthropic-version": "2023-06-01",
        "x-app": "cli",
        "Accept-Encoding": "gzip, deflate, br",
    }
    return await send(who.url, "POST", path, json.dumps(body).encode(), headers)


class Folded:
    """A stream of events, put together by the rules of Anthropic's documentation."""

    def __init__(self, reply: Reply) -> None:
        assert reply.status == 200, reply.raw
        assert reply.is_stream
        assert "content-encoding" not in reply.headers
        self.content: list[dict[str, Any]] = []
        self.delta: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}
        self.start: dict[str, Any] = {}
        self._open: dict[str, Any] | None = None
        self._json = ""
        self._ended = False
        for name, data in reply.events():
            event = json.loads(data)
            assert event["type"] == name, "the name of an event and its type are one"
            assert not self._ended, f"{name} after the end"
            getattr(self, f"_{name}")(event)
        assert self._ended, "no message_stop"

    def _ping(self, event: dict[str, Any]) -> None:
        assert self.start, "a ping before the start"

    def _message_start(self, event: dict[str, Any]) -> None:
        assert not self.start
        self.start = event["message"]
        assert self.start["content"] == []
        assert self.start["stop_reason"] is None
        assert isinstance(self.start["usage"]["input_tokens"], int)

    def _content_block_start(self, event: dict[str, Any]) -> None:
        assert self.start
        assert self._open is None, "a block in a block"
        assert not self.delta
        assert event["index"] == len(self.content)
        self._open = event["content_block"]
        self._json = ""
        empty = {"text": ("text", ""), "thinking": ("thinking", ""), "tool_use": ("input", {})}
        field, value = empty[self._open["type"]]
        assert self._open[field] == value

    def _content_block_delta(self, event: dict[str, Any]) -> None:
        assert self._open is not None
        assert event["index"] == len(self.content)
        delta = event["delta"]
        kind = self._open["type"]
        allowed = {
            "text": {"text_delta"},
            "thinking": {"thinking_delta", "signature_delta"},
            "tool_use": {"input_json_delta"},
        }
        assert delta["type"] in allowed[kind]
        match delta["type"]:
            case "text_delta":
                self._open["text"] += delta["text"]
            case "thinking_delta":
                self._open["thinking"] += delta["thinking"]
            case "signature_delta":
                self._open["signature"] = delta["signature"]
            case "input_json_delta":
                self._json += delta["partial_json"]

    def _content_block_stop(self, event: dict[str, Any]) -> None:
        assert self._open is not None
        assert event["index"] == len(self.content)
        if self._open["type"] == "tool_use":
            self._open["input"] = json.loads(self._json or "{}")
        self.content.append(self._open)
        self._open = None

    def _message_delta(self, event: dict[str, Any]) -> None:
        assert self._open is None
        assert not self.delta, "two message_delta"
        self.delta, self.usage = event["delta"], event["usage"]

    def _message_stop(self, event: dict[str, Any]) -> None:
        assert self.delta["stop_reason"]
        self._ended = True

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(block["text"] for block in self.content if block["type"] == "text")

    def call(self) -> dict[str, Any]:
        """The one tool that was called, with an input of its schema."""
        (found,) = [block for block in self.content if block["type"] == "tool_use"]
        jsonschema.validate(found["input"], SCHEMAS[found["name"]])
        return found


def result_of(call: dict[str, Any], content: Any, *, is_error: bool = False) -> dict[str, Any]:
    return {
        "tool_use_id": call["id"], "type": "tool_result", "content": content,
        "is_error": is_error,
    }  # fmt: skip


def asked_first(model: str) -> list[dict[str, Any]]:
    """The first turn. Of a model it does not know Claude Code thinks that it takes the new role."""
    first = [REMINDER, {"type": "text", "text": "Run echo hi", **MARK}]
    turns: list[dict[str, Any]] = [{"role": "user", "content": first}]
    if model == TRANSLATED:
        turns.append({"role": "system", "content": "Available agent types:\n- one for all"})
    return turns


@pytest.mark.parametrize("model", [CLAUDE, ADAPTIVE, TRANSLATED])
async def test_a_conversation_with_tools_is_held(payer: Customer, model: str) -> None:
    turns = asked_first(model)
    first = Folded(await post(payer, request_of(model, turns)))
    assert first.start["model"] == model
    assert first.start["role"] == "assistant"
    assert first.delta["stop_reason"] == "tool_use"
    call = first.call()
    if model != TRANSLATED:
        assert [block["type"] for block in first.content] == ["thinking", "tool_use"]
        assert first.content[0]["signature"]

    unmarked = [REMINDER, {"type": "text", "text": "Run echo hi"}]
    turns = [
        {"role": "user", "content": unmarked},
        *turns[1:],
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{**result_of(call, "hi there"), **MARK}]},
    ]
    second = Folded(await post(payer, request_of(model, turns)))
    assert second.delta["stop_reason"] == "end_turn"
    assert "hi there" in second.text
    assert second.usage["cache_read_input_tokens"] > 10_000

    turns = [
        *turns[:-1],
        {"role": "user", "content": [result_of(call, "hi there")]},
        {"role": "assistant", "content": second.content},
        {"role": "user", "content": [{"type": "text", "text": "Once more", **MARK}]},
    ]
    third = Folded(await post(payer, request_of(model, turns)))
    assert third.delta["stop_reason"] == "tool_use"
    failed = result_of(third.call(), "<tool_use_error>no such file</tool_use_error>", is_error=True)
    turns = [
        *turns,
        {"role": "assistant", "content": third.content},
        {"role": "user", "content": [{**failed, **MARK}]},
    ]
    last = Folded(await post(payer, request_of(model, turns)))
    assert last.delta["stop_reason"] == "end_turn"
    assert "no such file" in last.text
    balance = await payer.balance()
    assert balance["held"] == "0"


@pytest.mark.parametrize("model", [CLAUDE, TRANSLATED])
async def test_a_picture_that_a_tool_returned_is_taken(payer: Customer, model: str) -> None:
    turns = asked_first(model)
    first = Folded(await post(payer, request_of(model, turns)))
    picture = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content = [{"type": "text", "text": "read it"}, {"type": "image", "source": picture}]
    turns = [
        *turns,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result_of(first.call(), content)]},
    ]
    second = Folded(await post(payer, request_of(model, turns)))
    assert second.delta["stop_reason"] == "end_turn"


@pytest.mark.parametrize("model", [CLAUDE, TRANSLATED])
async def test_tokens_are_counted_with_the_same_body(payer: Customer, model: str) -> None:
    body = request_of(model, asked_first(model))
    for name in ("max_tokens", "stream", "metadata", "context_management"):
        del body[name]
    reply = await post(payer, body, COUNT)
    assert reply.status == 200, reply.raw
    assert 10_000 < reply.json()["input_tokens"] < 100_000


@pytest.mark.parametrize("model", [CLAUDE, TRANSLATED])
async def test_the_small_requests_beside_the_conversation_are_answered(
    payer: Customer, model: str
) -> None:
    probe = {
        "model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "quota"}],
        "metadata": {"user_id": "u"},
    }  # fmt: skip
    reply = await post(payer, probe)
    assert reply.status == 200, reply.raw
    assert reply.json()["stop_reason"] == "max_tokens"
    titled = request_of(
        model,
        [{"role": "user", "content": [{"type": "text", "text": "Give this a title"}]}],
        tools=[],
        thinking={"type": "disabled"},
        max_tokens=4000,
        temperature=1,
        output_config={
            "format": {
                "type": "json_schema",
                "schema": {
                    "type": "object",
                    "properties": {"title": {"type": "string"}},
                    "required": ["title"],
                    "additionalProperties": False,
                },
            }
        },
    )
    del titled["context_management"]
    title = Folded(await post(payer, titled))
    assert list(json.loads(title.text)) == ["title"]


async def test_the_address_itself_answers_a_look(sdk: Sdk) -> None:
    for method in ("HEAD", "GET"):
        assert (await send(sdk.url, method, "/")).status < 500


async def test_models_are_found_where_claude_code_looks_for_them(payer: Customer) -> None:
    reply = await payer.get("/v1/models?limit=1000")
    assert reply.status == 200
    assert {CLAUDE, ADAPTIVE} <= {model["id"] for model in reply.json()["data"]}


async def test_refusals_have_anthropics_envelope(payer: Customer) -> None:
    unknown = await post(payer, request_of("claude-none", asked_first(CLAUDE)))
    assert unknown.status == 404
    assert unknown.json()["type"] == "error"
    assert unknown.json()["error"]["type"] == "not_found_error"
    stranger = Customer(payer.url, "", "ky-" + "0" * 48)
    denied = await post(stranger, request_of(CLAUDE, asked_first(CLAUDE)))
    assert denied.status == 401
    assert denied.json()["error"]["type"] == "authentication_error"


async def test_more_than_the_credit_is_refused_as_a_billing_error(newcomer: Customer) -> None:
    refused = await post(newcomer, request_of(ADAPTIVE, asked_first(ADAPTIVE)))
    assert refused.status == 402
    assert refused.json()["error"]["type"] == "billing_error"
    assert (await newcomer.balance())["held"] == "0"
