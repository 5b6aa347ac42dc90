"""A payment processor in memory: the port's promises, and a buyer, a bank and faults to script.

What a test does stands under `pay`, `decline`, `refund`, `dispute` and the like; every change
leaves a signed notice in `notices`, to be delivered in any order, twice or never.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from kyma.money import ZERO, Usd
from kyma.payments import (
    CURRENCY,
    Card,
    Checkout,
    Event,
    Invoice,
    Order,
    Payment,
    PaymentState,
    Reversal,
)
from kyma.ports.payments import ProcessorRefused, ProcessorUnavailable, UnreadablePayment

SECRET = b"memory-webhook-secret"
TOLERANCE_S = 300
PAGE_LIVES = timedelta(hours=24)
KEYS_HOLD = timedelta(hours=23)
"""As at the real one: an older order might be taken for a new one, and is refused."""

CENT = 10_000_000


class Manner(StrEnum):
    """What happens when a card is charged with its owner away."""

    PAYS = "pays"
    DECLINES = "declines"
    WANTS_OWNER = "wants_owner"
    SLOW = "slow"
    """Stays pending until `settle`."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A webhook as it is delivered."""

    raw: bytes
    signature: str


@dataclass(slots=True)
class _Page:
    order: Order | None
    customer: str
    back_url: str
    shown: Checkout
    payment_id: str | None = None
    open: bool = True


class MemoryPayments:
    """`Payments` and `Cards`; `now` is the clock that signs, stamps and lets pages expire."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._customers: dict[str, str] = {}
        self._gone: set[str] = set()
        self._pages: dict[str, _Page] = {}
        self._of_order: dict[str, str] = {}
        self._payments: dict[str, Payment] = {}
        self._changed: dict[str, datetime] = {}
        self._cards: dict[str, list[tuple[str, Manner]]] = {}
        self._default: dict[str, str] = {}
        self._invoices: list[tuple[str, Invoice]] = []
        self._made = 0
        self._odd: set[str] = set()
        self._down: list[bool] = []
        self._open = asyncio.Event()
        self._open.set()
        self.notices: list[Notice] = []
        self.charges = 0
        """How often a card was really charged."""

        self.tax_percent = 0
        self.reckoned = 0
        """How often taxes were worked out."""

        self._taxes: dict[str, Usd] = {}

    def event(self, raw: bytes, signature: str) -> Event | None:
        """A notice that was signed here within five minutes."""
        stamp, _, mark = signature.partition(".")
        if not (signature.isascii() and stamp.isdigit() and len(stamp) < 12):
            return None
        if not hmac.compare_digest(mark, _sign(stamp, raw)):
            return None
        if self._now().timestamp() - int(stamp) > TOLERANCE_S:
            return None
        told = json.loads(raw)
        at = datetime.fromtimestamp(int(told["created"]), UTC)
        return Event(told["id"], told["kind"], told["payment"], told["checkout"], at)

    async def customer(self, account_id: str, email: str, known: str | None = None) -> str:  # noqa: ARG002 - the port's
        """One for each account, and another for each that is gone."""
        async with self._answering():
            if known is not None and known not in self._gone:
                return known
            again = f"_{known}" if known else ""
            return self._customers.setdefault(account_id + again, f"cus_{account_id}{again}")

    async def checkout(self, order: Order, customer: str, back_url: str) -> Checkout:
        """One page for each order."""
        async with self._answering():
            self._check(order, customer)
            known = self._of_order.get(order.id)
            if known is None:
                known = self._open_page(order, customer, back_url)
                self._of_order[order.id] = known
            page = self._pages[known]
            if page.back_url != back_url:
                raise ProcessorUnavailable("the same key with other parameters")
            return page.shown

    async def tax(self, order: Order, customer: str) -> Usd:
        """`tax_percent`, in whole cents; kept for the charge."""
        async with self._answering():
            self._check(order, customer)
            return self._reckoned(order)

    def _reckoned(self, order: Order) -> Usd:
        if order.id not in self._taxes:
            self.reckoned += bool(self.tax_percent)
            self._taxes[order.id] = Usd(order.amount * self.tax_percent // 100 // CENT * CENT)
        return self._taxes[order.id]

    async def charge(
        self, order: Order, customer: str, card_id: str, back_url: str | None = None
    ) -> Payment:
        """One payment for each order, whatever its card did."""
        async with self._answering():
            self._check(order, customer)
            known = self._of_order.get(order.id)
            if known is None:
                manner = dict(self._cards.get(customer, [])).get(card_id)
                if manner is None:
                    raise ProcessorRefused(f"{card_id} is not a card of {customer}")
                known = self._begin(order, customer, self._reckoned(order)).id
                self._of_order[order.id] = known
                self._try(known, manner)
                waiting = self._payments[known]
                if back_url is not None and waiting.state is PaymentState.NEEDS_ACTION:
                    url = f"https://pay.example/bank/{known}"
                    self._payments[known] = replace(waiting, action_url=url)
            return self._payments[known]

    async def payment(self, id: str) -> Payment | None:
        """By its own id or its page's."""
        async with self._answering():
            page = self._pages.get(id)
            return self._read((page.payment_id or "") if page else id)

    async def cancel(self, id: str) -> Payment | None:
        """Unless it is paid or under way."""
        async with self._answering():
            payment = self._payments.get(id)
            if payment is not None and payment.state in {
                PaymentState.NEEDS_ACTION,
                PaymentState.FAILED,
            }:
                gone = replace(payment, state=PaymentState.CANCELED, action_url=None)
                self._set(gone, "payment.canceled")
            return self._payments.get(id)

    async def payment_of(self, order: Order, customer: str) -> Payment | None:
        """By the order that it names, of the customer's."""
        async with self._answering():
            for payment in self._payments.values():
                if (payment.order_id, payment.customer) == (order.id, customer):
                    return self._read(payment.id)
            return None

    def _read(self, id: str) -> Payment | None:
        if id in self._odd:
            raise UnreadablePayment(id, "it was garbled")
        return self._payments.get(id)

    async def changed_since(self, moment: datetime) -> AsyncIterator[str]:
        """Those that changed at or after it."""
        async with self._answering():
            found = [id for id, at in self._changed.items() if at >= moment]
        for id in found:
            yield id

    async def invoices(self, customer: str) -> Sequence[Invoice]:
        """Newest first."""
        async with self._answering():
            return [invoice for owner, invoice in reversed(self._invoices) if owner == customer]

    async def setup(self, customer: str, back_url: str) -> Checkout:
        """A page to leave a card on; see `leave_card`."""
        async with self._answering():
            self._check(None, customer)
            return self._pages[self._open_page(None, customer, back_url)].shown

    async def cards(self, customer: str) -> Sequence[Card]:
        """The default first, then the newest."""
        async with self._answering():
            ids = [id for id, _ in reversed(self._cards.get(customer, []))]
            chosen = self._default.get(customer)
            default = chosen if chosen in ids else (ids[0] if ids else None)
            cards = [Card(id, "visa", "4242", "12/2034", id == default) for id in ids]
            return sorted(cards, key=lambda card: not card.is_default)

    async def choose(self, customer: str, card_id: str) -> bool:
        """Make one the default."""
        async with self._answering():
            mine = card_id in dict(self._cards.get(customer, []))
            if mine:
                self._default[customer] = card_id
            return mine

    async def remove(self, customer: str, card_id: str) -> bool:
        """Forget one."""
        async with self._answering():
            cards = self._cards.get(customer, [])
            kept = [card for card in cards if card[0] != card_id]
            self._cards[customer] = kept
            return len(kept) < len(cards)

    # What a test does: the buyer, the bank, the weather.

    def add_card(self, customer: str, manner: Manner = Manner.PAYS) -> str:
        """A saved card, and its id."""
        id = self._id("pm")
        self._cards.setdefault(customer, []).append((id, manner))
        return id

    def leave_card(self, checkout_id: str, manner: Manner = Manner.PAYS) -> str:
        """The owner fills in a `setup` page."""
        page = self._pages[checkout_id]
        page.open = False
        id = self.add_card(page.customer, manner)
        self._tell("checkout.completed", None, checkout_id)
        return id

    def delete_customer(self, customer: str) -> None:
        """The operator deletes it at the processor, its cards with it."""
        self._gone.add(customer)
        self._cards.pop(customer, None)

    def pay(self, checkout_id: str, tax: Usd = ZERO, manner: Manner = Manner.PAYS) -> str:
        """The buyer pays on a page, in time or after it expired; the payment's id."""
        page = self._pages[checkout_id]
        assert page.order is not None
        if page.payment_id is None:
            page.payment_id = self._begin(page.order, page.customer, tax).id
        self._try(page.payment_id, manner, page)
        if self._payments[page.payment_id].state is PaymentState.PAID:
            page.open = False
            self._bill(page.payment_id)
            self._tell("checkout.completed", page.payment_id, checkout_id)
        return page.payment_id

    def expire(self, checkout_id: str) -> None:
        """Nobody paid in time; a card that was declined on the page has now failed."""
        page = self._pages[checkout_id]
        page.open = False
        payment = self._payments.get(page.payment_id or "")
        if payment is not None and payment.message:
            self._set(replace(payment, state=PaymentState.FAILED), "payment.failed")
        self._tell("checkout.expired", page.payment_id, checkout_id)

    def settle(self, payment_id: str, paid: bool = True) -> None:
        """The end of one that was pending."""
        state = PaymentState.PAID if paid else PaymentState.FAILED
        ended = replace(self._payments[payment_id], state=state, action_url=None)
        self._set(ended, f"payment.{state}")

    def refund(self, payment_id: str, credit: Usd | None = None) -> str:
        """Give back some of the credit, or all that is left of it; the refund's id."""
        payment = self._payments[payment_id]
        gone = sum(back.amount for back in payment.reversals if not back.reinstated)
        amount = Usd(payment.amount - gone) if credit is None else credit
        reversal = Reversal(self._id("re"), amount, is_dispute=False)
        self._set(replace(payment, reversals=(*payment.reversals, reversal)), "payment.refunded")
        return reversal.id

    def dispute(self, payment_id: str, credit: Usd | None = None) -> str:
        """The bank withdraws some of it, or all; the dispute's id."""
        payment = self._payments[payment_id]
        amount = payment.amount if credit is None else credit
        reversal = Reversal(self._id("dp"), amount, is_dispute=True)
        self._set(replace(payment, reversals=(*payment.reversals, reversal)), "payment.disputed")
        return reversal.id

    def reinstate(self, reversal_id: str) -> None:
        """A dispute was won, or a refund did not arrive: the money is back."""
        payment = next(
            payment
            for payment in self._payments.values()
            if any(back.id == reversal_id for back in payment.reversals)
        )
        reversals = tuple(
            replace(back, reinstated=True) if back.id == reversal_id else back
            for back in payment.reversals
        )
        self._set(replace(payment, reversals=reversals), "payment.reinstated")

    def change(self, payment_id: str, **fields: Any) -> None:
        """Let a payment stand otherwise: another amount, currency or owner."""
        self._set(replace(self._payments[payment_id], **fields), "payment.changed")

    def garble(self, payment_id: str) -> None:
        """Somebody writes into a payment what nobody can read."""
        self._odd.add(payment_id)

    def mend(self, payment_id: str) -> None:
        """And puts it right."""
        self._odd.discard(payment_id)

    def go_down(self, calls: int = 1, *, after_acting: bool = False) -> None:
        """Of the next calls none is answered; what they ask for may be done all the same."""
        self._down.extend([after_acting] * calls)

    def pause(self) -> None:
        """Answer nothing until `resume`."""
        self._open.clear()

    def resume(self) -> None:
        """Answer again."""
        self._open.set()

    def _answering(self) -> _Answering:
        return _Answering(self._open, self._down)

    def _check(self, order: Order | None, customer: str) -> None:
        if customer not in self._customers.values() or customer in self._gone:
            raise ProcessorRefused(f"no such customer: {customer}")
        if order is None:
            return
        if order.amount <= 0 or order.amount % CENT:
            raise ProcessorRefused(f"{order.amount} nano-dollars are no amount in whole cents")
        if self._now() - order.created_at > KEYS_HOLD:
            raise ProcessorRefused(f"order {order.id} is too old")

    def _open_page(self, order: Order | None, customer: str, back_url: str) -> str:
        id = self._id("cs")
        shown = Checkout(id, f"https://pay.example/{id}", self._now() + PAGE_LIVES)
        self._pages[id] = _Page(order, customer, back_url, shown)
        return id

    def _begin(self, order: Order, customer: str, tax: Usd = ZERO) -> Payment:
        payment = Payment(
            self._id("pi"),
            order.id,
            order.account_id,
            customer,
            order.amount,
            CURRENCY,
            PaymentState.PENDING,
            self._now(),
            tax,
        )
        self._payments[payment.id] = payment
        return payment

    def _try(self, payment_id: str, manner: Manner, page: _Page | None = None) -> None:
        payment = replace(self._payments[payment_id], card="visa 4242", message="")
        if manner is Manner.PAYS:
            self.charges += 1
            receipt = f"https://pay.example/receipts/{payment_id}"
            paid = replace(payment, state=PaymentState.PAID, receipt_url=receipt)
            self._set(paid, "payment.paid")
        elif manner is Manner.SLOW:
            self.charges += 1
            self._set(payment, "payment.pending")
        elif manner is Manner.WANTS_OWNER:
            message = "Your bank wants you to confirm this payment."
            state = PaymentState.NEEDS_ACTION
            self._set(replace(payment, state=state, message=message), "payment.needs_action")
        else:
            # On a page that is still open its buyer may take another card.
            state = PaymentState.PENDING if page and page.open else PaymentState.FAILED
            message = "Your card was declined."
            self._set(replace(payment, state=state, message=message), "payment.failed")

    def _bill(self, payment_id: str) -> None:
        payment = self._payments[payment_id]
        id = self._id("in")
        page = f"https://pay.example/invoices/{id}"
        number = f"KYMA-{len(self._invoices) + 1:04d}"
        invoice = Invoice(
            id, number, payment.amount, payment.tax, CURRENCY, "paid", self._now(), page, page
        )
        self._invoices.append((payment.customer, invoice))
        self._set(replace(payment, invoice_url=page), "invoice.paid")

    def _set(self, payment: Payment, kind: str) -> None:
        self._payments[payment.id] = payment
        self._changed[payment.id] = self._now()
        self._tell(kind, payment.id, None)

    def _tell(self, kind: str, payment_id: str | None, checkout_id: str | None) -> None:
        stamp = str(int(self._now().timestamp()))
        raw = json.dumps(
            {
                "id": self._id("evt"),
                "kind": kind,
                "payment": payment_id,
                "checkout": checkout_id,
                "created": stamp,
            }
        ).encode()
        self.notices.append(Notice(raw, f"{stamp}.{_sign(stamp, raw)}"))

    def _id(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}_memory{self._made:06d}"


class _Answering:
    """The bracket of a call: waits while paused, and loses the answer when down."""

    def __init__(self, open: asyncio.Event, down: list[bool]) -> None:
        self._open = open
        self._down = down
        self._lost = False

    async def __aenter__(self) -> None:
        await self._open.wait()
        if self._down:
            self._lost = self._down.pop(0)
            if not self._lost:
                raise ProcessorUnavailable("the processor does not answer")

    async def __aexit__(self, *failed: object) -> None:
        if self._lost:
            raise ProcessorUnavailable("the answer was lost")


def _sign(stamp: str, raw: bytes) -> str:
    return hmac.new(SECRET, stamp.encode() + b"." + raw, "sha256").hexdigest()
