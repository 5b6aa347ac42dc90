"""Letters over SMTP: one connection and one conversation each, every failure told for what it is.

Up to the message itself nothing can have been taken. A 5xx for the recipient or for the message
is final; what the server says of us (greeting, TLS, password, sender) is ours to mend, and the
letter waits. A connection lost after the message began leaves its outcome unknown.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from enum import StrEnum

from aiosmtplib import SMTP, SMTPException, SMTPResponseException

from adapters.mail.message import Message, Sender, message_of
from kyma.ports.mail import NotTaken, OutcomeUnknown, Printed, Undeliverable

CONVERSATION_S = 45.0
STEP_S = 20.0
PERMANENT = 500


class Security(StrEnum):
    """How the connection is protected."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Server:
    """Where mail is handed over. Without a user nobody signs in."""

    host: str
    port: int
    security: Security
    user: str = ""
    password: str = ""
    trusted: ssl.SSLContext | None = None
    """Whose certificates are believed; None: those of the system."""


class _Phase(StrEnum):
    OURS = "before the letter"
    RECIPIENT = "recipient"
    MESSAGE = "message"


class SmtpCarrier:
    """The `Carrier` port over a mail server."""

    def __init__(self, server: Server, sender: Sender) -> None:
        self._server = server
        self._sender = sender

    async def carry(self, letter: Printed) -> None:
        """One conversation."""
        message = message_of(letter, self._sender)
        phase = _Phase.OURS
        client = self._client()
        try:
            async with asyncio.timeout(CONVERSATION_S):
                await client.connect()
                await self._begin(client, message)
                phase = _Phase.RECIPIENT
                await client.rcpt(message.recipient, encoding=_encoding(message))
                phase = _Phase.MESSAGE
                await client.data(message.raw)
        except SMTPResponseException as error:
            raise _refused(error, phase) from error
        except (SMTPException, OSError) as error:
            # The latter covers timeouts, certificates, names that do not resolve.
            raise _lost(error, phase) from error
        finally:
            # The answer has been read, so there is nothing to lose by not saying goodbye.
            client.close()

    def _client(self) -> SMTP:
        server = self._server
        return SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user or None,
            password=server.password or None,
            use_tls=server.security is Security.TLS,
            start_tls=server.security is Security.STARTTLS,
            tls_context=server.trusted,
            timeout=STEP_S,
        )

    async def _begin(self, client: SMTP, message: Message) -> None:
        if message.needs_utf8:
            await client.ehlo()
            if not client.supports_extension("smtputf8"):
                raise Undeliverable("the mail server takes only ASCII addresses")
        options = ["SMTPUTF8", "BODY=8BITMIME"] if message.needs_utf8 else []
        await client.mail(self._sender.address, options=options, encoding=_encoding(message))


def _encoding(message: Message) -> str:
    return "utf-8" if message.needs_utf8 else "ascii"


def _refused(error: SMTPResponseException, phase: _Phase) -> NotTaken | Undeliverable:
    said = f"{error.code} {error.message}"
    if error.code >= PERMANENT and phase is not _Phase.OURS:
        return Undeliverable(said)
    return NotTaken(said)


def _lost(error: Exception, phase: _Phase) -> NotTaken | OutcomeUnknown:
    said = f"{type(error).__name__}: {error}"
    return OutcomeUnknown(said) if phase is _Phase.MESSAGE else NotTaken(said)
