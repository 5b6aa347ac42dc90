"""JSON as it is written here: fast, and whatever was read as JSON can be written again.

`orjson` is the fast writer, but it refuses integers beyond 64 bits and nesting beyond 254 levels.
Both are JSON that models and callers send, as the id of a tool call or a schema; so what it refuses
is given to `msgspec`, which read it in the first place.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson


class Unwritable(TypeError):
    """Nested too deeply for any writer: beyond some 900 levels."""


def json_bytes(value: Any) -> bytes:
    """A value as JSON without blanks; raises `Unwritable`."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return _at_any_length(value)


MARGIN = 60
"""Levels that are kept free where a value is looked at before it is written within others."""


def check_writable(value: Any) -> None:
    """Raise `Unwritable` for a value that may be so later, within others and deeper in a stack."""
    for _ in range(MARGIN):
        value = [value]
    json_bytes(value)


def _at_any_length(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except RecursionError:
        raise Unwritable("it is nested too deeply") from None
