"""Usage: disjoint buckets that add up."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kyma.usage import NOTHING, CacheUsage, Evidence, Period, Usage, UsageRecord
from tests.builders import NOON, a_record

TOKENS = st.integers(0, 10**9)


@given(TOKENS, TOKENS, TOKENS, TOKENS, TOKENS)
def test_the_buckets_add_up_to_what_was_processed(
    plain: int, read: int, write: int, output: int, reasoning: int
) -> None:
    usage = Usage(plain, read, write, output, reasoning)
    assert usage.prompt_tokens == plain + read + write
    assert usage.completion_tokens == output + reasoning


def test_nothing_is_exactly_nothing() -> None:
    assert (NOTHING.prompt_tokens, NOTHING.completion_tokens) == (0, 0)
    assert NOTHING.evidence is Evidence.EXACT


@pytest.mark.parametrize(
    ("prompt", "cached", "rate"), [(0, 0, 0.0), (100, 0, 0.0), (100, 25, 0.25), (100, 100, 1.0)]
)
def test_a_hit_rate_is_a_share_and_zero_without_prompts(
    prompt: int, cached: int, rate: float
) -> None:
    assert CacheUsage(NOON, "m", 1, prompt, cached, 0, 0).hit_rate == rate


def test_a_record_has_no_room_for_a_prompt_or_an_answer() -> None:
    names = {field.name for field in dataclasses.fields(UsageRecord)}
    assert not names & {"messages", "prompt", "content", "body", "answer", "text"}


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        a_record("a", "b").charged = 1


def test_a_periods_end_is_named_where_it_is_made() -> None:
    with pytest.raises(TypeError):
        Period(NOON, NOON)
