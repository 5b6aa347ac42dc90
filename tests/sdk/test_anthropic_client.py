"""The official `anthropic` client, unmodified, over real sockets.

Every test of messages runs for a Claude model, served by Anthropic's own wire, and for a model
that only speaks OpenAI's, whose requests and answers are translated.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import anthropic
import jsonschema
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic, beta_async_tool
from pydantic import BaseModel, Field

from tests.e2e.asking import Customer
from tests.sdk.conftest import Sdk, arm, disarm

CLAUDE = "claude-haiku-4-5"
TRANSLATED = "llama-3.3-70b"
BOTH = pytest.mark.parametrize("model", [CLAUDE, TRANSLATED])
WAYS = pytest.mark.parametrize("streamed", [False, True])

HELLO = [{"role": "user", "content": "Say hello."}]
LONG = "A sentence that repeats itself. " * 1200
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 32).decode()
PDF_BLOCK = {
    "type": "document",
    "source": {
        "type": "base64",
        "media_type": "application/pdf",
        "data": base64.b64encode(b"%PDF-1.4\n" + b"\0" * 64).decode(),
    },
}
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
        },
        "required": ["city", "unit", "days"],
        "additionalProperties": False,
    },
}
CLOCK: dict[str, Any] = {
    "name": "get_time",
    "description": "The time in a zone.",
    "input_schema": {
        "type": "object",
        "properties": {"zone": {"type": "string", "enum": ["UTC", "CET"]}},
        "required": ["zone"],
        "additionalProperties": False,
    },
}
SCHEMAS = {tool["name"]: tool["input_schema"] for tool in (WEATHER, CLOCK)}
TWO_CALLS = {"sandbox": {"tool_calls": 2}}


@pytest_asyncio.fixture(scope="module")
async def client(sdk: Sdk, key: str) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=sdk.url, api_key=key, max_retries=0) as made:
        yield made


async def balance(client: AsyncAnthropic) -> tuple[Decimal, str]:
    """What the customer has, to the last digit, and what is held."""
    found: Any = await client.get("/v1/credits/balance", cast_to=object)
    return Decimal(found["available"]), found["held"]


async def ask(client: AsyncAnthropic, streamed: bool, **asked: Any) -> anthropic.types.Message:
    """A message, whole or as the client's accumulator puts it together from a stream."""
    asked = {"max_tokens": 400, "messages": HELLO, **asked}
    if not streamed:
        message: anthropic.types.Message = await client.messages.create(**asked)
        return message
    async with client.messages.stream(**asked) as stream:
        return await stream.get_final_message()


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def calls_of(message: anthropic.types.Message) -> list[anthropic.types.ToolUseBlock]:
    found = [block for block in message.content if block.type == "tool_use"]
    for call in found:
        jsonschema.validate(call.input, SCHEMAS[call.name])
    return found


def spent(usage: anthropic.types.Usage | anthropic.types.MessageDeltaUsage) -> Decimal:
    return Decimal((usage.model_extra or {})["cost_usd"])


# Messages


@BOTH
@WAYS
async def test_a_message_has_anthropics_shape_and_our_name(
    client: AsyncAnthropic, model: str, streamed: bool
) -> None:
    message = await ask(client, streamed, model=model)
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", model)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert "sandbox" in text_of(message).lower()
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0


@BOTH
async def test_the_price_of_a_message_is_in_its_usage_and_off_the_balance(
    client: AsyncAnthropic, model: str
) -> None:
    before, _ = await balance(client)
    message = await ask(client, False, model=model)
    between, _ = await balance(client)
    asked: dict[str, Any] = {"model": model, "max_tokens": 400, "messages": HELLO}
    stream = await client.messages.create(**asked, stream=True)
    ends = [event.usage async for event in stream if event.type == "message_delta"]
    after, held = await balance(client)
    assert before - between == spent(message.usage) > 0
    assert between - after == spent(ends[-1]) > 0
    assert held == "0"


@BOTH
async def test_the_events_of_a_stream_come_in_anthropics_order(
    client: AsyncAnthropic, model: str
) -> None:
    stream = await client.messages.create(model=model, max_tokens=400, messages=HELLO, stream=True)
    names = [event.type async for event in stream]
    spoken = [name for name in names if name != "ping"]
    assert spoken[:2] == ["message_start", "content_block_start"]
    assert spoken[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(spoken[2:-3]) == {"content_block_delta"}
    assert len(spoken) > 10


@BOTH
async def test_the_helper_of_streams_tells_text_and_the_same_message(
    client: AsyncAnthropic, model: str
) -> None:
    async with client.messages.stream(model=model, max_tokens=400, messages=HELLO) as stream:
        told = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
        assert await stream.get_final_text() == "".join(told)
    whole = await ask(client, False, model=model)
    assert len(told) > 5
    assert text_of(final) == text_of(whole) == "".join(told)
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == (
        whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    )


@BOTH
async def test_the_answer_carries_what_was_served_in_its_headers(
    client: AsyncAnthropic, model: str
) -> None:
    raw = await client.messages.with_raw_response.create(model=model, max_tokens=50, messages=HELLO)
    message = await raw.parse()
    assert raw.headers["x-kyma-model"] == model
    assert message.id == f"msg_{raw.headers['x-kyma-request-id']}"
    assert raw.headers["request-id"] == raw.headers["x-kyma-request-id"]
    assert message._request_id == raw.headers["request-id"]
    assert raw.headers["x-ratelimit-limit-requests"] == "300"


@BOTH
@WAYS
async def test_max_tokens_ends_a_message(
    client: AsyncAnthropic, model: str, streamed: bool
) -> None:
    message = await ask(client, streamed, model=model, max_tokens=3)
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 3


@WAYS
async def test_a_stop_sequence_ends_a_message_and_is_named(
    client: AsyncAnthropic, streamed: bool
) -> None:
    message = await ask(client, streamed, model=CLAUDE, stop_sequences=["sandbox"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "sandbox")
    assert text_of(message) == "This is a "


@WAYS
async def test_a_stop_sequence_ends_a_translated_message(
    client: AsyncAnthropic, streamed: bool
) -> None:
    # OpenAI's dialect does not tell which of its two reasons a `stop` was.
    message = await ask(client, streamed, model=TRANSLATED, stop_sequences=["sandbox"])
    assert message.stop_reason in {"end_turn", "stop_sequence"}
    assert text_of(message) == "This is a "


@BOTH
async def test_system_blocks_with_a_cache_mark_are_read_from_the_cache_again(
    client: AsyncAnthropic, model: str
) -> None:
    system = [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": uuid.uuid4().hex + LONG, "cache_control": {"type": "ephemeral"}},
    ]
    first = await ask(client, False, model=model, system=system, max_tokens=5)
    again = await ask(client, False, model=model, system=system, max_tokens=5)
    assert (first.usage.cache_read_input_tokens or 0) == 0
    assert again.usage.cache_read_input_tokens is not None
    assert again.usage.cache_read_input_tokens > 2000
    assert again.usage.input_tokens < 200
    assert spent(again.usage) < spent(first.usage)
    if model == CLAUDE:
        assert first.usage.cache_creation_input_tokens == again.usage.cache_read_input_tokens


@BOTH
async def test_a_system_text_and_a_conversation_reach_the_model(
    client: AsyncAnthropic, model: str
) -> None:
    conversation = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "text", "text": "Hello!"}]},
        {"role": "user", "content": [{"type": "text", "text": "And now goodbye."}]},
    ]
    alone = await ask(client, False, model=model)
    message = await ask(client, False, model=model, system="Be brief.", messages=conversation)
    assert "goodbye" in text_of(message)
    assert message.usage.input_tokens > alone.usage.input_tokens


# Tools


@BOTH
@WAYS
async def test_a_tool_is_called_and_its_result_is_read(
    client: AsyncAnthropic, model: str, streamed: bool
) -> None:
    first = await ask(client, streamed, model=model, tools=[WEATHER])
    assert first.stop_reason == "tool_use"
    (call,) = calls_of(first)
    assert call.name == "get_weather"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "17 degrees"}
    second = await ask(
        client,
        streamed,
        model=model,
        tools=[WEATHER],
        messages=[
            *HELLO,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ],
    )
    assert second.stop_reason == "end_turn"
    assert "17 degrees" in text_of(second)


@WAYS
async def test_parallel_calls_of_claude_come_apart(client: AsyncAnthropic, streamed: bool) -> None:
    first = await ask(client, streamed, model=CLAUDE, tools=[WEATHER, CLOCK], extra_body=TWO_CALLS)
    calls = calls_of(first)
    assert first.stop_reason == "tool_use"
    assert [call.name for call in calls] == ["get_weather", "get_time"]
    assert len({call.id for call in calls}) == 2


@BOTH
@WAYS
async def test_the_results_of_parallel_calls_are_read(
    client: AsyncAnthropic, model: str, streamed: bool
) -> None:
    weather = {"city": "Hué", "unit": "celsius", "days": 1}
    calls = [
        {"type": "tool_use", "id": "toolu_01a", "name": "get_weather", "input": weather},
        {"type": "tool_use", "id": "toolu_01b", "name": "get_time", "input": {"zone": "UTC"}},
    ]
    good = [{"type": "text", "text": "17 degrees"}]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_01a", "content": good},
        {"type": "tool_result", "tool_use_id": "toolu_01b", "content": "no", "is_error": True},
    ]
    conversation = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, *calls]},
        {"role": "user", "content": [*results, {"type": "text", "text": "And?"}]},
    ]
    message = await ask(
        client, streamed, model=model, tools=[WEATHER, CLOCK], messages=conversation
    )
    assert message.stop_reason == "end_turn"
    assert text_of(message)


@BOTH
@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ({"type": "auto"}, ["get_weather"]),
        ({"type": "any"}, ["get_weather"]),
        ({"type": "tool", "name": "get_time"}, ["get_time"]),
        ({"type": "none"}, []),
    ],
)
async def test_the_choice_of_a_tool_is_honoured(
    client: AsyncAnthropic, model: str, choice: dict[str, Any], called: list[str]
) -> None:
    message = await ask(client, False, model=model, tools=[WEATHER, CLOCK], tool_choice=choice)
    assert [call.name for call in calls_of(message)] == called


async def test_one_call_at_a_time_may_be_asked_for(client: AsyncAnthropic) -> None:
    message = await ask(
        client,
        False,
        model=CLAUDE,
        tools=[WEATHER, CLOCK],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        extra_body=TWO_CALLS,
    )
    assert len(calls_of(message)) == 1


@BOTH
async def test_the_clients_tool_runner_goes_round(client: AsyncAnthropic, model: str) -> None:
    called: list[str] = []

    @beta_async_tool
    async def look_up(name: str) -> str:
        """What is known of a person.

        Args:
            name: whose
        """
        called.append(name)
        return "seventeen degrees"

    runner = client.beta.messages.tool_runner(
        model=model, max_tokens=400, messages=HELLO, tools=[look_up]
    )
    last = await runner.until_done()
    assert len(called) == 1
    assert "seventeen degrees" in "".join(b.text for b in last.content if b.type == "text")


# What a message may hold


@pytest.mark.parametrize("model", [CLAUDE, "gemma-4-31b"])
@pytest.mark.parametrize(
    "source",
    [
        {"type": "base64", "media_type": "image/png", "data": PNG},
        {"type": "url", "url": "https://example.com/cat.png"},
    ],
)
async def test_an_image_reaches_the_model(
    client: AsyncAnthropic, model: str, source: dict[str, str]
) -> None:
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    message = await ask(client, False, model=model, messages=[{"role": "user", "content": content}])
    assert "1 image" in text_of(message)


@BOTH
async def test_a_text_document_reaches_the_model(client: AsyncAnthropic, model: str) -> None:
    source = {"type": "text", "media_type": "text/plain", "data": LONG}
    content = [
        {"type": "document", "source": source, "title": "Repeated"},
        {"type": "text", "text": "What is it about?"},
    ]
    message = await ask(
        client, False, model=model, max_tokens=50, messages=[{"role": "user", "content": content}]
    )
    assert message.stop_reason in {"end_turn", "max_tokens"}
    assert message.usage.input_tokens > 200


async def test_a_pdf_reaches_claude(client: AsyncAnthropic) -> None:
    content = [PDF_BLOCK, {"type": "text", "text": "What is it?"}]
    message = await ask(
        client, False, model=CLAUDE, messages=[{"role": "user", "content": content}]
    )
    assert "1 file" in text_of(message)


@WAYS
async def test_claude_thinks_first_and_is_shown_its_thoughts_again(
    client: AsyncAnthropic, streamed: bool
) -> None:
    asked: dict[str, Any] = {
        "model": CLAUDE,
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [WEATHER],
    }
    first = await ask(client, streamed, **asked)
    assert [block.type for block in first.content] == ["thinking", "tool_use"]
    thought = first.content[0]
    assert thought.type == "thinking"
    assert thought.thinking
    assert thought.signature
    (call,) = calls_of(first)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "17 degrees"}
    conversation = [
        *HELLO,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = await ask(client, streamed, **{**asked, "messages": conversation})
    assert "17 degrees" in text_of(second)


@WAYS
async def test_a_translated_model_that_reasons_shows_its_thoughts(
    client: AsyncAnthropic, streamed: bool
) -> None:
    asked: dict[str, Any] = {
        "model": "deepseek-r1",
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    first = await ask(client, streamed, **asked)
    assert [block.type for block in first.content] == ["thinking", "text"]
    conversation = [
        *HELLO,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "And now goodbye."},
    ]
    second = await ask(client, streamed, **asked, messages=conversation)
    assert "goodbye" in text_of(second)


class Person(BaseModel):
    """A person that a text speaks of."""

    name: str = Field(min_length=1)
    age: int = Field(ge=0, le=150)


@BOTH
async def test_a_structured_answer_is_parsed(client: AsyncAnthropic, model: str) -> None:
    message = await client.messages.parse(
        model=model, max_tokens=400, messages=HELLO, output_format=Person
    )
    assert isinstance(message.parsed_output, Person)


@BOTH
async def test_tokens_are_counted_without_being_charged(client: AsyncAnthropic, model: str) -> None:
    before = await balance(client)
    short = await client.messages.count_tokens(model=model, messages=HELLO)
    long = await client.messages.count_tokens(
        model=model,
        system=[{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}],
        tools=[WEATHER],
        messages=HELLO,
    )
    assert 0 < short.input_tokens < 100
    assert 5000 < long.input_tokens < 20000
    assert await balance(client) == before


@BOTH
async def test_beta_headers_and_fields_are_taken(client: AsyncAnthropic, model: str) -> None:
    message = await client.beta.messages.create(
        model=model,
        max_tokens=100,
        messages=HELLO,
        betas=["context-management-2025-06-27", "some-beta-of-next-year-2027-01-01"],
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
        metadata={"user_id": "somebody"},
    )
    assert message.stop_reason in {"end_turn", "max_tokens"}


# Keys and refusals


@pytest.mark.parametrize("field", ["api_key", "auth_token"])
async def test_a_key_is_taken_from_either_header(sdk: Sdk, key: str, field: str) -> None:
    async with AsyncAnthropic(base_url=sdk.url, max_retries=0, **{field: key}) as client:
        message = await client.messages.create(model=CLAUDE, max_tokens=20, messages=HELLO)
    assert message.content


@pytest.mark.parametrize("field", ["api_key", "auth_token"])
async def test_a_wrong_key_is_an_authentication_error(sdk: Sdk, field: str) -> None:
    wrong = {field: "ky-" + "0" * 48}
    async with AsyncAnthropic(base_url=sdk.url, max_retries=0, **wrong) as client:
        with pytest.raises(anthropic.AuthenticationError) as raised:
            await client.messages.create(model=CLAUDE, max_tokens=20, messages=HELLO)
    assert raised.value.type == "authentication_error"


@WAYS
@pytest.mark.parametrize(
    ("changes", "error", "kind"),
    [
        ({"model": "no-such-model"}, anthropic.NotFoundError, "not_found_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, anthropic.BadRequestError,
         "invalid_request_error"),
        ({"messages": [{"role": "user", "content": ""}]}, anthropic.BadRequestError,
         "invalid_request_error"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
        ({"extra_body": {"temperature": 7}}, anthropic.BadRequestError, "invalid_request_error"),
        ({"tools": "hammer"}, anthropic.BadRequestError, "invalid_request_error"),
    ],
)  # fmt: skip
async def test_refusals_are_the_clients_own_exceptions_and_cost_nothing(
    client: AsyncAnthropic,
    changes: dict[str, Any],
    error: type[anthropic.APIStatusError],
    kind: str,
    streamed: bool,
) -> None:
    asked = {"model": CLAUDE, "max_tokens": 50, "messages": HELLO, **changes}
    before = await balance(client)
    with pytest.raises(error) as raised:
        await client.messages.create(stream=streamed, **asked)
    assert raised.value.type == kind
    body = raised.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert body["error"]["message"]
    assert body["request_id"] == raised.value.request_id
    assert await balance(client) == before


async def test_counting_for_an_unknown_model_is_a_not_found_error(client: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        await client.messages.count_tokens(model="no-such-model", messages=HELLO)
    assert raised.value.type == "not_found_error"


async def test_more_than_the_credit_is_a_payment_required_error(newcomer: Customer) -> None:
    poor = AsyncAnthropic(base_url=newcomer.url, api_key=newcomer.key, max_retries=0)
    async with poor as client:
        with pytest.raises(anthropic.PaymentRequiredError) as raised:
            await client.messages.create(model="claude-opus-4-7", max_tokens=20_000, messages=HELLO)
        assert raised.value.type == "billing_error"
        assert await balance(client) == (Decimal("0.5"), "0")


async def test_a_pdf_is_affordable_for_a_newcomer(newcomer: Customer) -> None:
    content = [PDF_BLOCK, {"type": "text", "text": "What is it?"}]
    poor = AsyncAnthropic(base_url=newcomer.url, api_key=newcomer.key, max_retries=0)
    async with poor as client:
        message = await ask(
            client, False, model=CLAUDE, messages=[{"role": "user", "content": content}]
        )
    assert "1 file" in text_of(message)


async def test_the_31st_request_of_a_minute_is_a_rate_limit_error(newcomer: Customer) -> None:
    hurried = AsyncAnthropic(base_url=newcomer.url, api_key=newcomer.key, max_retries=0)
    async with hurried as client:
        for turn in range(30):
            model = CLAUDE if turn % 2 else TRANSLATED
            await client.messages.create(model=model, max_tokens=1, messages=HELLO)
        with pytest.raises(anthropic.RateLimitError) as raised:
            await client.messages.create(model=CLAUDE, max_tokens=1, messages=HELLO)
    assert raised.value.type == "rate_limit_error"
    assert 1 <= int(raised.value.response.headers["retry-after"]) <= 60


@pytest.mark.parametrize("model", ["claude-sonnet-4-6", "qwen-3-coder"])
async def test_a_broken_stream_raises_and_never_looks_finished(
    sdk: Sdk, client: AsyncAnthropic, model: str
) -> None:
    seen: list[str] = []
    await arm(sdk, model, "cut_stream")
    stream = await client.messages.create(model=model, max_tokens=400, messages=HELLO, stream=True)

    async def read() -> None:
        async for event in stream:
            seen.append(event.type)

    with pytest.raises(anthropic.APIStatusError) as raised:
        await read()
    assert "content_block_delta" in seen
    assert "message_stop" not in seen
    assert "message_delta" not in seen
    assert raised.value.body["error"]["message"]


async def test_a_client_with_retries_gets_over_a_short_outage(
    sdk: Sdk, client: AsyncAnthropic
) -> None:
    await arm(sdk, "glm-4.5-air", "error_503", times=20)
    patient = client.with_options(max_retries=6).messages.with_raw_response
    asked = asyncio.create_task(
        patient.create(
            model="glm-4.5-air",
            max_tokens=20,
            messages=HELLO,
            extra_headers={"X-Kyma-Max-Fallback-Layer": "1"},
        )
    )
    await asyncio.sleep(0.3)
    await disarm(sdk)
    raw = await asked
    assert (await raw.parse()).content
    assert raw.retries_taken >= 1
