"""Operators' tier decisions: look at a customer, grant a tier for a while, take it back.

A decision is a row with a name, a reason and an end. It is in force at the customer's next
request, because every process is told to forget what it remembers of the account.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from kyma.accounts import Account
from kyma.errors import Code, Refusal
from kyma.ports.runtime import Chance, Clock, Invalidations
from kyma.ports.storage import Accounts, Overrides
from kyma.tiers import TIERS, Override, Standing, Tier, tier_of, why_inside

MIN_REASON_LENGTH = 3
MAX_REASON_LENGTH = 500
ACCOUNT_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class CustomerTier:
    """A customer as an operator needs to see them before deciding anything.

    `history` is newest first; `earned` is the tier that deposits alone would give.
    """

    account: Account
    standing: Standing
    tier: Tier
    earned: Tier
    why: str
    history: tuple[Override, ...]

    def in_force(self, now: datetime) -> Override | None:
        """The override that decides the tier at `now`, if one does."""
        latest = self.standing.override
        return latest if latest is not None and latest.in_force(now) else None


class TierOverrides:
    """Look at a customer's tier and decide it by hand. Decisions are only ever appended."""

    def __init__(
        self,
        accounts: Accounts,
        overrides: Overrides,
        clock: Clock,
        chance: Chance,
        invalidations: Invalidations,
    ) -> None:
        self._accounts = accounts
        self._overrides = overrides
        self._clock = clock
        self._chance = chance
        self._invalidations = invalidations

    async def find(self, text: str) -> Sequence[Account]:
        """Customers by part of the address or by whole id; none for an empty text."""
        wanted = text.strip().replace("\x00", "")
        return await self._accounts.find(wanted) if wanted else ()

    async def look(self, account_id: str) -> CustomerTier:
        """A customer's tier now, where it comes from, and every decision made on it."""
        standing = await self._standing(account_id)
        found = await self._accounts.find(standing.account_id)
        account = next((each for each in found if each.id == standing.account_id), None)
        if account is None:
            raise _unknown(account_id)
        history = await self._overrides.history(standing.account_id)
        now = self._clock.now()
        deposits = standing.lifetime_deposits
        return CustomerTier(
            account=account,
            standing=standing,
            tier=tier_of(deposits, standing.override, now),
            earned=tier_of(deposits, None, now),
            why=why_inside(deposits, standing.override, now),
            history=tuple(history),
        )

    async def grant(
        self, account_id: str, level: int, reason: str, until: datetime | None, operator: str
    ) -> Override:
        """Put a customer on a tier until `until`, or with no end; replaces what was in force."""
        return await self._decided(await self.draft(account_id, level, reason, until, operator))

    async def revoke(self, account_id: str, reason: str, operator: str) -> Override:
        """Let deposits decide again; refused when no override is in force."""
        standing = await self._standing(account_id)
        latest = standing.override
        if latest is None or not latest.in_force(self._clock.now()):
            raise Refusal(
                Code.INVALID_VALUE, "There is no override in force, so there is nothing to revoke."
            )
        return await self._decided(await self._drafted(account_id, None, reason, None, operator))

    async def draft(
        self, account_id: str, level: int, reason: str, until: datetime | None, operator: str
    ) -> Override:
        """A grant that meets every rule and is not in force: whoever appends it announces it."""
        _check_level(level)
        _check_end(until, self._clock.now())
        return await self._drafted(account_id, level, reason, until, operator)

    async def announce(self, decision: Override) -> None:
        """Tell every process, once the decision is committed.

        Told before, a process could remember the old tier anew.
        """
        await self._invalidations.forget(decision.account_id)

    async def _decided(self, decision: Override) -> Override:
        await self._overrides.add(decision)
        await self.announce(decision)
        return decision

    async def _drafted(
        self,
        account_id: str,
        level: int | None,
        reason: str,
        until: datetime | None,
        operator: str,
    ) -> Override:
        reason = checked_reason(reason)
        operator = checked_operator(operator)
        standing = await self._standing(account_id)
        return Override(
            id=self._chance.id(),
            account_id=standing.account_id,
            level=level,
            operator=operator,
            reason=reason,
            granted_at=self._clock.now(),
            until=until,
        )

    async def _standing(self, account_id: str) -> Standing:
        plain = account_id.strip().replace("-", "").lower()
        standing = None
        if ACCOUNT_ID.fullmatch(plain):
            standing = await self._accounts.standing(plain)
        if standing is None:
            raise _unknown(account_id)
        return standing


def _unknown(account_id: str) -> Refusal:
    return Refusal(Code.NOT_FOUND, f"There is no account {account_id!r}.", param="account_id")


def _check_level(level: int) -> None:
    if not 0 <= level < len(TIERS):
        raise Refusal(Code.INVALID_VALUE, f"The tier must be 0 to {len(TIERS) - 1}.", param="level")


def _check_end(until: datetime | None, now: datetime) -> None:
    if until is None:
        return
    if until.tzinfo is None:
        raise Refusal(Code.INVALID_VALUE, "The end needs a time zone.", param="until")
    if until <= now:
        raise Refusal(
            Code.INVALID_VALUE,
            f"The end must be in the future; it is {now:%Y-%m-%d %H:%M} UTC now.",
            param="until",
        )


def checked_reason(reason: str) -> str:
    """A reason as it is kept, or a refusal."""
    reason = reason.strip().replace("\x00", "")
    if not MIN_REASON_LENGTH <= len(reason) <= MAX_REASON_LENGTH:
        raise Refusal(
            Code.INVALID_VALUE,
            f"Give a reason of {MIN_REASON_LENGTH} to {MAX_REASON_LENGTH} characters.",
            param="reason",
        )
    return reason


def checked_operator(operator: str) -> str:
    """A name that answers for a decision, or a refusal."""
    operator = operator.strip()
    if not operator:
        raise Refusal(Code.MISSING_FIELD, "A decision needs an operator's name.", param="operator")
    return operator
