"""What every answer has at the edge: browsers may read it, it is short, it tells its time."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator

import orjson
import pytest
from quart import Quart, Response

from adapters.http import compress, cors, timing
from adapters.http.compress import HOT_BYTES, QUART_BYTES, gzipped, hot_answer, takes_gzip
from adapters.system import SystemClock
from tests.http.wired import Answer, ask, gateway

LONG = orjson.dumps({"text": "a word and another " * 200})
GZIP = {"accept-encoding": "gzip, deflate, br"}
BROWSER = {"origin": "https://app.example"}


def edge() -> Quart:
    """An application with the three of them and a few answers."""
    app = Quart("edge", static_folder=None)
    timing.install(app, SystemClock())
    cors.install(app)
    compress.install(app)

    @app.get("/json/<int:size>")
    async def body(size: int) -> Response:
        return Response(b'"' + b"x" * (size - 2) + b'"', content_type="application/json")

    @app.get("/tagged")
    async def tagged() -> Response:
        response = Response(LONG, content_type="application/json")
        response.set_etag("abc")
        return response

    @app.get("/png")
    async def png() -> Response:
        return Response(b"\x89PNG" * 1000, content_type="image/png")

    @app.get("/partial")
    async def partial() -> Response:
        return Response(LONG, 206, content_type="application/json")

    @app.get("/stream")
    async def stream() -> Response:
        async def events() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b"data: one of many events\n\n"

        return Response(events(), content_type="text/event-stream")

    return app


async def get(path: str, **headers: str) -> Answer:
    return await ask(edge(), "GET", path, {k.replace("_", "-"): v for k, v in headers.items()})


# --- gzip -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "taken"),
    [
        ("gzip", True),
        ("gzip, deflate, br", True),
        ("GZip;q=0.5", True),
        ("br;q=1.0, gzip;q=0.001, *;q=0", True),
        ("*", True),
        ("x-gzip", True),
        ("identity, *;q=0.1", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("gzip; q = 0", False),
        ("br, *;q=0", False),
        ("gzipped", False),
        (";;,,=", False),
    ],
)
def test_a_client_says_whether_it_reads_gzip(offer: str, taken: bool) -> None:
    assert takes_gzip(offer) is taken


async def test_a_long_answer_is_shortened_for_who_can_read_it() -> None:
    answer = await get("/tagged", **GZIP)
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert int(answer.headers["content-length"]) == len(answer.body) < len(LONG) / 4
    assert gzip.decompress(answer.body) == LONG


async def test_others_get_it_as_it_is_and_caches_are_told_of_both() -> None:
    answer = await get("/tagged")
    assert answer.body == LONG
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"


async def test_a_shortened_answer_has_a_weak_tag() -> None:
    assert (await get("/tagged")).headers["etag"] == '"abc"'
    assert (await get("/tagged", **GZIP)).headers["etag"] == 'W/"abc"'


async def test_the_threshold_is_where_it_says() -> None:
    short = await get(f"/json/{QUART_BYTES - 1}", **GZIP)
    assert "content-encoding" not in short.headers
    assert "vary" not in short.headers
    assert len(short.body) == QUART_BYTES - 1
    long = await get(f"/json/{QUART_BYTES}", **GZIP)
    assert long.headers["content-encoding"] == "gzip"
    assert len(gzip.decompress(long.body)) == QUART_BYTES


@pytest.mark.parametrize("path", ["/stream", "/png", "/partial"])
async def test_what_is_streamed_or_short_already_or_a_part_stays_as_it_is(path: str) -> None:
    answer = await get(path, **GZIP)
    assert "content-encoding" not in answer.headers
    assert answer.body == (await get(path)).body


def test_the_same_bytes_are_shortened_to_the_same_bytes() -> None:
    assert gzipped(LONG) == gzipped(LONG)
    assert gzip.decompress(gzipped(b"")) == b""


def test_a_hot_answer_is_shortened_only_when_it_is_long() -> None:
    asked = {b"accept-encoding": b"gzip"}
    usual = b"x" * (HOT_BYTES - 1)
    assert hot_answer(asked, usual) == (usual, [])
    long = b"x" * HOT_BYTES
    assert hot_answer({}, long) == (long, [(b"vary", b"Accept-Encoding")])
    body, headers = hot_answer(asked, long)
    assert gzip.decompress(body) == long
    assert headers == [(b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]


# --- browsers ---------------------------------------------------------------------------


async def test_quarts_answers_and_refusals_can_be_read_by_any_browser() -> None:
    app = gateway()
    for path, status in (("/healthz", 200), ("/v1/auth/me", 401), ("/v1/nowhere", 404)):
        answer = await ask(app, "GET", path, BROWSER)
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == "*"
        exposed = {
            name.strip() for name in answer.headers["access-control-expose-headers"].split(",")
        }
        assert {
            "*",
            "X-Kyma-Request-Id",
            "X-RateLimit-Remaining-Requests",
            "Retry-After",
        } <= exposed
        assert {"Server-Timing", "X-Kyma-Model", "request-id"} <= exposed
        # Cookies would make every site a caller in its visitor's name.
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/models", "/v1/auth/register", "/healthz", "/llms.txt"]
)
async def test_a_preflight_is_answered_for_every_path(path: str) -> None:
    asked = {
        **BROWSER,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    answer = await ask(gateway(), "OPTIONS", path, asked)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
    assert int(answer.headers["access-control-max-age"]) >= 600
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("named", ["", "x-" + "a" * 5000])
async def test_a_preflight_that_names_no_or_absurd_headers_gets_the_usual_list(named: str) -> None:
    asked = {
        **BROWSER,
        "access-control-request-method": "GET",
        "access-control-request-headers": named,
    }
    answer = await ask(gateway(), "OPTIONS", "/v1/models", asked)
    allowed = {name.strip() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert {"Authorization", "x-api-key", "Content-Type", "anthropic-version"} <= allowed
    assert {"anthropic-beta", "Idempotency-Key", "X-Kyma-Max-Fallback-Layer"} <= allowed


async def test_an_options_request_of_no_browser_is_told_the_methods() -> None:
    answer = await ask(gateway(), "OPTIONS", "/v1/chat/completions")
    assert answer.status == 200
    assert {"POST", "OPTIONS"} == {one.strip() for one in answer.headers["allow"].split(",")}


# --- time -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/healthz", "/v1/auth/me", "/v1/nowhere"])
async def test_every_answer_of_quart_says_how_long_it_took_and_which_it_is(path: str) -> None:
    answer = await ask(gateway(), "GET", path)
    assert re.fullmatch(r"app;dur=\d+\.\d\d", answer.headers["server-timing"])
    assert answer.headers["x-kyma-request-id"]


def test_parts_are_told_in_milliseconds() -> None:
    assert timing.server_timing(hold=0.0012, total=1.5) == "hold;dur=1.20, total;dur=1500.00"
