"""Auto top-up and low-balance alarms on Postgres.

What is due is decided under the lock of the account's setting, by the rule of `kyma.topups`.
Balances are looked up by primary key for the accounts that have a setting or an alarm: an index
on balances themselves would have to be written by every hold and settle.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres.orders import insert_order
from adapters.postgres.topup_settings import (
    SETTING,
    insert_setting,
    put_setting,
    setting_of,
    top_up_of,
)
from adapters.postgres.units import PostgresUnits
from kyma import topups as rules
from kyma.money import Usd
from kyma.payments import Order
from kyma.topups import LOW_BALANCE, Attempt, LowBalance, TopUp

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
      AND t.amount + CASE WHEN t.amount + t.tax > t.monthly_ceiling THEN 0 ELSE t.tax END
          + ({CHARGED.format(account="t.account_id", since=MONTH)}) <= t.monthly_ceiling
    ORDER BY t.not_before NULLS FIRST, t.account_id LIMIT :limit
    """  # noqa: S608 - the pieces are constants of this module
)
"""By the rule of `kyma.topups.is_worth_asking`."""

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
    "INSERT INTO top_up_attempts (order_id, account_id, card_id, amount, tax, resume_at)"
    " VALUES (:order, :account, :card, :amount, :tax, now() + make_interval(secs => :pause))"
)
ATTEMPT = """
    a.order_id::text AS order_id, a.account_id::text AS account_id, a.card_id, a.created_at
"""
RUNNING = text(
    f"""
    SELECT {ATTEMPT} FROM top_up_attempts a
    WHERE a.state = 'running' AND a.account_id = coalesce(CAST(:account AS uuid), a.account_id)
    ORDER BY a.created_at LIMIT :limit
    """  # noqa: S608 - the piece is a constant of this module
)
TAKE_STALLED = text(
    f"""
    WITH stalled AS (
        SELECT a.order_id, a.resume_at FROM top_up_attempts a JOIN orders o ON o.id = a.order_id
        WHERE a.state = 'running' AND (a.resume_at <= now() OR (
            o.state = 'credited' AND a.created_at + make_interval(secs => :first) <= now()))
        ORDER BY a.resume_at LIMIT :limit FOR UPDATE OF a SKIP LOCKED
    ), taken AS (
        UPDATE top_up_attempts a
        SET resumes = a.resumes + 1,
            resume_at = now() + make_interval(
                secs => least(:most, :first * power(2, least(a.resumes + 1, 10))))
        FROM stalled s WHERE a.order_id = s.order_id
        RETURNING {ATTEMPT}, s.resume_at AS waited_since
    )
    SELECT * FROM taken ORDER BY waited_since
    """  # noqa: S608 - the piece is a constant of this module
)
"""The next look by the rule of `kyma.topups.pause_after`."""

PAUSES = {
    "first": rules.RESUME_AFTER.total_seconds(),
    "most": rules.RESUME_AT_MOST.total_seconds(),
}
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
            return await setting_of(connection, account_id)

    async def choose(self, setting: TopUp, before: TopUp | None) -> bool:
        """By the rule, under the lock that whatever switches it off takes as well."""
        async with self._units.unit() as connection:
            first = rules.in_place_of(None, setting)
            if before is None and await insert_setting(connection, first):
                return True
            found = await setting_of(connection, setting.account_id, lock=True)
            if not rules.may_replace(setting, before, found):
                return False
            await put_setting(connection, rules.in_place_of(found, setting))
        return True

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
        return [top_up_of(row) for row in rows]

    async def delay(self, account_id: str) -> None:
        """By the rule and the database's clock."""
        async with self._units.unit() as connection:
            setting = await setting_of(connection, account_id, lock=True)
            if setting is not None:
                await put_setting(connection, rules.delayed(setting, await _now(connection)))

    async def claim(self, order: Order, customer: str, card_id: str, tax: Usd) -> bool:
        """Order and charge together, one after another for an account."""
        values = {"account": order.account_id}
        async with self._units.unit() as connection:
            setting = await setting_of(connection, order.account_id, lock=True)
            if setting is None or setting.amount != order.amount:
                return False
            row = (await connection.execute(NOW, values)).one()
            posted, charged = Usd(row.posted), Usd(int(row.charged))
            now = row.now.astimezone(UTC)
            before, setting = setting, rules.reckoned(setting, tax, now)
            if setting != before:
                await put_setting(connection, setting)
            if row.is_running or not rules.is_due(setting, posted, charged, now):
                return False
            await insert_order(connection, order, customer)
            charge = {"order": order.id, "card": card_id, "amount": order.amount, "tax": tax}
            charge["pause"] = rules.pause_after(0).total_seconds()
            await connection.execute(BEGIN, {**values, **charge})
        return True

    async def running(self, limit: int = 100) -> Sequence[Attempt]:
        """Oldest first."""
        async with self._units.unit() as connection:
            rows = (await connection.execute(RUNNING, {"account": None, "limit": limit})).all()
        return [_attempt(row) for row in rows]

    async def running_of(self, account_id: str) -> Attempt | None:
        """At most one."""
        async with self._units.unit() as connection:
            values = {"account": account_id, "limit": 1}
            row = (await connection.execute(RUNNING, values)).first()
        return None if row is None else _attempt(row)

    async def take_stalled(self, limit: int = 100) -> Sequence[Attempt]:
        """By the database's clock; what another takes at the same time is left to it."""
        async with self._units.unit() as connection:
            rows = (await connection.execute(TAKE_STALLED, {**PAUSES, "limit": limit})).all()
        return [_attempt(row) for row in rows]

    async def end(self, order_id: str, failure: str | None) -> TopUp | None:
        """Once; the setting follows by the rule."""
        state = "paid" if failure is None else "failed"
        async with self._units.unit() as connection:
            account = await connection.scalar(END, {"order": order_id, "state": state})
            if account is None:
                return None
            setting = await setting_of(connection, account, lock=True)
            assert setting is not None
            setting = rules.after(setting, failure, await _now(connection))
            await put_setting(connection, setting)
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


async def _now(connection: AsyncConnection) -> datetime:
    now = await connection.scalar(text("SELECT now()"))
    assert isinstance(now, datetime)
    return now.astimezone(UTC)


def _attempt(row: Any) -> Attempt:
    return Attempt(
        _hex(row.order_id), _hex(row.account_id), row.card_id, row.created_at.astimezone(UTC)
    )


def _hex(id: str) -> str:
    return id.replace("-", "")
