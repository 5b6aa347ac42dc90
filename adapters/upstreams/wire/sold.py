"""What nobody buys with our account by asking for it in the body of a call.

Prices here are for tokens of the model that was named. A field that changes who answers, what a
token costs, or what is run beside the model would be paid by us and sold as nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from adapters.json_text import json_bytes
from adapters.upstreams.wire.marks import FIELD, places
from kyma.calls import Fault, UpstreamError
from kyma.tools import is_the_callers, runs_at_the_callers

NOT_SENT = frozenset(
    {
        "service_tier",  # faster service at a price we do not take
        # Searches that are billed by the use: OpenAI and OpenRouter, Alibaba, xAI, Groq.
        *("web_search_options", "enable_search", "search_options", "search_parameters"),
        *("search_settings", "plugins"),
        # Other models than the one that was named, at their own prices: OpenRouter, Anthropic.
        *("models", "fallbacks"),
        # How finely servers of vLLM's kind look at pictures and films.
        *("mm_processor_kwargs", "media_io_kwargs"),
    }
)
"""Fields that are sent to no provider. What only one of them knows stands in its row."""

KIND_SHOWN = 64
"""Characters of a tool's type that an error repeats."""


def check_tools(body: Mapping[str, Any]) -> None:
    """Refuse tools that a provider would run and bill; raises `UpstreamError` BAD_REQUEST.

    2026-11: `openrouter:web_search`, `browser_search` (Groq), `web_search` (Alibaba, Z.AI,
    MiniMax), `retrieval` (Z.AI), `builtin_function` `$web_search` (Moonshot), and Google's,
    which have no type (`{"google_search": {}}`). Left out silently they would be missed.
    """
    tools = body.get("tools")
    for place, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, Mapping) or not is_the_callers(tool):
            where = f"tools[{place}].type"
            raise UpstreamError(
                Fault.BAD_REQUEST,
                f"`{where}` must be `function` or `custom`: tools that a provider runs are not "
                "sold here.",
                param=where,
            )


def check_claude_tools(body: Mapping[str, Any]) -> None:
    """Likewise for a body of Anthropic's.

    What it runs itself can cost any number of tokens, whether or not it is billed by the use.
    """
    tools = body.get("tools")
    for place, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, Mapping) or not runs_at_the_callers(tool.get("type")):
            raise not_run(place, tool)


def not_run(place: int, tool: Any) -> UpstreamError:
    """The error for a tool in this place that no model here can be given."""
    where = f"tools[{place}].type"
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    return UpstreamError(
        Fault.BAD_REQUEST,
        f"`{where}` is {str(kind)[:KIND_SHOWN]!r}, which is no tool that this model can call: "
        "offer those that your own program runs. What a provider runs is not sold here.",
        param=where,
    )


def as_sold(raw: bytes) -> bytes:
    """A body without what a mark or a picture in it asks for beyond what is sold.

    A cached prefix that lives an hour costs 2 × input to write (platform.claude.com, prompt
    caching, 2026-11) and is sold at the price of one that lives five minutes, 1.25 × input: so
    that is what is asked for; it still lives on with every use. Pixels that Qwen is told to blow a
    picture up to make it six times the tokens that are held for (help.aliyun.com, 2026-11).
    """
    if b'"ttl"' not in raw and b'_pixels"' not in raw:
        return raw
    body = msgspec.json.decode(raw)
    for place in places(body):
        mark = place.get(FIELD)
        if isinstance(mark, dict):
            mark.pop("ttl", None)
        for given in (place, place.get("image_url"), place.get("video_url")):
            if isinstance(given, dict):
                for name in PIXELS:
                    given.pop(name, None)
    return json_bytes(body)


PIXELS = ("min_pixels", "max_pixels", "total_pixels")
"""Fields of a part by which its sender sets how finely a model looks at it."""

_PARTS = re.compile(r"[a-z0-9]+")

LOOSE = frozenset({"preview", "latest", "exp", "beta", "instruct", "it", "chat"})
"""Parts of a model's name that come and go without its being another model."""

TIERS = frozenset(
    {
        *("pro", "plus", "max", "ultra", "large", "medium", "small", "mini", "nano", "lite"),
        *("flash", "turbo", "fast", "air", "opus", "sonnet", "haiku", "codex", "deep", "search"),
        *("online", "image", "audio", "vl", "vision", "coder", "highspeed", "speciale"),
    }
)
"""Parts of a name that make it another model, at another price."""


@lru_cache(maxsize=512)
def is_another(asked: str, told: str) -> bool:
    """Whether an answer's `model` is plainly not the one that was asked for.

    OpenRouter names a model by its dated name, in an order of its own (2026-07: asked for
    `anthropic/claude-sonnet-4.6` it tells `anthropic/claude-4.6-sonnet-20260217`, for
    `qwen/qwen3-coder` `qwen/qwen3-coder-480b-a35b-07-25`). So the parts are compared, whatever
    their order: dates and sizes may be added; a version, a tier or another maker may not.
    """
    maker, name = _named(asked)
    their_maker, their_name = _named(told)
    if maker and their_maker and maker != their_maker:
        return True
    missing, added = name - their_name, their_name - name
    return any(not _is_loose(part) for part in missing) or any(
        part in TIERS or (part.isdigit() and len(part) == 1) for part in added
    )


def _named(model: str) -> tuple[str, Counter[str]]:
    """Who makes a model, and the parts of its name without a variant (`:free`)."""
    maker, slash, name = model.lower().partition(":")[0].rpartition("/")
    return maker if slash else "", Counter(_PARTS.findall(name))


def _is_loose(part: str) -> bool:
    return part in LOOSE or (part.isdigit() and len(part) > 1)
