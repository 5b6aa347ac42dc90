"""A real SMTP server in this process, on a free port, which may be told to misbehave.

async with smtp_server() as server:
    server.say_to_recipient = "450 come back later"
"""

from __future__ import annotations

import asyncio
import email
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TAKEN = "250 taken"
USER, PASSWORD = "kyma", "correct horse"


@dataclass
class SmtpServer:
    """What it took, and what it answers. `hang_up_on_data` takes the mail and never says so."""

    port: int = 0
    say_to_recipient: str = TAKEN
    say_to_data: str = TAKEN
    hang_up_on_data: bool = False
    taken: list[Envelope] = field(default_factory=list)
    recipients_asked: int = 0
    signed_in: list[str] = field(default_factory=list)
    over_tls: list[bool] = field(default_factory=list)

    @property
    def messages(self) -> list[EmailMessage]:
        """What was taken, parsed."""
        found = []
        for envelope in self.taken:
            assert isinstance(envelope.content, bytes)
            message = email.message_from_bytes(envelope.content, policy=default)
            assert isinstance(message, EmailMessage)
            found.append(message)
        return found

    async def handle_RCPT(  # noqa: N802 - the library's names
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.recipients_asked += 1
        if self.say_to_recipient == TAKEN:
            envelope.rcpt_tos.append(address)
        return self.say_to_recipient

    async def handle_DATA(  # noqa: N802 - likewise
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if self.say_to_data != TAKEN:
            return self.say_to_data
        self.taken.append(envelope)
        self.over_tls.append(session.ssl is not None)
        if self.hang_up_on_data:
            assert server.transport is not None
            server.transport.abort()
        return TAKEN

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        known = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        if known:
            self.signed_in.append(data.login.decode())
        return AuthResult(success=known, handled=False)


@asynccontextmanager
async def smtp_server(
    tls: ssl.SSLContext | None = None, *, asks_who: bool = False, utf8: bool = True
) -> AsyncIterator[SmtpServer]:
    """Running until the block ends; with `tls` it insists on STARTTLS."""
    known = SmtpServer()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: SMTP(
            known,
            loop=loop,
            hostname="mail.example",
            enable_SMTPUTF8=utf8,
            tls_context=tls,
            require_starttls=tls is not None,
            auth_required=asks_who,
            auth_require_tls=tls is not None,
            authenticator=known.authenticate if asks_who else None,
        ),
        "127.0.0.1",
        0,
    )
    known.port = listening.sockets[0].getsockname()[1]
    try:
        yield known
    finally:
        listening.close()
        await listening.wait_closed()


def certified(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for a server on this machine, and for clients that believe it and nobody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "certificate.pem").write_bytes(pem)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    client = ssl.create_default_context(cadata=pem.decode())
    return server, client
