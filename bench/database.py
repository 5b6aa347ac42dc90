"""The database of a run: a schema, accounts to send as, and the ledger's word afterwards.

There are so many accounts that no limit is met, each rich enough to be Tier 4. They and their
keys are written directly; the deposits go through the ledger's own function.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import sys
import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from adapters.settings import ROOT
from adapters.system import HmacDigests
from kyma.tiers import TIERS

DEPOSIT = TIERS[4].min_deposit
FILL = 0.75
"""How much of an account's limit the planned rate may use: windows slide, rates vary."""


def accounts_for(rps: float) -> int:
    """How many accounts carry this rate of requests to one model without meeting a limit."""
    per_minute = min(TIERS[4].requests_per_minute, TIERS[4].model_requests_per_minute)
    return math.ceil(rps * 60 / (per_minute * FILL))


@dataclass(frozen=True, slots=True)
class Customer:
    """An account with one key, and the secret that opens it."""

    id: uuid.UUID
    key_id: uuid.UUID
    secret: str

    @classmethod
    def new(cls) -> Customer:
        """One more."""
        return cls(uuid.uuid4(), uuid.uuid4(), f"ky-{secrets.token_hex(24)}")


async def own_database(url: str) -> str:
    """A new database on the given server: a benchmark must not write among real customers."""
    name = f"kyma_bench_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def drop_database(url: str, ours: str) -> None:
    """Remove what `own_database` made."""
    name = urlsplit(ours).path.removeprefix("/")
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await connection.close()


async def migrate(url: str, environment: dict[str, str]) -> None:
    """Bring the database to the newest schema, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", "upgrade", "head"),
        cwd=ROOT,
        env={**environment, "KYMA_DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the migrations failed:\n{said.decode(errors='replace')}")


async def seed(url: str, pepper: str, count: int) -> list[str]:
    """Write the accounts; their keys."""
    digests, customers = HmacDigests(pepper), [Customer.new() for _ in range(count)]
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await _accounts(connection, customers)
            await _keys(connection, customers, digests)
            await _deposits(connection, customers)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()
    return [customer.secret for customer in customers]


async def _accounts(
    connection: asyncpg.Connection[asyncpg.Record], customers: list[Customer]
) -> None:
    await connection.copy_records_to_table(
        "accounts",
        columns=["id", "email", "password_hash"],
        records=[(each.id, f"{each.id.hex}@bench.localhost", "!") for each in customers],
    )
    await connection.copy_records_to_table(
        "balances", columns=["account_id"], records=[(each.id,) for each in customers]
    )


async def _keys(
    connection: asyncpg.Connection[asyncpg.Record], customers: list[Customer], digests: HmacDigests
) -> None:
    await connection.copy_records_to_table(
        "api_keys",
        columns=["id", "account_id", "name", "digest", "prefix", "last4"],
        records=[
            (
                *(each.key_id, each.id, "bench", digests.digest(each.secret)),
                *(each.secret[:7], each.secret[-4:]),
            )
            for each in customers
        ],
    )


async def _deposits(
    connection: asyncpg.Connection[asyncpg.Record], customers: list[Customer]
) -> None:
    outcomes = await connection.fetch(
        "SELECT ledger_credit(gen_random_uuid(), 'deposit', account_id, $2, 'benchmark', 'bench')"
        " AS outcome FROM unnest($1::uuid[]) AS account_id",
        [each.id for each in customers],
        int(DEPOSIT),
    )
    assert all(row["outcome"] == "done" for row in outcomes)


async def audit(url: str) -> dict[str, int]:
    """What the ledger says of the run: every answer must have been held, settled and recorded."""
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM entries WHERE kind = 'hold') AS held,"
            " (SELECT count(*) FROM entries WHERE kind = 'settle' AND revenue > 0) AS settled,"
            " (SELECT count(*) FROM usage_records) AS recorded,"
            " (SELECT count(*) FROM open_holds) AS open_holds"
        )
    finally:
        await connection.close()
    return dict(row)


async def server_version(url: str) -> str:
    """PostgreSQL's version number."""
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SHOW server_version")).split()[0]
    finally:
        await connection.close()
