from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from console import charts, frames
from kyma.accounts import Account
from kyma.flows.overrides import CustomerTier
from kyma.money import ZERO, Usd, usd
from kyma.tiers import TIERS, Override, Standing
from kyma.usage import CacheUsage, CustomerUsage

NOW = datetime(2026, 5, 17, 12, 0, tzinfo=UTC)


def decision(level: int | None, until: datetime | None = None) -> Override:
    return Override("id", "account", level, "olga", "why", NOW - timedelta(days=2), until)


def cached(day: int, model: str, prompt: int, hits: int, savings: str) -> CacheUsage:
    return CacheUsage(datetime(2026, 5, day, tzinfo=UTC), model, 2, prompt, hits, 1, usd(savings))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0", "$0.00"),
        ("5", "$5.00"),
        ("0.5", "$0.50"),
        ("0.000000001", "$0.000000001"),
        ("1234567.25", "$1,234,567.25"),
        ("-3.5", "-$3.50"),
    ],
)
def test_money_in_a_table_is_exact(text: str, shown: str) -> None:
    assert frames.money(usd(text)) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0", "$0.00"),
        ("1234.567", "$1,234.57"),
        ("0.03456", "$0.0346"),
        ("0.00000001", "< $0.0001"),
    ],
)
def test_money_in_a_headline_is_short_and_never_a_false_zero(text: str, shown: str) -> None:
    assert frames.short_money(usd(text)) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0"), (999, "999"), (12_340, "12.3 K"), (4_560_000, "4.6 M")]
)
def test_counts_in_a_headline_are_short(count: int, shown: str) -> None:
    assert frames.compact(count) == shown


def test_customers_keep_their_order_and_an_account_without_address_its_id() -> None:
    frame = frames.customers(
        [
            CustomerUsage("a1", "ada@example.com", usd("2.000000001"), 10, 1, usd("1")),
            CustomerUsage("b2", "", usd("1"), 20, 2, ZERO),
        ]
    )
    assert list(frame["Customer"]) == ["ada@example.com", "b2"]
    assert list(frame["Spend"]) == ["$2.000000001", "$1.00"]
    assert frame["spend_usd"].sum() == pytest.approx(3.0)


def test_models_are_summed_over_days_with_one_honest_rate() -> None:
    rows = [
        cached(1, "small", 100, 100, "0.001"),
        cached(2, "small", 900, 0, "0"),
        cached(2, "large", 50, 25, "0.5"),
    ]
    frame = frames.cache_by_model(rows)
    assert list(frame["Model"]) == ["large", "small"]
    assert list(frame["Hit rate"]) == ["50.0 %", "10.0 %"]
    assert list(frame["Requests"]) == [2, 4]
    assert list(frame["Savings"]) == ["$0.50", "$0.001"]


def test_a_model_without_prompt_tokens_has_a_rate_of_zero() -> None:
    frame = frames.cache_by_day([cached(1, "flux", 0, 0, "0")])
    assert list(frame["Hit rate"]) == ["0.0 %"]


def test_the_limits_table_marks_the_customers_tier() -> None:
    account = Account("id", "ada@example.com", "", NOW)
    customer = CustomerTier(account, Standing("id", ZERO, None), TIERS[3], TIERS[0], "", ())
    frame = frames.limits(customer)
    assert list(frame.columns) == ["Tier 0", "Tier 1", "Tier 2", "Tier 3 (now)", "Tier 4"]
    assert frame.loc["Tokens / minute", "Tier 3 (now)"] == "5,000,000"
    assert frame.loc["Images and videos at once", "Tier 4"] == "38"
    assert not frame.isna().any().any()


def test_only_the_newest_decision_can_be_in_force() -> None:
    tomorrow, yesterday = NOW + timedelta(days=1), NOW - timedelta(days=1)
    states = [
        (decision(2, tomorrow), decision(4)),
        (decision(None), decision(3)),
        (decision(1, yesterday), decision(None)),
    ]
    assert [list(frames.history(rows, NOW)["State"]) for rows in states] == [
        ["in force", "replaced"],
        ["deposits decide", "replaced"],
        ["ended", ""],
    ]


def test_charts_hold_a_mark_for_every_row_they_show() -> None:
    rows = [CustomerUsage(f"{n:02}", f"{n}@example.com", Usd(n), n, n) for n in range(15)]
    bars = charts.customers(frames.customers(rows), "spend_usd", "Spend").to_dict()
    assert len(next(iter(bars["datasets"].values()))) == charts.SHOWN
    daily = frames.cache_by_day([cached(1, "m", 10, 5, "1"), cached(2, "m", 10, 5, "1")])
    for chart in (charts.hit_rate(daily), charts.savings(daily)):
        assert len(next(iter(chart.to_dict()["datasets"].values()))) == 2
