"""Claims, receipts and price versions in memory, equal to Postgres by contract."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from adapters.memory.storage import MemoryStore
from kyma.generations import Generation, LogFilter, Logged, Place, Status
from kyma.idempotency import KEEP_S, KnownClaim, State
from kyma.ledger import Kind
from kyma.money import ZERO, Usd
from kyma.pricing import PerToken

ENDED_BY = {
    Kind.SETTLE: Status.COMPLETED,
    Kind.REFUND: Status.REFUNDED,
    Kind.EXPIRE: Status.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class _Claim:
    fingerprint: bytes
    request_id: str
    state: State
    claimed_at: datetime
    lease_until: datetime
    forget_at: datetime
    sealed: bytes | None = None
    sealed_until: datetime | None = None


class MemoryClaims:
    """The `Claims` port."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._claims: dict[tuple[str, bytes], _Claim] = {}

    async def claim(
        self,
        account_id: str,
        key: bytes,
        fingerprint: bytes,
        request_id: str,
        ttl_s: int,
        keep_s: int = KEEP_S,
    ) -> KnownClaim | None:
        """Unless there is one that has not been forgotten."""
        now = self._store.now()
        old = self._claims.get((account_id, key))
        if old is None or old.forget_at <= now:
            self._claims[account_id, key] = _new(fingerprint, request_id, now, ttl_s, keep_s)
            return None
        live = old.sealed_until is not None and old.sealed_until > now
        return KnownClaim(
            old.fingerprint,
            old.request_id,
            old.state,
            overdue=old.lease_until <= now,
            age_s=(now - old.claimed_at).total_seconds(),
            left_s=(old.lease_until - now).total_seconds(),
            sealed=old.sealed if live else None,
        )

    async def take_over(
        self, account_id: str, key: bytes, former_id: str, request_id: str, ttl_s: int
    ) -> bool:
        """If the former one still has it."""
        old = self._own(account_id, key, former_id)
        if old is None or old.state is State.FINISHED:
            return False
        now = self._store.now()
        self._claims[account_id, key] = _new(old.fingerprint, request_id, now, ttl_s)
        return True

    async def renew(self, account_id: str, key: bytes, request_id: str, ttl_s: int) -> bool:
        """If it is overdue."""
        old, now = self._own(account_id, key, request_id), self._store.now()
        if old is None or old.state is State.FINISHED or old.lease_until > now:
            return False
        self._claims[account_id, key] = _new(old.fingerprint, request_id, now, ttl_s)
        return True

    async def finish(
        self, account_id: str, key: bytes, request_id: str, sealed: bytes | None, keep_s: int
    ) -> bool:
        """If it is still this request's."""
        old = self._own(account_id, key, request_id)
        if old is None:
            return False
        until = self._store.now() + timedelta(seconds=keep_s) if sealed is not None else None
        self._claims[account_id, key] = replace(
            old, state=State.FINISHED, sealed=sealed, sealed_until=until
        )
        return True

    async def release(self, account_id: str, key: bytes, request_id: str) -> bool:
        """If it is still this request's, and runs."""
        old = self._own(account_id, key, request_id)
        if old is None or old.state is State.FINISHED:
            return False
        del self._claims[account_id, key]
        return True

    async def tidy(self, limit: int = 5000) -> int:
        """Drop what is over."""
        now = self._store.now()
        over = [place for place, claim in self._claims.items() if claim.forget_at <= now]
        for place in over[:limit]:
            del self._claims[place]
        stale = [
            place
            for place, claim in self._claims.items()
            if claim.sealed_until is not None and claim.sealed_until <= now
        ]
        for place in stale[:limit]:
            self._claims[place] = replace(self._claims[place], sealed=None, sealed_until=None)
        return len(over[:limit]) + len(stale[:limit])

    def kept(self) -> int:
        """How many sealed answers are stored."""
        return sum(claim.sealed is not None for claim in self._claims.values())

    def _own(self, account_id: str, key: bytes, request_id: str) -> _Claim | None:
        claim = self._claims.get((account_id, key))
        return claim if claim is not None and claim.request_id == request_id else None


def _new(
    fingerprint: bytes, request_id: str, now: datetime, ttl_s: int, keep_s: int = KEEP_S
) -> _Claim:
    return _Claim(
        fingerprint,
        request_id,
        State.RUNNING,
        claimed_at=now,
        lease_until=now + timedelta(seconds=ttl_s),
        forget_at=now + timedelta(seconds=keep_s),
    )


class MemoryReceipts:
    """The `Receipts` port."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def generation(self, account_id: str, id: str) -> Generation | None:
        """From the entries of the hold."""
        store = self._store
        entry = store.entries.get(id)
        if entry is None or entry.kind is not Kind.HOLD or entry.account_id != account_id:
            return None
        end = store.resolutions.get(id)
        opened = store.open_holds.get(id)
        return Generation(
            id=id,
            account_id=account_id,
            status=Status.RUNNING if end is None else ENDED_BY[end.kind],
            held=Usd(entry.held_paid + entry.held_promo),
            settled=ZERO if end is None else Usd(end.revenue + end.loss),
            held_at=store.booked_at[id],
            expires_at=None if opened is None else opened[1],
            ended_at=None if end is None else store.booked_at[end.id],
            record=next((record for record in store.records if record.id == id), None),
        )

    async def log(
        self, account_id: str, wanted: LogFilter, after: Place | None, limit: int
    ) -> Sequence[Logged]:
        """Sorted anew each time."""
        lines = [
            Logged(record, self._store.booked_at[self._store.resolutions[record.id].id])
            for record in self._store.records
            if record.account_id == account_id
        ]
        found = [
            line
            for line in lines
            if _meets(line, wanted)
            and (after is None or (line.ended_at, line.record.id) < (after.ended_at, after.id))
        ]
        found.sort(key=lambda line: (line.ended_at, line.record.id), reverse=True)
        return found[:limit]


def _meets(line: Logged, wanted: LogFilter) -> bool:
    record = line.record
    return (
        all(
            want is None or want == has
            for want, has in (
                (wanted.model, record.requested_model),
                (wanted.outcome, record.outcome),
                (wanted.endpoint, record.endpoint),
                (wanted.key_id, record.key_id),
            )
        )
        and (wanted.since is None or line.ended_at >= wanted.since)
        and (wanted.until is None or line.ended_at < wanted.until)
    )


class MemoryPriceBook:
    """The `PriceBook` port."""

    def __init__(self) -> None:
        self._prices: dict[tuple[str, str], PerToken] = {}

    async def remember(self, version: str, prices: Mapping[str, PerToken]) -> None:
        """The first word stands."""
        for model, price in prices.items():
            self._prices.setdefault((version, model), price)

    async def prices(self, version: str, models: Collection[str]) -> Mapping[str, PerToken]:
        """Those that are known."""
        return {
            model: self._prices[version, model]
            for model in models
            if (version, model) in self._prices
        }
