from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest
from streamlit.testing.v1 import AppTest

from console.pages.usage import days
from kyma.accounts import Account
from kyma.money import usd
from kyma.usage import Usage
from tests.builders import a_record, new_id
from tests.console.fakes import World, page_of

PAGE = "from console.pages.usage import page\npage()"


@pytest.fixture
def world() -> World:
    return World()


def spent(world: World, account: Account, charged: str, days_ago: float = 0.0) -> None:
    record = a_record(
        account.id,
        new_id(),
        charged=usd(charged),
        usage=Usage(input=60, cache_read=30, cache_write=10, output=40, reasoning=5),
        cache_discount=usd("0.001"),
        started_at=world.clock.now() - timedelta(days=days_ago),
    )
    world.store.records.append(record)


def headline(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def test_no_requests_at_all_says_how_to_make_the_first(world: World) -> None:
    app = page_of(world, PAGE).run()
    assert not app.exception
    assert "send a first request" in app.info[0].value
    assert not app.metric


def test_the_headline_sums_the_period(world: World) -> None:
    ada = asyncio.run(world.customer("ada@example.com"))
    grace = asyncio.run(world.customer("grace@example.com"))
    spent(world, ada, "1.25")
    spent(world, ada, "0")
    spent(world, grace, "0.000000001", days_ago=2)
    app = page_of(world, PAGE).run()
    assert not app.exception
    assert headline(app) == {
        "Spend": "$1.25",
        "Requests": "3",
        "Tokens": "435",
        "Customers": "2",
        "Cache-hit rate": "30.0 %",
        "Cache savings": "$0.0030",
    }
    assert app.metric[0].help == r"Exactly \$1.250000001"


def test_customers_come_in_the_chosen_order_with_exact_money(world: World) -> None:
    ada = asyncio.run(world.customer("ada@example.com"))
    grace = asyncio.run(world.customer("grace@example.com"))
    spent(world, ada, "1234.000000001")
    for _ in range(3):
        spent(world, grace, "0.1")
    app = page_of(world, PAGE).run()
    top = app.dataframe[0].value
    assert list(top["Customer"]) == ["ada@example.com", "grace@example.com"]
    assert list(top["Spend"]) == ["$1,234.000000001", "$0.30"]

    app.segmented_control(key="order").set_value("Requests").run()
    assert not app.exception
    top = app.dataframe[0].value
    assert list(top["Customer"]) == ["grace@example.com", "ada@example.com"]
    assert list(top["Requests"]) == [3, 1]


def test_the_period_decides_what_counts(world: World) -> None:
    ada = asyncio.run(world.customer("ada@example.com"))
    for days_ago in (0, 3, 20, 50):
        spent(world, ada, "1", days_ago)
    app = page_of(world, PAGE).run()
    counted = [headline(app)["Requests"]]
    for choice in ("Today", "30 days"):
        app.segmented_control(key="period").set_value(choice).run()
        counted.append(headline(app)["Requests"])
    assert counted == ["2", "1", "3"]

    app.segmented_control(key="period").set_value("Custom").run()
    app.date_input(key="custom_period").set_value((date(2026, 3, 1), date(2026, 4, 30))).run()
    assert not app.exception
    assert headline(app)["Requests"] == "2"


def test_a_period_without_its_last_day_is_asked_for(world: World) -> None:
    app = page_of(world, PAGE).run()
    app.segmented_control(key="period").set_value("Custom").run()
    app.date_input(key="custom_period").set_value((date(2026, 3, 1),)).run()
    assert not app.exception
    assert app.info[0].value == "Choose the last day of the period too."


def test_a_period_of_days_is_whole_days_in_utc() -> None:
    period = days(date(2026, 2, 27), date(2026, 2, 28))
    assert period.since == datetime(2026, 2, 27, tzinfo=UTC)
    assert period.until == datetime(2026, 3, 1, tzinfo=UTC)


def test_cache_figures_stand_by_model_and_by_day(world: World) -> None:
    ada = asyncio.run(world.customer("ada@example.com"))
    spent(world, ada, "1")
    spent(world, ada, "1", days_ago=1)
    app = page_of(world, PAGE).run()
    _, by_model, by_day = (frame.value for frame in app.dataframe)
    assert list(by_model["Hit rate"]) == ["30.0 %"]
    assert list(by_model["Savings"]) == ["$0.002"]
    assert list(by_day["Day"]) == ["2026-05-16", "2026-05-17"]
