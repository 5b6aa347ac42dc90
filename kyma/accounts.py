"""Accounts, keys, sessions and operators, and the form of a secret.

Secrets themselves never appear here: a key is known by its digest, its prefix and its
last four characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from kyma.keys import UNRESTRICTED, Policy

KEY_FORM = re.compile(r"(?:ky|kyma|ks)-[A-Za-z0-9_-]{16,128}", re.ASCII)
"""`ky-` (issued) and `kyma-` (accepted) are API keys, `ks-` is a session token."""

MIN_PASSWORD_LENGTH = 6
"""Fixed by the OpenAPI document."""

MAX_PASSWORD_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Account:
    """A customer. All keys of an account share its balance and its limits.

    An address signs in to the one account that it is `bound` to; there may be others that
    somebody opened with it and never showed to be its owner. `sent_by` is the account whose
    invitation it was opened with; to be stored with a new one, and not read back.
    """

    id: str
    email: str
    password_hash: str
    created_at: datetime
    bound: bool = True
    sent_by: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as far as we know it: the digest is HMAC-SHA-256 under the server's pepper.

    `replay_minutes` is how long answers made with it may be kept, encrypted, for a retry.
    After a rotation `previous_digest` is that of the secret before, which works until
    `previous_until`. `used_at` is coarse: up to an hour old while the key is in use.
    """

    id: str
    account_id: str
    name: str
    digest: bytes
    prefix: str
    last4: str
    created_at: datetime
    revoked_at: datetime | None = None
    replay_minutes: int = 0
    policy: Policy = UNRESTRICTED
    used_at: datetime | None = None
    previous_digest: bytes | None = None
    previous_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in person; the token starts with `ks-` and is stored as a digest.

    `used_at` is coarse: up to an hour old while the session is in use.
    """

    account_id: str
    digest: bytes
    created_at: datetime
    expires_at: datetime
    user_agent: str = ""
    used_at: datetime | None = None

    @property
    def id(self) -> str:
        """What may be shown of it: half of the digest, from which no token can be found."""
        return self.digest[:16].hex()


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who may use the console."""

    name: str
    password_hash: str
    created_at: datetime


def shown(secret: str) -> tuple[str, str]:
    """What of a key's secret may be stored and shown: its first characters and its last."""
    return secret[:7], secret[-4:]


def looks_like_key(secret: str) -> bool:
    """Whether a credential has the form of one of ours, before any look-up."""
    return KEY_FORM.fullmatch(secret) is not None
