"""Device codes, authorization codes, links and identities on Postgres.

Every code is spent and what it gives is made by one transaction, mostly by one statement.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy import TextClause
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres import identity_sql as sql
from adapters.postgres.accounts import add_account, add_referral
from adapters.postgres.keys import end_sessions, is_signed_in
from adapters.postgres.units import PostgresUnits
from kyma.accounts import Account, Key, Session
from kyma.identity import (
    GRANTED_SCOPES,
    MAX_INTERVAL_S,
    POLL_TOLERANCE_S,
    SLOW_DOWN_S,
    Device,
    DeviceState,
    Identity,
    Link,
    LinkKind,
    Minted,
    Permission,
    Polled,
    Taken,
)
from kyma.money import ZERO, Usd

PACE = {"tolerance": POLL_TOLERANCE_S, "more": SLOW_DOWN_S, "most": MAX_INTERVAL_S}


class _Undone(Exception):
    """Undoes a transaction: address or identity are another account's, or the password is new."""


class PostgresDeviceCodes:
    """The `DeviceCodes` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def add(self, digest: bytes, device: Device, interval_s: int, ttl_s: int) -> bool:
        """The primary key decides; a short code whose time is over is free again."""
        values = {
            "code": device.user_code,
            "digest": digest,
            "name": device.client_name,
            "interval": interval_s,
            "ttl": ttl_s,
        }
        async with self._units.unit() as connection:
            return (await connection.execute(sql.ADD_DEVICE, values)).first() is not None

    async def find(self, user_code: str) -> Device | None:
        """By short code."""
        async with self._units.unit() as connection:
            row = (await connection.execute(sql.FIND_DEVICE, {"code": user_code})).first()
        if row is None:
            return None
        return Device(row.user_code, row.client_name, DeviceState(row.state))

    async def decide(
        self, user_code: str, account_id: str, session_id: str, *, approved: bool
    ) -> bool:
        """Only while it is pending."""
        state = DeviceState.APPROVED if approved else DeviceState.DENIED
        values = {"code": user_code, "account": account_id, "state": state.value}
        async with self._units.unit() as connection:
            if not await is_signed_in(connection, account_id, session_id):
                return False
            return (await connection.execute(sql.DECIDE_DEVICE, values)).rowcount == 1

    async def poll(self, digest: bytes) -> Polled | None:
        """The row is read as it was before this poll, and locked, so that polls queue up."""
        async with self._units.unit() as connection:
            row = (await connection.execute(sql.POLL_DEVICE, {"digest": digest, **PACE})).first()
        if row is None:
            return None
        return Polled(
            DeviceState(row.state),
            row.interval_s,
            row.too_fast,
            _hex(row.account_id or ""),
            row.email or "",
        )

    async def spend(self, digest: bytes, key: Minted) -> str | None:
        """Of two polls one finds the code approved; neither does after the account's sign-out."""
        values = {"code": digest, **_key(key)}
        async with self._units.unit() as connection:
            await connection.execute(sql.SHARE_OWNER_OF_DEVICE, {"code": digest})
            account_id = await connection.scalar(sql.SPEND_DEVICE, values)
        return None if account_id is None else _hex(account_id)

    async def tidy(self) -> int:
        """Codes overdue for a day."""
        return await _count(self._units, sql.TIDY_DEVICES)


class PostgresAuthorizationCodes:
    """The `AuthorizationCodes` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def add(self, digest: bytes, permission: Permission, session_id: str, ttl_s: int) -> bool:
        """Store it, if whoever allows it is signed in."""
        values = {
            "digest": digest,
            "client": permission.client_id,
            "uri": permission.redirect_uri,
            "challenge": permission.challenge,
            "account": permission.account_id,
            "ttl": ttl_s,
        }
        async with self._units.unit() as connection:
            if not await is_signed_in(connection, permission.account_id, session_id):
                return False
            await connection.execute(sql.ADD_CODE, values)
        return True

    async def owner(self, digest: bytes) -> Account | None:
        """By digest."""
        return await _account(self._units, sql.OWNER_OF_CODE, {"digest": digest})

    async def take(
        self,
        digest: bytes,
        client_id: str,
        redirect_uri: str,
        challenge: str,
        name: str,
        key: Minted,
    ) -> Taken:
        """Under the row's lock: mark it used, and make or revoke the key."""
        bound = {"client": client_id, "uri": redirect_uri, "challenge": challenge}
        async with self._units.unit() as connection:
            await connection.execute(sql.SHARE_OWNER_OF_CODE, {"digest": digest})
            row = (await connection.execute(sql.LOCK_CODE, {"digest": digest, **bound})).first()
            if row is None:
                return Taken()
            if row.used_at is not None:
                revoked = await connection.execute(sql.REVOKE_KEY, {"key": row.key_id})
                return Taken(replayed=_hex(row.account_id) if revoked.rowcount else None)
            if not row.fits:
                await connection.execute(sql.BURN_CODE, {"code": digest})
                return Taken()
            made = {"name": name, "account": row.account_id, **_key(key)}
            await connection.execute(sql.MAKE_KEY, made)
            await connection.execute(sql.SPEND_CODE, {"code": digest, "id": key.id})
        return Taken(account_id=_hex(row.account_id))

    async def tidy(self) -> int:
        """Codes a day old."""
        return await _count(self._units, sql.TIDY_CODES)


class PostgresLinks:
    """The `Links` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def add(self, digest: bytes, link: Link, ttl_s: int) -> None:
        """Store it."""
        values = {
            "digest": digest,
            "kind": link.kind.value,
            "account": link.account_id,
            "email": link.email,
            "issuer": link.identity and link.identity.issuer,
            "subject": link.identity and link.identity.subject,
            "ttl": ttl_s,
        }
        async with self._units.unit() as connection:
            await connection.execute(sql.ADD_LINK, values)

    async def find(self, digest: bytes, kind: LinkKind) -> Link | None:
        """Unused and in time."""
        values = {"digest": digest, "kind": kind.value}
        async with self._units.unit() as connection:
            row = (await connection.execute(sql.FIND_LINK, values)).first()
        return None if row is None else _link(row)

    async def take(self, digest: bytes, kind: LinkKind) -> Link | None:
        """The row's lock decides who was first."""
        async with self._units.unit() as connection:
            return await _take(connection, digest, kind)

    async def open_account(
        self, digest: bytes, account: Account, key: Key, session: Session, bonus: Usd
    ) -> bool:
        """The link's lock, then the unique address."""
        with suppress(_Undone):
            async with self._units.unit() as connection:
                link = await _take(connection, digest, LinkKind.SIGN_UP)
                if link is None:
                    return False
                added = await add_account(connection, account, key, session, bonus)
                if not added or link.email.lower() != account.email.lower():
                    raise _Undone
                await _prove(connection, account.id, link.email)
            return True
        return False

    async def verify(
        self, digest: bytes, bonus: Usd, password_hash: str | None = None
    ) -> Link | None:
        """Take it, and bind the account."""
        with suppress(_Undone):
            async with self._units.unit() as connection:
                link = await _take(connection, digest, LinkKind.VERIFY)
                if link is not None:
                    if password_hash is not None:
                        await _check_password(connection, link.account_id, password_hash)
                    await _prove(connection, link.account_id, link.email, bonus)
            return link
        return None

    async def reset(
        self, digest: bytes, password_hash: str, *, revoke_keys: bool
    ) -> Account | None:
        """Password, sessions, keys and the account's other links, all or nothing.

        The account's lock comes first: of two links to it each would else hold its own.
        """
        with suppress(_Undone):
            async with self._units.unit() as connection:
                proven = await connection.scalar(sql.LOCK_PROOF, {"digest": digest})
                link = await _take(connection, digest, LinkKind.RESET)
                if link is None or link.account_id is None:
                    return None
                mine = {"account": link.account_id}
                await _prove(connection, link.account_id, link.email)
                await connection.execute(sql.SET_PASSWORD, {**mine, "hash": password_hash})
                await connection.execute(sql.USE_UP_LINKS, mine)
                await end_sessions(connection, link.account_id)
                if revoke_keys or not proven:
                    await connection.execute(sql.REVOKE_KEYS, mine)
                row = (await connection.execute(sql.ACCOUNT, mine)).one()
            return _of_row(row)
        return None

    async def tidy(self) -> int:
        """Links overdue for a day."""
        return await _count(self._units, sql.TIDY_LINKS)


class PostgresIdentities:
    """The `Identities` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def account_of(self, issuer: str, subject: str) -> Account | None:
        """By issuer and subject, never by address."""
        return await _account(
            self._units, sql.ACCOUNT_OF_IDENTITY, {"issuer": issuer, "subject": subject}
        )

    async def register(self, account: Account, identity: Identity, bonus: Usd) -> bool:
        """The unique address and the primary key of identities decide."""
        new = {
            "account": account.id,
            "email": account.email,
            "hash": account.password_hash,
            "created": account.created_at,
        }
        with suppress(_Undone):
            async with self._units.unit() as connection:
                if (await connection.execute(sql.ADD_ACCOUNT, new)).rowcount == 0:
                    return False
                await connection.execute(sql.ADD_BALANCE, {"account": account.id})
                await _attach(connection, identity, account.id)
                await add_referral(connection, account)
                if bonus:
                    await _give(connection, account.id, bonus)
            return True
        return False

    async def attach(self, identity: Identity, account_id: str, password_hash: str) -> bool:
        """The primary key of identities decides, under the account's lock."""
        with suppress(_Undone):
            async with self._units.unit() as connection:
                await _check_password(connection, account_id, password_hash)
                await _attach(connection, identity, account_id)
                await _prove(connection, account_id, identity.email)
            return True
        return False

    async def join(self, digest: bytes) -> Account | None:
        """Under the account's lock, so that nobody proves the address meanwhile."""
        with suppress(_Undone):
            async with self._units.unit() as connection:
                proven = await connection.scalar(sql.LOCK_PROOF, {"digest": digest})
                link = await _take(connection, digest, LinkKind.JOIN)
                if link is None or link.identity is None or link.account_id is None:
                    return None
                mine = {"account": link.account_id}
                await _attach(connection, link.identity, link.account_id)
                if not proven:
                    await connection.execute(sql.SET_PASSWORD, {**mine, "hash": ""})
                    await end_sessions(connection, link.account_id)
                    await connection.execute(sql.REVOKE_KEYS, mine)
                await _prove(connection, link.account_id, link.email)
                row = (await connection.execute(sql.ACCOUNT, mine)).one()
            return _of_row(row)
        return None

    async def account(self, account_id: str) -> Account | None:
        """By id."""
        return await _account(self._units, sql.ACCOUNT, {"account": account_id})

    async def is_proven(self, account_id: str) -> bool:
        """Read now."""
        async with self._units.unit() as connection:
            return bool(await connection.scalar(sql.IS_PROVEN, {"account": account_id}))

    async def prove(self, account_id: str, email: str, bonus: Usd) -> bool:
        """The unique index of bound addresses decides a race."""
        with suppress(_Undone):
            async with self._units.unit() as connection:
                await _prove(connection, account_id, email, bonus)
            return True
        return False


async def _take(connection: AsyncConnection, digest: bytes, kind: LinkKind) -> Link | None:
    values = {"digest": digest, "kind": kind.value}
    row = (await connection.execute(sql.TAKE_LINK, values)).first()
    return None if row is None else _link(row)


async def _check_password(
    connection: AsyncConnection, account_id: str | None, password_hash: str
) -> None:
    """That it is the account's still, and will be until the transaction is over."""
    values = {"account": account_id, "hash": password_hash}
    if await connection.scalar(sql.LOCK_PASSWORD, values) is None:
        raise _Undone


async def _prove(
    connection: AsyncConnection, account_id: str | None, email: str, bonus: Usd = ZERO
) -> None:
    values = {"account": account_id, "email": email}
    row = (await connection.execute(sql.PROVE, values)).first()
    if row is None:
        raise _Undone
    if row.newly_bound and bonus:
        await _give(connection, account_id, bonus)


async def _give(connection: AsyncConnection, account_id: str | None, bonus: Usd) -> None:
    """The account's own id names the grant: it can never be given twice."""
    await connection.execute(sql.SIGN_UP_CREDIT, {"account": account_id, "bonus": bonus})


async def _attach(connection: AsyncConnection, identity: Identity, account_id: str) -> None:
    values = {
        "issuer": identity.issuer,
        "subject": identity.subject,
        "email": identity.email,
        "account": account_id,
    }
    if (await connection.execute(sql.ATTACH, values)).first() is None:
        raise _Undone


async def _account(
    units: PostgresUnits, statement: TextClause, values: dict[str, Any]
) -> Account | None:
    async with units.unit() as connection:
        row = (await connection.execute(statement, values)).first()
    return None if row is None else _of_row(row)


async def _count(units: PostgresUnits, statement: TextClause) -> int:
    async with units.unit() as connection:
        return (await connection.execute(statement)).rowcount


def _of_row(row: Any) -> Account:
    return Account(_hex(row.id), row.email, row.password_hash, row.created_at, row.bound)


def _link(row: Any) -> Link:
    identity = row.issuer and Identity(row.issuer, row.subject, row.email)
    account_id = row.account_id and _hex(row.account_id)
    return Link(LinkKind(row.kind), row.email, account_id, identity)


def _key(key: Minted) -> dict[str, Any]:
    return {
        "id": key.id,
        "digest": key.digest,
        "prefix": key.prefix,
        "last4": key.last4,
        "scopes": sorted(GRANTED_SCOPES),
    }


def _hex(id: str) -> str:
    return id.replace("-", "")
