"""The sign-in page, and who is signed in.

A session lives in the server's memory and ends with its browser tab, with a sign-out, or
after `SESSION_HOURS`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import streamlit as st

from console import wiring
from kyma.accounts import MAX_PASSWORD_LENGTH
from kyma.errors import Refusal
from kyma.flows.signin import MAX_NAME_LENGTH

SESSION_HOURS = 12

OPERATOR = "operator"
SINCE = "signed_in_at"


def is_signed_in() -> bool:
    """Whether an operator is signed in, and recently enough."""
    since: datetime | None = st.session_state.get(SINCE)
    if OPERATOR not in st.session_state or since is None:
        return False
    if wiring.console().clock.now() - since < timedelta(hours=SESSION_HOURS):
        return True
    sign_out()
    return False


def signed_in() -> str:
    """The operator's name; pages are only run for a signed-in one."""
    return str(st.session_state[OPERATOR])


def sign_out() -> None:
    """Forget the operator and all that their pages remembered."""
    kept = {wiring.BUNDLE}
    for key in [key for key in st.session_state if key not in kept]:
        del st.session_state[key]


def page() -> None:
    """Name, password, and one sentence if they are wrong."""
    _, middle, _ = st.columns([1, 1.4, 1])
    with middle:
        st.title("Kyma console")
        st.caption("For operators. `make up` prints the first operator's name and password.")
        with st.form("sign_in"):
            name = st.text_input("Name", max_chars=MAX_NAME_LENGTH, autocomplete="username")
            password = st.text_input(
                "Password",
                type="password",
                max_chars=MAX_PASSWORD_LENGTH,
                autocomplete="current-password",
            )
            if not st.form_submit_button("Sign in", type="primary"):
                return
        _attempt(name, password)


def _attempt(name: str, password: str) -> None:
    console, state = wiring.console(), st.session_state
    try:
        operator = wiring.run(console.signin.sign_in(name, password))
    except Refusal as refusal:
        st.error(refusal.message)
        return
    if operator is None:
        st.error("Name or password is wrong.")
        return
    state[OPERATOR] = operator.name
    state[SINCE] = console.clock.now()
    st.rerun()
