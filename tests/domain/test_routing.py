"""Routes in order, breakers that open and recover, and which faults are worth another route."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kyma import routing
from kyma.calls import Fault
from kyma.pricing import per_token
from kyma.routing import (
    ACCOUNT_OPEN_S,
    OPEN_MAX_S,
    PROBE_S,
    RAMP_S,
    TRIP_AFTER,
    UNKNOWN,
    Health,
    Route,
    Step,
    failed,
    is_half_open,
    is_shut,
    next_step,
    order,
    probing,
    soonest,
    succeeded,
    weight_of,
)

NOW = 1_000_000.0
COST = per_token("1", "2")


def a_route(provider: str, layer: int = 0, weight: float = 1.0) -> Route:
    return Route(provider, "m", "m", COST, layer, weight)


def half(value: float = 0.5) -> Callable[[], float]:
    return lambda: value


def tripped(fault: Fault = Fault.BROKEN, now: float = NOW) -> Health:
    health = UNKNOWN
    for _ in range(TRIP_AFTER):
        health = failed(health, fault, now)
    return health


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        (Fault.BUSY, Step.NEXT_ROUTE),
        (Fault.BROKEN, Step.NEXT_ROUTE),
        (Fault.TIMEOUT, Step.NEXT_ROUTE),
        (Fault.DENIED, Step.NEXT_ROUTE),
        (Fault.REFUSED, Step.GIVE_UP),
        (Fault.BAD_REQUEST, Step.GIVE_UP),
        (Fault.TOO_LONG, Step.GIVE_UP),
        (Fault.OVERDUE, Step.GIVE_UP),
    ],
)
def test_only_the_providers_faults_are_worth_another_route(fault: Fault, step: Step) -> None:
    assert next_step(fault) is step


def test_the_table_above_names_every_fault() -> None:
    mark = test_only_the_providers_faults_are_worth_another_route.pytestmark[0]
    assert {row[0] for row in mark.args[1]} == set(Fault)


def test_a_lower_layer_always_comes_first() -> None:
    routes = [a_route(f"p{layer}{n}", layer) for layer in (3, 0, 2, 1) for n in range(3)]
    dice = random.Random(1)
    for _ in range(50):
        found = order(routes, {}, NOW, lambda: dice.random() or 0.5)
        assert [route.layer for route in found] == sorted(route.layer for route in routes)
        assert sorted(found, key=lambda r: r.key) == sorted(routes, key=lambda r: r.key)


def test_within_a_layer_first_places_follow_the_weights() -> None:
    routes = [a_route("heavy", weight=3.0), a_route("light", weight=1.0)]
    dice = random.Random(7)
    first = Counter(
        order(routes, {}, NOW, lambda: dice.random() or 0.5)[0].provider for _ in range(4_000)
    )
    assert 0.72 < first["heavy"] / 4_000 < 0.78


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Health(latency_ms=100, samples=5), Health(latency_ms=2_000, samples=5)),
        (Health(failure_rate=0.0, samples=5), Health(failure_rate=0.4, samples=5)),
        (UNKNOWN, Health(ramp_from=NOW - 1)),
        (Health(ramp_from=NOW - 5), Health(ramp_from=NOW - 1)),
    ],
    ids=["faster", "more reliable", "not ramping", "further up the ramp"],
)
def test_a_better_route_weighs_more(better: Health, worse: Health) -> None:
    route = a_route("p")
    assert weight_of(route, better, NOW) > weight_of(route, worse, NOW) > 0


@given(st.floats(0, 1e7), st.floats(0, 1), st.floats(0, 1e7), st.floats(0, 100))
def test_a_weight_is_always_above_zero(
    latency: float, rate: float, ramp: float, weight: float
) -> None:
    health = Health(latency_ms=latency, failure_rate=rate, ramp_from=ramp)
    assert weight_of(a_route("p", weight=weight), health, NOW) > 0


def test_three_failures_in_a_row_open_the_breaker_and_two_do_not() -> None:
    health = UNKNOWN
    for _ in range(TRIP_AFTER - 1):
        health = failed(health, Fault.BROKEN, NOW)
    assert not is_shut(health, NOW)
    health = failed(health, Fault.TIMEOUT, NOW)
    assert is_shut(health, NOW)
    assert not health.waits


def test_a_success_in_between_starts_the_count_again() -> None:
    health = failed(failed(UNKNOWN, Fault.BROKEN, NOW), Fault.BROKEN, NOW)
    health = failed(succeeded(health, 100, NOW), Fault.BROKEN, NOW)
    assert not is_shut(health, NOW)


def test_a_high_share_of_failures_opens_it_even_with_successes_between() -> None:
    health = UNKNOWN
    for _ in range(12):
        if is_shut(health, NOW):
            break
        health = failed(failed(health, Fault.BROKEN, NOW), Fault.BROKEN, NOW)
        if not is_shut(health, NOW):
            health = succeeded(health, 100, NOW)
    assert is_shut(health, NOW)


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.BAD_REQUEST, Fault.TOO_LONG])
def test_the_callers_own_faults_say_nothing_about_a_route(fault: Fault) -> None:
    health = UNKNOWN
    for _ in range(10):
        health = failed(health, fault, NOW)
    assert health == UNKNOWN


def test_after_the_pause_one_call_probes_and_the_others_stay_away() -> None:
    health = tripped()
    later = health.open_until
    assert is_half_open(health, later)
    assert not is_shut(health, later)
    health = probing(health, later)
    assert is_shut(health, later)
    assert is_shut(health, later + PROBE_S - 0.001)
    assert not is_shut(health, later + PROBE_S), "a lost probe does not shut a route for ever"


def test_a_probe_that_succeeds_closes_the_breaker_and_starts_the_ramp() -> None:
    health = tripped()
    later = health.open_until
    health = succeeded(probing(health, later), 120, later)
    assert not is_shut(health, later)
    assert (health.failures_in_a_row, health.opened, health.failure_rate) == (0, 0, 0.0)
    route = a_route("p")
    settled = weight_of(route, replace(health, ramp_from=0.0), later)
    shares = [weight_of(route, health, later + s) / settled for s in (0, 2, 5, RAMP_S, 60)]
    assert shares == pytest.approx([0.1, 0.2, 0.5, 1.0, 1.0])


def test_a_probe_that_fails_opens_it_for_longer_up_to_a_limit() -> None:
    health, now, pauses = tripped(), NOW, []
    for _ in range(8):
        pauses.append(health.open_until - now)
        now = health.open_until
        health = failed(probing(health, now), Fault.BROKEN, now)
    assert pauses == pytest.approx([1, 2, 4, 8, 15, 15, 15, 15])
    assert max(pauses) == OPEN_MAX_S


@pytest.mark.parametrize(
    ("told_s", "kept_s"), [(0.5, 0.5), (7, 7), (120, 120), (300, 300), (86_400, 300)]
)
def test_retry_after_is_honoured_at_once_within_reason(told_s: float, kept_s: float) -> None:
    health = failed(UNKNOWN, Fault.BUSY, NOW, told_s)
    assert health.waits
    assert health.open_until == pytest.approx(NOW + kept_s)
    assert is_shut(health, NOW + kept_s - 0.01)
    assert not is_shut(health, NOW + kept_s)


def test_a_shorter_retry_after_does_not_shorten_a_longer_one() -> None:
    health = failed(failed(UNKNOWN, Fault.BUSY, NOW, 30), Fault.BUSY, NOW, 1)
    assert health.open_until == NOW + 30


@pytest.mark.parametrize("fault", [Fault.BROKEN, Fault.TIMEOUT, Fault.BUSY])
def test_another_failure_under_way_does_not_shorten_what_the_provider_asked_for(
    fault: Fault,
) -> None:
    health = failed(failed(UNKNOWN, Fault.BUSY, NOW, 30), fault, NOW + 0.1)
    assert health.waits
    assert health.open_until == NOW + 30


def test_a_success_under_way_does_not_shorten_what_the_provider_asked_for() -> None:
    health = succeeded(failed(UNKNOWN, Fault.BUSY, NOW, 30), 100, NOW + 0.1)
    assert is_shut(health, NOW + 29)
    assert not is_shut(health, NOW + 30)


def test_trouble_with_our_account_opens_long_at_the_first_time() -> None:
    health = failed(UNKNOWN, Fault.DENIED, NOW)
    assert health.waits
    assert is_shut(health, NOW + ACCOUNT_OPEN_S - 0.01)
    assert is_half_open(health, NOW + ACCOUNT_OPEN_S)


def test_a_route_that_was_told_to_wait_is_left_out_and_a_tripped_one_comes_last() -> None:
    waiting, broken, good, spare = (a_route("w"), a_route("b"), a_route("g"), a_route("s", 1))
    health = {
        waiting.key: failed(UNKNOWN, Fault.BUSY, NOW, 30),
        broken.key: tripped(),
    }
    found = order([waiting, broken, good, spare], health, NOW, half())
    assert found == [good, spare, broken]


def test_when_all_are_tripped_the_nearest_layer_and_the_first_to_open_are_tried() -> None:
    soon, late, far = a_route("soon"), a_route("late"), a_route("far", 1)
    health = {
        soon.key: Health(open_until=NOW + 1, opened=1),
        late.key: Health(open_until=NOW + 9, opened=1),
        far.key: Health(open_until=NOW + 0.5, opened=1),
    }
    assert order([far, late, soon], health, NOW, half()) == [soon, late, far]


def test_a_half_open_route_may_be_tried_in_its_place() -> None:
    first, second = a_route("first"), a_route("second", 1)
    health = {first.key: Health(open_until=NOW - 1, opened=1)}
    assert order([second, first], health, NOW, half()) == [first, second]


def test_layers_share_the_health_of_one_upstream_model() -> None:
    assert a_route("p", 0).key == a_route("p", 3).key
    assert a_route("p").key != a_route("q").key


@pytest.mark.parametrize(
    ("opens", "told_s"), [([NOW + 5, NOW + 9], 5.0), ([NOW + 0.2], 1.0), ([0.0, NOW + 9], 1.0)]
)
def test_the_wait_we_tell_is_that_of_the_first_route_and_at_least_a_second(
    opens: list[float], told_s: float
) -> None:
    routes = [a_route(f"p{n}") for n in range(len(opens))]
    health = {
        route.key: Health(open_until=until) for route, until in zip(routes, opens, strict=True)
    }
    assert soonest(routes, health, NOW) == pytest.approx(told_s)


def test_the_first_latency_counts_whole_and_the_next_ones_are_smoothed() -> None:
    health = succeeded(UNKNOWN, 100, NOW)
    assert health.latency_ms == 100
    assert succeeded(health, 200, NOW).latency_ms == pytest.approx(120)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ok", "probe", *Fault]),
        st.floats(0, 20),
        st.one_of(st.none(), st.floats(0, 1e6)),
    ),
    max_size=40,
)


@given(EVENTS)
def test_whatever_happens_a_route_is_tried_again_within_the_longest_pause(
    events: list[tuple[str, float, float | None]],
) -> None:
    health, now = UNKNOWN, NOW
    for what, passed, retry_after in events:
        now += passed
        if what == "ok":
            health = succeeded(health, 100, now)
        elif what == "probe":
            health = probing(health, now)
        else:
            health = failed(health, Fault(what), now, retry_after)
        assert 0 <= health.failure_rate <= 1
        assert health.open_until <= now + routing.RETRY_AFTER_MAX_S
    assert not is_shut(health, now + routing.RETRY_AFTER_MAX_S)
