"""The pages: what each does, what guards its forms, and what its headers forbid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import pytest_asyncio

from adapters.http.visitor import local_path
from adapters.memory.mail import MemoryMails
from adapters.memory.payments import MemoryPayments
from kyma.flows.access import Client
from kyma.identity import challenge_of
from kyma.mail import LINK_OF, Letter
from kyma.money import usd
from tests.http.on_memory import Place, a_place
from tests.http.visiting import Browser, Page

CLIENTS = {
    "haynoi": {
        "name": "Haynoi",
        "redirect_uris": ["http://127.0.0.1/cb", "https://haynoi.example/cb"],
    }
}
VERIFIER = "v" * 64
ASKED = {
    "client_id": "haynoi",
    "redirect_uri": "https://haynoi.example/cb",
    "response_type": "code",
    "code_challenge": challenge_of(VERIFIER),
    "code_challenge_method": "S256",
    "state": "s&1",
    "scope": "openid email",
}


@pytest_asyncio.fixture
async def place() -> Place:
    return await a_place(oauth_clients=CLIENTS)


@pytest.fixture
def browser(place: Place) -> Browser:
    return Browser(place.gateway)


async def customer(place: Place, email: str = "ana@example.com") -> str:
    welcome = await place.container.access().register(email, "secret-1", Client())
    return welcome.account.id


def mailed(place: Place, letter: Letter) -> str:
    """The path that the latest letter of a kind leads to."""
    mails = place.container.mails()
    assert isinstance(mails, MemoryMails)
    row = [row for row in mails.rows.values() if row.letter is letter][-1]
    parts = urlsplit(row.facts[LINK_OF[letter]])
    return f"{parts.path}?{parts.query}"


def asking(**changed: str) -> str:
    pairs = {**ASKED, **changed}.items()
    return "/v1/auth/authorize?" + "&".join(f"{k}={quote(v, safe='')}" for k, v in pairs)


async def test_a_person_signs_in_is_where_they_wanted_to_be_and_signs_out(
    place: Place, browser: Browser
) -> None:
    await customer(place)
    sent = await browser.get("/account")
    assert (sent.status, sent.location) == (303, "/signin?next=%2Faccount")
    page = await browser.sign_in("Ana@Example.com", "secret-1")
    assert "You are signed in" in page.text
    assert "ana@example.com" in page.text
    token = browser.jar["kyma_session"]
    assert token.startswith("ks-")
    out = await browser.send(page, 1)
    assert out.location == "/signin"
    assert "kyma_session" not in browser.jar
    browser.jar["kyma_session"] = token
    assert (await browser.get("/account")).status == 303


async def test_a_wrong_password_is_said_on_the_form_without_telling_which_half_was_wrong(
    place: Place, browser: Browser
) -> None:
    await customer(place)
    form = await browser.get("/signin?next=/device")
    wrong = await browser.send(form, email="ana@example.com", password="guess")
    nobody = await browser.send(form, email="nobody@example.com", password="guess")
    assert wrong.status == nobody.status == 401
    assert wrong.text == nobody.text
    assert wrong.read.forms[0][2]["next"] == "/device"
    assert 'role="alert"' in wrong.answer.body.decode()
    assert "kyma_session" not in browser.jar


async def test_guessing_passwords_on_the_page_ends(place: Place, browser: Browser) -> None:
    await customer(place)
    form = await browser.get("/signin")
    statuses = [
        (await browser.send(form, email="ana@example.com", password="guess")).status
        for _ in range(11)
    ]
    assert statuses == [401] * 10 + [429]


async def test_a_session_cookie_is_for_this_site_and_no_script(
    place: Place, browser: Browser
) -> None:
    await customer(place)
    form = await browser.get("/signin")
    page = await browser.send(form, email="ana@example.com", password="secret-1")
    (cookie,) = page.cookies
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie


async def test_behind_https_cookies_are_secure_and_of_this_host_alone() -> None:
    place = await a_place(public_url="https://kyma.example")
    await customer(place)
    browser = Browser(place.gateway)
    form = await browser.get("/signin")
    page = await browser.send(form, email="ana@example.com", password="secret-1")
    for cookie in (*form.cookies, *page.cookies):
        assert cookie.startswith("__Host-kyma_")
        assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))
        assert "Domain" not in cookie


async def test_an_api_key_in_the_cookie_is_nobody(place: Place, browser: Browser) -> None:
    browser.jar["kyma_session"] = "ky-" + "0123456789abcdef" * 3
    assert (await browser.get("/account")).status == 303


async def test_the_cookie_opens_no_route_for_programs(place: Place, browser: Browser) -> None:
    await customer(place)
    await browser.sign_in("ana@example.com", "secret-1")
    assert (await browser.get("/v1/auth/me")).status == 401


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/a\\b",
        "\\\\evil.example",
        "javascript:alert(1)",
        "",
        "account",
        "/a\r\nSet-Cookie: x=1",
        "/\t/evil.example",
        "/" + "x" * 5000,
        "/é",
    ],
)
async def test_nobody_is_sent_to_another_site(path: str, place: Place, browser: Browser) -> None:
    assert local_path(path) == "/account"
    await customer(place)
    form = await browser.get(f"/signin?next={quote(path, safe='')}")
    assert form.read.forms[0][2]["next"] == "/account"
    forged = {**form.read.forms[0][2], "next": path, "email": "ana@example.com"}
    page = await browser.post("/signin", {**forged, "password": "secret-1"})
    assert page.location == "/account"


FORMS = [
    "/signin", "/signout", "/signup", "/signup/finish", "/forgot", "/reset", "/verify", "/device",
    "/join", "/join/password", "/join/mail", "/account/verify", "/v1/auth/authorize",
]  # fmt: skip


def posts(place: Place) -> Iterator[str]:
    for rule in place.gateway.quart.url_map.iter_rules():
        if rule.endpoint.startswith("pages.") and "POST" in (rule.methods or ()):
            yield rule.rule


async def test_every_form_is_tried_below(place: Place) -> None:
    assert sorted(posts(place)) == sorted(FORMS)


@pytest.mark.parametrize("path", FORMS)
async def test_a_form_from_elsewhere_is_refused(path: str, place: Place, browser: Browser) -> None:
    account_id = await customer(place)
    page = await browser.sign_in("ana@example.com", "secret-1")
    mine = page.read.forms[0][2]["csrf"]
    stranger = Browser(place.gateway)
    theirs = (await stranger.get("/signin")).read.forms[0][2]["csrf"]
    nonce, _, proof = mine.partition(".")
    for csrf in ("", ".", "x", nonce, f".{proof}", f"{nonce}.{proof[:-1]}0x", theirs):
        answer = await browser.post(path, {"csrf": csrf, "answer": "approve", **ASKED})
        assert answer.status == 403, csrf
        assert "Nothing was done" in answer.text
    bare = Browser(place.gateway)
    assert (await bare.post(path, {"csrf": mine})).status == 403
    assert len(place.store.sessions) == 4  # nobody was signed out either
    assert [one.account_id for one in place.store.sessions.values()].count(account_id) == 2


async def test_a_form_made_before_signing_in_is_not_one_for_after(
    place: Place, browser: Browser
) -> None:
    await customer(place)
    before = await browser.get("/signin")
    await browser.sign_in("ana@example.com", "secret-1")
    csrf = before.read.forms[0][2]["csrf"]
    assert (await browser.post("/signout", {"csrf": csrf})).status == 403


async def test_a_body_that_is_no_form_is_refused(place: Place, browser: Browser) -> None:
    form = await browser.get("/forgot")
    fields = form.read.forms[0][2]
    assert (await browser.post("/forgot", fields, **{"content-type": "text/plain"})).status == 400
    twice = f"csrf={fields['csrf']}&csrf={fields['csrf']}"
    answer = await browser._ask(
        "POST", "/forgot", twice.encode(), {"content-type": "application/x-www-form-urlencoded"}
    )
    assert answer.status == 400
    huge = {**fields, "email": "x" * 40_000}
    assert (await browser.post("/forgot", huge)).status == 400


GETS = [
    "/signin", "/signup", "/forgot", "/device", "/account", "/reset?token=x", "/verify?token=x",
    "/join?token=x", "/signup/finish?token=x", "/billing/back/card", "/billing/back/nonsense",
    "/v1/auth/authorize", "/v1/auth/google/start", "/v1/auth/google/callback",
]  # fmt: skip


@pytest.mark.parametrize("path", GETS)
async def test_a_page_runs_nothing_is_not_framed_not_kept_and_not_read_by_others(
    path: str, place: Place, browser: Browser
) -> None:
    page = await browser.get(path, origin="https://evil.example")
    headers = page.answer.headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == "'self'"
    assert policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert not [name for name in headers if name.startswith("access-control-")]
    assert "text/html" in headers["content-type"]


@pytest.mark.parametrize("path", ["/signin", "/signup", "/forgot", "/device?code=KYMA-2222"])
async def test_a_page_can_be_read_and_used_without_eyes_or_mouse(
    path: str, place: Place, browser: Browser
) -> None:
    await customer(place)
    if path.startswith("/device"):
        await browser.sign_in("ana@example.com", "secret-1")
    tags = (await browser.get(path)).read.tags
    names = [tag for tag, _ in tags]
    assert names.count("h1") == names.count("main") == names.count("title") == 1
    assert dict(tags)["html"]["lang"] == "en"
    labels = {given["for"] for tag, given in tags if tag == "label"}
    seen = {given["id"] for tag, given in tags if tag == "input" and given.get("type") != "hidden"}
    assert seen
    assert seen <= labels
    ids = {given["id"] for _, given in tags if "id" in given}
    described = {id for _, given in tags for id in (given.get("aria-describedby") or "").split()}
    assert described <= ids
    assert not [given for _, given in tags if "style" in given or "onclick" in given]
    assert "script" not in names


async def test_the_style_is_served_and_may_be_kept(browser: Browser) -> None:
    page = await browser.get("/assets/pages.css")
    assert page.answer.headers["content-type"].startswith("text/css")
    assert page.answer.headers["cache-control"] == "public, max-age=3600"
    assert b"@import" not in page.answer.body
    assert b"url(" not in page.answer.body


async def test_a_forgotten_password_is_replaced_on_the_pages(
    place: Place, browser: Browser
) -> None:
    await customer(place)
    elsewhere = Browser(place.gateway)
    await elsewhere.sign_in("ana@example.com", "secret-1")
    sent = await browser.send(await browser.get("/forgot"), email="ana@example.com")
    assert "Check your mail" in sent.text
    path = mailed(place, Letter.RESET)
    page = await browser.get(path)
    assert (await browser.get(path)).status == 200  # opening it uses nothing up
    assert "revoke_keys" not in page.read.forms[0][2]  # no choice: the address was never proven
    assert "never confirmed" in page.text
    short = await browser.send(page, password="short")
    assert (short.status, "6 to 512" in short.text) == (400, True)
    done = await browser.send(page, password="secret-2")
    assert "Your API keys were revoked" in done.text
    assert (await elsewhere.get("/account")).status == 303
    assert (await browser.get(path)).status == 400
    assert "signed in" in (await browser.sign_in("ana@example.com", "secret-2")).text


async def test_asking_for_a_password_answers_alike_for_everybody(
    place: Place, browser: Browser
) -> None:
    await customer(place)
    form = await browser.get("/forgot")
    pages = [
        await browser.send(form, email=email) for email in ("ana@example.com", "eve@example.com")
    ]
    texts = {re.sub(r"\w+@example.com", "X", page.text) for page in pages}
    assert len(texts) == 1
    assert {page.status for page in pages} == {200}
    bad = await browser.send(form, email="no address")
    assert bad.status == 400
    assert bad.read.forms[0][2]["email"] == "no address"


async def test_an_account_is_opened_on_the_pages(place: Place, browser: Browser) -> None:
    sent = await browser.send(await browser.get("/signup"), email="new@example.com")
    assert "Check your mail" in sent.text
    page = await browser.get(mailed(place, Letter.SIGN_UP))
    done = await browser.send(page, password="secret-1")
    key = re.search(r"ky-[0-9a-f]{48}", done.text)
    assert key is not None
    me = await place.ask("GET", "/v1/auth/me", secret=key[0])
    assert me.json()["email"] == "new@example.com"
    assert "You are signed in" in (await browser.get("/account")).text


async def test_an_address_is_confirmed_on_the_pages(place: Place, browser: Browser) -> None:
    account_id = await customer(place)
    await place.container.links().ask_proof(account_id, "ana@example.com")
    path = mailed(place, Letter.VERIFY)
    page = await browser.get(path)
    assert not await place.container.links().is_proven(account_id)
    wrong = await browser.send(page, password="a guess")
    assert (wrong.status, "opened with" in wrong.text) == (401, True)
    assert not await place.container.links().is_proven(account_id)
    done = await browser.send(wrong, password="secret-1")
    assert "Address confirmed" in done.text
    assert await place.container.links().is_proven(account_id)
    assert (await browser.send(page)).status == 400


async def test_whoever_is_signed_in_to_the_account_confirms_its_address_without_its_password(
    place: Place, browser: Browser
) -> None:
    account_id = await customer(place)
    await customer(place, "eve@example.com")
    other = Browser(place.gateway)
    await other.sign_in("eve@example.com", "secret-1")
    await browser.sign_in("ana@example.com", "secret-1")
    await place.container.links().ask_proof(account_id, "ana@example.com")
    path = mailed(place, Letter.VERIFY)
    assert (await other.send(await other.get(path))).status == 401
    page = await browser.get(path)
    assert "password" not in page.text
    assert "Address confirmed" in (await browser.send(page)).text
    assert await place.container.links().is_proven(account_id)


async def begun(place: Place) -> dict[str, str]:
    answer = await place.ask(
        "POST", "/v1/auth/device/code", {"client_name": "<b>ter</b>"}, secret=None
    )
    found: dict[str, str] = answer.json()
    return found


async def polled(place: Place, begun: dict[str, str]) -> tuple[int, dict[str, str]]:
    answer = await place.ask(
        "POST", "/v1/auth/device/token", {"device_code": begun["device_code"]}, secret=None
    )
    return answer.status, answer.json()


async def test_a_person_approves_a_device_from_its_link_through_signing_in(
    place: Place, browser: Browser
) -> None:
    await customer(place)
    device = await begun(place)
    path = urlsplit(device["verification_url"]).path + "?code=" + device["user_code"]
    sent = await browser.get(path)
    page = await browser.follow(sent)
    assert "Sign in" in page.text
    back = await browser.follow(
        await browser.send(page, email="ana@example.com", password="secret-1")
    )
    assert "Approve “<b>ter</b>”?" in back.text
    assert b"<b>ter</b>" not in back.answer.body
    assert device["user_code"] in back.text
    assert (await polled(place, device))[0] == 428  # looking approves nothing
    done = await browser.send(back, answer="approve")
    assert "Device approved" in done.text
    status, given = await polled(place, device)
    assert status == 200
    assert given["email"] == "ana@example.com"
    assert (await browser.send(back, answer="approve")).status == 404


async def test_a_person_denies_a_device(place: Place, browser: Browser) -> None:
    await customer(place)
    device = await begun(place)
    await browser.sign_in("ana@example.com", "secret-1")
    typed = await browser.send(await browser.get("/device"), code=device["user_code"].lower())
    done = await browser.send(typed, answer="deny")
    assert "Device denied" in done.text
    status, body = await polled(place, device)
    assert (status, body["error"]) == (400, "access_denied")


async def test_an_answer_that_is_neither_yes_nor_no_is_no(place: Place, browser: Browser) -> None:
    await customer(place)
    device = await begun(place)
    await browser.sign_in("ana@example.com", "secret-1")
    page = await browser.get(f"/device?code={device['user_code']}")
    await browser.send(page)
    assert (await polled(place, device))[1]["error"] == "access_denied"


async def test_guessing_device_codes_on_the_page_ends(place: Place, browser: Browser) -> None:
    await customer(place)
    await browser.sign_in("ana@example.com", "secret-1")
    statuses = [(await browser.get("/device?code=KYMA-2222")).status for _ in range(11)]
    assert statuses == [404] * 10 + [429]


async def consent(browser: Browser, **changed: str) -> Page:
    page = await browser.follow(await browser.get(asking(**changed)))
    if "kyma_session" in browser.jar:
        return page
    return await browser.follow(
        await browser.send(page, email="ana@example.com", password="secret-1")
    )


async def test_a_person_lets_an_application_in(place: Place, browser: Browser) -> None:
    await customer(place)
    page = await consent(browser)
    assert "Let Haynoi in?" in page.text
    assert "haynoi.example" in page.text
    policy = page.answer.headers["content-security-policy"]
    assert "form-action 'self' https://haynoi.example;" in policy
    done = await browser.send(page, answer="approve")
    parts = urlsplit(done.location)
    query = parse_qs(parts.query)
    assert (parts.netloc, parts.path, query["state"]) == ("haynoi.example", "/cb", ["s&1"])
    told = {
        "grant_type": "authorization_code", "code": query["code"][0], "code_verifier": VERIFIER,
        "client_id": "haynoi", "redirect_uri": ASKED["redirect_uri"],
    }  # fmt: skip
    app = Browser(place.gateway)
    given = (await app.post("/v1/auth/token", told)).answer.json()
    assert given["token_type"] == "Bearer"
    assert (given["email"], given["balance"]) == ("ana@example.com", 0.5)
    balance = await place.ask("GET", "/v1/credits/balance", secret=given["access_token"])
    assert balance.status == 200
    again = await app.post("/v1/auth/token", told)
    assert (again.status, again.answer.json()["error"]) == (400, "invalid_grant")
    lost = await place.ask("GET", "/v1/credits/balance", secret=given["access_token"])
    assert lost.status == 401


async def test_a_person_keeps_an_application_out(place: Place, browser: Browser) -> None:
    await customer(place)
    page = await consent(browser)
    done = await browser.send(page, answer="deny")
    assert done.location == "https://haynoi.example/cb?error=access_denied&state=s%261"


async def test_a_program_on_this_computer_may_be_answered_on_any_port(
    place: Place, browser: Browser
) -> None:
    await customer(place)
    page = await consent(browser, redirect_uri="http://127.0.0.1:49152/cb")
    assert "a program on this computer" in page.text
    assert (
        "form-action 'self' http://127.0.0.1:49152;"
        in (page.answer.headers["content-security-policy"])
    )
    done = await browser.send(page, answer="approve")
    assert done.location.startswith("http://127.0.0.1:49152/cb?code=kc-")


@pytest.mark.parametrize(
    "changed",
    [
        {"redirect_uri": "https://evil.example/cb"},
        {"redirect_uri": "https://haynoi.example/cb/"},
        {"redirect_uri": "http://127.0.0.1:1@evil.example/cb"},
        {"client_id": "evil"},
    ],
)
async def test_an_application_that_is_not_registered_gets_a_page_and_no_redirect(
    changed: dict[str, str], place: Place, browser: Browser
) -> None:
    await customer(place)
    await browser.sign_in("ana@example.com", "secret-1")
    page = await browser.get(asking(**changed))
    assert (page.status, page.location) == (400, "")
    assert "registered" in page.text
    good = await consent(browser)
    forged = {**good.read.forms[0][2], **changed, "answer": "approve"}
    sent = await browser.post("/v1/auth/authorize", forged)
    assert (sent.status, sent.location) == (400, "")


async def test_an_applications_own_mistake_is_told_to_it_before_anybody_signs_in(
    browser: Browser,
) -> None:
    page = await browser.get(asking(code_challenge_method="plain"))
    assert page.status == 303
    assert page.location.startswith("https://haynoi.example/cb?error=invalid_request")
    twice = await browser.get(asking() + "&state=other")
    assert (twice.status, twice.location) == (400, "")


async def test_where_google_is_not_set_up_no_page_offers_it(browser: Browser) -> None:
    assert "Google" not in (await browser.get("/signin")).text
    assert (await browser.get("/v1/auth/google/start")).status == 404
    assert (await browser.get("/v1/auth/google/callback?code=x&state=y")).status == 404


async def test_back_from_paying_somebody_without_a_session_is_told_where_to_look(
    browser: Browser,
) -> None:
    order = "0" * 32
    paid = await browser.get(f"/billing/back/{order}?checkout=cs_1")
    left = await browser.get(f"/billing/back/{order}?checkout=canceled")
    assert "within moments" in paid.text
    assert "Nothing was charged" in left.text


async def a_sale() -> tuple[Place, Browser, str, str]:
    """A shop, somebody signed in, and an order of theirs with its page at the processor."""
    place = await a_place(
        stripe_secret_key="sk_test_memory",
        stripe_webhook_secret="whsec_memory",
        public_url="http://kyma.example",
    )
    await customer(place)
    browser = Browser(place.gateway)
    await browser.sign_in("ana@example.com", "secret-1")
    token = browser.jar["kyma_session"]
    order = (await place.ask("POST", "/v1/billing/checkout", {"amount": 20}, secret=token)).json()
    return place, browser, order["order_id"], order["url"].rsplit("/", 1)[1]


async def test_back_from_paying_the_processor_is_asked_and_what_it_says_is_told() -> None:
    place, browser, order, page = await a_sale()
    early = await browser.get(f"/billing/back/{order}?checkout={page}")
    assert "not confirmed yet" in early.text
    processor = place.container.processor()
    assert isinstance(processor, MemoryPayments)
    processor.pay(page)
    paid = await browser.get(f"/billing/back/{order}?checkout={page}")
    assert "the credit is on your balance" in paid.text
    token = browser.jar["kyma_session"]
    balance = (await place.ask("GET", "/v1/credits/balance", secret=token)).json()
    assert balance["available"] == "20.5"


async def test_back_from_paying_what_was_not_ordered_the_payment_is_said_to_have_arrived() -> None:
    place, browser, order, page = await a_sale()
    processor = place.container.processor()
    assert isinstance(processor, MemoryPayments)
    processor.change(processor.pay(page), amount=usd("19"))
    for where in (f"/billing/back/{order}?checkout={page}", f"/billing/back/{order}"):
        told = await browser.get(where)
        assert told.status == 200
        assert "We have to look at this" in told.text
        assert "Your payment arrived" in told.text
        assert "do not pay again" in told.text
        assert "Nothing was charged" not in told.text


async def test_nobody_sees_anothers_order_and_an_outage_is_told_as_one() -> None:
    place, browser, order, _ = await a_sale()
    await place.container.access().register("eve@example.com", "secret-1", Client())
    eve = Browser(place.gateway)
    await eve.sign_in("eve@example.com", "secret-1")
    assert (await eve.get(f"/billing/back/{order}")).status == 404
    assert (await eve.get("/billing/back/nonsense")).status == 404
    processor = place.container.processor()
    assert isinstance(processor, MemoryPayments)
    processor.go_down(5)
    away = await browser.get(f"/billing/back/{order}")
    assert away.status == 503
    assert "text/html" in away.answer.headers["content-type"]
