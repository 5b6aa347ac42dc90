"""Money in: what was paid and not credited, who owes us, and which letters did not go.

All three are empty when everything is well.
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from console import decisions, frames, wiring
from console.letters import put_back_form
from console.settle import settle_form

SHOWN = 100
AMOUNTS = ("Amount", "Gone back", "Our loss")
"""Exact text, set flush right like a number."""


def page() -> None:
    """Three lists, and how long each is."""
    console = wiring.console()
    st.title("Money in")
    st.caption("What needs a person. Each list is empty when everything is well.")
    decisions.say_what_was_done()
    unpaid = wiring.run(console.orders.uncredited(SHOWN))
    flagged = frames.flags(wiring.run(console.orders.flags(SHOWN)))
    troubled = wiring.run(console.mails.troubled(SHOWN))
    lists = (
        (
            "Paid, not credited",
            frames.uncredited(unpaid),
            "The processor has the money and the books do not. Give it back at the processor, or "
            "find out whose it is and settle it by hand.",
            "Every payment is credited.",
        ),
        (
            "Flagged accounts",
            flagged,
            "More went back than was left of what they bought. The difference is our loss.",
            "No account got more back than it had left.",
        ),
        (
            "Letters that did not go",
            frames.letters(troubled),
            "Given up after many tries, refused by the other side, or lost sight of.",
            "Every letter has gone or is on its way.",
        ),
    )
    for column, (title, frame, _, _) in zip(st.columns(len(lists)), lists, strict=True):
        at_least = "≥ " if len(frame) == SHOWN else ""
        column.metric(title, f"{at_least}{len(frame):,}", border=True)
    _list(*lists[0])
    settle_form(unpaid)
    for others in lists[1:]:
        _list(*others)
    put_back_form(troubled)


def _list(title: str, frame: pd.DataFrame, meaning: str, fine: str) -> None:
    st.subheader(title)
    if frame.empty:
        st.success(fine)
        return
    st.caption(meaning)
    amounts = st.column_config.TextColumn(alignment="right")
    configured = {name: amounts for name in AMOUNTS if name in frame.columns}
    st.dataframe(frame, hide_index=True, column_config=configured)
