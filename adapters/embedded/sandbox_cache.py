"""Which part of a prompt the sandbox has seen before: OpenAI's way by itself, Anthropic's by mark.

Hashes in memory, the oldest forgotten first; no prompt is kept.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from adapters.embedded.sandbox_text import digest

_BLOCK_TOKENS = 64
_CACHED_ABOVE_TOKENS = 1_024
_REMEMBERED_BLOCKS = 131_072  # about 8 million tokens of prompts


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of one block of a prompt; `ttl` is set where `cache_control` stands on it."""

    at: int
    ttl: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as tokens, with the ends of its blocks where its wire marks any."""

    tokens: list[str]
    marks: Sequence[Mark] = ()


@dataclass(frozen=True, slots=True)
class Cached:
    """Tokens of a prompt read from the cache, and those written to it, by how long they stay."""

    read: int = 0
    written_5m: int = 0
    written_1h: int = 0


@dataclass(slots=True)
class PrefixCache:
    """Prompt prefixes seen before, per model; oldest go first."""

    seen: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def by_itself(self, model: str, prompt: Prompt) -> Cached:
        """Every block of 64 tokens of a long prompt that was seen with all before it."""
        tokens = prompt.tokens
        if len(tokens) <= _CACHED_ABOVE_TOKENS:
            return Cached()
        link, hits, unbroken = model, 0, True
        for start in range(0, len(tokens) - _BLOCK_TOKENS + 1, _BLOCK_TOKENS):
            link = digest(link, *tokens[start : start + _BLOCK_TOKENS])
            unbroken = unbroken and link in self.seen
            hits += unbroken
            self._remember(link)
        self._forget()
        return Cached(hits * _BLOCK_TOKENS)

    def by_mark(self, model: str, prompt: Prompt) -> Cached:
        """What was written up to some end of a block before; what is new is written now.

        Like Anthropic: nothing without a mark, an entry ends at a mark, a prefix of fewer
        than 1,024 tokens is not kept, and an earlier entry is found at any end of a block.
        """
        last = max((mark.at for mark in prompt.marks if mark.ttl), default=0)
        running = hashlib.sha256(f"marked\x1f{model}".encode())
        read = start = 0
        entries: list[tuple[Mark, str]] = []
        for mark in prompt.marks:
            if mark.at > last:
                break
            running.update("".join(f"\x1f{t}" for t in prompt.tokens[start : mark.at]).encode(
                "utf-8", "surrogatepass"
            ))  # fmt: skip
            start, link = mark.at, running.hexdigest()
            if link in self.seen:
                read = mark.at
            if mark.ttl and mark.at >= _CACHED_ABOVE_TOKENS:
                entries.append((mark, link))
        written = {"5m": 0, "1h": 0}
        behind = read
        for mark, link in entries:
            written[mark.ttl or "5m"] += max(0, mark.at - behind)
            behind = max(behind, mark.at)
            self._remember(link)
        self._forget()
        return Cached(read, written["5m"], written["1h"])

    def _remember(self, link: str) -> None:
        self.seen[link] = None
        self.seen.move_to_end(link)

    def _forget(self) -> None:
        while len(self.seen) > _REMEMBERED_BLOCKS:
            self.seen.popitem(last=False)
