"""Open requests on the override page, referrals below a customer, and the page of troubles."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from adapters.memory.mail import PutBack
from console.asked import SHOWN
from kyma.accounts import Account
from kyma.ledger import Flag
from kyma.limit_requests import LimitRequest
from kyma.limit_requests import State as Answer
from kyma.mail import Letter, Mail, State
from kyma.money import usd
from kyma.orders import OrderState, Ruling
from kyma.payments import Payment, PaymentState, Reversal
from kyma.ports.storage import StorageUnavailable
from kyma.referrals import State as Referred
from tests.builders import new_id
from tests.console.fakes import OPERATOR, World, page_of

OVERRIDES = "from console.pages.tier_overrides import page\npage()"
MONEY = "from console.pages.money_in import page\npage()"


@pytest.fixture
def world() -> World:
    return World()


def said(elements: Iterable[Any]) -> list[str]:
    return [element.value.replace("\\", "") for element in elements]


def asks(world: World, email: str, company: str = "Example GmbH") -> LimitRequest:
    account = asyncio.run(world.customer(email))
    use, load = "support\ntickets, *many*", "250 a minute"
    return asyncio.run(world.limits_asked.ask(account.id, company, use, load))


def press(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click()
    return app.run()


def headings(app: AppTest) -> list[str]:
    return said(app.subheader)


def test_without_requests_nothing_is_said_of_them(world: World) -> None:
    app = page_of(world, OVERRIDES).run()
    assert not app.exception
    assert not app.expander
    assert headings(app) == []


def test_open_requests_are_shown_oldest_first_with_all_they_say(world: World) -> None:
    asks(world, "ada@example.com", "Old & Sons **bold**")
    world.clock.move(60)
    asks(world, "grace@example.com")
    app = page_of(world, OVERRIDES).run()
    assert not app.exception
    assert headings(app)[0] == "Open requests: 2"
    titles = [drawer.label.replace("\\", "") for drawer in app.expander]
    assert titles == [
        "**Old & Sons **bold**** · ada@example.com · 2026-05-17 12:00 UTC",
        "**Example GmbH** · grace@example.com · 2026-05-17 12:01 UTC",
    ]
    assert r"\*\*bold\*\*" in app.expander[0].label
    assert [text.value for text in app.expander[1].text] == [
        "support\ntickets, *many*",
        "250 a minute",
    ]


def test_approving_grants_the_tier_and_tells_the_customer(world: World) -> None:
    request = asks(world, "ada@example.com")
    app = page_of(world, OVERRIDES).run()
    form = f"approve-{request.id}"
    assert app.selectbox(key=f"level-{form}").value == 4
    app.selectbox(key=f"level-{form}").select(3)
    app.date_input(key=f"day-{form}").set_value(date(2026, 7, 1))
    app.text_area(key=f"reason-{form}").input("pilot")
    press(app, f"submit-{form}")
    assert not app.exception
    assert said(app.success) == [
        "ada@example.com is on Tier 3 from the next request, and is told by mail."
    ]
    assert not app.expander
    (override,) = world.store.overrides
    assert (override.account_id, override.level, override.operator) == (
        request.account_id,
        3,
        OPERATOR,
    )
    assert override.until == datetime(2026, 7, 1, tzinfo=UTC)
    assert world.invalidations.forgotten == [request.account_id]
    (letter,) = world.mails.rows.values()
    assert (letter.letter, letter.to) == (Letter.TIER_GRANTED, "ada@example.com")
    assert dict(letter.facts) == {
        "tier": "Tier 3",
        "until": "2026-07-01 00:00 UTC",
        "reason": "pilot",
    }


def test_declining_needs_a_reason_and_changes_no_tier(world: World) -> None:
    request = asks(world, "ada@example.com")
    app = page_of(world, OVERRIDES).run()
    form = f"decline-{request.id}"
    press(app, f"submit-{form}")
    assert said(app.error) == ["Give a reason of 3 to 500 characters."]
    assert world.requests.requests[request.id].state is Answer.OPEN
    app.text_area(key=f"reason-{form}").input("not with this load")
    press(app, f"submit-{form}")
    assert not app.exception
    assert said(app.success) == [
        "The request of ada@example.com is declined, and they are told by mail."
    ]
    assert world.store.overrides == []
    assert world.requests.operators == {request.id: OPERATOR}
    (letter,) = world.mails.rows.values()
    assert (letter.letter, dict(letter.facts)) == (
        Letter.TIER_DECLINED,
        {"reason": "not with this load"},
    )


def test_an_answer_that_comes_second_is_said_in_a_sentence(world: World) -> None:
    request = asks(world, "ada@example.com")
    app = page_of(world, OVERRIDES).run()
    form = f"approve-{request.id}"
    app.text_area(key=f"reason-{form}").input("pilot")
    app.button(key=f"submit-{form}").click()
    # Between the page and the press, somebody else answers.
    late = LateAnswer(world, request)
    app.session_state["console"] = replace(world.console, limits_asked=late)
    app.run()
    assert not app.exception
    assert said(app.error) == ["This request has been answered by somebody else meanwhile."]
    assert world.store.overrides == []


class LateAnswer:
    """The flow, before which another operator answers."""

    def __init__(self, world: World, request: LimitRequest) -> None:
        self._world = world
        self._request = request

    async def waiting(self) -> list[LimitRequest]:
        return [self._request]

    async def approve(self, *given: Any) -> Any:
        await self._world.limits_asked.decline(self._request, "not now", "nils")
        return await self._world.limits_asked.approve(*given)


def test_more_requests_than_a_page_holds_are_counted(world: World) -> None:
    for number in range(SHOWN + 2):
        asks(world, f"customer{number}@example.com")
    app = page_of(world, OVERRIDES).run()
    assert len(app.expander) == SHOWN
    assert "2 more follow when these are answered." in said(app.caption)


def sent_by(world: World, customer: Account) -> str:
    """A pending referral of a customer; the referred account."""
    email = f"{new_id()[:8]}@example.com"
    return asyncio.run(world.customer(email, sent_by=customer.id)).id


def test_a_referral_can_be_voided_once_and_with_a_reason(world: World) -> None:
    customer = asyncio.run(world.customer("ada@example.com"))
    referred = sent_by(world, customer)
    app = page_of(world, OVERRIDES).run()
    app.text_input(key="customer").input("ada@")
    app.run()
    assert "Referrals" in headings(app)
    assert list(app.dataframe[0].value["State"]) == ["pending"]
    next(area for area in app.text_area if (area.key or "").startswith("reason-void")).input("bot")
    next(button for button in app.button if button.label == "Void").click()
    app.run()
    assert not app.exception
    assert said(app.success) == [f"The referral of account {referred} is void."]
    (referral,) = world.store.referrals.values()
    assert referral.state is Referred.VOID
    assert list(world.referral_book.voided.values()) == [(OPERATOR, "bot")]
    assert "Void" not in [button.label for button in app.button]


def test_a_customer_who_sent_nobody_has_no_referrals(world: World) -> None:
    asyncio.run(world.customer("ada@example.com"))
    app = page_of(world, OVERRIDES).run()
    app.text_input(key="customer").input("ada@")
    app.run()
    assert not app.exception
    assert "Referrals" not in headings(app)


def test_when_everything_is_well_each_list_says_so(world: World) -> None:
    app = page_of(world, MONEY).run()
    assert not app.exception
    assert {metric.label: metric.value for metric in app.metric} == {
        "Paid, not credited": "0",
        "Flagged accounts": "0",
        "Letters that did not go": "0",
    }
    assert len(app.success) == 3
    assert not app.dataframe


def test_what_needs_a_person_is_listed(world: World) -> None:
    account = asyncio.run(world.customer("ada@example.com"))
    payment = Payment(
        "pi_1", new_id(), account.id, "cus_1", usd("20"), "eur", PaymentState.PAID,
        world.clock.now(),
    )  # fmt: skip
    ruling = Ruling(payment, None, OrderState.REFUSED, refusal="it is in EUR")
    asyncio.run(world.orders.book(ruling))
    world.store.flags.append(Flag(new_id(), account.id, usd("3.5"), "dispute", world.clock.now()))
    asyncio.run(lose_a_letter(world))
    app = page_of(world, MONEY).run()
    assert not app.exception
    assert [metric.value for metric in app.metric] == ["1", "1", "1"]
    paid, flagged, letters = (table.value.iloc[0].to_dict() for table in app.dataframe)
    assert (paid["Amount"], paid["Currency"], paid["Why not"], paid["Payment"]) == (
        "20.00",
        "EUR",
        "it is in EUR",
        "pi_1",
    )
    assert (flagged["Our loss"], flagged["Account"]) == ("$3.50", account.id)
    assert letters == {
        "When (UTC)": "2026-05-17 12:00",
        "Letter": "low balance",
        "To": "ada@example.com",
        "Outcome": "not sent",
        "Tries": 1,
        "Last error": "550 no such mailbox",
    }


def unpaid(world: World, currency: str = "usd", back: str = "0", id: str = "pi_1") -> str:
    """A payment of 20 that was not credited, of which some went back; its account."""
    account = asyncio.run(world.customer(f"{id}@example.com")).id
    reversals = (Reversal("re_1", usd(back), is_dispute=False),)
    payment = Payment(
        id, new_id(), account, "cus_1", usd("20"), currency, PaymentState.PAID,
        world.clock.now(), reversals=reversals,
    )  # fmt: skip
    refused = Ruling(payment, None, OrderState.REFUSED, refusal="why not")
    asyncio.run(world.orders.book(refused))
    return account


def test_a_payment_that_was_not_credited_is_settled_with_a_reason(world: World) -> None:
    account = unpaid(world, back="0.5")
    app = page_of(world, MONEY).run()
    assert app.dataframe[0].value.iloc[0]["Gone back"] == "0.50"
    assert app.selectbox[0].options == ["pi_1, 20 USD"]
    assert [field.value for field in app.text_input] == [account, "19.5"]
    app.button[0].click().run()
    assert "reason" in said(app.error)[0]
    assert not world.store.entries
    app.text_area[0].set_value("A slip in the dashboard.")
    app.button[0].click().run()
    assert not app.exception
    assert said(app.success)[0] == f"Payment pi_1 is settled: $19.50 for account {account}."
    (entry,) = world.store.entries.values()
    assert (entry.account_id, entry.promo, entry.actor) == (account, usd("19.5"), OPERATOR)
    assert entry.reason == "payment pi_1: A slip in the dashboard."
    assert app.metric[0].value == "0"
    assert "Settle" not in [button.label for button in app.button]


def test_credit_for_another_account_and_another_amount_is_settled_as_it_is_written(
    world: World,
) -> None:
    unpaid(world, currency="jpy")
    owner = asyncio.run(world.customer("owner@example.com")).id
    app = page_of(world, MONEY).run()
    amount = app.text_input[1]
    assert amount.value == "", "what yen are worth an operator has to say"
    app.text_area[0].set_value("It is theirs.")
    app.text_input[0].set_value(owner)
    for wrong in ("", "ten", "NaN", "1e999999999", "0.001"):
        app.text_input[1].set_value(wrong)
        app.button[0].click().run()
        assert not app.exception
        assert app.error
        assert not world.store.entries
    app.text_input[1].set_value("0.13")
    app.button[0].click().run()
    (entry,) = world.store.entries.values()
    assert (entry.account_id, entry.promo) == (owner, usd("0.13"))


def test_each_of_several_payments_has_a_form_of_its_own(world: World) -> None:
    unpaid(world)
    second = unpaid(world, id="pi_2")
    app = page_of(world, MONEY).run()
    app.selectbox[0].select_index(1).run()
    assert app.text_input[0].value == second
    app.text_area[0].set_value("A slip in the dashboard.")
    app.button[0].click().run()
    assert not app.exception
    assert world.till.settled == {"pi_2"}


async def lose_a_letter(world: World) -> None:
    mail = Mail("low/1", "ada@example.com", Letter.LOW_BALANCE, {"balance": "0.5"})
    await world.mails.post(mail)
    await world.mails.claim("a", 60)
    await world.mails.end("low/1", "a", State.GIVEN_UP, "550 no such mailbox")


def test_a_letter_that_did_not_go_is_put_back_with_a_reason(world: World) -> None:
    asyncio.run(lose_a_letter(world))
    app = page_of(world, MONEY).run()
    assert app.selectbox[0].options == ["low balance to ada@example.com, 2026-05-17 12:00"]
    app.button[0].click().run()
    assert "reason" in said(app.error)[0]
    assert world.mails.rows["low/1"].state is State.GIVEN_UP
    app.text_area[0].set_value("The mailbox exists now.")
    app.button[0].click().run()
    assert not app.exception
    assert said(app.success)[0] == "The letter to ada@example.com is on its way again."
    assert world.mails.rows["low/1"].state is State.WAITING
    assert world.mails.put_backs == [PutBack("low/1", OPERATOR, "The mailbox exists now.")]
    assert world.bell.rung == 1
    assert "Put back" not in [button.label for button in app.button]


def test_a_letter_that_may_have_gone_is_said_to(world: World) -> None:
    async def lose_sight() -> None:
        await world.mails.post(Mail("low/1", "ada@example.com", Letter.WELCOME))
        await world.mails.claim("a", 60)
        await world.mails.end("low/1", "a", State.UNKNOWN, "the line went dead")

    asyncio.run(lose_sight())
    app = page_of(world, MONEY).run()
    assert app.selectbox[0].options[0].endswith("(may have gone: it could come twice)")


def test_a_letter_whose_link_is_dead_is_listed_and_not_put_back(world: World) -> None:
    async def lose_a_link() -> None:
        facts = {"reset_url": "https://kyma.example/reset?token=s3cret"}
        await world.mails.post(Mail("link:1", "ada@example.com", Letter.RESET, facts))
        await world.mails.claim("a", 60)
        await world.mails.end("link:1", "a", State.GIVEN_UP, "550 no such mailbox")

    asyncio.run(lose_a_link())
    app = page_of(world, MONEY).run()
    assert app.dataframe[0].value.iloc[0]["Letter"] == "reset"
    assert any("link is dead" in text for text in said(app.caption))
    assert not app.selectbox
    assert not app.button


class Away:
    """Orders whose database is gone."""

    async def uncredited(self, limit: int) -> Any:
        raise StorageUnavailable("away")


def test_a_database_that_is_away_is_not_taken_for_an_empty_list(world: World) -> None:
    app = page_of(world, MONEY)
    app.session_state["console"] = replace(world.console, orders=Away())
    app.run()
    assert app.exception
    assert not app.success
