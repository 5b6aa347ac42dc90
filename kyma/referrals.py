"""Referrals: who sent whom, when that is worth something, and who cannot be sent by whom."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kyma.money import Usd, usd

TOKENS_TO_VERIFY = 1_000_000
"""What the referred account must have consumed, all buckets of its usage records together."""

REWARD = usd("0.50")
"""Granted to each side, once."""

CODE_LENGTH = 10
CODE_FORM = re.compile(r"[0-9a-f]{10}", re.ASCII)

DOTLESS = {"gmail.com": "gmail.com", "googlemail.com": "gmail.com"}
"""Domains that deliver whatever the dots in a name, by the one they are."""


class State(StrEnum):
    """How far a referral has come. VERIFIED and VOID are final."""

    PENDING = "pending"
    VERIFIED = "verified"
    VOID = "void"


class Side(StrEnum):
    """Who gets a reward."""

    REFERRER = "referrer"
    REFERRED = "referred"


@dataclass(frozen=True, slots=True)
class Referral:
    """One account sent another. An account has at most one referrer, for ever.

    `paid_at` is when both had their reward; it follows `verified_at` within moments.
    """

    id: str
    referrer_id: str
    referred_id: str
    state: State
    created_at: datetime
    tokens: int = 0
    verified_at: datetime | None = None
    paid_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Referrer:
    """Whose code it is."""

    account_id: str
    email: str


@dataclass(frozen=True, slots=True)
class Tally:
    """How many referrals of an account are in each state."""

    pending: int = 0
    verified: int = 0
    void: int = 0

    @property
    def earned(self) -> Usd:
        """What the account was given for those it sent."""
        return Usd(REWARD * self.verified)


def code_of(text: str) -> str | None:
    """A referral code as it is kept, or None if this cannot be one."""
    code = text.strip().lower()
    return code if CODE_FORM.fullmatch(code) else None


def entry_id(referral_id: str, side: Side) -> str:
    """The ledger entry of a reward: always the same, so that it is booked once."""
    return hashlib.sha256(f"referral/{referral_id}/{side.value}".encode()).hexdigest()[:32]


def same_mailbox(one: str, other: str) -> bool:
    """Whether mail to both addresses would come to the same person, as far as is known.

    A `+tag` is taken to be one everywhere; dots are ignored only where they are known to be.
    """
    return _mailbox(one) == _mailbox(other)


def _mailbox(address: str) -> tuple[str, str]:
    name, _, domain = address.strip().lower().rpartition("@")
    name = name.partition("+")[0]
    if domain in DOTLESS:
        return name.replace(".", ""), DOTLESS[domain]
    return name, domain
