from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from adapters.memory.keys import MemoryAttempts
from adapters.memory.runtime import MemoryPasswords
from console.signin import SESSION_HOURS
from console.wiring import BUNDLE
from console.words import plain
from kyma.accounts import Operator
from kyma.flows.signin import OperatorSignIn
from kyma.flows.throttle import Throttle
from kyma.ports.storage import StorageUnavailable
from kyma.throttles import LIMITS, Guarded
from tests.console.fakes import OPERATOR, PASSWORD, World, a_tab, page_of, whole_app

PAGE = "from console.pages.tier_overrides import page\npage()"


@pytest.fixture
def world() -> World:
    return World()


def find(app: AppTest, text: str) -> AppTest:
    app.text_input(key="customer").input(text)
    return app.run()


def labelled(widgets: Iterable[Any], label: str) -> Any:
    return next(widget for widget in widgets if widget.label == label)


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def sentences(elements: Iterable[Any]) -> list[str]:
    return [element.value.replace("\\", "") for element in elements]


def shown(app: AppTest) -> str:
    return "\n".join(sentences([*app.markdown, *app.caption, *app.subheader]))


def sign_in(app: AppTest, password: str) -> AppTest:
    labelled(app.text_input, "Name").input(OPERATOR)
    labelled(app.text_input, "Password").input(password)
    labelled(app.button, "Sign in").click()
    return app.run()


def test_the_page_begins_with_what_to_do(world: World) -> None:
    app = page_of(world, PAGE).run()
    assert not app.exception
    assert "Enter a customer's e-mail address" in app.info[0].value


def test_a_customer_nobody_has_is_said_in_a_sentence(world: World) -> None:
    app = find(page_of(world, PAGE).run(), "nobody@example.com")
    assert sentences(app.warning) == [
        "No customer matches “nobody@example.com”. Try a shorter part of the address."
    ]


def test_one_match_shows_tier_deposits_and_why(world: World) -> None:
    asyncio.run(world.customer("ada@example.com", deposits="50.25"))
    app = find(page_of(world, PAGE).run(), "ada")
    assert not app.exception
    assert metrics(app) == {
        "Tier now": "Tier 2",
        "Decided by": "deposits",
        "Lifetime deposits": "$50.25",
    }
    assert "lifetime deposits of $50.25" in shown(app)
    assert "Nobody has overridden this customer's tier yet." in shown(app)
    limits = app.table[0].value
    assert limits.loc["Requests / minute", "Tier 2 (now)"] == "120"


def test_a_customer_is_found_by_id(world: World) -> None:
    account = asyncio.run(world.customer("ada@example.com"))
    app = find(page_of(world, PAGE).run(), account.id)
    assert "ada@example.com" in shown(app)


def test_several_matches_wait_for_a_choice(world: World) -> None:
    for name in ("ada", "grace"):
        asyncio.run(world.customer(f"{name}@example.com"))
    app = find(page_of(world, PAGE).run(), "example")
    assert app.selectbox(key="found").label == "2 customers match"
    assert not app.metric
    app.selectbox(key="found").select_index(1).run()
    assert not app.exception
    assert metrics(app)["Tier now"] == "Tier 0"


def test_granting_a_tier_changes_it_and_tells_every_process(world: World) -> None:
    account = asyncio.run(world.customer("ada@example.com"))
    app = find(page_of(world, PAGE).run(), "ada")
    labelled(app.selectbox, "Tier").select(3)
    labelled(app.text_area, "Reason").input("pilot with *us*")
    labelled(app.date_input, "Ends on (UTC)").set_value(date(2026, 6, 1))
    labelled(app.time_input, "at").set_value(time(18, 30))
    labelled(app.button, "Grant").click()
    app.run()

    assert not app.exception
    assert sentences(app.success) == ["ada@example.com is on Tier 3 from the next request."]
    assert metrics(app)["Tier now"] == "Tier 3"
    assert metrics(app)["Tier from deposits"] == "Tier 0"
    assert "override by olga, until 2026-06-01 18:30 UTC: pilot with *us*" in shown(app)
    (row,) = world.store.overrides
    assert (row.account_id, row.level, row.operator) == (account.id, 3, OPERATOR)
    assert row.until == datetime(2026, 6, 1, 18, 30, tzinfo=UTC)
    assert world.invalidations.forgotten == [account.id]
    history = app.dataframe[0].value
    assert list(history["State"]) == ["in force"]
    assert list(history["Reason"]) == ["pilot with *us*"]


def test_after_a_grant_the_form_is_empty_and_the_notice_is_said_once(world: World) -> None:
    asyncio.run(world.customer("ada@example.com"))
    app = find(page_of(world, PAGE).run(), "ada")
    labelled(app.text_area, "Reason").input("pilot")
    labelled(app.button, "Grant").click()
    app.run()
    assert labelled(app.text_area, "Reason").value == ""
    app.run()
    assert not app.success
    assert len(world.store.overrides) == 1


def test_a_grant_without_end_ignores_the_date(world: World) -> None:
    asyncio.run(world.customer("ada@example.com"))
    app = find(page_of(world, PAGE).run(), "ada")
    labelled(app.text_area, "Reason").input("partner")
    labelled(app.checkbox, "No end (the date is ignored)").check()
    labelled(app.button, "Grant").click()
    app.run()
    assert world.store.overrides[0].until is None
    assert list(app.dataframe[0].value["Ends (UTC)"]) == ["no end"]


def test_a_grant_ends_after_thirty_days_unless_told_otherwise(world: World) -> None:
    asyncio.run(world.customer("ada@example.com"))
    app = find(page_of(world, PAGE).run(), "ada")
    labelled(app.text_area, "Reason").input("pilot")
    labelled(app.button, "Grant").click()
    app.run()
    assert world.store.overrides[0].until == datetime(2026, 6, 16, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("reason", "day", "sentence"),
    [
        ("", date(2026, 6, 1), "Give a reason of 3 to 500 characters."),
        (
            "pilot",
            date(2026, 5, 1),
            "The end must be in the future; it is 2026-05-17 12:00 UTC now.",
        ),
    ],
)
def test_a_refused_grant_is_said_in_a_sentence_and_changes_nothing(
    world: World, reason: str, day: date, sentence: str
) -> None:
    asyncio.run(world.customer("ada@example.com"))
    app = find(page_of(world, PAGE).run(), "ada")
    labelled(app.text_area, "Reason").input(reason)
    labelled(app.date_input, "Ends on (UTC)").set_value(day)
    labelled(app.button, "Grant").click()
    app.run()
    assert not app.exception
    assert sentences(app.error) == [sentence]
    assert world.store.overrides == []
    assert labelled(app.text_area, "Reason").value == reason


def test_revoking_needs_an_override_in_force(world: World) -> None:
    asyncio.run(world.customer("ada@example.com"))
    app = find(page_of(world, PAGE).run(), "ada")
    assert "Revoke" not in [button.label for button in app.button]
    assert "nothing to revoke" in shown(app)


def test_revoking_lets_deposits_decide_again(world: World) -> None:
    account = asyncio.run(world.customer("ada@example.com", deposits="5"))
    asyncio.run(world.overrides.grant(account.id, 4, "pilot", None, "nils"))
    app = find(page_of(world, PAGE).run(), "ada")
    _, reason = app.text_area
    reason.input("pilot over")
    labelled(app.button, "Revoke").click()
    app.run()
    assert not app.exception
    assert sentences(app.success) == ["The override of ada@example.com is revoked."]
    assert metrics(app)["Tier now"] == "Tier 1"
    history = app.dataframe[0].value
    assert list(history["Decision"]) == ["Revoked", "Tier 4"]
    assert list(history["Operator"]) == [OPERATOR, "nils"]


def test_what_people_wrote_is_never_markup() -> None:
    assert plain("![x](http://a)\n# $y$ :red[z]") == (r"\!\[x\]\(http\://a\) \# \$y\$ \:red\[z\]")


def test_a_stranger_sees_nothing_but_the_sign_in(world: World) -> None:
    app = whole_app(world).run()
    assert not app.exception
    assert [title.value for title in app.title] == ["Kyma console"]
    assert [button.label for button in app.button] == ["Sign in"]


def test_an_operator_signs_in_and_out(world: World) -> None:
    app = sign_in(whole_app(world).run(), PASSWORD)
    assert not app.exception
    assert [title.value for title in app.title] == ["Usage"]
    labelled(app.button, "Sign out").click()
    app.run()
    assert [title.value for title in app.title] == ["Kyma console"]


def test_a_wrong_password_is_said_without_saying_which_part(world: World) -> None:
    app = sign_in(whole_app(world).run(), "wrong horse")
    assert sentences(app.error) == ["Name or password is wrong."]
    assert [title.value for title in app.title] == ["Kyma console"]


def test_failed_attempts_make_even_the_right_password_wait(world: World) -> None:
    app = whole_app(world).run()
    limit = LIMITS[Guarded.LOGIN]
    for _ in range(limit.per_subject):
        sign_in(app, "wrong horse")
    app = sign_in(a_tab(world).run(), PASSWORD)
    assert sentences(app.error) == [
        f"Too many attempts to sign in. Try again in {limit.window_s} seconds."
    ]
    world.clock.move(limit.window_s)
    sign_in(app, PASSWORD)
    assert [title.value for title in app.title] == ["Usage"]


def test_a_session_ends_by_itself(world: World) -> None:
    app = sign_in(whole_app(world).run(), PASSWORD)
    world.clock.move(SESSION_HOURS * 3600)
    app.run()
    assert [title.value for title in app.title] == ["Kyma console"]


class OperatorsAway:
    """Operators whose database is gone."""

    async def add(self, operator: Operator) -> bool:
        raise StorageUnavailable("refused")

    async def by_name(self, name: str) -> Operator | None:
        raise StorageUnavailable("refused")

    async def count(self) -> int:
        raise StorageUnavailable("refused")


def test_a_database_that_is_away_is_said_in_a_sentence(world: World) -> None:
    app = whole_app(world)
    signin = OperatorSignIn(
        OperatorsAway(),
        MemoryPasswords(),
        Throttle(MemoryAttempts(world.clock.monotonic)),
    )
    app.session_state[BUNDLE] = replace(world.console, signin=signin)
    sign_in(app.run(), PASSWORD)
    assert not app.exception
    assert "cannot reach its database" in app.error[0].value
