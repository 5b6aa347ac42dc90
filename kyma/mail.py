"""Letters to customers: which there are, what each must be told, and when to try again.

No wording lives here, and no address is judged here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType


class Letter(StrEnum):
    """Every mail that is sent; each has a template in text and one in HTML."""

    WELCOME = "welcome"
    VERIFY = "verify"
    SIGN_UP = "sign_up"
    HAS_ACCOUNT = "has_account"
    JOIN = "join"
    RESET = "reset"
    RECEIPT = "receipt"
    REFUNDED = "refunded"
    LOW_BALANCE = "low_balance"
    AUTO_TOP_UP_FAILED = "auto_top_up_failed"
    TIER_GRANTED = "tier_granted"
    TIER_DECLINED = "tier_declined"


FACTS: Mapping[Letter, frozenset[str]] = MappingProxyType(
    {
        Letter.WELCOME: frozenset(),
        Letter.VERIFY: frozenset({"verify_url"}),
        Letter.SIGN_UP: frozenset({"sign_up_url"}),
        Letter.HAS_ACCOUNT: frozenset({"reset_url"}),
        Letter.JOIN: frozenset({"join_url"}),
        Letter.RESET: frozenset({"reset_url"}),
        Letter.RECEIPT: frozenset({"amount"}),
        Letter.REFUNDED: frozenset({"amount"}),
        Letter.LOW_BALANCE: frozenset({"balance"}),
        Letter.AUTO_TOP_UP_FAILED: frozenset({"amount", "reason"}),
        Letter.TIER_GRANTED: frozenset({"tier", "until"}),
        Letter.TIER_DECLINED: frozenset({"reason"}),
    }
)
"""What each letter must be told. Amounts are dollars as `kyma.money.decimal_text` writes them;
`until` is a time in words or empty for no end."""

MAY_KNOW: Mapping[Letter, frozenset[str]] = MappingProxyType(
    {
        Letter.WELCOME: frozenset({"credit"}),
        Letter.RECEIPT: frozenset({"balance", "tax", "receipt_url"}),
        Letter.REFUNDED: frozenset({"balance", "reason", "auto_top_up"}),
        Letter.AUTO_TOP_UP_FAILED: frozenset({"next_try"}),
        Letter.TIER_GRANTED: frozenset({"reason"}),
    }
)
"""What a letter says besides, if it is told; what stands in neither table is left unsaid."""


def is_secret(fact: str) -> bool:
    """Whether a fact of this name is forgotten when its mail has ended."""
    return fact.endswith("_url")


LINK_OF: Mapping[Letter, str] = MappingProxyType(
    {letter: fact for letter, facts in FACTS.items() for fact in facts if is_secret(fact)}
)
"""The fact that is a letter's link, of the letters that are sent for one."""

RETURNABLE = frozenset(Letter) - frozenset(LINK_OF)
"""Letters that an operator may put back once they have ended: what they need is still known. A
link is forgotten with its letter; whoever waits for one asks for another."""

MAX_TRIES = 12
"""After so many failures a letter is given up: about seventeen hours after it was posted."""

FIRST_DELAY_S = 60
LONGEST_DELAY_S = 4 * 3600


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail. `id` names its occasion: the same id is never sent twice.

    `facts` are the template's words. A fact whose name ends in `_url` may hold a secret: it is
    never logged, and forgotten once the mail has gone. A fact that the letter needs and does not
    have is a ValueError here, where whoever forgot it hears of it.
    """

    id: str
    to: str
    letter: Letter
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = FACTS[self.letter] - self.facts.keys()
        if missing:
            raise ValueError(f"a letter {self.letter.value!r} needs {', '.join(sorted(missing))}")


class State(StrEnum):
    """What became of a mail. UNKNOWN: we never heard whether the server took it."""

    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    UNKNOWN = "unknown"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A mail that is ours to send for a while. `tries` counts this one too."""

    mail: Mail
    claim: str
    tries: int
    posted_at: datetime


@dataclass(frozen=True, slots=True)
class Trouble:
    """A mail that did not go, or of which we do not know: what an operator may look at."""

    id: str
    letter: Letter
    to: str
    state: State
    tries: int
    error: str
    ended_at: datetime


def delay_s(tries: int) -> int | None:
    """How long to wait after so many failures, doubling up to a limit; None: give up."""
    if tries >= MAX_TRIES:
        return None
    return int(min(FIRST_DELAY_S << (tries - 1), LONGEST_DELAY_S))
