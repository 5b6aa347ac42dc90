"""Transactions and statements on Postgres, from entries and the balance they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from adapters.postgres.units import PostgresUnits
from kyma.ledger import Kind
from kyma.money import ZERO, Usd
from kyma.statements import MOVING, Line, LineFilter, Place, Statement, Sum, statement

MONTH_S = 30.0
"""A month of a busy account is a million entries."""

LINES = """
    SELECT e.id::text AS id, e.kind, e.paid + e.held_paid AS paid, e.promo + e.held_promo AS promo,
           e.created_at, e.reason, e.hold_id::text AS hold_id
    FROM entries e WHERE e.account_id = :account AND e.kind = ANY (:kinds) {conditions}
    ORDER BY e.created_at DESC, e.id DESC LIMIT :limit
"""
CONDITIONS = {
    "since": "AND e.created_at >= :since",
    "until": "AND e.created_at < :until",
    "after_at": "AND (e.created_at, e.id) < (:after_at, CAST(:after_id AS uuid))",
}
STATEMENT = text(
    """
    SELECT b.paid + b.promo + b.held_paid + b.held_promo AS posted, e.kind,
           count(*) FILTER (WHERE e.created_at < :end) AS lines,
           coalesce(sum(e.moved) FILTER (WHERE e.created_at < :end), 0) AS amount,
           coalesce(sum(e.moved) FILTER (WHERE e.created_at >= :end), 0) AS later
    FROM balances b LEFT JOIN LATERAL (
        SELECT kind, created_at, paid + promo + held_paid + held_promo AS moved FROM entries
        WHERE account_id = b.account_id AND created_at >= :start AND kind = ANY (:kinds)
    ) e ON true
    WHERE b.account_id = :account GROUP BY posted, e.kind
    """
)
"""Backwards from the balance, which is the sum of all entries: old months are not read again.
One statement, hence one snapshot."""


class PostgresStatements:
    """The `Statements` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def lines(
        self, account_id: str, wanted: LineFilter, after: Place | None, limit: int
    ) -> Sequence[Line]:
        """The index on account and time finds the place and gives the order."""
        given: dict[str, Any] = {
            name: moment
            for name, moment in (("since", wanted.since), ("until", wanted.until))
            if moment is not None
        }
        if after is not None:
            given["after_at"] = after.booked_at
        conditions = " ".join(CONDITIONS[name] for name in given)
        kinds = MOVING if wanted.kind is None else (wanted.kind,)
        values = {
            **given,
            "account": account_id,
            "kinds": [kind.value for kind in kinds],
            "limit": limit,
        }
        if after is not None:
            values["after_id"] = after.id
        async with self._units.unit() as connection:
            query = text(LINES.format(conditions=conditions))
            rows = (await connection.execute(query, values)).all()
        return [_line(row) for row in rows]

    async def statement(self, account_id: str, start: datetime, end: datetime) -> Statement:
        """One month, read from its beginning until now."""
        values = {
            "account": account_id,
            "start": start,
            "end": end,
            "kinds": [kind.value for kind in MOVING],
        }
        async with self._units.unit(MONTH_S) as connection:
            rows = (await connection.execute(STATEMENT, values)).all()
        closing = rows[0].posted - sum(int(row.later) for row in rows) if rows else ZERO
        sums = {Kind(row.kind): Sum(row.lines, Usd(int(row.amount))) for row in rows if row.kind}
        return statement(start, end, Usd(closing), sums)


def _line(row: Any) -> Line:
    return Line(
        id=row.id.replace("-", ""),
        kind=Kind(row.kind),
        amount=Usd(row.paid + row.promo),
        paid=Usd(row.paid),
        promo=Usd(row.promo),
        booked_at=row.created_at.astimezone(UTC),
        reason=row.reason,
        hold_id=None if row.hold_id is None else row.hold_id.replace("-", ""),
    )
