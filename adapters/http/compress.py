"""gzip for whole answers that are worth it: never a stream, never a short body.

Measured on answers of our own: 1 KiB shrinks to two thirds in 20 µs; the list of models from
24 KB to 4 KB in 60 µs; chat text halves at 11 µs per KiB. Level 1 is within a tenth of level 6
in size and up to four times as fast.

The hot routes shorten only what is long (`HOT_BYTES`): below it the work costs a gateway more
than the bytes cost anybody, above it the half millisecond is less than the transfer it saves.
A body that repeats what a caller sent beside a secret of somebody else's would let sizes tell
the secret; no answer of ours holds both.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from quart import Quart, Response, request
from quart.wrappers.response import DataBody

LEVEL = 1
QUART_BYTES = 1024
HOT_BYTES = 32 * 1024
GZIP_WBITS = 31
TEXTUAL = ("application/json", "text/", "image/svg+xml")


def gzipped(raw: bytes) -> bytes:
    """A gzip member of these bytes; the same for the same bytes."""
    squeezer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_WBITS)
    return squeezer.compress(raw) + squeezer.flush()


def takes_gzip(accept_encoding: str) -> bool:
    """Whether a client's `Accept-Encoding` allows it; its own word on gzip beats its `*`."""
    weights: dict[str, bool] = {}
    for offer in accept_encoding.lower().split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        weights[name] = not any(_is_never(parameter) for parameter in parameters)
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", False)))


def _is_never(parameter: str) -> bool:
    """Whether this is a `q` of zero, or an empty one."""
    name, _, value = parameter.partition("=")
    if name.strip() != "q":
        return False
    return not value.strip().strip("0").strip(".").strip("0")


def hot_answer(asked: Mapping[bytes, bytes], raw: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The body of a hot route's whole answer as it goes out, and the headers that say so.

    `asked` are the request's headers.
    """
    if len(raw) < HOT_BYTES:
        return raw, []
    vary = (b"vary", b"Accept-Encoding")
    if not takes_gzip(asked.get(b"accept-encoding", b"").decode("latin-1")):
        return raw, [vary]
    return gzipped(raw), [(b"content-encoding", b"gzip"), vary]


def install(app: Quart) -> None:
    """Shorten Quart's answers for clients that can read it."""

    @app.after_request
    async def shorten(response: Response) -> Response:
        if not _is_worth_it(response):
            return response
        response.vary.add("Accept-Encoding")
        if takes_gzip(request.headers.get("Accept-Encoding", "")):
            raw: bytes = await response.get_data(as_text=False)
            response.set_data(gzipped(raw))
            response.headers["Content-Encoding"] = "gzip"
            tag, weak = response.get_etag()
            if tag and not weak:  # the same answer, but no longer the same bytes
                response.set_etag(tag, weak=True)
        return response


def _is_worth_it(response: Response) -> bool:
    return (
        response.status_code != 206
        and isinstance(response.response, DataBody)
        and (response.content_length or 0) >= QUART_BYTES
        and (response.content_type or "").startswith(TEXTUAL)
        and "Content-Encoding" not in response.headers
    )
