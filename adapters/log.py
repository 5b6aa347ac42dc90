"""Structured logs to standard error, without secrets and without prompts.

Nothing in the code logs a body; this is the second line: whatever looks like a credential is
blotted out of every value of every line, ours and the libraries'.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

SECRET = re.compile(
    r"(?:ky|kyma|ks|sk|gsk|AIza)[-_][A-Za-z0-9_-]{8,}|(?<=Bearer )\S+|(?<=://)[^/@\s]*:[^/@\s]*(?=@)"
)
FORBIDDEN = frozenset({"messages", "prompt", "content", "body", "authorization", "password"})


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop fields that could hold a prompt and blot out what looks like a secret."""
    for name in list(event):
        if name.lower() in FORBIDDEN:
            event[name] = "[removed]"
        elif isinstance(event[name], str):
            event[name] = SECRET.sub("[secret]", event[name])
    return event


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
