"""What buying credit needs remembered. Implemented on Postgres and in memory.

Every method is one short transaction and may raise `StorageUnavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from kyma.ledger import Flag, Outcome
from kyma.money import Usd
from kyma.orders import (
    Booked,
    Customer,
    KnownOrder,
    OrderState,
    Ruling,
    Settlement,
    Uncredited,
)
from kyma.payments import Checkout, Event, Order, Payment
from kyma.statements import Line, LineFilter, Place, Statement
from kyma.topups import Attempt, LowBalance, TopUp


class NotBooked(Exception):
    """A ruling that the books contradict: its order or its id belongs to another payment."""


class Reversals(Protocol):
    """Money that goes back, apart from any payment."""

    async def reverse(self, id: str, deposit_id: str, amount: Usd, reason: str) -> Outcome:
        """Take back what a deposit brought, as far as it is there; flags a shortfall.

        A repeat answers EXISTS or MISMATCH; NO_ENTRY if there is no such deposit.
        """
        ...

    async def reinstate(self, id: str, reversal_id: str, reason: str) -> Outcome:
        """Undo a reversal; a second one of the same reversal answers EXISTS or MISMATCH."""
        ...


class Customers(Protocol):
    """Accounts as buyers."""

    async def customer(self, account_id: str) -> Customer | None:
        """The account's address and its name at the processor; None without such an account."""
        ...

    async def remember(self, account_id: str, id: str, instead_of: str | None = None) -> str:
        """Keep its name at the processor; the one that is kept, which is the first.

        `instead_of` names one that the processor no longer knows: it alone is replaced.
        """
        ...


class Orders(Protocol):
    """Orders, and the payments that were seen for them."""

    async def open(self, order: Order, customer: str) -> KnownOrder | None:
        """Keep a new order and answer None, or answer the one that has its id."""
        ...

    async def attach(self, order_id: str, checkout: Checkout) -> None:
        """Remember on which page an order is to be paid."""
        ...

    async def order(self, order_id: str) -> KnownOrder | None:
        """By its id, which has the form of one."""
        ...

    async def close(self, order_id: str, state: OrderState, message: str) -> None:
        """End an order that waits; one that does not stays as it is."""
        ...

    async def take_waiting(self, limit: int) -> Sequence[KnownOrder]:
        """Orders that wait for money, those first that were not taken for longest."""
        ...

    async def book(self, ruling: Ruling, event_id: str | None = None) -> Booked:
        """Do what a ruling says, and mark the event as processed, in one transaction.

        A reversal that is booked now switches the account's auto top-up off.
        Any number of repeats and of others at the same time book once. Raises `NotBooked`.
        """
        ...

    async def uncredited(self, limit: int = 100) -> Sequence[Uncredited]:
        """Paid and not credited, nor settled by hand, nor gone back whole; oldest first."""
        ...

    async def is_uncredited(self, payment_id: str) -> bool:
        """Whether a payment is one of those."""
        ...

    async def flags(self, limit: int = 100) -> Sequence[Flag]:
        """Accounts of which more went back than was left, newest first."""
        ...


class Settlements(Protocol):
    """What operators decide of payments that were not credited."""

    async def settle(self, settlement: Settlement) -> Outcome:
        """Grant the credit, and take the payment off the list with its order, all or nothing.

        A repeat answers EXISTS or MISMATCH. NO_ENTRY if the payment is not on the list,
        NO_ACCOUNT if there is no such account; then nothing has changed.
        """
        ...


class Notices(Protocol):
    """Events of the processor, and the rounds in which it is asked for everything."""

    async def keep(self, event: Event) -> bool:
        """Store an event; whether it waits to be acted on, new or not."""
        ...

    async def waiting(self, limit: int = 200) -> Sequence[Event]:
        """Events not acted on yet, oldest first."""
        ...

    async def done(self, event_id: str) -> None:
        """Mark an event that caused nothing."""
        ...

    async def last_round(self) -> datetime | None:
        """When the last complete round began."""
        ...

    async def round_ended(self, started_at: datetime) -> None:
        """A round that began then is complete."""
        ...


class TopUps(Protocol):
    """Auto top-up: what accounts chose, and the charges it led to."""

    async def setting(self, account_id: str) -> TopUp | None:
        """What the account chose; None if it never did."""
        ...

    async def choose(self, setting: TopUp, before: TopUp | None) -> bool:
        """Put this in the place of what there is, if `kyma.topups.may_replace` allows it.

        `before` is what there was when it was chosen. Decided under the lock of the setting, so
        that nothing is switched on again by somebody who has not heard that it was switched off.
        """
        ...

    async def charged(self, account_id: str, since: datetime) -> Usd:
        """What was charged, or is being charged, since a moment; taxes included."""
        ...

    async def due(self, limit: int = 100) -> Sequence[TopUp]:
        """Settings whose balance has crossed their threshold and that may charge now.

        By `kyma.topups.is_worth_asking`: what was too dear is among them, for it may no longer be.
        """
        ...

    async def delay(self, account_id: str) -> None:
        """Look again later at one that was due, by `kyma.topups.delayed`."""
        ...

    async def claim(self, order: Order, customer: str, card_id: str, tax: Usd) -> bool:
        """Open an order for a charge that is due now, under the lock that decides it.

        Of any number of concurrent claims on an account one gets True, and no other until it
        has ended. The ceiling is checked here again, by the database's month, and with `tax` on
        top; the setting remembers that by `kyma.topups.reckoned`, whatever the answer.
        """
        ...

    async def running(self, limit: int = 100) -> Sequence[Attempt]:
        """Charges that have not ended, oldest first."""
        ...

    async def running_of(self, account_id: str) -> Attempt | None:
        """The charge of an account that has not ended."""
        ...

    async def take_stalled(self, limit: int = 100) -> Sequence[Attempt]:
        """Charges that whoever made them has not ended in time, those first that waited longest.

        Each is due again `pause_after` so many looks; one whose order has been credited is due
        as soon as `RESUME_AFTER` is over.
        """
        ...

    async def end(self, order_id: str, failure: str | None) -> TopUp | None:
        """End a charge, None for a success; the setting as it is then, or None if it had ended."""
        ...


class Alarms(Protocol):
    """Low balances that nobody has been told of."""

    async def low(self, limit: int = 100) -> Sequence[LowBalance]:
        """Accounts that had a deposit or a grant since they were last told, and are low."""
        ...

    async def told(self, alarm: LowBalance) -> None:
        """Say nothing more until the next deposit or grant."""
        ...


class Statements(Protocol):
    """What moved an account's credit, from its entries."""

    async def lines(
        self, account_id: str, wanted: LineFilter, after: Place | None, limit: int
    ) -> Sequence[Line]:
        """Lines that follow a place (None: the beginning), newest first."""
        ...

    async def statement(self, account_id: str, start: datetime, end: datetime) -> Statement:
        """Opening, sums by kind and closing of a span of time, from one snapshot."""
        ...


class BillingAlerts(Protocol):
    """What an operator must hear about."""

    def not_credited(self, payment: Payment, reason: str) -> None:
        """Somebody paid and was not credited."""
        ...

    def not_reversed(self, payment: Payment, entry_id: str, outcome: Outcome) -> None:
        """Money went back and could not be booked."""
        ...

    def not_read(self, which: str) -> None:
        """A payment cannot be understood, and which; it is looked at again by every round."""
        ...

    def left_waiting(self, what: str, error: BaseException) -> None:
        """Something could not be done now, and will be done by the next round."""
        ...
