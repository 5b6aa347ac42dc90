"""A whole console over memory adapters, with handles on what a test looks at or moves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

from streamlit.testing.v1 import AppTest

from adapters.memory.billing import MemoryOrders, MemorySettlements, MemoryTill
from adapters.memory.keys import MemoryAttempts
from adapters.memory.limit_requests import MemoryLimitRequests
from adapters.memory.mail import MemoryBell, MemoryMails
from adapters.memory.referrals import MemoryReferrals
from adapters.memory.reports import MemoryReports
from adapters.memory.runtime import MemoryChance, MemoryClock, MemoryInvalidations, MemoryPasswords
from adapters.memory.storage import (
    MemoryAccounts,
    MemoryLedger,
    MemoryOperators,
    MemoryOverrides,
    MemoryStore,
)
from console import signin
from console.wiring import BUNDLE, Console
from kyma.accounts import Account
from kyma.flows.limit_requests import HigherLimits
from kyma.flows.overrides import TierOverrides
from kyma.flows.post import LostLetters
from kyma.flows.referrals import Referrals
from kyma.flows.settlements import UncreditedPayments
from kyma.flows.signin import NewOperators, OperatorSignIn
from kyma.flows.throttle import Throttle
from kyma.money import ZERO, usd
from tests.builders import a_key, a_session, an_account, new_id

APP = Path(__file__).parent.parent.parent / "console" / "app.py"
OPERATOR = "olga"
PASSWORD = "correct horse"
PATIENCE_S = 20.0


@dataclass
class World:
    """One memory store and everything over it."""

    clock: MemoryClock = field(default_factory=MemoryClock)
    chance: MemoryChance = field(default_factory=MemoryChance)
    invalidations: MemoryInvalidations = field(default_factory=MemoryInvalidations)

    def __post_init__(self) -> None:
        store = self.store = MemoryStore(now=self.clock.now)
        self.accounts = MemoryAccounts(store)
        self.ledger = MemoryLedger(store)
        self.overrides = TierOverrides(
            self.accounts, MemoryOverrides(store), self.clock, self.chance, self.invalidations
        )
        self.operators = MemoryOperators(store)
        self.signin = OperatorSignIn(
            self.operators,
            MemoryPasswords(),
            Throttle(MemoryAttempts(self.clock.monotonic)),
        )
        self.reports = MemoryReports(store.records, store.accounts)
        self.mails, self.bell = MemoryMails(self.clock.now), MemoryBell()
        self.requests = MemoryLimitRequests(store)
        self.limits_asked = HigherLimits(self.requests, self.overrides, self.mails, self.chance)
        self.referral_book = MemoryReferrals(store)
        self.referrals = Referrals(self.referral_book, self.chance)
        self.till = MemoryTill(store)
        self.orders = MemoryOrders(self.till)

    @property
    def console(self) -> Console:
        return Console(
            self.overrides,
            self.signin,
            self.reports,
            self.clock,
            self.limits_asked,
            self.referrals,
            self.orders,
            self.mails,
            LostLetters(self.mails, self.bell),
            UncreditedPayments(MemorySettlements(self.till)),
        )

    async def customer(self, email: str, deposits: str = "0", sent_by: str = "") -> Account:
        account = replace(an_account(email), sent_by=sent_by)
        assert await self.accounts.register(account, a_key(account), a_session(account), ZERO)
        if usd(deposits):
            await self.ledger.deposit(new_id(), account.id, usd(deposits), "card")
        return account


def page_of(world: World, script: str) -> AppTest:
    """A page alone, as a signed-in operator sees it."""
    app = AppTest.from_string(script, default_timeout=PATIENCE_S)
    app.session_state[BUNDLE] = world.console
    app.session_state[signin.OPERATOR] = OPERATOR
    app.session_state[signin.SINCE] = world.clock.now()
    return app


def whole_app(world: World) -> AppTest:
    """The console as a stranger meets it, with one operator who could sign in."""
    new = NewOperators(world.operators, MemoryPasswords(), world.clock)
    asyncio.run(new.create(OPERATOR, PASSWORD))
    return a_tab(world)


def a_tab(world: World) -> AppTest:
    """One more window of it."""
    app = AppTest.from_file(APP, default_timeout=PATIENCE_S)
    app.session_state[BUNDLE] = world.console
    return app
