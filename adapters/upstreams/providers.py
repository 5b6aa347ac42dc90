"""The companies we buy from: where they answer, and the fields they are particular about.

Owns no socket and no key: `enabled` joins the table to the settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from adapters.settings import PROVIDER_KEY_VARIABLES, Settings
from kyma.calls import Dialect

LOCAL = "local"
SANDBOXES = ("sandbox", "sandbox-2")


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider's address and quirks.

    `max_tokens_field` is the name it wants the output cap under, `stream_usage` whether it
    accepts `stream_options.include_usage`, `drops` the request fields that it is not sent: it
    refuses them, or they would buy what is not sold here. `wire` is its dialect for chats;
    `thoughts` whether an assistant's turn may carry `reasoning_content`; `also` names what else
    it offers, always in OpenAI's spelling; `resells` whether it may answer with another model
    than the one asked for, and tells which one it was; `marks` whether it passes a prompt's
    `cache_control` on to models that cache by it, and does not refuse it.
    """

    name: str
    base_url: str
    key_env: str = ""
    wire: Dialect = Dialect.CHAT
    max_tokens_field: str = "max_tokens"
    stream_usage: bool = True
    drops: tuple[str, ...] = ()
    thoughts: bool = True
    also: tuple[Dialect, ...] = ()
    resells: bool = False
    marks: bool = False


EVERYTHING = (Dialect.COMPLETIONS, Dialect.EMBEDDINGS)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A provider that can be called here: without a trailing slash, with our key."""

    provider: Provider
    base_url: str
    key: str = field(repr=False)

    @property
    def name(self) -> str:
        """The provider's name, as routes spell it."""
        return self.provider.name


def _provider(
    name: str,
    base_url: str,
    *,
    wire: Dialect = Dialect.CHAT,
    max_tokens_field: str = "max_tokens",
    drops: tuple[str, ...] = (),
    not_sold: tuple[str, ...] = (),
    thoughts: bool = True,
    also: tuple[Dialect, ...] = (),
    resells: bool = False,
    marks: bool = False,
) -> Provider:
    """A row; `not_sold` are fields of its own by which a caller would spend our money.

    Those that several providers know are in `wire.sold`.
    """
    return Provider(
        name,
        base_url,
        PROVIDER_KEY_VARIABLES[name],
        wire=wire,
        max_tokens_field=max_tokens_field,
        drops=(*drops, *not_sold),
        thoughts=thoughts,
        also=also,
        resells=resells,
        marks=marks,
    )


_TABLE = (
    _provider(
        "groq",
        "https://api.groq.com/openai/v1",
        # 400 on these: console.groq.com/docs/openai, read 2026-05.
        max_tokens_field="max_completion_tokens",
        drops=("logprobs", "logit_bias", "top_logprobs", "store", "prompt_cache_key", "verbosity"),
        # Its Compound systems search and run code: console.groq.com/docs/api-reference, 2026-11.
        not_sold=("compound_custom", "include_domains", "exclude_domains", "citation_options"),
        thoughts=False,  # a 400, too: AstrBot #5946 (2026-03), freellmapi #1070
    ),
    _provider("deepinfra", "https://api.deepinfra.com/v1/openai", also=EVERYTHING),
    _provider(
        "together",
        "https://api.together.xyz/v1",
        not_sold=("safety_model",),  # a second model that judges every answer
        also=EVERYTHING,
    ),
    _provider("fireworks", "https://api.fireworks.ai/inference/v1", also=EVERYTHING),
    _provider(
        "openrouter",
        "https://openrouter.ai/api/v1",
        # openrouter.ai/docs/requests, read 2026-11: who serves, with which models and presets of
        # our account; what `debug` echoes and `trace` writes is ours, too.
        not_sold=(
            *("provider", "route", "transforms", "preset", "debug", "trace", "image_config"),
            *("max_tool_calls", "stop_server_tools_when"),
        ),
        also=EVERYTHING,
        resells=True,
        marks=True,
    ),
    _provider("deepseek", "https://api.deepseek.com/v1"),
    _provider(
        "alibaba",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        # Its `max_tokens` does not bound what is thought, this does to within ten tokens, from
        # Qwen3.5-Plus on (help.aliyun.com, chat of the OpenAI-compatible API, 2026-11).
        max_tokens_field="max_completion_tokens",
        # Code that it runs, and pictures of six times the tokens that the hold is for.
        not_sold=("enable_code_interpreter", "vl_high_resolution_images"),
    ),
    _provider("moonshot", "https://api.moonshot.ai/v1"),
    _provider("zai", "https://api.z.ai/api/paas/v4"),
    _provider("minimax", "https://api.minimax.io/v1"),
    _provider(
        "google",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        # Unknown fields are a 400 (`Cannot find field`): page-assist #418 (2025-02),
        # SkyrimNet-GamePlugin #77 (2025-08), axonhub #1123 (2026-03), openhanako #394 (2026-04).
        drops=(
            *("frequency_penalty", "presence_penalty", "seed", "store", "metadata", "user"),
            *("logit_bias", "logprobs", "top_logprobs", "reasoning", "top_k"),
            *("prompt_cache_key", "verbosity", "service_tier", "enable_thinking"),
        ),
        # Caches of our account by their names, and whatever else Google puts there.
        not_sold=("extra_body", "google", "cached_content"),
    ),
    _provider("anthropic", "https://api.anthropic.com/v1", wire=Dialect.MESSAGES),
)

_OURS = tuple(Provider(name, "", also=EVERYTHING) for name in (LOCAL, *SANDBOXES))

PROVIDERS = {provider.name: provider for provider in (*_TABLE, *_OURS)}
"""Every provider by name; `local` and the sandboxes have their address from the settings."""


def enabled(settings: Settings) -> dict[str, Endpoint]:
    """Who can be called with these settings: those with a key, and local or sandbox addresses.

    A name in `provider_keys` or `provider_urls` that is not in the table is a mistake.
    """
    unknown = {*settings.provider_keys, *settings.provider_urls} - {*PROVIDERS}
    if unknown:
        raise ValueError(f"unknown providers in the settings: {', '.join(sorted(unknown))}")
    addresses = {
        LOCAL: settings.local_url,
        **dict(zip(SANDBOXES, (settings.sandbox_url, settings.sandbox_url_2), strict=True)),
    }
    keys = {name: key.get_secret_value() for name, key in settings.provider_keys.items()}
    keys.setdefault(LOCAL, settings.local_key.get_secret_value())
    found = {}
    for name, provider in PROVIDERS.items():
        base_url = settings.provider_urls.get(name) or addresses.get(name) or provider.base_url
        key = keys.get(name, "")
        if base_url and (key or name in addresses):
            found[name] = Endpoint(provider, base_url.rstrip("/"), key)
    return found
