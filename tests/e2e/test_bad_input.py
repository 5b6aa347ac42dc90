"""What no request may bring about: a 500, a charge, a hold that stays, a secret in a log."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.asking import CREDIT, Audit, Customer, Reply, audit, customer, send
from tests.e2e.stack import Process, Stack
from tests.servers import Servers, drop_database, fresh_database, fresh_redis

CHAT = "/v1/chat/completions"
REGISTER, LOGIN = "/v1/auth/register", "/v1/auth/login"
MODEL = "qwen-3-32b"
SECRET = "the-otter-sleeps-at-noon"
"""Part of every prompt and password here: no log may ever hold it."""

BODY_LIMIT = 1_000_000
HELLO = [{"role": "user", "content": SECRET}]
USER = f'{{"role": "user", "content": "{SECRET}"}}'
INVALID = "invalid_request_error"
AUTH = "authentication_error"


class Place:
    """One gateway, and who asks it; a new customer before the limit of thirty a minute."""

    def __init__(self, stack: Stack, gateway: Process) -> None:
        self.stack = stack
        self.gateway = gateway
        self.customers: list[Customer] = []
        self._asked = 0

    async def who(self) -> Customer:
        """Somebody who may still ask."""
        if self._asked % 20 == 0:
            self.customers.append(await customer(self.gateway.url))
        self._asked += 1
        return self.customers[-1]

    async def audit(self, who: Customer) -> Audit:
        """Of a customer."""
        return await audit(self.stack.database_url, who.id)


@pytest_asyncio.fixture(scope="module")
async def place(servers: Servers) -> AsyncIterator[Place]:
    url = await fresh_database(servers)
    stack = Stack(url, await fresh_redis(servers))
    sandbox = await stack.sandbox()
    gateway = await stack.gateway(
        sandbox_url=f"{sandbox.url}/v1",
        body_timeout_s="1",
        head_timeout_s="1",
        body_limit_bytes=str(BODY_LIMIT),
        log_level="debug",
    )
    yield Place(stack, gateway)
    stack.close()
    await drop_database(servers, url)


@pytest.fixture(autouse=True)
def _no_secret_in_the_log(place: Place) -> Iterator[None]:
    yield
    said = place.gateway.said()
    assert SECRET not in said
    assert "request_failed" not in said
    assert "Traceback" not in said
    for who in place.customers:
        assert who.key not in said


async def untouched(place: Place, who: Customer) -> None:
    """Nothing was charged and nothing is held."""
    books = await place.audit(who)
    books.check_at_rest()
    assert books.available == CREDIT


def refused(reply: Reply, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The error of a refusal that must be this one."""
    error = reply.error()
    assert (reply.status, error["code"], error["param"]) == (status, code, param)
    assert "x-kyma-request-id" in reply.headers
    assert error["request_id"] == reply.headers["x-kyma-request-id"]
    return error


def chat(**changes: Any) -> bytes:
    """A good body but for these changes; None takes a field away."""
    body = {"model": MODEL, "messages": HELLO, **changes}
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()


def messages(*said: Any) -> bytes:
    """A body with these messages."""
    return chat(messages=list(said))


def _part(**fields: Any) -> bytes:
    return chat(messages=[{"role": "user", "content": [fields]}])


def _raw(messages_json: str, rest: str = "") -> bytes:
    return f'{{"model": "{MODEL}", "messages": {messages_json}{rest}}}'.encode()


BODIES = {
    "empty body": (b"", "invalid_json", None),
    "broken JSON": (b'{"model": "qwen-3-32b", "messages": [', "invalid_json", None),
    "a word": (b"hello", "invalid_json", None),
    "invalid UTF-8": (_raw("[" + USER + "]").replace(b"otter", b"\xff\xfe"), "invalid_json", None),
    "UTF-16": (chat().decode().encode("utf-16"), "invalid_json", None),
    "a lone surrogate": (_raw('[{"role": "user", "content": "\\ud800"}]'), "invalid_json", None),
    "NaN": (_raw(f"[{USER}]", ', "temperature": NaN'), "invalid_json", None),
    "Infinity": (_raw(f"[{USER}]", ', "top_p": Infinity'), "invalid_json", None),
    "100,000 nested arrays": (_raw("[" * 100_000 + "]" * 100_000), "invalid_json", None),
    "100,000 nested objects": (_raw('{"a":' * 100_000 + "1" + "}" * 100_000), "invalid_json", None),
    "100,000 open arrays": (b"[" * 100_000, "invalid_json", None),
    "an array": (b"[]", "invalid_type", None),
    "a string": (b'"hello"', "invalid_type", None),
    "null": (b"null", "invalid_type", None),
    "no model": (chat(model=None), "missing_required_parameter", "model"),
    "a model of null": (_raw("[]").replace(b'"qwen-3-32b"', b"null"),
                        "missing_required_parameter", "model"),
    "a model of 5": (chat(model=5), "invalid_type", "model"),
    "an empty model": (chat(model=""), "invalid_type", "model"),
    "a model in an array": (chat(model=[MODEL]), "invalid_type", "model"),
    "no messages": (chat(messages=None), "missing_required_parameter", "messages"),
    "empty messages": (chat(messages=[]), "invalid_value", "messages"),
    "messages as text": (chat(messages="hello"), "invalid_type", "messages"),
    "messages as object": (chat(messages={"role": "user"}), "invalid_type", "messages"),
    "a message of null": (messages(None), "invalid_type", "messages[0]"),
    "a message of text": (messages("hello"), "invalid_type", "messages[0]"),
    "a message without role": (messages({"content": SECRET}),
                               "missing_required_parameter", "messages[0].role"),
    "a role of 7": (messages({"role": 7, "content": SECRET}), "invalid_value", "messages[0].role"),
    "a role in an array": (messages({"role": ["user"], "content": SECRET}),
                           "invalid_value", "messages[0].role"),
    "an unknown role": (messages({"role": "wizard", "content": SECRET}),
                        "invalid_value", "messages[0].role"),
    "the second message bad": (messages(*HELLO, {"role": "user"}),
                               "missing_required_parameter", "messages[1].content"),
    "content of a number": (messages({"role": "user", "content": 5}),
                            "invalid_type", "messages[0].content"),
    "content with text parts bare": (messages({"role": "user", "content": ["x"]}),
                                     "invalid_type", "messages[0].content[0]"),
    "max_tokens of 0": (chat(max_tokens=0), "invalid_value", "max_tokens"),
    "max_tokens below 0": (chat(max_tokens=-1), "invalid_value", "max_tokens"),
    "max_tokens of text": (chat(max_tokens="5"), "invalid_type", "max_tokens"),
    "max_tokens of a fraction": (chat(max_tokens=1.5), "invalid_type", "max_tokens"),
    "max_tokens of true": (chat(max_tokens=True), "invalid_type", "max_tokens"),
    "max_tokens of 10^30": (chat(max_tokens=10**30), "invalid_value", "max_tokens"),
    "max_tokens of 4,000 digits": (_raw(f"[{USER}]", ', "max_tokens": ' + "9" * 4000), None,
                                   "max_tokens"),
    "max_tokens of 1e400": (_raw(f"[{USER}]", ', "max_tokens": 1e400'), None, "max_tokens"),
    "max_tokens of 2 billion": (chat(max_tokens=2_000_000_000, model="gemini-2.5-flash"),
                                "max_single_request_exceeded", "max_tokens"),
    "max_completion_tokens of text": (chat(max_completion_tokens="5"),
                                      "invalid_type", "max_completion_tokens"),
    "both caps, the second absurd": (chat(max_tokens=5, max_completion_tokens=-5),
                                     "invalid_value", "max_completion_tokens"),
    "n of 0": (chat(n=0), "invalid_value", "n"),
    "n of a million": (chat(n=1_000_000), "invalid_value", "n"),
    "n of text": (chat(n="two"), "invalid_type", "n"),
    "temperature of text": (chat(temperature="hot"), "invalid_type", "temperature"),
    "temperature of 3": (chat(temperature=3), "invalid_value", "temperature"),
    "temperature below 0": (chat(temperature=-0.1), "invalid_value", "temperature"),
    "top_p of 2": (chat(top_p=2), "invalid_value", "top_p"),
    "stream of text": (chat(stream="true"), "invalid_type", "stream"),
    "stream of 1": (chat(stream=1), "invalid_type", "stream"),
    "stream_options of text": (chat(stream=True, stream_options="usage"),
                               "invalid_type", "stream_options"),
    "tools of an object": (chat(tools={"a": 1}), "invalid_type", "tools"),
    "response_format of text": (chat(response_format="json"), "invalid_type", "response_format"),
    "2,000 levels of nesting": (_raw(f"[{USER}]", ', "x": ' + "[" * 2000 + "]" * 2000),
                                "invalid_json", None),
    "a part with a list as its type": (_part(type=["a"]),
                                       "invalid_type", "messages[0].content[0].type"),
    "a part without a type": (_part(image_url={"url": "https://x/a.png"}),
                              "missing_required_parameter", "messages[0].content[0].type"),
    "a search that a provider runs": (chat(tools=[{"type": "web_search"}]),
                                      "invalid_value", "tools[0].type"),
    "90,000 tokens in 30 choices": (chat(n=30, max_tokens=30_000, model="gemini-2.5-flash"),
                                    "max_single_request_exceeded", "max_tokens"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "code", "param"), BODIES.values(), ids=BODIES)
async def test_a_bad_body_is_a_400_that_names_the_field(
    place: Place, body: bytes, code: str | None, param: str | None
) -> None:
    who = await place.who()
    reply = await send(who.url, "POST", CHAT, body, who.headers)
    error = reply.error()
    assert (reply.status, error["type"]) == (400, INVALID)
    if code is not None:
        refused(reply, 400, code, param)
    else:  # a number beyond the decoder's range may be refused by it or by us
        assert (error["code"], error["param"]) in {
            ("invalid_json", None), ("invalid_value", param), ("invalid_type", param)
        }  # fmt: skip
    await untouched(place, who)


@pytest.mark.parametrize(
    "field",
    ['"x": ' + "[" * 300 + "]" * 300, f'"seed": {2**64}', f'"x": -{10**40}'],
    ids=["300 levels of nesting", "an integer of 65 bits", "an integer of 41 digits"],
)
async def test_what_is_unusual_and_yet_json_is_passed_on(place: Place, field: str) -> None:
    who = await customer(place.gateway.url)
    reply = await send(who.url, "POST", CHAT, _raw(f"[{USER}]", f", {field}"), who.headers)
    assert reply.status == 200
    assert (await place.audit(who)).spent > 0


@pytest.mark.parametrize(
    "model", ["no-such-model", "x" * 100_000, "../../etc/passwd", "qwen\x00", "'; DROP TABLE x;--"]
)
async def test_an_unknown_model_is_a_404(place: Place, model: str) -> None:
    who = await place.who()
    reply = await who.post(CHAT, {"model": model, "messages": HELLO})
    error = refused(reply, 404, "model_not_found", "model")
    assert error["type"] == INVALID
    await untouched(place, who)


async def test_an_unknown_name_of_100_kb_is_not_repeated_at_length(
    place: Place,
) -> None:
    who = await place.who()
    reply = await who.post(CHAT, {"model": "x" * 100_000, "messages": HELLO})
    assert len(reply.raw) < 2_000


GOOD = {
    "10,000 messages": messages(*[{"role": "user", "content": "x"}] * 10_000),
    "NUL in a prompt": messages({"role": "user", "content": "a\x00b"}),
    "every plane of Unicode": messages({"role": "user", "content": "é漢🦦\u202e\ufffd"}),
    "100,000 characters": messages({"role": "user", "content": "x" * 100_000}),
    "an unknown field of 90 levels": _raw(f"[{USER}]", ', "extra": ' + "[" * 90 + "]" * 90),
    "an unknown field with a huge number": _raw(f"[{USER}]", ', "seed": ' + "9" * 19),
    "nulls for every option": _raw(
        f"[{USER}]", ', "max_tokens": null, "temperature": null, "stream": null, "tools": null'
    ),
    "a repeated field": _raw(f"[{USER}]", f', "model": "{MODEL}"'),
    "white space around": b" \r\n\t" + chat() + b"\n\n",
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD)
async def test_an_odd_body_that_means_something_is_answered_and_charged_once(
    place: Place, body: bytes
) -> None:
    who = await customer(place.gateway.url)
    reply = await send(who.url, "POST", CHAT, body, who.headers)
    assert reply.status == 200, reply.raw[:300]
    books = await place.audit(who)
    books.check_at_rest()
    assert 0 < books.spent <= books.largest_hold


async def test_more_messages_than_the_window_holds_are_never_a_500(place: Place) -> None:
    who = await customer(place.gateway.url)
    reply = await send(
        who.url, "POST", CHAT, messages(*[{"role": "user", "content": ""}] * 30_000), who.headers
    )
    assert reply.status in {200, 400}, reply.raw[:300]
    books = await place.audit(who)
    books.check_at_rest()


LONE = {
    "in a prompt": _raw('[{"role": "user", "content": "\\udfff"}]'),
    "in a model": _raw(f"[{USER}]").replace(b"qwen", b"\\\\ud800"),
    "in an unknown field": _raw(f"[{USER}]", ', "user": "\\ud83d"'),
    "in a name of a field": _raw(f"[{USER}]", ', "\\ud83d": 1'),
    "in a tool": _raw(f"[{USER}]", ', "tools": [{"type": "function", "x": "\\ud83d"}]'),
}


@pytest.mark.parametrize("body", LONE.values(), ids=LONE)
async def test_a_lone_surrogate_anywhere_is_the_callers_error(place: Place, body: bytes) -> None:
    who = await place.who()
    reply = await send(who.url, "POST", CHAT, body, who.headers)
    assert 400 <= reply.status < 500, reply.raw[:300]
    reply.error()
    await untouched(place, who)


KEYS = {
    "no key": ({}, "missing_api_key"),
    "an empty bearer": ({"Authorization": "Bearer "}, "missing_api_key"),
    "no scheme": ({"Authorization": "ky-" + "0" * 48}, "missing_api_key"),
    "basic": ({"Authorization": "Basic dXNlcjpwYXNz"}, "missing_api_key"),
    "another scheme": ({"Authorization": "Digest username=x"}, "missing_api_key"),
    "an empty x-api-key": ({"x-api-key": ""}, "missing_api_key"),
    "another company's": ({"Authorization": "Bearer sk-" + "a" * 48}, "malformed_api_key"),
    "a space inside": ({"Authorization": "Bearer ky-00000000 0000000000"}, "malformed_api_key"),
    "too short": ({"Authorization": "Bearer ky-1"}, "malformed_api_key"),
    "10 KB": ({"Authorization": "Bearer ky-" + "a" * 10_240}, "malformed_api_key"),
    "non-ASCII": ({"Authorization": "Bearer ky-ünïcödé-ünïcödé-ünïcödé"}, "malformed_api_key"),
    "SQL": ({"Authorization": "Bearer ky-' OR '1'='1' --"}, "malformed_api_key"),
    "SQL in x-api-key": ({"x-api-key": "ky-'; DROP TABLE api_keys;--"}, "malformed_api_key"),
    "an unknown one": ({"Authorization": "Bearer ky-" + "0" * 48}, "invalid_api_key"),
    "an unknown session": ({"x-api-key": "ks-" + "0" * 48}, "invalid_api_key"),
}


@pytest.mark.parametrize(("headers", "code"), KEYS.values(), ids=KEYS)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", CHAT), ("GET", "/v1/auth/me"), ("GET", "/v1/credits/balance")]
)
async def test_a_key_in_a_wrong_form_is_a_401_on_every_route(
    place: Place, method: str, path: str, headers: dict[str, str], code: str
) -> None:
    reply = await send(
        place.gateway.url, method, path, chat() if method == "POST" else None, headers
    )
    error = refused(reply, 401, code)
    assert error["type"] == AUTH
    assert reply.headers["www-authenticate"] == "Bearer"
    secret = (headers.get("Authorization") or headers.get("x-api-key") or "").split(" ")[-1]
    assert len(secret) < 8 or secret not in reply.raw.decode()


async def raw(
    place: Place, *pieces: bytes, pause_s: float = 0.0, half_close: bool = False
) -> Reply:
    """What comes back for these bytes, sent with pauses between them."""
    host, port = place.gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if half_close:
            writer.write_eof()
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1")
        status, *lines = head.rstrip().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        length = int(headers.get("content-length", 0))
        body = await asyncio.wait_for(reader.readexactly(length), 10)
        return Reply(int(status.split(" ")[1]), headers, body)
    finally:
        writer.close()


def head(who: Customer, *lines: str, path: str = CHAT) -> bytes:
    """The head of a POST."""
    given = (
        f"POST {path} HTTP/1.1",
        "Host: kyma",
        f"Authorization: Bearer {who.key}",
        "Content-Type: application/json",
        *lines,
    )
    return "\r\n".join(given).encode("latin-1") + b"\r\n\r\n"


def chunked(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


async def test_bytes_that_are_no_ascii_in_a_key_are_a_401(place: Place) -> None:
    body = chat()
    reply = await raw(
        place,
        b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: kyma\r\nAuthorization: Bearer ky-\xff\xfe"
        + b"\x80" * 40 + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
    )  # fmt: skip
    refused(reply, 401, "malformed_api_key")


@pytest.mark.parametrize("path", [CHAT, REGISTER])
async def test_a_body_that_announces_too_many_bytes_is_refused_before_it_comes(
    place: Place, path: str
) -> None:
    who = await place.who()
    reply = await raw(place, head(who, f"Content-Length: {BODY_LIMIT + 1}", path=path))
    refused(reply, 413, "body_too_large")
    await untouched(place, who)


@pytest.mark.parametrize("path", [CHAT, REGISTER])
async def test_a_body_over_the_limit_in_chunks_is_refused(place: Place, path: str) -> None:
    who = await place.who()
    piece = chunked(b" " * 100_000)
    reply = await raw(place, head(who, "Transfer-Encoding: chunked", path=path), *[piece] * 11)
    refused(reply, 413, "body_too_large")
    await untouched(place, who)


async def test_a_chunked_body_within_the_limit_is_answered(place: Place) -> None:
    who = await customer(place.gateway.url)
    body = chat()
    reply = await raw(
        place,
        head(who, "Transfer-Encoding: chunked"),
        chunked(body[:20]), chunked(body[20:]), b"0\r\n\r\n",
    )  # fmt: skip
    assert reply.status == 200


@pytest.mark.parametrize("path", [CHAT, REGISTER])
async def test_a_body_that_trickles_is_a_408(place: Place, path: str) -> None:
    who = await place.who()
    body = chat()
    reply = await raw(
        place,
        head(who, f"Content-Length: {len(body)}", path=path),
        *[body[at : at + 1] for at in range(8)],
        pause_s=0.2,
    )
    error = refused(reply, 408, "body_timeout")
    assert error["retryable"] is True
    await untouched(place, who)


HEAD = b"GET /v1/models HTTP/1.1\r\nHost: here\r\n"


@pytest.mark.parametrize(
    "parts",
    [[b""], [HEAD], [HEAD[at : at + 4] for at in range(0, 16, 4)]],
    ids=["nothing", "half a head", "a trickle"],
)
async def test_a_client_that_does_not_finish_its_head_is_told_so_and_let_go(
    place: Place, parts: list[bytes]
) -> None:
    refused(await raw(place, *parts, pause_s=0.2), 408, "body_timeout")


@pytest.mark.parametrize("begun", [HEAD, b"\r\n", b"\n"], ids=["half a head", "CRLF", "LF"])
async def test_a_second_request_on_a_connection_has_as_little_time_for_its_head(
    place: Place, begun: bytes
) -> None:
    host, port = place.gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for wait_s in (0.0, 1.5):  # between requests a connection may rest for longer than that
        await asyncio.sleep(wait_s)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        assert b"HTTP/1.1 200" in await reader.readuntil(b'{"status":"ok"}')
    writer.write(begun)
    async with asyncio.timeout(5):
        assert b"HTTP/1.1 408" in await reader.read()
    writer.close()


async def test_bytes_that_are_no_http_are_refused_in_our_words(place: Place) -> None:
    refused(await raw(place, b"\x16\x03\x01\x02\x00 hello\r\n\r\n"), 400, "invalid_value")


async def test_of_many_silent_clients_none_keeps_its_socket(place: Place) -> None:
    host, port = place.gateway.url.removeprefix("http://").split(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(400)]
    await asyncio.sleep(1.5)
    for reader, writer in silent:
        async with asyncio.timeout(5):
            assert b"HTTP/1.1 408" in await reader.read()
        writer.close()


@pytest.mark.parametrize("path", [CHAT, REGISTER])
async def test_a_client_that_leaves_in_mid_body_leaves_nothing_behind(
    place: Place, path: str
) -> None:
    who = await place.who()
    said = len(place.gateway.said())
    host, port = place.gateway.url.removeprefix("http://").split(":")
    for _ in range(5):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head(who, "Content-Length: 500", path=path) + chat()[:50])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
    await asyncio.sleep(0.2)
    await untouched(place, who)
    assert '"level": "error"' not in place.gateway.said()[said:]
    assert (await send(place.gateway.url, "GET", "/healthz")).status == 200


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"POST /v1 HTTP/9.9\r\n\r\n",
        b"BREW /v1 HTTP/1.1\r\n\r\n",
        b"\x00" * 200,
    ],
)
async def test_bytes_that_are_no_http_are_refused_and_hurt_nobody(
    place: Place, bytes_sent: bytes
) -> None:
    host, port = place.gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(bytes_sent)
        connection.shutdown(socket.SHUT_WR)
        answer = await asyncio.to_thread(connection.recv, 1000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert (await send(place.gateway.url, "GET", "/healthz")).status == 200


@pytest.mark.parametrize("length", ["-1", "abc", "99999999999999999999999", "1e3", ""])
async def test_a_content_length_that_is_no_number_is_a_400_or_413(
    place: Place, length: str
) -> None:
    who = await place.who()
    reply = await raw(place, head(who, f"Content-Length: {length}"), half_close=True)
    assert reply.status in {400, 413}, reply
    await untouched(place, who)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/v1/chat/completion", 404, "not_found"),
        ("GET", "/v1/" + "x" * 5000, 404, "not_found"),
        ("GET", "/v1/%00", 404, "not_found"),
        ("GET", "/v1/%ff%fe", 404, "not_found"),
        ("GET", "/v1/../../etc/passwd", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("PUT", CHAT, 405, "method_not_allowed"),
        ("DELETE", CHAT, 405, "method_not_allowed"),
        ("GET", REGISTER, 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("PATCH", "/v1/credits/balance", 405, "method_not_allowed"),
    ],
)
async def test_a_wrong_path_or_method_is_answered_in_the_same_envelope(
    place: Place, method: str, path: str, status: int, code: str
) -> None:
    reply = await send(place.gateway.url, method, path, b"{}" if method != "GET" else None)
    refused(reply, status, code)
    if status == 405:
        assert method not in reply.headers["allow"]


async def test_head_and_options_are_answered(place: Place) -> None:
    assert (await send(place.gateway.url, "HEAD", "/v1/models")).status == 200
    assert (await send(place.gateway.url, "OPTIONS", CHAT)).status in {200, 204, 405}


FORMS = {
    "multipart/form-data; boundary=x": b'--x\r\nContent-Disposition: form-data; name="model"\r\n'
    b"\r\nqwen-3-32b\r\n--x--\r\n",
    "application/x-www-form-urlencoded": b"model=qwen-3-32b&messages=hello",
    "application/xml": b"<model>qwen-3-32b</model>",
}


@pytest.mark.parametrize(("kind", "body"), FORMS.items(), ids=FORMS)
@pytest.mark.parametrize("path", [CHAT, REGISTER, LOGIN])
async def test_a_body_of_another_kind_is_a_400(
    place: Place, path: str, kind: str, body: bytes
) -> None:
    who = await place.who()
    reply = await send(who.url, "POST", path, body, {**who.headers, "Content-Type": kind})
    refused(reply, 400, "invalid_json")
    await untouched(place, who)


@pytest.mark.parametrize(
    "kind",
    ["application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded", "", "?"],
)
async def test_json_is_taken_whatever_its_content_type_says(place: Place, kind: str) -> None:
    who = await customer(place.gateway.url)
    reply = await send(who.url, "POST", CHAT, chat(), {**who.headers, "Content-Type": kind})
    assert reply.status == 200, reply.raw


def account(**changes: Any) -> bytes:
    """A good registration but for these changes; None takes a field away."""
    body = {"email": "otter@example.com", "password": SECRET, **changes}
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()


ACCOUNTS = {
    "empty body": (b"", "invalid_json", None),
    "broken JSON": (b'{"email": ', "invalid_json", None),
    "an array": (b"[]", "invalid_type", None),
    "invalid UTF-8": (account().replace(b"otter", b"\xff"), "invalid_json", None),
    "50,000 nested": (b'{"email": ' + b"[" * 50_000, "invalid_json", None),
    "a lone surrogate": (b'{"email": "\\ud800@example.com", "password": "xxxxxx"}',
                         "invalid_json", None),
    "no email": (account(email=None), "missing_required_parameter", "email"),
    "no password": (account(password=None), "missing_required_parameter", "password"),
    "an email of 5": (account(email=5), "invalid_type", "email"),
    "an email in an array": (account(email=["a@example.com"]), "invalid_type", "email"),
    "a password of 5": (account(password=5_000_000), "invalid_type", "password"),
    "a password of an object": (account(password={"a": 1}), "invalid_type", "password"),
    "NUL in the email": (account(email="a\x00@example.com"), "invalid_value", "email"),
    "NUL in the password": (account(password=SECRET + "\x00"), "invalid_value", "password"),
}  # fmt: skip

BAD_EMAILS = (
    "", " ", "otter", "otter@", "@example.com", "a b@example.com", "a@b@example.com",
    "otter@example..com", "otter@-example.com", "a@" + "x" * 300 + ".com",
    "otter@example.com\r\nBcc: all@example.com", "otter@localhost", "' OR 1=1 --",
)  # fmt: skip


@pytest.mark.parametrize("path", [REGISTER, LOGIN])
@pytest.mark.parametrize(("body", "code", "param"), ACCOUNTS.values(), ids=ACCOUNTS)
async def test_a_bad_registration_or_login_is_a_400_that_names_the_field(
    place: Place, path: str, body: bytes, code: str, param: str | None
) -> None:
    reply = await send(place.gateway.url, "POST", path, body)
    refused(reply, 400, code, param)


@pytest.mark.parametrize("email", BAD_EMAILS)
async def test_an_address_that_is_none_cannot_register_and_is_nobodys_at_login(
    place: Place, email: str
) -> None:
    reply = await send(place.gateway.url, "POST", REGISTER, account(email=email))
    refused(reply, 400, "invalid_value", "email")
    reply = await send(place.gateway.url, "POST", LOGIN, account(email=email))
    refused(reply, 401, "wrong_credentials")


@pytest.mark.parametrize("password", ["", "12345", "x" * 513, "x" * 50_000])
async def test_a_password_too_short_or_too_long_cannot_register(
    place: Place, password: str
) -> None:
    reply = await send(place.gateway.url, "POST", REGISTER, account(password=password))
    refused(reply, 400, "invalid_value", "password")
    reply = await send(place.gateway.url, "POST", LOGIN, account(password=password))
    assert reply.status in {400, 401}
    reply.error()


async def test_an_address_can_register_once_in_any_spelling(place: Place) -> None:
    first = await send(place.gateway.url, "POST", REGISTER, account(email="Vole@Example.com"))
    assert first.status == 200
    for spelling in ("Vole@Example.com", "vole@example.com", "VOLE@EXAMPLE.COM"):
        again = await send(place.gateway.url, "POST", REGISTER, account(email=spelling))
        refused(again, 409, "email_taken", "email")
    wrong = await send(
        place.gateway.url, "POST", LOGIN, account(email="vole@example.com", password="not it")
    )
    refused(wrong, 401, "wrong_credentials")
    right = await send(place.gateway.url, "POST", LOGIN, account(email="VOLE@example.com"))
    assert right.status == 200


async def test_eight_at_once_with_one_address_make_one_account(place: Place) -> None:
    replies = await asyncio.gather(
        *(
            send(place.gateway.url, "POST", REGISTER, account(email="twins@example.com"))
            for _ in range(8)
        )
    )
    assert sorted(reply.status for reply in replies) == [200] + [409] * 7
