"""Every named schema of the OpenAPI document, by area. Adding an area is one line here."""

from __future__ import annotations

from collections.abc import Mapping

from adapters.http.schemas import (
    accounts,
    anthropic,
    billing,
    chat,
    discovery,
    errors,
    identity,
    keys,
    models,
    receipts,
    requests,
    responses,
    texts,
)
from adapters.http.schemas.shapes import Schema

AREAS: tuple[Mapping[str, Schema], ...] = (
    errors.SCHEMAS,
    accounts.SCHEMAS,
    keys.SCHEMAS,
    models.SCHEMAS,
    discovery.SCHEMAS,
    chat.SCHEMAS,
    anthropic.SCHEMAS,
    responses.SCHEMAS,
    texts.SCHEMAS,
    receipts.SCHEMAS,
    identity.SCHEMAS,
    requests.SCHEMAS,
    billing.SCHEMAS,
)

SCHEMAS: Mapping[str, Schema] = {name: schema for area in AREAS for name, schema in area.items()}
"""Name → schema; a test holds names to one meaning each."""
