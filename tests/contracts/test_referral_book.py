"""The contract of referrals, on memory and on real Postgres alike; and rewards that survive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.memory.identity import MemoryIdentities, MemoryWays
from adapters.memory.referrals import MemoryReferrals
from adapters.memory.runtime import MemoryChance
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.identity import PostgresIdentities
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.referrals import PostgresReferrals
from adapters.postgres.units import PostgresUnits
from kyma.accounts import Account
from kyma.flows.referrals import Referrals, Rewards
from kyma.identity import Identity
from kyma.ledger import Kind, Outcome, Resolution
from kyma.money import ZERO, Usd, usd
from kyma.ports.identity import Identities
from kyma.ports.storage import Accounts, Ledger
from kyma.referrals import REWARD, TOKENS_TO_VERIFY, Side, State, Tally, entry_id
from kyma.usage import Usage
from tests.builders import a_key, a_record, a_session, an_account, new_id

HOUR_S = 3600.0
EVERY_S, LAG_S = 600, 120


@dataclass
class Book:
    """Both ports under test with a ledger; `pass_time` makes everything so much older."""

    referrals: MemoryReferrals | PostgresReferrals
    accounts: Accounts
    identities: Identities
    ledger: Ledger
    pass_time: Callable[[float], Awaitable[None]]

    async def account(
        self,
        email: str | None = None,
        *,
        bound: bool = True,
        proven: bool = True,
        sent_by: str = "",
    ) -> str:
        account = replace(an_account(email), bound=bound, sent_by=sent_by)
        assert await self.accounts.register(account, a_key(account), a_session(account), usd("9"))
        if proven:
            assert await self.identities.prove(account.id, account.email, ZERO)
        return account.id

    async def referral(self) -> tuple[str, str, str]:
        """Id, referrer, referred."""
        referrer = await self.account()
        referred = await self.account(sent_by=referrer)
        (made,) = await self.referrals.made_by(referrer)
        assert (made.referrer_id, made.referred_id) == (referrer, referred)
        return made.id, referrer, referred

    async def use(self, account_id: str, tokens: int) -> None:
        """A served request of so many tokens, spread over every bucket."""
        id, rest = new_id(), tokens - 4 * (tokens // 5)
        usage = Usage(tokens // 5, tokens // 5, tokens // 5, tokens // 5, rest)
        assert (await self.ledger.hold(id, account_id, Usd(10), 60)).outcome is Outcome.DONE
        record = a_record(account_id, id, usage=usage)
        await self.ledger.resolve(Resolution(id, Kind.SETTLE, Usd(1), ZERO), record)

    async def count(self) -> None:
        """Count until there is nothing to count."""
        while await self.referrals.count(TOKENS_TO_VERIFY, EVERY_S, LAG_S):
            pass

    async def promo(self, account_id: str) -> Usd:
        return (await self.ledger.balance(account_id)).promo

    @property
    def rewards(self) -> Rewards:
        return Rewards(self.referrals, self.ledger)


@pytest.fixture
def memory_book() -> Book:
    offset = [0.0]
    store = MemoryStore(now=lambda: datetime.now(UTC) + timedelta(seconds=offset[0]))

    async def pass_time(seconds: float) -> None:
        offset[0] += seconds

    identities = MemoryIdentities(MemoryWays(store))
    accounts, ledger = MemoryAccounts(store), MemoryLedger(store)
    return Book(MemoryReferrals(store), accounts, identities, ledger, pass_time)


@pytest_asyncio.fixture
async def postgres_book(
    postgres_engine: AsyncEngine, postgres_units: PostgresUnits
) -> AsyncIterator[Book]:
    async def pass_time(seconds: float) -> None:
        """Records are append-only, so for this the trigger is switched off."""
        moved = ", ".join(
            f"{column} = {column} - make_interval(secs => :by)"
            for column in ("created_at", "counted_until", "verified_at", "paid_at")
        )
        records = "UPDATE usage_records SET created_at = created_at - make_interval(secs => :by)"
        async with postgres_units.unit() as connection:
            await connection.execute(text("ALTER TABLE usage_records DISABLE TRIGGER USER"))
            await connection.execute(text(f"UPDATE referrals SET {moved}"), {"by": seconds})
            await connection.execute(text(records), {"by": seconds})
            await connection.execute(text("ALTER TABLE usage_records ENABLE TRIGGER USER"))

    ledger = PostgresLedger(postgres_engine, postgres_units)
    accounts, identities = PostgresAccounts(postgres_units), PostgresIdentities(postgres_units)
    yield Book(PostgresReferrals(postgres_units), accounts, identities, ledger, pass_time)
    await ledger.close()


@pytest.fixture(params=["memory", "postgres"])
def book(request: pytest.FixtureRequest) -> Book:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Book = request.getfixturevalue(f"{request.param}_book")
    return found


async def test_an_account_keeps_its_first_code(book: Book) -> None:
    account = await book.account()
    assert await book.referrals.code(account, "aaaaaaaaaa") == "aaaaaaaaaa"
    assert await book.referrals.code(account, "bbbbbbbbbb") == "aaaaaaaaaa"


async def test_a_code_that_is_anothers_is_not_given_again(book: Book) -> None:
    await book.referrals.code(await book.account(), "aaaaaaaaaa")
    other = await book.account()
    assert await book.referrals.code(other, "aaaaaaaaaa") is None
    assert await book.referrals.code(other, "bbbbbbbbbb") == "bbbbbbbbbb"


async def test_proposals_at_once_end_in_one_code(book: Book) -> None:
    account = await book.account()
    codes = [f"{number:010x}" for number in range(10)]
    found = await asyncio.gather(*(book.referrals.code(account, code) for code in codes))
    assert len(set(found)) == 1


async def test_a_code_leads_to_its_owner(book: Book) -> None:
    account = await book.account("ada@example.com")
    await book.referrals.code(account, "aaaaaaaaaa")
    owner = await book.referrals.owner("aaaaaaaaaa")
    assert owner is not None
    assert (owner.account_id, owner.email) == (account, "ada@example.com")
    assert await book.referrals.owner("bbbbbbbbbb") is None


@pytest.mark.parametrize("way", ["by password", "by a sign-in service"])
async def test_a_referral_is_made_with_the_account_or_not_at_all(book: Book, way: str) -> None:
    referrer = await book.account()
    taken = an_account("ada@example.com")
    assert await book.accounts.register(taken, a_key(taken), a_session(taken), ZERO)
    late = replace(an_account("ada@example.com"), sent_by=referrer)
    account = replace(an_account("grace@example.com"), sent_by=referrer)

    async def register(new: Account) -> bool:
        if way == "by password":
            return await book.accounts.register(new, a_key(new), a_session(new), ZERO)
        known = Identity("https://id.example.com", new.id, new.email)
        return await book.identities.register(new, known, ZERO)

    assert await register(late) is False
    assert await book.referrals.tally(referrer) == Tally()
    assert await register(account) is True
    (made,) = await book.referrals.made_by(referrer)
    assert (made.referred_id, made.state) == (account.id, State.PENDING)


async def test_a_voided_referral_stays_the_accounts_only_one(book: Book) -> None:
    id, referrer, _ = await book.referral()
    assert await book.referrals.void(id, "olga", "a bot") is True
    assert await book.referrals.tally(referrer) == Tally(void=1)


async def test_an_account_sees_those_it_sent_newest_first(book: Book) -> None:
    referrer, sent = await book.account(), []
    for _ in range(3):
        sent.append(await book.account(sent_by=referrer))
        await book.pass_time(1)
    found = await book.referrals.made_by(referrer)
    assert [referral.referred_id for referral in found] == sent[::-1]
    assert {referral.state for referral in found} == {State.PENDING}
    assert len(await book.referrals.made_by(referrer, limit=2)) == 2
    assert await book.referrals.made_by(await book.account()) == []


async def test_tokens_add_up_over_counts_and_each_is_counted_once(book: Book) -> None:
    _, referrer, referred = await book.referral()
    for tokens in (400_000, 300_000):
        await book.use(referred, tokens)
        await book.pass_time(HOUR_S)
        await book.count()
        await book.count()
    (referral,) = await book.referrals.made_by(referrer)
    assert (referral.tokens, referral.state) == (700_000, State.PENDING)


async def test_a_referral_is_verified_by_the_count_that_reaches_the_million(book: Book) -> None:
    _, referrer, referred = await book.referral()
    await book.use(referred, TOKENS_TO_VERIFY - 1)
    await book.pass_time(HOUR_S)
    await book.count()
    assert (await book.referrals.tally(referrer)).verified == 0
    await book.use(referred, 1)
    await book.pass_time(HOUR_S)
    await book.count()
    (referral,) = await book.referrals.made_by(referrer)
    assert (referral.tokens, referral.state) == (TOKENS_TO_VERIFY, State.VERIFIED)
    assert referral.verified_at is not None


async def test_what_is_younger_than_the_lag_waits_for_the_next_count(book: Book) -> None:
    _, referrer, referred = await book.referral()
    await book.pass_time(HOUR_S)
    await book.use(referred, 100)
    await book.count()
    assert (await book.referrals.made_by(referrer))[0].tokens == 0
    await book.pass_time(EVERY_S + 1)
    await book.count()
    assert (await book.referrals.made_by(referrer))[0].tokens == 100


async def test_an_account_is_not_counted_more_often_than_asked(book: Book) -> None:
    await book.referral()
    assert await book.referrals.count(TOKENS_TO_VERIFY, EVERY_S, LAG_S) == 0
    await book.pass_time(EVERY_S + 1)
    assert await book.referrals.count(TOKENS_TO_VERIFY, EVERY_S, LAG_S) == 1
    assert await book.referrals.count(TOKENS_TO_VERIFY, EVERY_S, LAG_S) == 0


async def test_a_week_of_use_is_counted_hour_by_hour_and_comes_to_the_same(book: Book) -> None:
    _, referrer, referred = await book.referral()
    for _ in range(4):
        await book.use(referred, 1000)
        await book.pass_time(40 * HOUR_S)
    rounds = 0
    while await book.referrals.count(TOKENS_TO_VERIFY, EVERY_S, LAG_S):
        rounds += 1
    assert rounds > 1
    assert (await book.referrals.made_by(referrer))[0].tokens == 4000


async def test_a_count_does_not_pass_over_those_beyond_its_limit(book: Book) -> None:
    referrals = [await book.referral() for _ in range(5)]
    for _, _, referred in referrals:
        await book.use(referred, 10)
    await book.pass_time(HOUR_S)
    while await book.referrals.count(TOKENS_TO_VERIFY, EVERY_S, LAG_S, limit=2):
        pass
    for _, referrer, _ in referrals:
        assert (await book.referrals.made_by(referrer))[0].tokens == 10


@pytest.mark.parametrize("bound", [False, True])
async def test_an_address_that_nobody_has_confirmed_verifies_nothing_until_somebody_does(
    book: Book, bound: bool
) -> None:
    """Signing in to an account by its address is not yet to read its mail."""
    referrer = await book.account()
    referred = await book.account("ada@example.com", bound=bound, proven=False, sent_by=referrer)
    await book.use(referred, TOKENS_TO_VERIFY)
    await book.pass_time(HOUR_S)
    await book.count()
    (referral,) = await book.referrals.made_by(referrer)
    assert (referral.tokens, referral.state) == (TOKENS_TO_VERIFY, State.PENDING)
    assert (await book.rewards.run(EVERY_S, LAG_S)).paid == 0
    assert await book.identities.prove(referred, "ada@example.com", ZERO)
    await book.pass_time(HOUR_S)
    assert (await book.rewards.run(EVERY_S, LAG_S)).paid == 1


async def test_a_void_referral_is_neither_counted_nor_rewarded(book: Book) -> None:
    id, referrer, referred = await book.referral()
    assert await book.referrals.void(id, "olga", "a bot") is True
    assert await book.referrals.void(id, "olga", "a bot") is False
    await book.use(referred, TOKENS_TO_VERIFY)
    await book.pass_time(HOUR_S)
    assert (await book.rewards.run(EVERY_S, LAG_S)).paid == 0
    assert await book.promo(referrer) == usd("9")


async def test_both_sides_are_rewarded_once_however_often_it_runs(book: Book) -> None:
    _, referrer, referred = await book.referral()
    await book.use(referred, TOKENS_TO_VERIFY)
    before = await book.promo(referred)
    await book.pass_time(HOUR_S)
    runs = [await book.rewards.run(EVERY_S, LAG_S) for _ in range(3)]
    assert [run.paid for run in runs] == [1, 0, 0]
    assert await book.promo(referrer) == usd("9") + REWARD
    assert await book.promo(referred) == before + REWARD
    (referral,) = await book.referrals.made_by(referrer)
    assert referral.paid_at is not None
    assert await book.referrals.void(referral.id, "olga", "too late") is False


async def test_runs_at_once_reward_once(book: Book) -> None:
    pairs = [await book.referral() for _ in range(4)]
    for _, _, referred in pairs:
        await book.use(referred, TOKENS_TO_VERIFY)
    await book.pass_time(HOUR_S)
    await asyncio.gather(*(book.rewards.run(EVERY_S, LAG_S) for _ in range(4)))
    for _, referrer, _ in pairs:
        assert await book.promo(referrer) == usd("9") + REWARD
    assert (await book.ledger.health()).sound


@pytest.mark.parametrize("given", [(), (Side.REFERRER,), (Side.REFERRED,), tuple(Side)])
async def test_a_run_that_died_between_the_rewards_is_gone_on_with(
    book: Book, given: tuple[Side, ...]
) -> None:
    """Dead after it was verified, after one reward or the other, or before it was marked."""
    id, referrer, referred = await book.referral()
    await book.use(referred, TOKENS_TO_VERIFY)
    await book.pass_time(HOUR_S)
    await book.count()
    left = await book.promo(referred)
    owners = {Side.REFERRER: referrer, Side.REFERRED: referred}
    for side in given:
        reason = f"referral, {side.value}"
        await book.ledger.grant(entry_id(id, side), owners[side], REWARD, reason)
    assert (await book.rewards.run(EVERY_S, LAG_S)).paid == 1
    assert await book.promo(referrer) == usd("9") + REWARD
    assert await book.promo(referred) == left + REWARD


async def test_a_reward_that_the_ledger_refuses_is_told_and_holds_up_no_other(book: Book) -> None:
    pairs = [await book.referral() for _ in range(2)]
    for _, _, referred in pairs:
        await book.use(referred, TOKENS_TO_VERIFY)
    await book.pass_time(HOUR_S)
    (stuck, _, _), (_, referrer, _) = pairs
    # Something else has the entry's id: a mistake of ours, which must not be taken for a reward.
    await book.ledger.grant(entry_id(stuck, Side.REFERRER), referrer, usd("7"), "a mistake")
    run = await book.rewards.run(EVERY_S, LAG_S)
    assert (run.paid, run.stuck) == (1, (stuck,))
    assert await book.promo(referrer) == usd("9") + usd("7") + REWARD


async def test_ones_own_code_and_another_spelling_of_oneself_refer_nobody(book: Book) -> None:
    flow = Referrals(book.referrals, MemoryChance())
    ada = await book.account("ada.lovelace@gmail.com")
    code = (await flow.mine(ada)).code
    assert await flow.sender("ada.lovelace@gmail.com", code) == ""
    assert await flow.sender("adalovelace+2@googlemail.com", code) == ""
    assert await flow.sender("grace@example.com", "0123456789") == ""
    assert await flow.sender("grace@example.com", f" {code.upper()} ") == ada
