"""Whose an error is: recorded bodies of every provider, and what a caller may read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams.wire import faults, openai
from kyma.calls import Fault, UpstreamError

RECORDED = Path(__file__).with_name("recorded")
SHOWN = {"bad_request", "too_long", "refused"}
"""Faults whose message a caller reads."""

SECRETS = ("org_", "org-", "<ak-", "http", "console", "billing", "recharge", "aliyun", "[{", "{")


def cases() -> list[Any]:
    return [
        pytest.param(case, id=f"{path.parent.name}: {case['what']}")
        for path in sorted(RECORDED.glob("*/errors.json"))
        for case in json.loads(path.read_text())
    ]


def read(case: dict[str, Any]) -> UpstreamError:
    return faults.failure(case["status"], orjson.dumps(case["body"]), "7")


@pytest.mark.parametrize("case", cases())
def test_a_recorded_error_is_whose_it_is(case: dict[str, Any]) -> None:
    error = read(case)
    assert error.fault == case["fault"]
    assert error.message
    assert error.retry_after_s == (7 if error.fault is Fault.BUSY else None)


@pytest.mark.parametrize("case", [c for c in cases() if c.values[0]["fault"] in SHOWN])
def test_what_a_caller_reads_is_nothing_of_our_account(case: dict[str, Any]) -> None:
    message = read(case).message
    assert not [secret for secret in SECRETS if secret in message.lower()]
    assert message == case.get("shown", message)


def test_what_the_operator_reads_has_no_key_in_it() -> None:
    key = "sk-proj-abcdefghijklmnop123456"
    body = {"error": {"message": f"Incorrect API key provided: {key}.", "code": "invalid_api_key"}}
    error = faults.failure(401, orjson.dumps(body), None)
    assert error.fault is Fault.DENIED
    assert key not in error.message
    assert error.message == "Incorrect API key provided: (key)"


@pytest.mark.parametrize(
    "message",
    [
        "Unknown parameter: 'org_chart_members'.",
        "messages.0: `team_membership` is not a tool; `sk_learn` and `task-force` are.",
        "Failed to fetch https://example.com/cat.png: 404.",
        "tools.0.function.name: String should match '^[a-zA-Z0-9_-]{1,64}$'",
    ],
)
def test_what_is_the_callers_own_is_shown_as_it_came(message: str) -> None:
    error = faults.failure(400, orjson.dumps({"error": {"message": message}}), None)
    assert (error.fault, error.message) == (Fault.BAD_REQUEST, message)


@pytest.mark.parametrize(
    "quoted",
    ["API key not valid", "rate_limit_exceeded", "Arrearage", "insufficient balance", "1113"],
)
def test_a_message_that_quotes_the_caller_is_not_trouble_with_our_account(quoted: str) -> None:
    body = {"error": {"message": f"Invalid value: '{quoted}'.", "type": "invalid_request_error"}}
    assert faults.failure(400, orjson.dumps(body), None).fault is Fault.BAD_REQUEST


def test_a_message_of_nothing_but_a_console_is_told_in_our_words() -> None:
    body = {"error": {"message": "See https://console.groq.com/docs/errors"}}
    error = faults.failure(400, orjson.dumps(body), None)
    assert error.message == "The provider rejected the request."


def test_a_message_is_read_in_little_time_however_long_it_is() -> None:
    body = {"error": {"message": "a " * 500_000}}
    assert len(faults.failure(400, orjson.dumps(body), None).message) <= faults.MAX_SHOWN


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"code": "rate_limit_exceeded", "message": "x"}, Fault.BUSY),
        ({"code": 402, "message": "Insufficient credits"}, Fault.DENIED),
        ({"code": "1113", "message": "Insufficient balance"}, Fault.DENIED),
        ({"code": 504, "message": "x"}, Fault.TIMEOUT),
        ({"code": "data_inspection_failed", "message": "Output data may contain …"}, Fault.REFUSED),
        ({"code": 400, "message": "x"}, Fault.BROKEN),
    ],
)
def test_an_error_inside_an_answer_is_whose_it_is(error: dict[str, Any], fault: Fault) -> None:
    assert faults.error_in_body(error).fault is fault


@pytest.mark.parametrize(
    ("code", "fault"),
    [(1008, Fault.DENIED), (1002, Fault.BUSY), (1027, Fault.REFUSED), (1000, Fault.BROKEN)],
)
def test_minimax_tells_its_failures_beside_no_answer(code: int, fault: Fault) -> None:
    body = {"choices": None, "base_resp": {"status_code": code, "status_msg": "why"}}
    with pytest.raises(UpstreamError) as caught:
        openai.answer(orjson.dumps(body), "ours", "1")
    assert caught.value.fault is fault


NAMES = (
    *("error", "message", "code", "type", "details", "metadata", "raw", "detail"),
    *("base_resp", "status_code", "param", "reason"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2000) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(st.sampled_from([200, 301, 400, 401, 403, 413, 422, 429, 500, 504]), JSON)
def test_any_error_is_read(status: int, body: Any) -> None:
    assert faults.failure(status, orjson.dumps(body), None).message
    assert faults.error_in_body(body).message
