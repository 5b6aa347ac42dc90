"""Letters to a real SMTP server, one that answers as told, and to none at all."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from adapters.mail.message import sender_of
from adapters.mail.smtp import Security, Server, SmtpCarrier
from kyma.ports.mail import NotTaken, OutcomeUnknown, Printed, Undeliverable
from tests.builders import NOON
from tests.smtp_server import PASSWORD, USER, certified, smtp_server

SENDER = sender_of("Kyma <hello@kyma.example>")


def a_letter(to: str = "ada@example.com", id: str = "test/1") -> Printed:
    html = "<p>Hello.</p>\n.\n<p>After a line that is a dot.</p>"
    return Printed(id, to, NOON, "Grüße 🌊", "Hello.\n.\nAfter a line that is a dot.\n", html)


def carrier(port: int, **more: object) -> SmtpCarrier:
    return SmtpCarrier(Server("127.0.0.1", port, **{"security": Security.NONE, **more}), SENDER)


async def test_the_server_gets_text_and_html_of_one_mail() -> None:
    async with smtp_server() as server:
        await carrier(server.port).carry(a_letter())
    (envelope,) = server.taken
    assert (envelope.mail_from, envelope.rcpt_tos) == ("hello@kyma.example", ["ada@example.com"])
    (message,) = server.messages
    assert message["Subject"] == "Grüße 🌊"
    text, html = message.iter_parts()
    assert text.get_content().splitlines() == a_letter().text.splitlines()
    assert html.get_content().splitlines() == a_letter().html.splitlines()


@pytest.mark.parametrize("code", ["421", "450", "451", "452"])
@pytest.mark.parametrize("where", ["say_to_recipient", "say_to_data"])
async def test_a_server_that_says_later_makes_the_letter_wait(where: str, code: str) -> None:
    async with smtp_server() as server:
        setattr(server, where, f"{code} not now")
        with pytest.raises(NotTaken, match=f"{code} not now"):
            await carrier(server.port).carry(a_letter())
    assert server.taken == []


@pytest.mark.parametrize("where", ["say_to_recipient", "say_to_data"])
async def test_a_server_that_says_never_ends_it(where: str) -> None:
    async with smtp_server() as server:
        setattr(server, where, "550 no such mailbox")
        with pytest.raises(Undeliverable, match="550 no such mailbox"):
            await carrier(server.port).carry(a_letter())


async def test_a_connection_lost_after_the_message_leaves_its_outcome_unknown() -> None:
    async with smtp_server() as server:
        server.hang_up_on_data = True
        with pytest.raises(OutcomeUnknown):
            await carrier(server.port).carry(a_letter())
    assert len(server.taken) == 1


async def test_without_a_server_the_letter_waits() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NotTaken):
        await carrier(port).carry(a_letter())


async def test_a_server_that_hangs_up_at_once_makes_the_letter_wait() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with listening:
        with pytest.raises(NotTaken):
            await carrier(listening.sockets[0].getsockname()[1]).carry(a_letter())


async def test_starttls_and_a_password_are_used_as_set(tmp_path: Path) -> None:
    tls, trusted = certified(tmp_path)
    async with smtp_server(tls, asks_who=True) as server:
        await carrier(
            server.port,
            security=Security.STARTTLS,
            user=USER,
            password=PASSWORD,
            trusted=trusted,
        ).carry(a_letter())
    assert server.signed_in == [USER]
    assert server.over_tls == [True]
    assert len(server.taken) == 1


async def test_a_wrong_password_is_ours_to_mend_and_the_letter_waits(tmp_path: Path) -> None:
    tls, trusted = certified(tmp_path)
    told = {"security": Security.STARTTLS, "user": USER, "password": "wrong", "trusted": trusted}
    async with smtp_server(tls, asks_who=True) as server:
        with pytest.raises(NotTaken, match="535") as refused:
            await carrier(server.port, **told).carry(a_letter())
    assert "wrong" not in str(refused.value)


async def test_a_certificate_that_nobody_vouches_for_is_not_believed(tmp_path: Path) -> None:
    tls, _ = certified(tmp_path)
    async with smtp_server(tls) as server:
        with pytest.raises(NotTaken, match="certificate"):
            await carrier(server.port, security=Security.STARTTLS).carry(a_letter())
    assert server.taken == []


async def test_starttls_that_the_server_does_not_offer_is_not_done_without() -> None:
    """Else anybody between us could read the letter by taking the offer out of the answer."""
    async with smtp_server() as server:
        with pytest.raises(NotTaken):
            await carrier(server.port, security=Security.STARTTLS).carry(a_letter())
    assert server.taken == []


async def test_a_unicode_address_goes_to_a_server_that_knows_them() -> None:
    async with smtp_server() as server:
        await carrier(server.port).carry(a_letter("josé@bücher.example"))
    (envelope,) = server.taken
    assert envelope.rcpt_tos == ["josé@xn--bcher-kva.example"]
    assert envelope.smtp_utf8


async def test_a_unicode_address_is_final_for_a_server_that_does_not() -> None:
    async with smtp_server(utf8=False) as server:
        with pytest.raises(Undeliverable, match="ASCII"):
            await carrier(server.port).carry(a_letter("josé@example.com"))
    assert server.recipients_asked == 0


async def test_a_unicode_domain_goes_everywhere() -> None:
    async with smtp_server(utf8=False) as server:
        await carrier(server.port).carry(a_letter("ada@bücher.example"))
    (envelope,) = server.taken
    assert envelope.rcpt_tos == ["ada@xn--bcher-kva.example"]
