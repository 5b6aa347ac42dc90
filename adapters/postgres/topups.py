"""Auto top-up and low-balance alarms on Postgres.

What is due is decided under the lock of the account's setting, by the rule of `kyma.topups`.
Balances are looked up by primary key for the accounts that have a setting or an alarm: an index
on balances themselves would have to be written by every hold and settle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres.orders import insert_order
from adapters.postgres.units import PostgresUnits
from kyma import topups as rules
from kyma.money import Usd
from kyma.payments import Order
from kyma.topups import LOW_BALANCE, Attempt, LowBalance, TopUp

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
CHARGED = (
    "SELECT coalesce(sum(a.amount + a.tax), 0)"
    " FROM top_up_attempts a JOIN orders o ON o.id = a.order_id"
    " WHERE a.account_id = {account} AND a.created_at >= {since}"
    " AND (a.state <> 'failed' OR o.state = 'credited')"
)
POSTED = "b.paid + b.promo + b.held_paid + b.held_promo"
MONTH = "date_trunc('month', now(), 'UTC')"
DUE = text(
    f"""
    SELECT {SETTING} FROM auto_top_ups t JOIN balances b USING (account_id)
    WHERE t.enabled AND {POSTED} < t.threshold
      AND (t.not_before IS NULL OR t.not_before <= now())
      AND NOT EXISTS (SELECT 1 FROM top_up_attempts r
                      WHERE r.account_id = t.account_id AND r.state = 'running')
      AND t.amount + t.tax + ({CHARGED.format(account="t.account_id", since=MONTH)})
          <= t.monthly_ceiling
    ORDER BY t.not_before NULLS FIRST, t.account_id LIMIT :limit
    """  # noqa: S608 - the pieces are constants of this module
)
NOW = text(
    f"""
    SELECT now() AS now, {POSTED} AS posted,
           ({CHARGED.format(account=":account", since=MONTH)}) AS charged,
           EXISTS (SELECT 1 FROM top_up_attempts r
                   WHERE r.account_id = :account AND r.state = 'running') AS is_running
    FROM balances b WHERE b.account_id = :account
    """  # noqa: S608 - the pieces are constants of this module
)
BEGIN = text(
    "INSERT INTO top_up_attempts (order_id, account_id, card_id, amount, tax)"
    " VALUES (:order, :account, :card, :amount, :tax)"
)
RUNNING = text(
    "SELECT order_id::text AS order_id, account_id::text AS account_id, card_id, created_at"
    " FROM top_up_attempts WHERE state = 'running' ORDER BY created_at LIMIT :limit"
)
END = text(
    "UPDATE top_up_attempts SET state = :state, ended_at = now()"
    " WHERE order_id = :order AND state = 'running' RETURNING account_id::text"
)
LOW = text(
    f"""
    SELECT a.account_id::text AS account_id, a.armed_by::text AS armed_by, {POSTED} AS posted
    FROM low_balance_alarms a JOIN balances b USING (account_id)
    WHERE {POSTED} < least(CAST(:low AS bigint), a.brought / 2) LIMIT :limit
    """  # noqa: S608 - the piece is a constant of this module
)
"""By the rule of `kyma.topups.low_mark`."""


class PostgresTopUps:
    """The `TopUps` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def setting(self, account_id: str) -> TopUp | None:
        """By primary key."""
        async with self._units.unit() as connection:
            return await _setting(connection, account_id)

    async def choose(self, setting: TopUp) -> None:
        """In the place of the one before."""
        async with self._units.unit() as connection:
            await _choose(connection, setting)

    async def charged(self, account_id: str, since: datetime) -> Usd:
        """Failed charges took nothing, unless their owner paid them after all."""
        query = text(CHARGED.format(account=":account", since=":since"))
        async with self._units.unit() as connection:
            found = await connection.scalar(query, {"account": account_id, "since": since})
        return Usd(int(found or 0))

    async def due(self, limit: int = 100) -> Sequence[TopUp]:
        """A first look, without locks; `claim` decides."""
        async with self._units.unit() as connection:
            rows = (await connection.execute(DUE, {"limit": limit})).all()
        return [_top_up(row) for row in rows]

    async def claim(self, order: Order, customer: str, card_id: str, tax: Usd) -> bool:
        """Order and charge together, one after another for an account."""
        values = {"account": order.account_id}
        async with self._units.unit() as connection:
            setting = await _setting(connection, order.account_id, lock=True)
            if setting is None or setting.amount != order.amount:
                return False
            if setting.tax != tax:
                setting = replace(setting, tax=tax)
                await _choose(connection, setting)
            row = (await connection.execute(NOW, values)).one()
            posted, charged = Usd(row.posted), Usd(int(row.charged))
            now = row.now.astimezone(UTC)
            if row.is_running or not rules.is_due(setting, posted, charged, now):
                return False
            await insert_order(connection, order, customer)
            charge = {"order": order.id, "card": card_id, "amount": order.amount, "tax": tax}
            await connection.execute(BEGIN, {**values, **charge})
        return True

    async def running(self, limit: int = 100) -> Sequence[Attempt]:
        """Oldest first."""
        async with self._units.unit() as connection:
            rows = (await connection.execute(RUNNING, {"limit": limit})).all()
        return [
            Attempt(
                _hex(row.order_id),
                _hex(row.account_id),
                row.card_id,
                row.created_at.astimezone(UTC),
            )
            for row in rows
        ]

    async def end(self, order_id: str, failure: str | None) -> TopUp | None:
        """Once; the setting follows by the rule."""
        state = "paid" if failure is None else "failed"
        async with self._units.unit() as connection:
            account = await connection.scalar(END, {"order": order_id, "state": state})
            if account is None:
                return None
            setting = await _setting(connection, account, lock=True)
            assert setting is not None
            now = await connection.scalar(text("SELECT now()"))
            assert now is not None
            setting = rules.after(setting, failure, now.astimezone(UTC))
            await _choose(connection, setting)
        return setting


class PostgresAlarms:
    """The `Alarms` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def low(self, limit: int = 100) -> Sequence[LowBalance]:
        """Armed by a deposit or a grant, and low."""
        async with self._units.unit() as connection:
            rows = (await connection.execute(LOW, {"low": LOW_BALANCE, "limit": limit})).all()
        return [
            LowBalance(_hex(row.account_id), _hex(row.armed_by), Usd(row.posted)) for row in rows
        ]

    async def told(self, alarm: LowBalance) -> None:
        """Unless credit that came in has armed it anew meanwhile."""
        async with self._units.unit() as connection:
            await connection.execute(
                text(
                    "DELETE FROM low_balance_alarms WHERE account_id = :account AND armed_by = :by"
                ),
                {"account": alarm.account_id, "by": alarm.armed_by},
            )


async def _setting(
    connection: AsyncConnection, account_id: str, *, lock: bool = False
) -> TopUp | None:
    query = text(f"{ONE} FOR UPDATE" if lock else ONE)
    row = (await connection.execute(query, {"account": account_id})).first()
    return None if row is None else _top_up(row)


async def _choose(connection: AsyncConnection, setting: TopUp) -> None:
    values = {name: getattr(setting, name) for name in setting.__slots__}
    await connection.execute(CHOOSE, {**values, "account": setting.account_id})


def _top_up(row: Any) -> TopUp:
    return TopUp(
        _hex(row.account_id),
        row.enabled,
        Usd(row.threshold),
        Usd(row.amount),
        Usd(row.monthly_ceiling),
        row.failures,
        None if row.not_before is None else row.not_before.astimezone(UTC),
        row.message,
        Usd(row.tax),
    )


def _hex(id: str) -> str:
    return id.replace("-", "")
