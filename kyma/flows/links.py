"""Links by mail: a forgotten password, an address to be proven, an account to be opened.

Whether an address has an account is told to its mailbox alone: the answers are the same, and
take the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

from kyma.accounts import Account
from kyma.errors import Code, Refusal
from kyma.flows.access import (
    NOBODY,
    SIGN_UP_CREDIT,
    Access,
    Client,
    Welcome,
    check_password,
    unavailable,
)
from kyma.flows.newcomers import Newcomers
from kyma.flows.throttle import Throttle
from kyma.identity import LINK_S, Link, LinkKind
from kyma.mail import Letter, Mail
from kyma.ports.identity import Identities, Links
from kyma.ports.mail import Outbox
from kyma.ports.runtime import Chance, Clock, Digests, Invalidations, Passwords
from kyma.ports.storage import Accounts, StorageUnavailable
from kyma.throttles import Guarded

EQUAL_S = 0.4
"""How long it takes to ask for a letter, whether one is written or not: well above the time
that writing one takes."""

PATHS = {
    LinkKind.VERIFY: "/verify",
    LinkKind.RESET: "/reset",
    LinkKind.SIGN_UP: "/signup/finish",
    LinkKind.JOIN: "/join",
}
"""The page that each link opens. Opening it changes nothing: mail scanners open links too."""


class MailLinks:
    """Sends links and takes them back."""

    def __init__(
        self,
        base_url: str,
        accounts: Accounts,
        links: Links,
        identities: Identities,
        access: Access,
        throttle: Throttle,
        passwords: Passwords,
        outbox: Outbox,
        newcomers: Newcomers,
        digests: Digests,
        invalidations: Invalidations,
        clock: Clock,
        chance: Chance,
    ) -> None:
        """`base_url` is the address customers see, without a trailing slash."""
        self._base_url = base_url
        self._accounts = accounts
        self._links = links
        self._identities = identities
        self._access = access
        self._throttle = throttle
        self._passwords = passwords
        self._outbox = outbox
        self._newcomers = newcomers
        self._digests = digests
        self._invalidations = invalidations
        self._clock = clock
        self._chance = chance

    async def forgot(self, email: str, client: Client = NOBODY) -> None:
        """A link to a new password, if there is an account with this address."""
        address = normal(email)
        await self.count_letter(address, client)
        await self._evenly(self._send_reset(address, instead=None))

    async def sign_up(self, email: str, client: Client = NOBODY) -> None:
        """A link to a new account; the one to a new password if there is an account already."""
        address = normal(email)
        await self.count_letter(address, client)
        link = Link(LinkKind.SIGN_UP, address)
        await self._evenly(self._send_reset(address, instead=link))

    async def count_letter(self, email: str, client: Client) -> None:
        """Refuse who asks for too many letters, or for too many to one address."""
        await self._throttle.take(Guarded.MAIL, client.address, email)

    async def ask_proof(self, account_id: str, email: str, client: Client = NOBODY) -> bool:
        """A link by which an account's owner shows to read its mail; False if they did before."""
        await self.count_letter(normal(email), client)
        try:
            if await self._identities.is_proven(account_id):
                return False
        except StorageUnavailable as error:
            raise unavailable() from error
        await self.send(Link(LinkKind.VERIFY, normal(email), account_id), Letter.VERIFY)
        return True

    async def greet(self, welcome: Welcome) -> bool:
        """After a registration: a link to prove the address, or what its owner should know.

        If the address is another account's, that one's owner gets the way back into it. False
        if nothing could be sent: the account stands, and may ask again.
        """
        account = welcome.account
        try:
            if welcome.is_taken:
                await self._send_reset(account.email, instead=None)
            else:
                await self.send(Link(LinkKind.VERIFY, account.email, account.id), Letter.VERIFY)
        except Refusal:
            return False
        return True

    async def send(self, link: Link, letter: Letter) -> None:
        """Store a link, then post its letter. A crash between leaves a link that nobody has."""
        secret = self._chance.secret("kl-")
        digest = self._digests.digest(secret)
        url = f"{self._base_url}{PATHS[link.kind]}?token={secret}"
        fact = "reset_url" if letter is Letter.RESET else "verify_url"
        try:
            await self._links.add(digest, link, LINK_S[link.kind])
            # The id names the link, so that each link is sent once and tells nothing of itself.
            await self._outbox.post(
                Mail(f"link:{digest[:16].hex()}", link.email, letter, {fact: url})
            )
        except StorageUnavailable as error:
            raise unavailable() from error

    async def find(self, token: str, kind: LinkKind) -> Link:
        """What a link is for; refused if it is of no use any more. Uses nothing up."""
        try:
            link = await self._links.find(self._digests.digest(token), kind)
        except StorageUnavailable as error:
            raise unavailable() from error
        if link is None:
            raise useless_link()
        return link

    async def is_proven(self, account_id: str) -> bool:
        """Whether the account's owner was ever shown to read its mail."""
        try:
            return await self._identities.is_proven(account_id)
        except StorageUnavailable as error:
            raise unavailable() from error

    async def verify(self, token: str) -> str:
        """Use a link: the address that is proven now."""
        try:
            link = await self._links.verify(self._digests.digest(token), SIGN_UP_CREDIT)
        except StorageUnavailable as error:
            raise unavailable() from error
        if link is None:
            raise useless_link()
        return link.email

    async def reset(self, token: str, password: str, *, revoke_keys: bool = False) -> Account:
        """A new password. Every session ends; keys go on unless they shall not."""
        check_password(password)
        await self.find(token, LinkKind.RESET)  # no hashing for whoever guesses
        hashed = await self._passwords.hash(password)
        try:
            account = await self._links.reset(
                self._digests.digest(token), hashed, revoke_keys=revoke_keys
            )
        except StorageUnavailable as error:
            raise unavailable() from error
        if account is None:
            raise useless_link()
        await self._invalidations.forget(account.id)
        return account

    async def open_account(self, token: str, password: str, client: Client = NOBODY) -> Welcome:
        """The account that a sign-up link was sent for. The link is used up first: it opens one."""
        check_password(password)
        try:
            link = await self._links.take(self._digests.digest(token), LinkKind.SIGN_UP)
            if link is None:
                raise useless_link()
            welcome = await self._access.register(link.email, password, client)
            proven = await self._identities.prove(welcome.account.id, link.email, SIGN_UP_CREDIT)
        except StorageUnavailable as error:
            raise unavailable() from error
        account = replace(welcome.account, bound=proven)
        await self._newcomers.greet(replace(welcome, account=account), None)
        return welcome

    async def _send_reset(self, email: str, *, instead: Link | None) -> None:
        try:
            account = await self._accounts.by_email(email)
        except StorageUnavailable as error:
            raise unavailable() from error
        if account is not None:
            await self.send(Link(LinkKind.RESET, account.email, account.id), Letter.RESET)
        elif instead is not None:
            await self.send(instead, Letter.VERIFY)

    async def _evenly(self, work: Awaitable[None]) -> None:
        begun = self._clock.monotonic()
        await work
        await asyncio.sleep(EQUAL_S - min(self._clock.monotonic() - begun, EQUAL_S))


def normal(email: str) -> str:
    """One spelling per address, as `Access` stores it."""
    return email.strip().lower()


def useless_link() -> Refusal:
    """The refusal for a link that is unknown, used, overdue, or for something else."""
    return Refusal(
        Code.INVALID_LINK,
        "This link was used, has expired, or is not whole. Ask for a new one.",
        param="token",
    )
