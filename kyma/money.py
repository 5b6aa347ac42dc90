"""Money as whole nano-dollars, and the only rounding in the system.

`Usd` is an `int` of nano-dollars (1 USD = 10⁹). Addition and comparison are
those of `int`; anything that could leave a fraction goes through `divided`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NewType

Usd = NewType("Usd", int)

NANOS_PER_USD = 1_000_000_000
MARKUP_PERCENT = 135
"""Price = highest provider cost over all fallbacks × 1.35 (changelog, April 8 2026)."""

ZERO = Usd(0)


def usd(text: str) -> Usd:
    """Nano-dollars of an exact decimal such as `"0.50"`; refuses more than nine places."""
    nanos = Decimal(text) * NANOS_PER_USD
    if nanos != nanos.to_integral_value():
        raise ValueError(f"{text} USD is finer than a nano-dollar")
    return Usd(int(nanos))


def divided(numerator: int, denominator: int) -> Usd:
    """`numerator / denominator` rounded half up, for non-negative numerators."""
    if numerator < 0 or denominator <= 0:
        raise ValueError("only a non-negative amount over a positive unit can be a price")
    return Usd((2 * numerator + denominator) // (2 * denominator))


def decimal_text(amount: int) -> str:
    """Exact decimal dollars without trailing zeros: `500000000` → `"0.5"`."""
    sign = "-" if amount < 0 else ""
    whole, nanos = divmod(abs(amount), NANOS_PER_USD)
    fraction = f"{nanos:09d}".rstrip("0")
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


def number(amount: int) -> float:
    """Dollars as a JSON number; exact text is `decimal_text`."""
    return amount / NANOS_PER_USD
