"""Two gateways, Postgres and a Stripe server together: what is paid is credited once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
import pytest_asyncio

from tests.e2e.stack import Process, Stack, register
from tests.stripe_server.server import Event, StripeServer, stripe_server

WEBHOOK = "/v1/billing/webhook"


@dataclass(frozen=True, slots=True)
class Shop:
    """A customer of two gateways that share everything."""

    stack: Stack
    gateways: tuple[Process, Process]
    stripe: StripeServer
    key: str

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        url = f"{self.gateways[0].url}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, json=body, headers=headers) as response,
        ):
            assert response.status == 200, await response.text()
            return await response.json()

    async def pay(self) -> str:
        """Buy on a page, and pay there; the payment."""
        order = await self.ask("POST", "/v1/billing/checkout", {"amount": 20})
        payment = self.stripe.pay(order["url"].rsplit("/", 1)[1])
        assert payment is not None
        return payment

    async def tell(self, gateway: Process, events: list[Event], **how: Any) -> list[int]:
        self.stripe.webhook_url = gateway.url + WEBHOOK
        return await self.stripe.deliver(events, **how)

    async def rows(self, query: str) -> list[Any]:
        connection = await asyncpg.connect(self.stack.database_url)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()


@pytest_asyncio.fixture
async def shop(stack: Stack) -> AsyncIterator[Shop]:
    async with stripe_server() as stripe:
        settings = {
            "stripe_secret_key": stripe.secret_key,
            "stripe_webhook_secret": stripe.webhook_secret,
            "stripe_api_base": stripe.url,
            "data_dir": str(stack.folder),
        }
        first = await stack.gateway("first", **settings)
        second = await stack.gateway("second", **settings)
        key = (await register(first.url))["api_key"]
        yield Shop(stack, (first, second), stripe, key)


BOOKED = "SELECT kind, paid, processor FROM entries WHERE kind <> 'grant' ORDER BY kind"


async def test_a_hundred_deliveries_to_two_processes_at_once_are_one_deposit(shop: Shop) -> None:
    await shop.pay()
    events = shop.stripe.events()
    deliveries = [events[number % len(events)] for number in range(100)]

    async def half(gateway: Process, part: list[Event]) -> list[int]:
        async with aiohttp.ClientSession() as session:
            return list(
                await asyncio.gather(*(_post(session, shop.stripe, gateway, one) for one in part))
            )

    answers = await asyncio.gather(
        half(shop.gateways[0], deliveries[:50]), half(shop.gateways[1], deliveries[50:])
    )
    assert {status for part in answers for status in part} == {200}
    assert await shop.rows(BOOKED) == [("deposit", 20_000_000_000, -20_000_000_000)]
    assert await shop.rows("SELECT letter FROM mails WHERE letter = 'receipt'") == [("receipt",)]
    balance = await shop.ask("GET", "/v1/credits/balance")
    assert balance["lifetime_purchased"] == "20"


async def _post(
    session: aiohttp.ClientSession, stripe: StripeServer, gateway: Process, event: Event
) -> int:
    raw, header = stripe.signed(event)
    headers = {"Stripe-Signature": header}
    async with session.post(gateway.url + WEBHOOK, data=raw, headers=headers) as response:
        await response.read()
        return response.status


async def test_notices_in_any_order_with_refunds_among_them_end_in_the_same_balance(
    shop: Shop,
) -> None:
    payment = await shop.pay()
    shop.stripe.refund(payment, 500)
    shop.stripe.end_refund(shop.stripe.refund(payment, 300, pending=True), failed=True)
    events = shop.stripe.events()
    first, second = shop.gateways
    for gateway, seed in ((first, 1), (second, 2)):
        told = await shop.tell(
            gateway, events, order="shuffled", copies=3, together=True, seed=seed
        )
        assert set(told) == {200}
    assert await shop.tell(first, events[:1], truncate=True) == [400]
    assert sorted(await shop.rows(BOOKED)) == [
        ("deposit", 20_000_000_000, -20_000_000_000),
        ("reinstate", 3_000_000_000, -3_000_000_000),
        ("reversal", -5_000_000_000, 5_000_000_000),
        ("reversal", -3_000_000_000, 3_000_000_000),
    ]
    assert (await shop.ask("GET", "/v1/credits/balance"))["lifetime_purchased"] == "15"


async def test_a_payment_whose_notices_are_all_lost_is_credited_on_return(shop: Shop) -> None:
    order = await shop.ask("POST", "/v1/billing/checkout", {"amount": 20})
    shop.stripe.pay(order["url"].rsplit("/", 1)[1])
    where = f"/v1/billing/checkout/{order['order_id']}"
    assert (await shop.ask("GET", where))["status"] == "credited"
    assert [kind for kind, *_ in await shop.rows(BOOKED)] == ["deposit"]
