"""The Stripe server of the tests is held to the `stripe` package's types and to Stripe's rules."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import stripe

from adapters.payments.calls import API_VERSION, make_client, make_http
from tests.stripe_server import Fault, StripeServer, stripe_server
from tests.stripe_server.cards import CARDS
from tests.stripe_server.errors import ApiError
from tests.stripe_server.forms import parsed
from tests.stripe_server.package_types import faults


@pytest_asyncio.fixture
async def server() -> AsyncIterator[StripeServer]:
    async with stripe_server() as server:
        yield server


@pytest_asyncio.fixture
async def client(server: StripeServer) -> AsyncIterator[stripe.StripeClient]:
    http = make_http(2.0)
    yield make_client(server.secret_key, server.url, http)
    await http.close_async()


class Raw:
    """The API without the package: plain requests and JSON."""

    def __init__(self, server: StripeServer, session: aiohttp.ClientSession) -> None:
        self._server = server
        self._session = session

    async def __call__(
        self, method: str, path: str, key: str | None = None, secret: str = "", **params: str
    ) -> tuple[int, dict[str, Any], Any]:
        headers = {
            "Authorization": f"Bearer {secret or self._server.secret_key}",
            "Stripe-Version": API_VERSION,
        }
        if key is not None:
            headers["Idempotency-Key"] = key
        sent: dict[str, Any] = {"params" if method == "GET" else "data": params}
        url = self._server.url + path
        async with self._session.request(method, url, headers=headers, **sent) as response:
            return response.status, await response.json(), response.headers


@pytest_asyncio.fixture
async def raw(server: StripeServer) -> AsyncIterator[Raw]:
    async with aiohttp.ClientSession() as session:
        yield Raw(server, session)


async def a_page(client: stripe.StripeClient, customer: str, cents: int = 500) -> str:
    session = await client.v1.checkout.sessions.create_async(
        {
            "mode": "payment",
            "customer": customer,
            "success_url": "https://kyma.example/back?checkout={CHECKOUT_SESSION_ID}",
            "customer_update": {"address": "auto"},
            "automatic_tax": {"enabled": True},
            "invoice_creation": {"enabled": True},
            "saved_payment_method_options": {"payment_method_save": "enabled"},
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": "usd",
                        "unit_amount": cents,
                        "product_data": {"name": "Kyma credit"},
                    },
                }
            ],
        }
    )
    return session.id


async def a_customer(client: stripe.StripeClient) -> str:
    return (await client.v1.customers.create_async({"email": "ada@example.com"})).id


async def an_intent(
    client: stripe.StripeClient, customer: str, card: str, cents: int = 500
) -> stripe.PaymentIntent:
    return await client.v1.payment_intents.create_async(
        {
            "amount": cents,
            "currency": "usd",
            "customer": customer,
            "payment_method": card,
            "confirm": True,
            "off_session": True,
        }
    )


# The package's types


async def a_busy_world(server: StripeServer, client: stripe.StripeClient) -> None:
    """Every kind of object, in many of its states."""
    server.world.tax_basis_points = 825
    customer = await a_customer(client)
    for kind in CARDS:
        page = await a_page(client, customer)
        try:
            server.pay(page, kind, save=True)
        except ApiError:
            server.expire(page)
        try:
            await an_intent(client, customer, server.card(customer, kind))
        except stripe.CardError:
            continue
    first, second = server.world.newest("payment_intent", status="processing")
    server.settle(first["id"])
    server.settle(second["id"], paid=False)
    paid = [row["id"] for row in server.world.newest("payment_intent", status="succeeded")]
    server.refund(paid[0])
    server.end_refund(server.refund(paid[1], 100, pending=True), failed=True)
    server.end_dispute(server.dispute(paid[2]), "won")
    server.end_dispute(server.dispute(paid[3], inquiry=True), "warning_closed")
    server.address(customer)
    await client.v1.tax.calculations.create_async(
        {"currency": "usd", "customer": customer, "line_items": [{"amount": 500}]}
    )
    setup = await client.v1.checkout.sessions.create_async(
        {"mode": "setup", "customer": customer, "currency": "usd", "success_url": "https://x.y"}
    )
    server.pay(setup.id)


async def test_every_object_is_what_the_packages_classes_say(
    server: StripeServer, client: stripe.StripeClient, raw: Raw
) -> None:
    await a_busy_world(server, client)
    paths = {
        "customer": "/v1/customers",
        "payment_method": "/v1/payment_methods",
        "payment_intent": "/v1/payment_intents",
        "setup_intent": "/v1/setup_intents",
        "charge": "/v1/charges",
        "checkout.session": "/v1/checkout/sessions",
        "product": "/v1/products",
        "price": "/v1/prices",
        "invoice": "/v1/invoices",
        "refund": "/v1/refunds",
        "dispute": "/v1/disputes",
        "event": "/v1/events",
    }
    for kind, path in paths.items():
        rows = list(server.world.tables[kind])
        assert rows, kind
        for id in rows:
            status, body, _ = await raw("GET", f"{path}/{id}")
            assert status == 200
            assert faults(body) == []
    for row in server.world.tables["tax.calculation"].values():
        assert faults(row) == []


async def test_what_is_expanded_is_what_the_packages_classes_say(
    server: StripeServer, client: stripe.StripeClient, raw: Raw
) -> None:
    await a_busy_world(server, client)
    refunded = server.world.newest("refund")[0]["payment_intent"]
    _, intent, _ = await raw(
        "GET", f"/v1/payment_intents/{refunded}", **{"expand[0]": "latest_charge.refunds"}
    )
    assert intent["latest_charge"]["refunds"]["data"][0]["payment_intent"] == refunded
    assert faults(intent) == []
    _, page, _ = await raw(
        "GET", "/v1/checkout/sessions", **{"expand[]": "data.invoice", "limit": "100"}
    )
    assert any(row["invoice"] for row in page["data"])
    assert [fault for row in page["data"] for fault in faults(row)] == []


async def test_what_an_event_is_about_is_what_the_packages_classes_say(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    await a_busy_world(server, client)
    events = server.events()
    assert {"charge.dispute.funds_withdrawn", "refund.failed", "invoice.paid"} <= {
        event["type"] for event in events
    }
    for event in events:
        assert faults(event["data"]["object"]) == [], event["type"]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("amount", "500", "amount"),
        ("metadata", None, "metadata"),
        ("status", "paid", "status"),
        ("invoice", "in_1", "has not"),
        ("last_payment_error", {"code": "x"}, "last_payment_error"),
    ],
)
async def test_the_check_on_types_finds_what_is_wrong(
    server: StripeServer, field: str, value: object, named: str
) -> None:
    intent = copy.deepcopy(server.world.add_intent(500, "usd"))
    assert faults(intent) == []
    intent[field] = value
    assert any(named in fault for fault in faults(intent))


async def test_the_check_on_types_finds_what_is_missing(server: StripeServer) -> None:
    intent = copy.deepcopy(server.world.add_intent(500, "usd"))
    del intent["amount_received"]
    assert faults(intent) == ["payment_intent.amount_received is missing"]


def test_the_version_that_is_pinned_is_the_packages_own() -> None:
    """So that its types are those of the answers."""
    assert stripe.api_version == API_VERSION


# Bodies, keys, errors


@pytest.mark.parametrize(
    ("body", "tree"),
    [
        ("", {}),
        ("a=1&b=", {"a": "1", "b": ""}),
        ("a[b][c]=1&a[b][d]=2", {"a": {"b": {"c": "1", "d": "2"}}}),
        ("a[0][b]=1&a[1][b]=2&a[0][c]=3", {"a": [{"b": "1", "c": "3"}, {"b": "2"}]}),
        ("a[]=1&a[]=2", {"a": ["1", "2"]}),
        ("m[x%5D]=%7BID%7D", {"m": {"x": "{ID}"}}),
    ],
)
def test_nested_bodies_are_read(body: str, tree: object) -> None:
    assert parsed(body) == tree


async def test_a_wrong_key_is_401(raw: Raw) -> None:
    status, body, _ = await raw("GET", "/v1/customers", secret="sk_test_other")
    assert status == 401
    assert "Invalid API Key provided" in body["error"]["message"]


async def test_a_parameter_that_the_api_does_not_know_is_refused(raw: Raw) -> None:
    status, body, _ = await raw(
        "POST", "/v1/checkout/sessions", **{"line_items[0][price_data][sum]": "1"}
    )
    assert status == 400
    assert body["error"]["code"] == "parameter_unknown"
    assert body["error"]["param"] == "line_items[0][price_data][sum]"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"currency": "usd"}, "parameter_missing"),
        ({"currency": "usd", "amount": "5.5"}, "parameter_invalid_integer"),
        ({"currency": "usd", "amount": "49"}, "amount_too_small"),
        ({"currency": "usd", "amount": "-500"}, "amount_too_small"),
        ({"currency": "usd", "amount": "100000000"}, "amount_too_large"),
        ({"currency": "usd", "amount": "500", "customer": "cus_x"}, "resource_missing"),
    ],
)
async def test_a_wrong_payment_is_refused_in_stripes_words(
    raw: Raw, params: dict[str, str], code: str
) -> None:
    status, body, _ = await raw("POST", "/v1/payment_intents", **params)
    assert (status, body["error"]["code"]) == (400, code)
    assert body["error"]["type"] == "invalid_request_error"


async def test_another_currency_is_refused(raw: Raw) -> None:
    status, body, _ = await raw("POST", "/v1/payment_intents", amount="500", currency="eur")
    assert (status, body["error"]["param"]) == (400, "currency")


async def test_what_is_not_there_is_404(raw: Raw) -> None:
    status, body, _ = await raw("GET", "/v1/payment_intents/pi_none")
    assert (status, body["error"]["code"]) == (404, "resource_missing")


@pytest.mark.parametrize(
    ("kind", "code", "decline_code"),
    [
        ("declined", "card_declined", "generic_decline"),
        ("insufficient_funds", "card_declined", "insufficient_funds"),
        ("expired", "expired_card", None),
        ("requires_authentication", "authentication_required", "authentication_required"),
    ],
)
async def test_a_card_says_no_as_stripe_documents_it(
    server: StripeServer,
    client: stripe.StripeClient,
    kind: str,
    code: str,
    decline_code: str | None,
) -> None:
    customer = await a_customer(client)
    with pytest.raises(stripe.CardError) as caught:
        await an_intent(client, customer, server.card(customer, kind))
    error = caught.value.error
    assert error is not None
    assert (error.code, getattr(error, "decline_code", None)) == (code, decline_code)
    assert error.payment_intent is not None
    assert error.payment_intent.status == "requires_payment_method"
    assert server.world.newest("charge")[0]["status"] == "failed"


# Idempotency keys


async def test_the_same_key_gives_the_same_answer_and_says_so(
    server: StripeServer, raw: Raw
) -> None:
    first = await raw("POST", "/v1/customers", key="k", email="ada@example.com")
    again = await raw("POST", "/v1/customers", key="k", email="ada@example.com")
    assert again[:2] == first[:2]
    assert "Idempotent-Replayed" not in first[2]
    assert again[2]["Idempotent-Replayed"] == "true"
    assert len(server.world.tables["customer"]) == 1


async def test_the_same_key_with_other_parameters_is_an_error(
    server: StripeServer, raw: Raw
) -> None:
    await raw("POST", "/v1/customers", key="k", email="ada@example.com")
    status, body, _ = await raw("POST", "/v1/customers", key="k", email="bob@example.com")
    assert (status, body["error"]["type"]) == (400, "idempotency_error")
    assert len(server.world.tables["customer"]) == 1


async def test_a_key_under_way_is_a_conflict(server: StripeServer, raw: Raw) -> None:
    server.slow_down(0.1)
    answers = await asyncio.gather(
        *(raw("POST", "/v1/customers", key="k", email="ada@example.com") for _ in range(5))
    )
    assert sorted(status for status, _, _ in answers) == [200, 409, 409, 409, 409]
    assert len(server.world.tables["customer"]) == 1


async def test_a_key_is_forgotten_after_a_day(server: StripeServer, raw: Raw) -> None:
    first = await raw("POST", "/v1/customers", key="k", email="ada@example.com")
    server.pass_time(24 * 60 * 60 + 1)
    again = await raw("POST", "/v1/customers", key="k", email="ada@example.com")
    assert again[1]["id"] != first[1]["id"]


async def test_a_key_keeps_a_decline_but_not_a_failed_validation(
    server: StripeServer, raw: Raw
) -> None:
    _, customer, _ = await raw("POST", "/v1/customers", email="ada@example.com")
    card = server.card(customer["id"], "declined")
    charge = {
        "amount": "500", "currency": "usd", "customer": customer["id"], "payment_method": card,
        "confirm": "true", "off_session": "true",
    }  # fmt: skip
    first = await raw("POST", "/v1/payment_intents", key="k", **charge)
    again = await raw("POST", "/v1/payment_intents", key="k", **charge)
    assert first[0] == again[0] == 402
    assert again[1] == first[1]
    assert len(server.world.tables["charge"]) == 1
    assert (await raw("POST", "/v1/payment_intents", key="v", currency="usd"))[0] == 400
    status, _, headers = await raw("POST", "/v1/payment_intents", key="v", **charge)
    assert status == 402
    assert "Idempotent-Replayed" not in headers


async def test_a_key_keeps_a_500_and_forgets_a_503(server: StripeServer, raw: Raw) -> None:
    server.fail(Fault.ERROR)
    assert (await raw("POST", "/v1/customers", key="a"))[0] == 500
    status, _, headers = await raw("POST", "/v1/customers", key="a")
    assert (status, headers["Idempotent-Replayed"]) == (500, "true")
    server.fail(Fault.UNAVAILABLE)
    assert (await raw("POST", "/v1/customers", key="b"))[0] == 503
    assert (await raw("POST", "/v1/customers", key="b"))[0] == 200


# Lists


async def test_lists_go_on_from_a_cursor_newest_first(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    made = [await a_customer(client) for _ in range(25)]
    page = await client.v1.customers.list_async({"limit": 10})
    assert [row.id for row in page.data] == made[:14:-1]
    assert page.has_more
    assert [row.id async for row in page.auto_paging_iter()] == made[::-1]
    back = await client.v1.customers.list_async({"limit": 10, "ending_before": made[0]})
    assert [row.id for row in back.data] == made[10:0:-1]


async def test_lists_are_filtered_by_creation(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    await a_customer(client)
    server.pass_time(100)
    late = await a_customer(client)
    now = server.world.now()
    since = await client.v1.customers.list_async({"created": {"gte": now - 50}})
    before = await client.v1.customers.list_async({"created": {"lt": now - 50}})
    assert [row.id for row in since.data] == [late]
    assert len(before.data) == 1


async def test_events_are_kept_for_thirty_days(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    await a_customer(client)
    assert len((await client.v1.events.list_async()).data) == 1
    server.pass_time(31 * 86_400)
    assert (await client.v1.events.list_async()).data == []


async def test_only_what_refers_to_something_expands(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    id = server.world.add_intent(500, "usd")["id"]
    for wrong in ("status", "nothing", "a.b.c.d.e"):
        with pytest.raises(stripe.InvalidRequestError):
            await client.v1.payment_intents.retrieve_async(id, {"expand": [wrong]})


# Checkout, refunds, disputes


async def test_a_page_is_paid_over_http_and_sends_its_buyer_back(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    id = await a_page(client, await a_customer(client))
    url = f"{server.url}/c/pay/{id}"
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as shown:
            assert "Pay $5.00" in await shown.text()
        async with session.post(url, data={"card": "declined"}) as declined:
            assert declined.status == 402
            assert "Your card was declined." in await declined.text()
        answer = await session.post(url, data={"card": "success"}, allow_redirects=False)
        assert answer.status == 303
        assert answer.headers["Location"] == f"https://kyma.example/back?checkout={id}"
        async with session.get(url) as over:
            assert over.status == 410
    page = await client.v1.checkout.sessions.retrieve_async(id)
    assert (page.status, page.payment_status) == ("complete", "paid")
    intent = server.world.get("payment_intent", str(page.payment_intent))
    assert (intent["status"], intent["amount_received"]) == ("succeeded", 500)


async def test_a_page_has_no_payment_before_somebody_pays(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    id = await a_page(client, await a_customer(client))
    assert (await client.v1.checkout.sessions.retrieve_async(id)).payment_intent is None


async def test_a_page_expires_after_a_day(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    id = await a_page(client, await a_customer(client))
    server.pass_time(24 * 60 * 60)
    assert (await client.v1.checkout.sessions.retrieve_async(id)).status == "expired"
    assert [event["type"] for event in server.events()][-1] == "checkout.session.expired"
    server.pay(id, late=True)
    assert (await client.v1.checkout.sessions.retrieve_async(id)).payment_status == "paid"


async def test_taxes_come_on_top_and_are_on_the_bill(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    server.world.tax_basis_points = 825
    id = await a_page(client, await a_customer(client), 1_000)
    server.pay(id)
    page = await client.v1.checkout.sessions.retrieve_async(id, {"expand": ["invoice"]})
    assert page.total_details is not None
    assert (page.amount_subtotal, page.total_details.amount_tax, page.amount_total) == (
        1_000,
        83,
        1_083,
    )
    assert isinstance(page.invoice, stripe.Invoice)
    assert (page.invoice.total, page.invoice.total_excluding_tax) == (1_083, 1_000)


async def test_a_card_is_kept_only_if_its_owner_ticks_the_box(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    customer = await a_customer(client)
    server.pay(await a_page(client, customer))
    assert (await client.v1.customers.payment_methods.list_async(customer)).data == []
    server.pay(await a_page(client, customer), save=True)
    assert len((await client.v1.customers.payment_methods.list_async(customer)).data) == 1


async def test_no_more_is_refunded_than_was_paid(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    customer = await a_customer(client)
    intent = await an_intent(client, customer, server.card(customer))
    await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 300})
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded"):
        await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 201})
    await client.v1.refunds.create_async({"payment_intent": intent.id})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.v1.refunds.create_async({"payment_intent": intent.id})
    assert caught.value.code == "charge_already_refunded"


async def test_a_dispute_moves_money_out_and_back(
    server: StripeServer, client: stripe.StripeClient
) -> None:
    customer = await a_customer(client)
    intent = await an_intent(client, customer, server.card(customer))
    id = server.dispute(intent.id)
    server.end_dispute(id, "won")
    dispute = await client.v1.disputes.retrieve_async(id)
    assert [moved.amount for moved in dispute.balance_transactions] == [-500, 500]
    kinds = [event["type"] for event in server.events() if "dispute" in event["type"]]
    assert kinds == [
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.funds_reinstated",
        "charge.dispute.closed",
    ]


# Webhooks


class Inbox:
    """Whoever receives webhooks."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, str]] = []

    async def take(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        self.got.append((await request.read(), request.headers["Stripe-Signature"]))
        return aiohttp.web.Response(status=204)

    def kinds(self, server: StripeServer) -> list[str]:
        return [
            stripe.Webhook.construct_event(raw, header, server.webhook_secret).type
            for raw, header in self.got
        ]


@pytest_asyncio.fixture
async def inbox(server: StripeServer) -> AsyncIterator[Inbox]:
    box = Inbox()
    application = aiohttp.web.Application()
    application.router.add_post("/hook", box.take)
    runner = aiohttp.web.AppRunner(application)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    server.webhook_url = f"http://{host}:{port}/hook"
    yield box
    await runner.cleanup()


async def test_webhooks_are_signed_and_come_in_any_order(
    server: StripeServer, client: stripe.StripeClient, inbox: Inbox
) -> None:
    server.pay(await a_page(client, await a_customer(client)))
    events = server.events()
    sent = [event["type"] for event in events]
    assert await server.deliver(events) == [204] * len(events)
    assert inbox.kinds(server) == sent
    inbox.got.clear()
    await server.deliver(events, order="reversed")
    assert inbox.kinds(server) == sent[::-1]
    inbox.got.clear()
    await server.deliver(events, order="shuffled", copies=3, together=True)
    assert sorted(inbox.kinds(server)) == sorted(sent * 3)


async def test_webhooks_get_lost_and_cut(
    server: StripeServer, client: stripe.StripeClient, inbox: Inbox
) -> None:
    server.pay(await a_page(client, await a_customer(client)))
    events = server.events()
    await server.deliver(events, drop={"payment_intent.succeeded"})
    assert "payment_intent.succeeded" not in inbox.kinds(server)
    inbox.got.clear()
    await server.deliver(events, truncate=True)
    for raw, header in inbox.got:
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(raw, header, server.webhook_secret)


async def test_each_event_is_delivered_once_unless_it_is_named(
    server: StripeServer, client: stripe.StripeClient, inbox: Inbox
) -> None:
    await a_customer(client)
    assert len(await server.deliver()) == 1
    assert await server.deliver() == []
