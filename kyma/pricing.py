"""Prices, the hold a call needs and the bill it ends with.

A price is per million tokens in nano-dollars; a bill is rounded once, half up.
"""

from __future__ import annotations

from dataclasses import dataclass

from kyma.calls import ChatCall, Size
from kyma.money import Usd, divided, usd
from kyma.usage import MAX_TOKENS, Usage

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


def believable(usage: Usage, call: ChatCall) -> bool:
    """Whether figures that a provider tells can be those of this call.

    A prompt is never nothing, and never more than its worst case and some words of the provider's
    own. An answer, what was thought for it included, is no longer than was asked for: `max_tokens`
    is sent with every call.
    """
    size = call.size
    most = size.max_output + SPARE_OUTPUT * size.choices
    if call.body.get("context_management"):
        most += SUMMARY
    return (
        plausible(usage)
        and 0 < usage.prompt_tokens <= size.worst_input + SPARE_INPUT
        and usage.completion_tokens <= most
    )
