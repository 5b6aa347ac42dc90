"""The body of a chat request, checked where OpenAI's clients expect a 400 and no further.

Fields that are not documented are not looked at: they reach the model as they came.
"""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec

from kyma.errors import Code, Refusal

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
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


def check(body: dict[str, Any]) -> None:
    """Refuse a body that no model could serve, naming the field."""
    model = body.get("model")
    if model is None:
        _missing("model")
    if not isinstance(model, str) or not model:
        _wrong("model", "a non-empty string")
    _check_messages(body)
    for name in ("max_tokens", "max_completion_tokens", "n"):
        value = body.get(name)
        if value is None:
            continue
        if type(value) is not int:
            _wrong(name, "an integer")
        most = MAX_CHOICES if name == "n" else MAX_INT
        if not 1 <= value <= most:
            _range(name, f"between 1 and {most}")
    if type(body.get("stream", False)) not in {bool, type(None)}:
        _wrong("stream", "a boolean")
    for name, most in (("temperature", 2), ("top_p", 1)):
        value = body.get(name)
        if value is None:
            continue
        if type(value) not in {int, float}:
            _wrong(name, "a number")
        if not 0 <= value <= most:
            _range(name, f"between 0 and {most}")
    for name, kind, words in (
        ("tools", list, "an array"),
        ("response_format", dict, "an object"),
        ("stream_options", dict, "an object"),
    ):
        if body.get(name) is not None and not isinstance(body[name], kind):
            _wrong(name, words)


def _check_messages(body: dict[str, Any]) -> None:
    messages = body.get("messages")
    if messages is None:
        _missing("messages")
    if not isinstance(messages, list):
        _wrong("messages", "an array")
    if not messages:
        raise Refusal(
            Code.INVALID_VALUE, "`messages` must have at least one message.", param="messages"
        )
    if len(messages) > MAX_MESSAGES:
        _range("messages", f"at most {MAX_MESSAGES} messages")
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict):
            _wrong(where, "an object")
        role = message.get("role")
        if role is None:
            _missing(f"{where}.role")
        if not isinstance(role, str) or role not in ROLES:
            _range(f"{where}.role", "one of " + ", ".join(sorted(ROLES)))
        content = message.get("content")
        if content is None:
            if role in {"system", "developer", "user"}:
                _missing(f"{where}.content")
        elif isinstance(content, list):
            if not all(isinstance(part, dict) for part in content):
                _wrong(f"{where}.content", "a string or an array of objects")
        elif not isinstance(content, str):
            _wrong(f"{where}.content", "a string or an array of objects")


def _missing(param: str) -> NoReturn:
    raise Refusal(Code.MISSING_FIELD, f"Missing required parameter: `{param}`.", param=param)


def _wrong(param: str, kind: str) -> NoReturn:
    raise Refusal(Code.INVALID_TYPE, f"`{param}` must be {kind}.", param=param)


def _range(param: str, words: str) -> NoReturn:
    raise Refusal(Code.INVALID_VALUE, f"`{param}` must be {words}.", param=param)
