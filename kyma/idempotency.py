"""Retrying without paying twice: idempotency keys, fingerprints, and what a second use means.

Pure. Whether the first request was paid for is not asked of its claim but of the ledger: a
claim may be lost with the process that held it, a settlement is not.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

from kyma.errors import Code, Refusal

HEADER = "Idempotency-Key"
KEY_FORM = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
KEEP_S = 24 * 3600
"""How long a key is remembered, counted from its last first use."""

MAX_REPLAY_MINUTES = 10
"""The longest that an answer may be kept for a replay, and only if its key's owner wants it."""

MAX_ANSWER_BYTES = 1 << 20
"""A larger answer is not kept; its replay is its receipt."""

MAX_WAIT_S = 15.0


class State(StrEnum):
    """Of a claim: somebody works under it, or its request has ended and was charged."""

    RUNNING = "running"
    FINISHED = "finished"


class Fate(StrEnum):
    """What the ledger says became of a request's hold."""

    NO_HOLD = "no_hold"
    OPEN = "open"
    SETTLED = "settled"
    RETURNED = "returned"


class Decision(StrEnum):
    """What a request may do that finds its key taken."""

    REUSED = "reused"
    """The key belongs to another request: refuse."""

    REPLAY = "replay"
    """The first request was charged: tell its outcome, do not work again."""

    WAIT = "wait"
    """The first request is under way: refuse for now."""

    TAKE_OVER = "take_over"
    """The first request ended without a charge, or must be dead: work in its place."""


@dataclass(frozen=True, slots=True)
class KnownClaim:
    """A claim as it was found, its times judged by the database's clock.

    `overdue`: its lease is over. `age_s` and `left_s` are since it was claimed and until the
    lease ends. `sealed` is a kept answer, present only while it may be replayed.
    """

    fingerprint: bytes
    request_id: str
    state: State
    overdue: bool
    age_s: float
    left_s: float
    sealed: bytes | None = None


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it was sent: what an encrypted replay gives back byte for byte."""

    status: int
    content_type: str
    body: bytes

    def packed(self) -> bytes:
        """One string of bytes; `unpacked` reads it."""
        kind = self.content_type.encode("latin-1")
        return self.status.to_bytes(2, "big") + len(kind).to_bytes(2, "big") + kind + self.body


def unpacked(raw: bytes) -> StoredAnswer:
    """The answer that was packed."""
    end = 4 + int.from_bytes(raw[2:4], "big")
    return StoredAnswer(int.from_bytes(raw[:2], "big"), raw[4:end].decode("latin-1"), raw[end:])


def checked_key(text: str) -> str:
    """A caller's key, or a refusal: 1 to 255 visible ASCII characters."""
    if KEY_FORM.fullmatch(text) is None:
        raise Refusal(
            Code.INVALID_VALUE,
            f"{HEADER} must be 1 to 255 visible ASCII characters; a UUID is a good choice.",
            param=HEADER,
        )
    return text


def digest_of(key: str) -> bytes:
    """What is stored of a key: enough to know it again, nothing to read."""
    return hashlib.sha256(key.encode()).digest()


def fingerprint_of(method: str, path: str, body: bytes) -> bytes:
    """What makes two requests the same: method, path and the body, byte for byte.

    Neither a method nor a path holds a line break, so no two requests are written alike.
    """
    return hashlib.sha256(f"{method}\n{path}\n".encode() + body).digest()


def decide(known: KnownClaim, fingerprint: bytes, fate: Fate) -> Decision:
    """What a request with this fingerprint may do, given the claim and its request's fate."""
    if known.fingerprint != fingerprint:
        return Decision.REUSED
    if known.state is State.FINISHED or fate is Fate.SETTLED:
        return Decision.REPLAY
    if fate is Fate.RETURNED or known.overdue:
        return Decision.TAKE_OVER
    return Decision.WAIT


def wait_s(known: KnownClaim) -> float:
    """How long to wait before asking again: as long as it has taken so far, within bounds.

    So a client that obeys asks a number of times that grows with the logarithm of the wait.
    """
    return max(1.0, min(known.age_s, known.left_s, MAX_WAIT_S))
