"""The Postgres ledger when its callers leave and when its database refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.ledger import Batcher, PostgresLedger
from adapters.postgres.units import PostgresUnits, make_engine
from kyma.ledger import Outcome
from kyma.money import usd
from kyma.ports.storage import Held, StorageUnavailable
from tests.builders import a_key, a_session, an_account, new_id


async def an_account_with_credit(units: PostgresUnits) -> str:
    account = an_account()
    await PostgresAccounts(units).register(account, a_key(account), a_session(account), usd("0.5"))
    return account.id


async def test_a_hold_whose_caller_left_while_it_was_written_is_returned(
    postgres_engine: AsyncEngine, postgres_units: PostgresUnits, database_url: str
) -> None:
    ledger = PostgresLedger(postgres_engine, postgres_units)
    account = await an_account_with_credit(postgres_units)
    blocker = await asyncpg.connect(database_url)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("SELECT 1 FROM balances WHERE account_id = $1 FOR UPDATE", account)
    holding = asyncio.create_task(ledger.hold(new_id(), account, usd("0.4"), 600))
    await asyncio.sleep(0.2)
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    await transaction.rollback()
    await blocker.close()
    await ledger.close()
    assert (await ledger.balance(account)).available == usd("0.5")
    assert (await ledger.health()).open_holds == 0


class CancelsAsItAnswers(Batcher):
    """The client's leaving is noticed in the very turn of the loop in which its hold is granted."""

    caller: asyncio.Task[Any]

    def _answer(self, batch: Any, rows: Any) -> None:
        super()._answer(batch, rows)
        self.caller.cancel()


async def test_a_hold_granted_in_the_turn_in_which_its_caller_left_is_returned(
    postgres_engine: AsyncEngine, postgres_units: PostgresUnits
) -> None:
    ledger = PostgresLedger(postgres_engine, postgres_units)
    batcher = CancelsAsItAnswers(postgres_engine)
    ledger._batcher = batcher
    account = await an_account_with_credit(postgres_units)
    batcher.caller = asyncio.create_task(ledger.hold(new_id(), account, usd("0.4"), 600))
    with pytest.raises(asyncio.CancelledError):
        await batcher.caller
    await ledger.close()
    assert (await ledger.balance(account)).available == usd("0.5")
    assert (await ledger.health()).open_holds == 0


async def test_one_locked_account_does_not_fail_the_holds_of_others(
    postgres_engine: AsyncEngine, postgres_units: PostgresUnits, database_url: str
) -> None:
    ledger = PostgresLedger(postgres_engine, postgres_units)
    locked = await an_account_with_credit(postgres_units)
    free = await an_account_with_credit(postgres_units)
    blocker = await asyncpg.connect(database_url)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("SELECT 1 FROM balances WHERE account_id = $1 FOR UPDATE", locked)
    refused, held = await asyncio.gather(
        ledger.hold(new_id(), locked, usd("0.1"), 60),
        ledger.hold(new_id(), free, usd("0.1"), 60),
        return_exceptions=True,
    )
    await transaction.rollback()
    await blocker.close()
    await ledger.close()
    assert isinstance(refused, StorageUnavailable)
    assert not isinstance(held, BaseException)
    assert held.outcome is Outcome.DONE


NO_IDS = ['a","b', "a,b", "{}", "null", "", '"', "\\", "x\n", "é", "0" * 31 + "}"]
"""Each would be something else in an array that was put together carelessly."""


async def test_an_id_that_is_none_spoils_no_operation_beside_it(
    postgres_engine: AsyncEngine, postgres_units: PostgresUnits
) -> None:
    ledger = PostgresLedger(postgres_engine, postgres_units)
    account = await an_account_with_credit(postgres_units)
    good = [ledger.hold(new_id(), account, usd("0.001"), 600) for _ in NO_IDS]
    bad = [ledger.hold(id, account, usd("0.01"), 600) for id in NO_IDS]
    worse = [ledger.hold(new_id(), id, usd("0.01"), 600) for id in NO_IDS]
    mixed = [each for three in zip(good, bad, worse, strict=True) for each in three]
    answers = await asyncio.gather(*mixed, return_exceptions=True)
    assert all(isinstance(answer, Held) and answer.hold for answer in answers[::3])
    assert all(isinstance(answer, Exception) for answer in answers[1::3] + answers[2::3])
    await ledger.close()
    assert (await ledger.balance(account)).available == usd("0.49")
    assert (await ledger.health()).open_holds == len(NO_IDS)


async def test_a_database_that_refuses_connections_is_unavailable(database_url: str) -> None:
    engine = make_engine(database_url.rpartition("/")[0] + "/no_such_database", 2)
    units = PostgresUnits(engine)
    ledger = PostgresLedger(engine, units)
    with pytest.raises(StorageUnavailable):
        await ledger.hold(new_id(), new_id(), usd("0.1"), 60)
    with pytest.raises(StorageUnavailable):
        await ledger.balance(new_id())
    await ledger.close()
    await engine.dispose()
