"""Prices: what a hold must cover, what a bill comes to, and that the first bounds the second."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kyma.calls import Size
from kyma.money import Usd, usd
from kyma.pricing import MILLION, PerToken, max_output_for, per_token, plausible
from kyma.usage import MAX_TOKENS, Usage

PRICE = per_token("0.54", "2.16")
PER_MILLION = st.integers(0, 100 * 10**9).map(Usd)
PRICES = st.builds(PerToken, PER_MILLION, PER_MILLION, PER_MILLION, PER_MILLION)
TOKENS = st.integers(0, 20_000_000)
USAGES = st.builds(Usage, TOKENS, TOKENS, TOKENS, TOKENS, TOKENS)
SIZES = st.builds(Size, st.just(0), TOKENS, TOKENS)


def exact(price: PerToken, usage: Usage) -> Fraction:
    """The bill before rounding, worked out independently."""
    parts = [
        (usage.input, price.input),
        (usage.cache_read, price.cached),
        (usage.cache_write, price.cache_write),
        (usage.output, price.output),
        (usage.reasoning, price.output),
    ]
    return sum((Fraction(tokens * each, MILLION) for tokens, each in parts), Fraction(0))


@pytest.mark.parametrize(
    ("usage", "bill"),
    [
        (Usage(), "0"),
        (Usage(input=1_000_000), "0.54"),
        (Usage(output=1_000_000), "2.16"),
        (Usage(reasoning=1_000_000), "2.16"),
        (Usage(cache_read=1_000_000), "0.054"),
        (Usage(cache_write=1_000_000), "0.54"),
        (Usage(1_000, 500, 250, 100, 50), "0.001026"),
        (Usage(input=1), "0.00000054"),
    ],
)
def test_each_bucket_has_its_price(usage: Usage, bill: str) -> None:
    assert PRICE.bill(usage) == usd(bill)


def test_cached_input_costs_a_tenth_unless_told() -> None:
    assert per_token("1", "2").cached == usd("0.1")
    assert per_token("1", "2", "0.3").cached == usd("0.3")
    assert per_token("1", "2").cache_write == usd("1")
    assert per_token("1", "2", cache_write="1.25").cache_write == usd("1.25")


def test_a_negative_price_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="never negative"):
        PerToken(Usd(-1), Usd(0), Usd(0), Usd(0))


@given(PRICES, USAGES)
def test_a_bill_is_rounded_half_up_once_and_is_never_negative(
    price: PerToken, usage: Usage
) -> None:
    bill = price.bill(usage)
    assert bill >= 0
    assert bill == (exact(price, usage) + Fraction(1, 2)).__floor__()


@given(PRICES, SIZES, st.data())
def test_a_bill_within_the_size_is_within_the_estimate(
    price: PerToken, size: Size, data: st.DataObject
) -> None:
    prompt = data.draw(st.integers(0, size.worst_input))
    read = data.draw(st.integers(0, prompt))
    write = data.draw(st.integers(0, prompt - read))
    output = data.draw(st.integers(0, size.max_output))
    reasoning = data.draw(st.integers(0, output))
    usage = Usage(prompt - read - write, read, write, output - reasoning, reasoning)
    assert price.bill(usage) <= price.estimate(size)


@given(PRICES, USAGES)
def test_a_discount_is_never_negative_and_never_more_than_the_uncached_bill(
    price: PerToken, usage: Usage
) -> None:
    discount = price.cache_discount(usage)
    uncached = PerToken(price.input, price.output, price.input, price.cache_write).bill(usage)
    assert 0 <= discount <= uncached


def test_the_discount_is_what_the_same_tokens_would_have_cost_more() -> None:
    usage = Usage(input=100, cache_read=1_000_000)
    assert PRICE.cache_discount(usage) == usd("0.486")


@given(PRICES, SIZES, st.integers(0, 10**12).map(Usd))
def test_the_max_tokens_we_propose_fits_and_one_more_would_not(
    price: PerToken, size: Size, available: Usd
) -> None:
    fits = max_output_for(price, size, available)
    assert fits >= 0
    if fits and price.output:
        assert price.estimate(Size(0, size.worst_input, fits)) <= available
        assert price.estimate(Size(0, size.worst_input, fits + 1)) > available
    if not fits and price.output:
        assert price.estimate(Size(0, size.worst_input, 1)) > available


def test_several_choices_share_the_max_tokens_we_propose() -> None:
    price = per_token("0", "1")
    size = Size(0, 0, 2_000, choices=2)
    assert max_output_for(price, size, price.estimate(Size(0, 0, 1_000))) == 500


@pytest.mark.parametrize(
    ("usage", "billable"),
    [
        (Usage(), True),
        (Usage(1, 2, 3, 4, 5), True),
        (Usage(input=MAX_TOKENS), True),
        (Usage(input=MAX_TOKENS + 1), False),
        (Usage(input=-1), False),
        (Usage(cache_read=-1), False),
        (Usage(cache_write=-1), False),
        (Usage(output=-1), False),
        (Usage(reasoning=-1), False),
        (Usage(output=10**18), False),
    ],
)
def test_figures_that_cannot_be_true_are_not_billed(usage: Usage, billable: bool) -> None:
    assert plausible(usage) is billable
