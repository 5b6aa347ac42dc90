"""Where customers' requests for higher limits are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kyma.limit_requests import LimitRequest
from kyma.tiers import Override


class LimitRequests(Protocol):
    """Requests and their answers. Times are the database's, `email` is the account's."""

    async def add(
        self, id: str, account_id: str, company: str, use: str, expected_load: str
    ) -> LimitRequest | None:
        """Open a request; None if the account has an open one."""
        ...

    async def of(self, account_id: str, limit: int = 20) -> Sequence[LimitRequest]:
        """An account's own, newest first."""
        ...

    async def waiting(self, limit: int = 100) -> Sequence[LimitRequest]:
        """Open ones of everybody, oldest first."""
        ...

    async def approve(self, id: str, override: Override) -> bool:
        """Answer an open request and append the decision, together; False if it is not open."""
        ...

    async def decline(self, id: str, operator: str, reason: str) -> bool:
        """Answer an open request with no; False if it is not open."""
        ...

    async def untold(self, limit: int = 100) -> Sequence[LimitRequest]:
        """Answered requests about which no letter was posted yet, oldest answer first."""
        ...

    async def told(self, id: str) -> None:
        """The letter was posted."""
        ...
