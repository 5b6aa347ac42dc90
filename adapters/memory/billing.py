"""Orders, payments, events, statements and alarms in memory, equal to Postgres by contract.

Operations do not await, so each is one transaction on one `MemoryStore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from adapters.memory.storage import MemoryLedger, MemoryStore
from kyma.ledger import Flag, Kind, Outcome
from kyma.money import Usd
from kyma.orders import (
    WAITING,
    Booked,
    Customer,
    KnownOrder,
    OrderState,
    Posting,
    Ruling,
    Settlement,
    Uncredited,
    deposit_id,
    returned,
)
from kyma.payments import Checkout, Event, Order, Payment, PaymentState
from kyma.ports.billing import NotBooked
from kyma.statements import MOVING, Line, LineFilter, Place, Statement, line_of, statement, summed
from kyma.topups import LowBalance, TopUp, after_reversals, low_mark

GOOD = frozenset({Outcome.DONE, Outcome.EXISTS})
ARMING = frozenset({Kind.DEPOSIT, Kind.GRANT})
"""After these a balance may be called low again."""


@dataclass(slots=True)
class MemoryTill:
    """All state of buying credit beside the ledger's own."""

    store: MemoryStore
    customers: dict[str, str] = field(default_factory=dict)
    orders: dict[str, KnownOrder] = field(default_factory=dict)
    changed_at: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    payments: dict[str, tuple[Payment, str, str | None]] = field(default_factory=dict)
    """With its refusal and the id of its deposit."""

    settled: set[str] = field(default_factory=set)
    """Payments that an operator settled by hand."""

    events: dict[str, tuple[Event, datetime | None]] = field(default_factory=dict)
    last_round: datetime | None = None
    told: set[str] = field(default_factory=set)
    top_ups: dict[str, TopUp] = field(default_factory=dict)
    turn: int = 0

    def put(self, known: KnownOrder) -> None:
        """Keep an order as it is now."""
        self.turn += 1
        self.orders[known.order.id] = known
        self.changed_at[known.order.id] = (self.store.now(), self.turn)

    def is_uncredited(self, payment_id: str) -> bool:
        """Whether it was paid and is neither credited nor settled, and has not gone back."""
        if payment_id not in self.payments or payment_id in self.settled:
            return False
        payment, _, entry_id = self.payments[payment_id]
        is_paid = payment.state is PaymentState.PAID and returned(payment) < payment.amount
        return is_paid and entry_id is None

    def process(self, event_id: str) -> None:
        """Mark an event, if it is known."""
        if event_id in self.events:
            self.events[event_id] = (self.events[event_id][0], self.store.now())


class MemoryOrders:
    """The `Orders` and `Customers` ports."""

    def __init__(self, till: MemoryTill) -> None:
        self._till = till
        self._ledger = MemoryLedger(till.store)

    async def customer(self, account_id: str) -> Customer | None:
        """By the account."""
        account = self._till.store.accounts.get(account_id)
        if account is None:
            return None
        return Customer(account_id, account.email, self._till.customers.get(account_id))

    async def remember(self, account_id: str, id: str, instead_of: str | None = None) -> str:
        """The first stays, unless it is the one to be replaced."""
        if instead_of is not None and self._till.customers.get(account_id) == instead_of:
            self._till.customers[account_id] = id
        return self._till.customers.setdefault(account_id, id)

    async def open(self, order: Order, customer: str) -> KnownOrder | None:
        """Once."""
        known = self._till.orders.get(order.id)
        if known is None:
            self._till.put(KnownOrder(order, customer))
        return known

    async def attach(self, order_id: str, checkout: Checkout) -> None:
        """To the order."""
        self._till.put(replace(self._till.orders[order_id], checkout=checkout))

    async def order(self, order_id: str) -> KnownOrder | None:
        """By id."""
        return self._till.orders.get(order_id)

    async def close(self, order_id: str, state: OrderState, message: str) -> None:
        """If it waits."""
        known = self._till.orders[order_id]
        if known.state in WAITING:
            self._till.put(replace(known, state=state, message=message))

    async def take_waiting(self, limit: int) -> Sequence[KnownOrder]:
        """To the end of the row."""
        waiting = [known for known in self._till.orders.values() if known.state in WAITING]
        waiting.sort(key=lambda known: self._till.changed_at[known.order.id])
        for known in waiting[:limit]:
            self._till.put(known)
        return waiting[:limit]

    async def book(self, ruling: Ruling, event_id: str | None = None) -> Booked:
        """All or nothing: what could fail is checked before anything is written."""
        till, payment = self._till, ruling.payment
        entry_id = ruling.postings[0].id if ruling.postings else None
        self._check(ruling, entry_id)
        old = till.payments.get(payment.id)
        if old is not None and old[0].state is PaymentState.PAID:
            payment = replace(payment, state=PaymentState.PAID)
        refused = "" if old is None else old[1]
        entry_id = entry_id or (old[2] if old else None)
        refusal = "" if entry_id or payment.id in till.settled else ruling.refusal
        till.payments[payment.id] = (payment, refusal, entry_id)
        outcomes = tuple((posting, self._post(ruling, posting)) for posting in ruling.postings)
        stopped = self._stop_top_ups(payment.account_id, outcomes)
        self._advance(ruling)
        if event_id is not None:
            till.process(event_id)
        return Booked(outcomes, bool(refusal) and refusal != refused, stopped)

    def _check(self, ruling: Ruling, entry_id: str | None) -> None:
        if entry_id is None:
            return
        payment = ruling.payment
        for id, (other, _, credited) in self._till.payments.items():
            if id != payment.id and credited and other.order_id == payment.order_id:
                raise NotBooked(f"{id} has credited the order")
        old = self._till.store.entries.get(entry_id)
        wanted = (Kind.DEPOSIT, payment.account_id, payment.amount)
        if old is not None and (old.kind, old.account_id, old.paid) != wanted:
            raise NotBooked(f"entry {entry_id} is another")

    def _post(self, ruling: Ruling, posting: Posting) -> Outcome:
        account, ledger = ruling.payment.account_id, self._ledger
        if posting.kind is Kind.DEPOSIT:
            return ledger.deposit_now(posting.id, account, posting.amount, posting.reason)
        about = posting.corrects or ""
        if posting.kind is Kind.REVERSAL:
            return ledger.reverse_now(posting.id, about, posting.amount, posting.reason)
        return ledger.reinstate_now(posting.id, about, posting.reason)

    def _stop_top_ups(
        self, account_id: str, outcomes: tuple[tuple[Posting, Outcome], ...]
    ) -> frozenset[str]:
        setting = self._till.top_ups.get(account_id)
        if setting is None:
            return frozenset()
        self._till.top_ups[account_id], stopped = after_reversals(setting, outcomes)
        return stopped

    def _advance(self, ruling: Ruling) -> None:
        known = self._till.orders.get(ruling.order_id or "")
        if known is None or known.state is OrderState.CREDITED:
            return
        payment = ruling.payment
        known = replace(known, payment_id=payment.id)
        if known.state in WAITING or ruling.state in {OrderState.CREDITED, OrderState.REFUSED}:
            known = replace(
                known,
                state=ruling.state,
                message=ruling.message,
                action_url=payment.action_url,
            )
        self._till.put(known)

    async def uncredited(self, limit: int = 100) -> Sequence[Uncredited]:
        """Oldest first."""
        found = [
            Uncredited(replace(payment, reversals=()), refusal, returned(payment))
            for payment, refusal, _ in self._till.payments.values()
            if self._till.is_uncredited(payment.id)
        ]
        found.sort(key=lambda one: (one.payment.created_at, one.payment.id))
        return [_as_kept(one) for one in found[:limit]]

    async def is_uncredited(self, payment_id: str) -> bool:
        """By its id."""
        return self._till.is_uncredited(payment_id)

    async def flags(self, limit: int = 100) -> Sequence[Flag]:
        """Newest first."""
        return [*reversed(self._till.store.flags)][:limit]


def _as_kept(one: Uncredited) -> Uncredited:
    """Without what only the processor remembers."""
    return replace(one, payment=replace(one.payment, message="", action_url=None))


class MemorySettlements:
    """The `Settlements` port."""

    def __init__(self, till: MemoryTill) -> None:
        self._till = till
        self._ledger = MemoryLedger(till.store)

    async def settle(self, settlement: Settlement) -> Outcome:
        """The grant has the id that the deposit would have: the ledger books one of them."""
        till, id = self._till, settlement.payment_id
        if not (till.is_uncredited(id) or id in till.settled):
            return Outcome.NO_ENTRY
        account = settlement.account_id
        outcome = await self._ledger.grant(
            deposit_id(id), account, settlement.amount, settlement.note, settlement.operator
        )
        if outcome is not Outcome.DONE:
            return outcome
        till.settled.add(id)
        payment, _, entry_id = till.payments[id]
        till.payments[id] = (payment, "", entry_id)
        known = till.orders.get(payment.order_id)
        if known and known.order.account_id == account and known.state is not OrderState.CREDITED:
            message, state = settlement.message, OrderState.CREDITED
            known = replace(known, state=state, payment_id=id, message=message, action_url=None)
            till.put(known)
        return outcome


class MemoryNotices:
    """The `Notices` port."""

    def __init__(self, till: MemoryTill) -> None:
        self._till = till

    async def keep(self, event: Event) -> bool:
        """Once."""
        return self._till.events.setdefault(event.id, (event, None))[1] is None

    async def waiting(self, limit: int = 200) -> Sequence[Event]:
        """In the order of arrival."""
        return [event for event, done in self._till.events.values() if done is None][:limit]

    async def done(self, event_id: str) -> None:
        """Mark it."""
        self._till.process(event_id)

    async def last_round(self) -> datetime | None:
        """When it began."""
        return self._till.last_round

    async def round_ended(self, started_at: datetime) -> None:
        """Never back."""
        self._till.last_round = max(started_at, self._till.last_round or started_at)


class MemoryStatements:
    """The `Statements` port."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def _lines(self, account_id: str) -> list[Line]:
        store = self._store
        return [
            line_of(entry, store.booked_at[entry.id])
            for entry in store.entries.values()
            if entry.account_id == account_id and entry.kind in MOVING
        ]

    async def lines(
        self, account_id: str, wanted: LineFilter, after: Place | None, limit: int
    ) -> Sequence[Line]:
        """Newest first."""
        found = [
            line
            for line in self._lines(account_id)
            if (wanted.kind is None or line.kind is wanted.kind)
            and (wanted.since is None or line.booked_at >= wanted.since)
            and (wanted.until is None or line.booked_at < wanted.until)
            and (after is None or (line.booked_at, line.id) < (after.booked_at, after.id))
        ]
        found.sort(key=lambda line: (line.booked_at, line.id), reverse=True)
        return found[:limit]

    async def statement(self, account_id: str, start: datetime, end: datetime) -> Statement:
        """From all lines."""
        lines = self._lines(account_id)
        closing = sum(line.amount for line in lines if line.booked_at < end)
        within = [line for line in lines if start <= line.booked_at < end]
        return statement(start, end, Usd(closing), summed(within))


class MemoryAlarms:
    """The `Alarms` port."""

    def __init__(self, till: MemoryTill) -> None:
        self._till = till

    async def low(self, limit: int = 100) -> Sequence[LowBalance]:
        """By what came in since each account was last told: the latest, and the most of it."""
        store = self._till.store
        armed: dict[str, tuple[str, Usd]] = {}
        for entry in store.entries.values():
            if entry.kind in ARMING:
                before = armed.get(entry.account_id)
                most = Usd(0) if before is None or before[0] in self._till.told else before[1]
                brought = Usd(entry.paid + entry.promo)
                armed[entry.account_id] = (entry.id, max(most, brought))
        return [
            LowBalance(account, by, store.balances[account].posted)
            for account, (by, brought) in armed.items()
            if by not in self._till.told and store.balances[account].posted < low_mark(brought)
        ][:limit]

    async def told(self, alarm: LowBalance) -> None:
        """Until the next deposit or grant."""
        self._till.told.add(alarm.armed_by)


@dataclass(slots=True)
class MemoryBillingAlerts:
    """The `BillingAlerts` port: remembers."""

    uncredited: list[tuple[str, str]] = field(default_factory=list)
    unreversed: list[tuple[str, str, Outcome]] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def not_read(self, which: str) -> None:
        """Which."""
        self.unread.append(which)

    def not_credited(self, payment: Payment, reason: str) -> None:
        """Which, and why."""
        self.uncredited.append((payment.id, reason))

    def not_reversed(self, payment: Payment, entry_id: str, outcome: Outcome) -> None:
        """Which, and why."""
        self.unreversed.append((payment.id, entry_id, outcome))

    def left_waiting(self, what: str, error: BaseException) -> None:  # noqa: ARG002 - the port's
        """What."""
        self.waiting.append(what)
