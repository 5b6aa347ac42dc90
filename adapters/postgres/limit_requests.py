"""Customers' requests for higher limits on Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import TextClause, insert, text

from adapters.postgres.tables import tier_overrides
from adapters.postgres.units import PostgresUnits
from kyma.limit_requests import LimitRequest, State
from kyma.tiers import Override

ADD = text(
    """
    INSERT INTO tier_requests (id, account_id, company, purpose, expected_load)
    VALUES (:id, :account, :company, :use, :load)
    ON CONFLICT (account_id) WHERE state = 'open' DO NOTHING
    """
)
SELECT = """
    SELECT r.id::text AS id, r.account_id::text AS account_id, a.email, r.company, r.purpose,
           r.expected_load, r.requested_at, r.state, r.reason, r.answered_at, o.level, o.until
    FROM tier_requests r JOIN accounts a ON a.id = r.account_id
    LEFT JOIN tier_overrides o ON o.id = r.override_id
    """
ONE = text(SELECT + "WHERE r.id = :id")
OF = text(
    SELECT + "WHERE r.account_id = :account ORDER BY r.requested_at DESC, r.id DESC LIMIT :limit"
)
WAITING = text(SELECT + "WHERE r.state = 'open' ORDER BY r.requested_at, r.id LIMIT :limit")
UNTOLD = text(
    SELECT + "WHERE r.state <> 'open' AND r.told_at IS NULL ORDER BY r.answered_at LIMIT :limit"
)
LOCK = text(
    "SELECT 1 FROM tier_requests WHERE id = :id AND account_id = :account AND state = 'open'"
    " FOR UPDATE"
)
APPROVE = text(
    """
    UPDATE tier_requests SET state = 'approved', override_id = :override, operator = :operator,
                             reason = :reason, answered_at = now()
    WHERE id = :id
    """
)
DECLINE = text(
    """
    UPDATE tier_requests SET state = 'declined', operator = :operator, reason = :reason,
                             answered_at = now()
    WHERE id = :id AND state = 'open'
    """
)
TOLD = text("UPDATE tier_requests SET told_at = now() WHERE id = :id AND told_at IS NULL")


class PostgresLimitRequests:
    """The `LimitRequests` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def add(
        self, id: str, account_id: str, company: str, use: str, expected_load: str
    ) -> LimitRequest | None:
        """The unique index on open requests decides."""
        values = {"id": id, "account": account_id, "company": company}
        async with self._units.unit() as connection:
            added = await connection.execute(ADD, {**values, "use": use, "load": expected_load})
            if added.rowcount == 0:
                return None
            return _request((await connection.execute(ONE, {"id": id})).one())

    async def of(self, account_id: str, limit: int = 20) -> Sequence[LimitRequest]:
        """Newest first."""
        return await self._all(OF, {"account": account_id, "limit": limit})

    async def waiting(self, limit: int = 100) -> Sequence[LimitRequest]:
        """Oldest first."""
        return await self._all(WAITING, {"limit": limit})

    async def approve(self, id: str, override: Override) -> bool:
        """One transaction: neither an answer without its tier nor a tier without its answer."""
        decision = {name: getattr(override, name) for name in override.__slots__}
        answer = {"override": override.id, "operator": override.operator}
        async with self._units.unit() as connection:
            opened = await connection.execute(LOCK, {"id": id, "account": override.account_id})
            if opened.first() is None:
                return False
            await connection.execute(insert(tier_overrides).values(**decision))
            await connection.execute(APPROVE, {"id": id, "reason": override.reason, **answer})
        return True

    async def decline(self, id: str, operator: str, reason: str) -> bool:
        """Once."""
        values = {"id": id, "operator": operator, "reason": reason}
        async with self._units.unit() as connection:
            return (await connection.execute(DECLINE, values)).rowcount == 1

    async def untold(self, limit: int = 100) -> Sequence[LimitRequest]:
        """Oldest answer first."""
        return await self._all(UNTOLD, {"limit": limit})

    async def told(self, id: str) -> None:
        """Once."""
        async with self._units.unit() as connection:
            await connection.execute(TOLD, {"id": id})

    async def _all(self, query: TextClause, values: dict[str, Any]) -> Sequence[LimitRequest]:
        async with self._units.unit() as connection:
            return [_request(row) for row in await connection.execute(query, values)]


def _request(row: Any) -> LimitRequest:
    return LimitRequest(
        id=row.id.replace("-", ""),
        account_id=row.account_id.replace("-", ""),
        email=row.email,
        company=row.company,
        use=row.purpose,
        expected_load=row.expected_load,
        requested_at=row.requested_at,
        state=State(row.state),
        reason=row.reason,
        answered_at=_utc(row.answered_at),
        level=row.level,
        until=_utc(row.until),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
