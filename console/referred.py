"""Whom a customer sent, and the form that voids a referral which is none."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from console import decisions, frames, wiring
from console.signin import signed_in
from kyma.flows.overrides import CustomerTier
from kyma.referrals import Referral, State


def section(customer: CustomerTier) -> None:
    """The list, and the form while one is pending; nothing for a customer who sent nobody."""
    sent = wiring.run(wiring.console().referrals.sent(customer.account.id))
    if not sent:
        return
    st.subheader("Referrals")
    st.dataframe(frames.referrals(sent), hide_index=True)
    pending = [referral for referral in sent if referral.state is State.PENDING]
    if pending:
        _void_form(pending)


def _void_form(pending: Sequence[Referral]) -> None:
    form = f"void-{len(pending)}-{pending[0].id}"
    with st.form(form, enter_to_submit=False):
        st.markdown("**Void a referral**")
        st.caption("Nobody is rewarded for it, and the account cannot be referred again.")
        chosen = st.selectbox(
            "Referred account",
            pending,
            format_func=lambda referral: referral.referred_id,
            key=f"referral-{form}",
        )
        reason = decisions.asked_reason(f"reason-{form}")
        if not st.form_submit_button("Void"):
            return
    decisions.decide(
        wiring.console().referrals.void(chosen.id, reason, signed_in()),
        f"The referral of account {chosen.referred_id} is void.",
    )
