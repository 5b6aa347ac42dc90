"""The server as a test holds it: its address, the buyer, the bank, and its webhooks."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Container, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import aiohttp
import stripe
from aiohttp import web

from tests.stripe_server.app import Api, Asked, Fault
from tests.stripe_server.world import World

Event = dict[str, Any]


class StripeServer:
    """Everything a test may do. Ids go in and come out; `world` has the objects."""

    secret_key = "sk_test_kyma"
    webhook_secret = "whsec_kyma"

    def __init__(self) -> None:
        self.world = World()
        self.api = Api(self.world, self.secret_key)
        self.webhook_url = ""
        """Where `deliver` posts to."""

        self._delivered = 0

    @property
    def url(self) -> str:
        """What `stripe_api_base` is set to."""
        return self.world.base

    @property
    def asked(self) -> list[Asked]:
        """Every request that had the right key."""
        return self.api.asked

    # The buyer

    def card(self, customer: str, kind: str = "success") -> str:
        """A saved card (kinds: tests/stripe_server/cards.py)."""
        return str(self.world.add_card(kind, customer)["id"])

    def pay(
        self, session_id: str, card: str = "success", *, save: bool = False, late: bool = False
    ) -> str | None:
        """Submit a hosted page; the payment intent's id. A card that fails raises `ApiError`.

        `late` pays on a page that has expired, as when the payment was under way by then.
        """
        session = self.world.get("checkout.session", session_id)
        assert session["status"] == "open" or (late and session["status"] == "expired")
        self.world.complete(session, card, save=save)
        paid: str | None = session["payment_intent"]
        return paid

    def settle(self, payment_id: str, *, paid: bool = True) -> None:
        """The end of a payment that was processing."""
        self.world.settle(self.world.get("payment_intent", payment_id), paid=paid)

    def authenticate(self, payment_id: str, *, agreed: bool = True) -> None:
        """The owner of a card confirms a payment that `requires_action` at the bank, or not."""
        self.world.authenticate(self.world.get("payment_intent", payment_id), agreed=agreed)

    def expire(self, session_id: str) -> None:
        """A page's time is over."""
        self.world.expire(self.world.get("checkout.session", session_id))

    def address(self, customer: str, country: str = "US", postal_code: str = "94107") -> None:
        """Give a customer an address, which taxes need."""
        self.world.set_address(customer, country, postal_code)

    def delete_customer(self, customer: str) -> None:
        """The operator deletes a customer in Stripe's dashboard."""
        self.world.delete_customer(customer)

    # The shop and the bank

    def refund(self, payment_id: str, cents: int | None = None, *, pending: bool = False) -> str:
        """Give back some of a payment, tax included, or all that is left; the refund's id."""
        status = "pending" if pending else "succeeded"
        return str(self.world.add_refund(self._charge(payment_id), cents, status=status)["id"])

    def end_refund(self, refund_id: str, *, failed: bool) -> None:
        """A refund arrives, or its bank sends it back."""
        self.world.end_refund(self.world.get("refund", refund_id), failed=failed)

    def dispute(self, payment_id: str, cents: int | None = None, *, inquiry: bool = False) -> str:
        """The bank withdraws some or all; an inquiry only asks. The dispute's id."""
        charge = self._charge(payment_id)
        return str(self.world.add_dispute(charge, cents, inquiry=inquiry)["id"])

    def end_dispute(
        self, dispute_id: str, status: Literal["won", "lost", "warning_closed"]
    ) -> None:
        """How a dispute ends; what was withdrawn comes back if it is won."""
        self.world.end_dispute(self.world.get("dispute", dispute_id), status)

    def _charge(self, payment_id: str) -> dict[str, Any]:
        intent = self.world.get("payment_intent", payment_id)
        return self.world.get("charge", intent["latest_charge"])

    def pass_time(self, seconds: int) -> None:
        """Move Stripe's clock: pages expire, keys and events are forgotten."""
        self.world.shift_s += seconds
        self.world.tick()

    # Faults

    def fail(self, fault: Fault, path: str = "", times: int = 1) -> None:
        """Of the next requests whose `METHOD /path` contains `path`."""
        self.api.faults.extend([(fault, path)] * times)

    def slow_down(self, seconds: float) -> None:
        """Every request takes so long."""
        self.api.delay_s = seconds

    # Webhooks

    def events(self) -> list[Event]:
        """What is not yet delivered, oldest first; each is handed out once."""
        known = list(self.world.tables["event"].values())
        fresh = known[self._delivered :]
        self._delivered = len(known)
        return fresh

    def signed(
        self, event: Event, *, at: int | None = None, secret: str | None = None
    ) -> tuple[bytes, str]:
        """Body and `Stripe-Signature`; `at` and `secret` make an old or a forged one."""
        raw = json.dumps(event, separators=(",", ":"))
        header = stripe.WebhookSignature.generate_signature_header(
            raw, secret or self.webhook_secret, at
        )
        return raw.encode(), header

    async def deliver(
        self,
        events: Sequence[Event] | None = None,
        *,
        order: Literal["sent", "reversed", "shuffled"] = "sent",
        copies: int = 1,
        drop: Container[str] = (),
        truncate: bool = False,
        together: bool = False,
        seed: int = 0,
    ) -> list[int]:
        """Post events to `webhook_url`; the statuses, in the order of posting.

        `drop` names types that are lost, `truncate` sends half of each body under the whole
        body's signature, `together` posts all at once.
        """
        chosen = [
            event
            for event in (self.events() if events is None else events)
            if event["type"] not in drop
            for _ in range(copies)
        ]
        if order == "reversed":
            chosen.reverse()
        elif order == "shuffled":
            random.Random(seed).shuffle(chosen)
        async with aiohttp.ClientSession() as session:
            if together:
                return list(
                    await asyncio.gather(*(self._post(session, one, truncate) for one in chosen))
                )
            return [await self._post(session, event, truncate) for event in chosen]

    async def _post(self, session: aiohttp.ClientSession, event: Event, truncate: bool) -> int:
        raw, header = self.signed(event)
        body = raw[: len(raw) // 2] if truncate else raw
        headers = {"Stripe-Signature": header, "Content-Type": "application/json"}
        async with session.post(self.webhook_url, data=body, headers=headers) as response:
            await response.read()
            return response.status


@asynccontextmanager
async def stripe_server(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[StripeServer]:
    """A server on a free port for as long as the block lasts."""
    server = StripeServer()
    runner = web.AppRunner(server.api.application(), shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    bound = runner.addresses[0]
    server.world.base = f"http://{bound[0]}:{bound[1]}"
    try:
        yield server
    finally:
        server.api.stop()
        await runner.cleanup()


@contextmanager
def stripe_beside() -> Iterator[StripeServer]:
    """The same on a thread of its own, for a test that blocks its event loop."""
    loop = asyncio.new_event_loop()
    up: Future[StripeServer] = Future()
    done = asyncio.Event()

    async def serve() -> None:
        async with stripe_server() as server:
            up.set_result(server)
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    try:
        yield up.result(10)
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)
        loop.close()
