"""What goes with a registration: who sent the new account, and afterwards a word of welcome.

The welcome may not spoil a registration that has succeeded: its secrets are shown only once.
"""

from __future__ import annotations

from kyma.accounts import Account
from kyma.flows.access import SIGN_UP_CREDIT, Welcome, unavailable
from kyma.flows.referrals import Referrals
from kyma.mail import Letter, Mail
from kyma.money import decimal_text
from kyma.ports.mail import Outbox
from kyma.ports.storage import StorageUnavailable


class Newcomers:
    """Knows who sent a new account, and greets it."""

    def __init__(self, referrals: Referrals, outbox: Outbox) -> None:
        self._referrals = referrals
        self._outbox = outbox

    async def sender(self, email: str, referral_code: str | None) -> str:
        """The account that sent this address; empty if nobody is known to have.

        Asked before the registration, whose transaction makes the referral: nobody's is lost.
        """
        if referral_code is None:
            return ""
        try:
            return await self._referrals.sender(email, referral_code)
        except StorageUnavailable as error:
            raise unavailable() from error

    async def is_invited(self, referral_code: str | None) -> bool:
        """Whether somebody has this code, be it whoever registers.

        Whether it is their own is not told: that would tell whose address a public code goes with.
        """
        if referral_code is None:
            return False
        try:
            return await self._referrals.is_somebodys(referral_code)
        except StorageUnavailable as error:
            raise unavailable() from error

    async def greet(self, welcome: Welcome) -> None:
        """Post the letter.

        An address that is not the account's own yet gets no welcome: its credit is still to come,
        and if it is another account's, that one's owner did not. To both the same is done.
        """
        if welcome.account.bound:
            await self.welcome(welcome.account)

    async def welcome(self, account: Account) -> None:
        """Post the letter, once for each account."""
        facts = {"credit": decimal_text(SIGN_UP_CREDIT)}
        mail = Mail(f"welcome:{account.id}", account.email, Letter.WELCOME, facts)
        try:
            await self._outbox.post(mail)
        except StorageUnavailable:
            return  # a letter less is the smaller loss
