"""Processes that die: at any touch of the world outside them.

A `Life` is one process over storage and a Stripe that outlive it. It ends at its n-th touch, a
call of a port or a request to Stripe, which takes effect and is not heard of. To die before a
touch is to die of the one before it: the world cannot tell them apart. Whatever a process would do
after that, in `except` and `finally` too, does not happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any

from adapters.payments.stripe import StripePayments
from adapters.system import SystemChance, SystemClock
from kyma.flows.credits import Credits
from kyma.flows.till import Till
from kyma.flows.topup import AutoTopUps, LowBalances
from kyma.ledger import Kind
from kyma.money import Usd
from tests.flows.selling import BACK, MemoryShop, a_shop
from tests.stripe_server.app import Fault
from tests.stripe_server.server import StripeServer, stripe_server

NANOS_PER_CENT = 10_000_000
MANY = 200
"""More touches than any work here has."""


class Died(BaseException):
    """The process is no more; no `except` of ours may hold it up."""


@dataclass
class Life:
    """One process. `at` counts its touches from 1; 0 for one that does not die."""

    at: int = 0
    touched: int = 0
    is_over: bool = False
    task: asyncio.Task[Any] | None = None

    def _strikes(self) -> bool:
        if self.is_over:
            raise Died
        self.touched += 1
        self.is_over = self.touched == self.at
        return self.is_over

    async def touch(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """A call of a port, if this process lives to make it, and its answer, if to hear it."""
        strikes = self._strikes()
        found = await work()
        if strikes:
            raise Died
        return found

    def meddle(self, _: str) -> Fault | None:
        """A request at Stripe, which acts on it and answers nobody."""
        if not self._strikes():
            return None
        assert self.task is not None
        self.task.cancel()
        return Fault.RESET_AFTER

    async def run(self, work: Awaitable[Any]) -> bool:
        """Live until the work is done, and say whether it was."""
        self.task = asyncio.ensure_future(work)
        await asyncio.wait([self.task])
        if self.is_over:
            # Retrieved: it ended in nothing, or by the hand above.
            assert self.task.cancelled() or isinstance(self.task.exception(), Exception | Died)
            return False
        self.task.result()
        return True


class Mortal:
    """A port as a process has it: every call is a touch."""

    def __init__(self, port: Any, life: Life) -> None:
        self._port = port
        self._life = life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        assert not isasyncgenfunction(found), "what is read bit by bit dies bit by bit"
        if not iscoroutinefunction(found):
            return found

        async def call(*given: Any, **named: Any) -> Any:
            return await self._life.touch(lambda: found(*given, **named))

        return call


class Ahead(SystemClock):
    """The real clock, further on."""

    by = timedelta()

    def now(self) -> Any:
        return super().now() + self.by


@dataclass
class Counter:
    """What outlives every process that sells: storage, Stripe, and the post."""

    shop: MemoryShop
    stripe: StripeServer
    processor: StripePayments
    account: str = ""
    spent: int = 0

    def process(self, at: int = 0) -> tuple[MemoryShop, Life]:
        """A new process: the flows over what there is, and its life."""
        life, shop = Life(at), self.shop
        orders, notices = Mortal(shop.orders, life), Mortal(shop.notices, life)
        topups, mails = Mortal(shop.topups, life), Mortal(shop.mails, life)
        ledger, forget = Mortal(shop.ledger, life), Mortal(shop.invalidations, life)
        chance, clock, alerts = SystemChance(), shop.clock, shop.alerts
        till = Till(self.processor, self.processor, orders, BACK)
        credits: Any = Credits(
            self.processor, till, orders, notices, orders, ledger, mails, alerts, forget, clock,
            chance,
        )  # fmt: skip
        auto: Any = AutoTopUps(
            self.processor, till, credits, topups, orders, orders, mails, alerts, clock, chance
        )
        low: Any = LowBalances(Mortal(shop.alarms, life), orders, mails)
        parts = {name: getattr(shop, name) for name in shop.__dataclass_fields__}
        parts |= {"credits": credits, "till": till, "auto": auto, "low": low}
        return MemoryShop(**parts), life

    async def live(self, work: Callable[[MemoryShop], Awaitable[Any]], at: int = 0) -> bool:
        """Let a new process do some work; False if it died of it."""
        shop, life = self.process(at)
        self.stripe.api.meddle = life.meddle
        try:
            return await life.run(work(shop))
        finally:
            self.stripe.api.meddle = None

    def taken(self) -> Usd:
        """What Stripe has of this account's money, without what went back; nano-dollars."""
        tables = self.stripe.world.tables
        ours = {
            intent["id"]
            for intent in tables["payment_intent"].values()
            if intent["metadata"].get("kyma_account_id") == self.account
        }
        charged = sum(
            charge["amount_captured"]
            for charge in tables["charge"].values()
            if charge["payment_intent"] in ours and charge["status"] == "succeeded"
        )
        back = sum(
            refund["amount"]
            for refund in tables["refund"].values()
            if refund["payment_intent"] in ours and refund["status"] not in {"failed", "canceled"}
        )
        withdrawn = -sum(
            moved["amount"]
            for dispute in tables["dispute"].values()
            if dispute["payment_intent"] in ours
            for moved in dispute["balance_transactions"]
        )
        return Usd((charged - back - withdrawn) * NANOS_PER_CENT)

    def charges(self) -> int:
        """How often a card was charged with success."""
        found = self.stripe.world.tables["charge"].values()
        return sum(charge["status"] == "succeeded" for charge in found)

    async def check(self, where: str) -> None:
        """Credit is what Stripe took; no payment has two deposits, none has none."""
        balance = await self.shop.balance(self.account)
        flagged = sum(flag.amount for flag in self.shop.memory.flags)
        assert balance.paid + self.spent - flagged == self.taken(), where
        assert balance.deposited == self.taken(), f"the tier follows: {where}"
        assert len(self.shop.entries(Kind.DEPOSIT)) == self.charges(), where
        assert (await self.shop.ledger.health()).sound, where
        assert await self.shop.credits.uncredited() == [], where
        assert await self.shop.notices.waiting() == [], where
        assert self.shop.alerts.unreversed == [], where


@asynccontextmanager
async def counter() -> AsyncIterator[Counter]:
    """A shop with one customer, and a Stripe of its own."""
    clock = Ahead()
    async with stripe_server() as stripe:
        processor = StripePayments(
            stripe.secret_key, stripe.webhook_secret, now=clock.now, api_base=stripe.url,
            timeout_s=5.0,
        )  # fmt: skip
        shop = a_shop(clock, processor)
        try:
            yield Counter(shop, stripe, processor, await shop.account())
        finally:
            await processor.close()


async def at_every_touch(case: Callable[[int, str], Awaitable[bool]], least: int) -> None:
    """Play a case once for each touch of its first process; it says whether that one died."""
    at = 1
    while await case(at, f"dead of touch {at}"):
        at += 1
        assert at < MANY, "work has an end"
    assert at - 1 >= least, "there must have been something to die of"
