"""What accounts chose for auto top-up, as rows: for transactions that have more in them."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kyma.money import Usd
from kyma.topups import TopUp

SETTING = """
    t.account_id::text AS account_id, t.enabled, t.threshold, t.amount, t.monthly_ceiling,
    t.failures, t.not_before, t.message, t.tax
"""
ONE = f"SELECT {SETTING} FROM auto_top_ups t WHERE t.account_id = :account"  # noqa: S608 - a constant
CHOOSE = text(
    """
    INSERT INTO auto_top_ups AS t (account_id, enabled, threshold, amount, monthly_ceiling,
                                   failures, not_before, message, tax)
    VALUES (:account, :enabled, :threshold, :amount, :monthly_ceiling, :failures, :not_before,
            :message, :tax)
    ON CONFLICT (account_id) DO UPDATE SET enabled = excluded.enabled,
        threshold = excluded.threshold, amount = excluded.amount,
        monthly_ceiling = excluded.monthly_ceiling, failures = excluded.failures,
        not_before = excluded.not_before, message = excluded.message, tax = excluded.tax
    """
)


async def setting_of(
    connection: AsyncConnection, account_id: str, *, lock: bool = False
) -> TopUp | None:
    """By primary key; None if the account never chose."""
    query = text(f"{ONE} FOR UPDATE" if lock else ONE)
    row = (await connection.execute(query, {"account": account_id})).first()
    return None if row is None else top_up_of(row)


async def put_setting(connection: AsyncConnection, setting: TopUp) -> None:
    """In the place of the one before."""
    values = {name: getattr(setting, name) for name in setting.__slots__}
    await connection.execute(CHOOSE, {**values, "account": setting.account_id})


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
    )
