"""Tier overrides: who asks for one, and any customer's tier, decided by hand."""

from __future__ import annotations

import streamlit as st

from console import asked, decisions, frames, referred, wiring
from console.words import plain
from kyma.accounts import Account
from kyma.errors import Refusal
from kyma.flows.overrides import CustomerTier

FOUND_AT_MOST = 20
"""As many as the port answers unless told otherwise."""


def page() -> None:
    """Open requests; find, show, grant, revoke, history."""
    st.title("Tier overrides")
    st.caption(
        "A tier follows lifetime deposits. An override puts a customer on another one, "
        "from their next request until it ends or is revoked."
    )
    decisions.say_what_was_done()
    asked.open_requests()
    account = _chosen()
    if account is None:
        return
    try:
        customer = wiring.run(wiring.console().overrides.look(account.id))
    except Refusal as refusal:
        st.error(plain(refusal.message))
        return
    _show(customer)
    left, right = st.columns(2, gap="large")
    with left:
        decisions.grant_form(customer)
    with right:
        decisions.revoke_form(customer)
    _show_history(customer)
    referred.section(customer)


def _chosen() -> Account | None:
    text = st.text_input(
        "Customer", placeholder="E-mail, part of one, or account id", key="customer", max_chars=254
    )
    if not text.strip():
        st.info("Enter a customer's e-mail address or account id to begin.")
        return None
    found = wiring.run(wiring.console().overrides.find(text))
    if not found:
        st.warning(
            f"No customer matches “{plain(text.strip())}”. Try a shorter part of the address."
        )
        return None
    if len(found) == 1:
        return found[0]
    more = " or more" if len(found) >= FOUND_AT_MOST else ""
    return st.selectbox(
        f"{len(found)}{more} customers match",
        found,
        index=None,
        format_func=lambda account: account.email,
        placeholder="Choose one",
        key="found",
    )


def _show(customer: CustomerTier) -> None:
    st.subheader(plain(customer.account.email))
    st.caption(
        f"Account {customer.account.id}, since {customer.account.created_at:%Y-%m-%d}",
    )
    deposits = customer.standing.lifetime_deposits
    overridden = customer.in_force(wiring.console().clock.now()) is not None
    columns = st.columns(3)
    columns[0].metric("Tier now", customer.tier.name, border=True)
    columns[1].metric(
        "Tier from deposits" if overridden else "Decided by",
        customer.earned.name if overridden else "deposits",
        border=True,
    )
    columns[2].metric("Lifetime deposits", frames.money(deposits), border=True)
    st.markdown(f"**Why:** {plain(customer.why)}")
    with st.expander("Limits of every tier", expanded=False):
        st.table(frames.limits(customer))


def _show_history(customer: CustomerTier) -> None:
    st.subheader("History")
    if not customer.history:
        st.caption("Nobody has overridden this customer's tier yet.")
        return
    now = wiring.console().clock.now()
    st.dataframe(frames.history(customer.history, now), hide_index=True)
