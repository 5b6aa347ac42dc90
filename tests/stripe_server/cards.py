"""The test cards, as Stripe documents them (docs.stripe.com/testing)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BankCard:
    """What a card does when it is charged. `code` None: it pays."""

    brand: str
    last4: str
    code: str | None = None
    decline_code: str | None = None
    message: str = ""
    off_session_only: bool = False
    """Its bank says no only while its owner is away; on a page the owner confirms."""

    slow: bool = False
    """Stays `processing` until it is settled."""


CARDS = {
    "success": BankCard("visa", "4242"),
    "mastercard": BankCard("mastercard", "4444"),
    "declined": BankCard(
        "visa", "0341", "card_declined", "generic_decline", "Your card was declined."
    ),
    "insufficient_funds": BankCard(
        "visa", "9995", "card_declined", "insufficient_funds", "Your card has insufficient funds."
    ),
    "expired": BankCard("visa", "0069", "expired_card", None, "Your card has expired."),
    "requires_authentication": BankCard(
        "visa",
        "3184",
        "authentication_required",
        "authentication_required",
        "Your card was declined. This transaction requires authentication.",
        off_session_only=True,
    ),
    "slow": BankCard("visa", "0077", slow=True),
}
