"""The legacy completions, held to the official client's own types."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from openai.types import Completion

from adapters.http.dialects.completions import Completions
from kyma.calls import ChatAnswer, Dialect, size_of_prompt
from kyma.errors import Code, Refusal
from kyma.flows.ticket import Served, Ticket
from tests.http.responses_builders import MODEL, RECEIPT, ROUTE, a_ticket, ended

DIALECT = Completions()
WINDOW = MODEL.context_window
CHOICE = {"index": 0, "text": " world", "finish_reason": "stop", "logprobs": None}


def a_body(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL.id, "prompt": "Hello", **fields}


def ticket_of(**fields: Any) -> Ticket:
    return replace(a_ticket(), call=DIALECT.call(a_body(**fields), MODEL), endpoint="completions")


def test_the_body_crosses_untouched() -> None:
    body = a_body(stream=True, suffix="!", echo=True, logprobs=3, stop=["x"], custom=1)
    assert DIALECT.model(body) == MODEL.id
    call = DIALECT.call(body, MODEL)
    assert call.body == body
    assert (call.dialect, call.stream, call.wants_usage) == (Dialect.COMPLETIONS, True, False)
    assert DIALECT.call(a_body(stream_options={"include_usage": True}), MODEL).wants_usage


def test_a_prompt_is_held_for_byte_by_byte_and_sixteen_tokens_of_answer() -> None:
    size = size_of_prompt(a_body(prompt="Chào", suffix="!!"), WINDOW)
    assert (size.likely_input, size.worst_input) == (2 + 8, 7 + 8)
    assert (size.max_output, size.choices) == (16, 1)


def test_several_prompts_are_several_answers() -> None:
    size = size_of_prompt(a_body(prompt=["a", "b" * 10], n=3, max_tokens=5), WINDOW)
    assert size.worst_input == 1 + 10 + 16
    assert (size.max_output, size.choices) == (5 * 6, 6)


def test_each_prompt_is_bounded_by_a_window_of_its_own() -> None:
    size = size_of_prompt(a_body(prompt=["a" * 1000, "b" * 1000], max_tokens=1000), 100)
    assert (size.likely_input, size.worst_input, size.max_output) == (200, 200, 200)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": None}, Code.MISSING_FIELD, "model"),
        ({"model": []}, Code.INVALID_TYPE, "model"),
        ({"prompt": None}, Code.MISSING_FIELD, "prompt"),
        ({"prompt": {}}, Code.INVALID_TYPE, "prompt"),
        ({"prompt": []}, Code.INVALID_VALUE, "prompt"),
        ({"prompt": [1, 2, 3]}, Code.INVALID_TYPE, "prompt"),
        ({"prompt": [[1], [2]]}, Code.INVALID_TYPE, "prompt"),
        ({"prompt": ["a", None]}, Code.INVALID_TYPE, "prompt"),
        ({"prompt": ["a"] * 20, "n": 10}, Code.INVALID_VALUE, "n"),
        ({"n": 0}, Code.INVALID_VALUE, "n"),
        ({"n": True}, Code.INVALID_TYPE, "n"),
        ({"max_tokens": 0}, Code.INVALID_VALUE, "max_tokens"),
        ({"best_of": 2}, Code.INVALID_VALUE, "best_of"),
        ({"stream": "yes"}, Code.INVALID_TYPE, "stream"),
        ({"stream_options": []}, Code.INVALID_TYPE, "stream_options"),
        ({"suffix": 7}, Code.INVALID_TYPE, "suffix"),
        ({"temperature": -1}, Code.INVALID_VALUE, "temperature"),
        ({"top_p": "1"}, Code.INVALID_TYPE, "top_p"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_name(
    fields: dict[str, Any], code: Code, param: str
) -> None:
    with pytest.raises(Refusal) as raised:
        DIALECT.model(a_body(**fields))
    assert (raised.value.code, raised.value.param) == (code, param)
    assert DIALECT.refusal(raised.value, "r1")["error"]["param"] == param


def test_a_whole_answer_is_a_completion_of_the_official_client() -> None:
    body = {
        "id": "cmpl-r1",
        "object": "text_completion",
        "created": 1,
        "model": MODEL.id,
        "choices": [CHOICE],
    }
    answer = DIALECT.whole(Served(ticket_of(), ROUTE, ChatAnswer(body, None, 6), RECEIPT))
    completion = Completion.model_validate(answer, strict=True)
    assert completion.choices[0].text == " world"
    assert answer["usage"]["total_tokens"] == 108
    assert answer["usage"]["cost_usd"] == "0.000116"


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_passes_through_and_its_usage_comes_when_asked_for(asked: bool) -> None:
    chunk = {"id": "cmpl-r1", "object": "text_completion", "created": 1, "model": MODEL.id}
    event = b"data: " + orjson.dumps({**chunk, "choices": [CHOICE]})
    rendering = DIALECT.rendering(ticket_of(stream=True, stream_options={"include_usage": asked}))
    written = rendering.events([event]) + rendering.end(ended())
    *events, done, rest = written.split(b"\n\n")
    assert (events[0], done, rest) == (event, b"data: [DONE]", b"")
    assert len(events) == 1 + asked
    for told in events:
        Completion.model_validate(orjson.loads(told.removeprefix(b"data: ")), strict=True)
    if asked:
        usage = orjson.loads(events[1].removeprefix(b"data: "))
        assert (usage["id"], usage["choices"]) == ("cmpl-r1", [])
        assert usage["usage"]["prompt_tokens"] == 100


def test_a_failure_after_the_head_is_an_error_event_without_an_end() -> None:
    refusal = Refusal(Code.STREAM_INTERRUPTED, "It broke off.")
    written = DIALECT.rendering(ticket_of(stream=True)).failed(refusal, "r1")
    assert written.startswith(b"event: error\ndata: ")
    assert b"[DONE]" not in written
