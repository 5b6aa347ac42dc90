"""The thing behind a route that answers a call. Every billable call takes its hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
    ) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        """A stream; entering it means the upstream has accepted, leaving it frees the socket.

        The iterator ends after the upstream said that it is done, and raises
        `UpstreamError` if the stream was cut, stalled or malformed.
        """
        ...
