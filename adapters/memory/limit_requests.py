"""Customers' requests for higher limits in memory, equal to those on Postgres by contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from adapters.memory.storage import MemoryStore
from kyma.limit_requests import LimitRequest, State
from kyma.tiers import Override


@dataclass(slots=True)
class MemoryLimitRequests:
    """The `LimitRequests` port over one store."""

    store: MemoryStore
    requests: dict[str, LimitRequest] = field(default_factory=dict)
    operators: dict[str, str] = field(default_factory=dict)
    letters: set[str] = field(default_factory=set)

    async def add(
        self, id: str, account_id: str, company: str, use: str, expected_load: str
    ) -> LimitRequest | None:
        """One open request each."""
        if any(known.account_id == account_id for known in self._in(State.OPEN)):
            return None
        email = self.store.accounts[account_id].email
        self.requests[id] = LimitRequest(
            id, account_id, email, company, use, expected_load, self.store.now()
        )
        return self.requests[id]

    async def of(self, account_id: str, limit: int = 20) -> Sequence[LimitRequest]:
        """Newest first."""
        own = [known for known in self.requests.values() if known.account_id == account_id]
        own.sort(key=lambda known: (known.requested_at, known.id), reverse=True)
        return own[:limit]

    async def waiting(self, limit: int = 100) -> Sequence[LimitRequest]:
        """Oldest first."""
        found = sorted(self._in(State.OPEN), key=lambda known: (known.requested_at, known.id))
        return found[:limit]

    async def approve(self, id: str, override: Override) -> bool:
        """Answer and decision."""
        known = self.requests.get(id)
        if known is None or known.state is not State.OPEN:
            return False
        if known.account_id != override.account_id:
            return False
        self.store.overrides.append(override)
        self.store.note_change(override.account_id)
        granted = replace(known, level=override.level, until=override.until)
        self._answer(granted, State.APPROVED, override.operator, override.reason)
        return True

    async def decline(self, id: str, operator: str, reason: str) -> bool:
        """Once."""
        known = self.requests.get(id)
        if known is None or known.state is not State.OPEN:
            return False
        self._answer(known, State.DECLINED, operator, reason)
        return True

    async def untold(self, limit: int = 100) -> Sequence[LimitRequest]:
        """Oldest answer first."""
        found = [
            known
            for known in self._in(State.APPROVED, State.DECLINED)
            if known.id not in self.letters
        ]
        found.sort(key=lambda known: known.answered_at or known.requested_at)
        return found[:limit]

    async def told(self, id: str) -> None:
        """Once."""
        self.letters.add(id)

    def _in(self, *states: State) -> list[LimitRequest]:
        return [known for known in self.requests.values() if known.state in states]

    def _answer(self, known: LimitRequest, state: State, operator: str, reason: str) -> None:
        self.requests[known.id] = replace(
            known, state=state, reason=reason, answered_at=self.store.now()
        )
        self.operators[known.id] = operator
