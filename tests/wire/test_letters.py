"""Every letter, from its facts to the bytes of a message."""

from __future__ import annotations

import email
import re
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest

from adapters.mail.folder import FolderCarrier
from adapters.mail.message import message_of, sender_of
from adapters.mail.render import TEMPLATES, JinjaPrinter, dollars
from kyma.mail import FACTS, MAY_KNOW, Letter, Mail, is_secret
from kyma.ports.mail import NotTaken, Printed, Undeliverable, Unprintable
from tests.builders import NOON

SITE = "https://kyma.example"
SENDER = sender_of("Kyma Grüße <hello@kyma.example>")
AMOUNTS = {"amount": "20", "balance": "1234.5", "credit": "0.5", "tax": "1.9"}
SHOWN = {"amount": "$20.00", "balance": "$1,234.50", "credit": "$0.50", "tax": "$1.90"}


def told(letter: Letter, *, everything: bool = True) -> dict[str, str]:
    """A recognisable value for every fact of a letter."""
    names = FACTS[letter] | (MAY_KNOW.get(letter, frozenset()) if everything else frozenset())
    return {
        name: AMOUNTS.get(name)
        or (f"{SITE}/{name}?t=s3cret" if is_secret(name) else f"some {name}")
        for name in names
    }


def printed(letter: Letter, to: str = "ada@example.com", **facts: str) -> Printed:
    mail = Mail(f"test/{letter}", to, letter, {**told(letter), **facts})
    return JinjaPrinter(SITE).print(mail, NOON)


def parsed(letter: Printed) -> EmailMessage:
    message = email.message_from_bytes(message_of(letter, SENDER).raw, policy=default)
    assert isinstance(message, EmailMessage)
    return message


def bodies(letter: Printed) -> dict[str, str]:
    return {part.get_content_type(): part.get_content() for part in parsed(letter).iter_parts()}


@pytest.mark.parametrize("letter", Letter)
def test_a_letter_says_every_fact_in_text_and_in_html(letter: Letter) -> None:
    found = bodies(printed(letter))
    assert list(found) == ["text/plain", "text/html"]
    for name, fact in told(letter).items():
        for kind, body in found.items():
            assert SHOWN.get(name, fact) in " ".join(body.split()), (kind, name)


@pytest.mark.parametrize("letter", Letter)
def test_a_letter_can_be_written_with_no_more_than_it_needs(letter: Letter) -> None:
    mail = Mail("test", "ada@example.com", letter, told(letter, everything=False))
    found = JinjaPrinter(SITE).print(mail, NOON)
    assert found.subject
    assert found.text.strip()
    assert "{" not in found.subject + found.text


NEEDS = [(letter, name) for letter in Letter for name in sorted(FACTS[letter])]


@pytest.mark.parametrize(("letter", "name"), NEEDS)
def test_a_fact_that_is_missing_is_a_mistake_where_the_letter_is_written(
    letter: Letter, name: str
) -> None:
    facts = told(letter)
    del facts[name]
    with pytest.raises(ValueError, match=name):
        Mail("test", "ada@example.com", letter, facts)


@pytest.mark.parametrize("letter", Letter)
def test_a_template_uses_no_fact_that_its_letter_does_not_list(letter: Letter) -> None:
    """Drawn from the templates themselves: what a template names must be one of its facts."""
    known = FACTS[letter] | MAY_KNOW.get(letter, frozenset()) | {"site", "to", "billing", "act"}
    named: set[str] = set()
    for ending in ("txt", "html"):
        source = (TEMPLATES / f"{letter.value}.{ending}").read_text()
        named |= set(re.findall(r"\{\{\s*(\w+)", source)) | set(re.findall(r"% if (\w+)", source))
    assert named <= known
    assert FACTS[letter] <= named


def test_a_failed_top_up_reads_whether_it_is_off_or_tried_again() -> None:
    facts = {"amount": "20", "reason": "its taxes are too much"}
    for next_try, said, unsaid in (
        ({}, "is switched off now", "stays on"),
        ({"next_try": "in the next month"}, "tried again in the next month", "switched off"),
    ):
        mail = Mail("test", "ada@example.com", Letter.AUTO_TOP_UP_FAILED, {**facts, **next_try})
        for body in bodies(JinjaPrinter(SITE).print(mail, NOON)).values():
            assert said in " ".join(body.split())
            assert unsaid not in " ".join(body.split())


def test_every_template_belongs_to_a_letter_or_to_all() -> None:
    shared = {"layout.txt", "layout.html", "parts.html"}
    letters = {f"{letter.value}.{ending}" for letter in Letter for ending in ("txt", "html")}
    assert {path.name for path in TEMPLATES.iterdir()} == shared | letters


def test_what_people_wrote_is_no_markup_in_html_and_no_line_in_text() -> None:
    found = bodies(printed(Letter.TIER_DECLINED, reason="<b>no</b>\r\nBcc: x@y.z\x1b[2J"))
    assert "&lt;b&gt;no&lt;/b&gt;" in found["text/html"]
    assert "<b>no</b>" not in found["text/html"]
    assert "\nBcc:" not in found["text/plain"]
    assert "\x1b" not in found["text/plain"]


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//evil.example", ""])
def test_only_web_addresses_become_links(url: str) -> None:
    with pytest.raises(Unprintable, match="web address"):
        printed(Letter.RESET, reset_url=url)


def test_the_words_of_a_link_that_is_no_address_are_not_repeated() -> None:
    with pytest.raises(Unprintable) as refused:
        printed(Letter.RESET, reset_url="ftp://s3cret")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("20", "$20.00"),
        ("0.5", "$0.50"),
        ("0.000000001", "$0.000000001"),
        ("1234567.25", "$1,234,567.25"),
        ("$5.10", "$5.10"),
        ("0", "$0.00"),
    ],
)
def test_dollars_are_exact(amount: str, shown: str) -> None:
    assert dollars(amount) == shown


@pytest.mark.parametrize("amount", ["", "much", "NaN", "Infinity", "1e"])
def test_what_is_no_amount_is_not_sent(amount: str) -> None:
    with pytest.raises(Unprintable):
        printed(Letter.RECEIPT, amount=amount)


def test_the_subject_is_a_line_of_plain_words() -> None:
    found = printed(Letter.TIER_GRANTED, tier="Tier 4\r\nBcc: x@y.z\r\n\r\nhello")
    message = parsed(found)
    assert message["Subject"] == "Your limits are raised: Tier 4 Bcc: x@y.z hello"
    assert message["Bcc"] is None


@pytest.mark.parametrize(
    "to",
    [
        "ada@example.com\r\nBcc: x@y.z",
        "ada@example.com, eve@example.com",
        "Ada <ada@example.com>",
        "ada",
        "",
        "ada@exa mple.com",
        "<ada@example.com>",
    ],
)
def test_what_is_not_one_address_gets_no_mail(to: str) -> None:
    with pytest.raises(Undeliverable):
        message_of(printed(Letter.WELCOME, to), SENDER)


@pytest.mark.parametrize(
    ("to", "recipient", "needs_utf8"),
    [
        ("ada@example.com", "ada@example.com", False),
        ("ada@bücher.example", "ada@xn--bcher-kva.example", False),
        ("josé@example.com", "josé@example.com", True),
        ("用户@例子.example", "用户@xn--fsqu00a.example", True),
        ("first@kyma.localhost", "first@kyma.localhost", False),
        ("root@localhost", "root@localhost", False),
    ],
)
def test_addresses_of_the_whole_world_are_written_as_servers_know_them(
    to: str, recipient: str, needs_utf8: bool
) -> None:
    found = message_of(printed(Letter.WELCOME, to), SENDER)
    assert (found.recipient, found.needs_utf8) == (recipient, needs_utf8)
    assert f"To: {recipient}\r\n".encode() in found.raw


def test_a_message_that_needs_no_more_is_pure_ascii() -> None:
    found = message_of(printed(Letter.TIER_DECLINED, reason="schöne Grüße 🌊"), SENDER)
    assert found.raw.isascii()
    assert max(len(line) for line in found.raw.split(b"\r\n")) < 998


def test_every_copy_of_a_mail_is_the_same_and_names_itself() -> None:
    one, other = (message_of(printed(Letter.RECEIPT), SENDER).raw for _ in range(2))
    assert one == other
    message = parsed(printed(Letter.RECEIPT))
    assert re.fullmatch(r"<[0-9a-f]{32}@kyma\.example>", message["Message-ID"])
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["From"] == "Kyma Grüße <hello@kyma.example>"
    assert message["Date"].datetime == NOON


def test_other_mails_have_other_names() -> None:
    mails = [Mail(id, "ada@example.com", Letter.WELCOME) for id in ("a", "b")]
    names = {parsed(JinjaPrinter(SITE).print(mail, NOON))["Message-ID"] for mail in mails}
    assert len(names) == 2


@pytest.mark.parametrize("sender", ["", "Kyma", "Kyma <>", "Kyma <josé@example.com>"])
def test_a_sender_that_is_none_is_said_at_the_start(sender: str) -> None:
    with pytest.raises(ValueError, match="sender"):
        sender_of(sender)


async def test_without_a_server_letters_are_files_that_only_their_owner_reads(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data" / "mail"
    await FolderCarrier(folder, SENDER).carry(printed(Letter.RESET))
    (file,) = folder.iterdir()
    assert re.fullmatch(r"20260517-120000-[0-9a-f]{12}\.eml", file.name)
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    message = email.message_from_bytes(file.read_bytes(), policy=default)
    assert message["Subject"] == "Set a new password"


async def test_a_second_copy_in_the_folder_takes_the_place_of_the_first(tmp_path: Path) -> None:
    carrier = FolderCarrier(tmp_path, SENDER)
    await carrier.carry(printed(Letter.RESET))
    await carrier.carry(printed(Letter.RESET))
    assert len(list(tmp_path.iterdir())) == 1


async def test_letters_of_one_moment_have_files_of_their_own(tmp_path: Path) -> None:
    carrier = FolderCarrier(tmp_path, SENDER)
    for letter in Letter:
        await carrier.carry(printed(letter))
    assert len(list(tmp_path.glob("*.eml"))) == len(Letter)


async def test_a_folder_that_cannot_be_written_makes_the_letter_wait(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("a file stands here")
    with pytest.raises(NotTaken):
        await FolderCarrier(tmp_path / "mail", SENDER).carry(printed(Letter.RESET))


def test_the_date_is_that_of_the_post_and_not_of_the_try() -> None:
    late = datetime.now(UTC) - timedelta(days=2)
    mail = Mail("test", "ada@example.com", Letter.WELCOME)
    message = parsed(JinjaPrinter(SITE).print(mail, late))
    assert abs(message["Date"].datetime - late) < timedelta(seconds=1)
