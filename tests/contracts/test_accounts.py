"""The contract of accounts, overrides and operators, on memory and on real Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from adapters.memory.storage import (
    MemoryAccounts,
    MemoryLedger,
    MemoryOperators,
    MemoryOverrides,
    MemoryStore,
)
from adapters.postgres.accounts import PostgresAccounts, PostgresOperators, PostgresOverrides
from adapters.postgres.ledger import PostgresLedger
from kyma.accounts import Account, Key, Operator, Session
from kyma.keys import UNRESTRICTED
from kyma.ledger import Outcome
from kyma.money import ZERO, usd
from kyma.ports.storage import Accounts, Ledger, Operators, Overrides, Principal
from kyma.tiers import Override, Standing
from tests.builders import NOON, a_key, a_session, an_account, new_id

BONUS = usd("0.50")


@dataclass
class Office:
    """The ports under test over one store."""

    accounts: Accounts
    overrides: Overrides
    operators: Operators
    ledger: Ledger

    async def customer(self, email: str | None = None) -> tuple[Account, Key, Session]:
        account = an_account(email)
        key, session = a_key(account), a_session(account)
        assert await self.accounts.register(account, key, session, BONUS)
        return account, key, session


@pytest.fixture
def memory_office() -> Office:
    store = MemoryStore()
    return Office(
        MemoryAccounts(store), MemoryOverrides(store), MemoryOperators(store), MemoryLedger(store)
    )


@pytest_asyncio.fixture
async def postgres_office(postgres_engine, postgres_units) -> AsyncIterator[Office]:
    ledger = PostgresLedger(postgres_engine, postgres_units)
    yield Office(
        PostgresAccounts(postgres_units),
        PostgresOverrides(postgres_units),
        PostgresOperators(postgres_units),
        ledger,
    )
    await ledger.close()


@pytest.fixture(params=["memory", "postgres"])
def office(request: pytest.FixtureRequest) -> Office:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Office = request.getfixturevalue(f"{request.param}_office")
    return found


def an_override(account: Account, level: int | None, **changes: object) -> Override:
    row = Override(new_id(), account.id, level, "ana", "a trial", NOON, None)
    return replace(row, **changes)


async def test_registration_creates_the_account_its_key_its_session_and_its_credit(
    office: Office,
) -> None:
    account, key, session = await office.customer("Ana@Example.com")
    assert await office.accounts.by_email("Ana@Example.com") == account
    assert await office.accounts.keys(account.id) == [key]
    assert key.policy == UNRESTRICTED
    nothing_paid = Standing(account.id, ZERO, None)
    expected = Principal(account.id, key.id, account.email, nothing_paid)
    assert await office.accounts.principal(key.digest) == expected
    assert await office.accounts.principal(session.digest) == replace(
        expected, key_id="", until=session.expires_at, session_id=session.id
    )
    balance = await office.ledger.balance(account.id)
    assert (balance.promo, balance.paid, balance.deposited) == (BONUS, ZERO, ZERO)


async def test_no_bonus_is_no_entry(office: Office) -> None:
    account = an_account()
    assert await office.accounts.register(account, a_key(account), a_session(account), ZERO)
    assert (await office.ledger.health()).entries == 0
    assert (await office.ledger.balance(account.id)).available == 0


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("ana@example.com", "ANA@EXAMPLE.COM"),
        ("Ana@Example.Com", "ana@example.com"),
        ("a.n+a@example.com", "A.N+A@example.com"),
        ("élan@example.com", "élan@example.com"),
        ("ÉLAN@example.com", "ÉLAN@example.com"),
    ],
)
async def test_an_address_is_found_in_any_case(office: Office, stored: str, asked: str) -> None:
    account, *_ = await office.customer(stored)
    assert await office.accounts.by_email(asked) == account
    again = an_account(asked)
    assert not await office.accounts.register(again, a_key(again), a_session(again), BONUS)


@pytest.mark.parametrize("asked", ["", "nobody@example.com", "an_@example.com", "%", "ana"])
async def test_an_address_is_found_whole_or_not_at_all(office: Office, asked: str) -> None:
    await office.customer("ana@example.com")
    assert await office.accounts.by_email(asked) is None


async def test_a_taken_address_changes_nothing(office: Office) -> None:
    account, key, _ = await office.customer("ana@example.com")
    other = an_account("ANA@example.com")
    second, session = a_key(other), a_session(other)
    assert not await office.accounts.register(other, second, session, BONUS)
    assert await office.accounts.by_email("ana@example.com") == account
    assert await office.accounts.principal(second.digest) is None
    assert await office.accounts.principal(session.digest) is None
    assert await office.accounts.standing(other.id) is None
    assert await office.accounts.keys(account.id) == [key]
    assert (await office.ledger.health()).entries == 1


async def test_one_address_registered_at_once_is_one_account_with_one_credit(
    office: Office,
) -> None:
    wanted = [an_account(address) for address in ["ana@example.com", "Ana@Example.com"] * 10]
    created = await asyncio.gather(
        *(
            office.accounts.register(account, a_key(account), a_session(account), BONUS)
            for account in wanted
        )
    )
    assert created.count(True) == 1
    health = await office.ledger.health()
    assert (health.entries, health.sound) == (1, True)
    winner = wanted[created.index(True)]
    assert await office.accounts.by_email("ana@example.com") == winner
    assert (await office.ledger.balance(winner.id)).promo == BONUS
    assert len(await office.accounts.find("ana@")) == 1


async def test_a_revoked_key_has_no_owner_and_stays_listed(office: Office) -> None:
    account, key, session = await office.customer()
    revoked = await office.accounts.revoke_key(account.id, key.id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert abs(revoked.revoked_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert await office.accounts.principal(key.digest) is None
    assert await office.accounts.principal(session.digest) is not None
    assert await office.accounts.keys(account.id) == [revoked]
    assert replace(revoked, revoked_at=None) == key


async def test_a_second_revocation_changes_nothing(office: Office) -> None:
    account, key, _ = await office.customer()
    first = await office.accounts.revoke_key(account.id, key.id)
    assert await office.accounts.revoke_key(account.id, key.id) == first


async def test_nobody_revokes_anothers_key_or_one_that_is_not_there(office: Office) -> None:
    _, key, _ = await office.customer()
    stranger, *_ = await office.customer()
    assert await office.accounts.revoke_key(stranger.id, key.id) is None
    assert await office.accounts.revoke_key(stranger.id, new_id()) is None
    assert await office.accounts.principal(key.digest) is not None


async def test_a_session_is_found_with_its_end_whether_that_has_come_or_not(
    office: Office,
) -> None:
    account, *_ = await office.customer()
    now = datetime.now(UTC)
    old = replace(a_session(account), expires_at=now - timedelta(seconds=1))
    live = replace(a_session(account), expires_at=now + timedelta(minutes=1))
    await office.accounts.add_session(old)
    await office.accounts.add_session(live)
    for session in (old, live):
        found = await office.accounts.principal(session.digest)
        assert found is not None
        assert (found.account_id, found.key_id) == (account.id, "")
        assert (found.until, found.session_id) == (session.expires_at, session.id)


async def test_an_unknown_secret_has_no_owner(office: Office) -> None:
    await office.customer()
    assert await office.accounts.principal(b"\x00" * 32) is None


async def test_find_takes_part_of_an_address_in_any_case_newest_first(office: Office) -> None:
    first = replace(an_account("ana@example.com"), created_at=NOON)
    second = replace(an_account("BANANA@example.com"), created_at=NOON + timedelta(hours=1))
    other = replace(an_account("bob@example.com"), created_at=NOON + timedelta(hours=2))
    for account in (first, second, other):
        assert await office.accounts.register(account, a_key(account), a_session(account), ZERO)
    assert await office.accounts.find("ANA") == [second, first]
    assert await office.accounts.find("example.com", limit=2) == [other, second]
    assert await office.accounts.find("carol") == []


@pytest.mark.parametrize("dashes", [False, True])
async def test_find_takes_a_whole_id_with_or_without_dashes(office: Office, dashes: bool) -> None:
    account, *_ = await office.customer("ana@example.com")
    await office.customer("bob@example.com")
    asked = account.id
    if dashes:
        asked = "-".join((asked[:8], asked[8:12], asked[12:16], asked[16:20], asked[20:])).upper()
    assert await office.accounts.find(asked) == [account]
    assert await office.accounts.find(account.id[:-1]) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("%", ["per%cent@example.com"]),
        ("_", ["under_score@example.com"]),
        ("\\", ["back\\slash@example.com"]),
        ("r%c", ["per%cent@example.com"]),
        ("r_s", ["r_s@example.com"]),
        ("a%e", []),
        ("'; DROP TABLE accounts; --", []),
    ],
)
async def test_wildcards_in_a_search_are_plain_characters(
    office: Office, text: str, found: list[str]
) -> None:
    for email in ("per%cent@example.com", "back\\slash@example.com", "plain@example.com"):
        await office.customer(email)
    await office.customer("r_s@example.com" if text == "r_s" else "under_score@example.com")
    assert [account.email for account in await office.accounts.find(text)] == found


async def test_keys_are_listed_newest_first_and_only_the_accounts_own(office: Office) -> None:
    account, key, _ = await office.customer()
    await office.customer()
    assert await office.accounts.keys(account.id) == [key]
    assert await office.accounts.keys(new_id()) == []


async def test_standing_is_deposits_and_the_latest_override(office: Office) -> None:
    account, key, _ = await office.customer()
    assert await office.accounts.standing(account.id) == Standing(account.id, ZERO, None)
    booked = await office.ledger.deposit(new_id(), account.id, usd("5"), "test")
    granted = await office.ledger.grant(new_id(), account.id, usd("900"), "a gift")
    assert (booked, granted) == (Outcome.DONE, Outcome.DONE)
    first = an_override(account, 3, until=NOON + timedelta(days=1))
    second = an_override(account, None, reason="enough")
    for latest in (first, second):
        await office.overrides.add(latest)
        standing = Standing(account.id, usd("5"), latest)
        assert await office.accounts.standing(account.id) == standing
        found = await office.accounts.principal(key.digest)
        assert found is not None
        assert found.standing == standing


async def test_an_unknown_account_has_no_standing(office: Office) -> None:
    assert await office.accounts.standing(new_id()) is None


async def test_overrides_are_kept_all_and_told_newest_first(office: Office) -> None:
    account, *_ = await office.customer()
    other, *_ = await office.customer()
    rows = [an_override(account, level, reason=f"no {level}") for level in (1, 4, None, 0)]
    # The order of appending decides, not the times, which operators' clocks may get wrong.
    rows[2] = replace(rows[2], granted_at=NOON - timedelta(days=9))
    for row in rows:
        await office.overrides.add(row)
    await office.overrides.add(an_override(other, 2))
    assert await office.overrides.history(account.id) == rows[::-1]
    assert len(await office.overrides.history(other.id)) == 1
    assert await office.overrides.history(new_id()) == []


async def test_changes_name_the_account_of_every_change_that_admission_depends_on(
    office: Office,
) -> None:
    account, key, _ = await office.customer()
    bystander, *_ = await office.customer()
    seen = await office.accounts.changes()
    assert seen == set()

    async def news() -> list[str]:
        nonlocal seen
        now = await office.accounts.changes()
        told = sorted(account_id for account_id, _ in now - seen)
        seen = now
        return told

    await office.ledger.deposit(new_id(), account.id, usd("5"), "test")
    assert await news() == [account.id]
    await office.overrides.add(an_override(account, 3))
    assert await news() == [account.id]
    await office.accounts.revoke_key(account.id, key.id)
    assert await news() == [account.id]
    await office.ledger.grant(new_id(), bystander.id, usd("1"), "a gift")
    hold = new_id()
    await office.ledger.hold(hold, bystander.id, usd("1"), 60)
    assert await news() == []


async def test_operators_are_added_once_and_found_by_exact_name(office: Office) -> None:
    ana = Operator("ana", "hash", NOON)
    assert await office.operators.count() == 0
    assert await office.operators.add(ana)
    assert not await office.operators.add(replace(ana, password_hash="other"))
    assert await office.operators.add(Operator("Ana", "another", NOON))
    assert await office.operators.by_name("ana") == ana
    assert await office.operators.by_name("bob") is None
    assert await office.operators.count() == 2


async def test_one_operator_added_at_once_is_added_once(office: Office) -> None:
    added = await asyncio.gather(
        *(office.operators.add(Operator("ana", f"hash {n}", NOON)) for n in range(10))
    )
    assert added.count(True) == 1
    assert await office.operators.count() == 1
