"""`langchain-openai` and `langchain-anthropic`: chat models as chains and agents use them."""

from __future__ import annotations

import uuid

import anthropic
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

OPEN = "qwen-3-32b"
CLAUDE = "claude-haiku-4-5"
TRANSLATED = "llama-3.3-70b"
LONG = uuid.uuid4().hex + "A sentence that repeats itself. " * 400


@tool
def get_weather(city: str, days: int) -> str:
    """The weather of a city for some days."""
    return f"{days} days of rain in {city}"


class Person(BaseModel):
    """A person that a text speaks of."""

    name: str = Field(min_length=1)
    age: int = Field(ge=0, le=150)


@pytest.fixture
def chat(url: str, key: str) -> ChatOpenAI:
    return ChatOpenAI(model=OPEN, base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def responses(url: str, key: str) -> ChatOpenAI:
    return ChatOpenAI(
        model=OPEN, base_url=f"{url}/v1", api_key=key, max_retries=0, use_responses_api=True
    )


@pytest.fixture(params=[CLAUDE, TRANSLATED])
def claude(request: pytest.FixtureRequest, url: str, key: str) -> ChatAnthropic:
    return ChatAnthropic(
        model=request.param, base_url=url, api_key=key, max_retries=0, max_tokens=400
    )


def told(message: AIMessage) -> None:
    """It speaks, and its usage adds up."""
    assert "sandbox" in message.text.lower()
    usage = message.usage_metadata
    assert usage is not None
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_invoke_brings_text_usage_and_the_reason_of_the_end(chat: ChatOpenAI) -> None:
    answer = chat.invoke([("system", "Be brief."), ("human", "Say hello.")])
    told(answer)
    assert answer.response_metadata["model_name"] == OPEN
    assert answer.response_metadata["finish_reason"] == "stop"


async def test_a_stream_adds_up_to_one_message_with_usage(chat: ChatOpenAI) -> None:
    whole: AIMessageChunk | None = None
    count = 0
    async for chunk in chat.astream("Say hello.", stream_usage=True):
        whole = chunk if whole is None else whole + chunk
        count += 1
    assert whole is not None
    assert count > 5
    told(whole)
    assert whole.response_metadata["finish_reason"] == "stop"


def test_cached_tokens_are_in_the_usage_metadata(chat: ChatOpenAI) -> None:
    asked = chat.bind(max_tokens=5)
    first, again = asked.invoke(LONG), asked.invoke(LONG)
    assert first.usage_metadata["input_token_details"].get("cache_read", 0) == 0
    assert again.usage_metadata["input_token_details"]["cache_read"] > 1000
    assert again.usage_metadata["input_tokens"] == first.usage_metadata["input_tokens"]


@pytest.mark.parametrize("streamed", [False, True])
def test_bound_tools_are_called_and_their_results_are_read(
    chat: ChatOpenAI, streamed: bool
) -> None:
    bound = chat.bind_tools([get_weather])
    conversation = [HumanMessage("What is the weather?")]
    first: AIMessage
    first = sum_of(list(bound.stream(conversation))) if streamed else bound.invoke(conversation)
    assert not first.invalid_tool_calls
    (call,) = first.tool_calls
    assert call["name"] == "get_weather"
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert "of rain in" in result.content
    answer = bound.invoke([*conversation, first, result])
    assert result.content[:20] in answer.text


def sum_of(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_is_an_object_of_the_class(chat: ChatOpenAI, method: str) -> None:
    if method == "json_mode":
        found = chat.with_structured_output(None, method=method).invoke("Answer in JSON.")
        assert isinstance(found, dict)
    else:
        found = chat.with_structured_output(Person, method=method).invoke("Who is it?")
        assert isinstance(found, Person)


def test_refusals_are_openais_exceptions(chat: ChatOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        chat.bind(model="no-such-model").invoke("Hello")
    with pytest.raises(openai.BadRequestError):
        chat.bind(temperature=5).invoke("Hello")


def test_a_batch_answers_in_order(chat: ChatOpenAI) -> None:
    answers = chat.batch([f"Say the number {number}." for number in range(4)])
    assert all(f"number {number}" in answer.text for number, answer in enumerate(answers))


def test_the_responses_api_serves_invoke_and_stream(responses: ChatOpenAI) -> None:
    told(responses.invoke("Say hello."))
    streamed = sum_of(list(responses.stream("Say hello.")))
    told(streamed)
    assert streamed.response_metadata["status"] == "completed"


def test_the_responses_api_serves_tools_and_structured_output(responses: ChatOpenAI) -> None:
    bound = responses.bind_tools([get_weather])
    conversation = [HumanMessage("What is the weather?")]
    first = bound.invoke(conversation)
    (call,) = first.tool_calls
    result = get_weather.invoke(call)
    answer = bound.invoke([*conversation, first, result])
    assert result.content[:20] in answer.text
    person = responses.with_structured_output(Person).invoke("Who is it?")
    assert isinstance(person, Person)


def test_legacy_completions_speak(url: str, key: str) -> None:
    model = OpenAI(
        model=TRANSLATED, base_url=f"{url}/v1", api_key=key, max_retries=0, max_tokens=40
    )
    assert model.invoke("Once upon a time").strip()
    assert "".join(model.stream("Once upon a time")).strip()


def test_embeddings_are_vectors_of_one_length(url: str, key: str) -> None:
    # Without the check no tokenizer is fetched from elsewhere, and texts are sent as texts.
    model = OpenAIEmbeddings(
        model="qwen-3-embedding-8b",
        base_url=f"{url}/v1",
        api_key=key,
        check_embedding_ctx_length=False,
    )
    one, two, again = model.embed_documents(["one", "two", "one"])
    assert len(one) == len(two) > 100
    assert one == pytest.approx(again)
    assert one != pytest.approx(two)
    assert model.embed_query("one") == pytest.approx(one)


def test_anthropics_class_invokes_and_streams(claude: ChatAnthropic) -> None:
    answer = claude.invoke([("system", "Be brief."), ("human", "Say hello.")])
    told(answer)
    assert answer.response_metadata["stop_reason"] == "end_turn"
    assert answer.response_metadata["model_name"] == claude.model
    streamed = sum_of(list(claude.stream("Say hello.")))
    told(streamed)
    assert streamed.response_metadata["stop_reason"] == "end_turn"


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropics_class_calls_tools_and_reads_results(
    claude: ChatAnthropic, streamed: bool
) -> None:
    bound = claude.bind_tools([get_weather])
    conversation = [HumanMessage("What is the weather?")]
    first: AIMessage
    first = sum_of(list(bound.stream(conversation))) if streamed else bound.invoke(conversation)
    (call,) = first.tool_calls
    result = get_weather.invoke(call)
    answer = bound.invoke([*conversation, first, result])
    assert result.content[:20] in answer.text


def test_anthropics_class_gives_structured_output(claude: ChatAnthropic) -> None:
    found = claude.with_structured_output(Person, method="function_calling").invoke("Who is it?")
    assert isinstance(found, Person)


def test_anthropics_refusals_are_its_exceptions(claude: ChatAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        claude.bind(model="no-such-model").invoke("Hello")
