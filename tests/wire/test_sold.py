"""What a caller cannot buy with our account, whichever provider is asked."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from adapters.upstreams.providers import PROVIDERS
from adapters.upstreams.wire import openai
from adapters.upstreams.wire.sold import is_another
from kyma.calls import ChatCall, Dialect, Fault, Size, UpstreamError
from kyma.catalog.text import TEXT_MODELS

HELLO = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def sent(provider: str, /, **fields: Any) -> dict[str, Any]:
    """The body that a provider of the table gets."""
    row = PROVIDERS[provider]
    call = ChatCall({"messages": HELLO, **fields}, "ours", False, False, Size(1, 2, 9))
    raw = openai.request(
        call,
        "theirs",
        max_tokens_field=row.max_tokens_field,
        drops=row.drops,
        marks=row.marks,
    )
    found: dict[str, Any] = json.loads(raw)
    return found


BOUGHT = [
    ("openrouter", {"models": ["openai/gpt-5-pro"]}),
    ("openrouter", {"provider": {"order": ["X"]}}),
    ("openrouter", {"route": "fallback"}),
    ("openrouter", {"plugins": [{"id": "web"}]}),
    ("openrouter", {"web_search_options": {}}),
    ("openrouter", {"transforms": ["middle-out"]}),
    ("openrouter", {"preset": "mine"}),
    ("openrouter", {"debug": {"echo_upstream_body": True}}),
    ("alibaba", {"enable_search": True}),
    ("alibaba", {"search_options": {"forced_search": True}}),
    ("alibaba", {"enable_code_interpreter": True}),
    ("alibaba", {"vl_high_resolution_images": True}),
    ("deepinfra", {"mm_processor_kwargs": {"max_pixels": 10**9}}),
    ("local", {"media_io_kwargs": {"video": {"num_frames": 10**6}}}),
    ("groq", {"compound_custom": {"tools": {"enabled_tools": ["web_search"]}}}),
    ("groq", {"search_settings": {"include_domains": ["x"]}}),
    ("together", {"safety_model": "meta-llama/Llama-Guard-4-12B"}),
    ("google", {"extra_body": {"google": {"cached_content": "cachedContents/x"}}}),
]


@pytest.mark.parametrize(("provider", "fields"), BOUGHT)
def test_a_field_that_spends_our_money_is_not_sent(provider: str, fields: dict[str, Any]) -> None:
    body = sent(provider, **fields)
    assert not {*fields} & {*body}
    assert body["messages"] == HELLO


@pytest.mark.parametrize("provider", [*PROVIDERS])
def test_what_several_providers_bill_is_sent_to_none(provider: str) -> None:
    fields = {"service_tier": "priority", "web_search_options": {}, "enable_search": True}
    assert not {*fields} & {*sent(provider, **fields, plugins=[1], models=["x"], fallbacks=["y"])}


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_thoughts_are_bounded_where_max_tokens_bounds_the_text_alone(field: str) -> None:
    body = sent("alibaba", **{field: 16})
    assert (body["max_completion_tokens"], "max_tokens" in body) == (16, False)


def test_a_picture_is_looked_at_as_finely_as_is_sold() -> None:
    fine = {"min_pixels": 1, "max_pixels": 16_777_216}
    picture = {"type": "image_url", "image_url": {"url": "https://x/a.png", **fine}, **fine}
    film = {"type": "video_url", "video_url": {"url": "https://x"}, "total_pixels": 9, "fps": 2}
    arguments = {"max_pixels": 5, "cache_control": {"ttl": "1h"}}
    said = {"role": "user", "content": [picture, film]}
    called = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"x": arguments}}]}
    body = sent("alibaba", messages=[said, called], tools=[TOOL])
    assert body["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
        {"type": "video_url", "video_url": {"url": "https://x"}, "fps": 2},
    ]
    assert body["messages"][1] == called
    assert picture["max_pixels"] == 16_777_216, "the caller's own body was changed"


def test_fields_that_nobody_knows_still_reach_the_model() -> None:
    fields = {"x_new": {"deep": [1]}, "max_price": 1, "n": 2, "reasoning": {"effort": "low"}}
    body = sent("openrouter", **fields)
    assert {name: body[name] for name in fields} == fields


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "openrouter:web_search"},
        {"type": "web_search", "web_search": {"enable": True}},
        {"type": "web_search_preview"},
        {"type": "browser_search"},
        {"type": "code_interpreter"},
        {"type": "retrieval", "retrieval": {"knowledge_id": "x"}},
        {"type": "mcp", "server_url": "https://x"},
        {"type": "builtin_function", "function": {"name": "$web_search"}},
        {"type": "function", "function": {"name": "$web_search"}},
        {"google_search": {}},
        {"type": ["function"]},
        {"type": {}},
        "web_search",
        None,
    ],
)
def test_a_tool_that_a_provider_runs_is_refused_by_name(tool: Any) -> None:
    with pytest.raises(UpstreamError) as caught:
        sent("openrouter", tools=[TOOL, tool])
    assert (caught.value.fault, caught.value.param) == (Fault.BAD_REQUEST, "tools[1].type")
    assert "`tools[1].type`" in caught.value.message


@pytest.mark.parametrize(
    "tool", [TOOL, {"function": {"name": "f"}}, {"type": "custom", "custom": {"name": "g"}}]
)
def test_a_tool_of_the_callers_own_reaches_the_model(tool: dict[str, Any]) -> None:
    assert sent("openrouter", tools=[tool])["tools"] == [tool]


@pytest.mark.parametrize("nothing", [None, []])
def test_no_tools_are_none(nothing: Any) -> None:
    assert sent("groq", tools=nothing)["tools"] == nothing


def test_a_cached_prefix_lives_for_minutes_wherever_it_is_cached() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    part = {"type": "text", "text": 'say "ttl"', "cache_control": mark}
    body = sent("openrouter", messages=[{"role": "user", "content": [part]}], cache_control=mark)
    assert body["cache_control"] == {"type": "ephemeral"}
    told = {"type": "text", "text": 'say "ttl"', "cache_control": {"type": "ephemeral"}}
    assert body["messages"][0]["content"] == [told]


# Which model answered


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        # As OpenRouter names them (2026-04 to 2026-09).
        ("anthropic/claude-sonnet-4.6", "anthropic/claude-4.6-sonnet-20260217"),
        ("anthropic/claude-haiku-4.5", "anthropic/claude-4.5-haiku-20251001"),
        ("anthropic/claude-opus-4.7", "anthropic/claude-4.7-opus-20260416"),
        ("qwen/qwen3-coder", "qwen/qwen3-coder-480b-a35b-07-25"),
        ("qwen/qwen3-32b", "qwen/qwen3-32b-04-28"),
        ("moonshotai/kimi-k2.5", "moonshotai/kimi-k2.5-0127"),
        ("google/gemini-3-flash-preview", "google/gemini-3-flash-preview-20251217"),
        ("google/gemini-3-flash-preview", "google/gemini-3-flash"),
        ("deepseek/deepseek-r1-0528", "deepseek/deepseek-r1-0528:free"),
        ("openai/gpt-oss-120b", "openai/gpt-oss-120b"),
        ("meta-llama/llama-3.3-70b-instruct", "Llama-3.3-70B-Instruct"),
        ("z-ai/glm-4.5-air", "z-ai/glm-4.5-air"),
    ],
)
def test_another_name_of_the_same_model_is_no_other_model(asked: str, told: str) -> None:
    assert not is_another(asked, told)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("qwen/qwen3-coder", "openai/gpt-5-pro"),
        ("qwen/qwen3-coder", "qwen/qwen3-coder-plus"),
        ("deepseek/deepseek-v4-flash", "deepseek/deepseek-v4-pro"),
        ("deepseek/deepseek-chat-v3.1", "deepseek/deepseek-chat-v3.2"),
        ("anthropic/claude-haiku-4.5", "anthropic/claude-4.7-opus-20260416"),
        ("anthropic/claude-sonnet-4.6", "anthropic/claude-4.7-sonnet-20260601"),
        ("moonshotai/kimi-k2", "moonshotai/kimi-k2.5"),
        ("z-ai/glm-4.5-air", "z-ai/glm-4.5"),
        ("openai/gpt-oss-120b", "other/gpt-oss-120b"),
        ("openai/gpt-oss-120b", "openai/gpt-oss-20b"),
    ],
)
def test_another_version_tier_or_maker_is_another_model(asked: str, told: str) -> None:
    assert is_another(asked, told)


def test_the_models_that_are_resold_are_not_mistaken_for_each_other() -> None:
    resold = {
        route.upstream_model
        for model in TEXT_MODELS
        for route in model.routes
        if PROVIDERS[route.provider].resells
    }
    assert len(resold) > 15
    for asked in resold:
        assert {told for told in resold if not is_another(asked, told)} == {asked}


ANSWER = {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}
ASKED, THEIRS = "qwen/qwen3-coder", "openai/gpt-5-pro"


def test_an_answer_of_another_model_is_a_broken_one() -> None:
    raw = orjson.dumps({**ANSWER, "model": THEIRS})
    with pytest.raises(UpstreamError) as caught:
        openai.answer(raw, "ours", "1", asked=ASKED)
    assert caught.value.fault is Fault.BROKEN
    assert openai.answer(raw, "ours", "1").body["model"] == "ours"


@pytest.mark.parametrize("model", [ASKED, None, "", 7])
def test_an_answer_of_the_same_model_or_of_no_name_is_one(model: Any) -> None:
    raw = orjson.dumps({**ANSWER, "model": model})
    assert openai.answer(raw, "ours", "1", asked=ASKED).body["model"] == "ours"


def test_a_stream_of_another_model_is_broken_before_its_first_word() -> None:
    def event(model: str) -> bytes:
        choices = [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]
        return b"data: " + orjson.dumps({"id": "x", "model": model, "choices": choices}) + b"\n\n"

    decoder = openai.StreamDecoder("ours", "1", 1, asked=ASKED)
    assert decoder.feed(event(ASKED)) is not None
    with pytest.raises(UpstreamError) as caught:
        decoder.feed(event(THEIRS))
    assert caught.value.fault is Fault.BROKEN
    with pytest.raises(UpstreamError):
        openai.StreamDecoder("ours", "1", 1, asked=ASKED).feed(event(THEIRS))


def test_only_who_resells_is_held_to_the_name_of_its_model() -> None:
    assert [row.name for row in PROVIDERS.values() if row.resells] == ["openrouter"]


def test_tools_of_a_legacy_body_are_looked_at_too() -> None:
    call = ChatCall(
        {"prompt": "hi", "tools": [{"type": "web_search"}]},
        *("ours", False, False, Size(1, 2, 9), Dialect.COMPLETIONS),
    )
    with pytest.raises(UpstreamError):
        openai.request(call, "theirs")
