"""The `ChatUpstream` port over every provider of the table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from adapters.upstreams.providers import Endpoint
from adapters.upstreams.transport import Stream, Transport
from adapters.upstreams.wire import openai
from kyma.calls import ChatAnswer, ChatCall, Chunk, Fault, UpstreamError
from kyma.ledger import Hold
from kyma.ports.upstreams import Deadline
from kyma.routing import Route


class ProviderChat:
    """Chat over HTTP: encode, send, decode; decides nothing."""

    def __init__(self, transport: Transport, endpoints: Mapping[str, Endpoint]) -> None:
        self._transport = transport
        self._endpoints = endpoints
        self._headers = {
            name: {
                "Authorization": f"Bearer {endpoint.key}",
                "Content-Type": "application/json",
                "User-Agent": "kyma",
            }
            for name, endpoint in endpoints.items()
        }

    async def answer(
        self, call: ChatCall, route: Route, hold: Hold, deadline: Deadline
    ) -> ChatAnswer:
        """One whole answer."""
        left_s = deadline.left(asyncio.get_running_loop().time())
        status, raw, retry_after = await self._transport.post(
            self._url(route), self._headers[route.provider], self._body(call, route), left_s
        )
        if status != 200:
            raise openai.failure(status, raw, retry_after)
        return openai.answer(raw, route.model, hold.id)

    @asynccontextmanager
    async def stream(
        self, call: ChatCall, route: Route, hold: Hold, deadline: Deadline
    ) -> AsyncIterator[AsyncIterator[Chunk]]:
        """A stream of chunks."""
        left_s = deadline.left(asyncio.get_running_loop().time())
        async with self._transport.stream(
            self._url(route), self._headers[route.provider], self._body(call, route), left_s
        ) as stream:
            if stream.status != 200:
                raise openai.failure(stream.status, await stream.error_body(), stream.retry_after)
            if not stream.is_event_stream:
                raise UpstreamError(
                    Fault.BROKEN, f"not a stream: {(await stream.error_body())[:120]!r}"
                )
            choices = call.body.get("n")
            decoder = openai.StreamDecoder(
                route.model, hold.id, choices if isinstance(choices, int) else 1
            )
            yield _Chunks(stream, decoder)

    def _url(self, route: Route) -> str:
        return self._endpoints[route.provider].base_url + "/chat/completions"

    def _body(self, call: ChatCall, route: Route) -> bytes:
        provider = self._endpoints[route.provider].provider
        try:
            return openai.request(
                call,
                route.upstream_model,
                max_tokens_field=provider.max_tokens_field,
                drops=provider.drops,
                stream_usage=provider.stream_usage,
            )
        except TypeError as error:
            # Read as JSON, but not writable again: nesting beyond 254, integers beyond 64 bits.
            raise UpstreamError(
                Fault.BAD_REQUEST, f"The request cannot be passed on: {error}."
            ) from error


class _Chunks:
    """Chunks until the upstream is done; a stream that ends before its answer is a broken one.

    Not a generator: a reader whose client left was cancelled and still reads on, for the usage.
    """

    def __init__(self, stream: Stream, decoder: openai.StreamDecoder) -> None:
        self._stream = stream
        self._decoder = decoder
        self._has_text = False

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        while not self._decoder.said_done:
            data = await self._stream.read(first=not self._has_text)
            if not data:
                break
            chunk = self._decoder.feed(data)
            if chunk is not None:
                self._has_text = self._has_text or chunk.output_bytes > 0 or chunk.finished
                return chunk
        if not self._decoder.complete:
            raise UpstreamError(Fault.BROKEN, "the stream ended before the answer was complete")
        raise StopAsyncIteration
