"""Chunks known by what surrounds their text: what comes out is what decoding each would give."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams.wire.alike import MAX_LESSONS, Alike
from adapters.upstreams.wire.openai import StreamDecoder
from kyma.calls import Chunk, UpstreamError

ID = "0" * 32
END = {"index": 0, "delta": {}, "finish_reason": "stop"}


def event(choice: dict[str, Any], *, spaces: bool = False, **more: Any) -> bytes:
    body = {"id": "theirs", "model": "theirs/m", "created": 1, "choices": [choice], **more}
    between = None if spaces else (",", ":")
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=between).encode() + b"\n\n"


def says(text: str, **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": text, **more}, "finish_reason": None}


def decoder() -> StreamDecoder:
    return StreamDecoder("ours", ID, 1)


def read(stream: list[bytes]) -> tuple[list[Any], int]:
    """Everything that one decoder makes of it: the events as objects, and the bytes of output."""
    feed = decoder().feed
    chunks = [chunk for data in stream if (chunk := feed(data)) is not None]
    events = [json.loads(event[6:]) for chunk in chunks for event in chunk.events]
    return events, sum(chunk.output_bytes for chunk in chunks)


def read_apart(stream: list[bytes]) -> tuple[list[Any], int]:
    """The same, with a decoder of its own for each event, which knows of none before it."""
    parts = [read([part]) for part in stream]
    return [event for events, _ in parts for event in events], sum(weight for _, weight in parts)


PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(['"', "\\", "\n", "é", "你好", "\x7f", "a", 'a","content":"b', "data: x\n\n"]),
)
CHOICES = st.one_of(
    PIECES.map(says),
    PIECES.map(lambda text: says(text, role="assistant")),
    PIECES.map(lambda text: says("x", reasoning_content=text)),
    PIECES.map(lambda text: says(text, note={"content": text})),
    PIECES.map(lambda text: {"index": 0, "delta": {"reasoning": text}}),
    st.just({"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c", "function": {}}]}}),
)


@given(st.lists(CHOICES, min_size=1, max_size=12), st.booleans(), st.booleans())
def test_a_stream_reads_as_each_of_its_events_would_alone(
    choices: list[dict[str, Any]], spaces: bool, resold: bool
) -> None:
    more = {"provider": "somebody"} if resold else {}
    stream = [event(choice, spaces=spaces, **more) for choice in choices]
    assert read(stream) == read_apart(stream)
    assert read([b"".join(stream)]) == read_apart(stream)


@given(st.lists(PIECES.map(says), min_size=1, max_size=8), st.data())
def test_it_does_not_matter_where_a_socket_cuts(choices: list[Any], data: st.DataObject) -> None:
    whole = b"".join(map(event, choices))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert read(pieces) == read_apart(list(map(event, choices)))


@pytest.mark.parametrize(
    "second",
    [
        event(says("more")).replace(b"more", b"mo\x01re"),
        event(says("more")).replace(b"more", b"mo\xffre"),
        event(says("more")).replace(b'"choices"', b'"error":{"message":"no"},"choices"'),
        event(says("more"))[:-4] + b"\n\n",
    ],
    ids=["a control character", "no UTF-8", "an error", "cut short"],
)
def test_what_is_no_chunk_is_still_told_after_one_that_was(second: bytes) -> None:
    feed = decoder().feed
    feed(event(says("hello")))
    with pytest.raises(UpstreamError):
        feed(second)


def test_a_reason_to_end_a_usage_and_the_end_mark_are_seen_after_many_alike() -> None:
    stream = decoder()
    for text in ("one", "two", "three"):
        stream.feed(event(says(text)))
    assert not stream.complete
    ended = stream.feed(event(END))
    used = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    told = stream.feed(event(says("four"), usage=used) + b"data: [DONE]\n\n")
    assert isinstance(ended, Chunk)
    assert isinstance(told, Chunk)
    assert ended.finished
    assert told.usage is not None
    assert told.usage.completion_tokens == 3
    assert stream.said_done
    assert stream.complete


@pytest.mark.parametrize(
    "beside",
    [
        {"reasoning_content": "abcdefghij"},
        {"reasoning": "abcdefghij"},
        {"refusal": "abcdefghij"},
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]},
        {"function_call": {"name": "f", "arguments": "{}"}},
        {"audio": {"data": "abcdefghij"}},
    ],
    ids=lambda beside: next(iter(beside)),
)
def test_output_beside_a_text_is_weighed_in_every_chunk(beside: dict[str, Any]) -> None:
    feed = decoder().feed
    chunks = [feed(event(says(text, **beside))) for text in ("x", "y", "z")]
    weights = [chunk.output_bytes for chunk in chunks if chunk is not None]
    assert weights[0] > 10
    assert weights == [weights[0]] * 3


def test_a_text_that_stands_in_a_note_before_is_not_taken_for_the_answers() -> None:
    feed = decoder().feed
    weights, said = [], []
    for note in ("x", "abcdefghij"):
        choice = {"index": 0, "delta": {"note": {"content": note}, "content": "x"}}
        chunk = feed(event(choice))
        assert chunk is not None
        weights.append(chunk.output_bytes)
        said += [json.loads(each[6:])["choices"][0] for each in chunk.events]
    assert weights == [1, 1]
    assert [each["delta"]["note"]["content"] for each in said] == ["x", "abcdefghij"]


def test_every_chunk_after_the_end_says_that_the_answer_has_ended() -> None:
    feed = decoder().feed
    choices = [says("one"), says("two"), END, says("three"), says("four")]
    chunks = [feed(event(choice)) for choice in choices]
    assert [chunk.finished for chunk in chunks if chunk is not None] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_stream_whose_chunks_never_are_alike_is_read_all_the_same() -> None:
    stream = [event(says(f"word {at}"), created=at) for at in range(MAX_LESSONS + 3)]
    events, _ = read(stream)
    assert [told["created"] for told in events] == list(range(MAX_LESSONS + 3))
    assert [told["choices"][0]["delta"]["content"] for told in events] == [
        f"word {at}" for at in range(MAX_LESSONS + 3)
    ]
    assert all(told["model"] == "ours" for told in events)


def test_two_choices_are_told_apart() -> None:
    stream = StreamDecoder("ours", ID, 2)
    told = []
    for index in (0, 1, 0, 1):
        chunk = stream.feed(event({**says(f"of {index}"), "index": index}))
        assert chunk is not None
        told += [json.loads(each[6:])["choices"][0]["index"] for each in chunk.events]
    assert told == [0, 1, 0, 1]


def test_one_decoded_chunk_makes_the_next_ones_known() -> None:
    alike = Alike()
    theirs, ours = b'{"model":"m","content": "hi"}', b'{"model":"ours","content":"hi"}'
    assert alike.events(b"data: " + theirs + b"\n\n") is None
    alike.learn(theirs, ours, "hi")
    several = b"".join(b"data: " + theirs.replace(b"hi", at) + b"\n\n" for at in (b"one", b"two"))
    assert alike.events(several) == (
        [b"data: " + ours.replace(b"hi", at) for at in (b"one", b"two")],
        6,
    )
    assert alike.events(several[:-1]) is None
    assert alike.events(b"data: " + theirs.replace(b"hi", b"\\n") + b"\n\n") is None


@pytest.mark.parametrize(("unlike", "known"), [(MAX_LESSONS - 1, True), (MAX_LESSONS, False)])
def test_what_is_unlike_too_often_is_not_learned_from_any_more(unlike: int, known: bool) -> None:
    alike = Alike()
    for at in range(unlike):
        chunk = b'{"created":%d,"content":"hi"}' % at
        alike.learn(chunk, chunk, "hi")
    steady = b'{"created":99,"content":"hi"}'
    alike.learn(steady, steady, "hi")
    assert (alike.events(b"data: " + steady + b"\n\n") is not None) is known
