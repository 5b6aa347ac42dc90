"""The `ChatUpstream` port over every provider of the table.

A call in its provider's own dialect passes through; the other one is translated on the way
there and back, so a Claude model is native to Anthropic's clients and any model serves both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from adapters.upstreams.providers import Endpoint
from adapters.upstreams.transport import Stream, Transport
from adapters.upstreams.wire import anthropic, embeddings, openai, translation
from adapters.upstreams.wire.marks import reads_marks
from kyma.calls import ChatAnswer, ChatCall, Chunk, Dialect, Fault, UpstreamError
from kyma.ledger import Hold
from kyma.ports.upstreams import Deadline, Take
from kyma.routing import Route

PATHS = {
    Dialect.CHAT: "/chat/completions",
    Dialect.MESSAGES: "/messages",
    Dialect.COMPLETIONS: "/completions",
    Dialect.EMBEDDINGS: "/embeddings",
}
CHATS = frozenset({Dialect.CHAT, Dialect.MESSAGES})


class Decoder(Protocol):
    """Bytes of a stream in, chunks in the provider's own dialect out."""

    said_done: bool

    @property
    def complete(self) -> bool:
        """Whether the answer has all its ends."""
        ...

    def known(self, data: bytes) -> Chunk | None:
        """What these bytes say, if nothing need be remembered of them."""
        ...

    def feed(self, data: bytes) -> Chunk | None:
        """What these bytes complete."""
        ...


class Translator(Protocol):
    """Chunks of one dialect in, of the other out."""

    def take(self, chunk: Chunk) -> Chunk:
        """The same in the caller's dialect."""
        ...


class ProviderChat:
    """Text over HTTP: encode, send, decode; decides nothing."""

    def __init__(self, transport: Transport, endpoints: Mapping[str, Endpoint]) -> None:
        self._transport = transport
        self._endpoints = endpoints
        self._headers = {name: _headers(endpoint) for name, endpoint in endpoints.items()}

    def serves(self, route: Route, dialect: Dialect) -> bool:
        """Every provider serves both chat dialects; the others are on its row."""
        return dialect in CHATS or dialect in self._endpoints[route.provider].provider.also

    async def answer(
        self, call: ChatCall, route: Route, hold: Hold, deadline: Deadline
    ) -> ChatAnswer:
        """One whole answer."""
        left_s = deadline.left(asyncio.get_running_loop().time())
        wire = self._wire(call, route)
        status, raw, retry_after = await self._transport.post(
            self._url(route, wire),
            self._named(call, route, wire),
            await self._written(call, route, wire),
            left_s,
        )
        if status != 200:
            raise _failure(wire, status, raw, retry_after)
        if wire is Dialect.MESSAGES:
            answer = anthropic.answer(raw, route.model, hold.id)
            return answer if call.dialect is wire else translation.answer_as_chat(answer, now_s())
        if wire is Dialect.EMBEDDINGS:
            count = embeddings.asked_for(call.body.get("input"))
            return embeddings.answer(raw, route.model, count)
        asked = self._asked(route)
        answer = openai.answer(raw, route.model, hold.id, wire, asked=asked)
        return answer if call.dialect is wire else translation.answer_as_messages(answer)

    @asynccontextmanager
    async def stream(
        self, call: ChatCall, route: Route, hold: Hold, deadline: Deadline
    ) -> AsyncIterator[_Chunks]:
        """A stream of chunks."""
        left_s = deadline.left(asyncio.get_running_loop().time())
        wire = self._wire(call, route)
        async with self._transport.stream(
            self._url(route, wire),
            self._named(call, route, wire),
            await self._written(call, route, wire),
            left_s,
        ) as stream:
            if stream.status != 200:
                raise _failure(wire, stream.status, await stream.error_body(), stream.retry_after)
            if not stream.is_event_stream:
                raise UpstreamError(
                    Fault.BROKEN, f"not a stream: {(await stream.error_body())[:120]!r}"
                )
            yield _Chunks(stream, *_decoder(wire, call, route, hold, self._asked(route)))

    def _wire(self, call: ChatCall, route: Route) -> Dialect:
        """The dialect in which this route's provider is asked."""
        if call.dialect in CHATS:
            return self._endpoints[route.provider].provider.wire
        return call.dialect

    def _asked(self, route: Route) -> str:
        """The model to hold an answer to, where a provider may answer with another."""
        resells = self._endpoints[route.provider].provider.resells
        return route.upstream_model if resells else ""

    def _url(self, route: Route, wire: Dialect) -> str:
        return self._endpoints[route.provider].base_url + PATHS[wire]

    def _named(self, call: ChatCall, route: Route, wire: Dialect) -> dict[str, str]:
        """The headers of a call: who we are, and the betas that its caller named."""
        headers = self._headers[route.provider]
        return headers if wire is not Dialect.MESSAGES else {**headers, **anthropic.betas(call)}

    async def _written(self, call: ChatCall, route: Route, wire: Dialect) -> bytes:
        """The body in the provider's dialect; a large one is written off the event loop."""
        if call.large:
            return await asyncio.to_thread(self._body, call, route, wire)
        return self._body(call, route, wire)

    def _body(self, call: ChatCall, route: Route, wire: Dialect) -> bytes:
        provider = self._endpoints[route.provider].provider
        try:
            if wire is Dialect.MESSAGES:
                if call.dialect is not wire:
                    call = translation.chat_to_messages(call)
                return anthropic.request(call, route.upstream_model)
            marks = provider.marks and reads_marks(route.upstream_model)
            if call.dialect is Dialect.MESSAGES:
                call = translation.messages_to_chat(call, thoughts=provider.thoughts, marks=marks)
            return openai.request(
                call,
                route.upstream_model,
                max_tokens_field=provider.max_tokens_field,
                drops=provider.drops,
                thoughts=provider.thoughts,
                stream_usage=provider.stream_usage,
                marks=marks,
            )
        except (TypeError, RecursionError) as error:
            # Read as JSON, but nested too deeply to be written again.
            raise UpstreamError(
                Fault.BAD_REQUEST, f"The request cannot be passed on: {error}."
            ) from error


def now_s() -> int:
    """The date of a translated answer, whose provider gave none: Unix seconds."""
    return int(time.time())


def _headers(endpoint: Endpoint) -> dict[str, str]:
    if endpoint.provider.wire is Dialect.MESSAGES:
        return anthropic.headers(endpoint.key)
    return {
        "Authorization": f"Bearer {endpoint.key}",
        "Content-Type": "application/json",
        "User-Agent": "kyma",
    }


def _failure(wire: Dialect, status: int, raw: bytes, retry_after: str | None) -> UpstreamError:
    failure = anthropic.failure if wire is Dialect.MESSAGES else openai.failure
    return failure(status, raw, retry_after)


def _decoder(
    wire: Dialect, call: ChatCall, route: Route, hold: Hold, asked: str
) -> tuple[Decoder, Translator | None]:
    """How this stream is read, and how it is put into the caller's dialect if that is another."""
    if wire is Dialect.MESSAGES:
        native = call.dialect is wire
        return (
            anthropic.StreamDecoder(route.model, hold.id),
            None if native else translation.StreamAsChat(route.model, hold.id, now_s()),
        )
    choices = call.body.get("n")
    decoder = openai.StreamDecoder(
        route.model, hold.id, choices if isinstance(choices, int) else 1, wire, asked=asked
    )
    if call.dialect is Dialect.MESSAGES:
        likely = call.size.likely_input
        return decoder, translation.StreamAsMessages(route.model, hold.id, likely)
    return decoder, None


class _Chunks:
    """The `Chunks` port; a stream that ends before its answer is a broken one.

    Offered are chunks that need neither be remembered nor translated: nearly all of an answer.
    """

    def __init__(self, stream: Stream, decoder: Decoder, translator: Translator | None) -> None:
        self._stream = stream
        self._decoder = decoder
        self._translator = translator
        self._has_text = False

    async def next(self, take: Take | None = None) -> Chunk | None:
        """As the port says."""
        offer = None
        if take is not None and self._has_text and self._translator is None:
            offer = partial(self._offered, take)
        while not self._decoder.said_done:
            data = await self._stream.read(first=not self._has_text, offer=offer)
            if not data:
                break
            chunk = self._decoder.feed(data)
            if chunk is not None:
                self._has_text = self._has_text or chunk.output_bytes > 0 or chunk.finished
                return chunk if self._translator is None else self._translator.take(chunk)
        if not self._decoder.complete:
            raise UpstreamError(Fault.BROKEN, "the stream ended before the answer was complete")
        return None

    def _offered(self, take: Take, data: bytes) -> bool:
        chunk = self._decoder.known(data)
        return chunk is not None and take(chunk)
