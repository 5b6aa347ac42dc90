"""Everything that needs no key, over memory adapters: shapes, figures, limits of what is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from dependency_injector import providers
from jsonschema import Draft202012Validator, FormatChecker

from adapters.container import Container
from adapters.embedded.screen import model_to_try
from adapters.http.agents_view import KEY, is_private
from adapters.http.openapi import PARAMETER, document, routes_of
from adapters.memory.reports import MemoryProbes, MemoryReports
from adapters.memory.runtime import MemoryClock, MemoryHealth
from adapters.memory.storage import MemoryAccounts, MemoryStore
from adapters.settings import Settings
from adapters.upstreams.providers import PROVIDERS
from kyma.accounts import Account
from kyma.calls import Fault
from kyma.catalog.recommend import AGENTS, USES
from kyma.catalog.text import ALIASES, TEXT_MODELS
from kyma.errors import Code
from kyma.money import Usd, usd
from kyma.ports.storage import Principal, StorageUnavailable
from kyma.routing import Health
from kyma.tiers import TIERS
from kyma.traffic import Probe, Traffic
from kyma.usage import Attempt, Usage, UsageRecord
from tests.builders import a_record, new_id

PUBLIC_URL = "https://llm.example.com"
SECRET_ACCOUNT = "account-that-nobody-may-see"

PUBLIC = (
    *("/v1/models", "/v1/models/qwen-3.6-plus", "/v1/models/best", "/v1/models/recommend"),
    *("/v1/config", "/v1/capabilities", "/v1/pricing", "/v1/credits/pricing"),
    *("/v1/limits/tiers", "/v1/models/uptime", "/v1/status", "/v1/rankings"),
    *("/v1/rankings?tab=cache", "/registry/image-models.json", "/healthz", "/readyz"),
    *("/api/badge/models.json", "/api/badge/creators.json", "/api/badge/free-credit.json"),
    *(f"/v1/models/recommend?agent={agent}" for agent in AGENTS),
    *(f"/v1/models/recommend?usecase={use}" for use in USES),
)


class CountedReports(MemoryReports):
    """Knows how often it was asked, and can be away."""

    def __init__(self, records: list[UsageRecord], accounts: dict[str, Account]) -> None:
        super().__init__(records, accounts)
        self.asked = 0
        self.away = False

    async def traffic(self, since: datetime) -> Sequence[Traffic]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise StorageUnavailable("away")
        return await super().traffic(since)


class AccountsThatMayBeAway(MemoryAccounts):
    """What readiness asks."""

    away: BaseException | None = None

    async def principal(self, digest: bytes) -> Principal | None:
        if self.away is not None:
            raise self.away
        return await super().principal(digest)


@dataclass
class StillPulse:
    """Answers what it is told."""

    redis: bool = True
    worker: bool | None = True

    async def redis_answers(self) -> bool:
        return self.redis

    async def worker_beats(self) -> bool | None:
        return self.worker


@dataclass
class Stage:
    clock: MemoryClock = field(default_factory=MemoryClock)
    records: list[UsageRecord] = field(default_factory=list)
    pulse: StillPulse = field(default_factory=StillPulse)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        store = MemoryStore(now=self.clock.now)
        self.accounts = AccountsThatMayBeAway(store)
        self.reports = CountedReports(self.records, {})
        self.probes = MemoryProbes(self.clock.now)
        self.board = MemoryHealth(lambda: self.clock.now().timestamp())
        settings = {
            "database_url": "postgresql://nobody@127.0.0.1:1/none",
            "redis_url": "redis://127.0.0.1:1/0",
            "key_pepper": "test-pepper-" + "0" * 32,
            "public_url": PUBLIC_URL,
            "sandbox": "on",
            "sandbox_url": "http://127.0.0.1:1/v1",
            **self.settings,
        }
        container = Container(settings=Settings(**settings))
        for name in ("accounts", "reports", "probes", "board", "clock", "pulse"):
            getattr(container, name).override(providers.Object(getattr(self, name)))
        self.catalogue = container.catalogue()
        self.app = container.gateway().quart

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Any:
        return await self.app.test_client().get(path, headers=dict(headers or {}))

    async def json(self, path: str, status: int = 200) -> Any:
        answer = await self.get(path)
        assert answer.status_code == status, await answer.get_data()
        return json.loads(await answer.get_data())

    def use(self, outcome: str = "ok", **changes: Any) -> None:
        named = {"started_at": self.clock.now() - timedelta(minutes=1), "outcome": outcome}
        self.records.append(a_record(SECRET_ACCOUNT, new_id(), **{**named, **changes}))


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture(scope="module")
def furnished() -> Stage:
    """One that somebody has used, for all who only look: to wire one takes a tenth of a second."""
    stage = Stage()
    stage.use(attempts=(Attempt("sandbox", "q", 0, "ok", 4),))
    return stage


@pytest.fixture(scope="module")
def described(furnished: Stage) -> dict[str, Any]:
    """The document of its routes."""
    return document(routes_of(furnished.app))


def only_groq() -> Stage:
    return Stage(settings={"sandbox": "off", "sandbox_url": "", "provider_keys": {"groq": "k"}})


def row(body: Any, id: str, name: str = "id") -> Any:
    (found,) = [entry for entry in body["data"] if entry[name] == id]
    return found


@pytest.mark.parametrize("path", PUBLIC)
async def test_every_answer_is_as_documented(
    furnished: Stage, described: dict[str, Any], path: str
) -> None:
    await furnished.probes.add([Probe("sandbox", "ok", 3)])
    matched = [
        item["get"]
        for template, item in described["paths"].items()
        if template in {path.partition("?")[0], path.partition("?")[0].removeprefix("/v1")}
    ] or [described["paths"]["/models/{model_id}"]["get"]]
    schema = matched[0]["responses"]["200"]["content"]["application/json"]["schema"]
    schema = {**schema, "components": described["components"]}
    body = await furnished.json(path)
    checker = Draft202012Validator(schema, format_checker=FormatChecker())
    assert [error.message for error in checker.iter_errors(body)] == []


@pytest.mark.parametrize("path", [*PUBLIC, "/llms.txt"])
async def test_no_answer_needs_a_key_or_minds_a_wrong_one(furnished: Stage, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}):
        assert (await furnished.get(path, headers)).status_code == 200


@pytest.mark.parametrize("path", [*PUBLIC, "/llms.txt"])
async def test_no_customer_is_in_any_public_answer(furnished: Stage, path: str) -> None:
    answer = await furnished.get(path)
    assert SECRET_ACCOUNT not in (await answer.get_data()).decode()


async def test_the_list_holds_what_is_served_here_and_nothing_else() -> None:
    stage = only_groq()
    body = await stage.json("/v1/models")
    ids = {entry["id"] for entry in body["data"]}
    assert "llama-3.3-70b" in ids
    assert "claude-opus-4-7" not in ids
    assert ids == {m.id for m in stage.catalogue.models() if stage.catalogue.routes(m)}
    assert set(body["aliases"].values()) <= ids
    pricing = await stage.json("/v1/pricing")
    assert {entry["id"] for entry in pricing["text"]} == ids


@pytest.mark.parametrize("provider", [name for name, row in PROVIDERS.items() if row.key_env])
async def test_whatever_provider_is_configured_alone_the_first_request_that_is_shown_works(
    provider: str,
) -> None:
    settings = {"sandbox": "off", "sandbox_url": "", "provider_keys": {provider: "k"}}
    stage = Stage(settings=settings)
    model = model_to_try(await stage.json("/v1/models"))
    assert model is not None
    assert stage.catalogue.routes(stage.catalogue.find(model)[0])


FILTERS = {
    "recommended_for=coding": lambda m: "coding" in m["recommended_for"],
    "recommended_for=math,bulk": lambda m: {"math", "bulk"} & set(m["recommended_for"]),
    "tools=true": lambda m: m["supports_tools"],
    "vision=true": lambda m: m["supports_vision"],
    "vision=false": lambda m: not m["supports_vision"],
    "reasoning=true": lambda m: m["supports_reasoning"],
    "structured_outputs=false": lambda m: not m["supports_structured_outputs"],
    "latency_tier=fast": lambda m: m["latency_tier"] == "fast",
    "cost_tier=cheap": lambda m: m["cost_tier"] == "cheap",
    "quality_tier=frontier-open": lambda m: m["quality_tier"] == "frontier-open",
    "min_context_window=200000": lambda m: m["context_window"] >= 200_000,
    "max_input_price=0.2": lambda m: m["pricing"]["input_per_1m"] <= 0.2,
    "tier=quality": lambda m: m["tier"] == "quality",
    "capability=chat": lambda m: m["capability"] == "chat",
    "vision=true&cost_tier=cheap&max_input_price=0.19": lambda m: m["id"] == "gemma-4-31b",
}
"""Every filter of the published document, and the two of the changelog."""


@pytest.mark.parametrize("query", FILTERS)
async def test_each_filter_selects_exactly_what_it_says(furnished: Stage, query: str) -> None:
    everything = (await furnished.json("/v1/models"))["data"]
    expected = [entry["id"] for entry in everything if FILTERS[query](entry)]
    found = (await furnished.json(f"/v1/models?{query}"))["data"]
    assert [entry["id"] for entry in found] == expected
    assert expected


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/models?tools=perhaps", "/v1/models?cost_tier=free", "/v1/models?tier=gold"),
        *("/v1/models?min_context_window=-1", "/v1/models?max_input_price=NaN"),
        *("/v1/models/recommend?agent=emacs", "/v1/models/recommend?usecase=poetry"),
        *("/v1/models/recommend?for=poetry", "/v1/rankings?tab=customers"),
    ],
)
async def test_a_bad_value_is_refused_by_name_with_what_is_allowed(
    furnished: Stage, path: str
) -> None:
    error = (await furnished.json(path, 400))["error"]
    name = path.partition("?")[2].partition("=")[0]
    assert (error["code"], error["param"], error["charged"]) == ("invalid_value", name, False)


async def test_an_alias_is_as_good_as_an_id(furnished: Stage) -> None:
    for alias, id in ALIASES.items():
        assert await furnished.json(f"/v1/models/{alias}") == await furnished.json(
            f"/v1/models/{id}"
        )
    error = (await furnished.json("/v1/models/gpt-9", 404))["error"]
    assert error["code"] == "model_not_found"


@pytest.mark.parametrize("agent", AGENTS)
async def test_each_agent_gets_a_ready_configuration(furnished: Stage, agent: str) -> None:
    body = await furnished.json(f"/v1/models/recommend?agent={agent}")
    text = json.dumps(body["config"])
    assert body["agent"] == agent
    assert body["model"] in text
    assert KEY in text
    assert PUBLIC_URL in text
    assert {"env", "files", "settings"} & set(body["config"])


async def test_claude_code_is_told_the_base_url_without_a_version(stage: Stage) -> None:
    body = await stage.json("/v1/models/recommend?agent=claude-code")
    env = body["config"]["env"]
    assert env["ANTHROPIC_BASE_URL"] == PUBLIC_URL
    assert env["ANTHROPIC_AUTH_TOKEN"] == KEY
    assert env["ANTHROPIC_MODEL"] == env["ANTHROPIC_DEFAULT_SONNET_MODEL"] == body["model"]
    assert env["ANTHROPIC_SMALL_FAST_MODEL"] == env["ANTHROPIC_DEFAULT_HAIKU_MODEL"]
    assert env["ANTHROPIC_SMALL_FAST_MODEL"] == body["fast_model"]
    (file,) = body["config"]["files"]
    assert (file["path"], file["content"]) == ("~/.claude/settings.json", {"env": env})


async def test_claude_code_is_told_of_a_model_that_writes_less_than_it_asks_for() -> None:
    stage = only_groq()
    body = await stage.json("/v1/models/recommend?agent=claude-code")
    limit = (await stage.json(f"/v1/models/{body['model']}"))["max_output_tokens"]
    assert limit < 32_000
    assert body["config"]["env"]["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == str(limit)


@pytest.mark.parametrize("agent", ["opencode", "kilo-code"])
async def test_agents_on_the_ai_sdk_get_a_provider_of_their_own(
    furnished: Stage, agent: str
) -> None:
    body = await furnished.json(f"/v1/models/recommend?agent={agent}")
    content = body["config"]["files"][0]["content"]
    provider = content["provider"]["kyma"]
    assert provider["npm"] == "@ai-sdk/openai-compatible"
    assert provider["options"]["baseURL"] == f"{PUBLIC_URL}/v1"
    for name in (content["model"], content["small_model"]):
        assert name.removeprefix("kyma/") in provider["models"]
    window = (await furnished.json(f"/v1/models/{body['model']}"))["context_window"]
    assert provider["models"][body["model"]]["limit"]["context"] == window


async def test_openclaw_and_roo_code_and_aider_get_their_files(stage: Stage) -> None:
    claw = (await stage.json("/v1/models/recommend?agent=openclaw"))["config"]["files"][0]
    provider = claw["content"]["models"]["providers"]["kyma"]
    assert (provider["api"], provider["baseUrl"]) == ("openai-completions", f"{PUBLIC_URL}/v1")
    primary = claw["content"]["agents"]["defaults"]["model"]["primary"]
    assert primary == f"kyma/{provider['models'][0]['id']}"
    roo = (await stage.json("/v1/models/recommend?agent=roo-code"))["config"]["files"][0]
    profiles = roo["content"]["providerProfiles"]
    assert profiles["apiConfigs"][profiles["currentApiConfigName"]]["apiProvider"] == "openai"
    aider = (await stage.json("/v1/models/recommend?agent=aider"))["config"]
    assert aider["env"]["OPENAI_API_BASE"] == f"{PUBLIC_URL}/v1"
    assert "--model openai/" in aider["command"]


async def test_cursor_is_warned_of_an_address_it_cannot_reach(stage: Stage) -> None:
    def notes(body: Any) -> str:
        return " ".join(body["config"]["notes"])

    assert "reachable" not in notes(await stage.json("/v1/models/recommend?agent=cursor"))
    here = Stage(settings={"public_url": ""})
    assert "reachable" in notes(await here.json("/v1/models/recommend?agent=cursor"))


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://192.168.1.4", True),
        ("http://[::1]:8080", True),
        ("http://localhost:8080", True),
        ("http://gateway.local", True),
        ("https://8.8.8.8", False),
        ("https://llm.example.com", False),
    ],
)
def test_an_address_of_this_network_is_known_as_one(url: str, private: bool) -> None:
    assert is_private(url) is private


async def test_without_an_agent_the_sdk_variables_are_given(stage: Stage) -> None:
    body = await stage.json("/v1/models/recommend?for=cheap")
    assert (body["agent"], body["usecase"]) == (None, "cheap")
    assert body["config"]["env"]["OPENAI_BASE_URL"] == f"{PUBLIC_URL}/v1"
    assert body["config"]["request"]["body"]["model"] == body["model"]


async def test_what_cannot_be_recommended_is_a_clear_404() -> None:
    error = (await only_groq().json("/v1/models/recommend?for=vision", 404))["error"]
    assert error["code"] == "model_not_found"


TIER_0 = {
    "tier": 0,
    "name": "Tier 0",
    "min_deposit": 0,
    "rpm": 30,
    "per_model_rpm": 25,
    "tpm": 200000,
    "max_single_request": 200000,
    "image_concurrent": 2,
    "image_queue_depth_cap": 6,
    "video_concurrent": 0,
    "video_queue_depth_cap": 0,
    "audio_concurrent": 2,
    "audio_concurrent_per_provider": {
        "groq": 1,
        "vertex": 2,
        "elevenlabs": 1,
        "minimax": 1,
        "openai": 1,
    },
}
"""As the docs page api-reference/limits-tiers prints it."""


async def test_the_tier_matrix_is_the_documented_one(stage: Stage) -> None:
    answer = await stage.get("/v1/limits/tiers")
    body = json.loads(await answer.get_data())
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    assert (body["object"], len(body["tiers"])) == ("tier.matrix", len(TIERS))
    assert body["tiers"][0] == TIER_0
    assert list(body["tiers"][0]) == list(TIER_0)
    assert type(body["tiers"][1]["min_deposit"]) is int
    media = ("image_concurrent", "image_queue_depth_cap", "video_concurrent")
    shown = [[tier[name] for name in media] for tier in body["tiers"]]
    assert shown == [[2, 6, 0], [10, 30, 4], [20, 60, 8], [28, 84, 10], [38, 0, 38]]
    assert [tier["video_queue_depth_cap"] for tier in body["tiers"]] == [0, 12, 24, 30, 0]
    assert body["tiers"][4]["combined_media_concurrent"] == 38
    assert body["tiers"][4]["combined_queue_depth_cap"] == 114
    assert all("combined_media_concurrent" not in tier for tier in body["tiers"][:4])


async def test_the_pricing_catalogue_is_complete_and_sorted(stage: Stage) -> None:
    answer = await stage.get("/v1/pricing")
    body = json.loads(await answer.get_data())
    assert answer.headers["Cache-Control"] == "public, max-age=60"
    ids = [entry["id"] for entry in body["text"]]
    assert ids == sorted(ids)
    assert (body["text_count"], body["media_count"]) == (len(ids), len(body["media"]))
    assert [e for e in body["text"] if e["id"] == "deepseek-v3"] == [
        {
            "id": "deepseek-v3",
            "name": "DeepSeek V3",
            "input_per_1m": 0.81,
            "output_per_1m": 2.3,
            "cached_input_per_1m": 0.081,
        }
    ]


async def test_every_price_is_the_same_wherever_it_stands(stage: Stage) -> None:
    listed = {m["id"]: m["pricing"] for m in (await stage.json("/v1/models"))["data"]}
    for path, name in (("/v1/pricing", "text"), ("/v1/credits/pricing", "data")):
        rows = (await stage.json(path))[name]
        assert {r["id"] for r in rows} == set(listed)
        for entry in rows:
            price = listed[entry["id"]]
            assert entry["input_per_1m"] == price["input_per_1m"] == price["input"]
            assert entry["output_per_1m"] == price["output_per_1m"] == price["output"]


async def test_capabilities_promise_what_the_faq_says(stage: Stage) -> None:
    body = await stage.json("/v1/capabilities")
    assert body["limits"]["gateway_output_limit"] is None
    assert body["limits"]["max_tokens_passthrough"] is True
    assert body["limits"]["default_max_tokens"] == 4096
    assert body["models"]["count"] == len((await stage.json("/v1/models"))["data"])
    assert body["privacy"]["prompts_stored"] is False


async def test_only_endpoints_that_exist_are_promised(stage: Stage) -> None:
    rules = {PARAMETER.sub("{id}", rule.rule) for rule in stage.app.url_map.iter_rules()}
    config = await stage.json("/v1/config")
    assert {url.removeprefix(PUBLIC_URL) for url in config["endpoints"].values()} <= rules
    assert len(config["endpoints"]) > 10
    flags = (await stage.json("/v1/capabilities"))["compatibility"]
    assert flags["openai_chat_completions"] is True
    assert flags["anthropic_messages"] is ("/v1/messages" in rules)
    assert flags["openai_responses"] is ("/v1/responses" in rules)
    assert ("anthropic" in config["formats"]) is ("/v1/messages" in rules)


async def test_the_configuration_is_enough_to_begin_with(stage: Stage) -> None:
    body = await stage.json("/v1/config")
    assert body["base_url"] == f"{PUBLIC_URL}/v1"
    assert body["default_model"] == ALIASES["best"]
    assert set(body["recommended_models"]) == set(USES)
    ids = {model["id"] for model in body["models"]}
    assert ids == {model["id"] for model in (await stage.json("/v1/models"))["data"]}
    assert {body["default_model"], *body["recommended_models"].values()} <= ids


async def test_without_a_public_url_the_own_address_is_given() -> None:
    stage = Stage(settings={"public_url": "", "port": 9099})
    assert (await stage.json("/v1/config"))["base_url"] == "http://127.0.0.1:9099/v1"


async def test_llms_text_names_every_model_and_endpoint(stage: Stage) -> None:
    answer = await stage.get("/llms.txt")
    text = (await answer.get_data()).decode()
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert text.startswith("# Kyma API\n\n> ")
    for model in (await stage.json("/v1/models"))["data"]:
        assert f"- {model['id']}: " in text
    for url in (await stage.json("/v1/config"))["endpoints"].values():
        assert url in text


async def test_badges_are_what_shields_reads(stage: Stage) -> None:
    models = (await stage.json("/v1/models"))["data"]
    badge = await stage.json("/api/badge/models.json")
    assert (badge["schemaVersion"], badge["message"]) == (1, str(len(models)))
    creators = await stage.json("/api/badge/creators.json")
    assert creators["message"] == str(len({model["owned_by"] for model in models}))
    assert (await stage.json("/api/badge/free-credit.json"))["message"] == "$0.50"


async def test_the_image_registry_has_its_shape_and_no_model_that_is_not_there(
    stage: Stage,
) -> None:
    body = await stage.json("/registry/image-models.json")
    assert set(body) == {"object", "updated_at", "models"}
    assert (body["object"], body["models"]) == ("registry", [])
    assert datetime.fromisoformat(body["updated_at"]) == stage.clock.now()


@pytest.mark.parametrize("path", [*PUBLIC[:9], "/llms.txt"])
async def test_who_has_an_answer_already_gets_no_body(furnished: Stage, path: str) -> None:
    first = await furnished.get(path)
    assert "public, max-age=" in first.headers["Cache-Control"]
    again = await furnished.get(path, {"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, await again.get_data()) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    other = await furnished.get(path, {"If-None-Match": '"something-else"'})
    assert other.status_code == 200


async def test_uptime_is_null_where_nothing_was_measured(stage: Stage) -> None:
    body = await stage.json("/v1/models/uptime")
    assert len(body["data"]) == len(stage.catalogue.models())
    for entry in (body["overall"], *body["data"]):
        assert (entry["uptime_percent"], entry["served_percent"]) == (None, None)
        assert entry["attempts"]["success_percent"] is None
    assert all(entry["probes"]["success_percent"] is None for entry in body["data"])
    assert body["providers"] == []


async def test_uptime_is_measured_from_requests_attempts_and_probes(stage: Stage) -> None:
    good = Attempt("sandbox", "q", 0, "ok", 4)
    bad = Attempt("sandbox", "q", 0, "broken", 4)
    for _ in range(6):
        stage.use(attempts=(good,))
    stage.use(layer=3, served_model="deepseek-v3", attempts=(bad,))
    stage.use(Code.PROVIDER_ERROR.value, provider="", served_model="", attempts=(bad, bad))
    stage.use("client_left")
    stage.use(Code.CONTEXT_TOO_LONG.value, provider="", served_model="")
    await stage.probes.add([Probe("sandbox", "ok", 3), Probe("sandbox", "timeout", 9)])
    body = await stage.json("/v1/models/uptime")
    entry = row(body, "qwen-3-32b")
    assert entry["requests"] == {"counted": 8, "answered": 6, "substituted": 1, "failed": 1}
    assert (entry["uptime_percent"], entry["served_percent"]) == (75.0, 87.5)
    assert entry["attempts"] == {"counted": 9, "failed": 3, "success_percent": 66.666}
    assert entry["probes"] == {
        "checks": 2,
        "answered": 1,
        "success_percent": 50.0,
        "providers": ["sandbox"],
    }
    assert row(body, "deepseek-v3")["uptime_percent"] is None
    assert body["overall"]["requests"] == entry["requests"]
    assert body["providers"][0]["last_check_ok"] is False
    window = body["window"]
    assert (window["days"], window["from"]) == (7, "2026-05-10T12:00:00+00:00")


async def test_what_is_older_than_seven_days_is_in_no_figure(stage: Stage) -> None:
    stage.use(started_at=stage.clock.now() - timedelta(days=8))
    await stage.probes.add([Probe("sandbox", "broken", 1)])
    stage.clock.move(8 * 24 * 3600)
    body = await stage.json("/v1/models/uptime")
    assert body["overall"]["requests"]["counted"] == 0
    assert body["providers"] == []
    assert (await stage.json("/v1/rankings"))["data"] == []


async def test_models_are_ranked_by_the_tokens_they_processed(stage: Stage) -> None:
    stage.use(served_model="kimi-k2.6", usage=Usage(1000, 200, 30, 4, 1))
    stage.use(served_model="qwen-3-32b", usage=Usage(input=700, output=65))
    stage.use(Code.STREAM_INTERRUPTED.value, served_model="glm-5.1", usage=Usage(input=9**9))
    body = await stage.json("/v1/rankings")
    assert [(entry["rank"], entry["model"], entry["tokens"]) for entry in body["data"]] == [
        (1, "kimi-k2.6", 1235),
        (2, "qwen-3-32b", 765),
    ]
    assert body["totals"] == {
        "requests": 2,
        "tokens": 2000,
        "prompt_tokens": 1930,
        "completion_tokens": 70,
    }
    assert body["data"][0]["share_percent"] == 61.75
    assert body["data"][0]["name"] == "Kimi K2.6"


async def test_cache_statistics_are_overall_and_per_model(stage: Stage) -> None:
    stage.use(usage=Usage(input=60, cache_read=40), cache_discount=Usd(1))
    stage.use(usage=Usage(input=100))
    stage.use(
        served_model="kimi-k2.6",
        usage=Usage(input=10, cache_read=80, cache_write=10),
        cache_discount=usd("0.25"),
    )
    body = await stage.json("/v1/rankings?tab=cache")
    assert body["tab"] == "cache"
    assert body["overall"] == {
        "hit_rate_percent": 40.0,
        "request_hit_rate_percent": 66.666,
        "requests": 3,
        "requests_with_hits": 2,
        "prompt_tokens": 300,
        "cached_tokens": 120,
        "cache_write_tokens": 10,
        "savings_usd": 0.250000001,
        "savings": "0.250000001",
    }
    assert [entry["model"] for entry in body["data"]] == ["kimi-k2.6", "qwen-3-32b"]
    assert [entry["hit_rate_percent"] for entry in body["data"]] == [80.0, 20.0]


async def test_however_many_ask_the_database_is_asked_once_a_minute(stage: Stage) -> None:
    paths = ["/v1/models/uptime", "/v1/rankings", "/v1/rankings?tab=cache"] * 10
    await asyncio.gather(*map(stage.json, paths))
    assert stage.reports.asked == 1
    stage.clock.move(59)
    await stage.json("/v1/rankings")
    assert stage.reports.asked == 1
    stage.clock.move(2)
    await asyncio.gather(*map(stage.json, paths))
    assert stage.reports.asked == 2


async def test_the_last_figures_stand_in_while_the_database_is_away(stage: Stage) -> None:
    stage.use()
    before = await stage.json("/v1/rankings")
    stage.reports.away = True
    stage.clock.move(120)
    assert await stage.json("/v1/rankings") == before
    stage.clock.move(2 * 3600)
    error = (await stage.json("/v1/rankings", 503))["error"]
    assert (error["code"], error["retryable"]) == ("storage_unavailable", True)
    stage.reports.away = False
    stage.clock.move(2)
    assert (await stage.json("/v1/rankings"))["window"] != before["window"]


async def test_a_database_that_is_away_is_not_asked_by_every_caller(stage: Stage) -> None:
    stage.reports.away = True
    await asyncio.gather(*(stage.json("/v1/rankings", 503) for _ in range(20)))
    assert stage.reports.asked == 1


async def test_a_caller_that_leaves_takes_nobodys_figures_along(stage: Stage) -> None:
    first = asyncio.create_task(stage.json("/v1/rankings"))
    while not stage.reports.asked:
        await asyncio.sleep(0)
    first.cancel()
    assert (await stage.json("/v1/rankings"))["data"] == []
    assert stage.reports.asked == 1


async def status(stage: Stage) -> Any:
    stage.clock.move(10)
    return await stage.json("/v1/status")


def components(body: Any) -> dict[str, str]:
    return {part["id"]: part["status"] for part in body["components"]}


async def test_a_service_that_is_well_says_so(stage: Stage) -> None:
    body = await status(stage)
    assert body["status"] == "operational"
    assert components(body) == {
        "database": "operational",
        "redis": "operational",
        "worker": "operational",
    }
    assert [(p["id"], p["status"]) for p in body["providers"]] == [("sandbox", "unknown")]
    assert body["models"]["unavailable"] == []


@pytest.mark.parametrize("error", [StorageUnavailable("away"), TimeoutError(), OSError("reset")])
async def test_without_its_database_the_service_is_down(stage: Stage, error: BaseException) -> None:
    stage.accounts.away = error
    body = await status(stage)
    assert (body["status"], components(body)["database"]) == ("down", "down")
    stage.accounts.away = None
    assert (await status(stage))["status"] == "operational"


async def test_without_redis_or_a_worker_the_service_is_degraded(stage: Stage) -> None:
    stage.pulse.worker = False
    body = await status(stage)
    assert (body["status"], components(body)["worker"]) == ("degraded", "down")
    stage.pulse.redis, stage.pulse.worker = False, None
    body = await status(stage)
    assert body["status"] == "degraded"
    assert (components(body)["redis"], components(body)["worker"]) == ("down", "unknown")


def opened(stage: Stage) -> Health:
    later = stage.clock.now().timestamp() + 3600
    return Health(samples=5, failures_in_a_row=3, opened=1, open_until=later)


async def test_a_providers_state_is_that_of_its_breakers(stage: Stage) -> None:
    stage.board.succeeded("sandbox/qwen-3.6-plus", 5)
    assert (await status(stage))["providers"][0]["status"] == "operational"
    stage.board.health["sandbox/glm-5.1"] = opened(stage)
    body = await status(stage)
    (provider,) = body["providers"]
    assert (provider["status"], provider["routes_paused"]) == ("degraded", 1)
    assert body["status"] == "degraded"
    del stage.board.health["sandbox/qwen-3.6-plus"]
    assert (await status(stage))["providers"][0]["status"] == "down"


async def test_a_model_is_unavailable_when_each_of_its_routes_is_paused(stage: Stage) -> None:
    for route in stage.catalogue.routes(stage.catalogue.get("glm-4.7-flash")):
        stage.board.health[route.key] = opened(stage)
    body = await status(stage)
    assert "glm-4.7-flash" in body["models"]["unavailable"]
    assert body["models"]["available"] + 1 == body["models"]["total"] == len(TEXT_MODELS) + 1
    assert body["status"] == "degraded"


async def test_without_any_model_the_service_is_down(stage: Stage) -> None:
    for model in stage.catalogue.models():
        for route in stage.catalogue.routes(model):
            stage.board.health[route.key] = opened(stage)
    body = await status(stage)
    assert (body["status"], body["models"]["available"]) == ("down", 0)


async def test_one_failure_that_opened_no_breaker_degrades_nothing(stage: Stage) -> None:
    stage.board.failed("sandbox/glm-5.1", Fault.BROKEN)
    assert (await status(stage))["status"] == "operational"


async def test_status_is_looked_up_at_most_every_five_seconds(stage: Stage) -> None:
    first = await status(stage)
    stage.pulse.worker = False
    stage.clock.move(4)
    assert await stage.json("/v1/status") == first
    stage.clock.move(2)
    assert (await stage.json("/v1/status"))["status"] == "degraded"


async def test_readiness_says_what_is_wrong_and_when_to_come_again(stage: Stage) -> None:
    assert (await stage.json("/readyz")) == {"status": "ready"}
    stage.accounts.away = StorageUnavailable("away")
    answer = await stage.get("/readyz")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert (await stage.json("/healthz")) == {"status": "ok"}
