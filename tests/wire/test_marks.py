"""Cache marks: whoever caches by them gets them in either dialect, and nobody else does."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapters.http.dialects.responses import Responses
from adapters.upstreams.chat import ProviderChat
from adapters.upstreams.providers import PROVIDERS, Endpoint
from adapters.upstreams.transport import Timeouts, Transport
from adapters.upstreams.wire.marks import reads_marks, without_marks
from adapters.upstreams.wire.translation import chat_to_messages, messages_to_chat
from kyma.calls import ChatCall, Dialect, Size, UpstreamError
from kyma.catalog.text import TEXT_MODELS
from kyma.ledger import Hold
from kyma.money import ZERO
from kyma.ports.upstreams import Deadline
from kyma.pricing import per_token
from kyma.routing import Route
from tests.http.responses_builders import MODEL

MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
SIZE = Size(1, 2, 9)
CLAUDE, OTHER = "anthropic/claude-sonnet-4.6", "google/gemini-3-flash-preview"
SCHEMA = {"type": "object", "properties": {"cache_control": {"type": "string"}}}
"""A caller's tool that happens to take an argument of that name."""


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


CALLS = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": [text("Be brief."), text("Long.", **MARK)]},
        {"role": "user", "content": [text("One.", **HOUR)]},
        {"role": "assistant", "content": None, "tool_calls": CALLS, **MARK},
        {"role": "tool", "tool_call_id": "a", "content": "done", **MARK},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}, **MARK}],
    **MARK,
}
USES = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
MESSAGES: dict[str, Any] = {
    "system": [text("Be brief."), text("Long.", **MARK)],
    "messages": [
        {"role": "user", "content": [text("One.", **HOUR)]},
        {"role": "assistant", "content": [text("Hm.", **MARK), {**USES, **MARK}]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "a", "content": "done", **MARK}],
        },
    ],
    "tools": [{"name": "f", "input_schema": SCHEMA, **MARK}],
    **MARK,
}


def call(body: dict[str, Any], dialect: Dialect = Dialect.CHAT) -> ChatCall:
    return ChatCall(body, "m", False, False, SIZE, dialect)


async def sent(provider: str, upstream_model: str, asked: ChatCall) -> dict[str, Any]:
    """The body that a provider of the table gets, from its own socket."""
    got: list[bytes] = []

    async def serve(request: web.Request) -> web.Response:
        got.append(await request.read())
        return web.Response(status=400, body=b"{}")

    app = web.Application()
    app.router.add_post("/{path}", serve)
    app.router.add_post("/chat/completions", serve)
    transport = Transport(Timeouts(connect_s=1, first_byte_s=1, chunk_s=1, answer_s=5))
    async with TestServer(app) as server:
        endpoint = Endpoint(PROVIDERS[provider], str(server.make_url("")).rstrip("/"), "")
        upstream = ProviderChat(transport, {provider: endpoint})
        route = Route(provider, upstream_model, "m", per_token("0", "0"))
        with pytest.raises(UpstreamError):
            await upstream.answer(
                asked,
                route,
                Hold("0" * 32, "a", ZERO, ZERO),
                Deadline(asyncio.get_running_loop().time() + 5),
            )
        await transport.close()
    found: dict[str, Any] = orjson.loads(got[0])
    return found


def marked(value: Any, place: str = "") -> set[str]:
    """Where marks stand in a body, schemas of tools apart."""
    if isinstance(value, list):
        return {at for n, item in enumerate(value) for at in marked(item, f"{place}[{n}]")}
    if not isinstance(value, dict):
        return set()
    inner = {
        at for name in {*value} - {"properties"} for at in marked(value[name], f"{place}.{name}")
    }
    return inner | {place} if "cache_control" in value else inner


async def test_a_chat_that_is_marked_is_so_at_anthropic() -> None:
    body = await sent("anthropic", "claude-sonnet-4-6", call(CHAT))
    assert marked(body) == {
        "",
        ".system[1]",
        ".messages[0].content[0]",
        ".messages[1].content[0]",
        ".messages[2].content[0]",
        ".tools[0]",
    }
    assert body["messages"][0]["content"] == [text("One.", **MARK)]
    assert body["tools"][0]["input_schema"] == SCHEMA


async def test_a_chat_that_is_marked_is_so_at_who_resells_claude() -> None:
    body = await sent("openrouter", CLAUDE, call(CHAT))
    assert body["messages"] == [
        *CHAT["messages"][:1],
        {"role": "user", "content": [text("One.", **MARK)]},
        *CHAT["messages"][2:],
    ]
    assert (body["tools"], body["cache_control"]) == (CHAT["tools"], MARK["cache_control"])


async def test_a_native_message_keeps_its_marks_at_who_resells_claude() -> None:
    body = await sent("openrouter", CLAUDE, call(MESSAGES, Dialect.MESSAGES))
    assert body["messages"] == [
        {"role": "system", "content": [text("Be brief."), text("Long.", **MARK)]},
        {"role": "user", "content": [text("One.", **MARK)]},
        {"role": "assistant", "content": [text("Hm.", **MARK)], "tool_calls": CALLS, **MARK},
        {"role": "tool", "tool_call_id": "a", "content": [text("done", **MARK)]},
    ]
    assert body["tools"] == CHAT["tools"]
    assert body["cache_control"] == MARK["cache_control"]


NOBODY = [(name, CLAUDE) for name, row in PROVIDERS.items() if row.wire is Dialect.CHAT]
NOBODY.remove(("openrouter", CLAUDE))


@pytest.mark.parametrize(("provider", "model"), [*NOBODY, ("openrouter", OTHER)])
async def test_nobody_else_is_sent_a_mark(provider: str, model: str) -> None:
    body = await sent(provider, model, call(CHAT))
    assert marked(body) == set()
    assert body["tools"][0]["function"]["parameters"] == SCHEMA
    assert [message["content"] for message in body["messages"]] == [
        [text("Be brief."), text("Long.")],
        "One.",
        None,
        "done",
    ]
    native = await sent(provider, model, call(MESSAGES, Dialect.MESSAGES))
    assert marked(native) == set()
    assert [message["content"] for message in native["messages"]] == [
        "Be brief.\n\nLong.",
        "One.",
        "Hm.",
        "done",
    ]


def test_the_claude_models_of_the_catalogue_are_those_that_read_marks() -> None:
    routes = {
        (model.id.startswith("claude"), reads_marks(route.upstream_model))
        for model in TEXT_MODELS
        for route in model.routes
    }
    assert routes == {(True, True), (False, False)}


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ([text("a", **MARK)], "a"),
        ([text("a")], [text("a")]),
        ([text("a", **MARK), text("b")], [text("a"), text("b")]),
        ([text("a", x=1, **MARK)], [text("a", x=1)]),
        ([{"type": "image_url", "image_url": {"url": "u"}, **MARK}],
         [{"type": "image_url", "image_url": {"url": "u"}}]),
        ([{"type": "text", "cache_control": None, "text": "a"}], [text("a")]),
        ([7, None, text("a", cache_control="odd")], [7, None, text("a")]),
        ("say \"cache_control\"", "say \"cache_control\""),
        (None, None),
    ],
)  # fmt: skip
def test_a_part_without_its_mark_is_the_same_part(told: Any, kept: Any) -> None:
    raw = orjson.dumps({"messages": [{"role": "user", "content": told, **MARK}, "odd"], **MARK})
    assert orjson.loads(without_marks(raw)) == {
        "messages": [{"role": "user", "content": kept}, "odd"]
    }


@pytest.mark.parametrize("messages", [None, 7, {"cache_control": {}}, [[]]])
def test_what_is_no_conversation_has_no_marks_to_lose(messages: Any) -> None:
    raw = orjson.dumps({"messages": messages, "tools": messages, **MARK})
    assert orjson.loads(without_marks(raw)) == {"messages": messages, "tools": messages}


def test_a_body_without_marks_is_not_read() -> None:
    raw = b'{"messages": [] }'
    assert without_marks(raw) is raw


def as_chat(*blocks: Any) -> list[dict[str, Any]]:
    asked = call({"messages": [{"role": "user", "content": [*blocks]}]}, Dialect.MESSAGES)
    return [*messages_to_chat(asked, marks=True).body["messages"]]


def test_a_result_that_shows_something_has_one_mark_on_its_text() -> None:
    picture = {"type": "image", "source": {"type": "url", "url": "u"}, **MARK}
    content = [text("seen", **HOUR), picture]
    told = as_chat({"type": "tool_result", "tool_use_id": "a", "content": content})
    assert [marked(message) for message in told] == [{".content[0]"}, set()]
    assert told[0]["content"] == [text("seen", **MARK)]
    shown = {"type": "image_url", "image_url": {"url": "u"}}
    assert told[1]["content"] == [text("What a returned:"), shown]


def test_a_picture_is_marked_itself_and_an_empty_text_never() -> None:
    picture = {"type": "image", "source": {"type": "url", "url": "u"}, **MARK}
    shown = {"type": "image_url", "image_url": {"url": "u"}, **MARK}
    assert as_chat(text("a"), picture)[0]["content"] == [text("a"), shown]
    assert as_chat(text("", **MARK)) == [{"role": "user", "content": ""}]
    empty = {"type": "tool_result", "tool_use_id": "a", "content": [], **MARK}
    assert as_chat(empty) == [{"role": "tool", "tool_call_id": "a", "content": ""}]


def as_messages(*turns: dict[str, Any]) -> dict[str, Any]:
    return dict(chat_to_messages(call({"messages": [*turns]})).body)


def test_a_mark_of_a_whole_message_is_that_of_its_last_block() -> None:
    user = {"role": "user", "content": [text("a"), text("b")], **MARK}
    system = {"role": "system", "content": "s", **MARK}
    body = as_messages(system, user)
    assert body["system"] == [text("s", **MARK)]
    assert body["messages"][0]["content"] == [text("a"), text("b", **MARK)]
    own = {"role": "user", "content": [text("b", **HOUR)], **MARK}
    assert as_messages(own)["messages"][0]["content"] == [text("b", **HOUR)]


def test_thoughts_and_empty_turns_have_no_place_for_a_mark() -> None:
    thought = {"type": "thinking", "thinking": "t", "signature": "s"}
    turn = {"role": "assistant", "content": None, "thinking_blocks": [thought], **MARK}
    body = as_messages({"role": "user", "content": "hi"}, turn, {"role": "user", "content": " "})
    assert marked(body) == set()
    assert as_messages({"role": "user", "content": " ", **MARK})["messages"][0]["role"] == "user"


def test_a_mark_within_a_result_is_the_result_s() -> None:
    parts = [text("one", **HOUR), text("two", **MARK), text("three")]
    body = as_messages(
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "a", "content": parts},
    )
    (result,) = body["messages"][2]["content"]
    assert marked(result) == {""}
    assert result["cache_control"] == MARK["cache_control"]
    assert result["content"] == [text("one"), text("two"), text("three")]


async def test_a_response_that_is_marked_is_so_at_both_and_at_nobody_else() -> None:
    asked = {
        "model": MODEL.id,
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": [{"type": "input_text", "text": "Long.", **MARK}]},
            {"role": "user", "content": [{"type": "input_text", "text": "One.", **MARK}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "a",
                "output": [{"type": "input_text", "text": "done", **MARK}],
            },
        ],
        **MARK,
    }
    made = Responses().call(asked, MODEL)
    assert marked(await sent("anthropic", "claude-sonnet-4-6", made)) == {
        "",
        ".system[1]",
        ".messages[0].content[0]",
        ".messages[2].content[0]",
    }
    resold = await sent("openrouter", CLAUDE, made)
    assert [message["content"] for message in resold["messages"]] == [
        "Be brief.",
        [text("Long.", **MARK)],
        [text("One.", **MARK)],
        None,
        [text("done", **MARK)],
    ]
    other = await sent("groq", "gpt", made)
    assert marked(other) == set()
    assert [message["content"] for message in other["messages"]] == [
        "Be brief.",
        "Long.",
        "One.",
        None,
        "done",
    ]
