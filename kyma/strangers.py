"""How many requests an address may make that show no known key or session.

The rule is GCRA, a token bucket that is kept as one number per address: the moment at which it
would be full again. So many requests may come at once, and each is back after its share of the
minute. Pure: the time comes in as an argument. What a known customer may do is in `kyma.tiers`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from kyma.errors import Code, Refusal, in_seconds
from kyma.throttles import LOOPBACK, MAX_TRACKED, address_group, is_loopback

PER_MINUTE = 600
"""Requests of one address that may come at once; they are back within a minute."""

SECOND_NS = 10**9
MINUTE_NS = 60 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Left:
    """What an address may still ask.

    So many as `remaining` pass at once; after `reset_s` it is one more. `wait_s` is above zero if
    the request that asked was refused: the seconds until one passes.
    """

    limit: int
    remaining: int
    reset_s: float
    wait_s: float = 0.0


class Strangers:
    """The limit of every address, as one process counts it.

    Times are seconds of one clock that never goes back; inside whole nanoseconds, so that what
    is told as left is there to the last request. The address used longest ago is forgotten first.
    """

    def __init__(self, *, trust_loopback: bool) -> None:
        """`trust_loopback`: this very machine has `LOOPBACK` times as much, as one client."""
        self._trust_loopback = trust_loopback
        self._full_at: OrderedDict[str, int] = OrderedDict()

    def take(self, address: str, now: float) -> Left:
        """Count a request, or refuse it; what is refused does not count."""
        name, limit = self._whose(address)
        at, step = round(now * SECOND_NS), MINUTE_NS // limit
        full_at = max(self._full_at.get(name, at), at) + step
        wait_ns = full_at - at - MINUTE_NS
        if wait_ns > 0:
            return Left(limit, 0, wait_ns / SECOND_NS, wait_ns / SECOND_NS)
        self._full_at[name] = full_at
        self._full_at.move_to_end(name)
        if len(self._full_at) > MAX_TRACKED:
            self._full_at.popitem(last=False)
        return _left(limit, full_at - at)

    def look(self, address: str, now: float) -> Left:
        """What is left, without counting."""
        name, limit = self._whose(address)
        at = round(now * SECOND_NS)
        return _left(limit, max(self._full_at.get(name, at) - at, 0))

    def _whose(self, address: str) -> tuple[str, int]:
        if self._trust_loopback and is_loopback(address):
            return "loopback", PER_MINUTE * LOOPBACK
        return address_group(address), PER_MINUTE


def _left(limit: int, owed_ns: int) -> Left:
    """`owed_ns` is how long it takes until all of it is back."""
    step = MINUTE_NS // limit
    used = -(-owed_ns // step)
    return Left(limit, limit - used, (owed_ns - max(used - 1, 0) * step) / SECOND_NS)


def beyond(left: Left) -> Refusal:
    """The refusal of a request that was one too many."""
    return Refusal(
        Code.RATE_LIMITED,
        f"Rate limit exceeded ({left.limit} requests/minute of an address without a valid API "
        f"key). Try again in {in_seconds(left.wait_s)}. Requests with a valid key "
        "are not affected. Nothing was charged.",
        retry_after_s=left.wait_s,
        details={"limit": "address"},
    )
