"""Orders, cards, invoices, auto top-up, transactions and statements."""

from __future__ import annotations

from adapters.http.schemas.shapes import (
    DOLLARS,
    MOMENT,
    Schema,
    anything,
    array,
    boolean,
    integer,
    maybe,
    number,
    record,
    ref,
    text,
)
from kyma.orders import OrderState
from kyma.payments import PACKAGES, Source
from kyma.statements import MOVING

URL = text(format="uri")


def _money(name: str) -> dict[str, Schema]:
    return {name: DOLLARS, f"{name}_usd": number("The same as a number.")}


def _maybe_money(name: str) -> dict[str, Schema]:
    return {key: maybe(schema) for key, schema in _money(name).items()}


def _amount(description: str) -> Schema:
    """A number, or its text."""
    return {"description": description, "type": ["number", "string"]}


def _listed(name: str) -> Schema:
    return record({"object": text(const="list"), "data": array(ref(name))})


SOLD: dict[str, Schema] = {
    "amount": _amount("US dollars, whole cents, from 5 to 10,000."),
    "package": {
        "description": "One of the packages, in place of `amount`.",
        "enum": [package // 10**9 for package in PACKAGES],
    },
    "currency": text("US dollars are all there is.", examples=["usd"]),
}
HOW_MUCH = [{"required": ["amount"]}, {"required": ["package"]}]
SETTING: dict[str, Schema] = {
    "threshold": _amount("Charge when less than this is available; at most `amount`."),
    "amount": _amount("What to charge, as a purchase."),
    "monthly_ceiling": _amount("What may be charged in a calendar month (UTC), taxes included."),
}

SCHEMAS = {
    "Purchase": record(
        SOLD, required=(), anyOf=HOW_MUCH, examples=[{"amount": 20}, {"package": 100}]
    ),
    "CardPurchase": record(
        {**SOLD, "card_id": text("One of your saved cards; the default if left out.")},
        required=(),
        anyOf=HOW_MUCH,
        examples=[{"amount": "20.50"}],
    ),
    "Estimate": record(
        {
            "object": text(const="billing.estimate"),
            **_money("amount"),
            **_money("tax"),
            **_money("total"),
            "currency": text(const="USD"),
        },
        description="What a card would be charged for so much credit.",
    ),
    "Order": record(
        {
            "object": text(const="billing.order"),
            "order_id": text(),
            "status": text("`credited` is the end.", enum=[state.value for state in OrderState]),
            "source": text(enum=[source.value for source in Source]),
            **_money("amount"),
            "currency": text(const="USD"),
            "url": maybe(text("Where to pay it.", format="uri")),
            "expires_at": maybe(MOMENT),
            "message": maybe(text("What the bank or the processor said.")),
            "action_url": maybe(text("Where the card's owner confirms it.", format="uri")),
            "created_at": MOMENT,
        },
        description="A purchase of credit, taxes left out.",
    ),
    "Card": record(
        {
            "object": text(const="billing.card"),
            "id": text(),
            "brand": text(examples=["visa"]),
            "last4": text(),
            "expires": text(examples=["12/2034"]),
            "is_default": boolean(),
        }
    ),
    "CardList": _listed("Card"),
    "CardPage": record(
        {"object": text(const="billing.card_page"), "url": URL, "expires_at": MOMENT},
        description="Open it in a browser; nothing is charged there.",
    ),
    "Invoice": record(
        {
            "object": text(const="billing.invoice"),
            "id": text(),
            "number": text(),
            "status": text(),
            **_money("amount"),
            **_money("tax"),
            "currency": text(),
            "url": maybe(URL),
            "pdf_url": maybe(URL),
            "created_at": MOMENT,
        }
    ),
    "InvoiceList": _listed("Invoice"),
    "AutoTopUpSetting": record(
        {"enabled": boolean(), **SETTING},
        required=("enabled",),
        examples=[{"enabled": True, "threshold": 5, "amount": 20, "monthly_ceiling": 100}],
    ),
    "AutoTopUp": record(
        {
            "object": text(const="billing.auto_top_up"),
            "enabled": boolean(),
            **_maybe_money("threshold"),
            **_maybe_money("amount"),
            "tax": maybe({**DOLLARS, "description": "On top of `amount`, as last reckoned."}),
            "tax_usd": maybe(number("The same as a number.")),
            **_maybe_money("monthly_ceiling"),
            "currency": text(const="USD"),
            **_money("charged_this_month"),
            "failures": integer("Failed payments in a row.", minimum=0),
            "next_try_at": maybe(MOMENT),
            "message": maybe(text("Why it was switched off, or charges nothing.")),
            "billing_url": URL,
        }
    ),
    "Notice": anything("What the processor signed, byte for byte."),
    "Received": record({"received": boolean()}),
    "Transaction": record(
        {
            "object": text(const="transaction"),
            "id": text(),
            "kind": text(enum=[kind.value for kind in MOVING]),
            **_money("amount"),
            "currency": text(const="USD"),
            "paid": DOLLARS,
            "promotional": DOLLARS,
            "request_id": maybe(text("Of a `settle`: see GET /v1/generations/{id}.")),
            "note": maybe(text()),
            "created_at": MOMENT,
        },
        description="Negative where credit was taken. `paid` and `promotional` are its parts.",
    ),
    "TransactionList": record(
        {
            "object": text(const="list"),
            "data": array(ref("Transaction")),
            "has_more": boolean(),
            "next_cursor": maybe(text()),
        }
    ),
    "Statement": record(
        {
            "object": text(const="statement"),
            "month": text(examples=["2026-05"]),
            "from": MOMENT,
            "until": MOMENT,
            "currency": text(const="USD"),
            **_money("opening"),
            "sums": record(
                {
                    kind.value: record({"count": integer(minimum=0), **_money("amount")})
                    for kind in MOVING
                }
            ),
            **_money("closing"),
        }
    ),
}
