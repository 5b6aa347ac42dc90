"""A conversation keeps its route while that is sound, in every process the same one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kyma.calls import SAME_TEXTS, Fault, conversation_of
from kyma.pricing import per_token
from kyma.routing import RAMP_S, TRIP_AFTER, UNKNOWN, Affinity, Health, Route, failed, order

NOW = 1_000_000.0
COST = per_token("1", "2")
ROUTES = [Route(name, "m", "m", COST, layer) for name, layer in (("a", 1), ("b", 1), ("c", 1))]
FIRST = Route("first", "m", "m", COST, 0)
SUBSTITUTE = Route("other", "n", "n", COST, 3)


def never() -> float:
    raise AssertionError("a conversation is not a matter of luck")


def drawn(conversation: str, health: dict[str, Health] | None = None) -> list[str]:
    found = order(ROUTES, health or {}, NOW, never, Affinity(conversation))
    return [route.provider for route in found]


@given(st.text(min_size=1, max_size=40))
def test_every_process_draws_the_same_route_for_a_conversation(conversation: str) -> None:
    assert drawn(conversation) == drawn(conversation)
    assert sorted(drawn(conversation)) == ["a", "b", "c"]


def test_conversations_are_spread_over_the_routes_of_a_layer() -> None:
    firsts = Counter(drawn(f"conversation {number}")[0] for number in range(3000))
    assert all(800 < count < 1200 for count in firsts.values()), firsts


def test_weights_decide_how_many_conversations_a_route_gets() -> None:
    routes = [ROUTES[0], replace(ROUTES[1], weight=3.0)]
    firsts = Counter(
        order(routes, {}, NOW, never, Affinity(f"{number}"))[0].provider for number in range(4000)
    )
    assert 2.6 < firsts["b"] / firsts["a"] < 3.4


def test_a_slow_route_keeps_its_conversations() -> None:
    slow = {ROUTES[0].key: Health(latency_ms=9000.0, samples=50)}
    assert all(drawn(f"{number}") == drawn(f"{number}", slow) for number in range(200))


def test_the_route_that_holds_the_cache_comes_first_even_from_the_layer_behind() -> None:
    held = Affinity("talk", held_by=ROUTES[1].key)
    found = order([FIRST, *ROUTES], {}, NOW, never, held)
    assert [route.provider for route in found[:2]] == ["b", "first"]


def test_a_substitute_never_keeps_a_conversation_from_the_model_that_was_asked_for() -> None:
    held = Affinity("talk", held_by=SUBSTITUTE.key)
    assert order([SUBSTITUTE, FIRST], {}, NOW, never, held)[0] is FIRST


def test_a_holder_that_fails_loses_its_conversation() -> None:
    shut = UNKNOWN
    for _ in range(TRIP_AFTER):
        shut = failed(shut, Fault.BROKEN, NOW)
    held = Affinity("talk", held_by=ROUTES[1].key)
    assert order([FIRST, *ROUTES], {ROUTES[1].key: shut}, NOW, never, held)[0] is FIRST
    shaky = {ROUTES[1].key: Health(failure_rate=0.3, samples=20)}
    assert order([FIRST, *ROUTES], shaky, NOW, never, held)[0] is FIRST


def test_a_route_that_recovers_gets_its_conversations_back_little_by_little() -> None:
    def share(since_s: float) -> float:
        health = {ROUTES[0].key: Health(ramp_from=NOW - since_s, samples=20)}
        return sum(drawn(f"{number}", health)[0] == "a" for number in range(1500)) / 1500

    assert share(0) < 0.08
    assert share(0) < share(RAMP_S / 2) < share(RAMP_S)


def talk(*messages: tuple[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in messages], **fields}


def test_all_turns_of_a_conversation_have_one_digest() -> None:
    first = talk(("system", "You help."), ("user", "Hello"))
    later = talk(("system", "You help."), ("user", "Hello"), ("assistant", "Hi"), ("user", "More"))
    assert conversation_of(first) == conversation_of(later)
    assert conversation_of(first) == conversation_of({**later, "tools": [{"name": "new"}]})


def test_other_beginnings_are_other_conversations() -> None:
    digests = {
        conversation_of(body)
        for body in (
            talk(("system", "You help."), ("user", "Hello")),
            talk(("system", "You help."), ("user", "Goodbye")),
            talk(("system", "You do not help."), ("user", "Hello")),
            talk(("user", "Hello")),
            talk(("user", "Hello"), system="You help well."),
            talk(("user", [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}])),
        )
    }
    assert len(digests) == 6


def test_a_system_prompt_is_the_same_beginning_in_either_dialect() -> None:
    chat = talk(("system", "You help."), ("user", "Hello"))
    messages = talk(("user", "Hello"), system=[{"type": "text", "text": "You help."}])
    assert conversation_of(chat) == conversation_of(messages)


def test_a_cache_key_names_the_conversation_whatever_is_said() -> None:
    one = talk(("user", "Hello"), prompt_cache_key="session-1")
    two = talk(("user", "Something else"), prompt_cache_key="session-1")
    assert conversation_of(one) == conversation_of(two)
    assert conversation_of(one) != conversation_of({**one, "prompt_cache_key": "session-2"})


@given(st.text(), st.text())
def test_no_digest_shows_what_was_said(system: str, text: str) -> None:
    digest = conversation_of(talk(("system", system), ("user", text)))
    assert len(digest) == 32
    assert set(digest) <= set("0123456789abcdef")


def test_only_the_first_texts_of_a_beginning_are_looked_at() -> None:
    parts = [{"type": "text", "text": f"part {number}"} for number in range(SAME_TEXTS)]
    one = {"messages": [{"role": "user", "content": parts}]}
    more = {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "more"}]}]}
    other = {"messages": [{"role": "user", "content": [*parts[1:], parts[0]]}]}
    assert conversation_of(one) == conversation_of(more) != conversation_of(other)
