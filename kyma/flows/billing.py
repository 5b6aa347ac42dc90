"""The bracket of money around a call: hold, then settle or refund, exactly once.

Resolutions run in tasks of their own: a cancelled request still gets its hold resolved. A
process that dies resolves nothing; the sweep returns its holds when they expire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from kyma.calls import Size
from kyma.catalog.model import Model
from kyma.errors import BILLING_URL, Code, Refusal
from kyma.flows.access import unavailable
from kyma.ledger import Hold, Kind, Outcome, Resolution
from kyma.money import ZERO, Usd, decimal_text, number
from kyma.ports.storage import Held, Ledger, Resolved, StorageUnavailable
from kyma.pricing import max_output_for
from kyma.usage import UsageRecord

T = TypeVar("T")

RETRY_PAUSES_S = (0.05, 0.25, 1.0, 2.0)
"""A resolution is tried again this long after a failure; afterwards the sweep has it."""


class Billing:
    """Holds and their ends."""

    def __init__(self, ledger: Ledger, hold_ttl_s: int) -> None:
        """`hold_ttl_s` must exceed the longest request, or the sweep takes live holds."""
        self._ledger = ledger
        self._hold_ttl_s = hold_ttl_s
        self._ending: set[asyncio.Task[Any]] = set()

    async def hold(
        self, id: str, account_id: str, model: Model, size: Size, key_id: str = ""
    ) -> Hold:
        """Reserve the worst case, or refuse with what would fit."""
        amount = model.price.estimate(size)
        try:
            held = await self._ledger.hold(id, account_id, amount, self._hold_ttl_s, key_id)
        except StorageUnavailable as error:
            raise unavailable() from error
        if held.hold is None:
            raise _not_enough(held, amount, model, size)
        return held.hold

    async def settle(self, hold: Hold, bill: Usd, cost: Usd, record: UsageRecord) -> Resolved:
        """Charge the bill, at most the hold. Raises `StorageUnavailable` if it could not be."""
        return await self._end(Resolution(hold.id, Kind.SETTLE, bill, cost), record)

    async def refund(self, hold: Hold, cost: Usd, record: UsageRecord | None) -> Resolved:
        """Return the whole hold; `cost` is what the provider bills us all the same."""
        return await self._end(Resolution(hold.id, Kind.REFUND, ZERO, cost), record)

    async def _end(self, how: Resolution, record: UsageRecord | None) -> Resolved:
        """Resolve a hold. Whoever is cancelled meanwhile goes on once it is resolved.

        What has begun to be charged will be: to give up here would be to tell a caller that it
        was not, and to withhold what was paid for.
        """
        task = self._task(self._insist(how, record))
        while not task.done():
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.cancelled():
                    raise
        return task.result()

    async def detached(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end even if whoever waits for it is cancelled."""
        return await asyncio.shield(self._task(work))

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: the waiter, if there still is one, has raised it

    async def _insist(self, how: Resolution, record: UsageRecord | None) -> Resolved:
        for pause in RETRY_PAUSES_S:
            try:
                return await self._ledger.resolve(how, record)
            except StorageUnavailable:
                await asyncio.sleep(pause)
        return await self._ledger.resolve(how, record)

    async def drained(self) -> None:
        """Wait for resolutions under way, before the process stops."""
        while self._ending:
            await asyncio.wait(self._ending)


def _not_enough(held: Held, amount: Usd, model: Model, size: Size) -> Refusal:
    if held.cap_left is not None:
        return _capped(held.cap_left, amount, max_output_for(model.price, size, held.cap_left))
    if held.outcome is not Outcome.INSUFFICIENT:
        raise RuntimeError(f"a new hold ended as {held.outcome}")
    fits = max_output_for(model.price, size, held.available)
    hint = f" A max_tokens of {fits} would fit." if fits > 0 else ""
    return Refusal(
        Code.INSUFFICIENT_CREDITS,
        f"Insufficient credits: this request may cost up to ${decimal_text(amount)} and "
        f"${decimal_text(held.available)} is available. Nothing was charged.{hint} "
        f"Add credits at {BILLING_URL}.",
        details={
            "cta_url": BILLING_URL,
            "needed_usd": number(amount),
            "needed": decimal_text(amount),
            "available_usd": number(held.available),
            "available": decimal_text(held.available),
            "max_tokens_that_fit": fits,
        },
    )


def _capped(left: Usd, amount: Usd, fits: int) -> Refusal:
    hint = f" A max_tokens of {fits} would fit." if fits > 0 else ""
    return Refusal(
        Code.KEY_CAP_REACHED,
        f"This request may cost up to ${decimal_text(amount)} and the monthly cap of this API key "
        f"has ${decimal_text(left)} left. Nothing was charged.{hint} The cap starts anew on the "
        "first of the month (UTC); the owner of the key can raise it with "
        "PATCH /v1/auth/keys/{id}.",
        details={
            "needed_usd": number(amount),
            "needed": decimal_text(amount),
            "cap_left_usd": number(left),
            "cap_left": decimal_text(left),
            "max_tokens_that_fit": fits,
        },
    )
