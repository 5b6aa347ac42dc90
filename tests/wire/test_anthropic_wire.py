"""Anthropic's dialect: golden recordings, split anywhere, broken anyhow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams.wire import anthropic
from adapters.upstreams.wire.anthropic import StreamDecoder
from kyma.calls import ChatCall, Chunk, Dialect, Fault, Size, UpstreamError
from kyma.pricing import plausible
from kyma.usage import Usage

RECORDED = Path(__file__).with_name("recorded") / "anthropic"
DEEP = b"[" * 2_000 + b"]" * 2_000
"""More than any reader follows."""
MODEL, ID = "claude-of-ours", "0190b5a0"
STREAMS = {
    "text": {
        "usage": Usage(25, output=15),
        "output_bytes": len("Hello! 世界".encode()),
        "ending": {"stop_reason": "stop_sequence", "stop_sequence": "END"},
    },
    "tools": {
        "usage": Usage(849, 18000, 1024, 87, 60),
        "output_bytes": len(
            'Two cities: ask for both. 東京Let me look — both at once "id":"msg_x".'
            'weather{"city": "Oslo"}clock'.encode()
        ),
        "ending": {
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "stop_details": None,
            "context_management": {"applied_edits": []},
        },
    },
}


def sse_of(name: str) -> bytes:
    return (RECORDED / f"{name}.sse").read_bytes()


class Read:
    """All that a stream brought, whatever its reads were."""

    def __init__(self, *reads: bytes) -> None:
        self.decoder = StreamDecoder(MODEL, ID)
        self.events: list[bytes] = []
        self.usage: Usage | None = None
        self.output_bytes = 0
        self.finished = False
        self.ending: Any = None
        for data in reads:
            chunk = self.decoder.feed(data)
            if chunk is not None:
                self._take(chunk)

    def _take(self, chunk: Chunk) -> None:
        self.events += chunk.events
        self.output_bytes += chunk.output_bytes
        self.finished = self.finished or chunk.finished
        self.usage = chunk.usage or self.usage
        self.ending = chunk.ending or self.ending

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(event.partition(b"\ndata: ")[2]) for event in self.events]

    @property
    def told(self) -> tuple[Any, ...]:
        return (self.events, self.usage, self.output_bytes, self.finished, self.ending)


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def text_delta(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def begin(**usage: Any) -> bytes:
    message = {"id": "msg_theirs", "type": "message", "model": "theirs", "content": []}
    return event("message_start", message={**message, "usage": usage})


def finish(reason: str | None = "end_turn", **usage: Any) -> bytes:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return event("message_delta", delta=delta, usage=usage)


STOP = event("message_stop")


# Recordings


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_read_as_recorded(name: str) -> None:
    read = Read(sse_of(name))
    assert read.usage == STREAMS[name]["usage"]
    assert read.output_bytes == STREAMS[name]["output_bytes"]
    assert read.ending == STREAMS[name]["ending"]
    assert read.finished
    assert read.decoder.complete
    assert read.decoder.said_done


@pytest.mark.parametrize("name", STREAMS)
def test_every_event_but_the_closing_ones_passes_through(name: str) -> None:
    text = sse_of(name).decode().replace("\r\n", "\n")
    theirs = [block.encode() for block in text.split("\n\n") if block]
    passed = [e for e in theirs if b"message_delta" not in e and b"message_stop" not in e]
    ours = Read(sse_of(name)).events
    assert ours[1:] == passed[1:]
    assert ours[0].startswith(b"event: message_start\ndata: ")


@pytest.mark.parametrize("name", STREAMS)
def test_a_message_begins_under_our_names_with_the_figures_of_its_prompt(name: str) -> None:
    message = Read(sse_of(name)).bodies[0]["message"]
    assert (message["id"], message["model"]) == (f"msg_{ID}", MODEL)
    assert message["content"] == []
    usage = message["usage"]
    assert usage["input_tokens"] == STREAMS[name]["usage"].input
    assert not {"service_tier", "inference_geo"} & set(usage)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_split_at_any_byte_is_the_same_stream(name: str) -> None:
    data = sse_of(name)
    whole = Read(data).told
    for at in range(1, len(data)):
        assert Read(data[:at], data[at:]).told == whole, at


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_byte_by_byte_is_the_same_stream(name: str) -> None:
    data = sse_of(name)
    assert Read(*(data[at : at + 1] for at in range(len(data)))).told == Read(data).told


@given(st.data())
def test_a_stream_cut_into_any_reads_is_the_same_stream(data: st.DataObject) -> None:
    raw = sse_of(data.draw(st.sampled_from(sorted(STREAMS))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=30)))
    reads = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert Read(*reads).told == Read(raw).told


@given(st.data())
def test_a_stream_that_is_cut_off_is_never_complete(data: st.DataObject) -> None:
    raw = sse_of(data.draw(st.sampled_from(sorted(STREAMS)))).replace(b"\r\n", b"\n")
    end = raw.index(b"event: message_delta")
    end = raw.index(b"\n\n", end)
    read = Read(raw[: data.draw(st.integers(0, end))])
    assert not read.decoder.complete
    assert not read.finished
    assert read.ending is None


def test_a_whole_message_is_read_as_recorded() -> None:
    recording = json.loads((RECORDED / "message.json").read_text())
    theirs = recording["answer"]
    answer = anthropic.answer(orjson.dumps(theirs), MODEL, ID)
    assert answer.usage == Usage(*recording["expected"]["usage"])
    assert plausible(answer.usage)
    changed = {"id", "model", "usage"}
    assert {k: v for k, v in answer.body.items() if k not in changed} == {
        k: v for k, v in theirs.items() if k not in changed
    }
    assert (answer.body["id"], answer.body["model"]) == (f"msg_{ID}", MODEL)
    assert "usage" not in answer.body
    said = 'Hm — two.I will look.get_weather{"city":"Oslo","days":2}'
    assert answer.output_bytes == len(said.encode())


# The form of streams


@pytest.mark.parametrize(
    "noise", [b": keep-alive\n\n", b"retry: 3000\n\n", b"\n\n", b"data:\n\n", b"event: x\n\n"]
)
def test_what_carries_nothing_is_passed_over(noise: bytes) -> None:
    plain = Read(begin() + text_delta("hi") + finish() + STOP)
    noisy = Read(noise + begin() + noise + text_delta("hi") + noise + finish() + noise + STOP)
    assert noisy.told == plain.told


def test_an_event_is_named_by_its_data() -> None:
    payload = b'data: {"type":"content_block_stop","index":0}\n\n'
    assert Read(payload).events == [
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}'
    ]


def test_an_event_in_several_lines_becomes_one() -> None:
    assert Read(b'data: {"type":"ping",\ndata: "x":1}\n\n').events == [
        b'event: ping\ndata: {"type":"ping","x":1}'
    ]


def test_kinds_of_events_that_nobody_knows_yet_pass() -> None:
    new = event("content_block_glow", index=0, glow={"a": 1})
    assert Read(new).bodies == [{"type": "content_block_glow", "index": 0, "glow": {"a": 1}}]


def test_an_answer_without_message_stop_is_complete_once_it_told_why_it_ended() -> None:
    read = Read(begin() + text_delta("hi") + finish())
    assert read.decoder.complete
    assert not read.decoder.said_done


@pytest.mark.parametrize("end", [b"", STOP, finish(None)])
def test_an_end_without_a_reason_is_not_complete(end: bytes) -> None:
    read = Read(begin() + text_delta("hi") + end)
    assert not read.decoder.complete
    assert not read.finished


def test_the_figures_of_the_end_replace_those_of_the_beginning() -> None:
    start = begin(input_tokens=10, cache_read_input_tokens=5, output_tokens=1)
    assert Read(start + finish(output_tokens=7)).usage == Usage(10, 5, output=7)
    later = finish(input_tokens=11, cache_read_input_tokens=None, output_tokens=7)
    assert Read(start + later).usage == Usage(11, 5, output=7)
    assert Read(start + finish() + finish(output_tokens=9)).usage == Usage(10, 5, output=9)


def test_a_message_that_tells_no_usage_has_none() -> None:
    read = Read(begin() + text_delta("hi") + event("message_delta", delta={"stop_reason": "x"}))
    assert read.usage is None
    assert read.finished


@pytest.mark.parametrize(
    ("part", "weight"),
    [
        ({"delta": {"type": "text_delta", "text": "é漢"}}, 5),
        ({"delta": {"type": "thinking_delta", "thinking": "hm"}}, 2),
        ({"delta": {"type": "input_json_delta", "partial_json": '{"a":'}}, 5),
        ({"delta": {"type": "signature_delta", "signature": "xxxx"}}, 0),
        ({"content_block": {"type": "text", "text": ""}}, 0),
        ({"content_block": {"type": "tool_use", "name": "ls", "input": {}}}, 2),
        ({"content_block": {"type": "tool_use", "name": "ls", "input": {"a": 1}}}, 9),
        ({"delta": 7}, 0),
        ({}, 0),
    ],
)
def test_all_that_the_model_produced_is_weighed(part: dict[str, Any], weight: int) -> None:
    assert Read(event("content_block_delta", index=0, **part)).output_bytes == weight


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"[]",
        b"7",
        b"{}",
        b'{"type": 7}',
        b'{"type": null}',
        b'{"type": "message_start"}',
        b'{"type": "message_start", "message": []}',
        b"<html>502</html>",
        b'{"type": "content_block_delta", "delta": {"text": "\xff"}}',
        b'{"type": "content_block_start", "content_block": {"input": ' + DEEP + b"}}",
    ],
)
def test_a_malformed_event_is_a_broken_upstream(payload: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        Read(begin() + text_delta("hi") + b"data: " + payload + b"\n\n")
    assert caught.value.fault is Fault.BROKEN


def test_an_event_without_an_end_is_given_up() -> None:
    with pytest.raises(UpstreamError) as caught:
        Read(b"data: " + b"x" * 9_000_000, b"x" * 9_000_000)
    assert caught.value.fault is Fault.BROKEN


ERRORS = [
    ({"type": "overloaded_error", "message": "Overloaded"}, Fault.BUSY),
    ({"type": "rate_limit_error", "message": "slow down"}, Fault.BUSY),
    ({"type": "api_error", "message": "Internal server error"}, Fault.BROKEN),
    ({"type": "timeout_error", "message": "too late"}, Fault.TIMEOUT),
    ({"type": "authentication_error", "message": "no"}, Fault.DENIED),
    (
        {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"},
        Fault.REFUSED,
    ),
    ("just text", Fault.BROKEN),
    ({}, Fault.BROKEN),
    ([], Fault.BROKEN),
]


@pytest.mark.parametrize(("error", "fault"), ERRORS)
def test_an_error_event_ends_the_stream_as_what_it_is(error: Any, fault: Fault) -> None:
    with pytest.raises(UpstreamError) as caught:
        Read(begin() + text_delta("hi") + event("error", error=error))
    assert caught.value.fault is fault
    assert caught.value.message


@pytest.mark.parametrize(("error", "fault"), ERRORS[:7])
def test_an_error_under_a_status_of_200_is_one(error: Any, fault: Fault) -> None:
    with pytest.raises(UpstreamError) as caught:
        anthropic.answer(orjson.dumps({"type": "error", "error": error}), MODEL, ID)
    assert caught.value.fault is fault


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"content": "x", "stop_reason": "end_turn"}',
        b'{"content": [7], "stop_reason": "end_turn"}',
        b'{"content": [{"type": "text", "text": "half"}], "stop_reason": null}',
        b'{"content": []}',
        b"\xff",
        b'{"content": [{"input": ' + DEEP + b'}], "stop_reason": "tool_use"}',
    ],
)
def test_what_is_no_answer_is_a_broken_upstream(raw: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        anthropic.answer(raw, MODEL, ID)
    assert caught.value.fault is Fault.BROKEN


@pytest.mark.parametrize("told", [None, "x", [], 7])
def test_no_usage_is_none(told: Any) -> None:
    assert anthropic.usage_of(told) is None


@pytest.mark.parametrize(
    "told",
    [
        {"input_tokens": -5},
        {"output_tokens": -5},
        {"input_tokens": 1e300},
        {"output_tokens": 5, "output_tokens_details": {"thinking_tokens": -2}},
    ],
)
def test_impossible_figures_stay_visible_to_whoever_judges_them(told: dict[str, Any]) -> None:
    usage = anthropic.usage_of(told)
    assert usage is not None
    assert not plausible(usage)


def test_more_thinking_than_output_is_all_of_it() -> None:
    told = {"output_tokens": 5, "output_tokens_details": {"thinking_tokens": 50}}
    assert anthropic.usage_of(told) == Usage(reasoning=5)


# Failures


@pytest.mark.parametrize(
    ("status", "kind", "message", "fault"),
    [
        (400, "invalid_request_error", "messages.0: Input should be an object", Fault.BAD_REQUEST),
        (
            400,
            "invalid_request_error",
            "prompt is too long: 210000 tokens > 200000",
            Fault.TOO_LONG,
        ),
        (
            400,
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
            Fault.TOO_LONG,
        ),
        (
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API.",
            Fault.DENIED,
        ),
        (
            400,
            "invalid_request_error",
            "You have reached your specified API usage limits.",
            Fault.DENIED,
        ),
        (
            400,
            "invalid_request_error",
            "Output blocked by content filtering policy",
            Fault.REFUSED,
        ),
        (401, "authentication_error", "invalid x-api-key", Fault.DENIED),
        (402, "billing_error", "pay", Fault.DENIED),
        (403, "permission_error", "no access", Fault.DENIED),
        (404, "not_found_error", "model: claude-nope", Fault.BROKEN),
        (413, "request_too_large", "Request exceeds the maximum size", Fault.TOO_LONG),
        (429, "rate_limit_error", "slow down", Fault.BUSY),
        (500, "api_error", "Internal server error", Fault.BROKEN),
        (503, "api_error", "down", Fault.BUSY),
        (504, "timeout_error", "too late", Fault.TIMEOUT),
        (529, "overloaded_error", "Overloaded", Fault.BUSY),
    ],
)
def test_a_failure_is_what_its_status_and_its_words_say(
    status: int, kind: str, message: str, fault: Fault
) -> None:
    raw = orjson.dumps(
        {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    )
    error = anthropic.failure(status, raw, "7")
    assert error.fault is fault
    assert error.message.endswith(message)
    assert error.retry_after_s == (7 if fault is Fault.BUSY else None)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b'{"error": null}', b"\xff"])
def test_a_failure_without_words_is_one_all_the_same(raw: bytes) -> None:
    assert anthropic.failure(400, raw, None).fault is Fault.BAD_REQUEST
    assert anthropic.failure(500, raw, None).fault is Fault.BROKEN


# Requests

SIZE = Size(1, 2, 4096)
HELLO = [{"role": "user", "content": "hi"}]


def sent(model: str = "claude-sonnet-4-6", **fields: Any) -> dict[str, Any]:
    body = {"model": "ours", "messages": HELLO, "max_tokens": 50_000, **fields}
    call = ChatCall(body, "ours", False, True, SIZE, Dialect.MESSAGES)
    found: dict[str, Any] = json.loads(anthropic.request(call, model))
    return found


@pytest.mark.parametrize(
    ("fields", "limit"),
    [({"max_tokens": 7}, 7), ({"max_tokens": None}, 4096), ({"max_tokens": 10**6}, 10**6)],
)
def test_max_tokens_is_always_sent_and_never_lowered(fields: dict[str, Any], limit: int) -> None:
    assert sent(**fields)["max_tokens"] == limit


def test_a_body_of_claude_code_passes_untouched() -> None:
    cached = {"type": "ephemeral"}
    fields = {
        "system": [{"type": "text", "text": "You are…", "cache_control": cached}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "ls", "cache_control": cached}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "abc="},
                    {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"c": "ls"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "a b"}],
            },
        ],
        "tools": [{"name": "Bash", "description": "x", "input_schema": {"type": "object"}}],
        "metadata": {"user_id": "user_1_account__session_2"},
        "thinking": {"type": "enabled", "budget_tokens": 31_999},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "temperature": 1,
        "stream": True,
        "something_new": {"deep": [1, None]},
    }
    body = sent(**fields)
    assert {name: body[name] for name in fields} == fields
    assert body["model"] == "claude-sonnet-4-6"


def deep_as_can_be_read() -> bytes:
    """Nested as deep as a decoder still follows from here, but for some levels."""
    for levels in range(990, 0, -1):
        try:
            orjson.loads(b"[" * levels + b"]" * levels)
            msgspec.json.decode(b"[" * levels + b"]" * levels)
        except (RecursionError, ValueError):
            continue
        return b"[" * (levels - 30) + b"]" * (levels - 30)
    raise AssertionError("nothing can be read")


def test_an_ending_that_could_not_be_written_once_it_is_paid_is_a_broken_upstream() -> None:
    delta = b'{"stop_reason": "end_turn", "x": ' + deep_as_can_be_read() + b"}"
    with pytest.raises(UpstreamError) as caught:
        Read(b'event: x\ndata: {"type": "message_delta", "delta": ' + delta + b"}\n\n")
    assert (caught.value.fault, "written" in caught.value.message) == (Fault.BROKEN, True)


LONG = 123456789012345678901234567890


def test_a_number_of_any_length_passes_whole_streamed_and_in_history() -> None:
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {"id": LONG}}
    raw = json.dumps({"content": [use], "stop_reason": "tool_use"}).encode()
    answer = anthropic.answer(raw, MODEL, ID)
    assert answer.body["content"] == [use]
    assert answer.output_bytes == len("f") + len('{"id":}') + len(str(LONG))
    start = {"type": "content_block_start", "index": 0, "content_block": use}
    read = Read(b"data: " + json.dumps(start).encode() + b"\n\n")
    assert json.loads(read.events[0].partition(b"data: ")[2]) == start
    assert read.output_bytes == answer.output_bytes
    turn = {"role": "assistant", "content": [use]}
    marked = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    body = sent(messages=[{"role": "user", "content": marked}, turn])
    assert body["messages"][1] == turn
    assert "ttl" not in body["messages"][0]["content"][0]["cache_control"]


def test_what_costs_more_than_tokens_is_not_asked_for() -> None:
    body = sent(
        speed="fast",
        inference_geo="us",
        max_cost=1,
        betas=["x"],
        anthropic_beta=["x"],
        mcp_servers=[{"type": "url", "url": "https://x", "name": "x"}],
        tools=[
            {"type": "bash_20250124", "name": "bash"},
            {"name": "mine", "input_schema": {"type": "object"}},
            {"type": "custom", "name": "also_mine", "input_schema": {"type": "object"}},
        ],
    )
    assert [tool["name"] for tool in body["tools"]] == ["bash", "mine", "also_mine"]
    unsold = {"speed", "inference_geo", "max_cost", "betas", "anthropic_beta", "mcp_servers"}
    assert not unsold & set(body)


SERVER_TOOLS = (
    *("web_search_20250305", "web_fetch_20250910", "code_execution_20250825"),
    *("tool_search_tool_bm25_20251119", "mcp_toolset", "advisor_20260301", "function"),
)


@pytest.mark.parametrize(
    "tool",
    [
        *({"type": kind, "name": "x"} for kind in SERVER_TOOLS),
        {"type": "mcp_toolset", "mcp_server_name": "x"},
        {"type": 7, "name": "x"},
        {"type": "", "name": "x"},
        "web_search",
        None,
    ],
    ids=str,
)
def test_a_tool_that_anthropic_runs_is_refused_whatever_brought_it_here(tool: Any) -> None:
    own = {"name": "mine", "input_schema": {"type": "object"}}
    with pytest.raises(UpstreamError) as caught:
        sent(tools=[own, tool])
    assert (caught.value.fault, caught.value.param) == (Fault.BAD_REQUEST, "tools[1].type")


def test_turns_of_another_model_are_mended() -> None:
    turns = [
        *HELLO,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "unsigned", "signature": ""},
                {"type": "text", "text": "ok"},
                {"type": "tool_use", "id": "functions.ls:0", "name": "ls", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "functions.ls:0", "content": "x"}],
        },
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "only"}]},
        {"role": "user", "content": "go on"},
    ]
    before = json.dumps(turns)
    messages = sent(messages=turns)["messages"]
    assert [block["type"] for block in messages[1]["content"]] == ["text", "tool_use"]
    assert messages[1]["content"][1]["id"] == "functions_ls_0"
    assert messages[2]["content"][0]["tool_use_id"] == "functions_ls_0"
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "user"]
    assert json.dumps(turns) == before, "the caller's body is not changed"


ENABLED = {"type": "enabled", "budget_tokens": 8_000}
ADAPTIVE = {"type": "adaptive"}


@pytest.mark.parametrize(
    ("model", "fields", "thinking", "effort"),
    [
        ("claude-sonnet-4-6", {"thinking": ENABLED}, ENABLED, None),
        ("claude-sonnet-4-6", {"thinking": ADAPTIVE}, ADAPTIVE, None),
        ("claude-opus-4-7", {"thinking": ADAPTIVE}, ADAPTIVE, None),
        ("claude-opus-4-7", {"thinking": ENABLED}, ADAPTIVE, "medium"),
        ("claude-opus-4.7", {"thinking": {**ENABLED, "budget_tokens": 2_000}}, ADAPTIVE, "low"),
        ("claude-sonnet-5", {"thinking": {**ENABLED, "budget_tokens": 32_000}}, ADAPTIVE, "high"),
        ("claude-opus-4-7", {"thinking": {"type": "enabled"}}, ADAPTIVE, "medium"),
        (
            "claude-opus-4-7",
            {"thinking": {**ENABLED, "display": "summarized"}},
            {**ADAPTIVE, "display": "summarized"},
            "medium",
        ),
        ("claude-opus-4-7", {"thinking": {"type": "disabled"}}, None, None),
        (
            "claude-haiku-4-5-20251001",
            {"thinking": ADAPTIVE},
            {"type": "enabled", "budget_tokens": 24_576},
            None,
        ),
        (
            "claude-haiku-4-5",
            {"thinking": ADAPTIVE, "output_config": {"effort": "low"}},
            {"type": "enabled", "budget_tokens": 2_048},
            None,
        ),
        (
            "claude-haiku-4-5",
            {"thinking": ADAPTIVE, "max_tokens": 2_000},
            {"type": "enabled", "budget_tokens": 1_999},
            None,
        ),
        ("claude-haiku-4-5", {"thinking": ADAPTIVE, "max_tokens": 1_000}, None, None),
        ("claude-opus-4-5", {"output_config": {"effort": "low"}}, None, "low"),
        ("claude-sonnet-4-20250514", {"output_config": {"effort": "low"}}, None, None),
        ("claude-3-7-sonnet-latest", {"thinking": ENABLED}, ENABLED, None),
        ("somebody-else", {"thinking": ENABLED}, ENABLED, None),
    ],
)
def test_thinking_is_asked_for_in_the_way_the_model_takes(
    model: str, fields: dict[str, Any], thinking: Any, effort: str | None
) -> None:
    body = sent(model, **fields)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort


@pytest.mark.parametrize(
    ("model", "kept"), [("claude-opus-4-7", False), ("claude-sonnet-4-6", True), ("x", True)]
)
def test_sampling_is_sent_where_the_model_takes_it(model: str, kept: bool) -> None:
    body = sent(model, temperature=0.5, top_p=0.9, top_k=4)
    assert ({"temperature", "top_p", "top_k"} <= set(body)) is kept


def test_a_format_survives_where_effort_does_not() -> None:
    form = {"type": "json_schema", "schema": {}}
    body = sent("claude-haiku-4-5", output_config={"effort": "low", "format": form})
    assert body["output_config"] == {"format": form}


RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "x"}]}
USE = {"type": "tool_use", "id": "a", "name": "f", "input": {}}


@pytest.mark.parametrize(
    ("blocks", "thinks"),
    [
        ([USE], False),
        ([{"type": "thinking", "thinking": "x", "signature": ""}, USE], False),
        ([{"type": "thinking", "thinking": "x", "signature": "s"}, USE], True),
        ([{"type": "redacted_thinking", "data": "x"}, USE], True),
    ],
)
def test_a_turn_that_began_without_thinking_goes_on_without(
    blocks: list[Any], thinks: bool
) -> None:
    turns = [*HELLO, {"role": "assistant", "content": blocks}, RESULT]
    assert ("thinking" in sent(messages=turns, thinking=ENABLED)) is thinks
    assert "thinking" in sent(messages=turns, thinking=ADAPTIVE)


def test_the_headers_are_anthropic_s() -> None:
    assert anthropic.headers("sk-1") == {
        "x-api-key": "sk-1",
        "anthropic-version": "2023-06-01",
        "Content-Type": "application/json",
        "User-Agent": "kyma",
    }


@pytest.mark.parametrize(
    ("fields", "header"),
    [
        ({}, None),
        ({"anthropic_beta": []}, None),
        ({"anthropic_beta": 7}, None),
        ({"anthropic_beta": ["a-1", "b-2", "a-1"]}, "a-1,b-2"),
        ({"betas": "a-1, b-2"}, "a-1,b-2"),
        ({"anthropic_beta": ["a\r\nx-api-key: 1", "ok-1", 7, ""]}, "ok-1"),
        ({"anthropic_beta": ["context-1m-2025-08-07", "fast-mode-2026-02-01"]}, None),
    ],
)
def test_betas_cross_as_a_header(fields: dict[str, Any], header: str | None) -> None:
    call = ChatCall({"messages": HELLO, **fields}, "m", False, True, SIZE, Dialect.MESSAGES)
    assert anthropic.betas(call) == ({"anthropic-beta": header} if header else {})


def test_no_cache_is_bought_for_an_hour() -> None:
    hour = {"type": "ephemeral", "ttl": "1h"}
    given = {"cache_control": hour, "min_pixels": 1}
    body = {
        "system": [{"type": "text", "text": 'a "ttl": of text', "cache_control": hour}],
        "messages": [
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t", "name": "f", "input": given}],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t",
                        "content": [{"type": "text", "text": "x", "cache_control": hour}],
                    }
                ],
            },
        ],
        "tools": [
            {"name": "ttl", "input_schema": {"properties": {"ttl": {}}}, "cache_control": hour}
        ],
    }
    call = ChatCall(body, "ours", False, True, SIZE, Dialect.MESSAGES)
    sent = orjson.loads(anthropic.request(call, "claude-haiku-4-5"))
    mark = {"type": "ephemeral"}
    assert sent["system"][0] == {"type": "text", "text": 'a "ttl": of text', "cache_control": mark}
    assert sent["messages"][0]["content"][0]["input"] == given
    assert sent["messages"][1]["content"][0]["content"][0]["cache_control"] == mark
    assert sent["tools"][0]["cache_control"] == mark
    assert sent["tools"][0]["input_schema"] == {"properties": {"ttl": {}}}
    assert hour == {"type": "ephemeral", "ttl": "1h"}, "the caller's own body was changed"
