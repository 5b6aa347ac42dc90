"""The body of a chat request, checked where OpenAI's clients expect a 400 and no further.

Fields that are not documented are not looked at: they reach the model as they came.
"""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec

from kyma.errors import Code, Refusal

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
SPEAKERS = frozenset({"system", "developer", "user"})
"""Roles whose messages say something; an assistant's may be tool calls alone."""

MAX_MESSAGES = 100_000
MAX_INT = 2**31 - 1
MAX_CHOICES = 128


def parsed(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body, whatever is in it."""
    try:
        body = msgspec.json.decode(raw)
    except RecursionError:
        raise Refusal(Code.INVALID_JSON, "The JSON body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(Code.INVALID_JSON, f"The body is not valid JSON: {error}.") from None
    if not isinstance(body, dict):
        raise Refusal(Code.INVALID_TYPE, "The body must be a JSON object.")
    return body


INTEGERS = {"max_tokens": MAX_INT, "max_completion_tokens": MAX_INT, "n": MAX_CHOICES}
NUMBERS = {"temperature": 2, "top_p": 1}
SHAPES = {
    "stream": (bool, "a boolean"),
    "tools": (list, "an array"),
    "response_format": (dict, "an object"),
    "stream_options": (dict, "an object"),
}


def check(body: dict[str, Any]) -> None:
    """Refuse a body that no model could serve, naming the field."""
    model = body.get("model")
    if model is None:
        _missing("model")
    if not isinstance(model, str) or not model:
        _wrong("model", "a non-empty string")
    _check_messages(body.get("messages"))
    for name, value in body.items():
        if value is not None:
            _check_option(name, value)


def _check_option(name: str, value: Any) -> None:
    if name in INTEGERS:
        if type(value) is not int:
            _wrong(name, "an integer")
        if not 1 <= value <= INTEGERS[name]:
            _range(name, f"between 1 and {INTEGERS[name]}")
    elif name in NUMBERS:
        if type(value) not in {int, float}:
            _wrong(name, "a number")
        if not 0 <= value <= NUMBERS[name]:
            _range(name, f"between 0 and {NUMBERS[name]}")
    elif name in SHAPES:
        kind, words = SHAPES[name]
        if not isinstance(value, kind):
            _wrong(name, words)


def _check_messages(messages: Any) -> None:
    if messages is None:
        _missing("messages")
    if not isinstance(messages, list):
        _wrong("messages", "an array")
    if not messages:
        _range("messages", "at least one message")
    if len(messages) > MAX_MESSAGES:
        _range("messages", f"at most {MAX_MESSAGES} messages")
    for place, message in enumerate(messages):
        _check_message(f"messages[{place}]", message)


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, dict):
        _wrong(where, "an object")
    role, content = message.get("role"), message.get("content")
    if role is None:
        _missing(f"{where}.role")
    if not isinstance(role, str) or role not in ROLES:
        _range(f"{where}.role", "one of " + ", ".join(sorted(ROLES)))
    if content is None and role in SPEAKERS:
        _missing(f"{where}.content")
    if isinstance(content, list) and all(map(_is_part, content)):
        return
    if content is not None and not isinstance(content, str):
        _wrong(f"{where}.content", "a string or an array of objects")


def _is_part(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("type", ""), str)


def _missing(param: str) -> NoReturn:
    raise Refusal(Code.MISSING_FIELD, f"Missing required parameter: `{param}`.", param=param)


def _wrong(param: str, kind: str) -> NoReturn:
    raise Refusal(Code.INVALID_TYPE, f"`{param}` must be {kind}.", param=param)


def _range(param: str, words: str) -> NoReturn:
    raise Refusal(Code.INVALID_VALUE, f"`{param}` must be {words}.", param=param)
