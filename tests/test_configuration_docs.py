"""The configuration page names every setting, with the words of the code."""

from __future__ import annotations

from adapters.settings import PROVIDER_KEY_VARIABLES, ROOT, Settings


def test_every_setting_is_documented_with_its_description() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"| `KYMA_{name.upper()}` |" in page, name
        assert f"| {field.description} |" in page, name


def test_every_provider_key_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for provider, variable in PROVIDER_KEY_VARIABLES.items():
        assert f"| {provider} | `{variable}` |" in page
