"""A Messages body as a chat of OpenAI's dialect, and whatever is asked there and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.upstreams.wire import anthropic
from adapters.upstreams.wire.translation import chat_to_messages, messages_to_chat
from kyma.calls import ChatCall, Dialect, Fault, UpstreamError
from tests.wire.translating import (
    BLOCKS,
    HELLO,
    INPUTS,
    JSON,
    PNG,
    SIZE,
    WORDS,
    call,
    chat,
    messages,
    text,
    user,
)


def test_a_system_prompt_is_one_message_without_the_agent_s_note() -> None:
    note = text("x-anthropic-billing-header: cc_version=2; cch=fa690;")
    blocks = [note, {**text("a"), "cache_control": {"type": "ephemeral"}}, text("b")]
    assert messages(system=blocks)["messages"][0] == {"role": "system", "content": "a\n\nb"}
    assert messages(system="s")["messages"][0] == {"role": "system", "content": "s"}
    assert messages(system=[note])["messages"] == HELLO
    later = messages([*HELLO, {"role": "system", "content": "new rules"}])["messages"]
    assert later[1] == {"role": "system", "content": "new rules"}


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (text("a"), "a"),
        ({**text("a"), "cache_control": {"type": "ephemeral"}}, "a"),
        (
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": PNG},
            },
            [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}],
        ),
        (
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}],
        ),
        (
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                "title": "a.pdf",
            },
            [
                {
                    "type": "file",
                    "file": {
                        "filename": "a.pdf",
                        "file_data": "data:application/pdf;base64,JVBE",
                    },
                }
            ],
        ),
        (
            {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
            [
                {
                    "type": "file",
                    "file": {"filename": "document.pdf", "file_data": "https://x/y.pdf"},
                }
            ],
        ),
        (
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "body"},
                "title": "T",
                "context": "C",
            },
            "T\n\nC\n\nbody",
        ),
        (
            {"type": "document", "source": {"type": "content", "content": [text("in")]}},
            "in",
        ),
        ({"type": "document", "source": {"type": "content", "content": "in"}}, "in"),
        (
            {"type": "search_result", "title": "T", "source": "s", "content": [text("r")]},
            "T\n\nr",
        ),
    ],
)
def test_blocks_become_parts(block: dict[str, Any], content: Any) -> None:
    assert messages(user(block))["messages"] == [{"role": "user", "content": content}]


@pytest.mark.parametrize("kind", ["image", "document"])
def test_files_that_are_stored_elsewhere_are_refused(kind: str) -> None:
    block = {"type": kind, "source": {"type": "file", "file_id": "f1"}}
    with pytest.raises(UpstreamError) as caught:
        messages(user(text("see"), block))
    assert caught.value.fault is Fault.BAD_REQUEST
    assert caught.value.param == "messages[0].content[1].source"


def test_results_come_first_and_what_they_show_after_them() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://x"}}
    turns = user(
        text("look"),
        {"type": "tool_result", "tool_use_id": "a", "content": [text("1"), text("2"), image]},
        {"type": "tool_result", "tool_use_id": "b", "content": "no file", "is_error": True},
        {"type": "tool_result", "tool_use_id": "c", "content": "Error: x", "is_error": True},
        {"type": "tool_result", "tool_use_id": "d"},
        {"type": "tool_result", "tool_use_id": "e", "content": [image]},
    )
    shown = {"type": "image_url", "image_url": {"url": "https://x"}}
    assert messages(turns)["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": "1\n\n2"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: no file"},
        {"role": "tool", "tool_call_id": "c", "content": "Error: x"},
        {"role": "tool", "tool_call_id": "d", "content": ""},
        {"role": "tool", "tool_call_id": "e", "content": "(below)"},
        {
            "role": "user",
            "content": [
                text("look"), text("What a returned:"), shown, text("What e returned:"), shown,
            ],
        },
    ]  # fmt: skip


ASKS = {
    "role": "assistant",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        text("Look"),
        text("ing."),
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": [1, "é"]}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}},
        {"type": "server_tool_use", "id": "c", "name": "web_search", "input": {}},
    ],
}
TOLD = {"type": "tool_result", "tool_use_id": "a", "content": "x"}


def test_an_assistant_s_turn_keeps_its_calls() -> None:
    turn = messages([*HELLO, ASKS, *user(TOLD)])["messages"][1]
    assert turn == {
        "role": "assistant",
        "content": "Looking.",
        "reasoning_content": "hm",
        "tool_calls": [call("a", "f", '{"x":[1,"é"]}'), call("b", "g", "{}")],
    }
    assert messages([*HELLO, {"role": "assistant", "content": "prefill"}])["messages"][1] == {
        "role": "assistant",
        "content": "prefill",
    }
    silent = {"role": "assistant", "content": [ASKS["content"][4]]}
    assert messages([*HELLO, silent])["messages"][1]["content"] is None


def test_thinking_is_told_again_within_a_turn_of_tools_only() -> None:
    within = messages([*HELLO, ASKS, *user(TOLD)])["messages"]
    assert within[1]["reasoning_content"] == "hm"
    later = messages([*HELLO, ASKS, *user(TOLD, text("and now?"))])["messages"]
    assert "reasoning_content" not in later[1]
    spared = messages([*HELLO, ASKS, *user(TOLD)], thoughts=False)["messages"]
    assert "reasoning_content" not in spared[1]


def test_tools_become_functions() -> None:
    schema = {"type": "object", "properties": {"a": {}}}
    body = messages(
        tools=[
            {
                "name": "f",
                "description": "d",
                "input_schema": schema,
                "cache_control": {"type": "ephemeral"},
            },
            {"type": "custom", "name": "g"},
        ],
        tool_choice={"type": "tool", "name": "h"},
    )
    empty = {"type": "object", "properties": {}}
    assert body["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}},
        {"type": "function", "function": {"name": "g", "parameters": empty}},
    ]
    assert "tool_choice" not in body


@pytest.mark.parametrize(
    "kind", ["bash_20250124", "computer_20251124", "web_search_20250305", "mcp_toolset", ""]
)
def test_a_tool_that_only_claude_knows_is_refused_by_name(kind: str) -> None:
    """Left out silently it would be missed: a model that has no shell never says so."""
    with pytest.raises(UpstreamError) as caught:
        messages(tools=[{"name": "f"}, {"type": kind, "name": "x"}])
    assert (caught.value.fault, caught.value.param) == (Fault.BAD_REQUEST, "tools[1].type")
    assert kind in caught.value.message


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, {}),
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "f"},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        ({"type": "auto", "disable_parallel_tool_use": False}, {"tool_choice": "auto"}),
        ({"type": ["odd"]}, {}),
    ],
)
def test_a_choice_of_tools_is_made_in_openai_s_words(choice: Any, sent: dict[str, Any]) -> None:
    body = messages(tools=[{"name": "f", "input_schema": {}}], tool_choice=choice)
    names = ("tool_choice", "parallel_tool_calls")
    assert {name: body[name] for name in names if name in body} == sent


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"stop_sequences": ["a"]}, {"stop": ["a"]}),
        ({"stop_sequences": []}, {}),
        ({"temperature": 0, "top_p": 1, "stream": True},
         {"temperature": 0, "top_p": 1, "stream": True}),
        ({"metadata": {"user_id": "u" * 100}}, {"user": "u" * 64}),
        ({"metadata": {"user_id": None}}, {}),
        (
            {
                "context_management": {}, "betas": ["x"], "top_k": 3, "container": "c",
                "service_tier": "auto", "speed": "fast", "cache_control": {},
            },
            {},
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 8000}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, {"reasoning_effort": "high"}),
        ({"thinking": {"type": "enabled"}}, {}),
        ({"thinking": {"type": "adaptive"}}, {}),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            {"reasoning_effort": "high"},
        ),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, {}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "answer", "schema": {"type": "object"}, "strict": True,
                    },
                }
            },
        ),
    ],
)  # fmt: skip
def test_the_other_fields_cross_in_openai_s_words(
    fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    body = messages(**fields)
    del body["messages"]
    assert body == {"max_tokens": 9, **sent}


def test_an_input_that_cannot_be_written_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(2_000):
        deep = {"a": deep}
    turn = {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "a", "name": "f", "input": deep}],
    }
    with pytest.raises(UpstreamError) as caught:
        messages([*HELLO, turn])
    assert caught.value.fault is Fault.BAD_REQUEST


# There and back

PICTURES = st.sampled_from([f"data:image/png;base64,{PNG}", "https://x.example/y.png"])
SHOWN = st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, PICTURES)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Chats as agents have them: a system prompt, users who show things, parallel tools."""
    turns: list[dict[str, Any]] = []
    if draw(st.booleans()):
        turns.append({"role": "system", "content": draw(WORDS)})
    for turn in range(draw(st.integers(1, 4))):
        said = draw(WORDS)
        shown = draw(st.lists(SHOWN, max_size=2))
        turns.append({"role": "user", "content": [text(said), *shown] if shown else said})
        calls = [
            call(f"call_{turn}_{n}", draw(st.sampled_from(["f", "g"])), arguments)
            for n, arguments in enumerate(
                orjson.dumps(given).decode() for given in draw(st.lists(INPUTS, max_size=3))
            )
        ]
        if calls:
            spoken = draw(st.one_of(st.none(), WORDS))
            turns.append({"role": "assistant", "content": spoken, "tool_calls": calls})
            turns += [
                {"role": "tool", "tool_call_id": call["id"], "content": draw(WORDS)}
                for call in calls
            ]
        turns.append({"role": "assistant", "content": draw(WORDS)})
    if draw(st.booleans()):
        turns.pop()
    return turns


def merged(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Consecutive turns of the assistant as one, which Anthropic demands."""
    found: list[dict[str, Any]] = []
    for turn in turns:
        last = found[-1] if found else {}
        if turn["role"] == last.get("role") == "assistant" and not last.get("tool_calls"):
            last["content"] += turn["content"]
        else:
            found.append(dict(turn))
    return found


@given(conversations())
def test_a_conversation_survives_the_way_there_and_back(turns: list[dict[str, Any]]) -> None:
    asked = ChatCall({"messages": turns}, "m", False, True, SIZE)
    there = chat_to_messages(asked)
    assert json.loads(anthropic.request(there, "claude-sonnet-4-6"))
    back = messages_to_chat(there)
    assert back.body["messages"] == merged(turns)
    roles = [message["role"] for message in there.body["messages"]]
    assert all(a != b for a, b in pairwise(roles)), "roles take turns"


@given(conversations())
def test_results_follow_their_calls_at_once(turns: list[dict[str, Any]]) -> None:
    there = chat(turns)["messages"]
    for before, after in pairwise(there):
        used = [block["id"] for block in before["content"] if block["type"] == "tool_use"]
        told = [
            block["tool_use_id"] for block in after["content"] if block["type"] == "tool_result"
        ]
        assert used == told


ROLES = st.sampled_from(["user", "assistant", "system", "tool", "developer", "function"])
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": ROLES, "content": JSON | st.lists(BLOCKS | JSON, max_size=3)},
        optional={"tool_calls": JSON, "thinking_blocks": st.lists(BLOCKS), "tool_call_id": JSON},
    ),
    max_size=4,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        (
            *("system", "tools", "tool_choice", "stop", "stop_sequences", "response_format"),
            *("reasoning", "reasoning_effort", "thinking", "output_config", "metadata", "user"),
            *("functions", "function_call", "temperature", "top_p", "output_format"),
        ),
        JSON,
    ),
)


def refused_or(translate: Callable[[ChatCall], ChatCall], call: ChatCall) -> Any:
    """The body of the translation, or what it was refused for."""
    try:
        return translate(call).body
    except UpstreamError as error:
        return error


@given(TURNS, FIELDS)
@example([{"role": "assistant", "content": [{"type": "text", "text": None}]}], {})
@example([{"role": "assistant", "content": [{"type": "text"}]}], {})
def test_whatever_is_asked_is_translated_or_refused(
    turns: list[Any], fields: dict[str, Any]
) -> None:
    body = {"messages": turns, **fields}
    marked = partial(messages_to_chat, marks=True)
    for translate in (chat_to_messages, messages_to_chat, marked):
        made = refused_or(translate, ChatCall(body, "m", False, True, SIZE))
        if isinstance(made, UpstreamError):
            assert made.fault is Fault.BAD_REQUEST
            assert made.param
        else:
            assert orjson.dumps(made)
            if translate is chat_to_messages:
                written = ChatCall(made, "m", False, True, SIZE, Dialect.MESSAGES)
                assert anthropic.request(written, "claude-haiku-4-5")


@given(TURNS, FIELDS)
def test_whatever_is_asked_natively_is_written_but_for_unsold_tools(
    turns: list[Any], fields: dict[str, Any]
) -> None:
    body = {"messages": turns, **fields}
    asked = ChatCall(body, "m", False, True, SIZE, Dialect.MESSAGES)
    for model in ("claude-opus-4-7", "claude-haiku-4-5", "claude-sonnet-4-6"):
        try:
            assert anthropic.request(asked, model)
        except UpstreamError as error:
            told = error.fault, str(error.param)[:6]
        else:
            told = Fault.BAD_REQUEST, "tools["
        assert told == (Fault.BAD_REQUEST, "tools[")
