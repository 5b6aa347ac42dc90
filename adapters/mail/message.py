"""A printed letter → the bytes of an RFC 5322 message: text and HTML, the same for every copy."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, parseaddr

from email_validator import EmailNotValidError, validate_email

from kyma.ports.mail import Printed, Undeliverable

HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.ASCII | re.IGNORECASE)

ENCODING = "quoted-printable"
"""Passes through servers that know only ASCII, and begins no line that SMTP could mistake."""


@dataclass(frozen=True, slots=True)
class Message:
    """What goes over the wire. `needs_utf8`: only servers with SMTPUTF8 can take the address."""

    recipient: str
    raw: bytes
    needs_utf8: bool


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom letters come from: `Kyma <hello@example.com>` or the address alone."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        """What follows the `@`."""
        return self.address.rpartition("@")[2]


def sender_of(text: str) -> Sender:
    """The sender as set; ValueError if that is no address."""
    name, address = parseaddr(text)
    try:
        known, needs_utf8 = _known(address)
    except EmailNotValidError as error:
        raise ValueError(f"the sender {text!r} is no e-mail address: {error}") from None
    if needs_utf8:
        raise ValueError(f"the sender {text!r} must have an ASCII address")
    return Sender(name, known)


def _known(address: str) -> tuple[str, bool]:
    """An address as servers know it, and whether they must know UTF-8 for it.

    The library takes names such as `localhost` for a mistake; here they are machines of our own,
    so it is asked about the rest alone.
    """
    name, _, domain = address.rpartition("@")
    plain = HOST.fullmatch(domain) is not None
    found = validate_email(f"{name}@example.com" if plain else address, check_deliverability=False)
    domain = domain.lower() if plain else found.ascii_domain
    return f"{found.local_part}@{domain}", found.ascii_email is None


def mark_of(id: str) -> str:
    """What names a mail to others; nothing of its id can be read from it."""
    return hashlib.sha256(f"mail {id}".encode()).hexdigest()[:32]


def message_of(letter: Printed, sender: Sender) -> Message:
    """The message, with one Message-ID for all its copies, so that a second one is known as such.

    Headers cannot be injected: an address that is none is refused here, and the library refuses
    line breaks in any header.
    """
    try:
        address, needs_utf8 = _known(letter.to)
    except EmailNotValidError as error:
        raise Undeliverable(f"no e-mail address: {error}") from None
    mark = mark_of(letter.id)
    message = EmailMessage(policy=SMTPUTF8 if needs_utf8 else SMTP)
    try:
        message["From"] = Address(sender.name, addr_spec=sender.address)
        local, _, domain = address.rpartition("@")
        message["To"] = Address(username=local, domain=domain)
        message["Subject"] = letter.subject
        message["Date"] = format_datetime(letter.posted_at)
        message["Message-ID"] = f"<{mark}@{sender.domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text, cte=ENCODING)
        message.add_alternative(letter.html, subtype="html", cte=ENCODING)
        message.set_boundary(f"kyma-{mark}")
        return Message(address, message.as_bytes(), needs_utf8)
    except (MessageError, ValueError) as error:
        raise Undeliverable(f"the message cannot be built: {error}") from error
