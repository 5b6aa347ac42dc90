"""Prices, the hold a call needs and the bill it ends with.

A price is per million tokens in nano-dollars; a bill is rounded once, half up.
"""

from __future__ import annotations

from dataclasses import dataclass

from kyma.calls import ChatCall, Size
from kyma.money import Usd, divided, usd
from kyma.usage import MAX_TOKENS, Evidence, Usage

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class PerToken:
    """USD per million tokens, in nano-dollars. Thinking is billed as output.

    Without a price of its own a cache write is billed as ordinary input.
    """

    input: Usd
    output: Usd
    cached: Usd
    cache_write: Usd

    def __post_init__(self) -> None:
        if min(self.input, self.output, self.cached, self.cache_write) < 0:
            raise ValueError("a price is never negative")

    @property
    def dearest_input(self) -> int:
        """The most a million prompt tokens can cost, however they are served."""
        return max(self.input, self.cached, self.cache_write)

    def estimate(self, size: Size) -> Usd:
        """The most a call of this size can cost: what its hold must cover."""
        return Usd(
            -(-(size.worst_input * self.dearest_input + size.max_output * self.output) // MILLION)
        )

    def bill(self, usage: Usage) -> Usd:
        """What exactly this usage costs."""
        return divided(self._millionths(usage), MILLION)

    def cache_discount(self, usage: Usage) -> Usd:
        """What the caller saved against the same tokens uncached; never negative."""
        return divided(max(0, usage.cache_read * (self.input - self.cached)), MILLION)

    def _millionths(self, usage: Usage) -> int:
        return (
            usage.input * self.input
            + usage.cache_read * self.cached
            + usage.cache_write * self.cache_write
            + (usage.output + usage.reasoning) * self.output
        )


def per_token(
    input: str, output: str, cached: str | None = None, cache_write: str | None = None
) -> PerToken:
    """A price from decimal USD per million tokens; cached input defaults to 10 % of input.

    The 10 % rule: docs page guides/prompt-caching.
    """
    full = usd(input)
    return PerToken(
        input=full,
        output=usd(output),
        cached=usd(cached) if cached is not None else divided(full, 10),
        cache_write=usd(cache_write) if cache_write is not None else full,
    )


def max_output_for(price: PerToken, size: Size, available: Usd) -> int:
    """The largest `max_tokens` that `available` would cover; 0 if even the prompt is too dear."""
    left = available * MILLION - size.worst_input * price.dearest_input
    if left <= 0:
        return 0
    return (left // price.output if price.output else size.max_output) // size.choices


def plausible(usage: Usage) -> bool:
    """Whether an upstream's figures can be billed: no negative and no absurd bucket."""
    buckets = (usage.input, usage.cache_read, usage.cache_write, usage.output, usage.reasoning)
    return all(0 <= tokens <= MAX_TOKENS for tokens in buckets)


SPARE_INPUT = 4_096
"""Prompt tokens beyond what was sent that a provider may read: its own words around it.

A few hundred as a rule: a chat template, and what tells a model how tools are called (Anthropic:
up to 804, and some 1,500 for a computer; platform.claude.com, tool use, 2026-11).
"""

SPARE_OUTPUT = 64
"""Tokens of each choice that may be told beyond `max_tokens`: marks of the end, and the like."""

SUMMARY = 65_536
"""Tokens that a compaction may write beside the answer (`wire.anthropic.usage_of`)."""


BYTES_PER_TOKEN_AT_MOST = 256
"""More bytes of text than any token stands for, over a whole answer."""


def billable(told: Usage, call: ChatCall, context_window: int, output_bytes: int) -> Usage | None:
    """What is billed of the figures that a provider tells of a call; None if they cannot be true.

    What is possible and yet more than was held for (a picture in more pieces, thoughts beyond
    `max_tokens`) is the provider's doing or our mistake: its caller pays for what was held for.
    """
    if not _possible(told, call, context_window, output_bytes):
        return None
    size = call.size
    most_output = size.max_output + SPARE_OUTPUT * size.choices
    if call.body.get("context_management"):
        most_output += SUMMARY
    prompt_fits = told.prompt_tokens <= size.worst_input + SPARE_INPUT
    if prompt_fits and told.completion_tokens <= most_output:
        return told
    read, input, written = _within(size.worst_input, told.cache_read, told.input, told.cache_write)
    output, reasoning = _within(size.max_output, told.output, told.reasoning)
    return Usage(input, read, written, output, reasoning, Evidence.AT_LEAST)


def echoed_bytes(call: ChatCall) -> int:
    """So much of what comes may be the prompt again, which nobody pays for as output."""
    return call.size.worst_input * call.size.choices if call.body.get("echo") else 0


def _possible(told: Usage, call: ChatCall, context_window: int, output_bytes: int) -> bool:
    """Whether there is a prompt, and tokens for what was said, and none longer than its window."""
    longest_prompt = max(context_window, call.size.worst_input) + SPARE_INPUT
    longest_output = context_window * call.size.choices + SUMMARY
    # A model may begin with what it was given: an echo, or the beginning of its own answer.
    repeated = call.size.worst_input * call.size.choices
    return (
        plausible(told)
        and 0 < told.prompt_tokens <= longest_prompt
        and (told.completion_tokens > 0 or output_bytes <= echoed_bytes(call))
        and output_bytes <= told.completion_tokens * BYTES_PER_TOKEN_AT_MOST + repeated
        and told.completion_tokens <= longest_output
    )


def _within(most: int, *buckets: int) -> list[int]:
    """Buckets of which all together hold no more than `most`; the first ones are kept first."""
    kept: list[int] = []
    for tokens in buckets:
        kept.append(min(tokens, most - sum(kept)))
    return kept
