"""Referrals: a code for everybody, a referral at registration, rewards for both, once.

First a referral is verified, then both are rewarded, then it is marked as paid. Whoever dies in
between leaves a verified one that is not paid: the next run goes on with it, and the ledger
refuses a reward that was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.flows.overrides import checked_operator, checked_reason
from kyma.ledger import Outcome
from kyma.ports.referrals import ReferralBook, ReferralCounter
from kyma.ports.runtime import Chance
from kyma.ports.storage import Ledger, StorageUnavailable
from kyma.referrals import (
    CODE_LENGTH,
    REWARD,
    TOKENS_TO_VERIFY,
    Referral,
    Referrer,
    Side,
    Tally,
    code_of,
    entry_id,
    same_mailbox,
)

EVERY_S = 600
"""How often an account's tokens are counted."""

LAG_S = 120
"""Above the longest transaction: nothing older is still to be committed."""

ROUNDS = 200
"""Counts in one run; a longer backlog is for the next."""

TRIES = 5
"""For a code that nobody has; one in a million million is taken."""


@dataclass(frozen=True, slots=True)
class Mine:
    """What an account may know of its referrals: never who they are."""

    code: str
    tally: Tally
    referrals: Sequence[Referral]


@dataclass(frozen=True, slots=True)
class Rewarded:
    """A run of rewards. `stuck` are referrals the ledger refused: a mistake of ours."""

    paid: int
    stuck: tuple[str, ...] = ()


class Referrals:
    """What customers and operators do with referrals."""

    def __init__(self, book: ReferralBook, chance: Chance) -> None:
        self._book = book
        self._chance = chance

    async def mine(self, account_id: str) -> Mine:
        """An account's code, made at first use, and whom it sent."""
        try:
            code = await self._code(account_id)
            tally = await self._book.tally(account_id)
            return Mine(code, tally, await self._book.made_by(account_id))
        except StorageUnavailable as error:
            raise unavailable() from error

    async def _code(self, account_id: str) -> str:
        for _ in range(TRIES):
            proposed = self._chance.secret("")[-CODE_LENGTH:]
            code = await self._book.code(account_id, proposed)
            if code is not None:
                return code
        raise StorageUnavailable("no referral code was free")

    async def sender(self, email: str, code: str) -> str:
        """Whose code brings this address here; empty for nobody's.

        A code that nobody has, or that of another address of the same mailbox, brings nobody.
        """
        referrer = await self._owner(code)
        if referrer is None or same_mailbox(referrer.email, email):
            return ""
        return referrer.account_id

    async def is_somebodys(self, code: str) -> bool:
        """Whether anybody has this code: all that a stranger is told of it."""
        return await self._owner(code) is not None

    async def _owner(self, code: str) -> Referrer | None:
        wanted = code_of(code)
        return None if wanted is None else await self._book.owner(wanted)

    async def sent(self, account_id: str) -> Sequence[Referral]:
        """Those an account sent, newest first, for an operator."""
        return await self._book.made_by(account_id)

    async def void(self, referral_id: str, reason: str, operator: str) -> None:
        """An operator's no; a verified referral has been paid and stays."""
        reason, operator = checked_reason(reason), checked_operator(operator)
        if not await self._book.void(referral_id, operator, reason):
            raise Refusal(Code.NOT_FOUND, "There is no pending referral with this id.")


class Rewards:
    """What the worker does about them."""

    def __init__(self, counter: ReferralCounter, ledger: Ledger) -> None:
        self._counter = counter
        self._ledger = ledger

    async def run(self, every_s: int = EVERY_S, lag_s: int = LAG_S) -> Rewarded:
        """Count tokens, then give every reward that is due."""
        for _ in range(ROUNDS):
            if not await self._counter.count(TOKENS_TO_VERIFY, every_s, lag_s):
                break
        paid, stuck = 0, []
        for referral in await self._counter.unpaid():
            if await self._reward(referral):
                await self._counter.paid(referral.id)
                paid += 1
            else:
                stuck.append(referral.id)
        return Rewarded(paid, tuple(stuck))

    async def _reward(self, referral: Referral) -> bool:
        sides = ((Side.REFERRER, referral.referrer_id), (Side.REFERRED, referral.referred_id))
        given = [
            await self._ledger.grant(
                entry_id(referral.id, side), account_id, REWARD, f"referral, {side.value}"
            )
            for side, account_id in sides
        ]
        return all(outcome in {Outcome.DONE, Outcome.EXISTS} for outcome in given)
