"""The body of a chat request, checked where OpenAI's clients expect a 400 and no further.

Fields that are not documented are not looked at: they reach the model as they came.
"""

from __future__ import annotations

from typing import Any

from adapters.http.complaints import (
    MAX_CHOICES,
    MAX_INT,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
    NUMBERS,
    check_count,
    check_integer,
    check_number,
    missing,
    out_of_range,
    wrong,
)

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
SPEAKERS = frozenset({"system", "developer", "user"})
"""Roles whose messages say something; an assistant's may be tool calls alone."""

INTEGERS = {"max_tokens": MAX_INT, "max_completion_tokens": MAX_INT, "n": MAX_CHOICES}
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
        missing("model")
    if not isinstance(model, str) or not model:
        wrong("model", "a non-empty string")
    _check_messages(body.get("messages"))
    for name, value in body.items():
        if value is not None:
            _check_option(name, value)


def _check_option(name: str, value: Any) -> None:
    if name in INTEGERS:
        check_integer(name, value, 1, INTEGERS[name])
    elif name in NUMBERS:
        check_number(name, value)
    elif name in SHAPES:
        kind, words = SHAPES[name]
        if not isinstance(value, kind):
            wrong(name, words)
        if isinstance(value, list):
            check_count(name, value, MAX_TOOLS, "tools")
    elif name == "functions" and isinstance(value, list):
        check_count(name, value, MAX_TOOLS, "tools")


def _check_messages(messages: Any) -> None:
    if messages is None:
        missing("messages")
    if not isinstance(messages, list):
        wrong("messages", "an array")
    if not messages:
        out_of_range("messages", "at least one message")
    check_count("messages", messages, MAX_MESSAGES, "messages")
    for place, message in enumerate(messages):
        _check_message(f"messages[{place}]", message)


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, dict):
        wrong(where, "an object")
    role, content = message.get("role"), message.get("content")
    if role is None:
        missing(f"{where}.role")
    if not isinstance(role, str) or role not in ROLES:
        out_of_range(f"{where}.role", "one of " + ", ".join(sorted(ROLES)))
    if content is None and role in SPEAKERS:
        missing(f"{where}.content")
    if isinstance(content, list):
        check_count(f"{where}.content", content, MAX_PARTS, "parts")
        for number, part in enumerate(content):
            _check_part(f"{where}.content[{number}]", part)
        return
    if content is not None and not isinstance(content, str):
        wrong(f"{where}.content", "a string or an array of objects")


def _check_part(where: str, part: Any) -> None:
    """Each part says what it is: some servers guess where it does not, and read a picture."""
    if not isinstance(part, dict):
        wrong(where, "an object")
    if part.get("type") is None:
        missing(f"{where}.type")
    if not isinstance(part["type"], str):
        wrong(f"{where}.type", "a string")
