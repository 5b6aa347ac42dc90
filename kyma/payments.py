"""Buying credit: orders, what a processor says of a payment, and what that means for the books.

Pure. A processor's events are only hints that something changed: what is booked follows from
the payment as it now stands, so no order, repetition or loss of events can change the sum.
Amounts are nano-dollars; a processor's cents are exact in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kyma.money import ZERO, Usd, usd

MIN_PURCHASE = usd("5")
MAX_PURCHASE = usd("10000")
"""Of one order; a larger one is a conversation."""

PACKAGES = (usd("5"), usd("20"), usd("100"), usd("500"))
"""Offered by name (old docs page rate-limits); any other whole cent amount between is sold too."""

CURRENCY = "usd"


class Source(StrEnum):
    """How an order came about."""

    CHECKOUT = "checkout"
    CARD = "card"
    AUTO_TOP_UP = "auto_top_up"


class PaymentState(StrEnum):
    """Of a payment, as the processor has it."""

    PENDING = "pending"
    NEEDS_ACTION = "needs_action"
    """The card's bank wants its owner: nothing was paid."""

    PAID = "paid"
    FAILED = "failed"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class Order:
    """What an account wants to buy: credit of `amount`; taxes come on top. Written first."""

    id: str
    account_id: str
    amount: Usd
    source: Source
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Reversal:
    """Money that went back: a refund, or a dispute's withdrawal.

    `amount` is of the credit, tax left out. A dispute that was won is `reinstated`.
    """

    id: str
    amount: Usd
    is_dispute: bool
    reinstated: bool = False


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as it now stands at the processor.

    `order_id` and `account_id` are ours, as we gave them along; `amount` is the credit bought,
    without `tax`. `message` is for its buyer where it failed.
    """

    id: str
    order_id: str
    account_id: str
    customer: str
    amount: Usd
    currency: str
    state: PaymentState
    created_at: datetime
    tax: Usd = ZERO
    reversals: tuple[Reversal, ...] = ()
    card: str | None = None
    receipt_url: str | None = None
    invoice_url: str | None = None
    message: str = ""
    action_url: str | None = None


@dataclass(frozen=True, slots=True)
class Checkout:
    """A page of the processor on which a buyer pays or leaves a card."""

    id: str
    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Card:
    """A saved card, as far as anybody may know it."""

    id: str
    brand: str
    last4: str
    expires: str
    """`MM/YYYY`."""

    is_default: bool


@dataclass(frozen=True, slots=True)
class Invoice:
    """A bill of the processor; both links are the processor's."""

    id: str
    number: str
    amount: Usd
    tax: Usd
    currency: str
    status: str
    created_at: datetime
    page_url: str | None
    pdf_url: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """A signed notice of the processor: only which payment to look at again, if any."""

    id: str
    kind: str
    payment_id: str | None
    checkout_id: str | None
    created_at: datetime
