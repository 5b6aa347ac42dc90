"""JSON of upstreams, read and written again: what cannot be is a broken answer, never our error."""

from __future__ import annotations

from typing import Any

import msgspec

from adapters.json_text import Unwritable, check_writable, json_bytes
from kyma.calls import Fault, UpstreamError

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises on bytes that are no JSON, or JSON without end."""


def read(raw: bytes) -> Any:
    """The value of an upstream's bytes; raises `UpstreamError` BROKEN."""
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE as error:
        raise UpstreamError(Fault.BROKEN, f"not JSON: {raw[:120]!r}") from error


def written(value: Any) -> bytes:
    """A part of an answer as JSON; raises `UpstreamError` BROKEN."""
    try:
        return json_bytes(value)
    except Unwritable as error:
        raise _broken(error) from error


def check(value: Any) -> None:
    """Raise `UpstreamError` BROKEN for what could not be written later, when it is paid for."""
    try:
        check_writable(value)
    except Unwritable as error:
        raise _broken(error) from error


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; nothing if it is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _broken(error: Unwritable) -> UpstreamError:
    return UpstreamError(Fault.BROKEN, f"an answer that cannot be written: {error}")
