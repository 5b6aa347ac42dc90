"""What providers say they counted, in every form seen: each token is billed exactly once."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams.wire import anthropic, openai
from kyma.pricing import per_token, plausible
from kyma.usage import Usage

RECORDED = Path(__file__).with_name("recorded")
PRICE = per_token("3", "15", cached="0.3", cache_write="3.75")
UNEVEN = per_token("0.123456789", "1.000000001", cached="0.000000003", cache_write="0.7")


def cases() -> list[Any]:
    return [
        pytest.param(path.parent.name, case, id=f"{path.parent.name}: {case['what']}")
        for path in sorted(RECORDED.glob("*/usage.json"))
        for case in json.loads(path.read_text())
    ]


def read(provider: str, told: Any) -> Usage:
    wire = anthropic if provider == "anthropic" else openai
    usage = wire.usage_of(told)
    assert usage is not None
    return usage


def buckets(usage: Usage) -> list[int]:
    return [usage.input, usage.cache_read, usage.cache_write, usage.output, usage.reasoning]


def test_every_provider_that_counts_in_its_own_way_is_here() -> None:
    assert {case.values[0] for case in cases()} >= {
        "openai", "anthropic", "deepseek", "google", "groq", "openrouter", "xai",
    }  # fmt: skip


@pytest.mark.parametrize(("provider", "case"), cases())
def test_what_a_provider_tells_becomes_disjoint_buckets(
    provider: str, case: dict[str, Any]
) -> None:
    usage = read(provider, case["told"])
    assert buckets(usage) == case["buckets"]
    assert plausible(usage)


@pytest.mark.parametrize(("provider", "case"), cases())
def test_the_buckets_sum_up_to_what_the_provider_processed(
    provider: str, case: dict[str, Any]
) -> None:
    assert sum(buckets(read(provider, case["told"]))) == case["processed"]
    told_total = case["told"].get("total_tokens", case["processed"])
    assert case["processed"] == told_total


@pytest.mark.parametrize(("provider", "case"), cases())
def test_every_token_is_billed_once_and_at_its_own_price(
    provider: str, case: dict[str, Any]
) -> None:
    usage = read(provider, case["told"])
    assert PRICE.bill(usage) == case["bill_nanos"]
    exact = sum(
        Fraction(tokens * price, 1_000_000)
        for tokens, price in zip(
            buckets(usage),
            (UNEVEN.input, UNEVEN.cached, UNEVEN.cache_write, UNEVEN.output, UNEVEN.output),
            strict=True,
        )
    )
    assert UNEVEN.bill(usage) == int(exact + Fraction(1, 2))


@given(
    input=st.integers(0, 10**6),
    read_tokens=st.integers(0, 10**6),
    written=st.integers(0, 10**6),
    output=st.integers(0, 10**6),
    reasoning=st.integers(0, 10**6),
)
def test_openai_s_sums_lose_and_double_nothing(
    input: int, read_tokens: int, written: int, output: int, reasoning: int
) -> None:
    prompt, completion = input + read_tokens + written, output + reasoning
    told = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": read_tokens, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    assert openai.usage_of(told) == Usage(input, read_tokens, written, output, reasoning)


@given(prompt=st.integers(1, 10**6), output=st.integers(0, 10**6), reasoning=st.integers(0, 10**6))
def test_thinking_beside_the_sums_is_billed_whether_it_is_told_or_not(
    prompt: int, output: int, reasoning: int
) -> None:
    told: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output + reasoning,
    }
    expected = Usage(prompt, output=output, reasoning=reasoning)
    assert openai.usage_of(told) == expected
    if reasoning:
        told["completion_tokens_details"] = {"reasoning_tokens": reasoning}
        assert openai.usage_of(told) == expected


@pytest.mark.parametrize(
    "told",
    [
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 3},
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": None},
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": "many"},
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": -7},
    ],
)
def test_a_total_that_cannot_be_changes_nothing(told: dict[str, Any]) -> None:
    assert openai.usage_of(told) == Usage(10, output=5)
