"""Money: whole nano-dollars, exact text, one rounding."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kyma.money import (
    NANOS_PER_USD,
    decimal_text,
    divided,
    number,
    usd,
)

AMOUNTS = st.integers(-(10**18), 10**18)


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0", 0),
        ("0.50", 500_000_000),
        ("5", 5_000_000_000),
        ("0.000000001", 1),
        ("-1.5", -1_500_000_000),
        ("1e-9", 1),
        ("123456.789", 123_456_789_000_000),
    ],
)
def test_dollars_become_whole_nanos(text: str, nanos: int) -> None:
    assert usd(text) == nanos
    assert type(usd(text)) is int


@pytest.mark.parametrize("text", ["0.0000000001", "1.0000000005", "1e-10"])
def test_what_is_finer_than_a_nano_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="finer than a nano-dollar"):
        usd(text)


@pytest.mark.parametrize(
    ("numerator", "denominator", "rounded"),
    [
        (0, 1, 0),
        (1, 2, 1),
        (3, 2, 2),
        (5, 2, 3),
        (1, 3, 0),
        (2, 3, 1),
        (499_999, 1_000_000, 0),
        (500_000, 1_000_000, 1),
        (10**30, 10**12, 10**18),
    ],
)
def test_a_fraction_is_rounded_half_up(numerator: int, denominator: int, rounded: int) -> None:
    assert divided(numerator, denominator) == rounded


@given(st.integers(0, 10**30), st.integers(1, 10**12))
def test_the_rounding_is_at_most_half_a_nano_off(numerator: int, denominator: int) -> None:
    twice_the_error = 2 * (divided(numerator, denominator) * denominator - numerator)
    assert -denominator < twice_the_error <= denominator, "at most half a nano, a tie goes up"


@given(st.integers(0, 10**12))
def test_half_up_agrees_with_decimal_in_tenths(tenths: int) -> None:
    exact = Decimal(tenths) / 10
    assert divided(tenths, 10) == int(exact.quantize(Decimal(1), ROUND_HALF_UP))


@pytest.mark.parametrize(("numerator", "denominator"), [(-1, 2), (1, 0), (1, -2)])
def test_a_negative_amount_or_no_unit_is_no_price(numerator: int, denominator: int) -> None:
    with pytest.raises(ValueError, match="non-negative amount over a positive unit"):
        divided(numerator, denominator)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (500_000_000, "0.5"),
        (-500_000_000, "-0.5"),
        (5 * NANOS_PER_USD, "5"),
        (-1, "-0.000000001"),
        (10 * NANOS_PER_USD + 10, "10.00000001"),
    ],
)
def test_the_text_of_an_amount_is_exact_and_short(amount: int, text: str) -> None:
    assert decimal_text(amount) == text


@given(AMOUNTS)
def test_text_and_back_is_the_same_amount(amount: int) -> None:
    assert usd(decimal_text(amount)) == amount


def test_a_json_number_is_dollars() -> None:
    assert number(usd("0.5")) == 0.5
    assert number(0) == 0
