"""Referrals and requests for higher limits over HTTP, on the gateway as it is wired."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from tests.http.on_memory import STRANGER, Place, a_place

WISH = {"company": "Example GmbH", "use": "support tickets", "expected_load": "250 a minute"}


@pytest_asyncio.fixture
async def place() -> Place:
    return await a_place()


async def code_of(place: Place) -> str:
    return str((await place.ask("GET", "/v1/referrals")).json()["code"])


async def register(place: Place, email: str, **more: Any) -> Any:
    body = {"email": email, "password": "correct horse", **more}
    return await place.ask("POST", "/v1/auth/register", body, secret=None)


async def test_a_request_is_opened_and_listed_with_its_state(place: Place) -> None:
    opened = await place.ask("POST", "/v1/limits/requests", WISH)
    assert opened.status == 201
    body = opened.json()
    assert {name: body[name] for name in WISH} == WISH
    assert (body["state"], body["tier"], body["answered_at"]) == ("open", None, None)
    listed = (await place.ask("GET", "/v1/limits/requests")).json()
    assert listed == {"object": "list", "data": [body]}


async def test_others_do_not_see_it(place: Place) -> None:
    await place.ask("POST", "/v1/limits/requests", WISH)
    answer = await place.ask("GET", "/v1/limits/requests", secret=STRANGER)
    assert answer.json()["data"] == []


async def test_one_request_is_open_at_a_time(place: Place) -> None:
    assert (await place.ask("POST", "/v1/limits/requests", WISH)).status == 201
    again = await place.ask("POST", "/v1/limits/requests", WISH)
    assert (again.status, again.json()["error"]["code"]) == (409, "request_already_open")
    other = await place.ask("POST", "/v1/limits/requests", WISH, secret=STRANGER)
    assert other.status == 201


@pytest.mark.parametrize("field", sorted(WISH))
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "missing_required_parameter"),
        (7, "invalid_type"),
        ("", "invalid_value"),
        ("  \n ", "invalid_value"),
        ("x" * 3000, "invalid_value"),
        ("a\x00b", "invalid_value"),
    ],
)
async def test_a_field_that_says_nothing_is_refused_by_name(
    place: Place, field: str, value: Any, code: str
) -> None:
    answer = await place.ask("POST", "/v1/limits/requests", {**WISH, field: value})
    assert answer.status == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, field)


async def test_a_code_stays_and_stands_in_the_link(place: Place) -> None:
    first = (await place.ask("GET", "/v1/referrals")).json()
    assert first == (await place.ask("GET", "/v1/referrals")).json()
    assert first["link"].endswith(f"?ref={first['code']}")
    assert (first["pending"], first["verified"], first["earned"], first["data"]) == (0, 0, "0", [])
    assert (first["reward"], first["tokens_to_verify"]) == ("0.5", 1_000_000)
    assert (
        first["code"] != (await place.ask("GET", "/v1/referrals", secret=STRANGER)).json()["code"]
    )


async def test_who_registers_with_a_code_is_a_pending_referral_without_a_name(
    place: Place,
) -> None:
    welcome = await register(place, "grace@example.com", referral_code=await code_of(place))
    assert (welcome.status, welcome.json()["referred"]) == (200, True)
    found = await place.ask("GET", "/v1/referrals")
    body = found.json()
    assert (body["pending"], body["verified"], body["earned"]) == (1, 0, "0")
    assert [referral["state"] for referral in body["data"]] == ["pending"]
    assert b"grace" not in found.body
    assert welcome.json()["user_id"].encode() not in found.body


@pytest.mark.parametrize("code", ["ffffffffff", "nonsense", "", " ", "x" * 5000, None])
async def test_a_code_that_nobody_has_spoils_no_registration(place: Place, code: Any) -> None:
    welcome = await register(place, "grace@example.com", referral_code=code)
    assert (welcome.status, welcome.json()["referred"]) == (200, False)


async def test_a_code_is_read_however_it_is_written(place: Place) -> None:
    code = f" {(await code_of(place)).upper()} "
    assert (await register(place, "grace@example.com", referral_code=code)).json()["referred"]


async def test_a_tag_on_the_own_address_refers_nobody(place: Place) -> None:
    name, _, domain = place.account.email.partition("@")
    code = await code_of(place)
    welcome = await register(place, f"{name}+again@{domain}", referral_code=code)
    assert (welcome.status, welcome.json()["referred"]) == (200, True), "as it tells any stranger"
    assert (await place.ask("GET", "/v1/referrals")).json()["pending"] == 0


async def test_a_code_that_is_no_text_is_refused_before_anything_is_made(place: Place) -> None:
    refused = await register(place, "grace@example.com", referral_code=7)
    assert (refused.status, refused.json()["error"]["param"]) == (400, "referral_code")
    assert (await register(place, "grace@example.com")).status == 200
