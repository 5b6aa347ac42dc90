"""Settings: every knob is described, and production starts on nothing it was not given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from adapters.doctor import examine
from adapters.http.serve import say_whether_addresses_are_confirmed
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
        Settings().port = 1


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "0.0.0.0", "port": 8080, "public_url": ""}, "http://0.0.0.0:8080"),
        ({"public_url": "https://kyma.example/"}, "https://kyma.example"),
    ],
)
def test_the_address_that_customers_see(fields: dict[str, Any], url: str) -> None:
    assert Settings(**fields).base_url == url


CONFIRMING = [
    ({}, False, "KYMA_SMTP_HOST is not set"),
    ({"smtp_host": "mail.example"}, True, "KYMA_SMTP_HOST is set"),
    ({"confirm_addresses": ""}, False, "KYMA_SMTP_HOST is not set"),
    ({"confirm_addresses": "", "smtp_host": "mail.example"}, True, "KYMA_SMTP_HOST is set"),
    ({"confirm_addresses": "true"}, True, "KYMA_CONFIRM_ADDRESSES is true"),
    (
        {"confirm_addresses": "false", "smtp_host": "mail.example"},
        False,
        "KYMA_CONFIRM_ADDRESSES is false",
    ),
]


@pytest.mark.parametrize(("fields", "confirms", "why"), CONFIRMING)
def test_addresses_are_confirmed_where_mail_is_sent_unless_said_otherwise(
    fields: dict[str, Any], confirms: bool, why: str
) -> None:
    settings = Settings(**fields)
    assert (settings.confirms, settings.why_confirms) == (confirms, why)


def test_a_word_that_is_neither_yes_nor_no_decides_nothing_about_addresses() -> None:
    with pytest.raises(ValidationError, match="confirm_addresses"):
        Settings(confirm_addresses="sometimes")


@pytest.mark.parametrize(("fields", "confirms", "why"), CONFIRMING)
def test_which_of_the_two_it_is_is_logged_at_the_start(
    fields: dict[str, Any], confirms: bool, why: str
) -> None:
    with capture_logs() as lines:
        say_whether_addresses_are_confirmed(Settings(**fields))
    assert lines == [
        {"event": "address_confirmation", "on": confirms, "because": why, "log_level": "info"}
    ]


def test_confirmations_that_reach_nobody_are_warned_of() -> None:
    with capture_logs() as lines:
        say_whether_addresses_are_confirmed(Settings(**GIVEN, confirm_addresses=True))
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "confirmations_reach_nobody"
    ]


@pytest.mark.parametrize(
    ("fields", "passed", "said"),
    [
        ({}, True, "letters stay in a folder; addresses need not be confirmed"),
        ({"smtp_host": "mail.example"}, True, "letters go to mail.example; addresses must be"),
        ({"confirm_addresses": True}, True, "addresses must be confirmed"),
        ({**GIVEN, "confirm_addresses": True}, False, "set KYMA_SMTP_HOST, or nobody can confirm"),
    ],
)
async def test_doctor_says_whether_addresses_are_confirmed(
    fields: dict[str, Any], passed: bool, said: str, tmp_path: Path
) -> None:
    nowhere = {"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"}
    results = await examine(Settings(**{**fields, **nowhere, "data_dir": tmp_path}))
    assert [found for found, text in results if said in text] == [passed]
