"""The Responses API over the chat dialect, held to the official client's own types."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from typing import Any

import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from adapters.http.dialects.responses_tools import flat_name
from kyma.errors import Code, Refusal
from tests.http.responses_builders import (
    DIALECT,
    FUNCTION,
    MODEL,
    NAMESPACE,
    PATCH,
    a_body,
    a_call,
    a_ticket,
    chunk,
    ended,
    parsed,
    served,
    streamed,
    whole,
)

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
DEEP: list[Any] = []
for _ in range(980):
    DEEP = [DEEP]
BEGUN = ["response.created", "response.in_progress"]
TEXT = "response.output_text"
THOUGHT = "response.reasoning_summary"
ADDED, DONE = "response.output_item.added", "response.output_item.done"
PART_ADDED, PART_DONE = "response.content_part.added", "response.content_part.done"
ARGUMENTS = "response.function_call_arguments"
CUSTOM = "response.custom_tool_call_input"
INTERRUPTED = Refusal(Code.STREAM_INTERRUPTED, "The provider's stream broke off.")


def tool_call(index: int | None, **fields: Any) -> dict[str, Any]:
    function = {name: fields.pop(name) for name in ("name", "arguments") if name in fields}
    return {"tool_calls": [{"index": index, "type": "function", "function": function, **fields}]}


def refused(**fields: Any) -> Refusal:
    body = {name: value for name, value in a_body(**fields).items() if value is not ...}

    def ask() -> None:
        DIALECT.model(body)
        DIALECT.call(body, MODEL)

    with pytest.raises(Refusal) as raised:
        ask()
    return raised.value


def checked(written: list[bytes]) -> list[dict[str, Any]]:
    """The events, parsed by the client's types, numbered without a gap."""
    events = parsed(written)
    for event in events:
        EVENT.validate_python(event, strict=True)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


# ── what is sent to a model ──────────────────────────────────────────────────────────────


def test_a_string_and_instructions_are_a_system_and_a_user_message() -> None:
    call = a_call(instructions="Be brief.")
    assert call.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    assert (call.model, call.stream, call.wants_usage) == (MODEL.id, False, False)


def test_what_codex_sends_becomes_a_chat_request() -> None:
    call = a_call(
        instructions="You are a coding agent.",
        input=[
            {"type": "message", "role": "developer", "content": [text_in("Sandbox: on.")]},
            {"type": "message", "role": "user", "content": [text_in("Fix the bug.")]},
        ],
        tools=[FUNCTION, PATCH, NAMESPACE, {"type": "web_search", "external_web_access": True}],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "high", "summary": "auto"},
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="conversation-1",
        text={"verbosity": "low"},
        client_metadata={"x-codex-installation-id": "machine"},
        service_tier="priority",
    )
    tools = call.body["tools"]
    assert {name: value for name, value in call.body.items() if name != "tools"} == {
        "model": MODEL.id,
        "messages": [
            {"role": "system", "content": "You are a coding agent.\n\nSandbox: on."},
            {"role": "user", "content": "Fix the bug."},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning_effort": "high",
        "stream": True,
        "prompt_cache_key": "conversation-1",
        "verbosity": "low",
        "max_tokens": 16_384,
    }
    names = ["weather", "apply_patch", "mcp__files__read"]
    assert [tool["function"]["name"] for tool in tools] == names
    assert {tool["type"] for tool in tools} == {"function"}
    assert "start: begin_patch" in tools[1]["function"]["description"]
    assert tools[1]["function"]["parameters"]["required"] == ["input"]
    shown = call.echo["tools"]
    assert [tool["type"] for tool in shown] == ["function", "custom", "namespace"]


def text_in(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def test_a_turn_of_thought_text_and_calls_is_one_message_followed_by_its_outputs() -> None:
    call = a_call(
        tools=[FUNCTION, PATCH, NAMESPACE],
        input=[
            {"role": "user", "content": "Go."},
            {"type": "reasoning", "id": "rs_1", "summary": [summary("Two calls.")]},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "I look."}],
            },
            {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "b", "name": "apply_patch", "input": "*** x"},
            {
                "type": "function_call",
                "call_id": "c",
                "name": "read",
                "namespace": "mcp__files",
                "arguments": '{"path":"/"}',
            },
            {
                "type": "function_call_output",
                "call_id": "a",
                "output": [
                    text_in("Sunny."),
                    {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
                ],
            },
            {"role": "user", "content": "Hurry."},
            {"type": "function_call_output", "call_id": "c", "output": "none"},
            {"type": "custom_tool_call_output", "call_id": "b", "output": "Done!"},
            {"role": "user", "content": "And now?"},
        ],
    )
    roles = [message["role"] for message in call.body["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "tool", "user", "user", "user"]
    _, said, first, second, third, picture, hurry, last = call.body["messages"]
    assert said["content"] == "I look."
    assert said["reasoning_content"] == "Two calls."
    calls = {made["id"]: made["function"] for made in said["tool_calls"]}
    assert calls["a"] == {"name": "weather", "arguments": "{}"}
    assert calls["b"] == {"name": "apply_patch", "arguments": '{"input":"*** x"}'}
    assert calls["c"]["name"] == "mcp__files__read"
    answered = [(message["tool_call_id"], message["content"]) for message in (first, second, third)]
    assert answered == [("a", "Sunny."), ("c", "none"), ("b", "Done!")]
    assert picture["content"][1]["type"] == "image_url"
    assert (hurry["content"], last["content"]) == ("Hurry.", "And now?")


def summary(text: str) -> dict[str, str]:
    return {"type": "summary_text", "text": text}


def test_calls_that_were_made_one_after_the_other_stay_apart() -> None:
    items: list[dict[str, Any]] = [{"role": "user", "content": "Go."}]
    for id in ("a", "b"):
        items.append({"type": "reasoning", "summary": [summary(f"Think of {id}.")]})
        items.append({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"})
        items.append({"type": "function_call_output", "call_id": id, "output": id})
    messages = a_call(input=items).body["messages"]
    roles = [message["role"] for message in messages]
    assert roles == ["user", "assistant", "tool", "assistant", "tool"]
    assert [m["reasoning_content"] for m in messages if m["role"] == "assistant"] == [
        "Think of a.",
        "Think of b.",
    ]


def test_two_texts_of_the_assistant_are_two_messages_and_a_lone_thought_is_none() -> None:
    items = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "On."},
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
        {"type": "reasoning", "summary": [summary("Hm.")]},
        {"role": "user", "content": "Well?"},
    ]
    messages = a_call(input=items).body["messages"]
    assert [message["content"] for message in messages] == ["Go.", "One.", "Two.", "On.", "Well?"]
    assert not any("reasoning_content" in message for message in messages)


HEARING = replace(MODEL, input_modalities=("text", "audio"))


def test_a_sound_is_refused_for_a_model_that_is_sold_none() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    with pytest.raises(Refusal) as caught:
        a_call(input=[{"role": "user", "content": [text_in("Hear."), sound]}])
    assert (caught.value.code, caught.value.param) == (Code.INVALID_VALUE, "input")


def test_pictures_files_and_sound_are_chat_parts() -> None:
    content = [
        text_in("See."),
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    call = a_call(HEARING, input=[{"role": "user", "content": content}])
    assert call.body["messages"][0]["content"] == [
        {"type": "text", "text": "See."},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
        {
            "type": "file",
            "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"},
        },
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    assert call.size.worst_input == MODEL.context_window


def test_bounds_formats_and_unknown_fields_reach_the_model() -> None:
    schema = {"type": "object", "properties": {}}
    call = a_call(
        max_output_tokens=100,
        temperature=0.3,
        top_p=0.9,
        top_logprobs=2,
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
        metadata={"team": "a"},
        enable_thinking=False,
        stop=["x"],
        user="u1",
        truncation="auto",
        n=3,
    )
    body = dict(call.body)
    assert body.pop("messages")
    assert body == {
        "model": MODEL.id,
        "max_tokens": 100,
        "temperature": 0.3,
        "top_p": 0.9,
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": schema, "strict": True},
        },
        "enable_thinking": False,
        "stop": ["x"],
        "user": "u1",
    }
    assert (call.size.max_output, call.size.choices) == (100, 1)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "weather"}, "weather"),
        ({"type": "custom", "name": "apply_patch"}, "apply_patch"),
        ({"type": "function", "name": "read", "namespace": "mcp__files"}, "mcp__files__read"),
    ],
)
def test_a_choice_of_tool_is_told_in_chat_words(choice: Any, expected: str) -> None:
    call = a_call(tools=[FUNCTION, PATCH, NAMESPACE], tool_choice=choice)
    told = call.body["tool_choice"]
    assert (told if isinstance(told, str) else told["function"]["name"]) == expected
    assert call.echo["tool_choice"] == choice


def test_allowed_tools_are_the_only_ones_offered() -> None:
    allowed = [{"type": "custom", "name": "apply_patch"}, {"type": "web_search"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": allowed}
    call = a_call(tools=[FUNCTION, PATCH], tool_choice=choice)
    assert [tool["function"]["name"] for tool in call.body["tools"]] == ["apply_patch"]
    assert call.body["tool_choice"] == "required"
    assert [tool["type"] for tool in call.echo["tools"]] == ["function", "custom"]


def test_without_tools_nothing_is_said_of_them() -> None:
    call = a_call(tools=[], tool_choice="auto", parallel_tool_calls=True)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(call.body)


def test_tools_may_come_with_the_input() -> None:
    items = [
        {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]},
        {"role": "user", "content": "Hello"},
    ]
    assert a_call(input=items).body["tools"][0]["function"]["name"] == "weather"


def test_long_names_are_cut_to_what_chat_takes_and_stay_apart() -> None:
    long = [flat_name("mcp__" + "x" * 60, name) for name in ("read", "write")]
    assert [len(name) for name in long] == [64, 64]
    assert long[0] != long[1]
    assert long[0] == flat_name("mcp__" + "x" * 60, "read")


# ── what is refused ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": ...}, Code.MISSING_FIELD, "model"),
        ({"model": 7}, Code.INVALID_TYPE, "model"),
        ({"input": ...}, Code.MISSING_FIELD, "input"),
        ({"input": None}, Code.MISSING_FIELD, "input"),
        ({"input": {}}, Code.INVALID_TYPE, "input"),
        ({"input": ""}, Code.INVALID_VALUE, "input"),
        ({"input": []}, Code.INVALID_VALUE, "input"),
        ({"input": [7]}, Code.INVALID_TYPE, "input[0]"),
        ({"input": [{}]}, Code.MISSING_FIELD, "input[0].type"),
        ({"input": [{"type": []}]}, Code.INVALID_VALUE, "input[0].type"),
        ({"input": [{"type": "computer_call"}]}, Code.INVALID_VALUE, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "m"}]}, Code.INVALID_VALUE, "input[0]"),
        ({"input": [{"id": "msg_1"}]}, Code.INVALID_VALUE, "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, Code.INVALID_VALUE, "input"),
        ({"input": [{"role": "tool", "content": ""}]}, Code.INVALID_VALUE, "input[0].role"),
        ({"input": [{"role": "user"}]}, Code.MISSING_FIELD, "input[0].content"),
        ({"input": [{"role": "user", "content": 7}]}, Code.INVALID_TYPE, "input[0].content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            Code.MISSING_FIELD,
            "input[0].content[0].text",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "video"}]}]},
            Code.INVALID_VALUE,
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            Code.INVALID_VALUE,
            "input[0].content[0].file_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}]},
            Code.INVALID_VALUE,
            "input[0].content[0].file_url",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]},
            Code.INVALID_VALUE,
            "input[0].call_id",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "x", "name": "f"}]},
            Code.MISSING_FIELD,
            "input[0].arguments",
        ),
        ({"previous_response_id": "resp_1"}, Code.INVALID_VALUE, "previous_response_id"),
        ({"conversation": {"id": "c"}}, Code.INVALID_VALUE, "conversation"),
        ({"prompt": {"id": "p"}}, Code.INVALID_VALUE, "prompt"),
        ({"background": True}, Code.INVALID_VALUE, "background"),
        ({"moderation": {"model": "m"}}, Code.INVALID_VALUE, "moderation"),
        ({"messages": []}, Code.INVALID_VALUE, "messages"),
        ({"max_tokens": 5}, Code.INVALID_VALUE, "max_tokens"),
        ({"max_output_tokens": 0}, Code.INVALID_VALUE, "max_output_tokens"),
        ({"max_output_tokens": "9"}, Code.INVALID_TYPE, "max_output_tokens"),
        ({"temperature": 3}, Code.INVALID_VALUE, "temperature"),
        ({"stream": 1}, Code.INVALID_TYPE, "stream"),
        ({"instructions": ["x"]}, Code.INVALID_TYPE, "instructions"),
        ({"metadata": {"a": 1}}, Code.INVALID_TYPE, "metadata"),
        ({"metadata": {"a" * 65: "b"}}, Code.INVALID_VALUE, "metadata"),
        ({"metadata": {str(n): "b" for n in range(17)}}, Code.INVALID_VALUE, "metadata"),
        ({"text": {"format": {"type": "grammar"}}}, Code.INVALID_VALUE, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, Code.INVALID_TYPE, "text.format.schema"),
        ({"reasoning": {"effort": 1}}, Code.INVALID_TYPE, "reasoning.effort"),
        ({"reasoning": {"depth": DEEP}}, Code.INVALID_REQUEST, None),
        ({"tools": {}}, Code.INVALID_TYPE, "tools"),
        ({"tools": [[]]}, Code.INVALID_TYPE, "tools[0]"),
        ({"tools": [{"type": "function"}]}, Code.MISSING_FIELD, "tools[0].name"),
        ({"tool_choice": "weather"}, Code.INVALID_VALUE, "tool_choice"),
        ({"tool_choice": "required"}, Code.INVALID_VALUE, "tool_choice"),
        ({"tool_choice": {"type": []}}, Code.INVALID_VALUE, "tool_choice.type"),
        (
            {"tool_choice": {"type": "function", "name": "x"}},
            Code.INVALID_VALUE,
            "tool_choice.name",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_name(
    fields: dict[str, Any], code: Code, param: str | None
) -> None:
    refusal = refused(**fields)
    assert (refusal.code, refusal.param) == (code, param)
    assert (param or "JSON").split(".")[0].split("[")[0] in refusal.message
    envelope = DIALECT.refusal(refusal, "r1")["error"]
    assert (envelope["code"], envelope["param"], envelope["charged"]) == (code.value, param, False)


@pytest.mark.parametrize(
    "kind",
    ["file_search", "code_interpreter", "computer_use_preview", "mcp", "local_shell", "shell"],
)
def test_a_hosted_tool_is_refused_by_its_name(kind: str) -> None:
    refusal = refused(tools=[FUNCTION, {"type": kind}])
    assert refusal.param == "tools[1].type"
    assert f"`{kind}`" in refusal.message


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview", "image_generation"])
def test_what_agents_always_declare_is_left_out_beside_tools_of_their_own(kind: str) -> None:
    call = a_call(tools=[{"type": kind}, FUNCTION])
    assert [tool["type"] for tool in call.echo["tools"]] == ["function"]
    refusal = refused(tools=[{"type": kind}])
    assert refusal.param == "tools[0].type"
    forced = refused(tools=[{"type": kind}, FUNCTION], tool_choice={"type": kind})
    assert forced.param == "tool_choice.type"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "call_id", "output", "name", "tools", "text", "summary"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
TYPES = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "namespace", "custom"]
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["input", "tools", "tool_choice", "text", "reasoning", "metadata", "include", "stream"]
        ),
        ANYTHING
        | st.lists(
            st.builds(
                lambda kind, more: {"type": kind, **more},
                TYPES,
                st.dictionaries(
                    st.sampled_from(
                        ["name", "content", "role", "summary", "tools", "arguments", "call_id"]
                    ),
                    ANYTHING,
                    max_size=4,
                ),
            ),
            max_size=3,
        ),
        max_size=5,
    )
)
def test_any_body_is_served_or_refused_and_never_breaks(fields: dict[str, Any]) -> None:
    body = a_body(**fields)
    messages: Any = "refused"
    with contextlib.suppress(Refusal):
        DIALECT.model(body)
        messages = DIALECT.call(body, MODEL).body["messages"]
    assert messages


# ── whole answers ────────────────────────────────────────────────────────────────────────


def test_a_whole_answer_is_a_response_of_the_official_client() -> None:
    answer = whole(
        {"content": "Hello!", "reasoning_content": "A greeting."},
        instructions="Be brief.",
        metadata={"team": "a"},
        tools=[FUNCTION, PATCH, NAMESPACE],
        store=True,
        temperature=0.5,
    )
    response = Response.model_validate(answer, strict=True)
    assert response.id == "resp_r1"
    assert response.status == "completed"
    assert response.output_text == "Hello!"
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert answer["output"][0]["summary"] == [summary("A greeting.")]
    assert (answer["store"], answer["metadata"]) == (False, {"team": "a"})
    assert (response.instructions, response.temperature) == ("Be brief.", 0.5)
    assert answer["usage"] == {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 10},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 108,
        "cached_tokens": 20,
        "cache_write_tokens": 10,
        "cost": 0.000116,
        "cost_usd": "0.000116",
        "cache_discount": 0.000018,
    }


def test_calls_come_back_under_the_names_that_the_caller_knows() -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
        {"id": "b", "function": {"name": "apply_patch", "arguments": '{"input":"*** a\\n"}'}},
        {"id": "c", "function": {"name": "mcp__files__read", "arguments": '{"path":"/"}'}},
        {"id": "d", "function": {"name": "invented", "arguments": ""}},
    ]
    answer = whole(
        {"content": None, "tool_calls": calls}, "tool_calls", tools=[FUNCTION, PATCH, NAMESPACE]
    )
    Response.model_validate(answer, strict=True)
    shown = [
        {name: item.get(name) for name in ("type", "call_id", "name", "namespace", "status")}
        for item in answer["output"]
    ]
    assert [tuple(item.values()) for item in shown] == [
        ("function_call", "a", "weather", None, "completed"),
        ("custom_tool_call", "b", "apply_patch", None, "completed"),
        ("function_call", "c", "read", "mcp__files", "completed"),
        ("function_call", "d", "invented", None, "completed"),
    ]
    assert answer["output"][1]["input"] == "*** a\n"
    assert answer["output"][3]["arguments"] == "{}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"input":"a"}', "a"),
        ('{"patch":"a"}', "a"),
        ('"a"', "a"),
        ("*** Begin Patch", "*** Begin Patch"),
        ('{"input":7}', '{"input":7}'),
        ('{"input":"cut', '{"input":"cut'),
        ("[1]", "[1]"),
    ],
)
def test_the_input_of_a_custom_tool_is_found_in_whatever_a_model_wrote(
    arguments: str, expected: str
) -> None:
    call = {"id": "a", "function": {"name": "apply_patch", "arguments": arguments}}
    answer = whole({"tool_calls": [call]}, "tool_calls", tools=[PATCH])
    assert answer["output"][0]["input"] == expected


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("length", "max_output_tokens"),
        ("content_filter", "content_filter"),
        ("network_error", "max_output_tokens"),  # no wire passes it on; complete it never is
    ],
)
def test_an_answer_that_was_cut_is_incomplete(reason: str, told: str) -> None:
    answer = whole({"content": "Hel"}, reason)
    Response.model_validate(answer, strict=True)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": told}
    assert answer["output"][0]["status"] == "incomplete"


def test_a_refusal_of_the_model_is_a_part_of_its_message() -> None:
    answer = whole({"content": None, "refusal": "I will not."})
    Response.model_validate(answer, strict=True)
    assert answer["output"][0]["content"] == [{"type": "refusal", "refusal": "I will not."}]


def test_probabilities_are_shown_to_who_asked() -> None:
    token = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}
    events = [
        chunk({"content": "Hi"}, logprobs={"content": [token]}),
        chunk(reason="stop"),
    ]
    asked = checked(streamed(events, include=["message.output_text.logprobs"]))
    assert next(e for e in asked if e["type"] == f"{TEXT}.delta")["logprobs"][0]["token"] == "Hi"
    assert asked[-1]["response"]["output"][0]["content"][0]["logprobs"] == [token]
    unasked = checked(streamed(events))
    assert unasked[-1]["response"]["output"][0]["content"][0]["logprobs"] == []


# ── streams ──────────────────────────────────────────────────────────────────────────────

SAID = [PART_ADDED, f"{TEXT}.delta", f"{TEXT}.delta", f"{TEXT}.done", PART_DONE]
THOUGHT_OF = [
    ADDED,
    f"{THOUGHT}_part.added",
    f"{THOUGHT}_text.delta",
    f"{THOUGHT}_text.delta",
    f"{THOUGHT}_text.done",
    f"{THOUGHT}_part.done",
    DONE,
]
HELLO = [chunk({"role": "assistant", "content": "Hel"}), chunk({"content": "lo"})]
THINKING = [chunk({"reasoning_content": "A "}), chunk({"reasoning_content": "greeting."})]
STOP = [chunk({}, "stop")]


def test_the_events_of_a_text() -> None:
    events = checked(streamed([*HELLO, *STOP]))
    assert types(events) == [*BEGUN, ADDED, *SAID, DONE, "response.completed"]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"
    assert events[0]["response"]["status"] == "in_progress"
    assert events[-1]["response"]["usage"]["cost_usd"] == "0.000116"


def test_the_events_of_a_thought_and_a_text() -> None:
    events = checked(streamed([*THINKING, *HELLO, *STOP]))
    assert types(events) == [*BEGUN, *THOUGHT_OF, ADDED, *SAID, DONE, "response.completed"]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message"]


def test_the_events_of_one_call() -> None:
    events = checked(
        streamed(
            [
                chunk(tool_call(0, id="a", name="weather", arguments="")),
                chunk(tool_call(0, arguments='{"place":')),
                chunk(tool_call(0, arguments='"Hanoi"}')),
                chunk({}, "tool_calls"),
            ],
            tools=[FUNCTION],
        )
    )
    assert types(events) == [
        *BEGUN,
        ADDED,
        f"{ARGUMENTS}.delta",
        f"{ARGUMENTS}.delta",
        f"{ARGUMENTS}.done",
        DONE,
        "response.completed",
    ]
    assert events[2]["item"]["name"] == "weather"
    assert events[-1]["response"]["output"][0]["arguments"] == '{"place":"Hanoi"}'


def test_the_events_of_two_calls_at_once_after_a_text() -> None:
    events = checked(
        streamed(
            [
                *HELLO,
                chunk(tool_call(0, id="a", name="weather", arguments="{")),
                chunk(tool_call(1, id="b", name="weather", arguments="{")),
                chunk(tool_call(0, arguments="}")),
                chunk(tool_call(1, arguments="}")),
                chunk({}, "tool_calls"),
            ],
            tools=[FUNCTION],
        )
    )
    closed = [f"{ARGUMENTS}.done", DONE]
    delta = f"{ARGUMENTS}.delta"
    assert types(events) == [
        *BEGUN,
        ADDED,
        *SAID,
        DONE,
        *(ADDED, delta, ADDED, delta, delta, delta),
        *closed,
        *closed,
        "response.completed",
    ]
    assert [event["output_index"] for event in events if event["type"] == delta] == [1, 2, 1, 2]
    output = events[-1]["response"]["output"]
    assert [(item.get("call_id"), item.get("arguments")) for item in output] == [
        (None, None),
        ("a", "{}"),
        ("b", "{}"),
    ]


def test_the_events_of_a_custom_tool() -> None:
    events = checked(
        streamed(
            [
                chunk(tool_call(0, id="a", name="apply_patch", arguments='{"input":"*** ')),
                chunk(tool_call(0, arguments='Begin"}')),
                chunk({}, "tool_calls"),
            ],
            tools=[PATCH],
        )
    )
    assert types(events) == [
        *BEGUN,
        ADDED,
        f"{CUSTOM}.delta",
        f"{CUSTOM}.done",
        DONE,
        "response.completed",
    ]
    assert events[4]["input"] == "*** Begin"
    assert events[-1]["response"]["output"][0]["type"] == "custom_tool_call"


def test_the_events_of_an_answer_that_was_cut() -> None:
    events = checked(streamed([*HELLO, chunk({}, "length")]))
    assert types(events) == [*BEGUN, ADDED, *SAID, DONE, "response.incomplete"]
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


def test_the_events_of_a_refusal() -> None:
    events = checked(streamed([*HELLO, chunk({"refusal": "No."}), *STOP]))
    refusal = ["response.refusal.delta", "response.refusal.done"]
    assert types(events) == [
        *BEGUN,
        ADDED,
        *SAID,
        PART_ADDED,
        *refusal,
        PART_DONE,
        DONE,
        "response.completed",
    ]
    content = events[-1]["response"]["output"][0]["content"]
    assert [part["type"] for part in content] == ["output_text", "refusal"]


@pytest.mark.parametrize("before", [[], HELLO])
def test_a_failure_is_never_followed_by_a_clean_end(before: list[bytes]) -> None:
    events = checked(streamed(before, failure=INTERRUPTED))
    assert types(events)[:2] == BEGUN
    assert types(events)[-2:] == ["response.failed", "error"]
    failed, error = events[-2], events[-1]
    assert failed["response"]["error"]["code"] == "server_error"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["usage"] is None
    assert (error["code"], error["message"]) == ("stream_interrupted", INTERRUPTED.message)
    assert error["error"]["request_id"] == "r1"


def test_agents_are_told_in_their_words_that_the_prompt_is_too_long() -> None:
    too_long = Refusal(Code.CONTEXT_TOO_LONG, "Too long.", param="messages")
    events = parsed(streamed([], failure=too_long))
    error = events[-2]["response"]["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


def test_an_answer_that_says_nothing_is_complete() -> None:
    events = checked(streamed([]))
    assert types(events) == [*BEGUN, "response.completed"]
    assert events[-1]["response"]["output"] == []


@pytest.mark.parametrize(
    "odd",
    [
        chunk({"content": None, "tool_calls": None, "reasoning_content": None}),
        chunk({"content": [{"type": "text", "text": ""}, 7], "tool_calls": [None, 7, {}]}),
        chunk({"tool_calls": [{"index": "x", "function": None}]}),
        chunk({"tool_calls": {}, "refusal": 7, "reasoning": {}}),
        chunk({"content": ""}, 7, logprobs=[]),
        b"data: " + orjson.dumps({"choices": []}),
        b"data: " + orjson.dumps({"choices": None, "model": None}),
        b"data: " + orjson.dumps({"choices": [None, {"delta": None}, {"index": 1, "delta": {}}]}),
        b"data: []",
        b"data: [DONE]",
        b"event: x",
    ],
)
def test_odd_chunks_change_nothing(odd: bytes) -> None:
    events = checked(streamed([odd, *HELLO, odd, *STOP, odd]))
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"
    assert len(events[-1]["response"]["output"]) == 1


@pytest.mark.parametrize(
    "deltas",
    [
        # no number, and the id in the first piece only
        [
            {"tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": "{"}}]},
            {"tool_calls": [{"function": {"arguments": "}"}}]},
            {"tool_calls": [{"id": "b", "function": {"name": "weather", "arguments": "{}"}}]},
        ],
        # all numbered 0, each in one piece
        [
            tool_call(0, id="a", name="weather", arguments="{}"),
            tool_call(0, id="b", name="weather", arguments="{}"),
        ],
        # the id and the name again with every piece
        [
            tool_call(0, id="a", name="weather", arguments="{"),
            tool_call(0, id="a", name="weather", arguments="}"),
            tool_call(1, id="b", name="weather", arguments="{}"),
        ],
        # whole, and whole once more: at once or after another one
        [
            tool_call(0, id="a", name="weather", arguments="{}"),
            tool_call(0, id="a", name="weather", arguments="{}"),
            tool_call(0, id="b", name="weather", arguments="{}"),
            tool_call(0, id="a", name="weather", arguments="{}"),
        ],
        # the name after the first arguments, arguments as an object
        [
            tool_call(0, id="a", arguments="{"),
            tool_call(0, name="weather", arguments="}"),
            tool_call(1, id="b", name="weather", arguments={}),
        ],
    ],
)
def test_calls_are_told_apart_however_they_are_numbered(deltas: list[dict[str, Any]]) -> None:
    events = checked(streamed([*map(chunk, deltas), chunk({}, "tool_calls")], tools=[FUNCTION]))
    output = events[-1]["response"]["output"]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in output] == [
        ("a", "weather", "{}"),
        ("b", "weather", "{}"),
    ]


@pytest.mark.parametrize(
    ("deltas", "calls"),
    [
        (
            [
                tool_call(0, name="weather", arguments='{"a":1}'),
                tool_call(0, name="weather", arguments='{"b":'),
                tool_call(0, arguments="2}"),
            ],
            [("weather", '{"a":1}'), ("weather", '{"b":2}')],
        ),
        # no number either, and the name with every piece
        (
            [
                tool_call(None, name="weather", arguments='{"a":'),
                tool_call(None, name="weather", arguments="1}"),
                tool_call(None, name="clock", arguments=""),
                tool_call(None, arguments='{"b":2}'),
            ],
            [("weather", '{"a":1}'), ("clock", '{"b":2}')],
        ),
        # arguments in none or in the last only
        (
            [
                tool_call(0, name="weather", arguments=""),
                tool_call(0, name="clock", arguments=""),
            ],
            [("weather", "{}"), ("clock", "{}")],
        ),
        (
            [
                tool_call(0, name="weather"),
                tool_call(0, name="clock"),
                tool_call(0, arguments='{"b":2}'),
            ],
            [("weather", "{}"), ("clock", '{"b":2}')],
        ),
        # the name alone, then an id with all of it, once or with every piece
        (
            [
                tool_call(0, name="weather", arguments=""),
                tool_call(0, id="a", name="weather", arguments='{"a":1}'),
            ],
            [("weather", '{"a":1}')],
        ),
        (
            [
                tool_call(0, name="weather"),
                tool_call(0, id="a", name="weather", arguments='{"a"'),
                tool_call(0, id="a", name="weather", arguments=":1}"),
                tool_call(0, id="b", name="weather", arguments='{"b":2}'),
            ],
            [("weather", '{"a":1}'), ("weather", '{"b":2}')],
        ),
        # an id after the first arguments is another call's, if the first one has a name
        (
            [
                tool_call(0, name="weather", arguments='{"a":1}'),
                tool_call(0, id="b", name="weather", arguments='{"b":2}'),
            ],
            [("weather", '{"a":1}'), ("weather", '{"b":2}')],
        ),
        (
            [
                tool_call(0, arguments='{"a"'),
                tool_call(0, id="a", name="weather", arguments=":1}"),
            ],
            [("weather", '{"a":1}')],
        ),
        # the name again after the end, and nothing more
        (
            [
                tool_call(0, id="", name="weather", arguments='{"a":1}'),
                tool_call(0, id="", name="weather", arguments=""),
                tool_call(0, id="", arguments=" "),
            ],
            [("weather", '{"a":1} ')],
        ),
        # the name again after the end, then another call's arguments
        (
            [
                tool_call(0, name="weather", arguments='{"a":1}'),
                tool_call(0, name="weather", arguments=""),
                tool_call(0, arguments='{"b":2}'),
            ],
            [("weather", '{"a":1}'), ("weather", '{"b":2}')],
        ),
    ],
)
def test_calls_without_ids_are_told_apart_by_where_one_is_whole(
    deltas: list[dict[str, Any]], calls: list[tuple[str, str]]
) -> None:
    events = checked(streamed([*map(chunk, deltas), chunk({}, "tool_calls")], tools=[FUNCTION]))
    output = events[-1]["response"]["output"]
    assert [(item["name"], item["arguments"]) for item in output] == calls
    assert len({item["call_id"] for item in output}) == len(calls)


def test_a_schema_may_hold_a_number_of_any_length() -> None:
    tool = {**FUNCTION, "parameters": {"type": "object", "x": {"maximum": 10**30}}}
    events = streamed([chunk({"content": "hi"}, "stop")], tools=[tool])
    assert b"".join(events).count(b'"maximum":1' + b"0" * 30 + b"}") == 3


def test_odd_probabilities_are_left_out_of_what_is_shown() -> None:
    odd = {"token": "a", "logprob": {"x": 1}, "bytes": [1, [2]], "top_logprobs": []}
    fields = {"include": ["message.output_text.logprobs"]}
    chunks = [chunk({"content": "a"}, "stop", logprobs={"content": [odd]})]
    part = parsed(streamed(chunks, **fields))[-1]["response"]["output"][0]["content"][0]
    assert part["logprobs"] == [{"token": "a", "logprob": 0, "bytes": [1], "top_logprobs": []}]


def test_a_call_without_an_id_gets_one() -> None:
    events = checked(streamed([chunk(tool_call(0, name="weather", arguments="{}"))]))
    assert events[-1]["response"]["output"][0]["call_id"] == "call_r1_0"


def test_comments_pass_through() -> None:
    assert DIALECT.rendering(a_ticket(stream=True)).events([b": ping"]) == b": ping\n\n"


def pieces(text: str) -> st.SearchStrategy[list[str]]:
    """The text cut at arbitrary places, empty pieces included."""

    def cut(places: list[int]) -> list[str]:
        bounds = [0, *sorted(places), len(text)]
        return [text[one:other] for one, other in itertools.pairwise(bounds)]

    return st.lists(st.integers(0, len(text)), max_size=5).map(cut)


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A message, and deltas that amount to it, with its calls shuffled into one another."""
    thought, text = draw(st.text(max_size=12)), draw(st.text(max_size=12))
    calls = draw(
        st.lists(
            st.tuples(st.sampled_from(["weather", "apply_patch"]), st.text(max_size=10)), max_size=3
        )
    )
    deltas = [{"reasoning_content": piece} for piece in draw(pieces(thought))]
    deltas += [{"content": piece} for piece in draw(pieces(text))]
    told, rest = [], []
    for index, (name, value) in enumerate(calls):
        arguments = orjson.dumps({"input": value}).decode()
        id = f"c{index}"
        told.append(
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        )
        first, *others = draw(pieces(arguments))
        deltas.append(tool_call(index, id=id, name=name, arguments=first))
        rest.append([tool_call(index, arguments=piece) for piece in others])
    order = draw(st.permutations([place for place, row in enumerate(rest) for _ in row]))
    deltas += [rest[place].pop(0) for place in order]
    message = {"reasoning_content": thought, "content": text, "tool_calls": told}
    return message, deltas


@given(answers(), st.sampled_from(["stop", "length"]))
def test_a_stream_comes_to_what_the_whole_answer_is(
    answer: tuple[dict[str, Any], list[dict[str, Any]]], reason: str
) -> None:
    message, deltas = answer
    events = checked(streamed([*map(chunk, deltas), chunk({}, reason)], tools=[FUNCTION, PATCH]))
    expected = whole(message, reason, tools=[FUNCTION, PATCH])
    assert events[-1]["response"] == expected
    done = [event["item"] for event in events if event["type"] == DONE]
    assert done == expected["output"]
    assert sorted(accumulated(events).items()) == sorted(texts_of(expected).items())


def accumulated(events: list[dict[str, Any]]) -> dict[int, str]:
    """All deltas of each item, joined."""
    texts: dict[int, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            texts[event["output_index"]] = texts.get(event["output_index"], "") + event["delta"]
    return {index: text for index, text in texts.items() if text}


def texts_of(response: dict[str, Any]) -> dict[int, str]:
    found = {}
    for index, item in enumerate(response["output"]):
        parts = item.get("content") or item.get("summary") or [{}]
        found[index] = parts[0].get("text") or item.get("arguments") or item.get("input") or ""
    return {index: text for index, text in found.items() if text}


# ── the official client, over TCP ────────────────────────────────────────────────────────


async def test_the_official_client_reads_a_whole_answer() -> None:
    async with served(whole({"content": "Hello!"})) as client:
        response = await client.responses.create(model=MODEL.id, input="Hello")
    assert response.output_text == "Hello!"
    assert response.usage is not None
    assert response.usage.total_tokens == 108


async def test_the_official_client_accumulates_a_stream() -> None:
    written = streamed(
        [
            *THINKING,
            *HELLO,
            chunk(tool_call(0, id="a", name="weather", arguments='{"place":')),
            chunk(tool_call(1, id="b", name="apply_patch", arguments='{"input":"x"}')),
            chunk(tool_call(0, arguments='"Hanoi"}')),
            chunk({}, "tool_calls"),
        ],
        tools=[FUNCTION, PATCH],
    )
    snapshots = []
    async with (
        served(written) as client,
        client.responses.stream(model=MODEL.id, input="Hello") as stream,
    ):
        async for event in stream:
            if hasattr(event, "snapshot"):
                snapshots.append(event.snapshot)
        final = await stream.get_final_response()
    assert snapshots == ["Hel", "Hello", '{"place":', '{"place":"Hanoi"}']
    assert final.output_text == "Hello"
    assert [item.type for item in final.output] == [
        "reasoning",
        "message",
        "function_call",
        "custom_tool_call",
    ]
    assert final.output[0].summary[0].text == "A greeting."


async def test_the_official_client_raises_on_a_stream_that_broke() -> None:
    seen: list[str] = []
    async with served(streamed(HELLO, failure=INTERRUPTED)) as client:
        stream = await client.responses.create(model=MODEL.id, input="Hello", stream=True)

        async def read() -> None:
            async for event in stream:
                seen.append(event.type)

        with pytest.raises(openai.APIError) as raised:
            await read()
    assert raised.value.message == INTERRUPTED.message
    assert raised.value.code == "stream_interrupted"
    assert seen[-1] == "response.failed"
    assert "response.completed" not in seen


async def test_the_official_client_sees_an_incomplete_stream() -> None:
    async with served(streamed([*HELLO, chunk({}, "length")])) as client:
        stream = await client.responses.create(model=MODEL.id, input="Hello", stream=True)
        events = [event async for event in stream]
    assert events[-1].type == "response.incomplete"


def test_the_end_tells_the_model_that_served() -> None:
    rendering = DIALECT.rendering(a_ticket(stream=True))
    events = checked([rendering.events(HELLO), rendering.end(ended())])
    models = {event["response"]["model"] for event in events if "response" in event}
    assert models == {MODEL.id}
