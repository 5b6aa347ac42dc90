"""What the server knows and does: Stripe's state and its rules, without HTTP."""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Mapping
from typing import Any

from adapters.payments.calls import API_VERSION
from tests.stripe_server import objects
from tests.stripe_server.cards import CARDS, BankCard
from tests.stripe_server.errors import card_error, invalid, missing_parameter, no_such
from tests.stripe_server.objects import Fields

MIN_CENTS = 50
MAX_CENTS = 99_999_999
PAGE_SECONDS = (30 * 60, 24 * 60 * 60)

PREFIXES = {
    "customer": "cus",
    "payment_method": "pm",
    "payment_intent": "pi",
    "setup_intent": "seti",
    "charge": "ch",
    "checkout.session": "cs_test",
    "product": "prod",
    "price": "price",
    "invoice": "in",
    "refund": "re",
    "dispute": "du",
    "balance_transaction": "txn",
    "tax.calculation": "taxcalc",
    "event": "evt",
}


class World:
    """Every object by kind and id, in the order of creation."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Fields]] = {kind: {} for kind in PREFIXES}
        self.base = ""
        self.shift_s = 0
        self.tax_basis_points = 0
        """Of tax on top, in hundredths of a percent, where a request asks for tax."""

        self.request: Fields | None = None

    def now(self) -> int:
        return int(time.time()) + self.shift_s

    def id(self, kind: str) -> str:
        return f"{PREFIXES[kind]}_{secrets.token_hex(12)}"

    def keep(self, made: Fields) -> Fields:
        self.tables[made["object"]][made["id"]] = made
        return made

    def get(self, kind: str, id: str, param: str = "id") -> Fields:
        found = self.tables[kind].get(id)
        if found is None or found.get("_deleted"):
            raise no_such(kind.replace("_", " "), id, param)
        return found

    def newest(self, kind: str, **wanted: Any) -> list[Fields]:
        rows = reversed(self.tables[kind].values())
        return [row for row in rows if all(row.get(k) == v for k, v in wanted.items())]

    def emit(self, type: str, about: Fields) -> None:
        id = self.id("event")
        made = objects.event(id, self.now(), type, API_VERSION, public(about), self.request)
        self.keep(made)

    # Customers and cards

    def add_customer(self, params: Mapping[str, Any]) -> Fields:
        made = objects.customer(
            self.id("customer"), self.now(), params.get("email"), dict(params.get("metadata", {}))
        )
        made.update({k: v for k, v in params.items() if k in {"name", "phone", "description"}})
        if "address" in params:
            made["address"] = {**objects.ADDRESS, **params["address"]}
        self.keep(made)
        self.emit("customer.created", made)
        return made

    def delete_customer(self, id: str) -> None:
        """As in the dashboard: its cards go too, and nothing can be done in its name any more."""
        found = self.get("customer", id)
        for method in self.newest("payment_method", customer=id):
            self.detach(method)
        found["_deleted"] = True
        self.emit("customer.deleted", found)

    def set_address(self, customer: str, country: str, postal_code: str) -> None:
        told = {"country": country, "postal_code": postal_code}
        self.get("customer", customer)["address"] = {**objects.ADDRESS, **told}

    def add_card(self, kind: str, customer: str | None) -> Fields:
        card = CARDS[kind]
        id = self.id("payment_method")
        made = self.keep(objects.payment_method(id, self.now(), card, customer))
        made["_card"] = kind
        if customer is not None:
            self.get("customer", customer)
            self.emit("payment_method.attached", made)
        return made

    def detach(self, method: Fields) -> Fields:
        if method["customer"] is None:
            raise invalid(
                "The payment method you provided is not attached to a customer so detachment is "
                "impossible."
            )
        owner = self.get("customer", method["customer"])
        if owner["invoice_settings"]["default_payment_method"] == method["id"]:
            owner["invoice_settings"]["default_payment_method"] = None
        method["customer"] = None
        method["_detached"] = True
        self.emit("payment_method.detached", method)
        return method

    # Payment intents

    def add_intent(self, amount: int, currency: str, **more: Any) -> Fields:
        if amount < MIN_CENTS:
            raise invalid("Amount must be at least $0.50 usd", "amount", "amount_too_small")
        if amount > MAX_CENTS:
            raise invalid("Amount must be no more than $999,999.99", "amount", "amount_too_large")
        made = objects.payment_intent(
            self.id("payment_intent"), self.now(), amount, currency, **more
        )
        self.keep(made)
        self.emit("payment_intent.created", made)
        return made

    def method_for(self, id: str, customer: str | None) -> Fields:
        method = self.get("payment_method", id, "payment_method")
        if method.get("_detached"):
            raise invalid(
                "The provided PaymentMethod was previously used with a PaymentIntent without "
                "Customer attachment, or was detached from a Customer.",
            )
        if method["customer"] is not None and method["customer"] != customer:
            raise invalid(
                f"The provided PaymentMethod {id} belongs to another customer.", "payment_method"
            )
        return method

    def attempt(self, intent: Fields, method: Fields, *, owner_is_there: bool) -> None:
        """Charge a card once; raises what Stripe answers if it does not pay."""
        if intent["status"] in {"succeeded", "processing", "canceled"}:
            raise invalid(
                f"This PaymentIntent's status is {intent['status']}.",
                code="payment_intent_unexpected_state",
            )
        card = CARDS[method["_card"]]
        charge = objects.charge(self.id("charge"), self.now(), intent, method, self.base)
        self.keep(charge)
        intent["latest_charge"] = charge["id"]
        if card.code is not None and not (card.off_session_only and owner_is_there):
            self._decline(intent, method, charge, card)
        intent["last_payment_error"] = None
        intent["next_action"] = None
        intent["payment_method"] = method["id"]
        if card.slow:
            intent["status"] = "processing"
            self.emit("charge.pending", charge)
            self.emit("payment_intent.processing", intent)
        else:
            self.succeed(intent)

    def ask_owner(self, intent: Fields, method: Fields, return_url: str | None) -> Fields:
        """The bank wants the owner, who is there: by a redirect, if it is said where from."""
        url = f"{self.base}/c/3ds/{intent['id']}"
        redirect = {"url": url, "return_url": return_url}
        intent.update(
            status="requires_action",
            payment_method=method["id"],
            next_action={"type": "redirect_to_url", "redirect_to_url": redirect}
            if return_url
            else {"type": "use_stripe_sdk", "use_stripe_sdk": {}},
        )
        self.emit("payment_intent.requires_action", intent)
        return intent

    def authenticate(self, intent: Fields, *, agreed: bool) -> None:
        """The owner at the bank; one who does not agree has failed, and no money moves."""
        method = self.get("payment_method", intent["payment_method"])
        if agreed:
            self.attempt(intent, method, owner_is_there=True)
            return
        message = "We are unable to authenticate your payment method."
        error = invalid(message, code="payment_intent_authentication_failure")
        intent.update(
            status="requires_payment_method",
            payment_method=None,
            next_action=None,
            last_payment_error=error.error,
        )
        self.emit("payment_intent.payment_failed", intent)

    def _decline(self, intent: Fields, method: Fields, charge: Fields, card: BankCard) -> None:
        assert card.code is not None
        charge.update(
            status="failed",
            failure_code=card.code,
            failure_message=card.message,
            receipt_url=None,
            outcome={
                **charge["outcome"],
                "network_status": "declined_by_network",
                "reason": card.decline_code,
                "type": "issuer_declined",
            },
        )
        error = card_error(
            card.code, card.message, card.decline_code, charge=charge["id"],
            payment_method=public(method),
        )  # fmt: skip
        intent.update(
            status="requires_payment_method", payment_method=None, last_payment_error=error.error
        )
        self.emit("charge.failed", charge)
        self.emit("payment_intent.payment_failed", intent)
        error.error = {**error.error, "payment_intent": public(intent)}
        raise error

    def succeed(self, intent: Fields) -> None:
        charge = self.get("charge", intent["latest_charge"])
        moved = self.keep(
            objects.balance_transaction(
                self.id("balance_transaction"), self.now(), charge["amount"], charge["id"], "charge"
            )
        )
        charge.update(
            status="succeeded",
            paid=True,
            captured=True,
            amount_captured=charge["amount"],
            balance_transaction=moved["id"],
        )
        intent.update(status="succeeded", amount_received=intent["amount"], next_action=None)
        self.emit("charge.succeeded", charge)
        self.emit("payment_intent.succeeded", intent)

    def cancel(self, intent: Fields) -> Fields:
        if intent["status"] in {"succeeded", "processing", "canceled"}:
            raise invalid(
                f"You cannot cancel this PaymentIntent: its status is {intent['status']}.",
                code="payment_intent_unexpected_state",
            )
        intent.update(
            status="canceled", canceled_at=self.now(), cancellation_reason="requested_by_customer"
        )
        self.emit("payment_intent.canceled", intent)
        return intent

    # Refunds and disputes

    def add_refund(self, charge: Fields, amount: int | None, **more: Any) -> Fields:
        left = charge["amount"] - charge["amount_refunded"]
        if not charge["paid"]:
            raise invalid(f"Charge {charge['id']} has not been paid.")
        if left == 0:
            raise invalid(
                f"Charge {charge['id']} has already been refunded.", None, "charge_already_refunded"
            )
        amount = left if amount is None else amount
        if amount > left:
            raise invalid(
                f"Refund amount (${amount / 100:.2f}) is greater than unrefunded amount on charge "
                f"(${left / 100:.2f})",
                "amount",
            )
        if amount <= 0:
            raise invalid("Invalid positive integer", "amount", "parameter_invalid_integer")
        made = self.keep(objects.refund(self.id("refund"), self.now(), charge, amount, **more))
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self.emit("charge.refunded", charge)
        self.emit("refund.created", made)
        return made

    def end_refund(self, refund: Fields, *, failed: bool) -> None:
        charge = self.get("charge", refund["charge"])
        refund["status"] = "failed" if failed else "succeeded"
        if failed:
            refund["failure_reason"] = "lost_or_stolen_card"
            charge["amount_refunded"] -= refund["amount"]
            charge["refunded"] = False
            self.emit("refund.failed", refund)
        self.emit("charge.refund.updated", refund)
        self.emit("refund.updated", refund)

    def add_dispute(self, charge: Fields, amount: int | None, *, inquiry: bool) -> Fields:
        amount = charge["amount"] if amount is None else amount
        status = "warning_needs_response" if inquiry else "needs_response"
        made = objects.dispute(
            self.id("dispute"), self.now(), charge, amount, status=status,
            is_charge_refundable=inquiry,
        )  # fmt: skip
        self.keep(made)
        charge["disputed"] = True
        self.emit("charge.dispute.created", made)
        if not inquiry:
            self._move(made, -amount, "dispute")
            self.emit("charge.dispute.funds_withdrawn", made)
        return made

    def end_dispute(self, dispute: Fields, status: str) -> None:
        if status == "won" and dispute["balance_transactions"]:
            self._move(dispute, dispute["amount"], "dispute_reversal")
            dispute["status"] = status
            self.emit("charge.dispute.funds_reinstated", dispute)
        dispute["status"] = status
        self.emit("charge.dispute.closed", dispute)

    def _move(self, dispute: Fields, amount: int, category: str) -> None:
        id = self.id("balance_transaction")
        moved = objects.balance_transaction(id, self.now(), amount, dispute["id"], category)
        dispute["balance_transactions"].append(self.keep(moved))

    # Checkout

    def add_session(self, params: Mapping[str, Any]) -> Fields:
        mode = params.get("mode")
        if mode not in {"payment", "setup"}:
            raise missing_parameter("mode")
        if "success_url" not in params:
            raise missing_parameter("success_url")
        if "customer" in params:
            self.get("customer", params["customer"], "customer")
        elif {"customer_update", "saved_payment_method_options"} & set(params):
            raise invalid("`customer_update` can only be used with `customer`.", "customer_update")
        made = objects.session(self.id("checkout.session"), self.now(), self.base)
        made["expires_at"] = self._expiry(params)
        told = ("mode", "customer", "client_reference_id", "success_url", "cancel_url", "currency")
        made.update({name: params[name] for name in told if name in params})
        made["metadata"] = dict(params.get("metadata", {}))
        made["_keeps_address"] = params.get("customer_update", {}).get("address") == "auto"
        made["_intent_data"] = params.get("payment_intent_data", {})
        made["_invoice_data"] = params.get("invoice_creation", {}).get("invoice_data", {})
        if mode == "payment":
            self._price_session(made, params)
        else:
            intent = objects.setup_intent(
                self.id("setup_intent"), self.now(), params.get("customer")
            )
            made["setup_intent"] = self.keep(intent)["id"]
            made["payment_status"] = "no_payment_required"
        return self.keep(made)

    def _expiry(self, params: Mapping[str, Any]) -> int:
        least, most = PAGE_SECONDS
        expires = int(params.get("expires_at", self.now() + most))
        if not least <= expires - self.now() <= most:
            raise invalid(
                "The `expires_at` timestamp must be between 30 minutes and 24 hours from now.",
                "expires_at",
            )
        return expires

    def _price_session(self, made: Fields, params: Mapping[str, Any]) -> None:
        lines = params.get("line_items") or []
        if not lines:
            raise missing_parameter("line_items")
        made["_lines"] = [self._line(line) for line in lines]
        net = sum(line["amount_total"] for line in made["_lines"])
        if net < MIN_CENTS:
            raise invalid(
                "The Checkout Session's total amount due must add up to at least $0.50 usd",
                None,
                "amount_too_small",
            )
        taxed = params.get("automatic_tax", {}).get("enabled") == "true"
        if taxed and params.get("customer_update", {}).get("address") != "auto":
            raise invalid(
                "Automatic tax calculation in Checkout requires a valid address on the Customer.",
                "automatic_tax",
                "customer_tax_location_invalid",
            )
        made.update(
            currency=made["_lines"][0]["currency"],
            amount_subtotal=net,
            amount_total=net,
            total_details={"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        )
        if taxed:
            status = "requires_location_inputs"
            made["automatic_tax"].update(enabled=True, provider="stripe", status=status)
        if params.get("invoice_creation", {}).get("enabled") == "true":
            made["invoice_creation"] = {"enabled": True, "invoice_data": invoice_data(params)}
        if "saved_payment_method_options" in params:
            made["saved_payment_method_options"] = {
                "allow_redisplay_filters": ["always"],
                "payment_method_remove": "disabled",
                "payment_method_save": "disabled",
                **params["saved_payment_method_options"],
            }

    def _line(self, line: Mapping[str, Any]) -> Fields:
        if "price" in line:
            price = self.get("price", line["price"], "price")
        else:
            data = line["price_data"]
            product = data.get("product") or self.add_product(data["product_data"])["id"]
            price = self.add_price(
                product, int(data["unit_amount"]), data["currency"],
                data.get("tax_behavior", "unspecified"),
            )  # fmt: skip
        quantity = int(line.get("quantity", 1))
        net = price["unit_amount"] * quantity
        return {
            "id": f"li_{secrets.token_hex(8)}",
            "object": "item",
            "amount_discount": 0,
            "amount_subtotal": net,
            "amount_tax": 0,
            "amount_total": net,
            "currency": price["currency"],
            "description": self.get("product", price["product"])["name"],
            "price": public(price),
            "quantity": quantity,
        }

    def add_product(self, params: Mapping[str, Any]) -> Fields:
        if "name" not in params:
            raise missing_parameter("name")
        metadata = dict(params.get("metadata", {}))
        return self.keep(objects.product(self.id("product"), self.now(), params["name"], metadata))

    def add_price(self, product: str, amount: int, currency: str, behavior: str) -> Fields:
        self.get("product", product, "product")
        id = self.id("price")
        return self.keep(objects.price(id, self.now(), product, amount, currency, behavior))

    def tax_on(self, net: int) -> int:
        """Half up, in cents."""
        return (net * self.tax_basis_points + 5_000) // 10_000

    def complete(self, session: Fields, kind: str, *, save: bool) -> None:
        """A buyer submits the page; raises if the card does not pay, the page staying open."""
        if session["mode"] == "setup":
            self._complete_setup(session, kind)
            return
        intent = self._intent_of(session)
        keeps = (
            save
            and (session["saved_payment_method_options"] or {}).get("payment_method_save")
            == "enabled"
        )
        keeps = keeps or intent["setup_future_usage"] is not None
        method = self.add_card(kind, session["customer"] if keeps else None)
        method["allow_redisplay"] = "always" if keeps else "limited"
        self.attempt(intent, method, owner_is_there=True)
        session.update(status="complete", url=None, customer_details=self._details(session))
        if session["_keeps_address"] and session["automatic_tax"]["enabled"]:
            self.set_address(session["customer"], "US", "94107")
        if intent["status"] == "succeeded":
            session["payment_status"] = "paid"
            self._bill(session)
        self.emit("checkout.session.completed", session)

    def settle(self, intent: Fields, *, paid: bool) -> None:
        """The end of a payment that was processing."""
        sessions = self.newest("checkout.session", payment_intent=intent["id"])
        outcome = "succeeded" if paid else "failed"
        if paid:
            self.succeed(intent)
        else:
            charge = self.get("charge", intent["latest_charge"])
            charge.update(status="failed", failure_code="card_declined", failure_message="Failed.")
            error = card_error("card_declined", "The payment failed.", "generic_decline")
            intent.update(status="requires_payment_method", last_payment_error=error.error)
            self.emit("charge.failed", charge)
            self.emit("payment_intent.payment_failed", intent)
        for session in sessions:
            session["payment_status"] = "paid" if paid else "unpaid"
            if paid:
                self._bill(session)
            self.emit(f"checkout.session.async_payment_{outcome}", session)

    def expire(self, session: Fields) -> Fields:
        if session["status"] != "open":
            raise invalid(
                f'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout '
                f"Session has a status of {session['status']}."
            )
        session.update(status="expired", url=None)
        self.emit("checkout.session.expired", session)
        return session

    def tick(self) -> None:
        """Expire the pages whose time has come."""
        for session in self.newest("checkout.session", status="open"):
            if session["expires_at"] <= self.now():
                self.expire(session)

    def _complete_setup(self, session: Fields, kind: str) -> None:
        method = self.add_card(kind, session["customer"])
        method["allow_redisplay"] = "always"
        intent = self.get("setup_intent", session["setup_intent"])
        intent.update(status="succeeded", payment_method=method["id"])
        session.update(status="complete", url=None)
        self.emit("setup_intent.succeeded", intent)
        self.emit("checkout.session.completed", session)

    def _intent_of(self, session: Fields) -> Fields:
        """Made when a page is first submitted, as since 2022-08-01."""
        if session["payment_intent"] is not None:
            return self.get("payment_intent", session["payment_intent"])
        tax = self.tax_on(session["amount_subtotal"]) if session["automatic_tax"]["enabled"] else 0
        if session["automatic_tax"]["enabled"]:
            session["automatic_tax"]["status"] = "complete"
        session["total_details"]["amount_tax"] = tax
        session["amount_total"] = session["amount_subtotal"] + tax
        data = session["_intent_data"]
        intent = self.add_intent(
            session["amount_total"],
            session["currency"],
            customer=session["customer"],
            description=data.get("description"),
            metadata=dict(data.get("metadata", {})),
            setup_future_usage=data.get("setup_future_usage"),
        )
        session["payment_intent"] = intent["id"]
        return intent

    def _bill(self, session: Fields) -> None:
        if not (session["invoice_creation"] or {}).get("enabled"):
            return
        number = f"KYMA-{len(self.tables['invoice']) + 1:04d}"
        id = self.id("invoice")
        net = session["amount_subtotal"]
        made = self.keep(objects.invoice(id, self.now(), number, session, net, self.base))
        session["invoice"] = id
        self.emit("invoice.paid", made)

    def _details(self, session: Fields) -> Fields:
        owner = self.tables["customer"].get(session["customer"] or "", {})
        return {
            "address": None,
            "business_name": None,
            "email": owner.get("email"),
            "individual_name": None,
            "name": None,
            "phone": None,
            "tax_exempt": "none",
            "tax_ids": [],
        }


def invoice_data(params: Mapping[str, Any]) -> Fields:
    told = params["invoice_creation"].get("invoice_data", {})
    return {
        "account_tax_ids": None,
        "custom_fields": None,
        "description": None,
        "footer": None,
        "issuer": None,
        "metadata": dict(told.get("metadata", {})),
        "rendering_options": None,
    }


def public(row: Fields) -> Fields:
    """A copy, without what only the server knows."""
    return copy.deepcopy({name: value for name, value in row.items() if name[0] != "_"})
