"""What counts for and against a model, and that nothing is made up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from kyma.calls import Fault
from kyma.errors import Code
from kyma.money import usd
from kyma.traffic import WINDOW, Traffic, by_model, percent, tally, total, window_of
from kyma.usage import Attempt, Usage
from tests.builders import a_record, new_id

MODEL, OTHER = "qwen-3.6-plus", "kimi-k2.5"

OUTCOMES = [
    ("ok", 0, "groq", (1, 0, 0)),
    ("ok", 1, "groq", (1, 0, 0)),
    ("ok", 2, "groq", (0, 1, 0)),
    ("ok", 3, "groq", (0, 1, 0)),
    (Code.PROVIDER_ERROR, 0, "", (0, 0, 1)),
    (Code.PROVIDER_TIMEOUT, 0, "", (0, 0, 1)),
    (Code.PROVIDER_BUSY, 0, "", (0, 0, 1)),
    (Code.NO_ROUTE, 0, "", (0, 0, 1)),
    (Code.STREAM_INTERRUPTED, 0, "groq", (0, 0, 1)),
    (Code.STREAM_INTERRUPTED, 0, "", (0, 0, 0)),
    (Code.CONTEXT_TOO_LONG, 0, "", (0, 0, 0)),
    (Code.CONTENT_FILTERED, 0, "", (0, 0, 0)),
    (Code.REFUSED_BY_MODEL, 0, "", (0, 0, 0)),
    ("client_left", 0, "groq", (0, 0, 0)),
    ("cut_by_gateway", 0, "groq", (0, 0, 0)),
    ("CancelledError", 0, "", (0, 0, 0)),
]
"""Outcome, layer, provider → answered by itself, by a substitute, failed."""


def asked(outcome: str = "ok", **changes: object) -> object:
    named = {"requested_model": MODEL, "served_model": MODEL, "outcome": outcome}
    return a_record(new_id(), new_id(), **{**named, **changes})


def only(records: list[object]) -> Traffic:
    found = by_model(tally(records))
    assert set(found) == {MODEL}
    return found[MODEL]


@pytest.mark.parametrize(("outcome", "layer", "provider", "expected"), OUTCOMES)
def test_each_outcome_counts_as_it_should(
    outcome: str, layer: int, provider: str, expected: tuple[int, int, int]
) -> None:
    record = asked(str(outcome), layer=layer, provider=provider, served_model=MODEL)
    row = total(tally([record]))
    assert (row.answered, row.substituted, row.failed) == expected
    assert row.counted == sum(expected)


@pytest.mark.parametrize("fault", Fault)
def test_an_attempt_counts_against_its_provider_unless_it_is_not_to_blame(fault: Fault) -> None:
    record = asked(attempts=(Attempt("groq", "q", 0, fault.value, 5),))
    blameless = {Fault.REFUSED, Fault.BAD_REQUEST, Fault.TOO_LONG, Fault.OVERDUE}
    assert only([record]).tries_failed == (0 if fault in blameless else 1)


def test_attempts_on_other_models_say_nothing_of_this_one() -> None:
    attempts = (
        Attempt("groq", "q", 0, "broken", 5),
        Attempt("deepinfra", "q", 1, "ok", 5),
        Attempt("moonshot", "k", 3, "ok", 5),
        Attempt("fireworks", "q", 1, "cancelled", 5),
    )
    row = only([asked(attempts=attempts)])
    assert (row.tries_ok, row.tries_failed) == (1, 1)


def test_a_substitute_serves_tokens_under_its_own_name() -> None:
    record = asked(served_model=OTHER, layer=3, provider="moonshot", usage=Usage(1, 2, 3, 4, 5))
    found = by_model(tally([record]))
    assert (found[MODEL].requests, found[MODEL].tokens, found[MODEL].substituted) == (0, 0, 1)
    assert (found[OTHER].requests, found[OTHER].tokens, found[OTHER].counted) == (1, 15, 0)


def test_tokens_of_a_broken_answer_are_in_no_ranking() -> None:
    row = only([asked(Code.STREAM_INTERRUPTED.value), asked("client_left", usage=Usage(input=7))])
    assert (row.requests, row.tokens) == (1, 7)


def test_cache_figures_are_summed_exactly() -> None:
    hit = asked(usage=Usage(70, 20, 10, 5, 3), cache_discount=usd("0.000000007"))
    row = only([hit, hit, asked(usage=Usage(input=100))])
    assert (row.requests, row.cache_hits) == (3, 2)
    assert (row.prompt_tokens, row.cached_tokens, row.cache_write_tokens) == (300, 40, 20)
    assert row.savings == usd("0.000000014")


def test_nothing_measured_is_no_figure_and_one_failure_is_never_a_hundred() -> None:
    assert percent(0, 0) is None
    assert percent(0, 3) == 0.0
    assert percent(3, 3) == 100.0
    assert percent(9_999_999, 10_000_000) == 99.999
    assert total([]) == Traffic("", "")


def test_the_window_begins_seven_days_before_a_whole_hour() -> None:
    since = window_of(datetime(2026, 5, 17, 12, 34, 56, 789, tzinfo=UTC))
    assert since == datetime(2026, 5, 10, 12, 0, tzinfo=UTC)
    assert timedelta(days=7) == WINDOW
    eastern = datetime(2026, 5, 17, 17, 34, tzinfo=timezone(timedelta(hours=5)))
    assert window_of(eastern) == datetime(2026, 5, 10, 12, 0, tzinfo=UTC)
