"""Referrals in memory, equal to those on Postgres by contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from adapters.memory.storage import MemoryStore
from kyma.referrals import Referral, Referrer, State, Tally

AT_ONCE = timedelta(hours=1)


@dataclass(slots=True)
class MemoryReferrals:
    """The `ReferralBook` and `ReferralCounter` ports over one store."""

    store: MemoryStore
    codes: dict[str, str] = field(default_factory=dict)
    voided: dict[str, tuple[str, str]] = field(default_factory=dict)

    async def code(self, account_id: str, proposed: str) -> str | None:
        """The first one stands."""
        if account_id not in self.codes and proposed not in self.codes.values():
            self.codes[account_id] = proposed
        return self.codes.get(account_id)

    async def owner(self, code: str) -> Referrer | None:
        """By exact code."""
        found = next((owner for owner, own in self.codes.items() if own == code), None)
        return None if found is None else Referrer(found, self.store.accounts[found].email)

    async def made_by(self, account_id: str, limit: int = 100) -> Sequence[Referral]:
        """Newest first."""
        own = [known for known in self.store.referrals.values() if known.referrer_id == account_id]
        own.sort(key=lambda known: (known.created_at, known.id), reverse=True)
        return own[:limit]

    async def tally(self, account_id: str) -> Tally:
        """By state."""
        states = [
            known.state
            for known in self.store.referrals.values()
            if known.referrer_id == account_id
        ]
        return Tally(*(states.count(state) for state in State))

    async def void(self, id: str, operator: str, reason: str) -> bool:
        """Only a pending one."""
        known = self.store.referrals.get(id)
        if known is None or known.state is not State.PENDING:
            return False
        self.store.referrals[id] = replace(known, state=State.VOID)
        self.voided[id] = (operator, reason)
        return True

    async def count(self, needed: int, every_s: int, lag_s: int, limit: int = 100) -> int:
        """As on Postgres: an hour from the first record, or up to the lag."""
        now = self.store.now()
        due = [
            known
            for known in self.store.referrals.values()
            if known.state is State.PENDING
            and self.store.counted[known.id] < now - timedelta(seconds=every_s)
        ]
        due.sort(key=lambda known: self.store.counted[known.id])
        for known in due[:limit]:
            self._count(known, needed, now - timedelta(seconds=lag_s))
        return len(due[:limit])

    def _count(self, known: Referral, needed: int, until: datetime) -> None:
        store = self.store
        used = [
            (
                store.booked_at[store.resolutions[record.id].id],
                record.usage.prompt_tokens + record.usage.completion_tokens,
            )
            for record in store.records
            if record.account_id == known.referred_id
        ]
        since = self.store.counted[known.id]
        new = [(at, tokens) for at, tokens in used if at >= since]
        if new:
            until = min(until, min(at for at, _ in new) + AT_ONCE)
        total = known.tokens + sum(tokens for at, tokens in new if at < until)
        self.store.counted[known.id] = until
        known = replace(known, tokens=total)
        if total >= needed and known.referred_id in store.proven:
            known = replace(known, state=State.VERIFIED, verified_at=store.now())
        self.store.referrals[known.id] = known

    async def unpaid(self, limit: int = 100) -> Sequence[Referral]:
        """Oldest first."""
        found = [
            known
            for known in self.store.referrals.values()
            if known.verified_at is not None and known.paid_at is None
        ]
        found.sort(key=lambda known: known.verified_at or known.created_at)
        return found[:limit]

    async def paid(self, id: str) -> None:
        """Once."""
        known = self.store.referrals[id]
        if known.verified_at is not None and known.paid_at is None:
            self.store.referrals[id] = replace(known, paid_at=self.store.now())
