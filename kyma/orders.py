"""Orders and what a payment does to one: which entries it makes, or why it makes none.

Pure. `ruling` is the whole rule of crediting: what storage writes follows from it in one
transaction, under ids that follow from the processor's, so that doing it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from kyma.errors import Code, Refusal
from kyma.ledger import Kind, Outcome
from kyma.mail import Letter, Mail
from kyma.money import ZERO, Usd, decimal_text
from kyma.payments import (
    CURRENCY,
    MAX_PURCHASE,
    MIN_PURCHASE,
    Checkout,
    Order,
    Payment,
    PaymentState,
    Source,
)

CENT = Usd(10_000_000)
GRACE = timedelta(hours=1)
"""An order whose page or charge is over is waited for so long, then called canceled. What is
paid later is credited all the same."""

UNTRACED = timedelta(hours=24)
"""The longest that a processor's page stays open; for orders of which no page is known."""


class OrderState(StrEnum):
    """How far an order has come. CREDITED is the end; any other may still become it."""

    OPEN = "open"
    NEEDS_ACTION = "needs_action"
    CREDITED = "credited"
    FAILED = "failed"
    CANCELED = "canceled"
    REFUSED = "refused"
    """Paid, not credited: the payment is not the one that was ordered."""


WAITING = frozenset({OrderState.OPEN, OrderState.NEEDS_ACTION})
UNPAID = frozenset({PaymentState.NEEDS_ACTION, PaymentState.FAILED, PaymentState.CANCELED})
"""A payment in any other state was made, or is on its way: banks may take days."""

NOT_ORDERED = (
    "Your payment arrived, but it is not what was ordered. An operator books it or sends it back; "
    "do not pay again."
)


@dataclass(frozen=True, slots=True)
class KnownOrder:
    """An order as far as we know. `customer` is the account's name at the processor."""

    order: Order
    customer: str
    state: OrderState = OrderState.OPEN
    checkout: Checkout | None = None
    payment_id: str | None = None
    message: str = ""
    action_url: str | None = None

    @property
    def handle(self) -> str | None:
        """By what to ask the processor for its payment; None if nothing came back of it."""
        return self.payment_id or (self.checkout.id if self.checkout else None)

    def is_over(self, now: datetime) -> bool:
        """Whether nobody is likely to pay it any more."""
        if self.checkout is not None:
            return now > self.checkout.expires_at + GRACE
        patience = UNTRACED if self.order.source is Source.CHECKOUT else GRACE
        return now > self.order.created_at + patience

    def is_given_up(self, payment: Payment | None, now: datetime) -> bool:
        """Whether it waits for nothing any more; `payment` is its payment, just asked for.

        Never while money may be on its way: whoever is told that nothing was paid pays again.
        """
        if payment is None:
            return self.payment_id is None and self.is_over(now)
        return payment.state in UNPAID and self.is_over(now)


@dataclass(frozen=True, slots=True)
class Customer:
    """An account as a buyer. `id` is its name at the processor, if it has one yet."""

    account_id: str
    email: str
    id: str | None


@dataclass(frozen=True, slots=True)
class Posting:
    """An entry to be booked. `corrects` is the id of the entry that it is about."""

    kind: Kind
    id: str
    amount: Usd
    reason: str
    corrects: str | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a payment does. `order_id` is None if it moves no order of ours.

    `refusal` says why a paid one is not credited; the first posting of a credited one is its
    deposit.
    """

    payment: Payment
    order_id: str | None
    state: OrderState
    postings: tuple[Posting, ...] = ()
    refusal: str = ""

    @property
    def message(self) -> str:
        """What the order's buyer is told. Why it was refused is for operators."""
        return NOT_ORDERED if self.state is OrderState.REFUSED else self.payment.message


@dataclass(frozen=True, slots=True)
class Booked:
    """What came of a ruling. `is_news` is True once per payment and refusal.

    `top_up_off` holds the ids of reversals because of which auto top-up is off now.
    """

    outcomes: tuple[tuple[Posting, Outcome], ...] = ()
    is_news: bool = False
    top_up_off: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Uncredited:
    """A payment that was made and not credited: what an operator must look at.

    `returned` is what has gone back of it, which is less than all of it.
    """

    payment: Payment
    refusal: str
    returned: Usd = ZERO


@dataclass(frozen=True, slots=True)
class Settlement:
    """An operator's end of a payment that was not credited: credit given in its place.

    `account_id` need not be the one that the payment names, nor `amount` what was paid.
    """

    payment_id: str
    account_id: str
    amount: Usd
    operator: str
    reason: str

    @property
    def note(self) -> str:
        """Why there is this entry; its account may read it."""
        return f"payment {self.payment_id}: {self.reason}"

    @property
    def message(self) -> str:
        """What the order's buyer is told."""
        return f"Settled by an operator: {decimal_text(self.amount)} dollars of credit."


def derived(purpose: str, *names: str) -> str:
    """An id that follows from others: the same names have the same id, for ever (UUID, v8)."""
    # Each with its length before it: no two lists of names are the same text.
    text = "".join(f"{len(name)}:{name}" for name in (purpose, *names))
    digest = sha256(text.encode()).hexdigest()
    variant = "89ab"[int(digest[16], 16) % 4]
    return f"{digest[:12]}8{digest[13:16]}{variant}{digest[17:32]}"


def is_id(name: str) -> bool:
    """Whether it has the form of an id of ours."""
    return len(name) == 32 and set(name) <= set("0123456789abcdef")


def check_purchase(amount: Usd) -> None:
    """Refuse amounts that are not sold."""
    if amount % CENT:
        raise _bad_amount(f"`amount` must be whole cents, not {decimal_text(amount)}")
    if not MIN_PURCHASE <= amount <= MAX_PURCHASE:
        raise _bad_amount(
            f"`amount` must be between {decimal_text(MIN_PURCHASE)} and "
            f"{decimal_text(MAX_PURCHASE)} dollars"
        )


def _bad_amount(what: str) -> Refusal:
    return Refusal(Code.INVALID_VALUE, f"{what}. Nothing was charged.", param="amount")


def ruling(known: KnownOrder | None, payment: Payment) -> Ruling:
    """What a payment, as it now stands, does to the order that it names."""
    refusal = _refusal(known, payment)
    paid = payment.state is PaymentState.PAID
    if known is None or (refusal and not paid):
        return Ruling(payment, None, OrderState.REFUSED, refusal=refusal if paid else "")
    order = known.order
    if refusal:
        # Its buyer has paid, and must not be told otherwise; somebody else's slip is not theirs.
        is_buyers = payment.customer == known.customer
        moved = order.id if is_buyers and known.state is not OrderState.CREDITED else None
        return Ruling(payment, moved, OrderState.REFUSED, refusal=refusal)
    if paid:
        postings = tuple(_postings(payment))
        return Ruling(payment, order.id, OrderState.CREDITED, postings)
    if order.source is Source.CHECKOUT and payment.state is not PaymentState.CANCELED:
        # Its buyer is still on the processor's page, and may take another card.
        return Ruling(payment, order.id, OrderState.OPEN)
    return Ruling(payment, order.id, STATES[payment.state])


STATES = {
    PaymentState.PENDING: OrderState.OPEN,
    PaymentState.NEEDS_ACTION: OrderState.NEEDS_ACTION,
    PaymentState.FAILED: OrderState.FAILED,
    PaymentState.CANCELED: OrderState.CANCELED,
}


def _refusal(known: KnownOrder | None, payment: Payment) -> str:
    """Why a payment is not that of the order it names; empty if it is."""
    if known is None:
        return "It names no order of ours."
    order = known.order
    if known.state is OrderState.CREDITED and known.payment_id != payment.id:
        return f"Its order was credited by payment {known.payment_id}."
    bound = {
        "account": (payment.account_id, order.account_id),
        "customer": (payment.customer, known.customer),
        "currency": (payment.currency.lower(), CURRENCY),
        "amount": (decimal_text(payment.amount), decimal_text(order.amount)),
    }
    for name, (told, ours) in bound.items():
        if told != ours:
            return f"Its {name} is {told!r} where its order has {ours!r}."
    return ""


def deposit_id(payment_id: str) -> str:
    """The id of the one entry that credits a payment: its deposit, or an operator's grant."""
    return derived("deposit", payment_id)


def _postings(payment: Payment) -> Iterator[Posting]:
    """The deposit, and every reversal.

    One that was undone is booked and undone: the entries are the same whichever state of it
    was seen first.
    """
    first = deposit_id(payment.id)
    yield Posting(Kind.DEPOSIT, first, payment.amount, f"payment {payment.id}")
    for reversal in payment.reversals:
        if reversal.amount <= ZERO:
            continue  # only taxes went back
        id = derived("reversal", reversal.id)
        word = "dispute" if reversal.is_dispute else "refund"
        reason = f"{word} {reversal.id} of payment {payment.id}"
        yield Posting(Kind.REVERSAL, id, reversal.amount, reason, first)
        if reversal.reinstated:
            undo = derived("reinstate", reversal.id)
            yield Posting(Kind.REINSTATE, undo, reversal.amount, f"{reason}: undone", id)


def returned(payment: Payment) -> Usd:
    """What of a payment has gone back to its buyer, as it now stands."""
    return Usd(sum(back.amount for back in payment.reversals if not back.reinstated))


def letter_of(
    posting: Posting, payment: Payment, customer: Customer, available: Usd, top_up_off: bool
) -> Mail:
    """What a buyer is written of an entry: the receipt of a deposit, or that money went back.

    `available` is the balance by now; `top_up_off` says that auto top-up is off because of it.
    """
    facts = {"amount": decimal_text(posting.amount), "balance": decimal_text(available)}
    if posting.kind is Kind.DEPOSIT:
        if payment.tax > ZERO:
            facts["tax"] = decimal_text(payment.tax)
        if url := payment.invoice_url or payment.receipt_url:
            facts["receipt_url"] = url
        return Mail(f"receipt:{posting.id}", customer.email, Letter.RECEIPT, facts)
    facts["reason"] = posting.reason
    if top_up_off:
        facts["auto_top_up"] = "switched off"
    return Mail(f"refunded:{posting.id}", customer.email, Letter.REFUNDED, facts)
