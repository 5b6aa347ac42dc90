"""What the ways in have in common: their parts, and how a key that was given is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from quart import Response

from kyma.errors import Code, Refusal
from kyma.flows.access import Access
from kyma.flows.authorize import Authorize
from kyma.flows.devices import Devices, Given
from kyma.flows.federation import Federation
from kyma.flows.links import MailLinks
from kyma.flows.sessions import Sessions
from kyma.money import number
from kyma.ports.runtime import Chance, Digests


@dataclass(frozen=True, slots=True)
class Ways:
    """Filled by the container. `federation` is None where no provider of identities is set."""

    base_url: str
    access: Access
    sessions: Sessions
    devices: Devices
    authorize: Authorize
    links: MailLinks
    federation: Federation | None
    digests: Digests
    chance: Chance
    returned: Callable[[str, str], Awaitable[str]] | None = None
    """Of an account's order, the state it is in now; None where nothing is sold."""

    @property
    def is_secure(self) -> bool:
        """Whether people come over https, so that cookies can be held to it."""
        return self.base_url.startswith("https://")


def given_json(given: Given) -> Response:
    """A key under both names that clients read. Nobody may keep this answer."""
    return private_json(
        {
            "access_token": given.api_key,
            "api_key": given.api_key,
            "token_type": "Bearer",
            "user_id": given.account_id,
            "email": given.email,
            "balance": number(given.available),
        }
    )


def private_json(body: Any) -> Response:
    """An answer for its asker alone."""
    response = Response(orjson.dumps(body), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def once_each(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Parameters by name; OAuth refuses those that come twice (RFC 6749 section 3.1)."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise Refusal(Code.INVALID_REQUEST, f"`{name}` came twice.", param=name)
        found[name] = value
    return found
