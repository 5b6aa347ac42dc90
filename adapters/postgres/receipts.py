"""Receipts, logs and price versions on Postgres, read from entries and usage records."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC
from typing import Any

from sqlalchemy import text

from adapters.postgres.units import PostgresUnits
from kyma.generations import Generation, LogFilter, Logged, Place, Status
from kyma.money import ZERO, Usd
from kyma.pricing import PerToken
from kyma.usage import Attempt, Evidence, Usage, UsageRecord

RECORD = """
    u.id::text AS record_id, u.account_id::text AS record_account, u.key_id::text AS key_id,
    u.endpoint, u.requested_model, u.served_model, u.provider, u.layer, u.streamed, u.outcome,
    u.input_tokens, u.cache_read_tokens, u.cache_write_tokens, u.output_tokens,
    u.reasoning_tokens, u.evidence, u.price_version, u.charged, u.cache_discount,
    u.provider_cost, u.first_byte_ms, u.duration_ms, u.attempts, u.started_at,
    u.created_at AS recorded_at
"""

GENERATION = text(
    f"""
    SELECT h.held_paid + h.held_promo AS held, h.created_at AS held_at, o.expires_at,
           r.kind AS ended_by, r.revenue + r.loss AS settled, r.created_at AS ended_at, {RECORD}
    FROM entries h
    LEFT JOIN open_holds o ON o.hold_id = h.id
    LEFT JOIN entries r ON r.hold_id = h.id AND r.kind IN ('settle', 'refund', 'expire')
    LEFT JOIN usage_records u ON u.id = h.id
    WHERE h.id = :id AND h.account_id = :account AND h.kind = 'hold'
    """  # noqa: S608 - the piece is a constant of this module
)

LOG = f"""
    SELECT {RECORD} FROM usage_records u
    WHERE u.account_id = :account {{conditions}}
    ORDER BY u.created_at DESC, u.id DESC LIMIT :limit
"""  # noqa: S608 - the piece is a constant of this module
CONDITIONS = {
    "model": "AND u.requested_model = :model",
    "outcome": "AND u.outcome = :outcome",
    "endpoint": "AND u.endpoint = :endpoint",
    "key_id": "AND u.key_id = :key_id",
    "since": "AND u.created_at >= :since",
    "until": "AND u.created_at < :until",
    "after_at": "AND (u.created_at, u.id) < (:after_at, CAST(:after_id AS uuid))",
}
"""The index on account and time finds the place and gives the order; the id settles ties."""

REMEMBER = text(
    """
    INSERT INTO price_versions (version, model, input, output, cached, cache_write)
    SELECT :version, * FROM unnest(
        CAST(:models AS text[]), CAST(:input AS bigint[]), CAST(:output AS bigint[]),
        CAST(:cached AS bigint[]), CAST(:cache_write AS bigint[]))
    ON CONFLICT DO NOTHING
    """
)
PRICES = text(
    "SELECT model, input, output, cached, cache_write FROM price_versions"
    " WHERE version = :version AND model = ANY (:models)"
)
ENDED_BY = {
    "settle": Status.COMPLETED,
    "refund": Status.REFUNDED,
    "expire": Status.EXPIRED,
    None: Status.RUNNING,
}


class PostgresReceipts:
    """The `Receipts` and `PriceBook` ports."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def generation(self, account_id: str, id: str) -> Generation | None:
        """One statement, hence one moment: never a hold without its end."""
        async with self._units.unit() as connection:
            row = (await connection.execute(GENERATION, {"id": id, "account": account_id})).first()
        if row is None:
            return None
        return Generation(
            id=id,
            account_id=account_id,
            status=ENDED_BY[row.ended_by],
            held=Usd(row.held),
            settled=ZERO if row.settled is None else Usd(row.settled),
            held_at=row.held_at.astimezone(UTC),
            expires_at=None if row.expires_at is None else row.expires_at.astimezone(UTC),
            ended_at=None if row.ended_at is None else row.ended_at.astimezone(UTC),
            record=None if row.record_id is None else _record(row),
        )

    async def log(
        self, account_id: str, wanted: LogFilter, after: Place | None, limit: int
    ) -> Sequence[Logged]:
        """Only the conditions that were asked for are in the statement."""
        given: dict[str, Any] = {
            name: getattr(wanted, name)
            for name in wanted.__slots__
            if getattr(wanted, name) is not None
        }
        if after is not None:
            given["after_at"] = after.ended_at
        conditions = " ".join(CONDITIONS[name] for name in given)
        values = {**given, "account": account_id, "limit": limit}
        if after is not None:
            values["after_id"] = after.id
        async with self._units.unit() as connection:
            rows = (await connection.execute(text(LOG.format(conditions=conditions)), values)).all()
        return [Logged(_record(row), row.recorded_at.astimezone(UTC)) for row in rows]

    async def remember(self, version: str, prices: Mapping[str, PerToken]) -> None:
        """All rows of a version in one statement; those that are there stay."""
        columns = {
            name: [getattr(price, name) for price in prices.values()]
            for name in ("input", "output", "cached", "cache_write")
        }
        async with self._units.unit() as connection:
            await connection.execute(
                REMEMBER, {"version": version, "models": list(prices), **columns}
            )

    async def prices(self, version: str, models: Collection[str]) -> Mapping[str, PerToken]:
        """By primary key."""
        async with self._units.unit() as connection:
            rows = (
                await connection.execute(PRICES, {"version": version, "models": list(models)})
            ).all()
        return {
            row.model: PerToken(
                Usd(row.input), Usd(row.output), Usd(row.cached), Usd(row.cache_write)
            )
            for row in rows
        }


def _record(row: Any) -> UsageRecord:
    return UsageRecord(
        id=row.record_id.replace("-", ""),
        account_id=row.record_account.replace("-", ""),
        key_id=(row.key_id or "").replace("-", ""),
        endpoint=row.endpoint,
        requested_model=row.requested_model,
        served_model=row.served_model,
        provider=row.provider,
        layer=row.layer,
        streamed=row.streamed,
        outcome=row.outcome,
        usage=Usage(
            row.input_tokens,
            row.cache_read_tokens,
            row.cache_write_tokens,
            row.output_tokens,
            row.reasoning_tokens,
            Evidence(row.evidence),
        ),
        price_version=row.price_version,
        charged=Usd(row.charged),
        cache_discount=Usd(row.cache_discount),
        provider_cost=Usd(row.provider_cost),
        first_byte_ms=row.first_byte_ms,
        duration_ms=row.duration_ms,
        attempts=tuple(map(_attempt, row.attempts)),
        started_at=row.started_at.astimezone(UTC),
    )


def _attempt(told: Mapping[str, Any]) -> Attempt:
    return Attempt(
        told["provider"],
        told["upstream_model"],
        told["layer"],
        told["outcome"],
        told["duration_ms"],
    )
