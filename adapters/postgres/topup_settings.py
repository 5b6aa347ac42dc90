"""What accounts chose for auto top-up, as rows: for transactions that have more in them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kyma.money import Usd
from kyma.topups import TopUp

SETTING = """
    t.account_id::text AS account_id, t.enabled, t.threshold, t.amount, t.monthly_ceiling,
    t.failures, t.not_before, t.message, t.tax, t.delays, t.revision
"""
ONE = f"SELECT {SETTING} FROM auto_top_ups t WHERE t.account_id = :account"  # noqa: S608 - a constant
INSERT = text(
    """
    INSERT INTO auto_top_ups (account_id, enabled, threshold, amount, monthly_ceiling,
                              failures, not_before, message, tax, delays, revision)
    VALUES (:account_id, :enabled, :threshold, :amount, :monthly_ceiling, :failures, :not_before,
            :message, :tax, :delays, :revision)
    ON CONFLICT (account_id) DO NOTHING
    """
)
UPDATE = text(
    """
    UPDATE auto_top_ups SET enabled = :enabled, threshold = :threshold, amount = :amount,
        monthly_ceiling = :monthly_ceiling, failures = :failures, not_before = :not_before,
        message = :message, tax = :tax, delays = :delays, revision = :revision
    WHERE account_id = :account_id
    """
)


async def setting_of(
    connection: AsyncConnection, account_id: str, *, lock: bool = False
) -> TopUp | None:
    """By primary key; None if the account never chose."""
    query = text(f"{ONE} FOR UPDATE" if lock else ONE)
    row = (await connection.execute(query, {"account": account_id})).first()
    return None if row is None else top_up_of(row)


async def insert_setting(connection: AsyncConnection, setting: TopUp) -> bool:
    """The first that its account has; False if another was quicker, which is there then."""
    return (await connection.execute(INSERT, asdict(setting))).rowcount == 1


async def put_setting(connection: AsyncConnection, setting: TopUp) -> None:
    """In the place of the one before, which the caller has locked."""
    await connection.execute(UPDATE, asdict(setting))


def top_up_of(row: Any) -> TopUp:
    """From the columns of `SETTING`."""
    return TopUp(
        row.account_id.replace("-", ""),
        row.enabled,
        Usd(row.threshold),
        Usd(row.amount),
        Usd(row.monthly_ceiling),
        row.failures,
        None if row.not_before is None else row.not_before.astimezone(UTC),
        row.message,
        Usd(row.tax),
        row.delays,
        row.revision,
    )
