"""Customers' open requests for higher limits, and the two forms that answer one."""

from __future__ import annotations

import streamlit as st

from console import decisions, wiring
from console.signin import signed_in
from console.words import plain
from kyma.limit_requests import LimitRequest
from kyma.tiers import TIERS

SHOWN = 20
"""Requests with their forms on one page; those that came first."""

USUAL = len(TIERS) - 1
"""What is usually asked for: the limits of the highest tier."""

HINT = "The customer reads this in the letter."


def open_requests() -> None:
    """Each in a drawer of its own, oldest first; nothing at all while there is none."""
    waiting = wiring.run(wiring.console().limits_asked.waiting())
    if not waiting:
        return
    st.subheader(f"Open requests: {len(waiting)}")
    for request in waiting[:SHOWN]:
        asked = f"{request.requested_at:%Y-%m-%d %H:%M} UTC"
        with st.expander(f"**{plain(request.company)}** · {plain(request.email)} · {asked}"):
            _request(request)
    if len(waiting) > SHOWN:
        st.caption(f"{len(waiting) - SHOWN} more follow when these are answered.")
    st.divider()


def _request(request: LimitRequest) -> None:
    st.caption("What for")
    st.text(request.use)
    st.caption("Expected load")
    st.text(request.expected_load)
    st.caption(f"Account {request.account_id}")
    left, right = st.columns(2, gap="large")
    with left:
        _approve(request)
    with right:
        _decline(request)


def _approve(request: LimitRequest) -> None:
    form = f"approve-{request.id}"
    with st.form(form, enter_to_submit=False):
        st.markdown("**Approve**")
        level, until = decisions.tier_and_end(form, USUAL)
        reason = decisions.asked_reason(f"reason-{form}", HINT)
        if not st.form_submit_button("Approve", type="primary", key=f"submit-{form}"):
            return
    decisions.decide(
        wiring.console().limits_asked.approve(request, level, reason, until, signed_in()),
        f"{request.email} is on {TIERS[level].name} from the next request, and is told by mail.",
    )


def _decline(request: LimitRequest) -> None:
    form = f"decline-{request.id}"
    with st.form(form, enter_to_submit=False):
        st.markdown("**Decline**")
        st.caption("Their limits stay as they are.")
        reason = decisions.asked_reason(f"reason-{form}", HINT)
        if not st.form_submit_button("Decline", key=f"submit-{form}"):
            return
    decisions.decide(
        wiring.console().limits_asked.decline(request, reason, signed_in()),
        f"The request of {request.email} is declined, and they are told by mail.",
    )
