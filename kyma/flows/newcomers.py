"""What follows a registration: a word of welcome, and who sent the new account.

Neither may spoil a registration that has succeeded: its secrets are shown only once.
"""

from __future__ import annotations

from kyma.accounts import Account
from kyma.flows.access import SIGN_UP_CREDIT, Welcome
from kyma.flows.referrals import Referrals
from kyma.mail import Letter, Mail
from kyma.money import decimal_text
from kyma.ports.mail import Outbox
from kyma.ports.storage import StorageUnavailable


class Newcomers:
    """Greets accounts that were just made."""

    def __init__(self, referrals: Referrals, outbox: Outbox) -> None:
        self._referrals = referrals
        self._outbox = outbox

    async def greet(self, welcome: Welcome, referral_code: str | None) -> bool:
        """Post the letter and remember the referrer; whether there is one.

        An address that is not the account's own yet gets no welcome: its credit is still to come,
        and if it is another account's, that one's owner did not. To both the same is done.
        """
        if welcome.account.bound:
            await self.welcome(welcome.account)
        return referral_code is not None and await self._attach(welcome.account, referral_code)

    async def welcome(self, account: Account) -> None:
        """Post the letter, once for each account."""
        facts = {"credit": decimal_text(SIGN_UP_CREDIT)}
        mail = Mail(f"welcome:{account.id}", account.email, Letter.WELCOME, facts)
        try:
            await self._outbox.post(mail)
        except StorageUnavailable:
            return  # a letter less is the smaller loss

    async def _attach(self, account: Account, code: str) -> bool:
        try:
            return await self._referrals.attach(account.id, account.email, code)
        except StorageUnavailable:
            return False  # and so is a referral
