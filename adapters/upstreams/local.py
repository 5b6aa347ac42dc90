"""The models of an OpenAI-compatible server on this network (Ollama, vLLM, llama.cpp).

Asked once at the start; a server that does not answer costs a warning, never the start.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec
import structlog

from kyma.catalog.model import Model
from kyma.pricing import per_token
from kyma.routing import Route

TIMEOUT_S = 3.0
CONTEXT_TOKENS = 32_768
"""Assumed where the server does not tell."""

MAX_BYTES = 4 * 1024 * 1024
WINDOW_FIELDS = ("context_window", "context_length", "max_model_len", "max_context_length")
"""How servers spell it: Groq, OpenRouter, vLLM and LM Studio, in this order."""

_log = structlog.get_logger(__name__)


async def discover(url: str, key: str = "") -> tuple[Model, ...]:
    """A row for each model that `GET {url}/models` names; none when it cannot be asked."""
    address = f"{url.rstrip('/')}/models"
    try:
        ids = _listed(await _fetched(address, key))
    except (TimeoutError, aiohttp.ClientError, msgspec.DecodeError, TypeError, ValueError) as error:
        _log.warning(
            "local models not found",
            url=address,
            reason=str(error) or type(error).__name__,
            hint="KYMA_LOCAL_URL must end where /models follows, e.g. http://127.0.0.1:11434/v1",
        )
        return ()
    return tuple(_row(id, window) for id, window in ids.items())


async def _fetched(address: str, key: str) -> bytes:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.get(address) as response,
    ):
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}")
        raw = bytearray()
        async for piece in response.content.iter_any():
            raw += piece
            if len(raw) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
        return bytes(raw)


def _listed(raw: bytes) -> dict[str, int]:
    """Model id → window, of an OpenAI model list."""
    body = msgspec.json.decode(raw)
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        raise TypeError("the answer is not a list of models")
    return {
        row["id"]: _window(row)
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("id"), str) and row["id"]
    }


def _window(row: dict[str, Any]) -> int:
    for name in WINDOW_FIELDS:
        value = row.get(name)
        if type(value) is int and value > 0:
            return value
    return CONTEXT_TOKENS


def _row(id: str, window: int) -> Model:
    free = per_token("0", "0")
    ours = f"local/{id}"
    return Model(
        id=ours,
        name=id,
        description="Served by your own machine at no charge.",
        owned_by="local",
        family="local",
        price=free,
        context_window=window,
        max_output_tokens=window,
        routes=(Route("local", id, ours, free),),
        best_for="Private and offline work",
        embeds=True,
        caching=False,
        cost_grade="cheap",
        quality_grade="efficient",
    )
