"""Device codes: what a device and its person are told at each step."""

from __future__ import annotations

import asyncio

import pytest

from kyma.accounts import looks_like_key
from kyma.errors import Code
from kyma.flows.access import SIGN_UP_CREDIT
from kyma.identity import DEVICE_CODE_S
from kyma.keys import DEFAULT_SCOPES, MAX_KEYS, Scope
from kyma.throttles import LIMITS, Guarded
from tests.flows.ways import HERE, Hall, refusal_of


@pytest.fixture
def hall() -> Hall:
    return Hall()


async def test_a_device_gets_a_key_named_after_it_once_its_person_approves(hall: Hall) -> None:
    ana = await hall.customer()
    begun = await hall.devices.begin("kyma-ter")
    assert (begun.interval_s, begun.expires_in_s) == (5, 900)
    pending = await refusal_of(hall.devices.poll(begun.device_code))
    assert (pending.code, pending.retryable) == (Code.AUTHORIZATION_PENDING, True)
    shown = await hall.devices.find(begun.user_code.lower(), ana.account.id)
    assert shown.client_name == "kyma-ter"
    await hall.devices.decide(begun.user_code, await hall.person(ana), approved=True)
    given = await hall.devices.poll(begun.device_code)
    assert looks_like_key(given.api_key)
    assert (given.account_id, given.email) == (ana.account.id, "ana@example.com")
    assert given.available == SIGN_UP_CREDIT
    principal = await hall.access.identify(given.api_key, Scope.INFERENCE)
    assert principal.account_id == ana.account.id
    assert principal.policy.scopes == DEFAULT_SCOPES
    names = [key.name for key in await hall.accounts.keys(ana.account.id)]
    assert sorted(names) == ["default", "kyma-ter"]


async def test_a_device_code_gives_one_key_however_often_it_is_polled(hall: Hall) -> None:
    ana = await hall.customer()
    begun = await hall.devices.begin("kyma-ter")
    await hall.devices.decide(begun.user_code, await hall.person(ana), approved=True)
    polls = [hall.devices.poll(begun.device_code) for _ in range(20)]
    ended = await asyncio.gather(*polls, return_exceptions=True)
    assert sum(not isinstance(one, BaseException) for one in ended) == 1
    assert len(await hall.accounts.keys(ana.account.id)) == 2
    late = await refusal_of(hall.devices.poll(begun.device_code))
    assert late.code is Code.EXPIRED_TOKEN


async def test_neither_secret_of_a_device_is_stored(hall: Hall) -> None:
    ana = await hall.customer()
    begun = await hall.devices.begin("kyma-ter")
    await hall.devices.decide(begun.user_code, await hall.person(ana), approved=True)
    given = await hall.devices.poll(begun.device_code)
    stored = repr(hall.ways) + repr(hall.store)
    assert begun.device_code not in stored
    assert given.api_key not in stored


async def test_a_device_that_is_denied_is_told_so(hall: Hall) -> None:
    ana = await hall.customer()
    begun = await hall.devices.begin("")
    await hall.devices.decide(begun.user_code, await hall.person(ana), approved=False)
    assert (await refusal_of(hall.devices.poll(begun.device_code))).code is Code.ACCESS_DENIED
    again = await refusal_of(
        hall.devices.decide(begun.user_code, await hall.person(ana), approved=True)
    )
    assert again.code is Code.NOT_FOUND


async def test_a_code_that_is_over_or_unknown_is_refused_alike(hall: Hall) -> None:
    ana = await hall.customer()
    begun = await hall.devices.begin("")
    hall.clock.move(DEVICE_CODE_S + 1)
    over = await refusal_of(hall.devices.poll(begun.device_code))
    unknown = await refusal_of(hall.devices.poll("kd-nobody"))
    assert over.code is unknown.code is Code.EXPIRED_TOKEN
    assert over.message == unknown.message
    assert (await refusal_of(hall.devices.find(begun.user_code, ana.account.id))).code is (
        Code.NOT_FOUND
    )


async def test_a_device_that_hurries_is_slowed_down_and_one_that_waits_is_not(hall: Hall) -> None:
    begun = await hall.devices.begin("")
    for _ in range(3):
        assert (await refusal_of(hall.devices.poll(begun.device_code))).code is (
            Code.AUTHORIZATION_PENDING
        )
        hall.clock.move(4.5)
    await refusal_of(hall.devices.poll(begun.device_code))
    hurried = await refusal_of(hall.devices.poll(begun.device_code))
    assert (hurried.code, hurried.retryable) == (Code.SLOW_DOWN, True)
    assert hurried.retry_after_s == hurried.details["interval"] == 10
    hall.clock.move(10)
    assert (await refusal_of(hall.devices.poll(begun.device_code))).code is (
        Code.AUTHORIZATION_PENDING
    )


async def test_an_approved_device_gets_its_key_even_in_a_hurry(hall: Hall) -> None:
    ana = await hall.customer()
    begun = await hall.devices.begin("")
    await refusal_of(hall.devices.poll(begun.device_code))
    await hall.devices.decide(begun.user_code, await hall.person(ana), approved=True)
    assert (await hall.devices.poll(begun.device_code)).account_id == ana.account.id


async def test_a_device_gets_no_key_once_its_person_signed_out_everywhere(hall: Hall) -> None:
    ana = await hall.customer()
    person = await hall.person(ana)
    begun, later = await hall.devices.begin("a box"), await hall.devices.begin("another")
    await hall.devices.decide(begun.user_code, person, approved=True)
    assert await hall.sessions.end_all(person) == 1
    assert (await refusal_of(hall.devices.poll(begun.device_code))).code is Code.EXPIRED_TOKEN
    # Another process may take them for signed in for a moment yet.
    late = await refusal_of(hall.devices.decide(later.user_code, person, approved=True))
    assert late.code is Code.NOT_FOUND
    assert (await refusal_of(hall.devices.poll(later.device_code))).code is (
        Code.AUTHORIZATION_PENDING
    )
    assert [key.name for key in await hall.accounts.keys(person.account_id)] == ["default"]


async def test_guessing_short_codes_ends_and_right_ones_do_not_count(hall: Hall) -> None:
    ana = await hall.customer()
    for _ in range(2 * LIMITS[Guarded.CODE].per_subject):
        begun = await hall.devices.begin("")
        await hall.devices.find(begun.user_code, ana.account.id, HERE)
    guesses = [
        (await refusal_of(hall.devices.find("KYMA-2222", ana.account.id, HERE))).code
        for _ in range(LIMITS[Guarded.CODE].per_subject + 1)
    ]
    assert set(guesses[:-1]) == {Code.NOT_FOUND}
    assert guesses[-1] is Code.TOO_MANY_ATTEMPTS


async def test_an_address_may_begin_only_so_often(hall: Hall) -> None:
    for _ in range(LIMITS[Guarded.CODE].per_address):
        await hall.devices.begin("", HERE)
    assert (await refusal_of(hall.devices.begin("", HERE))).code is Code.TOO_MANY_ATTEMPTS


async def test_an_account_with_all_its_keys_approves_no_other(hall: Hall) -> None:
    ana = await hall.customer()
    for _ in range(MAX_KEYS - 1):
        begun = await hall.devices.begin("")
        await hall.devices.decide(begun.user_code, await hall.person(ana), approved=True)
        await hall.devices.poll(begun.device_code)
    begun = await hall.devices.begin("")
    full = await refusal_of(
        hall.devices.decide(begun.user_code, await hall.person(ana), approved=True)
    )
    assert full.code is Code.FORBIDDEN
    await hall.devices.decide(begun.user_code, await hall.person(ana), approved=False)
