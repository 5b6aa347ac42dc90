"""Claims on idempotency keys on Postgres: one row per key, its request id the fence."""

from __future__ import annotations

from typing import Any

from sqlalchemy import TextClause, text

from adapters.postgres.units import PostgresUnits
from kyma.idempotency import KEEP_S, KnownClaim, State
from kyma.ports.storage import StorageUnavailable

CLAIM = text(
    """
    INSERT INTO idempotency_claims AS c
        (account_id, key, fingerprint, request_id, lease_until, forget_at)
    VALUES (:account, :key, :fingerprint, :request, now() + make_interval(secs => :ttl),
            now() + make_interval(secs => :keep))
    ON CONFLICT (account_id, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, request_id = excluded.request_id,
        state = 'running', claimed_at = now(), lease_until = excluded.lease_until,
        forget_at = excluded.forget_at, sealed = NULL, sealed_until = NULL
    WHERE c.forget_at <= now()
    RETURNING true
    """
)
"""A claim whose day is over is as good as none, whether the worker has tidied it up or not."""

KNOWN = text(
    """
    SELECT fingerprint, request_id::text AS request_id, state, lease_until <= now() AS overdue,
           extract(epoch FROM now() - claimed_at)::float8 AS age_s,
           extract(epoch FROM lease_until - now())::float8 AS left_s,
           CASE WHEN sealed_until > now() THEN sealed END AS sealed
    FROM idempotency_claims WHERE account_id = :account AND key = :key
    """
)
TAKE_OVER = text(
    """
    UPDATE idempotency_claims
    SET request_id = :request, claimed_at = now(), sealed = NULL, sealed_until = NULL,
        lease_until = now() + make_interval(secs => :ttl),
        forget_at = now() + make_interval(secs => :keep)
    WHERE account_id = :account AND key = :key AND request_id = :former AND state = 'running'
    """
)
RENEW = text(
    """
    UPDATE idempotency_claims
    SET claimed_at = now(), lease_until = now() + make_interval(secs => :ttl),
        forget_at = now() + make_interval(secs => :keep)
    WHERE account_id = :account AND key = :key AND request_id = :request AND state = 'running'
        AND lease_until <= now()
    """
)
"""Whoever comes second waits for the row, and then finds a lease that is not overdue."""

FINISH = text(
    """
    UPDATE idempotency_claims
    SET state = 'finished', sealed = CAST(:sealed AS bytea),
        sealed_until = CASE WHEN CAST(:sealed AS bytea) IS NOT NULL
                            THEN now() + make_interval(secs => :keep) END
    WHERE account_id = :account AND key = :key AND request_id = :request
    """
)
RELEASE = text(
    """
    DELETE FROM idempotency_claims
    WHERE account_id = :account AND key = :key AND request_id = :request AND state = 'running'
    """
)
FORGET = text(
    """
    DELETE FROM idempotency_claims WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idempotency_claims WHERE forget_at <= now() LIMIT :limit
        FOR UPDATE SKIP LOCKED))
    """
)
UNSEAL = text(
    """
    UPDATE idempotency_claims SET sealed = NULL, sealed_until = NULL WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idempotency_claims WHERE sealed_until <= now() LIMIT :limit
        FOR UPDATE SKIP LOCKED))
    """
)
TRIES = 5
"""How often a claim may vanish between the attempt to make it and the look at whose it is."""


class PostgresClaims:
    """The `Claims` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def claim(
        self,
        account_id: str,
        key: bytes,
        fingerprint: bytes,
        request_id: str,
        ttl_s: int,
        keep_s: int = KEEP_S,
    ) -> KnownClaim | None:
        """The primary key decides who was first."""
        mine = {"account": account_id, "key": key}
        new = {"fingerprint": fingerprint, "request": request_id, "ttl": ttl_s, "keep": keep_s}
        async with self._units.unit() as connection:
            for _ in range(TRIES):
                if (await connection.execute(CLAIM, {**mine, **new})).first() is not None:
                    return None
                row = (await connection.execute(KNOWN, mine)).first()
                if row is not None:
                    return _known(row)
        raise StorageUnavailable("a claim came and went too often to be read")

    async def take_over(
        self, account_id: str, key: bytes, former_id: str, request_id: str, ttl_s: int
    ) -> bool:
        """Only from the one it was read from."""
        values = {"former": former_id, "request": request_id, "ttl": ttl_s, "keep": KEEP_S}
        return await self._one(TAKE_OVER, {"account": account_id, "key": key, **values})

    async def renew(self, account_id: str, key: bytes, request_id: str, ttl_s: int) -> bool:
        """Only once it is overdue."""
        values = {"request": request_id, "ttl": ttl_s, "keep": KEEP_S}
        return await self._one(RENEW, {"account": account_id, "key": key, **values})

    async def finish(
        self, account_id: str, key: bytes, request_id: str, sealed: bytes | None, keep_s: int
    ) -> bool:
        """Only one's own."""
        values = {"request": request_id, "sealed": sealed, "keep": keep_s}
        return await self._one(FINISH, {"account": account_id, "key": key, **values})

    async def release(self, account_id: str, key: bytes, request_id: str) -> bool:
        """Only one's own, and only while it runs."""
        values = {"account": account_id, "key": key, "request": request_id}
        return await self._one(RELEASE, values)

    async def tidy(self, limit: int = 5000) -> int:
        """Two short statements; rows somebody works on are left for the next time."""
        async with self._units.unit() as connection:
            forgotten = await connection.execute(FORGET, {"limit": limit})
            unsealed = await connection.execute(UNSEAL, {"limit": limit})
        return forgotten.rowcount + unsealed.rowcount

    async def _one(self, statement: TextClause, values: dict[str, Any]) -> bool:
        async with self._units.unit() as connection:
            return (await connection.execute(statement, values)).rowcount == 1


def _known(row: Any) -> KnownClaim:
    return KnownClaim(
        bytes(row.fingerprint),
        row.request_id.replace("-", ""),
        State(row.state),
        overdue=row.overdue,
        age_s=row.age_s,
        left_s=row.left_s,
        sealed=None if row.sealed is None else bytes(row.sealed),
    )
