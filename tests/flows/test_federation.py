"""Signing in from elsewhere: who gets in, who must prove more, and who does not get in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.memory.identity import MemoryIdentities
from kyma.errors import Code
from kyma.flows.access import NOBODY, SIGN_UP_CREDIT
from kyma.flows.access import Client as Caller
from kyma.flows.federation import Arrival
from kyma.identity import Claims, Identity
from kyma.mail import Letter
from kyma.throttles import LIMITS, Guarded
from tests.flows.ways import HERE, Hall, refusal_of

ANA = Claims("https://id.example", "1001", "Ana@example.com", email_verified=True)


@pytest.fixture
def hall() -> Hall:
    made = Hall()
    made.provider.says = ANA
    return made


async def arrived(hall: Hall, client: Caller = NOBODY) -> Arrival:
    attempt, state = await hall.federation.begin(), hall.provider.asked["state"]
    return await hall.federation.finish(attempt.seed, state, "a code", client)


async def test_somebody_new_gets_an_account_without_password_and_the_credit_once(
    hall: Hall,
) -> None:
    first = await arrived(hall)
    assert (first.email, first.is_new, first.offer) == ("ana@example.com", True, "")
    ana = await hall.access.identify(first.session_token)
    assert (await hall.ledger.balance(ana.account_id)).available == SIGN_UP_CREDIT
    assert await hall.links.is_proven(ana.account_id)
    assert hall.letters(Letter.WELCOME) == ["ana@example.com"]
    second = await arrived(hall)
    assert not second.is_new
    assert (await hall.access.identify(second.session_token)).account_id == ana.account_id
    assert (await hall.ledger.balance(ana.account_id)).available == SIGN_UP_CREDIT
    for password in ("", "secret-1"):
        wrong = await refusal_of(hall.access.login("ana@example.com", password))
        assert wrong.code is Code.WRONG_CREDENTIALS


async def test_opening_accounts_from_elsewhere_is_throttled_as_registering_is(hall: Hall) -> None:
    """Whoever has a domain has as many verified addresses as they like."""
    allowed = LIMITS[Guarded.REGISTER].per_address
    for n in range(allowed):
        hall.provider.says = Claims(ANA.issuer, f"s{n}", f"u{n}@example.com", True)
        assert (await arrived(hall, HERE)).is_new
    hall.provider.says = replace(ANA, subject="more", email="more@example.com")
    assert (await refusal_of(arrived(hall, HERE))).code is Code.TOO_MANY_ATTEMPTS
    by_password = await refusal_of(hall.access.register("p@example.com", "secret-1", HERE))
    assert by_password.code is Code.TOO_MANY_ATTEMPTS
    assert len(hall.store.accounts) == allowed
    hall.provider.says = replace(ANA, subject="s0", email="u0@example.com")
    assert (await arrived(hall, HERE)).session_token  # who has an account comes in all the same
    hall.provider.says = replace(ANA, subject="other", email="u0@example.com")
    assert (await arrived(hall, HERE)).offer


async def test_somebody_known_is_known_by_subject_whatever_the_address(hall: Hall) -> None:
    first = await arrived(hall)
    hall.provider.says = replace(ANA, email="renamed@example.com")
    second = await arrived(hall)
    ids = {(await hall.access.identify(one.session_token)).account_id for one in (first, second)}
    assert len(ids) == len(hall.store.accounts) == 1


async def test_an_account_with_the_address_is_not_opened_without_proof(hall: Hall) -> None:
    await hall.customer()
    arrival = await arrived(hall)
    assert arrival.session_token == ""
    assert arrival.offer
    assert hall.ways.identities == {}
    assert arrival.offer not in repr(hall.ways)


async def test_its_password_joins_an_account_and_an_identity(hall: Hall) -> None:
    ana = await hall.customer()
    offer = (await arrived(hall)).offer
    wrong = await refusal_of(hall.federation.prove_by_password(offer, "guess"))
    assert wrong.code is Code.WRONG_CREDENTIALS
    joined = await hall.federation.prove_by_password(offer, "secret-1")
    assert (await hall.access.identify(joined.session_token)).account_id == ana.account.id
    again = await refusal_of(hall.federation.prove_by_password(offer, "secret-1"))
    assert again.code is Code.INVALID_LINK
    later = await arrived(hall)
    assert (await hall.access.identify(later.session_token)).account_id == ana.account.id
    assert (await hall.access.login("ana@example.com", "secret-1")).account.id == ana.account.id


async def test_a_password_that_is_replaced_meanwhile_joins_nothing(hall: Hall) -> None:
    await hall.customer()
    offer = (await arrived(hall)).offer
    await hall.links.forgot("ana@example.com")
    token, identities = hall.mailed(Letter.RESET)[1], hall.identities

    class Late(MemoryIdentities):
        async def attach(self, identity: Identity, account_id: str, password_hash: str) -> bool:
            await hall.links.reset(token, "secret-2")
            return await identities.attach(identity, account_id, password_hash)

    hall.federation._identities = Late(hall.ways)
    late = await refusal_of(hall.federation.prove_by_password(offer, "secret-1"))
    assert late.code is Code.SIGN_IN_FAILED
    assert hall.ways.identities == {}
    assert hall.store.sessions == {}


async def test_guessing_the_password_of_an_offer_is_throttled_as_signing_in_is(hall: Hall) -> None:
    await hall.customer()
    offer = (await arrived(hall)).offer
    codes = [
        (await refusal_of(hall.federation.prove_by_password(offer, "guess", HERE))).code
        for _ in range(LIMITS[Guarded.LOGIN].per_subject + 1)
    ]
    assert codes[-1] is Code.TOO_MANY_ATTEMPTS
    assert set(codes[:-1]) == {Code.WRONG_CREDENTIALS}


async def test_mail_joins_a_proven_account_and_leaves_it_as_it_was(hall: Hall) -> None:
    ana = await hall.customer()
    await hall.links.ask_proof(ana.account.id, "ana@example.com")
    await hall.links.verify(hall.mailed(Letter.VERIFY)[1], "secret-1")
    offer = (await arrived(hall)).offer
    assert await hall.federation.prove_by_mail(offer) == "ana@example.com"
    path, token = hall.mailed(Letter.JOIN)
    assert path == "/join"
    joined = await hall.federation.join(token)
    assert (await hall.access.identify(joined.session_token)).account_id == ana.account.id
    assert (await hall.access.login("ana@example.com", "secret-1")).account.id == ana.account.id
    assert (await refusal_of(hall.federation.join(token))).code is Code.INVALID_LINK


async def test_mail_takes_an_unproven_account_from_whoever_opened_it(hall: Hall) -> None:
    """The address may have been used by somebody who waits for its owner to come."""
    squatter = await hall.customer()
    await hall.federation.prove_by_mail((await arrived(hall)).offer)
    joined = await hall.federation.join(hall.mailed(Letter.JOIN)[1])
    assert (await hall.access.identify(joined.session_token)).account_id == squatter.account.id
    for secret in (squatter.api_key, squatter.session_token):
        assert (await refusal_of(hall.access.identify(secret))).code is Code.INVALID_KEY
    wrong = await refusal_of(hall.access.login("ana@example.com", "secret-1"))
    assert wrong.code is Code.WRONG_CREDENTIALS


async def test_an_offer_and_the_link_it_sends_are_not_one_another(hall: Hall) -> None:
    await hall.customer()
    offer = (await arrived(hall)).offer
    assert (await refusal_of(hall.federation.join(offer))).code is Code.INVALID_LINK
    await hall.federation.prove_by_mail(offer)
    token = hall.mailed(Letter.JOIN)[1]
    for work in (
        hall.federation.prove_by_password(token, "secret-1"),
        hall.federation.prove_by_mail(token),
        hall.links.verify(token),
    ):
        assert (await refusal_of(work)).code is Code.INVALID_LINK


async def test_an_address_that_is_not_verified_there_counts_for_nothing(hall: Hall) -> None:
    hall.provider.says = replace(ANA, email_verified=False)
    assert (await refusal_of(arrived(hall))).code is Code.SIGN_IN_FAILED
    assert hall.store.accounts == {}


async def test_an_answer_to_another_browser_is_refused_before_the_provider_is_asked(
    hall: Hall,
) -> None:
    mine = await hall.federation.begin()
    state = hall.provider.asked["state"]
    other = await hall.federation.begin()
    for seed, told in ((other.seed, state), (mine.seed, "x"), ("", state), (mine.seed, "")):
        refused = await refusal_of(hall.federation.finish(seed, told, "a code"))
        assert refused.code is Code.SIGN_IN_FAILED
    assert hall.provider.got == []


async def test_what_guards_an_attempt_is_secret_and_different_each_time(hall: Hall) -> None:
    attempt = await hall.federation.begin()
    first = dict(hall.provider.asked)
    await hall.federation.begin()
    assert not set(first.values()) & set(hall.provider.asked.values())
    assert len(set(first.values())) == 3
    assert first["verifier"] not in attempt.address
    assert attempt.seed not in attempt.address


async def test_a_provider_that_is_away_is_no_verdict(hall: Hall) -> None:
    attempt = await hall.federation.begin()
    hall.provider.away = True
    begun = await refusal_of(hall.federation.begin())
    state = hall.provider.asked["state"]
    ended = await refusal_of(hall.federation.finish(attempt.seed, state, "a code"))
    assert begun.code is ended.code is Code.IDENTITY_UNAVAILABLE
    assert ended.retryable


async def test_a_provider_that_refuses_lets_nobody_in(hall: Hall) -> None:
    hall.provider.says = None
    assert (await refusal_of(arrived(hall))).code is Code.SIGN_IN_FAILED
