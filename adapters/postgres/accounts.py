"""Accounts, keys, sessions, overrides and operators on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import Select, and_, func, insert, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres.keys import add_key, key_of, policy_of
from adapters.postgres.tables import (
    accounts,
    api_keys,
    balances,
    operators,
    sessions,
    tier_overrides,
)
from adapters.postgres.units import PostgresUnits
from kyma.accounts import Account, Key, Operator, Session
from kyma.money import Usd
from kyma.ports.storage import Principal, StorageUnavailable
from kyma.tiers import Override, Standing

log = structlog.get_logger("kyma.accounts")

PRINCIPALS = text(
    """
    SELECT s.digest, a.id::text AS account_id, a.email, b.deposited,
           s.key_id, s.replay_minutes, s.scopes, s.allowed_models, s.networks, s.monthly_cap,
           s.expires_at, s.works_until, coalesce(s.used_at < now() - interval '1 hour', true)
               AS is_use_news,
           o.id::text AS override_id, o.level, o.operator, o.reason, o.granted_at, o.until
    FROM (
        SELECT digest, account_id, id::text AS key_id, replay_minutes, scopes, allowed_models,
               networks, monthly_cap, expires_at, expires_at AS works_until, used_at
        FROM api_keys WHERE digest = ANY (:digests) AND revoked_at IS NULL
        UNION ALL
        SELECT previous_digest, account_id, id::text, replay_minutes, scopes, allowed_models,
               networks, monthly_cap, expires_at, least(expires_at, previous_until), used_at
        FROM api_keys WHERE previous_digest = ANY (:digests) AND revoked_at IS NULL
        UNION ALL
        SELECT digest, account_id, NULL, 0, NULL, NULL, NULL, NULL, NULL, expires_at, used_at
        FROM sessions WHERE digest = ANY (:digests) AND ended_at IS NULL
    ) s
    JOIN accounts a ON a.id = s.account_id
    JOIN balances b ON b.account_id = a.id
    LEFT JOIN LATERAL (
        SELECT * FROM tier_overrides WHERE account_id = a.id ORDER BY seq DESC LIMIT 1
    ) o ON true
    """
)
# Whoever is writing the row anyway is not waited for: the next look-up notes the use.
NOTE_USES = (
    text(
        """
        UPDATE api_keys SET used_at = now() WHERE id IN (
            SELECT id FROM api_keys
            WHERE digest = ANY (:digests) OR previous_digest = ANY (:digests)
            FOR NO KEY UPDATE SKIP LOCKED)
        """
    ),
    text(
        """
        UPDATE sessions SET used_at = now() WHERE digest IN (
            SELECT digest FROM sessions WHERE digest = ANY (:digests)
            FOR NO KEY UPDATE SKIP LOCKED)
        """
    ),
)
MAX_LOOK_UPS = 200
"""Secrets asked for in one query; those that arrive meanwhile form the next."""


SIGN_UP_CREDIT = text("SELECT ledger_credit(:id, 'grant', :id, :bonus, 'sign-up credit', '')")
ADD_REFERRAL = text(
    "INSERT INTO referrals (id, referrer_id, referred_id)"
    " VALUES (gen_random_uuid(), :referrer, :referred)"
)
# The account's row is shared, so that a new password waits for the session, and ends it, or the
# session for the new password, and is none.
ADD_SESSION = text(
    """
    INSERT INTO sessions (digest, account_id, created_at, expires_at, user_agent)
    SELECT CAST(:digest AS bytea), id, CAST(:created_at AS timestamptz),
           CAST(:expires_at AS timestamptz), CAST(:user_agent AS text)
    FROM accounts
    WHERE id = :account_id
        AND password_hash = coalesce(CAST(:password_hash AS text), password_hash)
    FOR SHARE
    """
)
CHANGES = text(
    "SELECT string_agg(replace(account_id::text, '-', '') || changed_at::text, ',')"
    " FROM account_changes WHERE changed_at > now() - interval '60 seconds'"
)
"""All in one row: every process asks this twice a second, and a row of its own costs some 8 µs."""


class PostgresAccounts:
    """The `Accounts` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units
        self._wanted: dict[bytes, asyncio.Future[Principal | None]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def principal(self, digest: bytes) -> Principal | None:
        """Owner of a live key or session, with deposits and latest override.

        Look-ups that arrive together share a query: a burst of new keys is not a burst of
        connections.
        """
        loop = asyncio.get_running_loop()
        waiting = self._wanted.get(digest)
        if waiting is None:
            waiting = self._wanted[digest] = loop.create_future()
        if self._looking is None:
            self._looking = loop.create_task(self._look_up_all())
        return await asyncio.shield(waiting)

    async def _look_up_all(self) -> None:
        try:
            while self._wanted:
                digests = list(self._wanted)[:MAX_LOOK_UPS]
                batch = {digest: self._wanted.pop(digest) for digest in digests}
                try:
                    rows = await self._principals(digests)
                    found = {bytes(row.digest): _principal(row) for row in rows}
                    await self._note_uses([bytes(row.digest) for row in rows if row.is_use_news])
                except Exception as error:  # noqa: BLE001 - raised again to every waiter
                    for waiting in batch.values():
                        waiting.set_exception(error)
                        waiting.exception()  # retrieved, in case its waiter was cancelled
                    continue
                for digest, waiting in batch.items():
                    waiting.set_result(found.get(digest))
        finally:
            self._looking = None

    async def _principals(self, digests: list[bytes]) -> Sequence[Any]:
        async with self._units.unit() as connection:
            rows: Sequence[Any] = (await connection.execute(PRINCIPALS, {"digests": digests})).all()
        return rows

    async def _note_uses(self, digests: list[bytes]) -> None:
        """Once an hour for each; in a unit of its own, so that nobody's request depends on it."""
        if not digests:
            return
        try:
            async with self._units.unit() as connection:
                for statement in NOTE_USES:
                    await connection.execute(statement, {"digests": digests})
        except StorageUnavailable as error:
            log.warning("uses_not_noted", count=len(digests), error=str(error)[:200])

    async def changes(self) -> Set[tuple[str, str]]:
        """Read by time and not by number, for a late commit must not be missed."""
        async with self._units.unit() as connection:
            told: str | None = await connection.scalar(CHANGES)
        return {(change[:32], change[32:]) for change in told.split(",")} if told else set()

    async def tidy(self) -> None:
        """Delete notes of changes that every process has read, and sessions long over."""
        async with self._units.unit() as connection:
            await connection.execute(
                text("DELETE FROM account_changes WHERE changed_at < now() - interval '1 hour'")
            )
            await connection.execute(
                text(
                    "DELETE FROM sessions WHERE expires_at < now() - interval '1 day'"
                    " OR ended_at < now() - interval '1 day'"
                )
            )

    async def register(self, account: Account, key: Key, session: Session, bonus: Usd) -> bool:
        """Account, balance, bonus, key and session, all or nothing."""
        async with self._units.unit() as connection:
            return await add_account(connection, account, key, session, bonus)

    async def by_email(self, email: str) -> Account | None:
        """By address, any case."""
        query = select(accounts).where(
            func.lower(accounts.c.email) == func.lower(email), accounts.c.bound
        )
        async with self._units.unit() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else _account(row)

    async def find(self, text: str, limit: int = 20) -> Sequence[Account]:
        """By part of the address or by whole id."""
        pattern = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        by_id = func.replace(accounts.c.id.cast(_TEXT), "-", "") == text.replace("-", "").lower()
        query = (
            select(accounts)
            .where(or_(accounts.c.email.ilike(f"%{pattern}%"), by_id))
            .order_by(by_id.desc(), accounts.c.created_at.desc())
            .limit(limit)
        )
        return [_account(row) for row in await self._all(query)]

    async def keys(self, account_id: str) -> Sequence[Key]:
        """All keys, newest first."""
        query = (
            select(api_keys)
            .where(api_keys.c.account_id == account_id)
            .order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc())
        )
        return [key_of(row) for row in await self._all(query)]

    async def add_session(self, session: Session, password_hash: str | None = None) -> bool:
        """Store a session, if the password is still the account's."""
        values = {
            "digest": session.digest,
            "account_id": session.account_id,
            "created_at": session.created_at,
            "expires_at": session.expires_at,
            "user_agent": session.user_agent,
            "password_hash": password_hash,
        }
        async with self._units.unit() as connection:
            return (await connection.execute(ADD_SESSION, values)).rowcount == 1

    async def revoke_key(self, account_id: str, key_id: str) -> Key | None:
        """Set the time of revocation once; a second call changes nothing."""
        async with self._units.unit() as connection:
            row = (
                await connection.execute(
                    update(api_keys)
                    .where(and_(api_keys.c.id == key_id, api_keys.c.account_id == account_id))
                    .values(revoked_at=func.coalesce(api_keys.c.revoked_at, func.now()))
                    .returning(*api_keys.c)
                )
            ).first()
        return None if row is None else key_of(row)

    async def standing(self, account_id: str) -> Standing | None:
        """Deposits and override, read now."""
        latest = (
            select(tier_overrides)
            .where(tier_overrides.c.account_id == account_id)
            .order_by(tier_overrides.c.seq.desc())
            .limit(1)
        )
        async with self._units.unit() as connection:
            deposited = await connection.scalar(
                select(balances.c.deposited).where(balances.c.account_id == account_id)
            )
            row = (await connection.execute(latest)).first()
        if deposited is None:
            return None
        return Standing(account_id, Usd(deposited), None if row is None else _override(row))

    async def _all(self, query: Select[Any]) -> Sequence[Any]:
        async with self._units.unit() as connection:
            rows: Sequence[Any] = (await connection.execute(query)).all()
        return rows


class PostgresOverrides:
    """The `Overrides` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def add(self, override: Override) -> None:
        """Append a row."""
        async with self._units.unit() as connection:
            await connection.execute(insert(tier_overrides).values(**_columns(override)))

    async def history(self, account_id: str) -> Sequence[Override]:
        """Newest first."""
        query = (
            select(tier_overrides)
            .where(tier_overrides.c.account_id == account_id)
            .order_by(tier_overrides.c.seq.desc())
        )
        async with self._units.unit() as connection:
            return [_override(row) for row in (await connection.execute(query)).all()]


class PostgresOperators:
    """The `Operators` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def add(self, operator: Operator) -> bool:
        """Insert unless the name is taken."""
        async with self._units.unit() as connection:
            result = await connection.execute(
                upsert(operators).values(**_columns(operator)).on_conflict_do_nothing()
            )
        return result.rowcount == 1

    async def by_name(self, name: str) -> Operator | None:
        """By exact name."""
        async with self._units.unit() as connection:
            row = (
                await connection.execute(select(operators).where(operators.c.name == name))
            ).first()
        return None if row is None else Operator(row.name, row.password_hash, row.created_at)

    async def count(self) -> int:
        """How many."""
        async with self._units.unit() as connection:
            return int(await connection.scalar(select(func.count()).select_from(operators)) or 0)


async def add_account(
    connection: AsyncConnection, account: Account, key: Key, session: Session, bonus: Usd
) -> bool:
    """A registration in a transaction that may have more in it; False if the address is taken."""
    created = await connection.execute(
        upsert(accounts)
        .values(
            id=account.id,
            email=account.email,
            password_hash=account.password_hash,
            created_at=account.created_at,
            bound=account.bound,
        )
        .on_conflict_do_nothing()
    )
    if created.rowcount == 0:
        return False
    nothing = {"paid": 0, "promo": 0, "held_paid": 0, "held_promo": 0, "deposited": 0}
    await connection.execute(insert(balances).values(account_id=account.id, **nothing))
    await add_key(connection, key)
    await connection.execute(insert(sessions).values(**_columns(session)))
    if bonus:
        # The account's own id names the grant: it can never be given twice.
        await connection.execute(SIGN_UP_CREDIT, {"id": account.id, "bonus": bonus})
    await add_referral(connection, account)
    return True


async def add_referral(connection: AsyncConnection, account: Account) -> None:
    """Note who sent a new account, if somebody did, in the transaction that makes it."""
    if account.sent_by:
        named = {"referrer": account.sent_by, "referred": account.id}
        await connection.execute(ADD_REFERRAL, named)


_TEXT = accounts.c.email.type


def _principal(row: Any) -> Principal:
    account_id = _hex(row.account_id)
    override = None
    if row.override_id is not None:
        override = Override(
            _hex(row.override_id),
            account_id,
            row.level,
            row.operator,
            row.reason,
            row.granted_at,
            _utc(row.until),
        )
    standing = Standing(account_id, Usd(row.deposited), override)
    until = _utc(row.works_until)
    if row.key_id is None:
        return Principal(
            account_id, "", row.email, standing, until=until, session_id=row.digest[:16].hex()
        )
    return Principal(
        account_id, _hex(row.key_id), row.email, standing, row.replay_minutes, policy_of(row), until
    )


def _columns(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def _hex(id: str) -> str:
    return id.replace("-", "")


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


def _account(row: Any) -> Account:
    return Account(_hex(row.id), row.email, row.password_hash, row.created_at, row.bound)


def _override(row: Any) -> Override:
    return Override(
        _hex(row.id),
        _hex(row.account_id),
        row.level,
        row.operator,
        row.reason,
        row.granted_at,
        _utc(row.until),
    )
