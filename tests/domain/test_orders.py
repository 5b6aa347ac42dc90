"""What a payment does to the order that it names, as a table and as properties."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kyma.errors import Code, Refusal
from kyma.ledger import Kind
from kyma.money import ZERO, Usd, usd
from kyma.orders import (
    CENT,
    GRACE,
    UNTRACED,
    KnownOrder,
    OrderState,
    check_purchase,
    deposit_id,
    derived,
    is_id,
    returned,
    ruling,
)
from kyma.payments import (
    MAX_PURCHASE,
    MIN_PURCHASE,
    PACKAGES,
    Checkout,
    Order,
    Payment,
    PaymentState,
    Reversal,
    Source,
)
from tests.builders import NOON

ACCOUNT = "a" * 32
ORDER = Order("f" * 32, ACCOUNT, usd("20"), Source.CARD, NOON)
KNOWN = KnownOrder(ORDER, "cus_1")


def a_payment(**changes: Any) -> Payment:
    payment = Payment("pi_1", ORDER.id, ACCOUNT, "cus_1", usd("20"), "usd", PaymentState.PAID, NOON)
    return replace(payment, **changes)


def test_a_paid_order_is_credited_once_under_an_id_of_its_payment() -> None:
    found = ruling(KNOWN, a_payment())
    assert (found.order_id, found.state, found.refusal) == (ORDER.id, OrderState.CREDITED, "")
    (posting,) = found.postings
    assert (posting.kind, posting.amount) == (Kind.DEPOSIT, usd("20"))
    assert posting.id == deposit_id("pi_1")
    assert ruling(KNOWN, a_payment()) == found


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"account_id": "b" * 32}, "account"),
        ({"customer": "cus_2"}, "customer"),
        ({"currency": "eur"}, "currency"),
        ({"amount": usd("19.99")}, "amount"),
        ({"amount": usd("20.01")}, "amount"),
        ({"amount": ZERO}, "amount"),
    ],
)
def test_a_payment_that_is_not_what_was_ordered_is_not_credited(
    changes: dict[str, Any], why: str
) -> None:
    found = ruling(KNOWN, a_payment(**changes))
    moved = None if why == "customer" else ORDER.id  # another's payment tells nothing of its buyer
    assert (found.postings, found.order_id, found.state) == ((), moved, OrderState.REFUSED)
    assert why in found.refusal
    assert why not in found.message, "operators read why, buyers only that it arrived"
    assert moved is None or "do not pay again" in found.message
    unpaid = ruling(KNOWN, a_payment(**changes, state=PaymentState.FAILED))
    assert (unpaid.postings, unpaid.order_id, unpaid.refusal) == ((), None, "")


def test_a_payment_of_no_order_of_ours_is_not_credited() -> None:
    found = ruling(None, a_payment())
    assert (found.postings, found.order_id) == ((), None)
    assert "no order" in found.refusal


def test_an_order_is_credited_by_one_payment_only() -> None:
    credited = replace(KNOWN, state=OrderState.CREDITED, payment_id="pi_0")
    found = ruling(credited, a_payment())
    assert "pi_0" in found.refusal
    assert found.order_id is None, "what was credited stays so"
    again = replace(credited, payment_id="pi_1")
    assert ruling(again, a_payment()).postings


def test_a_currency_in_capitals_is_the_same_currency() -> None:
    assert ruling(KNOWN, a_payment(currency="USD")).postings


@pytest.mark.parametrize("before", list(OrderState))
def test_what_is_paid_is_credited_whatever_became_of_its_order(before: OrderState) -> None:
    known = replace(KNOWN, state=before, payment_id="pi_1")
    assert ruling(known, a_payment()).state is OrderState.CREDITED


@pytest.mark.parametrize(
    ("source", "state", "told"),
    [
        (Source.CARD, PaymentState.PENDING, OrderState.OPEN),
        (Source.CARD, PaymentState.NEEDS_ACTION, OrderState.NEEDS_ACTION),
        (Source.CARD, PaymentState.FAILED, OrderState.FAILED),
        (Source.CARD, PaymentState.CANCELED, OrderState.CANCELED),
        (Source.AUTO_TOP_UP, PaymentState.FAILED, OrderState.FAILED),
        (Source.CHECKOUT, PaymentState.PENDING, OrderState.OPEN),
        (Source.CHECKOUT, PaymentState.NEEDS_ACTION, OrderState.OPEN),
        (Source.CHECKOUT, PaymentState.FAILED, OrderState.OPEN),
        (Source.CHECKOUT, PaymentState.CANCELED, OrderState.CANCELED),
    ],
)
def test_a_payment_that_is_not_paid_only_moves_its_order(
    source: Source, state: PaymentState, told: OrderState
) -> None:
    known = replace(KNOWN, order=replace(ORDER, source=source))
    found = ruling(known, a_payment(state=state))
    assert (found.state, found.order_id, found.postings) == (told, ORDER.id, ())


def test_what_went_back_is_booked_each_under_its_own_id_and_undone_where_it_came_again() -> None:
    payment = a_payment(
        reversals=(
            Reversal("re_1", usd("3"), is_dispute=False),
            Reversal("dp_1", usd("17"), is_dispute=True, reinstated=True),
            Reversal("re_tax", ZERO, is_dispute=False),
        )
    )
    kinds = [(p.kind, p.amount) for p in ruling(KNOWN, payment).postings]
    assert kinds == [
        (Kind.DEPOSIT, usd("20")),
        (Kind.REVERSAL, usd("3")),
        (Kind.REVERSAL, usd("17")),
        (Kind.REINSTATE, usd("17")),
    ]
    first, refund, dispute, undo = ruling(KNOWN, payment).postings
    assert refund.corrects == dispute.corrects == first.id
    assert undo.corrects == dispute.id
    assert len({first.id, refund.id, dispute.id, undo.id}) == 4
    assert returned(payment) == usd("3")


@given(st.lists(st.text(max_size=20), max_size=3), st.lists(st.text(max_size=20), max_size=3))
def test_a_derived_id_is_an_id_and_no_other_names_have_it(one: list[str], other: list[str]) -> None:
    id = derived("order", *one)
    assert is_id(id)
    assert UUID(id).version == 8
    assert (derived("order", *other) == id) is (one == other)
    assert derived("deposit", *one) != id


@pytest.mark.parametrize("name", ["", "x" * 32, "F" * 32, "f" * 31, "f" * 33, "'; DROP TABLE", "é"])
def test_what_has_not_the_form_of_an_id_is_none(name: str) -> None:
    assert not is_id(name)


@pytest.mark.parametrize("amount", [*PACKAGES, MIN_PURCHASE, MAX_PURCHASE, usd("5.01"), usd("77")])
def test_whole_cents_within_the_limits_are_sold(amount: Usd) -> None:
    check_purchase(amount)


@pytest.mark.parametrize(
    "amount",
    [
        ZERO,
        Usd(-usd("5")),
        Usd(MIN_PURCHASE - CENT),
        Usd(MAX_PURCHASE + CENT),
        Usd(usd("5") + 1),
        usd("5.005"),
        Usd(10**30),
    ],
)
def test_other_amounts_are_refused_by_name_and_nothing_is_charged(amount: Usd) -> None:
    with pytest.raises(Refusal, match="Nothing was charged") as refused:
        check_purchase(amount)
    assert (refused.value.code, refused.value.param) == (Code.INVALID_VALUE, "amount")


def test_an_order_is_over_some_time_after_its_page_or_its_charge() -> None:
    page = Checkout("cs_1", "https://pay.example", NOON + timedelta(hours=3))
    paged = replace(KNOWN, order=replace(ORDER, source=Source.CHECKOUT), checkout=page)
    assert not paged.is_over(page.expires_at + GRACE)
    assert paged.is_over(page.expires_at + GRACE + timedelta(seconds=1))
    lost = replace(paged, checkout=None)
    assert not lost.is_over(NOON + UNTRACED)
    assert lost.is_over(NOON + UNTRACED + timedelta(seconds=1))
    assert KNOWN.is_over(NOON + GRACE + timedelta(seconds=1))
    assert not KNOWN.is_over(NOON + GRACE)


@pytest.mark.parametrize("source", [Source.CARD, Source.CHECKOUT])
def test_an_order_is_given_up_when_it_is_over_and_nothing_is_on_its_way(source: Source) -> None:
    known = replace(KNOWN, order=replace(ORDER, source=source))
    paying, early, late = replace(known, payment_id="pi_1"), NOON, NOON + timedelta(days=3)
    assert known.is_given_up(None, late)
    assert not known.is_given_up(None, early)
    assert not paying.is_given_up(None, late), "nobody could say how its payment stands"
    ended = {state for state in PaymentState if paying.is_given_up(a_payment(state=state), late)}
    assert ended == {PaymentState.NEEDS_ACTION, PaymentState.FAILED, PaymentState.CANCELED}
    assert not any(paying.is_given_up(a_payment(state=state), early) for state in PaymentState)


def test_a_payment_is_asked_for_by_its_own_id_then_by_its_page() -> None:
    assert KNOWN.handle is None
    paged = replace(KNOWN, checkout=Checkout("cs_1", "", NOON))
    assert paged.handle == "cs_1"
    assert replace(paged, payment_id="pi_1").handle == "pi_1"
