"""JSON that only a slow writer can write, and JSON that none can."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.json_text import Unwritable, check_writable, json_bytes

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


def nested(levels: int) -> Any:
    value: Any = {"a": 10**30}
    for _ in range(levels):
        value = {"a": value}
    return value


@given(VALUES)
def test_whatever_was_read_is_written_as_it_was(value: Any) -> None:
    assert msgspec.json.decode(json_bytes(value)) == value


def test_what_the_fast_writer_takes_is_written_by_it() -> None:
    value = {"a": [1.5, -0.0, 1e300, "\u00e9\u2028", 2**64 - 1, None]}
    assert json_bytes(value) == orjson.dumps(value)


def test_deep_values_are_written_up_to_where_nobody_reads_them() -> None:
    assert msgspec.json.decode(json_bytes(nested(300))) == nested(300)
    for write in (json_bytes, check_writable):
        with pytest.raises(Unwritable):
            write(nested(2_000))


def test_what_passed_the_check_can_be_written_within_others() -> None:
    deepest = next(levels for levels in range(1_000, 0, -1) if _passes(nested(levels)))
    assert deepest > 500
    assert json_bytes({"x": [[nested(deepest)]]})


def _passes(value: Any) -> bool:
    try:
        check_writable(value)
    except Unwritable:
        return False
    return True
