"""The tables that Core queries name; the migrations own their definition.

A test compares them with the migrated database, so that they cannot drift.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import UUID

metadata = MetaData()
_id = UUID(as_uuid=False)
_time = DateTime(timezone=True)

accounts = Table(
    "accounts",
    metadata,
    Column("id", _id, primary_key=True),
    Column("email", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("created_at", _time, nullable=False),
    Column("bound", Boolean, nullable=False),
    Column("email_verified_at", _time),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", _id, primary_key=True),
    Column("account_id", _id, nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("last4", Text, nullable=False),
    Column("created_at", _time, nullable=False),
    Column("revoked_at", _time),
    Column("replay_minutes", SmallInteger, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("allowed_models", ARRAY(Text), nullable=False),
    Column("networks", ARRAY(Text), nullable=False),
    Column("monthly_cap", BigInteger),
    Column("expires_at", _time),
    Column("used_at", _time),
    Column("previous_digest", LargeBinary),
    Column("previous_until", _time),
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("account_id", _id, nullable=False),
    Column("created_at", _time, nullable=False),
    Column("expires_at", _time, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("used_at", _time),
    Column("ended_at", _time),
)

operators = Table(
    "operators",
    metadata,
    Column("name", Text, primary_key=True),
    Column("password_hash", Text, nullable=False),
    Column("created_at", _time, nullable=False),
)

tier_overrides = Table(
    "tier_overrides",
    metadata,
    Column("id", _id, primary_key=True),
    Column("account_id", _id, nullable=False),
    Column("level", SmallInteger),
    Column("operator", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("granted_at", _time, nullable=False),
    Column("until", _time),
    Column("seq", BigInteger, nullable=False),
)

balances = Table(
    "balances",
    metadata,
    Column("account_id", _id, primary_key=True),
    Column("paid", BigInteger, nullable=False),
    Column("promo", BigInteger, nullable=False),
    Column("held_paid", BigInteger, nullable=False),
    Column("held_promo", BigInteger, nullable=False),
    Column("deposited", BigInteger, nullable=False),
    Column("capped", Boolean, nullable=False),
)

provider_probes = Table(
    "provider_probes",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("latency_ms", Integer, nullable=False),
    Column("probed_at", _time, nullable=False),
)
