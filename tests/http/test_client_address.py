"""Who a client is: the peer of the connection, or what a proxy says that the operator named."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from adapters.http.serve import server_config
from adapters.settings import Settings

CLAIMED = "203.0.113.9"


async def address_seen(peer: str, trusted: str, told: str = CLAIMED) -> str:
    """What the application is told of a client behind the real server's own layers."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])

    config = server_config(app, Settings(trusted_proxies=trusted))
    config.load()
    scope = {
        "type": "http",
        "client": (peer, 1),
        "scheme": "http",
        "headers": [(b"x-forwarded-for", told.encode())],
    }
    await config.loaded_app(scope, None, None)
    return seen[0]


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.0.0.5"])
async def test_by_default_nobody_is_believed_about_a_clients_address(peer: str) -> None:
    assert await address_seen(peer, "") == peer


@pytest.mark.parametrize(
    ("peer", "trusted", "seen"),
    [
        ("10.0.0.5", "10.0.0.5", CLAIMED),
        ("10.0.0.5", "192.0.2.1, 10.0.0.0/8", CLAIMED),
        ("10.0.0.6", "10.0.0.5", "10.0.0.6"),
        ("127.0.0.1", "10.0.0.5", "127.0.0.1"),
    ],
)
async def test_a_proxy_that_is_named_is_believed_and_no_other(
    peer: str, trusted: str, seen: str
) -> None:
    assert await address_seen(peer, trusted) == seen


async def test_what_a_client_wrote_before_its_proxy_is_not_believed() -> None:
    told = f"198.51.100.7, {CLAIMED}"
    assert await address_seen("10.0.0.5", "10.0.0.5", told) == CLAIMED


@pytest.mark.parametrize("trusted", ["*", "everybody", "10.0.0.1/8"])
def test_what_is_no_proxy_cannot_be_trusted(trusted: str) -> None:
    with pytest.raises(ValidationError):
        Settings(trusted_proxies=trusted)
