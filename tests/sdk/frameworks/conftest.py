"""What a framework's tests share: the gateway's address, a customer each, and a closed door.

Runs inside .venv-sdk, where nothing of Kyma is installed: only HTTP leads to the gateway.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

LOOPBACK = ("127.", "::1", "localhost")
STRAYED: list[str] = []


def _only_loopback(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse every address but this machine's; a framework that reports home is found out."""
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else ""
    elif event == "socket.getaddrinfo":
        host = arguments[0] or ""
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host and not host.startswith(LOOPBACK):
        STRAYED.append(f"{event} {host}")
        raise PermissionError(f"{host} is beyond this machine")


def pytest_configure() -> None:
    sys.addaudithook(_only_loopback)


@pytest.fixture(autouse=True)
def nothing_strayed() -> Iterator[None]:
    """A library may swallow the refusal; this does not."""
    yield
    found = [*STRAYED]
    STRAYED.clear()
    assert found == []


@pytest.fixture
def url() -> str:
    """The gateway, without `/v1`."""
    return os.environ["KYMA_SDK_URL"]


@pytest.fixture
def key() -> str:
    """The API key of a customer with a deposit and the highest tier, the framework's own."""
    return os.environ["KYMA_SDK_KEY"]


@pytest.fixture
def new_key(url: str) -> str:
    """The API key of a new customer with the sign-up credit."""
    email = f"user-{os.urandom(6).hex()}@example.com"
    request = urllib.request.Request(
        f"{url}/v1/auth/register",
        json.dumps({"email": email, "password": "secret1"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        welcome: dict[str, Any] = json.load(response)
    return str(welcome["api_key"])
