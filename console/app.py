"""The console's entry: sign-in first, then the pages in their sections.

`streamlit run console/app.py`. Pages are functions, so that none can run without this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

if str(Path(__file__).parent.parent) not in sys.path:
    # Streamlit puts this file's own folder on the path, not the one that holds the packages.
    sys.path.insert(0, str(Path(__file__).parent.parent))

from console import signin
from console.pages import money_in, tier_overrides, usage
from kyma.ports.storage import StorageUnavailable

SECTIONS = {
    "Customers": [
        st.Page(
            tier_overrides.page,
            title="Tier overrides",
            icon=":material/tune:",
            url_path="tier-overrides",
        ),
        st.Page(
            money_in.page,
            title="Money in",
            icon=":material/payments:",
            url_path="money-in",
        ),
    ],
    "Figures": [
        st.Page(
            usage.page,
            title="Usage",
            icon=":material/bar_chart:",
            url_path="usage-figures",
            default=True,
        ),
    ],
}


def main() -> None:
    """Show the page that the address names, to operators only."""
    st.set_page_config(page_title="Kyma console", page_icon="🌊", layout="wide")
    try:
        known = signin.is_signed_in()
        # Registered for strangers too: their address is still there after they have signed in.
        chosen = st.navigation(SECTIONS, position="sidebar" if known else "hidden")
        if known:
            _who()
            chosen.run()
        else:
            signin.page()
    except StorageUnavailable:
        st.error("The service cannot reach its database. Nothing was changed; try again shortly.")


def _who() -> None:
    with st.sidebar:
        st.caption("Signed in as")
        st.text(signin.signed_in())
        st.button("Sign out", on_click=signin.sign_out, width="stretch")


main()
