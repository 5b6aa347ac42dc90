"""A customer's request for higher limits, and what an operator answered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kyma.errors import Code, Refusal

LENGTHS = {"company": 200, "use": 2000, "expected_load": 1000}
"""The longest text of each field, in characters."""


class State(StrEnum):
    """OPEN until an operator answers, once."""

    OPEN = "open"
    APPROVED = "approved"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True)
class LimitRequest:
    """What a customer asked for. `email` is the account's, for whoever answers.

    An approved request has the tier's `level` and its end (`until`, None: no end), as granted.
    """

    id: str
    account_id: str
    email: str
    company: str
    use: str
    expected_load: str
    requested_at: datetime
    state: State = State.OPEN
    reason: str = ""
    answered_at: datetime | None = None
    level: int | None = None
    until: datetime | None = None


def checked(field: str, text: str) -> str:
    """One field as it is kept: not empty, not too long, no characters that text cannot have."""
    kept = "".join(sign for sign in text.strip() if sign.isprintable() or sign == "\n")
    if not 0 < len(kept) <= LENGTHS[field]:
        raise Refusal(
            Code.INVALID_VALUE,
            f"`{field}` must have 1 to {LENGTHS[field]:,} characters.",
            param=field,
        )
    return kept
