"""The payment processor is Stripe, through its own package.

Orders go along as metadata, and what is asked back is always the payment as it now stands: the
payment intent, its charge, refunds and disputes. Nothing is decided or remembered here.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import stripe

from adapters.payments import reading
from adapters.payments.calls import (
    WEBHOOK_TOLERANCE_S,
    answered,
    is_missing,
    make_client,
    make_http,
)
from kyma.money import ZERO, Usd
from kyma.payments import CURRENCY, Card, Checkout, Event, Invoice, Order, Payment, Source
from kyma.ports.payments import ProcessorRefused, ProcessorUnavailable, UnreadablePayment

if TYPE_CHECKING:
    from stripe.params import InvoiceListParams, PaymentIntentCreateParams
    from stripe.params.checkout import SessionCreateParams
    from stripe.params.tax import CalculationCreateParams

KEYS_HOLD = timedelta(hours=23)
"""Stripe may forget an idempotency key after 24 hours: an older order is never sent again."""

SLACK = timedelta(minutes=10)
"""By how much our clock and Stripe's may differ."""

PAGE = 100
PRODUCT = "Kyma credit"
NO_ADDRESS = (
    "Nothing was charged. Taxes need a billing address: pay once on the checkout page, which asks "
    "for it, and your saved card can be charged from then on."
)

WHOLE_PAYMENT = ["latest_charge.refunds"]
_ID = re.compile(r"(pi|cs|pm)_\w{1,250}", re.ASCII)

CHANGES = [
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "payment_intent.canceled",
    "payment_intent.processing",
    "payment_intent.requires_action",
    "checkout.session.completed",
    "checkout.session.expired",
    "charge.refunded",
    "charge.refund.updated",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "charge.dispute.closed",
]
"""Events after which a payment may stand otherwise; Stripe takes twenty kinds at most."""


class StripePayments:
    """`Payments` and `Cards`; `now` says how old an order is, `tax` adds what Stripe reckons."""

    def __init__(
        self,
        secret_key: str,
        webhook_secret: str,
        *,
        now: Callable[[], datetime],
        api_base: str = "",
        tax: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        if not webhook_secret.strip():
            raise ValueError("without a webhook secret anybody could announce a payment")
        self._http = make_http(timeout_s)
        self._client = make_client(secret_key, api_base, self._http)
        self._secret = webhook_secret
        self._now = now
        self._tax = tax

    async def close(self) -> None:
        """Close its connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # by Stripe

    def event(self, raw: bytes, signature: str) -> Event | None:
        """A notice whose signature holds and is no older than five minutes."""
        try:
            stripe.WebhookSignature.verify_header(raw, signature, self._secret, WEBHOOK_TOLERANCE_S)
            return reading.event_of(json.loads(raw))
        except (stripe.SignatureVerificationError, ValueError, KeyError, TypeError):
            return None

    async def customer(self, account_id: str, email: str, known: str | None = None) -> str:
        """The customer of an account; made once in 24 hours for the same address.

        One that was deleted (or is of another Stripe account, after a change of keys) is made
        anew, under a key that names it: Stripe would answer the old key with the old customer.
        """
        mark = sha256(f"{email}{known or ''}".encode()).hexdigest()[:16]
        with answered():
            if known is not None and await self._found(known) is not None:
                return known
            made = await self._client.v1.customers.create_async(
                {"email": email, "metadata": {reading.ACCOUNT: account_id}},
                {"idempotency_key": f"kyma-customer-{account_id}-{mark}"},
            )
        return made.id

    async def checkout(self, order: Order, customer: str, back_url: str) -> Checkout:
        """A hosted page for one order; a buyer who paid returns with `?checkout=<its id>`."""
        params = self._page(order, customer, back_url)
        with answered():
            session = await self._client.v1.checkout.sessions.create_async(
                params, {"idempotency_key": f"kyma-checkout-{order.id}"}
            )
        return reading.checkout_of(session)

    async def tax(self, order: Order, customer: str) -> Usd:
        """By the calculation with which the order would be charged."""
        if not self._tax:
            return ZERO
        return reading.of_cents((await self._calculated(order, customer)).tax_amount_exclusive)

    async def charge(
        self, order: Order, customer: str, card_id: str, back_url: str | None = None
    ) -> Payment:
        """One payment intent, confirmed at once; off session, where nobody can be led back."""
        params = await self._charge(order, customer, card_id)
        if back_url is None:
            params["off_session"] = True
        else:
            params["return_url"] = back_url
        with answered():
            try:
                intent = await self._client.v1.payment_intents.create_async(
                    params, {"idempotency_key": f"kyma-charge-{order.id}"}
                )
            except stripe.CardError as error:
                declined = error.error.payment_intent if error.error else None
                if declined is None:
                    raise
                intent = declined
        return await self._made(intent.id, order)

    async def _made(self, id: str, order: Order) -> Payment:
        """A payment that was just made. From here on there is no refusal: money may have moved."""
        try:
            found = await self.payment(id)
        except (ProcessorRefused, UnreadablePayment) as error:
            raise ProcessorUnavailable(f"{id} of order {order.id} was made: {error}") from error
        if found is None:
            raise ProcessorUnavailable(f"{id} of order {order.id} was made, and is not found yet")
        return found

    async def payment(self, id: str) -> Payment | None:
        """By `pi_…` or `cs_…`; None for what is unknown, not ours, or a page nobody paid on."""
        if not _ID.fullmatch(id):
            return None
        with answered():
            try:
                if id.startswith("cs_"):
                    return await self._by_checkout(id)
                intent = await self._client.v1.payment_intents.retrieve_async(
                    id, {"expand": WHOLE_PAYMENT}
                )
                return await self._whole(intent, await self._session_of(intent))
            except stripe.InvalidRequestError as error:
                if is_missing(error):
                    return None
                raise

    async def cancel(self, id: str) -> Payment | None:
        """Cancel an intent; what has succeeded or is processing cannot be, and is told as it is."""
        if not (_ID.fullmatch(id) and id.startswith("pi_")):
            return None
        with answered():
            try:
                await self._client.v1.payment_intents.cancel_async(id)
            except stripe.InvalidRequestError as error:
                if not (is_missing(error) or error.code == "payment_intent_unexpected_state"):
                    raise
        return await self.payment(id)

    async def payment_of(self, order: Order, customer: str) -> Payment | None:
        """Looked up among the customer's own since the order, by what was given along."""
        since = int((order.created_at - SLACK).timestamp())
        with answered():
            try:
                page = await self._client.v1.payment_intents.list_async(
                    {"customer": customer, "created": {"gte": since}, "limit": PAGE}
                )
                found = [
                    intent.id
                    async for intent in page.auto_paging_iter()
                    if reading.order_of(intent) == order.id
                ]
            except stripe.InvalidRequestError as error:
                if is_missing(error):
                    return None
                raise
        return await self.payment(found[0]) if found else None

    async def changed_since(self, moment: datetime) -> AsyncIterator[str]:
        """Payments made since, and those that events, refunds or disputes since are about.

        Stripe lists by time of creation only, and keeps events for 30 days: of what is older, a
        dispute's end or a refund's failure is found by `payment` alone.
        """
        for id in await self._changed(int(moment.timestamp())):
            yield id

    async def invoices(self, customer: str) -> Sequence[Invoice]:
        """Newest first, drafts left out."""
        wanted: InvoiceListParams = {"customer": customer, "limit": PAGE}
        with answered():
            try:
                page = await self._client.v1.invoices.list_async(wanted)
            except stripe.InvalidRequestError as error:
                if is_missing(error):
                    return []
                raise
            return [
                reading.invoice_of(invoice)
                async for invoice in page.auto_paging_iter()
                if invoice.status != "draft"
            ]

    async def setup(self, customer: str, back_url: str) -> Checkout:
        """A page to leave a card on. A repeated one is another page: it changes nothing."""
        params: SessionCreateParams = {
            "mode": "setup",
            "customer": customer,
            "currency": CURRENCY,
            "allowed_payment_method_types": ["card"],
            "success_url": _back(back_url, "{CHECKOUT_SESSION_ID}"),
            "cancel_url": _back(back_url, "canceled"),
        }
        with answered():
            session = await self._client.v1.checkout.sessions.create_async(params)
        return reading.checkout_of(session)

    async def cards(self, customer: str) -> Sequence[Card]:
        """The default first, then the newest; without a choice the newest is the default."""
        with answered():
            owner = await self._found(customer)
            if owner is None:
                return []
            page = await self._client.v1.customers.payment_methods.list_async(
                customer, {"type": "card", "limit": PAGE}
            )
            methods = [method async for method in page.auto_paging_iter() if method.card]
        chosen = getattr(getattr(owner, "invoice_settings", None), "default_payment_method", None)
        ids = [method.id for method in methods]
        default = reading.id_of(chosen)
        if default not in ids:
            default = ids[0] if ids else None
        cards = [reading.card_of(method, default) for method in methods]
        return sorted(cards, key=lambda card: not card.is_default)

    async def choose(self, customer: str, card_id: str) -> bool:
        """Make a card the one that the customer's invoices and we use."""
        with answered():
            if not await self._owns(customer, card_id):
                return False
            await self._client.v1.customers.update_async(
                customer, {"invoice_settings": {"default_payment_method": card_id}}
            )
        return True

    async def remove(self, customer: str, card_id: str) -> bool:
        """Detach a card: it can never be used again."""
        with answered():
            if not await self._owns(customer, card_id):
                return False
            await self._client.v1.payment_methods.detach_async(card_id)
        return True

    async def _found(self, customer: str) -> stripe.Customer | None:
        """A customer, if it was not deleted."""
        try:
            found = await self._client.v1.customers.retrieve_async(customer)
        except stripe.InvalidRequestError as error:
            if is_missing(error):
                return None
            raise
        return None if getattr(found, "deleted", False) else found

    async def _owns(self, customer: str, card_id: str) -> bool:
        if not _ID.fullmatch(card_id):
            return False
        try:
            await self._client.v1.customers.payment_methods.retrieve_async(customer, card_id)
        except stripe.InvalidRequestError as error:
            if is_missing(error):
                return False
            raise
        return True

    async def _by_checkout(self, id: str) -> Payment | None:
        session = await self._client.v1.checkout.sessions.retrieve_async(
            id, {"expand": ["invoice", "payment_intent.latest_charge.refunds"]}
        )
        intent = session.payment_intent
        return (
            await self._whole(intent, session) if isinstance(intent, stripe.PaymentIntent) else None
        )

    async def _session_of(self, intent: stripe.PaymentIntent) -> stripe.checkout.Session | None:
        """Its Checkout: that alone knows the tax, and has the invoice."""
        if not reading.is_ours(intent) or intent.metadata[reading.SOURCE] != Source.CHECKOUT:
            return None
        page = await self._client.v1.checkout.sessions.list_async(
            {"payment_intent": intent.id, "limit": 1, "expand": ["data.invoice"]}
        )
        return page.data[0] if page.data else None

    async def _whole(
        self, intent: stripe.PaymentIntent, session: stripe.checkout.Session | None
    ) -> Payment | None:
        if not reading.is_ours(intent):
            return None
        charge = reading.charge_of(intent)
        refunds: list[stripe.Refund] = []
        disputes: list[stripe.Dispute] = []
        if charge is not None and charge.refunds is not None:
            refunds = [refund async for refund in charge.refunds.auto_paging_iter()]
        if charge is not None and charge.disputed:
            page = await self._client.v1.disputes.list_async({"payment_intent": intent.id})
            disputes = [dispute async for dispute in page.auto_paging_iter()]
        try:
            return reading.payment_of(intent, refunds, disputes, session)
        except ValueError as error:
            raise UnreadablePayment(intent.id, str(error)) from error

    async def _changed(self, since: int) -> dict[str, None]:
        """Ids of payments, each once, in the order found."""
        api = self._client.v1
        found: dict[str, None] = {}
        with answered():
            intents = await api.payment_intents.list_async(
                {"created": {"gte": since}, "limit": PAGE}
            )
            async for intent in intents.auto_paging_iter():
                if reading.is_ours(intent):
                    found[intent.id] = None
            events = await api.events.list_async(
                {"created": {"gte": since}, "types": CHANGES, "limit": PAGE}
            )
            async for event in events.auto_paging_iter():
                if id := reading.event_of(event.to_dict()).payment_id:
                    found[id] = None
            refunds = await api.refunds.list_async({"created": {"gte": since}, "limit": PAGE})
            async for refund in refunds.auto_paging_iter():
                if id := reading.id_of(refund.payment_intent):
                    found[id] = None
            disputes = await api.disputes.list_async({"created": {"gte": since}, "limit": PAGE})
            async for dispute in disputes.auto_paging_iter():
                if id := reading.id_of(dispute.payment_intent):
                    found[id] = None
        return found

    def _page(self, order: Order, customer: str, back_url: str) -> SessionCreateParams:
        marks = self._marks(order)
        params: SessionCreateParams = {
            "mode": "payment",
            "customer": customer,
            "client_reference_id": order.id,
            "metadata": marks,
            "payment_intent_data": {"metadata": marks, "description": PRODUCT},
            "invoice_creation": {"enabled": True, "invoice_data": {"metadata": marks}},
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": CURRENCY,
                        "unit_amount": self._cents(order),
                        "tax_behavior": "exclusive",
                        "product_data": {"name": PRODUCT},
                    },
                }
            ],
            "allowed_payment_method_types": ["card"],
            # The order is in dollars, and the payment is held to it.
            "adaptive_pricing": {"enabled": False},
            # The buyer's own choice on the page; nothing is kept unless it is ticked.
            "saved_payment_method_options": {"payment_method_save": "enabled"},
            "success_url": _back(back_url, "{CHECKOUT_SESSION_ID}"),
            "cancel_url": _back(back_url, "canceled"),
        }
        if self._tax:
            params["automatic_tax"] = {"enabled": True}
            params["customer_update"] = {"address": "auto"}
        return params

    async def _charge(self, order: Order, customer: str, card_id: str) -> PaymentIntentCreateParams:
        marks = self._marks(order)
        params: PaymentIntentCreateParams = {
            "amount": self._cents(order),
            "currency": CURRENCY,
            "customer": customer,
            "payment_method": card_id,
            "allowed_payment_method_types": ["card"],
            "confirm": True,
            "description": PRODUCT,
            "metadata": marks,
        }
        if self._tax:
            tax = await self._calculated(order, customer)
            params["amount"] = tax.amount_total
            params["hooks"] = {"inputs": {"tax": {"calculation": tax.id or ""}}}
            marks[reading.TAX_CENTS] = str(tax.tax_amount_exclusive)
        return params

    async def _calculated(self, order: Order, customer: str) -> stripe.tax.Calculation:
        """The taxes of a charge; keyed as well, so that one repeated names the same."""
        params: CalculationCreateParams = {
            "currency": CURRENCY,
            "customer": customer,
            "line_items": [
                {"amount": self._cents(order), "reference": "credit", "tax_behavior": "exclusive"}
            ],
        }
        with answered():
            try:
                return await self._client.v1.tax.calculations.create_async(
                    params, {"idempotency_key": f"kyma-tax-{order.id}"}
                )
            except stripe.InvalidRequestError as error:
                if error.code == "customer_tax_location_invalid":
                    raise ProcessorRefused(str(error), NO_ADDRESS) from error
                raise

    def _marks(self, order: Order) -> dict[str, str]:
        return {
            reading.ORDER: order.id,
            reading.ACCOUNT: order.account_id,
            reading.SOURCE: order.source.value,
        }

    def _cents(self, order: Order) -> int:
        """What is asked for; refuses an order that might be sent a second time unrecognised."""
        if self._now() - order.created_at > KEYS_HOLD:
            raise ProcessorRefused(f"order {order.id} is too old to be sent to Stripe")
        try:
            return reading.cents(order.amount)
        except ValueError as error:
            raise ProcessorRefused(str(error)) from error


def _back(url: str, checkout: str) -> str:
    """Where a page sends its buyer; Stripe puts the session's id in place of its marker."""
    return f"{url}{'&' if '?' in url else '?'}checkout={checkout}"
