"""The providers' table, who is enabled by which settings, and local models over a socket."""

import asyncio
import os
from contextlib import asynccontextmanager, contextmanager

import pytest
from aiohttp import web
from pydantic import SecretStr
from structlog.testing import capture_logs

from adapters.settings import PROVIDER_KEY_VARIABLES, Settings
from adapters.upstreams.local import discover
from adapters.upstreams.providers import PROVIDERS, enabled
from kyma.catalog.text import TEXT_MODELS


@contextmanager
def environment(**variables):
    """The process's environment with these variables and no other provider key."""
    kept = dict(os.environ)
    for name in kept:
        if name in PROVIDER_KEY_VARIABLES.values() or name.startswith("KYMA_"):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


@pytest.fixture(autouse=True)
def _no_keys():
    with environment():
        yield


def settings(**fields):
    keys = {name: SecretStr(key) for name, key in fields.pop("keys", {}).items()}
    return Settings(provider_keys=keys, **fields)


def test_every_provider_of_a_route_is_in_the_table_and_the_other_way_round():
    used = {route.provider for model in TEXT_MODELS for route in model.routes}
    assert used == set(PROVIDERS) - {"local", "sandbox", "sandbox-2"}
    assert set(PROVIDER_KEY_VARIABLES) == used


def test_the_table_says_where_each_provider_answers_and_which_variable_has_its_key():
    assert {name: (row.base_url, row.key_env) for name, row in PROVIDERS.items()} == {
        "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        "deepinfra": ("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
        "together": ("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        "fireworks": ("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
        "alibaba": (
            "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
            "DASHSCOPE_API_KEY",
        ),
        "moonshot": ("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
        "zai": ("https://api.z.ai/api/paas/v4", "ZAI_API_KEY"),
        "minimax": ("https://api.minimax.io/v1", "MINIMAX_API_KEY"),
        "google": (
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "GEMINI_API_KEY",
        ),
        "anthropic": ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        "local": ("", ""),
        "sandbox": ("", ""),
        "sandbox-2": ("", ""),
    }


def test_without_keys_nobody_is_enabled_and_the_sandbox_is_wanted():
    assert enabled(settings()) == {}
    assert settings().wants_sandbox


def test_a_key_in_the_settings_enables_its_provider():
    endpoint = enabled(settings(keys={"groq": "gsk"}))["groq"]
    assert (endpoint.name, endpoint.key) == ("groq", "gsk")
    assert endpoint.base_url == "https://api.groq.com/openai/v1"
    assert endpoint.provider.max_tokens_field == "max_completion_tokens"


@pytest.mark.parametrize(("name", "variable"), PROVIDER_KEY_VARIABLES.items())
def test_a_providers_own_variable_enables_it_and_ends_the_sandbox(name, variable):
    with environment(**{variable: " key "}):
        ours = Settings()
    assert {name: endpoint.key for name, endpoint in enabled(ours).items()} == {name: "key"}
    assert not ours.wants_sandbox


def test_a_key_in_the_settings_wins_over_the_variable_and_an_empty_one_turns_it_off():
    with environment(GROQ_API_KEY="a", KYMA_PROVIDER_KEYS='{"groq": "b", "zai": "c"}'):
        assert {name: end.key for name, end in enabled(Settings()).items()} == {
            "groq": "b",
            "zai": "c",
        }
    with environment(GROQ_API_KEY="a", KYMA_PROVIDER_KEYS='{"groq": ""}'):
        assert enabled(Settings()) == {}
        assert Settings().wants_sandbox


def test_a_base_url_can_be_replaced():
    ours = settings(keys={"groq": "k"}, provider_urls={"groq": "http://127.0.0.1:9/v1/"})
    assert enabled(ours)["groq"].base_url == "http://127.0.0.1:9/v1"


def test_a_base_url_alone_enables_nobody():
    assert enabled(settings(provider_urls={"groq": "http://127.0.0.1:9/v1"})) == {}


def test_local_and_sandboxes_are_enabled_by_their_address():
    ours = settings(
        local_url="http://localhost:11434/v1",
        local_key=SecretStr("mine"),
        sandbox_url="http://127.0.0.1:1/v1",
        sandbox_url_2="http://127.0.0.1:2/v1",
    )
    assert {name: (end.base_url, end.key) for name, end in enabled(ours).items()} == {
        "local": ("http://localhost:11434/v1", "mine"),
        "sandbox": ("http://127.0.0.1:1/v1", ""),
        "sandbox-2": ("http://127.0.0.1:2/v1", ""),
    }


@pytest.mark.parametrize("field", ["keys", "provider_urls"])
def test_an_unknown_provider_in_the_settings_is_named(field):
    with pytest.raises(ValueError, match="unknown providers in the settings: grok"):
        enabled(settings(**{field: {"grok": "x"}}))


def test_a_key_is_not_printed():
    assert "gsk" not in repr(enabled(settings(keys={"groq": "gsk"})))


@asynccontextmanager
async def serving(answer):
    """A server whose `/v1/models` gives `answer(request)`, and its URL."""
    app = web.Application()
    app.router.add_get("/v1/models", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        await runner.cleanup()


async def test_local_models_join_as_free_rows_with_the_window_the_server_tells():
    async def answer(request):
        assert request.headers["Authorization"] == "Bearer mine"
        rows = [
            {"id": "llama3.2:3b", "object": "model", "owned_by": "library"},
            {"id": "org/Model-7B", "max_model_len": 8192},
            {"id": "odd", "context_length": "many"},
            {"object": "model"},
            "noise",
        ]
        return web.json_response({"object": "list", "data": rows})

    async with serving(answer) as url:
        models = await discover(f"{url}/", "mine")

    assert [(model.id, model.context_window) for model in models] == [
        ("local/llama3.2:3b", 32_768),
        ("local/org/Model-7B", 8_192),
        ("local/odd", 32_768),
    ]
    for model in models:
        (route,) = model.routes
        assert (route.provider, f"local/{route.upstream_model}") == ("local", route.model)
        assert route.model == model.id
        assert model.price.input == model.price.output == 0


async def test_a_local_server_without_a_key_gets_no_authorization():
    async def answer(request):
        assert "Authorization" not in request.headers
        return web.json_response({"data": [{"id": "one"}]})

    async with serving(answer) as url:
        assert [model.id for model in await discover(url)] == ["local/one"]


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, "{}"), (500, "oops"), (200, "<html>"), (200, "[]"), (200, '{"data": {}}')],
)
async def test_a_local_server_that_answers_badly_is_a_warning(status, body):
    async def answer(request):
        return web.Response(status=status, text=body)

    async with serving(answer) as url:
        with capture_logs() as logs:
            assert await discover(url) == ()
    (warning,) = logs
    assert warning["log_level"] == "warning"
    assert warning["url"] == f"{url}/models"
    assert warning["reason"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "nonsense", "http://"])
async def test_a_local_server_that_is_not_there_is_a_warning(url):
    with capture_logs() as logs:
        assert await discover(url) == ()
    assert [entry["log_level"] for entry in logs] == ["warning"]


async def test_a_local_server_that_hangs_is_given_up_after_three_seconds():
    async def answer(request):
        await asyncio.sleep(30)
        return web.Response()

    async with serving(answer) as url:
        started = asyncio.get_running_loop().time()
        with capture_logs() as logs:
            assert await discover(url) == ()
        assert 2.5 < asyncio.get_running_loop().time() - started < 6
    assert logs[0]["reason"]
