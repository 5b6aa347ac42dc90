"""Small builders of domain objects, with everything a test does not care about filled in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from kyma.accounts import Account, Key, Session
from kyma.money import ZERO, Usd
from kyma.usage import Usage, UsageRecord

NOON = datetime(2026, 5, 17, 12, 0, tzinfo=UTC)


def new_id() -> str:
    return uuid4().hex


def an_account(email: str | None = None) -> Account:
    id = new_id()
    return Account(id, email or f"{id[:8]}@example.com", "hash", datetime.now(UTC))


def a_key(account: Account, digest: bytes | None = None) -> Key:
    id = new_id()
    return Key(
        id,
        account.id,
        "default",
        digest or uuid4().bytes * 2,
        "ky-1234",
        "cdef",
        account.created_at,
    )


def a_session(account: Account) -> Session:
    now = datetime.now(UTC)
    return Session(account.id, uuid4().bytes * 2, now, now + timedelta(days=1))


def a_record(account_id: str, id: str, **changes: object) -> UsageRecord:
    record = UsageRecord(
        id=id,
        account_id=account_id,
        key_id="",
        endpoint="chat.completions",
        requested_model="qwen-3-32b",
        served_model="qwen-3-32b",
        provider="groq",
        layer=0,
        streamed=False,
        outcome="ok",
        usage=Usage(input=100, output=50),
        price_version="v1",
        charged=ZERO,
        cache_discount=ZERO,
        provider_cost=Usd(10),
        first_byte_ms=10,
        duration_ms=20,
        attempts=(),
        started_at=NOON,
    )
    return replace(record, **changes)
