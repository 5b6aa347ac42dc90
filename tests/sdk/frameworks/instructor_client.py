"""`instructor`: answers as checked objects, asked for again when they do not hold."""

from __future__ import annotations

from typing import Any

import anthropic
import instructor
import openai
import pytest
from instructor.core import InstructorRetryException
from pydantic import BaseModel, Field, field_validator

OPEN = "qwen-3-32b"
CLAUDES = ["claude-haiku-4-5", "llama-3.3-70b"]
ASKED = [{"role": "user", "content": "Jason is 25 years old."}]


class Person(BaseModel):
    """A person that a text speaks of."""

    name: str = Field(min_length=1)
    age: int = Field(ge=0, le=150)
    tags: list[str] = Field(default_factory=list, max_length=5)


@pytest.fixture
def client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def claude(url: str, key: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)


@pytest.mark.parametrize(
    "mode",
    [instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA],
)
def test_openais_client_gives_objects(client: openai.OpenAI, mode: instructor.Mode) -> None:
    found = instructor.from_openai(client, mode=mode).chat.completions.create(
        model=OPEN, messages=ASKED, response_model=Person, max_retries=0
    )
    assert isinstance(found, Person)


def test_json_mode_gives_an_object_though_no_schema_is_promised(client: openai.OpenAI) -> None:
    class Anything(BaseModel):
        """What the sandbox's own object has."""

        answer: str = Field(min_length=1)

    found = instructor.from_openai(client, mode=instructor.Mode.JSON).chat.completions.create(
        model=OPEN, messages=ASKED, response_model=Anything, max_retries=0
    )
    assert isinstance(found, Anything)


async def test_the_raw_completion_comes_with_the_object(url: str, key: str) -> None:
    client = instructor.from_openai(openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key))
    found, raw = await client.chat.completions.create_with_completion(
        model=OPEN, messages=ASKED, response_model=Person
    )
    assert isinstance(found, Person)
    assert raw.model == OPEN
    assert raw.usage.total_tokens > 0


def test_an_object_that_does_not_hold_is_asked_for_again(client: openai.OpenAI) -> None:
    tries: list[Any] = []

    class Never(BaseModel):
        """Fails its check whatever the model says."""

        name: str

        @field_validator("name")
        @classmethod
        def never(cls, value: str) -> str:
            tries.append(value)
            raise ValueError("this name is never right")

    with pytest.raises(InstructorRetryException) as raised:
        instructor.from_openai(client).chat.completions.create(
            model=OPEN, messages=ASKED, response_model=Never, max_retries=3
        )
    assert raised.value.n_attempts == len(tries) > 1


def test_partial_objects_grow_to_the_whole(client: openai.OpenAI) -> None:
    stream = instructor.from_openai(client).chat.completions.create_partial(
        model=OPEN, messages=ASKED, response_model=Person
    )
    found = list(stream)
    assert len(found) > 1
    assert Person.model_validate(found[-1].model_dump())


def test_an_iterable_gives_one_object_after_another(client: openai.OpenAI) -> None:
    found = list(
        instructor.from_openai(client).chat.completions.create_iterable(
            model=OPEN, messages=ASKED, response_model=Person
        )
    )
    assert all(isinstance(person, Person) for person in found)


@pytest.mark.parametrize("model", CLAUDES)
def test_anthropics_client_gives_objects(claude: anthropic.Anthropic, model: str) -> None:
    found, raw = instructor.from_anthropic(claude).messages.create_with_completion(
        model=model, max_tokens=400, messages=ASKED, response_model=Person, max_retries=0
    )
    assert isinstance(found, Person)
    assert raw.stop_reason == "tool_use"
    assert raw.usage.output_tokens > 0


@pytest.mark.parametrize("model", CLAUDES)
def test_anthropics_client_asks_again(claude: anthropic.Anthropic, model: str) -> None:
    tries: list[str] = []

    class SecondTime(BaseModel):
        """Holds at the second try."""

        name: str

        @field_validator("name")
        @classmethod
        def second_time(cls, value: str) -> str:
            tries.append(value)
            if len(tries) == 1:
                raise ValueError("say it again")
            return value

    found = instructor.from_anthropic(claude).messages.create(
        model=model, max_tokens=400, messages=ASKED, response_model=SecondTime, max_retries=2
    )
    assert isinstance(found, SecondTime)
    assert len(tries) == 2


@pytest.mark.parametrize("model", CLAUDES)
def test_anthropics_partial_objects_grow_to_the_whole(
    claude: anthropic.Anthropic, model: str
) -> None:
    stream = instructor.from_anthropic(claude).messages.create_partial(
        model=model, max_tokens=400, messages=ASKED, response_model=Person
    )
    found = list(stream)
    assert len(found) > 1
    assert Person.model_validate(found[-1].model_dump())


def test_the_responses_api_gives_objects(client: openai.OpenAI) -> None:
    asked = instructor.from_openai(client, mode=instructor.Mode.RESPONSES_TOOLS)
    found = asked.responses.create(
        model=OPEN, input="Jason is 25 years old.", response_model=Person, max_retries=0
    )
    assert isinstance(found, Person)
