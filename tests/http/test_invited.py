"""A referral link, from where it is shown to the new account, through the real pages."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from adapters.memory.mail import MemoryMails
from kyma.flows.access import Client
from kyma.mail import Letter
from kyma.money import decimal_text
from kyma.referrals import REWARD, State
from tests.http.on_memory import Place, a_place
from tests.http.test_pages import mailed
from tests.http.visiting import Browser, Page

NOBODYS = "0123456789"


@pytest_asyncio.fixture
async def place() -> Place:
    return await a_place(public_url="http://kyma.example")


@pytest.fixture
def browser(place: Place) -> Browser:
    return Browser(place.gateway)


async def link_of(place: Place) -> str:
    """The path of the place's customer's referral link."""
    link = str((await place.ask("GET", "/v1/referrals")).json()["link"])
    assert link.startswith("http://kyma.example/")
    return link.removeprefix("http://kyma.example")


async def sent_by_customer(place: Place) -> list[str]:
    return [each["state"] for each in (await place.ask("GET", "/v1/referrals")).json()["data"]]


async def signed_up(place: Place, browser: Browser, path: str, email: str) -> Page:
    """From a link to the page that shows the new key."""
    form = await browser.follow(await browser.get(path))
    assert "Create an account" in form.text
    assert "Check your mail" in (await browser.send(form, email=email)).text
    done = await browser.send(await browser.get(mailed(place, Letter.SIGN_UP)), password="secret-1")
    assert "Welcome" in done.text
    return done


async def test_who_follows_a_referral_link_and_signs_up_is_a_pending_referral(
    place: Place, browser: Browser
) -> None:
    path = await link_of(place)
    form = await browser.follow(await browser.get(path))
    assert path.partition("=")[2] in form.text
    assert f"${float(decimal_text(REWARD)):.2f} of credit" in form.text
    await signed_up(place, browser, path, "grace@example.com")
    assert await sent_by_customer(place) == [State.PENDING.value]


async def test_the_letter_may_be_read_in_another_browser(place: Place, browser: Browser) -> None:
    form = await browser.follow(await browser.get(await link_of(place)))
    await browser.send(form, email="grace@example.com")
    elsewhere = Browser(place.gateway)
    page = await elsewhere.get(mailed(place, Letter.SIGN_UP))
    short = await elsewhere.send(page, password="short")
    assert short.status == 400  # and the second try still knows
    await elsewhere.send(short, password="secret-1")
    assert await sent_by_customer(place) == [State.PENDING.value]


async def test_the_code_survives_a_mistyped_address_and_a_look_at_the_other_page(
    place: Place, browser: Browser
) -> None:
    path = await link_of(place)
    code = path.partition("=")[2]
    form = await browser.follow(await browser.get(path))
    wrong = await browser.send(form, email="no address")
    assert wrong.read.forms[0][2]["ref"] == code
    links = [given["href"] for tag, given in wrong.read.tags if tag == "a" and "href" in given]
    assert f"/signin?ref={code}" in links
    sign_in = await browser.get(f"/signin?ref={code}")
    failed = await browser.send(sign_in, email="grace@example.com", password="guess")
    for page in (sign_in, failed):
        links = [given["href"] for tag, given in page.read.tags if tag == "a" and "href" in given]
        assert f"/signup?ref={code}" in links


@pytest.mark.parametrize(
    "query",
    ["?ref=", "?ref=" + "x" * 3000, "?ref=%00%ff", "?ref=<script>", "?ref=a&ref=b", "", "?x=1"],
)
async def test_what_is_no_code_is_left_out_without_a_word(
    query: str, place: Place, browser: Browser
) -> None:
    sent = await browser.get(f"/{query}")
    assert (sent.status, sent.location) == (303, "/account")
    form = await browser.get(f"/signup{query}")
    assert form.status == 200
    assert form.read.forms[0][2]["ref"] == ""
    assert "invitation" not in form.text
    forged = {**form.read.forms[0][2], "email": "grace@example.com", "ref": "'; DROP TABLE"}
    assert "Check your mail" in (await browser.post("/signup", forged)).text
    assert "ref=" not in mailed(place, Letter.SIGN_UP)


async def test_a_code_that_nobody_has_opens_the_account_all_the_same(
    place: Place, browser: Browser
) -> None:
    await signed_up(place, browser, f"/?ref={NOBODYS}", "grace@example.com")
    assert await sent_by_customer(place) == []


async def test_who_sends_themselves_gets_an_account_and_no_referral(
    place: Place, browser: Browser
) -> None:
    name, _, domain = place.account.email.partition("@")
    await signed_up(place, browser, await link_of(place), f"{name}+again@{domain}")
    assert await sent_by_customer(place) == []


async def test_who_has_an_account_already_is_nobodys_referral(
    place: Place, browser: Browser
) -> None:
    await place.container.access().register("ana@example.com", "secret-1", Client())
    form = await browser.follow(await browser.get(await link_of(place)))
    await browser.send(form, email="ana@example.com")
    page = await browser.get(mailed(place, Letter.HAS_ACCOUNT))
    assert "Password changed" in (await browser.send(page, password="secret-2")).text
    await browser.sign_in("ana@example.com", "secret-2")
    opened = await browser.follow(await browser.get(await link_of(place)))
    assert "You are signed in" in opened.text
    assert await sent_by_customer(place) == []


# Sending a letter again.


def letters(place: Place) -> list[tuple[Letter, str]]:
    mails = place.container.mails()
    assert isinstance(mails, MemoryMails)
    return [(row.letter, row.to) for row in mails.rows.values()]


async def test_a_letter_that_was_lost_is_sent_again_with_all_it_knew(
    place: Place, browser: Browser
) -> None:
    path = await link_of(place)
    form = await browser.follow(await browser.get(path))
    sent = await browser.send(form, email="grace@example.com")
    again = await browser.send(sent)
    assert again.text == sent.text
    assert letters(place) == [(Letter.SIGN_UP, "grace@example.com")] * 2
    assert mailed(place, Letter.SIGN_UP).endswith(urlsplit(path).query)


@pytest.mark.parametrize("path", ["/forgot", "/signup"])
async def test_sending_again_ends_alike_for_every_address(
    path: str, place: Place, browser: Browser
) -> None:
    await place.container.access().register("ana@example.com", "secret-1", Client())
    seen = []
    for email in ("ana@example.com", "eve@example.com"):
        page = await browser.send(await browser.get(path), email=email)
        pages = [page]
        for _ in range(3):
            page = await browser.send(page) if page.status == 200 else page
            pages.append(page)
        seen.append([(one.status, one.text.replace(email, "X")) for one in pages])
    assert seen[0] == seen[1]
    assert [status for status, _ in seen[0]] == [200, 200, 200, 429]


async def test_an_address_that_is_not_confirmed_is_asked_for_on_the_account_page_until_it_is(
    place: Place, browser: Browser
) -> None:
    await place.container.access().register("ana@example.com", "secret-1", Client())
    page = await browser.sign_in("ana@example.com", "secret-1")
    assert "not confirmed" in page.text
    sent = await browser.send(page)
    assert "Check your mail" in sent.text
    assert (await browser.send(sent)).status == 200
    assert letters(place) == [(Letter.VERIFY, "ana@example.com")] * 2
    await browser.send(await browser.get(mailed(place, Letter.VERIFY)))
    assert "not confirmed" not in (await browser.get("/account")).text
    late = await browser.send(page)
    assert (late.status, late.location) == (303, "/account")
    assert len(letters(place)) == 2


async def test_asking_for_the_proof_of_an_address_is_throttled(
    place: Place, browser: Browser
) -> None:
    await place.container.access().register("ana@example.com", "secret-1", Client())
    page = await browser.sign_in("ana@example.com", "secret-1")
    assert [(await browser.send(page)).status for _ in range(4)] == [200, 200, 200, 429]
    assert len(letters(place)) == 3


async def test_nobody_asks_for_the_proof_of_an_address_without_being_signed_in(
    place: Place, browser: Browser
) -> None:
    form = await browser.get("/signin")
    answer = await browser.post("/account/verify", {"csrf": form.read.forms[0][2]["csrf"]})
    assert (answer.status, answer.location) == (303, "/signin?next=%2Faccount")
    assert letters(place) == []
