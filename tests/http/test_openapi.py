"""The generated document: sound, at least what was published, and true to what is answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from adapters.http.contract import Envelope, Operation, Repeat
from adapters.http.cors import EXPOSED
from adapters.http.errors import STATUS, envelope, oauth_envelope
from adapters.http.models_view import list_json, model_json
from adapters.http.openapi import PARAMETER, Route, document, routes_of
from adapters.http.schemas import AREAS, SCHEMAS
from kyma.catalog.filters import from_query
from kyma.catalog.text import ALIASES, TEXT_MODELS
from kyma.errors import Code, Refusal
from tests.http.wired import ask, gateway

PUBLISHED = orjson.loads((Path(__file__).parent / "published_openapi.json").read_bytes())
"""The document of the hosted service of May 17 2026, as it was published."""

ALL = [route for route in routes_of(gateway().quart) if route.operation is not None]
ROUTES = [route for route in ALL if route.operation is not None and route.operation.documented]
"""All but the pages, which are for people."""

OURS = document(ROUTES)
METHODS = {"get", "post", "put", "patch", "delete"}


def operations(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in found["paths"].items():
        for method in METHODS & set(item):
            yield path, method, item[method]


def walk(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    yield place, node
    if isinstance(node, dict):
        for name, child in node.items():
            yield from walk(child, f"{place}/{name}")
    elif isinstance(node, list):
        for child in node:
            yield from walk(child, f"{place}/*")


def resolved(found: dict[str, Any], node: Any) -> Any:
    while isinstance(node, dict) and "$ref" in node:
        where = node["$ref"].removeprefix("#/").split("/")
        node = found
        for step in where:
            node = node[step]
    return node


def properties(
    found: dict[str, Any], schema: Any, place: str = "", within: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """Every property below a schema by its path; alternatives share their parent's path."""
    if isinstance(schema, dict) and "$ref" in schema:
        if schema["$ref"] in within:  # a block may hold blocks
            return
        within = (*within, schema["$ref"])
    schema = resolved(found, schema)
    if not isinstance(schema, dict):
        return
    for name, child in schema.get("properties", {}).items():
        yield f"{place}.{name}", resolved(found, child)
        yield from properties(found, child, f"{place}.{name}", within)
    yield from properties(found, schema.get("items"), f"{place}[]", within)
    for word in ("oneOf", "anyOf", "allOf"):
        for child in schema.get(word, ()):
            yield place, resolved(found, child)
            yield from properties(found, child, place, within)


def enums(pairs: Iterator[tuple[str, Any]]) -> dict[str, set[Any]]:
    """What each property may be, where that is listed."""
    listed: dict[str, set[Any]] = {}
    for place, schema in pairs:
        if "enum" in schema or "const" in schema:
            listed.setdefault(place, set()).update(schema.get("enum", [schema.get("const")]))
    return listed


def check_superset(theirs: Any, ours: Any) -> None:
    """Every property of a published schema is in ours, and so is every value it may have."""
    known = {place for place, _ in properties(OURS, ours)}
    assert {place for place, _ in properties(PUBLISHED, theirs)} <= known
    listed = enums(properties(OURS, ours))
    for place, values in enums(properties(PUBLISHED, theirs)).items():
        if place in listed:  # where we list none, every value is allowed
            assert values <= listed[place], place


def test_every_published_operation_is_in_ours() -> None:
    ours = {(path, method) for path, method, _ in operations(OURS)}
    assert {(path, method) for path, method, _ in operations(PUBLISHED)} <= ours


@pytest.mark.parametrize(
    ("path", "method", "theirs"),
    [*operations(PUBLISHED)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_published_operation_is_kept(path: str, method: str, theirs: dict[str, Any]) -> None:
    ours = OURS["paths"][path][method]
    assert ours["operationId"] == theirs["operationId"]
    assert set(theirs["tags"]) <= set(ours["tags"])
    assert bool(theirs.get("security", PUBLISHED["security"])) == bool(ours["security"])
    parameters = {(one["in"], one["name"]): one["schema"] for one in ours["parameters"]}
    for parameter in theirs.get("parameters", ()):
        schema = parameters[parameter["in"], parameter["name"]]
        assert schema["type"] == parameter["schema"]["type"]
        assert set(parameter["schema"].get("enum", ())) <= set(schema.get("enum", ()))
    if "requestBody" in theirs:
        body = theirs["requestBody"]["content"]["application/json"]["schema"]
        check_superset(body, ours["requestBody"]["content"]["application/json"]["schema"])
        required = set(resolved(PUBLISHED, body)["required"])
        mine = ours["requestBody"]["content"]["application/json"]["schema"]
        assert set(resolved(OURS, mine)["required"]) <= required
    for status, given in theirs["responses"].items():
        answer = resolved(PUBLISHED, given)
        assert set(answer.get("headers", {})) <= set(ours["responses"][status]["headers"])
        for media, content in answer.get("content", {}).items():
            mine = ours["responses"][status]["content"][media]
            if "schema" in content:
                check_superset(content["schema"], mine["schema"])


@pytest.mark.parametrize("name", PUBLISHED["components"]["schemas"])
def test_a_published_schema_is_kept(name: str) -> None:
    check_superset(PUBLISHED["components"]["schemas"][name], SCHEMAS[name])


def test_the_published_security_and_tags_are_kept() -> None:
    assert PUBLISHED["security"][0] in OURS["security"]
    ours = OURS["components"]["securitySchemes"]
    for name, scheme in PUBLISHED["components"]["securitySchemes"].items():
        assert ours[name] == scheme
    assert {tag["name"] for tag in PUBLISHED["tags"]} <= {tag["name"] for tag in OURS["tags"]}


async def test_the_document_is_served_as_it_is_generated() -> None:
    answer = await ask(gateway(), "GET", "/v1/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert "max-age=300" in answer.headers["cache-control"]
    assert answer.json() == orjson.loads(orjson.dumps(OURS))
    assert answer.json()["openapi"] == "3.1.0"


def test_every_reference_leads_somewhere() -> None:
    references = [
        node["$ref"] for _, node in walk(OURS) if isinstance(node, dict) and "$ref" in node
    ]
    assert len(references) > 50
    for reference in references:
        assert resolved(OURS, {"$ref": reference}), reference


def test_every_schema_is_a_schema_and_its_examples_fit() -> None:
    for name, schema in SCHEMAS.items():
        Draft202012Validator.check_schema(schema)
        whole = {**schema, "components": {"schemas": SCHEMAS}}
        for example in schema.get("examples", ()):
            assert [*Draft202012Validator(whole).iter_errors(example)] == [], name


def test_every_named_schema_has_one_meaning_and_is_used() -> None:
    names = Counter(name for area in AREAS for name in area)
    assert [name for name, times in names.items() if times > 1] == []
    used = {
        node["$ref"].rsplit("/", 1)[1] for _, node in walk(OURS["paths"]) if "$ref" in _keys(node)
    }
    reached = set(used)
    while used:
        inner = {
            node["$ref"].rsplit("/", 1)[1]
            for name in used & set(SCHEMAS)
            for _, node in walk(SCHEMAS[name])
            if "$ref" in _keys(node)
        }
        used = inner - reached
        reached |= used
    assert set(SCHEMAS) - reached == set()


def _keys(node: Any) -> set[str]:
    return set(node) if isinstance(node, dict) else set()


def test_an_operation_lists_every_status_of_its_codes() -> None:
    for route in ROUTES:
        assert route.operation is not None
        told = described(route)["responses"]
        statuses = {str(STATUS[code][0]) for code in route.codes}
        assert statuses | {str(status) for status in route.operation.answers} == set(told)
        for status, answer in told.items():
            assert {"X-Kyma-Request-Id", "Server-Timing"} <= set(answer["headers"])
            left = {name for name in answer["headers"] if name.startswith("X-RateLimit-")}
            of_tokens = {name for name in left if name.endswith("-Tokens")}
            assert (len(left - of_tokens), len(of_tokens)) == (3, 0 if status == "401" else 2)
            if status == "429":
                assert "Retry-After" in answer["headers"]


def described(route: Route) -> dict[str, Any]:
    ids = {found["operationId"]: found for _, _, found in operations(OURS)}
    assert route.operation is not None
    found: dict[str, Any] = ids[route.operation.id]
    return found


def refusal_schema(operation_id: str, status: int) -> dict[str, Any]:
    ids = {found["operationId"]: found for _, _, found in operations(OURS)}
    schema = ids[operation_id]["responses"][str(status)]["content"]["application/json"]["schema"]
    return {**schema, "components": {"schemas": SCHEMAS}}


def test_a_refusal_with_a_declared_code_fits_and_with_another_does_not() -> None:
    schema = Draft202012Validator(refusal_schema("createChatCompletion", 400))
    assert schema.is_valid(envelope(Refusal(Code.INVALID_JSON, "No JSON."), "id"))
    assert not schema.is_valid(envelope(Refusal(Code.NOT_FOUND, "Nothing here."), "id"))
    assert not schema.is_valid({"error": {"message": "half an envelope"}})


def test_errors_speak_anthropic_and_oauth_on_their_paths_alone() -> None:
    for path, _, found in operations(OURS):
        names = {
            part["$ref"].rsplit("/", 1)[1]
            for status, answer in found["responses"].items()
            if int(status) >= 400
            for part in answer["content"]["application/json"]["schema"]["allOf"]
            if "$ref" in part
        }
        is_oauth = path in {"/auth/device/token", "/auth/token"}
        other = {"OAuthError"} if is_oauth else {"Error"}
        assert names == ({"AnthropicError"} if path.startswith("/messages") else other)


def test_a_refusal_in_oauths_words_fits_too() -> None:
    schema = Draft202012Validator(refusal_schema("pollDeviceToken", 428))
    refusal = Refusal(Code.SLOW_DOWN, "Slower.", details={"interval": 10})
    told = oauth_envelope(refusal, "id")
    assert (told["error"], told["code"], told["interval"]) == ("slow_down", "slow_down", 10)
    assert schema.is_valid(told)
    assert not schema.is_valid(envelope(refusal, "id"))


def test_pages_are_not_in_the_document_for_programs() -> None:
    hidden = {route.path for route in ALL} - {route.path for route in ROUTES}
    assert {"/signin", "/device", "/v1/auth/authorize", "/v1/auth/google/start"} <= hidden
    assert not {path.removeprefix("/v1") for path in hidden} & set(OURS["paths"])


@pytest.mark.parametrize("model", TEXT_MODELS, ids=lambda model: model.id)
def test_a_model_as_it_is_listed_fits_its_schema(model: Any) -> None:
    entry = orjson.loads(orjson.dumps(model_json(model)))
    schema = SCHEMAS["Model"]
    assert [*Draft202012Validator(schema).iter_errors(entry)] == []
    assert set(entry) == set(schema["properties"])
    assert set(entry["pricing"]) == set(schema["properties"]["pricing"]["properties"])


def test_the_list_of_models_fits_its_schema() -> None:
    body = orjson.loads(orjson.dumps(list_json(TEXT_MODELS, ALIASES)))
    schema = {**SCHEMAS["ModelList"], "components": {"schemas": SCHEMAS}}
    assert [*Draft202012Validator(schema).iter_errors(body)] == []


def test_the_filters_of_the_list_are_those_that_are_read() -> None:
    told = {one["name"] for one in OURS["paths"]["/models"]["get"]["parameters"]}
    given = dict.fromkeys(told, "")
    assert set(from_query(given).__slots__) == told


def test_every_header_of_the_document_can_be_read_by_a_browsers_script() -> None:
    exposed = {name.lower() for name in EXPOSED}
    for _, _, found in operations(OURS):
        for answer in found["responses"].values():
            assert {name.lower() for name in answer["headers"]} - {"cache-control"} <= exposed


def test_the_headers_of_anthropics_clients_are_told_where_they_are_read() -> None:
    theirs = {"anthropic-version", "anthropic-beta"}
    told = {
        path: theirs & {one["name"] for one in found["parameters"] if one["in"] == "header"}
        for path, _, found in operations(OURS)
    }
    assert {path for path, names in told.items() if names} == {
        "/messages",
        "/messages/count_tokens",
    }
    assert told["/messages"] == told["/messages/count_tokens"] == theirs


def test_what_lies_outside_the_base_says_so() -> None:
    plain = {PARAMETER.sub(r"{\1}", route.path) for route in ROUTES}
    outside = {path for path in plain if not path.startswith("/v1/")}
    assert {path for path, item in OURS["paths"].items() if "servers" in item} == outside
    assert {f"/v1{path}" for path in OURS["paths"] if path not in outside} == plain - outside


def test_a_streamed_answer_is_told_beside_the_whole_one() -> None:
    streamed = [
        route
        for route in ROUTES
        if route.operation is not None
        and any(answer.streamed for answer in route.operation.answers.values())
    ]
    assert streamed
    for route in streamed:
        assert set(described(route)["responses"]["200"]["content"]) == {
            "application/json",
            "text/event-stream",
        }


def test_what_is_posted_can_be_repeated_without_being_done_twice() -> None:
    told = set()
    for route in ROUTES:
        operation: Operation | None = route.operation
        assert operation is not None
        named = {one["name"] for one in described(route)["parameters"]}
        keyed = route.method == "POST" and operation.repeat is not Repeat.NEVER
        assert ("Idempotency-Key" in named) == keyed
        assert (Code.IDEMPOTENCY_KEY_REUSED in route.codes) == keyed
        assert (Code.IDEMPOTENCY_IN_PROGRESS in route.codes) == keyed
        if keyed:
            assert "Retry-After" in described(route)["responses"]["409"]["headers"]
            told.add(operation.id)
    assert {"createKey", "register", "quote", "countTokens", "createCheckout"} <= told


def test_the_envelope_of_an_operation_is_one_of_three() -> None:
    found = {route.operation.envelope for route in ROUTES if route.operation is not None}
    assert found <= set(Envelope)


def test_what_is_left_of_requests_is_promised_on_every_answer_and_of_tokens_to_accounts() -> None:
    promised = {
        name
        for name, header in OURS["components"]["headers"].items()
        if name.startswith("X-RateLimit-") and header["required"]
    }
    assert promised == {f"X-RateLimit-{word}-Requests" for word in ("Limit", "Remaining", "Reset")}


def test_every_operation_says_that_it_is_limited_but_those_that_count_nobody() -> None:
    free = {
        route.operation.id
        for route in ROUTES
        if route.operation is not None and "429" not in described(route)["responses"]
    }
    assert free == {"getHealth", "getReadiness", "billingWebhook"}
