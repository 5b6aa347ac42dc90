"""How large a call may be, before any tokenizer has seen it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kyma.calls import (
    DEFAULT_MAX_TOKENS,
    MESSAGE_OVERHEAD_TOKENS,
    size_of,
    size_of_messages,
    size_of_prompt,
)
from kyma.media import LIKELY_PICTURE_TOKENS, PICTURE_TOKENS
from kyma.tools import DEFINED_TOOL_TOKENS, TOOL_PROMPT_TOKENS

WINDOW = 128_000
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
TEXTS = st.text(max_size=300)
PARTS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXTS),
    st.just(PICTURE),
    st.just({"type": "input_audio", "input_audio": {"data": "AAAA"}}),
    st.just({"type": 7}),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"])},
        optional={
            "content": st.one_of(st.none(), TEXTS, st.lists(PARTS, max_size=4)),
            "name": TEXTS,
            "tool_calls": st.lists(st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=2),
        },
    ),
    max_size=6,
)
BODIES = st.fixed_dictionaries(
    {"messages": MESSAGES},
    optional={
        "max_tokens": st.one_of(st.none(), st.integers(1, 10**7)),
        "max_completion_tokens": st.integers(1, 10**7),
        "n": st.one_of(st.none(), st.integers(1, 128)),
        "tools": st.lists(st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=2),
        "response_format": st.dictionaries(TEXTS, TEXTS, max_size=2),
    },
)


def body(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


@given(BODIES, st.integers(1, 2_000_000))
def test_the_worst_case_is_never_below_the_likely_one_nor_above_the_window(
    body: dict[str, Any], window: int
) -> None:
    size = size_of(body, window)
    assert 0 <= size.likely_input <= size.worst_input <= window
    assert 1 <= size.max_output <= window * (body.get("n") or 1)


@given(TEXTS)
def test_every_byte_of_text_may_be_a_token(text: str) -> None:
    size = size_of(body(text), WINDOW)
    written = len(text.encode("utf-8", "surrogatepass"))
    assert size.worst_input == written + MESSAGE_OVERHEAD_TOKENS
    assert size.likely_input == -(-written // 4) + MESSAGE_OVERHEAD_TOKENS


@pytest.mark.parametrize(
    ("text", "written"),
    [("", 0), ("hello", 5), ("é", 2), ("漢字", 6), ("👩‍🚀", 11), ("\ud800", 3)],
)
def test_unicode_is_counted_in_bytes(text: str, written: int) -> None:
    assert size_of(body(text), WINDOW).worst_input == written + MESSAGE_OVERHEAD_TOKENS


def test_a_picture_counts_as_a_picture_and_not_as_its_base64() -> None:
    size = size_of(body([{"type": "text", "text": "see"}, PICTURE]), WINDOW)
    assert size.worst_input == 3 + PICTURE_TOKENS + MESSAGE_OVERHEAD_TOKENS
    assert size.likely_input == 1 + LIKELY_PICTURE_TOKENS + MESSAGE_OVERHEAD_TOKENS


def test_a_picture_weighs_what_the_model_that_reads_most_of_one_reads_of_it() -> None:
    """4,784 tokens (Claude, from 4.7 on), and not so many that a slip would go unseen."""
    chat, message = body([PICTURE] * 3), said(*[IMAGE] * 3)
    for size in (size_of(chat, WINDOW), size_of_messages(message, WINDOW)):
        pictures = size.worst_input - MESSAGE_OVERHEAD_TOKENS
        assert 3 * 4_784 <= pictures < 3 * 4_784 + 300
        assert size.likely_input < size.worst_input


@pytest.mark.parametrize("kind", ["application/pdf", "audio/mp3", "VIDEO/mp4", "", "text/plain"])
def test_what_is_packed_as_a_picture_and_is_none_may_fill_the_window(kind: str) -> None:
    uri = f"data:{kind};base64,AAAA"
    for part in (
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "image_url", "image_url": uri},
        {"type": "input_image", "image_url": uri.replace("data", "DATA")},
    ):
        assert size_of(body([part]), WINDOW).worst_input == WINDOW
    block = {"type": "image", "source": {"type": "base64", "media_type": kind, "data": "AAAA"}}
    assert size_of_messages(said(block), WINDOW).worst_input == WINDOW


@pytest.mark.parametrize(
    "given", ["https://x/a.png", "data:image/webp;base64,AAAA", "DATA:Image/PNG;base64,AAAA", None]
)
def test_a_picture_by_any_other_address_is_one(given: str | None) -> None:
    part = {"type": "image_url", "image_url": {"url": given}}
    assert size_of(body([part]), WINDOW).worst_input == PICTURE_TOKENS + MESSAGE_OVERHEAD_TOKENS


@pytest.mark.parametrize("name", ["image_url", "video_url", "file", "input_audio", "audio_url"])
@pytest.mark.parametrize("kind", [{}, {"type": "text", "text": "abc"}])
def test_a_medium_is_held_for_whatever_its_part_says_it_is(kind: dict[str, Any], name: str) -> None:
    part = {**kind, name: {"url": "https://x/y"}}
    assert size_of(body([part]), WINDOW).worst_input == WINDOW


@pytest.mark.parametrize(
    "name", ["image_url", "video_url", "file", "input_audio", "audio", "image"]
)
def test_a_text_with_an_empty_field_for_a_medium_is_a_text(name: str) -> None:
    part = {"type": "text", "text": "abc", name: None, "source": "https://x/handbook.mp3"}
    assert size_of(body([part]), WINDOW).worst_input == 3 + MESSAGE_OVERHEAD_TOKENS


@pytest.mark.parametrize("kind", ["input_audio", "video_url", "file", "something new"])
def test_other_media_may_fill_the_window(kind: str) -> None:
    assert size_of(body([{"type": kind}]), WINDOW).worst_input == WINDOW


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 400}}]},
        {"functions": [{"name": "f", "description": "x" * 400}]},
        {"response_format": {"type": "json_schema", "json_schema": {"d": "x" * 400}}},
    ],
    ids=["tools", "functions", "response_format"],
)
def test_tools_and_schemas_are_part_of_the_prompt(extra: dict[str, Any]) -> None:
    plain, more = size_of(body(), WINDOW), size_of(body(**extra), WINDOW)
    assert more.worst_input >= plain.worst_input + 400
    assert more.likely_input >= plain.likely_input + 100


@pytest.mark.parametrize(
    "extra",
    [
        {"documents": [{"text": "x" * 400}]},
        {"prediction": {"type": "content", "content": "x" * 400}},
        {"chat_template_kwargs": {"note": "x" * 400}},
        {"guided_json": {"properties": {"x" * 400: {}}}},
        {"guided_grammar": "x" * 400},
        {"extra_body": {"guided_regex": "x" * 400}},
        {"x_nobody_knows": "x" * 400},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_whatever_else_a_provider_may_show_the_model_is_part_of_the_prompt(
    extra: dict[str, Any],
) -> None:
    plain, more = size_of(body(), WINDOW), size_of(body(**extra), WINDOW)
    assert plain.worst_input + 400 <= more.worst_input < plain.worst_input + 500
    prompt = {"prompt": ["a", "b"]}
    legacy, told = size_of_prompt(prompt, WINDOW), size_of_prompt(prompt | extra, WINDOW)
    assert told.worst_input >= legacy.worst_input + 2 * 400


@pytest.mark.parametrize(
    "field",
    [
        *({"model": "m" * 400}, {"user": "u" * 400}, {"stop": ["s" * 400]}, {"seed": 10**9}),
        *({"metadata": {"k": "v" * 400}}, {"logit_bias": {"1": 1}}, {"temperature": 0.5}),
        *({"reasoning_effort": "high"}, {"tool_choice": "auto"}, {"prompt_cache_key": "k"}),
        *({"max_cost": "0.01"}, {"stream": True}, {"x_flag": True}, {"x_none": None}),
    ],
    ids=lambda field: next(iter(field)),
)
def test_what_no_model_reads_is_not_part_of_the_prompt(field: dict[str, Any]) -> None:
    assert size_of(body(**field), WINDOW) == size_of(body(), WINDOW)


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
def test_the_tool_calls_of_earlier_turns_are_part_of_the_prompt(content: dict[str, Any]) -> None:
    calls = [{"id": "c", "function": {"name": "f", "arguments": "y" * 400}}]
    turn = {"role": "assistant", **content, "tool_calls": calls}
    size = size_of({"messages": [turn]}, WINDOW)
    assert size.worst_input >= 400 + MESSAGE_OVERHEAD_TOKENS


def test_an_input_beyond_the_window_is_clamped_to_it() -> None:
    size = size_of(body("x" * 5_000), 1_000)
    assert (size.likely_input, size.worst_input) == (1_000, 1_000)


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, DEFAULT_MAX_TOKENS),
        ({"max_tokens": None}, DEFAULT_MAX_TOKENS),
        ({"max_tokens": 1}, 1),
        ({"max_tokens": 64_000}, 64_000),
        ({"max_completion_tokens": 7}, 7),
        ({"max_completion_tokens": 7, "max_tokens": 9}, 7),
        ({"max_tokens": 10**9}, WINDOW),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"max_tokens": 10**9, "n": 2}, 2 * WINDOW),
        ({"n": None}, DEFAULT_MAX_TOKENS),
    ],
)
def test_the_output_is_what_was_asked_for_within_the_window_for_every_choice(
    fields: dict[str, Any], most: int
) -> None:
    assert size_of(body(**fields), WINDOW).max_output == most


def test_a_body_without_messages_is_measured_too() -> None:
    assert size_of({}, WINDOW).worst_input == 0


def test_a_picture_with_a_text_beside_it_is_still_a_picture() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://x/y.png"}, "text": "abcd"}
    size = size_of({"messages": [{"role": "user", "content": [part] * 50}]}, 10**9)
    assert size.worst_input >= 50 * PICTURE_TOKENS + 50 * 4


# Anthropic's Messages

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 99}}


def said(*content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}], "max_tokens": 9, **fields}


@pytest.mark.parametrize(
    ("block", "tokens"),
    [
        ({"type": "text", "text": "漢字"}, 6),
        ({"type": "text", "text": ""}, 0),
        (IMAGE, PICTURE_TOKENS),
        ({"type": "image", "source": {"type": "url", "url": "https://x"}}, PICTURE_TOKENS),
        ({"type": "tool_result", "tool_use_id": "a", "content": "abc"}, 3),
        ({"type": "tool_result", "tool_use_id": "a"}, 0),
        (
            {"type": "tool_result", "content": [{"type": "text", "text": "ab"}, IMAGE]},
            PICTURE_TOKENS + 2,
        ),
        ({"type": "document", "source": {"type": "text", "data": "abcd"}, "title": "T"}, 5),
        (
            {"type": "document", "source": {"type": "content", "content": [IMAGE]}},
            PICTURE_TOKENS,
        ),
        ({"type": "document", "source": {"type": "base64", "data": "JVBE"}}, WINDOW),
        ({"type": "document", "source": {"type": "url", "url": "https://x"}}, WINDOW),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, WINDOW),
        ({"type": "container_upload", "file_id": "f"}, WINDOW),
        ({"type": "something new"}, WINDOW),
    ],
)
def test_a_block_of_a_message_counts_by_what_it_holds(block: dict[str, Any], tokens: int) -> None:
    size = size_of_messages(said(block), WINDOW)
    assert size.worst_input == min(WINDOW, tokens + MESSAGE_OVERHEAD_TOKENS)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": "y" * 400}},
        {"type": "thinking", "thinking": "y" * 400, "signature": "s"},
        {"type": "web_search_tool_result", "content": [{"encrypted_content": "y" * 400}]},
    ],
)
def test_earlier_thinking_and_tools_are_part_of_the_prompt(block: dict[str, Any]) -> None:
    size = size_of_messages(said(block), WINDOW)
    assert 400 < size.worst_input < 600
    assert 100 < size.likely_input < 160


def test_the_system_prompt_and_the_tools_of_a_message_are_part_of_it() -> None:
    plain = size_of_messages(said(), WINDOW)
    for fields in (
        {"system": "x" * 400},
        {"system": [{"type": "text", "text": "x" * 400}]},
        {"tools": [{"name": "f", "description": "x" * 400}]},
        {"output_config": {"format": {"schema": {"d": "x" * 400}}}},
    ):
        assert size_of_messages(said(**fields), WINDOW).worst_input >= plain.worst_input + 400


@pytest.mark.parametrize(("asked", "most"), [(9, 9), (10**9, WINDOW), (None, DEFAULT_MAX_TOKENS)])
def test_the_output_of_a_message_is_what_was_asked_for_within_the_window(
    asked: int | None, most: int
) -> None:
    size = size_of_messages({**said(), "max_tokens": asked}, WINDOW)
    assert (size.max_output, size.choices) == (most, 1)


OWN = {"name": "f", "input_schema": {"type": "object"}}
DEFINED = [
    {"type": f"{kind}_20250124", "name": kind}
    for kind in ("bash", "text_editor", "computer", "memory", "browser")
]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [OWN]},
        {"functions": [{"name": "f"}]},
        {"response_format": {"type": "json_object"}},
        {"output_format": {"schema": {}}},
        {"output_config": {"format": {"schema": {}}}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_a_provider_says_of_tools_and_schemas_is_part_of_the_worst_case(
    fields: dict[str, Any],
) -> None:
    for size in (size_of, size_of_messages):
        plain, more = size(said(), WINDOW), size(said(**fields), WINDOW)
        extra = more.worst_input - plain.worst_input
        assert TOOL_PROMPT_TOKENS <= extra < TOOL_PROMPT_TOKENS + 200
        assert more.likely_input - plain.likely_input < 50


def test_an_effort_alone_brings_no_prompt_with_it() -> None:
    fields = {"output_config": {"effort": "low"}, "tools": [], "response_format": None}
    more = size_of_messages(said(**fields), WINDOW)
    assert more.worst_input - size_of_messages(said(), WINDOW).worst_input < 50


@pytest.mark.parametrize("tool", DEFINED, ids=lambda tool: tool["name"])
def test_a_tool_that_anthropic_describes_weighs_its_description(tool: dict[str, Any]) -> None:
    for size in (size_of, size_of_messages):
        one, three = size(said(tools=[tool]), WINDOW), size(said(tools=[tool] * 3), WINDOW)
        assert one.worst_input >= TOOL_PROMPT_TOKENS + DEFINED_TOOL_TOKENS
        assert three.worst_input >= one.worst_input + 2 * DEFINED_TOOL_TOKENS
        assert size(said(tools=[tool] * 512), WINDOW).worst_input == WINDOW


@pytest.mark.parametrize("tools", [["bash_1"], [None], [{"type": 7}], {"type": "bash_1"}, "bash_1"])
def test_what_is_no_tool_is_measured_all_the_same(tools: Any) -> None:
    for size in (size_of, size_of_messages):
        found = size(said(tools=tools), WINDOW)
        assert TOOL_PROMPT_TOKENS <= found.worst_input < TOOL_PROMPT_TOKENS + 100


def test_tools_nested_beyond_writing_fill_the_window() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert size_of_messages(said(tools=deep), WINDOW).worst_input == WINDOW


@pytest.mark.parametrize(
    ("size", "part"),
    [
        (size_of, {"type": "file", "file": {"filename": "a.pdf", "file_data": "A" * 60_000}}),
        (size_of, {"type": "input_audio", "input_audio": {"data": "A" * 60_000, "format": "mp3"}}),
        (
            size_of_messages,
            {
                "type": "document",
                "source": {
                    "type": "base64",
                    "media_type": "application/pdf",
                    "data": "A" * 60_000,
                },
            },
        ),
    ],
)
def test_a_document_likely_takes_what_its_pages_do_and_at_worst_the_window(
    size: Any, part: dict[str, Any]
) -> None:
    found = size({"messages": [{"role": "user", "content": [part]}]}, 200_000)
    assert 3_000 <= found.likely_input <= 6_000
    assert found.worst_input == 200_000


def test_a_document_that_is_only_named_likely_takes_some_pages() -> None:
    part = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    found = size_of_messages({"messages": [{"role": "user", "content": [part]}]}, 200_000)
    assert found.likely_input == 30_008
    assert found.worst_input == 200_000
