"""The sixteen failover scenarios of the field, on the shipped patience, forty times faster.

`docs/scorecard.md` shows the same rows; `test_scorecard.py` holds the two together. Every one
is played for a chat and for a Claude model's messages that Anthropic serves natively, with a
second, healthy provider behind the first; `translated` are messages of a model whose
providers speak OpenAI's dialect, played where the translation could matter.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import pytest_asyncio

from adapters.embedded.sandbox_text import pieces
from adapters.settings import Settings
from kyma.catalog.text import TEXT_MODELS
from kyma.usage import Usage
from tests.e2e.asking import (
    CREDIT,
    Audit,
    Customer,
    Reply,
    arm,
    asked,
    audit,
    customer,
    reset,
    send,
    well_again,
)
from tests.e2e.stack import Process, Stack
from tests.servers import Servers, drop_database, fresh_database, fresh_redis

SCALE = 40
"""A second here stands for forty: 20 s become half of one, and so does what the gateway waits."""

PATIENCE = ("first_byte_timeout_s", "chunk_timeout_s", "keepalive_s", "request_timeout_s")
"""The settings that are scaled from their defaults. The breaker's pauses are not settings; they
are at most 15 s, and a provider's `Retry-After` is awaited as it is."""

ANSWER_S = 2.0
"""Patience with a whole answer: eighty seconds at this scale, the default is five minutes."""

QUESTION = (
    "Please tell me everything that there is to know about rivers, lighthouses, trains and maps, "
    "in as many plain words as you can find."
)
TURNS = [{"role": "user", "content": QUESTION}]
PREFILL = [*TURNS, {"role": "assistant", "content": "Rivers"}]
ANSWER_TOKENS = 60
CUT_AFTER = 40

SECOND = "complete, from the second; charged once"
FIRST = "complete, from the first; charged once"
ERROR_EVENT = "error event; free"
TOO_LONG = "400 `context_length_exceeded`; free"
FILTERED = "400 `content_filter`; free"
BUSY = "503 `provider_overloaded`; free"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A row of the page: what becomes of the first request, whatever the dialect."""

    title: str
    whole: str
    streamed: str


SCENARIOS = {
    "test_a_429_with_retry_after": Scenario("429 with `Retry-After`", SECOND, SECOND),
    "test_a_persistent_429": Scenario("persistent 429", SECOND, SECOND),
    "test_one_500": Scenario("one 500", SECOND, SECOND),
    "test_a_persistent_503": Scenario("persistent 503", SECOND, SECOND),
    "test_a_tcp_reset": Scenario("TCP reset", SECOND, SECOND),
    "test_no_response_at_all": Scenario("no response at all", SECOND, SECOND),
    "test_twenty_seconds_to_the_first_token": Scenario("20 s to the first token", FIRST, FIRST),
    "test_a_stream_cut_at_40_of_60_tokens": Scenario(
        "stream cut at 40 of 60 tokens", SECOND, ERROR_EVENT
    ),
    "test_a_stall_of_thirty_seconds_in_a_stream": Scenario(
        "30 s stall in a stream", FIRST, ERROR_EVENT
    ),
    "test_a_malformed_chunk": Scenario("malformed chunk", SECOND, ERROR_EVENT),
    "test_a_stream_without_its_end_mark": Scenario("stream without `[DONE]`", FIRST, FIRST),
    "test_a_context_that_is_too_long": Scenario("context too long", TOO_LONG, TOO_LONG),
    "test_a_content_filter": Scenario("content filter", FILTERED, FILTERED),
    "test_a_fallback_that_rejects_a_prefill": Scenario(
        "fallback that rejects a prefill", BUSY, BUSY
    ),
    "test_a_flap_of_a_minute": Scenario("60 s flap", SECOND, SECOND),
    "test_the_accounting_of_a_request_that_failed_over": Scenario(
        "accounting of a failed-over request", SECOND, SECOND
    ),
}
"""Every test of this module; each is held to its row when it is over."""

PRICES = {row.id: row.price for row in TEXT_MODELS}


@dataclass(frozen=True, slots=True)
class Surface:
    """A way to ask, and who stands behind it.

    `models` take turns, so that what one test taught of a route is over when it is used again;
    `lead` are the events that a provider sends before the first text.
    """

    id: str
    path: str
    models: tuple[str, ...]
    providers: tuple[str, str]
    is_native: bool = False
    lead: int = 1

    @property
    def upstream_paths(self) -> tuple[str, str]:
        """Where the two providers are asked."""
        chat = "/v1/chat/completions"
        return ("/v1/messages" if self.is_native else chat), chat

    def routes(self, model: str) -> tuple[str, str]:
        """What health is kept by."""
        first, second = self.providers
        theirs = re.sub(r"-(\d)-(\d)$", r"-\1.\2", model)
        upstream = f"anthropic/{theirs}" if self.is_native else model
        return f"{first}/{model}", f"{second}/{upstream}"


# None of these has a sibling or a substitute: two providers are all there is.
ALONE = ("deepseek-v4-flash", "gemma-4-31b", "kimi-k2.5", "glm-4.7-flash", "gemini-2.5-flash")
SANDBOXES = ("sandbox", "sandbox-2")

CHAT = Surface("chat", "/v1/chat/completions", ALONE, SANDBOXES)
NATIVE = Surface(
    "messages",
    "/v1/messages",
    ("claude-haiku-4-5", "claude-sonnet-4-6", "claude-opus-4-7"),
    ("anthropic", "openrouter"),
    is_native=True,
    lead=3,
)
TRANSLATED = Surface("translated", "/v1/messages", ALONE, SANDBOXES)
SURFACES = (CHAT, NATIVE, TRANSLATED)


@dataclass(frozen=True, slots=True)
class Got:
    """What a customer has of an answer, whatever the dialect."""

    reply: Reply
    text: str
    endings: list[str]
    errors: list[dict[str, Any]]
    is_closed: bool
    """The end mark of a stream came: `[DONE]`, or `message_stop`."""

    @property
    def fell_back(self) -> bool:
        """What the headers say, or the comment that stands for them once the head has left."""
        told = self.reply.headers.get("x-kyma-fallback")
        return told == "true" or b": X-Kyma-Fallback: true\n" in self.reply.raw


def read(surface: Surface, reply: Reply) -> Got:
    """An answer of any kind."""
    if reply.status != 200:
        return Got(reply, "", [], [reply.json()["error"]], is_closed=False)
    if surface is CHAT:
        return _read_chat(reply)
    return _read_message(reply) if not reply.is_stream else _read_events(reply)


def _read_chat(reply: Reply) -> Got:
    if not reply.is_stream:
        return Got(reply, reply.text(), reply.finish_reasons(), [], is_closed=True)
    errors = [json.loads(data)["error"] for name, data in reply.events() if name == "error"]
    closed = reply.events()[-1] == ("", "[DONE]")
    return Got(reply, reply.text(), reply.finish_reasons(), errors, closed)


def _read_message(reply: Reply) -> Got:
    body = reply.json()
    text = "".join(block["text"] for block in body["content"] if block["type"] == "text")
    return Got(reply, text, [body["stop_reason"]], [], is_closed=True)


def _read_events(reply: Reply) -> Got:
    events = [(name, json.loads(data)) for name, data in reply.events()]
    assert all(name == body["type"] for name, body in events)
    deltas = [body["delta"] for name, body in events if name == "content_block_delta"]
    return Got(
        reply,
        "".join(delta["text"] for delta in deltas),
        [body["delta"]["stop_reason"] for name, body in events if name == "message_delta"],
        [body["error"] for name, body in events if name == "error"],
        is_closed=events[-1][0] == "message_stop",
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Two sandboxes, and two gateways over them: as stand-ins, and as Anthropic and OpenRouter."""

    stack: Stack
    first: Process
    second: Process
    gateways: dict[bool, Process]
    redis: dict[bool, str]
    turns: dict[str, Iterator[str]] = field(
        default_factory=lambda: {s.id: itertools.cycle(s.models) for s in SURFACES}
    )


ANTHROPIC_TYPES = {400: "invalid_request_error", 503: "overloaded_error"}


@dataclass(slots=True)
class Scene:
    """One test's customer, model and way to ask."""

    place: Place
    surface: Surface
    streamed: bool
    model: str
    who: Customer
    seen: list[str] = field(default_factory=list)
    """What became of each request, in the words of the page."""

    async def ask(self, turns: list[dict[str, str]] = TURNS) -> Got:
        """One request."""
        body = {
            "model": self.model,
            "messages": turns,
            "max_tokens": ANSWER_TOKENS,
            "stream": self.streamed,
        }
        headers = self.who.headers
        if self.surface is not CHAT:
            headers = {"x-api-key": self.who.key, "anthropic-version": "2023-06-01"}
        raw = orjson.dumps(body)
        reply = await send(self.who.url, "POST", self.surface.path, raw, headers)
        return read(self.surface, reply)

    async def arm(self, fault: str, **details: Any) -> None:
        """Let the first provider fail."""
        await arm(self.place.first.url, fault=fault, **details)

    async def calls(self) -> tuple[int, int]:
        """How often each provider was asked, which must be in its own dialect."""
        counts = []
        providers = (self.place.first, self.place.second)
        for process, path in zip(providers, self.surface.upstream_paths, strict=True):
            rows = await asked(process.url)
            assert {row["path"] for row in rows} <= {path}
            counts.append(len(rows))
        return counts[0], counts[1]

    async def books(self) -> Audit:
        """The customer's, with nothing under way and nothing held."""
        books = await audit(self.place.stack.database_url, self.who.id)
        books.check_at_rest()
        assert (await self.who.balance())["held"] == "0"
        return books

    def check_complete(self, got: Got, *, fell_back: bool) -> None:
        """A whole answer with its end; who served it is told."""
        assert got.reply.status == 200, got.reply.raw
        assert got.reply.is_stream is self.streamed
        assert len(pieces(got.text)) == ANSWER_TOKENS
        assert got.endings == ["length" if self.surface is CHAT else "max_tokens"]
        assert (got.errors, got.is_closed) == ([], True)
        assert got.fell_back is fell_back
        self.seen.append(SECOND if fell_back else FIRST)

    def check_interrupted(self, got: Got) -> None:
        """A stream that broke after its first text: never a clean end, never a second voice."""
        assert got.reply.status == 200
        (error,) = got.errors
        assert (error["code"], error["charged"]) == ("stream_interrupted", False)
        assert error["retryable"] is True
        assert got.reply.events()[-1][0] == "error"
        assert (got.endings, got.is_closed) == ([], False)
        assert 0 < len(pieces(got.text)) <= CUT_AFTER
        if self.surface is not CHAT:
            assert json.loads(got.reply.events()[-1][1])["type"] == "error"
        self.seen.append(ERROR_EVENT)

    def check_refused(self, got: Got, status: int, code: str) -> None:
        """An error with a status; nothing of who it came from."""
        assert got.reply.status == status, got.reply.raw
        assert not got.reply.is_stream
        (error,) = got.errors
        assert (error["code"], error["charged"]) == (code, False)
        if self.surface is not CHAT:
            assert got.reply.json()["type"] == "error"
            assert error["type"] == ANTHROPIC_TYPES[status]
        self.seen.append(f"{status} `{code}`; free")

    async def check_charged(self, *providers: str) -> list[dict[str, Any]]:
        """One charge a request, for the one who served it, to the nano-dollar; no hold is left."""
        books = await self.books()
        assert [record["provider"] for record in books.records] == list(providers)
        for record in books.records:
            assert record["outcome"] == "ok"
            assert record["attempts"][-1]["outcome"] == "ok"
            assert record["layer"] == int(record["provider"] == self.surface.providers[1])
            assert record["charged"] == PRICES[self.model].bill(_usage(record)) > 0
        assert books.spent == sum(record["charged"] for record in books.records)
        return books.records

    async def check_free(self, outcome: str) -> None:
        """Nothing was charged, and the whole credit is there."""
        books = await self.books()
        assert [record["outcome"] for record in books.records] == [outcome]
        assert (books.spent, books.available) == (0, CREDIT)


def _usage(record: dict[str, Any]) -> Usage:
    return Usage(
        record["input_tokens"],
        record["cache_read_tokens"],
        record["cache_write_tokens"],
        record["output_tokens"],
        record["reasoning_tokens"],
    )


def patience() -> dict[str, str]:
    """The shipped timeouts at the scale of this module."""
    defaults = {name: Settings.model_fields[name].default for name in PATIENCE}
    scaled = {name: str(default / SCALE) for name, default in defaults.items()}
    return {**scaled, "answer_timeout_s": str(ANSWER_S)}


@pytest_asyncio.fixture(scope="module")
async def place(servers: Servers) -> AsyncIterator[Place]:
    url = await fresh_database(servers)
    redis = {native: await fresh_redis(servers) for native in (False, True)}
    stack = Stack(url, redis[False])
    first, second = await stack.sandbox("sandbox"), await stack.sandbox("sandbox-2")
    urls = {"anthropic": f"{first.url}/v1", "openrouter": f"{second.url}/v1"}
    stand_ins = await stack.gateway(
        "stand-ins", sandbox_url=f"{first.url}/v1", sandbox_url_2=f"{second.url}/v1", **patience()
    )
    native = await stack.gateway(
        "native",
        redis_url=redis[True],
        sandbox="off",
        provider_urls=json.dumps(urls),
        provider_keys=json.dumps(dict.fromkeys(urls, "sk-any")),
        **patience(),
    )
    yield Place(stack, first, second, {False: stand_ins, True: native}, redis)
    stack.close()
    await drop_database(servers, url)


def _cases(*surfaces: Surface) -> pytest.MarkDecorator:
    cases = [
        pytest.param((surface, streamed), id=f"{surface.id}-{'streamed' if streamed else 'whole'}")
        for surface in surfaces
        for streamed in (False, True)
    ]
    return pytest.mark.parametrize("scene", cases, indirect=True)


both = _cases(CHAT, NATIVE)
everywhere = _cases(*SURFACES)


@pytest_asyncio.fixture
async def scene(place: Place, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """Both providers well and known to be, a model of its own, a new customer."""
    surface, streamed = request.param
    for sandbox in (place.first, place.second):
        await reset(sandbox.url)
    model = next(place.turns[surface.id])
    await well_again(place.redis[surface.is_native], *surface.routes(model))
    who = await customer(place.gateways[surface.is_native].url)
    played = Scene(place, surface, streamed, model, who)
    yield played
    row = SCENARIOS[request.function.__name__]
    assert played.seen[:1] == [row.streamed if streamed else row.whole]


@both
async def test_a_429_with_retry_after(scene: Scene) -> None:
    first, second = scene.surface.providers
    await scene.arm("rate_limit", retry_after=1, times=1)
    scene.check_complete(await scene.ask(), fell_back=True)
    limited_at = time.monotonic()
    scene.check_complete(await scene.ask(), fell_back=True)
    assert time.monotonic() - limited_at < 0.9
    assert await scene.calls() == (1, 2)
    await asyncio.sleep(max(0.0, limited_at + 1.1 - time.monotonic()))
    scene.check_complete(await scene.ask(), fell_back=False)
    assert await scene.calls() == (2, 2)
    await scene.check_charged(second, second, first)


@both
async def test_a_persistent_429(scene: Scene) -> None:
    second = scene.surface.providers[1]
    await scene.arm("rate_limit", retry_after=1)
    for _ in range(3):
        scene.check_complete(await scene.ask(), fell_back=True)
    assert await scene.calls() == (1, 3)
    await scene.check_charged(second, second, second)


@both
async def test_one_500(scene: Scene) -> None:
    first, second = scene.surface.providers
    await scene.arm("error_500", times=1)
    scene.check_complete(await scene.ask(), fell_back=True)
    scene.check_complete(await scene.ask(), fell_back=False)
    assert await scene.calls() == (2, 1)
    await scene.check_charged(second, first)


@both
async def test_a_persistent_503(scene: Scene) -> None:
    second = scene.surface.providers[1]
    await scene.arm("error_503")
    for _ in range(5):
        scene.check_complete(await scene.ask(), fell_back=True)
    assert await scene.calls() == (3, 5)  # the breaker opened
    await scene.check_charged(*[second] * 5)


@both
async def test_a_tcp_reset(scene: Scene) -> None:
    await scene.arm("reset")
    scene.check_complete(await scene.ask(), fell_back=True)
    assert await scene.calls() == (1, 1)
    await scene.check_charged(scene.surface.providers[1])


@both
async def test_no_response_at_all(scene: Scene) -> None:
    await scene.arm("timeout")
    scene.check_complete(await scene.ask(), fell_back=True)
    assert await scene.calls() == (1, 1)
    (record,) = await scene.check_charged(scene.surface.providers[1])
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["timeout", "ok"]


@everywhere
async def test_twenty_seconds_to_the_first_token(scene: Scene) -> None:
    """The first provider is waited for, and the connection is kept alive meanwhile."""
    await scene.arm("slow_start", seconds=20 / SCALE)
    began = time.monotonic()
    got = await scene.ask()
    assert time.monotonic() - began >= 20 / SCALE
    scene.check_complete(got, fell_back=False)
    assert (b": thinking\n\n" in got.reply.raw) is scene.streamed
    assert await scene.calls() == (1, 0)
    await scene.check_charged(scene.surface.providers[0])


@everywhere
async def test_a_stream_cut_at_40_of_60_tokens(scene: Scene) -> None:
    """A whole answer breaks off halfway instead: the second provider gives another."""
    await scene.arm("cut_stream", after=scene.surface.lead + CUT_AFTER)
    got = await scene.ask()
    if not scene.streamed:
        scene.check_complete(got, fell_back=True)
        assert await scene.calls() == (1, 1)
        await scene.check_charged(scene.surface.providers[1])
        return
    scene.check_interrupted(got)
    assert len(pieces(got.text)) == CUT_AFTER
    assert await scene.calls() == (1, 0)
    await scene.check_free("stream_interrupted")


@everywhere
async def test_a_stall_of_thirty_seconds_in_a_stream(scene: Scene) -> None:
    """A little more than thirty, which is what is waited; a whole answer is waited for."""
    after = scene.surface.lead + CUT_AFTER
    await scene.arm("stalled_stream", after=after, seconds=50 / SCALE)
    got = await scene.ask()
    assert await scene.calls() == (1, 0)
    if scene.streamed:
        scene.check_interrupted(got)
        await scene.check_free("stream_interrupted")
    else:
        scene.check_complete(got, fell_back=False)
        await scene.check_charged(scene.surface.providers[0])


@everywhere
async def test_a_malformed_chunk(scene: Scene) -> None:
    await scene.arm("malformed_chunk", after=scene.surface.lead + CUT_AFTER)
    got = await scene.ask()
    if scene.streamed:
        scene.check_interrupted(got)
        assert await scene.calls() == (1, 0)
        await scene.check_free("stream_interrupted")
    else:
        scene.check_complete(got, fell_back=True)
        assert await scene.calls() == (1, 1)
        await scene.check_charged(scene.surface.providers[1])


@everywhere
async def test_a_stream_without_its_end_mark(scene: Scene) -> None:
    """It said why it ended, so nothing is missing: the mark is ours. Whole: no such thing."""
    await scene.arm("missing_done")
    scene.check_complete(await scene.ask(), fell_back=False)
    assert await scene.calls() == (1, 0)
    (record,) = await scene.check_charged(scene.surface.providers[0])
    # OpenAI's usage comes after the reason to end, Anthropic's beside it.
    is_told = scene.surface.is_native or not scene.streamed
    assert record["evidence"] == ("exact" if is_told else "at_least")


@everywhere
async def test_a_context_that_is_too_long(scene: Scene) -> None:
    await scene.arm("context_too_long")
    scene.check_refused(await scene.ask(), 400, "context_length_exceeded")
    assert await scene.calls() == (1, 0)
    await scene.check_free("context_length_exceeded")


@everywhere
async def test_a_content_filter(scene: Scene) -> None:
    await scene.arm("content_filter")
    scene.check_refused(await scene.ask(), 400, "content_filter")
    assert await scene.calls() == (1, 0)
    await scene.check_free("content_filter")


@everywhere
async def test_a_fallback_that_rejects_a_prefill(scene: Scene) -> None:
    """The customer hears of the first fault, not of a mistake that was none."""
    await scene.arm("error_503")
    await arm(scene.place.second.url, fault="reject_prefill")
    scene.check_refused(await scene.ask(PREFILL), 503, "provider_overloaded")
    first, second = await scene.calls()
    assert first >= 1 <= second
    assert first + second <= 6
    await scene.check_free("provider_overloaded")


@both
async def test_a_flap_of_a_minute(scene: Scene) -> None:
    """Others serve meanwhile; it is the first choice again within 30 s, which are not scaled."""
    await scene.arm("flap", seconds=60 / SCALE)
    began = time.monotonic()
    while (got := await scene.ask()).fell_back:
        scene.check_complete(got, fell_back=True)
        assert time.monotonic() - began < 60 / SCALE + 30
        await asyncio.sleep(0.15)
    scene.check_complete(got, fell_back=False)
    assert time.monotonic() - began >= 60 / SCALE
    books = await scene.books()
    assert all(record["charged"] > 0 for record in books.records)


@everywhere
async def test_the_accounting_of_a_request_that_failed_over(scene: Scene) -> None:
    """One hold, one charge, at the price of the model asked for; the failure costs nothing."""
    first, second = scene.surface.providers
    await scene.arm("error_500", times=1)
    scene.check_complete(await scene.ask(), fell_back=True)
    (record,) = await scene.check_charged(second)
    told = [(attempt["provider"], attempt["outcome"]) for attempt in record["attempts"]]
    assert told == [(first, "broken"), (second, "ok")]
    assert record["evidence"] == "exact"
    assert record["output_tokens"] == ANSWER_TOKENS
    books = await scene.books()
    assert record["charged"] <= books.largest_hold
    assert books.available == CREDIT - record["charged"]
    assert record["provider_cost"] <= record["charged"]
