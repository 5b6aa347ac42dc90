"""The analysts' SQL: every figure is summed from usage records when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.postgres.traffic import close_hours, traffic_since
from adapters.postgres.units import PostgresUnits
from kyma.money import Usd
from kyma.traffic import Traffic
from kyma.usage import CacheUsage, CustomerUsage, Period

IN_PERIOD = """
    u.started_at >= :since AND u.started_at < :until
    AND u.created_at >= CAST(:since AS timestamptz) - interval '1 day'
"""
"""A record is stored after its request began: the last line only lets the index on
`created_at` narrow the search; its day is room for clocks that disagree."""


def _customers(order: str) -> TextClause:
    return text(
        f"""
        SELECT c.account_id::text AS account_id, coalesce(a.email, '') AS email,
               c.spend, c.tokens, c.requests, c.provider_cost
        FROM (
            SELECT u.account_id,
                   sum(u.charged)::bigint AS spend,
                   sum(u.input_tokens + u.cache_read_tokens + u.cache_write_tokens
                       + u.output_tokens + u.reasoning_tokens)::bigint AS tokens,
                   count(*) AS requests,
                   sum(u.provider_cost)::bigint AS provider_cost
            FROM usage_records u
            WHERE {IN_PERIOD}
            GROUP BY u.account_id
            ORDER BY {order} DESC, u.account_id
            LIMIT :limit
        ) c
        LEFT JOIN accounts a ON a.id = c.account_id
        ORDER BY c.{order} DESC, c.account_id
        """  # noqa: S608 - both pieces are constants of this module
    )


TOP_CUSTOMERS = {order: _customers(order) for order in ("spend", "tokens", "requests")}

CACHE_USAGE = text(
    f"""
    SELECT date_trunc('day', u.started_at, 'UTC') AS day, u.served_model AS model,
           count(*) AS requests,
           sum(u.input_tokens + u.cache_read_tokens + u.cache_write_tokens)::bigint
               AS prompt_tokens,
           sum(u.cache_read_tokens)::bigint AS cached_tokens,
           sum(u.cache_write_tokens)::bigint AS cache_write_tokens,
           sum(u.cache_discount)::bigint AS savings
    FROM usage_records u
    WHERE {IN_PERIOD}
    GROUP BY day, model
    ORDER BY day, u.served_model COLLATE "C"
    """  # noqa: S608 - the piece is a constant of this module
)


class PostgresReports:
    """The `Reports` port."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._units = PostgresUnits(engine)

    async def top_customers(
        self, period: Period, order_by: str = "spend", limit: int = 20
    ) -> Sequence[CustomerUsage]:
        """One grouped query; equal figures come in the order of account ids."""
        rows = await self._all(TOP_CUSTOMERS[order_by], {**_span(period), "limit": limit})
        return [
            CustomerUsage(
                account_id=row.account_id.replace("-", ""),
                email=row.email,
                spend=Usd(row.spend),
                tokens=row.tokens,
                requests=row.requests,
                provider_cost=Usd(row.provider_cost),
            )
            for row in rows
        ]

    async def cache_usage(self, period: Period) -> Sequence[CacheUsage]:
        """One grouped query by UTC day and served model."""
        return [
            CacheUsage(
                day=row.day.astimezone(UTC),
                model=row.model,
                requests=row.requests,
                prompt_tokens=row.prompt_tokens,
                cached_tokens=row.cached_tokens,
                cache_write_tokens=row.cache_write_tokens,
                savings=Usd(row.savings),
            )
            for row in await self._all(CACHE_USAGE, _span(period))
        ]

    async def requests_since(self, account_id: str, since: datetime) -> int:
        """Counted on the account's index."""
        (row,) = await self._all(
            text(
                "SELECT count(*) AS n FROM usage_records"
                " WHERE account_id = :account AND created_at >= :since"
            ),
            {"account": account_id, "since": since},
        )
        return int(row.n)

    async def traffic(self, since: datetime) -> Sequence[Traffic]:
        """Closed hours from their sums, the hours since from the records."""
        return await traffic_since(self._units, since)

    async def close_hours(self, limit: int = 24) -> int:
        """Sum up at most `limit` hours that are over; how many. For the worker."""
        return await close_hours(self._units, limit)

    async def database_time(self) -> datetime:
        """The server's `now()`."""
        (row,) = await self._all(text("SELECT now() AS now"), {})
        now: datetime = row.now
        return now.astimezone(UTC)

    async def _all(self, query: TextClause, values: dict[str, Any]) -> Sequence[Any]:
        async with self._units.unit() as connection:
            rows: Sequence[Any] = (await connection.execute(query, values)).all()
        return rows


def _span(period: Period) -> dict[str, Any]:
    return {"since": period.since, "until": period.until}
