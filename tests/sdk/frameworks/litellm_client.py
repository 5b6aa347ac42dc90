"""`litellm` as a client: its own reading of both dialects, and its exceptions."""

from __future__ import annotations

import json
from typing import Any

import litellm
import pytest

# Else counting a stream's tokens asks a hub for the model's tokenizer.
litellm.disable_hf_tokenizer_download = True

OPEN = "openai/qwen-3-32b"
CLAUDE = "anthropic/claude-haiku-4-5"
TRANSLATED = "anthropic/llama-3.3-70b"
ALL = [OPEN, CLAUDE, TRANSLATED]
HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "minLength": 1},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


class At:
    """A customer's arguments."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key

    def __call__(self, model: str, **fields: Any) -> dict[str, Any]:
        base = self.url if model.startswith("anthropic/") else f"{self.url}/v1"
        return {
            "model": model, "api_base": base, "api_key": self.key, "messages": HELLO,
            "max_tokens": 300, "num_retries": 0, "max_retries": 0, **fields,
        }  # fmt: skip


@pytest.fixture
def at(url: str, key: str) -> At:
    return At(url, key)


def spoke(answer: Any) -> None:
    choice = answer.choices[0]
    assert "sandbox" in choice.message.content.lower()
    assert choice.finish_reason == "stop"
    usage = answer.usage
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("model", ALL)
def test_a_completion_brings_text_and_usage(at: At, model: str) -> None:
    answer = litellm.completion(**at(model))
    spoke(answer)
    assert answer.model == model.split("/")[1]


@pytest.mark.parametrize("model", ALL)
async def test_an_asynchronous_completion_does_so_too(at: At, model: str) -> None:
    spoke(await litellm.acompletion(**at(model)))


@pytest.mark.parametrize("model", ALL)
async def test_the_chunks_of_a_stream_build_the_same_answer(at: At, model: str) -> None:
    asked = at(model, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in await litellm.acompletion(**asked)]
    assert len(chunks) > 5
    spoke(litellm.stream_chunk_builder(chunks, messages=HELLO))


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_their_results_are_read(at: At, model: str, stream: bool) -> None:
    asked = at(model, tools=[WEATHER], stream=stream)
    answer = litellm.completion(**asked)
    if stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=HELLO)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = message.tool_calls
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"]
    assert arguments["unit"] in {"celsius", "fahrenheit"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "17 degrees"}
    conversation = [*HELLO, message.model_dump(exclude_none=True), result]
    then = litellm.completion(**at(model, tools=[WEATHER], messages=conversation))
    assert "17 degrees" in then.choices[0].message.content


def test_a_schema_for_the_answer_is_honoured(at: At) -> None:
    wanted = {
        "type": "json_schema",
        "json_schema": {
            "name": "person", "strict": True,
            "schema": {
                "type": "object", "required": ["name"], "additionalProperties": False,
                "properties": {"name": {"type": "string", "minLength": 1}},
            },
        },
    }  # fmt: skip
    answer = litellm.completion(**at(OPEN, response_format=wanted))
    found = json.loads(answer.choices[0].message.content)
    assert list(found) == ["name"]
    assert found["name"]


def test_a_repeated_prompt_is_told_as_cached(at: At) -> None:
    long = [{"role": "user", "content": "A sentence that repeats itself. " * 400}]
    litellm.completion(**at(OPEN, messages=long))
    again = litellm.completion(**at(OPEN, messages=long))
    assert again.usage.prompt_tokens_details.cached_tokens > 1000


@pytest.mark.parametrize("model", ["openai/none", "anthropic/none"])
def test_an_unknown_model_is_a_not_found_error(at: At, model: str) -> None:
    with pytest.raises(litellm.NotFoundError) as raised:
        litellm.completion(**at(model))
    assert raised.value.status_code == 404


@pytest.mark.parametrize("model", ALL)
def test_a_wrong_key_is_an_authentication_error(at: At, model: str) -> None:
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**at(model, api_key="ky-" + "0" * 48))


@pytest.mark.parametrize("model", ALL)
def test_a_bad_request_is_a_bad_request_error(at: At, model: str) -> None:
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**at(model, messages=[{"role": "user", "content": ""}], top_p=7))


def test_the_31st_request_of_a_minute_is_a_rate_limit_error(at: At, new_key: str) -> None:
    asked = at(OPEN, max_tokens=1, api_key=new_key)
    for turn in range(30):
        asked["model"] = OPEN if turn % 2 else "openai/llama-3.3-70b"
        litellm.completion(**asked)
    with pytest.raises(litellm.RateLimitError):
        litellm.completion(**asked)


def test_responses_are_answered_whole_and_streamed(at: At) -> None:
    asked = at(OPEN, input="Say hello.", max_output_tokens=300)
    del asked["messages"], asked["max_tokens"]
    answer = litellm.responses(**asked)
    assert answer.status == "completed"
    assert "sandbox" in answer.output[0].content[0].text.lower()
    events = list(litellm.responses(**asked, stream=True))
    assert events[-1].type == "response.completed"


def test_legacy_completions_are_answered(at: At) -> None:
    asked = at("text-completion-openai/llama-3.3-70b", prompt="Once upon a time", max_tokens=20)
    del asked["messages"]
    assert litellm.text_completion(**asked).choices[0].text.strip()


def test_embeddings_are_vectors(at: At) -> None:
    asked = at("openai/qwen-3-embedding-8b", input=["one", "two"])
    del asked["messages"], asked["max_tokens"], asked["num_retries"]
    answer = litellm.embedding(**asked)
    one, two = (row["embedding"] for row in answer.data)
    assert len(one) == len(two) > 100
