"""Amounts of US dollars as callers write them: numbers, or exact decimal strings."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from kyma.errors import Code, Refusal
from kyma.money import Usd, decimal_text, usd
from kyma.payments import CURRENCY, PACKAGES

FORM = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)
LARGEST = 10**12
"""Dollars; beyond it nobody means what they wrote."""


def amount_field(body: dict[str, Any], name: str) -> Usd:
    """A required amount, not below zero; refuses what is finer than a nano-dollar."""
    value = body.get(name)
    if value is None:
        raise Refusal(Code.MISSING_FIELD, f"Missing required parameter: `{name}`.", param=name)
    if type(value) not in {int, float, str}:
        raise Refusal(
            Code.INVALID_TYPE, f"`{name}` must be a number of US dollars, or the text of one.",
            param=name,
        )  # fmt: skip
    wrong = Refusal(
        Code.INVALID_VALUE,
        f'`{name}` must be an amount of US dollars such as 20 or "20.50". Nothing was charged.',
        param=name,
    )
    if isinstance(value, str) and not FORM.fullmatch(value):
        raise wrong
    if not isinstance(value, str) and not 0 <= value < LARGEST:
        raise wrong
    try:
        return usd(str(Decimal(str(value))))
    except ValueError:
        raise wrong from None


def purchase(body: dict[str, Any]) -> Usd:
    """What is bought: a package or any other amount, and never both."""
    _check_currency(body)
    package = body.get("package")
    if package is None:
        return amount_field(body, "amount")
    if body.get("amount") is not None:
        raise Refusal(
            Code.INVALID_VALUE,
            "Send `package` or `amount`, not both. Nothing was charged.",
            param="package",
        )
    amount = amount_field(body, "package")
    if amount not in PACKAGES:
        sold = ", ".join(map(decimal_text, PACKAGES))
        raise Refusal(
            Code.INVALID_VALUE,
            f"`package` must be one of {sold}; any other sum is an `amount`.",
            param="package",
        )
    return amount


def _check_currency(body: dict[str, Any]) -> None:
    value = body.get("currency")
    if value is not None and not (isinstance(value, str) and value.lower() == CURRENCY):
        raise Refusal(
            Code.INVALID_VALUE,
            "`currency` must be usd: credit is sold in US dollars. Nothing was charged.",
            param="currency",
        )
