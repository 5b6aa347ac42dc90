"""Ways in besides a key: device codes, authorization codes, links by mail, other people's word.

Pure. How long each lives, what its secret looks like, and what may be asked with it. The secrets
themselves are stored as digests and never come back here.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlencode, urlsplit

from kyma.keys import DEFAULT_SCOPES

DEVICE_CODE_S = 900
"""How long a person has to find the page and approve (RFC 8628 section 3.2)."""

POLL_INTERVAL_S = 5
SLOW_DOWN_S = 5
"""By how much a device that asks too often must wait longer (RFC 8628 section 3.5)."""

MAX_INTERVAL_S = 60
POLL_TOLERANCE_S = 1.0
"""A device that means to wait its interval may be this early: networks are not even."""

AUTHORIZATION_CODE_S = 60
FEDERATION_S = 600
"""How long somebody may take to sign in at a provider of identities."""

GRANTED_SCOPES = DEFAULT_SCOPES
"""What a key may do that an application was given: never manage keys, never spend on a card."""

USER_CODE_PREFIX = "KYMA-"
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""32 letters and digits, none like another: no I, O, 0 or 1."""

USER_CODE = re.compile(rf"(?:KYMA)?([{ALPHABET}]{{4}})")
MAX_CLIENT_NAME = 64
UNNAMED_DEVICE = "Unnamed device"

CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
"""RFC 7636 sections 4.1 and 4.2; S256 alone is taken."""

MAX_STATE = 1024
LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
NEVER_SCHEMES = frozenset({"about", "blob", "data", "file", "filesystem", "javascript", "vbscript"})
HOST = re.compile(r"[a-z0-9.-]+|\[[0-9a-f:]+\]")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


class DeviceState(StrEnum):
    """Of a device code while its time is not over."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    USED = "used"
    """Its key has been given: a code is good for one."""


class LinkKind(StrEnum):
    """What a link proves, once."""

    VERIFY = "verify"
    """That an account's address is its owner's."""

    RESET = "reset"
    """That whoever forgot the password reads the account's mail."""

    SIGN_UP = "sign_up"
    """That somebody who wants an account reads mail at its address."""

    OFFER = "offer"
    """That this browser came from a provider of identities. Worth nothing without a password."""

    JOIN = "join"
    """That the owner of the account's mail wants that identity to open it."""


LINK_S: Mapping[LinkKind, int] = {
    LinkKind.VERIFY: 24 * 3600,
    LinkKind.RESET: 3600,
    LinkKind.SIGN_UP: 3600,
    LinkKind.OFFER: 900,
    LinkKind.JOIN: 3600,
}


@dataclass(frozen=True, slots=True)
class Device:
    """A device that asks for a key, as the person who approves sees it."""

    user_code: str
    client_name: str
    state: DeviceState


@dataclass(frozen=True, slots=True)
class Polled:
    """What a device is told. `account_id` and `email` are whose key it gets, once approved.

    `too_fast`: it asked before its interval was over, and `interval_s` is longer from now on.
    """

    state: DeviceState
    interval_s: int
    too_fast: bool = False
    account_id: str = ""
    email: str = ""


@dataclass(frozen=True, slots=True)
class Minted:
    """A new key before it is known whose it will be: what is stored of it beside owner and name."""

    id: str
    digest: bytes
    prefix: str
    last4: str


@dataclass(frozen=True, slots=True)
class Permission:
    """What a person allowed an application to fetch, and how the application must prove itself."""

    client_id: str
    redirect_uri: str
    challenge: str
    account_id: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an authorization code that was presented.

    `account_id` is whose key was made, or None. `replayed` is the account that lost the key of
    the code's first use, because this was its second (RFC 6749 section 4.1.2).
    """

    account_id: str | None = None
    replayed: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is at a provider of identities; `email` as it was when it was proven there."""

    issuer: str
    subject: str
    email: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link that was sent. `account_id` is None while there is no account yet."""

    kind: LinkKind
    email: str
    account_id: str | None = None
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Claims:
    """What a provider of identities vouches for, its signature checked."""

    issuer: str
    subject: str
    email: str
    email_verified: bool


@dataclass(frozen=True, slots=True)
class Client:
    """An application that people may let in, as the operator registered it."""

    id: str
    name: str
    redirect_uris: tuple[str, ...]


def user_code_of(secret: str) -> str:
    """The short code for an unguessable secret; 20 bits of it, hence the throttle and the time."""
    drawn = int.from_bytes(hashlib.sha256(secret.encode()).digest()[:4], "big")
    return USER_CODE_PREFIX + "".join(ALPHABET[drawn >> shift & 31] for shift in (0, 5, 10, 15))


def user_code_from(typed: str) -> str | None:
    """A short code however it was typed, or None if it cannot be one."""
    found = USER_CODE.fullmatch(re.sub(r"[\s-]+", "", typed).upper())
    return None if found is None else USER_CODE_PREFIX + found[1]


def client_name_from(told: str) -> str:
    """A name that can be shown and become a key's: one printable line, not too long."""
    shown = "".join(letter if letter.isprintable() else " " for letter in told)
    return " ".join(shown.split())[:MAX_CLIENT_NAME].strip() or UNNAMED_DEVICE


def challenge_of(verifier: str) -> str:
    """S256: BASE64URL(SHA256(verifier)) without padding."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def check_redirect_uri(uri: str) -> None:
    """Raise ValueError for what no application may be registered with.

    https anywhere, http on this machine's loopback, or an application's own scheme.
    """
    parts = urlsplit(uri)
    if not uri.isascii() or not uri.isprintable() or " " in uri or "\\" in uri or "#" in uri:
        raise ValueError(f"{uri!r} is not a redirect URI: ASCII, no spaces, no fragment")
    if SCHEME.fullmatch(parts.scheme) is None or parts.scheme in NEVER_SCHEMES:
        raise ValueError(f"{uri!r} has a scheme that nothing may be sent to")
    if parts.scheme not in {"http", "https"}:
        return
    host, _, port = parts.netloc.rpartition(":")
    if not port.isdigit():
        host = parts.netloc
    if HOST.fullmatch(host) is None:
        raise ValueError(f"{uri!r} has no plain host name")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise ValueError(f"{uri!r}: http goes to 127.0.0.1, [::1] or localhost alone")


def is_registered(uri: str, registered: Sequence[str]) -> bool:
    """Exactly one of them, save that a port on loopback is free (RFC 8252 section 7.3)."""
    return any(uri == known or _is_same_but_port(uri, known) for known in registered)


def _is_same_but_port(uri: str, known: str) -> bool:
    for host in LOOPBACK:
        head = f"http://{host}"
        rest = re.fullmatch(rf"{re.escape(head)}(?::[0-9]{{1,5}})?((?:[/?].*)?)", known)
        if rest is not None:
            wanted = rf"{re.escape(head)}(?::[0-9]{{1,5}})?{re.escape(rest[1])}"
            return re.fullmatch(wanted, uri) is not None
    return False


def origin_of(uri: str) -> str:
    """Where a browser goes with a redirect to `uri`, as a content policy writes it."""
    parts = urlsplit(uri)
    web = parts.scheme in {"http", "https"}
    # A policy has no way to write an IPv6 address.
    return f"{parts.scheme}://{parts.netloc}" if web and "[" not in uri else f"{parts.scheme}:"


def with_query(uri: str, **added: str) -> str:
    """`uri` with these parameters after those that it has."""
    joint = "&" if "?" in uri else "?"
    return f"{uri}{joint}{urlencode(added)}"
