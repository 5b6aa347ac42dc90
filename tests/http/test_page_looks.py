"""What can be seen of the pages without a browser: colours, words of errors, where one goes on."""

from __future__ import annotations

import re

import pytest
import pytest_asyncio

from adapters.http.pages import STATIC
from adapters.http.visitor import spoken
from kyma.errors import Code, Refusal
from kyma.flows.access import Client
from tests.http.on_memory import Place, a_place
from tests.http.visiting import Browser, Page

SCHEMES = [
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for block in re.findall(r":root \{([^}]*)\}", (STATIC / "pages.css").read_text())
]
TEXT = [
    ("ink", "card"),
    ("ink", "paper"),
    ("ink", "sand"),
    ("soft", "card"),
    ("blue", "card"),
    ("on-blue", "blue"),
    ("red", "red-paper"),
]
CONTROLS = [("line", "card"), ("blue", "card"), ("blue", "paper")]


def brightness(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((brightness(one), brightness(other)))
    return (light + 0.05) / (dark + 0.05)


def test_there_is_a_light_and_a_dark_scheme_and_each_sets_every_colour() -> None:
    assert len(SCHEMES) == 2
    assert SCHEMES[0].keys() == SCHEMES[1].keys()


@pytest.mark.parametrize("scheme", SCHEMES, ids=["light", "dark"])
def test_texts_and_controls_stand_out_as_the_style_promises(scheme: dict[str, str]) -> None:
    faint = [pair for pair in TEXT if contrast(scheme[pair[0]], scheme[pair[1]]) < 7]
    assert faint == []
    lost = [pair for pair in CONTROLS if contrast(scheme[pair[0]], scheme[pair[1]]) < 4.5]
    assert lost == []


@pytest_asyncio.fixture
async def place() -> Place:
    return await a_place()


@pytest.fixture
def browser(place: Place) -> Browser:
    return Browser(place.gateway)


def focused(page: Page) -> list[str | None]:
    return [given.get("id") for _, given in page.read.tags if "autofocus" in given]


def doubted(page: Page) -> list[str | None]:
    return [given.get("id") for _, given in page.read.tags if given.get("aria-invalid") == "true"]


async def test_an_error_is_told_in_the_title_and_the_field_to_mend_has_the_focus(
    place: Place, browser: Browser
) -> None:
    await place.container.access().register("ana@example.com", "secret-1", Client())
    form = await browser.get("/signin")
    assert (focused(form), doubted(form)) == (["email"], [])
    assert "Error" not in form.text
    wrong = await browser.send(form, email="ana@example.com", password="guess")
    assert (focused(wrong), doubted(wrong)) == (["password"], ["email", "password"])
    assert wrong.text.startswith("Error: Sign in")
    bad = await browser.send(await browser.get("/forgot"), email="no address")
    assert (focused(bad), doubted(bad)) == (["email"], ["email"])
    await browser.sign_in("ana@example.com", "secret-1")
    code = await browser.get("/device?code=KYMA-2222")
    assert (focused(code), doubted(code)) == (["code"], ["code"])


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (
            Refusal(Code.INVALID_VALUE, "`email`: It must have an @-sign."),
            "It must have an @-sign.",
        ),
        (Refusal(Code.INVALID_VALUE, "`email` must be short."), "Email must be short."),
        (Refusal(Code.INVALID_VALUE, "The password is short."), "The password is short."),
        (Refusal(Code.MISSING_FIELD, "Missing required parameter: `x`."), "Fill in every field."),
        (Refusal(Code.INVALID_REQUEST, "`next` came twice."), "Next came twice."),
        (Refusal(Code.INTERNAL, ""), ""),
    ],
)
def test_people_are_not_told_the_names_of_parameters(refusal: Refusal, said: str) -> None:
    assert spoken(refusal) == said


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/reset?token=x", "/forgot"),
        ("/signup/finish?token=x", "/signup"),
        ("/verify?token=x", "/account"),
        ("/join?token=x", "/signin"),
        ("/v1/auth/authorize", "/account"),
    ],
)
async def test_an_error_leads_to_where_it_can_be_mended(
    path: str, leads_to: str, browser: Browser
) -> None:
    page = await browser.get(path)
    assert page.status == 400
    links = [given["href"] for tag, given in page.read.tags if tag == "a" and "href" in given]
    assert [link for link in links if link != "#main"] == [leads_to]


async def test_a_payment_that_is_still_open_can_be_looked_at_again() -> None:
    place = await a_place(stripe_secret_key="sk_test_memory", stripe_webhook_secret="whsec_memory")
    await place.container.access().register("ana@example.com", "secret-1", Client())
    browser = Browser(place.gateway)
    await browser.sign_in("ana@example.com", "secret-1")
    token = browser.jar["kyma_session"]
    order = (await place.ask("POST", "/v1/billing/checkout", {"amount": 20}, secret=token)).json()
    path = f"/billing/back/{order['order_id']}"
    page = await browser.get(f"{path}?checkout=cs_1")
    assert "Look again" in page.text
    links = [given["href"] for tag, given in page.read.tags if tag == "a" and "href" in given]
    assert path in links


@pytest.mark.parametrize(
    ("path", "media"), [("/assets/pages.css", "text/css"), ("/assets/icon.svg", "image/svg+xml")]
)
async def test_what_pages_load_is_of_this_site_runs_nothing_and_may_be_kept(
    path: str, media: str, browser: Browser
) -> None:
    page = await browser.get(path)
    assert page.status == 200
    headers = page.answer.headers
    assert headers["content-type"].startswith(media)
    assert headers["cache-control"] == "public, max-age=3600"
    assert headers["content-security-policy"] == "default-src 'none'"
    assert b"<script" not in page.answer.body
    assert b"url(" not in page.answer.body
    tags = (await browser.get("/signin")).read.tags
    assert path in [given.get("href") for tag, given in tags if tag == "link"]
