"""Settings: every knob is described, and production starts on nothing it was not given."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from adapters.settings import Settings

GIVEN: dict[str, Any] = {
    "env": "production",
    "database_url": "postgresql://kyma@db/kyma",
    "redis_url": "redis://redis/0",
    "key_pepper": SecretStr("p" * 32),
}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description, name
    assert description.strip() == description


def test_production_starts_when_all_is_given() -> None:
    assert Settings(**GIVEN).env == "production"


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("database_url", "", "KYMA_DATABASE_URL"),
        ("redis_url", "", "KYMA_REDIS_URL"),
        ("key_pepper", SecretStr(""), "KYMA_KEY_PEPPER"),
        ("key_pepper", SecretStr("p" * 31), "KYMA_KEY_PEPPER"),
    ],
)
def test_production_refuses_to_start_without_and_says_what_is_missing(
    field: str, value: object, named: str
) -> None:
    with pytest.raises(ValidationError, match=named):
        Settings(**{**GIVEN, field: value})


def test_development_needs_nothing() -> None:
    assert Settings(env="development", database_url="", redis_url="").env == "development"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("", ""),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgres://u:p@h:1/d", "postgresql://u:p@h:1/d"),
        ("postgresql+asyncpg://u@h/d", "postgresql://u@h/d"),
    ],
)
def test_a_database_has_one_spelling(url: str, kept: str) -> None:
    assert Settings(database_url=url).database_url == kept


@pytest.mark.parametrize("url", ["mysql://u@h/d", "just-a-host", "sqlite:///x"])
def test_another_database_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Settings(database_url=url)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", -1),
        ("port", 65_536),
        ("database_pool", 1),
        ("redis_timeout_ms", 0),
        ("body_limit_bytes", 10),
        ("connect_timeout_s", 0),
        ("request_timeout_s", -1),
        ("env", "staging"),
        ("sandbox", "maybe"),
        ("log_level", "loud"),
    ],
)
def test_a_figure_out_of_its_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Settings(**{field: value})


def test_secrets_are_not_printed() -> None:
    settings = Settings(
        key_pepper=SecretStr("pepper-" * 6), provider_keys={"groq": SecretStr("gsk_secret")}
    )
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert "pepper-" not in text
        assert "gsk_secret" not in text


@pytest.mark.parametrize("secret", ["", "  "])
def test_billing_does_not_start_without_a_webhook_secret(secret: str) -> None:
    """With an empty one anybody could sign."""
    key = SecretStr("sk_test_1")
    with pytest.raises(ValidationError, match="KYMA_STRIPE_WEBHOOK_SECRET"):
        Settings(stripe_secret_key=key, stripe_webhook_secret=SecretStr(secret))
    assert Settings(stripe_secret_key=key, stripe_webhook_secret=SecretStr("whsec_1")).bills


def test_without_a_stripe_key_billing_is_off() -> None:
    assert not Settings(stripe_secret_key=SecretStr("")).bills
    assert not Settings(stripe_webhook_secret=SecretStr("whsec_1")).bills


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "0.0.0.0", "port": 8080, "public_url": ""}, "http://0.0.0.0:8080"),
        ({"public_url": "https://kyma.example/"}, "https://kyma.example"),
    ],
)
def test_the_address_that_customers_see(fields: dict[str, Any], url: str) -> None:
    assert Settings(**fields).base_url == url
