"""The Stripe adapter against a Stripe that answers, fails, forgets and lies at the worst moment.

What any processor must do is in tests/contracts/test_payments.py; here is what is Stripe's own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
import stripe
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from adapters.payments import reading
from adapters.payments.calls import API_VERSION, answered
from adapters.payments.stripe import StripePayments
from kyma.money import Usd, usd
from kyma.payments import MAX_PURCHASE, MIN_PURCHASE, Order, Payment, PaymentState, Reversal, Source
from kyma.ports.payments import ProcessorRefused, ProcessorUnavailable, UnreadablePayment
from tests.builders import new_id
from tests.stripe_server import Fault, StripeServer, stripe_server

BACK = "https://kyma.example/billing/back?from=app"
CENT = 10_000_000


@pytest_asyncio.fixture
async def server() -> AsyncIterator[StripeServer]:
    async with stripe_server() as server:
        yield server


def adapter(server: StripeServer, **changed: Any) -> StripePayments:
    def now() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=server.world.shift_s)

    given: dict[str, Any] = {"now": now, "api_base": server.url, "timeout_s": 2.0} | changed
    return StripePayments(server.secret_key, server.webhook_secret, **given)


@pytest_asyncio.fixture
async def payments(server: StripeServer) -> AsyncIterator[StripePayments]:
    payments = adapter(server)
    yield payments
    await payments.close()


@pytest_asyncio.fixture
async def taxed(server: StripeServer) -> AsyncIterator[StripePayments]:
    """With Stripe Tax on, at 8.25 %."""
    server.world.tax_basis_points = 825
    payments = adapter(server, tax=True)
    yield payments
    await payments.close()


def an_order(amount: str = "20", source: Source = Source.CARD) -> Order:
    return Order(new_id(), new_id(), usd(amount), source, datetime.now(UTC))


async def a_customer(payments: StripePayments, order: Order | None = None) -> str:
    return await payments.customer(order.account_id if order else new_id(), "ada@example.com")


async def bought(server: StripeServer, payments: StripePayments, amount: str = "20") -> Payment:
    """Paid on a page."""
    order = an_order(amount, Source.CHECKOUT)
    page = await payments.checkout(order, await a_customer(payments, order), BACK)
    server.pay(page.id)
    return await standing(payments, page.id)


async def standing(payments: StripePayments, id: str) -> Payment:
    found = await payments.payment(id)
    assert found is not None
    return found


async def changed(payments: StripePayments, since: datetime) -> list[Payment]:
    """Our payments that changed since, as they stand."""
    found = [await payments.payment(id) async for id in payments.changed_since(since)]
    return [payment for payment in found if payment is not None]


def made(server: StripeServer, kind: str) -> int:
    return len(server.world.tables[kind])


# What is sent


async def test_an_order_is_named_on_the_page_the_payment_and_the_bill(
    server: StripeServer, payments: StripePayments
) -> None:
    order = an_order("12.34", Source.CHECKOUT)
    page = await payments.checkout(order, await a_customer(payments, order), BACK)
    marks = {
        "kyma_order_id": order.id,
        "kyma_account_id": order.account_id,
        "kyma_source": "checkout",
    }
    sent = server.asked[-1]
    assert sent.params["metadata"] == marks
    assert sent.params["payment_intent_data"]["metadata"] == marks
    assert sent.params["invoice_creation"]["invoice_data"]["metadata"] == marks
    assert sent.params["client_reference_id"] == order.id
    assert sent.params["line_items"][0]["price_data"]["unit_amount"] == "1234"
    assert sent.headers["Idempotency-Key"] == f"kyma-checkout-{order.id}"
    assert server.world.get("checkout.session", page.id)["metadata"] == marks
    intent = server.pay(page.id)
    assert intent is not None
    assert server.world.get("payment_intent", intent)["metadata"] == marks


async def test_nothing_of_the_buyer_is_kept_unless_the_box_on_the_page_is_ticked(
    server: StripeServer, payments: StripePayments
) -> None:
    order = an_order(source=Source.CHECKOUT)
    customer = await a_customer(payments, order)
    for save, kept in ((False, 0), (True, 1)):
        page = await payments.checkout(replace(order, id=new_id()), customer, BACK)
        assert "setup_future_usage" not in json.dumps(server.asked[-1].params)
        server.pay(page.id, save=save)
        assert len(await payments.cards(customer)) == kept


async def test_a_buyer_returns_with_the_pages_id(
    server: StripeServer, payments: StripePayments
) -> None:
    order = an_order(source=Source.CHECKOUT)
    page = await payments.checkout(order, await a_customer(payments, order), BACK)
    session = server.world.get("checkout.session", page.id)
    assert session["success_url"] == f"{BACK}&checkout={{CHECKOUT_SESSION_ID}}"
    assert session["cancel_url"] == f"{BACK}&checkout=canceled"


async def test_a_saved_card_is_charged_off_session_with_the_orders_key(
    server: StripeServer, payments: StripePayments
) -> None:
    order = an_order()
    customer = await a_customer(payments, order)
    await payments.charge(order, customer, server.card(customer))
    (sent,) = (asked for asked in server.asked if asked.path == "/v1/payment_intents")
    assert sent.params["off_session"] == sent.params["confirm"] == "true"
    assert (sent.params["amount"], sent.params["currency"]) == ("2000", "usd")
    assert sent.headers["Idempotency-Key"] == f"kyma-charge-{order.id}"
    assert sent.params["metadata"]["kyma_order_id"] == order.id


async def test_every_request_names_its_version_and_tells_nothing_of_this_machine(
    server: StripeServer, payments: StripePayments
) -> None:
    customer = await a_customer(payments)
    await payments.cards(customer)
    assert len(server.asked) == 3
    for asked in server.asked:
        assert asked.headers["Stripe-Version"] == API_VERSION
        assert "X-Stripe-Client-Telemetry" not in asked.headers
        assert "telemetry_id" not in asked.headers["X-Stripe-Client-User-Agent"]


async def test_an_address_that_changed_does_not_trip_over_the_old_key(
    payments: StripePayments,
) -> None:
    account = new_id()
    first = await payments.customer(account, "ada@example.com")
    assert await payments.customer(account, "ada@new.example") != first
    assert await payments.customer(account, "ada@example.com") == first


@pytest.mark.parametrize("amount", [MIN_PURCHASE, MAX_PURCHASE])
async def test_the_least_and_the_most_that_is_sold_pass(
    server: StripeServer, payments: StripePayments, amount: Usd
) -> None:
    order = replace(an_order(), amount=amount)
    customer = await a_customer(payments, order)
    paid = await payments.charge(order, customer, server.card(customer))
    assert (paid.state, paid.amount) == (PaymentState.PAID, amount)


# Faults

Act = Callable[[StripePayments, Order, str, str], Awaitable[object]]

WRITES: Mapping[str, tuple[Act, str, str]] = {
    "customer": (
        lambda payments, order, customer, card: payments.customer(order.account_id, "b@x.example"),
        "POST /v1/customers",
        "customer",
    ),
    "checkout": (
        lambda payments, order, customer, card: payments.checkout(order, customer, BACK),
        "POST /v1/checkout/sessions",
        "checkout.session",
    ),
    "charge": (
        lambda payments, order, customer, card: payments.charge(order, customer, card),
        "POST /v1/payment_intents",
        "payment_intent",
    ),
}


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.RESET_AFTER, Fault.UNAVAILABLE])
@pytest.mark.parametrize("write", WRITES)
async def test_one_bad_moment_is_tried_again_and_done_once(
    server: StripeServer, payments: StripePayments, write: str, fault: Fault
) -> None:
    act, path, kind = WRITES[write]
    order = an_order()
    customer = await a_customer(payments, order)
    card = server.card(customer)
    before = made(server, kind)
    server.fail(fault, path)
    first = await act(payments, order, customer, card)
    assert made(server, kind) == before + 1
    assert await act(payments, order, customer, card) == first
    assert made(server, kind) == before + 1


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.RATE_LIMITED])
@pytest.mark.parametrize("write", WRITES)
async def test_an_answer_that_is_lost_is_unavailable_and_safe_to_ask_again(
    server: StripeServer, payments: StripePayments, write: str, fault: Fault
) -> None:
    act, path, kind = WRITES[write]
    order = an_order()
    customer = await a_customer(payments, order)
    card = server.card(customer)
    before = made(server, kind)
    server.fail(fault, path)
    with pytest.raises(ProcessorUnavailable):
        await act(payments, order, customer, card)
    await act(payments, order, customer, card)
    assert made(server, kind) == before + 1


async def test_a_processor_that_stays_away_is_unavailable(
    server: StripeServer, payments: StripePayments
) -> None:
    order = an_order()
    customer = await a_customer(payments, order)
    server.fail(Fault.UNAVAILABLE, "POST /v1/payment_intents", times=3)
    with pytest.raises(ProcessorUnavailable):
        await payments.charge(order, customer, server.card(customer))
    assert made(server, "payment_intent") == 0


async def test_a_charge_that_hangs_has_a_deadline_and_is_done_once(server: StripeServer) -> None:
    hasty = adapter(server, timeout_s=0.2)
    order = an_order()
    customer = await a_customer(hasty, order)
    server.fail(Fault.HANG_AFTER, "POST /v1/payment_intents")
    begun = time.monotonic()
    paid = await hasty.charge(order, customer, server.card(customer))
    await hasty.close()
    assert time.monotonic() - begun < 5
    assert paid.state is PaymentState.PAID
    assert made(server, "charge") == 1


async def test_a_charge_that_cannot_be_read_back_is_not_known_and_not_refused(
    server: StripeServer, payments: StripePayments
) -> None:
    """Who is told of a refusal may charge again: the money has moved."""
    order, intents = an_order(), server.world.tables["payment_intent"]
    customer = await a_customer(payments, order)
    card = server.card(customer)
    hidden: dict[str, Any] = {}

    def hide(call: str) -> None:
        if call.startswith("GET /v1/payment_intents"):
            hidden.update(intents)
            intents.clear()

    server.api.meddle = hide
    with pytest.raises(ProcessorUnavailable, match="was made"):
        await payments.charge(order, customer, card)
    server.api.meddle = None
    intents.update(hidden)
    assert (await payments.charge(order, customer, card)).state is PaymentState.PAID
    assert made(server, "charge") == 1


async def test_a_charge_that_failed_in_stripe_but_took_the_money_is_found_later(
    server: StripeServer, payments: StripePayments
) -> None:
    """Stripe keeps a 500 for its key: asking again never tells, listing does."""
    order = an_order()
    customer = await a_customer(payments, order)
    card = server.card(customer)
    since = datetime.now(UTC) - timedelta(seconds=5)
    server.fail(Fault.ERROR_AFTER, "POST /v1/payment_intents")
    for _ in range(2):
        with pytest.raises(ProcessorUnavailable):
            await payments.charge(order, customer, card)
    assert made(server, "charge") == 1
    (found,) = await changed(payments, since)
    assert (found.order_id, found.state) == (order.id, PaymentState.PAID)


async def test_two_processes_whose_charges_cross_charge_once(
    server: StripeServer, payments: StripePayments
) -> None:
    order = an_order()
    customer = await a_customer(payments, order)
    card = server.card(customer)
    other = adapter(server)
    server.slow_down(0.2)
    both = await asyncio.gather(
        payments.charge(order, customer, card), other.charge(order, customer, card)
    )
    await other.close()
    assert both[0] == both[1]
    assert made(server, "charge") == 1


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.RATE_LIMITED])
async def test_a_read_that_fails_is_unavailable_and_not_nothing(
    server: StripeServer, payments: StripePayments, fault: Fault
) -> None:
    paid = await bought(server, payments)
    reads: list[Callable[[], Awaitable[object]]] = [
        lambda: payments.payment(paid.id),
        lambda: payments.invoices(paid.customer),
        lambda: payments.cards(paid.customer),
        lambda: payments.choose(paid.customer, "pm_x"),
        lambda: payments.remove(paid.customer, "pm_x"),
        lambda: anext(aiter(payments.changed_since(paid.created_at))),
    ]
    for read in reads:
        server.fail(fault, "GET ")
        with pytest.raises(ProcessorUnavailable):
            await read()


async def test_what_changed_does_not_end_early_when_a_page_of_it_fails(
    server: StripeServer, payments: StripePayments
) -> None:
    paid = await bought(server, payments)
    server.fail(Fault.RATE_LIMITED, "GET /v1/disputes")
    with pytest.raises(ProcessorUnavailable):
        await changed(payments, paid.created_at)


async def test_a_key_of_ours_that_is_wrong_is_our_trouble_and_the_operator_hears_of_it(
    server: StripeServer,
) -> None:
    wrong = StripePayments(
        "sk_test_wrong", "whsec", now=lambda: datetime.now(UTC), api_base=server.url
    )
    with capture_logs() as lines, pytest.raises(ProcessorUnavailable, match="Invalid API Key"):
        await wrong.customer(new_id(), "ada@example.com")
    await wrong.close()
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("processor_misconfigured", "error")
    assert (line["error"], line["status"]) == ("AuthenticationError", 401)
    assert "wrong" not in str(line)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (stripe.AuthenticationError("rolled", http_status=401), ProcessorUnavailable),
        (stripe.PermissionError("restricted", http_status=403), ProcessorUnavailable),
        (stripe.IdempotencyError("other parameters", http_status=400), ProcessorUnavailable),
        (stripe.RateLimitError("too many", http_status=429), ProcessorUnavailable),
        (stripe.APIError("5xx", http_status=500), ProcessorUnavailable),
        (stripe.CardError("declined", None, "card_declined"), ProcessorRefused),
        (stripe.InvalidRequestError("no such thing", "card"), ProcessorRefused),
    ],
)
def test_only_what_is_wrong_with_a_card_or_a_request_is_a_refusal(
    error: stripe.StripeError, word: type[Exception]
) -> None:
    with pytest.raises(word), answered():
        raise error


async def test_nobody_at_the_address_is_unavailable() -> None:
    async with stripe_server() as gone:
        nowhere = adapter(gone)
    with pytest.raises(ProcessorUnavailable):
        await nowhere.payment("pi_1")
    await nowhere.close()


# Many


async def test_more_than_a_page_is_found(server: StripeServer, payments: StripePayments) -> None:
    order = an_order("5", Source.CHECKOUT)
    customer = await a_customer(payments, order)
    for _ in range(105):
        page = await payments.checkout(replace(order, id=new_id()), customer, BACK)
        server.pay(page.id, save=True)
    server.world.tables["event"].clear()
    since = datetime.now(UTC) - timedelta(minutes=5)
    found = [id async for id in payments.changed_since(since)]
    assert len(found) == len(set(found)) == 105
    assert len(await payments.invoices(customer)) == 105
    assert len(await payments.cards(customer)) == 105


async def test_more_refunds_than_come_with_a_charge_are_found(
    server: StripeServer, payments: StripePayments
) -> None:
    paid = await bought(server, payments)
    for _ in range(25):
        server.refund(paid.id, 80)
    reversals = (await standing(payments, paid.id)).reversals
    assert len(reversals) == 25
    assert sum(back.amount for back in reversals) == paid.amount


@pytest.mark.parametrize("what", ["refund", "dispute"])
async def test_what_went_back_of_an_old_payment_is_found_without_its_events(
    server: StripeServer, payments: StripePayments, what: str
) -> None:
    paid = await bought(server, payments)
    server.pass_time(40 * 86_400)
    since = datetime.now(UTC) + timedelta(days=40, seconds=-60)
    assert await changed(payments, since) == []
    made = server.refund(paid.id) if what == "refund" else server.dispute(paid.id)
    server.world.tables["event"].clear()
    (found,) = await changed(payments, since)
    assert (found.id, [back.id for back in found.reversals]) == (paid.id, [made])


async def test_a_refund_that_fails_late_is_found_by_its_event(
    server: StripeServer, payments: StripePayments
) -> None:
    paid = await bought(server, payments)
    refund = server.refund(paid.id, 100, pending=True)
    server.pass_time(86_400)
    server.end_refund(refund, failed=True)
    since = datetime.now(UTC) + timedelta(seconds=86_340)
    (found,) = await changed(payments, since)
    assert [back.reinstated for back in found.reversals] == [True]


async def test_other_shops_of_the_same_account_are_left_alone(
    server: StripeServer, payments: StripePayments
) -> None:
    since = datetime.now(UTC) - timedelta(seconds=5)
    intent = server.world.add_intent(500, "usd", metadata={"order_id": "7"})
    server.world.attempt(intent, server.world.add_card("success", None), owner_is_there=True)
    server.refund(intent["id"])
    assert await payments.payment(intent["id"]) is None
    assert await changed(payments, since) == []


@pytest.mark.parametrize("written", ["abc", "", "-5", "1e2", "٣", "501"])
async def test_a_payment_that_makes_no_sense_is_named_and_the_others_are_read(
    server: StripeServer, payments: StripePayments, written: str
) -> None:
    since = datetime.now(UTC) - timedelta(seconds=5)
    order = an_order("5")
    customer = await a_customer(payments, order)
    odd = await payments.charge(order, customer, server.card(customer))
    fine = await bought(server, payments)
    server.world.get("payment_intent", odd.id)["metadata"]["kyma_tax_cents"] = written
    assert {id async for id in payments.changed_since(since)} == {odd.id, fine.id}
    assert await standing(payments, fine.id) == fine
    with pytest.raises(UnreadablePayment, match=odd.id) as caught:
        await payments.payment(odd.id)
    assert caught.value.payment_id == odd.id


async def test_the_payment_of_an_order_is_found_with_two_questions_whoever_else_pays(
    server: StripeServer, payments: StripePayments
) -> None:
    order = an_order()
    customer = await a_customer(payments, order)
    made = await payments.charge(order, customer, server.card(customer))
    for _ in range(5):
        await bought(server, payments)
    server.asked.clear()
    assert await payments.payment_of(order, customer) == made
    assert [asked.path for asked in server.asked] == [
        "/v1/payment_intents",
        f"/v1/payment_intents/{made.id}",
    ]
    assert await payments.payment_of(replace(order, id=new_id()), customer) is None


# Taxes


async def test_taxes_come_on_top_of_the_credit(server: StripeServer, taxed: StripePayments) -> None:
    paid = await bought(server, taxed, "20")
    assert (paid.amount, paid.tax) == (usd("20"), usd("1.65"))
    assert await standing(taxed, paid.id) == paid
    (bill,) = await taxed.invoices(paid.customer)
    assert (bill.amount, bill.tax) == (usd("20"), usd("1.65"))
    assert bill.page_url == paid.invoice_url


async def test_a_saved_card_pays_the_taxes_too(server: StripeServer, taxed: StripePayments) -> None:
    order = an_order("20")
    customer = await a_customer(taxed, order)
    server.address(customer)
    card = server.card(customer)
    paid = await taxed.charge(order, customer, card)
    assert (paid.amount, paid.tax) == (usd("20"), usd("1.65"))
    assert server.world.get("payment_intent", paid.id)["amount"] == 2_165
    assert await taxed.charge(order, customer, card) == paid
    assert made(server, "tax.calculation") == made(server, "charge") == 1


async def test_what_was_reckoned_first_is_what_is_charged(
    server: StripeServer, taxed: StripePayments
) -> None:
    order = an_order("20")
    customer = await a_customer(taxed, order)
    with pytest.raises(ProcessorRefused, match="tax location"):
        await taxed.tax(order, customer)
    server.address(customer)
    assert await taxed.tax(order, customer) == usd("1.65")
    server.world.tax_basis_points = 2_000
    paid = await taxed.charge(order, customer, server.card(customer))
    assert (paid.amount, paid.tax) == (usd("20"), usd("1.65"))
    assert made(server, "tax.calculation") == 1


async def test_without_stripe_tax_nothing_is_reckoned(
    server: StripeServer, payments: StripePayments
) -> None:
    order = an_order()
    assert await payments.tax(order, await a_customer(payments, order)) == 0
    assert made(server, "tax.calculation") == 0


async def test_a_saved_card_without_an_address_pays_nothing(
    server: StripeServer, taxed: StripePayments
) -> None:
    order = an_order()
    customer = await a_customer(taxed, order)
    card = server.card(customer)
    with pytest.raises(ProcessorRefused, match="tax location") as caught:
        await taxed.charge(order, customer, card)
    assert "Nothing was charged" in caught.value.public
    assert made(server, "payment_intent") == 0
    page = await taxed.checkout(replace(order, id=new_id()), customer, BACK)
    server.pay(page.id)
    paid = await taxed.charge(order, customer, card)
    assert (paid.state, paid.tax) == (PaymentState.PAID, usd("1.65"))


async def test_a_full_refund_of_a_taxed_payment_takes_back_exactly_the_credit(
    server: StripeServer, taxed: StripePayments
) -> None:
    paid = await bought(server, taxed, "20")
    server.refund(paid.id)
    assert [back.amount for back in (await standing(taxed, paid.id)).reversals] == [usd("20")]


async def test_partial_refunds_of_a_taxed_payment_leave_the_tax_out(
    server: StripeServer, taxed: StripePayments
) -> None:
    paid = await bought(server, taxed, "20")
    first = server.refund(paid.id, 1_000)
    seen = (await standing(taxed, paid.id)).reversals
    # 1000 × 2000 ÷ 2165 = 923.78…, rounded down.
    assert [(back.id, back.amount) for back in seen] == [(first, usd("9.23"))]
    server.refund(paid.id)
    reversals = {back.id: back.amount for back in (await standing(taxed, paid.id)).reversals}
    assert reversals[first] == usd("9.23")
    assert sum(reversals.values()) == paid.amount
    assert [amount for id, amount in reversals.items() if "_rest_" in id] == [usd("0.01")]


def a_refund(id: str, cents: int, status: str = "succeeded") -> stripe.Refund:
    """Made in the order of its name."""
    values = {"id": id, "amount": cents, "status": status, "created": int(id[3:])}
    return stripe.Refund.construct_from(values, None)


def a_dispute(id: str, cents: int, status: str = "lost") -> stripe.Dispute:
    values = {
        "id": id, "amount": cents, "status": status, "created": int(id[3:]),
        "balance_transactions": [{"amount": -cents}],
    }  # fmt: skip
    return stripe.Dispute.construct_from(values, None)


def taken(reversals: tuple[Reversal, ...]) -> int:
    """The cents of credit that are gone."""
    return sum(back.amount for back in reversals if not back.reinstated) // CENT


def thirds(*states: str) -> tuple[Reversal, ...]:
    """Refunds of $2 each of $6, of which $5 were credit."""
    refunds = [a_refund(f"re_{place}", 200, state) for place, state in enumerate(states)]
    return reading.reversals_of("pi_1", 600, 500, refunds[::-1], ())


def test_a_rest_is_undone_when_a_refund_that_made_it_did_not_arrive() -> None:
    good, bad = "succeeded", "failed"
    whole, less = thirds(good, good, good), thirds(good, good, bad)
    assert taken(whole) == 500
    assert taken(less) == 332
    rest = Reversal("pi_1_rest_re_2_2", usd("0.02"), is_dispute=False)
    assert rest in whole
    assert replace(rest, reinstated=True) in less
    again = thirds(good, good, bad, good)
    assert taken(again) == 500
    assert set(less) < set(again), "what was undone stays so, and the new one has its own rest"
    last = thirds(bad, good, bad, good)
    assert taken(last) == 332
    ids = {back.id: back.amount for back in again}
    assert {back.id: back.amount for back in last} == ids, "nothing that was booked is forgotten"


def test_what_a_refund_and_a_dispute_return_together_is_the_whole_credit() -> None:
    refund = a_refund("re_1", 200)
    lost, won = a_dispute("dp_2", 400), a_dispute("dp_2", 400, "won")
    both = reading.reversals_of("pi_1", 600, 500, [refund], [lost])
    assert taken(both) == 500
    back = reading.reversals_of("pi_1", 600, 500, [refund], [won])
    assert taken(back) == 166
    assert {one.id for one in back} == {one.id for one in both}
    beyond = reading.reversals_of("pi_1", 600, 500, [refund], [a_dispute("dp_2", 600)])
    assert [one.id for one in beyond] == ["re_1", "dp_2"], "nothing is left to return"


@given(
    credit=st.integers(1, 1_000),
    tax=st.integers(0, 300),
    steps=st.lists(st.tuples(st.integers(1, 1_300), st.integers(0, 3)), max_size=12),
)
def test_whatever_fails_in_between_no_rest_is_taken_that_is_not_owed(
    credit: int, tax: int, steps: list[tuple[int, int]]
) -> None:
    total = credit + tax
    refunds: list[stripe.Refund] = []
    seen: set[tuple[str, int]] = set()
    for place, (cents, fails) in enumerate(steps):
        live = [one for one in refunds if one.status == "succeeded"]
        left = total - sum(one.amount for one in live)
        if left:
            refunds.append(a_refund(f"re_{place}", min(cents, left)))
        elif fails < len(live):
            live[fails].status = "failed"
        now = reading.reversals_of("pi_1", total, credit, refunds, ())
        live = [one for one in refunds if one.status == "succeeded"]
        shares = sum(one.amount * credit // total for one in live)
        is_whole = sum(one.amount for one in live) == total
        assert taken(now) == (credit if is_whole else shares)
        assert len({back.id for back in now}) == len(now)
        seen |= {(back.id, back.amount) for back in now}
        told = {(back.id, back.amount) for back in now}
        assert seen == told, "what was booked is known as it was"


@given(
    credit=st.integers(1, 100_000),
    tax=st.integers(0, 30_000),
    cuts=st.lists(st.integers(1, 129_999), max_size=8),
)
def test_refunds_of_the_whole_take_back_the_whole_credit_however_they_are_cut(
    credit: int, tax: int, cuts: list[int]
) -> None:
    total = credit + tax
    edges = sorted({0, total, *(cut for cut in cuts if cut < total)})
    refunds = [
        a_refund(f"re_{place}", end - begin)
        for place, (begin, end) in enumerate(itertools.pairwise(edges))
    ]
    whole = reading.reversals_of("pi_1", total, credit, refunds, ())
    assert sum(back.amount for back in whole) == credit * CENT
    assert all(back.amount >= 0 for back in whole)
    for seen in range(1, len(refunds) + 1):
        # What was booked of a refund stays true whatever follows, in whatever order it is listed.
        part = reading.reversals_of("pi_1", total, credit, refunds[:seen][::-1], ())
        assert set(part) <= set(whole)
        assert {refund.id for refund in refunds[:seen]} <= {back.id for back in part}


# Refunds and disputes, as Stripe has them


async def test_a_refund_that_did_not_arrive_is_given_back(
    server: StripeServer, payments: StripePayments
) -> None:
    paid = await bought(server, payments)
    refund = server.refund(paid.id, 500, pending=True)
    (pending,) = (await standing(payments, paid.id)).reversals
    assert (pending.id, pending.amount, pending.reinstated) == (refund, usd("5"), False)
    server.end_refund(refund, failed=True)
    assert (await standing(payments, paid.id)).reversals == (replace(pending, reinstated=True),)


async def test_an_inquiry_takes_no_credit(server: StripeServer, payments: StripePayments) -> None:
    paid = await bought(server, payments)
    inquiry = server.dispute(paid.id, inquiry=True)
    assert (await standing(payments, paid.id)).reversals == ()
    server.end_dispute(inquiry, "warning_closed")
    assert (await standing(payments, paid.id)).reversals == ()


async def test_a_dispute_that_was_lost_stays_withdrawn(
    server: StripeServer, payments: StripePayments
) -> None:
    paid = await bought(server, payments)
    server.end_dispute(server.dispute(paid.id, 700), "lost")
    (lost,) = (await standing(payments, paid.id)).reversals
    assert (lost.amount, lost.is_dispute, lost.reinstated) == (usd("7"), True, False)


async def test_a_refund_and_a_dispute_stand_side_by_side(
    server: StripeServer, payments: StripePayments
) -> None:
    paid = await bought(server, payments)
    refund, dispute = server.refund(paid.id, 500), server.dispute(paid.id, 1_500)
    reversals = (await standing(payments, paid.id)).reversals
    assert {back.id: back.amount for back in reversals} == {
        refund: usd("5"),
        dispute: usd("15"),
    }


# How a payment stands


def an_intent(status: str, **more: Any) -> stripe.PaymentIntent:
    return stripe.PaymentIntent.construct_from(
        {
            "id": "pi_1",
            "object": "payment_intent",
            "amount": 500,
            "amount_received": 0,
            "created": 1_780_000_000,
            "currency": "usd",
            "customer": "cus_1",
            "metadata": {"kyma_order_id": "o", "kyma_account_id": "a", "kyma_source": "card"},
            "status": status,
            "last_payment_error": None,
            "latest_charge": None,
            "next_action": None,
        }
        | more,
        None,
    )


DECLINED = {"type": "card_error", "code": "card_declined", "decline_code": "lost_card"}
AUTHENTICATE = {"type": "card_error", "code": "authentication_required", "decline_code": None}
AUTHENTICATE_TOO = {
    "type": "card_error",
    "code": "card_declined",
    "decline_code": "authentication_required",
}


@pytest.mark.parametrize("error", [{"type": "card_error"}, {"type": "api_error", "code": "x"}])
def test_an_error_that_says_little_is_a_failure_all_the_same(error: dict[str, Any]) -> None:
    waiting = an_intent("requires_payment_method", last_payment_error=error)
    payment = reading.payment_of(waiting, (), (), None)
    assert (payment.state, payment.message) == (PaymentState.FAILED, "")


async def test_an_expired_card_has_failed_and_says_so(
    server: StripeServer, payments: StripePayments
) -> None:
    order = an_order()
    customer = await a_customer(payments, order)
    failed = await payments.charge(order, customer, server.card(customer, "expired"))
    assert (failed.state, failed.message) == (PaymentState.FAILED, "Your card has expired.")


@pytest.mark.parametrize(
    ("status", "error", "page", "state"),
    [
        ("succeeded", None, None, PaymentState.PAID),
        ("succeeded", None, "expired", PaymentState.PAID),
        ("processing", None, None, PaymentState.PENDING),
        ("requires_confirmation", None, None, PaymentState.PENDING),
        ("requires_capture", None, None, PaymentState.PENDING),
        ("something_new", None, None, PaymentState.PENDING),
        ("canceled", None, None, PaymentState.CANCELED),
        ("requires_action", None, None, PaymentState.NEEDS_ACTION),
        ("requires_payment_method", None, None, PaymentState.PENDING),
        ("requires_payment_method", DECLINED, None, PaymentState.FAILED),
        ("requires_payment_method", AUTHENTICATE, None, PaymentState.NEEDS_ACTION),
        ("requires_payment_method", AUTHENTICATE_TOO, None, PaymentState.NEEDS_ACTION),
        ("requires_payment_method", DECLINED, "open", PaymentState.PENDING),
        ("requires_payment_method", DECLINED, "expired", PaymentState.FAILED),
        ("requires_payment_method", None, "expired", PaymentState.FAILED),
    ],
)
def test_every_status_has_its_state(
    status: str, error: dict[str, Any] | None, page: str | None, state: PaymentState
) -> None:
    session = (
        None if page is None else stripe.checkout.Session.construct_from({"status": page}, None)
    )
    assert reading.state_of(an_intent(status, last_payment_error=error), session) is state


def test_where_its_owner_authenticates_a_card_is_told() -> None:
    redirect = {"type": "redirect_to_url", "redirect_to_url": {"url": "https://bank.example/3ds"}}
    waiting = an_intent("requires_action", next_action=redirect)
    payment = reading.payment_of(waiting, (), (), None)
    assert (payment.state, payment.action_url) == (
        PaymentState.NEEDS_ACTION,
        "https://bank.example/3ds",
    )
    other = an_intent("requires_action", next_action={"type": "use_stripe_sdk"})
    assert reading.payment_of(other, (), (), None).action_url is None


def test_another_currency_is_told_and_not_hidden() -> None:
    paid = an_intent("succeeded", currency="eur", amount_received=500)
    assert reading.payment_of(paid, (), (), None).currency == "eur"


def test_what_was_received_counts_and_not_what_was_asked() -> None:
    paid = an_intent("succeeded", amount=500, amount_received=300)
    assert reading.payment_of(paid, (), (), None).amount == usd("3")


# Webhooks


@pytest.fixture
def hooks() -> StripePayments:
    return StripePayments("sk_test", "whsec_kyma", now=lambda: datetime.now(UTC))


def a_notice(kind: str = "payment_intent", **about: Any) -> dict[str, Any]:
    return {
        "id": "evt_1",
        "object": "event",
        "type": f"{kind}.changed",
        "created": 1_780_000_000,
        "data": {"object": {"id": f"{kind}_1", "object": kind} | about},
    }


def signed(
    notice: object, at: float | None = None, secret: str = "whsec_kyma"
) -> tuple[bytes, str]:
    raw = json.dumps(notice)
    stamp = None if at is None else int(at)
    return raw.encode(), stripe.WebhookSignature.generate_signature_header(raw, secret, stamp)


@pytest.mark.parametrize(
    ("notice", "payment", "checkout"),
    [
        (a_notice("payment_intent"), "payment_intent_1", None),
        (a_notice("charge", payment_intent="pi_1"), "pi_1", None),
        (a_notice("charge", payment_intent=None), None, None),
        (a_notice("refund", payment_intent="pi_1"), "pi_1", None),
        (a_notice("dispute", payment_intent="pi_1"), "pi_1", None),
        (a_notice("checkout.session", payment_intent="pi_1"), "pi_1", "checkout.session_1"),
        (a_notice("checkout.session", payment_intent=None), None, "checkout.session_1"),
        (a_notice("customer"), None, None),
        (a_notice("some.new.kind"), None, None),
    ],
)
def test_a_notice_says_where_to_look(
    hooks: StripePayments, notice: dict[str, Any], payment: str | None, checkout: str | None
) -> None:
    event = hooks.event(*signed(notice))
    assert event is not None
    assert (event.id, event.kind) == ("evt_1", notice["type"])
    assert (event.payment_id, event.checkout_id) == (payment, checkout)
    assert event.created_at == datetime.fromtimestamp(1_780_000_000, UTC)


@pytest.mark.parametrize(
    ("age_s", "holds"), [(0, True), (290, True), (310, False), (86_400, False)]
)
def test_a_notice_is_good_for_five_minutes(hooks: StripePayments, age_s: int, holds: bool) -> None:
    found = hooks.event(*signed(a_notice(), time.time() - age_s))
    assert (found is not None) is holds


def test_only_our_secret_signs(hooks: StripePayments) -> None:
    for secret in ("whsec_other", "", "whsec_kyma "):
        raw, header = signed(a_notice(), secret=secret)
        assert hooks.event(raw, header) is None


def test_while_secrets_are_rolled_either_signature_will_do(hooks: StripePayments) -> None:
    raw, header = signed(a_notice())
    stamp, good = header.split(",")
    assert hooks.event(raw, f"{stamp},v1={'0' * 64},{good}") is not None
    assert hooks.event(raw, f"{stamp},{good.replace('v1', 'v0')}") is None


@pytest.mark.parametrize(
    "notice",
    [
        [],
        "evt",
        7,
        None,
        {},
        {"id": "evt_1"},
        a_notice() | {"data": None},
        a_notice() | {"data": {}},
    ],
)
def test_what_is_signed_but_no_event_is_none(hooks: StripePayments, notice: object) -> None:
    assert hooks.event(*signed(notice)) is None


@pytest.mark.parametrize("secret", ["", "  ", "\n"])
def test_without_a_secret_there_is_no_adapter(secret: str) -> None:
    with pytest.raises(ValueError, match="webhook secret"):
        StripePayments("sk_test", secret, now=lambda: datetime.now(UTC))


@given(raw=st.binary(max_size=200), header=st.text(max_size=100))
def test_no_noise_is_a_notice_or_an_error(raw: bytes, header: str) -> None:
    quiet = StripePayments("sk_test", "whsec_kyma", now=lambda: datetime.now(UTC))
    assert quiet.event(raw, header) is None
