"""Receipts, logs, quotes, key options and idempotent repetitions, asked over HTTP."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from adapters.http.log_query import MAX_LIMIT, from_query
from adapters.http.schemas import SCHEMAS
from adapters.settings import ROOT
from kyma.calls import Fault
from kyma.catalog.model import Catalogue
from kyma.errors import Code, Refusal
from kyma.generations import LogFilter, Place, place_of, request_id_of
from kyma.ledger import Kind, Resolution
from kyma.money import Usd, decimal_text, usd
from kyma.pricing import per_token
from kyma.usage import Usage
from tests.builders import NOON, a_record, new_id
from tests.flows.upstreams import CHEAP, MODELS, PRICE, PROVIDERS, USAGE, Fails, Says
from tests.http import on_memory
from tests.http.on_memory import CREDIT, SECRET, STRANGER, a_body, a_place

BUSY = [Fails(Fault.BUSY)]


def is_as_declared(schema: str, found: Any) -> None:
    """Whether an answer is what the OpenAPI document says."""
    whole = {"$ref": f"#/components/schemas/{schema}", "components": {"schemas": dict(SCHEMAS)}}
    errors = [error.message for error in Draft202012Validator(whole).iter_errors(found)]
    assert errors == []


async def receipt(place: on_memory.Place, id: str, **asked: Any) -> Any:
    answer = await place.ask("GET", f"/v1/generations/{id}", **asked)
    assert answer.status == 200, answer.body
    found = answer.json()
    is_as_declared("Receipt", found)
    return found


async def test_the_receipt_of_an_answer_adds_up_and_names_every_attempt() -> None:
    usage = Usage(input=100, cache_read=40, cache_write=10, output=20, reasoning=5)
    place = await a_place({"first": BUSY, "second": [Says(usage=usage)]})
    answer = await place.chat()
    assert answer.status == 200
    id = answer.headers["x-kyma-request-id"]
    found = await receipt(place, id)
    bill = PRICE.bill(usage)
    worst = Usd(place.store.entries[id].held_promo)
    assert (found["id"], found["request_id"]) == (id, id)
    assert (found["status"], found["outcome"], found["charged"]) == ("completed", "ok", True)
    assert found["held"] == decimal_text(worst)
    assert found["settled"] == decimal_text(bill)
    assert found["refunded"] == decimal_text(worst - bill)
    assert found["settled_usd"] == pytest.approx(bill / 1e9)
    assert found["cache_discount"] == decimal_text(PRICE.cache_discount(usage))
    assert Decimal(found["held"]) == Decimal(found["settled"]) + Decimal(found["refunded"])
    assert (found["model"], found["served_model"]) == ("big", "big")
    assert (found["provider"], found["fallback_layer"]) == ("second", 1)
    assert (found["endpoint"], found["streamed"]) == ("chat.completions", False)
    assert found["key_id"] == place.key.id
    assert [
        (one["provider"], one["model"], one["fallback_layer"], one["outcome"])
        for one in found["attempts"]
    ] == [("first", "big", 0, "busy"), ("second", "big", 1, "ok")]
    assert found["usage"] == {
        "input_tokens": 100,
        "cache_read_tokens": 40,
        "cache_write_tokens": 10,
        "output_tokens": 20,
        "reasoning_tokens": 5,
        "prompt_tokens": 150,
        "completion_tokens": 25,
        "total_tokens": 175,
        "evidence": "exact",
    }
    assert found["expires_at"] is None
    assert found["held_at"] <= found["ended_at"]


async def test_what_was_settled_can_be_reckoned_again_from_the_receipt_alone() -> None:
    usage = Usage(input=101, cache_read=43, cache_write=11, output=29, reasoning=7)
    place = await a_place({"first": [Says(usage=usage)]})
    found = await receipt(place, (await place.chat()).headers["x-kyma-request-id"])
    prices, used = found["prices"], found["usage"]
    buckets = ("input", "cache_read", "cache_write", "output", "reasoning")
    exact = sum(Decimal(prices[name]) * used[f"{name}_tokens"] for name in buckets) / 1_000_000
    assert Decimal(found["settled"]) == exact.quantize(Decimal("1e-9"), "ROUND_HALF_UP")
    assert prices["bill"] == found["settled"]
    assert prices["version"] == place.catalogue.price_version


async def test_a_substitute_is_shown_by_our_name_and_at_the_lower_price() -> None:
    place = await a_place({"first": BUSY, "second": BUSY, "third": BUSY})
    answer = await place.chat()
    found = await receipt(place, answer.headers["x-kyma-request-id"])
    assert (found["model"], found["served_model"]) == ("big", "small")
    assert (found["provider"], found["fallback_layer"]) == ("fourth", 3)
    assert [one["model"] for one in found["attempts"]] == ["big", "big", "older", "small"]
    assert found["prices"]["model"] == "small"
    assert found["prices"]["output"] == decimal_text(CHEAP.output)
    assert found["settled"] == decimal_text(CHEAP.bill(USAGE))


async def test_neither_the_providers_names_for_models_nor_its_prices_are_shown() -> None:
    place = await a_place({"first": BUSY})
    id = (await place.chat()).headers["x-kyma-request-id"]
    shown = orjson.dumps(await receipt(place, id))
    shown += (await place.ask("GET", "/v1/logs")).body
    shown += (await place.ask("POST", "/v1/quote", a_body())).body
    (record,) = place.store.records
    for secret in (*(attempt.upstream_model for attempt in record.attempts), "provider_cost"):
        assert secret.encode() not in shown


@pytest.mark.parametrize("prefix", ["", "chatcmpl-", "msg_", "resp_", "cmpl-"])
async def test_a_receipt_is_found_by_the_name_that_an_answer_has(prefix: str) -> None:
    place = await a_place()
    id = (await place.chat()).headers["x-kyma-request-id"]
    assert (await receipt(place, prefix + id))["id"] == id


async def test_a_request_under_way_has_a_receipt_too() -> None:
    place = await a_place()
    id = new_id()
    await place.ledger.hold(id, place.account.id, usd("0.02"), 600)
    found = await receipt(place, id)
    assert (found["status"], found["charged"], found["outcome"]) == ("running", None, None)
    assert (found["held"], found["settled"], found["refunded"]) == ("0.02", "0", "0")
    assert (found["usage"], found["prices"], found["attempts"]) == (None, None, [])
    assert found["expires_at"] is not None


async def test_a_request_whose_process_died_shows_that_everything_came_back() -> None:
    place = await a_place()
    id = new_id()
    await place.ledger.hold(id, place.account.id, usd("0.02"), 0)
    await place.ledger.sweep()
    found = await receipt(place, id)
    assert (found["status"], found["charged"]) == ("expired", False)
    assert (found["settled"], found["refunded"]) == ("0", "0.02")
    assert found["usage"] is None


async def test_a_refused_request_shows_who_was_asked_and_that_nothing_was_charged() -> None:
    place = await a_place({"alone": [Fails(Fault.REFUSED)]})
    answer = await place.chat("lonely")
    assert answer.status == 400
    found = await receipt(place, answer.headers["x-kyma-request-id"])
    assert (found["status"], found["outcome"]) == ("refunded", "content_filter")
    assert (found["settled"], found["refunded"]) == ("0", found["held"])
    assert (found["provider"], found["served_model"]) == (None, None)
    assert [one["outcome"] for one in found["attempts"]] == ["refused"]


async def test_nobody_reads_anothers_receipt() -> None:
    place = await a_place()
    id = (await place.chat()).headers["x-kyma-request-id"]
    answer = await place.ask("GET", f"/v1/generations/{id}", secret=STRANGER)
    assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")
    answer = await place.ask("GET", f"/v1/generations/{id}", secret=None)
    assert answer.status == 401


@pytest.mark.parametrize("id", ["x", "0" * 31, "g" * 32, "chatcmpl-", "%00", "'", "é" * 32])
async def test_what_is_no_id_is_not_found(id: str) -> None:
    place = await a_place()
    assert (await place.ask("GET", f"/v1/generations/{id}")).status == 404


async def test_after_prices_changed_a_receipt_shows_those_of_its_time() -> None:
    place = await a_place()
    old = per_token("7", "70", "0.7")
    record = a_record(
        place.account.id, new_id(), requested_model="big", served_model="big", price_version="old"
    )
    for known in (False, True):
        if known:
            await place.prices.remember("old", {"big": old, "small": PRICE})
        else:
            await place.ledger.hold(record.id, place.account.id, usd("0.02"), 60)
            how = Resolution(record.id, Kind.SETTLE, old.bill(record.usage))
            await place.ledger.resolve(how, record)
        prices = (await receipt(place, record.id))["prices"]
        assert (prices["known"], prices["version"]) == (known, "old")
        assert ("input" in prices) is known
    assert (prices["input"], prices["output"]) == ("7", "70")


# The log.


async def page(place: on_memory.Place, query: str = "", **asked: Any) -> Any:
    answer = await place.ask("GET", f"/v1/logs{query}", **asked)
    assert answer.status == 200, answer.body
    found = answer.json()
    is_as_declared("Log", found)
    return found


async def test_the_log_is_read_page_by_page_newest_first() -> None:
    place = await a_place()
    ids = [(await place.chat()).headers["x-kyma-request-id"] for _ in range(5)]
    seen: list[str] = []
    query = "?limit=2"
    for expected in (2, 2, 1):
        found = await page(place, query)
        assert len(found["data"]) == expected
        seen += [line["id"] for line in found["data"]]
        query = f"?limit=2&cursor={found['next_cursor']}"
    assert seen == ids[::-1]
    assert (found["has_more"], found["next_cursor"]) == (False, None)


async def test_a_full_last_page_promises_no_more() -> None:
    place = await a_place()
    for _ in range(2):
        await place.chat()
    found = await page(place, "?limit=2")
    assert (len(found["data"]), found["has_more"]) == (2, False)


async def test_the_log_is_ones_own_and_holds_no_words() -> None:
    place = await a_place()
    await place.chat(messages=[{"role": "user", "content": "the secret word is swordfish"}])
    assert (await page(place, secret=STRANGER))["data"] == []
    answer = await place.ask("GET", "/v1/logs")
    assert b"swordfish" not in answer.body
    assert b"Hello" not in answer.body
    assert len(answer.json()["data"]) == 1
    assert (await place.ask("GET", "/v1/logs", secret=None)).status == 401


async def test_a_line_says_what_was_asked_what_it_took_and_what_it_cost() -> None:
    place = await a_place()
    await place.chat(stream=True)
    (line,) = (await page(place))["data"]
    assert (line["model"], line["provider"], line["streamed"]) == ("big", "first", True)
    assert line["settled"] == decimal_text(PRICE.bill(USAGE))
    assert (line["usage"]["prompt_tokens"], line["attempts"]) == (100, 1)


async def test_the_log_is_filtered() -> None:
    place = await a_place({"alone": [Fails(Fault.REFUSED)]})
    await place.chat()
    await place.chat("lonely")

    async def models(query: str) -> list[str]:
        return [line["model"] for line in (await page(place, query))["data"]]

    assert await models("?model=big") == ["big"]
    assert await models("?model=best") == ["big"]
    assert await models("?outcome=content_filter") == ["lonely"]
    assert await models("?endpoint=chat.completions&model=lonely") == ["lonely"]
    assert await models("?endpoint=/v1/chat/completions") == ["lonely", "big"]
    assert await models("?endpoint=messages") == []
    assert await models(f"?key_id={place.key.id}") == ["lonely", "big"]
    assert await models(f"?key_id={new_id()}") == []
    assert await models("?since=2100-01-01") == []
    assert await models("?until=2001-01-01T00:00:00Z") == []
    assert await models("?since=1&until=&unknown=1") == ["lonely", "big"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=%D9%A3", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=" + "A" * 31 + "%C3%A9", "cursor"),
        ("cursor=" + "_" * 32, "cursor"),
        ("since=yesterday", "since"),
        ("since=0001-01-01T00:00:00%2B14:00", "since"),
        ("until=99999999999999999999", "until"),
        ("until=9999-12-31", "until"),
        ("key_id=mine", "key_id"),
        ("model=a%00b", "model"),
        ("outcome=" + "x" * 201, "outcome"),
        ("endpoint=%0A", "endpoint"),
    ],
)
async def test_a_bad_query_is_refused_by_the_name_of_its_parameter(query: str, param: str) -> None:
    place = await a_place()
    answer = await place.ask("GET", f"/v1/logs?{query}")
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)


CATALOGUE = Catalogue(MODELS, {"best": "big"}, PROVIDERS)


@pytest.mark.parametrize(
    "text",
    ["2026-05-17T12:00:00Z", "2026-05-17T14:00:00+02:00", "2026-05-17T12:00:00", "1779019200"],
)
def test_a_moment_is_read_in_any_zone(text: str) -> None:
    assert from_query({"since": text}, CATALOGUE).wanted.since == NOON


def test_a_query_without_a_wish_asks_for_everything() -> None:
    asked = from_query({"model": "", "limit": str(MAX_LIMIT)}, CATALOGUE)
    assert (asked.wanted, asked.after, asked.limit) == (LogFilter(), None, MAX_LIMIT)


@pytest.mark.parametrize("micros", [0, 1, 1_779_019_200_123_456])
def test_a_cursor_is_read_as_the_place_that_wrote_it(micros: int) -> None:
    place = Place(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros), new_id())
    assert place_of(place.cursor()) == place


@pytest.mark.parametrize("cursor", ["", "A", "A" * 31, "A" * 33, "!" * 32, "é" * 32, "/" * 32])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(Refusal) as caught:
        place_of(cursor)
    assert (caught.value.code, caught.value.param) == (Code.INVALID_VALUE, "cursor")


def test_ids_are_read_with_and_without_dashes_and_prefixes() -> None:
    id = "01980f3f6c7a7b1e9a10c1d2e3f4a5b6"
    dashed = "01980f3f-6c7a-7b1e-9a10-c1d2e3f4a5b6"
    for name in (id, dashed, dashed.upper(), f"chatcmpl-{id}", f"msg_{id}"):
        assert request_id_of(name) == id
    assert request_id_of(id[:-1]) is None
    assert request_id_of(f"x{id}") is None


# Quotes.


async def quoted(place: on_memory.Place, body: dict[str, Any], **asked: Any) -> Any:
    answer = await place.ask("POST", "/v1/quote", body, **asked)
    assert answer.status == 200, answer.body
    found = answer.json()
    is_as_declared("Quote", found)
    return found


async def test_a_quote_is_what_the_request_then_holds_and_who_then_serves_it() -> None:
    place = await a_place()
    body = a_body(tools=[{"type": "function", "function": {"name": "f"}}], n=2)
    found = await quoted(place, body)
    answer = await place.ask("POST", "/v1/chat/completions", body)
    receipt_found = await receipt(place, answer.headers["x-kyma-request-id"])
    assert found["worst_case"] == receipt_found["held"]
    assert found["served_by"][0]["provider"] == receipt_found["provider"]
    assert [(one["provider"], one["fallback_layer"]) for one in found["served_by"]] == [
        ("first", 0), ("second", 1), ("third", 2), ("fourth", 3),
    ]  # fmt: skip
    assert found["sufficient"] is True
    assert found["limits"]["admitted"] is True
    assert Decimal(found["likely_cost"]) < Decimal(found["worst_case"])


async def test_a_quote_costs_holds_and_counts_nothing() -> None:
    place = await a_place()
    await quoted(place, a_body())
    assert await place.spent() == 0
    assert place.store.records == []
    assert set(place.store.entries) & set(place.store.open_holds) == set()
    quota = await place.limiter.peek(place.account.id)
    assert (quota.requests_used, quota.tokens_used) == (0, 0)
    assert place.upstream.asked == []


async def test_a_balance_too_small_says_what_would_fit_and_the_request_agrees() -> None:
    place = await a_place()
    body = a_body(n=40, max_tokens=4000)
    found = await quoted(place, body)
    assert (found["sufficient"], found["balance"]) == (False, decimal_text(CREDIT))
    refused = await place.ask("POST", "/v1/chat/completions", body)
    assert refused.status == 402
    error = refused.json()["error"]
    assert error["needed"] == found["worst_case"]
    assert error["max_tokens_that_fit"] == found["max_tokens_that_fit"] > 0
    fits = a_body(n=40, max_tokens=found["max_tokens_that_fit"])
    assert (await quoted(place, fits))["sufficient"] is True


@pytest.mark.parametrize("endpoint", ["chat.completions", "/v1/chat/completions"])
async def test_a_quote_is_for_the_endpoint_that_is_named(endpoint: str) -> None:
    place = await a_place()
    found = await quoted(place, a_body("best", endpoint=endpoint))
    assert (found["model"], found["alias"]) == ("big", "best")


@pytest.mark.parametrize("endpoint", ["carrier-pigeon", 1, [], {}, "", True])
async def test_a_quote_for_an_endpoint_that_is_none_is_refused(endpoint: Any) -> None:
    place = await a_place()
    answer = await place.ask("POST", "/v1/quote", a_body(endpoint=endpoint))
    assert (answer.status, answer.json()["error"]["param"]) == (400, "endpoint")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (a_body("no-such-model"), 404, "model"),
        ({"model": "big"}, 400, "messages"),
        ({"messages": []}, 400, "model"),
        (a_body(max_tokens=0), 400, "max_tokens"),
        (a_body(max_cost="free"), 400, "max_cost"),
        (
            a_body(tools=[{"type": "web_search_20250305", "name": "web_search"}]),
            400,
            "tools[0].type",
        ),
        (a_body("unserved"), 503, None),
    ],
)
async def test_a_quote_is_refused_as_the_request_would_be(
    body: dict[str, Any], status: int, param: str | None
) -> None:
    place = await a_place()
    quote = await place.ask("POST", "/v1/quote", body)
    real = await place.ask("POST", "/v1/chat/completions", body)
    assert (quote.status, real.status) == (status, status)
    assert quote.json()["error"]["code"] == real.json()["error"]["code"]
    assert quote.json()["error"]["param"] == real.json()["error"]["param"] == param


async def test_a_quote_says_whether_a_max_cost_would_let_it_through() -> None:
    place = await a_place()
    worst = (await quoted(place, a_body()))["worst_case"]
    assert (await quoted(place, a_body(max_cost=worst)))["within_max_cost"] is True
    less = decimal_text(usd(worst) - 1)
    assert (await quoted(place, a_body(max_cost=less)))["within_max_cost"] is False
    found = await quoted(place, a_body(max_cost=worst), X_Kyma_Max_Cost=less)
    assert found["within_max_cost"] is False
    assert (await quoted(place, a_body()))["within_max_cost"] is None
    refused = await place.chat(max_cost=less)
    assert (refused.status, refused.json()["error"]["code"]) == (400, "max_cost_exceeded")
    assert refused.json()["error"]["worst_case"] == worst
    assert (await place.chat(max_cost=worst)).status == 200


async def test_a_quote_obeys_the_headers_of_the_request() -> None:
    place = await a_place()
    found = await quoted(place, a_body(), X_Kyma_Max_Fallback_Layer="1")
    assert [one["fallback_layer"] for one in found["served_by"]] == [0, 1]
    answer = await place.ask("POST", "/v1/quote", a_body(), X_Kyma_Max_Fallback_Layer="9")
    assert (answer.status, answer.json()["error"]["param"]) == (400, "X-Kyma-Max-Fallback-Layer")


# Idempotent repetitions of a chat.

REPLAY = "x-kyma-idempotent-replay"
streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@streamed
async def test_a_repeated_chat_gets_the_first_ones_receipt_and_is_charged_once(
    stream: bool,
) -> None:
    place = await a_place()
    first = await place.chat(stream=stream, Idempotency_Key="order-17")
    assert (first.status, REPLAY in first.headers) == (200, False)
    again = await place.chat(stream=stream, Idempotency_Key="order-17")
    assert (again.status, again.headers[REPLAY]) == (200, "true")
    assert again.headers["x-kyma-request-id"] == first.headers["x-kyma-request-id"]
    found = again.json()
    whole = await receipt(place, first.headers["x-kyma-request-id"])
    told = {**found, "status": found["generation_status"]}
    del told["generation_status"]
    assert found["status"] == "already_completed"
    assert told == whole
    assert len(place.upstream.asked) == 1
    assert await place.spent() == PRICE.bill(USAGE)


@streamed
async def test_with_consent_a_repeated_chat_gets_the_very_bytes(stream: bool) -> None:
    place = await a_place()
    await place.ask("PATCH", f"/v1/auth/keys/{place.key.id}", {"replay_minutes": 10})
    first = await place.chat(stream=stream, Idempotency_Key="order-17")
    again = await place.chat(stream=stream, Idempotency_Key="order-17")
    assert again.body == first.body
    assert again.headers["content-type"] == first.headers["content-type"]
    assert (again.status, again.headers[REPLAY]) == (200, "true")
    assert len(place.upstream.asked) == 1
    place.pass_time(601)
    late = await place.chat(stream=stream, Idempotency_Key="order-17")
    assert late.json()["object"] == "generation.receipt"
    assert await place.spent() == PRICE.bill(USAGE)


async def test_what_is_kept_of_an_answer_cannot_be_read_without_the_key() -> None:
    place = await a_place()
    await place.ask("PATCH", f"/v1/auth/keys/{place.key.id}", {"replay_minutes": 10})
    await place.chat(Idempotency_Key="order-17")
    assert place.claims.kept() == 1
    stored = repr(place.claims.__dict__)
    assert "Hello" not in stored
    assert "order-17" not in stored
    assert SECRET not in stored


async def test_another_body_under_the_same_key_is_a_conflict() -> None:
    place = await a_place()
    await place.chat(Idempotency_Key="order-17")
    other = await place.chat(max_tokens=101, Idempotency_Key="order-17")
    assert (other.status, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert len(place.upstream.asked) == 1


@streamed
async def test_a_chat_that_failed_may_be_sent_again_under_its_key(stream: bool) -> None:
    place = await a_place({"alone": [Fails(Fault.BROKEN), Fails(Fault.BROKEN), Says()]})
    first = await place.chat("lonely", stream=stream, Idempotency_Key="order-17")
    assert first.status == 502
    again = await place.chat("lonely", stream=stream, Idempotency_Key="order-17")
    assert (again.status, REPLAY in again.headers) == (200, False)
    assert await place.spent() == PRICE.bill(USAGE)


KEY = {"Idempotency_Key": "order-17"}
TOO_DEAR = {"max_tokens": 4_000, "n": 40}


@pytest.mark.parametrize(
    ("model", "fields", "used", "status"),
    [
        ("big", TOO_DEAR, 0, 402),
        ("big", {}, 30, 429),
        ("unserved", {}, 0, 503),
        ("lonely", {}, 0, 502),
        ("lonely", {"stream": True}, 0, 502),
    ],
    ids=["402", "429", "no route", "failed", "failed stream"],
)
async def test_whoever_hears_a_refusal_may_use_the_key_at_once(
    model: str, fields: dict[str, Any], used: int, status: int
) -> None:
    """The same body, or a corrected one, sent while the server still ends the first request."""
    place = await a_place({"alone": [Fails(Fault.BROKEN)]})
    for _ in range(used):
        await place.chat()
    body = a_body(model, **fields)
    heard: list[int] = []

    async def again() -> None:
        same = await place.ask("POST", "/v1/chat/completions", body, **KEY)
        heard.append(same.status)
        other = await place.chat(model, max_tokens=7, **KEY)
        heard.append(other.status)

    first = await place.ask("POST", "/v1/chat/completions", body, at_once=again, **KEY)
    assert first.status == status
    assert heard == [status, 200 if status == 402 else status]


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_what_only_a_slow_writer_can_write_is_passed_on_and_charged(path: str) -> None:
    place = await a_place({"first": [Says(more={"created": 10**30, "deep": nested(300)})]})
    body = {"model": "big", "input": "hi"} if path == "/v1/responses" else a_body()
    answer = await place.ask("POST", path, body)
    assert answer.status == 200
    assert await place.spent() == PRICE.bill(USAGE)
    if path == "/v1/chat/completions":
        assert b'"created":1' + b"0" * 30 in answer.body


async def test_an_answer_that_is_nested_without_end_is_none_and_costs_nothing() -> None:
    place = await a_place({"alone": [Says(more={"deep": nested(2_000)})]})
    answer = await place.chat("lonely")
    assert (answer.status, answer.json()["error"]["code"]) == (502, "provider_error")
    assert answer.json()["error"]["charged"] is False
    assert await place.spent() == 0
    (record,) = place.store.records
    assert {attempt.outcome for attempt in record.attempts} == {"broken"}


async def test_a_bad_idempotency_key_is_refused() -> None:
    place = await a_place()
    answer = await place.chat(Idempotency_Key="two words")
    assert (answer.status, answer.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert place.upstream.asked == []


async def test_a_key_without_consent_keeps_nothing() -> None:
    place = await a_place()
    await place.chat(Idempotency_Key="order-17")
    assert place.claims.kept() == 0
    assert replace(place.key, replay_minutes=0) == place.key


# The page that tells customers of all this.

PAGE = (ROOT / "docs" / "receipts.md").read_text()


def test_every_row_of_the_page_is_a_test() -> None:
    named = re.findall(r"`(test_\w+)`", PAGE)
    files = [ROOT / "tests" / name for name in ("http", "flows", "contracts")]
    source = "".join(path.read_text() for folder in files for path in folder.glob("test_*.py"))
    assert len(named) == 22
    assert [name for name in named if f"def {name}(" not in source] == []


def test_the_receipt_on_the_page_is_one_and_adds_up() -> None:
    (found,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    shown = orjson.loads(found)
    is_as_declared("Receipt", shown)
    prices, used = shown["prices"], shown["usage"]
    buckets = ("input", "cache_read", "cache_write", "output", "reasoning")
    exact = sum(Decimal(prices[name]) * used[f"{name}_tokens"] for name in buckets) / 1_000_000
    assert Decimal(shown["settled"]) == Decimal(prices["bill"]) == exact
    assert Decimal(shown["held"]) == Decimal(shown["settled"]) + Decimal(shown["refunded"])
