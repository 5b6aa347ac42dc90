"""Data frames → Altair charts in the theme's colours; the tables beside them are exact."""

from __future__ import annotations

import altair as alt
import pandas as pd

ROW_PX = 30
SHOWN = 10


def customers(frame: pd.DataFrame, field: str, title: str) -> alt.Chart:
    """The largest customers by `field`, one bar each, in the frame's order."""
    shown = frame.head(SHOWN)
    figures = "$,.6~f" if field == "spend_usd" else ",d"
    ticks = "$,.4~f" if field == "spend_usd" else "~s"
    chart: alt.Chart = (
        alt.Chart(shown)
        .mark_bar(cornerRadiusEnd=3, height={"band": 0.7})
        .encode(
            x=alt.X(f"{field}:Q", title=title, axis=alt.Axis(format=ticks, tickCount=5)),
            y=alt.Y("Customer:N", sort=None, title=None, axis=alt.Axis(labelLimit=160)),
            tooltip=["Customer:N", alt.Tooltip(f"{field}:Q", title=title, format=figures)],
        )
        .properties(height=max(3, len(shown)) * ROW_PX + 50)
    )
    return chart


def hit_rate(frame: pd.DataFrame) -> alt.Chart:
    """Share of prompt tokens served from a cache, a line per model."""
    chart: alt.Chart = (
        alt.Chart(frame)
        .mark_line(point=True)
        .encode(
            x=_day(),
            y=alt.Y(
                "hit_rate:Q",
                title="Cache-hit rate",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%", tickCount=5),
            ),
            color=_model(),
            tooltip=["Day:N", "Model:N", "Hit rate:N", "Requests:Q"],
        )
        .properties(height=280)
    )
    return chart


def savings(frame: pd.DataFrame) -> alt.Chart:
    """What customers saved by cached prompts, stacked by model."""
    chart: alt.Chart = (
        alt.Chart(frame)
        .mark_bar(width={"band": 0.6})
        .encode(
            x=_day(),
            y=alt.Y("savings_usd:Q", title="Savings", axis=alt.Axis(format="$,.4~f", tickCount=5)),
            color=_model(),
            tooltip=["Day:N", "Model:N", "Savings:N"],
        )
        .properties(height=280)
    )
    return chart


def _day() -> alt.X:
    return alt.X("Day:O", title=None, axis=alt.Axis(labelAngle=0, labelOverlap="greedy"))


def _model() -> alt.Color:
    return alt.Color(
        "Model:N", legend=alt.Legend(orient="bottom", title=None, columns=3, labelLimit=150)
    )
