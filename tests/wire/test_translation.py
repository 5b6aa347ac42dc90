"""Between the two chat dialects: nothing that both have words for is lost, nothing breaks."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.upstreams.wire import anthropic, openai
from adapters.upstreams.wire.translation import (
    GO_ON,
    JSON_ONLY,
    StreamAsChat,
    StreamAsMessages,
    answer_as_chat,
    answer_as_messages,
    chat_to_messages,
    messages_to_chat,
)
from kyma.calls import ChatAnswer, ChatCall, Chunk, Dialect, Fault, Size, UpstreamError
from kyma.usage import Usage

RECORDED = Path(__file__).with_name("recorded")
PROVIDERS = sorted(path.parent.name for path in RECORDED.glob("*/stream.expected.json"))
MODEL, ID = "our-model", "0190b5a0"
SIZE = Size(1, 2, 4096)
PNG = base64.b64encode(b"\x89PNG").decode()
HELLO = [{"role": "user", "content": "hi"}]


def chat(messages: Any = HELLO, **fields: Any) -> dict[str, Any]:
    """A chat body as it reaches Anthropic."""
    call = ChatCall({"model": "m", "messages": messages, **fields}, "m", False, True, SIZE)
    made = chat_to_messages(call)
    assert made.dialect is Dialect.MESSAGES
    assert made.size == SIZE
    return dict(made.body)


def messages(turns: Any = HELLO, *, thoughts: bool = True, **fields: Any) -> dict[str, Any]:
    """A Messages body as it reaches a provider of OpenAI's dialect."""
    body = {"model": "m", "max_tokens": 9, "messages": turns, **fields}
    call = ChatCall(body, "m", False, True, SIZE, Dialect.MESSAGES)
    made = messages_to_chat(call, thoughts=thoughts)
    assert made.dialect is Dialect.CHAT
    assert made.size == SIZE
    return dict(made.body)


def user(*blocks: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


# Chat → Messages


def test_system_and_developer_messages_become_the_system_prompt() -> None:
    cached = {"type": "ephemeral"}
    body = chat(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{**text("Use tools."), "cache_control": cached}]},
            *HELLO,
        ]
    )
    assert body["system"] == [text("Be brief."), {**text("Use tools."), "cache_control": cached}]
    assert body["messages"] == user(text("hi"))


def test_turns_of_one_role_become_one() -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [text("b"), text("")]},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "d"},
        {"role": "user", "content": "  "},
    ]
    assert chat(turns)["messages"] == [
        *user(text("a"), text("b")),
        {"role": "assistant", "content": [text("c"), text("d")]},
    ]


@pytest.mark.parametrize("turns", [[], [{"role": "system", "content": "only"}]])
def test_a_request_without_a_user_gets_one(turns: list[Any]) -> None:
    assert chat(turns)["messages"] == user(text(GO_ON))


def test_an_assistant_who_speaks_first_is_asked_to_go_on() -> None:
    body = chat([{"role": "assistant", "content": "Once upon "}])
    assert body["messages"] == [
        *user(text(GO_ON)),
        {"role": "assistant", "content": [text("Once upon")]},
    ]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": PNG},
            },
        ),
        (
            {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{PNG}"}},
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG},
            },
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        ),
        (
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"},
            },
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                "title": "a.pdf",
            },
        ),
        (
            {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk="}},
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "hi"},
            },
        ),
        (
            {"type": "file", "file": {"file_data": "https://x/y.pdf"}},
            {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
        ),
        (
            {"type": "image", "source": {"type": "url", "url": "https://x"}},
            {"type": "image", "source": {"type": "url", "url": "https://x"}},
        ),
        (
            {**text("see"), "cache_control": {"type": "ephemeral"}},
            {**text("see"), "cache_control": {"type": "ephemeral"}},
        ),
    ],
)
def test_what_a_user_shows_is_shown(part: dict[str, Any], block: dict[str, Any]) -> None:
    assert chat(user(part))["messages"][0]["content"] == [block]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "https://x"}},
        {"type": ["odd"]},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {"url": 7}},
        {"type": "image_url", "image_url": {"url": "data:image/png,raw"}},
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "file"},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,a"}},
        {"type": "text"},
        {"type": "text", "text": None},
    ],
)
def test_what_the_model_cannot_take_is_refused_with_its_place(part: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as caught:
        chat(user(text("see"), part))
    assert caught.value.fault is Fault.BAD_REQUEST
    assert str(caught.value.param).startswith("messages[0].content[1]")


def test_several_answers_are_refused() -> None:
    with pytest.raises(UpstreamError) as caught:
        chat(n=2)
    assert (caught.value.fault, caught.value.param) == (Fault.BAD_REQUEST, "n")


def call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_parallel_calls_and_their_results_keep_together() -> None:
    turns = [
        *HELLO,
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [call("a", "f", '{"x": 1}'), call("b", "g", "")],
        },
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": [text("two")]},
        {"role": "user", "content": "and?"},
    ]
    assert chat(turns)["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                text("Looking."),
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "g", "input": {}},
            ],
        },
        *user(
            {"type": "tool_result", "tool_use_id": "a", "content": [text("one")]},
            {"type": "tool_result", "tool_use_id": "b", "content": [text("two")]},
            text("and?"),
        ),
    ]


def test_a_result_that_says_nothing_is_one() -> None:
    turns = [{"role": "tool", "tool_call_id": "a", "content": ""}]
    assert chat(turns)["messages"] == user({"type": "tool_result", "tool_use_id": "a"})


@pytest.mark.parametrize("arguments", ['{"cut": ', "[1]", "7", "nonsense"])
def test_arguments_that_are_no_object_are_kept_as_text(arguments: str) -> None:
    turns = [*HELLO, {"role": "assistant", "tool_calls": [call("a", "f", arguments)]}]
    assert chat(turns)["messages"][1]["content"][0]["input"] == {"arguments": arguments}


def test_functions_of_old_are_tools() -> None:
    body = chat(
        [
            *HELLO,
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "x"},
        ],
        functions=[{"name": "f", "description": "d", "parameters": {"properties": {}}}],
        function_call={"name": "f"},
    )
    use, result = body["messages"][1]["content"][0], body["messages"][2]["content"][0]
    assert use["id"] == result["tool_use_id"] == "call_f"
    assert body["tools"] == [
        {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}
    ]
    assert body["tool_choice"] == {"type": "tool", "name": "f"}


def test_thinking_goes_back_where_its_signature_was_kept() -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": "s"}
    turn = {
        "role": "assistant",
        "content": "ok",
        "reasoning_content": "hm",
        "thinking_blocks": [signed, {"type": "thinking", "thinking": "x", "signature": ""}],
    }
    assert chat([*HELLO, turn])["messages"][1]["content"] == [signed, text("ok")]
    unsigned = {"role": "assistant", "content": "ok", "reasoning_content": "hm"}
    assert chat([*HELLO, unsigned])["messages"][1]["content"] == [text("ok")]


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"type": "tool", "name": "f"},
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required"}}},
            {"type": "any"},
        ),
        ({"parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"parallel_tool_calls": False, "tool_choice": "required"},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": 7}, None),
        ({"tool_choice": "odd"}, None),
        ({"tool_choice": {"function": []}}, None),
    ],
)
def test_a_choice_of_tools_is_made_in_anthropic_s_words(
    fields: dict[str, Any], choice: Any
) -> None:
    assert chat(tools=[TOOL], **fields).get("tool_choice") == choice
    assert "tool_choice" not in chat(**fields), "without tools there is no choice"


def test_tools_come_with_a_schema_and_without_those_openai_runs() -> None:
    own = {"type": "bash_20250124", "name": "bash"}
    custom = {"type": "custom", "custom": {"name": "c", "description": "d"}}
    body = chat(
        tools=[
            {"type": "function", "function": {"name": "f", "strict": True}},
            {**TOOL, "cache_control": {"type": "ephemeral"}},
            {"type": "web_search"},
            custom,
            own,
            7,
        ]
    )
    assert body["tools"] == [
        {"name": "f", "input_schema": {"type": "object"}},
        {"name": "f", "cache_control": {"type": "ephemeral"}, "input_schema": {"type": "object"}},
        {
            "name": "c",
            "description": "d",
            "input_schema": {"type": "object", "properties": {"input": {"type": "string"}}},
        },
        own,
    ]


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({}, {"max_tokens": 4096}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": None, "max_completion_tokens": 8}, {"max_tokens": 8}),
        ({"temperature": 1.7}, {"temperature": 1}),
        ({"temperature": 0.2, "top_p": 0.5}, {"temperature": 0.2}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"top_k": 5}, {"top_k": 5}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", " ", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stop": "\n"}, {}),
        ({"user": "u1"}, {"metadata": {"user_id": "u1"}}),
        ({"stream": True}, {"stream": True}),
        ({"cache_control": {"type": "ephemeral"}}, {"cache_control": {"type": "ephemeral"}}),
        (
            {"seed": 1, "logprobs": True, "frequency_penalty": 1, "metadata": {"a": "b"}, "x": 1},
            {},
        ),
    ],
)
def test_the_other_fields_cross_in_anthropic_s_words(
    fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    body = chat(**fields)
    del body["messages"]
    assert body == {"max_tokens": 4096, **sent}


@pytest.mark.parametrize(
    ("fields", "thinking", "effort"),
    [
        ({}, None, None),
        ({"reasoning_effort": "high"}, {"type": "adaptive"}, "high"),
        ({"reasoning_effort": "minimal"}, {"type": "adaptive"}, "low"),
        ({"reasoning_effort": "xhigh"}, {"type": "adaptive"}, "high"),
        ({"reasoning_effort": "none"}, {"type": "disabled"}, None),
        ({"reasoning_effort": ["odd"]}, None, None),
        ({"reasoning": {"enabled": False}}, {"type": "disabled"}, None),
        ({"reasoning": {"enabled": True}}, {"type": "adaptive"}, None),
        ({"reasoning": {"effort": "low"}}, {"type": "adaptive"}, "low"),
        (
            {"reasoning": {"max_tokens": 2000}},
            {"type": "enabled", "budget_tokens": 2000},
            None,
        ),
        ({"thinking": {"type": "adaptive"}}, {"type": "adaptive"}, None),
    ],
)
def test_effort_becomes_thinking(fields: dict[str, Any], thinking: Any, effort: Any) -> None:
    body = chat(temperature=0.3, **fields)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort
    thinks = thinking is not None and thinking["type"] != "disabled"
    assert ("temperature" not in body) is thinks, "refused together"


def test_a_forced_tool_is_called_without_thinking() -> None:
    body = chat(tools=[TOOL], tool_choice="required", reasoning_effort="high")
    assert "thinking" not in body
    assert body["output_config"] == {"effort": "high"}


def test_a_schema_is_asked_for_as_anthropic_wants_it() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {}}}},
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = chat(response_format=form, reasoning_effort="low")
    written = body["output_config"]["format"]["schema"]
    assert body["output_config"]["effort"] == "low"
    assert written["additionalProperties"] is False
    assert written["properties"]["a"]["items"]["additionalProperties"] is False
    assert "additionalProperties" not in schema, "the caller's body is not changed"


def test_json_without_a_schema_is_asked_for_in_words() -> None:
    body = chat(response_format={"type": "json_object"})
    assert body["system"] == [text(JSON_ONLY)]


# Messages → chat


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
    silent = {"role": "assistant", "content": [ASKS["content"][4]]}  # type: ignore[index]
    assert messages([*HELLO, silent])["messages"][1]["content"] is None


def test_thinking_is_told_again_within_a_turn_of_tools_only() -> None:
    within = messages([*HELLO, ASKS, *user(TOLD)])["messages"]
    assert within[1]["reasoning_content"] == "hm"
    later = messages([*HELLO, ASKS, *user(TOLD, text("and now?"))])["messages"]
    assert "reasoning_content" not in later[1]
    spared = messages([*HELLO, ASKS, *user(TOLD)], thoughts=False)["messages"]
    assert "reasoning_content" not in spared[1]


def test_tools_become_functions_without_those_anthropic_defines() -> None:
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
            {"type": "web_search_20250305", "name": "web_search"},
            {"type": "bash_20250124", "name": "bash"},
        ],
        tool_choice={"type": "tool", "name": "web_search"},
    )
    empty = {"type": "object", "properties": {}}
    assert body["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}},
        {"type": "function", "function": {"name": "g", "parameters": empty}},
    ]
    assert "tool_choice" not in body
    only = messages(tools=[{"type": "bash_20250124", "name": "bash"}], tool_choice={"type": "any"})
    assert not {"tools", "tool_choice"} & set(only)


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
    for _ in range(300):
        deep = {"a": deep}
    turn = {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "a", "name": "f", "input": deep}],
    }
    with pytest.raises(UpstreamError) as caught:
        messages([*HELLO, turn])
    assert caught.value.fault is Fault.BAD_REQUEST


# There and back

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(
    lambda said: bool(said.strip()) and said == said.strip()
)
PICTURES = st.sampled_from([f"data:image/png;base64,{PNG}", "https://x.example/y.png"])
SHOWN = st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, PICTURES)
INPUTS = st.dictionaries(WORDS, st.one_of(st.integers(-99, 99), WORDS, st.booleans()), max_size=3)


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


KEYS = st.sampled_from(
    [
        *("role", "content", "type", "text", "source", "data", "url", "tool_calls", "function"),
        *("name", "arguments", "input", "id", "thinking", "image_url", "file", "signature"),
        *("tool_use_id", "media_type", "thinking_blocks", "is_error", "title", "file_data"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
KINDS = st.sampled_from(
    [
        *("text", "image", "document", "tool_use", "tool_result", "thinking", "image_url", "file"),
        *("search_result", "redacted_thinking", "refusal", "tool_reference", "server_tool_use"),
    ]
)
BLOCKS = st.dictionaries(KEYS, JSON, max_size=5).flatmap(
    lambda block: KINDS.map(lambda kind: {**block, "type": kind})
)
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
    for translate in (chat_to_messages, messages_to_chat):
        made = refused_or(translate, ChatCall(body, "m", False, True, SIZE))
        if isinstance(made, UpstreamError):
            assert made.fault is Fault.BAD_REQUEST
            assert made.param
        else:
            assert orjson.dumps(made)
            written = ChatCall(made, "m", False, True, SIZE, Dialect.MESSAGES)
            assert anthropic.request(written, "claude-haiku-4-5")


@given(TURNS, FIELDS)
def test_whatever_is_asked_natively_is_written(turns: list[Any], fields: dict[str, Any]) -> None:
    body = {"messages": turns, **fields}
    asked = ChatCall(body, "m", False, True, SIZE, Dialect.MESSAGES)
    for model in ("claude-opus-4-7", "claude-haiku-4-5", "claude-sonnet-4-6"):
        assert anthropic.request(asked, model)


# Whole answers


def completion(finish: str = "stop", **message: Any) -> ChatAnswer:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    body = {"id": f"chatcmpl-{ID}", "model": MODEL, "choices": [choice]}
    return ChatAnswer(body, Usage(1, output=2), 7)


@pytest.mark.parametrize(
    ("finish", "message", "content", "stop"),
    [
        ("stop", {"content": "hi"}, [text("hi")], "end_turn"),
        ("length", {"content": "hi"}, [text("hi")], "max_tokens"),
        ("content_filter", {"content": "hi"}, [text("hi")], "refusal"),
        ("stop", {"content": None, "refusal": "no"}, [text("no")], "refusal"),
        ("stop", {"content": [text("a"), text("b")]}, [text("ab")], "end_turn"),
        ("stop", {"content": None}, [], "end_turn"),
        (
            "tool_calls",
            {"content": "", "tool_calls": [call("a", "f", '{"x":1}'), call("b", "g", "")]},
            [
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "g", "input": {}},
            ],
            "tool_use",
        ),
        (
            "stop",
            {"tool_calls": [call("a", "f", '{"cut')]},
            [{"type": "tool_use", "id": "a", "name": "f", "input": {"arguments": '{"cut'}}],
            "tool_use",
        ),
        (
            "stop",
            {"content": "hi", "reasoning_content": "hm"},
            [{"type": "thinking", "thinking": "hm", "signature": ""}, text("hi")],
            "end_turn",
        ),
        (
            "stop",
            {"content": "hi", "reasoning": "hm"},
            [{"type": "thinking", "thinking": "hm", "signature": ""}, text("hi")],
            "end_turn",
        ),
    ],
)
def test_a_completion_becomes_a_message(
    finish: str, message: dict[str, Any], content: list[Any], stop: str
) -> None:
    answer = answer_as_messages(completion(finish, **message))
    assert answer.body == {
        "id": f"msg_{ID}",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
    }
    assert (answer.usage, answer.output_bytes) == (Usage(1, output=2), 7)


def test_the_sequence_that_stopped_a_model_is_told_where_its_server_tells() -> None:
    answer = completion(content="hi")
    answer.body["choices"][0]["stop_reason"] = "END"
    body = answer_as_messages(answer).body
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "END")


def message(stop: str = "end_turn", *content: Any) -> ChatAnswer:
    body = {"id": f"msg_{ID}", "model": MODEL, "content": list(content), "stop_reason": stop}
    return ChatAnswer(body, Usage(1, output=2), 7)


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "length"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
    ],
)
def test_every_reason_to_stop_is_one_to_finish(stop: str, finish: str) -> None:
    answer = answer_as_chat(message(stop, text("hi")), created=17)
    assert answer.body["choices"][0]["finish_reason"] == finish
    assert answer.body["created"] == 17
    assert (answer.usage, answer.output_bytes) == (Usage(1, output=2), 7)


def test_a_message_becomes_a_completion() -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": "s"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}
    said = [signed, redacted, text("Look"), text("ing."), use]
    body = answer_as_chat(message("tool_use", *said)).body
    assert body["id"] == f"chatcmpl-{ID}"
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Looking.",
                "refusal": None,
                "reasoning_content": "hm",
                "thinking_blocks": [signed, redacted],
                "tool_calls": [call("a", "f", '{"x":1}')],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ]
    assert answer_as_chat(message()).body["choices"][0]["message"]["content"] == ""
    alone = answer_as_chat(message("tool_use", use)).body["choices"][0]["message"]
    assert alone["content"] is None


def test_what_a_client_sends_back_is_what_claude_said() -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": "s"}
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}
    said = [signed, text("ok"), use]
    turn = answer_as_chat(message("tool_use", *said)).body["choices"][0]["message"]
    assert chat([*HELLO, turn])["messages"][1]["content"] == said


@given(st.lists(BLOCKS | JSON, max_size=4), JSON)
def test_whatever_is_answered_is_translated(blocks: list[Any], odd: Any) -> None:
    for answer in (
        answer_as_chat(message("end_turn", *blocks)),
        answer_as_messages(
            completion(content=odd, tool_calls=blocks, reasoning=odd, function_call=odd)
        ),
    ):
        assert orjson.dumps(answer.body)
    with pytest.raises(UpstreamError) as caught:
        answer_as_messages(ChatAnswer({"choices": odd}, None, 0))
    assert caught.value.fault is Fault.BROKEN


# Streams


class Told:
    """A message put together from Anthropic's events, which must come in their strict order."""

    def __init__(self) -> None:
        self.start: dict[str, Any] | None = None
        self.content: list[dict[str, Any]] = []
        self.kinds: list[str] = []
        self.ending: Any = None
        self.usage: Usage | None = None
        self.output_bytes = 0
        self._open = False
        self._json = ""

    def take(self, chunk: Chunk) -> None:
        self.output_bytes += chunk.output_bytes
        self.usage = chunk.usage or self.usage
        assert self.ending is None or not chunk.events, "nothing follows the ending"
        for raw in chunk.events:
            head, _, data = raw.partition(b"\ndata: ")
            body = json.loads(data)
            assert head == b"event: " + body["type"].encode()
            assert b"\n" not in data
            self._take(body)
        if chunk.ending is not None:
            assert not self._open
            assert chunk.finished
            self.ending = dict(chunk.ending)

    def _take(self, body: dict[str, Any]) -> None:
        self.kinds.append(body["type"])
        match body["type"]:
            case "message_start":
                assert self.start is None
                self.start = body["message"]
            case "ping":
                assert self.start is not None
            case "content_block_start":
                assert self.start is not None
                assert not self._open
                assert body["index"] == len(self.content)
                self._open, self._json = True, ""
                self.content.append(body["content_block"])
            case "content_block_delta":
                assert self._open
                assert body["index"] == len(self.content) - 1
                self._delta(self.content[-1], body["delta"])
            case "content_block_stop":
                assert self._open
                assert body["index"] == len(self.content) - 1
                self._open = False
                if self._json:
                    self.content[-1]["input"] = self._json
            case other:
                raise AssertionError(other)

    def _delta(self, block: dict[str, Any], delta: dict[str, Any]) -> None:
        kind = {"text_delta": "text", "thinking_delta": "thinking"}.get(delta["type"])
        if kind is None:
            assert delta["type"] == "input_json_delta"
            assert block["type"] == "tool_use"
            self._json += delta["partial_json"]
            return
        assert block["type"] == kind
        block[kind] += delta[kind]


def as_messages(*reads: bytes) -> Told:
    """A stream of OpenAI's dialect as Anthropic's clients get it."""
    decoder, stream, told = openai.StreamDecoder(MODEL, ID, 1), StreamAsMessages(MODEL, ID), Told()
    for data in reads:
        chunk = decoder.feed(data)
        if chunk is not None:
            told.take(stream.take(chunk))
    assert decoder.complete
    return told


def sse(*deltas: Any, finish: str | None = "stop", **choice: Any) -> bytes:
    def event(delta: Any, finish: str | None = None, **more: Any) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish, **more}]
        return b"data: " + orjson.dumps({"id": "x", "model": "y", "choices": choices}) + b"\n\n"

    ended = event({}, finish, **choice) if finish else b""
    return b"".join(event(delta) for delta in deltas) + ended + b"data: [DONE]\n\n"


def piece(index: Any, arguments: str | None = None, **fields: Any) -> dict[str, Any]:
    """A delta with a piece of a tool call."""
    names = {"name": fields.pop("name")} if "name" in fields else {}
    said = {} if arguments is None else {"arguments": arguments}
    return {"tool_calls": [{"index": index, **fields, "function": {**names, **said}}]}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_s_stream_reads_like_anthropic_s(provider: str) -> None:
    data = (RECORDED / provider / "stream.sse").read_bytes()
    expected = json.loads((RECORDED / provider / "stream.expected.json").read_text())
    told = as_messages(data)
    assert told.kinds[:2] == ["message_start", "ping"]
    assert told.start is not None
    assert (told.start["id"], told.start["model"]) == (f"msg_{ID}", MODEL)
    assert told.start["stop_reason"] is None
    said = [block["text"] for block in told.content if block["type"] == "text"]
    assert "".join(said) == expected["text"]
    assert told.usage == Usage(*expected["usage"])
    assert told.ending == {"stop_reason": "end_turn", "stop_sequence": None}


def test_thinking_text_and_tools_come_in_blocks_of_their_own() -> None:
    told = as_messages(
        sse(
            {"role": "assistant", "content": ""},
            {"reasoning_content": "Hm"},
            {"reasoning_content": "."},
            {"content": "Let "},
            {"content": "me."},
            piece(0, "", id="a", name="f"),
            piece(0, '{"x"'),
            piece(0, ": 1}"),
            piece(1, "", id="b", name="g"),
            piece(1, "{}"),
            finish="tool_calls",
        )
    )
    assert told.content == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        text("Let me."),
        {"type": "tool_use", "id": "a", "name": "f", "input": '{"x": 1}'},
        {"type": "tool_use", "id": "b", "name": "g", "input": "{}"},
    ]
    assert told.ending == {"stop_reason": "tool_use", "stop_sequence": None}


def test_a_tool_s_arguments_stream_as_they_come() -> None:
    stream, told = StreamAsMessages(MODEL, ID), Told()
    decoder = openai.StreamDecoder(MODEL, ID, 1)
    came = []
    for delta in (piece(0, "", id="a", name="f"), piece(0, '{"x"'), piece(0, ":1}")):
        chunk = decoder.feed(sse(delta, finish=None).removesuffix(b"data: [DONE]\n\n"))
        assert chunk is not None
        made = stream.take(chunk)
        told.take(made)
        came.append(len(made.events))
    assert came == [3, 1, 1]


@pytest.mark.parametrize(
    ("deltas", "inputs"),
    [
        # interleaved
        (
            [
                piece(0, '{"a":', id="a", name="f"), piece(1, '{"b":', id="b", name="g"),
                piece(0, "1}"), piece(1, "2}"),
            ],
            [("a", "f", '{"a":1}'), ("b", "g", '{"b":2}')],
        ),
        # all heads first
        (
            [
                piece(0, id="a", name="f"), piece(1, id="b", name="g"),
                piece(1, '{"b":2}'), piece(0, '{"a":1}'),
            ],
            [("a", "f", '{"a":1}'), ("b", "g", '{"b":2}')],
        ),
        # Google: every call whole and under the same index
        (
            [piece(0, '{"a":1}', id="a", name="f"), piece(0, '{"b":2}', id="b", name="f")],
            [("a", "f", '{"a":1}'), ("b", "f", '{"b":2}')],
        ),
        # without ids
        (
            [piece(0, '{"a":1}', name="f"), piece(0, '{"b":2}', name="f")],
            [(f"call_{ID}_0", "f", '{"a":1}'), (f"call_{ID}_1", "f", '{"b":2}')],
        ),
        # id and name with every piece
        (
            [piece(0, '{"a"', name="f", id="a"), piece(0, ":1}", name="f", id="a")],
            [("a", "f", '{"a":1}')],
        ),
        # no arguments at all
        (
            [piece(0, id="a", name="f"), piece(1, id="b", name="g")],
            [("a", "f", {}), ("b", "g", {})],
        ),
        # the old way
        (
            [{"function_call": {"name": "f", "arguments": '{"a"'}},
             {"function_call": {"arguments": ":1}"}}],
            [(f"call_{ID}_0", "f", '{"a":1}')],
        ),
        # no index, arguments as an object
        (
            [{"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"a": 1}}}]}],
            [("a", "f", '{"a":1}')],
        ),
    ],
)  # fmt: skip
def test_parallel_calls_come_apart_however_they_are_sent(
    deltas: list[Any], inputs: list[Any]
) -> None:
    told = as_messages(sse(*deltas, finish="tool_calls"))
    assert [(use["id"], use["name"], use["input"]) for use in told.content] == inputs
    assert told.ending["stop_reason"] == "tool_use"


def test_what_is_said_during_a_call_is_said_after_it() -> None:
    told = as_messages(sse(piece(0, '{"a"', id="a", name="f"), {"content": "so"}, piece(0, ":1}")))
    assert told.content == [
        {"type": "tool_use", "id": "a", "name": "f", "input": '{"a":1}'},
        text("so"),
    ]
    blank = as_messages(sse(piece(0, "{}", id="a", name="f"), {"content": "\n"}))
    assert len(blank.content) == 1


@pytest.mark.parametrize(
    ("deltas", "finish", "choice", "ending"),
    [
        ([{"content": "x"}], "length", {}, ("max_tokens", None)),
        ([{"content": "x"}], "content_filter", {}, ("refusal", None)),
        ([{"refusal": "no"}], "stop", {}, ("refusal", None)),
        ([{"content": "x"}], "stop", {"stop_reason": "END"}, ("stop_sequence", "END")),
        ([{"content": "x"}], "stop", {"stop_reason": 128009}, ("end_turn", None)),
        ([piece(0, "{}", id="a", name="f")], "stop", {}, ("tool_use", None)),
        ([], "stop", {}, ("end_turn", None)),
    ],
)
def test_a_stream_ends_for_its_reason(
    deltas: list[Any], finish: str, choice: dict[str, Any], ending: Any
) -> None:
    told = as_messages(sse(*deltas, finish=finish, **choice))
    assert (told.ending["stop_reason"], told.ending["stop_sequence"]) == ending


def test_only_the_first_choice_is_told() -> None:
    other = {"index": 1, "delta": {"content": "other"}, "finish_reason": None}
    event = b"data: " + orjson.dumps({"id": "x", "model": "y", "choices": [other]}) + b"\n\n"
    assert as_messages(event + sse({"content": "mine"})).content == [text("mine")]


def test_the_likely_input_stands_at_the_beginning() -> None:
    chunk = Chunk([b'data: {"choices":[{"delta":{"content":"x"}}]}'], 1, False, None)
    first = StreamAsMessages(MODEL, ID, likely_input=321).take(chunk).events[0]
    usage = json.loads(first.partition(b"data: ")[2])["message"]["usage"]
    assert usage["input_tokens"] == 321


@st.composite
def tool_streams(draw: st.DrawFn) -> tuple[list[Any], list[tuple[str, str]]]:
    """Calls whose pieces are dealt in any order that keeps each call's own."""
    inputs = draw(st.lists(INPUTS, min_size=1, max_size=4))
    queues = []
    for index, arguments in enumerate(inputs):
        written = orjson.dumps(arguments).decode()
        cuts = sorted(draw(st.sets(st.integers(1, len(written) - 1), max_size=3)))
        parts = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]
        queue = [piece(index, parts[0], id=f"id-{index}", name=f"f{index}")]
        queues.append(queue + [piece(index, part) for part in parts[1:]])
    dealt = [queue.pop(0) for queue in queues] if draw(st.booleans()) else []
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        dealt.append(queue.pop(0))
    first = []
    for delta in dealt:
        index = delta["tool_calls"][0]["index"]
        if index not in first:
            first.append(index)
    return dealt, [(f"id-{i}", orjson.dumps(inputs[i]).decode()) for i in first]


@given(tool_streams())
def test_calls_in_any_order_come_whole(
    stream: tuple[list[Any], list[tuple[str, str]]],
) -> None:
    deltas, expected = stream
    told = as_messages(sse(*deltas, finish="tool_calls"))
    assert [(use["id"], use["input"]) for use in told.content] == expected


@given(st.data())
def test_a_stream_cut_into_any_reads_tells_the_same(data: st.DataObject) -> None:
    provider = data.draw(st.sampled_from(PROVIDERS))
    raw = (RECORDED / provider / "stream.sse").read_bytes()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=20)))
    reads = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    whole, split = as_messages(raw), as_messages(*reads)
    assert (split.content, split.ending, split.kinds) == (whole.content, whole.ending, whole.kinds)


class Chatted:
    """A chat message put together from chunks, as OpenAI's client does it."""

    def __init__(self) -> None:
        self.text = ""
        self.thoughts = ""
        self.signed: list[Any] = []
        self.calls: list[dict[str, Any]] = []
        self.finish: str | None = None
        self.bodies: list[dict[str, Any]] = []
        self.usage: Usage | None = None
        self.output_bytes = 0

    def take(self, chunk: Chunk) -> None:
        self.usage = chunk.usage or self.usage
        self.output_bytes += chunk.output_bytes
        assert chunk.ending is None
        for raw in chunk.events:
            assert self.finish is None, "nothing follows the finish"
            body = json.loads(raw.removeprefix(b"data: "))
            self.bodies.append(body)
            (choice,) = body["choices"]
            delta = choice["delta"]
            self.text += delta.get("content") or ""
            self.thoughts += delta.get("reasoning_content") or ""
            self.signed += delta.get("thinking_blocks") or []
            for part in delta.get("tool_calls") or ():
                if part["index"] == len(self.calls):
                    self.calls.append(part)
                else:
                    said = part["function"]["arguments"]
                    self.calls[part["index"]]["function"]["arguments"] += said
            self.finish = choice["finish_reason"]


def as_chat(*reads: bytes) -> Chatted:
    """A stream of Anthropic's as OpenAI's clients get it."""
    decoder, stream, told = (
        anthropic.StreamDecoder(MODEL, ID),
        StreamAsChat(MODEL, ID, created=17),
        Chatted(),
    )
    for data in reads:
        chunk = decoder.feed(data)
        if chunk is not None:
            told.take(stream.take(chunk))
    return told


def test_claude_s_stream_reads_like_openai_s() -> None:
    told = as_chat((RECORDED / "anthropic" / "tools.sse").read_bytes())
    assert told.text == 'Let me look — both at once "id":"msg_x".'
    assert told.thoughts == "Two cities: ask for both. 東京"
    assert told.signed == [
        {"type": "thinking", "thinking": told.thoughts, "signature": "EqQBCkYIAhgCKkA="}
    ]
    assert told.calls == [
        {"index": 0, **call("toolu_01KFbKqPYSuAKujiL6mTfzYA", "weather", '{"city": "Oslo"}')},
        {"index": 1, **call("toolu_02", "clock", "{}")},
    ]
    assert told.finish == "tool_calls"
    assert told.usage == Usage(849, 18000, 1024, 87, 60)
    assert told.bodies[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    heads = {"id": f"chatcmpl-{ID}", "object": "chat.completion.chunk", "created": 17}
    for body in told.bodies:
        assert {**body, **heads, "model": MODEL} == body


@given(st.data())
def test_claude_s_stream_cut_into_any_reads_tells_the_same(data: st.DataObject) -> None:
    raw = (
        RECORDED / "anthropic" / f"{data.draw(st.sampled_from(['tools', 'text']))}.sse"
    ).read_bytes()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=20)))
    reads = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    whole, split = as_chat(raw), as_chat(*reads)
    assert split.bodies == whole.bodies
    assert (split.usage, split.output_bytes) == (whole.usage, whole.output_bytes)


def native(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)


def test_blocks_that_openai_has_no_word_for_are_left_out() -> None:
    told = as_chat(
        native(
            {"type": "message_start", "message": {}},
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "server_tool_use", "name": "web_search", "input": {}},
            },
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "input_json_delta", "partial_json": '{"q":1}'},
            },
            {"type": "content_block_stop", "index": 0},
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "redacted_thinking", "data": "x"},
            },
            {"type": "content_block_stop", "index": 1},
            {
                "type": "content_block_start",
                "index": 2,
                "content_block": {"type": "text", "text": "hi"},
            },
            {"type": "content_block_glow", "index": 2},
            {"type": "content_block_stop", "index": 2},
            {"type": "message_delta", "delta": {"stop_reason": "refusal"}},
            {"type": "message_delta", "delta": {"stop_reason": "refusal"}},
        )
    )
    assert (told.text, told.calls) == ("hi", [])
    assert told.signed == [{"type": "redacted_thinking", "data": "x"}]
    assert told.finish == "content_filter"


def test_a_call_that_comes_whole_is_passed_on_whole() -> None:
    block = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}
    told = as_chat(
        native(
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        )
    )
    assert told.calls == [{"index": 0, **call("a", "f", '{"x":1}')}]


def test_an_answer_that_says_nothing_is_one() -> None:
    told = as_chat(native({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}))
    assert told.finish == "stop"
    assert told.bodies[0]["choices"][0]["delta"]["role"] == "assistant"


@given(st.lists(st.dictionaries(KEYS, JSON, max_size=5), max_size=4))
def test_whatever_a_stream_brings_is_translated(deltas: list[dict[str, Any]]) -> None:
    events = [
        b"data: " + orjson.dumps({"choices": [{"delta": delta}], "content_block": delta})
        for delta in deltas
    ]
    made = StreamAsMessages(MODEL, ID).take(Chunk(list(events), 0, False, None))
    assert all(event.startswith(b"event: ") for event in made.events)
    named = [
        b"event: x\ndata: " + orjson.dumps({"type": kind, "delta": delta, "content_block": delta})
        for delta in deltas
        for kind in ("content_block_start", "content_block_delta", "content_block_stop")
    ]
    chatted = StreamAsChat(MODEL, ID).take(Chunk(named, 0, False, None))
    assert all(event.startswith(b"data: ") for event in chatted.events)
