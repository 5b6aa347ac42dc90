"""Signing in with an account elsewhere, by OpenID Connect.

An identity that is not known opens a new account. It opens an account that exists under the same
address only when its owner has shown to be both: by the account's password, or by its mail.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from kyma.accounts import Account
from kyma.errors import Code, Refusal
from kyma.flows.access import NOBODY, SIGN_UP_CREDIT, Access, Client, Welcome, unavailable
from kyma.flows.links import MailLinks, normal, useless_link
from kyma.flows.newcomers import Newcomers
from kyma.identity import LINK_S, Claims, Identity, Link, LinkKind
from kyma.mail import Letter
from kyma.ports.identity import (
    Identities,
    IdentityProvider,
    IdentityRefused,
    IdentityUnavailable,
    Links,
)
from kyma.ports.runtime import Chance, Clock, Digests, Invalidations
from kyma.ports.storage import Accounts, StorageUnavailable

NO_PASSWORD = ""
"""Stored for an account that was opened from elsewhere: no password matches it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The start of a sign-in: where to send the browser, and the `seed` that it must keep."""

    seed: str
    address: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """Somebody who came back: signed in, or with an `offer` that needs proof first."""

    email: str
    session_token: str = ""
    offer: str = ""
    is_new: bool = False


class Federation:
    """Sign-in by the word of a provider of identities."""

    def __init__(
        self,
        provider: IdentityProvider,
        redirect_uri: str,
        identities: Identities,
        accounts: Accounts,
        links: Links,
        mail: MailLinks,
        access: Access,
        newcomers: Newcomers,
        digests: Digests,
        invalidations: Invalidations,
        clock: Clock,
        chance: Chance,
    ) -> None:
        """`redirect_uri` is ours, as it is registered at the provider."""
        self._provider = provider
        self._redirect_uri = redirect_uri
        self._identities = identities
        self._accounts = accounts
        self._links = links
        self._mail = mail
        self._access = access
        self._newcomers = newcomers
        self._digests = digests
        self._invalidations = invalidations
        self._clock = clock
        self._chance = chance

    async def begin(self) -> Attempt:
        """State, nonce and PKCE verifier all follow from the seed and the server's pepper."""
        seed = self._chance.secret("kf-")
        try:
            address = await self._provider.address(
                self._redirect_uri,
                self._derived("state", seed),
                self._derived("nonce", seed),
                self._derived("verifier", seed),
            )
        except IdentityUnavailable as error:
            raise _provider_away() from error
        return Attempt(seed, address)

    async def finish(
        self,
        seed: str,
        state: str,
        code: str,
        client: Client = NOBODY,
        referral_code: str | None = None,
    ) -> Arrival:
        """Who came back, for the browser that left with `seed`; another's is refused.

        The referral code counts for a new account alone.
        """
        if (
            not seed
            or not code
            or not hmac.compare_digest(self._derived("state", seed).encode(), state.encode())
        ):
            raise _failed("It was not begun in this browser, or took too long.")
        claims = await self._claims(seed, code)
        if not claims.email_verified or "@" not in claims.email:
            raise _failed("Your address is not verified there.")
        identity = Identity(claims.issuer, claims.subject, normal(claims.email))
        try:
            return await self._arrived(identity, client, referral_code)
        except StorageUnavailable as error:
            raise unavailable() from error

    async def prove_by_password(
        self, offer: str, password: str, client: Client = NOBODY
    ) -> Arrival:
        """The account's owner shows to be it: the identity opens the account from now on."""
        link = await self._mail.find(offer, LinkKind.OFFER)
        welcome = await self._access.login(link.email, password, client)
        try:
            if welcome.account.id != link.account_id or link.identity is None:
                raise useless_link()
            owner = welcome.account
            if not await self._identities.attach(link.identity, owner.id, owner.password_hash):
                raise _failed("It opens another account here, or your password was just changed.")
            await self._links.take(self._digests.digest(offer), LinkKind.OFFER)
        except StorageUnavailable as error:
            raise unavailable() from error
        return Arrival(link.email, welcome.session_token)

    async def prove_by_mail(self, offer: str, client: Client = NOBODY) -> str:
        """Send the account's address a link that joins the two; the address."""
        link = await self._mail.find(offer, LinkKind.OFFER)
        await self._mail.count_letter(link.email, client)
        joining = Link(LinkKind.JOIN, link.email, link.account_id, link.identity)
        await self._mail.send(joining, Letter.JOIN)
        return link.email

    async def join(self, token: str, client: Client = NOBODY) -> Arrival:
        """Use the link that was mailed: the identity opens the account, and signs in."""
        try:
            account = await self._identities.join(self._digests.digest(token))
            if account is None:
                raise useless_link()
            await self._invalidations.forget(account.id)
            return Arrival(account.email, await self._access.open_session(account.id, client))
        except StorageUnavailable as error:
            raise unavailable() from error

    async def _claims(self, seed: str, code: str) -> Claims:
        try:
            return await self._provider.claims(
                code,
                self._redirect_uri,
                self._derived("nonce", seed),
                self._derived("verifier", seed),
            )
        except IdentityUnavailable as error:
            raise _provider_away() from error
        except IdentityRefused as error:
            raise _failed("It did not confirm who you are.") from error

    async def _arrived(
        self, identity: Identity, client: Client, referral_code: str | None
    ) -> Arrival:
        known = await self._identities.account_of(identity.issuer, identity.subject)
        if known is not None:
            return Arrival(known.email, await self._access.open_session(known.id, client))
        if await self._accounts.by_email(identity.email) is not None:
            return await self._offer(identity)
        await self._access.count_registration(identity.email, client)
        sent_by = await self._newcomers.sender(identity.email, referral_code)
        new = Account(
            self._chance.id(), identity.email, NO_PASSWORD, self._clock.now(), sent_by=sent_by
        )
        if await self._identities.register(new, identity, SIGN_UP_CREDIT):
            token = await self._access.open_session(new.id, client)
            await self._newcomers.greet(Welcome(new, None, token))
            return Arrival(new.email, token, is_new=True)
        known = await self._identities.account_of(identity.issuer, identity.subject)
        if known is not None:  # opened by the same person in another window, just now
            return Arrival(known.email, await self._access.open_session(known.id, client))
        return await self._offer(identity)

    async def _offer(self, identity: Identity) -> Arrival:
        account = await self._accounts.by_email(identity.email)
        if account is None:
            raise _failed("Try again.")
        secret = self._chance.secret("kl-")
        link = Link(LinkKind.OFFER, identity.email, account.id, identity)
        await self._links.add(self._digests.digest(secret), link, LINK_S[LinkKind.OFFER])
        return Arrival(identity.email, offer=secret)

    def _derived(self, purpose: str, seed: str) -> str:
        return self._digests.digest(f"federation:{purpose}:{seed}").hex()


def _failed(why: str) -> Refusal:
    return Refusal(Code.SIGN_IN_FAILED, f"You are not signed in. {why}")


def _provider_away() -> Refusal:
    return Refusal(
        Code.IDENTITY_UNAVAILABLE,
        "You are not signed in: the sign-in service cannot be reached at the moment. Try again "
        "shortly, or sign in with your password.",
        retry_after_s=5,
    )
