"""The official `openai` client's Responses API, unmodified, over real sockets."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import jsonschema
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.responses import Response
from pydantic import BaseModel, Field

from tests.sdk.conftest import Sdk, arm

MODEL = "qwen-3-32b"
CLAUDE = "claude-haiku-4-5"
BOTH = pytest.mark.parametrize("model", [MODEL, CLAUDE])
WAYS = pytest.mark.parametrize("streamed", [False, True])
HELLO = "Say hello."
PNG = "data:image/png;base64,iVBORw0KGgo="
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}


@pytest_asyncio.fixture(scope="module")
async def client(sdk: Sdk, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=sdk.openai_url, api_key=key, max_retries=0) as made:
        yield made


async def balance(client: AsyncOpenAI) -> tuple[Decimal, str]:
    """What the customer has, to the last digit, and what is held."""
    found: Any = await client.get("/credits/balance", cast_to=object)
    return Decimal(found["available"]), found["held"]


async def ask(client: AsyncOpenAI, streamed: bool, **asked: Any) -> Response:
    """A response, whole or as the client's accumulator puts it together from a stream."""
    asked = {"model": MODEL, "input": HELLO, "max_output_tokens": 400, **asked}
    if not streamed:
        response: Response = await client.responses.create(**asked)
        return response
    async with client.responses.stream(**asked) as stream:
        final: Response = await stream.get_final_response()
        return final


@BOTH
@WAYS
async def test_a_response_has_openais_shape_our_name_and_its_price(
    client: AsyncOpenAI, model: str, streamed: bool
) -> None:
    before, _ = await balance(client)
    response = await ask(client, streamed, model=model, instructions="Be brief.")
    after, held = await balance(client)
    assert response.id.startswith("resp_")
    assert (response.object, response.status, response.model) == ("response", "completed", model)
    assert response.error is None
    assert response.incomplete_details is None
    assert [item.type for item in response.output] == ["message"]
    assert "sandbox" in response.output_text.lower()
    usage = response.usage
    assert usage is not None
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens_details.cached_tokens >= 0
    assert usage.output_tokens_details.reasoning_tokens >= 0
    assert before - after == Decimal((usage.model_extra or {})["cost_usd"]) > 0
    assert held == "0"


@BOTH
async def test_the_events_of_a_stream_come_in_openais_order(
    client: AsyncOpenAI, model: str
) -> None:
    stream = await client.responses.create(model=model, input=HELLO, stream=True)
    events = [event async for event in stream]
    names = [event.type for event in events]
    assert names[:4] == [
        "response.created", "response.in_progress",
        "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert names[-4:] == [
        "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert set(names[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == text
    assert last.response.usage is not None
    assert len({event.response.id for event in events if hasattr(event, "response")}) == 1


@BOTH
@WAYS
async def test_a_tool_is_called_and_its_result_is_read(
    client: AsyncOpenAI, model: str, streamed: bool
) -> None:
    first = await ask(client, streamed, model=model, tools=[WEATHER])
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert call.name == "get_weather"
    jsonschema.validate(json.loads(call.arguments), WEATHER["parameters"])
    conversation = [
        {"role": "user", "content": HELLO},
        *(
            item.model_dump(exclude_none=True, exclude={"parsed_arguments"})
            for item in first.output
        ),
        {"type": "function_call_output", "call_id": call.call_id, "output": "17 degrees"},
    ]
    second = await ask(client, streamed, model=model, tools=[WEATHER], input=conversation)
    assert "17 degrees" in second.output_text


async def test_the_arguments_of_a_call_come_in_pieces_and_then_whole(
    client: AsyncOpenAI,
) -> None:
    stream = await client.responses.create(model=MODEL, input=HELLO, tools=[WEATHER], stream=True)
    events = [event async for event in stream]
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert len(pieces) > 1
    assert "".join(pieces) == done.arguments
    (item,) = [e.item for e in events if e.type == "response.output_item.done"]
    assert item.type == "function_call"
    assert item.arguments == done.arguments


async def test_parallel_calls_come_apart(client: AsyncOpenAI) -> None:
    clock = {
        "type": "function",
        "name": "get_time",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    }
    asked = {
        "tools": [WEATHER, clock],
        "extra_body": {"sandbox": {"tool_calls": 2}},
    }
    for streamed in (False, True):
        response = await ask(client, streamed, **asked)
        calls = [item for item in response.output if item.type == "function_call"]
        assert [call.name for call in calls] == ["get_weather", "get_time"]
        assert len({call.call_id for call in calls}) == 2


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("none", []),
        ("auto", ["get_weather"]),
        ("required", ["get_weather"]),
        ({"type": "function", "name": "get_weather"}, ["get_weather"]),
    ],
)
async def test_the_choice_of_a_tool_is_honoured(
    client: AsyncOpenAI, choice: Any, called: list[str]
) -> None:
    response = await ask(client, False, tools=[WEATHER], tool_choice=choice)
    assert [item.name for item in response.output if item.type == "function_call"] == called


class Person(BaseModel):
    """A person that a text speaks of."""

    name: str = Field(min_length=1)
    age: int = Field(ge=0, le=150)


@BOTH
async def test_a_structured_answer_is_parsed(client: AsyncOpenAI, model: str) -> None:
    response = await client.responses.parse(model=model, input=HELLO, text_format=Person)
    assert isinstance(response.output_parsed, Person)


async def test_json_mode_gives_json(client: AsyncOpenAI) -> None:
    response = await ask(client, False, text={"format": {"type": "json_object"}})
    assert isinstance(json.loads(response.output_text), dict)


async def test_a_response_that_was_cut_by_its_limit_is_incomplete(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "input": HELLO, "max_output_tokens": 16}
    whole = await client.responses.create(**asked)
    events = [event async for event in await client.responses.create(stream=True, **asked)]
    last = events[-1]
    assert last.type == "response.incomplete"
    for response in (whole, last.response):
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output_text == whole.output_text != ""


async def test_an_image_reaches_the_model(client: AsyncOpenAI) -> None:
    content = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": PNG, "detail": "auto"},
    ]
    response = await ask(
        client, False, model="gemma-4-31b", input=[{"role": "user", "content": content}]
    )
    assert "1 image" in response.output_text


async def test_a_repeated_long_prompt_is_told_as_cached(client: AsyncOpenAI) -> None:
    long = uuid.uuid4().hex + "A sentence that repeats itself. " * 400
    first = await ask(client, False, input=long)
    again = await ask(client, False, input=long)
    assert first.usage is not None
    assert again.usage is not None
    assert first.usage.input_tokens_details.cached_tokens == 0
    assert again.usage.input_tokens_details.cached_tokens > 1000


@WAYS
async def test_a_model_that_reasons_tells_its_thoughts_as_an_item(
    client: AsyncOpenAI, streamed: bool
) -> None:
    response = await ask(
        client,
        streamed,
        model="deepseek-r1",
        reasoning={"effort": "low", "summary": "auto"},
        extra_body={"sandbox": {"thinking": 20}},
    )
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens == 20
    conversation = [
        {"role": "user", "content": HELLO},
        *(item.model_dump(exclude_none=True) for item in response.output),
        {"role": "user", "content": "And now goodbye."},
    ]
    again = await ask(client, streamed, model="deepseek-r1", input=conversation)
    assert "goodbye" in again.output_text


async def test_store_is_taken_and_nothing_is_stored(client: AsyncOpenAI) -> None:
    response = await ask(client, False, store=True)
    assert response.status == "completed"
    with pytest.raises(openai.APIStatusError) as raised:
        await client.responses.retrieve(response.id)
    assert raised.value.status_code in {404, 405}
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(client, False, previous_response_id=response.id)
    assert refused.value.param == "previous_response_id"


@pytest.mark.parametrize(
    ("changes", "error", "code"),
    [
        ({"model": "no-such-model"}, openai.NotFoundError, "model_not_found"),
        ({"input": [{"type": "nonsense"}]}, openai.BadRequestError, "invalid_value"),
        ({"input": 7}, openai.BadRequestError, "invalid_type"),
        ({"max_output_tokens": 0}, openai.BadRequestError, "invalid_value"),
        ({"temperature": 5}, openai.BadRequestError, "invalid_value"),
    ],
)
@WAYS
async def test_refusals_are_the_clients_own_exceptions_and_cost_nothing(
    client: AsyncOpenAI,
    changes: dict[str, Any],
    error: type[openai.APIStatusError],
    code: str,
    streamed: bool,
) -> None:
    before = await balance(client)
    with pytest.raises(error) as raised:
        await client.responses.create(**{
            "model": MODEL, "input": HELLO, "stream": streamed, **changes,
        })  # fmt: skip
    assert raised.value.code == code
    assert await balance(client) == before


@pytest.mark.parametrize("model", ["claude-opus-4-7", "kimi-k2.5"])
async def test_a_broken_stream_never_looks_completed(
    sdk: Sdk, client: AsyncOpenAI, model: str
) -> None:
    await arm(sdk, model, "cut_stream")
    stream = await client.responses.create(
        model=model, input=HELLO, max_output_tokens=400, stream=True
    )
    names = []
    try:
        async for event in stream:
            names.append(event.type)
    except openai.APIError as error:
        names.append(type(error).__name__)
    assert "response.output_text.delta" in names
    assert "response.completed" not in names
    assert names[-1] in {"response.failed", "error", "APIError"}
