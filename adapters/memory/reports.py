"""The analysts' figures in pure Python, over the records that the memory ledger keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from kyma.accounts import Account
from kyma.money import Usd
from kyma.traffic import OK, Probe, ProbeCount, Traffic, tally
from kyma.usage import CacheUsage, CustomerUsage, Period, UsageRecord

ORDERS: Mapping[str, Callable[[CustomerUsage], int]] = {
    "spend": lambda row: row.spend,
    "tokens": lambda row: row.tokens,
    "requests": lambda row: row.requests,
}


class MemoryReports:
    """The `Reports` port."""

    def __init__(self, records: list[UsageRecord], accounts: dict[str, Account]) -> None:
        self._records = records
        self._accounts = accounts

    async def top_customers(
        self, period: Period, order_by: str = "spend", limit: int = 20
    ) -> Sequence[CustomerUsage]:
        """Largest first; equal figures come in the order of account ids."""
        largest = ORDERS[order_by]
        groups: dict[str, list[UsageRecord]] = defaultdict(list)
        for record in self._within(period):
            groups[record.account_id].append(record)
        rows = [self._customer(id, records) for id, records in groups.items()]
        rows.sort(key=lambda row: (-largest(row), row.account_id))
        return rows[:limit]

    async def cache_usage(self, period: Period) -> Sequence[CacheUsage]:
        """By UTC day and served model, oldest day first."""
        groups: dict[tuple[datetime, str], list[UsageRecord]] = defaultdict(list)
        for record in self._within(period):
            moment = record.started_at.astimezone(UTC)
            day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
            groups[day, record.served_model].append(record)
        return [_cache(day, model, groups[day, model]) for day, model in sorted(groups)]

    async def requests_since(self, account_id: str, since: datetime) -> int:
        """Counted by when they began; memory does not know when they were written."""
        return sum(
            record.account_id == account_id and record.started_at >= since
            for record in self._records
        )

    async def traffic(self, since: datetime) -> Sequence[Traffic]:
        """Every record is looked at; memory does not know when they were written."""
        return tally(record for record in self._records if record.started_at >= since)

    async def database_time(self) -> datetime:
        """The machine's own clock."""
        return datetime.now(UTC)

    def _within(self, period: Period) -> list[UsageRecord]:
        return [
            record for record in self._records if period.since <= record.started_at < period.until
        ]

    def _customer(self, id: str, records: Sequence[UsageRecord]) -> CustomerUsage:
        account = self._accounts.get(id)
        return CustomerUsage(
            account_id=id,
            email="" if account is None else account.email,
            spend=Usd(sum(record.charged for record in records)),
            tokens=sum(
                record.usage.prompt_tokens + record.usage.completion_tokens for record in records
            ),
            requests=len(records),
            provider_cost=Usd(sum(record.provider_cost for record in records)),
        )


class MemoryProbes:
    """The `Probes` port on a given clock."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._seen: list[tuple[datetime, Probe]] = []

    async def add(self, probes: Sequence[Probe]) -> None:
        """Remember these."""
        self._seen.extend((self._now(), probe) for probe in probes)

    async def counts(self, since: datetime) -> Sequence[ProbeCount]:
        """Counted when asked for."""
        groups: dict[str, list[tuple[datetime, Probe]]] = defaultdict(list)
        for at, probe in self._seen:
            if at >= since:
                groups[probe.provider].append((at, probe))
        return [
            ProbeCount(
                provider=provider,
                checks=len(seen),
                answered=sum(probe.outcome == OK for _, probe in seen),
                last_outcome=seen[-1][1].outcome,
                last_at=seen[-1][0],
            )
            for provider, seen in sorted(groups.items())
        ]


def _cache(day: datetime, model: str, records: Sequence[UsageRecord]) -> CacheUsage:
    return CacheUsage(
        day=day,
        model=model,
        requests=len(records),
        prompt_tokens=sum(record.usage.prompt_tokens for record in records),
        cached_tokens=sum(record.usage.cache_read for record in records),
        cache_write_tokens=sum(record.usage.cache_write for record in records),
        savings=Usd(sum(record.cache_discount for record in records)),
    )
