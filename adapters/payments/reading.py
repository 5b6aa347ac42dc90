"""Stripe's objects in our words; pure. Cents are multiplied here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import stripe

from kyma.money import ZERO, Usd
from kyma.payments import Card, Checkout, Event, Invoice, Payment, PaymentState, Reversal

NANOS_PER_CENT = 10_000_000

ORDER = "kyma_order_id"
ACCOUNT = "kyma_account_id"
SOURCE = "kyma_source"
TAX_CENTS = "kyma_tax_cents"
"""Metadata keys, ours by their prefix: a Stripe account may serve other shops as well."""

AUTHENTICATION_REQUIRED = "authentication_required"


def cents(amount: Usd) -> int:
    """Whole cents of an amount; `ValueError` if it is finer, negative or nothing."""
    whole, rest = divmod(amount, NANOS_PER_CENT)
    if rest or whole <= 0:
        raise ValueError(f"{amount} nano-dollars are no amount in whole cents")
    return whole


def of_cents(amount: int) -> Usd:
    """Nano-dollars; exact."""
    return Usd(amount * NANOS_PER_CENT)


def moment(seconds: int) -> datetime:
    """Stripe's Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def id_of(field: Any) -> str | None:
    """The id behind a field that may be an id, the object itself, or nothing."""
    if field is None or isinstance(field, str):
        return field
    found: str = field.id
    return found


def is_ours(intent: stripe.PaymentIntent) -> bool:
    """Whether it pays an order of this service."""
    return all(mark in intent.metadata for mark in (ORDER, ACCOUNT, SOURCE))


def order_of(intent: stripe.PaymentIntent) -> str | None:
    """The order that it names, if it names one."""
    if ORDER not in intent.metadata:
        return None
    named: str = intent.metadata[ORDER]
    return named


def payment_of(
    intent: stripe.PaymentIntent,
    refunds: Iterable[stripe.Refund],
    disputes: Iterable[stripe.Dispute],
    session: stripe.checkout.Session | None,
) -> Payment:
    """A payment of ours as it now stands; `session` is its Checkout, if it had one.

    `ValueError` if what stands there makes no sense.
    """
    total = intent.amount_received or intent.amount
    tax = tax_of(intent, session)
    if tax > total:
        raise ValueError(f"of its {total} cents {tax} are taxes")
    charge = charge_of(intent)
    error = intent.last_payment_error
    return Payment(
        id=intent.id,
        order_id=intent.metadata[ORDER],
        account_id=intent.metadata[ACCOUNT],
        customer=id_of(intent.customer) or "",
        amount=of_cents(total - tax),
        currency=intent.currency,
        state=state_of(intent, session),
        created_at=moment(intent.created),
        tax=of_cents(tax),
        reversals=reversals_of(intent.id, total, total - tax, refunds, disputes),
        card=card_words(charge),
        receipt_url=charge.receipt_url if charge else None,
        invoice_url=invoice_url(session),
        message=getattr(error, "message", None) or "",
        action_url=action_url(intent),
    )


def tax_of(intent: stripe.PaymentIntent, session: stripe.checkout.Session | None) -> int:
    """Cents of tax within a payment: Checkout's own figure, or what a charge was made with."""
    if session is not None:
        details = session.total_details
        return details.amount_tax if details else 0
    if TAX_CENTS not in intent.metadata:
        return 0
    written = intent.metadata[TAX_CENTS]
    if not (written.isascii() and written.isdigit()):
        raise ValueError(f"its {TAX_CENTS} is {written!r}, which is no number of cents")
    return int(written)


def charge_of(intent: stripe.PaymentIntent) -> stripe.Charge | None:
    """The latest attempt; it must have been asked for in full."""
    charge = intent.latest_charge
    return charge if isinstance(charge, stripe.Charge) else None


def state_of(intent: stripe.PaymentIntent, session: stripe.checkout.Session | None) -> PaymentState:
    """Of a payment; a card that failed on a Checkout page still open is not the last word."""
    match intent.status:
        case "succeeded":
            return PaymentState.PAID
        case "canceled":
            return PaymentState.CANCELED
        case "requires_action":
            return PaymentState.NEEDS_ACTION
        case "requires_payment_method":
            return _unpaid(intent, session)
        case _:
            return PaymentState.PENDING


def _unpaid(intent: stripe.PaymentIntent, session: stripe.checkout.Session | None) -> PaymentState:
    error = intent.last_payment_error
    if session is not None and session.status == "open":
        return PaymentState.PENDING
    if error is None:
        return PaymentState.PENDING if session is None else PaymentState.FAILED
    # Stripe leaves out what an error has not, and the library knows no such name then.
    if AUTHENTICATION_REQUIRED in {getattr(error, name, None) for name in ("code", "decline_code")}:
        return PaymentState.NEEDS_ACTION
    return PaymentState.FAILED


def action_url(intent: stripe.PaymentIntent) -> str | None:
    """Where the card's owner authenticates, where Stripe has a page for it."""
    redirect = getattr(intent.next_action, "redirect_to_url", None)
    url: str | None = getattr(redirect, "url", None)
    return url


def card_words(charge: stripe.Charge | None) -> str | None:
    """Such as `visa 4242`."""
    card = getattr(charge.payment_method_details, "card", None) if charge else None
    return f"{card.brand} {card.last4}" if card else None


def invoice_url(session: stripe.checkout.Session | None) -> str | None:
    """The page of a Checkout's invoice."""
    invoice = session.invoice if session else None
    return invoice.hosted_invoice_url if isinstance(invoice, stripe.Invoice) else None


def reversals_of(
    payment_id: str,
    total: int,
    credit: int,
    refunds: Iterable[stripe.Refund],
    disputes: Iterable[stripe.Dispute],
) -> tuple[Reversal, ...]:
    """What went back of a payment of `total` cents that bought `credit` cents.

    Rule: of every reversal, `amount × credit ÷ total` rounded down to the cent was credit, the
    rest tax. A share never depends on other reversals, so that it stays the same for ever.
    Those that together return the whole total leave less than a cent each behind; one more
    reversal returns it, and exactly the whole credit has gone back.
    """
    moved = [
        _Moved(refund.created, refund.id, refund.amount, False, refund.status in UNDONE)
        for refund in refunds
    ]
    moved.extend(
        _Moved(one.created, one.id, min(one.amount, total), True, _is_given_back(one))
        for one in disputes
        if _was_withdrawn(one)
    )
    found = [
        Reversal(one.id, of_cents(one.share(total, credit)), one.is_dispute, one.is_undone)
        for one in moved
    ]
    # Stripe lists the newest first; of two of one second, too, the earlier one comes first now.
    return (*found, *_rests(payment_id, total, credit, moved[::-1]))


UNDONE = frozenset({"failed", "canceled"})
"""Refunds that did not arrive."""


@dataclass(frozen=True, slots=True)
class _Moved:
    """Cents that went back; `is_undone` says that they came again."""

    created: int
    id: str
    cents: int
    is_dispute: bool
    is_undone: bool

    def share(self, total: int, credit: int) -> int:
        """The cents of it that were credit."""
        return self.cents * credit // total if total else 0


def _rests(payment_id: str, total: int, credit: int, moved: Iterable[_Moved]) -> Iterator[Reversal]:
    """What roundings leave behind when one reversal makes the whole total gone.

    One that no longer holds, because something came again, is there for ever and undone: it may
    have been booked while it held. When something came again is not told. So it is looked for
    with any of that: whatever was together once is among it.
    """
    kept = kept_shares = 0
    undone = {(0, 0)}
    for one in sorted(moved, key=attrgetter("created", "is_dispute")):
        share = one.share(total, credit)
        rests: dict[int, bool] = {}
        for more, shares in undone:
            left = credit - kept_shares - shares - share
            if kept + more < total <= kept + more + one.cents and left > 0:
                rests[left] = rests.get(left, True) and (one.is_undone or more > 0)
        for left, came_again in sorted(rests.items()):
            id = f"{payment_id}_rest_{one.id}_{left}"
            yield Reversal(id, of_cents(left), is_dispute=False, reinstated=came_again)
        if one.is_undone:
            undone |= {(more + one.cents, shares + share) for more, shares in undone}
            undone = {(more, shares) for more, shares in undone if more < total}
        else:
            kept, kept_shares = kept + one.cents, kept_shares + share


def _was_withdrawn(dispute: stripe.Dispute) -> bool:
    """An inquiry takes no money, nor does a dispute that was prevented."""
    return any(moved.amount < 0 for moved in dispute.balance_transactions)


def _is_given_back(dispute: stripe.Dispute) -> bool:
    """When it was won, or when what was withdrawn has returned."""
    returned = sum(moved.amount for moved in dispute.balance_transactions) >= 0
    return dispute.status == "won" or returned


def checkout_of(session: stripe.checkout.Session) -> Checkout:
    """A page; one that is no longer open has no address."""
    return Checkout(session.id, session.url or "", moment(session.expires_at))


def card_of(method: stripe.PaymentMethod, default: str | None) -> Card:
    """A saved card."""
    card = method.card
    assert card is not None
    expires = f"{card.exp_month:02d}/{card.exp_year}"
    return Card(method.id, card.brand, card.last4, expires, method.id == default)


def invoice_of(invoice: stripe.Invoice) -> Invoice:
    """A bill; its amount is without tax, as a payment's is."""
    total = max(invoice.total, 0)
    net = total if invoice.total_excluding_tax is None else max(invoice.total_excluding_tax, 0)
    return Invoice(
        id=invoice.id,
        number=invoice.number or "",
        amount=of_cents(net),
        tax=of_cents(total - net) if total > net else ZERO,
        currency=invoice.currency,
        status=invoice.status or "",
        created_at=moment(invoice.created),
        page_url=invoice.hosted_invoice_url,
        pdf_url=invoice.invoice_pdf,
    )


def event_of(notice: Mapping[str, Any]) -> Event:
    """A verified notice; `KeyError` or `TypeError` if it has not an event's form."""
    about = notice["data"]["object"]
    checkout = None
    match about["object"]:
        case "payment_intent":
            payment = about["id"]
        case "checkout.session":
            checkout, payment = about["id"], about.get("payment_intent")
        case "charge" | "refund" | "dispute":
            payment = about.get("payment_intent")
        case _:
            payment = None
    return Event(notice["id"], notice["type"], payment, checkout, moment(notice["created"]))
