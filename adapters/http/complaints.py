"""Bounds that several dialects share, and what a body is told that is out of them.

The words are OpenAI's; Anthropic's own are in `dialects.messages`.
"""

from __future__ import annotations

from typing import Any, NoReturn

from kyma.errors import Code, Refusal

MAX_INT = 2**31 - 1
MAX_CHOICES = 128
"""Answers of one request."""

MAX_MESSAGES = 20_000
"""Turns of one conversation; at the least they can say, more would fill most windows."""

MAX_PARTS = 10_000
"""Parts of one message."""

MAX_TOOLS = 512
"""Tools of one request; OpenAI takes 128 (platform.openai.com, 2026-11), others say nothing."""

NUMBERS = {"temperature": 2, "top_p": 1}
"""Highest values; the lowest is 0."""


def missing(param: str) -> NoReturn:
    """Refuse a body without a field that it must have."""
    raise Refusal(Code.MISSING_FIELD, f"Missing required parameter: `{param}`.", param=param)


def wrong(param: str, kind: str) -> NoReturn:
    """Refuse a field of another type; `kind` is that which it must have, such as "an array"."""
    raise Refusal(Code.INVALID_TYPE, f"`{param}` must be {kind}.", param=param)


def out_of_range(param: str, words: str) -> NoReturn:
    """Refuse a value; `words` end the sentence "It must be …"."""
    raise Refusal(Code.INVALID_VALUE, f"`{param}` must be {words}.", param=param)


def check_integer(param: str, value: Any, low: int, high: int) -> None:
    """Refuse what is no whole number within bounds; `true` is none."""
    if type(value) is not int:
        wrong(param, "an integer")
    if not low <= value <= high:
        out_of_range(param, f"between {low} and {high}")


def check_number(param: str, value: Any) -> None:
    """Refuse what is no number from 0 to the highest of `NUMBERS`."""
    if type(value) not in {int, float}:
        wrong(param, "a number")
    if not 0 <= value <= NUMBERS[param]:
        out_of_range(param, f"between 0 and {NUMBERS[param]}")


def check_count(param: str, values: list[Any], most: int, what: str) -> None:
    """Refuse an array that is too long before anybody looks at each of its items."""
    if len(values) > most:
        out_of_range(param, f"at most {most} {what}")
