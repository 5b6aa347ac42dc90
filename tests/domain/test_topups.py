"""When auto top-up charges, and when it stops trying."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kyma.errors import Refusal
from kyma.ledger import Kind, Outcome
from kyma.money import ZERO, Usd, usd
from kyma.orders import Posting
from kyma.topups import (
    MAX_CEILING,
    MAX_FAILURES,
    PAUSES,
    TopUp,
    after,
    after_reversals,
    check,
    delayed,
    in_place_of,
    is_due,
    is_worth_asking,
    low_mark,
    may_replace,
    month_of,
    pause_after,
    reckoned,
)
from tests.builders import NOON

SETTING = TopUp("a", True, usd("5"), usd("20"), usd("100"))


@pytest.mark.parametrize(
    ("changes", "available", "charged", "due"),
    [
        ({}, usd("4.99"), ZERO, True),
        ({}, usd("5"), ZERO, False),
        ({}, ZERO, usd("80"), True),
        ({}, ZERO, usd("80.01"), False),
        ({"tax": usd("4")}, ZERO, usd("76"), True),
        ({"tax": usd("4")}, ZERO, usd("76.01"), False),
        ({"enabled": False}, ZERO, ZERO, False),
        ({"not_before": NOON}, ZERO, ZERO, True),
        ({"not_before": NOON + timedelta(seconds=1)}, ZERO, ZERO, False),
    ],
)
def test_it_charges_below_the_threshold_within_the_ceiling(
    changes: dict[str, Any], available: Usd, charged: Usd, due: bool
) -> None:
    assert is_due(replace(SETTING, **changes), available, charged, NOON) is due


DEAR = replace(SETTING, monthly_ceiling=usd("41.99"), tax=usd("22"))
"""One charge would be $42. Without taxes two would be possible."""


@pytest.mark.parametrize(
    ("setting", "charged", "asked"),
    [
        (SETTING, ZERO, True),
        (SETTING, usd("80.01"), False),
        (replace(SETTING, tax=usd("4")), usd("76.01"), False),
        (DEAR, ZERO, True),
        (DEAR, usd("21.99"), True),
        (DEAR, usd("22"), False),
        (replace(DEAR, enabled=False), ZERO, False),
        (replace(DEAR, not_before=NOON + timedelta(seconds=1)), ZERO, False),
    ],
)
def test_what_is_too_dear_is_asked_for_again_though_it_is_not_due(
    setting: TopUp, charged: Usd, asked: bool
) -> None:
    assert is_worth_asking(setting, ZERO, charged, NOON) is asked
    assert not is_due(DEAR, ZERO, ZERO, NOON)


@pytest.mark.parametrize(
    ("now", "again"),
    [
        (datetime(2026, 1, 31, 23, 59, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)),
        (datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)),
        (datetime(2026, 12, 15, 12, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_what_is_too_dear_says_so_and_waits_for_the_next_month(
    now: datetime, again: datetime
) -> None:
    told = reckoned(replace(SETTING, delays=3), usd("80.01"), now)
    assert (told.enabled, told.not_before, told.tax) == (True, again, usd("80.01"))
    assert "20 and its taxes (80.01) are more than `monthly_ceiling` (100)" in told.message
    fallen = reckoned(told, usd("80"), again)
    assert fallen == replace(SETTING, tax=usd("80"), not_before=again)
    assert is_due(fallen, ZERO, ZERO, again)


def test_why_it_is_off_is_said_whatever_its_taxes_come_to() -> None:
    off = replace(SETTING, enabled=False, message="Switched off because money went back.")
    for tax in (ZERO, usd("90")):
        assert reckoned(off, tax, NOON) == replace(off, tax=tax)


def test_what_has_no_answer_waits_one_two_four_minutes_and_at_most_an_hour() -> None:
    setting, waits = SETTING, []
    for _ in range(8):
        setting = delayed(setting, NOON)
        assert setting.not_before is not None
        waits.append((setting.not_before - NOON).total_seconds() / 60)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (setting.delays, setting.enabled, setting.failures) == (8, True, 0)
    assert delayed(reckoned(setting, ZERO, NOON), NOON).delays == 1, "an answer begins anew"


def test_what_has_no_answer_waits_no_less_than_before_and_changes_nothing_that_is_off() -> None:
    failed = after(SETTING, "declined", NOON)
    assert delayed(failed, NOON).not_before == NOON + PAUSES[0]
    off = replace(SETTING, enabled=False)
    assert delayed(off, NOON) == off


FOUND = replace(SETTING, revision=4)


@pytest.mark.parametrize(
    ("before", "found", "allowed"),
    [
        (FOUND, FOUND, True),
        (replace(FOUND, tax=usd("1"), failures=1), FOUND, True),
        (replace(FOUND, revision=3), FOUND, False),
        (None, FOUND, False),
        (None, replace(FOUND, revision=0), False),
        (None, None, True),
        (FOUND, None, False),
    ],
)
def test_a_choice_is_made_only_over_what_was_looked_at_unless_it_switches_off(
    before: TopUp | None, found: TopUp | None, allowed: bool
) -> None:
    assert may_replace(SETTING, before, found) is allowed
    assert may_replace(replace(SETTING, enabled=False), before, found)


def test_every_choice_and_whatever_may_switch_it_off_changes_the_revision() -> None:
    assert in_place_of(None, FOUND).revision == 0
    assert in_place_of(FOUND, SETTING).revision == 5
    once = after(FOUND, "declined", NOON)
    twice = after(once, "declined", NOON)
    third = after(twice, "declined", NOON)
    assert [one.revision for one in (once, twice, third)] == [4, 4, 5]
    assert after(twice, None, NOON).revision == 4
    assert reckoned(FOUND, usd("90"), NOON).revision == delayed(FOUND, NOON).revision == 4
    for setting in (FOUND, replace(FOUND, enabled=False)):
        assert after_reversals(setting, [(BACK, Outcome.DONE)])[0].revision == 5
        assert after_reversals(setting, [(BACK, Outcome.EXISTS)])[0].revision == 4


@pytest.mark.parametrize(
    ("brought", "mark"),
    [("20", "1"), ("2", "1"), ("1.99", "0.995"), ("0.5", "0.25"), ("0", "0")],
)
def test_low_is_below_a_dollar_or_half_of_what_came_in(brought: str, mark: str) -> None:
    assert low_mark(usd(brought)) == usd(mark)


def test_it_waits_after_a_failure_and_is_switched_off_by_the_third_in_a_row() -> None:
    once = after(SETTING, "declined", NOON)
    assert (once.enabled, once.failures, once.not_before) == (True, 1, NOON + PAUSES[0])
    twice = after(once, "declined", NOON)
    assert (twice.enabled, twice.failures, twice.not_before) == (True, 2, NOON + PAUSES[1])
    assert MAX_FAILURES == 3
    off = after(twice, "card expired", NOON)
    assert (off.enabled, off.not_before) == (False, None)
    assert "card expired" in off.message


def test_a_success_forgets_the_failures_before_it() -> None:
    tried = after(after(SETTING, "declined", NOON), "declined", NOON)
    assert after(tried, None, NOON) == SETTING


def test_a_failure_after_its_owner_switched_it_off_says_nothing() -> None:
    off = replace(SETTING, enabled=False, failures=2)
    assert after(off, "declined", NOON).message == ""


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"amount": usd("4")}, "amount"),
        ({"amount": usd("20.001")}, "amount"),
        ({"threshold": ZERO}, "threshold"),
        ({"threshold": Usd(-1)}, "threshold"),
        ({"threshold": usd("0.001")}, "threshold"),
        ({"threshold": usd("20.01")}, "threshold"),
        ({"monthly_ceiling": usd("19.99")}, "monthly_ceiling"),
        ({"monthly_ceiling": usd("20.001")}, "monthly_ceiling"),
        ({"monthly_ceiling": usd("21.99"), "tax": usd("2")}, "monthly_ceiling"),
        ({"monthly_ceiling": Usd(MAX_CEILING * 2)}, "monthly_ceiling"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        check(replace(SETTING, **changes))
    assert refused.value.param == param


def test_one_charge_is_always_enough() -> None:
    check(replace(SETTING, threshold=SETTING.amount))


def test_months_are_those_of_the_calendar_in_utc() -> None:
    assert month_of(datetime(2026, 5, 31, 23, 59, 59, 999, UTC)) == datetime(2026, 5, 1, tzinfo=UTC)
    assert month_of(datetime(2026, 6, 1, tzinfo=UTC)) == datetime(2026, 6, 1, tzinfo=UTC)


BACK = Posting(Kind.REVERSAL, "r1", usd("20"), "dispute dp_1 of payment pi_1", "d1")
AGAIN = Posting(Kind.REVERSAL, "r2", usd("5"), "refund re_2 of payment pi_1", "d1")
UNDONE = Posting(Kind.REINSTATE, "u1", usd("20"), "undone", "r1")


def test_money_that_went_back_switches_it_off_once_and_says_which() -> None:
    off, stopped = after_reversals(SETTING, [(BACK, Outcome.DONE), (AGAIN, Outcome.DONE)])
    assert (off.enabled, stopped) == (False, {"r1"})
    assert "dispute dp_1 of payment pi_1" in off.message
    assert after_reversals(off, [(BACK, Outcome.EXISTS)]) == (off, {"r1"}), "it is still why"
    on = replace(off, enabled=True, message="")
    assert after_reversals(on, [(BACK, Outcome.EXISTS)]) == (on, frozenset()), "its owner's choice"


@pytest.mark.parametrize(
    "booked",
    [
        [],
        [(BACK, Outcome.EXISTS)],
        [(BACK, Outcome.MISMATCH)],
        [(BACK, Outcome.NO_ENTRY)],
        [(UNDONE, Outcome.DONE)],
        [(Posting(Kind.DEPOSIT, "d1", usd("20"), "payment pi_1"), Outcome.DONE)],
    ],
)
def test_nothing_else_that_is_booked_switches_it_off(booked: list[tuple[Posting, Outcome]]) -> None:
    assert after_reversals(SETTING, booked) == (SETTING, frozenset())


def test_who_had_switched_it_off_is_told_nothing() -> None:
    off = replace(SETTING, enabled=False)
    assert after_reversals(off, [(BACK, Outcome.DONE)]) == (off, frozenset())


def test_a_charge_that_succeeds_after_that_leaves_it_off_with_its_reason() -> None:
    off, _ = after_reversals(SETTING, [(BACK, Outcome.DONE)])
    assert after(off, None, NOON) == off


def test_a_charge_without_an_end_is_looked_at_after_one_two_four_minutes_and_then_hourly() -> None:
    minutes = [pause_after(looks).total_seconds() / 60 for looks in range(9)]
    assert minutes == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pause_after(10_000) == pause_after(6)
