"""Referrals on Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from adapters.postgres.units import PostgresUnits
from kyma.referrals import Referral, Referrer, State, Tally

PROPOSE = text(
    "INSERT INTO referral_codes (account_id, code) VALUES (:account, :code) ON CONFLICT DO NOTHING"
)
CODE = text("SELECT code FROM referral_codes WHERE account_id = :account")
OWNER = text(
    """
    SELECT a.id::text AS id, a.email FROM referral_codes c
    JOIN accounts a ON a.id = c.account_id WHERE c.code = :code
    """
)
SELECT = """
    SELECT id::text AS id, referrer_id::text AS referrer_id, referred_id::text AS referred_id,
           state, created_at, tokens, verified_at, paid_at
    FROM referrals
    """
MADE_BY = text(
    SELECT + "WHERE referrer_id = :account ORDER BY created_at DESC, id DESC LIMIT :limit"
)
TALLY = text(
    "SELECT state, count(*) AS count FROM referrals WHERE referrer_id = :account GROUP BY state"
)
VOID = text(
    """
    UPDATE referrals SET state = 'void', voided_at = now(), operator = :operator, reason = :reason
    WHERE id = :id AND state = 'pending'
    """
)
COUNT = text(
    """
    WITH due AS MATERIALIZED (
        SELECT id, referred_id, counted_until FROM referrals
        WHERE state = 'pending' AND counted_until < now() - make_interval(secs => :every)
        ORDER BY counted_until LIMIT :limit FOR UPDATE SKIP LOCKED
    ), span AS MATERIALIZED (
        SELECT d.id, d.referred_id, d.counted_until AS since, least(
            (SELECT u.created_at FROM usage_records u
             WHERE u.account_id = d.referred_id AND u.created_at >= d.counted_until
             ORDER BY u.created_at LIMIT 1) + interval '1 hour',
            now() - make_interval(secs => :lag)) AS until
        FROM due d
    ), added AS MATERIALIZED (
        SELECT s.id, s.until,
               (SELECT email_verified_at IS NOT NULL FROM accounts a
                WHERE a.id = s.referred_id) AS known, coalesce((
            SELECT sum(input_tokens + cache_read_tokens + cache_write_tokens + output_tokens
                       + reasoning_tokens) FROM usage_records u
            WHERE u.account_id = s.referred_id AND u.created_at >= s.since
              AND u.created_at < s.until), 0)::bigint AS tokens
        FROM span s
    )
    UPDATE referrals r SET tokens = r.tokens + a.tokens, counted_until = a.until,
        state = CASE WHEN a.known AND r.tokens + a.tokens >= :needed
                     THEN 'verified' ELSE r.state END,
        verified_at = CASE WHEN a.known AND r.tokens + a.tokens >= :needed THEN now() END
    FROM added a WHERE r.id = a.id
    """
)
"""`least` passes over NULL: without records the count moves on at once. With them it moves by an
hour from the first, so that a worker that was away long does not read a week in one statement."""

UNPAID = text(
    SELECT + "WHERE state = 'verified' AND paid_at IS NULL ORDER BY verified_at LIMIT :limit"
)
PAID = text(
    """
    UPDATE referrals SET paid_at = now()
    WHERE id = :id AND state = 'verified' AND paid_at IS NULL
    """
)


class PostgresReferrals:
    """The `ReferralBook` and `ReferralCounter` ports."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def code(self, account_id: str, proposed: str) -> str | None:
        """Two at once propose two codes, and read the one that stood."""
        async with self._units.unit() as connection:
            await connection.execute(PROPOSE, {"account": account_id, "code": proposed})
            found: str | None = await connection.scalar(CODE, {"account": account_id})
        return found

    async def owner(self, code: str) -> Referrer | None:
        """By exact code."""
        async with self._units.unit() as connection:
            row = (await connection.execute(OWNER, {"code": code})).first()
        return None if row is None else Referrer(_hex(row.id), row.email)

    async def made_by(self, account_id: str, limit: int = 100) -> Sequence[Referral]:
        """Newest first."""
        async with self._units.unit() as connection:
            rows = await connection.execute(MADE_BY, {"account": account_id, "limit": limit})
            return [_referral(row) for row in rows]

    async def tally(self, account_id: str) -> Tally:
        """By the index on the referrer."""
        async with self._units.unit() as connection:
            rows = await connection.execute(TALLY, {"account": account_id})
            counts = {State(row.state): int(row[1]) for row in rows}
        return Tally(*(counts.get(state, 0) for state in State))

    async def void(self, id: str, operator: str, reason: str) -> bool:
        """Only a pending one."""
        values = {"id": id, "operator": operator, "reason": reason}
        async with self._units.unit() as connection:
            return (await connection.execute(VOID, values)).rowcount == 1

    async def count(self, needed: int, every_s: int, lag_s: int, limit: int = 100) -> int:
        """One statement; rows that another counts at this moment are passed over."""
        values = {"needed": needed, "every": every_s, "lag": lag_s, "limit": limit}
        async with self._units.unit() as connection:
            return (await connection.execute(COUNT, values)).rowcount

    async def unpaid(self, limit: int = 100) -> Sequence[Referral]:
        """Oldest first."""
        async with self._units.unit() as connection:
            rows = await connection.execute(UNPAID, {"limit": limit})
            return [_referral(row) for row in rows]

    async def paid(self, id: str) -> None:
        """Once."""
        async with self._units.unit() as connection:
            await connection.execute(PAID, {"id": id})


def _referral(row: Any) -> Referral:
    return Referral(
        _hex(row.id),
        _hex(row.referrer_id),
        _hex(row.referred_id),
        State(row.state),
        row.created_at,
        row.tokens,
        _utc(row.verified_at),
        _utc(row.paid_at),
    )


def _hex(id: str) -> str:
    return id.replace("-", "")


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
