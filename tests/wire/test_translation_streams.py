"""What models answer, in the other chat dialect: whole and as streams, cut anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams.wire import anthropic, openai
from adapters.upstreams.wire.translation import (
    StreamAsChat,
    StreamAsMessages,
    answer_as_chat,
    answer_as_messages,
)
from kyma.calls import ChatAnswer, Chunk, Fault, UpstreamError
from kyma.usage import Usage
from tests.wire.translating import (
    BLOCKS,
    HELLO,
    ID,
    INPUTS,
    JSON,
    KEYS,
    MODEL,
    call,
    chat,
    messages,
    text,
)

RECORDED = Path(__file__).with_name("recorded")
PROVIDERS = sorted(path.parent.name for path in RECORDED.glob("*/stream.expected.json"))


# Whole answers


def completion(finish: str = "stop", **message: Any) -> ChatAnswer:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    body = {"id": f"chatcmpl-{ID}", "model": MODEL, "choices": [choice]}
    return ChatAnswer(body, Usage(1, output=2), 7)


LONG = 123456789012345678901234567890


def test_a_number_of_any_length_passes_between_the_dialects() -> None:
    asked = completion("tool_calls", tool_calls=[call("a", "f", f'{{"id":{LONG}}}')])
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {"id": LONG}}
    message = answer_as_messages(asked)
    assert message.body["content"] == [use]
    (told,) = answer_as_chat(message).body["choices"][0]["message"]["tool_calls"]
    assert told == call("a", "f", f'{{"id":{LONG}}}')
    turn = {"role": "assistant", "content": [use]}
    assert messages([*HELLO, turn])["messages"][1]["tool_calls"] == [told]


def test_ids_that_a_provider_did_not_give_differ_from_turn_to_turn() -> None:
    nameless = [{"function": {"name": "f", "arguments": "{}"}}] * 2
    uses = answer_as_messages(completion("tool_calls", tool_calls=nameless)).body["content"]
    assert [use["id"] for use in uses] == [f"call_{ID}_0", f"call_{ID}_1"]
    old = completion("function_call", function_call={"name": "f", "arguments": "{}"})
    assert answer_as_messages(old).body["content"][0]["id"] == f"call_{ID}_f"


@pytest.mark.parametrize(
    ("finish", "message", "content", "stop"),
    [
        ("stop", {"content": "hi"}, [text("hi")], "end_turn"),
        ("length", {"content": "hi"}, [text("hi")], "max_tokens"),
        ("content_filter", {"content": "hi"}, [text("hi")], "refusal"),
        ("stop", {"content": None, "refusal": "no"}, [text("no")], "refusal"),
        ("stop", {"content": [text("a"), text("b")]}, [text("ab")], "end_turn"),
        ("stop", {"content": None}, [], "end_turn"),
        (
            "tool_calls",
            {"content": "", "tool_calls": [call("a", "f", '{"x":1}'), call("b", "g", "")]},
            [
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "g", "input": {}},
            ],
            "tool_use",
        ),
        (
            "stop",
            {"tool_calls": [call("a", "f", '{"cut')]},
            [{"type": "tool_use", "id": "a", "name": "f", "input": {"arguments": '{"cut'}}],
            "tool_use",
        ),
        (
            "stop",
            {"content": "hi", "reasoning_content": "hm"},
            [{"type": "thinking", "thinking": "hm", "signature": ""}, text("hi")],
            "end_turn",
        ),
        (
            "stop",
            {"content": "hi", "reasoning": "hm"},
            [{"type": "thinking", "thinking": "hm", "signature": ""}, text("hi")],
            "end_turn",
        ),
    ],
)
def test_a_completion_becomes_a_message(
    finish: str, message: dict[str, Any], content: list[Any], stop: str
) -> None:
    answer = answer_as_messages(completion(finish, **message))
    assert answer.body == {
        "id": f"msg_{ID}",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
    }
    assert (answer.usage, answer.output_bytes) == (Usage(1, output=2), 7)


def test_the_sequence_that_stopped_a_model_is_told_where_its_server_tells() -> None:
    answer = completion(content="hi")
    answer.body["choices"][0]["stop_reason"] = "END"
    body = answer_as_messages(answer).body
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "END")


def message(stop: str = "end_turn", *content: Any) -> ChatAnswer:
    body = {"id": f"msg_{ID}", "model": MODEL, "content": list(content), "stop_reason": stop}
    return ChatAnswer(body, Usage(1, output=2), 7)


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "length"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
    ],
)
def test_every_reason_to_stop_is_one_to_finish(stop: str, finish: str) -> None:
    answer = answer_as_chat(message(stop, text("hi")), created=17)
    assert answer.body["choices"][0]["finish_reason"] == finish
    assert answer.body["created"] == 17
    assert (answer.usage, answer.output_bytes) == (Usage(1, output=2), 7)


def test_a_message_becomes_a_completion() -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": "s"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}
    said = [signed, redacted, text("Look"), text("ing."), use]
    body = answer_as_chat(message("tool_use", *said)).body
    assert body["id"] == f"chatcmpl-{ID}"
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Looking.",
                "refusal": None,
                "reasoning_content": "hm",
                "thinking_blocks": [signed, redacted],
                "tool_calls": [call("a", "f", '{"x":1}')],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ]
    assert answer_as_chat(message()).body["choices"][0]["message"]["content"] == ""
    alone = answer_as_chat(message("tool_use", use)).body["choices"][0]["message"]
    assert alone["content"] is None


def test_what_a_client_sends_back_is_what_claude_said() -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": "s"}
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}
    said = [signed, text("ok"), use]
    turn = answer_as_chat(message("tool_use", *said)).body["choices"][0]["message"]
    assert chat([*HELLO, turn])["messages"][1]["content"] == said


@given(st.lists(BLOCKS | JSON, max_size=4), JSON)
def test_whatever_is_answered_is_translated(blocks: list[Any], odd: Any) -> None:
    for answer in (
        answer_as_chat(message("end_turn", *blocks)),
        answer_as_messages(
            completion(content=odd, tool_calls=blocks, reasoning=odd, function_call=odd)
        ),
    ):
        assert orjson.dumps(answer.body)
    with pytest.raises(UpstreamError) as caught:
        answer_as_messages(ChatAnswer({"choices": odd}, None, 0))
    assert caught.value.fault is Fault.BROKEN


# Streams


class Told:
    """A message put together from Anthropic's events, which must come in their strict order."""

    def __init__(self) -> None:
        self.start: dict[str, Any] | None = None
        self.content: list[dict[str, Any]] = []
        self.kinds: list[str] = []
        self.ending: Any = None
        self.usage: Usage | None = None
        self.output_bytes = 0
        self._open = False
        self._json = ""

    def take(self, chunk: Chunk) -> None:
        self.output_bytes += chunk.output_bytes
        self.usage = chunk.usage or self.usage
        assert self.ending is None or not chunk.events, "nothing follows the ending"
        for raw in chunk.events:
            head, _, data = raw.partition(b"\ndata: ")
            body = json.loads(data)
            assert head == b"event: " + body["type"].encode()
            assert b"\n" not in data
            self._take(body)
        if chunk.ending is not None:
            assert not self._open
            assert chunk.finished
            self.ending = dict(chunk.ending)

    def _take(self, body: dict[str, Any]) -> None:
        self.kinds.append(body["type"])
        match body["type"]:
            case "message_start":
                assert self.start is None
                self.start = body["message"]
            case "ping":
                assert self.start is not None
            case "content_block_start":
                assert self.start is not None
                assert not self._open
                assert body["index"] == len(self.content)
                self._open, self._json = True, ""
                self.content.append(body["content_block"])
            case "content_block_delta":
                assert self._open
                assert body["index"] == len(self.content) - 1
                self._delta(self.content[-1], body["delta"])
            case "content_block_stop":
                assert self._open
                assert body["index"] == len(self.content) - 1
                self._open = False
                if self._json:
                    self.content[-1]["input"] = self._json
            case other:
                raise AssertionError(other)

    def _delta(self, block: dict[str, Any], delta: dict[str, Any]) -> None:
        kind = {"text_delta": "text", "thinking_delta": "thinking"}.get(delta["type"])
        if kind is None:
            assert delta["type"] == "input_json_delta"
            assert block["type"] == "tool_use"
            self._json += delta["partial_json"]
            return
        assert block["type"] == kind
        block[kind] += delta[kind]


def as_messages(*reads: bytes) -> Told:
    """A stream of OpenAI's dialect as Anthropic's clients get it."""
    decoder, stream, told = openai.StreamDecoder(MODEL, ID, 1), StreamAsMessages(MODEL, ID), Told()
    for data in reads:
        chunk = decoder.feed(data)
        if chunk is not None:
            told.take(stream.take(chunk))
    assert decoder.complete
    return told


def sse(*deltas: Any, finish: str | None = "stop", **choice: Any) -> bytes:
    def event(delta: Any, finish: str | None = None, **more: Any) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish, **more}]
        return b"data: " + orjson.dumps({"id": "x", "model": "y", "choices": choices}) + b"\n\n"

    ended = event({}, finish, **choice) if finish else b""
    return b"".join(event(delta) for delta in deltas) + ended + b"data: [DONE]\n\n"


def piece(index: Any, arguments: str | None = None, **fields: Any) -> dict[str, Any]:
    """A delta with a piece of a tool call."""
    names = {"name": fields.pop("name")} if "name" in fields else {}
    said = {} if arguments is None else {"arguments": arguments}
    return {"tool_calls": [{"index": index, **fields, "function": {**names, **said}}]}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_s_stream_reads_like_anthropic_s(provider: str) -> None:
    data = (RECORDED / provider / "stream.sse").read_bytes()
    expected = json.loads((RECORDED / provider / "stream.expected.json").read_text())
    told = as_messages(data)
    assert told.kinds[:2] == ["message_start", "ping"]
    assert told.start is not None
    assert (told.start["id"], told.start["model"]) == (f"msg_{ID}", MODEL)
    assert told.start["stop_reason"] is None
    said = [block["text"] for block in told.content if block["type"] == "text"]
    assert "".join(said) == expected["text"]
    assert told.usage == Usage(*expected["usage"])
    assert told.ending == {"stop_reason": "end_turn", "stop_sequence": None}


def test_thinking_text_and_tools_come_in_blocks_of_their_own() -> None:
    told = as_messages(
        sse(
            {"role": "assistant", "content": ""},
            {"reasoning_content": "Hm"},
            {"reasoning_content": "."},
            {"content": "Let "},
            {"content": "me."},
            piece(0, "", id="a", name="f"),
            piece(0, '{"x"'),
            piece(0, ": 1}"),
            piece(1, "", id="b", name="g"),
            piece(1, "{}"),
            finish="tool_calls",
        )
    )
    assert told.content == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        text("Let me."),
        {"type": "tool_use", "id": "a", "name": "f", "input": '{"x": 1}'},
        {"type": "tool_use", "id": "b", "name": "g", "input": "{}"},
    ]
    assert told.ending == {"stop_reason": "tool_use", "stop_sequence": None}


def test_a_tool_s_arguments_stream_as_they_come() -> None:
    stream, told = StreamAsMessages(MODEL, ID), Told()
    decoder = openai.StreamDecoder(MODEL, ID, 1)
    came = []
    for delta in (piece(0, "", id="a", name="f"), piece(0, '{"x"'), piece(0, ":1}")):
        chunk = decoder.feed(sse(delta, finish=None).removesuffix(b"data: [DONE]\n\n"))
        assert chunk is not None
        made = stream.take(chunk)
        told.take(made)
        came.append(len(made.events))
    assert came == [3, 1, 1]


@pytest.mark.parametrize(
    ("deltas", "inputs"),
    [
        # interleaved
        (
            [
                piece(0, '{"a":', id="a", name="f"), piece(1, '{"b":', id="b", name="g"),
                piece(0, "1}"), piece(1, "2}"),
            ],
            [("a", "f", '{"a":1}'), ("b", "g", '{"b":2}')],
        ),
        # all heads first
        (
            [
                piece(0, id="a", name="f"), piece(1, id="b", name="g"),
                piece(1, '{"b":2}'), piece(0, '{"a":1}'),
            ],
            [("a", "f", '{"a":1}'), ("b", "g", '{"b":2}')],
        ),
        # Google: every call whole and under the same index
        (
            [piece(0, '{"a":1}', id="a", name="f"), piece(0, '{"b":2}', id="b", name="f")],
            [("a", "f", '{"a":1}'), ("b", "f", '{"b":2}')],
        ),
        # without ids
        (
            [piece(0, '{"a":1}', name="f"), piece(0, '{"b":2}', name="f")],
            [(f"call_{ID}_s0", "f", '{"a":1}'), (f"call_{ID}_1", "f", '{"b":2}')],
        ),
        # id and name with every piece
        (
            [piece(0, '{"a"', name="f", id="a"), piece(0, ":1}", name="f", id="a")],
            [("a", "f", '{"a":1}')],
        ),
        # without ids, the second one in pieces that bear no name
        (
            [
                piece(0, '{"a":1}', name="f"), piece(0, '{"b":', name="f"), piece(0, "2}"),
            ],
            [(f"call_{ID}_s0", "f", '{"a":1}'), (f"call_{ID}_1", "f", '{"b":2}')],
        ),
        # the name once more after the end, and nothing else
        (
            [piece(0, '{"a":1}', id="a", name="f"), piece(0, "", id="", name="f")],
            [("a", "f", '{"a":1}')],
        ),
        # the name once more after the end, then another call's arguments
        (
            [
                piece(0, '{"a":1}', name="f"), piece(0, "", name="f"), piece(0, '{"b":'),
                piece(0, "2}"),
            ],
            [(f"call_{ID}_s0", "f", '{"a":1}'), (f"call_{ID}_1", "f", '{"b":2}')],
        ),
        # without ids, and arguments in none or in the last only
        (
            [piece(0, "", name="f"), piece(0, "", name="g")],
            [(f"call_{ID}_0", "f", {}), (f"call_{ID}_1", "g", {})],
        ),
        (
            [piece(0, name="f"), piece(0, name="g"), piece(0, '{"b":2}')],
            [(f"call_{ID}_0", "f", {}), (f"call_{ID}_s0", "g", '{"b":2}')],
        ),
        # the name alone, then an id with all of it, once or with every piece
        (
            [piece(0, "", name="f"), piece(0, '{"a":1}', id="a", name="f")],
            [(f"call_{ID}_0", "f", '{"a":1}')],
        ),
        (
            [
                piece(0, name="f"), piece(0, '{"a"', id="a", name="f"),
                piece(0, ":1}", id="a", name="f"), piece(0, '{"b":2}', id="b", name="f"),
            ],
            [(f"call_{ID}_0", "f", '{"a":1}'), ("b", "f", '{"b":2}')],
        ),
        # the name alone, then an id with another name
        (
            [piece(0, name="f"), piece(0, '{"b":2}', id="b", name="g")],
            [(f"call_{ID}_0", "f", {}), ("b", "g", '{"b":2}')],
        ),
        # whole, and whole once more: at once or after another one
        (
            [piece(0, '{"a":1}', id="a", name="f"), piece(0, '{"a":1}', id="a", name="f")],
            [("a", "f", '{"a":1}')],
        ),
        (
            [
                piece(0, '{"a":1}', id="a", name="f"), piece(0, '{"b":2}', id="b", name="f"),
                piece(0, '{"a":1}', id="a", name="f"),
            ],
            [("a", "f", '{"a":1}'), ("b", "f", '{"b":2}')],
        ),
        # no arguments at all
        (
            [piece(0, id="a", name="f"), piece(1, id="b", name="g")],
            [("a", "f", {}), ("b", "g", {})],
        ),
        # the old way
        (
            [{"function_call": {"name": "f", "arguments": '{"a"'}},
             {"function_call": {"arguments": ":1}"}}],
            [(f"call_{ID}_0", "f", '{"a":1}')],
        ),
        # no index, arguments as an object
        (
            [{"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"a": 1}}}]}],
            [("a", "f", '{"a":1}')],
        ),
    ],
)  # fmt: skip
def test_parallel_calls_come_apart_however_they_are_sent(
    deltas: list[Any], inputs: list[Any]
) -> None:
    told = as_messages(sse(*deltas, finish="tool_calls"))
    assert [(use["id"], use["name"], use["input"]) for use in told.content] == inputs
    assert told.ending["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("deltas", "inputs"),
    [
        (
            [piece(0, '{"a":1}', name="f"), piece(0, '{"b":2}', id="b", name="f")],
            [(f"call_{ID}_0", '{"a":1}'), ("b", '{"b":2}')],
        ),
        ([piece(0, '{"a"'), piece(0, ":1}", id="a", name="f")], [("a", '{"a":1}')]),
    ],
)
def test_an_id_after_the_first_arguments_is_another_call_s_if_the_first_has_a_name(
    deltas: list[Any], inputs: list[Any]
) -> None:
    choices = [{"delta": delta} for delta in deltas] + [{"finish_reason": "tool_calls"}]
    events = [b"data: " + orjson.dumps({"choices": [choice]}) for choice in choices]
    told = Told()
    told.take(StreamAsMessages(MODEL, ID).take(Chunk(events, 0, True, None)))
    assert [(use["id"], use["input"]) for use in told.content] == inputs


def test_what_is_said_during_a_call_is_said_after_it() -> None:
    told = as_messages(sse(piece(0, '{"a"', id="a", name="f"), {"content": "so"}, piece(0, ":1}")))
    assert told.content == [
        {"type": "tool_use", "id": "a", "name": "f", "input": '{"a":1}'},
        text("so"),
    ]
    blank = as_messages(sse(piece(0, "{}", id="a", name="f"), {"content": "\n"}))
    assert len(blank.content) == 1


@pytest.mark.parametrize(
    ("deltas", "finish", "choice", "ending"),
    [
        ([{"content": "x"}], "length", {}, ("max_tokens", None)),
        ([{"content": "x"}], "content_filter", {}, ("refusal", None)),
        ([{"refusal": "no"}], "stop", {}, ("refusal", None)),
        ([{"content": "x"}], "stop", {"stop_reason": "END"}, ("stop_sequence", "END")),
        ([{"content": "x"}], "stop", {"stop_reason": 128009}, ("end_turn", None)),
        ([piece(0, "{}", id="a", name="f")], "stop", {}, ("tool_use", None)),
        ([], "stop", {}, ("end_turn", None)),
    ],
)
def test_a_stream_ends_for_its_reason(
    deltas: list[Any], finish: str, choice: dict[str, Any], ending: Any
) -> None:
    told = as_messages(sse(*deltas, finish=finish, **choice))
    assert (told.ending["stop_reason"], told.ending["stop_sequence"]) == ending


def test_only_the_first_choice_is_told() -> None:
    other = {"index": 1, "delta": {"content": "other"}, "finish_reason": None}
    event = b"data: " + orjson.dumps({"id": "x", "model": "y", "choices": [other]}) + b"\n\n"
    assert as_messages(event + sse({"content": "mine"})).content == [text("mine")]


def test_the_likely_input_stands_at_the_beginning() -> None:
    chunk = Chunk([b'data: {"choices":[{"delta":{"content":"x"}}]}'], 1, False, None)
    first = StreamAsMessages(MODEL, ID, likely_input=321).take(chunk).events[0]
    usage = json.loads(first.partition(b"data: ")[2])["message"]["usage"]
    assert usage["input_tokens"] == 321


@st.composite
def tool_streams(draw: st.DrawFn) -> tuple[list[Any], list[tuple[str, str]]]:
    """Calls whose pieces are dealt in any order that keeps each call's own."""
    inputs = draw(st.lists(INPUTS, min_size=1, max_size=4))
    queues = []
    for index, arguments in enumerate(inputs):
        written = orjson.dumps(arguments).decode()
        cuts = sorted(draw(st.sets(st.integers(1, len(written) - 1), max_size=3)))
        parts = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]
        queue = [piece(index, parts[0], id=f"id-{index}", name=f"f{index}")]
        queues.append(queue + [piece(index, part) for part in parts[1:]])
    dealt = [queue.pop(0) for queue in queues] if draw(st.booleans()) else []
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        dealt.append(queue.pop(0))
    first = []
    for delta in dealt:
        index = delta["tool_calls"][0]["index"]
        if index not in first:
            first.append(index)
    return dealt, [(f"id-{i}", orjson.dumps(inputs[i]).decode()) for i in first]


@given(tool_streams())
def test_calls_in_any_order_come_whole(
    stream: tuple[list[Any], list[tuple[str, str]]],
) -> None:
    deltas, expected = stream
    told = as_messages(sse(*deltas, finish="tool_calls"))
    assert [(use["id"], use["input"]) for use in told.content] == expected


@given(st.data())
def test_a_stream_cut_into_any_reads_tells_the_same(data: st.DataObject) -> None:
    provider = data.draw(st.sampled_from(PROVIDERS))
    raw = (RECORDED / provider / "stream.sse").read_bytes()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=20)))
    reads = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    whole, split = as_messages(raw), as_messages(*reads)
    assert (split.content, split.ending, split.kinds) == (whole.content, whole.ending, whole.kinds)


class Chatted:
    """A chat message put together from chunks, as OpenAI's client does it."""

    def __init__(self) -> None:
        self.text = ""
        self.thoughts = ""
        self.signed: list[Any] = []
        self.calls: list[dict[str, Any]] = []
        self.finish: str | None = None
        self.bodies: list[dict[str, Any]] = []
        self.usage: Usage | None = None
        self.output_bytes = 0

    def take(self, chunk: Chunk) -> None:
        self.usage = chunk.usage or self.usage
        self.output_bytes += chunk.output_bytes
        assert chunk.ending is None
        for raw in chunk.events:
            assert self.finish is None, "nothing follows the finish"
            body = json.loads(raw.removeprefix(b"data: "))
            self.bodies.append(body)
            (choice,) = body["choices"]
            delta = choice["delta"]
            self.text += delta.get("content") or ""
            self.thoughts += delta.get("reasoning_content") or ""
            self.signed += delta.get("thinking_blocks") or []
            for part in delta.get("tool_calls") or ():
                if part["index"] == len(self.calls):
                    self.calls.append(part)
                else:
                    said = part["function"]["arguments"]
                    self.calls[part["index"]]["function"]["arguments"] += said
            self.finish = choice["finish_reason"]


def as_chat(*reads: bytes) -> Chatted:
    """A stream of Anthropic's as OpenAI's clients get it."""
    decoder, stream, told = (
        anthropic.StreamDecoder(MODEL, ID),
        StreamAsChat(MODEL, ID, created=17),
        Chatted(),
    )
    for data in reads:
        chunk = decoder.feed(data)
        if chunk is not None:
            told.take(stream.take(chunk))
    return told


def test_claude_s_stream_reads_like_openai_s() -> None:
    told = as_chat((RECORDED / "anthropic" / "tools.sse").read_bytes())
    assert told.text == 'Let me look — both at once "id":"msg_x".'
    assert told.thoughts == "Two cities: ask for both. 東京"
    assert told.signed == [
        {"type": "thinking", "thinking": told.thoughts, "signature": "EqQBCkYIAhgCKkA="}
    ]
    assert told.calls == [
        {"index": 0, **call("toolu_01KFbKqPYSuAKujiL6mTfzYA", "weather", '{"city": "Oslo"}')},
        {"index": 1, **call("toolu_02", "clock", "{}")},
    ]
    assert told.finish == "tool_calls"
    assert told.usage == Usage(849, 18000, 1024, 87, 60)
    assert told.bodies[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    heads = {"id": f"chatcmpl-{ID}", "object": "chat.completion.chunk", "created": 17}
    for body in told.bodies:
        assert {**body, **heads, "model": MODEL} == body


@given(st.data())
def test_claude_s_stream_cut_into_any_reads_tells_the_same(data: st.DataObject) -> None:
    raw = (
        RECORDED / "anthropic" / f"{data.draw(st.sampled_from(['tools', 'text']))}.sse"
    ).read_bytes()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=20)))
    reads = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    whole, split = as_chat(raw), as_chat(*reads)
    assert split.bodies == whole.bodies
    assert (split.usage, split.output_bytes) == (whole.usage, whole.output_bytes)


def native(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)


def test_blocks_that_openai_has_no_word_for_are_left_out() -> None:
    told = as_chat(
        native(
            {"type": "message_start", "message": {}},
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "server_tool_use", "name": "web_search", "input": {}},
            },
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "input_json_delta", "partial_json": '{"q":1}'},
            },
            {"type": "content_block_stop", "index": 0},
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "redacted_thinking", "data": "x"},
            },
            {"type": "content_block_stop", "index": 1},
            {
                "type": "content_block_start",
                "index": 2,
                "content_block": {"type": "text", "text": "hi"},
            },
            {"type": "content_block_glow", "index": 2},
            {"type": "content_block_stop", "index": 2},
            {"type": "message_delta", "delta": {"stop_reason": "refusal"}},
            {"type": "message_delta", "delta": {"stop_reason": "refusal"}},
        )
    )
    assert (told.text, told.calls) == ("hi", [])
    assert told.signed == [{"type": "redacted_thinking", "data": "x"}]
    assert told.finish == "content_filter"


def test_a_call_that_comes_whole_is_passed_on_whole() -> None:
    block = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}
    told = as_chat(
        native(
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        )
    )
    assert told.calls == [{"index": 0, **call("a", "f", '{"x":1}')}]


def test_an_answer_that_says_nothing_is_one() -> None:
    told = as_chat(native({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}))
    assert told.finish == "stop"
    assert told.bodies[0]["choices"][0]["delta"]["role"] == "assistant"


@given(st.lists(st.dictionaries(KEYS, JSON, max_size=5), max_size=4))
def test_whatever_a_stream_brings_is_translated(deltas: list[dict[str, Any]]) -> None:
    events = [
        b"data: " + orjson.dumps({"choices": [{"delta": delta}], "content_block": delta})
        for delta in deltas
    ]
    made = StreamAsMessages(MODEL, ID).take(Chunk(list(events), 0, False, None))
    assert all(event.startswith(b"event: ") for event in made.events)
    named = [
        b"event: x\ndata: " + orjson.dumps({"type": kind, "delta": delta, "content_block": delta})
        for delta in deltas
        for kind in ("content_block_start", "content_block_delta", "content_block_stop")
    ]
    chatted = StreamAsChat(MODEL, ID).take(Chunk(named, 0, False, None))
    assert all(event.startswith(b"data: ") for event in chatted.events)
