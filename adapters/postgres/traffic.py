"""Traffic by model and provider: closed hours from their sums, the rest from the records.

The rule of what counts is `kyma.traffic`'s; this is the same rule in SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, text

from adapters.postgres.units import PostgresUnits
from kyma.errors import Code
from kyma.money import Usd
from kyma.traffic import DELIVERED, FAILED, FAILED_TRIES, OK, OWN_LAYERS, SUMS, Traffic

LATE = "1 minute"
"""After an hour has ended, how long a transaction of it may still commit; a unit lasts 6 s."""

REACH = "8 days"
"""How far back hours are closed at all: further than any public figure looks."""

CLOSING_TIMEOUT_S = 50.0
"""For one hour of records, however busy it was; the worker's job may take 60 s."""

_SERVED = """
    SELECT u.served_model AS model, u.provider AS provider, count(*) AS requests,
           sum(u.input_tokens + u.cache_read_tokens + u.cache_write_tokens) AS prompt_tokens,
           sum(u.cache_read_tokens) AS cached_tokens,
           sum(u.cache_write_tokens) AS cache_write_tokens,
           sum(u.output_tokens + u.reasoning_tokens) AS output_tokens,
           count(*) FILTER (WHERE u.cache_read_tokens > 0) AS cache_hits,
           sum(u.cache_discount) AS savings,
           0 AS answered, 0 AS substituted, 0 AS failed, 0 AS tries_ok, 0 AS tries_failed
    FROM span u
    WHERE u.outcome = ANY (:delivered)
    GROUP BY u.served_model, u.provider
"""

_ASKED = """
    SELECT u.requested_model, u.provider, 0, 0, 0, 0, 0, 0, 0,
           count(*) FILTER (WHERE u.outcome = :ok AND u.layer <= :own),
           count(*) FILTER (WHERE u.outcome = :ok AND u.layer > :own),
           count(*) FILTER (WHERE u.outcome <> :ok),
           0, 0
    FROM span u
    WHERE u.outcome = :ok
       OR (u.outcome = ANY (:failed) AND (u.outcome <> :interrupted OR u.provider <> ''))
    GROUP BY u.requested_model, u.provider
"""

_TRIED = """
    SELECT u.requested_model, a.provider, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
           count(*) FILTER (WHERE a.outcome = :ok), count(*) FILTER (WHERE a.outcome <> :ok)
    FROM span u
    CROSS JOIN LATERAL jsonb_to_recordset(u.attempts)
        AS a (provider text, layer integer, outcome text)
    WHERE a.layer <= :own AND (a.outcome = :ok OR a.outcome = ANY (:failed_tries))
    GROUP BY u.requested_model, a.provider
"""

_FIGURES = ", ".join(SUMS)
_SUMMED = ", ".join(f"sum({name})::bigint AS {name}" for name in SUMS)


def _tally(span: str) -> str:
    """The sums of `kyma.traffic.tally` over the records of a condition on `created_at`."""
    return f"""
        SELECT model, provider, {_SUMMED} FROM (
            WITH span AS MATERIALIZED (
                SELECT requested_model, served_model, provider, layer, outcome, input_tokens,
                       cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
                       cache_discount, attempts
                FROM usage_records WHERE {span}
            )
            {_SERVED} UNION ALL {_ASKED} UNION ALL {_TRIED}
        ) AS sums
        GROUP BY model, provider
    """  # noqa: S608 - all pieces are constants of this module


TRAFFIC = text(
    f"""
    WITH edge AS MATERIALIZED (
        SELECT coalesce(max(hour) + interval '1 hour', :since) AS at
        FROM closed_hours WHERE hour >= :since
    )
    SELECT model, provider, {_SUMMED} FROM (
        SELECT model, provider, {_FIGURES} FROM traffic_hours WHERE hour >= :since
        UNION ALL
        SELECT * FROM ({_tally("created_at >= (SELECT at FROM edge)")}) AS since_then
    ) AS hours
    GROUP BY model, provider
    ORDER BY model COLLATE "C", provider COLLATE "C"
    """  # noqa: S608 - all pieces are constants of this module
).bindparams(bindparam("since"))

NEXT_HOUR = text(
    f"""
    SELECT h.next FROM (
        SELECT greatest(f.first, date_trunc('hour', now() - interval '{REACH}', 'UTC')) AS next
        FROM (
            SELECT coalesce(
                (SELECT max(hour) + interval '1 hour' FROM closed_hours),
                (SELECT date_trunc('hour', min(created_at), 'UTC') FROM usage_records)
            ) AS first
        ) AS f
        WHERE f.first IS NOT NULL
    ) AS h
    WHERE h.next + interval '1 hour' <= now() - interval '{LATE}'
    """  # noqa: S608 - all pieces are constants of this module
)
"""The hour to close next, if it is over: hours are closed in order and without a gap."""

CLOSE = text(
    f"""
    WITH closed AS (
        INSERT INTO closed_hours (hour) VALUES (:hour) ON CONFLICT DO NOTHING RETURNING hour
    )
    INSERT INTO traffic_hours (hour, model, provider, {_FIGURES})
    SELECT closed.hour, t.model, t.provider, {", ".join("t." + name for name in SUMS)}
    FROM closed CROSS JOIN (
        {_tally("created_at >= :hour AND created_at < CAST(:hour AS timestamptz) + interval '1 hour'")}
    ) AS t
    """  # noqa: S608, E501 - all pieces are constants of this module
)

RULE: dict[str, Any] = {
    "ok": OK,
    "own": OWN_LAYERS,
    "delivered": list(DELIVERED),
    "failed": list(FAILED),
    "failed_tries": list(FAILED_TRIES),
    "interrupted": Code.STREAM_INTERRUPTED.value,
}


async def traffic_since(units: PostgresUnits, since: datetime) -> Sequence[Traffic]:
    """Sums since a whole hour: some thousand rows of closed hours, and the records since."""
    async with units.unit() as connection:
        rows = (await connection.execute(TRAFFIC, {**RULE, "since": since})).all()
    found = []
    for row in rows:
        figures = {name: getattr(row, name) for name in SUMS}
        figures["savings"] = Usd(figures["savings"])
        found.append(Traffic(row.model, row.provider, **figures))
    return found


async def close_hours(units: PostgresUnits, limit: int) -> int:
    """Sum up hours that are over, oldest first, at most `limit`; how many. Safe beside itself."""
    for done in range(limit):
        async with units.unit(CLOSING_TIMEOUT_S) as connection:
            row = (await connection.execute(NEXT_HOUR)).one_or_none()
            if row is None:
                return done
            await connection.execute(CLOSE, {**RULE, "hour": row.next})
    return limit
