"""The log's second line of defence: no key, no password, no prompt."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from adapters.log import FORBIDDEN, redact
from adapters.settings import ROOT

KEY = "0123456789abcdef0123456789abcdef"


def redacted(**fields: Any) -> dict[str, Any]:
    return dict(redact(None, "info", {"event": "it", **fields}))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"ky-{KEY}", KEY),
        (f"kyma-{KEY}", KEY),
        (f"ks-{KEY}", KEY),
        (f"the key ky-{KEY} is revoked", KEY),
        (f"sk-proj-{KEY}", KEY),
        (f"sk-or-v1-{KEY}", KEY),
        (f"sk-ant-api03-{KEY}", KEY),
        (f"gsk_{KEY}", KEY),
        ("AIzaSyD-0123456789abcdefghijklmnopqrstu", "0123456789"),
        ("Authorization: Bearer opaque.token/value", "opaque"),
        ("authorization: bearer opaque.token/value", "opaque"),
        ("postgresql://kyma:hunter2@db:5432/kyma", "hunter2"),
        ("redis://:hunter2@redis:6379/0", "hunter2"),
        ("connecting to redis://default:hunter2@redis/0 failed", "hunter2"),
        (f"one ky-{KEY} and another ky-{KEY[::-1]}", KEY[::-1]),
    ],
)
def test_what_looks_like_a_secret_is_blotted_out(text: str, secret: str) -> None:
    for name in ("event", "error", "url"):
        line = redacted(**{name: text})
        assert secret not in repr(line)
        assert "[secret]" in line[name]


@pytest.mark.parametrize(
    "value",
    [
        {"key": f"ky-{KEY}"},
        [f"ky-{KEY}"],
        (f"Bearer {KEY}",),
        {"deep": [{"url": f"redis://:{KEY}@h"}]},
        ValueError(f"ky-{KEY}"),
        f"ky-{KEY}".encode(),
    ],
    ids=["dict", "list", "tuple", "deep", "exception", "bytes"],
)
def test_a_secret_inside_another_value_is_blotted_out_too(value: Any) -> None:
    assert KEY not in repr(redacted(value=value))


@pytest.mark.parametrize("name", [*sorted(FORBIDDEN), "Messages", "PROMPT", "Authorization"])
def test_fields_that_could_hold_a_prompt_are_removed(name: str) -> None:
    assert redacted(**{name: "what is the meaning of life"})[name] == "[removed]"
    assert redacted(**{name: [{"role": "user", "content": "hi"}]})[name] == "[removed]"


@pytest.mark.parametrize(
    "text",
    [
        "a plain sentence",
        "http://127.0.0.1:8080/v1",
        "postgresql://db/kyma",
        "skyward-bound",
        "2026-05-17T12:00:00Z",
        "ask-nicely",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(error=text)["error"] == text


@pytest.mark.parametrize("value", [7, 1.5, None, True])
def test_figures_stay_as_they_are(value: object) -> None:
    assert redacted(value=value)["value"] is value


SCRIPT = f"""
import logging, structlog
from adapters.log import configure
configure("info")
structlog.get_logger("kyma").info("hello", key="ky-{KEY}", messages=["a prompt"])
logging.getLogger("aiohttp").warning("GET /?key=ky-{KEY} by %s", "Bearer {KEY}")
try:
    raise ValueError("postgresql://kyma:hunter2@db/kyma")
except ValueError:
    structlog.get_logger("kyma").exception("failed")
    logging.getLogger("sqlalchemy").exception("failed too")
logging.getLogger("asyncio").debug("not shown")
"""


def test_every_line_of_the_process_is_json_without_secrets() -> None:
    """Ours and the libraries', tracebacks included; in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("{") and line.endswith("}") for line in lines)
    for secret in (KEY, "hunter2", "a prompt"):
        assert secret not in done.stderr
    assert done.stdout == ""
