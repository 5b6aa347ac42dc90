"""A ready configuration for each agent: the file, variables or fields that it takes.

Read in the agents' own documentation: Claude Code (`ANTHROPIC_BASE_URL` without `/v1`, a
bearer token, one variable per model class; `ANTHROPIC_SMALL_FAST_MODEL` is the older name of
the small one), aider (docs/llms/openai-compat), opencode (docs/providers), OpenClaw
(gateway/config-tools/custom-providers), Cline (provider-config/openai-compatible and
`cline auth`), Roo Code (providers/openai-compatible and its settings export), Kilo Code
(ai-providers/openai-compatible), Cursor (Settings → Models).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from kyma.catalog.model import Model
from kyma.catalog.recommend import Recommendation
from kyma.money import NANOS_PER_USD, number

KEY = "ky-YOUR-KEY"
"""Where the caller's own key goes; `POST /v1/auth/register` gives one."""

KEY_VARIABLE = "KYMA_API_KEY"
PROVIDER = "kyma"
MILLION = 1_000_000

CLAUDE_CODE_OUTPUT = 32_000
"""What Claude Code asks for at most by itself; models that write less are told to it."""

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a configuration is made of."""

    base_url: str
    chosen: Recommendation

    @property
    def openai_url(self) -> str:
        """The base URL of everything that speaks OpenAI's dialects."""
        return f"{self.base_url}/v1"

    @property
    def model(self) -> Model:
        """The one to take."""
        return self.chosen.model

    @property
    def light(self) -> Model:
        """The one for small work."""
        return self.chosen.light

    @property
    def models(self) -> list[Model]:
        """All that are worth listing, each once, the first choice first."""
        named = (self.model, *self.chosen.alternatives, self.light)
        return list({model.id: model for model in named}.values())


def agent_config(agent: str, setup: Setup) -> Config:
    """The configuration of one of `kyma.catalog.recommend.AGENTS`."""
    return _CONFIGS[agent](setup)


def sdk_config(setup: Setup) -> Config:
    """For who named no agent: the variables that OpenAI's SDKs read, and a request."""
    return {
        "format": "openai",
        "env": {"OPENAI_BASE_URL": setup.openai_url, "OPENAI_API_KEY": KEY},
        "request": {
            "method": "POST",
            "url": f"{setup.openai_url}/chat/completions",
            "headers": {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
            "body": {"model": setup.model.id, "messages": [{"role": "user", "content": "Hello"}]},
        },
    }


def _claude_code(setup: Setup) -> Config:
    env = {
        "ANTHROPIC_BASE_URL": setup.base_url,
        "ANTHROPIC_AUTH_TOKEN": KEY,
        "ANTHROPIC_MODEL": setup.model.id,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": setup.model.id,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": setup.model.id,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": setup.light.id,
        "ANTHROPIC_SMALL_FAST_MODEL": setup.light.id,
    }
    if setup.model.max_output_tokens < CLAUDE_CODE_OUTPUT:
        env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(setup.model.max_output_tokens)
    return {
        "format": "anthropic",
        "env": env,
        "files": [_file("~/.claude/settings.json", "json", {"env": env})],
        "command": "claude",
        "notes": [
            "The base URL has no /v1: Claude Code appends /v1/messages itself.",
            "Leave ANTHROPIC_API_KEY unset; with both set it asks which one to use.",
        ],
    }


def _aider(setup: Setup) -> Config:
    name, light = f"openai/{setup.model.id}", f"openai/{setup.light.id}"
    metadata = {
        f"openai/{model.id}": {
            "max_input_tokens": model.context_window,
            "max_output_tokens": model.max_output_tokens,
            "input_cost_per_token": _per_token(model.price.input),
            "output_cost_per_token": _per_token(model.price.output),
            "litellm_provider": "openai",
            "mode": "chat",
        }
        for model in (setup.model, setup.light)
    }
    lines = (
        f"openai-api-base: {setup.openai_url}",
        f"openai-api-key: {KEY}",
        f"model: {name}",
        f"weak-model: {light}",
    )
    return {
        "format": "openai",
        "env": {"OPENAI_API_BASE": setup.openai_url, "OPENAI_API_KEY": KEY},
        "files": [
            _file(".aider.conf.yml", "yaml", "\n".join(lines) + "\n"),
            _file(".aider.model.metadata.json", "json", metadata),
        ],
        "command": f"aider --model {name} --weak-model {light}",
        "notes": ["The prefix openai/ tells aider to use its OpenAI-compatible client."],
    }


def _opencode(setup: Setup) -> Config:
    content = {"$schema": "https://opencode.ai/config.json", **_ai_sdk(setup)}
    return {
        "format": "openai",
        "env": {KEY_VARIABLE: KEY},
        "files": [_file("~/.config/opencode/opencode.json", "json", content)],
        "command": "opencode",
        "notes": ["An opencode.json in a project's folder does the same for that project."],
    }


def _kilo_code(setup: Setup) -> Config:
    return {
        "format": "openai",
        "env": {KEY_VARIABLE: KEY},
        "files": [_file("~/.config/kilo/kilo.json", "json", _ai_sdk(setup))],
        "settings": _fields(
            ("Provider ID", PROVIDER),
            ("Display name", "Kyma"),
            ("Provider API", "OpenAI Compatible"),
            ("Base URL", setup.openai_url),
            ("API key", KEY),
            ("Models", setup.model.id),
        ),
        "where": "Settings → Providers → Custom provider",
        "command": "kilo",
        "notes": ["The file or the dialog: either is enough. Kilo lists the models by itself."],
    }


def _ai_sdk(setup: Setup) -> dict[str, Any]:
    """The part that opencode and Kilo Code share."""
    return {
        "provider": {
            PROVIDER: {
                "npm": "@ai-sdk/openai-compatible",
                "name": "Kyma",
                "options": {
                    "baseURL": setup.openai_url,
                    "apiKey": f"{{env:{KEY_VARIABLE}}}",
                },
                "models": {
                    model.id: {
                        "name": model.name,
                        "limit": {
                            "context": model.context_window,
                            "output": model.max_output_tokens,
                        },
                    }
                    for model in setup.models
                },
            }
        },
        "model": f"{PROVIDER}/{setup.model.id}",
        "small_model": f"{PROVIDER}/{setup.light.id}",
    }


def _openclaw(setup: Setup) -> Config:
    models = [
        {
            "id": model.id,
            "name": model.name,
            "reasoning": model.reasoning,
            "input": [kind for kind in ("text", "image") if kind in model.input_modalities],
            "cost": {
                "input": number(model.price.input),
                "output": number(model.price.output),
                "cacheRead": number(model.price.cached),
                "cacheWrite": number(model.price.cache_write),
            },
            "contextWindow": model.context_window,
            "maxTokens": model.max_output_tokens,
        }
        for model in setup.models
    ]
    provider = {
        "baseUrl": setup.openai_url,
        "apiKey": f"${{{KEY_VARIABLE}}}",
        "api": "openai-completions",
        "models": models,
    }
    names = [f"{PROVIDER}/{model.id}" for model in setup.models]
    content = {
        "models": {"mode": "merge", "providers": {PROVIDER: provider}},
        "agents": {"defaults": {"model": {"primary": names[0], "fallbacks": names[1:]}}},
    }
    return {
        "format": "openai",
        "env": {KEY_VARIABLE: KEY},
        "files": [_file("~/.openclaw/openclaw.json", "json", content)],
        "command": f"openclaw models set {names[0]}",
    }


def _cline(setup: Setup) -> Config:
    return {
        "format": "openai",
        "settings": _fields(
            ("API Provider", "OpenAI Compatible"),
            ("Base URL", setup.openai_url),
            ("API Key", KEY),
            ("Model ID", setup.model.id),
            ("Context Window Size", setup.model.context_window),
            ("Max Output Tokens", setup.model.max_output_tokens),
            ("Supports Images", setup.model.vision),
        ),
        "where": "Cline panel → gear icon → API Configuration",
        "command": f"cline auth -p openai -k {KEY} -b {setup.openai_url} -m {setup.model.id}",
        "notes": ["The fields are those of the editor's panel; the command is for the CLI."],
    }


def _roo_code(setup: Setup) -> Config:
    model = setup.model
    profile = {
        "id": PROVIDER,
        "apiProvider": "openai",
        "openAiBaseUrl": setup.openai_url,
        "openAiApiKey": KEY,
        "openAiModelId": model.id,
        "openAiStreamingEnabled": True,
        "openAiCustomModelInfo": {
            "maxTokens": model.max_output_tokens,
            "contextWindow": model.context_window,
            "supportsImages": model.vision,
            "supportsPromptCache": model.caching,
            "inputPrice": number(model.price.input),
            "outputPrice": number(model.price.output),
        },
    }
    content = {
        "providerProfiles": {"currentApiConfigName": PROVIDER, "apiConfigs": {PROVIDER: profile}}
    }
    return {
        "format": "openai",
        "settings": _fields(
            ("API Provider", "OpenAI Compatible"),
            ("Base URL", setup.openai_url),
            ("API Key", KEY),
            ("Model", model.id),
            ("Max Output Tokens", model.max_output_tokens),
            ("Context Window", model.context_window),
            ("Image Support", model.vision),
        ),
        "where": "Roo Code panel → gear icon → Providers",
        "files": [_file("roo-code-settings.json", "json", content)],
        "notes": ["The file is for Settings → About Roo Code → Import; the fields do the same."],
    }


def _cursor(setup: Setup) -> Config:
    notes = ["The override is for chat models; tab completion stays Cursor's own."]
    if is_private(setup.base_url):
        notes.append(
            "Cursor calls from its own servers: this gateway must be reachable from the internet "
            f"under an https address of its own, and {setup.base_url} is not."
        )
    return {
        "format": "openai",
        "settings": _fields(
            ("OpenAI API Key", KEY),
            ("Override OpenAI Base URL", setup.openai_url),
            ("Add model", setup.model.id),
        ),
        "where": "Cursor Settings → Models → API Keys",
        "notes": notes,
    }


_CONFIGS: Mapping[str, Callable[[Setup], Config]] = {
    "cline": _cline,
    "roo-code": _roo_code,
    "openclaw": _openclaw,
    "claude-code": _claude_code,
    "aider": _aider,
    "opencode": _opencode,
    "cursor": _cursor,
    "kilo-code": _kilo_code,
}


def is_private(url: str) -> bool:
    """Whether an address is only good on this machine or network."""
    host = urlsplit(url).hostname or ""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))


def _per_token(price: int) -> float:
    """Dollars per single token, of nano-dollars per million."""
    return price / (NANOS_PER_USD * MILLION)


def _file(path: str, kind: str, content: Any) -> dict[str, Any]:
    return {"path": path, "format": kind, "content": content}


def _fields(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"field": name, "value": value} for name, value in pairs]
