"""The forms in which an operator decides a customer's tier, and what they say afterwards."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import UTC, datetime, time, timedelta
from typing import Any

import streamlit as st

from console import wiring
from console.signin import signed_in
from console.words import plain
from kyma.errors import Refusal
from kyma.flows.overrides import MAX_REASON_LENGTH, CustomerTier
from kyma.tiers import TIERS

NOTICE = "decision_notice"
DEFAULT_DAYS = 30


def grant_form(customer: CustomerTier) -> None:
    """Tier, end, reason."""
    # The number of decisions is in the key so that the form is fresh after each of them.
    form = f"{customer.account.id}-{len(customer.history)}"
    with st.form(f"grant-{form}", enter_to_submit=False):
        st.markdown("**Grant a tier**")
        level, until = tier_and_end(form, customer.tier.level)
        reason = asked_reason(f"grant-reason-{form}")
        if not st.form_submit_button("Grant", type="primary"):
            return
    decide(
        wiring.console().overrides.grant(customer.account.id, level, reason, until, signed_in()),
        f"{customer.account.email} is on {TIERS[level].name} from the next request.",
    )


def revoke_form(customer: CustomerTier) -> None:
    """Reason; or that there is nothing to revoke."""
    form = f"{customer.account.id}-{len(customer.history)}"
    if customer.in_force(wiring.console().clock.now()) is None:
        with st.container(border=True):
            st.markdown("**Revoke**")
            st.caption("No override is in force, so there is nothing to revoke.")
        return
    with st.form(f"revoke-{form}", enter_to_submit=False):
        st.markdown("**Revoke**")
        st.caption(f"Deposits decide again: {customer.earned.name}.")
        reason = asked_reason(f"revoke-reason-{form}")
        if not st.form_submit_button("Revoke"):
            return
    decide(
        wiring.console().overrides.revoke(customer.account.id, reason, signed_in()),
        f"The override of {customer.account.email} is revoked.",
    )


def tier_and_end(form: str, level: int) -> tuple[int, datetime | None]:
    """The fields for a tier, at first `level`, and its end; None for no end."""
    now = wiring.console().clock.now()
    chosen = st.selectbox(
        "Tier",
        range(len(TIERS)),
        index=level,
        format_func=lambda level: TIERS[level].name,
        key=f"level-{form}",
    )
    day_column, time_column = st.columns(2)
    day = day_column.date_input(
        "Ends on (UTC)", value=(now + timedelta(days=DEFAULT_DAYS)).date(), key=f"day-{form}"
    )
    at = time_column.time_input("at", value=time(0, 0), key=f"time-{form}")
    endless = st.checkbox("No end (the date is ignored)", key=f"endless-{form}")
    return chosen, None if endless else datetime.combine(day, at, UTC)


def asked_reason(key: str, hint: str = "What will the next operator need to know?") -> str:
    """The field for a reason."""
    return st.text_area(
        "Reason",
        placeholder=hint,
        max_chars=MAX_REASON_LENGTH,
        height=90,
        key=key,
    )


def decide(decision: Coroutine[Any, Any, object], done: str) -> None:
    """Carry a decision out and start the page anew, or say why not."""
    try:
        wiring.run(decision)
    except Refusal as refusal:
        st.error(plain(refusal.message))
        return
    st.session_state[NOTICE] = done
    st.rerun()


def say_what_was_done() -> None:
    """The sentence that the last decision left, once."""
    notice = st.session_state.pop(NOTICE, None)
    if notice is not None:
        st.success(plain(notice))
