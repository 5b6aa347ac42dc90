"""Buying credit: orders go out, payments are pulled back and applied.

A notice is only a hint. Whatever brings one, what is booked follows from the payment as the
processor has it now, under ids that follow from its own: doing it again changes nothing.
A process may die at each await: an order without payment is asked for again, a payment without
entry is found by the next round, an event is processed with what it caused or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import timedelta

from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.flows.till import Till, asking
from kyma.ledger import Kind, Outcome
from kyma.money import Usd
from kyma.orders import (
    NOT_ORDERED,
    UNPAID,
    WAITING,
    Booked,
    KnownOrder,
    OrderState,
    Ruling,
    Uncredited,
    check_purchase,
    derived,
    is_id,
    letter_of,
    ruling,
)
from kyma.payments import Checkout, Event, Order, Payment, Source
from kyma.ports.billing import BillingAlerts, Customers, NotBooked, Notices, Orders
from kyma.ports.mail import Outbox
from kyma.ports.payments import (
    Payments,
    ProcessorRefused,
    ProcessorUnavailable,
    UnreadablePayment,
)
from kyma.ports.runtime import Chance, Clock, Invalidations
from kyma.ports.storage import Ledger, StorageUnavailable

OVERLAP = timedelta(hours=1)
"""Each round asks this much further back than the one before it began."""

FIRST_LOOK_BACK = timedelta(days=7)

ROUND = 200
"""Open orders and events looked at in one round; the others have the next."""

NOTICE_S = 5.0
"""How long a notice is acted on while its sender waits; the next round does the rest."""

LATER = (
    ProcessorUnavailable,
    ProcessorRefused,
    UnreadablePayment,
    StorageUnavailable,
    TimeoutError,
)


class Credits:
    """Sell credit, and book what was paid for it."""

    def __init__(
        self,
        processor: Payments,
        till: Till,
        orders: Orders,
        notices: Notices,
        customers: Customers,
        ledger: Ledger,
        outbox: Outbox,
        alerts: BillingAlerts,
        invalidations: Invalidations,
        clock: Clock,
        chance: Chance,
        notice_s: float = NOTICE_S,
    ) -> None:
        self._notice_s = notice_s
        self._processor = processor
        self._till = till
        self._orders = orders
        self._notices = notices
        self._customers = customers
        self._ledger = ledger
        self._outbox = outbox
        self._alerts = alerts
        self._invalidations = invalidations
        self._clock = clock
        self._chance = chance

    async def buy(self, account_id: str, amount: Usd, key: str | None = None) -> KnownOrder:
        """An order and the page to pay it on; a repeat under the same key is the same order."""
        check_purchase(amount)
        old = await self._begun(account_id, amount, Source.CHECKOUT, key)
        if old is not None and old.checkout is not None:
            return old
        with asking():
            _, customer = await self._till.customer(account_id)
            known, _ = await self._open(account_id, customer, amount, Source.CHECKOUT, key)
            if known.checkout is not None:
                return known
            back = f"{self._till.back_url}/{known.order.id}"
            checkout: Checkout = await self._processor.checkout(known.order, known.customer, back)
            await self._orders.attach(known.order.id, checkout)
        return replace(known, checkout=checkout)

    async def charge(
        self, account_id: str, amount: Usd, card_id: str | None, key: str | None = None
    ) -> KnownOrder:
        """Pay with a saved card; the order as it is then, or a refusal that says what to do.

        Of an order that was begun before nothing is refused as not charged: it may have been.
        """
        check_purchase(amount)
        old = await self._begun(account_id, amount, Source.CARD, key)
        if old is not None and old.state not in WAITING:
            return _as_told(old)
        try:
            if old is not None and old.payment_id is not None:
                known = await self.returned(account_id, old.order.id)
            else:
                known = await self._charge(account_id, amount, card_id, key)
        except Refusal as refusal:
            if old is None or refusal.charged is None:
                raise
            raise _not_known(old.order.id) from refusal
        return _as_told(known)

    async def _charge(
        self, account_id: str, amount: Usd, card_id: str | None, key: str | None
    ) -> KnownOrder:
        card = await self._till.card(account_id, card_id)
        with asking():
            _, customer = await self._till.customer(account_id)
            known, fresh = await self._open(account_id, customer, amount, Source.CARD, key)
        if known.state in WAITING and known.payment_id is None:
            return await self._pay(known, card.id, fresh)
        if known.state in WAITING:
            return await self.returned(account_id, known.order.id)
        return known

    async def is_begun(self, account_id: str, key: str) -> bool:
        """Whether a purchase was begun under this key of the caller's."""
        with asking():
            return await self._orders.order(_named(account_id, key)) is not None

    async def _begun(
        self, account_id: str, amount: Usd, source: Source, key: str | None
    ) -> KnownOrder | None:
        """What was begun under a key before, if it is the same purchase."""
        if key is None:
            return None
        with asking():
            old = await self._orders.order(_named(account_id, key))
        return None if old is None else _same(old, amount, source)

    async def estimate(self, account_id: str, amount: Usd) -> Usd:
        """The taxes that a charge of the account's card would have on top now."""
        check_purchase(amount)
        order = Order(self._chance.id(), account_id, amount, Source.CARD, self._clock.now())
        with asking():
            _, customer = await self._till.customer(account_id)
            return await self._processor.tax(order, customer)

    async def _open(
        self, account_id: str, customer: str, amount: Usd, source: Source, key: str | None
    ) -> tuple[KnownOrder, bool]:
        """An order as it is known now, and whether it is new."""
        id = self._chance.id() if key is None else _named(account_id, key)
        order = Order(id, account_id, amount, source, self._clock.now())
        old = await self._orders.open(order, customer)
        if old is None:
            return KnownOrder(order, customer), True
        return _same(old, amount, source), False

    async def _pay(self, known: KnownOrder, card_id: str, fresh: bool) -> KnownOrder:
        order = known.order
        try:
            back = f"{self._till.back_url}/{order.id}"
            payment = await self._processor.charge(order, known.customer, card_id, back)
            return await self.apply(payment) or known
        except ProcessorRefused as error:
            if not fresh:  # what was sent first may yet have been taken
                raise _not_known(order.id) from error
            message = error.public or "The payment processor refused it."
            await self._orders.close(order.id, OrderState.FAILED, message)
            return replace(known, state=OrderState.FAILED, message=message)
        except (ProcessorUnavailable, StorageUnavailable) as error:
            raise _not_known(order.id) from error

    async def returned(self, account_id: str, order_id: str) -> KnownOrder:
        """An order of an account, once the processor was asked how it stands."""
        with asking():
            known = await self._own(account_id, order_id)
            if known.state is not OrderState.CREDITED and known.handle is not None:
                payment = await self._processor.payment(known.handle)
                if payment is not None:
                    await self.apply(payment)
                known = await self._own(account_id, order_id)
        return known

    async def known(self, account_id: str, order_id: str) -> KnownOrder:
        """An order of an account as far as we know, nobody asked."""
        with asking():
            return await self._own(account_id, order_id)

    async def _own(self, account_id: str, order_id: str) -> KnownOrder:
        plain = order_id.replace("-", "").lower()
        known = await self._orders.order(plain) if is_id(plain) else None
        if known is None or known.order.account_id != account_id:
            raise Refusal(Code.NOT_FOUND, "No such order on this account.", param="order_id")
        return known

    async def notice(self, raw: bytes, signature: str) -> None:
        """A webhook: verified, stored, acted on. Refuses what is forged, old or damaged.

        Once it is stored its sender need not come again: what cannot be done now is done by the
        next round.
        """
        event = self._processor.event(raw, signature)
        if event is None:
            raise Refusal(
                Code.FORGED_NOTICE, "The signature does not hold, or is too old. Nothing was done."
            )
        try:
            waits = await self._notices.keep(event)
        except StorageUnavailable as error:
            raise unavailable() from error
        if not waits:
            return
        try:
            async with asyncio.timeout(self._notice_s):
                await self._act(event)
        except LATER as error:
            self._alerts.left_waiting(f"event {event.id}", error)

    async def _act(self, event: Event) -> None:
        handle = event.payment_id or event.checkout_id
        payment = None if handle is None else await self._processor.payment(handle)
        if payment is None:
            await self._notices.done(event.id)
        else:
            await self.apply(payment, event.id)

    async def apply(self, payment: Payment, event_id: str | None = None) -> KnownOrder | None:
        """Book a payment as it now stands, once; its order as it is then, if it has one."""
        found, booked = await self._book(payment, event_id)
        if found.refusal and booked.is_news:
            self._alerts.not_credited(payment, found.refusal)
        for posting, outcome in booked.outcomes:
            if outcome not in {Outcome.DONE, Outcome.EXISTS}:
                self._alerts.not_reversed(payment, posting.id, outcome)
        if found.order_id is None:
            return None
        if any(outcome is Outcome.DONE for _, outcome in booked.outcomes):
            await self._invalidations.forget(payment.account_id)
        await self._write(payment, booked)
        return await self._orders.order(found.order_id)

    async def _book(self, payment: Payment, event_id: str | None) -> tuple[Ruling, Booked]:
        found = await self._rule(payment)
        try:
            return found, await self._orders.book(found, event_id)
        except NotBooked as error:
            # Another payment has credited the order meanwhile: now the rule itself says no.
            found = await self._rule(payment)
            if found.postings:
                found = Ruling(payment, found.order_id, OrderState.REFUSED, refusal=str(error))
            return found, await self._orders.book(found, event_id)

    async def _rule(self, payment: Payment) -> Ruling:
        known = await self._orders.order(payment.order_id) if is_id(payment.order_id) else None
        return ruling(known, payment)

    async def _write(self, payment: Payment, booked: Booked) -> None:
        """Letters for what is booked, also if it was booked before: one of an id is sent once.

        So a process that died after booking has its letter written by the next look.
        """
        if not booked.outcomes:
            return
        customer = await self._customers.customer(payment.account_id)
        if customer is None:
            return
        balance = await self._ledger.balance(payment.account_id)
        for posting, outcome in booked.outcomes:
            if outcome in {Outcome.DONE, Outcome.EXISTS} and posting.kind is not Kind.REINSTATE:
                off = posting.id in booked.top_up_off
                letter = letter_of(posting, payment, customer, balance.available, off)
                await self._outbox.post(letter)

    async def reconcile(self) -> int:
        """One round: every payment since the last one, every open order, every waiting event.

        How many payments were looked at. One that cannot be read or booked does not keep the
        others from it, but then the round is not complete, and the next one looks as far back.
        """
        began = self._clock.now()
        last = await self._notices.last_round()
        since = (last - OVERLAP) if last else (began - FIRST_LOOK_BACK)
        failures: list[Exception] = []
        looked_at = 0
        async for id in self._processor.changed_since(since):
            looked_at += 1
            await _trying(self._look_at(id), failures)
        for known in await self._orders.take_waiting(ROUND):
            await _trying(self._ask(known), failures)
        for event in await self._notices.waiting(ROUND):
            await _trying(self._act(event), failures)
        for odd in {str(error) for error in failures if isinstance(error, UnreadablePayment)}:
            self._alerts.not_read(odd)
        if failures:
            raise ExceptionGroup("some of this round could not be done", failures)
        await self._notices.round_ended(began)
        return looked_at

    async def _look_at(self, payment_id: str) -> None:
        payment = await self._processor.payment(payment_id)
        if payment is not None:
            await self.apply(payment)

    async def _ask(self, known: KnownOrder) -> None:
        """Ask how an open order stands; give up on one that nobody will pay any more."""
        payment = None
        if known.handle is not None:
            payment = await self._processor.payment(known.handle)
            if payment is not None:
                known = await self.apply(payment) or known
        if known.order.source is Source.AUTO_TOP_UP or known.state not in WAITING:
            return  # whoever charges unasked ends what it began
        if not known.is_given_up(payment, self._clock.now()):
            return
        if known.state is OrderState.NEEDS_ACTION and known.payment_id is not None:
            payment = await self._processor.cancel(known.payment_id)
        if payment is None or payment.state in UNPAID:
            message = "Nothing was paid in time."
            await self._orders.close(known.order.id, OrderState.CANCELED, message)
        if payment is not None:
            await self.apply(payment)  # its owner may have been quicker

    async def uncredited(self) -> Sequence[Uncredited]:
        """Paid, not credited: normally empty."""
        return await self._orders.uncredited()


def _named(account_id: str, key: str) -> str:
    """The id of the order that a caller's key stands for."""
    return derived("order", account_id, key)


def _same(old: KnownOrder, amount: Usd, source: Source) -> KnownOrder:
    if (old.order.amount, old.order.source) != (amount, source):
        raise Refusal(
            Code.IDEMPOTENCY_KEY_REUSED,
            "This Idempotency-Key belongs to another purchase. Nothing was charged.",
        )
    return old


async def _trying(work: Awaitable[object], failures: list[Exception]) -> None:
    """Do it, or keep what went wrong; who is away is away for the others too."""
    try:
        await work
    except (ProcessorUnavailable, StorageUnavailable):
        raise
    except Exception as error:  # noqa: BLE001 - raised again when the round has ended
        failures.append(error)


def _as_told(known: KnownOrder) -> KnownOrder:
    """The order for its buyer, or why it was not paid and what to do."""
    details = {"order_id": known.order.id}
    if known.state is OrderState.REFUSED:
        raise Refusal(
            Code.PAYMENT_NOT_CREDITED, known.message or NOT_ORDERED, details=details, charged=True
        )
    if known.state is OrderState.NEEDS_ACTION:
        confirm = "confirm it at `action_url`, or " if known.action_url else ""
        raise Refusal(
            Code.PAYMENT_ACTION,
            "The bank wants the owner of the card to confirm this payment. Nothing was charged; "
            f"{confirm}buy with POST /v1/billing/checkout.",
            details={**details, "action_url": known.action_url},
        )
    if known.state in {OrderState.FAILED, OrderState.CANCELED}:
        raise Refusal(
            Code.PAYMENT_FAILED,
            f"The payment failed: {known.message or 'the card was declined.'} Nothing was "
            "charged; try another card.",
            details=details,
        )
    return known


def _not_known(order_id: str) -> Refusal:
    return Refusal(
        Code.PROCESSOR_UNAVAILABLE,
        "It is not known yet whether the card was charged. If it was, the credit comes within "
        f"minutes: see GET /v1/billing/checkout/{order_id} before trying again, or repeat this "
        "request with the same Idempotency-Key.",
        retry_after_s=60,
        details={"order_id": order_id},
        charged=None,
    )
