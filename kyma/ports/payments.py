"""The payment processor: takes money, keeps cards, and can always be asked how things stand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol

from kyma.money import Usd
from kyma.payments import Card, Checkout, Event, Invoice, Order, Payment


class ProcessorUnavailable(Exception):
    """The processor did not answer; whether it acted is not known. Calls are safe to repeat."""


class ProcessorRefused(Exception):
    """The processor said no, in words for our logs; `public` is for the buyer, where it may be."""

    def __init__(self, message: str, public: str = "") -> None:
        super().__init__(message)
        self.public = public


class UnreadablePayment(Exception):
    """A payment that is there and cannot be understood: an operator must look at it.

    Nothing is booked of it, and nothing is said of it to its buyer but that it is not known.
    """

    def __init__(self, payment_id: str, why: str) -> None:
        super().__init__(f"payment {payment_id}: {why}")
        self.payment_id = payment_id


class Events(Protocol):
    """Webhooks."""

    def event(self, raw: bytes, signature: str) -> Event | None:
        """A notice, or None if it is forged, too old or damaged."""
        ...


class Payments(Events, Protocol):
    """Every write carries an idempotency key made of our own ids: repeating one changes nothing."""

    async def customer(self, account_id: str, email: str, known: str | None = None) -> str:
        """The processor's id of an account: the known one, made anew if there is none any more."""
        ...

    async def checkout(self, order: Order, customer: str, back_url: str) -> Checkout:
        """A page to pay an order on; the buyer returns to `back_url`."""
        ...

    async def tax(self, order: Order, customer: str) -> Usd:
        """What comes on top of an order, if this customer's card is charged for it.

        A charge of the same order within a day costs exactly this. Refuses a customer whose
        address is not known, where there are taxes at all.
        """
        ...

    async def charge(
        self, order: Order, customer: str, card_id: str, back_url: str | None = None
    ) -> Payment:
        """Pay an order with a saved card. A declined card is a FAILED payment.

        Its owner is away, or is there and can be sent to the bank, who leads back to `back_url`.
        """
        ...

    async def payment(self, id: str) -> Payment | None:
        """A payment by its own id or by that of its checkout, as it stands; None if not begun.

        Raises `UnreadablePayment`, as does everything that answers with payments as they stand.
        """
        ...

    async def payment_of(self, order: Order, customer: str) -> Payment | None:
        """The payment that a customer's order was charged by, found by the order it names.

        None if there is none. For who charged and does not know what became of it.
        """
        ...

    async def cancel(self, id: str) -> Payment | None:
        """Give up a payment by its own id, so that nobody can pay it any more.

        As it stands then: one that was paid, or is on its way, stays so. None if there is none.
        """
        ...

    def changed_since(self, moment: datetime) -> AsyncIterator[str]:
        """The id of every payment that was made or changed since, each once, in any order.

        Some may be of another shop: those `payment` does not know.
        """
        ...

    async def invoices(self, customer: str) -> Sequence[Invoice]:
        """Newest first; none of a customer who is not known."""
        ...


class Cards(Protocol):
    """Saved cards of a customer of the processor."""

    async def setup(self, customer: str, back_url: str) -> Checkout:
        """A page to leave a card on."""
        ...

    async def cards(self, customer: str) -> Sequence[Card]:
        """All of them, the default first; none of a customer who is gone."""
        ...

    async def choose(self, customer: str, card_id: str) -> bool:
        """Make one the default; False if it is not this customer's."""
        ...

    async def remove(self, customer: str, card_id: str) -> bool:
        """Forget one; False if it is not this customer's."""
        ...
