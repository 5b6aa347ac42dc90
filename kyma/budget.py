"""`max_cost`: what a caller allows one request to cost at most, in USD."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from kyma.calls import Size
from kyma.errors import Code, Refusal
from kyma.ledger import MAX_AMOUNT
from kyma.money import NANOS_PER_USD, Usd, decimal_text, number
from kyma.pricing import PerToken, max_output_for

FIELD = "max_cost"
HEADER = "X-Kyma-Max-Cost"
MAX_USD = Decimal(MAX_AMOUNT) / NANOS_PER_USD
AMOUNT = re.compile(r"[0-9+.eE-]{1,40}", re.ASCII)
"""What a number may be written with; Python reads `1_0` as ten, nobody else does."""


def limit_of(field: Any, header: str | None) -> Usd | None:
    """The lower of the body's field and the header, None if neither was given.

    The field is a number or a decimal string, the header a decimal. What is finer than a
    nano-dollar is rounded down: a limit is never exceeded for the sake of rounding.
    """
    limits = []
    if field is not None:
        limits.append(dollars_of(field, FIELD))
    if header is not None:
        limits.append(dollars_of(header.strip(), HEADER))
    return min(limits, default=None)


def check_max_cost(price: PerToken, size: Size, limit: Usd) -> None:
    """Refuse a request whose worst case costs more than its caller allows."""
    worst = price.estimate(size)
    if worst <= limit:
        return
    fits = max_output_for(price, size, limit)
    hint = f" A max_tokens of {fits} would fit." if fits > 0 else ""
    raise Refusal(
        Code.MAX_COST_EXCEEDED,
        f"This request may cost up to ${decimal_text(worst)}, more than its {FIELD} of "
        f"${decimal_text(limit)}. Nothing was sent or charged.{hint}",
        param=FIELD,
        details={
            "worst_case_usd": number(worst),
            "worst_case": decimal_text(worst),
            "max_cost_usd": number(limit),
            "max_cost": decimal_text(limit),
            "max_tokens_that_fit": fits,
        },
    )


def dollars_of(value: Any, name: str) -> Usd:
    """An amount that a caller wrote as a number or a decimal string; refused under `name`."""
    if type(value) not in {int, float, str}:
        raise Refusal(
            Code.INVALID_TYPE, f"`{name}` must be a number of US dollars or a string.", param=name
        )
    text = str(value).strip() if type(value) is not int or abs(value) <= MAX_USD else "nan"
    try:
        amount = Decimal(text if AMOUNT.fullmatch(text) else "nan")
    except InvalidOperation:
        amount = Decimal("nan")
    if amount.is_nan() or not 0 <= amount <= MAX_USD:
        raise Refusal(
            Code.INVALID_VALUE,
            f"`{name}` must be an amount of US dollars between 0 and {MAX_USD:,}.",
            param=name,
        )
    return Usd(int(amount * NANOS_PER_USD))
