"""A chat of OpenAI's dialect as a Messages body: nothing that both have words for is lost."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.upstreams.wire.translation import GO_ON, JSON_ONLY
from kyma.calls import Fault, UpstreamError
from tests.wire.translating import HELLO, PNG, call, chat, text, user


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


def test_tools_come_with_a_schema() -> None:
    own = {"type": "bash_20250124", "name": "bash"}
    custom = {"type": "custom", "custom": {"name": "c", "description": "d"}}
    body = chat(
        tools=[
            {"type": "function", "function": {"name": "f", "strict": True}},
            {**TOOL, "cache_control": {"type": "ephemeral"}},
            custom,
            own,
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
    "tool",
    [
        {"type": "web_search"},
        {"type": "web_search_preview"},
        {"type": "web_search_20250305", "name": "web_search"},
        {"type": "web_fetch_20250910", "name": "web_fetch"},
        {"type": "mcp_toolset", "mcp_server_name": "x"},
        {"type": "mcp", "server_url": "https://x"},
        {"type": "function", "name": "f", "parameters": {}},
        {"type": "function", "function": {"name": "$web_search"}},
        {"type": "builtin_function", "function": {"name": "f"}},
        {"google_search": {}},
        {"type": {}, "name": "f"},
        7,
    ],
    ids=str,
)
def test_a_tool_that_somebody_else_runs_is_refused_by_name(tool: Any) -> None:
    with pytest.raises(UpstreamError) as caught:
        chat(tools=[TOOL, tool])
    assert (caught.value.fault, caught.value.param) == (Fault.BAD_REQUEST, "tools[1].type")


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
