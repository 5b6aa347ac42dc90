"""Every knob of the service, read once from the environment.

This is the only module that reads environment variables. The table in
`docs/configuration.md` is checked against it by a test.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from kyma.identity import check_redirect_uri

ROOT = Path(__file__).resolve().parent.parent

PEPPER_LENGTH = 32
"""Characters that a key pepper has at least."""

PROVIDER_KEY_VARIABLES = {
    "groq": "GROQ_API_KEY",
    "deepinfra": "DEEPINFRA_API_KEY",
    "together": "TOGETHER_API_KEY",
    "fireworks": "FIREWORKS_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
    "alibaba": "DASHSCOPE_API_KEY",
    "moonshot": "MOONSHOT_API_KEY",
    "zai": "ZAI_API_KEY",
    "minimax": "MINIMAX_API_KEY",
    "google": "GEMINI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
}
"""Where each provider's key usually is. One that is set turns the `auto` sandbox off."""


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What a process that we start finds in its environment: ours, and what we tell it."""
    return {**os.environ, **extra}


class OAuthClient(BaseModel):
    """An application that may ask people for a key: what they are shown, where it may send them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    redirect_uris: tuple[str, ...] = Field(min_length=1)

    @field_validator("redirect_uris")
    @classmethod
    def _safe(cls, uris: tuple[str, ...]) -> tuple[str, ...]:
        for uri in uris:
            check_redirect_uri(uri)
        return uris


class Settings(BaseSettings):
    """Frozen settings; variables are named `KYMA_` + the field name in capitals."""

    model_config = SettingsConfigDict(env_prefix="KYMA_", frozen=True, extra="ignore")

    env: Literal["development", "production"] = Field(
        default="development",
        description="`production` refuses to start on generated secrets or embedded servers.",
    )
    host: str = Field(default="127.0.0.1", description="Address the HTTP server binds to.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port of the HTTP server.")
    console_port: int = Field(
        default=8501, ge=0, le=65535, description="Port of the Streamlit console."
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="HTTP processes that `make up` starts."
    )
    public_url: str = Field(
        default="", description="Address customers see; empty means `http://HOST:PORT`."
    )
    data_dir: Path = Field(
        default=ROOT / ".kyma",
        description="Where the embedded servers and generated secrets of one machine live.",
    )

    trusted_proxies: str = Field(
        default="",
        description="Proxies, addresses or networks with commas, whose `X-Forwarded-For` counts.",
    )
    confirm_addresses: bool | None = Field(
        default=None,
        description="An address signs in, and earns its credit, once confirmed by mail; empty: "
        "`true` where `KYMA_SMTP_HOST` is set, else `false`.",
    )

    password_memory_mb: int = Field(
        default=46,
        ge=8,
        le=1024,
        description="MiB that argon2id takes to hash a password; below 46 is for tests alone.",
    )

    database_url: str = Field(
        default="",
        description="PostgreSQL to use, e.g. `postgresql://user@host/db`; empty: embedded.",
    )
    database_pool: int = Field(default=10, ge=2, le=200, description="Connections per process.")
    redis_url: str = Field(default="", description="Redis or Valkey to use; empty: embedded.")
    redis_timeout_ms: int = Field(
        default=100, ge=5, le=5000, description="Budget of one limiter call; past it requests pass."
    )
    pg_bin: Path | None = Field(
        default=None, description="Folder with `postgres` and `initdb` for the embedded PostgreSQL."
    )

    key_pepper: SecretStr = Field(
        default=SecretStr(""),
        description="Secret under which API keys are hashed (32+ characters).",
    )

    stripe_secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="Stripe's secret key (`sk_…` or a restricted `rk_…`); empty: billing is off.",
    )
    stripe_webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Signing secret of the webhook (`whsec_…`); billing does not start without.",
    )
    stripe_api_base: str = Field(
        default="", description="Address that replaces Stripe's, for tests; empty: Stripe's own."
    )
    stripe_tax: bool = Field(
        default=False, description="Whether Stripe Tax reckons taxes, on top of the credit."
    )

    google_client_id: str = Field(
        default="", description="Of the OAuth client at Google; empty: no sign-in with Google."
    )
    google_client_secret: SecretStr = Field(default=SecretStr(""), description="And its secret.")
    google_issuer: str = Field(
        default="https://accounts.google.com",
        description="Issuer of the identities; another OpenID provider's will do.",
    )
    oauth_clients: dict[str, OAuthClient] = Field(
        default_factory=dict,
        description="Applications that people may let in, as JSON: docs/signing-in.md.",
    )

    mail_from: str = Field(
        default="Kyma <kyma@localhost>", description="Whom letters come from: `Name <address>`."
    )
    smtp_host: str = Field(
        default="",
        description="Mail server; empty: letters go to the folder `mail` of the data dir.",
    )
    smtp_port: int = Field(default=587, ge=1, le=65535, description="Its port.")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="How the connection to it is protected."
    )
    smtp_user: str = Field(default="", description="Whom to sign in as; empty: nobody.")
    smtp_password: SecretStr = Field(default=SecretStr(""), description="And with what password.")

    sandbox: Literal["auto", "on", "off"] = Field(
        default="auto", description="The sandbox provider; `auto`: on while no provider has a key."
    )
    sandbox_url: str = Field(
        default="", description="Base URL of a running sandbox provider; set by `make up`."
    )
    sandbox_url_2: str = Field(
        default="", description="Base URL of a second sandbox provider, to fall back to."
    )
    local_url: str = Field(
        default="",
        description="OpenAI-compatible server whose models join the catalogue (Ollama, vLLM).",
    )
    local_key: SecretStr = Field(default=SecretStr(""), description="Its key, where it wants one.")
    provider_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        description='Provider keys as JSON, `{"groq": "…"}`; `GROQ_API_KEY` and its like also do.',
    )
    provider_urls: dict[str, str] = Field(
        default_factory=dict, description="Base URLs that replace a provider's own, as JSON."
    )

    connect_timeout_s: float = Field(default=3.0, gt=0, description="Connecting to an upstream.")
    first_byte_timeout_s: float = Field(
        default=60.0, gt=0, description="Until the first bytes of a stream, per attempt."
    )
    answer_timeout_s: float = Field(
        default=300.0, gt=0, description="For a whole (not streamed) answer, per attempt."
    )
    chunk_timeout_s: float = Field(
        default=30.0, gt=0, description="Between two chunks of a stream."
    )
    keepalive_s: float = Field(
        default=15.0, gt=0, description="Silence of a stream after which a comment is sent."
    )
    request_timeout_s: float = Field(
        default=1800.0,
        gt=0,
        description="One deadline for a whole request; what a stream brought until then is paid.",
    )
    body_limit_bytes: int = Field(
        default=20 * 1024 * 1024, ge=1024, description="Largest accepted request body."
    )
    head_timeout_s: float = Field(
        default=15.0, gt=0, description="For a client to finish sending a request's headers."
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="For a client to finish sending a body."
    )
    shutdown_grace_s: int = Field(
        default=20, ge=0, le=3600, description="For answers under way to end when told to stop."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line written."
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_keys(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Keys from the providers' own variables; `provider_keys` wins, an empty one turns off."""
        found = {
            name: key
            for name, variable in PROVIDER_KEY_VARIABLES.items()
            if (key := os.environ.get(variable, "").strip())
        }
        told = values.get("provider_keys") or {}
        if not isinstance(told, Mapping):
            return values
        merged = {**found, **told}
        return {**values, "provider_keys": {name: key for name, key in merged.items() if key}}

    @field_validator("database_url")
    @classmethod
    def _plain_scheme(cls, url: str) -> str:
        """Accept `postgres://` and SQLAlchemy's spelling; keep one: `postgresql://`."""
        scheme, sep, rest = url.partition("://")
        if not sep:
            if url:
                raise ValueError("must be a URL such as postgresql://user@host/database")
            return url
        if scheme not in {"postgres", "postgresql", "postgresql+asyncpg"}:
            raise ValueError(f"scheme {scheme!r} is not PostgreSQL's")
        return f"postgresql://{rest}"

    @field_validator("confirm_addresses", mode="before")
    @classmethod
    def _empty_decides_nothing(cls, given: object) -> object:
        return None if given == "" else given

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, given: str) -> str:
        """Never `*`: whoever may say where they come from may say anything."""
        for proxy in filter(None, (part.strip() for part in given.split(","))):
            ip_network(proxy)
        return given

    @model_validator(mode="after")
    def _production_is_explicit(self) -> Settings:
        if self.env == "production":
            missing = [
                f"KYMA_{name.upper()}"
                for name in ("database_url", "redis_url")
                if not getattr(self, name)
            ]
            if len(self.key_pepper.get_secret_value()) < 32:
                missing.append("KYMA_KEY_PEPPER (32+ characters)")
            if missing:
                raise ValueError("production needs " + ", ".join(missing))
        return self

    @model_validator(mode="after")
    def _payments_are_signed(self) -> Settings:
        secret = self.stripe_webhook_secret.get_secret_value()
        if self.bills and not secret.strip():
            raise ValueError(
                "KYMA_STRIPE_SECRET_KEY needs KYMA_STRIPE_WEBHOOK_SECRET: without it anybody could "
                "announce a payment"
            )
        return self

    @model_validator(mode="after")
    def _google_is_whole(self) -> Settings:
        if bool(self.google_client_id) != bool(self.google_client_secret.get_secret_value()):
            raise ValueError("KYMA_GOOGLE_CLIENT_ID and KYMA_GOOGLE_CLIENT_SECRET belong together")
        return self

    @property
    def bills(self) -> bool:
        """Whether credit is sold: there is a key to Stripe."""
        return bool(self.stripe_secret_key.get_secret_value().strip())

    @property
    def confirms(self) -> bool:
        """Whether an address must be confirmed by mail: as set, else where mail is sent."""
        told = self.confirm_addresses
        return bool(self.smtp_host) if told is None else told

    @property
    def why_confirms(self) -> str:
        """The setting that decides it, for a person."""
        if self.confirm_addresses is not None:
            return f"KYMA_CONFIRM_ADDRESSES is {str(self.confirm_addresses).lower()}"
        return f"KYMA_SMTP_HOST is {'set' if self.smtp_host else 'not set'}"

    @property
    def is_mute(self) -> bool:
        """Whether people wait for letters that stay on this machine, where nobody lives."""
        return self.confirms and not self.smtp_host and not self.is_development

    @property
    def base_url(self) -> str:
        """What a client puts in front of `/v1`, without a trailing slash."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def proxies(self) -> list[str]:
        """Whom to believe about the address of a client."""
        return [part.strip() for part in self.trusted_proxies.split(",") if part.strip()]

    @property
    def is_development(self) -> bool:
        """Whether clients on this machine are the developer's own."""
        return self.env == "development"

    @property
    def wants_sandbox(self) -> bool:
        """Whether the sandbox provider runs: said so, or nothing else could answer."""
        if self.sandbox != "auto":
            return self.sandbox == "on"
        return not self.provider_keys and not self.local_url
