"""Auto top-up in memory, equal to Postgres by contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from adapters.memory.billing import MemoryTill
from kyma import topups as rules
from kyma.money import Usd
from kyma.orders import KnownOrder, OrderState
from kyma.payments import Order
from kyma.topups import Attempt, TopUp


@dataclass(slots=True)
class _Charge:
    attempt: Attempt
    amount: Usd
    """Taxes included."""

    resume_at: datetime
    resumes: int = 0
    state: str = "running"


@dataclass(slots=True)
class MemoryTopUps:
    """The `TopUps` port."""

    till: MemoryTill
    charges: dict[str, _Charge] = field(default_factory=dict)

    async def setting(self, account_id: str) -> TopUp | None:
        """As chosen."""
        return self.till.top_ups.get(account_id)

    async def choose(self, setting: TopUp, before: TopUp | None) -> bool:
        """By the rule."""
        found = self.till.top_ups.get(setting.account_id)
        allowed = rules.may_replace(setting, before, found)
        if allowed:
            self.till.top_ups[setting.account_id] = rules.in_place_of(found, setting)
        return allowed

    async def charged(self, account_id: str, since: datetime) -> Usd:
        """Failed charges took nothing, unless their owner paid them after all."""
        return Usd(
            sum(
                charge.amount
                for charge in self.charges.values()
                if charge.attempt.account_id == account_id
                and charge.attempt.created_at >= since
                and (charge.state != "failed" or self._is_credited(charge))
            )
        )

    def _is_credited(self, charge: _Charge) -> bool:
        return self.till.orders[charge.attempt.order_id].state is OrderState.CREDITED

    async def due(self, limit: int = 100) -> Sequence[TopUp]:
        """By the rule."""
        rule = rules.is_worth_asking
        settings = self.till.top_ups.values()
        return [setting for setting in settings if await self._is(rule, setting)][:limit]

    async def delay(self, account_id: str) -> None:
        """By the rule."""
        setting = self.till.top_ups.get(account_id)
        if setting is not None:
            self.till.top_ups[account_id] = rules.delayed(setting, self.till.store.now())

    async def _is(self, rule: Callable[[TopUp, Usd, Usd, datetime], bool], setting: TopUp) -> bool:
        account, now = setting.account_id, self.till.store.now()
        running = any(
            charge.state == "running" and charge.attempt.account_id == account
            for charge in self.charges.values()
        )
        charged = await self.charged(account, rules.month_of(now))
        posted = self.till.store.balances[account].posted
        return not running and rule(setting, posted, charged, now)

    async def claim(self, order: Order, customer: str, card_id: str, tax: Usd) -> bool:
        """Order and charge together."""
        setting = self.till.top_ups.get(order.account_id)
        if setting is None or setting.amount != order.amount:
            return False
        now = self.till.store.now()
        setting = self.till.top_ups[order.account_id] = rules.reckoned(setting, tax, now)
        if not await self._is(rules.is_due, setting):
            return False
        self.till.put(KnownOrder(order, customer))
        attempt = Attempt(order.id, order.account_id, card_id, now)
        resume_at = now + rules.pause_after(0)
        self.charges[order.id] = _Charge(attempt, Usd(order.amount + tax), resume_at)
        return True

    async def running(self, limit: int = 100) -> Sequence[Attempt]:
        """Oldest first."""
        return [c.attempt for c in self.charges.values() if c.state == "running"][:limit]

    async def running_of(self, account_id: str) -> Attempt | None:
        """At most one."""
        running = await self.running(len(self.charges))
        return next((one for one in running if one.account_id == account_id), None)

    async def take_stalled(self, limit: int = 100) -> Sequence[Attempt]:
        """By the rule."""
        now = self.till.store.now()
        stalled = [charge for charge in self.charges.values() if self._is_stalled(charge, now)]
        stalled.sort(key=lambda charge: charge.resume_at)
        for charge in stalled[:limit]:
            charge.resumes += 1
            charge.resume_at = now + rules.pause_after(charge.resumes)
        return [charge.attempt for charge in stalled[:limit]]

    def _is_stalled(self, charge: _Charge, now: datetime) -> bool:
        if charge.state != "running":
            return False
        is_over = now >= charge.attempt.created_at + rules.RESUME_AFTER
        return charge.resume_at <= now or (is_over and self._is_credited(charge))

    async def end(self, order_id: str, failure: str | None) -> TopUp | None:
        """Once."""
        charge = self.charges.get(order_id)
        if charge is None or charge.state != "running":
            return None
        charge.state = "paid" if failure is None else "failed"
        account = charge.attempt.account_id
        setting = rules.after(self.till.top_ups[account], failure, self.till.store.now())
        self.till.top_ups[account] = setting
        return setting
