"""What OpenAI's dialect tells of the tokens it used, in the spellings of all who speak it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kyma.usage import Usage


def usage_of(told: Any) -> Usage | None:
    """Disjoint buckets from the spellings seen in the field; None if nothing was told.

    `prompt_tokens` includes cached ones, read and written, at OpenAI, Groq, DeepSeek, Moonshot,
    Alibaba, Google and OpenRouter (CLIProxyAPI #1562, 2026-02: 5,004 written of 5,031). The
    cached part comes as `prompt_tokens_details.cached_tokens`, or as DeepSeek's
    `prompt_cache_hit_tokens`, or as Moonshot's `cached_tokens`. What `total_tokens` has beyond
    both sums is `_beside` them. Alone it is the prompt's: nothing else is told of an embedding.
    """
    if not isinstance(told, dict):
        return None
    prompt, completion = _count(told, "prompt_tokens"), _count(told, "completion_tokens")
    if "prompt_tokens" not in told and completion == 0:
        prompt = _count(told, "total_tokens")
    details = told.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    read = (
        _count(details, "cached_tokens")
        or _count(told, "prompt_cache_hit_tokens")
        or _count(told, "cached_tokens")
        or _count(told, "cache_read_input_tokens")
    )
    write = (
        _count(details, "cache_write_tokens")
        or _count(details, "cache_creation_tokens")
        or _count(details, "cache_creation_input_tokens")
        or _count(told, "cache_creation_input_tokens")
    )
    thinking = told.get("completion_tokens_details")
    reasoning = _count(thinking, "reasoning_tokens") if isinstance(thinking, dict) else 0
    beside = _beside(told, prompt, completion)
    if beside and beside in (write, read + write) and beside != reasoning:
        prompt += beside
    elif beside:
        completion += beside
        reasoning = beside if reasoning in (0, beside) else reasoning + beside
    reasoning = min(reasoning, max(completion, 0)) if reasoning > 0 else reasoning
    return Usage(prompt - read - write, read, write, completion - reasoning, reasoning)


def _beside(told: Mapping[str, Any], prompt: int, completion: int) -> int:
    """Tokens that a provider counts in its total and in neither sum: as a rule its thinking.

    2026-11: so Google's OpenAI endpoint (vercel/ai #6082, any-llm #1290) and xAI (vercel/ai
    #12425); a proxy before Anthropic may leave cache reads and writes out of `prompt_tokens`.
    """
    return max(0, _count(told, "total_tokens") - prompt - completion) if prompt > 0 else 0


def _count(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    return int(value) if isinstance(value, (int, float)) else 0
