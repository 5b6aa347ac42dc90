"""Anthropic's Messages at the edge: bodies checked, events closed, errors in its envelope."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.http.dialects.messages import TYPES, Messages, type_of, with_betas
from adapters.http.errors import STATUS, status_of
from kyma.calls import ChatAnswer, ChatCall, Chunk, Dialect, size_of_messages
from kyma.catalog.model import Model
from kyma.errors import Code, Refusal
from kyma.flows.access import Admission
from kyma.flows.chat import Chat
from kyma.flows.live import Begun, LiveAnswer
from kyma.flows.ticket import Receipt, Served, Ticket
from kyma.ledger import Hold
from kyma.money import usd
from kyma.ports.upstreams import Chunks, Deadline
from kyma.pricing import per_token
from kyma.routing import Route
from kyma.usage import Usage
from tests.builders import NOON

DIALECT = Messages()
PRICE = per_token("1", "2")
MODEL = Model(
    id="kimi-k2.6",
    name="Kimi",
    description="",
    owned_by="moonshot",
    family="kimi",
    price=PRICE,
    context_window=200_000,
    max_output_tokens=32_768,
    routes=(),
    reasoning=True,
)
ROUTE = Route("moonshot", "kimi-k2.6", MODEL.id, PRICE, layer=0)
RECEIPT = Receipt(
    Usage(input=70, cache_read=20, cache_write=10, output=5, reasoning=3),
    usd("0.000116"),
    usd("0.000018"),
)
USAGE = {
    "input_tokens": 70,
    "cache_creation_input_tokens": 10,
    "cache_read_input_tokens": 20,
    "output_tokens": 8,
    "output_tokens_details": {"thinking_tokens": 3},
    "cost": 0.000116,
    "cost_usd": "0.000116",
    "cache_discount": 0.000018,
}
HELLO = [{"role": "user", "content": "hi"}]


def a_body(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL.id, "max_tokens": 64, "messages": HELLO, **fields}


def saying(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return a_body(messages=[{"role": role, "content": list(blocks)}])


def a_ticket() -> Ticket:
    return Ticket(
        id="r1",
        admission=cast(Admission, None),
        call=DIALECT.call(a_body(stream=True), MODEL),
        model=MODEL,
        alias=None,
        endpoint="messages",
        started_at=NOON,
        started=0,
        deadline=Deadline(60),
        gone=lambda: False,
        routes=(ROUTE,),
        affinity=None,
    )


def ended(ending: Any, receipt: Receipt | None = RECEIPT) -> LiveAnswer:
    """A stream that has told why it ended, and was settled."""
    last = Chunk([], 0, True, None, ending)
    hold, chat, chunks = cast(Hold, None), cast(Chat, None), cast(Chunks, None)
    live = LiveAnswer(chat, a_ticket(), ROUTE, hold, Begun(chunks, [last]))
    live.receipt = receipt
    return live


# What Claude Code sends

CACHED = {"cache_control": {"type": "ephemeral"}}
OF_CLAUDE_CODE = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 32_000,
    "stream": True,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=00000;"},
        {"type": "text", "text": "You are Claude Code…", **CACHED},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>…</system-reminder>"},
                {"type": "text", "text": "read a.png", **CACHED},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "EqQB"},
                {"type": "text", "text": "Reading."},
                {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "a.png"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "is_error": False,
                    "content": [
                        {
                            "type": "image",
                            "source": {
                                "type": "base64",
                                "media_type": "image/png",
                                "data": "iVBORw0KGgo=",
                            },
                        }
                    ],
                    **CACHED,
                }
            ],
        },
        {"role": "system", "content": "The user changed the mode."},
    ],
    "tools": [
        {"name": "Read", "description": "Reads.", "input_schema": {"type": "object"}},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
    "metadata": {"user_id": "user_0_account__session_1"},
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "medium"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "temperature": 1,
    "something_of_next_year": {"a": 1},
}


def test_a_body_of_claude_code_crosses_untouched() -> None:
    body = json.loads(json.dumps(OF_CLAUDE_CODE))
    assert DIALECT.model(body) == "claude-sonnet-4-6"
    call = DIALECT.call(body, MODEL)
    assert call.body == OF_CLAUDE_CODE
    assert (call.model, call.stream, call.dialect) == (MODEL.id, True, Dialect.MESSAGES)
    assert call.size == size_of_messages(OF_CLAUDE_CODE, MODEL.context_window)
    assert call.size.max_output == 32_000


def test_a_model_that_does_not_reason_is_not_asked_to() -> None:
    body = a_body(thinking={"type": "adaptive"}, output_config={"effort": "low", "format": {}})
    call = DIALECT.call(body, replace(MODEL, reasoning=False))
    assert "thinking" not in call.body
    assert call.body["output_config"] == {"format": {}}
    assert body["thinking"] == {"type": "adaptive"}, "the caller's body is not changed"


# Bodies that are refused


@pytest.mark.parametrize(
    "kind",
    [
        *("web_search_20250305", "web_search_20990101", "web_fetch_20250910", "web_fetch"),
        *("code_execution_20250825", "mcp_toolset", "tool_search_tool_regex_20251119"),
        *("advisor_20260301", "something_new_20990101", "function", "", "Bash_20250124"),
    ],
)
def test_a_tool_that_anthropic_runs_is_refused_by_name(kind: str) -> None:
    own = {"name": "mine", "input_schema": {"type": "object"}}
    body = a_body(
        tools=[own, {"type": kind, "name": "x", "input_schema": {"type": "object"}}],
        tool_choice={"type": "tool", "name": "x"},
    )
    for ask in (DIALECT.model, DIALECT.model_to_count):
        with pytest.raises(Refusal) as caught:
            ask(body)
        assert (caught.value.code, caught.value.param) == (Code.INVALID_VALUE, "tools[1].type")
        assert caught.value.message.startswith("tools[1].type: ")
        assert kind in caught.value.message


@pytest.mark.parametrize(
    "kind",
    [
        *(None, "custom", "bash_20250124", "text_editor_20250728", "computer_20251124"),
        *("memory_20250818", "browser_20260801"),
    ],
)
def test_a_tool_that_the_caller_runs_passes(kind: str | None) -> None:
    assert DIALECT.model(a_body(tools=[{"type": kind, "name": "x"}])) == MODEL.id


@pytest.mark.parametrize("servers", [[{"type": "url", "url": "https://x", "name": "x"}], {}, "x"])
def test_servers_that_anthropic_would_ask_are_refused(servers: Any) -> None:
    with pytest.raises(Refusal) as caught:
        DIALECT.model(a_body(mcp_servers=servers))
    assert (caught.value.code, caught.value.param) == (Code.INVALID_VALUE, "mcp_servers")


def test_the_name_of_a_tool_is_told_shortened() -> None:
    with pytest.raises(Refusal) as caught:
        DIALECT.model(a_body(tools=[{"type": "x" * 100_000}]))
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, Code.MISSING_FIELD, "max_tokens"),
        ({"max_tokens": 1}, Code.MISSING_FIELD, "model"),
        ({"max_tokens": 1, "model": "m"}, Code.MISSING_FIELD, "messages"),
        (a_body(max_tokens=None), Code.MISSING_FIELD, "max_tokens"),
        (a_body(max_tokens=0), Code.INVALID_VALUE, "max_tokens"),
        (a_body(max_tokens=2**31), Code.INVALID_VALUE, "max_tokens"),
        (a_body(max_tokens="7"), Code.INVALID_TYPE, "max_tokens"),
        (a_body(max_tokens=True), Code.INVALID_TYPE, "max_tokens"),
        (a_body(max_tokens=1.5), Code.INVALID_TYPE, "max_tokens"),
        (a_body(model=7), Code.INVALID_TYPE, "model"),
        (a_body(model=""), Code.INVALID_TYPE, "model"),
        (a_body(messages="hi"), Code.INVALID_TYPE, "messages"),
        (a_body(messages=[]), Code.INVALID_VALUE, "messages"),
        (a_body(messages=HELLO * 100_001), Code.INVALID_VALUE, "messages"),
        (a_body(messages=[7]), Code.INVALID_TYPE, "messages[0]"),
        (a_body(messages=[{}]), Code.MISSING_FIELD, "messages[0].role"),
        (a_body(messages=[{"role": "tool"}]), Code.INVALID_VALUE, "messages[0].role"),
        (a_body(messages=[{"role": ["user"]}]), Code.INVALID_VALUE, "messages[0].role"),
        (a_body(messages=[{"role": "user"}]), Code.MISSING_FIELD, "messages[0].content"),
        (
            a_body(messages=[{"role": "user", "content": ""}]),
            Code.INVALID_VALUE,
            "messages[0].content",
        ),
        (
            a_body(messages=[{"role": "assistant", "content": []}, *HELLO]),
            Code.INVALID_VALUE,
            "messages[0].content",
        ),
        (
            a_body(messages=[*HELLO, {"role": "user", "content": {"a": 1}}]),
            Code.INVALID_TYPE,
            "messages[1].content",
        ),
        (saying("text"), Code.INVALID_TYPE, "messages[0].content[0]"),
        (saying({}), Code.MISSING_FIELD, "messages[0].content[0].type"),
        (saying({"type": 7}), Code.INVALID_TYPE, "messages[0].content[0].type"),
        (saying({"type": "text"}), Code.MISSING_FIELD, "messages[0].content[0].text"),
        (saying({"type": "text", "text": 7}), Code.INVALID_TYPE, "messages[0].content[0].text"),
        (saying({"type": "image"}), Code.MISSING_FIELD, "messages[0].content[0].source"),
        (
            saying({"type": "image", "source": "x"}),
            Code.INVALID_TYPE,
            "messages[0].content[0].source",
        ),
        (
            saying({"type": "image", "source": {"type": "base64", "media_type": "image/png"}}),
            Code.MISSING_FIELD,
            "messages[0].content[0].source.data",
        ),
        (
            saying({"type": "document", "source": {"data": "x"}}),
            Code.MISSING_FIELD,
            "messages[0].content[0].source.type",
        ),
        (
            saying({"type": "document", "source": {"type": "url"}}),
            Code.MISSING_FIELD,
            "messages[0].content[0].source.url",
        ),
        (
            saying({"type": "document", "source": {"type": "content", "content": 7}}),
            Code.INVALID_TYPE,
            "messages[0].content[0].source.content",
        ),
        (
            saying({"type": "tool_use", "id": "a", "name": "f"}, role="assistant"),
            Code.MISSING_FIELD,
            "messages[0].content[0].input",
        ),
        (
            saying({"type": "tool_use", "id": "a", "name": "f", "input": "{}"}, role="assistant"),
            Code.INVALID_TYPE,
            "messages[0].content[0].input",
        ),
        (
            saying({"type": "tool_result", "content": "x"}),
            Code.MISSING_FIELD,
            "messages[0].content[0].tool_use_id",
        ),
        (
            saying({"type": "tool_result", "tool_use_id": "a", "content": [7]}),
            Code.INVALID_TYPE,
            "messages[0].content[0].content[0]",
        ),
        (
            saying({"type": "thinking", "signature": "s"}, role="assistant"),
            Code.MISSING_FIELD,
            "messages[0].content[0].thinking",
        ),
        (a_body(system=7), Code.INVALID_TYPE, "system"),
        (a_body(system=["x"]), Code.INVALID_TYPE, "system[0]"),
        (a_body(system=[{"type": "text"}]), Code.MISSING_FIELD, "system[0].text"),
        (
            a_body(system=[{"type": "search_result"}]),
            Code.INVALID_VALUE,
            "system[0].type",
        ),
        (a_body(tools={}), Code.INVALID_TYPE, "tools"),
        (a_body(tools=["f"]), Code.INVALID_TYPE, "tools[0]"),
        (a_body(tools=[{}]), Code.MISSING_FIELD, "tools[0].name"),
        (a_body(tools=[{"name": 7}]), Code.INVALID_TYPE, "tools[0].name"),
        (a_body(tools=[{"type": 7, "name": "f"}]), Code.INVALID_TYPE, "tools[0].type"),
        (
            a_body(tools=[{"name": "f", "input_schema": []}]),
            Code.INVALID_TYPE,
            "tools[0].input_schema",
        ),
        (a_body(tool_choice="auto"), Code.INVALID_TYPE, "tool_choice"),
        (a_body(tool_choice={}), Code.MISSING_FIELD, "tool_choice.type"),
        (a_body(tool_choice={"type": "required"}), Code.INVALID_VALUE, "tool_choice.type"),
        (a_body(tool_choice={"type": "tool"}), Code.MISSING_FIELD, "tool_choice.name"),
        (a_body(stop_sequences="x"), Code.INVALID_TYPE, "stop_sequences"),
        (a_body(stop_sequences=[7]), Code.INVALID_TYPE, "stop_sequences"),
        (a_body(temperature=1.1), Code.INVALID_VALUE, "temperature"),
        (a_body(temperature="1"), Code.INVALID_TYPE, "temperature"),
        (a_body(top_p=-1), Code.INVALID_VALUE, "top_p"),
        (a_body(thinking="on"), Code.INVALID_TYPE, "thinking"),
        (a_body(thinking={}), Code.MISSING_FIELD, "thinking.type"),
        (
            a_body(thinking={"type": "enabled", "budget_tokens": "many"}),
            Code.INVALID_TYPE,
            "thinking.budget_tokens",
        ),
        (a_body(metadata="me"), Code.INVALID_TYPE, "metadata"),
        (a_body(metadata={"user_id": 7}), Code.INVALID_TYPE, "metadata.user_id"),
        (a_body(output_config=7), Code.INVALID_TYPE, "output_config"),
        (a_body(stream="yes"), Code.INVALID_TYPE, "stream"),
    ],
)
def test_a_body_that_no_model_could_serve_is_refused_with_its_field(
    body: dict[str, Any], code: Code, param: str
) -> None:
    with pytest.raises(Refusal) as caught:
        DIALECT.model(body)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.message.startswith(param)


def test_blocks_within_blocks_have_an_end() -> None:
    content: Any = "x"
    for _ in range(500):
        content = [{"type": "tool_result", "tool_use_id": "a", "content": content}]
    with pytest.raises(Refusal) as caught:
        DIALECT.model(a_body(messages=[{"role": "user", "content": content}]))
    assert caught.value.code is Code.INVALID_VALUE


@pytest.mark.parametrize(
    "body",
    [
        a_body(messages=[*HELLO, {"role": "assistant", "content": ""}]),
        a_body(system=""),
        a_body(system=None, tools=None, stream=None, temperature=None, thinking=None),
        a_body(tools=[]),
        a_body(tools=[{"type": "bash_20990101", "name": "bash"}], mcp_servers=[]),
        a_body(metadata={"user_id": None}),
        a_body(thinking={"type": "enabled"}),
        saying({"type": "something_new", "a": 1}),
        saying({"type": "tool_result", "tool_use_id": "a"}),
        saying({"type": "image", "source": {"type": "something_new"}}),
        saying({"type": "document", "source": {"type": "content", "content": "x"}}),
    ],
)
def test_a_body_that_some_model_could_serve_passes(body: dict[str, Any]) -> None:
    assert DIALECT.model(body) == MODEL.id


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "text", "source", "content", "data", "input", "title", "name"]
            ),
            inner | st.sampled_from(["text", "image", "document", "tool_result", "content"]),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON, JSON, JSON)
def test_whatever_comes_is_measured_or_refused(content: Any, system: Any, tools: Any) -> None:
    body = a_body(messages=[{"role": "user", "content": content}], system=system, tools=tools)
    call = checked(body)
    if isinstance(call, Refusal):
        assert status_of(call) == 400
        assert call.param
    else:
        assert 0 < call.size.likely_input <= call.size.worst_input <= MODEL.context_window


def checked(body: dict[str, Any]) -> ChatCall | Refusal:
    try:
        DIALECT.model(body)
    except Refusal as refusal:
        return refusal
    return DIALECT.call(body, MODEL)


# Counting


def test_tokens_are_counted_without_a_limit_for_the_answer() -> None:
    body = {"model": MODEL.id, "messages": HELLO, "system": "x" * 400}
    assert DIALECT.model_to_count(body) == MODEL.id
    assert DIALECT.count(body, MODEL) == size_of_messages(body, 200_000).likely_input
    assert 100 < DIALECT.count(body, MODEL) < 120


def test_what_is_counted_is_checked() -> None:
    with pytest.raises(Refusal) as caught:
        DIALECT.model_to_count({"model": MODEL.id, "messages": []})
    assert caught.value.param == "messages"


# Answers


def test_a_whole_answer_carries_its_usage_in_disjoint_buckets() -> None:
    body = {"id": "msg_r1", "type": "message", "content": [], "stop_reason": "end_turn"}
    served = Served(a_ticket(), ROUTE, ChatAnswer(dict(body), None, 0), RECEIPT)
    assert DIALECT.whole(served) == {**body, "usage": USAGE}


def events_of(written: bytes) -> list[tuple[str, dict[str, Any]]]:
    assert written.endswith(b"\n\n")
    found = []
    for event in written.removesuffix(b"\n\n").split(b"\n\n"):
        name, data = event.split(b"\n")
        body = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + body["type"].encode()
        found.append((body["type"], body))
    return found


def test_events_pass_as_they_came() -> None:
    rendering = DIALECT.rendering(a_ticket())
    events = [b'event: ping\ndata: {"type":"ping"}', b'event: x\ndata: {"type":"x"}']
    assert rendering.events(events) == events[0] + b"\n\n" + events[1] + b"\n\n"
    assert rendering.events([]) == b""


@pytest.mark.parametrize(
    ("ending", "delta"),
    [
        (
            {"stop_reason": "tool_use", "stop_sequence": None, "stop_details": None},
            {"stop_reason": "tool_use", "stop_sequence": None, "stop_details": None},
        ),
        (
            {"stop_reason": "stop_sequence", "stop_sequence": "END"},
            {"stop_reason": "stop_sequence", "stop_sequence": "END"},
        ),
        (None, {"stop_reason": "end_turn", "stop_sequence": None}),
    ],
)
def test_a_stream_ends_with_its_reason_and_what_it_cost(ending: Any, delta: Any) -> None:
    (first, closing), (last, _) = events_of(DIALECT.rendering(a_ticket()).end(ended(ending)))
    assert (first, last) == ("message_delta", "message_stop")
    assert closing == {"type": "message_delta", "delta": delta, "usage": USAGE}


def test_what_anthropic_cleared_from_the_context_is_told_beside_the_reason() -> None:
    ending = {"stop_reason": "end_turn", "context_management": {"applied_edits": []}}
    (_, closing), _ = events_of(DIALECT.rendering(a_ticket()).end(ended(ending)))
    assert closing["context_management"] == {"applied_edits": []}
    assert "context_management" not in closing["delta"]


def test_a_stream_without_a_receipt_has_an_end_all_the_same() -> None:
    (_, closing), _ = events_of(DIALECT.rendering(a_ticket()).end(ended(None, None)))
    assert closing["usage"] == {"output_tokens": 0}


def test_a_failure_after_the_head_is_an_error_event_without_an_end() -> None:
    refusal = Refusal(Code.STREAM_INTERRUPTED, "It broke off.")
    ((name, body),) = events_of(DIALECT.rendering(a_ticket()).failed(refusal, "r1"))
    assert name == "error"
    assert body == DIALECT.refusal(refusal, "r1")
    assert body["error"]["type"] == "api_error"


# Errors


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.MISSING_FIELD, "invalid_request_error"),
        (Code.UNSUPPORTED_MEDIA_TYPE, "invalid_request_error"),
        (Code.BODY_TIMEOUT, "invalid_request_error"),
        (Code.BODY_TOO_LARGE, "request_too_large"),
        (Code.CONTEXT_TOO_LONG, "invalid_request_error"),
        (Code.INVALID_KEY, "authentication_error"),
        (Code.INSUFFICIENT_CREDITS, "billing_error"),
        (Code.FORBIDDEN, "permission_error"),
        (Code.MODEL_NOT_FOUND, "not_found_error"),
        (Code.RATE_LIMITED, "rate_limit_error"),
        (Code.PROVIDER_BUSY, "overloaded_error"),
        (Code.PROVIDER_ERROR, "api_error"),
        (Code.PROVIDER_TIMEOUT, "timeout_error"),
        (Code.INTERNAL, "api_error"),
    ],
)
def test_every_refusal_has_anthropic_s_type(code: Code, kind: str) -> None:
    assert type_of(Refusal(code, "x")) == kind


@pytest.mark.parametrize("code", Code)
def test_every_refusal_is_told_in_anthropic_s_envelope(code: Code) -> None:
    told = DIALECT.refusal(Refusal(code, "No.", param="messages"), "r1")
    assert set(told) == {"type", "error", "request_id"}
    assert told["type"] == "error"
    assert told["request_id"] == "r1"
    known = {*TYPES.values(), "invalid_request_error", "api_error"}
    assert told["error"]["type"] in known
    assert STATUS[code][0] >= 500 or told["error"]["type"] not in ("api_error", "overloaded_error")
    assert {name: told["error"][name] for name in ("message", "code", "param", "charged")} == {
        "message": "No.",
        "code": code.value,
        "param": "messages",
        "charged": False,
    }
    assert isinstance(told["error"]["retryable"], bool)


def test_further_facts_stand_beside_the_message_and_inner_ones_do_not() -> None:
    details = {"needed_usd": 1.5, "quota": object(), "rung": object(), "type": "x"}
    told = DIALECT.refusal(Refusal(Code.RATE_LIMITED, "No.", details=details), "r1")
    assert told["error"]["needed_usd"] == 1.5
    assert not {"quota", "rung"} & set(told["error"])
    assert told["error"]["type"] == "rate_limit_error"


# Betas


@pytest.mark.parametrize(
    ("header", "put"),
    [
        (None, None),
        ("", None),
        ("a-1", ["a-1"]),
        ("a-1, b-2,,", ["a-1", "b-2"]),
    ],
)
def test_betas_cross_in_the_body_and_only_from_the_header(header: str | None, put: Any) -> None:
    body = a_body(betas=["forged"], anthropic_beta=["forged"])
    with_betas(body, header)
    assert body.get("anthropic_beta") == put
    assert "betas" not in body
