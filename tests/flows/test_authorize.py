"""OAuth authorization codes: who is told what, and that a code is good for one key."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from kyma.errors import Code
from kyma.flows.access import SIGN_UP_CREDIT, Welcome
from kyma.flows.authorize import Misasked
from kyma.identity import challenge_of
from kyma.keys import Scope
from tests.flows.ways import Hall, refusal_of

VERIFIER = "v" * 64
CALLBACK = "https://app.example/cb"
ASKED = {
    "client_id": "app",
    "redirect_uri": CALLBACK,
    "response_type": "code",
    "code_challenge": challenge_of(VERIFIER),
    "code_challenge_method": "S256",
    "state": "s-1",
    "scope": "openid email",
}
TOLD = {
    "grant_type": "authorization_code",
    "client_id": "app",
    "redirect_uri": CALLBACK,
    "code_verifier": VERIFIER,
}


@pytest.fixture
def hall() -> Hall:
    return Hall()


async def a_code(hall: Hall, owner: Welcome) -> str:
    person = await hall.person(owner)
    address = await hall.authorize.allow(hall.authorize.checked(ASKED), person)
    query = parse_qs(urlsplit(address).query)
    assert address.startswith(f"{CALLBACK}?")
    assert query["state"] == ["s-1"]
    return query["code"][0]


async def test_an_application_gets_a_key_for_its_code(hall: Hall) -> None:
    ana = await hall.customer()
    code = await a_code(hall, ana)
    assert code not in repr(hall.ways)
    given = await hall.authorize.exchange({**TOLD, "code": code})
    assert (given.account_id, given.email) == (ana.account.id, "ana@example.com")
    assert given.available == SIGN_UP_CREDIT
    assert (await hall.access.identify(given.api_key, Scope.INFERENCE)).account_id == (
        ana.account.id
    )
    assert {key.name for key in await hall.accounts.keys(ana.account.id)} == {"default", "An app"}


async def test_a_code_used_twice_loses_the_key_it_gave_and_everybody_is_told(hall: Hall) -> None:
    ana = await hall.customer()
    code = await a_code(hall, ana)
    given = await hall.authorize.exchange({**TOLD, "code": code})
    again = await refusal_of(hall.authorize.exchange({**TOLD, "code": code}))
    assert again.code is Code.INVALID_GRANT
    lost = await refusal_of(hall.access.identify(given.api_key, Scope.INFERENCE))
    assert lost.code is Code.INVALID_KEY
    assert hall.invalidations.forgotten == [ana.account.id]


@pytest.mark.parametrize(
    "changed",
    [
        {"code_verifier": "w" * 64},
        {"code_verifier": "short"},
        {"redirect_uri": "http://127.0.0.1/cb"},
    ],
)
async def test_a_code_is_bound_to_who_asked_for_it(hall: Hall, changed: dict[str, str]) -> None:
    ana = await hall.customer()
    code = await a_code(hall, ana)
    wrong = await refusal_of(hall.authorize.exchange({**TOLD, "code": code, **changed}))
    assert wrong.code is Code.INVALID_GRANT
    assert (await refusal_of(hall.authorize.exchange({**TOLD, "code": code}))).code is (
        Code.INVALID_GRANT
    )
    assert len(await hall.accounts.keys(ana.account.id)) == 1


async def test_a_code_is_over_after_a_minute(hall: Hall) -> None:
    ana = await hall.customer()
    code = await a_code(hall, ana)
    hall.clock.move(61)
    assert (await refusal_of(hall.authorize.exchange({**TOLD, "code": code}))).code is (
        Code.INVALID_GRANT
    )


async def test_an_application_gets_no_key_once_its_person_signed_out_everywhere(
    hall: Hall,
) -> None:
    ana = await hall.customer()
    person, code = await hall.person(ana), await a_code(hall, ana)
    assert await hall.sessions.end_all(person) == 1
    assert (await refusal_of(hall.authorize.exchange({**TOLD, "code": code}))).code is (
        Code.INVALID_GRANT
    )
    # Another process may take them for signed in for a moment yet.
    late = await refusal_of(hall.authorize.allow(hall.authorize.checked(ASKED), person))
    assert late.code is Code.FORBIDDEN
    assert [key.name for key in await hall.accounts.keys(person.account_id)] == ["default"]


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({}, Code.UNSUPPORTED_GRANT_TYPE),
        ({**TOLD, "grant_type": "password"}, Code.UNSUPPORTED_GRANT_TYPE),
        ({**TOLD, "client_id": "other", "code": "x"}, Code.INVALID_CLIENT),
        (TOLD, Code.MISSING_FIELD),
        ({**TOLD, "code": "x", "code_verifier": ""}, Code.MISSING_FIELD),
        ({**TOLD, "code": "x"}, Code.INVALID_GRANT),
    ],
)
async def test_an_exchange_that_cannot_be_says_why(
    hall: Hall, told: dict[str, str], code: Code
) -> None:
    assert (await refusal_of(hall.authorize.exchange(told))).code is code


@pytest.mark.parametrize(
    "changed",
    [
        {"client_id": "unknown"},
        {"client_id": ""},
        {"redirect_uri": "https://evil.example/cb"},
        {"redirect_uri": ""},
        {"redirect_uri": f"{CALLBACK}/more"},
    ],
)
async def test_nobody_is_redirected_to_where_no_application_is_registered(
    hall: Hall, changed: dict[str, str]
) -> None:
    async def check() -> None:
        hall.authorize.checked({**ASKED, **changed})

    assert (await refusal_of(check())).code is Code.INVALID_CLIENT


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"state": ""}, "invalid_request"),
        ({"state": "x" * 1025}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
    ],
)
def test_every_other_mistake_is_told_to_the_application(
    hall: Hall, changed: dict[str, str], error: str
) -> None:
    with pytest.raises(Misasked) as caught:
        hall.authorize.checked({**ASKED, **changed})
    address = caught.value.address
    assert address.startswith(f"{CALLBACK}?")
    assert parse_qs(urlsplit(address).query)["error"] == [error]


def test_a_no_is_told_with_the_state(hall: Hall) -> None:
    address = hall.authorize.deny(hall.authorize.checked(ASKED))
    assert address == f"{CALLBACK}?error=access_denied&state=s-1"


def test_a_program_on_this_machine_may_listen_on_any_port(hall: Hall) -> None:
    wish = hall.authorize.checked({**ASKED, "redirect_uri": "http://127.0.0.1:49152/cb"})
    assert hall.authorize.deny(wish).startswith("http://127.0.0.1:49152/cb?")
