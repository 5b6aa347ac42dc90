"""Sounds in a prompt: refused where no price covers what a provider asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kyma.catalog.model import Model
from kyma.errors import Code, Refusal
from kyma.media import is_sound

MAX_DEPTH = 3
"""Parts may hold parts: Anthropic's own go two deep, and nothing deeper crosses to a model."""


def check_sounds(body: Mapping[str, Any], model: Model, *, field: str | None = None) -> None:
    """Refuse a sound that `model` is not sold; the part is named, or `field` in its place.

    `body` is of the chat dialect or of Anthropic's, and in order.
    """
    if model.hears:
        return
    for place, message in enumerate(body["messages"]):
        where = _sound_in(message.get("content"), f"messages[{place}].content")
        if where is not None:
            raise Refusal(
                Code.INVALID_VALUE,
                f"`{field or where}` holds a sound, which {model.id} does not take here: sounds "
                "cost more than text, and no price of this gateway is for them.",
                param=field or where,
            )


def _sound_in(content: Any, where: str, depth: int = 0) -> str | None:
    """Where the first sound stands; a result and a document may hold parts of their own."""
    parts = content if isinstance(content, list) and depth <= MAX_DEPTH else ()
    for place, part in enumerate(parts):
        if not isinstance(part, Mapping):
            continue
        at = f"{where}[{place}]"
        if is_sound(part):
            return at
        source = part.get("source")
        wrapped = source.get("content") if isinstance(source, Mapping) else None
        for name, inner in (("content", part.get("content")), ("source.content", wrapped)):
            found = _sound_in(inner, f"{at}.{name}", depth + 1)
            if found is not None:
                return found
    return None
