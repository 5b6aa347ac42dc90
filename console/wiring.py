"""How the console reaches the service: one event loop in a thread, and the bundle on it.

The only module of the console that knows an adapter. Connection pools belong to one event
loop, so every session shares this one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as WaitedTooLong
from dataclasses import dataclass
from typing import Any, TypeVar

import streamlit as st

from kyma.flows.limit_requests import HigherLimits
from kyma.flows.overrides import TierOverrides
from kyma.flows.post import LostLetters
from kyma.flows.referrals import Referrals
from kyma.flows.settlements import UncreditedPayments
from kyma.flows.signin import OperatorSignIn
from kyma.ports.billing import Orders
from kyma.ports.mail import Mails
from kyma.ports.runtime import Clock
from kyma.ports.storage import Reports, StorageUnavailable

ANSWER_WITHIN_S = 20.0
"""Above the database's own limits, which give the better message."""

BUNDLE = "console"
"""Session-state key under which a test, or a demonstration, hands in its own bundle."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Console:
    """All that pages may use."""

    overrides: TierOverrides
    signin: OperatorSignIn
    reports: Reports
    clock: Clock
    limits_asked: HigherLimits
    referrals: Referrals
    orders: Orders
    mails: Mails
    lost_letters: LostLetters
    uncredited_payments: UncreditedPayments


def console() -> Console:
    """The bundle of this session: the one handed in, or else the service's own."""
    handed_in: Console | None = st.session_state.get(BUNDLE)
    return _service() if handed_in is None else handed_in


def run(asked: Coroutine[Any, Any, T]) -> T:
    """Await on the shared loop from a page, for a bounded time."""
    answer = asyncio.run_coroutine_threadsafe(asked, _loop())
    try:
        return answer.result(ANSWER_WITHIN_S)
    except WaitedTooLong as error:
        answer.cancel()
        raise StorageUnavailable(f"no answer within {ANSWER_WITHIN_S:.0f} s") from error


@st.cache_resource(show_spinner=False)
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="kyma-console-loop", daemon=True).start()
    return loop


@st.cache_resource(show_spinner="Connecting to the service …")
def _service() -> Console:
    # Pages over other bundles need no adapter.
    from adapters.container import Container, start  # noqa: PLC0415 - see above
    from adapters.settings import Settings  # noqa: PLC0415 - see above

    container = Container(settings=Settings())

    async def connect() -> Console:
        await start(container)
        return Console(
            overrides=container.tier_overrides(),
            signin=container.operator_sign_in(),
            reports=container.reports(),
            clock=container.clock(),
            limits_asked=container.higher_limits(),
            referrals=container.referrals(),
            orders=container.orders(),
            mails=container.mails(),
            lost_letters=container.lost_letters(),
            uncredited_payments=container.uncredited_payments(),
        )

    return run(connect())
