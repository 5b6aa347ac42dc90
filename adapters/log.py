"""Structured logs to standard error, without secrets and without prompts.

Nothing in the code logs a body; this is the second line: whatever looks like a credential is
blotted out of every value of every line, ours and the libraries'.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

SECRET = re.compile(
    r"(?<![A-Za-z0-9])(?:ky|kyma|ks|sk|gsk)[-_][A-Za-z0-9_-]{8,}|AIza[A-Za-z0-9_-]{20,}"
    r"|(?<=[Bb]earer )[^\s'\"]+|(?<=://)[^/@\s]*:[^/@\s]*(?=@)"
)
MACHINERY = frozenset({"exc_info", "stack_info"})
"""Not yet text: structlog formats them before the line is written, and redacts after that."""

FORBIDDEN = frozenset({"messages", "prompt", "content", "body", "authorization", "password"})


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop fields that could hold a prompt and blot out what looks like a secret."""
    for name in list(event):
        if not name.startswith("_") and name not in MACHINERY:
            event[name] = _clean(name, event[name])
    return event


def _clean(name: Any, value: Any) -> Any:
    """The value as it may be written; what is no JSON becomes the text it would be written as."""
    if str(name).lower() in FORBIDDEN:
        return "[removed]"
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return SECRET.sub("[secret]", value)
    if isinstance(value, Mapping):
        return {_clean("", key): _clean(key, inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean("", inner) for inner in value]
    return SECRET.sub("[secret]", repr(value))


def configure(level: str) -> None:
    """One JSON object per line on standard error, for structlog and the standard library alike."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
