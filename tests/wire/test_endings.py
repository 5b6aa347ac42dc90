"""Why answers end: every provider's word, whole and streamed, for callers of every dialect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams.wire import anthropic, openai
from adapters.upstreams.wire.endings import CLEAN, FAILURES, PENDING, SPELLINGS, ending_of
from adapters.upstreams.wire.translation import (
    StreamAsChat,
    StreamAsMessages,
    answer_as_chat,
    answer_as_messages,
)
from kyma.calls import ChatAnswer, Chunk, Dialect, Fault, UpstreamError

RECORDED = Path(__file__).with_name("recorded")
STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
HALF = "Half a sent"


def cases(*faulty: bool) -> list[Any]:
    """The recorded endings: those that are clean, those that are not, or both."""
    return [
        pytest.param(case, id=f"{path.parent.name}: {case['what']}")
        for path in sorted(RECORDED.glob("*/endings.json"))
        for case in json.loads(path.read_text())
        if (case["becomes"] in ("broken", "busy")) in faulty and case["becomes"] != "pending"
    ]


def told(case: dict[str, Any]) -> dict[str, Any]:
    """The fields of a choice that tell how it ended."""
    return {name: value for name, value in case.items() if name not in ("what", "becomes")}


def whole(ending: dict[str, Any], dialect: Dialect = Dialect.CHAT) -> ChatAnswer:
    said = (
        {"message": {"role": "assistant", "content": HALF}}
        if dialect is Dialect.CHAT
        else {"text": HALF}
    )
    raw = orjson.dumps({"id": "x", "model": "m", "choices": [{"index": 0, **said, **ending}]})
    return openai.answer(raw, "ours", "1", dialect)


def streamed(*choices: dict[str, Any]) -> tuple[openai.StreamDecoder, list[dict[str, Any]]]:
    """A decoder that has read these choices and `[DONE]`, and the chunks it passed on."""
    decoder, chunks = openai.StreamDecoder("ours", "1", 1), []
    for choice in choices:
        body = {"id": "x", "model": "m", "choices": [{"index": 0, "delta": {}, **choice}]}
        chunk = decoder.feed(b"data: " + orjson.dumps(body) + b"\n\n")
        assert chunk is not None
        chunks += [json.loads(event.removeprefix(b"data: ")) for event in chunk.events]
    decoder.feed(b"data: [DONE]\n\n")
    return decoder, chunks


SAID = {"delta": {"content": HALF}, "finish_reason": None}


def test_every_provider_with_words_of_its_own_is_recorded() -> None:
    recorded = {path.parent.name for path in RECORDED.glob("*/endings.json")}
    assert recorded >= {
        *("openai", "anthropic", "zai", "deepseek", "openrouter", "moonshot", "minimax"),
        *("google", "together", "fireworks", "groq", "alibaba", "vllm"),
    }


@pytest.mark.parametrize("case", cases(False))
def test_a_clean_end_is_told_in_openai_s_word(case: dict[str, Any]) -> None:
    ending = told(case)
    assert whole(ending).body["choices"][0]["finish_reason"] == case["becomes"]
    written = whole(ending, Dialect.COMPLETIONS)
    assert written.body["choices"][0]["finish_reason"] == case["becomes"]
    decoder, chunks = streamed(SAID, ending)
    assert decoder.complete
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, case["becomes"]]
    assert all(chunk["model"] == "ours" for chunk in chunks)


@pytest.mark.parametrize("case", cases(True))
def test_an_end_that_failed_is_never_a_clean_one(case: dict[str, Any]) -> None:
    for dialect in (Dialect.CHAT, Dialect.COMPLETIONS):
        with pytest.raises(UpstreamError) as caught:
            whole(told(case), dialect)
        assert caught.value.fault == case["becomes"]
    with pytest.raises(UpstreamError) as caught:
        streamed(SAID, told(case))
    assert caught.value.fault == case["becomes"]


def test_a_failed_end_in_mid_stream_passes_nothing_on() -> None:
    decoder = openai.StreamDecoder("ours", "1", 1)
    choices = [{"index": 0, "delta": {"content": "x"}, "finish_reason": "network_error"}]
    event = b"data: " + orjson.dumps({"id": "x", "model": "m", "choices": choices}) + b"\n\n"
    with pytest.raises(UpstreamError):
        decoder.feed(event + b"data: [DONE]\n\n")
    assert not decoder.complete


@pytest.mark.parametrize("word", ["null", "None", "", " "])
def test_a_word_for_no_end_is_none(word: str) -> None:
    decoder, chunks = streamed(SAID | {"finish_reason": word}, {"finish_reason": None})
    assert not decoder.complete
    assert not any((c["choices"][0]["finish_reason"] or "").strip() for c in chunks)
    with pytest.raises(UpstreamError):
        whole({"finish_reason": word})


def test_one_failed_choice_of_several_fails_the_answer() -> None:
    said = {"message": {"content": "x"}}
    choices = [{**said, "finish_reason": "stop"}, {**said, "finish_reason": "error"}]
    with pytest.raises(UpstreamError) as caught:
        openai.answer(orjson.dumps({"choices": choices}), "ours", "1")
    assert caught.value.fault is Fault.BROKEN


@given(st.text(max_size=30) | st.integers() | st.lists(st.text(max_size=3), max_size=2))
def test_a_word_in_no_table_is_a_broken_answer(reason: Any) -> None:
    known = {*CLEAN, *SPELLINGS, *PENDING}
    word = reason.strip().lower() if isinstance(reason, str) else reason
    if isinstance(word, str) and (word in known or word.partition(":")[0] in CLEAN):
        assert ending_of(reason) in {*CLEAN, None}
        return
    with pytest.raises(UpstreamError) as caught:
        ending_of(reason)
    assert caught.value.fault is Fault.BROKEN


def test_the_tables_do_not_contradict_each_other() -> None:
    assert not FAILURES & {*CLEAN, *SPELLINGS, *PENDING}
    assert {*SPELLINGS.values()} <= CLEAN


# To and from Anthropic's dialect


@pytest.mark.parametrize("case", cases(False))
def test_a_clean_end_is_told_to_anthropic_s_clients(case: dict[str, Any]) -> None:
    answer = answer_as_messages(whole(told(case)))
    assert answer.body["stop_reason"] == STOPS[case["becomes"]]


@pytest.mark.parametrize("word", ["network_error", "something_new", "", None, 7])
def test_no_odd_word_becomes_the_end_of_a_turn(word: Any) -> None:
    choice = {"index": 0, "message": {"content": HALF}, "finish_reason": word}
    with pytest.raises(UpstreamError) as caught:
        answer_as_messages(ChatAnswer({"choices": [choice]}, None, 1))
    assert caught.value.fault is Fault.BROKEN
    if word:
        event = {"choices": [{"index": 0, "delta": {}, "finish_reason": word}]}
        with pytest.raises(UpstreamError):
            StreamAsMessages("ours", "1").take(
                Chunk([b"data: " + orjson.dumps(event)], 0, False, None)
            )


ANTHROPIC = json.loads((RECORDED / "anthropic" / "endings.json").read_text())


@pytest.mark.parametrize("case", ANTHROPIC, ids=lambda case: case["what"])
def test_claude_s_end_is_told_to_openai_s_clients(case: dict[str, Any]) -> None:
    def ends() -> list[Any]:
        body = {"content": [{"type": "text", "text": HALF}], "stop_reason": case["finish_reason"]}
        message = answer_as_chat(anthropic.answer(orjson.dumps(body), "ours", "1"))
        ending = {"stop_reason": case["finish_reason"]}
        chunk = StreamAsChat("ours", "1").take(Chunk([], 0, True, None, ending))
        last = json.loads(chunk.events[-1].removeprefix(b"data: "))
        return [message.body["choices"][0], last["choices"][0]]

    if case["becomes"] == "broken":
        with pytest.raises(UpstreamError) as caught:
            ends()
        assert caught.value.fault is Fault.BROKEN
    else:
        assert [choice["finish_reason"] for choice in ends()] == [case["becomes"]] * 2


def test_claude_s_new_words_reach_anthropic_s_clients_as_they_are() -> None:
    answer = anthropic.answer(b'{"content": [], "stop_reason": "something_new"}', "ours", "1")
    assert answer.body["stop_reason"] == "something_new"


# Answers that say nothing


@pytest.mark.parametrize(
    ("reason", "ending"),
    [("content_filter: PROHIBITED_CONTENT", "content_filter"), ("length", "length")],
)
def test_an_answer_that_was_cut_before_its_first_word_is_an_empty_one(
    reason: str, ending: str
) -> None:
    raw = orjson.dumps({"choices": [{"index": 0, "finish_reason": reason}]})
    (choice,) = openai.answer(raw, "ours", "1").body["choices"]
    assert choice["message"] == {"role": "assistant", "content": ""}
    assert choice["finish_reason"] == ending


def test_an_answer_without_a_message_that_was_not_cut_is_broken() -> None:
    with pytest.raises(UpstreamError) as caught:
        openai.answer(b'{"choices": [{"index": 0, "finish_reason": "stop"}]}', "ours", "1")
    assert caught.value.fault is Fault.BROKEN
