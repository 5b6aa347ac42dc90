"""Device codes, authorization codes, links and identities in memory, equal to Postgres by contract.

All four hang on one `MemoryWays`; operations do not await, so each is one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from adapters.memory.storage import MemoryAccounts, MemoryStore
from kyma import ledger as rules
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
from kyma.keys import UNRESTRICTED
from kyma.money import ZERO, Usd

DAY = timedelta(days=1)


@dataclass(slots=True)
class _Device:
    digest: bytes
    device: Device
    interval_s: int
    expires_at: datetime
    account_id: str = ""
    polled_at: datetime | None = None


@dataclass(slots=True)
class _Code:
    permission: Permission
    expires_at: datetime
    is_used: bool = False
    key_id: str = ""


@dataclass(slots=True)
class _Sent:
    link: Link
    expires_at: datetime
    is_used: bool = False


@dataclass(slots=True)
class MemoryWays:
    """All state of the four ports."""

    store: MemoryStore
    devices: dict[str, _Device] = field(default_factory=dict)
    codes: dict[bytes, _Code] = field(default_factory=dict)
    links: dict[bytes, _Sent] = field(default_factory=dict)
    identities: dict[tuple[str, str], str] = field(default_factory=dict)

    def after(self, seconds: float) -> datetime:
        """A moment from now."""
        return self.store.now() + timedelta(seconds=seconds)

    def add_key(self, key: Minted, account_id: str, name: str) -> None:
        """A key such as applications are given."""
        self.store.keys[key.id] = Key(
            key.id, account_id, name, key.digest, key.prefix, key.last4, self.store.now(),
            policy=replace(UNRESTRICTED, scopes=GRANTED_SCOPES),
        )  # fmt: skip

    def revoke(self, key_id: str) -> bool:
        """Stop a key; False if it was stopped, or never was."""
        key = self.store.keys.get(key_id)
        if key is None or key.revoked_at is not None:
            return False
        self.store.keys[key_id] = replace(key, revoked_at=self.store.now())
        self.store.note_change(key.account_id)
        return True

    def revoke_all(self, account_id: str) -> None:
        """Stop every key of an account."""
        for key in [*self.store.keys.values()]:
            if key.account_id == account_id:
                self.revoke(key.id)

    def end_sessions(self, account_id: str) -> None:
        """Nobody is signed in any more."""
        sessions = self.store.sessions
        for digest in [d for d, one in sessions.items() if one.account_id == account_id]:
            del sessions[digest]
        self.end_codes(account_id)
        self.store.note_change(account_id)

    def end_codes(self, account_id: str) -> None:
        """What sessions allowed and nobody has fetched is of no use any more."""
        for waiting in self.devices.values():
            device = waiting.device
            if waiting.account_id == account_id and device.state is DeviceState.APPROVED:
                waiting.device = replace(device, state=DeviceState.DENIED)
                waiting.expires_at = self.store.now()
        for code in self.codes.values():
            if code.permission.account_id == account_id:
                code.is_used = True

    def bound_to(self, email: str) -> str | None:
        """The account that an address signs in to."""
        wanted = email.lower()
        for account in self.store.accounts.values():
            if account.bound and account.email.lower() == wanted:
                return account.id
        return None

    def prove(self, account_id: str | None, email: str, bonus: Usd = ZERO) -> bool:
        """Bind an account to its address, unless another one is."""
        account = self.store.accounts.get(account_id or "")
        if account is None or account.email.lower() != email.lower():
            return False
        if not account.bound:
            if self.bound_to(email) is not None:
                return False
            self.store.accounts[account.id] = replace(account, bound=True)
            if bonus and account.id not in self.store.entries:
                self.store.book(rules.grant(account.id, account.id, bonus, "sign-up credit"))
        self.store.proven.add(account.id)
        return True

    def attach(self, identity: Identity, account_id: str) -> bool:
        """Let an identity open an account, unless it opens another."""
        place = (identity.issuer, identity.subject)
        return self.identities.setdefault(place, account_id) == account_id

    def attach_proven(self, identity: Identity, account_id: str) -> bool:
        """The same, proving the account's address; neither if one cannot be."""
        place = (identity.issuer, identity.subject)
        if self.identities.get(place, account_id) != account_id:
            return False
        return self.prove(account_id, identity.email) and self.attach(identity, account_id)

    def find_link(self, digest: bytes, kind: LinkKind) -> _Sent | None:
        """A link that is still of use."""
        sent = self.links.get(digest)
        if sent is None or sent.link.kind is not kind or sent.is_used:
            return None
        return sent if sent.expires_at > self.store.now() else None

    def has_password(self, account_id: str | None, password_hash: str | None) -> bool:
        """Whether it is the account's still; None is not asked about."""
        account = self.store.accounts.get(account_id or "")
        return account is not None and password_hash in (None, account.password_hash)

    def set_password(self, account_id: str, password_hash: str) -> Account:
        """The account with it."""
        account = replace(self.store.accounts[account_id], password_hash=password_hash)
        self.store.accounts[account_id] = account
        return account


class MemoryDeviceCodes:
    """The `DeviceCodes` port."""

    def __init__(self, ways: MemoryWays) -> None:
        self._ways = ways

    async def add(self, digest: bytes, device: Device, interval_s: int, ttl_s: int) -> bool:
        """Unless a live one has its short code."""
        if self._live(device.user_code) is not None:
            return False
        expires_at = self._ways.after(ttl_s)
        self._ways.devices[device.user_code] = _Device(digest, device, interval_s, expires_at)
        return True

    async def find(self, user_code: str) -> Device | None:
        """By short code."""
        found = self._live(user_code)
        return None if found is None else found.device

    async def decide(
        self, user_code: str, account_id: str, session_id: str, *, approved: bool
    ) -> bool:
        """Only while it is pending."""
        found = self._live(user_code)
        if found is None or found.device.state is not DeviceState.PENDING:
            return False
        if not self._ways.store.is_signed_in(account_id, session_id):
            return False
        state = DeviceState.APPROVED if approved else DeviceState.DENIED
        found.device = replace(found.device, state=state)
        found.account_id = account_id
        return True

    async def poll(self, digest: bytes) -> Polled | None:
        """Note it, and judge its pace."""
        found = self._by_digest(digest)
        if found is None:
            return None
        now = self._ways.store.now()
        patience = timedelta(seconds=found.interval_s - POLL_TOLERANCE_S)
        too_fast = (
            found.device.state is DeviceState.PENDING
            and found.polled_at is not None
            and found.polled_at > now - patience
        )
        if too_fast:
            found.interval_s = min(found.interval_s + SLOW_DOWN_S, MAX_INTERVAL_S)
        found.polled_at = now
        account = self._ways.store.accounts.get(found.account_id)
        return Polled(
            found.device.state,
            found.interval_s,
            too_fast,
            found.account_id,
            "" if account is None else account.email,
        )

    async def spend(self, digest: bytes, key: Minted) -> str | None:
        """Only an approved one, and only once."""
        found = self._by_digest(digest)
        if found is None or found.device.state is not DeviceState.APPROVED:
            return None
        found.device = replace(found.device, state=DeviceState.USED)
        self._ways.add_key(key, found.account_id, found.device.client_name)
        return found.account_id

    async def tidy(self) -> int:
        """Codes overdue for a day."""
        old = self._ways.store.now() - DAY
        gone = [code for code, one in self._ways.devices.items() if one.expires_at < old]
        for code in gone:
            del self._ways.devices[code]
        return len(gone)

    def _live(self, user_code: str) -> _Device | None:
        found = self._ways.devices.get(user_code)
        return found if found and found.expires_at > self._ways.store.now() else None

    def _by_digest(self, digest: bytes) -> _Device | None:
        found = next((one for one in self._ways.devices.values() if one.digest == digest), None)
        return None if found is None else self._live(found.device.user_code)


class MemoryAuthorizationCodes:
    """The `AuthorizationCodes` port."""

    def __init__(self, ways: MemoryWays) -> None:
        self._ways = ways

    async def add(self, digest: bytes, permission: Permission, session_id: str, ttl_s: int) -> bool:
        """Store it, if whoever allows it is signed in."""
        if not self._ways.store.is_signed_in(permission.account_id, session_id):
            return False
        self._ways.codes[digest] = _Code(permission, self._ways.after(ttl_s))
        return True

    async def owner(self, digest: bytes) -> Account | None:
        """By digest."""
        found = self._ways.codes.get(digest)
        return None if found is None else self._ways.store.accounts[found.permission.account_id]

    async def take(
        self,
        digest: bytes,
        client_id: str,
        redirect_uri: str,
        challenge: str,
        name: str,
        key: Minted,
    ) -> Taken:
        """Mark it used; make the key, or revoke the one of the first use."""
        found = self._ways.codes.get(digest)
        if found is None:
            return Taken()
        allowed = found.permission
        if found.is_used:
            revoked = self._ways.revoke(found.key_id)
            return Taken(replayed=allowed.account_id if revoked else None)
        found.is_used = True
        asked = Permission(client_id, redirect_uri, challenge, allowed.account_id)
        if asked != allowed or found.expires_at <= self._ways.store.now():
            return Taken()
        found.key_id = key.id
        self._ways.add_key(key, allowed.account_id, name)
        return Taken(account_id=allowed.account_id)

    async def tidy(self) -> int:
        """Codes a day old."""
        old = self._ways.store.now() - DAY
        gone = [digest for digest, one in self._ways.codes.items() if one.expires_at < old]
        for digest in gone:
            del self._ways.codes[digest]
        return len(gone)


class MemoryLinks:
    """The `Links` port."""

    def __init__(self, ways: MemoryWays) -> None:
        self._ways = ways

    async def add(self, digest: bytes, link: Link, ttl_s: int) -> None:
        """Store it."""
        self._ways.links[digest] = _Sent(link, self._ways.after(ttl_s))

    async def find(self, digest: bytes, kind: LinkKind) -> Link | None:
        """Unused and in time."""
        sent = self._ways.find_link(digest, kind)
        return None if sent is None else sent.link

    async def take(self, digest: bytes, kind: LinkKind) -> Link | None:
        """Once."""
        sent = self._ways.find_link(digest, kind)
        if sent is None:
            return None
        sent.is_used = True
        return sent.link

    async def open_account(
        self, digest: bytes, account: Account, key: Key, session: Session, bonus: Usd
    ) -> bool:
        """Register, then take it."""
        ways = self._ways
        sent = ways.find_link(digest, LinkKind.SIGN_UP)
        if sent is None or sent.link.email.lower() != account.email.lower():
            return False
        if not await MemoryAccounts(ways.store).register(account, key, session, bonus):
            return False
        ways.store.proven.add(account.id)
        sent.is_used = True
        return True

    async def verify(
        self, digest: bytes, bonus: Usd, password_hash: str | None = None
    ) -> Link | None:
        """Bind the account, then take it."""
        ways, sent = self._ways, self._ways.find_link(digest, LinkKind.VERIFY)
        if sent is None or not ways.has_password(sent.link.account_id, password_hash):
            return None
        if not ways.prove(sent.link.account_id, sent.link.email, bonus):
            return None
        return await self.take(digest, LinkKind.VERIFY)

    async def reset(
        self, digest: bytes, password_hash: str, *, revoke_keys: bool
    ) -> Account | None:
        """Password, sessions, keys and the account's other links."""
        ways = self._ways
        sent = ways.find_link(digest, LinkKind.RESET)
        was_proven = sent is not None and sent.link.account_id in ways.store.proven
        if sent is None or not ways.prove(sent.link.account_id, sent.link.email):
            return None
        account = ways.set_password(sent.link.account_id or "", password_hash)
        for other in ways.links.values():
            if other.link.kind is LinkKind.RESET and other.link.account_id == account.id:
                other.is_used = True
        ways.end_sessions(account.id)
        if revoke_keys or not was_proven:
            ways.revoke_all(account.id)
        return account

    async def tidy(self) -> int:
        """Links overdue for a day."""
        old = self._ways.store.now() - DAY
        gone = [digest for digest, one in self._ways.links.items() if one.expires_at < old]
        for digest in gone:
            del self._ways.links[digest]
        return len(gone)


class MemoryIdentities:
    """The `Identities` port."""

    def __init__(self, ways: MemoryWays) -> None:
        self._ways = ways

    async def account_of(self, issuer: str, subject: str) -> Account | None:
        """By issuer and subject."""
        account_id = self._ways.identities.get((issuer, subject))
        return None if account_id is None else self._ways.store.accounts[account_id]

    async def register(self, account: Account, identity: Identity, bonus: Usd) -> bool:
        """Unless either is taken."""
        ways = self._ways
        taken = (identity.issuer, identity.subject) in ways.identities
        if taken or ways.bound_to(account.email) is not None:
            return False
        ways.store.open_account(account, bonus)
        ways.attach(identity, account.id)
        ways.store.proven.add(account.id)
        return True

    async def attach(self, identity: Identity, account_id: str, password_hash: str) -> bool:
        """Unless it opens another account, or the password is new."""
        if not self._ways.has_password(account_id, password_hash):
            return False
        return self._ways.attach_proven(identity, account_id)

    async def join(self, digest: bytes) -> Account | None:
        """Attach, and end what was before the address was proven."""
        ways = self._ways
        sent = ways.find_link(digest, LinkKind.JOIN)
        if sent is None or sent.link.identity is None or sent.link.account_id is None:
            return None
        account_id = sent.link.account_id
        was_proven = account_id in ways.store.proven
        if not ways.attach_proven(sent.link.identity, account_id):
            return None
        sent.is_used = True
        if not was_proven:
            ways.set_password(account_id, "")
            ways.end_sessions(account_id)
            ways.revoke_all(account_id)
        return ways.store.accounts[account_id]

    async def account(self, account_id: str) -> Account | None:
        """By id."""
        return self._ways.store.accounts.get(account_id)

    async def is_proven(self, account_id: str) -> bool:
        """Read now."""
        return account_id in self._ways.store.proven

    async def prove(self, account_id: str, email: str, bonus: Usd) -> bool:
        """Unless the address is bound to another account."""
        return self._ways.prove(account_id, email, bonus)
