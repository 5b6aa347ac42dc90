"""Links by mail: what each does once, and that answers tell nothing about an address."""

from __future__ import annotations

import time

import pytest

from kyma.errors import Code
from kyma.flows.access import SIGN_UP_CREDIT
from kyma.flows.links import EQUAL_S
from kyma.identity import LINK_S, LinkKind
from kyma.keys import Scope
from kyma.mail import Letter
from kyma.money import ZERO
from kyma.throttles import LIMITS, Guarded
from tests.flows.ways import HERE, Hall, refusal_of


@pytest.fixture
def hall() -> Hall:
    return Hall()


async def a_reset(hall: Hall, email: str = "ana@example.com") -> str:
    await hall.links.forgot(email)
    path, token = hall.mailed(Letter.RESET)
    assert path == "/reset"
    return token


async def test_a_forgotten_password_is_replaced_by_a_link_that_works_once(hall: Hall) -> None:
    ana = await hall.customer()
    token = await a_reset(hall, " ANA@example.com ")
    assert token not in repr(hall.ways)
    await hall.links.reset(token, "secret-2")
    assert (await hall.access.login("ana@example.com", "secret-2")).account.id == ana.account.id
    old = await refusal_of(hall.access.login("ana@example.com", "secret-1"))
    assert old.code is Code.WRONG_CREDENTIALS
    assert (await refusal_of(hall.links.reset(token, "secret-3"))).code is Code.INVALID_LINK


async def test_a_reset_ends_every_session_and_leaves_keys(hall: Hall) -> None:
    ana = await hall.customer()
    other = await hall.access.login("ana@example.com", "secret-1")
    await hall.links.reset(await a_reset(hall), "secret-2")
    for token in (ana.session_token, other.session_token):
        assert (await refusal_of(hall.access.identify(token))).code is Code.INVALID_KEY
    assert hall.invalidations.forgotten == [ana.account.id]
    assert ana.api_key is not None
    assert (await hall.access.identify(ana.api_key, Scope.INFERENCE)).email == "ana@example.com"


async def test_a_reset_takes_keys_along_when_asked(hall: Hall) -> None:
    ana = await hall.customer()
    await hall.links.reset(await a_reset(hall), "secret-2", revoke_keys=True)
    assert (await refusal_of(hall.access.identify(ana.api_key))).code is Code.INVALID_KEY


async def test_a_password_that_cannot_be_does_not_use_the_link_up(hall: Hall) -> None:
    await hall.customer()
    token = await a_reset(hall)
    assert (await refusal_of(hall.links.reset(token, "short"))).code is Code.INVALID_VALUE
    await hall.links.reset(token, "secret-2")


async def test_a_link_is_over_after_its_time_and_good_for_its_kind_alone(hall: Hall) -> None:
    await hall.customer()
    token = await a_reset(hall)
    assert (await refusal_of(hall.links.verify(token))).code is Code.INVALID_LINK
    assert (await refusal_of(hall.links.open_account(token, "secret-2"))).code is Code.INVALID_LINK
    hall.clock.move(LINK_S[LinkKind.RESET] + 1)
    assert (await refusal_of(hall.links.find(token, LinkKind.RESET))).code is Code.INVALID_LINK
    assert (await refusal_of(hall.links.reset(token, "secret-2"))).code is Code.INVALID_LINK


async def test_asking_takes_as_long_for_an_address_without_an_account(hall: Hall) -> None:
    await hall.customer()
    took = {}
    for email in ("ana@example.com", "nobody@example.com"):
        begun = time.monotonic()
        await hall.links.forgot(email)
        took[email] = time.monotonic() - begun
    assert hall.letters(Letter.RESET) == ["ana@example.com"]
    assert all(seconds >= EQUAL_S for seconds in took.values())


async def test_only_so_many_letters_go_to_an_address_whether_there_is_an_account(
    hall: Hall,
) -> None:
    await hall.customer()
    for email in ("ana@example.com", "nobody@example.com"):
        for _ in range(LIMITS[Guarded.MAIL].per_subject):
            await hall.links.forgot(email, HERE)
        assert (await refusal_of(hall.links.forgot(email, HERE))).code is Code.TOO_MANY_ATTEMPTS


async def test_somebody_new_gets_an_account_by_mail_with_credit_and_a_key(hall: Hall) -> None:
    await hall.links.sign_up("new@example.com")
    path, token = hall.mailed(Letter.VERIFY)
    assert path == "/signup/finish"
    welcome = await hall.links.open_account(token, "secret-1")
    assert (await hall.access.identify(welcome.session_token)).email == "new@example.com"
    assert (await hall.ledger.balance(welcome.account.id)).available == SIGN_UP_CREDIT
    assert await hall.links.is_proven(welcome.account.id)
    assert hall.letters(Letter.WELCOME) == ["new@example.com"]
    again = await refusal_of(hall.links.open_account(token, "secret-1"))
    assert again.code is Code.INVALID_LINK
    assert len(hall.store.accounts) == 1


async def test_somebody_known_who_signs_up_again_gets_the_way_back_in(hall: Hall) -> None:
    await hall.customer()
    await hall.links.sign_up("ana@example.com")
    assert hall.letters(Letter.VERIFY) == []
    assert hall.letters(Letter.RESET) == ["ana@example.com"]


async def test_an_account_proves_its_address_once(hall: Hall) -> None:
    ana = await hall.customer()
    assert await hall.links.ask_proof(ana.account.id, "ana@example.com")
    path, token = hall.mailed(Letter.VERIFY)
    assert path == "/verify"
    assert await hall.links.verify(token) == "ana@example.com"
    assert await hall.links.is_proven(ana.account.id)
    assert not await hall.links.ask_proof(ana.account.id, "ana@example.com")
    assert (await refusal_of(hall.links.verify(token))).code is Code.INVALID_LINK
    assert (await hall.ledger.balance(ana.account.id)).available == SIGN_UP_CREDIT


async def test_where_addresses_are_confirmed_first_the_credit_comes_with_the_proof() -> None:
    hall = Hall(confirms=True)
    ana = await hall.customer()
    assert (await hall.ledger.balance(ana.account.id)).available == ZERO
    assert await hall.links.greet(ana)
    await hall.links.verify(hall.mailed(Letter.VERIFY)[1])
    assert (await hall.ledger.balance(ana.account.id)).available == SIGN_UP_CREDIT
    assert (await hall.access.login("ana@example.com", "secret-1")).account.id == ana.account.id


async def test_who_registers_with_anothers_address_gets_a_letter_sent_to_that_other() -> None:
    hall = Hall(confirms=True)
    ana = await hall.customer()
    await hall.links.greet(ana)
    await hall.links.verify(hall.mailed(Letter.VERIFY)[1])
    stranger = await hall.customer()
    assert stranger.is_taken
    await hall.links.greet(stranger)
    assert hall.letters(Letter.RESET) == ["ana@example.com"]
    assert len(hall.letters(Letter.VERIFY)) == 1
    await hall.links.reset(hall.mailed(Letter.RESET)[1], "secret-2")
    assert (await hall.access.login("ana@example.com", "secret-2")).account.id == ana.account.id
