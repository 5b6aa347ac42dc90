"""What the ways in need remembered, and who else may say who somebody is."""

from __future__ import annotations

from typing import Protocol

from kyma.accounts import Account, Key, Session
from kyma.identity import (
    Claims,
    Device,
    Identity,
    Link,
    LinkKind,
    Minted,
    Permission,
    Polled,
    Taken,
)
from kyma.money import Usd


class DeviceCodes(Protocol):
    """Devices that ask for a key. Every time is judged by the storage's clock."""

    async def add(self, digest: bytes, device: Device, interval_s: int, ttl_s: int) -> bool:
        """Remember a pending device; False if its short code is another's."""
        ...

    async def find(self, user_code: str) -> Device | None:
        """The device of a short code, or None if there is none whose time is not over."""
        ...

    async def decide(
        self, user_code: str, account_id: str, session_id: str, *, approved: bool
    ) -> bool:
        """A person's word, the first one only; False if nobody asks any more.

        False, too, if the session by which they say it has ended. What is approved ends unspent
        with all sessions of the account: it is what one of them allowed.
        """
        ...

    async def poll(self, digest: bytes) -> Polled | None:
        """What the device may know, noting that it asked; None for an unknown or overdue code."""
        ...

    async def spend(self, digest: bytes, key: Minted) -> str | None:
        """Make the key of an approved device, once: whose it is, or None if it is too late.

        The key and the end of the code are one transaction.
        """
        ...

    async def tidy(self) -> int:
        """Delete what nobody can use any more; how many."""
        ...


class AuthorizationCodes(Protocol):
    """What people allowed applications to fetch."""

    async def add(self, digest: bytes, permission: Permission, session_id: str, ttl_s: int) -> bool:
        """Remember it; False if the session that allows it has ended.

        It ends unspent with all sessions of the account, as an approved device does.
        """
        ...

    async def owner(self, digest: bytes) -> Account | None:
        """Whose account the code opens, spent or not; None if it was never given."""
        ...

    async def take(
        self,
        digest: bytes,
        client_id: str,
        redirect_uri: str,
        challenge: str,
        name: str,
        key: Minted,
    ) -> Taken:
        """Use a code up, whatever comes of it; a key called `name` if all of it fits.

        The second use of a code revokes the key of the first, in the same transaction.
        """
        ...

    async def tidy(self) -> int:
        """Delete codes so old that nobody will present them again; how many."""
        ...


class Links(Protocol):
    """Secrets that prove one thing once."""

    async def add(self, digest: bytes, link: Link, ttl_s: int) -> None:
        """Remember it."""
        ...

    async def find(self, digest: bytes, kind: LinkKind) -> Link | None:
        """What a link is for, without using it; None if used, overdue or of another kind."""
        ...

    async def take(self, digest: bytes, kind: LinkKind) -> Link | None:
        """Use it up; None as for `find`."""
        ...

    async def open_account(
        self, digest: bytes, account: Account, key: Key, session: Session, bonus: Usd
    ) -> bool:
        """Use a `SIGN_UP` link: a new account of proven address, its key, session and bonus.

        One transaction; False, and nothing done, if the link is of no use or not for this
        address, or the address has an account meanwhile.
        """
        ...

    async def verify(
        self, digest: bytes, bonus: Usd, password_hash: str | None = None
    ) -> Link | None:
        """Use a `VERIFY` link, and prove its account's address as `Identities.prove` does.

        One transaction; None, and nothing done, if either cannot be, or if `password_hash`, by
        which somebody was known, is the account's no more.
        """
        ...

    async def reset(
        self, digest: bytes, password_hash: str, *, revoke_keys: bool
    ) -> Account | None:
        """Use a `RESET` link: a new password, no session and no other such link left.

        Nor is anything left that a session allowed and nobody has fetched: device codes and
        authorization codes end, whatever becomes of the keys.

        Proves the address. Keys end if they shall, and always if the address was never proven:
        whoever opened the account may have been somebody else. All in one transaction; None, and
        nothing done, if the link is of no use.
        """
        ...

    async def tidy(self) -> int:
        """Delete what is overdue; how many."""
        ...


class Identities(Protocol):
    """Who accounts are at providers of identities, and whose address was proven."""

    async def account_of(self, issuer: str, subject: str) -> Account | None:
        """The account that this identity opens."""
        ...

    async def register(self, account: Account, identity: Identity, bonus: Usd) -> bool:
        """A new account, its identity, its proven address and its bonus, in one transaction.

        False, and nothing done, if the address or the identity is taken.
        """
        ...

    async def attach(self, identity: Identity, account_id: str, password_hash: str) -> bool:
        """Let an identity open an account, and prove its address.

        False, and nothing done, if it opens another, or if `password_hash`, by which the owner
        was known, is the account's no more.
        """
        ...

    async def join(self, digest: bytes) -> Account | None:
        """Use a `JOIN` link: attach its identity to its account, in one transaction.

        If the account's address was never proven, whoever opened it may have been somebody else:
        its password, sessions and keys end, and the codes that give such. None if the link is of
        no use.
        """
        ...

    async def account(self, account_id: str) -> Account | None:
        """An account by its id, whether or not its address is bound to it."""
        ...

    async def is_proven(self, account_id: str) -> bool:
        """Whether mail to the account's address is known to reach its owner."""
        ...

    async def prove(self, account_id: str, email: str, bonus: Usd) -> bool:
        """Note that it does, and bind the address to the account, with the bonus if that is new.

        False if the address signs in to another account.
        """
        ...


class IdentityRefused(Exception):
    """The provider did not vouch for anybody, or what it said does not hold."""


class IdentityUnavailable(Exception):
    """The provider cannot be asked at the moment."""


class IdentityProvider(Protocol):
    """Somebody else who knows people, asked by OpenID Connect."""

    async def address(self, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Where to send a browser; `verifier` is PKCE's, and only its challenge goes along."""
        ...

    async def claims(self, code: str, redirect_uri: str, nonce: str, verifier: str) -> Claims:
        """What the provider vouches for, in exchange for a code; raises as declared above.

        Checked: the signature, the issuer, the audience, the times and the nonce.
        """
        ...
