"""The analysts' figures in pure Python, over the records that the memory ledger keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from kyma.accounts import Account
from kyma.money import Usd
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
