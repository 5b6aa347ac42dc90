"""Asks every enabled provider whether it answers, by its list of models: that costs nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from adapters.upstreams.providers import Endpoint
from adapters.upstreams.transport import Transport
from adapters.upstreams.wire import anthropic
from kyma.calls import Dialect, Fault, UpstreamError
from kyma.traffic import OK, Probe

TIMEOUT_S = 10.0
"""For one provider; all are asked at once."""


class ProviderProbes:
    """One question to each provider."""

    def __init__(self, transport: Transport, endpoints: Mapping[str, Endpoint]) -> None:
        self._transport = transport
        self._endpoints = endpoints

    async def ask(self) -> Sequence[Probe]:
        """What each of them answered, in the order of the table; never raises for one of them."""
        return await asyncio.gather(*map(self._one, self._endpoints.values()))

    async def _one(self, endpoint: Endpoint) -> Probe:
        began = time.monotonic()
        try:
            status = await self._transport.get(
                f"{endpoint.base_url}/models", _headers(endpoint), TIMEOUT_S
            )
            outcome = outcome_of(status)
        except UpstreamError as error:
            outcome = error.fault.value
        return Probe(endpoint.name, outcome, int((time.monotonic() - began) * 1000))


def outcome_of(status: int) -> str:
    """What a status says of a provider. One that has no list of models answers all the same."""
    if status in {401, 402, 403}:
        return Fault.DENIED.value
    if status == 429:
        return Fault.BUSY.value
    return Fault.BROKEN.value if status >= 500 else OK


def _headers(endpoint: Endpoint) -> dict[str, str]:
    if endpoint.provider.wire is Dialect.MESSAGES:
        return anthropic.headers(endpoint.key)
    return {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
