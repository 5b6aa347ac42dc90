"""A stream under way: what its reader takes, and how it is resolved however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from kyma.calls import Chunk, Fault, UpstreamError
from kyma.errors import Code, Refusal
from kyma.flows.ticket import Receipt, Ticket
from kyma.ledger import Hold
from kyma.ports.upstreams import Chunks
from kyma.routing import Route
from kyma.usage import Usage

if TYPE_CHECKING:
    from kyma.flows.chat import Chat

DRAIN_S = 2.0
"""After a client left, how long its stream may still end by itself and tell its usage."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A stream that has shown its first text."""

    chunks: Chunks
    first: list[Chunk]


async def until_text(chunks: Chunks) -> list[Chunk]:
    """Read until something worth showing has come: up to here another route may take over."""
    seen: list[Chunk] = []
    while (chunk := await chunks.next()) is not None:
        seen.append(chunk)
        if chunk.output_bytes or chunk.finished:
            return seen
    return seen


class LiveAnswer:
    """A stream under way. Iterate `events()` once; then `receipt` and `ending` are there."""

    def __init__(self, chat: Chat, ticket: Ticket, route: Route, hold: Hold, begun: Begun) -> None:
        self._chat = chat
        self.ticket = ticket
        self.route = route
        self.receipt: Receipt | None = None
        self.ending: Mapping[str, Any] | None = None
        self._hold = hold
        self._begun = begun
        self._output_bytes = 0
        self._finished = False
        self._told: Usage | None = None
        self._resolved = False
        for chunk in begun.first:
            self._see(chunk)

    async def events(
        self, take: Callable[[list[bytes]], bool] | None = None
    ) -> AsyncIterator[list[bytes]]:
        """Server-sent events as they come; once they end, the answer has been settled.

        Events that come while this waits may be offered to `take`: what it takes (True) was
        delivered and does not come again. This spares waking the reader for every word.

        Raises `Refusal` STREAM_INTERRUPTED if the upstream broke: the hold is returned. Raises
        DEADLINE_PASSED if it took longer than a request may: what came is charged.
        """
        try:
            for early in self._begun.first:
                if early.events:
                    yield early.events
            offered = None if take is None else partial(self._offered, take)
            while (chunk := await self._begun.chunks.next(offered)) is not None:
                self._see(chunk)
                if chunk.events:
                    yield chunk.events
        except UpstreamError as error:
            if not self._finished:
                raise await self._ended(error) from error
        await self._settle("ok")

    def _offered(self, take: Callable[[list[bytes]], bool], chunk: Chunk) -> bool:
        if not take(chunk.events):
            return False
        self._see(chunk)
        return True

    def _see(self, chunk: Chunk) -> None:
        self._output_bytes += chunk.output_bytes
        if chunk.finished:
            self._finished = True
        if chunk.usage is not None:
            self._told = chunk.usage
        if chunk.ending is not None:
            self.ending = chunk.ending

    async def _settle(self, outcome: str) -> None:
        usage = self._chat.evidence(self.ticket, self.route, self._told, self._output_bytes)
        self._resolved = True
        self.receipt = await self._chat.settle(self.ticket, self._hold, self.route, usage, outcome)

    async def _ended(self, error: UpstreamError) -> Refusal:
        """Our own deadline is no fault of the provider's: what came until then is paid."""
        if error.fault is not Fault.OVERDUE:
            return await self._broken(error)
        await self._settle("deadline_passed")
        return Refusal(
            Code.DEADLINE_PASSED,
            "This gateway ends an answer that takes longer than this. What you received until "
            f"now was charged; GET /v1/generations/{self.ticket.id} shows how much. Ask for "
            "fewer tokens at a time.",
            charged=True,
        )

    async def _broken(self, error: UpstreamError) -> Refusal:
        self._resolved = True
        usage = self._chat.evidence(self.ticket, self.route, self._told, self._output_bytes)
        await self._chat.broke(self.ticket, self._hold, self.route, usage, error)
        return Refusal(
            Code.STREAM_INTERRUPTED,
            "The provider's stream broke off before the answer was complete. "
            "Nothing was charged; send the request again.",
        )

    async def leave(self) -> None:
        """Resolve a stream that its reader left: let it end within a cap, else bill what came.

        A stream that we cut ourselves, because this process stops, is not billed.
        """
        if self._resolved:
            return
        if not self.ticket.gone():
            await self._chat.cut(self.ticket, self._hold, self.route)
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                while (chunk := await self._begun.chunks.next()) is not None:
                    self._see(chunk)
        except (TimeoutError, UpstreamError):
            self._finished = False  # the count below is all the evidence there is
        await self._settle("client_left")
