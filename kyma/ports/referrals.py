"""What is remembered of referrals: codes, who sent whom, a running count of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kyma.referrals import Referral, Referrer, Tally


class ReferralBook(Protocol):
    """Codes and referrals. Times are the database's."""

    async def code(self, account_id: str, proposed: str) -> str | None:
        """The code of an account: the one it has, else the proposed; None if that is another's."""
        ...

    async def owner(self, code: str) -> Referrer | None:
        """Whose code this is."""
        ...

    async def made_by(self, account_id: str, limit: int = 100) -> Sequence[Referral]:
        """Those an account sent, newest first."""
        ...

    async def tally(self, account_id: str) -> Tally:
        """How many it sent, by state."""
        ...

    async def void(self, id: str, operator: str, reason: str) -> bool:
        """End a pending referral without a reward; False if it is not pending."""
        ...


class ReferralCounter(Protocol):
    """The worker's side."""

    async def count(self, needed: int, every_s: int, lag_s: int, limit: int = 100) -> int:
        """Add what referred accounts consumed since they were counted; how many were counted.

        Only pending referrals not counted for `every_s`, longest first. Records younger than
        `lag_s` are left for the next time, for an older one may still be committed. At most an
        hour with records is added at once. One that reaches `needed` is VERIFIED by the same
        write, if the address of the referred account is known to be its own.
        """
        ...

    async def unpaid(self, limit: int = 100) -> Sequence[Referral]:
        """Verified referrals whose rewards may not have been given yet, oldest first."""
        ...

    async def paid(self, id: str) -> None:
        """Both sides have their reward."""
        ...
