"""OpenAI's dialect as each provider speaks it: golden recordings, split anywhere, broken anyhow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams.wire import openai
from adapters.upstreams.wire.openai import StreamDecoder
from kyma.calls import ChatCall, Chunk, Fault, Size, UpstreamError
from kyma.pricing import plausible
from kyma.usage import Usage

RECORDED = Path(__file__).with_name("recorded")
PROVIDERS = sorted(path.parent.name for path in RECORDED.glob("*/whole.json"))
MODEL, ID = "our-model", "0190b5a0"


def expected_of(provider: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / provider / "stream.expected.json").read_text())
    return found


def sse_of(provider: str) -> bytes:
    return (RECORDED / provider / "stream.sse").read_bytes()


class Read:
    """All that a stream brought, whatever its reads were."""

    def __init__(self, *reads: bytes, choices: int = 1) -> None:
        self.decoder = StreamDecoder(MODEL, ID, choices)
        self.payloads: list[bytes] = []
        self.usage: Usage | None = None
        self.output_bytes = 0
        self.finished = False
        for data in reads:
            chunk = self.decoder.feed(data)
            if chunk is not None:
                self._take(chunk)

    def _take(self, chunk: Chunk) -> None:
        self.payloads += [event.removeprefix(b"data: ") for event in chunk.events]
        self.output_bytes += chunk.output_bytes
        self.finished = self.finished or chunk.finished
        if chunk.usage is not None:
            self.usage = chunk.usage

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for payload in self.payloads]

    @property
    def text(self) -> str:
        return "".join(
            choice["delta"].get("content") or ""
            for body in self.bodies
            for choice in body["choices"]
        )


def event(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> bytes:
    body: dict[str, Any] = {
        "id": "theirs",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "their-model",
        "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}],
    }
    body.update(fields)
    return orjson.dumps({name: value for name, value in body.items() if value is not ...})


def sse(*payloads: bytes) -> bytes:
    return b"".join(b"data: " + payload + b"\n\n" for payload in payloads)


DONE = sse(b"[DONE]")


# Recordings


def test_there_is_a_recording_of_every_way_to_tell_usage() -> None:
    assert set(PROVIDERS) == {
        "alibaba", "deepseek", "google", "groq", "moonshot", "openai", "openrouter",
    }  # fmt: skip


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_whole_answer_is_read_as_recorded(provider: str) -> None:
    recording = json.loads((RECORDED / provider / "whole.json").read_text())
    theirs, expected = recording["answer"], recording["expected"]
    answer = openai.answer(orjson.dumps(theirs), MODEL, ID)
    assert answer.usage == Usage(*expected["usage"])
    assert plausible(answer.usage)
    assert answer.body["choices"][0]["message"]["content"] == expected["text"]
    assert answer.output_bytes >= len(expected["text"].encode())
    assert answer.body["id"] == f"chatcmpl-{ID}"
    assert answer.body["model"] == MODEL
    # Everything else reaches the customer as it came.
    changed = {"id", "model", "usage", "object", *expected.get("gone", ())}
    kept = {name: value for name, value in theirs.items() if name not in changed}
    assert {name: answer.body[name] for name in kept} == kept
    assert not set(expected.get("gone", ())) & set(answer.body)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_is_read_as_recorded(provider: str) -> None:
    read, expected = Read(sse_of(provider)), expected_of(provider)
    assert read.text == expected["text"]
    assert read.usage == Usage(*expected["usage"])
    assert read.output_bytes >= len(expected["text"].encode())
    assert read.finished
    assert read.decoder.complete
    assert read.decoder.said_done
    for body in read.bodies:
        assert body["id"] == f"chatcmpl-{ID}"
        assert body["model"] == MODEL
        assert not body.get("usage")
        assert not set(expected.get("gone", ())) & set(body)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_not_ours_to_change_passes_through(provider: str) -> None:
    dropped = {"id", "model", "usage", "x_groq", "provider"}

    def kept(body: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in body.items() if name not in dropped}

    lines = sse_of(provider).decode().replace("\r", "").split("\n")
    theirs = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [kept(body) for body in Read(sse_of(provider)).bodies] == [
        kept(body) for body in theirs if body["choices"]
    ]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_split_at_any_byte_is_the_same_stream(provider: str) -> None:
    data = sse_of(provider)
    whole = Read(data)
    for at in range(1, len(data)):
        split = Read(data[:at], data[at:])
        assert split.payloads == whole.payloads, at
        assert (split.usage, split.output_bytes) == (whole.usage, whole.output_bytes), at


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_byte_by_byte_is_the_same_stream(provider: str) -> None:
    data = sse_of(provider)
    drops = Read(*(data[at : at + 1] for at in range(len(data))))
    assert drops.payloads == Read(data).payloads
    assert drops.decoder.said_done


@given(st.data())
def test_a_stream_cut_into_any_reads_is_the_same_stream(data: st.DataObject) -> None:
    raw = sse_of(data.draw(st.sampled_from(PROVIDERS)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=30)))
    reads = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert Read(*reads).payloads == Read(raw).payloads


@pytest.mark.parametrize("provider", PROVIDERS)
def test_line_ends_of_both_kinds_mean_the_same(provider: str) -> None:
    data = sse_of(provider).replace(b"\r\n", b"\n")
    crlf = data.replace(b"\n", b"\r\n")
    assert Read(crlf).payloads == Read(data).payloads
    for at in range(1, len(crlf), 7):
        assert Read(crlf[:at], crlf[at:]).payloads == Read(data).payloads, at


# The form of events


@pytest.mark.parametrize(
    "noise",
    [
        b": OPENROUTER PROCESSING\n\n",
        b":\n\n",
        b"event: message\n",
        b"id: 17\n",
        b"retry: 3000\n\n",
        b"\n\n",
        b"\n",
        b"data:\n\n",
        b"data: \n\n",
    ],
)
def test_comments_and_fields_that_carry_nothing_are_passed_over(noise: bytes) -> None:
    hello, end = event({"content": "hello"}), event({}, "stop")
    read = Read(noise + sse(hello) + noise + sse(end) + noise + DONE)
    assert read.text == "hello"
    assert read.decoder.said_done


@pytest.mark.parametrize("form", [b"data:%s\n\n", b"data: %s\n\n", b"data:   %s  \n\n"])
def test_the_space_after_the_colon_is_free(form: bytes) -> None:
    assert Read(form % event({"content": "hello"}) + form % b"[DONE]").text == "hello"


def test_the_data_of_one_event_may_come_in_several_lines() -> None:
    read = Read(b'data: {"id":"t","model":"m","choices":\ndata: [{"index":0,"delta":{}}]}\n\n')
    assert len(read.payloads) == 1


def test_a_missing_done_after_every_choice_finished_is_a_complete_answer() -> None:
    read = Read(sse(event({"content": "hi"}), event({}, "stop")))
    assert read.decoder.complete
    assert not read.decoder.said_done


@pytest.mark.parametrize("end", [b"", DONE])
def test_an_end_before_every_choice_finished_is_not_complete(end: bytes) -> None:
    read = Read(sse(event({"content": "hi"})) + end)
    assert not read.decoder.complete
    assert not read.finished


def test_each_of_several_choices_must_finish() -> None:
    first = event(choices=[{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}])
    second = event(choices=[{"index": 1, "delta": {"content": "b"}, "finish_reason": "length"}])
    assert not Read(sse(first), choices=2).decoder.complete
    assert Read(sse(first, second), choices=2).decoder.complete


@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls", "content_filter"])
def test_every_reason_to_finish_finishes(finish: str) -> None:
    assert Read(sse(event({}, finish))).finished


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b'{"choices": [}',
        b"<html>502</html>",
        b"[]",
        b'"text"',
        b'{"choices": 7}',
        b'{"choices": [7]}',
        b'{"id": "a", "choices": [{"delta": "text"}]}',
        b'{"choices": [{"delta": {"content": "\xff\xfe"}}]}',
        b"[DONE",
    ],
)
def test_a_malformed_chunk_is_a_broken_upstream(payload: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        Read(sse(event({"content": "hi"}), payload))
    assert caught.value.fault is Fault.BROKEN


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"message": "boom", "type": "server_error"}, Fault.BROKEN),
        ({"message": "slow down", "code": 429}, Fault.BUSY),
        ({"message": "slow down", "code": "429"}, Fault.BUSY),
        ({"message": "down", "code": 503}, Fault.BUSY),
        ({"message": "busy", "type": "overloaded_error"}, Fault.BUSY),
        ({"message": "Provider disconnected", "code": 502}, Fault.BROKEN),
        ("just text", Fault.BROKEN),
        ({"code": 500}, Fault.BROKEN),
    ],
)
def test_an_error_under_a_status_of_200_is_one(error: Any, fault: Fault) -> None:
    for raw in (orjson.dumps({"error": error}), event(error=error)):
        with pytest.raises(UpstreamError) as in_stream:
            Read(sse(event({"content": "hi"})), sse(raw))
        assert in_stream.value.fault is fault
        assert in_stream.value.message
    with pytest.raises(UpstreamError) as whole:
        openai.answer(orjson.dumps({"error": error}), MODEL, ID)
    assert whole.value.fault is fault


@pytest.mark.parametrize("nothing", [None, {}, ""])
def test_an_empty_error_is_none(nothing: object) -> None:
    assert Read(sse(event({"content": "hi"}, error=nothing))).text == "hi"


@pytest.mark.parametrize(
    ("delta", "weight"),
    [
        ({"role": "assistant"}, 0),
        ({"content": ""}, 0),
        ({"content": None}, 0),
        ({"content": "hello"}, 5),
        ({"content": "é漢"}, 5),
        ({"reasoning_content": "hm"}, 2),
        ({"reasoning": "hm"}, 2),
        ({"refusal": "no"}, 2),
        ({"content": "hello", "reasoning_content": "hm"}, 7),
        ({"content": "hello", "tool_calls": [{"index": 0}]}, 5 + len('[{"index":0}]')),
    ],
)
def test_all_that_the_model_produced_is_weighed(delta: dict[str, Any], weight: int) -> None:
    assert Read(sse(event(delta))).output_bytes == weight


def test_tool_calls_weigh_at_least_their_arguments() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"city": "Oslo"}'}}
    read = Read(sse(event({"tool_calls": [call]}), event({}, "tool_calls")))
    assert read.output_bytes > len('{"city": "Oslo"}')
    assert read.bodies[0]["choices"][0]["delta"]["tool_calls"] == [call]


def piece(index: int | None, arguments: Any = ..., **fields: Any) -> dict[str, Any]:
    """A piece of a call, without what is not told of it."""
    function = {"name": fields.pop("name", ...), "arguments": arguments}
    told = {name: value for name, value in function.items() if value is not ...}
    return {"index": index, **fields, "function": told}


@pytest.mark.parametrize("none", [{}, {"id": None}, {"id": ""}])
@pytest.mark.parametrize(("said", "text"), [({"x": 1}, '{"x":1}'), ('{"x": 1}', '{"x": 1}')])
def test_a_client_can_answer_every_call_of_a_whole_answer(
    none: dict[str, Any], said: Any, text: str
) -> None:
    calls = [
        {**none, "type": "function", "function": {"name": "f", "arguments": said}},
        {"id": "theirs", "type": "function", "function": {"name": "g", "arguments": None}},
        {**none, "type": "function", "function": {"name": "h"}},
    ]
    choice = {"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}
    answer = openai.answer(orjson.dumps({"choices": [choice]}), MODEL, ID)
    assert answer.output_bytes == len(orjson.dumps(calls)), "ours is not the model's to bill"
    told = answer.body["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], call["function"]) for call in told] == [
        (f"call_{ID}_0", {"name": "f", "arguments": text}),
        ("theirs", {"name": "g", "arguments": "{}"}),
        (f"call_{ID}_2", {"name": "h", "arguments": "{}"}),
    ]


@pytest.mark.parametrize("none", [{}, {"id": None}, {"id": ""}])
@pytest.mark.parametrize(
    ("pieces", "ids", "texts"),
    [
        # in one piece
        ([piece(0, '{"x":1}', name="f")], ["s0"], ['{"x":1}']),
        ([piece(0, {"x": 1}, name="f")], ["s0"], ['{"x":1}']),
        ([piece(0, {}, name="f")], ["s0"], ["{}"]),
        # the id comes with the first arguments, and only then
        (
            [piece(0, "", name="f"), piece(0, '{"x"'), piece(0, ":1}")],
            [None, "s0", None],
            ["", '{"x"', ":1}"],
        ),
        # each call has one of its own
        (
            [piece(0, "{}", name="f"), piece(1, "{", name="f"), piece(1, "}")],
            ["s0", "s1", None],
            ["{}", "{", "}"],
        ),
    ],
)
def test_a_client_can_answer_every_call_of_a_stream(
    none: dict[str, Any], pieces: list[dict[str, Any]], ids: list[Any], texts: list[str]
) -> None:
    deltas = [{"tool_calls": [{**none, **told}]} for told in pieces]
    read = Read(sse(*map(event, deltas), event({}, "tool_calls")))
    told = [body["choices"][0]["delta"]["tool_calls"][0] for body in read.bodies[:-1]]
    made = [id and f"call_{ID}_{id}" for id in ids]
    assert [call.get("id") or None for call in told] == made
    assert [call["function"]["arguments"] for call in told] == texts
    assert {body["id"] for body in read.bodies} == {f"chatcmpl-{ID}"}
    assert read.output_bytes == sum(len(orjson.dumps(delta["tool_calls"])) for delta in deltas)


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(0, "", id="a", name="f"), piece(0, '{"x"'), piece(0, ":1}", id="")],
        [piece(0, name="f"), piece(0, "{}", id="a", name="f")],
        [piece(None, "{}", id="a", name="f"), piece(None, " ")],
        [{"index": 0, "function": None}, {"index": 0}],
    ],
)
def test_calls_that_have_their_ids_pass_as_they_came(pieces: list[dict[str, Any]]) -> None:
    mended = {"tool_calls": [piece(7, {}, name="f")]}
    deltas = [mended, *({"tool_calls": [7, told]} for told in pieces)]
    theirs = [json.dumps(json.loads(event(delta))).encode() for delta in deltas]  # with blanks
    ours = [
        payload.replace(b'"id": "theirs"', b'"id":"chatcmpl-%s"' % ID.encode()).replace(
            b'"model": "their-model"', b'"model":"%s"' % MODEL.encode()
        )
        for payload in theirs
    ]
    assert Read(sse(*theirs)).payloads[1:] == ours[1:]


def test_calls_of_other_choices_have_ids_of_their_own() -> None:
    calls = [{}, {}, {"id": "theirs"}]
    choices = [
        {"index": n, "delta": {"tool_calls": [piece(0, "{}", name="f", **call)]}}
        for n, call in enumerate(calls)
    ]
    read = Read(sse(event(choices=[*choices, {"index": 3, "delta": {}}])), choices=4)
    *told, last = read.bodies[0]["choices"]
    ids = [choice["delta"]["tool_calls"][0]["id"] for choice in told]
    assert ids == [f"call_{ID}_s0", f"call_{ID}_s1", "theirs"]
    assert last["delta"] == {}


# Our names


NAMES = {
    "compact": b'{"id":"x-1","model":"their/model","choices":[{"delta":{"content":"hi"}}]}',
    "spaced": b'{"id": "x-1", "model": "their/model", "choices": [{"delta": {"content": "hi"}}]}',
    "odd spaces": b'{ "id" : "x-1" ,\t"model"\t:  "their/model",'
    b'"choices":[{"delta":{"content":"hi"}}]}',
    "model last": b'{"choices":[{"delta":{"content":"hi"}}],"id":"x-1","model":"their/model"}',
    "escaped": b'{"id":"x\\"1","model":"their\\/model","choices":[{"delta":{"content":"hi"}}]}',
    "no id": b'{"model":"their/model","choices":[{"delta":{"content":"hi"}}]}',
    "no model": b'{"id":"x-1","choices":[{"delta":{"content":"hi"}}]}',
    "null id": b'{"id":null,"model":"their/model","choices":[{"delta":{"content":"hi"}}]}',
    "empty id": b'{"id":"","model":"their/model","choices":[{"delta":{"content":"hi"}}]}',
    "a number": b'{"id":17,"model":"their/model","choices":[{"delta":{"content":"hi"}}]}',
    "tool id first": b'{"choices":[{"delta":{"content":"hi","tool_calls":[{"id":"call_1",'
    b'"function":{"name":"f"}}]}}],"id":"x-1","model":"their/model"}',
    "model inside": b'{"choices":[{"delta":{"content":"hi","x":{"model":"inner"}}}],'
    b'"id":"x-1","model":"their/model"}',
    "said in text": b'{"choices":[{"delta":{"content":"hi","reasoning":"\\"id\\":\\"x-1\\""}}],'
    b'"id":"x-1","model":"their/model"}',
    "provider": b'{"provider":"X","id":"x-1","model":"their/model","choices":[{"delta":'
    b'{"content":"hi"}}]}',
}


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_comes_under_our_names_however_it_is_written(name: str) -> None:
    theirs = json.loads(NAMES[name])
    for read in (Read(sse(NAMES[name])), Read(sse(NAMES[name], NAMES[name]))):
        for body in read.bodies:
            assert (body["id"], body["model"]) == (f"chatcmpl-{ID}", MODEL)
            assert body["choices"] == theirs["choices"]
            assert "provider" not in body


def test_an_id_that_changes_in_the_middle_is_ours_all_the_same() -> None:
    pieces = [event({"content": str(n)}, id=f"chunk-{n}", model=f"m-{n % 2}") for n in range(6)]
    read = Read(sse(*pieces))
    assert {body["id"] for body in read.bodies} == {f"chatcmpl-{ID}"}
    assert {body["model"] for body in read.bodies} == {MODEL}
    assert read.text == "012345"


def test_who_served_is_not_told_by_a_chunk_in_the_middle_either() -> None:
    pieces = [
        event({"content": str(n)}, **({"provider": "Somebody"} if n in {2, 3} else {}))
        for n in range(5)
    ]
    read = Read(sse(*pieces))
    assert [body for body in read.bodies if "provider" in body] == []
    assert read.text == "01234"


def test_the_same_id_written_in_another_way_is_ours_all_the_same() -> None:
    compact = b'{"id":"x","model":"m","choices":[{"delta":{"content":"a"}}]}'
    spaced = b'{"model": "m", "id": "x", "choices": [{"delta": {"content": "b"}}]}'
    for body in Read(sse(compact, spaced, compact)).bodies:
        assert (body["id"], body["model"]) == (f"chatcmpl-{ID}", MODEL)


@given(st.text(max_size=60), st.text(max_size=20), st.text(max_size=20))
def test_no_text_of_a_model_is_ever_changed(text: str, their_id: str, their_model: str) -> None:
    payloads = [
        event({"content": text, "x": {"id": their_id}}, id=their_id, model=their_model)
        if encodable(text + their_id + their_model)
        else event({"content": "x"})
        for _ in range(2)
    ]
    theirs = [json.loads(payload) for payload in payloads]
    read = Read(sse(*payloads))
    assert [body["choices"] for body in read.bodies] == [body["choices"] for body in theirs]
    assert {(body["id"], body["model"]) for body in read.bodies} == {(f"chatcmpl-{ID}", MODEL)}


def encodable(text: str) -> bool:
    return not any(0xD800 <= ord(letter) < 0xE000 for letter in text)


# Usage


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (None, None),
        ("x", None),
        ([], None),
        ({}, Usage()),
        ({"prompt_tokens": 10, "completion_tokens": 5}, Usage(input=10, output=5)),
        ({"prompt_tokens": 10, "completion_tokens": None}, Usage(input=10)),
        ({"prompt_tokens": "10"}, Usage()),
        ({"prompt_tokens": 10.0}, Usage(input=10)),
        ({"prompt_tokens": 10, "prompt_tokens_details": None}, Usage(input=10)),
        (
            {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": None}},
            Usage(input=10),
        ),
        (
            {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}},
            Usage(input=6, cache_read=4),
        ),
        ({"prompt_tokens": 10, "prompt_cache_hit_tokens": 4}, Usage(input=6, cache_read=4)),
        ({"prompt_tokens": 10, "cached_tokens": 4}, Usage(input=6, cache_read=4)),
        ({"prompt_tokens": 10, "cache_read_input_tokens": 4}, Usage(input=6, cache_read=4)),
        (
            {"prompt_tokens": 10, "cache_creation_input_tokens": 3},
            Usage(input=7, cache_write=3),
        ),
        (
            {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 4}},
            Usage(output=5, reasoning=4),
        ),
        (
            {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 40}},
            Usage(reasoning=9),
        ),
    ],
)
def test_usage_is_read_in_every_spelling(told: Any, usage: Usage | None) -> None:
    assert openai.usage_of(told) == usage


@pytest.mark.parametrize(
    "told",
    [
        {"prompt_tokens": -5},
        {"completion_tokens": -5},
        {"prompt_tokens": 1, "cached_tokens": 5},
        {"prompt_tokens": 1e300},
        {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": -2}},
    ],
)
def test_impossible_figures_stay_visible_to_whoever_judges_them(told: dict[str, Any]) -> None:
    usage = openai.usage_of(told)
    assert usage is not None
    assert not plausible(usage)


@pytest.mark.parametrize("figure", [b"1e999", b"-1e999", b"NaN"])
def test_a_figure_that_is_no_number_breaks_nothing_but_the_answer(figure: bytes) -> None:
    body = b'{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":%s}}' % figure
    with pytest.raises(UpstreamError) as caught:
        openai.answer(body, MODEL, ID)
    assert caught.value.fault is Fault.BROKEN


# Failures


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (429, b'{"error": {"message": "slow down"}}', Fault.BUSY),
        (503, b"", Fault.BUSY),
        (529, b'{"error": {"type": "overloaded_error"}}', Fault.BUSY),
        (401, b'{"error": {"message": "bad key"}}', Fault.DENIED),
        (402, b'{"error": {"message": "Insufficient Balance"}}', Fault.DENIED),
        (403, b'{"error": {"message": "no access"}}', Fault.DENIED),
        (403, b'{"error": {"message": "Input was flagged", "code": 403}}', Fault.REFUSED),
        (403, b'{"error": {"message": "x", "code": "moderation"}}', Fault.REFUSED),
        (408, b"", Fault.TIMEOUT),
        (504, b"<html>", Fault.TIMEOUT),
        (524, b"", Fault.TIMEOUT),
        (400, b'{"error": {"message": "bad", "param": "tools"}}', Fault.BAD_REQUEST),
        (415, b"", Fault.BAD_REQUEST),
        (422, b'{"detail": "x"}', Fault.BAD_REQUEST),
        (413, b"", Fault.TOO_LONG),
        (400, b'{"error": {"message": "x", "code": "context_length_exceeded"}}', Fault.TOO_LONG),
        (
            400,
            b'{"error": {"message": "This model\'s maximum context length is 8192 tokens"}}',
            Fault.TOO_LONG,
        ),
        (400, b'{"error": {"message": "x", "code": "content_filter"}}', Fault.REFUSED),
        (400, b'{"error": {"message": "x", "type": "content_policy_violation"}}', Fault.REFUSED),
        (404, b'{"error": {"message": "no such model"}}', Fault.BROKEN),
        (500, b"oops", Fault.BROKEN),
        (502, b"<html>bad gateway</html>", Fault.BROKEN),
        (301, b"", Fault.BROKEN),
        (418, b"[1]", Fault.BROKEN),
        (400, b"\xff\xfe not text", Fault.BAD_REQUEST),
        (400, b'{"error": "a string"}', Fault.BAD_REQUEST),
        (400, b'{"error": null}', Fault.BAD_REQUEST),
    ],
)
def test_a_failure_is_classified_by_status_first(status: int, body: bytes, fault: Fault) -> None:
    error = openai.failure(status, body, None)
    assert error.fault is fault
    assert error.message


def test_the_callers_field_is_named() -> None:
    error = openai.failure(400, b'{"error": {"message": "bad", "param": "tools"}}', None)
    assert (error.message, error.param) == ("bad", "tools")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_seconds(header: str | None, seconds: float | None) -> None:
    assert openai.failure(429, b"", header).retry_after_s == seconds


@pytest.mark.parametrize("header", ["nan", "inf", "1e400"])
def test_a_retry_after_that_is_no_time_is_none(header: str) -> None:
    assert openai.failure(429, b"", header).retry_after_s is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"[]",
        b'"x"',
        b"{}",
        b'{"choices": []}',
        b'{"choices": "x"}',
        b'{"choices": [7]}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": "x"}]}',
        b"\xff",
    ],
)
def test_what_is_no_answer_is_a_broken_upstream(raw: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        openai.answer(raw, MODEL, ID)
    assert caught.value.fault is Fault.BROKEN


# Requests


def a_call(stream: bool = False, **fields: Any) -> ChatCall:
    body = {"model": "best", "messages": [{"role": "user", "content": "hi"}], **fields}
    return ChatCall(body, "our-model", stream, False, Size(1, 2, 4096))


@pytest.mark.parametrize(
    ("fields", "field", "sent"),
    [
        ({}, "max_tokens", {"max_tokens": 4096}),
        ({}, "max_completion_tokens", {"max_completion_tokens": 4096}),
        ({"max_tokens": 7}, "max_tokens", {"max_tokens": 7}),
        ({"max_tokens": 7}, "max_completion_tokens", {"max_completion_tokens": 7}),
        ({"max_completion_tokens": 7}, "max_tokens", {"max_tokens": 7}),
        ({"max_completion_tokens": 7}, "max_completion_tokens", {"max_completion_tokens": 7}),
        ({"max_tokens": 10**6}, "max_tokens", {"max_tokens": 10**6}),
    ],
)
def test_max_tokens_is_always_sent_and_never_lowered(
    fields: dict[str, Any], field: str, sent: dict[str, Any]
) -> None:
    body = json.loads(openai.request(a_call(**fields), "theirs", max_tokens_field=field))
    assert {name: body[name] for name in body if "max" in name} == sent


@pytest.mark.parametrize("empty", ["max_tokens", "max_completion_tokens"])
def test_a_max_tokens_of_null_is_none_at_all(empty: str) -> None:
    body = json.loads(openai.request(a_call(**{empty: None}), "theirs"))
    assert body["max_tokens"] == 4096


def test_the_default_is_per_choice_and_not_their_sum() -> None:
    call = ChatCall({"messages": [], "n": 2}, "m", False, False, Size(1, 2, 8192, choices=2))
    assert json.loads(openai.request(call, "theirs"))["max_tokens"] == 4096


def test_fields_that_nobody_knows_reach_the_model_untouched() -> None:
    extra = {"x_new": {"deep": [1, None, "é"]}, "temperature": 0.5, "tool_choice": {"a": 1}}
    call = a_call(**extra)
    body = json.loads(openai.request(call, "their-model"))
    assert body["model"] == "their-model"
    assert {name: body[name] for name in extra} == extra
    assert body["messages"] == call.body["messages"]
    assert call.body["model"] == "best", "the caller's body is not changed"


def test_fields_that_a_provider_refuses_are_left_out() -> None:
    body = json.loads(openai.request(a_call(seed=1, user="u"), "m", drops=("seed", "logprobs")))
    assert "seed" not in body
    assert body["user"] == "u"


@pytest.mark.parametrize(
    ("stream", "options", "sent"),
    [
        (False, ..., None),
        (True, ..., {"include_usage": True}),
        (True, None, {"include_usage": True}),
        (True, {"include_usage": False}, {"include_usage": True}),
        (True, {"other": 1}, {"other": 1, "include_usage": True}),
        (True, "nonsense", {"include_usage": True}),
    ],
)
def test_a_stream_always_asks_for_usage(stream: bool, options: Any, sent: Any) -> None:
    fields = {} if options is ... else {"stream_options": options}
    body = json.loads(openai.request(a_call(stream, **fields), "m"))
    assert body.get("stream_options") == sent
    plain = json.loads(openai.request(a_call(True), "m", stream_usage=False))
    assert "stream_options" not in plain


def test_nobody_buys_faster_service_in_our_name() -> None:
    assert b"service_tier" not in openai.request(a_call(service_tier="priority"), "theirs")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_details"])
def test_earlier_thoughts_are_kept_from_a_provider_that_refuses_them(field: str) -> None:
    said = {"role": "assistant", "content": "Yes.", field: "Hm."}
    call = a_call(messages=[{"role": "user", "content": "So?"}, said])
    assert orjson.loads(openai.request(call, "theirs"))["messages"][1] == said
    kept = orjson.loads(openai.request(call, "theirs", thoughts=False))["messages"]
    assert kept == [{"role": "user", "content": "So?"}, {"role": "assistant", "content": "Yes."}]


# Numbers and nesting as they come

LONG = 123456789012345678901234567890
DEEP = b"[" * 2_000 + b"]" * 2_000


def test_a_number_of_any_length_passes_whole_streamed_and_in_history() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"id": LONG}}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    raw = json.dumps({"created": LONG, "choices": [choice]}).encode()
    whole = openai.answer(raw, MODEL, ID)
    (told,) = whole.body["choices"][0]["message"]["tool_calls"]
    assert (whole.body["created"], told["function"]["arguments"]) == (LONG, f'{{"id":{LONG}}}')
    read = Read(*(b"data: %s\n\n" % json.dumps(told).encode() for told in chunks_with(LONG)))
    assert [body["created"] for body in read.bodies] == [LONG, LONG, LONG]
    assert read.text == "hi"
    marked = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    turns = [{"role": "user", "content": marked}, message]
    asked = ChatCall({"messages": turns}, "m", False, False, Size(1, 2, 3))
    for marks in (True, False):
        sent = json.loads(openai.request(asked, "theirs", marks=marks))
        assert sent["messages"][1] == message


def chunks_with(number: int) -> list[dict[str, Any]]:
    """A stream that is written anew on the way: for its provider, its ending, its usage."""
    head = {"id": "x", "model": "theirs", "created": number}
    said = {"index": 0, "delta": {"content": "hi"}}
    ended = {"index": 0, "delta": {}, "finish_reason": "eos"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    return [
        {**head, "provider": "theirs", "choices": [said]},
        {**head, "choices": [ended]},
        {**head, "choices": [{"index": 0, "delta": {}}], "usage": usage},
    ]


def test_what_no_reader_follows_is_a_broken_upstream() -> None:
    ended = b'{"index":0,"message":{"content":"hi","x":' + DEEP + b'},"finish_reason":"stop"}'
    with pytest.raises(UpstreamError) as caught:
        openai.answer(b'{"choices":[' + ended + b"]}", MODEL, ID)
    assert caught.value.fault is Fault.BROKEN
    with pytest.raises(UpstreamError) as caught:
        Read(b'data: {"choices":[{"index":0,"delta":{"content":' + DEEP + b"}}]}\n\n")
    assert caught.value.fault is Fault.BROKEN


@pytest.mark.parametrize(
    ("told", "prompt"),
    [
        ({"total_tokens": 3}, 3),
        ({"total_tokens": 3, "completion_tokens": 0}, 3),
        ({"prompt_tokens": 0, "total_tokens": 3}, 0),
        ({"prompt_tokens": 2, "total_tokens": 2}, 2),
        ({}, 0),
    ],
)
def test_a_total_alone_is_the_prompts(told: dict[str, Any], prompt: int) -> None:
    assert openai.usage_of(told) == Usage(input=prompt)
