"""A shop of credit for tests: the flows over memory, or over any adapters, and a customer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from adapters.memory.billing import (
    MemoryAlarms,
    MemoryBillingAlerts,
    MemoryNotices,
    MemoryOrders,
    MemoryTill,
)
from adapters.memory.payments import MemoryPayments, Notice
from adapters.memory.runtime import MemoryClock, MemoryInvalidations
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.memory.topups import MemoryTopUps
from adapters.system import SystemChance
from kyma.flows.credits import Credits
from kyma.flows.till import Till
from kyma.flows.topup import AutoTopUps, LowBalances
from kyma.ledger import Balance, Entry, Kind, Outcome, Resolution
from kyma.mail import Letter, Mail
from kyma.money import ZERO, Usd
from kyma.orders import KnownOrder
from kyma.ports.billing import Alarms, Notices, Orders, TopUps
from kyma.ports.storage import Accounts, Ledger, StorageUnavailable
from kyma.topups import TopUp
from tests.builders import a_key, a_session, an_account, new_id

BACK = "https://kyma.example/billing/back"


@dataclass
class Letters:
    """The `Outbox` port: keeps what is posted. `falls`: so many times it loses its database."""

    posted: dict[str, Mail] = field(default_factory=dict)
    falls: int = 0

    async def post(self, mail: Mail) -> bool:
        if self.falls:
            self.falls -= 1
            raise StorageUnavailable("gone")
        return self.posted.setdefault(mail.id, mail) is mail


@dataclass
class Shop:
    """Everything that sells, over some adapters, with a processor in memory."""

    accounts: Accounts
    ledger: Ledger
    orders: Any
    notices: Notices
    topups: TopUps
    alarms: Alarms
    processor: MemoryPayments
    mails: Letters
    alerts: MemoryBillingAlerts
    invalidations: MemoryInvalidations
    credits: Credits
    till: Till
    auto: AutoTopUps
    low: LowBalances
    clock: Any

    async def account(self, promo: Usd = ZERO) -> str:
        account = an_account()
        assert await self.accounts.register(account, a_key(account), a_session(account), promo)
        return account.id

    async def spend(self, account_id: str, amount: Usd) -> None:
        hold = new_id()
        assert (await self.ledger.hold(hold, account_id, amount, 600)).outcome is Outcome.DONE
        await self.ledger.resolve(Resolution(hold, Kind.SETTLE, amount))

    async def deliver(self, notice: Notice) -> None:
        await self.credits.notice(notice.raw, notice.signature)

    async def deliver_all(self) -> None:
        for notice in [*self.processor.notices]:
            await self.deliver(notice)

    async def bought(self, account_id: str, amount: Usd) -> tuple[KnownOrder, str]:
        """A purchase by Checkout: the order, and its payment. Nobody has been told yet."""
        known = await self.credits.buy(account_id, amount)
        assert known.checkout is not None
        return known, self.processor.pay(known.checkout.id)

    async def choose(self, setting: TopUp) -> TopUp:
        """Set auto top-up, having looked at it."""
        before, _ = await self.auto.setting(setting.account_id)
        return await self.auto.choose(setting, before)

    async def card(self, account_id: str, *manner: Any) -> str:
        _, customer = await self.till.customer(account_id)
        return self.processor.add_card(customer, *manner)

    def letters(self, letter: Letter) -> list[Mail]:
        return [mail for mail in self.mails.posted.values() if mail.letter is letter]

    async def balance(self, account_id: str) -> Balance:
        return await self.ledger.balance(account_id)


def a_shop_over(
    accounts: Accounts,
    ledger: Ledger,
    orders: Orders,
    notices: Notices,
    topups: TopUps,
    alarms: Alarms,
    now: Callable[[], datetime],
    clock: Any,
    processor: Any = None,
) -> Shop:
    processor, mails = processor or MemoryPayments(now), Letters()
    alerts, invalidations, chance = MemoryBillingAlerts(), MemoryInvalidations(), SystemChance()
    buyers: Any = orders
    till = Till(processor, processor, buyers, BACK)
    credits = Credits(
        processor, till, orders, notices, buyers, ledger, mails, alerts, invalidations, clock,
        chance,
    )  # fmt: skip
    auto = AutoTopUps(
        processor, till, credits, topups, orders, buyers, mails, alerts, clock, chance
    )
    return Shop(
        accounts, ledger, orders, notices, topups, alarms, processor, mails, alerts,
        invalidations, credits, till, auto, LowBalances(alarms, buyers, mails), clock,
    )  # fmt: skip


@dataclass
class MemoryShop(Shop):
    """One whose store can be looked into."""

    @property
    def memory(self) -> MemoryStore:
        ledger = self.ledger
        assert isinstance(ledger, MemoryLedger)
        return ledger._store

    def entries(self, *kinds: Kind) -> list[Entry]:
        found = self.memory.entries.values()
        return [entry for entry in found if not kinds or entry.kind in kinds]


def a_shop(clock: Any = None, processor: Any = None) -> MemoryShop:
    """In memory, with a clock that stands still until it is moved, if no other is given."""
    clock = clock or MemoryClock()
    store = MemoryStore(now=clock.now)
    till = MemoryTill(store)
    shop = a_shop_over(
        MemoryAccounts(store),
        MemoryLedger(store),
        MemoryOrders(till),
        MemoryNotices(till),
        MemoryTopUps(till),
        MemoryAlarms(till),
        clock.now,
        clock,
        processor,
    )
    return MemoryShop(**{name: getattr(shop, name) for name in shop.__dataclass_fields__})
