"""Which route serves a call next: layers, soft weights, a breaker with probe and ramp.

Everything is a function of its arguments; time is seconds on a clock that all processes
share, and dice are handed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from kyma.calls import Fault
from kyma.pricing import PerToken

SMOOTHING = 0.2
"""Weight of the newest observation in the moving averages."""

TRIP_AFTER = 3
"""Failures in a row that open the breaker."""

TRIP_RATE = 0.5
"""Share of recent calls failing that opens the breaker once `TRIP_SAMPLES` were seen."""

TRIP_SAMPLES = 10
OPEN_S = 1.0
OPEN_MAX_S = 15.0
"""Longest pause between probes: a route that recovers is used again well within 30 s."""

ACCOUNT_OPEN_S = 60.0
RETRY_AFTER_MAX_S = 300.0
PROBE_S = 10.0
"""A probe that has not reported after this long no longer keeps others away."""

RAMP_S = 10.0
TYPICAL_LATENCY_MS = 500.0


@dataclass(frozen=True, slots=True)
class Route:
    """One way to serve a model: who, under which id, at what cost, how far from first choice."""

    provider: str
    upstream_model: str
    model: str
    cost: PerToken
    layer: int = 0
    weight: float = 1.0

    @property
    def key(self) -> str:
        """What health is kept by: the same provider and model share it on every layer."""
        return f"{self.provider}/{self.upstream_model}"


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a route. `open_until` in the future keeps calls away."""

    latency_ms: float = 0.0
    failure_rate: float = 0.0
    samples: int = 0
    failures_in_a_row: int = 0
    opened: int = 0
    open_until: float = 0.0
    probe_until: float = 0.0
    ramp_from: float = 0.0
    waits: bool = False
    """Open because the provider told us to wait, or our account there is refused."""


UNKNOWN = Health()


class Step(StrEnum):
    """What to do after an upstream failed."""

    NEXT_ROUTE = "next_route"
    GIVE_UP = "give_up"


def next_step(fault: Fault) -> Step:
    """Whether a fault is worth another route: never on the caller's own error."""
    match fault:
        case Fault.BUSY | Fault.BROKEN | Fault.TIMEOUT | Fault.DENIED:
            return Step.NEXT_ROUTE
        case Fault.REFUSED | Fault.BAD_REQUEST | Fault.TOO_LONG | Fault.OVERDUE:
            return Step.GIVE_UP


def succeeded(health: Health, latency_ms: float, now: float) -> Health:
    """Health after a call whose first byte took `latency_ms`; a closing breaker starts its ramp."""
    known = health.samples > 0 and health.latency_ms > 0
    latency = (
        health.latency_ms + SMOOTHING * (latency_ms - health.latency_ms) if known else latency_ms
    )
    if health.waits and now < health.open_until:
        # A call from before the provider told us to wait: its word stands.
        return replace(health, latency_ms=latency, samples=health.samples + 1)
    closing = health.open_until > 0
    return Health(
        latency_ms=latency,
        failure_rate=0.0 if closing else health.failure_rate * (1 - SMOOTHING),
        samples=health.samples + 1,
        ramp_from=now if closing else health.ramp_from,
    )


def failed(health: Health, fault: Fault, now: float, retry_after_s: float | None = None) -> Health:
    """Health after a fault. The caller's own errors say nothing about a route, but end a probe."""
    if next_step(fault) is Step.GIVE_UP:
        return replace(health, probe_until=0.0) if health.probe_until else health
    rate = health.failure_rate + SMOOTHING * (1 - health.failure_rate)
    worse = replace(
        health,
        failure_rate=rate,
        samples=health.samples + 1,
        failures_in_a_row=health.failures_in_a_row + 1,
        probe_until=0.0,
    )
    if fault is Fault.DENIED:
        return _opened(worse, now, ACCOUNT_OPEN_S, waits=True)
    if retry_after_s is not None:
        return _opened(worse, now, min(retry_after_s, RETRY_AFTER_MAX_S), waits=True)
    if health.waits and now < health.open_until:
        return worse
    tripped = worse.failures_in_a_row >= TRIP_AFTER or (
        worse.samples >= TRIP_SAMPLES and rate > TRIP_RATE
    )
    if tripped or health.open_until > 0:
        return _opened(worse, now, min(OPEN_S * 2**health.opened, OPEN_MAX_S), waits=False)
    return worse


def _opened(health: Health, now: float, pause_s: float, *, waits: bool) -> Health:
    return replace(
        health,
        opened=min(health.opened + 1, 16),
        open_until=max(health.open_until if waits else 0.0, now + pause_s),
        waits=waits,
    )


def probing(health: Health, now: float) -> Health:
    """Health once a call to a half-open route has been started."""
    return replace(health, probe_until=now + PROBE_S)


def is_half_open(health: Health, now: float) -> bool:
    """Whether the pause is over and one call may try."""
    return 0 < health.open_until <= now


def is_shut(health: Health, now: float) -> bool:
    """Whether calls must stay away: paused, or somebody is probing."""
    return now < health.open_until or (health.open_until > 0 and now < health.probe_until)


def weight_of(route: Route, health: Health, now: float) -> float:
    """Share of traffic a route deserves beside others of its layer; above zero."""
    speed = TYPICAL_LATENCY_MS / (TYPICAL_LATENCY_MS + health.latency_ms)
    reliability = (1 - health.failure_rate) ** 2
    return max(1e-6, route.weight * speed * reliability * _ramp(health, now))


def _ramp(health: Health, now: float) -> float:
    """How much of its traffic a route that has just recovered gets again, 0.1 to 1."""
    if not health.ramp_from:
        return 1.0
    return min(1.0, max(0.1, (now - health.ramp_from) / RAMP_S))


@dataclass(frozen=True, slots=True)
class Affinity:
    """What ties a conversation to a route: its digest, and the key of the route it was last on.

    `held_by` is None where nobody is known to hold its cache.
    """

    conversation: str
    held_by: str | None = None


SOUND = 0.1
"""A share of failures up to which a route keeps its conversations."""


def order(
    routes: Iterable[Route],
    health: Mapping[str, Health],
    now: float,
    dice: Callable[[], float],
    affinity: Affinity | None = None,
) -> list[Route]:
    """Routes in the order to try them: open breakers last, told-to-wait ones left out.

    Within a layer the order is a weighted draw without replacement (Efraimidis and
    Spirakis, 2006: sort by u^(1/w)). `dice` returns uniform numbers in (0, 1).

    With an `affinity` the dice are a hash of conversation and route, so every process draws
    the same (rendezvous hashing), and latency does not count: a conversation leaves its route
    only when that fails. The route that holds its cache comes first, even from layer 1.
    """
    usable: list[tuple[int, float, Route]] = []
    shut: list[tuple[float, Route]] = []
    for route in routes:
        state = health.get(route.key, UNKNOWN)
        if is_shut(state, now):
            if not (state.waits and now < state.open_until):
                shut.append((max(state.open_until, state.probe_until), route))
        elif affinity is None:
            draw = dice() ** (1 / weight_of(route, state, now))
            usable.append((route.layer, -draw, route))
        else:
            usable.append(_bound(route, state, now, affinity))
    usable.sort(key=lambda entry: entry[:2])
    shut.sort(key=lambda entry: (entry[1].layer, entry[0]))
    return [route for *_, route in usable] + [route for _, route in shut]


def _bound(
    route: Route, health: Health, now: float, affinity: Affinity
) -> tuple[int, float, Route]:
    """A route's place for a conversation: layer and draw; the holder of its cache is at -1."""
    sound = health.failure_rate <= SOUND and not health.open_until
    if sound and route.key == affinity.held_by and route.layer <= 1:
        return -1, 0.0, route
    seed = f"{affinity.conversation}\0{route.key}".encode()
    number = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest(), "big")
    draw = (number + 1) / (2**64 + 1)
    weight = route.weight * _ramp(health, now)
    if not sound:
        weight *= (1 - health.failure_rate) ** 2
    return route.layer, -(draw ** (1 / max(1e-6, weight))), route


def soonest(routes: Sequence[Route], health: Mapping[str, Health], now: float) -> float:
    """Seconds until the first of these routes may be tried again, at least one."""
    opens = [health.get(route.key, UNKNOWN).open_until for route in routes]
    return max(1.0, min(opens, default=now) - now)
