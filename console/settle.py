"""The form that settles a payment which was not credited."""

from __future__ import annotations

import re
from collections.abc import Sequence

import streamlit as st

from console import decisions, frames, wiring
from console.signin import signed_in
from console.words import plain
from kyma.money import ZERO, Usd, decimal_text, usd
from kyma.orders import Uncredited
from kyma.payments import CURRENCY

DOLLARS = re.compile(r"[0-9]{1,7}(\.[0-9]{1,2})?")
HINT = "The customer reads this beside the credit."


def settle_form(unpaid: Sequence[Uncredited]) -> None:
    """Which payment, whose the credit is, how much and why; nothing while there is none."""
    if not unpaid:
        return
    chosen = st.selectbox("Settle by hand", unpaid, format_func=_named, key=f"of-{len(unpaid)}")
    payment = chosen.payment
    with st.form(f"settle-{payment.id}", enter_to_submit=False):
        st.caption(
            "Grants credit in the payment's place. Refund nothing of it afterwards: what was "
            "granted is not taken back with the money."
        )
        account = st.text_input("Account", payment.account_id, key=f"account-{payment.id}")
        amount = st.text_input("Credit (USD)", _left(chosen), key=f"amount-{payment.id}")
        reason = decisions.asked_reason(f"reason-{payment.id}", HINT)
        if not st.form_submit_button("Settle"):
            return
    credit = _dollars(amount)
    if credit is None:
        st.error(plain(f"“{amount}” is no amount of dollars."))
        return
    flow = wiring.console().uncredited_payments
    decisions.decide(
        flow.settle(payment.id, account, credit, reason, signed_in()),
        f"Payment {payment.id} is settled: {frames.money(credit)} for account {account.strip()}.",
    )


def _left(one: Uncredited) -> str:
    """What of it has not gone back; in another currency somebody has to say what it is worth."""
    if one.payment.currency.lower() != CURRENCY:
        return ""
    return decimal_text(max(one.payment.amount - one.returned, ZERO))


def _named(one: Uncredited) -> str:
    payment = one.payment
    return f"{payment.id}, {decimal_text(payment.amount)} {payment.currency.upper()}"


def _dollars(text: str) -> Usd | None:
    """An amount as it was typed; None for what is none."""
    return usd(text.strip()) if DOLLARS.fullmatch(text.strip()) else None
