"""The form that puts a letter back which did not go."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from console import decisions, wiring
from console.frames import MINUTE
from console.signin import signed_in
from kyma.mail import RETURNABLE, State, Trouble

LINKS = (
    "A letter about a link cannot be put back: its link is dead. Whoever waits for one asks for "
    "another on the page they came from."
)
TWICE = " (may have gone: it could come twice)"


def put_back_form(troubled: Sequence[Trouble]) -> None:
    """Which letter, and why; what cannot go again is left out, and said to be."""
    able = [trouble for trouble in troubled if trouble.letter in RETURNABLE and trouble.to]
    if len(able) < len(troubled):
        st.caption(LINKS)
    if not able:
        return
    form = f"back-{len(able)}-{able[0].id}"
    with st.form(form, enter_to_submit=False):
        st.markdown("**Send after all**")
        st.caption("Once what kept it from going is mended. It is tried like a new one.")
        chosen = st.selectbox("Letter", able, format_func=_named, key=f"letter-{form}")
        reason = decisions.asked_reason(f"reason-{form}")
        if not st.form_submit_button("Put back"):
            return
    decisions.decide(
        wiring.console().lost_letters.put_back(chosen.id, reason, signed_in()),
        f"The letter to {chosen.to} is on its way again.",
    )


def _named(trouble: Trouble) -> str:
    told = f"{trouble.letter.value.replace('_', ' ')} to {trouble.to}"
    unsure = TWICE if trouble.state is State.UNKNOWN else ""
    return f"{told}, {trouble.ended_at.strftime(MINUTE)}{unsure}"
