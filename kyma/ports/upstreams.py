"""The thing behind a route that answers a call. Every billable call takes its hold."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from kyma.calls import ChatAnswer, ChatCall, Chunk, Dialect
from kyma.ledger import Hold
from kyma.routing import Route


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the whole request must be over, in seconds of the event loop's monotonic clock."""

    at: float

    def left(self, now: float) -> float:
        """Seconds left at `now`, never negative."""
        return max(0.0, self.at - now)


Take = Callable[[Chunk], bool]
"""Deals with a chunk on the spot and says True, or leaves it and says False. It never waits."""


class Chunks(Protocol):
    """A stream that an upstream has accepted. One reader at a time."""

    async def next(self, take: Take | None = None) -> Chunk | None:
        """The next chunk, none once the upstream has said that it is done.

        Chunks that come while this waits may be offered to `take`; those that it takes were not
        the next. It is not called before or after. Whoever was cancelled may ask again.
        Raises `UpstreamError` if the stream was cut, stalled or malformed.
        """
        ...


class ChatUpstream(Protocol):
    """Text from a model. Failures are raised as `UpstreamError` with a `Fault`."""

    def serves(self, route: Route, dialect: Dialect) -> bool:
        """Whether this route can answer calls of a dialect, its own or by translation."""
        ...

    async def answer(
        self, call: ChatCall, route: Route, hold: Hold, deadline: Deadline
    ) -> ChatAnswer:
        """One whole answer."""
        ...

    def stream(
        self, call: ChatCall, route: Route, hold: Hold, deadline: Deadline
    ) -> AbstractAsyncContextManager[Chunks]:
        """A stream; entering it means the upstream has accepted, leaving it frees the socket."""
        ...
