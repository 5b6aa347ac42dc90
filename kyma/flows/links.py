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
from kyma.identity import LINK_S, Link, LinkKind, with_query
from kyma.mail import LINK_OF, Letter, Mail
from kyma.ports.identity import Identities, Links
from kyma.ports.mail import Outbox
from kyma.ports.runtime import Chance, Clock, Digests, Invalidations, Passwords
from kyma.ports.storage import Accounts, StorageUnavailable
from kyma.referrals import code_of
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
        await self._evenly(self._send_reset(address, Letter.RESET))

    async def sign_up(
        self, email: str, client: Client = NOBODY, referral_code: str | None = None
    ) -> None:
        """A link to a new account; the one to a new password if there is an account already.

        The link leads to the page with the code of whoever sent them; what cannot be one is left
        out.
        """
        address = normal(email)
        await self.count_letter(address, client)
        await self._evenly(self._send_sign_up(address, referral_code or ""))

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

    async def greet(self, welcome: Welcome, client: Client = NOBODY) -> bool:
        """After a registration: a link to prove the address, or what its owner should know.

        If the address is another account's, that one's owner gets the way back into it. False
        if nothing was sent: the account stands, and may ask again. Whether there were too many
        letters is judged first, whosever the address is.
        """
        account = welcome.account
        link, letter = Link(LinkKind.VERIFY, account.email, account.id), Letter.VERIFY
        try:
            await self.count_letter(normal(account.email), client)
            # Looked up for everybody: what takes longer would tell.
            owner = await self._accounts.by_email(account.email)
            if owner is not None and welcome.is_taken:
                link, letter = Link(LinkKind.RESET, owner.email, owner.id), Letter.HAS_ACCOUNT
            await self.send(link, letter)
        except (Refusal, StorageUnavailable):
            return False
        return True

    async def send(self, link: Link, letter: Letter, **told: str) -> None:
        """Store a link, then post its letter. A crash between leaves a link that nobody has.

        `told` is what the page that the link opens is told besides.
        """
        secret = self._chance.secret("kl-")
        digest = self._digests.digest(secret)
        url = with_query(f"{self._base_url}{PATHS[link.kind]}", token=secret, **told)
        try:
            await self._links.add(digest, link, LINK_S[link.kind])
            # The id names the link, so that each link is sent once and tells nothing of itself.
            await self._outbox.post(
                Mail(f"link:{digest[:16].hex()}", link.email, letter, {LINK_OF[letter]: url})
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

    async def verify(
        self, token: str, password: str = "", holder: str = "", client: Client = NOBODY
    ) -> str:
        """Use a link: the address that is proven now.

        To read the mail is not enough: somebody else may have opened the account with this
        address, and wait for its owner's word. Who confirms shows to have opened it, by its
        password or as the `holder`, the account they are signed in to.
        """
        link = await self.find(token, LinkKind.VERIFY)
        try:
            account = await self._identities.account(link.account_id or "")
            checked = None
            if account is None or account.id != holder:
                checked = await self._check_opener(account, link.email, password, client)
            proven = await self._links.verify(self._digests.digest(token), SIGN_UP_CREDIT, checked)
        except StorageUnavailable as error:
            raise unavailable() from error
        if proven is None:
            raise useless_link()
        if account is not None and not account.bound:
            await self._newcomers.welcome(account)
        return proven.email

    async def _check_opener(
        self, account: Account | None, email: str, password: str, client: Client
    ) -> str | None:
        """The hash that the password fits. A guess here counts as one at signing in."""
        await self._throttle.take(Guarded.LOGIN, client.address, email)
        hashed = account.password_hash if account else None
        if not await self._passwords.matches(password, hashed):
            raise Refusal(
                Code.WRONG_CREDENTIALS,
                "This is not the password that the account was opened with.",
                param="password",
            )
        await self._throttle.succeeded(Guarded.LOGIN, client.address, email)
        return hashed

    async def reset(self, token: str, password: str, *, revoke_keys: bool = False) -> Account:
        """A new password. Every session ends, with what it allowed and nobody has fetched yet.

        Keys go on unless they shall not. If the address was never proven they end in any case:
        somebody else may have made them.
        """
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

    async def open_account(
        self,
        token: str,
        password: str,
        client: Client = NOBODY,
        referral_code: str | None = None,
    ) -> Welcome:
        """The account that a sign-up link was sent for: the link opens one, and is good until then.

        So whoever is refused for now, or meets an outage, tries again with the same link.
        """
        check_password(password)
        link = await self.find(token, LinkKind.SIGN_UP)
        await self._access.count_registration(link.email, client)
        sent_by = await self._newcomers.sender(link.email, referral_code)
        new = await self._access.prepare(link.email, password, client)
        account = replace(new.account, sent_by=sent_by)
        try:
            opened = await self._links.open_account(
                self._digests.digest(token), account, new.key, new.session, SIGN_UP_CREDIT
            )
        except StorageUnavailable as error:
            raise unavailable() from error
        if not opened:
            raise useless_link()
        welcome = Welcome(account, new.api_key, new.session_token)
        await self._newcomers.greet(welcome)
        return welcome

    async def _send_sign_up(self, email: str, referral_code: str) -> None:
        if await self._send_reset(email, Letter.HAS_ACCOUNT):
            return
        code = code_of(referral_code)
        told = {} if code is None else {"ref": code}
        await self.send(Link(LinkKind.SIGN_UP, email), Letter.SIGN_UP, **told)

    async def _send_reset(self, email: str, letter: Letter) -> bool:
        """The way back in, in the words of `letter`; False if nobody signs in by this address."""
        try:
            account = await self._accounts.by_email(email)
        except StorageUnavailable as error:
            raise unavailable() from error
        if account is None:
            return False
        await self.send(Link(LinkKind.RESET, account.email, account.id), letter)
        return True

    async def _evenly(self, work: Awaitable[object]) -> None:
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
