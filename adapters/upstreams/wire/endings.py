"""Why an answer ended: every provider's word for it, as one of OpenAI's five.

An answer that ends with a word of failure, or with one that nobody here knows, is a broken one:
it must never be shown, and charged, as complete. A provider's new word for a clean end costs a
fallback until it is added to the table; a new word for a failure would cost half a sentence
that was sold as a whole one.
"""

from __future__ import annotations

from typing import Any

from kyma.calls import Fault, UpstreamError

CLEAN = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})
"""OpenAI's own, in which every caller of the chat dialect is told."""

SPELLINGS = {
    # An end of the model's own: Together and TGI (`eos`, `eos_token`), Anthropic, Cohere.
    **dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence", "complete"), "stop"),
    # Cut, though as agreed: Gemini, Mistral (`model_length`), Z.AI and Anthropic
    # (`model_context_window_exceeded`: any-llm #1200, 2026-07). vLLM ends a loop as `repetition`
    # (litellm #27100, 2026-05); Anthropic pauses a turn that is to be gone on with.
    **dict.fromkeys(("max_tokens", "max_output_tokens", "model_length"), "length"),
    **dict.fromkeys(("model_context_window_exceeded", "context_length_exceeded"), "length"),
    **dict.fromkeys(("repetition", "pause_turn", "compaction"), "length"),
    **dict.fromkeys(("tool_use", "tool_call"), "tool_calls"),
    # Z.AI says `sensitive`; Gemini's own words reach its OpenAI endpoint as
    # `content_filter: PROHIBITED_CONTENT` (2026-06: also bare, Vibe-Trading #308).
    **dict.fromkeys(("sensitive", "refusal", "content_filtered"), "content_filter"),
    **dict.fromkeys(("safety", "recitation", "blocklist", "spii"), "content_filter"),
    **dict.fromkeys(("prohibited_content", "image_safety"), "content_filter"),
}
"""Other words for a clean end, in lower case (documentation and threads read 2026-11)."""

FAILURES = frozenset(
    {
        "network_error",  # Z.AI
        "insufficient_system_resource",  # DeepSeek
        *("error", "malformed_function_call", "unexpected_tool_call"),  # OpenRouter, Gemini
        *("malformed_response", "too_many_tool_calls", "function_call_filter"),  # Gemini
        *("abort", "aborted", "cancelled", "timeout"),  # vLLM, SGLang and others
    }
)
"""Words that are known to say that an answer is not complete."""

PENDING = frozenset({"", "null", "none"})
"""What stands for no word at all where `null` should."""


def ending_of(reason: Any, native: Any = None) -> str | None:
    """OpenAI's word for a provider's; None while nothing has ended.

    `native` is what the model's own host said where a reseller translated it (OpenRouter's
    `native_finish_reason`): its failures count, however they were translated. Raises
    `UpstreamError` BROKEN for a failure and for a word that is in no table.
    """
    if reason is None:
        return None
    word = reason.strip().lower() if isinstance(reason, str) else repr(reason)
    if word in PENDING:
        return None
    head = word.partition(":")[0]
    if isinstance(native, str) and native.lower() in FAILURES:
        head = word = native.lower()
    ending = head if head in CLEAN else SPELLINGS.get(word)
    if ending is None:
        kind = "a failure" if head in FAILURES else "a word that is not known"
        raise UpstreamError(Fault.BROKEN, f"the answer ended with {kind}: {word[:80]}")
    return ending
