"""What the README shows works as it stands there, and what `make up` prints works as printed."""

from __future__ import annotations

import asyncio
import json
import re
import sys

import pytest

from adapters.embedded.screen import curl_line
from adapters.settings import ROOT
from tests.e2e.conftest import Running
from tests.e2e.stack import register
from tests.http.wired import gateway


async def run(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split()[1])
async def test_a_python_example_of_the_readme_runs(running: Running, example: str) -> None:
    key = (await register(running.gateway.url))["api_key"]
    program = example.replace("http://127.0.0.1:8080", running.gateway.url).replace("ky-…", key)
    assert key in program
    assert "sandbox answer" in await run(sys.executable, "-c", program)


def test_the_readme_has_an_example_for_either_client() -> None:
    assert [example.split()[1] for example in EXAMPLES] == ["openai", "anthropic"]


async def test_the_printed_curl_line_works_in_a_shell(running: Running) -> None:
    key = (await register(running.gateway.url))["api_key"]
    answer = json.loads(await run("sh", "-c", curl_line(f"{running.gateway.url}/v1", key)))
    assert answer["choices"][0]["message"]["content"]


def test_every_route_of_the_readme_exists() -> None:
    served = {rule.rule for rule in gateway().quart.url_map.iter_rules()}
    readme = (ROOT / "README.md").read_text()
    told = re.findall(r"`(?:GET|POST|DELETE) (/[a-z0-9/._{}]+)", readme)
    assert len(told) > 15
    plain = {re.sub(r"[<{].*?[>}]", "{}", path) for path in served}
    assert {re.sub(r"[<{].*?[>}]", "{}", path) for path in told} <= plain


def test_every_variable_of_the_readme_is_a_setting() -> None:
    """`docs/configuration.md` lists all of them, and a test holds it to the settings."""
    named = re.findall(r"\b(?:KYMA_[A-Z_]+|[A-Z]+_API_KEY)\b", (ROOT / "README.md").read_text())
    listed = (ROOT / "docs" / "configuration.md").read_text()
    assert len(set(named)) > 12
    assert {name for name in named if f"`{name}`" not in listed} == set()
