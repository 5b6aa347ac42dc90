"""`max_cost`: how it is read, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from kyma.budget import check_max_cost, limit_of
from kyma.calls import Size
from kyma.errors import Code, Refusal
from kyma.money import Usd, usd
from kyma.pricing import per_token

PRICE = per_token("1", "4")
SIZE = Size(likely_input=100, worst_input=400, max_output=100)
WORST = PRICE.estimate(SIZE)


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        ("0.50", usd("0.5")),
        (0.01, usd("0.01")),
        (1, usd("1")),
        (0, usd("0")),
        ("1e-3", usd("0.001")),
        (1e-05, usd("0.00001")),
        (10_000_000, usd("10000000")),
        ("0.0000000019", Usd(1)),
        (0.1 + 0.2, usd("0.3")),
        ("1e-999999", Usd(0)),
        (" 2 ", usd("2")),
    ],
)
def test_an_amount_is_read_exactly_and_never_rounded_up(value: Any, limit: Usd) -> None:
    assert limit_of(value, None) == limit
    assert limit_of(None, str(value)) == limit


@pytest.mark.parametrize(
    "value",
    [
        -1, -0.01, "-1", "nan", "inf", "-inf", "sNaN", "", "free", "1,5", "$1", 10**7 + 1, 10**400,
        float("inf"), float("nan"), "1e999999999", "1e9999999999999999999", "9" * 41, "١", "0x10",
        "1_0", "1_000.5", "0._5",
    ],
)  # fmt: skip
def test_what_is_no_amount_is_refused(value: Any) -> None:
    with pytest.raises(Refusal) as caught:
        limit_of(value, None)
    assert (caught.value.code, caught.value.param) == (Code.INVALID_VALUE, "max_cost")


@pytest.mark.parametrize("value", [True, False, [], {}, [1]])
def test_another_type_is_refused(value: Any) -> None:
    with pytest.raises(Refusal) as caught:
        limit_of(value, None)
    assert caught.value.code is Code.INVALID_TYPE


def test_the_header_is_named_where_it_is_wrong() -> None:
    with pytest.raises(Refusal) as caught:
        limit_of(1, "much")
    assert caught.value.param == "X-Kyma-Max-Cost"


def test_the_lower_of_field_and_header_counts() -> None:
    assert limit_of(None, None) is None
    assert limit_of(2, "1") == limit_of(1, "2") == usd("1")


def test_a_request_that_may_cost_the_limit_passes_and_a_nano_dollar_more_does_not() -> None:
    check_max_cost(PRICE, SIZE, WORST)
    with pytest.raises(Refusal) as caught:
        check_max_cost(PRICE, SIZE, Usd(WORST - 1))
    refusal = caught.value
    assert (refusal.code, refusal.param) == (Code.MAX_COST_EXCEEDED, "max_cost")
    assert refusal.charged is False
    assert refusal.details["worst_case"] == "0.0008"
    assert refusal.details["max_cost"] == "0.000799999"


def test_the_max_tokens_that_are_said_to_fit_do() -> None:
    limit = Usd(WORST - 1)
    with pytest.raises(Refusal) as caught:
        check_max_cost(PRICE, SIZE, limit)
    fits = caught.value.details["max_tokens_that_fit"]
    check_max_cost(PRICE, Size(100, 400, fits), limit)
    with pytest.raises(Refusal):
        check_max_cost(PRICE, Size(100, 400, fits + 1), limit)


def test_where_even_the_prompt_is_too_dear_nothing_fits() -> None:
    with pytest.raises(Refusal) as caught:
        check_max_cost(PRICE, SIZE, Usd(1))
    assert caught.value.details["max_tokens_that_fit"] == 0
    assert "would fit" not in caught.value.message
