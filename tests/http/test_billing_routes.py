"""The routes of billing, transactions and statements, over memory and a processor in memory."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import UTC, datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from adapters.http.billing import NOTICE_BYTES
from adapters.http.schemas import SCHEMAS
from adapters.memory.payments import Manner, MemoryPayments, Notice
from kyma.ledger import Kind, Resolution
from kyma.money import Usd, usd
from tests.builders import new_id
from tests.http.on_memory import CREDIT, STRANGER, Place, a_place
from tests.http.wired import Answer


async def a_shop() -> Place:
    return await a_place(
        stripe_secret_key="sk_test_memory",
        stripe_webhook_secret="whsec_memory",
        public_url="https://kyma.example",
    )


def processor(place: Place) -> MemoryPayments:
    found = place.container.processor()
    assert isinstance(found, MemoryPayments)
    return found


def fits(answer: Answer, name: str) -> Any:
    """The body, once it is what the document says."""
    body = answer.json()
    schema = {**SCHEMAS[name], "components": {"schemas": SCHEMAS}}
    assert [*Draft202012Validator(schema).iter_errors(body)] == []
    return body


def error(answer: Answer) -> tuple[int, str, str | None]:
    told = answer.json()["error"]
    return answer.status, told["code"], told["param"]


async def a_card(place: Place, manner: Manner = Manner.PAYS) -> str:
    page = fits(await place.ask("POST", "/v1/billing/cards"), "CardPage")
    return processor(place).leave_card(page["url"].rsplit("/", 1)[1], manner)


async def deliver(place: Place, notice: Notice) -> Answer:
    return await place.ask(
        "POST",
        "/v1/billing/webhook",
        notice.raw,
        secret=None,
        **{"Stripe-Signature": notice.signature},
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/billing/estimate?amount=5"),
        ("POST", "/v1/billing/checkout"),
        ("GET", "/v1/billing/checkout/" + "a" * 32),
        ("POST", "/v1/billing/charge"),
        ("GET", "/v1/billing/cards"),
        ("POST", "/v1/billing/cards"),
        ("PUT", "/v1/billing/cards/pm_1/default"),
        ("DELETE", "/v1/billing/cards/pm_1"),
        ("GET", "/v1/billing/auto-topup"),
        ("PUT", "/v1/billing/auto-topup"),
        ("GET", "/v1/billing/invoices"),
        ("POST", "/v1/billing/webhook"),
    ],
)
async def test_without_a_processor_the_service_runs_and_says_that_billing_is_off(
    method: str, path: str
) -> None:
    place = await a_place()
    answer = await place.ask(method, path, {"amount": 5} if method != "GET" else None)
    assert error(answer)[:2] == (503, "billing_off")
    assert "not configured" in answer.json()["error"]["message"]
    assert (await place.chat()).status == 200
    assert (await place.ask("GET", "/v1/credits/transactions")).status == 200


async def test_a_purchase_from_the_page_to_the_balance() -> None:
    place = await a_shop()
    order = fits(await place.ask("POST", "/v1/billing/checkout", {"amount": 50}), "Order")
    assert (order["status"], order["amount"], order["amount_usd"]) == ("open", "50", 50)
    where = f"/v1/billing/checkout/{order['order_id']}"
    assert fits(await place.ask("GET", where), "Order")["status"] == "open"
    processor(place).pay(order["url"].rsplit("/", 1)[1])
    assert fits(await place.ask("GET", where), "Order")["status"] == "credited"
    balance = (await place.ask("GET", "/v1/credits/balance")).json()
    assert (balance["available"], balance["lifetime_purchased"]) == ("50.5", "50")
    assert (await place.ask("GET", "/v1/auth/me")).json()["tier"] == 2


async def test_the_estimate_is_what_the_card_is_charged_and_books_nothing() -> None:
    place = await a_shop()
    processor(place).tax_percent = 8
    await a_card(place)
    told = fits(await place.ask("GET", "/v1/billing/estimate?amount=20.50"), "Estimate")
    assert (told["amount"], told["tax"], told["total"]) == ("20.5", "1.64", "22.14")
    assert processor(place).charges == 0
    await place.ask("POST", "/v1/billing/charge", {"amount": "20.50"})
    (payment,) = processor(place)._payments.values()
    assert (payment.amount, payment.tax) == (usd("20.50"), usd("1.64"))
    for wrong in ("", "?amount=4.99", "?amount=x", "?amount=-20"):
        assert (await place.ask("GET", f"/v1/billing/estimate{wrong}")).status == 400


async def test_the_page_leads_back_to_the_order() -> None:
    place = await a_shop()
    order = (await place.ask("POST", "/v1/billing/checkout", {"package": 20})).json()
    page = processor(place)._pages[order["url"].rsplit("/", 1)[1]]
    assert page.back_url == f"https://kyma.example/billing/back/{order['order_id']}"


async def test_who_takes_money_back_reads_that_auto_top_up_is_off_and_why() -> None:
    place = await a_shop()
    await a_card(place)
    setting = {"enabled": True, "threshold": 5, "amount": "20", "monthly_ceiling": 100}
    await place.ask("PUT", "/v1/billing/auto-topup", setting)
    assert await place.container.auto_top_ups().run() == 1
    (payment,) = processor(place)._payments
    dispute = processor(place).dispute(payment)
    assert (await deliver(place, processor(place).notices[-1])).status == 200
    for _ in range(3):
        assert await place.container.auto_top_ups().run() == 0
    told = fits(await place.ask("GET", "/v1/billing/auto-topup"), "AutoTopUp")
    assert (told["enabled"], told["failures"]) == (False, 0)
    assert f"dispute {dispute}" in told["message"]
    again = await place.ask("PUT", "/v1/billing/auto-topup", {"enabled": True})
    now = fits(again, "AutoTopUp")
    assert (now["enabled"], now["message"]) == (True, None)


async def test_a_refund_takes_the_tier_down_again() -> None:
    place = await a_shop()
    await a_card(place)
    await place.ask("POST", "/v1/billing/charge", {"amount": 50})
    (payment,) = processor(place)._payments
    processor(place).refund(payment, usd("46"))
    assert (await deliver(place, processor(place).notices[-1])).status == 200
    assert (await place.ask("GET", "/v1/auth/me")).json()["tier"] == 0
    balance = (await place.ask("GET", "/v1/credits/balance")).json()
    assert (balance["available"], balance["lifetime_purchased"]) == ("4.5", "4")


SOLD = [
    ({"amount": 5}, "5"),
    ({"amount": 5.0}, "5"),
    ({"amount": 19.99}, "19.99"),
    ({"amount": "19.99"}, "19.99"),
    ({"amount": "20.500"}, "20.5"),
    ({"amount": 10_000}, "10000"),
    ({"package": 5}, "5"),
    ({"package": 500}, "500"),
    ({"package": "100"}, "100"),
    ({"amount": 7, "currency": "USD"}, "7"),
    ({"amount": 7, "package": None}, "7"),
]


@pytest.mark.parametrize(("body", "amount"), SOLD)
async def test_whole_cents_are_sold_however_they_are_written(body: Any, amount: str) -> None:
    place = await a_shop()
    order = fits(await place.ask("POST", "/v1/billing/checkout", body), "Order")
    assert order["amount"] == amount


NOT_SOLD = [
    ({}, "missing_required_parameter", "amount"),
    ({"amount": None}, "missing_required_parameter", "amount"),
    ({"amount": 0}, "invalid_value", "amount"),
    ({"amount": -5}, "invalid_value", "amount"),
    ({"amount": -0.01}, "invalid_value", "amount"),
    ({"amount": 4.99}, "invalid_value", "amount"),
    ({"amount": 10_000.01}, "invalid_value", "amount"),
    ({"amount": 5.001}, "invalid_value", "amount"),
    ({"amount": 5.00000000001}, "invalid_value", "amount"),
    ({"amount": 1e300}, "invalid_value", "amount"),
    ({"amount": 10**18}, "invalid_value", "amount"),
    ({"amount": True}, "invalid_type", "amount"),
    ({"amount": [5]}, "invalid_type", "amount"),
    ({"amount": {"usd": 5}}, "invalid_type", "amount"),
    ({"amount": ""}, "invalid_value", "amount"),
    ({"amount": "five"}, "invalid_value", "amount"),
    ({"amount": "5 "}, "invalid_value", "amount"),
    ({"amount": "-5"}, "invalid_value", "amount"),
    ({"amount": "+5"}, "invalid_value", "amount"),
    ({"amount": "5e1"}, "invalid_value", "amount"),
    ({"amount": "５"}, "invalid_value", "amount"),
    ({"amount": "5,00"}, "invalid_value", "amount"),
    ({"amount": "$5"}, "invalid_value", "amount"),
    ({"amount": "Infinity"}, "invalid_value", "amount"),
    ({"amount": "5." + "0" * 400}, "invalid_value", "amount"),
    ({"package": 6}, "invalid_value", "package"),
    ({"package": "big"}, "invalid_value", "package"),
    ({"package": 5, "amount": 5}, "invalid_value", "package"),
    ({"amount": 5, "currency": "eur"}, "invalid_value", "currency"),
    ({"amount": 5, "currency": 840}, "invalid_value", "currency"),
]


@pytest.mark.parametrize("path", ["checkout", "charge"])
@pytest.mark.parametrize(("body", "code", "param"), NOT_SOLD)
async def test_what_is_no_amount_is_refused_by_name_and_nothing_is_charged(
    path: str, body: Any, code: str, param: str
) -> None:
    place = await a_shop()
    await a_card(place)
    answer = await place.ask("POST", f"/v1/billing/{path}", body)
    assert error(answer) == (400, code, param)
    assert processor(place).charges == 0
    assert await place.spent() == 0


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"5", b"null", b'{"amount": NaN}'])
async def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    place = await a_shop()
    assert (await place.ask("POST", "/v1/billing/checkout", raw)).status == 400


async def test_a_saved_card_is_left_chosen_charged_and_removed() -> None:
    place = await a_shop()
    assert fits(await place.ask("GET", "/v1/billing/cards"), "CardList")["data"] == []
    first, second = await a_card(place), await a_card(place)
    chosen = fits(await place.ask("PUT", f"/v1/billing/cards/{first}/default"), "CardList")
    assert [(card["id"], card["is_default"]) for card in chosen["data"]] == [
        (first, True),
        (second, False),
    ]
    paid = await place.ask("POST", "/v1/billing/charge", {"amount": 20, "card_id": second})
    assert (paid.status, fits(paid, "Order")["status"]) == (200, "credited")
    left = fits(await place.ask("DELETE", f"/v1/billing/cards/{first}"), "CardList")
    assert [card["id"] for card in left["data"]] == [second]
    for method, path in (
        ("DELETE", f"/v1/billing/cards/{first}"),
        ("PUT", f"/v1/billing/cards/{first}/default"),
    ):
        assert error(await place.ask(method, path))[:2] == (404, "not_found")


async def test_a_charge_without_a_card_says_where_to_leave_one() -> None:
    place = await a_shop()
    answer = await place.ask("POST", "/v1/billing/charge", {"amount": 20})
    assert error(answer) == (404, "not_found", "card_id")
    assert "/v1/billing/cards" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("manner", "code"),
    [
        (Manner.DECLINES, "payment_failed"),
        (Manner.WANTS_OWNER, "payment_action_required"),
    ],
)
async def test_a_card_that_does_not_pay_is_a_402_that_charged_nothing(
    manner: Manner, code: str
) -> None:
    place = await a_shop()
    await a_card(place, manner)
    answer = await place.ask("POST", "/v1/billing/charge", {"amount": 20})
    told = answer.json()["error"]
    assert (answer.status, told["code"], told["charged"]) == (402, code, False)
    order = await place.ask("GET", f"/v1/billing/checkout/{told['order_id']}")
    assert order.json()["status"] in {"failed", "needs_action"}
    if manner is Manner.WANTS_OWNER:
        assert told["action_url"] == order.json()["action_url"]
        assert told["action_url"].startswith("https://")


async def test_a_payment_that_takes_its_time_is_accepted() -> None:
    place = await a_shop()
    await a_card(place, Manner.SLOW)
    answer = await place.ask("POST", "/v1/billing/charge", {"amount": 20})
    assert (answer.status, fits(answer, "Order")["status"]) == (202, "open")


async def test_a_card_that_paid_what_was_not_ordered_is_a_402_that_says_it_was_charged() -> None:
    place = await a_shop()
    await a_card(place, Manner.SLOW)
    key = {"Idempotency-Key": "one"}
    order = fits(await place.ask("POST", "/v1/billing/charge", {"amount": 20}, **key), "Order")
    ((payment, _),) = processor(place)._payments.items()
    processor(place).settle(payment)
    processor(place).change(payment, amount=usd("19.99"))
    answer = await place.ask("POST", "/v1/billing/charge", {"amount": 20}, **key)
    told = answer.json()["error"]
    assert (answer.status, told["code"]) == (402, "payment_not_credited")
    assert (told["charged"], told["retryable"]) == (True, False)
    assert told["order_id"] == order["order_id"]
    shown = fits(await place.ask("GET", f"/v1/billing/checkout/{order['order_id']}"), "Order")
    assert (shown["status"], shown["message"]) == ("refused", told["message"])
    assert "do not pay again" in told["message"]
    assert "19.99" not in told["message"]


async def test_a_page_that_was_paid_for_another_amount_is_shown_as_refused() -> None:
    place = await a_shop()
    order = fits(await place.ask("POST", "/v1/billing/checkout", {"amount": 20}), "Order")
    payment = processor(place).pay(order["url"].rsplit("/", 1)[1])
    processor(place).change(payment, amount=usd("19.99"))
    where = f"/v1/billing/checkout/{order['order_id']}"
    shown = fits(await place.ask("GET", where), "Order")
    assert shown["status"] == "refused"
    assert "do not pay again" in shown["message"]
    assert (await place.ask("GET", "/v1/credits/balance")).json()["available"] == "0.5"


async def test_the_same_idempotency_key_is_the_same_purchase() -> None:
    place = await a_shop()
    await a_card(place)
    key = {"Idempotency-Key": "one"}
    asked = [await place.ask("POST", "/v1/billing/charge", {"amount": 20}, **key) for _ in "ab"]
    assert [answer.status for answer in asked] == [200, 200]
    assert asked[0].json() == asked[1].json()
    assert processor(place).charges == 1
    other = await place.ask("POST", "/v1/billing/charge", {"amount": 21}, **key)
    assert error(other)[:2] == (409, "idempotency_key_reused")
    pages = [await place.ask("POST", "/v1/billing/checkout", {"amount": 5},
                             **{"Idempotency-Key": "two"}) for _ in "ab"]  # fmt: skip
    assert pages[0].json() == pages[1].json()


async def test_a_processor_that_is_away_is_a_503_that_says_what_is_known() -> None:
    place = await a_shop()
    processor(place).go_down()
    answer = await place.ask("POST", "/v1/billing/checkout", {"amount": 20})
    told = answer.json()["error"]
    assert (answer.status, told["code"]) == (503, "payment_processor_unavailable")
    assert (told["charged"], told["retryable"]) == (False, True)
    assert answer.headers["retry-after"]


async def test_orders_cards_and_statements_are_ones_own() -> None:
    place = await a_shop()
    card = await a_card(place)
    order = (await place.ask("POST", "/v1/billing/charge", {"amount": 20})).json()["order_id"]
    for method, path, body in (
        ("GET", f"/v1/billing/checkout/{order}", None),
        ("GET", "/v1/billing/checkout/nonsense", None),
        ("POST", "/v1/billing/charge", {"amount": 5, "card_id": card}),
        ("DELETE", f"/v1/billing/cards/{card}", None),
    ):
        answer = await place.ask(method, path, body, secret=STRANGER)
        assert error(answer)[:2] == (404, "not_found")
    lines = (await place.ask("GET", "/v1/credits/transactions", secret=STRANGER)).json()["data"]
    assert [line["kind"] for line in lines] == ["grant"]


async def test_invoices_are_listed_with_their_links() -> None:
    place = await a_shop()
    order = (await place.ask("POST", "/v1/billing/checkout", {"amount": 20})).json()
    processor(place).pay(order["url"].rsplit("/", 1)[1], tax=usd("1.60"))
    (invoice,) = fits(await place.ask("GET", "/v1/billing/invoices"), "InvoiceList")["data"]
    assert (invoice["amount"], invoice["tax"]) == ("20", "1.6")
    assert invoice["url"].startswith("https://")


async def test_auto_top_up_is_set_seen_and_switched_off() -> None:
    place = await a_shop()
    before = fits(await place.ask("GET", "/v1/billing/auto-topup"), "AutoTopUp")
    assert (before["enabled"], before["threshold"]) == (False, None)
    setting = {"enabled": True, "threshold": 5, "amount": "20.00", "monthly_ceiling": 100}
    refused = await place.ask("PUT", "/v1/billing/auto-topup", setting)
    assert error(refused) == (400, "invalid_value", "enabled")
    await a_card(place)
    now = fits(await place.ask("PUT", "/v1/billing/auto-topup", setting), "AutoTopUp")
    assert (now["enabled"], now["threshold"], now["amount_usd"]) == (True, "5", 20)
    assert await place.container.auto_top_ups().run() == 1
    after = fits(await place.ask("GET", "/v1/billing/auto-topup"), "AutoTopUp")
    assert after["charged_this_month"] == "20"
    off = fits(await place.ask("PUT", "/v1/billing/auto-topup", {"enabled": False}), "AutoTopUp")
    assert (off["enabled"], off["amount"], off["monthly_ceiling"]) == (False, "20", "100")


async def test_who_sets_it_while_a_dispute_switches_it_off_is_told_and_sees_why() -> None:
    place = await a_shop()
    await a_card(place)
    setting = {"enabled": True, "threshold": 5, "amount": "20", "monthly_ceiling": 100}
    await place.ask("PUT", "/v1/billing/auto-topup", setting)
    assert await place.container.auto_top_ups().run() == 1
    (id,) = processor(place)._payments
    dispute = processor(place).dispute(id)
    payment = await processor(place).payment(id)
    assert payment is not None
    processor(place).pause()
    more = {**setting, "monthly_ceiling": 200}
    choice = asyncio.create_task(place.ask("PUT", "/v1/billing/auto-topup", more))
    for _ in range(50):
        await asyncio.sleep(0)
    await place.container.sales().credits.apply(payment)
    processor(place).resume()
    answer = await choice
    assert error(answer) == (409, "setting_changed", None)
    now = fits(await place.ask("GET", "/v1/billing/auto-topup"), "AutoTopUp")
    assert (now["enabled"], now["monthly_ceiling"]) == (False, "100")
    assert f"dispute {dispute}" in now["message"]
    assert await place.container.auto_top_ups().run() == 0
    again = await place.ask("PUT", "/v1/billing/auto-topup", {"enabled": True})
    assert fits(again, "AutoTopUp")["enabled"]


async def test_it_reads_why_nothing_is_charged_and_when_it_is_tried_again() -> None:
    place = await a_shop()
    await a_card(place)
    setting = {"enabled": True, "threshold": 5, "amount": "20", "monthly_ceiling": 20}
    await place.ask("PUT", "/v1/billing/auto-topup", setting)
    processor(place).tax_percent = 8
    assert await place.container.auto_top_ups().run() == 0
    told = fits(await place.ask("GET", "/v1/billing/auto-topup"), "AutoTopUp")
    assert (told["enabled"], told["tax"]) == (True, "1.6")
    assert "taxes (1.6) are more than `monthly_ceiling` (20)" in told["message"]
    assert told["next_try_at"][8:19] == "01T00:00:00"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "enabled"),
        ({"enabled": "yes"}, "invalid_type", "enabled"),
        ({"enabled": 1}, "invalid_type", "enabled"),
        ({"enabled": False}, "missing_required_parameter", "threshold"),
        ({"enabled": False, "threshold": 5, "amount": 4, "monthly_ceiling": 9},
         "invalid_value", "amount"),
        ({"enabled": False, "threshold": 0, "amount": 5, "monthly_ceiling": 9},
         "invalid_value", "threshold"),
        ({"enabled": False, "threshold": 9, "amount": 5, "monthly_ceiling": 9},
         "invalid_value", "threshold"),
        ({"enabled": False, "threshold": 5, "amount": 5, "monthly_ceiling": 4},
         "invalid_value", "monthly_ceiling"),
        ({"enabled": False, "threshold": 5, "amount": 5, "monthly_ceiling": "1e9"},
         "invalid_value", "monthly_ceiling"),
    ],
)  # fmt: skip
async def test_a_setting_that_cannot_work_is_refused_by_name(
    body: Any, code: str, param: str
) -> None:
    place = await a_shop()
    assert error(await place.ask("PUT", "/v1/billing/auto-topup", body)) == (400, code, param)


async def test_a_signed_notice_is_acted_on_without_any_key() -> None:
    place = await a_shop()
    order = (await place.ask("POST", "/v1/billing/checkout", {"amount": 20})).json()
    processor(place).pay(order["url"].rsplit("/", 1)[1])
    for notice in processor(place).notices * 2:
        answer = await deliver(place, notice)
        assert (answer.status, fits(answer, "Received")) == (200, {"received": True})
    assert (await place.ledger.balance(place.account.id)).paid == usd("20")


@pytest.mark.parametrize("signature", ["", "t=1,v1=00", "1." + "0" * 64, "x" * 5000])
@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff\x00", b"not json"])
async def test_a_forged_notice_is_a_400_and_never_asked_for_a_key(
    raw: bytes, signature: str
) -> None:
    place = await a_shop()
    answer = await deliver(place, Notice(raw, signature))
    assert error(answer)[:2] == (400, "invalid_signature")


async def test_a_notice_is_bounded() -> None:
    place = await a_shop()
    answer = await deliver(place, Notice(b"x" * (NOTICE_BYTES + 1), "1.0"))
    assert error(answer)[:2] == (413, "body_too_large")
    at_most = await deliver(place, Notice(b"x" * NOTICE_BYTES, "1.0"))
    assert error(at_most)[:2] == (400, "invalid_signature")


async def a_history(place: Place) -> None:
    """A grant, two deposits, three requests, a refund."""
    account, ledger = place.account.id, place.ledger
    first = new_id()
    await ledger.deposit(first, account, usd("20"), "payment pi_1")
    for bill in (1, 2_345_678, 10_000_000_001):
        hold = new_id()
        await ledger.hold(hold, account, usd("11"), 60)
        await ledger.resolve(Resolution(hold, Kind.SETTLE, Usd(bill)))
    await ledger.deposit(new_id(), account, usd("5"), "=HYPERLINK(1)")
    await ledger.reverse(new_id(), first, usd("3"), "refund re_1")


async def test_transactions_come_in_pages_that_join_without_a_seam() -> None:
    place = await a_shop()
    await a_history(place)
    whole = fits(await place.ask("GET", "/v1/credits/transactions"), "TransactionList")
    assert (len(whole["data"]), whole["has_more"], whole["next_cursor"]) == (7, False, None)
    found, cursor = [], ""
    while True:
        answer = await place.ask("GET", f"/v1/credits/transactions?limit=2&cursor={cursor}")
        page = fits(answer, "TransactionList")
        found += page["data"]
        if not page["has_more"]:
            break
        cursor = page["next_cursor"]
    assert found == whole["data"]
    balance = await place.ledger.balance(place.account.id)
    assert sum(usd(line["amount"]) for line in found) == balance.posted
    for line in found:
        assert usd(line["paid"]) + usd(line["promotional"]) == usd(line["amount"])


async def test_transactions_can_be_asked_for_by_kind_and_time() -> None:
    place = await a_shop()
    await a_history(place)
    found = (await place.ask("GET", "/v1/credits/transactions?kind=deposit")).json()["data"]
    assert {line["kind"] for line in found} == {"deposit"}
    tomorrow = int(datetime.now(UTC).timestamp()) + 86_400
    for query in (f"since={tomorrow}", "until=2026-01-01T00:00:00Z"):
        assert not (await place.ask("GET", f"/v1/credits/transactions?{query}")).json()["data"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("kind=hold", "kind"),
        ("kind=x", "kind"),
        ("since=yesterday", "since"),
        ("until=99999999999999999", "until"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("cursor=x", "cursor"),
        ("format=xml", "format"),
    ],
)
async def test_a_bad_question_about_transactions_is_refused_by_name(query: str, param: str) -> None:
    place = await a_shop()
    answer = await place.ask("GET", f"/v1/credits/transactions?{query}")
    assert error(answer) == (400, "invalid_value", param)


@pytest.mark.parametrize("way", ["format", "accept"])
async def test_as_csv_they_are_all_there_exact_and_no_formula(way: str) -> None:
    place = await a_shop()
    await a_history(place)
    if way == "format":
        answer = await place.ask("GET", "/v1/credits/transactions?format=csv")
    else:
        answer = await place.ask("GET", "/v1/credits/transactions", Accept="text/csv")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    rows = [*csv.DictReader(io.StringIO(answer.body.decode()))]
    assert len(rows) == 7
    balance = await place.ledger.balance(place.account.id)
    assert sum(usd(row["amount"]) for row in rows) == balance.posted
    assert {row["amount"] for row in rows} >= {"-0.000000001", "-0.002345678", "-10.000000001"}
    (strange,) = [row for row in rows if "HYPERLINK" in row["note"]]
    assert strange["note"].startswith("'=")


async def test_csv_stops_where_it_was_told_to_and_can_go_on() -> None:
    place = await a_shop()
    await a_history(place)
    answer = await place.ask("GET", "/v1/credits/transactions?format=csv&limit=3")
    assert len(answer.body.decode().splitlines()) == 4
    page = (await place.ask("GET", "/v1/credits/transactions?limit=3")).json()
    rest = await place.ask(
        "GET", f"/v1/credits/transactions?format=csv&cursor={page['next_cursor']}"
    )
    assert len(rest.body.decode().splitlines()) == 5


async def test_a_statement_adds_up_to_the_nano_dollar() -> None:
    place = await a_shop()
    await a_history(place)
    name = f"{datetime.now(UTC):%Y-%m}"
    found = fits(await place.ask("GET", f"/v1/credits/statements/{name}"), "Statement")
    balance = await place.ledger.balance(place.account.id)
    assert (found["opening"], usd(found["closing"])) == ("0", balance.posted)
    moved = sum(usd(one["amount"]) for one in found["sums"].values())
    assert usd(found["opening"]) + moved == usd(found["closing"])
    assert found["sums"]["grant"]["amount_usd"] == CREDIT / 10**9
    assert {kind: one["count"] for kind, one in found["sums"].items()} == {
        "deposit": 2, "grant": 1, "settle": 3, "reversal": 1, "reinstate": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["2026", "2026-13", "1999-01", "now", "2026-05-01"])
async def test_what_is_no_month_has_no_statement(name: str) -> None:
    place = await a_shop()
    answer = await place.ask("GET", f"/v1/credits/statements/{name}")
    assert error(answer) == (400, "invalid_value", "month")


async def test_what_was_bought_is_written_to_its_buyer() -> None:
    place = await a_shop()
    await a_card(place)
    await place.ask("POST", "/v1/billing/charge", {"amount": 20})
    ids = [id for id in place.container.mails().rows if id.startswith("receipt:")]
    assert len(ids) == 1
