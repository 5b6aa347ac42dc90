"""Requests for higher limits: a customer asks, an operator answers once, a letter tells.

An approval and its tier are written together. The letter is posted afterwards; if that fails, the
worker finds an answered request that nobody was told of, and the letter's id keeps it single.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.flows.overrides import TierOverrides, checked_operator, checked_reason
from kyma.limit_requests import LimitRequest, State, checked
from kyma.mail import Letter, Mail
from kyma.ports.limit_requests import LimitRequests
from kyma.ports.mail import Outbox
from kyma.ports.runtime import Chance
from kyma.ports.storage import StorageUnavailable
from kyma.tiers import TIERS, Override


class HigherLimits:
    """Ask, look, answer, tell."""

    def __init__(
        self, requests: LimitRequests, overrides: TierOverrides, outbox: Outbox, chance: Chance
    ) -> None:
        self._requests = requests
        self._overrides = overrides
        self._outbox = outbox
        self._chance = chance

    async def ask(
        self, account_id: str, company: str, use: str, expected_load: str
    ) -> LimitRequest:
        """Open a request; refused while the account has an open one."""
        texts = (
            checked("company", company),
            checked("use", use),
            checked("expected_load", expected_load),
        )
        try:
            request = await self._requests.add(self._chance.id(), account_id, *texts)
        except StorageUnavailable as error:
            raise unavailable() from error
        if request is None:
            raise Refusal(
                Code.REQUEST_OPEN,
                "Your request for higher limits is still open. We answer by e-mail; "
                "GET /v1/limits/requests shows where it stands.",
            )
        return request

    async def mine(self, account_id: str) -> Sequence[LimitRequest]:
        """An account's own requests, newest first."""
        try:
            return await self._requests.of(account_id)
        except StorageUnavailable as error:
            raise unavailable() from error

    async def waiting(self) -> Sequence[LimitRequest]:
        """Those that wait for an answer, oldest first."""
        return await self._requests.waiting()

    async def approve(
        self,
        request: LimitRequest,
        level: int,
        reason: str,
        until: datetime | None,
        operator: str,
    ) -> Override:
        """Grant a tier in answer to a request, by the rules of every override."""
        decision = await self._overrides.draft(request.account_id, level, reason, until, operator)
        if not await self._requests.approve(request.id, decision):
            raise _answered()
        await self._overrides.announce(decision)
        await self._tell_now()
        return decision

    async def decline(self, request: LimitRequest, reason: str, operator: str) -> None:
        """Say no, with a reason that the customer reads."""
        reason, operator = checked_reason(reason), checked_operator(operator)
        if not await self._requests.decline(request.id, operator, reason):
            raise _answered()
        await self._tell_now()

    async def tell(self) -> int:
        """Post a letter about every answer that nobody was told of; how many."""
        untold = await self._requests.untold()
        for request in untold:
            await self._outbox.post(letter_about(request))
            await self._requests.told(request.id)
        return len(untold)

    async def _tell_now(self) -> None:
        try:
            await self.tell()
        except StorageUnavailable:
            return  # the answer stands, and the worker tells of it


def letter_about(request: LimitRequest) -> Mail:
    """What the customer reads of an answered request."""
    name = f"limits/{request.id}"
    if request.state is State.APPROVED and request.level is not None:
        until = f"{request.until:%Y-%m-%d %H:%M} UTC" if request.until else ""
        facts = {"tier": TIERS[request.level].name, "until": until, "reason": request.reason}
        return Mail(name, request.email, Letter.TIER_GRANTED, facts)
    return Mail(name, request.email, Letter.TIER_DECLINED, {"reason": request.reason})


def _answered() -> Refusal:
    return Refusal(Code.INVALID_VALUE, "This request has been answered by somebody else meanwhile.")
