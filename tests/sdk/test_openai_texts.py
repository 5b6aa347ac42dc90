"""The rest of the official `openai` client: Claude over chats, helpers, legacy completions,
embeddings, discovery, retries, idempotency keys and raw answers.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

from tests.sdk.conftest import Sdk, arm, disarm

MODEL = "qwen-3-32b"
CLAUDE = "claude-haiku-4-5"
LEGACY = "llama-3.3-70b"
EMBEDDING = "qwen-3-embedding-8b"
BOTH = pytest.mark.parametrize("model", [MODEL, CLAUDE])
WAYS = pytest.mark.parametrize("streamed", [False, True])
HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 1}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest_asyncio.fixture(scope="module")
async def client(sdk: Sdk, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=sdk.openai_url, api_key=key, max_retries=0) as made:
        yield made


async def balance(client: AsyncOpenAI) -> str:
    """What the customer has left, to the last digit."""
    found = await client.get("/credits/balance", cast_to=object)
    assert found["held"] == "0"
    return str(found["available"])


# Chats


@BOTH
async def test_the_helper_of_streams_puts_a_chat_together(client: AsyncOpenAI, model: str) -> None:
    async with client.chat.completions.stream(
        model=model, messages=HELLO, max_tokens=400, stream_options={"include_usage": True}
    ) as stream:
        pieces = [event.delta async for event in stream if event.type == "content.delta"]
        final = await stream.get_final_completion()
    assert len(pieces) > 5
    assert final.choices[0].message.content == "".join(pieces)
    assert final.choices[0].finish_reason == "stop"
    assert final.model == model
    assert final.usage is not None
    assert final.usage.total_tokens > 0


@BOTH
@WAYS
async def test_chats_call_a_tool_and_read_its_result(
    client: AsyncOpenAI, model: str, streamed: bool
) -> None:
    asked: dict[str, Any] = {"model": model, "max_tokens": 400, "tools": [WEATHER]}
    if streamed:
        async with client.chat.completions.stream(messages=HELLO, **asked) as stream:
            choice: Any = (await stream.get_final_completion()).choices[0]
    else:
        choice = (await client.chat.completions.create(messages=HELLO, **asked)).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    parameters = WEATHER["function"]["parameters"]
    jsonschema.validate(json.loads(call.function.arguments), parameters)
    told = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
        ],
    }
    result = {"role": "tool", "tool_call_id": call.id, "content": "17 degrees"}
    answer = await client.chat.completions.create(messages=[*HELLO, told, result], **asked)
    assert "17 degrees" in answer.choices[0].message.content


class Person(BaseModel):
    """A person that a text speaks of."""

    name: str = Field(min_length=1)
    age: int = Field(ge=0, le=150)


@BOTH
async def test_a_structured_answer_is_parsed(client: AsyncOpenAI, model: str) -> None:
    answer = await client.chat.completions.parse(
        model=model, messages=HELLO, max_tokens=400, response_format=Person
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


# Legacy completions and embeddings


@WAYS
async def test_a_legacy_completion_has_text_usage_and_a_price(
    client: AsyncOpenAI, streamed: bool
) -> None:
    asked: dict[str, Any] = {"model": LEGACY, "prompt": "Once upon a time", "max_tokens": 40}
    if streamed:
        stream = await client.completions.create(
            stream=True, stream_options={"include_usage": True}, **asked
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        ends = [c.choices[0].finish_reason for c in chunks if c.choices]
        answer, reason = chunks[-1], ends[-1]
        assert len(chunks) > 5
        assert len({chunk.id for chunk in chunks}) == 1
    else:
        answer = await client.completions.create(**asked)
        text, reason = answer.choices[0].text, answer.choices[0].finish_reason
    assert text.strip()
    assert reason in {"stop", "length"}
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", LEGACY)
    assert answer.usage.completion_tokens > 0
    assert answer.usage.model_extra["cost"] > 0


async def test_legacy_completions_take_several_prompts(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model=LEGACY, prompt=["One.", "Two."], max_tokens=20)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.text for choice in answer.choices)


@pytest.mark.parametrize("format", ["float", "base64", None])
async def test_embeddings_are_vectors_with_usage_and_a_price(
    client: AsyncOpenAI, format: str | None
) -> None:
    chosen = {} if format is None else {"encoding_format": format}
    answer = await client.embeddings.create(model=EMBEDDING, input=["one", "two", "one"], **chosen)
    assert (answer.object, answer.model) == ("list", EMBEDDING)
    assert [row.index for row in answer.data] == [0, 1, 2]
    if format == "base64":
        assert isinstance(answer.data[0].embedding, str)
    else:
        assert all(isinstance(number, float) for number in answer.data[0].embedding)
    assert answer.data[0].embedding == answer.data[2].embedding != answer.data[1].embedding
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 0
    assert answer.usage.model_extra["cost"] > 0


async def test_embeddings_have_as_many_dimensions_as_asked(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model=EMBEDDING, input="one", dimensions=64)
    assert len(answer.data[0].embedding) == 64


@pytest.mark.parametrize("model", ["no-such-model", CLAUDE])
async def test_what_does_not_embed_is_a_not_found_error(client: AsyncOpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await client.embeddings.create(model=model, input="one")
    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"


@pytest.mark.parametrize("model", ["no-such-model", EMBEDDING])
async def test_what_does_not_speak_is_a_not_found_error(client: AsyncOpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await client.completions.create(model=model, prompt="one")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model=model, messages=HELLO)
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model=model, input="one")


@pytest.mark.parametrize("input", ["", [], [""], 7])
async def test_nothing_to_embed_is_a_bad_request(client: AsyncOpenAI, input: Any) -> None:
    before = await balance(client)
    with pytest.raises(openai.BadRequestError) as raised:
        await client.embeddings.create(model=EMBEDDING, input=input)
    assert raised.value.param == "input"
    assert await balance(client) == before


# Discovery


async def test_models_are_listed_and_retrieved(client: AsyncOpenAI) -> None:
    listed = {model.id: model async for model in client.models.list()}
    assert {MODEL, CLAUDE, LEGACY} <= set(listed)
    one = await client.models.retrieve(CLAUDE)
    assert one == listed[CLAUDE]
    assert (one.object, one.owned_by) == ("model", "Anthropic")
    assert one.created > 1_700_000_000


async def test_an_alias_is_retrieved_as_its_model(client: AsyncOpenAI) -> None:
    assert (await client.models.retrieve("fast")).id in {"fast", MODEL}


async def test_an_unknown_model_is_not_retrieved(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await client.models.retrieve("no-such-model")
    assert raised.value.code == "model_not_found"


# Raw answers, retries, idempotency


async def test_raw_and_streamed_answers_show_our_headers(client: AsyncOpenAI) -> None:
    async with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=HELLO, stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-kyma-model"] == MODEL
        assert response.headers["x-kyma-request-id"]
        assert "content-encoding" not in response.headers
        lines = [line async for line in response.iter_lines()]
    assert lines[-2] == "data: [DONE]" or "data: [DONE]" in lines[-3:]
    raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert "dur=" in raw.headers["server-timing"]
    assert 0 < int(raw.headers["x-ratelimit-remaining-requests"]) < 300


async def test_an_answer_of_a_client_without_retries_is_its_own_exception(
    sdk: Sdk, client: AsyncOpenAI
) -> None:
    before = await balance(client)
    await arm(sdk, "deepseek-v4-flash", "error_503", times=20)
    with pytest.raises(openai.InternalServerError) as raised:
        await client.chat.completions.create(
            model="deepseek-v4-flash",
            messages=HELLO,
            extra_headers={"X-Kyma-Max-Fallback-Layer": "1"},
        )
    assert raised.value.status_code in {502, 503}
    assert raised.value.body["retryable"] is True
    assert raised.value.body["charged"] is False
    assert await balance(client) == before


async def test_a_client_with_retries_gets_over_a_short_outage(
    sdk: Sdk, client: AsyncOpenAI
) -> None:
    await arm(sdk, "deepseek-v3", "error_503", times=20)
    patient = client.with_options(max_retries=6).chat.completions.with_raw_response
    asked = asyncio.create_task(
        patient.create(
            model="deepseek-v3",
            messages=HELLO,
            max_tokens=20,
            extra_headers={"X-Kyma-Max-Fallback-Layer": "1"},
        )
    )
    await asyncio.sleep(0.3)
    await disarm(sdk)
    raw = await asked
    assert raw.parse().choices[0].message.content
    assert raw.retries_taken >= 1


async def test_an_idempotency_key_charges_once(client: AsyncOpenAI) -> None:
    once = {"Idempotency-Key": uuid.uuid4().hex}
    asked: dict[str, Any] = {"model": MODEL, "messages": HELLO, "extra_headers": once}
    first = await client.chat.completions.with_raw_response.create(**asked)
    left = await balance(client)
    again = await client.chat.completions.with_raw_response.create(**asked)
    assert await balance(client) == left
    assert again.headers["x-kyma-idempotent-replay"] == "true"
    assert again.headers["x-kyma-request-id"] == first.headers["x-kyma-request-id"]
    with pytest.raises(openai.ConflictError) as raised:
        await client.chat.completions.create(**{**asked, "model": CLAUDE, "max_tokens": 20})
    assert raised.value.code == "idempotency_key_reused"
    assert await balance(client) == left


async def test_a_key_in_use_is_retried_by_the_client_until_the_outcome(
    client: AsyncOpenAI,
) -> None:
    slow = {"sandbox": {"first_ms": 1500}}
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": HELLO,
        "extra_body": slow,
        "extra_headers": {"Idempotency-Key": uuid.uuid4().hex},
    }
    first = asyncio.create_task(client.chat.completions.with_raw_response.create(**asked))
    await asyncio.sleep(0.4)
    with pytest.raises(openai.ConflictError) as raised:
        await client.chat.completions.create(**asked)
    assert raised.value.code == "idempotency_in_progress"
    assert int(raised.value.response.headers["retry-after"]) >= 1
    patient = client.with_options(max_retries=5).chat.completions.with_raw_response
    again = await patient.create(**asked)
    assert again.headers["x-kyma-idempotent-replay"] == "true"
    assert again.headers["x-kyma-request-id"] == (await first).headers["x-kyma-request-id"]
