"""Orders, cards, invoices, auto top-up, transactions and statements as JSON and as CSV.

Money stands twice: exact as a decimal string, and as a number under the same name with `_usd`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from adapters.http.receipts_view import money
from kyma.errors import BILLING_URL
from kyma.money import Usd, decimal_text
from kyma.orders import KnownOrder
from kyma.payments import Card, Checkout, Invoice
from kyma.statements import Line, Statement
from kyma.topups import TopUp

COLUMNS = ("time", "id", "kind", "amount", "currency", "paid", "promotional", "request_id", "note")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def order_json(known: KnownOrder) -> dict[str, Any]:
    """An order; `url` is where to pay it while it waits."""
    page = known.checkout
    return {
        "object": "billing.order",
        "order_id": known.order.id,
        "status": known.state.value,
        "source": known.order.source.value,
        **money("amount", known.order.amount),
        "currency": "USD",
        "url": page.url if page else None,
        "expires_at": page.expires_at if page else None,
        "message": known.message or None,
        "action_url": known.action_url,
        "created_at": known.order.created_at,
    }


def estimate_json(amount: Usd, tax: Usd) -> dict[str, Any]:
    """What a card would be charged for so much credit."""
    return {
        "object": "billing.estimate",
        **money("amount", amount),
        **money("tax", tax),
        **money("total", Usd(amount + tax)),
        "currency": "USD",
    }


def page_json(page: Checkout) -> dict[str, Any]:
    """A page to leave a card on."""
    return {"object": "billing.card_page", "url": page.url, "expires_at": page.expires_at}


def cards_json(cards: Iterable[Card]) -> dict[str, Any]:
    """Saved cards, the default first."""
    return {
        "object": "list",
        "data": [
            {
                "object": "billing.card",
                "id": card.id,
                "brand": card.brand,
                "last4": card.last4,
                "expires": card.expires,
                "is_default": card.is_default,
            }
            for card in cards
        ],
    }


def invoices_json(invoices: Iterable[Invoice]) -> dict[str, Any]:
    """Bills, newest first."""
    return {
        "object": "list",
        "data": [
            {
                "object": "billing.invoice",
                "id": invoice.id,
                "number": invoice.number,
                "status": invoice.status,
                **money("amount", invoice.amount),
                **money("tax", invoice.tax),
                "currency": invoice.currency.upper(),
                "url": invoice.page_url,
                "pdf_url": invoice.pdf_url,
                "created_at": invoice.created_at,
            }
            for invoice in invoices
        ],
    }


def topup_json(setting: TopUp | None, charged: Usd) -> dict[str, Any]:
    """Auto top-up as chosen; all null for who never chose."""
    amounts = ("threshold", "amount", "tax", "monthly_ceiling")
    shown: dict[str, Any] = {}
    for name in amounts:
        if setting is None:
            shown |= {name: None, f"{name}_usd": None}
        else:
            shown |= money(name, getattr(setting, name))
    return {
        "object": "billing.auto_top_up",
        "enabled": setting is not None and setting.enabled,
        **shown,
        "currency": "USD",
        **money("charged_this_month", charged),
        "failures": setting.failures if setting else 0,
        "next_try_at": setting.not_before if setting else None,
        "message": (setting.message or None) if setting else None,
        "billing_url": BILLING_URL,
    }


def line_json(line: Line) -> dict[str, Any]:
    """What moved the credit, and by how much; negative where it was taken."""
    return {
        "object": "transaction",
        "id": line.id,
        "kind": line.kind.value,
        **money("amount", line.amount),
        "currency": "USD",
        "paid": decimal_text(line.paid),
        "promotional": decimal_text(line.promo),
        "request_id": line.hold_id,
        "note": line.reason or None,
        "created_at": line.booked_at,
    }


def statement_json(name: str, found: Statement) -> dict[str, Any]:
    """A month: opening and sums make closing, to the nano-dollar."""
    sums = {
        kind.value: {"count": one.count, **money("amount", one.amount)}
        for kind, one in found.sums.items()
    }
    return {
        "object": "statement",
        "month": name,
        "from": found.start,
        "until": found.end,
        "currency": "USD",
        **money("opening", found.opening),
        "sums": sums,
        **money("closing", found.closing),
    }


def csv_head() -> str:
    """The line with the names."""
    return _row(COLUMNS)


def csv_lines(lines: Iterable[Line]) -> str:
    """Lines with exact amounts."""
    return "".join(
        _row(
            (
                line.booked_at.isoformat(),
                line.id,
                line.kind.value,
                decimal_text(line.amount),
                "USD",
                decimal_text(line.paid),
                decimal_text(line.promo),
                line.hold_id or "",
                _plain(line.reason),
            )
        )
        for line in lines
    )


def _row(cells: Iterable[str]) -> str:
    written = io.StringIO()
    csv.writer(written).writerow(cells)
    return written.getvalue()


def _plain(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
