"""The contract of keys and sign-ins, on memory and on real Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from adapters.memory.identity import MemoryWays
from adapters.memory.keys import MemoryKeys, MemorySignIns
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.keys import PostgresKeys, PostgresSignIns
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.units import PostgresUnits
from kyma.accounts import Account, Key, Session
from kyma.errors import Code, Refusal
from kyma.keys import UNRESTRICTED, Policy, Scope, network_from
from kyma.ledger import KeyMonth, Kind, Outcome, Resolution
from kyma.money import ZERO, Usd, usd
from kyma.ports.storage import Accounts, Held, Keys, Ledger, SignIns
from tests.builders import a_key, a_record, a_session, an_account, new_id

CREDIT = usd("5")
CAP = usd("1")
EVERY_LIMIT = Policy(
    frozenset({Scope.INFERENCE, Scope.BILLING}),
    frozenset({"qwen-3-32b", "kimi-k2.5"}),
    (network_from("203.0.113.0/24"), network_from("2001:db8::/32")),
    Usd(123_456_789_012),
    datetime(2031, 5, 17, 12, 0, tzinfo=UTC),
)


@dataclass
class Office:
    """The ports under test over one store."""

    accounts: Accounts
    keys: Keys
    sign_ins: SignIns
    ledger: Ledger

    async def customer(self) -> tuple[Account, Key, Session]:
        account = an_account()
        key, session = a_key(account), a_session(account)
        assert await self.accounts.register(account, key, session, CREDIT)
        return account, key, session

    async def capped(self, cap: Usd | None = CAP) -> tuple[Account, Key]:
        account, *_ = await self.customer()
        key = replace(a_key(account), policy=replace(UNRESTRICTED, monthly_cap=cap))
        await self.keys.create(key)
        return account, key

    async def set_cap(self, key: Key, cap: Usd | None) -> None:
        policy = replace(UNRESTRICTED, monthly_cap=cap)
        assert await self.keys.edit(key.account_id, key.id, lambda key: replace(key, policy=policy))

    async def hold(self, key: Key, amount: Usd, id: str | None = None) -> Held:
        return await self.ledger.hold(id or new_id(), key.account_id, amount, 600, key.id)

    async def spend(self, key: Key, held: Usd, bill: Usd) -> Outcome:
        id = new_id()
        assert (await self.hold(key, held, id)).outcome is Outcome.DONE
        record = a_record(key.account_id, id, key_id=key.id)
        return (await self.ledger.resolve(Resolution(id, Kind.SETTLE, bill), record)).outcome

    async def month(self, key: Key) -> KeyMonth:
        return (await self.keys.months(key.account_id))[key.id]

    async def news(self, seen: set[tuple[str, str]]) -> list[str]:
        return sorted(account for account, _ in await self.accounts.changes() - seen)


@pytest.fixture
def memory_office() -> Office:
    store = MemoryStore()
    return Office(
        MemoryAccounts(store),
        MemoryKeys(store),
        MemorySignIns(MemoryWays(store)),
        MemoryLedger(store),
    )


@pytest_asyncio.fixture
async def postgres_office(postgres_engine, postgres_units) -> AsyncIterator[Office]:
    ledger = PostgresLedger(postgres_engine, postgres_units)
    yield Office(
        PostgresAccounts(postgres_units),
        PostgresKeys(postgres_units),
        PostgresSignIns(postgres_units),
        ledger,
    )
    await ledger.close()


@pytest.fixture(params=["memory", "postgres"])
def office(request: pytest.FixtureRequest) -> Office:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Office = request.getfixturevalue(f"{request.param}_office")
    return found


# Keys.


async def test_a_key_is_kept_with_all_that_its_owner_chose(office: Office) -> None:
    account, first, _ = await office.customer()
    key = replace(
        a_key(account), name="build server", policy=EVERY_LIMIT, replay_minutes=5,
        created_at=datetime.now(UTC) + timedelta(seconds=1),
    )  # fmt: skip
    await office.keys.create(key)
    assert await office.accounts.keys(account.id) == [key, first]
    found = await office.accounts.principal(key.digest)
    assert found is not None
    assert (found.key_id, found.policy, found.replay_minutes) == (key.id, EVERY_LIMIT, 5)
    assert (found.until, found.session_id) == (EVERY_LIMIT.expires_at, "")


async def test_the_first_key_may_do_everything(office: Office) -> None:
    _, key, session = await office.customer()
    for digest in (key.digest, session.digest):
        found = await office.accounts.principal(digest)
        assert found is not None
        assert found.policy == UNRESTRICTED


async def test_a_key_is_edited_and_every_process_can_know(office: Office) -> None:
    account, key, _ = await office.customer()
    seen = set(await office.accounts.changes())
    changed = await office.keys.edit(
        account.id,
        key.id,
        lambda key: replace(key, name="new", policy=EVERY_LIMIT, replay_minutes=10),
    )
    assert changed == replace(key, name="new", policy=EVERY_LIMIT, replay_minutes=10)
    assert await office.accounts.keys(account.id) == [changed]
    assert set(await office.news(seen)) == {account.id}
    await office.keys.edit(account.id, key.id, lambda _: key)
    assert await office.accounts.keys(account.id) == [key]


async def test_what_is_refused_while_a_key_is_edited_changes_nothing(office: Office) -> None:
    account, key, _ = await office.customer()

    def refuse(key: Key) -> Key:
        raise Refusal(Code.FORBIDDEN, f"not {key.name}")

    with pytest.raises(Refusal, match="not default"):
        await office.keys.edit(account.id, key.id, refuse)
    assert await office.accounts.keys(account.id) == [key]


async def test_two_edits_at_once_do_not_undo_each_other(office: Office) -> None:
    account, key, _ = await office.customer()
    models = [f"model-{turn}" for turn in range(8)]

    def add(model: str) -> object:
        def decide(key: Key) -> Key:
            policy = replace(key.policy, models=key.policy.models | {model})
            return replace(key, policy=policy)

        return office.keys.edit(account.id, key.id, decide)

    await asyncio.gather(*(add(model) for model in models))
    (edited,) = await office.accounts.keys(account.id)
    assert edited.policy.models == set(models)


async def test_only_an_owner_edits_a_key_and_only_while_it_lives(office: Office) -> None:
    account, key, _ = await office.customer()
    stranger, *_ = await office.customer()

    def rename(key: Key) -> Key:
        return replace(key, name="stolen")

    assert await office.keys.edit(stranger.id, key.id, rename) is None
    assert await office.keys.edit(account.id, new_id(), rename) is None
    revoked = await office.accounts.revoke_key(account.id, key.id)
    assert await office.keys.edit(account.id, key.id, rename) is None
    assert await office.accounts.keys(account.id) == [revoked]


async def test_after_a_rotation_both_secrets_are_the_keys_the_old_one_until_its_end(
    office: Office,
) -> None:
    account, key, _ = await office.customer()
    until = datetime.now(UTC) + timedelta(hours=24)
    fresh = b"f" * 32
    rotated = replace(key, digest=fresh, previous_digest=key.digest, previous_until=until)
    assert await office.keys.edit(account.id, key.id, lambda _: rotated) == rotated
    assert [kept.id for kept in await office.accounts.keys(account.id)] == [key.id]
    new, old = [await office.accounts.principal(digest) for digest in (fresh, key.digest)]
    assert new is not None
    assert old is not None
    assert (new.key_id, new.until) == (key.id, None)
    assert (old.key_id, old.until) == (key.id, until)


async def test_an_end_of_the_key_comes_before_that_of_its_old_secret(office: Office) -> None:
    account, key, _ = await office.customer()
    soon = datetime.now(UTC) + timedelta(hours=1)
    policy = replace(UNRESTRICTED, expires_at=soon)
    rotated = replace(
        key,
        digest=b"f" * 32,
        policy=policy,
        previous_digest=key.digest,
        previous_until=soon + timedelta(hours=1),
    )
    await office.keys.edit(account.id, key.id, lambda _: rotated)
    old = await office.accounts.principal(key.digest)
    assert old is not None
    assert old.until == soon


async def test_a_revoked_key_has_no_secret_that_works(office: Office) -> None:
    account, key, _ = await office.customer()
    until = datetime.now(UTC) + timedelta(hours=24)
    rotated = replace(key, digest=b"f" * 32, previous_digest=key.digest, previous_until=until)
    await office.keys.edit(account.id, key.id, lambda _: rotated)
    await office.accounts.revoke_key(account.id, key.id)
    assert await office.accounts.principal(b"f" * 32) is None
    assert await office.accounts.principal(key.digest) is None


async def test_the_use_of_a_key_and_of_a_session_is_noted_and_is_no_change(office: Office) -> None:
    account, key, session = await office.customer()
    seen = set(await office.accounts.changes())
    for digest in (key.digest, session.digest):
        await office.accounts.principal(digest)
    (kept,) = await office.accounts.keys(account.id)
    (live,) = await office.sign_ins.of(account.id)
    for used_at in (kept.used_at, live.used_at):
        assert used_at is not None
        assert abs(used_at - datetime.now(UTC)) < timedelta(minutes=5)
    for digest in (key.digest, session.digest):
        await office.accounts.principal(digest)
    assert await office.accounts.keys(account.id) == [kept]
    assert await office.sign_ins.of(account.id) == [live]
    assert await office.news(seen) == []


async def test_a_row_that_somebody_writes_does_not_keep_its_owner_out(
    postgres_office: Office, postgres_units: PostgresUnits
) -> None:
    account, key, _ = await postgres_office.customer()
    async with postgres_units.unit() as connection:
        await connection.execute(
            text("SELECT 1 FROM api_keys WHERE id = :id FOR UPDATE"), {"id": key.id}
        )
        async with asyncio.timeout(2):
            assert await postgres_office.accounts.principal(key.digest) is not None
    assert (await postgres_office.accounts.keys(account.id))[0].used_at is None


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE api_keys SET replay_minutes = 11",
        "UPDATE api_keys SET replay_minutes = -1",
        "UPDATE api_keys SET monthly_cap = -1",
        "UPDATE api_keys SET previous_digest = digest",
        "UPDATE accounts SET bound = false, email_verified_at = now()",
        "INSERT INTO key_months (key_id, month) SELECT id, '2026-05-02' FROM api_keys",
        "INSERT INTO key_months (key_id, month, spent) SELECT id, '2026-05-01', -1 FROM api_keys",
    ],
)
async def test_the_database_itself_refuses_what_no_key_can_be(
    postgres_office: Office, postgres_units: PostgresUnits, change: str
) -> None:
    account, key, _ = await postgres_office.customer()
    with pytest.raises(IntegrityError):
        async with postgres_units.unit() as connection:
            await connection.execute(text(change))
    assert await postgres_office.accounts.keys(account.id) == [key]


# Monthly caps.


async def test_a_cap_is_reserved_by_holds_and_used_up_by_what_is_settled(office: Office) -> None:
    _, key = await office.capped()
    assert await office.month(key) == KeyMonth(CAP)
    id = new_id()
    assert (await office.hold(key, usd("0.7"), id)).outcome is Outcome.DONE
    assert await office.month(key) == KeyMonth(CAP, ZERO, usd("0.7"))
    refused = await office.hold(key, Usd(usd("0.3") + 1))
    assert (refused.outcome, refused.hold) == (Outcome.CAPPED, None)
    assert (refused.cap_left, refused.available) == (usd("0.3"), usd("4.3"))
    await office.ledger.resolve(Resolution(id, Kind.SETTLE, usd("0.2")))
    assert await office.month(key) == KeyMonth(CAP, usd("0.2"), ZERO)
    assert (await office.hold(key, usd("0.8"))).outcome is Outcome.DONE
    assert (await office.hold(key, Usd(1))).outcome is Outcome.CAPPED


@pytest.mark.parametrize("ending", [Kind.REFUND, Kind.EXPIRE])
async def test_what_is_returned_is_free_again(office: Office, ending: Kind) -> None:
    _, key = await office.capped()
    id = new_id()
    await office.hold(key, CAP, id)
    assert (await office.ledger.resolve(Resolution(id, ending))).outcome is Outcome.DONE
    assert await office.month(key) == KeyMonth(CAP)
    assert (await office.ledger.resolve(Resolution(id, ending))).outcome is not Outcome.DONE
    assert await office.month(key) == KeyMonth(CAP)


async def test_a_hold_of_a_dead_process_gives_its_part_of_the_cap_back(office: Office) -> None:
    _, key = await office.capped()
    await office.ledger.hold(new_id(), key.account_id, CAP, 0, key.id)
    assert (await office.month(key)).left == 0
    assert await office.ledger.sweep() == 1
    assert await office.month(key) == KeyMonth(CAP)


async def test_a_hold_that_is_sent_again_is_reserved_once(office: Office) -> None:
    _, key = await office.capped()
    id = new_id()
    outcomes = [(await office.hold(key, usd("0.7"), id)).outcome for _ in range(3)]
    assert outcomes == [Outcome.DONE, Outcome.EXISTS, Outcome.EXISTS]
    assert (await office.month(key)).reserved == usd("0.7")


async def test_too_little_credit_is_told_before_too_little_cap(office: Office) -> None:
    _, key = await office.capped()
    assert (await office.hold(key, Usd(CREDIT + 1))).outcome is Outcome.INSUFFICIENT
    assert (await office.hold(key, CREDIT)).outcome is Outcome.CAPPED


async def test_a_cap_is_its_keys_alone(office: Office) -> None:
    account, key = await office.capped()
    other = replace(a_key(account), policy=replace(UNRESTRICTED, monthly_cap=CAP))
    free = a_key(account)
    for one in (other, free):
        await office.keys.create(one)
    assert (await office.hold(key, CAP)).outcome is Outcome.DONE
    assert (await office.hold(key, Usd(1))).outcome is Outcome.CAPPED
    assert (await office.hold(other, CAP)).outcome is Outcome.DONE
    assert (await office.hold(free, usd("2"))).outcome is Outcome.DONE
    by_session = await office.ledger.hold(new_id(), account.id, usd("1"), 60)
    assert by_session.outcome is Outcome.DONE
    assert set(await office.keys.months(account.id)) == {key.id, other.id}


async def test_a_key_of_somebody_else_has_no_say(office: Office) -> None:
    _, key = await office.capped(ZERO)
    account, _ = await office.capped()
    held = await office.ledger.hold(new_id(), account.id, usd("1"), 60, key.id)
    assert held.outcome is Outcome.DONE
    assert await office.month(key) == KeyMonth(ZERO)


async def test_a_cap_of_nothing_lets_only_what_is_free_pass(office: Office) -> None:
    _, key = await office.capped(ZERO)
    assert (await office.hold(key, ZERO)).outcome is Outcome.DONE
    assert (await office.hold(key, Usd(1))).outcome is Outcome.CAPPED


@pytest.mark.parametrize("holds", [40])
async def test_holds_that_come_at_once_never_take_a_key_over_its_cap(
    office: Office, holds: int
) -> None:
    _, key = await office.capped()
    wanted = [office.hold(key, usd("0.09")) for _ in range(holds)]
    outcomes = [held.outcome for held in await asyncio.gather(*wanted)]
    assert outcomes.count(Outcome.DONE) == 11
    assert set(outcomes) == {Outcome.DONE, Outcome.CAPPED}
    assert await office.month(key) == KeyMonth(CAP, ZERO, usd("0.99"))
    assert (await office.ledger.health()).sound


async def test_two_processes_never_take_a_key_over_its_cap_together(
    postgres_office: Office, postgres_engine: object, postgres_units: PostgresUnits
) -> None:
    _, key = await postgres_office.capped()
    other = PostgresLedger(postgres_engine, postgres_units)
    wanted = [
        ledger.hold(new_id(), key.account_id, usd("0.3"), 600, key.id)
        for _ in range(20)
        for ledger in (postgres_office.ledger, other)
    ]
    outcomes = [held.outcome for held in await asyncio.gather(*wanted)]
    await other.close()
    assert outcomes.count(Outcome.DONE) == 3
    assert await postgres_office.month(key) == KeyMonth(CAP, ZERO, usd("0.9"))


async def test_a_cap_that_is_set_late_counts_what_the_key_did_this_month(office: Office) -> None:
    account, _ = await office.capped()
    key = a_key(account)
    await office.keys.create(key)
    await office.spend(key, usd("0.5"), usd("0.25"))
    await office.spend(key, usd("0.5"), usd("0.125"))
    id = new_id()
    await office.hold(key, usd("0.5"), id)
    await office.set_cap(key, CAP)
    assert await office.month(key) == KeyMonth(CAP, usd("0.375"), usd("0.5"))
    assert (await office.hold(key, Usd(usd("0.125") + 1))).outcome is Outcome.CAPPED
    await office.ledger.resolve(Resolution(id, Kind.SETTLE, usd("0.0625")))
    assert await office.month(key) == KeyMonth(CAP, usd("0.4375"), ZERO)


async def test_a_cap_that_is_changed_goes_on_counting_and_one_that_is_lifted_starts_anew(
    office: Office,
) -> None:
    _, key = await office.capped()
    await office.spend(key, usd("0.75"), usd("0.75"))
    await office.set_cap(key, usd("0.5"))
    assert await office.month(key) == KeyMonth(usd("0.5"), usd("0.75"), ZERO)
    assert (await office.hold(key, Usd(1))).cap_left == ZERO
    await office.set_cap(key, None)
    assert await office.keys.months(key.account_id) == {}
    open_id = new_id()
    assert (await office.hold(key, usd("1"), open_id)).outcome is Outcome.DONE
    await office.ledger.resolve(Resolution(open_id, Kind.REFUND))
    await office.spend(key, usd("1"), usd("1"))
    await office.set_cap(key, usd("2"))
    assert await office.month(key) == KeyMonth(usd("2"), usd("1.75"), ZERO)


async def test_a_cap_set_while_holds_come_loses_none_of_them(office: Office) -> None:
    account, _ = await office.capped()
    key = a_key(account)
    await office.keys.create(key)
    wanted = [office.hold(key, usd("0.1")) for _ in range(15)]
    first = asyncio.gather(*wanted[:5])
    await asyncio.gather(first, office.set_cap(key, CAP), *wanted[5:])
    month = await office.month(key)
    held = (await office.ledger.balance(account.id)).held
    assert month.reserved == held
    assert month.reserved <= CAP


async def test_last_months_hold_is_settled_in_last_month() -> None:
    moments = [datetime(2026, 5, 31, 23, 59, tzinfo=UTC)]
    store = MemoryStore(now=lambda: moments[-1])
    office = Office(
        MemoryAccounts(store),
        MemoryKeys(store),
        MemorySignIns(MemoryWays(store)),
        MemoryLedger(store),
    )
    _, key = await office.capped()
    id = new_id()
    await office.hold(key, CAP, id)
    moments.append(datetime(2026, 6, 1, tzinfo=UTC))
    assert await office.month(key) == KeyMonth(CAP)
    await office.ledger.resolve(Resolution(id, Kind.SETTLE, CAP))
    assert await office.month(key) == KeyMonth(CAP)
    assert (await office.hold(key, CAP)).outcome is Outcome.DONE


async def test_last_months_spending_does_not_count_on_postgres_either(
    postgres_office: Office, postgres_units: PostgresUnits
) -> None:
    _, key = await postgres_office.capped()
    await postgres_office.spend(key, CAP, CAP)
    open_id = new_id()
    async with postgres_units.unit() as connection:
        await connection.execute(
            text("UPDATE key_months SET month = (month - interval '1 month')::date")
        )
    assert (await postgres_office.hold(key, CAP, open_id)).outcome is Outcome.DONE
    async with postgres_units.unit() as connection:
        await connection.execute(
            text("UPDATE open_holds SET capped_month = (capped_month - interval '1 month')::date")
        )
        await connection.execute(
            text("DELETE FROM key_months WHERE month < date_trunc('month', now())::date")
        )
        await connection.execute(
            text("UPDATE key_months SET month = (month - interval '1 month')::date")
        )
    await postgres_office.ledger.resolve(Resolution(open_id, Kind.SETTLE, usd("0.5")))
    assert await postgres_office.month(key) == KeyMonth(CAP)


# Sign-ins.


async def test_live_sessions_are_told_newest_first(office: Office) -> None:
    account, _, first = await office.customer()
    await office.customer()
    now = datetime.now(UTC)
    second = replace(
        a_session(account), created_at=now + timedelta(seconds=5), user_agent="curl/8.9"
    )
    over = replace(a_session(account), expires_at=now - timedelta(seconds=1))
    for session in (second, over):
        await office.accounts.add_session(session)
    assert await office.sign_ins.of(account.id) == [second, first]
    assert await office.sign_ins.of(new_id()) == []


@pytest.mark.parametrize("dashes", [False, True])
async def test_a_session_is_ended_by_its_owner_once(office: Office, dashes: bool) -> None:
    account, key, session = await office.customer()
    stranger, *_ = await office.customer()
    seen = set(await office.accounts.changes())
    id = session.id
    if dashes:
        id = "-".join((id[:8], id[8:12], id[12:16], id[16:20], id[20:]))
    assert not await office.sign_ins.end(stranger.id, id)
    assert not await office.sign_ins.end(account.id, new_id())
    assert await office.accounts.principal(session.digest) is not None
    assert await office.sign_ins.end(account.id, id)
    assert await office.accounts.principal(session.digest) is None
    assert await office.news(seen) == [account.id]
    assert not await office.sign_ins.end(account.id, id)
    assert await office.sign_ins.of(account.id) == []
    assert await office.accounts.principal(key.digest) is not None


async def test_all_sessions_end_save_the_one_that_is_kept(office: Office) -> None:
    account, key, first = await office.customer()
    _, _, strangers = await office.customer()
    others = [a_session(account) for _ in range(3)]
    for session in others:
        await office.accounts.add_session(session)
    seen = set(await office.accounts.changes())
    assert await office.sign_ins.end_all(account.id, first.digest) == 3
    assert set(await office.news(seen)) == {account.id}
    for session in others:
        assert await office.accounts.principal(session.digest) is None
    assert [session.id for session in await office.sign_ins.of(account.id)] == [first.id]
    assert await office.sign_ins.end_all(account.id) == 1
    assert await office.sign_ins.end_all(account.id) == 0
    for digest in (key.digest, strangers.digest):
        assert await office.accounts.principal(digest) is not None


# Addresses.


async def test_an_address_may_be_used_by_many_and_is_bound_to_one(office: Office) -> None:
    owner = an_account("ana@example.com")
    assert await office.accounts.register(owner, a_key(owner), a_session(owner), ZERO)
    for address in ("ana@example.com", "ANA@example.com", "bob@example.com"):
        guest = replace(an_account(address), bound=False)
        key = a_key(guest)
        assert await office.accounts.register(guest, key, a_session(guest), ZERO)
        found = await office.accounts.principal(key.digest)
        assert found is not None
        assert found.account_id == guest.id
    assert await office.accounts.by_email("ana@example.com") == owner
    assert await office.accounts.by_email("bob@example.com") is None
    assert len(await office.accounts.find("ana@example.com")) == 3
