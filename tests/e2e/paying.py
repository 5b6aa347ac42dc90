"""Customers of the highest tier, for tests that ask more often than a new one may."""

from __future__ import annotations

import asyncio

import asyncpg

from kyma.tiers import TIERS
from tests.e2e.asking import CREDIT, Audit, Customer, customer

DEPOSIT = int(TIERS[4].min_deposit)


async def paying_customers(url: str, database_url: str, count: int) -> list[Customer]:
    """New ones, each with the sign-up credit and the deposit of the highest tier."""
    turn = asyncio.Semaphore(8)  # passwords are hashed in turn, and a long queue is refused

    async def sign_up() -> Customer:
        async with turn:
            return await customer(url)

    found = await asyncio.gather(*(sign_up() for _ in range(count)))
    connection = await asyncpg.connect(database_url)
    try:
        for each in found:
            outcome = await connection.fetchval(
                "SELECT ledger_credit(gen_random_uuid(), 'deposit', $1::uuid, $2, 'test', 'test')",
                each.id,
                DEPOSIT,
            )
            assert outcome == "done"
    finally:
        await connection.close()
    return found


def check_at_rest(books: Audit) -> None:
    """The invariants of `Audit`, for a customer who has paid in, with nothing under way."""
    assert books.sum_of_all_books == 0
    assert (books.available, books.held) == books.replayed
    assert (books.open_holds, books.held) == (0, 0)
    assert books.spent + books.available == CREDIT + DEPOSIT
    assert books.spent == sum(record["charged"] for record in books.records)
