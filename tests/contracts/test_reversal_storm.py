"""Payments go back while requests run: the books, the holds and a key's month stay right."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.keys import PostgresKeys
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.units import PostgresUnits
from kyma.accounts import Account, Key
from kyma.ledger import Kind, Outcome, Resolution
from kyma.money import ZERO, Usd, usd
from tests.builders import a_key, a_record, a_session, an_account, new_id

PAYMENT = usd("20")
ROUNDS, REQUESTS, REVERSALS = 5, 60, 8
ENDS = (Kind.SETTLE, Kind.SETTLE, Kind.REFUND, Kind.EXPIRE)


@dataclass
class Storm:
    """One account with one capped key, its payments, and dice that always fall alike."""

    ledger: PostgresLedger
    account: Account
    key: Key
    payments: list[str] = field(default_factory=list)
    dice: random.Random = field(default_factory=lambda: random.Random(5))
    shrunk: int = 0

    async def pay(self) -> None:
        id = new_id()
        assert await self.ledger.deposit(id, self.account.id, PAYMENT, "test") is Outcome.DONE
        self.payments.append(id)

    async def request(self) -> None:
        """A hold that ends in one of the ways, for more than it held too."""
        id, amount = new_id(), Usd(self.dice.randrange(1, usd("30")))
        held = await self.ledger.hold(id, self.account.id, amount, 600, self.key.id)
        if held.outcome is not Outcome.DONE:
            return
        await asyncio.sleep(self.dice.random() / 10)
        kind = self.dice.choice(ENDS)
        bill = Usd(int(amount * self.dice.random() * 1.2)) if kind is Kind.SETTLE else ZERO
        record = a_record(self.account.id, id, key_id=self.key.id)
        ended = await self.ledger.resolve(Resolution(id, kind, bill), record)
        self.shrunk += ended.settled < min(bill, amount)

    async def reversal(self) -> None:
        """A refund or a dispute, four in ten of which are won again."""
        id = new_id()
        await asyncio.sleep(self.dice.random() / 10)
        amount = Usd(self.dice.randrange(1, usd("25")))
        await self.ledger.reverse(id, self.dice.choice(self.payments), amount, "test")
        if self.dice.random() < 0.4:
            await asyncio.sleep(self.dice.random() / 5)
            await self.ledger.reinstate(new_id(), id, "test")


async def test_whatever_goes_back_while_requests_run_every_figure_adds_up(
    postgres_engine: AsyncEngine, postgres_units: PostgresUnits
) -> None:
    ledger = PostgresLedger(postgres_engine, postgres_units)
    keys, account = PostgresKeys(postgres_units), an_account()
    key = a_key(account)
    key = replace(key, policy=replace(key.policy, monthly_cap=usd("100000")))
    registered = PostgresAccounts(postgres_units).register(
        account, key, a_session(account), usd("3")
    )
    assert await registered
    storm = Storm(ledger, account, key)
    for _ in range(5):
        await storm.pay()
    for _ in range(ROUNDS):
        requests = (storm.request() for _ in range(REQUESTS))
        await asyncio.gather(*requests, *(storm.reversal() for _ in range(REVERSALS)))
        for _ in range(4):
            await storm.pay()
    health = await ledger.health()
    assert (health.sound, health.open_holds) == (True, 0)
    assert storm.shrunk, "no reversal met a hold"
    month = (await keys.months(account.id))[key.id]
    async with postgres_units.unit() as connection:
        charged = await connection.scalar(text("SELECT sum(charged) FROM usage_records"))
    assert (month.reserved, month.spent) == (ZERO, charged)
    assert (await ledger.balance(account.id)).available >= ZERO
    await ledger.close()
