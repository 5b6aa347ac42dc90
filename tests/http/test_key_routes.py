"""Keys and sessions over HTTP: what is shown, what is refused, and what a key may then do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from adapters.http.schemas import SCHEMAS
from kyma.throttles import LIMITS, Guarded
from tests.http.on_memory import SECRET, STRANGER, Place, a_body, a_place
from tests.http.wired import Answer

KEYS = "/v1/auth/keys"


def is_as_declared(name: str, body: dict[str, Any]) -> None:
    """As the document says, and not a property more: it might be a secret."""
    whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": dict(SCHEMAS)}}
    assert [error.message for error in Draft202012Validator(whole).iter_errors(body)] == []
    assert set(body) == set(SCHEMAS[name]["properties"])


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json()["error"]["code"]


async def created(place: Place, **fields: Any) -> dict[str, Any]:
    answer = await place.ask("POST", KEYS, {"name": "a key", **fields})
    assert answer.status == 201, answer.body
    body: dict[str, Any] = answer.json()
    return body


async def test_a_key_is_created_with_all_its_limits_and_its_secret_is_shown_once() -> None:
    place = await a_place()
    key = await created(
        place,
        name=" build server ",
        scopes=["inference"],
        allowed_models=["best"],
        monthly_cap_usd="0.25",
        ip_list=["127.0.0.0/8", "::1"],
        expires_at="2031-05-17T12:00:00+02:00",
        replay_minutes=5,
    )
    is_as_declared("KeyWithSecret", key)
    assert key.pop("api_key").startswith("ky-")
    listed = (await place.ask("GET", KEYS)).json()["data"]
    assert key in listed
    for one in listed:
        is_as_declared("Key", one)
    wanted = {
        "name": "build server",
        "scopes": ["inference"],
        "allowed_models": ["big"],
        "ip_list": ["127.0.0.0/8", "::1/128"],
        "monthly_cap": "0.25",
        "monthly_cap_usd": 0.25,
        "spent_this_month": "0",
        "cap_left": "0.25",
        "expires_at": "2031-05-17T10:00:00+00:00",
        "replay_minutes": 5,
        "last_used_at": None,
    }
    assert {name: key[name] for name in wanted} == wanted


async def test_a_key_without_wishes_has_no_limits_but_its_scopes() -> None:
    key = await created(await a_place())
    assert key["scopes"] == ["account.read", "inference"]
    limits = ("allowed_models", "ip_list", "monthly_cap", "expires_at", "cap_left")
    assert [key[name] for name in limits] == [[], [], None, None, None]


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({}, (400, "missing_required_parameter")),
        ({"name": 5}, (400, "invalid_type")),
        ({"name": "  "}, (400, "invalid_value")),
        ({"name": "x", "monthly_cap": 5}, (400, "invalid_value")),
        ({"name": "x", "monthly_cap_usd": -1}, (400, "invalid_value")),
        ({"name": "x", "monthly_cap_usd": 1e9}, (400, "invalid_value")),
        ({"name": "x", "monthly_cap_usd": "much"}, (400, "invalid_value")),
        ({"name": "x", "monthly_cap_usd": True}, (400, "invalid_type")),
        ({"name": "x", "scopes": "inference"}, (400, "invalid_type")),
        ({"name": "x", "scopes": []}, (400, "invalid_value")),
        ({"name": "x", "scopes": ["root"]}, (400, "invalid_value")),
        ({"name": "x", "allowed_models": ["gpt-17"]}, (404, "model_not_found")),
        ({"name": "x", "allowed_models": ["big"] * 101}, (400, "invalid_value")),
        ({"name": "x", "ip_list": ["10.0.0.1/8"]}, (400, "invalid_value")),
        ({"name": "x", "ip_list": [5]}, (400, "invalid_type")),
        ({"name": "x", "expires_at": "tomorrow"}, (400, "invalid_value")),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, (400, "invalid_value")),
        ({"name": "x", "expires_at": 5}, (400, "invalid_type")),
        ({"name": "x", "replay_minutes": 11}, (400, "invalid_value")),
        (b"{", (400, "invalid_json")),
    ],
)
async def test_a_bad_wish_makes_no_key(body: Any, refused: tuple[int, str]) -> None:
    place = await a_place()
    before = len(place.store.keys)
    assert code(await place.ask("POST", KEYS, body)) == refused
    assert len(place.store.keys) == before


async def test_a_keys_owner_allows_replay_and_every_process_is_told() -> None:
    place = await a_place()
    path = f"{KEYS}/{place.key.id}"
    answer = await place.ask("PATCH", path, {"replay_minutes": 10})
    assert answer.status == 200
    is_as_declared("Key", answer.json())
    assert answer.json()["replay_minutes"] == 10
    assert place.principals.forgotten == [place.account.id]
    listed = (await place.ask("GET", KEYS)).json()["data"]
    assert [key["replay_minutes"] for key in listed] == [10]
    answer = await place.ask("PATCH", path, {"replay_minutes": 0})
    assert answer.json()["replay_minutes"] == 0


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({}, "missing_required_parameter"),
        ({"replay_minutes": 11}, "invalid_value"),
        ({"replay_minutes": -1}, "invalid_value"),
        ({"replay_minutes": 1.5}, "invalid_type"),
        ({"replay_minutes": True}, "invalid_type"),
        ({"replay_minutes": "10"}, "invalid_type"),
        ({"name": None}, "missing_required_parameter"),
        ({"digest": "00"}, "invalid_value"),
        (b"{", "invalid_json"),
    ],
)
async def test_a_bad_change_of_a_key_changes_nothing(body: Any, refused: str) -> None:
    place = await a_place()
    answer = await place.ask("PATCH", f"{KEYS}/{place.key.id}", body)
    assert code(answer) == (400, refused)
    kept = place.store.keys[place.key.id]
    assert (kept.name, kept.digest, kept.policy) == (
        place.key.name,
        place.key.digest,
        place.key.policy,
    )
    assert kept.replay_minutes == place.key.replay_minutes


async def test_limits_are_lifted_by_null() -> None:
    place = await a_place()
    limits = {"monthly_cap_usd": 1, "allowed_models": ["big"], "ip_list": ["::1"]}
    key = await created(place, **limits, expires_at="2031-01-01T00:00:00Z")
    lifted = dict.fromkeys([*limits, "expires_at"])
    answer = await place.ask("PATCH", f"{KEYS}/{key['id']}", lifted)
    found = answer.json()
    assert [found["monthly_cap"], found["expires_at"], found["cap_left"]] == [None] * 3
    assert [found["allowed_models"], found["ip_list"]] == [[], []]


async def test_nobody_changes_rotates_or_revokes_anothers_key() -> None:
    place = await a_place()
    path = f"{KEYS}/{place.key.id}"
    for method, end, body in (
        ("PATCH", "", {"name": "x"}),
        ("POST", "/rotate", {"overlap_hours": 0}),
        ("DELETE", "", None),
    ):
        assert (await place.ask(method, path + end, body, secret=STRANGER)).status == 404
        assert (await place.ask(method, path + end, body, secret=None)).status == 401
        assert (await place.ask(method, f"{KEYS}/x{end}", body)).status == 404
    assert (await place.ask("GET", KEYS)).status == 200


async def test_a_rotated_key_answers_to_both_secrets_until_the_overlap_ends() -> None:
    place = await a_place()
    path = f"{KEYS}/{place.key.id}/rotate"
    answer = await place.ask("POST", path, {"overlap_hours": 2})
    assert answer.status == 200
    body = answer.json()
    is_as_declared("KeyWithSecret", body)
    assert body["id"] == place.key.id
    until = datetime.fromisoformat(body["previous_secret_until"])
    assert abs(until - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=1)
    for secret in (SECRET, body["api_key"]):
        assert (await place.ask("GET", KEYS, secret=secret)).status == 200
    answer = await place.ask("POST", path, {"overlap_hours": 0}, secret=body["api_key"])
    assert answer.json()["previous_secret_until"] is None
    for secret in (SECRET, body["api_key"]):
        assert code(await place.ask("GET", KEYS, secret=secret)) == (401, "invalid_api_key")


@pytest.mark.parametrize("hours", [-1, 169, None, 1.5, "1"])
async def test_an_overlap_is_whole_hours_within_bounds(hours: Any) -> None:
    place = await a_place()
    path = f"{KEYS}/{place.key.id}/rotate"
    assert (await place.ask("POST", path, {"overlap_hours": hours})).status == 400
    assert place.store.keys[place.key.id].digest == place.key.digest


# What a key may do.


async def asked(place: Place, key: dict[str, Any], **body: Any) -> Answer:
    return await place.ask("POST", "/v1/chat/completions", a_body(**body), secret=key["api_key"])


async def test_a_key_for_one_model_reaches_no_other_not_by_alias_nor_as_a_substitute() -> None:
    place = await a_place()
    key = await created(place, allowed_models=["big"])
    assert (await asked(place, key)).status == 200
    assert (await asked(place, key, model="best")).status == 200
    others = {model.id for model in place.catalogue.models()} - {"big"}
    for other in others:
        answer = await asked(place, key, model=other)
        assert code(answer) == (403, "model_not_allowed")
        assert answer.json()["error"]["allowed_models"] == ["big"]
    quote = await place.ask("POST", "/v1/quote", a_body(), secret=key["api_key"])
    assert {one["model"] for one in quote.json()["served_by"]} == {"big"}
    quote = await place.ask("POST", "/v1/quote", a_body(others.pop()), secret=key["api_key"])
    assert code(quote) == (403, "model_not_allowed")


async def test_a_key_at_its_cap_is_told_what_is_left_and_charged_nothing() -> None:
    place = await a_place()
    key = await created(place, monthly_cap_usd="0.0000001")
    before = await place.ledger.balance(place.account.id)
    answer = await asked(place, key)
    assert code(answer) == (402, "key_cap_reached")
    error = answer.json()["error"]
    assert (error["cap_left"], error["charged"]) == ("0.0000001", False)
    assert await place.ledger.balance(place.account.id) == before
    assert (await place.chat()).status == 200


async def test_what_a_capped_key_spends_is_shown() -> None:
    place = await a_place()
    key = await created(place, monthly_cap_usd=1)
    assert (await asked(place, key)).status == 200
    (shown,) = [
        one for one in (await place.ask("GET", KEYS)).json()["data"] if one["id"] == key["id"]
    ]
    spent = await place.spent()
    assert spent > 0
    assert shown["spent_this_month"] == f"{spent / 10**9:.9f}".rstrip("0")
    assert shown["last_used_at"] is not None


async def test_a_key_that_is_not_for_here_is_refused_here() -> None:
    place = await a_place()
    here = await created(place, ip_list=["127.0.0.1"])
    there = await created(place, ip_list=["203.0.113.0/24"])
    assert (await asked(place, here)).status == 200
    for answer in (
        await asked(place, there),
        await place.ask("GET", KEYS, secret=there["api_key"]),
        await place.ask("GET", KEYS, secret=there["api_key"], X_Forwarded_For="203.0.113.9"),
    ):
        assert code(answer) == (403, "ip_not_allowed")


async def test_an_expired_key_says_that_it_is() -> None:
    place = await a_place()
    soon = datetime.now(UTC) + timedelta(hours=1)
    key = await created(place, expires_at=soon.isoformat())
    assert (await asked(place, key)).status == 200
    held = place.store.keys[key["id"]]
    past = datetime.now(UTC) - timedelta(seconds=1)
    over = replace(held.policy, expires_at=past)
    place.store.keys[key["id"]] = replace(held, policy=over)
    answer = await asked(place, key)
    assert code(answer) == (401, "expired_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("inference", "POST /v1/quote"),
        ("account.read", "GET /v1/auth/keys"),
        ("keys.manage", "POST /v1/auth/keys"),
    ],
)
async def test_a_scope_opens_its_own_routes_alone(scope: str, allowed: str) -> None:
    place = await a_place()
    key = await created(place, scopes=[scope])
    child = {"name": "child", "scopes": ["keys.manage"]}
    bodies = {"POST /v1/quote": a_body(), "GET /v1/auth/keys": None, "POST /v1/auth/keys": child}
    for route, body in bodies.items():
        method, path = route.split()
        answer = await place.ask(method, path, body, secret=key["api_key"])
        if route == allowed:
            assert answer.status in {200, 201}
        else:
            assert code(answer) == (403, "insufficient_scope")


async def test_a_key_that_may_do_little_locks_nobody_out() -> None:
    place = await a_place()
    small = await created(place, scopes=["keys.manage"], monthly_cap_usd=1)
    master = (await created(place))["id"]
    for method, path in (
        ("DELETE", f"{KEYS}/{master}"),
        ("DELETE", f"{KEYS}/{place.key.id}"),
        ("DELETE", "/v1/auth/sessions/00000000000000000000000000000000"),
        ("POST", "/v1/auth/logout/all"),
    ):
        answer = await place.ask(method, path, secret=small["api_key"])
        assert code(answer) == (403, "forbidden")
    assert (await place.ask("GET", "/v1/auth/me")).status == 200
    itself = await place.ask("DELETE", f"{KEYS}/{small['id']}", secret=small["api_key"])
    assert itself.status == 200


async def test_text_routes_need_the_scope_of_inference() -> None:
    place = await a_place()
    key = await created(place, scopes=["account.read"])
    assert code(await asked(place, key)) == (403, "insufficient_scope")
    answer = await place.ask("POST", "/v1/messages", {}, secret=key["api_key"])
    assert (answer.status, answer.json()["error"]["type"]) == (403, "permission_error")


# Sessions and the throttle.


async def signed_in(place: Place, address: str = "ana@example.com") -> list[str]:
    """The tokens of two sessions of a new account."""
    welcome = await place.ask(
        "POST", "/v1/auth/register", {"email": address, "password": "secret-1"}, secret=None
    )
    login = await place.ask(
        "POST",
        "/v1/auth/login",
        {"email": address, "password": "secret-1"},
        secret=None,
        User_Agent="curl/8.9",
    )
    return [answer.json()["session_token"] for answer in (welcome, login)]


async def test_sessions_are_listed_without_their_tokens_and_ended_one_by_one() -> None:
    place = await a_place()
    first, second = await signed_in(place)
    body = (await place.ask("GET", "/v1/auth/sessions", secret=second)).json()
    is_as_declared("SessionList", body)
    for session in body["data"]:
        is_as_declared("Session", session)
    assert [(one["user_agent"], one["current"]) for one in body["data"]] == [
        ("curl/8.9", True),
        ("", False),
    ]
    path = f"/v1/auth/sessions/{body['data'][1]['id']}"
    assert (await place.ask("DELETE", path)).status == 404
    assert (await place.ask("DELETE", path, secret=second)).status == 200
    assert code(await place.ask("GET", "/v1/auth/sessions", secret=first))[0] == 401
    assert (await place.ask("DELETE", path, secret=second)).status == 404


async def test_logging_out_ends_this_session_and_everywhere_ends_all() -> None:
    place = await a_place()
    first, second = await signed_in(place)
    answer = await place.ask("POST", "/v1/auth/logout", secret=first)
    is_as_declared("SignedOut", answer.json())
    assert (await place.ask("GET", "/v1/auth/me", secret=first)).status == 401
    assert (await place.ask("GET", "/v1/auth/me", secret=second)).status == 200
    answer = await place.ask("POST", "/v1/auth/logout/all", secret=second)
    assert answer.json()["sessions_ended"] == 1
    assert (await place.ask("GET", "/v1/auth/me", secret=second)).status == 401
    assert code(await place.ask("POST", "/v1/auth/logout")) == (403, "forbidden")


async def test_a_session_may_do_what_the_first_key_may() -> None:
    place = await a_place()
    token, _ = await signed_in(place)
    for path in (KEYS, "/v1/auth/sessions", "/v1/auth/me", "/v1/credits/balance"):
        assert (await place.ask("GET", path, secret=token)).status == 200
    answer = await place.ask("POST", KEYS, {"name": "mine"}, secret=token)
    assert answer.status == 201


async def test_guessing_is_answered_with_when_to_come_back() -> None:
    place = await a_place()
    await signed_in(place)
    for address in ("ana@example.com", "nobody@example.com"):
        body = {"email": address, "password": "guess-1"}
        answers = [
            await place.ask("POST", "/v1/auth/login", body, secret=None)
            for _ in range(LIMITS[Guarded.LOGIN].per_subject + 1)
        ]
        assert {answer.status for answer in answers[:-1]} == {401}
        assert code(answers[-1]) == (429, "too_many_attempts")
        assert 0 < int(answers[-1].headers["retry-after"]) <= LIMITS[Guarded.LOGIN].window_s
        assert answers[-1].json()["error"]["retryable"] is True
