"""API keys as JSON, and what a body wants of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from adapters.http.parsing import integer_field, text_field
from kyma.accounts import Key
from kyma.budget import dollars_of
from kyma.catalog.model import Catalogue
from kyma.errors import Code, Refusal
from kyma.keys import MAX_MODELS, MAX_NETWORKS, Scope, network_from
from kyma.ledger import KeyMonth
from kyma.money import decimal_text, number

CAP = "monthly_cap_usd"


def key_json(key: Key, month: KeyMonth | None = None) -> dict[str, Any]:
    """A key without its secret; `month` is what was spent with it, if it has a cap."""
    policy = key.policy
    cap = policy.monthly_cap
    return {
        "id": key.id,
        "object": "api_key",
        "name": key.name,
        "prefix": key.prefix,
        "last4": key.last4,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.used_at,
        "scopes": sorted(policy.scopes),
        "allowed_models": sorted(policy.models),
        "ip_list": [str(network) for network in policy.networks],
        "monthly_cap": None if cap is None else decimal_text(cap),
        "monthly_cap_usd": None if cap is None else number(cap),
        "spent_this_month": month and decimal_text(month.spent),
        "cap_left": month and decimal_text(month.left),
        "expires_at": policy.expires_at,
        "previous_secret_until": key.previous_until,
        "replay_minutes": key.replay_minutes,
    }


def wished(body: Mapping[str, Any], catalogue: Catalogue) -> dict[str, object]:
    """The fields that a body names, by their names in `kyma`.

    An unknown one is refused: whoever misspells a limit must not get a key without it.
    """
    fields = dict(body)
    readers: dict[str, tuple[str, Callable[[], object]]] = {
        "name": ("name", lambda: text_field(fields, "name").strip()),
        "scopes": ("scopes", lambda: frozenset(map(_scope, _texts(fields, "scopes", len(Scope))))),
        "allowed_models": (
            "models",
            lambda: frozenset(
                catalogue.find(name)[0].id for name in _texts(fields, "allowed_models", MAX_MODELS)
            ),
        ),
        CAP: ("monthly_cap", lambda: _dollars(fields[CAP])),
        "ip_list": (
            "networks",
            lambda: tuple(network_from(text) for text in _texts(fields, "ip_list", MAX_NETWORKS)),
        ),
        "expires_at": ("expires_at", lambda: _moment(fields, "expires_at")),
        "replay_minutes": ("replay_minutes", lambda: integer_field(fields, "replay_minutes")),
    }
    unknown = sorted(fields.keys() - readers.keys())
    if unknown:
        raise Refusal(
            Code.INVALID_VALUE,
            f"`{unknown[0][:60]}` is nothing that a key has. It has {', '.join(readers)}.",
            param=unknown[0][:60],
        )
    return {readers[name][0]: readers[name][1]() for name in fields}


def _scope(text: str) -> Scope:
    try:
        return Scope(text)
    except ValueError:
        raise Refusal(
            Code.INVALID_VALUE, f"A scope is one of {', '.join(Scope)}.", param="scopes"
        ) from None


def _texts(body: Mapping[str, Any], name: str, most: int) -> list[str]:
    """A list of strings; null is an empty one."""
    found = body[name]
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise Refusal(Code.INVALID_TYPE, f"`{name}` must be a list of strings.", param=name)
    if len(found) > most:
        raise Refusal(Code.INVALID_VALUE, f"`{name}` has at most {most} items.", param=name)
    return found


def _dollars(value: Any) -> object:
    return None if value is None else dollars_of(value, CAP)


def _moment(body: dict[str, Any], name: str) -> datetime | None:
    """ISO 8601; without a zone UTC is meant. Null is none."""
    if body[name] is None:
        return None
    try:
        found = datetime.fromisoformat(text_field(body, name))
        return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refusal(
            Code.INVALID_VALUE,
            f"`{name}` must be a time in ISO 8601, such as 2027-01-31T00:00:00Z.",
            param=name,
        ) from None
