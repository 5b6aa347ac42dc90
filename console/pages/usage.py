"""Usage: who spends what, and what prompt caching saves, over a chosen period."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import pandas as pd
import streamlit as st

from console import charts, frames, wiring
from kyma.usage import CacheUsage, CustomerUsage, Period

PRESETS = {"Today": 1, "7 days": 7, "30 days": 30}
CUSTOM = "Custom"
ORDERS = {"Spend": "spend", "Tokens": "tokens", "Requests": "requests"}
CHARTED = {"Spend": "spend_usd", "Tokens": "Tokens", "Requests": "Requests"}
AMOUNTS = ("Spend", "Provider cost", "Savings", "Hit rate")
"""Exact text, set flush right like a number."""

TOP = 20
COUNTED = 10_000
"""Customers that the headline sums over; beyond them it says `at least`."""


def page() -> None:
    """Period, headline, customers, cache."""
    st.title("Usage")
    period = _period()
    if period is None:
        st.info("Choose the last day of the period too.")
        return
    reports = wiring.console().reports
    everybody = wiring.run(reports.top_customers(period, limit=COUNTED))
    if not everybody:
        st.info(
            "No requests in this period. Choose a longer one, or send a first request: "
            "`make up` prints a key and an example call."
        )
        return
    cache = wiring.run(reports.cache_usage(period))
    _headline(everybody, cache)
    _customers(period)
    _cache(cache)


def days(first: date, last: date) -> Period:
    """All of both days and those between, in UTC."""
    since = datetime.combine(first, time(0, 0), UTC)
    return Period(since, until=datetime.combine(last, time(0, 0), UTC) + timedelta(days=1))


def _period() -> Period | None:
    today = wiring.console().clock.now().date()
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    choice = left.segmented_control(
        "Period (days in UTC)",
        [*PRESETS, CUSTOM],
        default="7 days",
        required=True,
        key="period",
    )
    if choice != CUSTOM:
        return days(today - timedelta(days=PRESETS[choice or "7 days"] - 1), today)
    chosen = right.date_input(
        "First and last day",
        value=(today - timedelta(days=6), today),
        max_value=today,
        key="custom_period",
    )
    if not isinstance(chosen, tuple) or len(chosen) != 2:
        return None
    return days(*chosen)


def _headline(customers: Sequence[CustomerUsage], cache: Sequence[CacheUsage]) -> None:
    spend = sum(row.spend for row in customers)
    tokens = sum(row.tokens for row in customers)
    total = frames.cache_total(cache)
    at_least = "≥ " if len(customers) == COUNTED else ""
    figures = (
        ("Spend", at_least + frames.short_money(spend), f"Exactly {frames.money(spend)}"),
        ("Requests", f"{total.requests:,}", "Every served request, free ones included"),
        ("Tokens", f"{at_least}{frames.compact(tokens)}", f"Exactly {tokens:,}"),
        ("Customers", f"{at_least}{len(customers):,}", "With at least one request"),
        (
            "Cache-hit rate",
            frames.percent(total.hit_rate),
            f"{total.cached_tokens:,} of {total.prompt_tokens:,} prompt tokens",
        ),
        (
            "Cache savings",
            frames.short_money(total.savings),
            f"Exactly {frames.money(total.savings)} that customers did not pay",
        ),
    )
    for column, (label, value, exact) in zip(st.columns(len(figures)), figures, strict=True):
        column.metric(label, value, help=exact.replace("$", r"\$"), border=True)


def _customers(period: Period) -> None:
    st.subheader("Top customers")
    order = st.segmented_control("By", list(ORDERS), default="Spend", required=True, key="order")
    order = order or "Spend"
    rows = wiring.run(wiring.console().reports.top_customers(period, ORDERS[order], TOP))
    frame = frames.customers(rows)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        st.altair_chart(charts.customers(frame, CHARTED[order], order))
    with right:
        _table(frame.drop(columns="spend_usd"))


def _cache(rows: Sequence[CacheUsage]) -> None:
    st.subheader("Prompt cache")
    daily = frames.cache_by_day(rows)
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("**Hit rate by day and model**")
        st.altair_chart(charts.hit_rate(daily))
    with right:
        st.markdown("**Savings by day and model**")
        st.altair_chart(charts.savings(daily))
    by_model, by_day = st.tabs(["By model", "By model and day"])
    with by_model:
        _table(frames.cache_by_model(rows))
    with by_day:
        _table(daily.drop(columns=["hit_rate", "savings_usd"]))


def _table(frame: pd.DataFrame) -> None:
    counts = st.column_config.NumberColumn(format="localized")
    amounts = st.column_config.TextColumn(alignment="right")
    configured = dict.fromkeys(frame.select_dtypes("number").columns, counts)
    configured |= {name: amounts for name in AMOUNTS if name in frame.columns}
    st.dataframe(frame, hide_index=True, column_config=configured)
