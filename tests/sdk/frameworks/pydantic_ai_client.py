"""`pydantic-ai`: agents over OpenAI's chats and responses, and over Anthropic's messages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.messages import ModelResponse, ToolCallPart, ToolReturnPart
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

OPEN = "qwen-3-32b"
MODELS = ["chat", "responses", "claude", "translated"]
Make = Callable[[str], Model]


class Person(BaseModel):
    """A person that a text speaks of."""

    name: str = Field(min_length=1)
    age: int = Field(ge=0, le=150)


@pytest.fixture
def make(url: str, key: str) -> Make:
    """A model by the word for the way to it."""
    openai = OpenAIProvider(base_url=f"{url}/v1", api_key=key)
    anthropic = AnthropicProvider(base_url=url, api_key=key)
    ways: dict[str, Callable[[], Model]] = {
        "chat": lambda: OpenAIChatModel(OPEN, provider=openai),
        "responses": lambda: OpenAIResponsesModel(OPEN, provider=openai),
        "claude": lambda: AnthropicModel("claude-haiku-4-5", provider=anthropic),
        "translated": lambda: AnthropicModel("llama-3.3-70b", provider=anthropic),
    }
    return lambda way: ways[way]()


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, make: Make) -> Model:
    return make(request.param)


async def test_a_run_brings_text_and_usage(model: Model) -> None:
    result = await Agent(model, instructions="Be brief.").run("Say hello.")
    assert "sandbox" in result.output.lower()
    assert result.usage.requests == 1
    assert result.usage.input_tokens > 0
    assert result.usage.output_tokens > 0
    last = result.all_messages()[-1]
    assert isinstance(last, ModelResponse)
    assert last.finish_reason == "stop"


async def test_a_streamed_run_brings_the_same_in_pieces(model: Model) -> None:
    async with Agent(model).run_stream("Say hello.") as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 5
    assert "sandbox" in "".join(pieces).lower()
    assert result.usage.output_tokens > 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_agent_calls_its_tool_and_reads_what_it_returns(
    model: Model, streamed: bool
) -> None:
    agent = Agent(model)
    called: list[tuple[str, int]] = []

    @agent.tool_plain
    def get_weather(city: str, days: int) -> str:
        """The weather of a city for some days."""
        called.append((city, days))
        return "seventeen degrees"

    if streamed:
        async with agent.run_stream("What is the weather?") as result:
            output = await result.get_output()
        messages = result.all_messages()
    else:
        done = await agent.run("What is the weather?")
        output, messages = done.output, done.all_messages()
    assert len(called) == 1
    assert "seventeen degrees" in output
    parts = [part for message in messages for part in message.parts]
    assert [part.tool_name for part in parts if isinstance(part, ToolCallPart)] == ["get_weather"]
    assert any(isinstance(part, ToolReturnPart) for part in parts)


async def test_a_conversation_goes_on_with_its_history(model: Model) -> None:
    agent = Agent(model)
    first = await agent.run("Say hello.")
    second = await agent.run("Now say goodbye.", message_history=first.all_messages())
    assert "goodbye" in second.output
    assert second.usage.input_tokens > first.usage.input_tokens


async def test_an_output_type_is_asked_for_as_a_tool(model: Model) -> None:
    agent = Agent(model, output_type=ToolOutput(Person), retries=0)
    result = await agent.run("Jason is 25 years old.")
    assert isinstance(result.output, Person)
    assert result.usage.requests == 1


@pytest.mark.parametrize("way", ["chat", "responses"])
async def test_an_output_type_is_asked_for_as_a_schema(make: Make, way: str) -> None:
    agent = Agent(make(way), output_type=NativeOutput(Person), retries=0)
    result = await agent.run("Jason is 25 years old.")
    assert isinstance(result.output, Person)


async def test_a_tool_and_an_output_schema_work_together(make: Make) -> None:
    agent = Agent(make("chat"), output_type=NativeOutput(Person), retries=0)

    @agent.tool_plain
    def look_up(name: str) -> str:
        """What is known of a person."""
        return f"{name} is 25 years old"

    result = await agent.run("How old is Jason?")
    assert isinstance(result.output, Person)
    assert result.usage.requests == 2
    assert result.usage.tool_calls == 1


async def test_an_unknown_model_is_an_http_error_with_its_code(url: str, key: str) -> None:
    for unknown in (
        OpenAIChatModel("none", provider=OpenAIProvider(base_url=f"{url}/v1", api_key=key)),
        OpenAIResponsesModel("none", provider=OpenAIProvider(base_url=f"{url}/v1", api_key=key)),
        AnthropicModel("none", provider=AnthropicProvider(base_url=url, api_key=key)),
    ):
        with pytest.raises(ModelHTTPError) as raised:
            await Agent(unknown).run("Say hello.")
        assert raised.value.status_code == 404
