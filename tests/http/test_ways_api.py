"""The calls of programs: device codes, code exchange, passwords and proofs, as they answer."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from adapters.http.schemas import SCHEMAS
from adapters.memory.mail import MemoryMails
from kyma.identity import challenge_of
from kyma.mail import LINK_OF, Letter
from tests.http.on_memory import Place, a_place
from tests.http.wired import Answer

CLIENTS = {"app": {"name": "An app", "redirect_uris": ["https://app.example/cb"]}}
VERIFIER = "v" * 64
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest_asyncio.fixture
async def place() -> Place:
    return await a_place(oauth_clients=CLIENTS, public_url="https://kyma.example")


def fits(name: str, body: Any) -> bool:
    schema = {**SCHEMAS[name], "components": {"schemas": SCHEMAS}}
    return bool(Draft202012Validator(schema).is_valid(body))


async def told(place: Place, path: str, body: Any = None, **headers: str) -> Answer:
    return await place.ask("POST", path, body, secret=None, **headers)


def token_for(place: Place, letter: Letter) -> str:
    mails = place.container.mails()
    assert isinstance(mails, MemoryMails)
    row = [row for row in mails.rows.values() if row.letter is letter][-1]
    url = row.facts[LINK_OF[letter]]
    assert url.startswith("https://kyma.example/")
    return parse_qs(urlsplit(url).query)["token"][0]


@pytest.mark.parametrize("body", [None, {}, {"client_name": None}, {"client_name": "ter"}])
async def test_a_device_code_is_given_for_any_body_that_clients_send(
    place: Place, body: Any
) -> None:
    answer = await told(place, "/v1/auth/device/code", body)
    assert answer.status == 200
    found = answer.json()
    assert fits("DeviceCode", found)
    assert found["verification_url"] == "https://kyma.example/device"
    assert (found["interval"], found["expires_in"]) == (5, 900)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        ([], "invalid_type"),
        ({}, "missing_required_parameter"),
        ({"device_code": 7}, "invalid_type"),
        ({"device_code": "\x00"}, "invalid_value"),
    ],
)
async def test_a_poll_that_cannot_be_read_is_refused_in_oauths_words(
    place: Place, body: Any, code: str
) -> None:
    answer = await told(place, "/v1/auth/device/token", body)
    assert answer.status == 400
    assert fits("OAuthError", answer.json())
    assert (answer.json()["error"], answer.json()["code"]) == ("invalid_request", code)


async def test_a_device_is_told_to_wait_and_how_long(place: Place) -> None:
    code = (await told(place, "/v1/auth/device/code", {})).json()["device_code"]
    first = await told(place, "/v1/auth/device/token", {"device_code": code})
    second = await told(place, "/v1/auth/device/token", {"device_code": code})
    assert [first.status, second.status] == [428, 428]
    assert [first.json()["error"], second.json()["error"]] == ["authorization_pending", "slow_down"]
    assert (second.json()["interval"], second.headers["retry-after"]) == (10, "10")
    assert first.json()["retryable"] is True
    assert first.json()["request_id"] == first.headers["x-kyma-request-id"]
    unknown = await told(place, "/v1/auth/device/token", {"device_code": "kd-nobody"})
    assert (unknown.status, unknown.json()["error"]) == (400, "expired_token")


async def test_a_device_gets_its_key_under_both_names_that_clients_read(place: Place) -> None:
    begun = (await told(place, "/v1/auth/device/code", {"client_name": "ter"})).json()
    await place.container.devices().decide(begun["user_code"], await place.person(), approved=True)
    body = {"device_code": begun["device_code"]}
    answer = await told(place, "/v1/auth/device/token", body)
    assert answer.status == 200
    found = answer.json()
    assert fits("GivenKey", found)
    assert found["access_token"] == found["api_key"]
    assert (found["user_id"], found["email"]) == (place.account.id, place.account.email)
    assert found["balance"] == 0.5
    assert answer.headers["cache-control"] == "no-store"
    used = await told(place, "/v1/auth/device/token", body)
    assert (used.status, used.json()["error"]) == (400, "expired_token")


async def test_a_key_of_a_device_spends_and_reads_and_does_no_more(place: Place) -> None:
    begun = (await told(place, "/v1/auth/device/code", {})).json()
    await place.container.devices().decide(begun["user_code"], await place.person(), approved=True)
    body = {"device_code": begun["device_code"]}
    key = (await told(place, "/v1/auth/device/token", body)).json()["api_key"]
    assert (await place.ask("GET", "/v1/credits/balance", secret=key)).status == 200
    made = await place.ask("POST", "/v1/auth/keys", {"name": "x"}, secret=key)
    assert (made.status, made.json()["error"]["code"]) == (403, "insufficient_scope")


async def exchanged(place: Place, pairs: list[tuple[str, str]], **headers: str) -> Answer:
    return await told(place, "/v1/auth/token", urlencode(pairs).encode(), **(headers or FORM))


async def test_a_code_is_exchanged_once(place: Place) -> None:
    authorize = place.container.authorize()
    asked = {
        "client_id": "app", "redirect_uri": "https://app.example/cb", "response_type": "code",
        "code_challenge": challenge_of(VERIFIER), "code_challenge_method": "S256", "state": "s",
    }  # fmt: skip
    address = await authorize.allow(authorize.checked(asked), await place.person())
    code = parse_qs(urlsplit(address).query)["code"][0]
    pairs = [
        ("grant_type", "authorization_code"), ("code", code), ("code_verifier", VERIFIER),
        ("client_id", "app"), ("redirect_uri", "https://app.example/cb"),
    ]  # fmt: skip
    answer = await exchanged(place, pairs)
    assert answer.status == 200
    assert fits("GivenKey", answer.json())
    assert answer.headers["cache-control"] == "no-store"
    again = await exchanged(place, pairs)
    assert (again.status, again.json()["error"]) == (400, "invalid_grant")
    assert place.principals.forgotten == [place.account.id]


@pytest.mark.parametrize(
    ("pairs", "error"),
    [
        ([], "unsupported_grant_type"),
        ([("grant_type", "client_credentials")], "unsupported_grant_type"),
        ([("grant_type", "authorization_code")], "invalid_request"),
        ([("grant_type", "authorization_code")] * 2, "invalid_request"),
        ([("grant_type", "authorization_code"), ("client_id", "x")], "invalid_client"),
        ([("x", "y")] * 100, "invalid_request"),
    ],
)
async def test_an_exchange_that_cannot_be_is_refused_in_oauths_words(
    place: Place, pairs: list[tuple[str, str]], error: str
) -> None:
    answer = await exchanged(place, pairs)
    assert answer.status == 400
    assert fits("OAuthError", answer.json())
    assert answer.json()["error"] == error


async def test_an_exchange_comes_as_a_form(place: Place) -> None:
    pairs = [("grant_type", "authorization_code")]
    answer = await exchanged(place, pairs, **{"content-type": "application/json"})
    assert (answer.status, answer.json()["error"]) == (400, "invalid_request")
    latin = await told(place, "/v1/auth/token", b"code=\xff", **FORM)
    assert (latin.status, latin.json()["error"]) == (400, "invalid_request")


async def registered(place: Place, email: str = "ana@example.com") -> dict[str, Any]:
    body = {"email": email, "password": "secret-1"}
    answer = await told(place, "/v1/auth/register", body)
    assert answer.status == 200
    found: dict[str, Any] = answer.json()
    return found


async def test_a_registration_is_followed_by_a_link_that_proves_the_address(place: Place) -> None:
    ana = await registered(place)
    proof = {"token": token_for(place, Letter.VERIFY), "password": "secret-1"}
    squatted = await told(place, "/v1/auth/verify/confirm", {**proof, "password": "not mine"})
    assert (squatted.status, squatted.json()["error"]["code"]) == (401, "wrong_credentials")
    assert (await told(place, "/v1/auth/verify/confirm", {"token": proof["token"]})).status == 400
    done = await told(place, "/v1/auth/verify/confirm", proof)
    assert done.json() == {"email": "ana@example.com", "verified": True}
    asked = await place.ask("POST", "/v1/auth/verify", secret=ana["session_token"])
    assert asked.json() == {"email": "ana@example.com", "verified": True}
    again = await told(place, "/v1/auth/verify/confirm", proof)
    assert (again.status, again.json()["error"]["code"]) == (400, "invalid_link")


async def test_a_proof_may_be_asked_for_again_but_not_for_ever(place: Place) -> None:
    ana = await registered(place)
    answers = [await place.ask("POST", "/v1/auth/verify", secret=ana["api_key"]) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[0].json() == {"email": "ana@example.com", "verified": False}
    assert int(answers[2].headers["retry-after"]) > 60
    proof = {"token": token_for(place, Letter.VERIFY), "password": "secret-1"}
    assert (await told(place, "/v1/auth/verify/confirm", proof)).status == 200


async def test_a_password_is_reset_by_the_token_that_was_mailed(place: Place) -> None:
    ana = await registered(place)
    known = await told(place, "/v1/auth/password/forgot", {"email": "ana@example.com"})
    unknown = await told(place, "/v1/auth/password/forgot", {"email": "eve@example.com"})
    assert (known.status, known.body) == (unknown.status, unknown.body) == (200, known.body)
    body = {"token": token_for(place, Letter.RESET), "password": "secret-2"}
    done = await told(place, "/v1/auth/password/reset", body)
    assert done.json() == {"user_id": ana["user_id"], "email": "ana@example.com"}
    # The address was never confirmed: somebody else may have made that key.
    for secret, status in ((ana["session_token"], 401), (ana["api_key"], 401)):
        assert (await place.ask("GET", "/v1/auth/me", secret=secret)).status == status
    again = await told(place, "/v1/auth/password/reset", body)
    assert (again.status, again.json()["error"]["code"]) == (400, "invalid_link")
    login = {"email": "ana@example.com", "password": "secret-2"}
    assert (await told(place, "/v1/auth/login", login)).status == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"password": "secret-2"}, "missing_required_parameter"),
        ({"token": "kl-x", "password": "short"}, "invalid_value"),
        ({"token": "kl-x", "password": "secret-2", "revoke_keys": "yes"}, "invalid_type"),
        ({"token": "kl-x", "password": "secret-2"}, "invalid_link"),
    ],
)
async def test_a_reset_that_cannot_be_says_why(
    place: Place, body: dict[str, Any], code: str
) -> None:
    answer = await told(place, "/v1/auth/password/reset", body)
    assert (answer.status, answer.json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize(("mail", "statuses"), [("", [200, 409]), ("mail.example", [200, 200])])
async def test_registering_tells_of_a_taken_address_only_where_nobody_could_be_told_by_mail(
    mail: str, statuses: list[int]
) -> None:
    place = await a_place(smtp_host=mail)
    body = {"email": "new@example.com", "password": "secret-1"}
    answers = [await told(place, "/v1/auth/register", body) for _ in range(2)]
    assert [answer.status for answer in answers] == statuses
