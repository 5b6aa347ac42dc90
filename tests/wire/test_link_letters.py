"""Letters with a link, from whoever asks for one over a real SMTP server to the page it opens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlsplit

import pytest

from adapters.mail.message import sender_of
from adapters.mail.render import TEMPLATES, JinjaPrinter
from adapters.mail.smtp import Security, Server, SmtpCarrier
from kyma.flows.post import Delivery
from kyma.identity import LINK_S, Claims, LinkKind
from kyma.mail import Letter, State
from tests.flows.ways import BASE, Hall
from tests.smtp_server import smtp_server

ANA = Claims("https://id.example", "1001", "ana@example.com", email_verified=True)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if (tag, name) == ("a", "href") and value]


@dataclass(frozen=True, slots=True)
class Read:
    """A letter as it lies in the mailbox."""

    to: str
    subject: str
    text: str
    html: str

    def link(self, path: str) -> dict[str, list[str]]:
        """What the link to a page tells it; the same in text and HTML."""
        parser = _Links()
        parser.feed(self.html)
        wanted = f"{BASE}{path}?"
        (clicked,) = {link for link in parser.found if link.startswith(wanted)}
        (typed,) = re.findall(rf"{re.escape(wanted)}\S+", self.text)
        assert typed == clicked
        return parse_qs(urlsplit(typed).query)


async def delivered(hall: Hall, letter: Letter) -> Read:
    """Every letter that waits goes through the server; the one of this kind."""
    async with smtp_server() as server:
        sender = sender_of("Kyma <hello@kyma.example>")
        carrier = SmtpCarrier(Server("127.0.0.1", server.port, Security.NONE), sender)
        printer = JinjaPrinter(BASE)
        await Delivery(hall.outbox, printer, carrier, hall.clock, hall.chance).round()
    wanted = TEMPLATES.joinpath(f"{letter.value}.txt").read_text()
    subject = wanted.partition("subject %}")[2].partition("{%")[0]
    (message,) = [found for found in server.messages if found["Subject"] == subject]
    text, html = message.iter_parts()
    assert {row.state for row in hall.outbox.rows.values()} == {State.SENT}
    return Read(message["To"], subject, " ".join(text.get_content().split()), html.get_content())


@pytest.fixture
def hall() -> Hall:
    return Hall()


async def test_who_wants_an_account_is_told_to_choose_a_password(hall: Hall) -> None:
    await hall.links.sign_up("new@example.com", referral_code=" 3F8E2A1B4C ")
    letter = await delivered(hall, Letter.SIGN_UP)
    assert (letter.to, letter.subject) == ("new@example.com", "Open your Kyma account")
    assert "choose a password" in letter.text
    assert "Choose a password" in letter.html
    assert "onfirm" not in letter.text + letter.html
    told = letter.link("/signup/finish")
    assert told["ref"] == ["3f8e2a1b4c"]
    welcome = await hall.links.open_account(told["token"][0], "secret-1")
    assert welcome.account.email == "new@example.com"


@pytest.mark.parametrize("code", [None, "", "no code", "3f8e2a1b4c'", "x" * 5000])
async def test_what_cannot_be_a_referral_code_is_not_in_the_letter(
    hall: Hall, code: str | None
) -> None:
    await hall.links.sign_up("new@example.com", referral_code=code)
    letter = await delivered(hall, Letter.SIGN_UP)
    assert list(letter.link("/signup/finish")) == ["token"]


async def test_who_has_an_account_and_signs_up_is_told_so_and_how_to_get_in(hall: Hall) -> None:
    await hall.customer()
    await hall.links.sign_up("ana@example.com", referral_code="3f8e2a1b4c")
    letter = await delivered(hall, Letter.HAS_ACCOUNT)
    assert letter.subject == "You already have a Kyma account"
    assert "wanted to open an account with your address" in letter.text
    assert f"{BASE}/signin" in letter.text
    assert f'href="{BASE}/signin"' in letter.html
    told = letter.link("/reset")
    assert list(told) == ["token"]
    await hall.links.reset(told["token"][0], "secret-2")


async def test_who_wants_google_to_open_an_account_is_told_what_that_means(hall: Hall) -> None:
    await hall.customer()
    hall.provider.says = ANA
    attempt = await hall.federation.begin()
    arrival = await hall.federation.finish(attempt.seed, hall.provider.asked["state"], "a code")
    await hall.federation.prove_by_mail(arrival.offer)
    letter = await delivered(hall, Letter.JOIN)
    assert letter.subject == "Let Google open your Kyma account?"
    assert "signed in with Google under your address" in letter.text
    assert "From then on Google opens your account." in letter.text
    assert "onfirm" not in letter.text + letter.html
    joined = await hall.federation.join(letter.link("/join")["token"][0])
    assert joined.email == "ana@example.com"


async def test_who_opened_an_account_is_asked_to_confirm_its_address(hall: Hall) -> None:
    await hall.links.greet(await hall.customer())
    letter = await delivered(hall, Letter.VERIFY)
    assert letter.subject == "Confirm your e-mail address"
    token = letter.link("/verify")["token"][0]
    assert await hall.links.verify(token, "secret-1") == "ana@example.com"


KINDS = {
    Letter.VERIFY: LinkKind.VERIFY,
    Letter.SIGN_UP: LinkKind.SIGN_UP,
    Letter.HAS_ACCOUNT: LinkKind.RESET,
    Letter.RESET: LinkKind.RESET,
    Letter.JOIN: LinkKind.JOIN,
}


@pytest.mark.parametrize("letter", KINDS)
def test_a_letter_says_for_how_long_its_link_works(letter: Letter) -> None:
    words = {3600: "for an hour", 24 * 3600: "for a day"}[LINK_S[KINDS[letter]]]
    for ending in ("txt", "html"):
        source = TEMPLATES.joinpath(f"{letter.value}.{ending}").read_text()
        assert f"works once, {words}" in " ".join(source.split())
