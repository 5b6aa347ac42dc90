"""Links by mail: what each does once, and that answers tell nothing about an address."""

from __future__ import annotations

import time

import pytest

from adapters.memory.runtime import MemoryPasswords
from kyma.errors import Code
from kyma.flows.access import SIGN_UP_CREDIT
from kyma.flows.links import EQUAL_S
from kyma.identity import LINK_S, LinkKind
from kyma.keys import Scope
from kyma.mail import Letter
from kyma.money import ZERO
from kyma.throttles import LIMITS, Guarded
from tests.flows.dying import Life, Mortal
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
    await hall.prove(ana)
    other = await hall.access.login("ana@example.com", "secret-1")
    await hall.links.reset(await a_reset(hall), "secret-2")
    for token in (ana.session_token, other.session_token):
        assert (await refusal_of(hall.access.identify(token))).code is Code.INVALID_KEY
    assert hall.invalidations.forgotten == [ana.account.id]
    assert ana.api_key is not None
    assert (await hall.access.identify(ana.api_key, Scope.INFERENCE)).email == "ana@example.com"


async def reset_meanwhile(hall: Hall) -> None:
    """From here on a password is replaced while it is being checked: that takes its time."""
    await hall.links.forgot("ana@example.com")
    token = hall.mailed(Letter.RESET)[1]

    class Slow(MemoryPasswords):
        async def matches(self, password: str, hashed: str | None) -> bool:
            right = await super().matches(password, hashed)
            if password == "secret-1":
                await hall.links.reset(token, "secret-2")
            return right

    hall.access._passwords = hall.links._passwords = Slow()


async def test_a_sign_in_with_the_password_before_ends_in_nothing_if_a_reset_came_between(
    hall: Hall,
) -> None:
    await hall.customer()
    wrong = await refusal_of(hall.access.login("ana@example.com", "guess"))
    await reset_meanwhile(hall)
    late = await refusal_of(hall.access.login("ana@example.com", "secret-1"))
    assert (late.code, late.message) == (Code.WRONG_CREDENTIALS, wrong.message)
    assert hall.store.sessions == {}
    assert await hall.access.login("ana@example.com", "secret-2")


async def test_a_confirmation_by_the_password_before_is_of_no_use_after_a_reset(hall: Hall) -> None:
    await hall.links.greet(await hall.customer())
    token = hall.mailed(Letter.VERIFY)[1]
    await reset_meanwhile(hall)
    assert (await refusal_of(hall.links.verify(token, "secret-1"))).code is Code.INVALID_LINK


async def test_a_reset_takes_keys_along_when_asked(hall: Hall) -> None:
    ana = await hall.customer()
    await hall.prove(ana)
    await hall.links.reset(await a_reset(hall), "secret-2", revoke_keys=True)
    assert (await refusal_of(hall.access.identify(ana.api_key))).code is Code.INVALID_KEY


@pytest.mark.parametrize("revoke_keys", [False, True])
async def test_a_reset_takes_an_unproven_account_from_whoever_opened_it(
    hall: Hall, revoke_keys: bool
) -> None:
    squatter = await hall.customer()
    await hall.links.reset(await a_reset(hall), "secret-2", revoke_keys=revoke_keys)
    for secret in (squatter.api_key, squatter.session_token):
        assert (await refusal_of(hall.access.identify(secret))).code is Code.INVALID_KEY
    assert await hall.links.is_proven(squatter.account.id)


@pytest.mark.parametrize("confirms", [False, True])
async def test_the_mail_alone_does_not_confirm_what_somebody_else_opened(confirms: bool) -> None:
    """Its owner never chose that password, and is signed in to nothing or to another account."""
    hall = Hall(confirms=confirms)
    squatter, other = await hall.customer(), await hall.customer("eve@example.com")
    await hall.links.greet(squatter)
    token = hall.mailed(Letter.VERIFY)[1]
    for holder in ("", other.account.id):
        refusal = await refusal_of(hall.links.verify(token, "a guess", holder, HERE))
        assert refusal.code is Code.WRONG_CREDENTIALS
    assert not await hall.links.is_proven(squatter.account.id)
    await hall.links.verify(token, "", squatter.account.id)
    assert await hall.links.is_proven(squatter.account.id)


async def test_guessing_the_password_of_a_confirmation_is_throttled_as_signing_in_is(
    hall: Hall,
) -> None:
    await hall.links.greet(await hall.customer())
    token = hall.mailed(Letter.VERIFY)[1]
    codes = [
        (await refusal_of(hall.links.verify(token, "a guess", client=HERE))).code
        for _ in range(LIMITS[Guarded.LOGIN].per_subject + 1)
    ]
    assert codes[-1] is Code.TOO_MANY_ATTEMPTS
    assert set(codes[:-1]) == {Code.WRONG_CREDENTIALS}


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


async def test_what_a_registration_is_followed_by_counts_among_the_letters_of_its_address() -> None:
    """Else everybody could fill a mailbox by registering, whether there is an account or not."""
    hall = Hall(confirms=True)
    await hall.prove(await hall.customer("eve@example.com"))
    allowed = LIMITS[Guarded.MAIL].per_subject
    for email, letter in (
        ("new@example.com", Letter.VERIFY),
        ("eve@example.com", Letter.HAS_ACCOUNT),
    ):
        sent = [await hall.links.greet(await hall.customer(email), HERE) for _ in range(6)]
        assert sent == [True] * allowed + [False] * (6 - allowed)
        assert hall.letters().count(email) == hall.letters(letter).count(email) == allowed
        assert (await refusal_of(hall.links.forgot(email, HERE))).code is Code.TOO_MANY_ATTEMPTS


async def test_somebody_new_gets_an_account_by_mail_with_credit_and_a_key(hall: Hall) -> None:
    await hall.links.sign_up("new@example.com")
    path, token = hall.mailed(Letter.SIGN_UP)
    assert path == "/signup/finish"
    welcome = await hall.links.open_account(token, "secret-1")
    assert (await hall.access.identify(welcome.session_token)).email == "new@example.com"
    assert (await hall.ledger.balance(welcome.account.id)).available == SIGN_UP_CREDIT
    assert await hall.links.is_proven(welcome.account.id)
    assert hall.letters(Letter.WELCOME) == ["new@example.com"]
    again = await refusal_of(hall.links.open_account(token, "secret-1"))
    assert again.code is Code.INVALID_LINK
    assert len(hall.store.accounts) == 1


async def test_our_own_throttle_does_not_use_a_link_up(hall: Hall) -> None:
    for n in range(LIMITS[Guarded.REGISTER].per_address):
        await hall.access.register(f"{n}@example.com", "secret-1", HERE)
    await hall.links.sign_up("new@example.com")
    token = hall.mailed(Letter.SIGN_UP)[1]
    early = await refusal_of(hall.links.open_account(token, "secret-1", HERE))
    assert early.code is Code.TOO_MANY_ATTEMPTS
    welcome = await hall.links.open_account(token, "secret-1")
    assert await hall.links.is_proven(welcome.account.id)


async def test_a_link_to_a_new_account_opens_none_if_the_address_has_one_by_now(
    hall: Hall,
) -> None:
    await hall.links.sign_up("ana@example.com")
    token = hall.mailed(Letter.SIGN_UP)[1]
    ana = await hall.customer()
    late = await refusal_of(hall.links.open_account(token, "secret-2"))
    assert late.code is Code.INVALID_LINK
    assert list(hall.store.accounts) == [ana.account.id]


async def test_somebody_known_who_signs_up_again_gets_the_way_back_in(hall: Hall) -> None:
    await hall.customer()
    await hall.links.sign_up("ana@example.com")
    assert hall.letters() == ["ana@example.com"]
    path, token = hall.mailed(Letter.HAS_ACCOUNT)
    assert path == "/reset"
    await hall.links.reset(token, "secret-2")


async def test_an_account_proves_its_address_once(hall: Hall) -> None:
    ana = await hall.customer()
    assert await hall.links.ask_proof(ana.account.id, "ana@example.com")
    path, token = hall.mailed(Letter.VERIFY)
    assert path == "/verify"
    assert await hall.links.verify(token, "secret-1") == "ana@example.com"
    assert await hall.links.is_proven(ana.account.id)
    assert not await hall.links.ask_proof(ana.account.id, "ana@example.com")
    assert (await refusal_of(hall.links.verify(token))).code is Code.INVALID_LINK
    assert (await hall.ledger.balance(ana.account.id)).available == SIGN_UP_CREDIT


async def test_where_addresses_are_confirmed_first_the_credit_comes_with_the_proof() -> None:
    hall = Hall(confirms=True)
    ana = await hall.customer()
    assert (await hall.ledger.balance(ana.account.id)).available == ZERO
    assert await hall.links.greet(ana)
    await hall.links.verify(hall.mailed(Letter.VERIFY)[1], "secret-1")
    assert (await hall.ledger.balance(ana.account.id)).available == SIGN_UP_CREDIT
    assert (await hall.access.login("ana@example.com", "secret-1")).account.id == ana.account.id


async def test_the_welcome_comes_once_the_address_is_confirmed_and_names_the_credit() -> None:
    hall = Hall(confirms=True)
    ana = await hall.customer()
    await hall.newcomers.greet(ana)
    await hall.links.greet(ana)
    assert hall.letters() == ["ana@example.com"]
    await hall.links.verify(hall.mailed(Letter.VERIFY)[1], "secret-1")
    (welcome,) = [row for row in hall.outbox.rows.values() if row.letter is Letter.WELCOME]
    assert (welcome.to, welcome.facts) == ("ana@example.com", {"credit": "0.5"})


async def test_registering_asks_as_much_of_the_storage_whether_or_not_the_address_is_taken() -> (
    None
):
    hall, life = Hall(confirms=True), Life()
    await hall.prove(await hall.customer())
    hall.access._accounts = hall.links._accounts = Mortal(hall.accounts, life)
    hall.links._links = Mortal(hall.links._links, life)
    hall.links._identities = Mortal(hall.identities, life)
    hall.links._outbox = hall.newcomers._outbox = Mortal(hall.outbox, life)
    touched = {}
    for email in ("ana@example.com", "free@example.com"):
        life.touched = 0
        welcome = await hall.customer(email)
        await hall.newcomers.greet(welcome)
        assert await hall.links.greet(welcome)
        touched[welcome.is_taken] = life.touched
    assert touched[True] == touched[False] >= 5


async def test_who_registers_with_anothers_address_gets_a_letter_sent_to_that_other() -> None:
    hall = Hall(confirms=True)
    ana = await hall.customer()
    await hall.links.greet(ana)
    await hall.links.verify(hall.mailed(Letter.VERIFY)[1], "secret-1")
    stranger = await hall.customer()
    assert stranger.is_taken
    await hall.links.greet(stranger)
    assert hall.letters(Letter.HAS_ACCOUNT) == ["ana@example.com"]
    assert len(hall.letters(Letter.VERIFY)) == 1
    await hall.links.reset(hall.mailed(Letter.HAS_ACCOUNT)[1], "secret-2")
    assert (await hall.access.login("ana@example.com", "secret-2")).account.id == ana.account.id
