"""A `Host` that can be no host's name is refused as any bad request is, and counted as one."""

from __future__ import annotations

import pytest
import pytest_asyncio

from kyma.strangers import PER_MINUTE
from tests.http.callers import REQUESTS, TOKENS, figures, left, remaining, stranger, use_up
from tests.http.on_memory import SECRET, Place, a_place

BAD_HOSTS = ["a..b", ".a", "a" * 64, "xn--" + "a" * 70, "a" * 300 + ".example"]


@pytest_asyncio.fixture
async def place() -> Place:
    return await a_place()


@pytest.mark.parametrize("host", BAD_HOSTS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/auth/me"),
        ("GET", "/account"),
        ("GET", "/v1/nowhere"),
        ("POST", "/v1/auth/login"),
        ("OPTIONS", "/v1/models"),
    ],
)
async def test_a_bad_host_is_a_bad_request_like_any_other(
    place: Place, method: str, path: str, host: str
) -> None:
    unknown = await stranger(place, method, path, host=host)
    error = unknown.json()["error"]
    assert (unknown.status, error["code"], error["param"]) == (400, "invalid_value", "Host")
    assert error["request_id"] == unknown.headers["x-kyma-request-id"]
    assert (figures(unknown), remaining(unknown)) == (REQUESTS, PER_MINUTE - 1)
    assert {"server-timing", "access-control-allow-origin"} <= unknown.headers.keys()
    known = await stranger(place, method, path, secret=SECRET, host=host)
    assert (known.status, figures(known)) == (400, REQUESTS | TOKENS)
    assert await left(place) == PER_MINUTE - 1
    await use_up(place)
    refused = await stranger(place, method, path, host=host)
    assert (refused.status, refused.json()["error"]["limit"]) == (429, "address")


async def test_a_bad_host_is_refused_in_the_words_of_its_path(place: Place) -> None:
    refused = await stranger(place, path="/v1/messages/nowhere", host="a..b")
    assert (refused.status, refused.json()["type"]) == (400, "error")


@pytest.mark.parametrize("host", ["", "a.", "é.example", "gateway:99999", "[::1]:80", "\x00"])
async def test_a_host_that_names_nothing_here_is_served(place: Place, host: str) -> None:
    assert (await stranger(place, host=host)).status == 200
