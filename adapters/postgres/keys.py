"""Keys and sign-ins on Postgres, beyond the look-ups that every request makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres.tables import api_keys
from adapters.postgres.units import PostgresUnits
from kyma.accounts import Key, Session
from kyma.keys import Policy, Scope
from kyma.ledger import KeyMonth
from kyma.money import Usd
from kyma.ports.storage import Principal

MONTHS = text(
    """
    SELECT k.id::text AS id, k.monthly_cap, coalesce(m.spent, 0) AS spent,
           coalesce(m.reserved, 0) AS reserved
    FROM api_keys k
    LEFT JOIN key_months m
        ON m.key_id = k.id AND m.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
    WHERE k.account_id = :id AND k.monthly_cap IS NOT NULL
    """
)
SET_CAP = text("SELECT key_cap(:account, :key, :cap)")

# Whoever ends all sessions of an account holds its row; whoever gives something away in the name
# of one shares it, and looks afterwards. Always the account first, then its codes, then its keys.
LOCK_ACCOUNT = text("SELECT true FROM accounts WHERE id = :account FOR NO KEY UPDATE")
SHARE_ACCOUNT = text("SELECT true FROM accounts WHERE id = :account FOR SHARE")
IS_SIGNED_IN = text(
    """
    SELECT true FROM sessions WHERE account_id = :account AND substring(digest FOR 16) = :half
        AND ended_at IS NULL AND expires_at > now()
    """
)
IS_LIVE = text(
    "SELECT true FROM api_keys WHERE id = :key AND account_id = :account AND revoked_at IS NULL"
)
# Nobody's digest is empty.
END_SESSIONS = text(
    """
    UPDATE sessions SET ended_at = now() WHERE account_id = :account AND ended_at IS NULL
        AND expires_at > now() AND digest <> :kept
    """
)
# The state ends it for a transaction that began before and judges the time by its beginning.
END_DEVICES = text(
    """
    UPDATE device_codes SET state = 'denied', expires_at = created_at
    WHERE account_id = :account AND state = 'approved'
    """
)
END_CODES = text(
    """
    UPDATE authorization_codes SET used_at = now()
    WHERE account_id = :account AND used_at IS NULL
    """
)


class PostgresKeys:
    """The `Keys` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def create(self, key: Key, by: Principal | None = None) -> bool:
        """One row, and its cap."""
        async with self._units.unit() as connection:
            if by is not None and not await _may_act(connection, by):
                return False
            return await add_key(connection, key)

    async def edit(
        self,
        account_id: str,
        key_id: str,
        decide: Callable[[Key], Key],
        by: Principal | None = None,
    ) -> Key | None:
        """Under the row's lock. The cap is set last: it locks the balance, as every hold does."""
        mine = (api_keys.c.id == key_id, api_keys.c.account_id == account_id)
        query = select(api_keys).where(*mine, api_keys.c.revoked_at.is_(None)).with_for_update()
        async with self._units.unit() as connection:
            if by is not None and not await _may_act(connection, by):
                return None
            row = (await connection.execute(query)).first()
            if row is None:
                return None
            key = key_of(row)
            changed = decide(key)
            await connection.execute(update(api_keys).where(*mine).values(**_editable(changed)))
            if changed.policy.monthly_cap != key.policy.monthly_cap:
                await _set_cap(connection, changed)
        return changed

    async def months(self, account_id: str) -> Mapping[str, KeyMonth]:
        """Of keys with a cap."""
        async with self._units.unit() as connection:
            rows = (await connection.execute(MONTHS, {"id": account_id})).all()
        return {
            row.id.replace("-", ""): KeyMonth(
                Usd(row.monthly_cap), Usd(row.spent), Usd(row.reserved)
            )
            for row in rows
        }


class PostgresSignIns:
    """The `SignIns` port. A session that ended keeps its row for a day."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def of(self, account_id: str) -> Sequence[Session]:
        """Live ones, newest first."""
        query = text(
            "SELECT * FROM sessions WHERE account_id = :id AND ended_at IS NULL"
            " AND expires_at > now() ORDER BY created_at DESC, digest DESC"
        )
        async with self._units.unit() as connection:
            return [_session(row) for row in (await connection.execute(query, {"id": account_id}))]

    async def end(self, account_id: str, session_id: str) -> bool:
        """By the half of the digest that is shown."""
        query = text(
            "UPDATE sessions SET ended_at = now() WHERE account_id = :id AND ended_at IS NULL"
            " AND expires_at > now() AND substring(digest FOR 16) = :half"
        )
        values = {"id": account_id, "half": bytes.fromhex(session_id.replace("-", ""))}
        async with self._units.unit() as connection:
            return (await connection.execute(query, values)).rowcount > 0

    async def end_all(self, account_id: str, except_digest: bytes | None = None) -> int:
        """All but one, under the account's lock."""
        async with self._units.unit() as connection:
            return await end_sessions(connection, account_id, except_digest or b"")


async def end_sessions(connection: AsyncConnection, account_id: str, kept: bytes = b"") -> int:
    """End all sessions but one, and what they allowed and nobody has fetched; how many.

    What else the transaction locks of the account's it locks afterwards.
    """
    mine = {"account": account_id}
    await connection.execute(LOCK_ACCOUNT, mine)
    ended = await connection.execute(END_SESSIONS, {**mine, "kept": kept})
    await connection.execute(END_DEVICES, mine)
    await connection.execute(END_CODES, mine)
    return ended.rowcount


async def is_signed_in(connection: AsyncConnection, account_id: str, session_id: str) -> bool:
    """Whether a session lives, and what the transaction does in its name ends with all of them.

    Looked at in a statement of its own: one that waited sees what was before it waited.
    """
    mine = {"account": account_id}
    await connection.execute(SHARE_ACCOUNT, mine)
    half = bytes.fromhex(session_id)
    return bool(await connection.scalar(IS_SIGNED_IN, {**mine, "half": half}))


async def _may_act(connection: AsyncConnection, by: Principal) -> bool:
    """As `is_signed_in`, for keys too: what revokes all of them holds the account's row."""
    if by.session_id:
        return await is_signed_in(connection, by.account_id, by.session_id)
    await connection.execute(SHARE_ACCOUNT, {"account": by.account_id})
    return bool(await connection.scalar(IS_LIVE, {"account": by.account_id, "key": by.key_id}))


async def add_key(connection: AsyncConnection, key: Key) -> bool:
    """A new key in a transaction that may have more in it; False if there is one with its id."""
    added = await connection.execute(
        insert(api_keys)
        .values(id=key.id, account_id=key.account_id, created_at=key.created_at, **_editable(key))
        .on_conflict_do_nothing(index_elements=["id"])
    )
    if added.rowcount == 0:
        return False
    if key.policy.monthly_cap is not None:
        await _set_cap(connection, key)
    return True


async def _set_cap(connection: AsyncConnection, key: Key) -> None:
    values = {"account": key.account_id, "key": key.id, "cap": key.policy.monthly_cap}
    await connection.execute(SET_CAP, values)


def _editable(key: Key) -> dict[str, Any]:
    """All that may change about a key but its cap, its last use and its end."""
    return {
        "name": key.name,
        "digest": key.digest,
        "prefix": key.prefix,
        "last4": key.last4,
        "replay_minutes": key.replay_minutes,
        "scopes": sorted(key.policy.scopes),
        "allowed_models": sorted(key.policy.models),
        "networks": [str(network) for network in key.policy.networks],
        "expires_at": key.policy.expires_at,
        "previous_digest": key.previous_digest,
        "previous_until": key.previous_until,
    }


def policy_of(row: Any) -> Policy:
    """What a row of `api_keys` allows."""
    return Policy(
        frozenset(Scope(scope) for scope in row.scopes),
        frozenset(row.allowed_models),
        tuple(ip_network(network) for network in row.networks),
        None if row.monthly_cap is None else Usd(row.monthly_cap),
        _utc(row.expires_at),
    )


def key_of(row: Any) -> Key:
    """A row of `api_keys`."""
    return Key(
        row.id.replace("-", ""),
        row.account_id.replace("-", ""),
        row.name,
        bytes(row.digest),
        row.prefix,
        row.last4,
        row.created_at,
        _utc(row.revoked_at),
        row.replay_minutes,
        policy_of(row),
        _utc(row.used_at),
        None if row.previous_digest is None else bytes(row.previous_digest),
        _utc(row.previous_until),
    )


def _session(row: Any) -> Session:
    return Session(
        str(row.account_id).replace("-", ""),
        bytes(row.digest),
        row.created_at,
        row.expires_at,
        row.user_agent,
        _utc(row.used_at),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
