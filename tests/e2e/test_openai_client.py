"""The official `openai` client, unmodified, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import jsonschema
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI

from tests.e2e.conftest import Running
from tests.e2e.stack import register

MODEL = "qwen-3-32b"
HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "minLength": 1},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "unit", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest_asyncio.fixture
async def client(running: Running) -> AsyncIterator[AsyncOpenAI]:
    key = (await register(running.gateway.url))["api_key"]
    async with AsyncOpenAI(
        base_url=f"{running.gateway.url}/v1", api_key=key, max_retries=0
    ) as made:
        yield made


async def test_a_whole_answer_has_our_names_and_its_price(client: AsyncOpenAI) -> None:
    began = time.monotonic()
    raw = await client.chat.completions.with_raw_response.create(model="fast", messages=HELLO)
    waited_ms = (time.monotonic() - began) * 1000
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.id == f"chatcmpl-{raw.headers['x-kyma-request-id']}"
    assert raw.headers["x-kyma-model"] == MODEL
    assert raw.headers["x-kyma-alias"] == "fast"
    assert raw.headers["x-kyma-sandbox"] == "true"
    timing = dict(part.split(";dur=") for part in raw.headers["server-timing"].split(", "))
    took = {name: float(ms) for name, ms in timing.items()}
    assert all(0 < ms < took["total"] for name, ms in took.items() if name != "total")
    assert took["total"] < waited_ms
    ours = took["total"] - took["upstream"]
    assert float(raw.headers["x-kyma-overhead-ms"]) == pytest.approx(ours, abs=0.02)
    assert raw.headers["x-ratelimit-limit-requests"] == "30"
    assert "x-kyma-fallback" not in raw.headers
    usage = answer.usage
    assert usage is not None
    extra = usage.model_extra or {}
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    expected = usage.prompt_tokens * 0.39e-6 + usage.completion_tokens * 0.81e-6
    assert extra["cost"] == pytest.approx(expected, abs=1e-9)
    assert extra["cached_tokens"] == extra["cache_write_tokens"] == 0
    assert extra["cache_discount"] == 0


async def test_the_balance_reflects_an_answer_that_was_read(client: AsyncOpenAI) -> None:
    before = await client.get("/credits/balance", cast_to=object)
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
    after = await client.get("/credits/balance", cast_to=object)
    spent = before["balance"] - after["balance"]
    assert spent == pytest.approx(answer.usage.model_extra["cost"], abs=1e-12)
    assert after["held"] == "0"


async def test_a_stream_brings_text_usage_and_an_end(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "sandbox" in text.lower()
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert len({chunk.id for chunk in chunks}) == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.model_extra["cost"] > 0


async def test_a_stream_without_the_option_has_no_usage_chunk(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_come_back_with_arguments_of_their_schema(
    client: AsyncOpenAI, stream: bool
) -> None:
    asked = {"model": MODEL, "messages": HELLO, "tools": [WEATHER]}
    if stream:
        arguments, name, reason = "", "", None
        async for chunk in await client.chat.completions.create(stream=True, **asked):
            for call in chunk.choices[0].delta.tool_calls or ():
                name = name or call.function.name
                arguments += call.function.arguments or ""
            reason = chunk.choices[0].finish_reason or reason
    else:
        choice = (await client.chat.completions.create(**asked)).choices[0]
        call = choice.message.tool_calls[0]
        name, arguments, reason = call.function.name, call.function.arguments, choice.finish_reason
    assert (name, reason) == ("get_weather", "tool_calls")
    jsonschema.validate(json.loads(arguments), WEATHER["function"]["parameters"])


async def test_a_tool_result_is_answered_in_text(client: AsyncOpenAI) -> None:
    first = await client.chat.completions.create(model=MODEL, messages=HELLO, tools=[WEATHER])
    call = first.choices[0].message.tool_calls[0]
    answer = await client.chat.completions.create(
        model=MODEL,
        tools=[WEATHER],
        messages=[
            *HELLO,
            first.choices[0].message,
            {"role": "tool", "tool_call_id": call.id, "content": "17 degrees"},
        ],
    )
    assert "17 degrees" in answer.choices[0].message.content


async def test_json_mode_gives_json(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=HELLO, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


async def test_an_image_reaches_the_model(client: AsyncOpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    answer = await client.chat.completions.create(
        model="gemma-4-31b",
        messages=[{"role": "user", "content": [{"type": "text", "text": "What?"}, picture]}],
    )
    assert "1 image" in answer.choices[0].message.content


async def test_max_tokens_is_honoured_and_reaches_the_model(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


async def test_unknown_fields_reach_the_model(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(
            model=MODEL, messages=HELLO, extra_body={"sandbox": {"fault": "bad_request"}}
        )


async def test_a_repeated_long_prompt_is_billed_as_cached(client: AsyncOpenAI) -> None:
    long = [{"role": "user", "content": "A sentence that repeats itself. " * 400}]
    asked = {"model": MODEL, "messages": long, "max_tokens": 5}
    first = await client.chat.completions.create(**asked)
    again = await client.chat.completions.create(**asked)
    assert first.usage.model_extra["cached_tokens"] == 0
    assert again.usage.model_extra["cached_tokens"] > 1000
    assert again.usage.model_extra["cache_discount"] > 0
    assert again.usage.model_extra["cost"] < first.usage.model_extra["cost"]


@pytest.mark.parametrize(
    ("changes", "error", "status", "code", "param"),
    [
        ({"model": "no-such-model"}, openai.NotFoundError, 404, "model_not_found", "model"),
        ({"messages": []}, openai.BadRequestError, 400, "invalid_value", "messages"),
        ({"messages": "hi"}, openai.BadRequestError, 400, "invalid_type", "messages"),
        ({"max_tokens": 0}, openai.BadRequestError, 400, "invalid_value", "max_tokens"),
        ({"temperature": 3}, openai.BadRequestError, 400, "invalid_value", "temperature"),
        ({"max_tokens": 10**9, "model": "gemini-2.5-flash"}, openai.BadRequestError, 400,
         "max_single_request_exceeded", "max_tokens"),
        ({"max_tokens": 150_000, "model": "claude-opus-4-7"}, openai.APIStatusError, 402,
         "insufficient_credits", None),
    ],
)  # fmt: skip
async def test_refusals_are_the_clients_own_exceptions(
    client: AsyncOpenAI,
    changes: dict[str, object],
    error: type[openai.APIStatusError],
    status: int,
    code: str,
    param: str | None,
) -> None:
    with pytest.raises(error) as raised:
        await client.chat.completions.create(**{"model": MODEL, "messages": HELLO, **changes})
    assert raised.value.status_code == status
    assert (raised.value.code, raised.value.param) == (code, param)
    balance = await client.get("/credits/balance", cast_to=object)
    assert (balance["available"], balance["held"]) == ("0.5", "0")


async def test_a_wrong_key_is_an_authentication_error(running: Running) -> None:
    for key in ("ky-" + "0" * 48, "sk-nonsense", "kyma-" + "f" * 48):
        async with AsyncOpenAI(
            base_url=f"{running.gateway.url}/v1", api_key=key, max_retries=0
        ) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(model=MODEL, messages=HELLO)


async def test_the_31st_request_of_a_minute_is_a_rate_limit_error(running: Running) -> None:
    key = (await register(running.gateway.url))["api_key"]
    async with AsyncOpenAI(
        base_url=f"{running.gateway.url}/v1", api_key=key, max_retries=0
    ) as client:
        for turn in range(30):
            model = MODEL if turn % 2 else "llama-3.3-70b"
            await client.chat.completions.create(model=model, messages=HELLO, max_tokens=1)
        with pytest.raises(openai.RateLimitError) as raised:
            await client.chat.completions.create(model=MODEL, messages=HELLO)
        assert raised.value.code == "rate_limited"
        assert raised.value.type == "rate_limit"
        assert 1 <= int(raised.value.response.headers["retry-after"]) <= 60
        assert raised.value.response.headers["x-ratelimit-remaining-requests"] == "0"


async def test_the_synchronous_client_lists_models_without_a_key(running: Running) -> None:
    def listed() -> list[str]:
        with OpenAI(base_url=f"{running.gateway.url}/v1", api_key="none") as client:
            return [model.id for model in client.models.list()]

    found = await asyncio.to_thread(listed)
    assert {"qwen-3.6-plus", "deepseek-v3", "claude-opus-4-7"} <= set(found)
